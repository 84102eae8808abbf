import { describe, expect, test } from "vitest";

import { clockPort, MachineClock } from "./clock.ts";
import { byteStream, Dice } from "./random.ts";
import { EscapedStep, type Process, Scheduler } from "./scheduler.ts";
import { Trace } from "./trace.ts";

function process(node = 0): Process {
  return { node, name: `machine-${node}`, incarnation: 1, alive: true, asleep: false, deferred: [] };
}

function begin(): Scheduler {
  return new Scheduler(new Trace());
}

describe("scheduler", () => {
  test("events happen in the order of their times, ties in the order of planning", async () => {
    const scheduler = begin();
    const happened: string[] = [];
    const dice = new Dice(7, "order");
    const planned = Array.from({ length: 500 }, (_, i) => ({ i, at: dice.below(50) }));
    for (const { i, at } of planned) scheduler.after(at, "e", undefined, () => happened.push(`${at}/${i}`));
    await scheduler.run(1_000);
    const sorted = planned.toSorted((a, b) => a.at - b.at || a.i - b.i);
    expect(happened).toEqual(sorted.map(({ i, at }) => `${at}/${i}`));
    expect(scheduler.nowUs).toBe(1_000);
  });

  test("all promises of an event have settled when the next one begins", async () => {
    const scheduler = begin();
    const happened: string[] = [];
    const deep = async (name: string, depth: number): Promise<void> => {
      if (depth > 0) await Promise.all([deep(name, depth - 1), Promise.resolve()]);
      else happened.push(name);
    };
    for (const name of ["a", "b", "c"]) {
      scheduler.after(1, "e", undefined, () => {
        happened.push(`${name} begins`);
        void deep(name, 200);
      });
    }
    await scheduler.run(10);
    expect(happened).toEqual(["a begins", "a", "b begins", "b", "c begins", "c"]);
  });

  test("a cancelled event does not happen, and many of them are swept away", async () => {
    const scheduler = begin();
    let happened = 0;
    const events = Array.from({ length: 10_000 }, (_, i) => scheduler.after(i, "e", undefined, () => happened++));
    for (const [i, event] of events.entries()) if (i % 10 !== 0) scheduler.cancel(event);
    expect(scheduler.waiting).toBeLessThan(5_000);
    await scheduler.run(20_000);
    for (const event of events) scheduler.cancel(event);
    expect(happened).toBe(1_000);
    expect(scheduler.waiting).toBe(0);
  });

  test("nothing happens to the dead; what happens to a sleeper happens when it wakes, in order", async () => {
    const scheduler = begin();
    const [dead, sleeper] = [process(0), process(1)];
    const happened: string[] = [];
    for (const at of [3, 1, 2]) {
      scheduler.after(at, "e", dead, () => happened.push("a ghost"));
      scheduler.after(at, "e", sleeper, () => happened.push(`due ${at}, at ${scheduler.nowUs}`));
    }
    dead.alive = false;
    sleeper.asleep = true;
    scheduler.after(50, "wake", undefined, () => scheduler.wake(sleeper));
    await scheduler.run(100);
    expect(happened).toEqual(["due 1, at 50", "due 2, at 50", "due 3, at 50"]);
  });

  test("a run stops where it is told to, and what an event throws ends it", async () => {
    const scheduler = begin();
    let count = 0;
    for (let i = 1; i <= 10; i++) scheduler.after(i, "e", undefined, () => count++);
    await scheduler.run(100, () => count === 4);
    expect([count, scheduler.nowUs]).toEqual([4, 4]);
    scheduler.after(0, "e", undefined, () => {
      throw new Error("from an event");
    });
    await expect(scheduler.run(100)).rejects.toThrow("from an event");
  });

  test.each([
    ["a real timer", (then: () => void) => void setTimeout(then, 0)],
    ["WebCrypto", (then: () => void) => void crypto.subtle.digest("SHA-256", new Uint8Array(8)).then(then)],
  ])("code that waits for %s is caught at its next port call", async (_, leave) => {
    const scheduler = begin();
    const clock = clockPort(scheduler, process(), new MachineClock());
    let swallowed: unknown;
    scheduler.after(1, "e", undefined, () =>
      leave(() => {
        try {
          clock.now();
        } catch (error) {
          swallowed = error;
        }
      }),
    );
    const tick = (): void => void scheduler.after(1_000, "tick", undefined, tick);
    tick();
    await expect(scheduler.run(Infinity)).rejects.toThrow(EscapedStep);
    expect(swallowed).toBeInstanceOf(EscapedStep);
  });

  test("a loop over timers of no delay is caught", async () => {
    const scheduler = begin();
    const spin = (): void => void scheduler.after(0, "spin", undefined, spin);
    spin();
    await expect(scheduler.run(100)).rejects.toThrow(/events at 0 us/);
  });

  test("a loop over port calls within one event is caught", async () => {
    const scheduler = begin();
    const clock = clockPort(scheduler, process(), new MachineClock());
    scheduler.after(1, "e", undefined, () => {
      for (;;) clock.now();
    });
    await expect(scheduler.run(100)).rejects.toThrow(/port calls/);
  });
});

describe("clock", () => {
  test("a machine's time drifts and jumps; its timers do not", async () => {
    const scheduler = begin();
    const machine = new MachineClock(100);
    const clock = clockPort(scheduler, process(), machine);
    const woken: number[] = [];
    scheduler.after(0, "e", undefined, () => {
      clock.after(60_000, () => woken.push(scheduler.nowUs));
      machine.offsetMs = 365 * 24 * 3_600_000;
    });
    await scheduler.run(1e9);
    // 100 ppm of a minute are 6 ms.
    expect(woken).toEqual([59_994_001]);
    scheduler.after(0, "e", undefined, () => {
      expect(clock.monotonic()).toBeCloseTo(1_000_100, 3);
      expect(new Date(clock.now()).getUTCFullYear()).toBe(2028);
    });
    await scheduler.run(2e9);
  });

  test("timers of a sleeping machine fire late, when it wakes", async () => {
    const scheduler = begin();
    const sleeper = process();
    const clock = clockPort(scheduler, sleeper, new MachineClock());
    const woken: number[] = [];
    scheduler.after(0, "e", undefined, () => {
      clock.after(10, () => woken.push(clock.monotonic()));
      sleeper.asleep = true;
    });
    scheduler.after(5_000_000, "wake", undefined, () => scheduler.wake(sleeper));
    await scheduler.run(1e7);
    expect(woken).toEqual([5_000]);
  });
});

describe("random", () => {
  test("a stream depends on seed and name alone, and its bytes never come twice", () => {
    const [a, again, other, elsewhere] = [
      byteStream(1, "a"),
      byteStream(1, "a"),
      byteStream(2, "a"),
      byteStream(1, "b"),
    ];
    const seen = new Set<string>();
    for (let i = 0; i < 5_000; i++) {
      const length = 16 + (i % 40);
      const bytes = a(length);
      expect(again(length)).toEqual(bytes);
      for (const stream of [other, elsewhere]) seen.add(Buffer.from(stream(16)).toString("hex"));
      seen.add(Buffer.from(bytes.subarray(0, 16)).toString("hex"));
    }
    expect(seen.size).toBe(15_000);
    expect(a(10_000)).toHaveLength(10_000);
    // Draws do not overlap, not by a byte.
    expect(new Set(Array.from({ length: 256 }, () => a(1)[0])).size).toBeGreaterThan(100);
  });

  test("dice are fair enough and their streams independent", () => {
    const dice = new Dice(1, "fair");
    const counts = new Array<number>(10).fill(0);
    for (let i = 0; i < 10_000; i++) counts[dice.below(10)]!++;
    for (const count of counts) expect(Math.abs(count - 1_000)).toBeLessThan(150);
    expect(new Dice(1, "x").next()).not.toBe(new Dice(1, "y").next());
    expect(new Dice(1, "x").next()).toBe(new Dice(1, "x").next());
    let sum = 0;
    for (let i = 0; i < 10_000; i++) sum += dice.wait(5);
    expect(sum / 10_000).toBeGreaterThan(4.5);
    expect(sum / 10_000).toBeLessThan(5.5);
  });
});

describe("trace", () => {
  test("one bit of one byte, one order, one time or one owner makes another hash", () => {
    const of = (write: (trace: Trace) => void): string => {
      const trace = new Trace();
      write(trace);
      return trace.digest();
    };
    const hashes = [
      of(() => {}),
      of((t) => t.note(1, "a", 0)),
      of((t) => t.note(2, "a", 0)),
      of((t) => t.note(1, "b", 0)),
      of((t) => t.note(1, "a", 1)),
      of((t) => (t.note(1, "a", 0), t.note(1, "b", 0))),
      of((t) => (t.note(1, "b", 0), t.note(1, "a", 0))),
      of((t) => t.bytes(1, "a", 0, Uint8Array.of(1))),
      of((t) => t.bytes(1, "a", 0, Uint8Array.of(3))),
    ];
    expect(new Set(hashes).size).toBe(hashes.length);
    expect(of((t) => t.note(1, "a", 0))).toBe(hashes[1]);
  });
});
