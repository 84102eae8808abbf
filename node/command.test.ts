import { describe, expect, test } from "vitest";
import { Failure } from "#src/runtime/failure.ts";
import { command, helpOf, parse, parseCount, parseDuration } from "./command.ts";

const spec = command({
  name: "send",
  summary: "Send a message",
  args: ["CONVERSATION", "TEXT"],
  options: {
    relay: { type: "string", multiple: true, value: "ADDR", help: "a relay" },
    dev: { type: "boolean", help: "for developers" },
  },
  run: () => Promise.resolve(),
});

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof Failure) return error.code;
    throw error;
  }
  return "";
}

describe("parse", () => {
  test("gives options and arguments in any order", () => {
    expect(parse(spec, ["--relay", "a", "abcd", "--relay=b", "hello", "--home", "/h", "--dev"])).toEqual({
      values: { relay: ["a", "b"], home: "/h", dev: true },
      args: ["abcd", "hello"],
    });
  });

  test("a text may begin with a dash after --", () => {
    expect(parse(spec, ["abcd", "--", "--dev"]).args).toEqual(["abcd", "--dev"]);
  });

  test("--help needs no arguments", () => {
    expect(parse(spec, ["--help"]).values["help"]).toBe(true);
  });

  test.each([
    [["a"], "usage/missing-argument"],
    [["a", "b", "c"], "usage/unexpected-argument"],
    [["a", "b", "--bad"], "usage/bad-option"],
    [["a", "b", "--home"], "usage/bad-option"],
    [["a", "b", "--dev=1"], "usage/bad-option"],
  ])("%j is %s", (argv, code) => {
    expect(codeOf(() => parse(spec, argv))).toBe(code);
  });

  test("an argument in brackets may be left out, and no other", () => {
    const optional = command({ ...spec, args: ["A", "[B]", "[C]"] });
    expect(parse(optional, ["a"]).args).toEqual(["a"]);
    expect(parse(optional, ["a", "b", "c"]).args).toEqual(["a", "b", "c"]);
    expect(codeOf(() => parse(optional, []))).toBe("usage/missing-argument");
    expect(codeOf(() => parse(optional, ["a", "b", "c", "d"]))).toBe("usage/unexpected-argument");
  });

  test("help names every argument and option", () => {
    for (const word of [
      "CONVERSATION",
      "TEXT",
      "--relay ADDR",
      "repeated",
      "--dev",
      "--home DIR",
      "--json",
      "--help",
    ]) {
      expect(helpOf(spec)).toContain(word);
    }
  });
});

describe("values", () => {
  test.each([
    ["90s", 90_000],
    ["30m", 1_800_000],
    ["12h", 43_200_000],
    ["7d", 604_800_000],
    ["2w", 1_209_600_000],
  ])("%s is %d ms", (text, ms) => {
    expect(parseDuration(text, "expires")).toBe(ms);
  });

  test.each(["", "7", "d", "0d", "-1d", "1.5d", "7 d", "7D", "1234567d", "1e3s"])("%j is no duration", (text) => {
    expect(codeOf(() => parseDuration(text, "expires"))).toBe("usage/bad-value");
  });

  test.each(["0", "11", "", "1.5", "-1", "0x5", "1e1", "NaN"])("%j is no count from 1 to 10", (text) => {
    expect(codeOf(() => parseCount(text, "uses", { min: 1, max: 10 }))).toBe("usage/bad-value");
  });

  test("counts include both ends", () => {
    expect(["1", "10"].map((text) => parseCount(text, "uses", { min: 1, max: 10 }))).toEqual([1, 10]);
  });
});
