/** Runs the command line as people do: as processes, ended by their own id. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { schemaErrors } from "./schemas.ts";

const SKEIN = fileURLToPath(new URL("../../node/skein.ts", import.meta.url));
/** Two cores and other tests before us: far above what anything here needs, so that only a hang meets it. */
const DEADLINE_MS = 45_000;

export type Json = Record<string, unknown>;

/** A process whose output can be waited for, line by line. Nothing is missed: lines that came early are kept. */
export class Running {
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  readonly #wakes = new Set<() => void>();
  readonly exited: Promise<number | null>;
  stderr = "";

  constructor(
    file: string,
    args: readonly string[],
    options: { readonly cwd?: string; readonly detached?: boolean } = {},
  ) {
    this.#child = spawn(file, args, { ...options, stdio: ["ignore", "pipe", "pipe"] });
    this.exited = new Promise((done) => this.#child.once("close", (code) => done(code)));
    let unfinished = "";
    this.#child.stdout!.setEncoding("utf8").on("data", (chunk: string) => {
      const lines = (unfinished + chunk).split("\n");
      unfinished = lines.pop()!;
      this.#lines.push(...lines);
      this.#wake();
    });
    this.#child.stderr!.setEncoding("utf8").on("data", (chunk: string) => {
      this.stderr += chunk;
      this.#wake();
    });
    this.#child.once("close", () => this.#wake());
  }

  get pid(): number {
    return this.#child.pid!;
  }

  get lines(): readonly string[] {
    return this.#lines;
  }

  get json(): readonly Json[] {
    return this.#lines.map((line) => JSON.parse(line) as Json);
  }

  #wake(): void {
    for (const wake of this.#wakes) wake();
  }

  /** Waits until `look` gives something. The error tells what the process said instead. */
  async until<T>(what: string, look: () => T | undefined): Promise<T> {
    const found = Promise.withResolvers<T>();
    const fail = (why: string): void =>
      found.reject(new Error(`${why} before ${what}\nstdout: ${this.#lines.join("\n")}\nstderr: ${this.stderr}`));
    const wake = (): void => {
      const value = look();
      if (value !== undefined) found.resolve(value);
      else if (this.#child.exitCode !== null) fail(`exit code ${this.#child.exitCode}`);
    };
    const late = setTimeout(() => fail("deadline"), DEADLINE_MS);
    this.#wakes.add(wake);
    wake();
    try {
      return await found.promise;
    } finally {
      this.#wakes.delete(wake);
      clearTimeout(late);
    }
  }

  /** The first JSON line of which `test` is true, now or later. */
  line(what: string, test: (value: Json) => boolean): Promise<Json> {
    return this.until(what, () => this.json.find(test));
  }

  /** Ends a detached process and everything below it, if any of it is left. */
  endGroup(): void {
    try {
      process.kill(-this.pid, "SIGKILL");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }

  /** @returns The exit code. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<number | null> {
    this.#child.kill(signal);
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => late.reject(new Error(`process ${this.pid} did not end at ${signal}`)), DEADLINE_MS);
    try {
      return await Promise.race([this.exited, late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Everything a test starts, and its folders, so that nothing outlives it. */
export class Stage {
  readonly folder = mkdtempSync(join(tmpdir(), "skein-e2e-"));
  readonly #running = new Set<Running>();

  home(name: string): string {
    return join(this.folder, name);
  }

  /** Starts a command that runs until it is told to stop. */
  start(command: string, home: string, ...args: readonly string[]): Running {
    const running = new Running(process.execPath, [SKEIN, command, "--home", this.home(home), "--json", ...args]);
    this.#running.add(running);
    return running;
  }

  /** Starts a daemon, relay or the like and waits for the line that says it is ready, which must be as its schema says. */
  async ready(command: string, home: string, ...args: readonly string[]): Promise<Running & { readonly first: Json }> {
    const running = this.start(command, home, ...args);
    const first = await running.line("ready", (value) => value["ready"] === true || "error" in value);
    expect(schemaErrors(command, first)).toBe("");
    return Object.assign(running, { first });
  }

  /** Starts `skein watch` and waits until it misses nothing. */
  async watch(home: string): Promise<Running> {
    const running = this.start("watch", home);
    await running.until("watching", () => (running.stderr.includes("watching") ? true : undefined));
    return running;
  }

  /** Runs a command to its end. @returns Its lines, each as the command's schema says. */
  async run(command: string, home: string, ...args: readonly string[]): Promise<readonly Json[]> {
    const running = this.start(command, home, ...args);
    const code = await running.exited;
    expect({ code, lines: code === 0 ? [] : running.lines, stderr: running.stderr }).toEqual({
      code: 0,
      lines: [],
      stderr: "",
    });
    for (const value of running.json) expect(schemaErrors(command, value)).toBe("");
    return running.json;
  }

  /** Runs a command that must fail. @returns The code of its one error object. */
  async fails(exitCode: 1 | 2, command: string, home: string, ...args: readonly string[]): Promise<string> {
    const running = this.start(command, home, ...args);
    const code = await running.exited;
    const last = running.json.at(-1);
    expect(schemaErrors("error", last)).toBe("");
    expect(code).toBe(exitCode);
    return (last as { error: { code: string } }).error.code;
  }

  async clear(): Promise<void> {
    await Promise.all([...this.#running].map((running) => running.stop("SIGKILL")));
    rmSync(this.folder, { recursive: true, force: true });
  }
}
