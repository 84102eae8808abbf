import type { Clock } from "./ports.ts";

/** Notices steps that hold their locks for too long: a body only touches tables, so it waits for what it must not. */
export class SlowSteps {
  readonly #clock: Clock;
  readonly #limitMs: number;
  readonly #report: (steps: number) => void;
  readonly #startedAt = new Map<object, number>();
  /** One timer for all: it stays armed while there are steps, and looks at the ages when it fires. */
  #cancel: (() => void) | undefined;

  constructor(options: { readonly clock: Clock; readonly limitMs: number; readonly report: (steps: number) => void }) {
    this.#clock = options.clock;
    this.#limitMs = options.limitMs;
    this.#report = options.report;
  }

  started(step: object): void {
    this.#startedAt.set(step, this.#clock.monotonic());
    this.#cancel ??= this.#clock.after(this.#limitMs, () => this.#look());
  }

  ended(step: object): void {
    this.#startedAt.delete(step);
  }

  stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #look(): void {
    this.#cancel = undefined;
    const latest = this.#clock.monotonic() - this.#limitMs;
    const slow = [...this.#startedAt.values()].filter((startedAt) => startedAt <= latest).length;
    if (slow > 0) this.#report(slow);
    if (this.#startedAt.size > 0) this.#cancel = this.#clock.after(this.#limitMs, () => this.#look());
  }
}
