import { describe, expect, test } from "vitest";
import { struct, text, uint } from "#protocols/base/codec.ts";
import { openRig, settled, SyncGate, SUITE } from "#test/contracts/driver-rig.ts";
import type { Tx } from "./driver.ts";
import { Failure } from "./failure.ts";
import { MemoryDisk } from "./memory-store.ts";
import { log, table } from "./records.ts";

const counters = table({ name: "counter", number: 1, version: 1, cached: true, schema: uint(), lock: (key) => key });
const notes = table({ name: "note", number: 2, version: 1, schema: struct({ text: text(64) }) });
const lines = log({ name: "line", number: 3, version: 1, schema: text(64), lock: (parent) => parent });

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

describe("a step", () => {
  test("RT5: resolves with its result, sees its own writes, and the next step sees them", async () => {
    const { driver } = await openRig();
    const seen = await driver.run(["a"], async (tx) => {
      await count(tx, "a");
      tx.put(notes, "n", { text: "one" });
      tx.delete(notes, "n");
      return [await tx.get(counters, "a"), await tx.get(notes, "n")];
    });
    expect(seen).toEqual([1, undefined]);
    expect(await driver.run(["a"], (tx) => count(tx, "a"))).toBe(2);
  });

  test("RT1: whose body throws changes nothing, releases nothing and frees its locks", async () => {
    const { driver, host } = await openRig();
    const commits = host.commits;
    const failing = driver.run(["a"], async (tx) => {
      await count(tx, "a");
      await tx.append(lines, "a", "never");
      tx.release(() => expect.unreachable());
      throw new RangeError("no");
    });
    await expect(failing).rejects.toThrow(RangeError);
    expect(
      await driver.run(["a"], async (tx) => [await tx.get(counters, "a"), await tx.append(lines, "a", "x")]),
    ).toEqual([undefined, 0]);
    expect(host.commits).toBe(commits + 1);
  });

  test("RT3: without writes touches no disk, but waits for what it has read", async () => {
    const { disk, gate } = gated();
    const { driver, host } = await openRig({ disk });
    const commits = host.commits;
    await driver.run(["a"], (tx) => tx.get(counters, "a"));
    expect(host.commits).toBe(commits);

    gate.shut();
    const order: string[] = [];
    const write = driver.run(["a"], (tx) => count(tx, "a")).then(() => order.push("write"));
    const read = driver.run(["a"], (tx) => tx.get(counters, "a")).then((value) => order.push(`read ${value}`));
    await settled();
    expect(order).toEqual([]);
    gate.open();
    await Promise.all([write, read]);
    expect(order).toEqual(["write", "read 1"]);
  });

  test("RT4: does not start another, nor use its tx when it is over", async () => {
    const { driver } = await openRig();
    await expect(driver.run([], () => driver.run([], async () => 1))).rejects.toThrow("does not start another");
    let leaked: Tx | undefined;
    await driver.run(["a"], async (tx) => {
      leaked = tx;
    });
    expect(() => leaked!.put(notes, "x", { text: "" })).toThrow("not over");
    expect(() => leaked!.get(notes, "x")).toThrow("not over");
    expect(() => leaked!.release(() => {})).toThrow("not over");
  });

  test("RT4: writes only under the lock its table names, and only what fits the schema", async () => {
    const { driver } = await openRig();
    await expect(driver.run(["b"], (tx) => count(tx, "a"))).rejects.toThrow("holds its lock");
    await expect(driver.run(["b"], (tx) => tx.append(lines, "a", ""))).rejects.toThrow("holds its lock");
    const long = { text: "x".repeat(65) };
    await expect(driver.run([], async (tx) => tx.put(notes, "n", long))).rejects.toThrow("text length");
    await driver.run([], async (tx) => tx.put(notes, "n", { text: "" }));
    const clash = table({ name: "other", number: 2, version: 1, schema: uint() });
    await expect(driver.run([], (tx) => tx.get(clash, "n"))).rejects.toThrow("is note, not other");
  });

  test("RT4: holding a lock of another waits for its body, not for its disk; disjoint ones run side by side", async () => {
    const { disk, gate } = gated();
    const { driver } = await openRig({ disk });
    gate.shut();
    const order: string[] = [];
    const { promise: hold, resolve: letGo } = Promise.withResolvers<void>();
    const runs = [
      driver.run(["a", "b"], async () => {
        order.push("ab");
        await hold;
      }),
      driver.run(["b"], async () => void order.push("b")),
      driver.run(["c"], async () => void order.push("c")),
    ];
    await settled();
    expect(order).toEqual(["ab", "c"]);
    letGo();
    await settled();
    expect(order).toEqual(["ab", "c", "b"]);
    gate.open();
    await Promise.all(runs);
  });
});

describe("batches", () => {
  test("RT2: while one is being synced the next collects: two commits for a hundred steps", async () => {
    const { disk, gate } = gated();
    const { driver, host } = await openRig({ disk });
    const before = host.commits;
    gate.shut();
    const first = driver.run(["a"], (tx) => count(tx, "a"));
    await settled();
    const rest = Array.from({ length: 99 }, () => driver.run(["a"], (tx) => count(tx, "a")));
    await settled();
    expect(host.commits).toBe(before + 1);
    gate.open();
    expect(await first).toBe(1);
    expect(await Promise.all(rest)).toEqual(Array.from({ length: 99 }, (_, i) => i + 2));
    expect(host.commits).toBe(before + 2);
  });

  test("RT7: a hot record is encrypted once a batch", async () => {
    const { disk, gate } = gated();
    let seals = 0;
    const chacha = SUITE.chacha20poly1305;
    const crypto = {
      ...SUITE,
      chacha20poly1305: {
        ...chacha,
        seal: (input: Parameters<typeof chacha.seal>[0]) => (seals++, chacha.seal(input)),
      },
    };
    const { driver } = await openRig({ disk, crypto });
    gate.shut();
    const runs = [driver.run(["a"], (tx) => count(tx, "a"))];
    await settled();
    seals = 0;
    for (let i = 0; i < 50; i++) runs.push(driver.run(["a"], (tx) => count(tx, "a")));
    await settled();
    gate.open();
    await Promise.all(runs);
    expect(seals).toBe(1);
  });

  test("RT3: effects come after the disk, in the order of the steps, before run resolves", async () => {
    const { disk, gate } = gated();
    const { driver } = await openRig({ disk });
    gate.shut();
    const order: string[] = [];
    const runs = ["x", "y", "z"].map((name) =>
      driver
        .run([name], async (tx) => {
          await count(tx, name);
          tx.release(() => order.push(`1${name}`));
          tx.release(() => order.push(`2${name}`));
        })
        .then(() => order.push(`run ${name}`)),
    );
    await settled();
    expect(order).toEqual([]);
    gate.open();
    await Promise.all(runs);
    expect(order.filter((entry) => !entry.startsWith("run"))).toEqual(["1x", "2x", "1y", "2y", "1z", "2z"]);
    expect(order.indexOf("2x")).toBeLessThan(order.indexOf("run x"));
  });

  test("RT3: an effect that throws is its own step's: the step is on the disk, and others are released", async () => {
    const { driver } = await openRig();
    const bad = driver.run(["a"], async (tx) => {
      await count(tx, "a");
      tx.release(() => {
        throw new RangeError("effect");
      });
    });
    const good = driver.run(["b"], (tx) => count(tx, "b"));
    await expect(bad).rejects.toThrow("effect");
    expect(await good).toBe(1);
    expect(await driver.read((tx) => tx.get(counters, "a"))).toBe(1);
  });

  test("RT5: read shows only what is on the disk", async () => {
    const { disk, gate } = gated();
    const { driver } = await openRig({ disk });
    await driver.run(["a"], (tx) => count(tx, "a"));
    gate.shut();
    const run = driver.run(["a"], async (tx) => {
      await tx.append(lines, "a", "row");
      tx.put(notes, "n", { text: "note" });
      return count(tx, "a");
    });
    await settled();
    const look = () =>
      driver.read(async (tx) => [await tx.get(counters, "a"), await tx.rows(lines, "a"), await tx.values(notes)]);
    expect(await look()).toEqual([1, [], []]);
    gate.open();
    await run;
    expect(await look()).toEqual([2, [{ n: 0, value: "row" }], [{ text: "note" }]]);
  });

  test("RT6: steps past the limit wait, those past the queue are refused", async () => {
    const { disk, gate } = gated();
    const { driver } = await openRig({ disk, limits: { steps: 3, waitingSteps: 2 } });
    gate.shut();
    const started: number[] = [];
    const runs = Array.from({ length: 6 }, (_, i) =>
      driver.run([`${i}`], async (tx) => {
        started.push(i);
        await count(tx, `${i}`);
        return i;
      }),
    );
    const outcomes = codes(runs);
    await settled();
    expect(started).toEqual([0, 1, 2]);
    gate.open();
    expect(await outcomes).toEqual([0, 1, 2, 3, 4, "driver/overloaded"]);
  });

  test("RT6: a batch is full at its bytes", async () => {
    const { disk, gate } = gated();
    const { driver } = await openRig({ disk, limits: { batchBytes: 100 } });
    gate.shut();
    const started: number[] = [];
    const runs = Array.from({ length: 6 }, async (_, i) => {
      await driver.run([], async (tx) => {
        started.push(i);
        tx.put(notes, `${i}`, { text: "x".repeat(60) });
      });
    });
    await settled();
    const early = started.length;
    const late = driver.run([], async () => void started.push(99));
    await settled();
    expect(started).not.toContain(99);
    expect(started).toHaveLength(early);
    gate.open();
    await Promise.all([...runs, late]);
    expect(started).toContain(99);
  });
});
