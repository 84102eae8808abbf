import { compareText } from "#protocols/base/bytes.ts";
import { assert } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { Failure } from "./failure.ts";
import { Locks } from "./locks.ts";
import { Overlay } from "./overlay.ts";
import type { Clock, Random, Store, StoreHost, StoreOperation } from "./ports.ts";
import { RecordShelf } from "./record-shelf.ts";
import type { Log, Table } from "./records.ts";
import { type ReadTx, StepTx, type StepView, type Tx } from "./step.ts";
import { type Unlock, Vault } from "./vault.ts";

export type { ReadTx, Tx } from "./step.ts";
export type { RowRange } from "./record-shelf.ts";
export type { Unlock } from "./vault.ts";

/**
 * The only place where things happen: load -> step -> commit -> release.
 *
 *     run() -> admitted -> locks held -> body -> merged into the collecting batch, locks free
 *                                                   | one commit at a time, in order
 *                                                   v
 *                                     flushing -> on the disk -> effects released -> run() resolves
 *                                        | commit failed
 *                                        v
 *                     every step not yet on the disk is discarded; store reopened; later steps reread
 *
 * Invariants:
 * 1. A step is in one batch whole, or nowhere: a body that throws changes nothing.
 * 2. Batches reach the disk in the order in which their steps finished, one at a time: the store always holds the effects
 *    of a prefix of the finished steps.
 * 3. `run` resolves and effects are released, in order, only after the step's batch is on the disk. What a step has read of
 *    other steps that are not there yet is in its own batch or an earlier one.
 * 4. When a commit fails, every step that is not on the disk is discarded, running ones too, and nothing read before is
 *    used again. Its outcome may be unknown: after reopening, the disk is the truth, and ids make repeating harmless.
 * 5. Two steps that share a lock never overlap. Locks are free when the body has ended, not when the disk has it.
 * 6. `read` sees only what is on the disk.
 * 7. The fence is asked before each commit and before each release; once it says no, nothing is written or released again.
 *
 * A body touches tables and nothing else, and starts no other step. Values are never changed once put or read.
 */
export const DRIVER_LIMITS = {
  /** Steps running or waiting for the disk. Past some hundred a batch gains nothing; each holds its decoded records. */
  steps: 1_024,
  /** Steps waiting to be admitted. A queue this long is seconds behind: the caller must slow down instead. */
  waitingSteps: 65_536,
  /** Encoded bytes of a batch after which further steps wait for the next. LevelDB's write buffer is 4 MiB. */
  batchBytes: 4 * 1_048_576,
  /** Decoded records of cached tables, some kB each. */
  cachedRecords: 4_096,
  /** Logs whose next position is known, about 150 bytes each. */
  logPositions: 8_192,
  /** With the delays below: about half a minute, then a person has to look. */
  reopenAttempts: 10,
  reopenDelayMs: 50,
  reopenMaxDelayMs: 10_000,
  /** How often a full disk is tried again. */
  roomProbeMs: 5_000,
  /** A body only touches tables: one that is not done by then waits for something it must not wait for. */
  slowStepMs: 30_000,
} as const;

export type DriverLimits = { readonly [K in keyof typeof DRIVER_LIMITS]: number };

export type DriverOptions = {
  readonly host: StoreHost;
  readonly unlock: Unlock;
  readonly random: Random;
  readonly clock: Clock;
  readonly crypto: CryptoSuite;
  readonly limits?: Partial<DriverLimits>;
  /** False once another live copy of this store's owner has taken over. */
  readonly fence?: () => boolean;
};

/** full: reading goes on, steps that put something are refused. stopped: only closing is left. */
export type DriverState = "open" | "reopening" | "full" | "stopped" | "closed";

type FinishedStep = {
  readonly effects: readonly (() => void)[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
};

class Batch {
  readonly overlay = new Overlay();
  readonly steps: FinishedStep[] = [];
  /** Records that are not the tables': the vault's header, the probe for room. */
  readonly raw: StoreOperation[] = [];
  probesRoom = false;
}

type Waiter = { readonly resolve: () => void; readonly reject: (failure: Failure) => void };

const PROBE_KEY = Uint8Array.of(0xf0);
/** More than the slack of a block, so that it needs room. */
const PROBE_BYTES = 8_192;
/** A read that a failed commit interrupts begins again; a store that fails this often in a row is a failure to report. */
const READ_ATTEMPTS = 3;

export class Driver {
  readonly #host: StoreHost;
  readonly #vault: Vault;
  readonly #shelf: RecordShelf;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #limits: DriverLimits;
  readonly #fence: () => boolean;
  readonly #locks = new Locks();
  readonly #failureListeners = new Set<(failure: Failure) => void>();
  readonly #stateListeners = new Set<(state: DriverState) => void>();
  #state: DriverState = "open";

  #collecting = new Batch();
  #flushing: Batch | undefined;
  #writing = false;
  /** What the commit under way came to. */
  #verdict: Promise<{ readonly error: unknown } | undefined> | undefined;
  #probeDue = false;

  /** Steps admitted and neither on the disk nor discarded. */
  #admitted = 0;
  readonly #waiting = new Set<Waiter>();
  readonly #running = new Set<StepTx>();
  #bodyStarting = false;

  /** Undefined between a failed commit and the reopened store. */
  #store: Store | undefined;
  /** Moves with every failed commit: what began before is discarded. */
  #generation = 0;
  #lastFailure: Failure | undefined;
  /** Resolves when the store is open again, or will not be for long. */
  #reopening: Promise<void> | undefined;
  #full: Failure | undefined;
  #stopped: Failure | undefined;
  #closing: Promise<void> | undefined;
  #idle: (() => void) | undefined;
  #cancelProbe: (() => void) | undefined;
  #cancelSlowCheck: (() => void) | undefined;
  #cutDelay: (() => void) | undefined;

  /** @throws Failure of the host, and of `Vault.open`. */
  static async open(options: DriverOptions): Promise<Driver> {
    const store = await options.host.open();
    try {
      const vault = await Vault.open({ ...options, store });
      return new Driver(options, store, vault);
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  private constructor(options: DriverOptions, store: Store, vault: Vault) {
    this.#host = options.host;
    this.#vault = vault;
    this.#store = store;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#limits = { ...DRIVER_LIMITS, ...options.limits };
    this.#fence = options.fence ?? (() => true);
    this.#shelf = new RecordShelf({ ...this.#limits, store, vault });
  }

  get state(): DriverState {
    return this.#state;
  }

  /** Every failure of the store, and every step that hangs. @returns Stops listening. */
  onFailure(listener: (failure: Failure) => void): () => void {
    this.#failureListeners.add(listener);
    return () => this.#failureListeners.delete(listener);
  }

  /** @returns Stops listening. */
  onState(listener: (state: DriverState) => void): () => void {
    this.#stateListeners.add(listener);
    return () => this.#stateListeners.delete(listener);
  }

  /**
   * Holds `locks` while `body` runs; resolves with its result when everything it wrote is on the disk and its effects are
   * released.
   * @throws What `body` throws. Failure `store/…` when the step was discarded: if retryable, run it again. Failure
   * `driver/overloaded` (retryable).
   */
  async run<T>(locks: readonly string[], body: (tx: Tx) => Promise<T>): Promise<T> {
    assert(!this.#bodyStarting, "a step does not start another");
    const admission = this.#admit();
    if (admission !== undefined) await admission;
    const names = [...new Set(locks)].sort(compareText);
    const unlock = await this.#locks.acquire(names);
    let finished: { readonly result: T; readonly durable: Promise<void> };
    try {
      finished = await this.#step(names, body);
    } catch (error) {
      this.#leave(1);
      throw error;
    } finally {
      unlock();
    }
    await finished.durable;
    return finished.result;
  }

  /**
   * Reads what is on the disk. Each call of `tx` sees the newest batch, so two calls may see two: what must agree is read
   * in a step. `body` may be called again when the store had to be reopened.
   * @throws What `body` throws, Failure `store/…`.
   */
  async read<T>(body: (tx: ReadTx) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      if (this.#closing !== undefined) throw closedFailure();
      await this.#whenOpen();
      const generation = this.#generation;
      try {
        return await body({
          get: (table, key) => this.#shelf.get(table, key, []),
          values: (table) => this.#shelf.values(table, []),
          rows: (log, parent, range = {}) => this.#shelf.rows(log, parent, range, []),
        });
      } catch (error) {
        await this.#judged(error);
        if (!(error instanceof Failure) || generation === this.#generation || attempt === READ_ATTEMPTS) throw error;
      }
    }
  }

  /**
   * Changes what opens the vault.
   * @throws Failure `vault/wrong-passphrase` when `current` does not open it now.
   */
  async changeUnlock(current: Unlock, next: Unlock): Promise<void> {
    const { operation, accept } = await this.#vault.rewrap(this.#random, current, next);
    const admission = this.#admit();
    if (admission !== undefined) await admission;
    try {
      await this.#whenOpen();
    } catch (error) {
      this.#leave(1);
      throw error;
    }
    this.#collecting.raw.push(operation);
    await this.#join([accept]);
    // The old wrapping must not outlive the change in the store's files.
    await this.#store?.compact({ from: operation.key, to: Uint8Array.of(operation.key[0]! + 1) });
  }

  /** Takes deleted and replaced values off the disk: for tables of ratchet and group secrets, hourly and on lock. */
  async compact(kinds: readonly (Table<any> | Log<any>)[]): Promise<void> {
    await this.#whenOpen();
    for (const { number } of kinds) {
      await this.#store?.compact({ from: Uint8Array.of(number), to: Uint8Array.of(number + 1) });
    }
  }

  /** Lets the admitted steps finish, closes the store and forgets the keys. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#refuseWaiting(closedFailure());
    this.#cutDelay?.();
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
      this.#noticeIdle();
    });
    this.#cancelProbe?.();
    this.#cancelSlowCheck?.();
    await this.#closeStore();
    this.#vault.close();
    this.#enter("closed");
  }

  // Admission: how many steps may be anywhere between run() and the disk.

  #admit(): Promise<void> | undefined {
    if (this.#closing !== undefined) throw closedFailure();
    if (this.#stopped !== undefined) throw this.#stopped;
    if (this.#waiting.size === 0 && this.#hasRoom()) {
      this.#admitted++;
      return undefined;
    }
    if (this.#waiting.size >= this.#limits.waitingSteps) {
      throw new Failure("driver/overloaded", "too many steps wait for the store", { retryable: true });
    }
    return new Promise((resolve, reject) => this.#waiting.add({ resolve, reject }));
  }

  #hasRoom(): boolean {
    return this.#admitted < this.#limits.steps && this.#collecting.overlay.bytes < this.#limits.batchBytes;
  }

  #admitWaiting(): void {
    for (const waiter of this.#waiting) {
      if (!this.#hasRoom()) return;
      this.#waiting.delete(waiter);
      this.#admitted++;
      waiter.resolve();
    }
  }

  #refuseWaiting(failure: Failure): void {
    for (const waiter of this.#waiting) waiter.reject(failure);
    this.#waiting.clear();
  }

  #leave(steps: number): void {
    this.#admitted -= steps;
    this.#admitWaiting();
    this.#noticeIdle();
  }

  #noticeIdle(): void {
    if (this.#admitted === 0 && !this.#writing) this.#idle?.();
  }

  // A step, from locks held to merged.

  async #step<T>(
    names: readonly string[],
    body: (tx: Tx) => Promise<T>,
  ): Promise<{ readonly result: T; readonly durable: Promise<void> }> {
    await this.#whenOpen();
    const view = this.#view();
    const tx = new StepTx(view, names, this.#clock.monotonic());
    this.#running.add(tx);
    this.#watchSlowSteps();
    let result: T;
    try {
      result = await this.#start(body, tx);
      await tx.keepPositions();
    } catch (error) {
      await this.#judged(error);
      // The store went away under the body: what failed is the commit it would have built on.
      throw error instanceof Failure ? (view.discarded() ?? error) : error;
    } finally {
      tx.end();
      this.#running.delete(tx);
    }
    const refusal = view.discarded() ?? (tx.writes.hasPuts ? this.#full : undefined);
    if (refusal !== undefined) throw refusal;
    this.#collecting.overlay.absorb(tx.writes);
    return { result, durable: this.#join(tx.effects) };
  }

  #start<T>(body: (tx: Tx) => Promise<T>, tx: Tx): Promise<T> {
    // A body that starts a step would wait for its own locks. Seen here only as far as its first await; later it shows
    // as a slow step.
    this.#bodyStarting = true;
    try {
      return body(tx);
    } finally {
      this.#bodyStarting = false;
    }
  }

  #view(): StepView {
    const generation = this.#generation;
    return {
      shelf: this.#shelf,
      layers: () =>
        this.#flushing === undefined
          ? [this.#collecting.overlay]
          : [this.#collecting.overlay, this.#flushing.overlay],
      discarded: () => (generation === this.#generation ? undefined : discardedBy(this.#lastFailure!)),
    };
  }

  #watchSlowSteps(): void {
    if (this.#cancelSlowCheck !== undefined) return;
    const { slowStepMs } = this.#limits;
    this.#cancelSlowCheck = this.#clock.after(slowStepMs, () => {
      this.#cancelSlowCheck = undefined;
      const limit = this.#clock.monotonic() - slowStepMs;
      const slow = [...this.#running].filter((tx) => tx.startedAt <= limit).length;
      if (slow > 0) this.#tell(new Failure("driver/slow-step", `${slow} steps hold their locks for too long`));
      if (this.#running.size > 0) this.#watchSlowSteps();
    });
  }

  // Commit and release.

  /** Puts a finished step into the collecting batch. Resolves when it is on the disk and released. */
  #join(effects: readonly (() => void)[]): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#collecting.steps.push({ effects, resolve, reject });
    if (!this.#writing) void this.#write();
    return promise;
  }

  /** The one writer: takes batch after batch until nothing is left. While one is being synced the next collects. */
  async #write(): Promise<void> {
    this.#writing = true;
    while (this.#store !== undefined && (this.#collecting.steps.length > 0 || this.#probeDue)) {
      const batch = this.#collecting;
      this.#collecting = new Batch();
      this.#flushing = batch;
      batch.probesRoom = this.#probeDue;
      this.#probeDue = false;
      this.#admitWaiting();
      this.#verdict = this.#commit(this.#store, batch).then(
        () => undefined,
        (error: unknown) => ({ error }),
      );
      const failed = await this.#verdict;
      if (failed !== undefined) await this.#discard(batch, failed.error);
      else this.#landed(batch);
      if (this.#stopped !== undefined) await this.#closeStore();
    }
    this.#writing = false;
    this.#noticeIdle();
  }

  async #commit(store: Store, batch: Batch): Promise<void> {
    if (!this.#fence()) throw fencedFailure();
    const operations = await this.#shelf.seal(batch.overlay);
    operations.push(...batch.raw);
    if (batch.probesRoom) operations.push({ type: "put", key: PROBE_KEY, value: this.#random(PROBE_BYTES) });
    if (operations.length > 0) await store.commit(operations);
  }

  #landed(batch: Batch): void {
    this.#flushing = undefined;
    this.#shelf.landed(batch.overlay);
    if (batch.probesRoom) {
      this.#full = undefined;
      this.#enter("open");
    }
    for (const step of batch.steps) this.#release(step);
    this.#leave(batch.steps.length);
  }

  #release(step: FinishedStep): void {
    if (this.#stopped === undefined && !this.#fence()) this.#stop(fencedFailure());
    if (this.#stopped !== undefined) {
      step.reject(this.#stopped);
      return;
    }
    try {
      for (const effect of step.effects) effect();
      step.resolve();
    } catch (error) {
      step.reject(error);
    }
  }

  // When a commit has failed.

  async #discard(batch: Batch, error: unknown): Promise<void> {
    const failure = asFailure(error);
    const steps = [...batch.steps, ...this.#collecting.steps];
    this.#flushing = undefined;
    this.#collecting = new Batch();
    this.#generation++;
    this.#lastFailure = failure;
    this.#tell(failure);
    if (failure.code === "store/full") this.#full = failure;
    if (failure.code === "store/fenced") this.#stop(failure);
    // Gated before anybody hears of it: who tries again at once waits for the reopened store.
    const reopened = this.#reopen();
    for (const step of steps) step.reject(error instanceof Failure ? discardedBy(failure) : error);
    this.#leave(steps.length);
    await reopened;
  }

  async #reopen(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#reopening = promise;
    if (this.#stopped === undefined) this.#enter("reopening");
    await this.#closeStore();
    for (let attempt = 1; this.#store === undefined && this.#stopped === undefined; attempt++) {
      if (this.#closing !== undefined) this.#stop(closedFailure());
      else await this.#tryOpen(attempt, resolve);
    }
    this.#reopening = undefined;
    resolve();
    if (this.#stopped !== undefined) return;
    this.#enter(this.#full === undefined ? "open" : "full");
    if (this.#full !== undefined) this.#probeLater();
  }

  /** One attempt, and the pause after it when it failed. */
  async #tryOpen(attempt: number, letGo: () => void): Promise<void> {
    const { reopenAttempts, reopenDelayMs, reopenMaxDelayMs, roomProbeMs } = this.#limits;
    try {
      const store = await this.#host.open();
      if (await this.#vault.belongsTo(store)) {
        this.#shelf.forget(store);
        this.#store = store;
      } else {
        await store.close();
        this.#stop(new Failure("vault/damaged", "the reopened store is not the one that was open"));
      }
    } catch (error) {
      const failure = asFailure(error);
      this.#tell(failure);
      if (failure.code === "store/full") {
        // Room may take days to come: nobody waits for it, everybody is refused until then.
        this.#full = failure;
        this.#reopening = undefined;
        letGo();
        this.#enter("full");
        await this.#delay(roomProbeMs);
      } else if (attempt >= reopenAttempts) {
        this.#stop(failure);
      } else {
        await this.#delay(Math.min(reopenDelayMs * 2 ** (attempt - 1), reopenMaxDelayMs));
      }
    }
  }

  #probeLater(): void {
    this.#cancelProbe = this.#clock.after(this.#limits.roomProbeMs, () => {
      this.#probeDue = true;
      if (!this.#writing) void this.#write();
    });
  }

  #delay(ms: number): Promise<void> {
    if (this.#closing !== undefined) return Promise.resolve();
    return new Promise((resolve) => {
      const cancel = this.#clock.after(ms, resolve);
      this.#cutDelay = () => {
        cancel();
        resolve();
      };
    });
  }

  /** @throws Failure when the store cannot be used: stopped, or full and not even open. */
  async #whenOpen(): Promise<void> {
    if (this.#reopening !== undefined) await this.#reopening;
    if (this.#stopped !== undefined) throw this.#stopped;
    if (this.#store === undefined) throw this.#full ?? closedFailure();
  }

  /** A store dies a moment before we hear of the commit that killed it: who meets it dead waits for that. */
  async #judged(error: unknown): Promise<void> {
    if (error instanceof Failure && error.code === "store/closed") await this.#verdict;
  }

  async #closeStore(): Promise<void> {
    const store = this.#store;
    this.#store = undefined;
    try {
      await store?.close();
    } catch (error) {
      this.#tell(asFailure(error));
    }
  }

  /** For good: only closing is left. */
  #stop(failure: Failure): void {
    this.#stopped = failure;
    this.#generation++;
    this.#lastFailure = failure;
    this.#tell(failure);
    this.#enter("stopped");
    this.#refuseWaiting(failure);
    for (const step of this.#collecting.steps) step.reject(failure);
    this.#leave(this.#collecting.steps.length);
    this.#collecting = new Batch();
  }

  #tell(failure: Failure): void {
    for (const listener of this.#failureListeners) listener(failure);
  }

  #enter(state: DriverState): void {
    if (state === this.#state) return;
    this.#state = state;
    for (const listener of this.#stateListeners) listener(state);
  }
}

function asFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  return new Failure("store/failed", "the store failed in a way it does not name", { retryable: true, cause: error });
}

/** A step that is not on the disk, or not known to be: it may be run again. */
function discardedBy(failure: Failure): Failure {
  const retryable = failure.retryable || failure.code === "store/unknown-outcome" || failure.code === "store/failed";
  return new Failure(failure.code, `step discarded: ${failure.message}`, { retryable, cause: failure });
}

function closedFailure(): Failure {
  return new Failure("store/closed", "the store is closed");
}

function fencedFailure(): Failure {
  return new Failure("store/fenced", "another live copy has taken over this store");
}
