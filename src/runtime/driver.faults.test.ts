import fc from "fast-check";
import { expect, test } from "vitest";
import { struct, text, uint } from "#protocols/base/codec.ts";
import { openRig, seededRandom, settled, SUITE } from "#test/contracts/driver-rig.ts";
import type { CommitFault } from "#test/contracts/faulty-store.ts";
import type { Driver, ReadTx } from "./driver.ts";
import { Failure } from "./failure.ts";
import { MemoryDisk } from "./memory-store.ts";
import { log, table } from "./records.ts";

/**
 * Random steps over a store that fails and a process that dies, checked against what the driver promises: each step whole or
 * not at all, a prefix of the finished ones, nothing acknowledged lost, nothing released of what is not there.
 */
const RUNS = process.env["SKEIN_LONG"] === "1" ? 3_000 : 60;

const PLACES = ["a", "b", "c"] as const;
type Place = (typeof PLACES)[number];

const counters = table({ name: "counter", number: 1, version: 1, cached: true, schema: uint(), lock: (key) => key });
/** What each step saw, under each place it wrote to. */
const journal = log({
  name: "journal",
  number: 2,
  version: 1,
  schema: struct({ step: uint(), count: uint(), peeked: text(1), peekedCount: uint() }),
  lock: (parent) => parent,
});

type StepPlan = {
  readonly places: readonly Place[];
  readonly peek: Place;
  readonly throws: boolean;
  readonly wait: number;
};
type Ending = "resolved" | "rejected" | "pending";
type Watched = { readonly plan: StepPlan; ending: Ending; released: number; error?: unknown };

const plan: fc.Arbitrary<StepPlan> = fc.record({
  places: fc.uniqueArray(fc.constantFrom(...PLACES), { minLength: 1 }),
  peek: fc.constantFrom(...PLACES),
  throws: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
  wait: fc.nat(12),
});

class Planned extends Error {}

function start(driver: Driver, number: number, plan: StepPlan): Watched {
  const watched: Watched = { plan, ending: "pending", released: 0 };
  driver
    .run(plan.places, async (tx) => {
      // A place that is not locked: what it shows must be there at least as long as this step is.
      const peekedCount = (await tx.get(counters, plan.peek)) ?? 0;
      for (const place of plan.places) {
        const count = ((await tx.get(counters, place)) ?? 0) + 1;
        for (let turn = 0; turn < plan.wait; turn++) await Promise.resolve();
        tx.put(counters, place, count);
        await tx.append(journal, place, { step: number, count, peeked: plan.peek, peekedCount });
      }
      tx.release(() => watched.released++);
      if (plan.throws) throw new Planned();
    })
    .then(
      () => {
        watched.ending = "resolved";
      },
      (error: unknown) => {
        watched.ending = "rejected";
        watched.error = error;
      },
    );
  return watched;
}

/** @returns The steps that the store holds, after checking that it holds them whole and in order. */
async function stepsHeld(tx: ReadTx, watched: readonly Watched[]): Promise<Set<number>> {
  const places = new Map<number, string[]>();
  const counts = new Map<string, number>();
  for (const place of PLACES) {
    const rows = await tx.rows(journal, place);
    counts.set(place, rows.length);
    expect((await tx.get(counters, place)) ?? 0).toBe(rows.length);
    for (const [i, row] of rows.entries()) {
      // No gap and no fork: each builds on the one before.
      expect([row.n, row.value.count]).toEqual([i, i + 1]);
      places.set(row.value.step, [...(places.get(row.value.step) ?? []), place]);
    }
  }
  for (const place of PLACES) {
    for (const { value } of await tx.rows(journal, place)) {
      expect(counts.get(value.peeked)).toBeGreaterThanOrEqual(value.peekedCount);
    }
  }
  for (const [step, written] of places) {
    expect(written).toEqual([...watched[step]!.plan.places].sort());
    expect(watched[step]!.plan.throws).toBe(false);
  }
  return new Set(places.keys());
}

function checkEndings(watched: readonly Watched[], held: ReadonlySet<number>, maybeHeld: boolean): void {
  for (const [number, { plan, ending, released, error }] of watched.entries()) {
    const there = held.has(number);
    const broken = [
      ending === "resolved" && !(there && released === 1) && "a resolved step is there and released",
      released > 0 && !there && "nothing is released of a step that is not there",
      ending !== "resolved" && released > 1 && "released once",
      ending === "rejected" && released > 0 && "a rejected step releases nothing",
      // Only an unknown outcome may leave on the disk what was reported as failed.
      ending === "rejected" && there && (!maybeHeld || plan.throws) && "a rejected step is not there",
      error instanceof Failure && !error.retryable && "a discarded step may be run again",
      error !== undefined &&
        !(error instanceof Failure || (error instanceof Planned && plan.throws)) &&
        "no other error",
    ].filter((rule) => rule !== false);
    expect([number, broken]).toEqual([number, []]);
  }
}

const fault: fc.Arbitrary<CommitFault> = fc.constantFrom("failed", "unknown-lost", "unknown-kept", "full");

test("RT1 RT2 RT3 RT8: commits that fail: what is on the disk is a prefix, and what was resolved is on it", async () => {
  let faultsHit = 0;
  const faults = fc.dictionary(fc.integer({ min: 1, max: 12 }).map(String), fault, { maxKeys: 5 });
  await fc.assert(
    fc.asyncProperty(fc.array(plan, { maxLength: 40 }), fc.nat(6), faults, async (plans, burst, byCommit) => {
      const hit = new Set<CommitFault>();
      const faultAt = (commit: number): CommitFault | undefined => {
        const planned = byCommit[String(commit)];
        if (planned !== undefined) hit.add(planned);
        return planned;
      };
      const disk = new MemoryDisk();
      const { driver, host, clock } = await openRig({
        disk,
        plan: { faultAt },
        limits: { steps: 8, cachedRecords: 2 },
      });
      const watched: Watched[] = [];
      for (const [number, one] of plans.entries()) {
        watched.push(start(driver, number, one));
        if (number % (burst + 1) === 0) await settled();
        if (number % 7 === 6) {
          host.makeRoom();
          clock.advance(10_000);
          await settled();
        }
      }
      while (watched.some(({ ending }) => ending === "pending")) {
        await settled();
        clock.advance(10_000);
      }
      faultsHit += hit.size;
      await driver.close();
      const { driver: again } = await openRig({ disk, seed: "again" });
      const held = await again.read((tx) => stepsHeld(tx, watched));
      checkEndings(watched, held, hit.has("unknown-kept"));
    }),
    { numRuns: RUNS },
  );
  expect(faultsHit).toBeGreaterThan(RUNS / 4);
});

test("RT1 RT2 RT3: a process that dies: every resolved step survives, and nothing was released of the others", async () => {
  let lost = 0;
  let kept = 0;
  const crashes = fc.record({
    commit: fc.integer({ min: 1, max: 10 }),
    moment: fc.constantFrom("before" as const, "during" as const, "after" as const),
    keepUnsynced: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(plan, { minLength: 5, maxLength: 40 }),
      fc.nat(6),
      crashes,
      async (plans, burst, crash) => {
        let dead = false;
        const die = (): void => {
          if (dead) return;
          dead = true;
          disk.crash({ keepUnsynced: crash.keepUnsynced });
        };
        let syncs = 0;
        const disk = new MemoryDisk({
          sync: async () => {
            if (syncs++ === crash.commit && crash.moment === "during") die();
          },
        });
        const around = (commit: number, moment: "before" | "after"): void => {
          if (commit === crash.commit && moment === crash.moment) die();
        };
        const { driver } = await openRig({ disk, plan: { around } });
        const watched: Watched[] = [];
        for (const [number, one] of plans.entries()) {
          watched.push(start(driver, number, one));
          if (number % (burst + 1) === 0) await settled();
        }
        await settled();
        die();
        const { driver: again } = await openRig({ disk, seed: "again" });
        const held = await again.read((tx) => stepsHeld(tx, watched));
        checkEndings(watched, held, false);
        for (const [number, { ending }] of watched.entries()) {
          if (ending === "pending" && held.has(number)) kept++;
          if (ending === "pending" && !held.has(number)) lost++;
        }
        // Life goes on after it.
        await again.run(["a"], async (tx) => tx.put(counters, "a", 1));
      },
    ),
    { numRuns: RUNS },
  );
  // Both happened, or the test shows nothing.
  expect(lost).toBeGreaterThan(0);
  expect(kept).toBeGreaterThan(0);
});

test("RT16: over failures, crashes and restarts no key and nonce encrypt twice", async () => {
  const pairs = new Set<string>();
  const chacha = SUITE.chacha20poly1305;
  const crypto = {
    ...SUITE,
    chacha20poly1305: {
      ...chacha,
      seal: (input: Parameters<typeof chacha.seal>[0]) => {
        const pair = `${input.key.join()}|${input.nonce.join()}`;
        expect(pairs.has(pair)).toBe(false);
        pairs.add(pair);
        return chacha.seal(input);
      },
    },
  };
  const disk = new MemoryDisk();
  const random = seededRandom("nonces");
  await (await openRig({ disk, random })).driver.close();
  for (let life = 0; life < 20; life++) {
    const faults: readonly (CommitFault | undefined)[] = [
      undefined,
      "failed",
      undefined,
      "unknown-lost",
      "unknown-kept",
    ];
    const faultAt = (commit: number): CommitFault | undefined => faults[(commit + life) % faults.length];
    const { driver } = await openRig({ disk, crypto, random, plan: { faultAt } });
    for (let number = 0; number < 20; number++) {
      start(driver, number, { places: ["a", "b"], peek: "c", throws: false, wait: 0 });
      if (number % 4 === 0) await settled();
    }
    await settled();
    disk.crash({ keepUnsynced: life % 2 === 0 });
  }
  expect(pairs.size).toBeGreaterThan(200);
});
