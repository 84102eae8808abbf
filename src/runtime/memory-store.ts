import { Failure } from "./failure.ts";
import type { Store, StoreHost, StoreOperation, StoreRange } from "./ports.ts";

type Entry = { readonly key: Uint8Array; readonly value: Uint8Array };

/**
 * A disk in memory, which keeps what was synced and nothing else. It outlives the processes that use it: each start attaches
 * a host of its own, and a crash cuts the hosts of before off without another word, as a killed process gets none.
 */
export class MemoryDisk {
  /** Sorted by key: latin1 text, whose code units are the bytes. */
  #names: string[] = [];
  readonly #entries = new Map<string, Entry>();
  #unsynced: (readonly StoreOperation[])[] = [];
  #life = 0;
  #holder: MemoryStore | undefined;
  readonly #sync: () => Promise<void>;

  /** @param options.sync Awaited between a commit's write and its being durable: where virtual time passes. */
  constructor(options: { readonly sync?: () => Promise<void> } = {}) {
    this.#sync = options.sync ?? (() => Promise.resolve());
  }

  /** For one life of one process. */
  attach(): StoreHost {
    const life = this.#life;
    return {
      open: () => {
        if (life !== this.#life) return never();
        if (this.#holder !== undefined) return Promise.reject(lockedFailure());
        this.#holder = new MemoryStore(this, this.#sync);
        return Promise.resolve(this.#holder);
      },
    };
  }

  /** The process dies now. A commit that was not synced is lost, or was just down: `keepUnsynced`. */
  crash(options: { readonly keepUnsynced?: boolean } = {}): void {
    this.#life++;
    this.#holder?.die();
    this.#holder = undefined;
    if (options.keepUnsynced === true) for (const operations of this.#unsynced) this.#apply(operations);
    this.#unsynced = [];
  }

  /** What is on the disk, in the order of the keys. */
  contents(): readonly (readonly [key: Uint8Array, value: Uint8Array])[] {
    return this.#names.map((name) => {
      const { key, value } = this.#entries.get(name)!;
      return [key, value] as const;
    });
  }

  /** @internal For the open store. */
  get(key: Uint8Array): Uint8Array | undefined {
    return this.#entries.get(nameOf(key))?.value;
  }

  /** @internal */
  write(operations: readonly StoreOperation[]): void {
    this.#unsynced.push(operations);
  }

  /** @internal */
  synced(operations: readonly StoreOperation[]): void {
    this.#unsynced = this.#unsynced.filter((other) => other !== operations);
    this.#apply(operations);
  }

  /** @internal */
  range({ from, to, reverse = false, limit = Infinity }: StoreRange): Entry[] {
    const first = this.#find(nameOf(from));
    const end = this.#find(nameOf(to));
    const count = Math.max(0, Math.min(end - first, limit));
    const names = reverse ? this.#names.slice(end - count, end).reverse() : this.#names.slice(first, first + count);
    return names.map((name) => this.#entries.get(name)!);
  }

  /** @internal */
  release(store: MemoryStore): void {
    if (this.#holder === store) this.#holder = undefined;
  }

  #apply(operations: readonly StoreOperation[]): void {
    for (const operation of operations) {
      const name = nameOf(operation.key);
      const known = this.#entries.has(name);
      if (operation.type === "put") {
        this.#entries.set(name, { key: operation.key.slice(), value: operation.value.slice() });
        if (!known) this.#names.splice(this.#find(name), 0, name);
      } else if (known) {
        this.#entries.delete(name);
        this.#names.splice(this.#find(name), 1);
      }
    }
  }

  /** Index of the first name that is not below `name`. */
  #find(name: string): number {
    let low = 0;
    let high = this.#names.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#names[middle]! < name) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

class MemoryStore implements Store {
  readonly #disk: MemoryDisk;
  readonly #sync: () => Promise<void>;
  #state: "open" | "closed" | "dead" = "open";

  constructor(disk: MemoryDisk, sync: () => Promise<void>) {
    this.#disk = disk;
    this.#sync = sync;
  }

  async get(key: Uint8Array): Promise<Uint8Array | undefined> {
    await this.#alive();
    return this.#disk.get(key)?.slice();
  }

  async commit(operations: readonly StoreOperation[]): Promise<void> {
    await this.#alive();
    this.#disk.write(operations);
    await this.#sync();
    if (this.#state === "dead") return never();
    this.#disk.synced(operations);
  }

  async *entries(range: StoreRange): AsyncIterable<readonly [key: Uint8Array, value: Uint8Array]> {
    await this.#alive();
    for (const { key, value } of this.#disk.range(range)) yield [key.slice(), value.slice()];
  }

  async compact(): Promise<void> {
    await this.#alive();
  }

  async close(): Promise<void> {
    if (this.#state === "dead") return never();
    this.#state = "closed";
    this.#disk.release(this);
  }

  die(): void {
    this.#state = "dead";
  }

  #alive(): Promise<void> {
    if (this.#state === "open") return Promise.resolve();
    if (this.#state === "dead") return never();
    return Promise.reject(new Failure("store/closed", "the store is closed"));
  }
}

function nameOf(key: Uint8Array): string {
  return String.fromCharCode(...key);
}

function lockedFailure(): Failure {
  return new Failure("store/locked", "another process has this store open", { retryable: true });
}

/** What a call of a dead process comes to. */
function never<T>(): Promise<T> {
  return new Promise(() => {});
}
