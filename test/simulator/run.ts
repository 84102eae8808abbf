/** One simulation: a world from a seed, a workload, faults for a while, then peace, then the checkers. */
import type { CryptoSuite } from "#protocols/base/suite.ts";

import { Checkers, told, type Verdict } from "./checkers.ts";
import { type Fault, FAULTS, FaultSchedule } from "./faults.ts";
import { Workload } from "./workload.ts";
import { type StartPeer, type StartRelay, World } from "./world.ts";

const MINUTE_US = 60_000_000;
/** Faults end; then everything must have arrived within this. A new handshake may have to wait an hour (DESIGN 4). */
const SETTLE_MINUTES = 90;
/** How often the checkers look whether it has. */
const LOOK_EVERY_US = MINUTE_US / 2;
/** Messages a minute and pair of peers; four peers say 720 in an hour. */
const MESSAGES_PER_MINUTE = 2;
/** Last virtual time before settling at which bounds are sampled: each so many minutes. */
const SAMPLE_EVERY_MINUTES = 2;

const NAMES = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy"] as const;

export const MAX_PEERS = NAMES.length;

/** The program to be simulated. */
export type Program = {
  readonly startPeer: StartPeer;
  readonly startRelay: StartRelay;
  readonly crypto: CryptoSuite;
};

export type SimulationOptions = {
  readonly seed: number;
  /** Two to ten. */
  readonly peers: number;
  readonly minutes: number;
  readonly faults?: readonly Fault[];
  readonly messages?: number;
  readonly settleMinutes?: number;
  readonly relays?: number;
  /** What is simulated; by default what ships. */
  readonly program?: Program;
};

export type Report = {
  readonly seed: number;
  readonly peers: number;
  readonly minutes: number;
  /** Virtual minutes after the end of the faults until everything had arrived; null when it never had. */
  readonly settledAfterMinutes: number | null;
  readonly events: number;
  readonly messages: number;
  readonly acknowledged: number;
  readonly commits: number;
  readonly streams: number;
  readonly gossiped: number;
  /** Times each fault hit something. */
  readonly faults: Readonly<Record<string, number>>;
  /** Calls of the face that failed, by code. */
  readonly refused: Readonly<Record<string, number>>;
  /** What each checker looked at. */
  readonly checked: Readonly<Record<string, number>>;
  readonly violations: readonly string[];
  readonly traceHash: string;
  /** The command that does exactly this again. */
  readonly replay: string;
  readonly wallMs: number;
  /** Events a second, and virtual time over wall time. */
  readonly eventsPerSecond: number;
  readonly speed: number;
};

export async function simulate(options: SimulationOptions): Promise<Report> {
  const { seed, minutes } = options;
  const program = options.program ?? (await import("./shipping.ts")).shippingProgram();
  const kinds = options.faults ?? FAULTS;
  const startedMs = performance.now();
  const world = new World({
    seed,
    crypto: program.crypto,
    peers: NAMES.slice(0, options.peers).map((name, i) => {
      // One of three can be dialled; the rest is behind a NAT.
      return { name, start: program.startPeer, dialable: (seed + i) % 3 === 0 };
    }),
    relays: Array.from({ length: options.relays ?? 1 }, (_, i) => ({
      name: `relay-${i + 1}`,
      start: program.startRelay,
    })),
  });
  const workload = new Workload(world, seed);
  const faults = new FaultSchedule(world, { seed, kinds });
  const checkers = new Checkers(world, workload);
  const violations: string[] = [];
  const unhandled = (error: unknown): void => {
    violations.push(`a promise was rejected and nobody cared: ${String(error)}`);
  };
  process.on("unhandledRejection", unhandled);
  let verdicts: Verdict[] = [];
  let settledAfterMinutes: number | null = null;
  try {
    const pairs = (options.peers * (options.peers - 1)) / 2;
    const forUs = minutes * MINUTE_US;
    world.boot();
    workload.begin(forUs, options.messages ?? Math.ceil(minutes * MESSAGES_PER_MINUTE * pairs));
    faults.begin(forUs);
    for (let minute = 0; minute < minutes; minute += SAMPLE_EVERY_MINUTES) {
      await world.scheduler.run(Math.max(world.scheduler.nowUs, minute * MINUTE_US));
      await checkers.sample();
    }
    await world.scheduler.run(Math.max(world.scheduler.nowUs, forUs));
    workload.end();
    faults.end();
    settledAfterMinutes = await settle(world, checkers, options.settleMinutes ?? SETTLE_MINUTES);
    verdicts = await checkers.verdicts();
  } catch (error) {
    violations.push(`the run broke off: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  } finally {
    process.off("unhandledRejection", unhandled);
  }
  const wallMs = Math.round(performance.now() - startedMs);
  const { scheduler, internet } = world;
  return {
    seed,
    peers: options.peers,
    minutes,
    settledAfterMinutes,
    events: scheduler.events,
    messages: workload.sent.length,
    acknowledged: workload.acknowledged.length,
    commits: world.machines.reduce((sum, machine) => sum + machine.disk.commits, 0),
    streams: internet.streams,
    gossiped: internet.gossiped,
    faults: sorted([...Object.entries(internet.hits), ...world.hits]),
    refused: sorted([...workload.refused]),
    checked: Object.fromEntries(verdicts.map(({ name, checked }) => [name, checked])),
    violations: [...violations, ...world.violations, ...told(verdicts)],
    traceHash: world.trace.digest(),
    replay: replay(options),
    wallMs,
    eventsPerSecond: Math.round((scheduler.events * 1_000) / Math.max(1, wallMs)),
    speed: Math.round(scheduler.nowUs / 1_000 / Math.max(1, wallMs)),
  };
}

function replay({ seed, peers, minutes, faults, messages }: SimulationOptions): string {
  const kinds = faults === undefined || faults.length === FAULTS.length ? "all" : faults.join(",") || "none";
  const words = [`npx skein sim --seed ${seed} --peers ${peers} --minutes ${minutes}`];
  if (kinds !== "all") words.push(`--faults ${kinds}`);
  if (messages !== undefined) words.push(`--messages ${messages}`);
  return words.join(" ");
}

/** @returns Virtual minutes until everything had arrived, or null. */
async function settle(world: World, checkers: Checkers, minutes: number): Promise<number | null> {
  const { scheduler } = world;
  const fromUs = scheduler.nowUs;
  const untilUs = fromUs + minutes * MINUTE_US;
  for (let nextUs = fromUs + LOOK_EVERY_US; nextUs <= untilUs; nextUs += LOOK_EVERY_US) {
    await scheduler.run(Math.max(scheduler.nowUs, nextUs));
    if (await checkers.settled()) return Math.round((scheduler.nowUs - fromUs) / 600_000) / 100;
  }
  return null;
}

function sorted(entries: readonly (readonly [string, number])[]): Record<string, number> {
  return Object.fromEntries(entries.toSorted(([a], [b]) => (a < b ? -1 : 1)));
}
