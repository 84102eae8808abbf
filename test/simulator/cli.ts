/** The simulator for scripts: `skein sim` and the tests that want a fresh process. */
import { parseArgs } from "node:util";

import { type Fault, FAULTS } from "./faults.ts";
import { MAX_PEERS, type Report, simulate, type SimulationOptions } from "./run.ts";
import { startToyRelay, toyPeer, type ToyBug } from "./toy.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";

export const USAGE = `skein sim --seed N --peers 2-${MAX_PEERS} --minutes N [--faults all|none|KIND,KIND…] [--messages N] [--json]
kinds: ${FAULTS.join(", ")}`;

/**
 * @param argv - What follows `skein sim`.
 * @param write - Takes lines for stdout.
 * @returns The exit code: 0 done, 1 a violation, 2 wrong usage.
 */
export async function runSim(argv: readonly string[], write: (line: string) => void): Promise<0 | 1 | 2> {
  const options = parse(argv);
  if (options === undefined) {
    write(USAGE);
    return 2;
  }
  const report = await simulate(options.simulation);
  for (const line of options.json ? [JSON.stringify(report)] : told(report)) write(line);
  return report.violations.length === 0 ? 0 : 1;
}

function parse(argv: readonly string[]): { simulation: SimulationOptions; json: boolean } | undefined {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      seed: { type: "string", default: "1" },
      peers: { type: "string", default: "2" },
      minutes: { type: "string", default: "10" },
      messages: { type: "string" },
      faults: { type: "string", default: "all" },
      /** The simulator's own messenger instead of ours, with a bug of that name or "none". */
      toy: { type: "string" },
      json: { type: "boolean", default: false },
    },
  });
  const [seed, peers, minutes] = [values.seed, values.peers, values.minutes].map(Number);
  const messages = values.messages === undefined ? undefined : Number(values.messages);
  const faults = parseFaults(values.faults);
  const numbers = [seed, peers, minutes, messages ?? 0];
  if (seed === undefined || peers === undefined || minutes === undefined || faults === undefined) return undefined;
  if (!numbers.every((value) => Number.isSafeInteger(value)) || peers < 2 || peers > MAX_PEERS || minutes < 1) {
    return undefined;
  }
  const bug = values.toy === "none" ? undefined : (values.toy as ToyBug | undefined);
  const toy = { startPeer: toyPeer(bug), startRelay: startToyRelay, crypto: synchronousSuite() };
  const simulation: SimulationOptions = {
    seed,
    peers,
    minutes,
    faults,
    ...(messages === undefined ? {} : { messages }),
    ...(values.toy === undefined ? {} : { program: toy }),
  };
  return { simulation, json: values.json };
}

function parseFaults(text: string): readonly Fault[] | undefined {
  if (text === "all") return FAULTS;
  if (text === "none") return [];
  const kinds = text.split(",");
  const known = kinds.filter((kind): kind is Fault => (FAULTS as readonly string[]).includes(kind));
  return known.length === kinds.length ? known : undefined;
}

function told(report: Report): string[] {
  const settled = report.settledAfterMinutes === null ? "never" : `after ${report.settledAfterMinutes} minutes`;
  return [
    `seed ${report.seed}: ${report.peers} peers, ${report.minutes} virtual minutes, ${report.messages} messages`,
    `${report.events} events in ${report.wallMs} ms; everything had arrived ${settled}`,
    `faults: ${
      Object.entries(report.faults)
        .map(([kind, hits]) => `${kind} ${hits}`)
        .join(", ") || "none"
    }`,
    `trace ${report.traceHash}`,
    ...(report.violations.length === 0 ? ["no violation"] : [...report.violations, `again: ${report.replay}`]),
  ];
}

if (import.meta.main) process.exitCode = await runSim(process.argv.slice(2), (line) => console.log(line));
