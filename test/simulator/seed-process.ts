/** A process that runs seeds, one after the other, as long as it lives. This file is both of its ends. */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";

import type { Report } from "./run.ts";

export type Seed = { readonly seed: number; readonly peers: number; readonly minutes: number };

/** Wall time of one seed. An hour of four peers takes six seconds, of ten peers a minute; more is a run that does not end. */
const SEED_DEADLINE_MS = 10 * 60_000;

export class SeedProcess {
  /** Seeds it was given so far. */
  seeds = 0;
  readonly #child: ChildProcess;

  constructor() {
    this.#child = fork(fileURLToPath(import.meta.url), {
      stdio: ["ignore", "ignore", "inherit", "ipc"],
      execArgv: ["--disable-warning=ExperimentalWarning"],
    });
  }

  get alive(): boolean {
    return this.#child.connected;
  }

  /** One at a time. @returns The report, or how the process ended instead. */
  run(seed: Seed): Promise<Report | string> {
    this.seeds++;
    const child = this.#child;
    return new Promise((resolve) => {
      const end = (result: Report | string): void => {
        clearTimeout(deadline);
        child.off("message", end).off("exit", died);
        resolve(result);
      };
      const died = (code: number | null, signal: string | null): void => end(`the process died of ${signal ?? code}`);
      const deadline = setTimeout(() => {
        child.kill("SIGKILL");
        end(`no end after ${SEED_DEADLINE_MS / 60_000} minutes`);
      }, SEED_DEADLINE_MS);
      child.on("message", end).on("exit", died);
      child.send(seed);
    });
  }

  end(): void {
    if (this.alive) this.#child.disconnect();
  }
}

if (import.meta.main) {
  const { simulate } = await import("./run.ts");
  process.on("message", (seed: Seed) => {
    void simulate(seed).then((report) => process.send!(report));
  });
}
