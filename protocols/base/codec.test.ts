import { decode as cborDecode, encode as cborEncode } from "cborg";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { mutations } from "#test/fuzz/mutate.ts";
import { compareBytes, fromHex, toHex } from "./bytes.ts";
import {
  type AnySchema,
  bool,
  bytes,
  choice,
  decode,
  encode,
  id,
  int,
  lazy,
  list,
  literal,
  optional,
  refine,
  type Schema,
  sortedSet,
  struct,
  text,
  uint,
  union,
} from "./codec.ts";
import type { AccountId } from "./ids.ts";
import { isReject } from "./reject.ts";

const MUTANTS = process.env["SKEIN_LONG"] === "1" ? 100_000 : 2_000;

/** A schema, a value of it, and the same data as cborg sees it. */
type Sample = { schema: AnySchema; value: unknown; plain: unknown };

const hex32 = fc.uint8Array({ minLength: 32, maxLength: 32 }).map(toHex);

const leaf: fc.Arbitrary<Sample> = fc.oneof(
  fc.maxSafeNat().map((value) => ({ schema: uint(), value, plain: value })),
  fc.maxSafeInteger().map((value) => ({
    schema: int(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
    value,
    plain: value,
  })),
  fc.uint8Array({ maxLength: 300 }).map((value) => ({ schema: bytes({ max: 300 }), value, plain: value })),
  fc.string({ unit: "grapheme" }).map((value) => ({ schema: text(1000), value, plain: value })),
  fc.boolean().map((value) => ({ schema: bool, value, plain: value })),
  hex32.map((value) => ({ schema: id<AccountId>(), value, plain: fromHex(value) })),
  fc
    .constantFrom("a", "b")
    .map((value) => ({ schema: choice({ a: 3, b: 300 }), value, plain: { a: 3, b: 300 }[value] })),
  fc.constant({ schema: literal(7), value: 7, plain: 7 }),
);

const sample: fc.Arbitrary<Sample> = fc.letrec<{ any: Sample }>((tie) => ({
  any: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    leaf,
    fc.tuple(tie("any"), fc.boolean()).map(([inner, present]) => ({
      schema: optional(inner.schema),
      value: present && inner.plain !== null ? inner.value : undefined,
      plain: present && inner.plain !== null ? inner.plain : null,
    })),
    fc.array(tie("any"), { maxLength: 3 }).map((fields) => ({
      schema: struct(Object.fromEntries(fields.map(({ schema }, i) => [`f${i}`, schema]))),
      value: Object.fromEntries(
        fields.flatMap(({ value }, i) => (value === undefined ? [] : [[`f${i}`, value] as const])),
      ),
      plain: fields.map(({ plain }) => plain),
    })),
    fc.array(fc.maxSafeNat(), { maxLength: 30 }).map((value) => ({ schema: list(uint(), 30), value, plain: value })),
  ),
})).any;

describe("one encoding, the canonical one", () => {
  test("[BA1] what is encoded comes back", () => {
    fc.assert(
      fc.property(sample, ({ schema, value }) => {
        expect(decode(schema, encode(schema, value))).toEqual(value);
      }),
    );
  });

  test("[BA1] the bytes are cborg's, and cborg reads the same data", () => {
    fc.assert(
      fc.property(sample, ({ schema, value, plain }) => {
        const encoded = encode(schema, value);
        expect(toHex(encoded)).toBe(toHex(cborEncode(plain)));
        expect(cborDecode(encoded)).toEqual(plain);
      }),
    );
  });

  test("[BA2] a mutated input is rejected or is the one encoding of what it says", () => {
    fc.assert(
      fc.property(sample, fc.nat(), ({ schema, value }, seed) => {
        for (const mutant of mutations([encode(schema, value)], 30, seed)) {
          const read = decode(schema, mutant);
          const said = isReject(read) ? read.code.replace(/^codec\/.+/, "rejected") : toHex(encode(schema, read));
          expect(["rejected", toHex(mutant)]).toContain(said);
        }
      }),
    );
  });

  test("[BA2] mutants of a schema that has everything", () => {
    const everything = struct({
      version: literal(1),
      who: id<AccountId>(),
      body: union({
        note: [0, struct({ text: text(40) })],
        blob: [7, struct({ data: bytes({ max: 50 }), n: int(-9, 9) })],
      }),
      tags: sortedSet(text(8), 4),
      more: optional(list(choice({ x: 1, y: 2 }), 5)),
      flag: bool,
    });
    const good = [
      encode(everything, {
        version: 1,
        who: "ab".repeat(32) as AccountId,
        body: { type: "note", text: "hello, Wörld" },
        tags: ["a", "b", "ccc"],
        flag: true,
      }),
      encode(everything, {
        version: 1,
        who: "00".repeat(32) as AccountId,
        body: { type: "blob", data: new Uint8Array(50), n: -9 },
        tags: [],
        more: ["x", "y", "x"],
        flag: false,
      }),
    ];
    let read = 0;
    for (const mutant of mutations(good, MUTANTS, 20_261_101)) {
      const value = decode(everything, mutant);
      if (isReject(value)) continue;
      read++;
      expect(toHex(encode(everything, value))).toBe(toHex(mutant));
    }
    // Some mutants must still be read, or this test would say nothing about the second half of its name.
    expect(read).toBeGreaterThan(MUTANTS / 200);
  });
});

describe("rejects", () => {
  const tree: Schema<unknown> = lazy(() => list(tree, 3)) as Schema<unknown>;
  const cases: readonly [rule: string, code: string, schema: AnySchema, hex: string][] = [
    ["[BA3] nothing at all", "codec/truncated", uint(), ""],
    ["[BA3] a head cut short", "codec/truncated", uint(), "19ff"],
    ["[BA3] bytes cut short", "codec/truncated", bytes(4), "44010203"],
    ["[BA3] a length of 4 GiB allocates nothing", "codec/length", bytes({ max: 100 }), "5affffffff"],
    ["[BA3] a list of 2^53-1 entries allocates nothing", "codec/length", list(uint(), 9), "9b001fffffffffffff"],
    ["[BA3] bytes after the end", "codec/trailing-bytes", uint(), "0000"],
    ["[BA4] 23 in two bytes", "codec/not-shortest", uint(), "1817"],
    ["[BA4] 255 in three bytes", "codec/not-shortest", uint(), "1900ff"],
    ["[BA4] 65,535 in five bytes", "codec/not-shortest", uint(), "1a0000ffff"],
    ["[BA4] 2^32-1 in nine bytes", "codec/not-shortest", uint(), "1b00000000ffffffff"],
    ["[BA4] a length not in its shortest form", "codec/not-shortest", bytes({ max: 100 }), "580100"],
    ["[BA4] indefinite length", "codec/indefinite", bytes({ max: 9 }), "5f4100ff"],
    ["[BA4] a reserved additional value", "codec/indefinite", uint(), "1c"],
    ["[BA5] 2^53 is no safe integer", "codec/integer-range", uint(), "1b0020000000000000"],
    ["[BA5] 2^53 is no tag either", "codec/integer-range", choice({ a: 0 }), "1b0020000000000000"],
    ["[BA5] above the schema's maximum", "codec/integer-range", uint(10), "0b"],
    ["[BA5] below the schema's minimum", "codec/integer-range", int(-2, 2), "22"],
    ["[BA5] negative where none may be", "codec/wrong-type", uint(), "20"],
    ["[BA6] a map", "codec/wrong-type", struct({ a: uint() }), "a16161 00".replace(" ", "")],
    ["[BA6] a tag", "codec/wrong-type", uint(), "c000"],
    ["[BA6] a float", "codec/wrong-type", uint(), "f90000"],
    ["[BA6] undefined is not null", "codec/wrong-type", optional(uint()), "f7"],
    ["[BA6] one is not true", "codec/wrong-type", bool, "01"],
    ["[BA6] too few fields", "codec/fields", struct({ a: uint(), b: uint() }), "8100"],
    ["[BA6] too many fields", "codec/fields", struct({ a: uint() }), "820000"],
    ["[BA6] a union is a pair", "codec/fields", union({ a: [0, struct({})] }), "8100"],
    ["[BA6] an unknown variant", "codec/variant", union({ a: [0, struct({})] }), "820180"],
    ["[BA6] an unknown choice", "codec/choice", choice({ a: 0 }), "01"],
    ["[BA6] another version", "codec/version", literal(1), "02"],
    ["[BA7] text that is no UTF-8", "codec/utf8", text(9), "61ff"],
    ["[BA7] text is counted in bytes", "codec/length", text(3), "64f09f9880"],
    ["[BA8] an id of 31 bytes", "codec/length", id<AccountId>(), `581f${"00".repeat(31)}`],
    ["[BA9] a set out of order", "codec/not-sorted", sortedSet(uint(), 4), "820201"],
    ["[BA9] a set with a repeat", "codec/not-sorted", sortedSet(uint(), 4), "820101"],
    ["[BA9] a refined value", "x/odd", refine(uint(), "x/odd", (n) => n % 2 === 0), "03"],
    ["[BA3] a schema within itself ends", "codec/truncated", tree, "8181"],
    ["[BA3] a frame of nothing but list heads", "codec/too-deep", tree, "81".repeat(100_000)],
  ];
  test.each(cases)("%s: %s", (_rule, code, schema, hex) => {
    expect(decode(schema, fromHex(hex)!)).toEqual({ type: "reject", code });
  });

  test("[BA2] every integer has the shortest head around each boundary", () => {
    const shortest: readonly [number, string][] = [
      [0, "00"],
      [23, "17"],
      [24, "1818"],
      [255, "18ff"],
      [256, "190100"],
      [65_535, "19ffff"],
      [65_536, "1a00010000"],
      [4_294_967_295, "1affffffff"],
      [4_294_967_296, "1b0000000100000000"],
      [Number.MAX_SAFE_INTEGER, "1b001fffffffffffff"],
    ];
    for (const [value, hex] of shortest) {
      expect(toHex(encode(uint(), value))).toBe(hex);
      expect(decode(uint(), fromHex(hex)!)).toBe(value);
    }
    expect(toHex(encode(int(Number.MIN_SAFE_INTEGER, 0), Number.MIN_SAFE_INTEGER))).toBe("3b001ffffffffffffe");
  });
});

describe("a programmer's mistake throws", () => {
  const wrong: readonly [string, AnySchema, unknown][] = [
    ["integer above", uint(5), 6],
    ["fraction", uint(), 1.5],
    ["bytes too long", bytes(2), new Uint8Array(3)],
    ["id in upper case", id<AccountId>(), "AB".repeat(32)],
    ["id too short", id<AccountId>(), "ab"],
    ["text too long", text(2), "abc"],
    ["list too long", list(uint(), 1), [1, 2]],
    ["set unsorted", sortedSet(uint(), 2), [2, 1]],
    ["unknown choice", choice({ a: 0 }), "b"],
    ["unknown variant", union({ a: [0, struct({})] }), { type: "b" }],
    ["unrefined", refine(uint(), "x/odd", (n) => n % 2 === 0), 3],
    ["missing field", struct({ a: uint() }), {}],
    ["another version", literal(1), 2],
  ];
  test.each(wrong)("[BA2] encode: %s", (_name, schema, value) => {
    expect(() => encode(schema, value)).toThrow("assertion failed");
  });
});

test("[BA7] a lone surrogate is written as U+FFFD, so what was sent is what is read", () => {
  expect(decode(text(9), encode(text(9), "a\ud800"))).toBe("a\ufffd");
});

test("[BA9] a set sorted by encoding is what sortedSet accepts", () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.string({ maxLength: 6 }), { maxLength: 8 }), (values) => {
      const item = text(40);
      const sorted = values.toSorted((a, b) => compareBytes(encode(item, a), encode(item, b)));
      expect(decode(sortedSet(item, 8), encode(sortedSet(item, 8), sorted))).toEqual(sorted);
    }),
  );
});

test("[BA2] the mutants themselves: the same for a seed, others for another, and mostly other than what they came from", () => {
  const good = [Uint8Array.of(1, 2, 3), new Uint8Array(40).fill(0x58)];
  const all = (seed: number): string[] => [...mutations(good, 500, seed)].map(toHex);
  expect(all(7)).toEqual(all(7));
  expect(all(7)).not.toEqual(all(8));
  expect(new Set(all(7)).size).toBeGreaterThan(250);
  expect(all(7).filter((mutant) => good.map(toHex).includes(mutant)).length).toBeLessThan(100);
  expect([...mutations([], 50, 1)]).toHaveLength(50);
});
