import { compareText } from "#protocols/base/bytes.ts";
import { assert } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { Admission } from "./admission.ts";
import { Batch, type FinishedStep, roomProbe } from "./batch.ts";
import { asFailure, closedFailure, discardedBy, fencedFailure } from "./driver-failures.ts";
import { DRIVER_LIMITS, type DriverLimits } from "./driver-limits.ts";
import { Failure } from "./failure.ts";
import { Locks } from "./locks.ts";
import type { Clock, Random, Store, StoreHost } from "./ports.ts";
import { RecordShelf } from "./record-shelf.ts";
import type { Log, Table } from "./records.ts";
import { SlowSteps } from "./slow-steps.ts";
import { type ReadTx, StepTx, type StepView, type Tx } from "./step.ts";
import { type Unlock, Vault } from "./vault.ts";

export type { DriverLimits } from "./driver-limits.ts";
export type { ReadTx, Tx } from "./step.ts";
export type { RowRange } from "./record-shelf.ts";

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

  readonly #admission: Admission;
  readonly #slowSteps: SlowSteps;
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
    this.#admission = new Admission({
      waitingLimit: this.#limits.waitingSteps,
      hasRoom: (admitted) => admitted < this.#limits.steps && this.#collecting.overlay.bytes < this.#limits.batchBytes,
    });
    this.#slowSteps = new SlowSteps({
      clock: options.clock,
      limitMs: this.#limits.slowStepMs,
      report: (steps) => this.#tell(new Failure("driver/slow-step", `${steps} steps hold their locks for too long`)),
    });
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
          row: (log, parent, n) => this.#shelf.row(log, parent, n, []),
          rows: (log, parent, range = {}) => this.#shelf.rows(log, parent, range, []),
        });
      } catch (error) {
        await this.#judged(error);
        if (!(error instanceof Failure) || generation === this.#generation || attempt >= this.#limits.readAttempts)
          throw error;
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
  async compact(kinds: readonly (Table<unknown> | Log<unknown>)[]): Promise<void> {
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
    this.#admission.refuseWaiting(closedFailure());
    this.#cutDelay?.();
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
      this.#noticeIdle();
    });
    this.#cancelProbe?.();
    this.#slowSteps.stop();
    await this.#closeStore();
    this.#vault.close();
    this.#enter("closed");
  }

  #admit(): Promise<void> | undefined {
    if (this.#closing !== undefined) throw closedFailure();
    if (this.#stopped !== undefined) throw this.#stopped;
    return this.#admission.admit();
  }

  #leave(steps: number): void {
    this.#admission.leave(steps);
    this.#noticeIdle();
  }

  #noticeIdle(): void {
    if (this.#admission.admitted === 0 && !this.#writing) this.#idle?.();
  }

  // A step, from locks held to merged.

  async #step<T>(
    names: readonly string[],
    body: (tx: Tx) => Promise<T>,
  ): Promise<{ readonly result: T; readonly durable: Promise<void> }> {
    await this.#whenOpen();
    const view = this.#view();
    const tx = new StepTx(view, names);
    this.#slowSteps.started(tx);
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
      this.#slowSteps.ended(tx);
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
        this.#flushing === undefined ? [this.#collecting.overlay] : [this.#collecting.overlay, this.#flushing.overlay],
      discarded: () => (generation === this.#generation ? undefined : discardedBy(this.#lastFailure!)),
    };
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
      this.#admission.admitWaiting();
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
    if (batch.probesRoom) operations.push(roomProbe(this.#random));
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

  /** For good. */
  #stop(failure: Failure): void {
    this.#stopped = failure;
    this.#generation++;
    this.#lastFailure = failure;
    this.#tell(failure);
    this.#enter("stopped");
    this.#admission.refuseWaiting(failure);
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
