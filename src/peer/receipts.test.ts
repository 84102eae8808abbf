import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { type Met, metInTheSimulator, type Parts, partsOf } from "#test/integration/peer-parts.ts";
import { settled } from "#test/contracts/driver-rig.ts";

import { ReceiptSchedule } from "./receipts.ts";

const PROMPT_MS = 50;
const QUIET_MIN_MS = 1_000;
const QUIET_MAX_MS = 30_000;
const PROMPT_COUNT = 128;

let met: Met;
let bob: Parts;
let schedule: ReceiptSchedule;
/** Whether alice has been told that bob is here. */
let known: boolean;

beforeEach(async () => {
  met = await metInTheSimulator(5, 2);
  bob = await partsOf(met);
  known = true;
  schedule = new ReceiptSchedule(bob.world, bob.directs, () => known);
});
afterEach(async () => {
  schedule.stop();
  await bob.driver.close();
});

/** Receipts that left, after everything that is under way has come to its end. */
async function sent(): Promise<number> {
  await settled();
  await bob.driver.run([], async () => {});
  return bob.outcomes.filter(({ effects }) => effects.some(({ type }) => type === "transmit")).length;
}

function due(times: number): void {
  for (let i = 0; i < times; i++) schedule.due(met.alice);
}

describe("while they know that we are here", () => {
  test("a receipt goes at once, but for the moment in which a burst gathers", async () => {
    await sent();
    const timers = bob.clock.timers;
    due(20);
    bob.clock.advance(PROMPT_MS - 1);
    expect(await sent()).toBe(0);
    bob.clock.advance(1);
    expect(await sent()).toBe(1);
    bob.clock.advance(QUIET_MAX_MS);
    expect(await sent()).toBe(1);
    expect(bob.clock.timers).toBe(timers);
  });

  test("later arrivals do not put it off", async () => {
    due(1);
    bob.clock.advance(PROMPT_MS - 10);
    due(1);
    bob.clock.advance(10);
    expect(await sent()).toBe(1);
  });

  test(`after ${PROMPT_COUNT} arrivals it does not wait; a burst of ten times as many costs ten`, async () => {
    due(PROMPT_COUNT - 1);
    expect(await sent()).toBe(0);
    due(1);
    expect(await sent()).toBe(1);
    for (let i = 0; i < 9; i++) {
      due(PROMPT_COUNT);
      await sent();
    }
    expect(await sent()).toBe(10);
  });

  test("what arrives while one is being written gets the next", async () => {
    due(PROMPT_COUNT);
    due(PROMPT_COUNT);
    expect(await sent()).toBe(1);
    bob.clock.advance(PROMPT_MS);
    expect(await sent()).toBe(2);
  });
});

describe("while they do not", () => {
  test("it comes at a time that says little, whatever else arrives", async () => {
    known = false;
    const delays: number[] = [];
    for (let i = 0; i < 40; i++) {
      const before = await sent();
      const from = bob.clock.monotonic();
      due(3 * PROMPT_COUNT);
      expect(await sent()).toBe(before);
      while ((await sent()) === before) bob.clock.advance(250);
      delays.push(bob.clock.monotonic() - from);
      expect(await sent()).toBe(before + 1);
    }
    expect(Math.min(...delays)).toBeGreaterThanOrEqual(QUIET_MIN_MS);
    expect(Math.max(...delays)).toBeLessThanOrEqual(QUIET_MAX_MS + 250);
    // Spread over the whole of it.
    expect(Math.min(...delays)).toBeLessThan(8_000);
    expect(Math.max(...delays)).toBeGreaterThan(22_000);
  });

  test("once they do, it waits no longer", async () => {
    known = false;
    due(1);
    bob.clock.advance(QUIET_MIN_MS - 1);
    known = true;
    due(1);
    bob.clock.advance(PROMPT_MS);
    expect(await sent()).toBe(1);
    bob.clock.advance(QUIET_MAX_MS);
    expect(await sent()).toBe(1);
  });
});

test("after the end nothing is sent and nothing waits", async () => {
  const { timers } = bob.clock;
  due(1);
  expect(bob.clock.timers).toBe(timers + 1);
  schedule.stop();
  expect(bob.clock.timers).toBe(timers);
  bob.clock.advance(QUIET_MAX_MS);
  expect(await sent()).toBe(0);
});
