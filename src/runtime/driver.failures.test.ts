import { describe, expect, test } from "vitest";
import { struct, text, uint } from "#protocols/base/codec.ts";
import { openRig, settled, SyncGate } from "#test/contracts/driver-rig.ts";
import type { CommitFault } from "#test/contracts/faulty-store.ts";
import type { DriverState, Tx } from "./driver.ts";
import { Failure } from "./failure.ts";
import { MemoryDisk } from "./memory-store.ts";
import { table } from "./records.ts";

const counters = table({ name: "counter", number: 1, version: 1, cached: true, schema: uint(), lock: (key) => key });
const notes = table({ name: "note", number: 2, version: 1, schema: struct({ text: text(64) }) });

async function count(tx: Tx, key: string): Promise<number> {
  const next = ((await tx.get(counters, key)) ?? 0) + 1;
  tx.put(counters, key, next);
  return next;
}

/** Both settle; rejections come back as their codes. */
function codes(runs: readonly Promise<unknown>[]): Promise<unknown[]> {
  return Promise.all(runs.map((run) => run.catch((error: unknown) => (error instanceof Failure ? error.code : error))));
}

function gated(): { readonly disk: MemoryDisk; readonly gate: SyncGate } {
  const gate = new SyncGate();
  return { disk: new MemoryDisk({ sync: gate.sync }), gate };
}

describe("a failed commit", () => {
  const faults: readonly CommitFault[] = ["failed", "unknown-lost", "unknown-kept"];
  test.each(faults)("RT8: %s: every step not on the disk is discarded, and later ones reread", async (fault) => {
    const { disk, gate } = gated();
    let failAt = -1;
    const { driver, host } = await openRig({ disk, plan: { faultAt: (n) => (n === failAt ? fault : undefined) } });
    await driver.run(["a"], (tx) => count(tx, "a"));
    failAt = host.commits;
    const told: string[] = [];
    const states: DriverState[] = [];
    driver.onFailure((failure) => told.push(failure.code));
    driver.onState((state) => states.push(state));

    if (fault === "unknown-kept") gate.shut();
    const { promise: hold, resolve: letGo } = Promise.withResolvers<void>();
    const runs = [driver.run(["a"], (tx) => count(tx, "a"))];
    runs.push(driver.run(["a"], (tx) => count(tx, "a")));
    // Still running when the commit fails: it has read what will not be.
    runs.push(
      driver.run(["a"], async (tx) => {
        const read = await tx.get(counters, "a");
        await hold;
        tx.put(counters, "a", read! + 1);
        tx.release(() => expect.unreachable());
        return read!;
      }),
    );
    const outcomes = codes(runs);
    await settled();
    gate.open();
    await settled();
    letGo();
    const code = fault === "failed" ? "store/failed" : "store/unknown-outcome";
    expect(await outcomes).toEqual([code, code, code]);
    await expect(runs[0]).rejects.toMatchObject({ retryable: true });
    expect(told).toEqual([code]);
    expect(states).toEqual(["reopening", "open"]);
    expect(await driver.run(["a"], (tx) => count(tx, "a"))).toBe(fault === "unknown-kept" ? 3 : 2);
  });

  test("RT8: a body that meets the store dead, before anybody has heard of the commit, is discarded with it", async () => {
    let failAt = -1;
    const { driver, host } = await openRig({
      plan: { faultAt: (n) => (n === failAt ? "failed" : undefined), dying: settled },
    });
    failAt = host.commits;
    let reads = 0;
    const reader = driver.run(["b"], async (tx) => {
      for (; reads < 1_000; reads++) await tx.get(notes, "not in memory");
    });
    const outcomes = codes([driver.run(["a"], (tx) => count(tx, "a")), reader]);
    expect(await outcomes).toEqual(["store/failed", "store/failed"]);
    expect(reads).toBeLessThan(1_000);
  });

  test("RT8: reads that it interrupts begin again on the reopened store", async () => {
    let failAt = -1;
    const { driver, host } = await openRig({ plan: { faultAt: (n) => (n === failAt ? "failed" : undefined) } });
    await driver.run(["a"], async (tx) => tx.put(notes, "n", { text: "kept" }));
    failAt = host.commits;
    let attempts = 0;
    const read = driver.read(async (tx) => {
      attempts++;
      if (attempts === 1) await codes([driver.run(["a"], (step) => count(step, "a"))]);
      return tx.get(notes, "n");
    });
    expect(await read).toEqual({ text: "kept" });
  });

  test("RT8: opening anew is tried with growing pauses; runs wait for it", async () => {
    let failAt = -1;
    const locked = new Failure("store/locked", "planned", { retryable: true });
    const { driver, host, clock } = await openRig({
      plan: {
        faultAt: (n) => (n === failAt ? "failed" : undefined),
        openFault: (attempt) => (attempt >= 1 && attempt <= 3 ? locked : undefined),
      },
      limits: { reopenDelayMs: 100, reopenMaxDelayMs: 150 },
    });
    failAt = host.commits;
    expect(await codes([driver.run(["a"], (tx) => count(tx, "a"))])).toEqual(["store/failed"]);
    const waiting = driver.run(["a"], (tx) => count(tx, "a"));
    const opens: number[] = [];
    for (const ms of [99, 1, 149, 1, 149, 1]) {
      await settled();
      clock.advance(ms);
      await settled();
      opens.push(host.opens);
    }
    expect(opens).toEqual([2, 3, 3, 4, 4, 5]);
    expect(await waiting).toBe(1);
    expect(driver.state).toBe("open");
  });

  test("RT8: after the last attempt it stops: everything is refused, closing works", async () => {
    let failAt = -1;
    const { driver, host, clock } = await openRig({
      plan: {
        faultAt: (n) => (n === failAt ? "failed" : undefined),
        openFault: (attempt) => (attempt >= 1 ? new Failure("store/damaged", "planned") : undefined),
      },
      limits: { reopenAttempts: 2 },
    });
    failAt = host.commits;
    await codes([driver.run(["a"], (tx) => count(tx, "a"))]);
    const waiting = codes([driver.run(["a"], (tx) => count(tx, "a")), driver.read((tx) => tx.get(counters, "a"))]);
    await settled();
    clock.advance(1_000);
    expect(await waiting).toEqual(["store/damaged", "store/damaged"]);
    expect(driver.state).toBe("stopped");
    expect(await codes([driver.run([], async () => 1)])).toEqual(["store/damaged"]);
    await driver.close();
    expect(driver.state).toBe("closed");
  });

  test("RT8: a cached value that does not fit its schema fails its batch, and the driver goes on", async () => {
    const { driver } = await openRig();
    const bad = driver.run(["a"], async (tx) => tx.put(counters, "a", -1));
    await expect(bad).rejects.toThrow("uint in range");
    expect(await driver.run(["a"], (tx) => count(tx, "a"))).toBe(1);
  });

  test("RT11: another store in the place of ours is not written to", async () => {
    const { disk: other } = await openRig({ seed: "other" }).then(async (rig) => (await rig.driver.close(), rig));
    const ours = new MemoryDisk();
    let swapped = false;
    const hosts = { ours: ours.attach(), other: other.attach() };
    let fail = false;
    const host = {
      open: async () => {
        const store = await (swapped ? hosts.other : hosts.ours).open();
        return Object.assign(Object.create(store) as typeof store, {
          get: store.get.bind(store),
          close: store.close.bind(store),
          entries: store.entries.bind(store),
          commit: async (operations: Parameters<typeof store.commit>[0]) => {
            if (fail) throw new Failure("store/failed", "planned", { retryable: true });
            await store.commit(operations);
          },
        });
      },
    };
    const { driver } = await openRig({ host });
    fail = true;
    swapped = true;
    expect(await codes([driver.run(["a"], (tx) => count(tx, "a"))])).toEqual(["store/failed"]);
    expect(await codes([driver.run(["a"], (tx) => count(tx, "a"))])).toEqual(["vault/damaged"]);
    expect(driver.state).toBe("stopped");
  });
});

describe("a full disk", () => {
  async function filled() {
    let fullAt = -1;
    const rig = await openRig({
      plan: { faultAt: (n) => (n === fullAt ? "full" : undefined) },
      limits: { roomProbeMs: 1_000 },
    });
    await rig.driver.run(["a"], async (tx) => {
      tx.put(notes, "old", { text: "old" });
      await count(tx, "a");
    });
    fullAt = rig.host.commits;
    const code = await codes([rig.driver.run(["a"], (tx) => count(tx, "a"))]);
    expect(code).toEqual(["store/full"]);
    await settled();
    return rig;
  }

  test("RT9: refuses what puts something, at once and retryable; reads and deletions go on", async () => {
    const { driver, host } = await filled();
    expect(driver.state).toBe("full");
    const commits = host.commits;
    const refused = driver.run(["a"], (tx) => count(tx, "a"));
    await expect(refused).rejects.toMatchObject({ code: "store/full", retryable: true });
    expect(host.commits).toBe(commits);
    expect(await driver.read((tx) => tx.get(counters, "a"))).toBe(1);
    expect(await driver.run([], (tx) => tx.get(notes, "old"))).toEqual({ text: "old" });
    await driver.run([], async (tx) => tx.delete(notes, "old"));
    expect(await driver.read((tx) => tx.get(notes, "old"))).toBeUndefined();
  });

  test("RT9: is tried again by the clock until there is room", async () => {
    const { driver, host, clock } = await filled();
    const states: DriverState[] = [];
    driver.onState((state) => states.push(state));
    clock.advance(1_000);
    await settled();
    expect(states).toEqual(["reopening", "full"]);
    host.makeRoom();
    clock.advance(999);
    await settled();
    expect(driver.state).toBe("full");
    clock.advance(1);
    await settled();
    expect(driver.state).toBe("open");
    expect(await driver.run(["a"], (tx) => count(tx, "a"))).toBe(2);
  });

  test("RT9: that cannot even be opened refuses everything until it can", async () => {
    let full = false;
    const { driver, host, clock } = await openRig({
      plan: {
        faultAt: () => (full ? "full" : undefined),
        openFault: () => (full ? new Failure("store/full", "planned", { retryable: true }) : undefined),
      },
      limits: { roomProbeMs: 1_000, reopenAttempts: 1 },
    });
    full = true;
    let early: Promise<unknown[]> | undefined;
    // Begun while nobody knows yet whether it will open.
    driver.onState(() => {
      early ??= codes([driver.run(["b"], (tx) => count(tx, "b")), driver.read((tx) => tx.get(counters, "b"))]);
    });
    await codes([driver.run(["a"], (tx) => count(tx, "a"))]);
    await settled();
    expect(driver.state).toBe("full");
    expect(await early).toEqual(["store/full", "store/full"]);
    const refused = [driver.run(["a"], (tx) => count(tx, "a")), driver.read((tx) => tx.get(counters, "a"))];
    expect(await codes(refused)).toEqual(["store/full", "store/full"]);
    full = false;
    host.makeRoom();
    clock.advance(1_000);
    await settled();
    clock.advance(1_000);
    await settled();
    expect(driver.state).toBe("open");
    expect(await driver.run(["a"], (tx) => count(tx, "a"))).toBe(1);
  });
});

describe("the fence", () => {
  test("RT10: asked before the commit: nothing is written and all is over", async () => {
    let mine = true;
    const { driver, host } = await openRig({ fence: () => mine });
    const commits = host.commits;
    mine = false;
    const run = driver.run(["a"], async (tx) => {
      await count(tx, "a");
      tx.release(() => expect.unreachable());
    });
    await expect(run).rejects.toMatchObject({ code: "store/fenced", retryable: false });
    expect(host.commits).toBe(commits);
    expect(await codes([driver.run([], async () => 1)])).toEqual(["store/fenced"]);
    await driver.close();
  });

  test("RT10: asked before the release: what came down meanwhile sends nothing", async () => {
    const { disk, gate } = gated();
    let mine = true;
    const { driver } = await openRig({ disk, fence: () => mine });
    gate.shut();
    const released: string[] = [];
    const step = (name: string) =>
      driver.run([name], async (tx) => {
        await count(tx, name);
        tx.release(() => released.push(name));
      });
    const outcomes = codes([step("a"), step("b")]);
    await settled();
    mine = false;
    gate.open();
    expect(await outcomes).toEqual(["store/fenced", "store/fenced"]);
    expect(released).toEqual([]);
    expect(driver.state).toBe("stopped");
    await driver.close();
  });
});

describe("closing", () => {
  test("RT12: lets admitted steps finish, refuses new ones and frees the store", async () => {
    const { disk, gate } = gated();
    const { driver } = await openRig({ disk, limits: { steps: 1 } });
    gate.shut();
    const admitted = driver.run(["a"], (tx) => count(tx, "a"));
    const queued = codes([driver.run(["a"], (tx) => count(tx, "a"))]);
    const closing = driver.close();
    expect(await queued).toEqual(["store/closed"]);
    const late = codes([driver.run([], async () => 1), driver.read(async () => 1)]);
    expect(await late).toEqual(["store/closed", "store/closed"]);
    gate.open();
    expect(await admitted).toBe(1);
    await closing;
    await driver.close();
    const { driver: next, clock } = await openRig({ disk });
    expect(await next.read((tx) => tx.get(counters, "a"))).toBe(1);
    await next.close();
    expect(clock.timers).toBe(0);
  });

  test("RT12: does not wait for a store that cannot be reopened", async () => {
    let failAt = -1;
    const { driver, host, clock } = await openRig({
      plan: {
        faultAt: (n) => (n === failAt ? "failed" : undefined),
        openFault: (attempt) => (attempt >= 1 ? new Failure("store/failed", "planned") : undefined),
      },
    });
    failAt = host.commits;
    await codes([driver.run(["a"], (tx) => count(tx, "a"))]);
    const waiting = codes([driver.run(["a"], (tx) => count(tx, "a"))]);
    await settled();
    await driver.close();
    expect(await waiting).toEqual(["store/closed"]);
    expect(clock.timers).toBe(0);
  });

  test("RT4: a body that hangs is reported, once a period", async () => {
    const { driver, clock } = await openRig({ limits: { slowStepMs: 1_000 } });
    const told: string[] = [];
    driver.onFailure((failure) => told.push(failure.code));
    const { promise, resolve } = Promise.withResolvers<void>();
    const run = driver.run(["a"], () => promise);
    await settled();
    clock.advance(999);
    expect(told).toEqual([]);
    clock.advance(1);
    expect(told).toEqual(["driver/slow-step"]);
    clock.advance(1_000);
    expect(told).toHaveLength(2);
    resolve();
    await run;
    clock.advance(5_000);
    expect(told).toHaveLength(2);
  });
});
