import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { describe, expect, test } from "vitest";

import { synchronousSuite } from "#protocols/base/synchronous.ts";

import { runSim } from "./cli.ts";
import { type Fault, FAULTS } from "./faults.ts";
import { type Report, simulate, type SimulationOptions } from "./run.ts";
import { shippingProgram } from "./shipping.ts";
import { startToyRelay, toyPeer, type ToyBug } from "./toy.ts";

const SEEDS = process.env["SKEIN_LONG"] === "1" ? 300 : 3;

function toy(seed: number, options: Partial<SimulationOptions> & { bug?: ToyBug } = {}): Promise<Report> {
  const { bug, ...rest } = options;
  const program = { startPeer: toyPeer(bug), startRelay: startToyRelay, crypto: synchronousSuite() };
  return simulate({ seed, peers: 3, minutes: 20, messages: 80, settleMinutes: 10, program, ...rest });
}

/** What two runs of one seed have in common. */
function outcome({ wallMs: _wallMs, eventsPerSecond: _rate, speed: _speed, ...rest }: Report): object {
  return rest;
}

async function freshProcess(args: readonly string[]): Promise<Report> {
  const cli = new URL("./cli.ts", import.meta.url).pathname;
  const { stdout } = await promisify(execFile)(process.execPath, [cli, ...args, "--json"]);
  return JSON.parse(stdout) as Report;
}

describe("one seed", () => {
  test("gives one run: twice in this process, once in a fresh one, side by side or not", async () => {
    const args = ["--seed", "5", "--peers", "3", "--minutes", "10", "--messages", "40", "--toy", "none"];
    const options = { peers: 3, minutes: 10, messages: 40, settleMinutes: 90 };
    const [one, two] = await Promise.all([toy(5, options), toy(5, options)]);
    const three = await freshProcess(args);
    expect(one.violations).toEqual([]);
    expect(outcome(two)).toEqual(outcome(one));
    expect(outcome(three)).toEqual(outcome(one));
    expect((await toy(6, options)).traceHash).not.toBe(one.traceHash);
  });

  test("gives one run of what ships, too, whichever synchronous suite computes", async () => {
    const options = { seed: 7, peers: 2, minutes: 4, messages: 10 };
    const one = await simulate(options);
    expect(one.violations).toEqual([]);
    const args = ["--seed", "7", "--peers", "2", "--minutes", "4", "--messages", "10"];
    expect(outcome(await freshProcess(args))).toEqual(outcome(one));
    const two = await simulate({ ...options, program: { ...shippingProgram(), crypto: synchronousSuite() } });
    expect(outcome(two)).toEqual(outcome(one));
  });
});

describe("a correct messenger passes", () => {
  test.each(Array.from({ length: SEEDS }, (_, i) => i + 1))("seed %i, all faults on", async (seed) => {
    const report = await toy(seed);
    expect(report.violations).toEqual([]);
    expect(report.acknowledged).toBeGreaterThan(40);
    expect(report.settledAfterMinutes).not.toBeNull();
  });

  test("every kind of fault hits", async () => {
    const hits = new Set<string>();
    for (const seed of [11, 12, 13, 14]) {
      const report = await toy(seed, { minutes: 60 });
      expect(report.violations).toEqual([]);
      for (const [kind, count] of Object.entries(report.faults)) if (count > 0) hits.add(kind);
    }
    expect(FAULTS.filter((kind) => !hits.has(kind))).toEqual([]);
  });

  test.each(FAULTS)("%s alone hits, and nothing else does", async (kind: Fault) => {
    const others = new Set<string>();
    let hit = 0;
    for (let seed = 21; hit === 0 && seed < 31; seed++) {
      const report = await toy(seed, { faults: [kind], peers: 2, messages: 60 });
      expect(report.violations).toEqual([]);
      hit += report.faults[kind] ?? 0;
      for (const name of Object.keys(report.faults)) others.add(name);
    }
    others.delete(kind);
    // A start may fall into the time without room.
    others.delete("failed-start");
    expect(hit).toBeGreaterThan(0);
    expect([...others]).toEqual([]);
  });
});

describe("a planted bug is found", () => {
  const found: readonly [ToyBug, RegExp, readonly Fault[]][] = [
    ["acknowledges-early", /^nothing-lost/, ["crash-before-commit", "crash-during-commit", "commit-failed"]],
    ["receipts-early", /^(nothing-lost|receipted|drained)/, ["crash-before-commit", "crash", "commit-failed"]],
    ["forgets-ids", /^nothing-twice/, []],
    ["reuses-nonces", /^nonces/, []],
    ["keeps-outbox", /^drained/, []],
    ["sorts-by-arrival", /^equal-transcripts/, ["delay"]],
    ["leaves-virtual-time", /outside of any event/, []],
    ["spins", /events at/, []],
  ];
  test.each(found)("%s", async (bug, violation, faults) => {
    for (let seed = 1; ; seed++) {
      const report = await toy(seed, { bug, faults, messages: 60, settleMinutes: 1 });
      if (report.violations.some((line) => violation.test(line))) {
        expect(report.replay).toContain(`--seed ${seed} `);
        return;
      }
      expect(seed).toBeLessThan(40);
    }
  });

  test("a run in which nothing happens has checked nothing, and says so", async () => {
    const report = await toy(1, { messages: 0, faults: [] });
    expect(report.violations).toContain("nothing-lost: nothing was checked");
    expect(report.violations).toContain("nonces: nothing was checked");
  });
});

describe("what ships", () => {
  test.each(Array.from({ length: SEEDS }, (_, i) => i + 1))(
    "seed %i: nothing lost, nothing twice, all faults on",
    async (seed) => {
      const long = SEEDS > 3;
      const report = await simulate({
        seed,
        peers: long ? 4 : 3,
        minutes: long ? 60 : 10,
        ...(long ? {} : { messages: 30 }),
      });
      expect(report.violations, report.replay).toEqual([]);
      expect(report.acknowledged).toBeGreaterThan(10);
    },
  );
});

describe("command line", () => {
  test("prints one JSON object, and words without --json", async () => {
    const lines: string[] = [];
    const args = ["--seed", "3", "--peers", "2", "--minutes", "5", "--toy", "none", "--faults", "loss,cut"];
    expect(await runSim([...args, "--json"], (line) => lines.push(line))).toBe(0);
    expect(JSON.parse(lines.join(""))).toMatchObject({ seed: 3, peers: 2, minutes: 5, violations: [] });
    expect(await runSim(args, (line) => lines.push(line))).toBe(0);
    expect(lines.at(-1)).toBe("no violation");
  });

  test("a violation exits 1 and names the command that does it again", async () => {
    const lines: string[] = [];
    const args = ["--seed", "1", "--minutes", "5", "--toy", "reuses-nonces", "--faults", "none"];
    expect(await runSim(args, (line) => lines.push(line))).toBe(1);
    expect(lines.at(-1)).toBe("again: npx skein sim --seed 1 --peers 2 --minutes 5 --faults none");
  });

  test.each([
    ["--peers", "1"],
    ["--peers", "11"],
    ["--seed", "x"],
    ["--faults", "rain"],
    ["--minutes", "0"],
  ])("%s %s is wrong usage", async (option, value) => {
    expect(await runSim([option, value], () => {})).toBe(2);
  });
});
