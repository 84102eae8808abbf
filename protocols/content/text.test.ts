import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decode, encode, text } from "#protocols/base/codec.ts";
import { addressSchema, isAddress, isMessageText, isName, messageTextSchema, nameSchema } from "./text.ts";

const utf8Length = (value: string) => new TextEncoder().encode(value).length;

describe("texts", () => {
  test.each([
    ["Ada", true],
    ["Zoë Ångström", true],
    ["李小龙", true],
    ["אבי", true],
    ["👩‍👩‍👧‍👦", true],
    ["a".repeat(64), true],
    ["é".repeat(32), true],
    ["a".repeat(65), false],
    ["é".repeat(33), false],
    ["", false],
    ["   ", false],
    ["\u200b\u2060\u3164", false],
    ["Ada\n", false],
    ["A\tB", false],
    ["\u001b[2J", false],
    ["A\u0085B", false],
    ["A\u2028B", false],
    ["gpj.exe\u202e", false],
    ["\u2066Ada", false],
    ["\ud800", false],
  ])("[CO10] name %j: %s", (name, valid) => {
    expect(isName(name)).toBe(valid);
  });

  test.each([
    ["Hi", true],
    ["two\nlines\tand a tab", true],
    ["\u202eright to left\u202c", true],
    [" ", true],
    ["", false],
    ["bell\u0007", false],
    ["return\r", false],
    ["escape\u001b]0;title", false],
    ["c1 \u009b", false],
    ["delete\u007f", false],
    ["lone \udc00", false],
    ["x".repeat(16_384), true],
    ["x".repeat(16_385), false],
    ["€".repeat(5_462), false],
  ])("[CO11] message text %j: %s", (value, valid) => {
    expect(isMessageText(value)).toBe(valid);
  });

  const units = ["a", "é", "€", "☀", "👩‍👩‍👧", "\n", "\t", " ", "\u200b", "\u202e", "\u2028", "\u0000", "\u009b", "\ud800"];
  const texts = fc.array(fc.constantFrom(...units), { maxLength: 24 }).map((parts) => parts.join(""));

  test("[CO11] whatever a message may say comes back the same", () => {
    fc.assert(
      fc.property(texts.filter(isMessageText), (value) => {
        expect(decode(messageTextSchema, encode(messageTextSchema, value))).toBe(value);
      }),
    );
  });

  test("[CO10] whatever a name may be is within its bytes and comes back the same", () => {
    fc.assert(
      fc.property(texts.filter(isName), (value) => {
        expect(utf8Length(value)).toBeLessThanOrEqual(64);
        expect(decode(nameSchema, encode(nameSchema, value))).toBe(value);
      }),
    );
  });

  test("[CO10] [CO11] [CO13] no writer lets a bad text out", () => {
    fc.assert(
      fc.property(
        texts.filter((value) => !isMessageText(value)),
        (value) => {
          expect(() => encode(messageTextSchema, value)).toThrow("content/text");
          expect(() => encode(nameSchema, value)).toThrow("content/name");
        },
      ),
    );
  });

  test.each([
    ["/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWxyz", true],
    ["/dns4/relay.example/tcp/443/wss", true],
    ["/", false],
    ["", false],
    ["ip4/127.0.0.1", false],
    ["/ip4/127.0.0.1 /tcp/1", false],
    ["/dns/exämple", false],
    [`/${"x".repeat(511)}`, true],
    [`/${"x".repeat(512)}`, false],
  ])("[CO12] address %j: %s", (address, valid) => {
    expect(isAddress(address)).toBe(valid);
    const bytes = encode(text(1_024), address);
    expect(decode(addressSchema, bytes) === address).toBe(valid);
  });
});
