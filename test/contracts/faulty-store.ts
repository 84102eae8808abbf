/**
 * A host whose stores fail where a test wants it, as the port says a failed commit behaves: the store answers nothing more
 * until it is opened anew.
 */
import { Failure } from "#src/runtime/failure.ts";
import type { Store, StoreHost, StoreOperation, StoreRange } from "#src/runtime/ports.ts";

/**
 * failed: nothing was written. unknown-lost and unknown-kept: nobody can tell, and it was not, or was. full: from now on every
 * commit that puts something fails, until `makeRoom`.
 */
export type CommitFault = "failed" | "unknown-lost" | "unknown-kept" | "full";

export type FaultPlan = {
  /** @param commit Counted over all stores of the host, from 0. */
  readonly faultAt?: (commit: number) => CommitFault | undefined;
  /** Awaited around each commit; a test crashes its disk here. */
  readonly around?: (commit: number, moment: "before" | "after") => void | Promise<void>;
  /** Awaited between a store's death and its commit saying so. */
  readonly dying?: () => Promise<void>;
  /** What `open` throws at this attempt, from 0. */
  readonly openFault?: (attempt: number) => Failure | undefined;
};

export class FaultyHost implements StoreHost {
  readonly #inner: StoreHost;
  readonly #plan: FaultPlan;
  #commits = 0;
  #opens = 0;
  #full = false;

  constructor(inner: StoreHost, plan: FaultPlan = {}) {
    this.#inner = inner;
    this.#plan = plan;
  }

  /** Commits that were asked for. */
  get commits(): number {
    return this.#commits;
  }

  get opens(): number {
    return this.#opens;
  }

  makeRoom(): void {
    this.#full = false;
  }

  async open(): Promise<Store> {
    const fault = this.#plan.openFault?.(this.#opens++);
    if (fault !== undefined) throw fault;
    return new FaultyStore(this, await this.#inner.open());
  }

  /** @internal */
  async dying(): Promise<void> {
    await this.#plan.dying?.();
  }

  /** @internal */
  async commit(store: Store, operations: readonly StoreOperation[]): Promise<void> {
    const number = this.#commits++;
    await this.#plan.around?.(number, "before");
    const fault = this.#plan.faultAt?.(number);
    if (fault === "full") this.#full = true;
    if (this.#full && operations.some((operation) => operation.type === "put")) {
      throw new Failure("store/full", "no room (planned)", { retryable: true });
    }
    if (fault === "failed") throw new Failure("store/failed", "planned failure", { retryable: true });
    if (fault !== "unknown-lost") await store.commit(operations);
    await this.#plan.around?.(number, "after");
    if (fault === "unknown-lost" || fault === "unknown-kept") {
      throw new Failure("store/unknown-outcome", "planned unknown outcome", { retryable: true });
    }
  }
}

class FaultyStore implements Store {
  readonly #host: FaultyHost;
  readonly #inner: Store;
  #usable = true;

  constructor(host: FaultyHost, inner: Store) {
    this.#host = host;
    this.#inner = inner;
  }

  async get(key: Uint8Array): Promise<Uint8Array | undefined> {
    this.#mustBeUsable();
    return this.#inner.get(key);
  }

  async commit(operations: readonly StoreOperation[]): Promise<void> {
    this.#mustBeUsable();
    try {
      await this.#host.commit(this.#inner, operations);
    } catch (error) {
      this.#usable = false;
      await this.#host.dying();
      throw error;
    }
  }

  async *entries(range: StoreRange): AsyncIterable<readonly [key: Uint8Array, value: Uint8Array]> {
    this.#mustBeUsable();
    yield* this.#inner.entries(range);
  }

  async compact(range?: { readonly from: Uint8Array; readonly to: Uint8Array }): Promise<void> {
    this.#mustBeUsable();
    await this.#inner.compact(range);
  }

  async close(): Promise<void> {
    this.#usable = false;
    await this.#inner.close();
  }

  #mustBeUsable(): void {
    if (!this.#usable) throw new Failure("store/closed", "the store is closed");
  }
}
