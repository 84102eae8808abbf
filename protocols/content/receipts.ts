/**
 * Receipts: per author device, which of its events in this conversation have been received and read. Cumulative, so that the
 * newest replaces all before it; monotone, so that an old one that comes late takes nothing back. Spec: ./SPEC.md CO30-CO38.
 */
import { compareText } from "#protocols/base/bytes.ts";
import { id, type Infer, list, refine, type Schema, struct, uint } from "#protocols/base/codec.ts";
import type { DeviceId } from "#protocols/base/ids.ts";

/** Ranges one receipt names beyond the contiguous part; what does not fit is told once the gaps have closed (CO33). */
export const MAX_RANGES = 32;

/** Author devices one receipt speaks of; more of them take several receipts. 32 with all ranges are 20 KB. */
export const MAX_RECEIPT_DEVICES = 32;

/** Ranges kept of all receipts for one device: far more gaps than any cursor leaves, and 1 MB at the very most (CO34). */
export const MAX_STORED_RANGES = 65_536;

/** Author devices kept receipts speak of: all that two accounts can ever list (100 each), five times over for groups. */
export const MAX_STORED_DEVICES = 1_000;

const MAX_INDEX = 2 ** 48;

const rangeSchema = struct({ from: uint(MAX_INDEX), to: uint(MAX_INDEX) });
/** Indices from..to, both included. */
export type IndexRange = Infer<typeof rangeSchema>;

export type DeviceReceipt = {
  /** The author's device. */
  readonly device: DeviceId;
  /** Every index 1..delivered has been received. */
  readonly delivered: number;
  /** Received beyond: ascending, with a gap before each. */
  readonly ranges: readonly IndexRange[];
  /** The user has seen everything up to here that was received; 0 when read receipts are off. */
  readonly read: number;
};

/** One entry per author device, in ascending order of device. */
export type Receipts = readonly DeviceReceipt[];

/** Ascending, disjoint and not touching: a set of indices has one form (CO32). */
function canonicalRanges(receipt: DeviceReceipt): boolean {
  let end = receipt.delivered;
  for (const range of receipt.ranges) {
    if (range.from < end + 2 || range.to < range.from) return false;
    end = range.to;
  }
  return true;
}

function ascending(receipts: Receipts): boolean {
  return receipts.every((receipt, i) => i === 0 || compareText(receipts[i - 1]!.device, receipt.device) < 0);
}

function entryOf(maxRanges: number): Schema<DeviceReceipt> {
  const fields = struct({
    device: id<DeviceId>(),
    delivered: uint(MAX_INDEX),
    ranges: list(rangeSchema, maxRanges),
    read: uint(MAX_INDEX),
  });
  return refine(fields, "content/receipt-ranges", canonicalRanges);
}

function receiptsOf(maxDevices: number, maxRanges: number): Schema<Receipts> {
  return refine(list(entryOf(maxRanges), maxDevices), "content/receipt-order", ascending);
}

/** As receipts travel. */
export const receiptsSchema: Schema<Receipts> = receiptsOf(MAX_RECEIPT_DEVICES, MAX_RANGES);

/** As they are kept, with everything ever merged into them. */
export const storedReceiptsSchema: Schema<Receipts> = receiptsOf(MAX_STORED_DEVICES, MAX_STORED_RANGES);

/** Sorts and joins ranges and takes what has become contiguous into `delivered`. */
function normalize(delivered: number, ranges: readonly IndexRange[]): Pick<DeviceReceipt, "delivered" | "ranges"> {
  let contiguous = delivered;
  const joined: { from: number; to: number }[] = [];
  for (const { from, to } of ranges.toSorted((a, b) => a.from - b.from)) {
    const last = joined.at(-1);
    if (from <= contiguous + 1) contiguous = Math.max(contiguous, to);
    else if (last && from <= last.to + 1) last.to = Math.max(last.to, to);
    else joined.push({ from, to });
  }
  return { delivered: contiguous, ranges: joined };
}

function mergeDevice(a: DeviceReceipt, b: DeviceReceipt): DeviceReceipt {
  const merged = normalize(Math.max(a.delivered, b.delivered), [...a.ranges, ...b.ranges]);
  return { device: a.device, ...merged, read: Math.max(a.read, b.read) };
}

/** Union of what both say: commutative, associative, idempotent, and never less than either (CO31). */
export function mergeReceipts(a: Receipts, b: Receipts): Receipts {
  const byDevice = new Map(a.map((receipt) => [receipt.device, receipt]));
  for (const receipt of b) {
    const known = byDevice.get(receipt.device);
    byDevice.set(receipt.device, known ? mergeDevice(known, receipt) : receipt);
  }
  return [...byDevice.values()].toSorted((x, y) => compareText(x.device, y.device));
}

/** What a set of received indices (from 1) makes as a receipt for one author device. */
export function receiptOf(device: DeviceId, indices: Iterable<number>, read = 0): DeviceReceipt {
  const ranges = Array.from(indices, (index) => ({ from: index, to: index }));
  return { device, ...normalize(0, ranges), read };
}

/** Notes one more index; the hot path of receiving. */
export function withIndex(receipt: DeviceReceipt, index: number): DeviceReceipt {
  if (index === receipt.delivered + 1 && receipt.ranges.length === 0) return { ...receipt, delivered: index };
  return { ...receipt, ...normalize(receipt.delivered, [...receipt.ranges, { from: index, to: index }]) };
}

/** Has `device`'s event number `index` been received? */
export function covers(receipts: Receipts, device: DeviceId, index: number): boolean {
  const receipt = receipts.find((entry) => entry.device === device);
  if (receipt === undefined) return false;
  return index <= receipt.delivered || receipt.ranges.some(({ from, to }) => from <= index && index <= to);
}

/** Read means seen, and only what was received can have been. */
export function hasRead(receipts: Receipts, device: DeviceId, index: number): boolean {
  const receipt = receipts.find((entry) => entry.device === device);
  return receipt !== undefined && index <= receipt.read && covers([receipt], device, index);
}

/** What fits into one event: the lowest ranges first, because they close first (CO33). */
export function trimReceipt(receipt: DeviceReceipt): DeviceReceipt {
  return receipt.ranges.length <= MAX_RANGES ? receipt : { ...receipt, ranges: receipt.ranges.slice(0, MAX_RANGES) };
}

/**
 * Takes out what a receipt says of events that were never written: `highest` is the last index of that device. Done before
 * merging, it bounds what a liar can make us keep by what we wrote ourselves (CO34).
 */
export function clipReceipt(receipt: DeviceReceipt, highest: number): DeviceReceipt {
  const ranges = receipt.ranges.filter(({ from }) => from <= highest);
  return {
    device: receipt.device,
    delivered: Math.min(receipt.delivered, highest),
    ranges: ranges.map(({ from, to }) => ({ from, to: Math.min(to, highest) })),
    read: Math.min(receipt.read, highest),
  };
}
