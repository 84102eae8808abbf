import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { compareBytes, concat, equalBytes, fromHex, fromUtf8, readU32, toHex, u32, utf8, zero } from "./bytes.ts";

const octets = fc.uint8Array({ maxLength: 300 });
/** Any UTF-16 code units, lone surrogates included: strings as JavaScript really has them. */
const anyText = fc
  .array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 60 })
  .map((units) => String.fromCharCode(...units));

describe("UTF-8", () => {
  test("[BA7] equals TextEncoder on every string", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: "binary" }), anyText), (text) => {
        expect(utf8(text)).toEqual(new TextEncoder().encode(text));
      }),
    );
  });

  test("[BA7] decodes what TextDecoder decodes and refuses what it refuses", () => {
    const strict = (bytes: Uint8Array): string | undefined => {
      try {
        return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
      } catch (error) {
        if (error instanceof TypeError) return undefined;
        throw error;
      }
    };
    const nearlyText = fc.tuple(fc.string({ unit: "binary" }), fc.nat(), fc.nat(255)).map(([text, at, byte]) => {
      const bytes = utf8(text);
      if (bytes.length > 0) bytes[at % bytes.length] = byte;
      return bytes;
    });
    fc.assert(
      fc.property(fc.oneof(octets, nearlyText), (bytes) => {
        expect(fromUtf8(bytes)).toBe(strict(bytes));
      }),
      { numRuns: 1000 },
    );
  });

  test("[BA7] overlong, surrogate, truncated and too large sequences are refused", () => {
    for (const hex of [
      "c080",
      "c1bf",
      "e08080",
      "eda080",
      "edbfbf",
      "f0808080",
      "f4908080",
      "f5808080",
      "e282",
      "80",
      "ff",
    ]) {
      expect([hex, fromUtf8(fromHex(hex)!)]).toEqual([hex, undefined]);
    }
    expect(fromUtf8(fromHex("efbbbf41")!)).toBe("\ufeffA");
  });

  test("[BA7] long texts come back whole", () => {
    const text = "aé€😀".repeat(3000);
    expect(fromUtf8(utf8(text))).toBe(text);
  });
});

describe("hexadecimal", () => {
  test("[BA8] round trip, as Node has it", () => {
    fc.assert(
      fc.property(octets, (bytes) => {
        expect(toHex(bytes)).toBe(Buffer.from(bytes).toString("hex"));
        expect(fromHex(toHex(bytes))).toEqual(bytes);
      }),
    );
  });

  test("[BA8] one spelling only", () => {
    for (const text of ["A0", "0", "0g", " 00", "0x00", "٠٠", "0/", "0:", "`0"])
      expect([text, fromHex(text)]).toEqual([text, undefined]);
    expect(fromHex("")).toEqual(new Uint8Array(0));
  });
});

test("compareBytes orders as Buffer.compare does, equalBytes is its zero", () => {
  const small = fc.uint8Array({ maxLength: 3, max: 2 });
  fc.assert(
    fc.property(small, small, (a, b) => {
      expect(Math.sign(compareBytes(a, b))).toBe(Buffer.compare(a, b));
      expect(equalBytes(a, b)).toBe(Buffer.compare(a, b) === 0);
    }),
  );
});

test("concat, u32 and zero do what they say", () => {
  fc.assert(
    fc.property(fc.array(octets, { maxLength: 4 }), fc.nat(0xffff_ffff), (parts, value) => {
      expect(concat(...parts)).toEqual(new Uint8Array(Buffer.concat(parts)));
      expect(readU32(concat(Uint8Array.of(9), u32(value)), 1)).toBe(value);
    }),
  );
  const secret = Uint8Array.of(1, 2, 3);
  zero(secret);
  expect(secret).toEqual(new Uint8Array(3));
});
