import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { list, struct, uint } from "#protocols/base/codec.ts";
import type { ConversationId } from "#protocols/base/ids.ts";
import { table } from "#src/runtime/records.ts";
import { openRig } from "#test/contracts/driver-rig.ts";

import { insertOrdered, newestOrdered, type OrderEntry, orderEntrySchema, PAGE_ENTRIES } from "./order.ts";

const RUNS = process.env["SKEIN_LONG"] === "1" ? 500 : 25;
const HERE = "here" as ConversationId;
const ELSEWHERE = "elsewhere" as ConversationId;
/** Enough for some pages to be cut in the middle and at the end. */
const MAX_ENTRIES = 4 * PAGE_ENTRIES;

// As order.ts has them: what it keeps, seen from outside.
const pageLists = table({
  name: "order-pages",
  number: 20,
  version: 1,
  schema: struct({ pages: list(struct({ from: orderEntrySchema, page: uint() }), 100_000), next: uint() }),
});
const pages = table({ name: "order-page", number: 21, version: 1, schema: list(orderEntrySchema, PAGE_ENTRIES + 1) });

type Rig = Awaited<ReturnType<typeof openRig>>;

/** Few times, so that many entries have the same; the tie is what tells them apart. */
const walls = fc.array(fc.record({ wall: fc.nat(40), counter: fc.nat(2) }), {
  minLength: 1,
  maxLength: MAX_ENTRIES,
  size: "max",
});

function entriesOf(times: readonly { readonly wall: number; readonly counter: number }[]): OrderEntry[] {
  // Multiplied by an odd number, so that ties do not come in the order of arrival.
  const tie = (row: number): Uint8Array => {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, BigInt(row) * 0x9e3779b97f4a7c15n));
    return bytes;
  };
  return times.map(({ wall, counter }, row) => ({ wall, counter, tie: tie(row), row }));
}

async function insertAll({ driver }: Rig, entries: readonly OrderEntry[], atOnce: number): Promise<void> {
  for (let from = 0; from < entries.length; from += atOnce) {
    await driver.run([], async (tx) => {
      for (const entry of entries.slice(from, from + atOnce)) await insertOrdered(tx, HERE, entry);
    });
  }
}

async function pagesOf({ driver }: Rig): Promise<readonly (readonly OrderEntry[])[]> {
  return driver.read(async (tx) => {
    const known = await tx.get(pageLists, HERE);
    const found = await Promise.all((known?.pages ?? []).map(({ page }) => tx.get(pages, `${HERE}/${page}`)));
    for (const [i, { from }] of (known?.pages ?? []).entries()) expect(found[i]?.[0]).toEqual(from);
    return found.map((page) => page ?? []);
  });
}

/** The rule once more, in words of its own: time, then counter, then the event's id. */
function byRule(a: OrderEntry, b: OrderEntry): number {
  const text = ({ wall, counter, tie }: OrderEntry): string =>
    `${String(wall).padStart(16, "0")} ${String(counter).padStart(16, "0")} ${Buffer.from(tie).toString("hex")}`;
  return text(a) < text(b) ? -1 : 1;
}

function rows(entries: readonly OrderEntry[]): readonly number[] {
  return entries.map(({ row }) => row);
}

describe("the order of a conversation", () => {
  test("is that of a sorted array, whatever came when; pages are full enough, disjoint and ascending", async () => {
    await fc.assert(
      fc.asyncProperty(walls, fc.integer({ min: 1, max: 200 }), async (times, atOnce) => {
        const rig = await openRig();
        const entries = entriesOf(times);
        await insertAll(rig, entries, atOnce);
        const sorted = entries.toSorted(byRule);
        const found = await rig.driver.read((tx) => newestOrdered(tx, HERE, { limit: MAX_ENTRIES + 1 }));
        expect(rows(found)).toEqual(rows(sorted.toReversed()));
        const held = await pagesOf(rig);
        expect(rows(held.flat())).toEqual(rows(sorted));
        for (const page of held) {
          expect(page.length).toBeGreaterThan(0);
          expect(page.length).toBeLessThanOrEqual(PAGE_ENTRIES);
        }
        await rig.driver.close();
      }),
      { numRuns: RUNS, seed: 1 },
    );
  });

  test("before a position and up to a limit, it is that part of the array; also for a position nobody has", async () => {
    await fc.assert(
      fc.asyncProperty(walls, fc.array(fc.tuple(fc.nat(), fc.nat(300)), { maxLength: 20 }), async (times, looks) => {
        const rig = await openRig();
        const entries = entriesOf(times);
        const [absent, ...present] = entries;
        await insertAll(rig, present, 100);
        const sorted = present.toSorted(byRule);
        for (const [at, limit] of [...looks, [0, 10] as const]) {
          const before = at === 0 ? absent! : entries[at % entries.length]!;
          const found = await rig.driver.read((tx) => newestOrdered(tx, HERE, { limit, before }));
          const expected = sorted.filter((entry) => byRule(entry, before) < 0 && entry !== before).toReversed();
          expect(rows(found)).toEqual(rows(expected.slice(0, limit)));
        }
        await rig.driver.close();
      }),
      { numRuns: RUNS, seed: 2 },
    );
  });

  test("what comes in order fills its pages; what comes in reverse at least halves them", async () => {
    const forward = entriesOf(Array.from({ length: MAX_ENTRIES }, (_, wall) => ({ wall, counter: 0 })));
    const one = await openRig();
    await insertAll(one, forward, 50);
    expect((await pagesOf(one)).map(({ length }) => length)).toEqual(Array.from({ length: 4 }, () => PAGE_ENTRIES));
    const other = await openRig();
    await insertAll(other, forward.toReversed(), 50);
    const lengths = (await pagesOf(other)).map(({ length }) => length);
    for (const length of lengths) expect(length).toBeGreaterThanOrEqual(PAGE_ENTRIES >> 1);
    expect(rows((await pagesOf(other)).flat())).toEqual(rows(forward));
    await one.driver.close();
    await other.driver.close();
  });

  test("one conversation does not know of another; an empty one has nothing", async () => {
    const rig = await openRig();
    await insertAll(rig, entriesOf([{ wall: 1, counter: 0 }]), 1);
    expect(await rig.driver.read((tx) => newestOrdered(tx, ELSEWHERE, { limit: 10 }))).toEqual([]);
    await rig.driver.run([], (tx) => insertOrdered(tx, ELSEWHERE, entriesOf([{ wall: 2, counter: 0 }])[0]!));
    expect(await rig.driver.read((tx) => newestOrdered(tx, HERE, { limit: 10 }))).toHaveLength(1);
    expect(await rig.driver.read((tx) => newestOrdered(tx, HERE, { limit: 0 }))).toEqual([]);
    await rig.driver.close();
  });
});
