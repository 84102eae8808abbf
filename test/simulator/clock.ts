/**
 * The `Clock` port of one machine: a crystal that runs a little fast or slow, and a wall clock that somebody may set. Timers of
 * a sleeping machine fire when it wakes, because the scheduler defers what happens to it.
 */
import type { Clock } from "#src/runtime/ports.ts";

import type { Process, Scheduler } from "./scheduler.ts";

/** Wall time at virtual zero, 2027-01-15T08:00:00Z; any fixed number would do. */
export const EPOCH_MS = 1_800_000_000_000;
/** A delay beyond this is a programmer's mistake: 24.8 days, what setTimeout of the real platforms can take. */
const MAX_DELAY_MS = 2 ** 31 - 1;

/** The hardware; it outlives the processes that read it. */
export class MachineClock {
  /** What the wall clock is wrong by. */
  offsetMs = 0;
  /** Local seconds for each virtual second. */
  readonly rate: number;

  /** @param driftPpm - Microseconds gained in a second; quartz is within 100. */
  constructor(driftPpm = 0) {
    this.rate = 1 + driftPpm / 1e6;
  }

  localMs(nowUs: number): number {
    return (nowUs * this.rate) / 1_000;
  }
}

export function clockPort(scheduler: Scheduler, process: Process, machine: MachineClock): Clock {
  const startMs = machine.localMs(scheduler.nowUs);
  return {
    now() {
      scheduler.enter(process);
      return Math.floor(EPOCH_MS + machine.offsetMs + machine.localMs(scheduler.nowUs));
    },
    monotonic() {
      scheduler.enter(process);
      return machine.localMs(scheduler.nowUs) - startMs;
    },
    after(delayMs, wake) {
      if (!scheduler.enter(process)) return () => {};
      if (!(delayMs <= MAX_DELAY_MS))
        scheduler.fail(new Error(`a timer of ${delayMs} ms: real platforms fire it at once`));
      const event = scheduler.after((Math.max(0, delayMs) * 1_000) / machine.rate, "timer", process, wake);
      return () => scheduler.cancel(event);
    },
  };
}
