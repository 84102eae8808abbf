/**
 * The order in which a conversation is shown: by hybrid logical clock and event id, never by arrival (DESIGN 7.6). Rows of the
 * event log are numbered by arrival, because a store key must not tell times; this index sorts them in pages, so that one
 * insertion rewrites one page and reading the newest fifty reads one or two.
 *
 * Invariants: pages hold disjoint, ascending ranges in the order of the page list; within a page entries ascend; no page is
 * empty; no page is longer than PAGE_ENTRIES.
 */
import { compareBytes, fromHex } from "#protocols/base/bytes.ts";
import { bytes, type Infer, list, struct, uint } from "#protocols/base/codec.ts";
import type { ConversationId, EventId } from "#protocols/base/ids.ts";
import type { Hlc } from "#protocols/content/content.ts";
import { assert } from "#protocols/base/reject.ts";
import { table } from "#src/runtime/records.ts";
import type { ReadTx, Tx } from "#src/runtime/driver.ts";

/** Entries a page: at most 1.5 KB to rewrite for one message, and one batch of a hundred messages rewrites it once or twice. */
export const PAGE_ENTRIES = 64;
/** Pages of one conversation: 6 million messages. */
const MAX_PAGES = 100_000;
/** Of an event id, what settles the order of two events of one moment. Not looked up by it, so 64 bits are plenty. */
const TIE_DIGITS = 16;

export const orderEntrySchema = struct({
  wall: uint(),
  counter: uint(),
  /** First bytes of the event's id. */
  tie: bytes(TIE_DIGITS / 2),
  /** Row of the event log. */
  row: uint(),
});
export type OrderEntry = Infer<typeof orderEntrySchema>;
export type Position = Pick<OrderEntry, "wall" | "counter" | "tie">;

export function positionOf(event: { readonly time: Hlc }, id: EventId): Position {
  return { ...event.time, tie: fromHex(id.slice(0, TIE_DIGITS))! };
}

const pageListSchema = struct({
  /** First position of each page after the first, with the number it is stored under; ascending. */
  pages: list(struct({ from: orderEntrySchema, page: uint() }), MAX_PAGES),
  next: uint(),
});

const pageLists = table({ name: "order-pages", number: 20, schema: pageListSchema, version: 1, cached: true });
const pages = table({
  name: "order-page",
  number: 21,
  schema: list(orderEntrySchema, PAGE_ENTRIES + 1),
  version: 1,
  cached: true,
});

export function comparePositions(a: Position, b: Position): number {
  return a.wall - b.wall || a.counter - b.counter || compareBytes(a.tie, b.tie);
}

function pageKey(conversation: ConversationId, page: number): string {
  return `${conversation}/${page}`;
}

/** Index of the last element for which `before` holds, or -1. */
function lastWhere<T>(sorted: readonly T[], before: (item: T) => boolean): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (before(sorted[middle]!)) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** Places a row. The caller holds the conversation's lock and has made sure that the event is new. */
export async function insertOrdered(tx: Tx, conversation: ConversationId, entry: OrderEntry): Promise<void> {
  const known = await tx.get(pageLists, conversation);
  if (known === undefined) {
    tx.put(pageLists, conversation, { pages: [{ from: entry, page: 0 }], next: 1 });
    tx.put(pages, pageKey(conversation, 0), [entry]);
    return;
  }
  const at = Math.max(
    0,
    lastWhere(known.pages, (page) => comparePositions(page.from, entry) <= 0),
  );
  const target = known.pages[at]!;
  const entries = (await tx.get(pages, pageKey(conversation, target.page))) ?? [];
  const position = lastWhere(entries, (other) => comparePositions(other, entry) < 0) + 1;
  const grown = entries.toSpliced(position, 0, entry);
  if (grown.length <= PAGE_ENTRIES) {
    tx.put(pages, pageKey(conversation, target.page), grown);
    if (position === 0)
      tx.put(pageLists, conversation, { ...known, pages: known.pages.with(at, { ...target, from: entry }) });
    return;
  }
  // Messages mostly come at the end: a full last page starts a new one instead of two half-empty ones.
  const cut = at === known.pages.length - 1 && position === grown.length - 1 ? PAGE_ENTRIES : PAGE_ENTRIES >> 1;
  const left = grown.slice(0, cut);
  const right = grown.slice(cut);
  tx.put(pages, pageKey(conversation, target.page), left);
  tx.put(pages, pageKey(conversation, known.next), right);
  const split = [
    { from: left[0]!, page: target.page },
    { from: right[0]!, page: known.next },
  ];
  tx.put(pageLists, conversation, { pages: known.pages.toSpliced(at, 1, ...split), next: known.next + 1 });
}

/** The newest entries, newest first, optionally those strictly before `before`; stops after `limit`. */
export async function newestOrdered(
  tx: ReadTx,
  conversation: ConversationId,
  options: { readonly limit: number; readonly before?: Position },
): Promise<readonly OrderEntry[]> {
  const { before } = options;
  const listed = (await tx.get(pageLists, conversation))?.pages ?? [];
  const found: OrderEntry[] = [];
  const last = before ? lastWhere(listed, (page) => comparePositions(page.from, before) < 0) : listed.length - 1;
  for (let at = last; at >= 0 && found.length < options.limit; at--) {
    const entries = await tx.get(pages, pageKey(conversation, listed[at]!.page));
    assert(entries !== undefined, "a listed page exists");
    const end = before ? lastWhere(entries, (entry) => comparePositions(entry, before) < 0) + 1 : entries.length;
    for (let i = end - 1; i >= 0 && found.length < options.limit; i--) found.push(entries[i]!);
  }
  return found;
}
