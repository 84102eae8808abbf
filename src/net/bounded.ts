/** Two caches of gossipsub are bounded by time alone, so a flood fills the memory. These hold a number, the oldest go. */

/** Stands in for gossipsub's `SimpleTimeCache` of seen message ids. */
export class SeenIds {
  readonly #ids = new Set<string>();
  readonly #max: number;

  constructor(max: number) {
    this.#max = max;
  }

  get size(): number {
    return this.#ids.size;
  }

  has(id: string): boolean {
    return this.#ids.has(id);
  }

  /** @returns Whether it was there before, as gossipsub's own cache does. */
  put(id: string): boolean {
    if (this.#ids.has(id)) return true;
    this.#ids.add(id);
    if (this.#ids.size > this.#max) this.#ids.delete(this.#ids.values().next().value!);
    return false;
  }

  /** By number, not by time. */
  prune(): void {}

  clear(): void {
    this.#ids.clear();
  }
}

/** Which peers delivered a message, so that all who sent a rejected one are held to it. Stands in for `MessageDeliveries`. */
export type DeliveryRecord = { status: number; firstSeenTsMs: number; validated: number; readonly peers: Set<string> };

export class DeliveryRecords {
  readonly records = new Map<string, DeliveryRecord>();
  readonly #max: number;

  constructor(max: number) {
    this.#max = max;
  }

  getRecord(id: string): DeliveryRecord | undefined {
    return this.records.get(id);
  }

  ensureRecord(id: string): DeliveryRecord {
    const known = this.records.get(id);
    if (known) return known;
    const record: DeliveryRecord = { status: 0, firstSeenTsMs: Date.now(), validated: 0, peers: new Set() };
    this.records.set(id, record);
    if (this.records.size > this.#max) this.records.delete(this.records.keys().next().value!);
    return record;
  }

  /** By number, not by time. */
  gc(): void {}

  clear(): void {
    this.records.clear();
  }
}
