import { Failure } from "#src/runtime/failure.ts";
import { command, parseCount } from "../command.ts";

export const spec = command({
  name: "sim",
  summary: "Simulate peers from a seed, in virtual time",
  args: [],
  options: {
    seed: { type: "string", value: "N", help: "the same seed gives the same run (default 1)" },
    peers: { type: "string", value: "N", help: "how many (default 2)" },
    minutes: { type: "string", value: "N", help: "virtual minutes (default 10)" },
  },
  notes: ["Runs the shipping code with faults on and checks what must always hold.", "--json prints the report."],
  async run({ values, output }) {
    const { simulate } = await import("#test/simulator/run.ts");
    const report = await simulate({
      seed: parseCount(values.seed ?? "1", "seed", { min: 0, max: 4_294_967_295 }),
      peers: parseCount(values.peers ?? "2", "peers", { min: 2, max: 10 }),
      minutes: parseCount(values.minutes ?? "10", "minutes", { min: 1, max: 10_080 }),
    });
    output.print(report, () => JSON.stringify(report, undefined, 2));
    if (report.violations.length > 0) throw new Failure("sim/violation", "Something that must always hold did not.");
  },
});
