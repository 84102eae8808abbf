import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decode, encode } from "#protocols/base/codec.ts";
import type { DeviceId } from "#protocols/base/ids.ts";
import {
  clipReceipt,
  covers,
  type DeviceReceipt,
  hasRead,
  MAX_RANGES,
  mergeReceipts,
  receiptOf,
  type Receipts,
  receiptsSchema,
  storedReceiptsSchema,
  trimReceipt,
  withIndex,
} from "./receipts.ts";

const DEVICES = ["0a", "0b", "0c"].map((text) => text.repeat(32) as DeviceId);
const [device] = DEVICES as [DeviceId];
const HIGHEST = 40;

/** Some with a long contiguous part, which chance alone hardly makes. */
const indexSets = fc
  .tuple(fc.nat(HIGHEST), fc.array(fc.integer({ min: 1, max: HIGHEST }), { maxLength: 30 }), fc.boolean())
  .map(([contiguous, loose, both]) => [...(both ? Array.from({ length: contiguous }, (_, i) => i + 1) : []), ...loose]);
const entries: fc.Arbitrary<DeviceReceipt> = fc
  .record({ device: fc.constantFrom(...DEVICES), indices: indexSets, read: fc.integer({ min: 0, max: HIGHEST }) })
  .map(({ device: author, indices, read }) => receiptOf(author, indices, read));
const receipts: fc.Arbitrary<Receipts> = fc
  .uniqueArray(entries, { selector: (entry) => entry.device, maxLength: 3 })
  .map((list) => mergeReceipts([], list));

/** What a receipt says, spelled out. */
function facts(list: Receipts): Set<string> {
  const said = new Set<string>();
  for (const author of DEVICES) {
    for (let index = 1; index <= HIGHEST; index++) {
      if (covers(list, author, index)) said.add(`delivered ${author} ${index}`);
      if (hasRead(list, author, index)) said.add(`read ${author} ${index}`);
    }
  }
  return said;
}

describe("receipts", () => {
  test("[CO30] a receipt covers just the indices it was made of", () => {
    fc.assert(
      fc.property(indexSets, (indices) => {
        const receipt = receiptOf(device, indices);
        const covered = Array.from({ length: HIGHEST }, (_, i) => i + 1).filter((index) =>
          covers([receipt], device, index),
        );
        expect(covered).toEqual([...new Set(indices)].toSorted((a, b) => a - b));
        expect(indices.reduce(withIndex, receiptOf(device, []))).toEqual(receipt);
      }),
    );
  });

  test("[CO31] merging is commutative, associative and idempotent", () => {
    fc.assert(
      fc.property(receipts, receipts, receipts, (a, b, c) => {
        expect(mergeReceipts(a, b)).toEqual(mergeReceipts(b, a));
        expect(mergeReceipts(mergeReceipts(a, b), c)).toEqual(mergeReceipts(a, mergeReceipts(b, c)));
        expect(mergeReceipts(a, a)).toEqual(a);
        expect(mergeReceipts(mergeReceipts(a, b), b)).toEqual(mergeReceipts(a, b));
      }),
    );
  });

  test("[CO31] merging takes nothing back and delivers nothing that neither said", () => {
    fc.assert(
      fc.property(receipts, receipts, (a, b) => {
        const merged = facts(mergeReceipts(a, b));
        for (const fact of [...facts(a), ...facts(b)]) expect(merged).toContain(fact);
        const delivered = [...merged].filter((fact) => fact.startsWith("delivered"));
        for (const fact of delivered) expect(facts(a).has(fact) || facts(b).has(fact)).toBe(true);
      }),
    );
  });

  test("[CO32] one set, one encoding", () => {
    fc.assert(
      fc.property(receipts, (list) => {
        expect(decode(receiptsSchema, encode(receiptsSchema, list))).toEqual(list);
        expect(decode(storedReceiptsSchema, encode(storedReceiptsSchema, list))).toEqual(list);
      }),
    );
    const bad: readonly (readonly { from: number; to: number }[])[] = [
      [{ from: 3, to: 5 }],
      [{ from: 5, to: 4 }],
      [
        { from: 9, to: 9 },
        { from: 6, to: 6 },
      ],
      [
        { from: 5, to: 6 },
        { from: 7, to: 7 },
      ],
      [
        { from: 5, to: 8 },
        { from: 8, to: 9 },
      ],
    ];
    for (const ranges of bad) {
      expect(() => encode(receiptsSchema, [{ device, delivered: 2, ranges, read: 0 }])).toThrow(
        "content/receipt-ranges",
      );
    }
    const twice = receiptOf(device, []);
    expect(() => encode(receiptsSchema, [twice, twice])).toThrow("content/receipt-order");
  });

  test("[CO33] what does not fit one receipt is left out from the top", () => {
    const odd = receiptOf(
      device,
      Array.from({ length: 2 * MAX_RANGES }, (_, i) => 2 * i + 3),
    );
    const trimmed = trimReceipt(odd);
    expect(trimmed.ranges).toEqual(odd.ranges.slice(0, MAX_RANGES));
    expect(decode(receiptsSchema, encode(receiptsSchema, [trimmed]))).toEqual([trimmed]);
    expect(mergeReceipts([odd], [trimmed])).toEqual([odd]);
    expect(trimReceipt(trimmed)).toBe(trimmed);
  });

  test("[CO34] a receipt for events never written says nothing of them", () => {
    fc.assert(
      fc.property(entries, fc.integer({ min: 0, max: HIGHEST }), (entry, highest) => {
        const clipped = clipReceipt(entry, highest);
        for (let index = 1; index <= HIGHEST; index++) {
          const expected = index <= highest && covers([entry], entry.device, index);
          expect(covers([clipped], entry.device, index)).toBe(expected);
        }
        expect(clipped.read).toBeLessThanOrEqual(highest);
        expect(decode(storedReceiptsSchema, encode(storedReceiptsSchema, [clipped]))).toEqual([clipped]);
      }),
    );
  });

  test("[CO35] read counts only for what was received", () => {
    const receipt = receiptOf(device, [1, 2, 5], 5);
    const read = [1, 2, 3, 4, 5, 6].filter((index) => hasRead([receipt], device, index));
    expect(read).toEqual([1, 2, 5]);
    expect(hasRead([receipt], DEVICES[1]!, 1)).toBe(false);
  });
});
