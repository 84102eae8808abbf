import { Failure } from "./failure.ts";

type Waiter = { readonly resolve: () => void; readonly reject: (failure: Failure) => void };

/** How many steps may be anywhere between `run` and the disk; the others wait in line, and past its end they are refused. */
export class Admission {
  readonly #waiting = new Set<Waiter>();
  readonly #hasRoom: (admitted: number) => boolean;
  readonly #waitingLimit: number;
  #admitted = 0;

  constructor(options: { readonly waitingLimit: number; readonly hasRoom: (admitted: number) => boolean }) {
    this.#waitingLimit = options.waitingLimit;
    this.#hasRoom = options.hasRoom;
  }

  /** Steps admitted and neither on the disk nor discarded. */
  get admitted(): number {
    return this.#admitted;
  }

  /** @returns Undefined when admitted at once. @throws Failure `driver/overloaded`; what `refuseWaiting` was given. */
  admit(): Promise<void> | undefined {
    if (this.#waiting.size === 0 && this.#hasRoom(this.#admitted)) {
      this.#admitted++;
      return undefined;
    }
    if (this.#waiting.size >= this.#waitingLimit) {
      throw new Failure("driver/overloaded", "too many steps wait for the store", { retryable: true });
    }
    return new Promise((resolve, reject) => this.#waiting.add({ resolve, reject }));
  }

  leave(steps: number): void {
    this.#admitted -= steps;
    this.admitWaiting();
  }

  /** To be called whenever there may be room again. */
  admitWaiting(): void {
    for (const waiter of this.#waiting) {
      if (!this.#hasRoom(this.#admitted)) return;
      this.#waiting.delete(waiter);
      this.#admitted++;
      waiter.resolve();
    }
  }

  refuseWaiting(failure: Failure): void {
    for (const waiter of this.#waiting) waiter.reject(failure);
    this.#waiting.clear();
  }
}
