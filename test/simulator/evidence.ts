/**
 * `npm run evidence`: many seeds of the shipping code, two processes at a time, and what they saw in
 * docs/evidence/simulation.json. One seed in twenty runs again in a process that has run nothing else: another trace is a
 * violation too. Exit code 1 on any.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { dirname, resolve } from "node:path";
import { parseArgs } from "node:util";

import { commitId } from "../commit.ts";
import { FAULTS } from "./faults.ts";
import type { Report } from "./run.ts";
import { SeedProcess } from "./seed-process.ts";

const OUTPUT = resolve(import.meta.dirname, "../../docs/evidence/simulation.json");
const PROCESSES = 2;
/** Seeds a process runs before a new one takes over: saves most starts, and keeps it below half a gigabyte. */
const SEEDS_PER_PROCESS = 10;
/** One seed in so many runs again, alone. */
const AGAIN_EVERY = 20;

type Totals = Record<string, number>;
type Failed = { readonly seed: number; readonly violations: readonly string[]; readonly replay: string };

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "300" },
    first: { type: "string", default: "1" },
    peers: { type: "string", default: "4" },
    minutes: { type: "string", default: "60" },
    output: { type: "string", default: OUTPUT },
  },
});
const [count, first, peers, minutes] = [number("seeds"), number("first"), number("peers"), number("minutes")];

const startedAt = new Date();
const reports: Report[] = [];
const failed: Failed[] = [];
const again: { seed: number; traceHash: string }[] = [];
const waiting = Array.from({ length: count }, (_, i) => first + i);
await Promise.all(Array.from({ length: PROCESSES }, work));

const found = evidence();
mkdirSync(dirname(values.output), { recursive: true });
writeFileSync(values.output, `${JSON.stringify(found, undefined, 2)}\n`);
for (const line of table(found)) console.log(line);
process.exitCode = failed.length === 0 ? 0 : 1;

function number(name: "seeds" | "first" | "peers" | "minutes"): number {
  const value = Number(values[name]);
  if (Number.isSafeInteger(value) && value > 0) return value;
  console.error("npm run evidence -- [--seeds 300] [--first 1] [--peers 4] [--minutes 60] [--output FILE]");
  process.exit(2);
}

async function work(): Promise<void> {
  let running = new SeedProcess();
  for (let seed = waiting.shift(); seed !== undefined; seed = waiting.shift()) {
    if (!running.alive || running.seeds >= SEEDS_PER_PROCESS) {
      running.end();
      running = new SeedProcess();
    }
    const report = await running.run({ seed, peers, minutes });
    const violations = typeof report === "string" ? [report] : [...report.violations];
    if (typeof report !== "string") {
      reports.push(report);
      if (seed % AGAIN_EVERY === 0) violations.push(...(await runAgain(report)));
    }
    if (violations.length > 0) failed.push({ seed, violations, replay: replay(seed) });
    const done = count - waiting.length;
    console.error(`${done}/${count} seed ${seed}: ${violations.length === 0 ? "good" : violations.join("; ")}`);
  }
  running.end();
}

async function runAgain({ seed, traceHash }: Report): Promise<readonly string[]> {
  const alone = new SeedProcess();
  const report = await alone.run({ seed, peers, minutes });
  alone.end();
  if (typeof report === "string") return [`again, ${report}`];
  if (report.traceHash !== traceHash) return [`another trace in a fresh process: ${report.traceHash}`];
  again.push({ seed, traceHash });
  return [];
}

function replay(seed: number): string {
  return `npx skein sim --seed ${seed} --peers ${peers} --minutes ${minutes}`;
}

function evidence() {
  const settled = reports.map((report) => report.settledAfterMinutes ?? Infinity).toSorted((a, b) => a - b);
  const faults = sum((report) => report.faults);
  return {
    of: "simulation",
    commit: commitId(),
    node: process.version,
    machine: `${cpus().length} x ${cpus()[0]?.model ?? "unknown"}`,
    startedAt: startedAt.toISOString(),
    wallSeconds: Math.round((Date.now() - startedAt.getTime()) / 1_000),
    seeds: { first, count, peers, minutes },
    totals: sum(({ messages, acknowledged, commits, events, streams, gossiped }) => ({
      messages,
      acknowledged,
      commits,
      events,
      streams,
      gossiped,
    })),
    faults: Object.fromEntries(FAULTS.map((kind) => [kind, faults[kind] ?? 0])),
    refused: sum((report) => report.refused),
    checked: sum((report) => report.checked),
    settledAfterMinutes: { median: settled[settled.length >> 1] ?? null, longest: settled.at(-1) ?? null },
    sameTraceInAFreshProcess: again.toSorted((a, b) => a.seed - b.seed),
    failed: failed.toSorted((a, b) => a.seed - b.seed),
  };
}

function sum(of: (report: Report) => Readonly<Totals>): Totals {
  const totals: Totals = {};
  for (const report of reports) {
    for (const [name, value] of Object.entries(of(report))) totals[name] = (totals[name] ?? 0) + value;
  }
  return Object.fromEntries(Object.entries(totals).toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

function table(result: ReturnType<typeof evidence>): readonly string[] {
  const rows: readonly (readonly [string, unknown])[] = [
    ["seeds", `${first} to ${first + count - 1}, ${peers} peers, ${minutes} virtual minutes`],
    ["commit", result.commit],
    ...Object.entries(result.totals),
    ...Object.entries(result.faults).map(([kind, hits]) => [`fault ${kind}`, hits] as const),
    ...Object.entries(result.refused).map(([code, times]) => [`refused ${code}`, times] as const),
    ...Object.entries(result.checked).map(([checker, looked]) => [`checked ${checker}`, looked] as const),
    [
      "settled after, minutes",
      `median ${result.settledAfterMinutes.median}, longest ${result.settledAfterMinutes.longest}`,
    ],
    ["same trace in a fresh process", again.length],
    ["wall seconds", result.wallSeconds],
    ["seeds with violations", failed.length],
  ];
  return [
    ...rows.map(([name, value]) => `${name.padEnd(32)} ${String(value)}`),
    ...result.failed.flatMap((seed) => [
      `seed ${seed.seed}, again: ${seed.replay}`,
      ...seed.violations.map((v) => `  ${v}`),
    ]),
  ];
}
