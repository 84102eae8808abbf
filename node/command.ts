import { parseArgs } from "node:util";
import { Failure } from "#src/runtime/failure.ts";
import type { Output } from "./output.ts";

export type OptionSpec = {
  readonly type: "string" | "boolean";
  readonly multiple?: boolean;
  /** What stands for the value in the help: `DIR`. */
  readonly value?: string;
  readonly help: string;
};
export type OptionSpecs = Readonly<Record<string, OptionSpec>>;

type RawValue = NonNullable<ReturnType<typeof parseArgs>["values"][string]>;
type Value<O extends OptionSpec> = O extends { type: "boolean" }
  ? boolean
  : O extends { multiple: true }
    ? string[]
    : string;
/** Values by option; of a command known only in general, whatever parseArgs may give. */
export type Values<O extends OptionSpecs> = string extends keyof O
  ? Readonly<Record<string, RawValue | undefined>>
  : { readonly [K in keyof O]?: Value<O[K]> };

/** What every command takes. */
export const COMMON = {
  home: { type: "string", value: "DIR", help: "where this account lives (default ~/.skein)" },
  json: { type: "boolean", help: "print JSON, one object a line" },
  help: { type: "boolean", help: "show this" },
} as const satisfies OptionSpecs;

/** What every command takes that opens the account when no daemon runs. */
export const ACCOUNT = {
  "passphrase-file": { type: "string", value: "F", help: "file with the passphrase of this home, if it has one" },
  offline: { type: "boolean", help: "without a daemon: use what is on this disk, talk to nobody" },
} as const satisfies OptionSpecs;

export type Input<O extends OptionSpecs, P extends readonly string[]> = {
  readonly values: Values<O & typeof COMMON>;
  readonly args: { readonly [K in keyof P]: P[K] extends `[${string}` ? string | undefined : string };
  readonly output: Output;
  /** Aborted when this process is asked to end. */
  readonly signal: AbortSignal;
};

export type Command<O extends OptionSpecs = OptionSpecs, P extends readonly string[] = readonly string[]> = {
  readonly name: string;
  readonly summary: string;
  /** Names of the arguments. Those in brackets come last and may be left out. */
  readonly args: P;
  readonly options: O;
  /** More for `--help`: what it does, what it prints. */
  readonly notes?: readonly string[];
  run(input: Input<O, P>): Promise<void>;
};

/** Gives `run` the types of its own options. The caller knows commands only in general. */
export function command<const O extends OptionSpecs, const P extends readonly string[]>(spec: Command<O, P>): Command {
  return spec as unknown as Command;
}

/** The person typed something that is no command of ours: exit code 2. */
export function usage(what: string, message: string): Failure {
  return new Failure(`usage/${what}`, message);
}

/** @throws Failure `usage/…`. */
export function parse(
  spec: Command,
  argv: readonly string[],
): { values: Values<OptionSpecs>; args: readonly string[] } {
  const options: OptionSpecs = { ...COMMON, ...spec.options };
  let parsed: ReturnType<typeof parseArgs>;
  try {
    parsed = parseArgs({ args: [...argv], options, allowPositionals: true, strict: true });
  } catch (cause) {
    // parseArgs explains itself well; only its codes are not ours.
    throw usage("bad-option", (cause as Error).message.split(". ")[0]!);
  }
  const args = parsed.positionals;
  if (parsed.values["help"] === true) return { values: { help: true }, args };
  const missing = spec.args.slice(args.length).find((name) => !name.startsWith("["));
  if (missing !== undefined) throw usage("missing-argument", `${missing} is missing`);
  if (args.length > spec.args.length)
    throw usage("unexpected-argument", "too many arguments: quote a text with spaces");
  return { values: parsed.values, args };
}

export function helpOf(spec: Command): string {
  const specs: OptionSpecs = { ...spec.options, ...COMMON };
  const options = Object.entries(specs).map(([name, option]) => {
    const value = option.type === "string" ? ` ${option.value ?? "VALUE"}` : "";
    return [`--${name}${value}`, option.help + (option.multiple === true ? " (may be repeated)" : "")] as const;
  });
  const width = Math.max(...options.map(([flag]) => flag.length)) + 2;
  return [
    ["Usage: skein", spec.name, ...spec.args, "[options]"].join(" "),
    "",
    `${spec.summary}.`,
    ...(spec.notes ?? []),
    "",
    "Options:",
    ...options.map(([flag, help]) => `  ${flag.padEnd(width)}${help}`),
    "",
  ].join("\n");
}

/** Form only; whether somebody is there shows later. @throws Failure `usage/bad-value`. */
export function parseRelay(text: string): string {
  if (/^\/.+\/p2p\/[A-Za-z0-9]+$/.test(text)) return text;
  throw usage(
    "bad-value",
    "a relay's address is the multiaddr it prints, such as /ip4/192.0.2.7/tcp/4720/p2p/12D3Koo…",
  );
}

const UNITS: Readonly<Record<string, number>> = { s: 1e3, m: 6e4, h: 36e5, d: 864e5, w: 6048e5 };

/** `90s`, `15m`, `12h`, `7d`, `2w` in milliseconds. @throws Failure `usage/bad-value`. */
export function parseDuration(text: string, option: string): number {
  const [, count, unit] = /^([1-9]\d{0,5})([smhdw])$/.exec(text) ?? [];
  if (count === undefined) throw usage("bad-value", `--${option} wants a duration such as 30m, 12h or 7d`);
  return Number(count) * UNITS[unit!]!;
}

/** @throws Failure `usage/bad-value`. */
export function parseCount(text: string, option: string, limits: { min: number; max: number }): number {
  const count = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (!(count >= limits.min && count <= limits.max)) {
    throw usage("bad-value", `--${option} wants a whole number from ${limits.min} to ${limits.max}`);
  }
  return count;
}
