/**
 * What a mailbox keeps: one store, its log of envelopes, its inboxes and directories, and what expires when. Opened once; after
 * a failure of the store it is of no more use and is opened anew, with a new log id (SY12).
 */
import { decode, encode } from "#protocols/base/codec.ts";
import { toHex } from "#protocols/base/bytes.ts";
import type { LogId } from "#protocols/base/ids.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Random, Store, StoreHost, StoreOperation } from "#src/runtime/ports.ts";
import { Commits } from "./commits.ts";
import { type MailboxLimits, ROW_OVERHEAD, SWEEP_ROWS, UNCLEAN_SKIP } from "./limits.ts";
import { type Expiry, expirySchema, keys, type Meta, metaSchema } from "./rows.ts";
import type { Schema } from "#protocols/base/codec.ts";

export const HOUR_MS = 3_600_000;

/** @returns What to write so that this is gone. It may be called again for the same row after a crash. */
export type Expire = (expiry: Expiry, now: number) => Promise<readonly StoreOperation[]>;

export class Shelves {
  readonly store: Store;
  readonly commits: Commits;
  readonly crypto: CryptoSuite;
  readonly limits: MailboxLimits;
  readonly #meta: { log: LogId; next: number; bytes: number; custodySeed: Uint8Array };

  private constructor(options: {
    store: Store;
    crypto: CryptoSuite;
    limits: MailboxLimits;
    meta: Meta;
    onFailure: (failure: unknown) => void;
  }) {
    this.store = options.store;
    this.crypto = options.crypto;
    this.limits = options.limits;
    this.#meta = { ...options.meta };
    this.commits = new Commits(options.store, options.onFailure);
  }

  /**
   * @param options.custodySeed - Taken at the first start; later the stored one stays.
   * @throws Failure `store/…`, `mailbox/damaged`.
   */
  static async open(options: {
    readonly host: StoreHost;
    readonly random: Random;
    readonly crypto: CryptoSuite;
    readonly limits: MailboxLimits;
    readonly custodySeed?: Uint8Array;
    readonly onFailure: (failure: unknown) => void;
  }): Promise<Shelves> {
    const store = await options.host.open();
    try {
      const stored = await store.get(keys.meta);
      const found = stored && decode(metaSchema, stored);
      if (isReject(found)) throw new Failure("mailbox/damaged", "the mailbox's own record cannot be read");
      const fresh = (): LogId => toHex(options.random(16)) as LogId;
      const meta: Meta = found
        ? { ...found, clean: false, ...(found.clean ? {} : { log: fresh(), next: found.next + UNCLEAN_SKIP }) }
        : {
            version: 1,
            log: fresh(),
            clean: false,
            next: 1,
            bytes: 0,
            custodySeed: options.custodySeed ?? options.random(32),
          };
      // From here on a stop without `close` is an unclean one.
      await store.commit([{ type: "put", key: keys.meta, value: encode(metaSchema, meta) }]);
      const shelves = new Shelves({ ...options, store, meta });
      shelves.commits.count(() => [shelves.#metaRow(false)]);
      return shelves;
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  get log(): LogId {
    return this.#meta.log;
  }

  get custodySeed(): Uint8Array {
    return this.#meta.custodySeed;
  }

  get bytes(): number {
    return this.#meta.bytes;
  }

  /** The next position. Rows must be written in the order in which positions were taken. */
  take(): number {
    return this.#meta.next++;
  }

  /** Positions below it were taken. */
  get next(): number {
    return this.#meta.next;
  }

  /** @returns False when `size` more bytes are more than this mailbox keeps. */
  reserve(size: number): boolean {
    if (this.#meta.bytes + size + ROW_OVERHEAD > this.limits.maxBytes) return false;
    this.#meta.bytes += size + ROW_OVERHEAD;
    return true;
  }

  free(size: number): void {
    this.#meta.bytes = Math.max(0, this.#meta.bytes - size - ROW_OVERHEAD);
  }

  async get<T>(schema: Schema<T>, key: Uint8Array): Promise<T | undefined> {
    const stored = await this.store.get(key);
    if (stored === undefined) return undefined;
    const value = decode(schema, stored);
    if (isReject(value)) throw new Failure("mailbox/damaged", "a record of the mailbox cannot be read");
    return value;
  }

  put<T>(schema: Schema<T>, key: Uint8Array, value: T): StoreOperation {
    return { type: "put", key, value: encode(schema, value) };
  }

  delete(key: Uint8Array): StoreOperation {
    return { type: "delete", key };
  }

  /** Removes what expired before `now`, at most SWEEP_ROWS of it. @returns Whether there is more. */
  async sweep(now: number, expire: Expire): Promise<boolean> {
    const due: { readonly key: Uint8Array; readonly expiry: Expiry }[] = [];
    const range = { from: keys.expiry(0, 0), to: keys.expiry(Math.floor(now / HOUR_MS), 0), limit: SWEEP_ROWS };
    for await (const [key, value] of this.store.entries(range)) {
      const expiry = decode(expirySchema, value);
      if (isReject(expiry)) throw new Failure("mailbox/damaged", "a record of the mailbox cannot be read");
      due.push({ key, expiry });
    }
    const operations: StoreOperation[] = [];
    for (const { key, expiry } of due) operations.push(...(await expire(expiry, now)), this.delete(key));
    if (operations.length > 0) await this.commits.write(operations);
    return due.length === SWEEP_ROWS;
  }

  /** After the last write: the next start goes on with the same log. */
  async close(): Promise<void> {
    await this.commits.idle();
    await this.store.commit([this.#metaRow(true)]);
    await this.store.close();
  }

  #metaRow(clean: boolean): StoreOperation {
    assert(this.#meta.next > 0, "positions begin at 1");
    return this.put(metaSchema, keys.meta, { ...this.#meta, version: 1, clean });
  }
}
