import { describe, expect, test } from "vitest";

import { utf8 } from "#protocols/base/bytes.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Store, StoreOperation } from "#src/runtime/ports.ts";
import { storeContract } from "#test/contracts/store.contract.ts";

import { makeRig } from "./rig.fixture.ts";
import { Dice } from "./random.ts";
import { type Process, Scheduler } from "./scheduler.ts";
import { type CommitFault, Disk } from "./store.ts";
import { Trace } from "./trace.ts";

storeContract("simulated", async () => {
  const rig = makeRig({ free: true });
  const disk = rig.disk("a");
  return { host: disk.host(rig.process("a")), rival: disk.host(rig.process("b")), dispose: () => rig.close() };
});

const put = (key: string): StoreOperation => ({ type: "put", key: utf8(key), value: utf8(key) });

/** One disk, one process after the other on it; `life` is what a process does. */
function machine(seed: number) {
  const scheduler = new Scheduler(new Trace());
  let process: Process | undefined;
  const faults: CommitFault[] = [];
  const crash = (): void => {
    if (process === undefined) return;
    process.alive = false;
    disk.processDied(process);
  };
  const disk: Disk = new Disk({
    scheduler,
    dice: new Dice(seed, "disk"),
    fullForUs: () => 1_000_000,
    crash,
    onFault: (fault) => faults.push(fault),
  });
  const life = async (incarnation: number, body: (store: Store) => Promise<void>): Promise<Process> => {
    const born: Process = { node: 0, name: "a", incarnation, alive: true, asleep: false, deferred: [] };
    process = born;
    scheduler.after(0, "start", born, () => void disk.host(born).open().then(body));
    await scheduler.run(Infinity);
    return born;
  };
  /** What a new process finds. */
  const found = async (): Promise<string[]> => {
    const keys: string[] = [];
    await life(99, async (store) => {
      for await (const [key] of store.entries({ from: new Uint8Array(), to: utf8("~") }))
        keys.push(String.fromCharCode(...key));
      await store.close();
    });
    return keys;
  };
  return { scheduler, disk, faults, crash, life, found };
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "done";
  } catch (error) {
    return error instanceof Failure ? error.code : String(error);
  }
}

describe("simulated disk", () => {
  test.each([
    ["crash-before-commit", false],
    ["crash-after-commit", true],
  ] as const)("%s: the caller never hears, and the batch is there: %s", async (fault, kept) => {
    for (let seed = 1; seed <= 20; seed++) {
      const { disk, faults, life, found } = machine(seed);
      const heard: string[] = [];
      const process = await life(1, async (store) => {
        await store.commit([put("a")]);
        heard.push("a");
        disk.arm(fault);
        heard.push(await codeOf(store.commit([put("b1"), put("b2")])));
      });
      expect([process.alive, heard, faults]).toEqual([false, ["a"], [fault]]);
      expect(await found()).toEqual(kept ? ["a", "b1", "b2"] : ["a"]);
    }
  });

  test("crash-during-commit: a prefix of what was in flight is there, each batch whole or not at all", async () => {
    const outcomes = new Set<string>();
    for (let seed = 1; seed <= 60; seed++) {
      const { disk, life, found } = machine(seed);
      await life(1, async (store) => {
        await store.commit([put("a")]);
        const first = store.commit([put("b1"), put("b2")]);
        disk.arm("crash-during-commit");
        await Promise.all([first, store.commit([put("c1"), put("c2")])]);
      });
      outcomes.add((await found()).join(" "));
    }
    const whole = ["a", "a b1 b2", "a b1 b2 c1 c2"];
    for (const outcome of outcomes) expect(whole).toContain(outcome);
    expect(outcomes).toContain("a b1 b2");
    expect(outcomes).toContain("a b1 b2 c1 c2");
  });

  test("what resolved survives any crash, at whatever moment it comes", async () => {
    let cut = 0;
    for (let seed = 1; seed <= 60; seed++) {
      const { scheduler, disk, crash, life, found } = machine(seed);
      const resolved: string[] = [];
      scheduler.after(new Dice(seed, "when").between(0, 60_000), "crash", undefined, crash);
      await life(1, async (store) => {
        for (let i = 10; i < 40; i++) {
          await store.commit([put(`k${i}`)]);
          resolved.push(`k${i}`);
        }
        await store.close();
      });
      const keys = await found();
      expect(keys.slice(0, resolved.length)).toEqual(resolved);
      expect(keys.length - resolved.length).toBeLessThanOrEqual(1);
      if (resolved.length < 30) cut++;
      expect(disk.lost).toBeLessThanOrEqual(disk.tornOff);
    }
    expect(cut).toBeGreaterThan(20);
  });

  test("commit-unknown: refused, and sometimes there all the same; then the store answers nothing until it is reopened", async () => {
    const outcomes = new Set<string>();
    for (let seed = 1; seed <= 20; seed++) {
      const { disk, life, found } = machine(seed);
      const codes: string[] = [];
      await life(1, async (store) => {
        disk.arm("commit-unknown");
        codes.push(await codeOf(store.commit([put("a")])));
        codes.push(await codeOf(store.get(utf8("a"))), await codeOf(store.commit([put("b")])));
        await store.close();
      });
      expect(codes).toEqual(["store/unknown-outcome", "store/failed", "store/failed"]);
      outcomes.add((await found()).join());
    }
    expect([...outcomes].sort()).toEqual(["", "a"]);
  });

  test("disk-full: nothing is written until there is room, reopening alone does not help", async () => {
    const { scheduler, disk, life, found } = machine(1);
    const codes: string[] = [];
    await life(1, async (store) => {
      disk.arm("disk-full");
      codes.push(await codeOf(store.commit([put("a")])));
      await store.close();
    });
    await life(2, async (store) => {
      codes.push(await codeOf(store.commit([put("b")])));
      await store.close();
    });
    await scheduler.run(scheduler.nowUs + 2_000_000);
    await life(3, async (store) => {
      codes.push(await codeOf(store.commit([put("c")])));
      await store.close();
    });
    expect(codes).toEqual(["store/full", "store/full", "done"]);
    expect(await found()).toEqual(["c"]);
  });

  test("a dead process writes nothing and hears nothing", async () => {
    const { scheduler, crash, life, found } = machine(1);
    let held: Store | undefined;
    await life(1, async (store) => {
      held = store;
    });
    crash();
    const heard: string[] = [];
    scheduler.after(1, "ghost", undefined, () => {
      void held!.commit([put("ghost")]).then(() => heard.push("commit"));
      void held!.get(utf8("a")).then(() => heard.push("get"));
      void held!.close().then(() => heard.push("close"));
    });
    expect(await found()).toEqual([]);
    expect(heard).toEqual([]);
  });
});
