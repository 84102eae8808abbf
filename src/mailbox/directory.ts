/** Directories at a mailbox: the shelf of `#protocols/directory` decides, this stores what it says (SY34-SY36). */
import { fromHex, toHex } from "#protocols/base/bytes.ts";
import { isReject, type OrReject } from "#protocols/base/reject.ts";
import {
  decodeRecord,
  type DirectoryRecord,
  EMPTY_SHELF,
  encodeRecord,
  type Shelf,
  shelfCounts,
  shelfSchema,
  shelfStep,
  verifyRecord,
} from "#protocols/directory/directory.ts";
import type { Answer } from "#protocols/sync/frames.ts";
import type { StoreOperation } from "#src/runtime/ports.ts";
import { type Expiry, expirySchema, keys } from "./rows.ts";
import { HOUR_MS, type Shelves } from "./shelves.ts";
import { Turns } from "./turns.ts";

export class Directories {
  readonly #shelves: Shelves;
  readonly #turns = new Turns();

  constructor(shelves: Shelves) {
    this.#shelves = shelves;
  }

  /** Takes what it may; the answer names the rest, each with its code. */
  async put(wires: readonly Uint8Array[], now: number): Promise<OrReject<Answer>> {
    const checked = await Promise.all(wires.map((wire) => this.#check(wire, now)));
    const refused: { index: number; code: string }[] = [];
    const byDirectory = new Map<string, { index: number; record: DirectoryRecord }[]>();
    for (const [index, record] of checked.entries()) {
      if (isReject(record)) {
        refused.push({ index, code: record.code });
        continue;
      }
      const name = toHex(record.directory);
      byDirectory.set(name, [...(byDirectory.get(name) ?? []), { index, record }]);
    }
    for (const [name, records] of byDirectory) refused.push(...(await this.#putAll(fromHex(name)!, records, now)));
    return { type: "directoryStored", refused: refused.toSorted((a, b) => a.index - b.index) };
  }

  async #check(wire: Uint8Array, now: number): Promise<OrReject<DirectoryRecord>> {
    const record = decodeRecord(wire);
    return isReject(record) ? record : verifyRecord(this.#shelves.crypto, record, { now });
  }

  #putAll(
    directory: Uint8Array,
    records: readonly { index: number; record: DirectoryRecord }[],
    now: number,
  ): Promise<readonly { index: number; code: string }[]> {
    return this.#turns.run(toHex(directory), async () => {
      const refused: { index: number; code: string }[] = [];
      const operations: StoreOperation[] = [];
      let shelf = await this.#load(directory);
      for (const { index, record } of records) {
        const step = shelfStep(shelf, { type: "put", record }, { now });
        if (isReject(step)) {
          refused.push({ index, code: step.code });
          continue;
        }
        const size = encodeRecord(record).length;
        const stores = step.effects.some((effect) => effect.type === "store");
        if (stores && !this.#shelves.reserve(size)) {
          refused.push({ index, code: "sync/mailbox-full" });
          continue;
        }
        shelf = step.shelf;
        for (const effect of step.effects) {
          if (effect.type === "store") operations.push(...this.#store(directory, effect.record));
          if (effect.type === "drop") operations.push(await this.#drop(directory, effect.record));
        }
      }
      await this.#save(directory, shelf, operations);
      return refused;
    });
  }

  /** One record of the slot, or of each. What is handed out once is gone from the disk before it leaves. */
  take(directory: Uint8Array, slot: Uint8Array | undefined, now: number): Promise<OrReject<Answer>> {
    return this.#turns.run(toHex(directory), async () => {
      const shelf = await this.#load(directory);
      const step = shelfStep(shelf, { type: "take", ...(slot && { slot: toHex(slot) }) }, { now });
      if (isReject(step)) return step;
      const records: Uint8Array[] = [];
      const operations: StoreOperation[] = [];
      for (const effect of step.effects) {
        if (effect.type === "hand-out") {
          const record = await this.#shelves.store.get(keys.record(directory, fromHex(effect.record)!));
          if (record) records.push(record);
        }
        if (effect.type === "drop") operations.push(await this.#drop(directory, effect.record));
      }
      if (operations.length > 0) await this.#save(directory, step.shelf, operations);
      return { type: "directoryTaken", records };
    });
  }

  async count(directory: Uint8Array, now: number): Promise<OrReject<Answer>> {
    const counts = shelfCounts(await this.#load(directory), { now });
    const slots = counts.map(({ slot, oneTime, lastResort }) => ({ slot: fromHex(slot)!, oneTime, lastResort }));
    return { type: "directoryCounted", slots };
  }

  async expire(expiry: Extract<Expiry, { type: "shelf" }>, now: number): Promise<readonly StoreOperation[]> {
    const { directory } = expiry;
    await this.#turns.run(toHex(directory), async () => {
      const step = shelfStep(await this.#load(directory), { type: "expire" }, { now });
      if (isReject(step)) return;
      const operations: StoreOperation[] = [];
      for (const effect of step.effects) {
        if (effect.type === "drop") operations.push(await this.#drop(directory, effect.record));
      }
      await this.#save(directory, step.shelf, operations);
    });
    return [];
  }

  async #load(directory: Uint8Array): Promise<Shelf> {
    return (await this.#shelves.get(shelfSchema, keys.shelf(directory))) ?? EMPTY_SHELF;
  }

  async #save(directory: Uint8Array, shelf: Shelf, operations: readonly StoreOperation[]): Promise<void> {
    const key = keys.shelf(directory);
    const row = shelf.slots.length === 0 ? this.#shelves.delete(key) : this.#shelves.put(shelfSchema, key, shelf);
    await this.#shelves.commits.write([...operations, row]);
  }

  #store(directory: Uint8Array, record: DirectoryRecord): readonly StoreOperation[] {
    const expiry = keys.expiry(Math.ceil(record.expiresAt / HOUR_MS), this.#shelves.take());
    return [
      { type: "put", key: keys.record(directory, record.record), value: encodeRecord(record) },
      this.#shelves.put(expirySchema, expiry, { type: "shelf", directory }),
    ];
  }

  async #drop(directory: Uint8Array, record: string): Promise<StoreOperation> {
    const key = keys.record(directory, fromHex(record)!);
    const stored = await this.#shelves.store.get(key);
    if (stored) this.#shelves.free(stored.length);
    return this.#shelves.delete(key);
  }
}
