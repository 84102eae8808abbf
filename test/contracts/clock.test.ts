import { expect, test } from "vitest";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import { clockContract } from "./clock.contract.ts";
import { ManualClock } from "./manual-clock.ts";

// Its time is what is tested here; nothing else in the suite waits for it.
clockContract("system", () => ({
  clock: systemClock,
  pass: (ms) => new Promise((resolve) => void systemClock.after(ms, resolve)),
}));

clockContract("manual", () => {
  const clock = new ManualClock();
  return { clock, pass: async (ms) => clock.advance(ms) };
});

test("system randomness has any length asked for and does not repeat", () => {
  for (const length of [0, 1, 32, 65_536, 200_000]) expect(systemRandom(length)).toHaveLength(length);
  const tail = systemRandom(200_000).subarray(65_536);
  expect(tail.some((byte) => byte !== 0)).toBe(true);
  expect(systemRandom(32)).not.toEqual(systemRandom(32));
});
