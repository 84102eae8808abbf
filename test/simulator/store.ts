/**
 * The `Store` port over a disk that can lose what was not synced. The disk belongs to the machine and outlives its processes;
 * a commit takes virtual time, and until it is down nothing of it is sure: a crash keeps a prefix of the commits in flight,
 * each whole or not at all, as LevelDB's log does.
 */
import { compareText } from "#protocols/base/bytes.ts";
import { assert } from "#protocols/base/reject.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Store, StoreHost, StoreOperation, StoreRange } from "#src/runtime/ports.ts";

import type { Dice } from "./random.ts";
import { never, type Process, type Scheduler } from "./scheduler.ts";

/** What may happen to one commit. */
export const COMMIT_FAULTS = [
  "crash-before-commit",
  "crash-during-commit",
  "crash-after-commit",
  "commit-failed",
  "commit-unknown",
  "disk-full",
] as const;
export type CommitFault = (typeof COMMIT_FAULTS)[number];

/** A synced put of a good disk takes about 0.1 ms, that of a bad phone 10 ms. */
const COMMIT_US = [100, 10_000] as const;
const READ_US = [20, 500] as const;
/** Of reads; the rest is answered from the page cache, at once. Enough to make code run between any two reads. */
const SLOW_READS = 0.2;
/** Commits one process may have in flight; a driver has one, a store of the mailbox perhaps another. */
const MAX_IN_FLIGHT = 64;

type Row = { readonly key: Uint8Array; readonly value: Uint8Array };
type Batch = { readonly operations: readonly StoreOperation[]; done: boolean };

export type DiskOptions = {
  readonly scheduler: Scheduler;
  readonly dice: Dice;
  /** How long the disk stays full, drawn when it happens. */
  readonly fullForUs: () => number;
  /** Ends the process, as a power cut would. Called from an event of nobody. */
  readonly crash: () => void;
  readonly onFault: (fault: CommitFault) => void;
};

export class Disk {
  commits = 0;
  /** Commits that were in flight at a crash, and how many of them were lost. */
  tornOff = 0;
  lost = 0;
  readonly options: DiskOptions;
  #rows = new Map<string, Row>();
  #keys: string[] = [];
  #lockedBy: Process | undefined;
  #inFlight: Batch[] = [];
  #lastCommitUs = 0;
  #armed: CommitFault | undefined;
  #fullUntilUs = 0;

  constructor(options: DiskOptions) {
    this.options = options;
  }

  get size(): number {
    return this.#rows.size;
  }

  /** The next commit meets `fault`; a fault that still waits is replaced. */
  arm(fault: CommitFault): void {
    this.#armed = fault;
  }

  /** Takes faults back that have not happened yet and makes room. */
  heal(): void {
    this.#armed = undefined;
    this.#fullUntilUs = 0;
  }

  host(process: Process): StoreHost {
    const { scheduler, dice } = this.options;
    return {
      open: () => {
        if (!scheduler.enter(process)) return never();
        return new Promise((resolve, reject) => {
          scheduler.after(dice.between(200, 2_000), "store/open", process, () => {
            if (this.#lockedBy !== undefined) {
              reject(new Failure("store/locked", "another process has this store open", { retryable: true }));
              return;
            }
            this.#lockedBy = process;
            resolve(new OpenStore(this, process));
          });
        });
      },
    };
  }

  /** The machine lost power, or the process was killed: a prefix of what was in flight is on the disk. */
  processDied(process: Process): void {
    if (this.#lockedBy === process) this.#lockedBy = undefined;
    const torn = this.#inFlight.filter((batch) => !batch.done);
    this.#inFlight = [];
    const kept = torn.length === 0 ? 0 : this.options.dice.below(torn.length + 1);
    for (const batch of torn.slice(0, kept)) this.#apply(batch);
    this.tornOff += torn.length;
    this.lost += torn.length - kept;
  }

  /** When everything that is in flight is down. */
  get idleInUs(): number {
    return Math.max(0, this.#lastCommitUs - this.options.scheduler.nowUs);
  }

  unlock(process: Process): void {
    if (this.#lockedBy === process) this.#lockedBy = undefined;
  }

  read(key: Uint8Array): Uint8Array | undefined {
    return this.#rows.get(keyText(key))?.value.slice();
  }

  /** A snapshot: later commits do not show in it. */
  range({ from, to, reverse = false, limit = Infinity }: StoreRange): Row[] {
    const start = this.#position(keyText(from));
    const end = Math.max(start, this.#position(keyText(to)));
    const count = Math.min(limit, end - start);
    const keys = reverse ? this.#keys.slice(end - count, end).toReversed() : this.#keys.slice(start, start + count);
    return keys.map((key) => this.#rows.get(key)!);
  }

  commit(store: OpenStore, operations: readonly StoreOperation[]): Promise<void> {
    const { scheduler, dice, onFault, crash } = this.options;
    assert(this.#inFlight.length < MAX_IN_FLIGHT, "too many commits in flight");
    this.commits++;
    const batch: Batch = { operations: operations.map(copied), done: false };
    for (const operation of batch.operations) {
      const { process } = store;
      scheduler.trace.bytes(scheduler.nowUs, "store/key", process.node, operation.key);
      if (operation.type === "put")
        scheduler.trace.bytes(scheduler.nowUs, "store/value", process.node, operation.value);
    }
    const takesUs = dice.spread(...COMMIT_US);
    const atUs = Math.max(this.#lastCommitUs + 1, scheduler.nowUs + takesUs);
    this.#lastCommitUs = atUs;
    const delayUs = atUs - scheduler.nowUs;

    let fault = this.#armed;
    this.#armed = undefined;
    if (fault === "disk-full") this.#fullUntilUs = scheduler.nowUs + this.options.fullForUs();
    if (scheduler.nowUs < this.#fullUntilUs) fault = "disk-full";
    if (fault !== undefined) onFault(fault);

    if (fault !== "crash-before-commit") this.#inFlight.push(batch);
    if (fault === "crash-before-commit" || fault === "crash-during-commit") {
      scheduler.after(delayUs / 2, fault, undefined, () => {
        if (store.process.alive) crash();
      });
      return never();
    }
    return new Promise((resolve, reject) => {
      scheduler.after(delayUs, "store/commit", store.process, () => {
        this.#finish(batch);
        if (store.state === "failed") {
          reject(new Failure("store/failed", "an earlier commit failed", { retryable: true }));
        } else if (fault === undefined) {
          this.#apply(batch);
          resolve();
        } else if (fault === "crash-after-commit") {
          this.#apply(batch);
          scheduler.after(0, fault, undefined, () => {
            if (store.process.alive) crash();
          });
        } else {
          if (fault === "commit-unknown" && dice.chance(0.5)) this.#apply(batch);
          store.state = "failed";
          reject(commitFailure(fault));
        }
      });
    });
  }

  #finish(batch: Batch): void {
    batch.done = true;
    this.#inFlight = this.#inFlight.filter((other) => !other.done);
  }

  #apply(batch: Batch): void {
    for (const operation of batch.operations) {
      const key = keyText(operation.key);
      if (operation.type === "put") {
        if (!this.#rows.has(key)) this.#keys.splice(this.#position(key), 0, key);
        this.#rows.set(key, { key: operation.key, value: operation.value });
      } else if (this.#rows.delete(key)) {
        this.#keys.splice(this.#position(key), 1);
      }
    }
  }

  /** Index of the first key that is not below `key`. */
  #position(key: string): number {
    let low = 0;
    let high = this.#keys.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compareText(this.#keys[middle]!, key) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

class OpenStore implements Store {
  state: "open" | "failed" | "closed" = "open";
  readonly process: Process;
  readonly #disk: Disk;

  constructor(disk: Disk, process: Process) {
    this.#disk = disk;
    this.process = process;
  }

  get(key: Uint8Array): Promise<Uint8Array | undefined> {
    return this.#read(() => this.#disk.read(key));
  }

  commit(operations: readonly StoreOperation[]): Promise<void> {
    if (!this.#enter()) return never();
    if (this.state !== "open") return Promise.reject(this.#unusable());
    return this.#disk.commit(this, operations);
  }

  entries(range: StoreRange): AsyncIterable<readonly [key: Uint8Array, value: Uint8Array]> {
    const rows = this.#read(() => this.#disk.range(range));
    // An iterable nobody walks must not end the run as an unhandled rejection.
    rows.catch(() => {});
    return (async function* () {
      for (const { key, value } of await rows) yield [key.slice(), value.slice()] as const;
    })();
  }

  compact(): Promise<void> {
    return this.#read(() => undefined);
  }

  close(): Promise<void> {
    if (!this.#enter()) return never();
    if (this.state === "closed") return Promise.resolve();
    this.state = "closed";
    const { scheduler } = this.#disk.options;
    return new Promise((resolve) => {
      scheduler.after(this.#disk.idleInUs + 100, "store/close", this.process, () => {
        this.#disk.unlock(this.process);
        resolve();
      });
    });
  }

  #enter(): boolean {
    return this.#disk.options.scheduler.enter(this.process);
  }

  #unusable(): Failure {
    return this.state === "closed"
      ? new Failure("store/closed", "the store is closed")
      : new Failure("store/failed", "the store failed and must be opened anew", { retryable: true });
  }

  /** Takes the value now, hands it over now or after the time of a slow read. */
  #read<T>(take: () => T): Promise<T> {
    if (!this.#enter()) return never();
    if (this.state !== "open") return Promise.reject(this.#unusable());
    const value = take();
    const { dice, scheduler } = this.#disk.options;
    if (!dice.chance(SLOW_READS)) return Promise.resolve(value);
    return new Promise((resolve) => {
      scheduler.after(dice.between(...READ_US), "store/read", this.process, () => resolve(value));
    });
  }
}

function commitFailure(fault: CommitFault): Failure {
  if (fault === "disk-full") return new Failure("store/full", "no space left on the disk", { retryable: true });
  if (fault === "commit-failed") return new Failure("store/failed", "the disk refused a write", { retryable: true });
  return new Failure("store/unknown-outcome", "the write may or may not have happened", { retryable: true });
}

/** One char a byte, so that the order of strings is the order of bytes. */
function keyText(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("latin1");
}

/** The disk keeps what was given at the call; the caller may wipe its buffers. */
function copied(operation: StoreOperation): StoreOperation {
  return operation.type === "put"
    ? { type: "put", key: operation.key.slice(), value: operation.value.slice() }
    : { type: "delete", key: operation.key.slice() };
}
