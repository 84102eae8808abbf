import { Failure } from "#src/runtime/failure.ts";
import { command, usage } from "../command.ts";

export const spec = command({
  name: "sim",
  summary: "Simulate peers from a seed, in virtual time",
  args: [],
  options: {
    seed: { type: "string", value: "N", help: "the same seed gives the same run (default 1)" },
    peers: { type: "string", value: "N", help: "2 to 10 (default 2)" },
    minutes: { type: "string", value: "N", help: "virtual minutes with faults (default 10)" },
    messages: { type: "string", value: "N", help: "how many are sent (default: some each minute)" },
    faults: { type: "string", value: "KINDS", help: "all (default), none, or kinds with commas between" },
  },
  notes: [
    "Runs the shipping code of peers and a relay in one process and checks what must always hold.",
    "--json prints the report. Exit code 1 when something did not hold; the report says how to see it again.",
  ],
  async run({ values, output }) {
    const { runSim } = await import("#test/simulator/cli.ts");
    const { seed, peers, minutes, messages, faults } = values;
    const argv = Object.entries({ seed, peers, minutes, messages, faults }).flatMap(([name, value]) =>
      value === undefined ? [] : [`--${name}=${value}`],
    );
    const lines: string[] = [];
    const code = await runSim([...argv, ...(output.json ? ["--json"] : [])], (line) => lines.push(line));
    if (code === 2) throw usage("bad-value", lines.join("\n"));
    for (const line of lines) output.line(line);
    if (code === 1) throw new Failure("sim/violation", "Something that must always hold did not.");
  },
});
