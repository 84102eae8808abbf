import { Failure } from "#src/runtime/failure.ts";
import { type Command, helpOf, parse, usage } from "./command.ts";
import { interruption } from "./interruption.ts";
import { createOutput } from "./output.ts";

/** Each command is a file of its own, loaded when it is called. */
const COMMANDS: readonly (readonly [name: string, summary: string, load: () => Promise<{ readonly spec: Command }>])[] =
  [
    ["init", "Make an account on this machine", () => import("./commands/init.ts")],
    ["daemon", "Keep this account online", () => import("./commands/daemon.ts")],
    ["invite", "Make a link by which somebody can reach you", () => import("./commands/invite.ts")],
    ["connect", "Follow somebody's link", () => import("./commands/connect.ts")],
    ["contacts", "List the people you know", () => import("./commands/contacts.ts")],
    ["accept", "Accept a contact request", () => import("./commands/accept.ts")],
    ["decline", "Decline a contact request", () => import("./commands/decline.ts")],
    ["conversations", "List conversations", () => import("./commands/conversations.ts")],
    ["send", "Send a message", () => import("./commands/send.ts")],
    ["messages", "Show messages of a conversation", () => import("./commands/messages.ts")],
    ["watch", "Show what happens, as it happens", () => import("./commands/watch.ts")],
    ["status", "Show connections and queues", () => import("./commands/status.ts")],
    ["relays", "List, add or remove the relays of this account", () => import("./commands/relays.ts")],
    ["relay", "Run a relay for others", () => import("./commands/relay.ts")],
    ["sim", "Simulate peers from a seed, in virtual time", () => import("./commands/sim.ts")],
  ];

const COMMON_WITH_VALUE = "--home";

/** Options common to all may stand before the command: `skein --home DIR contacts`. They move behind it. */
function commandFirst(argv: readonly string[]): readonly string[] {
  let first = 0;
  while (argv[first]?.startsWith("--") === true) first += argv[first] === COMMON_WITH_VALUE ? 2 : 1;
  return first < argv.length ? [argv[first]!, ...argv.slice(0, first), ...argv.slice(first + 1)] : argv;
}

function overview(): string {
  const width = Math.max(...COMMANDS.map(([name]) => name.length)) + 2;
  return [
    "Usage: skein COMMAND [options]",
    "",
    "A messenger without a server.",
    "",
    ...COMMANDS.map(([name, summary]) => `  ${name.padEnd(width)}${summary}`),
    "",
    "skein COMMAND --help says more. Every command takes --home DIR and --json.",
    "",
  ].join("\n");
}

/** What to do about it, for the failures a person can do something about. */
const HINTS: Readonly<Record<string, string>> = {
  "home/none": "Make an account first: skein init --name NAME",
  "store/locked": "Another process has this home open. If it is a daemon, wait until it is ready; otherwise end it.",
  "store/full": "Make room on the disk, then try again. Nothing was lost.",
  "vault/wrong-passphrase": "Try again with --passphrase-file.",
  "vault/passphrase-needed": "This home has a passphrase: --passphrase-file F",
  "net/unreachable": "What you sent is kept and is tried again whenever the daemon runs.",
};

function report(error: unknown, json: boolean): 1 | 2 {
  const failure = error instanceof Failure ? error : undefined;
  // Anything else is a mistake of ours. Its text may hold content, so it is shown only to who asks.
  const code = failure?.code ?? "internal";
  const message = failure?.message ?? "Something went wrong inside Skein. SKEIN_DEBUG=1 shows where.";
  if (process.env["SKEIN_DEBUG"] === "1") process.stderr.write(`${(error as Error)?.stack ?? String(error)}\n`);
  if (json) {
    process.stdout.write(`${JSON.stringify({ error: { code, message } })}\n`);
  } else {
    process.stderr.write(`skein: ${message} (${code})\n`);
    if (code in HINTS) process.stderr.write(`${HINTS[code]}\n`);
  }
  return code.startsWith("usage/") ? 2 : 1;
}

/** @returns The exit code: 0 done, 1 failed, 2 wrong usage. */
export async function main(argv: readonly string[]): Promise<0 | 1 | 2> {
  // `skein watch | head`: the reader has gone, which is its right.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
    process.exit(0);
  });
  const json = argv.includes("--json");
  try {
    const [name, ...rest] = commandFirst(argv);
    if (name === "--help" || name === "help") {
      process.stdout.write(overview());
      return 0;
    }
    if (name === undefined || name.startsWith("--")) {
      if (!json) process.stderr.write(overview());
      throw usage("missing-command", "say what to do");
    }
    const entry = COMMANDS.find(([known]) => known === name);
    if (entry === undefined)
      throw usage("unknown-command", `there is no command ${JSON.stringify(name)}: skein --help lists them`);
    const { spec } = await entry[2]();
    const { values, args } = parse(spec, rest);
    if (values["help"] === true) {
      process.stdout.write(helpOf(spec));
      return 0;
    }
    const output = createOutput({ json, stdout: process.stdout, stderr: process.stderr });
    await spec.run({ values, args, output, signal: interruption() });
    return 0;
  } catch (error) {
    return report(error, json);
  }
}
