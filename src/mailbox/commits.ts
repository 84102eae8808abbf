/**
 * Group commit: whoever writes waits for one commit of the store, which takes everything that gathered while the one before it
 * was on its way to the disk. Writes become durable in the order of `write`, all of one call or none.
 *
 * After a failure nothing is written any more and every waiter gets the failure: what is on the disk is known only after the
 * store was opened anew.
 */
import { Failure } from "#src/runtime/failure.ts";
import type { Store, StoreOperation } from "#src/runtime/ports.ts";

type Waiting = {
  readonly operations: readonly StoreOperation[];
  readonly done: () => void;
  readonly failed: (failure: unknown) => void;
};

export class Commits {
  readonly #store: Store;
  readonly #onFailure: (failure: unknown) => void;
  #queue: Waiting[] = [];
  #running: Promise<void> | undefined;
  #failure: Error | undefined;
  readonly #counters: (() => readonly StoreOperation[])[] = [];

  constructor(store: Store, onFailure: (failure: unknown) => void) {
    this.#store = store;
    this.#onFailure = onFailure;
  }

  /** Counters that go into each commit once, however many writes it holds. Asked for when it begins. */
  count(operations: () => readonly StoreOperation[]): void {
    this.#counters.push(operations);
  }

  /** Resolves when it is on the disk. @throws Failure of the store. */
  async write(operations: readonly StoreOperation[]): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    await new Promise<void>((done, failed) => {
      this.#queue.push({ operations, done, failed });
      this.#running ??= this.#run();
    });
  }

  /** Everything written so far is down, or failed. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    // One turn, so that those who write at once share the first commit too.
    await Promise.resolve();
    while (this.#queue.length > 0) {
      const batch = this.#queue;
      this.#queue = [];
      const operations = batch.flatMap((waiting) => waiting.operations);
      try {
        await this.#store.commit([...operations, ...this.#counters.flatMap((counter) => counter())]);
      } catch (failure) {
        this.#fail([...batch, ...this.#queue], failure);
        return;
      }
      for (const waiting of batch) waiting.done();
      // What the waiters write now joins what gathered meanwhile.
      await Promise.resolve();
    }
    this.#running = undefined;
  }

  #fail(waiting: readonly Waiting[], failure: unknown): void {
    this.#queue = [];
    this.#running = undefined;
    this.#failure = failure instanceof Error ? failure : new Failure("store/failed", "the store failed");
    for (const one of waiting) one.failed(this.#failure);
    this.#onFailure(this.#failure);
  }
}
