import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { Running, Stage } from "./processes.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const SKEIN = fileURLToPath(new URL("../../node/skein.ts", import.meta.url));
const COMMANDS = readdirSync(new URL("../../node/commands", import.meta.url)).map((file) => file.replace(".ts", ""));

const stage = new Stage();
afterAll(() => stage.clear());

async function skein(...args: readonly string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const running = new Running(process.execPath, [SKEIN, ...args]);
  const code = await running.exited;
  return { code, stdout: running.lines.join("\n"), stderr: running.stderr };
}

describe("help", () => {
  test("lists every command", async () => {
    const { code, stdout, stderr } = await skein("--help");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    for (const name of COMMANDS) expect(stdout).toMatch(new RegExp(`^  ${name} `, "m"));
  });

  test.each(COMMANDS)("of %s says how it is called and that it takes --json", async (name) => {
    const { code, stdout, stderr } = await skein(name, "--help");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain(`Usage: skein ${name}`);
    expect(stdout).toContain("--json");
  });

  test("comes on stderr when no command is given, with exit code 2", async () => {
    const { code, stdout, stderr } = await skein();
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain("Usage: skein COMMAND");
  });
});

describe("wrong usage is exit code 2 and one error object", () => {
  test.each([
    ["frobnicate", [], "usage/unknown-command"],
    ["send", ["abcd"], "usage/missing-argument"],
    ["contacts", ["abcd"], "usage/unexpected-argument"],
    ["contacts", ["--bogus"], "usage/bad-option"],
    ["invite", ["--expires", "soon"], "usage/bad-value"],
    ["invite", ["--uses", "0"], "usage/bad-value"],
    ["init", [], "usage/bad-value"],
    ["init", ["--name", "Ada", "--relay", "relay.example"], "usage/bad-value"],
    ["init", ["--name", "Ada", "--passphrase-file", "/nowhere/phrase"], "usage/bad-value"],
    ["relays", ["drop", "/ip4/127.0.0.1"], "usage/bad-value"],
    ["relays", ["add"], "usage/missing-argument"],
    ["accept", ["abc"], "usage/bad-value"],
    ["messages", ["abcd", "--limit", "many"], "usage/bad-value"],
  ])("%s %j: %s", async (command, args, code) => {
    expect(await stage.fails(2, command, "nobody", ...args)).toBe(code);
  });
});

test("without --json an error is for people, on stderr", async () => {
  const { code, stdout, stderr } = await skein("contacts", "--home", stage.home("nobody"));
  expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  expect(stderr).toContain("(home/none)");
  expect(stderr).toContain("skein init --name NAME");
});

test("options common to all may stand before the command", async () => {
  const { code, stdout } = await skein("--json", "--home", stage.home("nobody"), "contacts");
  expect(code).toBe(1);
  expect(JSON.parse(stdout)).toMatchObject({ error: { code: "home/none" } });
});

test("npx finds the command of this checkout, runs it on Node 24 and keeps its exit code", async () => {
  const running = new Running("npx", ["skein", "contacts", "--home", stage.home("nobody"), "--json"], { cwd: ROOT });
  expect(await running.exited).toBe(1);
  expect(running.json).toEqual([{ error: { code: "home/none", message: expect.any(String) as string } }]);
});

test("ending npx ends what it started, cleanly", async () => {
  const args = ["skein", "relay", "--dev", "--home", stage.home("relay"), "--json"];
  // A process group of its own, so that whatever goes wrong here leaves nobody behind.
  const running = new Running("npx", args, { cwd: ROOT, detached: true });
  try {
    await running.line("ready", (value) => value["ready"] === true);
    // Resolves when its standard output is closed, that is when the relay itself has gone and not only npx.
    await running.stop("SIGTERM");
  } finally {
    running.endGroup();
  }
});
