/**
 * What a mailbox does with one directory's records. The state knows which records there are; their bytes lie in rows of their
 * own, which the effects store, hand out and drop. Pure: verify records before they come here. Spec: ./SPEC.md DI20-DI33.
 *
 * Invariants: at most MAX_SLOTS slots; in each at most MAX_ONE_TIME records to hand out, one last-resort record and MAX_SPENT
 * spent ids; no id is both to hand out and spent; a one-time record is handed out at most once.
 */
import { toHex } from "#protocols/base/bytes.ts";
import { id, type Infer, list, optional, type Schema, struct, uint } from "#protocols/base/codec.ts";
import type { LogId } from "#protocols/base/ids.ts";
import { type OrReject, reject } from "#protocols/base/reject.ts";
import type { DirectoryRecord } from "./directory.ts";

/** Slots of a directory: an account's 8 live devices, and 8 replaced ones whose records have not expired. */
export const MAX_SLOTS = 16;

/** One-time records of a slot: a day of being found by everybody in a community. 100 x 2 KB a device is what a relay can give. */
export const MAX_ONE_TIME = 100;

/** Ids of records handed out that are remembered, so that nobody who took one puts it back. Ten refills. */
export const MAX_SPENT = 1_000;

/** One-time records a slot gives away in an hour; after that the last-resort one. A contact cannot drain it in a minute (DI27). */
export const TAKES_PER_HOUR = 20;

/** Records an owner may put in an hour: two complete refills of all live devices. */
export const PUTS_PER_HOUR = 2 * 8 * (MAX_ONE_TIME + 1);

const HOUR_MS = 3_600_000;
const MAX_TIME_MS = 2 ** 48;

/** 16 bytes as lower-case hex, so that `===` and map keys mean what they say. */
const hex16: Schema<string> = id<LogId>(16);

const entrySchema = struct({ record: hex16, expiresAt: uint(MAX_TIME_MS) });
type Entry = Infer<typeof entrySchema>;

/** How often something happened in the running hour of network time. */
const countSchema = struct({ hour: uint(0xffff_ffff), count: uint(0xffff_ffff) });
type HourCount = Infer<typeof countSchema>;

const slotSchema = struct({
  slot: hex16,
  /** Oldest first: those that expire first go first. */
  oneTime: list(entrySchema, MAX_ONE_TIME),
  lastResort: optional(entrySchema),
  spent: list(entrySchema, MAX_SPENT),
  taken: countSchema,
});
type Slot = Infer<typeof slotSchema>;

export const shelfSchema = struct({ slots: list(slotSchema, MAX_SLOTS), puts: countSchema });
export type Shelf = Infer<typeof shelfSchema>;

export const EMPTY_SHELF: Shelf = { slots: [], puts: { hour: 0, count: 0 } };

export type ShelfInput =
  /** A record that `verifyRecord` passed, of this directory. */
  | { readonly type: "put"; readonly record: DirectoryRecord }
  /** Of one device, or one record of each. */
  | { readonly type: "take"; readonly slot?: string }
  | { readonly type: "expire" };

/** Record ids are lower-case hex. A record may be handed out and dropped by one step: read its row before the commit. */
export type ShelfEffect =
  | { readonly type: "store"; readonly record: DirectoryRecord }
  | { readonly type: "hand-out"; readonly slot: string; readonly record: string }
  | { readonly type: "drop"; readonly record: string };

export type ShelfStep = { readonly shelf: Shelf; readonly effects: readonly ShelfEffect[] };

/**
 * The one way in. Whatever the input, what has expired goes first.
 * @param options.now - Network time of the mailbox.
 * @returns For "put" the rejects `directory/spent`, `directory/stale`, `directory/slot-full`, `directory/too-many-slots`,
 * `directory/too-many-puts`; a reject changes nothing. Putting what is there already is no error and no change.
 */
export function shelfStep(shelf: Shelf, input: ShelfInput, options: { readonly now: number }): OrReject<ShelfStep> {
  const { now } = options;
  const fresh = expire(shelf, now);
  if (input.type === "expire") return fresh;
  if (input.type === "put") return put(fresh, input.record, now);
  return take(fresh, input.slot, now);
}

/** What the owner asks for before a refill. */
export function shelfCounts(
  shelf: Shelf,
  options: { readonly now: number },
): readonly { readonly slot: string; readonly oneTime: number; readonly lastResort: boolean }[] {
  return expire(shelf, options.now).shelf.slots.map(({ slot, oneTime, lastResort }) => ({
    slot,
    oneTime: oneTime.length,
    lastResort: lastResort !== undefined,
  }));
}

function expire(shelf: Shelf, now: number): ShelfStep {
  const effects: ShelfEffect[] = [];
  const slots: Slot[] = [];
  for (const slot of shelf.slots) {
    const gone = (entry: Entry): boolean => entry.expiresAt <= now;
    const held = slot.lastResort ? [...slot.oneTime, slot.lastResort] : slot.oneTime;
    for (const { record } of held.filter(gone)) effects.push({ type: "drop", record });
    const left = slot.lastResort && !gone(slot.lastResort) ? { lastResort: slot.lastResort } : {};
    const oneTime = slot.oneTime.filter((entry) => !gone(entry));
    const spent = slot.spent.filter((entry) => !gone(entry));
    if (oneTime.length + spent.length > 0 || left.lastResort) {
      slots.push({ slot: slot.slot, oneTime, ...left, spent, taken: slot.taken });
    }
  }
  return { shelf: { slots, puts: shelf.puts }, effects };
}

function countIn(count: HourCount, now: number): HourCount {
  const hour = Math.floor(now / HOUR_MS);
  return count.hour === hour ? count : { hour, count: 0 };
}

function plusOne(count: HourCount): HourCount {
  return { hour: count.hour, count: count.count + 1 };
}

function withSlot(shelf: Shelf, slot: Slot): Shelf {
  const others = shelf.slots.filter((other) => other.slot !== slot.slot);
  return { ...shelf, slots: [...others, slot] };
}

function byExpiry(a: Entry, b: Entry): number {
  return a.expiresAt - b.expiresAt || (a.record < b.record ? -1 : 1);
}

function put(before: ShelfStep, record: DirectoryRecord, now: number): OrReject<ShelfStep> {
  const name = toHex(record.slot);
  const entry: Entry = { record: toHex(record.record), expiresAt: record.expiresAt };
  const { shelf } = before;
  const empty: Slot = { slot: name, oneTime: [], spent: [], taken: { hour: 0, count: 0 } };
  const slot = shelf.slots.find((known) => known.slot === name) ?? empty;
  if (slot.lastResort?.record === entry.record || slot.oneTime.some((known) => known.record === entry.record)) {
    return before;
  }
  if (slot.spent.some((known) => known.record === entry.record)) return reject("directory/spent");
  if (slot === empty && shelf.slots.length >= MAX_SLOTS) return reject("directory/too-many-slots");
  const puts = countIn(shelf.puts, now);
  if (puts.count >= PUTS_PER_HOUR) return reject("directory/too-many-puts");

  const effects: ShelfEffect[] = [...before.effects, { type: "store", record }];
  const counted = { ...shelf, puts: plusOne(puts) };
  if (record.kind === "one-time") {
    if (slot.oneTime.length >= MAX_ONE_TIME) return reject("directory/slot-full");
    const oneTime = [...slot.oneTime, entry].toSorted(byExpiry);
    return { shelf: withSlot(counted, { ...slot, oneTime }), effects };
  }
  // An older one that somebody kept must not come back (DI24).
  if (slot.lastResort && slot.lastResort.expiresAt >= entry.expiresAt) return reject("directory/stale");
  if (slot.lastResort) effects.push({ type: "drop", record: slot.lastResort.record });
  return { shelf: withSlot(counted, { ...slot, lastResort: entry }), effects };
}

function take(before: ShelfStep, wanted: string | undefined, now: number): ShelfStep {
  let { shelf } = before;
  const effects: ShelfEffect[] = [...before.effects];
  for (const slot of shelf.slots) {
    if (wanted !== undefined && slot.slot !== wanted) continue;
    const taken = countIn(slot.taken, now);
    const next = taken.count < TAKES_PER_HOUR ? slot.oneTime[0] : undefined;
    if (next) {
      effects.push({ type: "hand-out", slot: slot.slot, record: next.record }, { type: "drop", record: next.record });
      shelf = withSlot(shelf, {
        ...slot,
        oneTime: slot.oneTime.slice(1),
        // The ones that expire last are remembered longest: they could come back longest.
        spent: [...slot.spent, next].toSorted(byExpiry).slice(-MAX_SPENT),
        taken: plusOne(taken),
      });
    } else if (slot.lastResort) {
      effects.push({ type: "hand-out", slot: slot.slot, record: slot.lastResort.record });
    }
  }
  return { shelf, effects };
}
