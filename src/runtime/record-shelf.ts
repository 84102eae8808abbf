import { compareBytes, toHex, zero } from "#protocols/base/bytes.ts";
import { decode, encode, type Schema, uint } from "#protocols/base/codec.ts";
import { Lru } from "#protocols/base/lru.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import { Failure } from "./failure.ts";
import { logId, type Overlay, pointId, type RowWrite } from "./overlay.ts";
import type { Store, StoreOperation } from "./ports.ts";
import {
  type Log,
  MARK_POSITION,
  POINT_KEY_BYTES,
  type Row,
  ROW_PREFIX_BYTES,
  rowKey,
  rowPosition,
  type Table,
} from "./records.ts";
import type { Vault } from "./vault.ts";

/**
 * Typed records in an encrypted store. What is read is looked for in `layers` first (writes that are not on the disk yet,
 * newest first), then in memory, then in the store.
 *
 * Invariant: what is remembered here was read from the store or has landed there; `forget` after every failed commit.
 */
export type RowRange = {
  /** First position, included; 0 when absent. */
  readonly from?: number | undefined;
  /** End, excluded; to the last row when absent. */
  readonly to?: number | undefined;
  /** From the last row backwards. */
  readonly reverse?: boolean | undefined;
  readonly limit?: number | undefined;
};

/** Rows or values of one call. Above it the caller pages: a call that forgets to is a mistake, not a slow screen. */
export const MAX_ROWS = 10_000;

/** From the store (sealed) or from a layer (value). */
type StoredValue<V> = { readonly key: Uint8Array; readonly sealed?: Uint8Array; readonly value?: V | undefined };

const mark: { readonly schema: Schema<number>; readonly version: number } = { schema: uint(MARK_POSITION), version: 1 };

export class RecordShelf {
  readonly #vault: Vault;
  readonly #cache: Lru<string, unknown>;
  /** By log, the position above every row that landed. */
  readonly #positions: Lru<string, number>;
  readonly #declared = new Map<number, string>();
  #store: Store;
  /** Moves when something lands or is forgotten: a read that began before must not fill the cache. */
  #age = 0;

  constructor(options: {
    readonly store: Store;
    readonly vault: Vault;
    readonly cachedRecords: number;
    readonly logPositions: number;
  }) {
    this.#store = options.store;
    this.#vault = options.vault;
    this.#cache = new Lru(options.cachedRecords);
    this.#positions = new Lru(options.logPositions);
  }

  get<V>(table: Table<V>, key: string, layers: readonly Overlay[]): Promise<V | undefined> {
    const id = pointId(table, key);
    for (const layer of layers) {
      const write = layer.points.get(id);
      if (write !== undefined) return Promise.resolve(write.value as V | undefined);
    }
    if (table.cached) {
      const known = this.#cache.get(id);
      if (known !== undefined) return Promise.resolve(known as V);
    }
    return this.#load(table, key, id);
  }

  async #load<V>(table: Table<V>, key: string, id: string): Promise<V | undefined> {
    const age = this.#age;
    const storeKey = this.#pointKey(table, key);
    const sealed = await this.#store.get(storeKey);
    if (sealed === undefined) return undefined;
    const value = await this.#open(table, storeKey, sealed);
    if (table.cached && age === this.#age) this.#cache.set(id, value);
    return value;
  }

  /** All values of a table, in the order of their store keys (any, but stable). */
  async values<V>(table: Table<V>, layers: readonly Overlay[]): Promise<readonly V[]> {
    this.#declare(table);
    const written = new Map<string, StoredValue<V>>();
    for (const layer of layers) {
      for (const write of layer.points.values()) {
        if (write.table.number !== table.number) continue;
        const key = this.#pointKey(table, write.key);
        const name = toHex(key);
        if (!written.has(name)) written.set(name, { key, value: write.value as V | undefined });
      }
    }
    const found: StoredValue<V>[] = [...written.values()].filter((entry) => entry.value !== undefined);
    const range = { from: Uint8Array.of(table.number), to: Uint8Array.of(table.number + 1) };
    for await (const [key, sealed] of this.#store.entries(range)) {
      if (!written.has(toHex(key))) found.push({ key, sealed });
      assert(found.length <= MAX_ROWS, "a table that is read whole is small");
    }
    found.sort((a, b) => compareBytes(a.key, b.key));
    return Promise.all(
      found.map((entry) => (entry.sealed ? this.#open(table, entry.key, entry.sealed) : (entry.value as V))),
    );
  }

  /** One row by its position: a point read, where `rows` walks an iterator. */
  async row<V>(log: Log<V>, parent: string, n: number, layers: readonly Overlay[]): Promise<V | undefined> {
    const id = logId(log, parent);
    for (const layer of layers) {
      const write = layer.logs.get(id)?.rows.get(n);
      if (write !== undefined) return write.value as V | undefined;
    }
    const key = rowKey(this.#prefix(log, parent), n);
    const sealed = await this.#store.get(key);
    return sealed === undefined ? undefined : this.#open(log, key, sealed);
  }

  async rows<V>(log: Log<V>, parent: string, range: RowRange, layers: readonly Overlay[]): Promise<readonly Row<V>[]> {
    const { from = 0, to = MARK_POSITION, reverse = false, limit = MAX_ROWS } = range;
    assert(limit > 0 && limit <= MAX_ROWS, "row limit in range");
    const written = this.#writtenRows(log, parent, layers, from, to);
    const prefix = this.#prefix(log, parent);
    // Every written row replaces at most one stored row, so this many stored rows are enough for `limit`.
    const stored = {
      from: rowKey(prefix, from),
      to: rowKey(prefix, Math.min(to, MARK_POSITION)),
      reverse,
      limit: limit + written.size + 1,
    };
    const found: { readonly n: number; readonly value?: unknown; readonly sealed?: Uint8Array }[] = [];
    for (const [n, write] of written) if (write.value !== undefined) found.push({ n, value: write.value });
    if (from < to) {
      for await (const [key, sealed] of this.#store.entries(stored)) {
        const n = rowPosition(key);
        if (!written.has(n)) found.push({ n, sealed });
      }
    }
    assert(range.limit !== undefined || found.length <= MAX_ROWS, "long logs are read in pages");
    found.sort((a, b) => (reverse ? b.n - a.n : a.n - b.n));
    return Promise.all(
      found.slice(0, limit).map(async ({ n, value, sealed }) => ({
        n,
        value: sealed === undefined ? (value as V) : await this.#open(log, rowKey(prefix, n), sealed),
      })),
    );
  }

  #writtenRows(
    log: Log<unknown>,
    parent: string,
    layers: readonly Overlay[],
    from: number,
    to: number,
  ): Map<number, RowWrite> {
    const written = new Map<number, RowWrite>();
    for (const layer of layers) {
      for (const [n, write] of layer.logs.get(logId(log, parent))?.rows ?? []) {
        if (n >= from && n < to && !written.has(n)) written.set(n, write);
      }
    }
    return written;
  }

  /** The position above every row there ever was, on the disk or in `layers`. */
  async position(log: Log<unknown>, parent: string, layers: readonly Overlay[]): Promise<number> {
    const id = logId(log, parent);
    let next = this.#positions.get(id) ?? (await this.#storedPosition(log, parent, id));
    for (const layer of layers) next = Math.max(next, layer.logs.get(id)?.next ?? 0);
    return next;
  }

  async #storedPosition(log: Log<unknown>, parent: string, id: string): Promise<number> {
    const age = this.#age;
    const prefix = this.#prefix(log, parent);
    let next = 0;
    const last = { from: rowKey(prefix, 0), to: prefixEnd(prefix), reverse: true, limit: 2 };
    for await (const [key, sealed] of this.#store.entries(last)) {
      const n = rowPosition(key);
      next = Math.max(next, n < MARK_POSITION ? n + 1 : await this.#open({ ...mark, older: [] }, key, sealed));
    }
    if (age === this.#age) this.#positions.set(id, next);
    return next;
  }

  /** Encodes and encrypts everything in `overlay` for one commit. */
  async seal(overlay: Overlay): Promise<StoreOperation[]> {
    const operations: StoreOperation[] = [];
    const puts: Promise<StoreOperation>[] = [];
    const add = (
      key: Uint8Array,
      kind: { readonly schema: Schema<unknown>; readonly version: number },
      write: RowWrite,
    ): void => {
      if (write.value === undefined) operations.push({ type: "delete", key });
      else puts.push(this.#put(key, kind.version, write.encoded ?? encode(kind.schema, write.value)));
    };
    for (const write of overlay.points.values()) add(this.#pointKey(write.table, write.key), write.table, write);
    for (const { log, parent, rows, mark: next } of overlay.logs.values()) {
      const prefix = this.#prefix(log, parent);
      for (const [n, write] of rows) add(rowKey(prefix, n), log, write);
      if (next !== undefined) add(rowKey(prefix, MARK_POSITION), mark, { value: next, encoded: undefined });
    }
    return operations.concat(await Promise.all(puts));
  }

  async #put(key: Uint8Array, version: number, plaintext: Uint8Array): Promise<StoreOperation> {
    const value = await this.#vault.seal(key, version, plaintext);
    zero(plaintext);
    return { type: "put", key, value };
  }

  /** `overlay` is on the disk. */
  landed(overlay: Overlay): void {
    this.#age++;
    for (const [id, write] of overlay.points) {
      if (!write.table.cached) continue;
      if (write.value === undefined) this.#cache.delete(id);
      else this.#cache.set(id, write.value);
    }
    for (const [id, writes] of overlay.logs) {
      const known = this.#positions.get(id);
      if (known !== undefined && known < writes.next) this.#positions.set(id, writes.next);
    }
  }

  /** Nothing in memory can be trusted any more; `store` is the truth. */
  forget(store: Store): void {
    this.#age++;
    this.#cache.clear();
    this.#positions.clear();
    this.#store = store;
  }

  #pointKey(table: Table<unknown>, key: string): Uint8Array {
    this.#declare(table);
    return this.#vault.storeKey(table.number, key, POINT_KEY_BYTES);
  }

  #prefix(log: Log<unknown>, parent: string): Uint8Array {
    this.#declare(log);
    return this.#vault.storeKey(log.number, parent, ROW_PREFIX_BYTES);
  }

  #declare(kind: Table<unknown> | Log<unknown>): void {
    const name = this.#declared.get(kind.number);
    if (name === undefined) this.#declared.set(kind.number, kind.name);
    else assert(name === kind.name, `table number ${kind.number} is ${name}, not ${kind.name}`);
  }

  async #open<V>(
    kind: Pick<Log<V>, "schema" | "version" | "older">,
    storeKey: Uint8Array,
    sealed: Uint8Array,
  ): Promise<V> {
    const { version, plaintext } = await this.#vault.open(storeKey, sealed);
    const older = version === kind.version ? undefined : kind.older.find((entry) => entry.version === version);
    if (version !== kind.version && older === undefined) {
      throw new Failure("store/unknown-schema", "a record was written by another version of this program");
    }
    const value = decode<unknown>(older?.schema ?? kind.schema, plaintext);
    zero(plaintext);
    if (isReject(value)) throw new Failure("store/damaged-record", "a stored record does not decode");
    return older === undefined ? (value as V) : older.upgrade(value);
  }
}

/** After every key with this prefix, the mark included. */
function prefixEnd(prefix: Uint8Array): Uint8Array {
  const end = new Uint8Array(ROW_PREFIX_BYTES + 7).fill(0xff);
  end.set(prefix);
  return end;
}
