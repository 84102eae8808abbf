/** For tests that call ports from outside of any event: virtual time flows by itself, as fast as it can. */
import { setImmediate as nextTurn } from "node:timers/promises";

import { Internet } from "./internet.ts";
import { byteStream, Dice } from "./random.ts";
import { type Process, Scheduler } from "./scheduler.ts";
import { Disk } from "./store.ts";
import { Trace } from "./trace.ts";

/** Events at a time, so that the test has its turn between them. */
const EVENTS_A_TURN = 32;
/** A condition that takes longer than this is not met: virtual, so it costs only what happens in it. */
const PATIENCE_US = 3_600_000_000;

export type Rig = {
  readonly scheduler: Scheduler;
  readonly internet: Internet;
  process(name: string): Process;
  disk(name: string): Disk;
  until(condition: () => boolean): Promise<void>;
  /** Lets virtual time pass. */
  pass(us: number): Promise<void>;
  close(): Promise<void>;
};

export function freeRig(seed = 1): Rig {
  const scheduler = new Scheduler(new Trace());
  scheduler.strict = false;
  const internet = new Internet(scheduler, seed);
  let nodes = 0;
  let closed = false;
  let broken: unknown;
  const flow = (async () => {
    while (!closed) {
      const stopAt = scheduler.events + EVENTS_A_TURN;
      await scheduler.run(Infinity, () => scheduler.events >= stopAt);
      await nextTurn();
    }
  })().catch((error: unknown) => {
    broken = error;
  });
  const until = async (condition: () => boolean): Promise<void> => {
    const deadlineUs = scheduler.nowUs + PATIENCE_US;
    // Something must fall due, or time would stand still.
    scheduler.after(PATIENCE_US, "patience", undefined, () => {});
    while (!condition()) {
      if (broken !== undefined) throw broken;
      if (scheduler.nowUs >= deadlineUs) throw new Error("the condition was not met within a virtual hour");
      await nextTurn();
    }
  };
  return {
    scheduler,
    internet,
    until,
    process: (name) => ({ node: nodes++, name, incarnation: 1, alive: true, asleep: false, deferred: [] }),
    disk(name) {
      return new Disk({
        scheduler,
        dice: new Dice(seed, `disk/${name}`),
        fullForUs: () => 1_000_000,
        crash: () => {},
        onFault: () => {},
      });
    },
    async pass(us) {
      let passed = false;
      scheduler.after(us, "pass", undefined, () => {
        passed = true;
      });
      await until(() => passed);
    },
    async close() {
      closed = true;
      await flow;
      if (broken !== undefined) throw broken;
    },
  };
}

export { byteStream };
