/** A clock whose time passes when a test says so. */
import { assert } from "#protocols/base/reject.ts";
import type { Clock } from "#src/runtime/ports.ts";

type Timer = { readonly due: number; readonly wake: () => void };

export class ManualClock implements Clock {
  #time = 0;
  readonly #timers = new Set<Timer>();

  now(): number {
    return 1_700_000_000_000 + this.#time;
  }

  monotonic(): number {
    return this.#time;
  }

  after(delayMs: number, wake: () => void): () => void {
    const timer = { due: this.#time + delayMs, wake };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  get timers(): number {
    return this.#timers.size;
  }

  /** Wakes who is due, earliest first, also those who ask for it on the way. */
  advance(ms: number): void {
    const end = this.#time + ms;
    for (let woken = 0; ; woken++) {
      assert(woken < 100_000, "timers do not rearm for ever");
      let next: Timer | undefined;
      for (const timer of this.#timers) if (timer.due <= end && (!next || timer.due < next.due)) next = timer;
      if (next === undefined) break;
      this.#timers.delete(next);
      this.#time = Math.max(this.#time, next.due);
      next.wake();
    }
    this.#time = end;
  }
}
