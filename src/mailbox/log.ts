/**
 * The mailbox's log of envelopes: one order of arrival over all topics, read by topic. What is in it stays until its time; when
 * there is no room, new envelopes are refused and no promise is broken (SY21).
 *
 * Invariants: positions are committed in the order in which they were taken; `onStored` hears of them in that order, after the
 * disk has them; an id is taken once.
 */
import type { EnvelopeId, TopicId } from "#protocols/base/ids.ts";
import { type OrReject, reject } from "#protocols/base/reject.ts";
import type { EnvelopeInfo } from "#protocols/envelope/envelope.ts";
import type { Held, Item } from "#protocols/sync/frames.ts";
import { MAX_ITEMS } from "#protocols/sync/limits.ts";
import type { StoreOperation } from "#src/runtime/ports.ts";
import { ID_MEMORY_MS } from "./limits.ts";
import { type Expiry, expirySchema, keys, knownSchema, readPosition, type Usage, usageSchema } from "./rows.ts";
import { HOUR_MS, type Shelves } from "./shelves.ts";

export type Stored = Held & { readonly topic: TopicId; readonly envelope: Uint8Array; readonly source: unknown };

export type Batch = { readonly items: readonly Item[]; readonly upTo: number; readonly end: boolean };

/** Usage counters kept in memory; above it those of quiet topics are read again from the store. */
const MAX_USAGES = 20_000;

export class EnvelopeLog {
  readonly #shelves: Shelves;
  readonly #onStored: (entries: readonly Stored[]) => void;
  readonly #usages = new Map<TopicId, Usage>();
  readonly #touched = new Set<TopicId>();
  readonly #underWay = new Map<EnvelopeId, Promise<OrReject<Held>>>();
  #queuedBytes = 0;
  #stored: Stored[] = [];
  /** The last position of an envelope that is on the disk. */
  #committed: number;

  /** @param onStored - Called for each commit, in order. */
  constructor(shelves: Shelves, onStored: (entries: readonly Stored[]) => void) {
    this.#shelves = shelves;
    this.#onStored = onStored;
    this.#committed = shelves.next - 1;
    shelves.commits.count(() => this.#counters());
  }

  /**
   * Stores a verified envelope. An envelope that is already there is answered as it was the first time.
   * @returns Rejects `sync/busy`, `sync/mailbox-full`, `sync/topic-full`, `sync/forgotten`. @throws Failure of the store.
   */
  append(info: EnvelopeInfo, envelope: Uint8Array, source: unknown): Promise<OrReject<Held>> {
    const before = this.#underWay.get(info.id);
    if (before) return before;
    const after = this.#append(info, envelope, source).finally(() => this.#underWay.delete(info.id));
    this.#underWay.set(info.id, after);
    return after;
  }

  async #append(info: EnvelopeInfo, envelope: Uint8Array, source: unknown): Promise<OrReject<Held>> {
    const { id, topic } = info;
    const shelves = this.#shelves;
    const until = Math.floor(info.expiresAt / HOUR_MS);
    const [known, loaded] = await Promise.all([shelves.get(knownSchema, keys.known(id)), this.#usage(topic)]);
    if (known) {
      const row = await shelves.store.get(keys.envelope(topic, known.n));
      return row ? { id, n: known.n, until: known.until } : reject("sync/forgotten");
    }
    // Others may have counted while we waited.
    const usage = this.#usages.get(topic) ?? loaded;
    const size = envelope.length;
    const { limits } = shelves;
    if (this.#queuedBytes + size > limits.maxQueuedBytes) return reject("sync/busy");
    if (usage.count >= limits.maxTopicEnvelopes || usage.bytes + size > limits.maxTopicBytes) {
      return reject("sync/topic-full");
    }
    if (!shelves.reserve(size)) return reject("sync/mailbox-full");

    // From here to `write` nothing is awaited: positions reach the queue in order.
    const n = shelves.take();
    this.#usages.set(topic, { count: usage.count + 1, bytes: usage.bytes + size });
    this.#touched.add(topic);
    this.#queuedBytes += size;
    const entry: Stored = { id, n, until, topic, envelope, source };
    await shelves.commits.write([
      { type: "put", key: keys.envelope(topic, n), value: envelope },
      shelves.put(knownSchema, keys.known(id), { n, until }),
      shelves.put(expirySchema, keys.expiry(until, n), { type: "envelope", topic, id, n, size }),
    ]);
    this.#queuedBytes -= size;
    this.#announce(entry);
    return { id, n, until };
  }

  /** Gathers what one commit stored: its writers resume one right after the other, and then all is told at once. */
  #announce(entry: Stored): void {
    this.#committed = Math.max(this.#committed, entry.n);
    this.#stored.push(entry);
    if (this.#stored.length > 1) return;
    void Promise.resolve().then(() => {
      const entries = this.#stored;
      this.#stored = [];
      this.#onStored(entries);
    });
  }

  /** What is on the topic after `after`, in order: up to `maxBytes`, but at least one. */
  async read(topic: TopicId, after: number, maxBytes: number): Promise<Batch> {
    const upTo = this.#committed;
    const items: Item[] = [];
    if (upTo <= after) return { items, upTo: after, end: true };
    let bytes = 0;
    const range = { from: keys.envelope(topic, after + 1), to: keys.envelope(topic, upTo + 1), limit: MAX_ITEMS + 1 };
    for await (const [key, envelope] of this.#shelves.store.entries(range)) {
      bytes += envelope.length;
      if (items.length > 0 && (bytes > maxBytes || items.length === MAX_ITEMS)) return { items, upTo, end: false };
      items.push({ n: readPosition(key), envelope });
    }
    return { items, upTo, end: true };
  }

  async fetch(
    topic: TopicId,
    ns: readonly number[],
    maxBytes: number,
  ): Promise<{ items: readonly Item[]; gone: readonly number[]; later: readonly number[] }> {
    const items: Item[] = [];
    const gone: number[] = [];
    let bytes = 0;
    const wanted = [...new Set(ns)].toSorted((a, b) => a - b);
    for (const [i, n] of wanted.entries()) {
      const envelope = n <= this.#committed ? await this.#shelves.store.get(keys.envelope(topic, n)) : undefined;
      if (!envelope) {
        gone.push(n);
        continue;
      }
      bytes += envelope.length;
      if (items.length > 0 && bytes > maxBytes) return { items, gone, later: wanted.slice(i) };
      items.push({ n, envelope });
    }
    return { items, gone, later: [] };
  }

  async expire(expiry: Extract<Expiry, { type: "envelope" | "memory" }>): Promise<readonly StoreOperation[]> {
    const shelves = this.#shelves;
    if (expiry.type === "memory") return [shelves.delete(keys.known(expiry.id))];
    const { topic, id, n, size } = expiry;
    const known = await shelves.get(knownSchema, keys.known(id));
    const usage = await this.#usage(topic);
    this.#usages.set(topic, { count: Math.max(0, usage.count - 1), bytes: Math.max(0, usage.bytes - size) });
    this.#touched.add(topic);
    shelves.free(size);
    const forgetAt = (known?.until ?? 0) + Math.ceil(ID_MEMORY_MS / HOUR_MS);
    return [
      shelves.delete(keys.envelope(topic, n)),
      shelves.put(expirySchema, keys.expiry(forgetAt, n), { type: "memory", id }),
    ];
  }

  async #usage(topic: TopicId): Promise<Usage> {
    const kept = this.#usages.get(topic);
    if (kept) return kept;
    const stored = await this.#shelves.get(usageSchema, keys.usage(topic));
    const usage = this.#usages.get(topic) ?? stored ?? { count: 0, bytes: 0 };
    this.#usages.set(topic, usage);
    return usage;
  }

  #counters(): readonly StoreOperation[] {
    const operations: StoreOperation[] = [];
    for (const topic of this.#touched) {
      const usage = this.#usages.get(topic)!;
      const key = keys.usage(topic);
      operations.push(usage.count === 0 ? this.#shelves.delete(key) : this.#shelves.put(usageSchema, key, usage));
    }
    this.#touched.clear();
    if (this.#usages.size > MAX_USAGES) this.#usages.clear();
    return operations;
  }
}
