/**
 * Virtual time: a queue of events, one taken at a time. After each, every promise chain it started has settled before the next
 * begins, because everything below the ports resolves in microtasks and Node drains those between two immediates.
 *
 * What must hold, and how a breach shows:
 * - Code above the ports waits for nothing real (timer, WebCrypto, worker). It would run between two batches of immediates,
 *   where no step is open: its next port call ends the run with `EscapedStep`.
 * - A step ends. An endless loop over ports hits MAX_CALLS_PER_STEP, one over timers of zero delay MAX_EVENTS_PER_INSTANT.
 *   (An endless chain of microtasks that never calls a port cannot be seen from inside; that takes a limit on the process.)
 */
import { setImmediate as nextTurn } from "node:timers";

import { assert } from "#protocols/base/reject.ts";

import type { Trace } from "./trace.ts";

/** Port calls in one step. The largest honest step reads a whole transcript: some ten thousand rows. */
const MAX_CALLS_PER_STEP = 1_000_000;
/** Events at one virtual microsecond. A wake from sleep fires everything that fell due: some thousands at most. */
const MAX_EVENTS_PER_INSTANT = 200_000;
/** Events of one turn of Node's loop: the system call that polls for I/O is shared by so many. */
const EVENTS_PER_TURN = 64;
/** Cancelled events are swept when they are more than half of the queue and more than this. */
const SWEEP_ABOVE = 1_024;

/** Who an event happens to: one life of one machine's process. Its end drops its events, its sleep defers them. */
export type Process = {
  readonly node: number;
  readonly name: string;
  readonly incarnation: number;
  alive: boolean;
  asleep: boolean;
  /** What fell due during sleep, in order. */
  readonly deferred: SimEvent[];
};

export type SimEvent = {
  timeUs: number;
  sequence: number;
  readonly kind: string;
  readonly owner: Process | undefined;
  readonly action: () => void;
  cancelled: boolean;
  /** In the heap; false once it happened or was deferred. */
  queued: boolean;
};

/** The simulated program broke a rule of the simulation; the run cannot go on. */
export class EscapedStep extends Error {
  override name = "EscapedStep";
}

export class Scheduler {
  /** Virtual microseconds since the world began. */
  nowUs = 0;
  events = 0;
  /** Largest number of events that waited at once. */
  highWater = 0;
  /** Off for contract tests only, which call ports from real time. */
  strict = true;
  readonly trace: Trace;
  #heap: SimEvent[] = [];
  #sequence = 0;
  #cancelled = 0;
  #inStep = false;
  #running = false;
  #callsInStep = 0;
  #eventsInInstant = 0;
  #fatal: Error | undefined;

  constructor(trace: Trace) {
    this.trace = trace;
  }

  get waiting(): number {
    return this.#heap.length;
  }

  /** Plans `action` at `delayUs` from now; among events of one time, the order of planning decides. */
  after(delayUs: number, kind: string, owner: Process | undefined, action: () => void): SimEvent {
    assert(delayUs >= 0, `an event in the past or never: ${delayUs}`);
    const event: SimEvent = {
      timeUs: this.nowUs + Math.round(delayUs),
      sequence: this.#sequence++,
      kind,
      owner,
      action,
      cancelled: false,
      queued: true,
    };
    this.#push(event);
    return event;
  }

  cancel(event: SimEvent): void {
    if (event.cancelled) return;
    event.cancelled = true;
    if (!event.queued) return;
    this.#cancelled++;
    if (this.#cancelled > SWEEP_ABOVE && this.#cancelled * 2 > this.#heap.length) this.#sweep();
  }

  /** Every port method calls this first. @returns False when the caller's process is dead: then nothing may happen. */
  enter(process: Process): boolean {
    if (this.strict && !this.#inStep) this.fail(new EscapedStep(`${process.name} called a port outside of any event`));
    if (++this.#callsInStep > MAX_CALLS_PER_STEP && this.strict) {
      this.fail(new EscapedStep(`one event made ${MAX_CALLS_PER_STEP} port calls, at ${this.nowUs} us`));
    }
    return process.alive;
  }

  /** Ends the run: the promise of `run` rejects with `error`, whoever catches it here. */
  fail(error: Error): never {
    this.#fatal ??= error;
    throw error;
  }

  /** Wakes a sleeper: what fell due happens now, in the order in which it was due. */
  wake(process: Process): void {
    process.asleep = false;
    for (const event of process.deferred.splice(0)) {
      if (event.cancelled) continue;
      event.timeUs = this.nowUs;
      event.sequence = this.#sequence++;
      event.queued = true;
      this.#push(event);
    }
  }

  /**
   * Runs events up to and including `untilUs`, or until `stop` says so; then the clock stands at `untilUs`, or where it stopped.
   * `untilUs` may be infinite: then it runs until nothing waits.
   * @throws What an event threw, and EscapedStep.
   */
  run(untilUs: number, stop?: () => boolean): Promise<void> {
    assert(!this.#running, "one run at a time");
    this.#running = true;
    return new Promise((resolve, reject) => {
      let ended = false;
      const end = (error?: Error): void => {
        ended = true;
        this.#running = false;
        this.#inStep = false;
        if (error === undefined) resolve();
        else reject(error);
      };
      const step = (): void => {
        if (ended) return;
        if (this.#fatal !== undefined) return end(this.#fatal);
        if (stop?.() === true) return end();
        const event = this.#next(untilUs);
        if (event === undefined) {
          if (this.nowUs < untilUs && untilUs < Infinity) this.nowUs = untilUs;
          return end();
        }
        try {
          this.#execute(event);
        } catch (error) {
          end(error instanceof Error ? error : new Error("an event threw a value", { cause: error }));
        }
      };
      const turn = (): void => {
        this.#inStep = false;
        if (ended) return;
        for (let i = 0; i < EVENTS_PER_TURN; i++) nextTurn(step);
        nextTurn(turn);
      };
      turn();
    });
  }

  #execute(event: SimEvent): void {
    if (event.timeUs === this.nowUs) this.#eventsInInstant++;
    else this.#eventsInInstant = 0;
    if (this.#eventsInInstant > MAX_EVENTS_PER_INSTANT && this.strict) {
      this.fail(
        new EscapedStep(`${MAX_EVENTS_PER_INSTANT} events at ${event.timeUs} us, the last of kind ${event.kind}`),
      );
    }
    this.nowUs = event.timeUs;
    const owner = event.owner;
    if (owner !== undefined) {
      if (!owner.alive) return;
      if (owner.asleep) {
        owner.deferred.push(event);
        return;
      }
    }
    this.events++;
    this.trace.note(event.timeUs, event.kind, owner === undefined ? -1 : owner.node);
    this.#callsInStep = 0;
    this.#inStep = true;
    event.action();
  }

  #next(untilUs: number): SimEvent | undefined {
    for (;;) {
      const first = this.#heap[0];
      if (first === undefined || first.timeUs > untilUs) return undefined;
      this.#pop();
      first.queued = false;
      if (!first.cancelled) return first;
      this.#cancelled--;
    }
  }

  #sweep(): void {
    // A sorted array is a heap.
    this.#heap = this.#heap.filter((event) => !event.cancelled).toSorted((a, b) => (before(a, b) ? -1 : 1));
    this.#cancelled = 0;
  }

  #push(event: SimEvent): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    if (heap.length > this.highWater) this.highWater = heap.length;
    while (at > 0) {
      const up = (at - 1) >> 1;
      const parent = heap[up]!;
      if (!before(event, parent)) break;
      heap[at] = parent;
      at = up;
    }
    heap[at] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    const length = heap.length;
    if (length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= length) break;
      if (child + 1 < length && before(heap[child + 1]!, heap[child]!)) child++;
      if (!before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
  }
}

function before(a: SimEvent, b: SimEvent): boolean {
  return a.timeUs < b.timeUs || (a.timeUs === b.timeUs && a.sequence < b.sequence);
}

/** What a dead process gets from its ports: a promise that nobody will ever settle. */
export function never<T>(): Promise<T> {
  return new Promise<T>(() => {});
}
