/** For tests that call ports from outside of any event. Virtual time flows while somebody waits for something, and only then. */
import { setImmediate as nextTurn } from "node:timers/promises";

import { Internet } from "./internet.ts";
import { Dice } from "./random.ts";
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
  /** Runs the world until `work` is done. */
  at<T>(work: () => Promise<T>): Promise<T>;
  until(condition: () => boolean): Promise<void>;
  /** Lets virtual time pass. */
  pass(us: number): Promise<void>;
  close(): Promise<void>;
};

/** @param options.free - Time flows always, for suites that only await ports. */
export function makeRig(options: { readonly seed?: number; readonly free?: boolean } = {}): Rig {
  const { seed = 1, free = false } = options;
  const scheduler = new Scheduler(new Trace());
  scheduler.strict = false;
  const internet = new Internet(scheduler, seed);
  const conditions = new Set<() => boolean>();
  let wanted = free ? 1 : 0;
  let nodes = 0;
  let closed = false;
  let broken: Error | undefined;
  const flow = (async () => {
    while (!closed) {
      const stopAt = scheduler.events + EVENTS_A_TURN;
      const stop = (): boolean => {
        return wanted === 0 || scheduler.events >= stopAt || [...conditions].some((condition) => condition());
      };
      await scheduler.run(Infinity, stop);
      await nextTurn();
    }
  })().catch((error: unknown) => {
    broken = error instanceof Error ? error : new Error("the world broke", { cause: error });
  });
  const until = async (condition: () => boolean): Promise<void> => {
    let late = false;
    // Something must fall due, or time would stand still.
    const deadline = scheduler.after(PATIENCE_US, "patience", undefined, () => {
      late = true;
    });
    wanted++;
    conditions.add(condition);
    while (!condition() && !late && broken === undefined) await nextTurn();
    conditions.delete(condition);
    wanted--;
    scheduler.cancel(deadline);
    if (broken !== undefined) throw broken;
    if (late) throw new Error("the condition was not met within a virtual hour");
  };
  return {
    scheduler,
    internet,
    until,
    process: (name) => ({ node: nodes++, name, incarnation: 1, alive: true, asleep: false, deferred: [] }),
    disk(name) {
      const dice = new Dice(seed, `disk/${name}`);
      return new Disk({ scheduler, dice, fullForUs: () => 1_000_000, crash: () => {}, onFault: () => {} });
    },
    async at(work) {
      wanted++;
      try {
        return await work();
      } finally {
        wanted--;
      }
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
