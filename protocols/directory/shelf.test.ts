import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { toHex } from "#protocols/base/bytes.ts";
import { decode, encode } from "#protocols/base/codec.ts";
import { isReject, type OrReject } from "#protocols/base/reject.ts";
import type { DirectoryRecord, RecordKind } from "./directory.ts";
import {
  EMPTY_SHELF,
  MAX_ONE_TIME,
  MAX_SLOTS,
  MAX_SPENT,
  PUTS_PER_HOUR,
  type Shelf,
  shelfCounts,
  type ShelfEffect,
  type ShelfInput,
  shelfSchema,
  shelfStep,
  TAKES_PER_HOUR,
} from "./shelf.ts";

const NOW = 1_800_000_000_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

function sixteen(value: number): Uint8Array {
  const bytes = new Uint8Array(16);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}

/** The shelf never looks at seals and signatures: they were verified before. */
function record(options: { id: number; slot?: number; kind?: RecordKind; expiresAt?: number }): DirectoryRecord {
  const { id, slot = 0, kind = "one-time", expiresAt = NOW + 30 * DAY_MS } = options;
  return {
    version: 1,
    directory: new Uint8Array(32),
    slot: sixteen(slot),
    kind,
    record: sixteen(id),
    expiresAt,
    sealed: new Uint8Array(28),
    signature: new Uint8Array(64),
  };
}

function name(value: number): string {
  return toHex(sixteen(value));
}

function code(result: OrReject<unknown>): string {
  return isReject(result) ? result.code : "accepted";
}

function stepped(shelf: Shelf, input: ShelfInput, now = NOW): { shelf: Shelf; effects: readonly ShelfEffect[] } {
  const result = shelfStep(shelf, input, { now });
  if (isReject(result)) throw new Error(result.code);
  return result;
}

function put(shelf: Shelf, options: Parameters<typeof record>[0], now = NOW): Shelf {
  return stepped(shelf, { type: "put", record: record(options) }, now).shelf;
}

function filled(count: number, from = 1): Shelf {
  let shelf = EMPTY_SHELF;
  for (let id = from; id < from + count; id++) shelf = put(shelf, { id });
  return shelf;
}

function handedOut(effects: readonly ShelfEffect[]): readonly string[] {
  return effects.flatMap((effect) => (effect.type === "hand-out" ? [effect.record] : []));
}

describe("the shelf", () => {
  test("[DI20] a one-time record first, and each only once; then the last-resort one, again and again", () => {
    let shelf = put(put(put(EMPTY_SHELF, { id: 1 }), { id: 2 }), { id: 9, kind: "last-resort" });
    const seen: string[] = [];
    for (let n = 0; n < 4; n++) {
      const result = stepped(shelf, { type: "take", slot: name(0) });
      shelf = result.shelf;
      seen.push(...handedOut(result.effects));
    }
    expect(seen).toEqual([name(1), name(2), name(9), name(9)]);
  });

  test("[DI21] a take without a slot brings one record of each device", () => {
    const shelf = put(put(put(EMPTY_SHELF, { id: 1 }), { id: 2, slot: 1 }), { id: 3, slot: 2, kind: "last-resort" });
    const { effects } = stepped(shelf, { type: "take" });
    expect(handedOut(effects).toSorted()).toEqual([name(1), name(2), name(3)]);
    expect(handedOut(stepped(shelf, { type: "take", slot: name(7) }).effects)).toEqual([]);
  });

  test("[DI22] a slot is full at its limit", () => {
    const shelf = filled(MAX_ONE_TIME);
    const one = { type: "put", record: record({ id: 500 }) } as const;
    expect(code(shelfStep(shelf, one, { now: NOW }))).toBe("directory/slot-full");
    expect(
      code(shelfStep(shelf, { type: "put", record: record({ id: 501, kind: "last-resort" }) }, { now: NOW })),
    ).toBe("accepted");
  });

  test("[DI23] what is there already is put again without an effect; what was handed out never comes back", () => {
    const shelf = put(EMPTY_SHELF, { id: 1 });
    expect(stepped(shelf, { type: "put", record: record({ id: 1 }) })).toEqual({ shelf, effects: [] });
    const taken = stepped(shelf, { type: "take" }).shelf;
    const again = { type: "put", record: record({ id: 1 }) } as const;
    expect(code(shelfStep(taken, again, { now: NOW }))).toBe("directory/spent");
  });

  test("[DI24] a last-resort record is replaced by one that lives longer, never by an older one", () => {
    const old = { id: 1, kind: "last-resort", expiresAt: NOW + DAY_MS } as const;
    const young = { id: 2, kind: "last-resort", expiresAt: NOW + 2 * DAY_MS } as const;
    const first = put(EMPTY_SHELF, old);
    const { shelf, effects } = stepped(first, { type: "put", record: record(young) });
    expect(effects).toContainEqual({ type: "drop", record: name(1) });
    expect(code(shelfStep(shelf, { type: "put", record: record(old) }, { now: NOW }))).toBe("directory/stale");
    const rival = record({ ...young, id: 3 });
    expect(code(shelfStep(shelf, { type: "put", record: rival }, { now: NOW }))).toBe("directory/stale");
  });

  test("[DI25] there is no slot beyond the limit, until one has expired", () => {
    let shelf = EMPTY_SHELF;
    for (let slot = 0; slot < MAX_SLOTS; slot++) shelf = put(shelf, { id: slot, slot, expiresAt: NOW + DAY_MS + slot });
    const one = { type: "put", record: record({ id: 99, slot: 99 }) } as const;
    expect(code(shelfStep(shelf, one, { now: NOW }))).toBe("directory/too-many-slots");
    expect(code(shelfStep(shelf, one, { now: NOW + DAY_MS }))).toBe("accepted");
  });

  test("[DI26] what has expired goes, with its row", () => {
    const shelf = put(put(EMPTY_SHELF, { id: 1, expiresAt: NOW + 1 }), {
      id: 2,
      kind: "last-resort",
      expiresAt: NOW + 2,
    });
    const first = stepped(shelf, { type: "take" }, NOW + 1);
    expect(first.effects).toEqual([
      { type: "drop", record: name(1) },
      { type: "hand-out", slot: name(0), record: name(2) },
    ]);
    const last = stepped(first.shelf, { type: "expire" }, NOW + 2);
    expect(last.effects).toEqual([{ type: "drop", record: name(2) }]);
    expect(last.shelf.slots).toEqual([]);
  });

  test("[DI27] nobody drains a slot in less than an hour", () => {
    let shelf = put(filled(MAX_ONE_TIME), { id: 900, kind: "last-resort" });
    const takeMany = (now: number): readonly string[] => {
      const got: string[] = [];
      for (let n = 0; n < 2 * TAKES_PER_HOUR; n++) {
        const result = stepped(shelf, { type: "take", slot: name(0) }, now);
        shelf = result.shelf;
        got.push(...handedOut(result.effects));
      }
      return got;
    };
    const first = takeMany(NOW);
    expect(new Set(first).size).toBe(TAKES_PER_HOUR + 1);
    expect(first.slice(TAKES_PER_HOUR)).toEqual(Array.from({ length: TAKES_PER_HOUR }, () => name(900)));
    expect(new Set(takeMany(NOW + HOUR_MS)).size).toBe(TAKES_PER_HOUR + 1);
  });

  test("[DI28] an owner who puts without end is stopped within the hour", () => {
    let shelf = EMPTY_SHELF;
    let puts = 0;
    const next = (now: number) => {
      const expiresAt = NOW + DAY_MS + puts;
      return shelfStep(shelf, { type: "put", record: record({ id: puts, kind: "last-resort", expiresAt }) }, { now });
    };
    for (; puts <= PUTS_PER_HOUR; puts++) {
      const result = next(NOW);
      if (isReject(result)) break;
      shelf = result.shelf;
    }
    expect(puts).toBe(PUTS_PER_HOUR);
    expect(code(next(NOW))).toBe("directory/too-many-puts");
    expect(code(next(NOW + HOUR_MS))).toBe("accepted");
  });

  test("[DI29] spent ids are remembered up to a bound, the longest-lived last", () => {
    let shelf = EMPTY_SHELF;
    for (let id = 1; id <= MAX_SPENT + 2; id++) {
      const now = NOW + id * HOUR_MS;
      shelf = put(shelf, { id, expiresAt: NOW + 80 * DAY_MS + id }, now);
      shelf = stepped(shelf, { type: "take" }, now).shelf;
    }
    const [slot] = shelf.slots;
    expect(slot?.spent).toHaveLength(MAX_SPENT);
    expect(slot?.spent[0]?.record).toBe(name(3));
  });

  test("[DI30] counts tell an owner what to refill", () => {
    const shelf = put(put(EMPTY_SHELF, { id: 1, expiresAt: NOW + DAY_MS }), { id: 2, slot: 1, kind: "last-resort" });
    expect(shelfCounts(shelf, { now: NOW })).toEqual([
      { slot: name(0), oneTime: 1, lastResort: false },
      { slot: name(1), oneTime: 0, lastResort: true },
    ]);
    expect(shelfCounts(shelf, { now: NOW + DAY_MS })).toEqual([{ slot: name(1), oneTime: 0, lastResort: true }]);
  });

  const inputs = fc.oneof(
    fc.record({
      type: fc.constant("put" as const),
      record: fc
        .record({
          id: fc.nat(30),
          slot: fc.nat(2),
          kind: fc.constantFrom<RecordKind>("one-time", "last-resort"),
          expiresAt: fc.integer({ min: NOW + 1, max: NOW + 40 * HOUR_MS }),
        })
        // A record's id is random, so it has one slot, kind and expiry.
        .map(({ id, slot, kind }) =>
          record({
            id: id * 6 + slot * 2 + (kind === "one-time" ? 0 : 1),
            slot,
            kind,
            expiresAt: NOW + (1 + id) * HOUR_MS,
          }),
        ),
    }),
    fc.record({ type: fc.constant("take" as const), slot: fc.nat(2).map(name) }),
    fc.constant({ type: "take" as const }),
    fc.constant({ type: "expire" as const }),
  );

  type Books = { readonly rows: Map<string, DirectoryRecord>; readonly gone: Set<string>; readonly now: number };

  /** Does what a mailbox does with an effect. @returns What is wrong with it. */
  function apply(effect: ShelfEffect, { rows, gone, now }: Books): string | undefined {
    if (effect.type === "store") {
      const id = toHex(effect.record.record);
      rows.set(id, effect.record);
      return gone.has(id) ? "a one-time record came back" : undefined;
    }
    if (effect.type === "drop") return rows.delete(effect.record) ? undefined : "dropped what is not there";
    const row = rows.get(effect.record);
    if (row === undefined) return "handed out what is not there";
    if (gone.has(effect.record)) return "handed out a one-time record twice";
    if (row.kind === "one-time") gone.add(effect.record);
    return row.expiresAt <= now ? "handed out what has expired" : undefined;
  }

  test("[DI31] whatever comes in whatever order: rows and shelf agree, one-time records go out once, nothing expired", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(inputs, fc.nat(HOUR_MS / 2)), { maxLength: 60 }), (script) => {
        let shelf = EMPTY_SHELF;
        let now = NOW;
        const rows = new Map<string, DirectoryRecord>();
        const gone = new Set<string>();
        for (const [input, wait] of script) {
          now += wait;
          if (input.type === "put" && input.record.expiresAt <= now) continue;
          const result = shelfStep(shelf, input, { now });
          if (isReject(result)) continue;
          shelf = result.shelf;
          const faults = result.effects.map((effect) => apply(effect, { rows, gone, now })).filter(Boolean);
          expect(faults).toEqual([]);
          const listed = shelf.slots.flatMap(({ oneTime, lastResort }) =>
            lastResort ? [...oneTime, lastResort] : oneTime,
          );
          expect(listed.map((entry) => entry.record).toSorted()).toEqual([...rows.keys()].toSorted());
          expect(decode(shelfSchema, encode(shelfSchema, shelf))).toEqual(shelf);
        }
      }),
    );
  });
});
