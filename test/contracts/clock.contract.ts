/** What every implementation of the `Clock` port must do. */
import { describe, expect, test } from "vitest";
import type { Clock } from "#src/runtime/ports.ts";

export type ClockUnderTest = {
  readonly clock: Clock;
  /** Lets at least `ms` of its time pass. */
  readonly pass: (ms: number) => Promise<void>;
};

export function clockContract(name: string, make: () => ClockUnderTest): void {
  describe(`clock contract: ${name}`, () => {
    test("monotonic time never goes back and passes", async () => {
      const { clock, pass } = make();
      const before = clock.monotonic();
      await pass(5);
      expect(clock.monotonic() - before).toBeGreaterThanOrEqual(5);
    });

    test("now is in milliseconds since 1970", () => {
      const { clock } = make();
      expect(new Date(clock.now()).getUTCFullYear()).toBeGreaterThan(2022);
      expect(new Date(clock.now()).getUTCFullYear()).toBeLessThan(2200);
    });

    test("wakes once, not before its time and never at once", async () => {
      const { clock, pass } = make();
      const asked = clock.monotonic();
      const woken: number[] = [];
      clock.after(10, () => woken.push(clock.monotonic() - asked));
      clock.after(0, () => woken.push(-1));
      expect(woken).toEqual([]);
      await pass(20);
      await pass(20);
      expect(woken).toHaveLength(2);
      expect(woken[0]).toBe(-1);
      expect(woken[1]).toBeGreaterThanOrEqual(10);
    });

    test("wakes in the order of the times asked for, ties in the order of asking", async () => {
      const { clock, pass } = make();
      const woken: string[] = [];
      clock.after(12, () => woken.push("late"));
      clock.after(4, () => woken.push("early"));
      clock.after(4, () => woken.push("early too"));
      await pass(25);
      expect(woken).toEqual(["early", "early too", "late"]);
    });

    test("cancelled before its time it does not wake; cancelling later is fine", async () => {
      const { clock, pass } = make();
      const woken: string[] = [];
      const cancel = clock.after(3, () => woken.push("cancelled"));
      const cancelLate = clock.after(3, () => woken.push("kept"));
      cancel();
      cancel();
      await pass(15);
      cancelLate();
      expect(woken).toEqual(["kept"]);
    });

    test("a delay of a year does not wrap around", async () => {
      const { clock, pass } = make();
      let woken = false;
      const cancel = clock.after(365 * 86_400_000, () => {
        woken = true;
      });
      await pass(5);
      cancel();
      expect(woken).toBe(false);
    });
  });
}
