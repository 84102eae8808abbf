import { mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { relative } from "node:path";
import type { Reporter, SerializedError, TestModule, Vitest } from "vitest/node";

import { commitId } from "./commit.ts";

/** Where `.ci/run` finds the closing line of the last run. */
const SUMMARY = new URL("../node_modules/.cache/skein/summary.txt", import.meta.url);
/** What `npm run test:long` leaves behind. */
const EVIDENCE = new URL("../docs/evidence/tests.json", import.meta.url);

type Counts = { passed: number; failed: number; skipped: number };

/**
 * The last line of a run: `N passed, N failed, N skipped`. A file that could not be loaded, a hook that failed (its
 * tests are then skipped) and an error outside any test count as failed, so that a run can't look better than it was.
 */
export default class Summary implements Reporter {
  readonly #startedAt = new Date();
  #root = "";
  #seed: string | undefined;

  onInit(vitest: Vitest): void {
    this.#root = vitest.config.root;
    this.#seed = vitest.config.env?.["SKEIN_SEED"];
  }

  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly SerializedError[]): void {
    const total: Counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 };
    for (const counts of modules.map(count)) {
      total.passed += counts.passed;
      total.failed += counts.failed;
      total.skipped += counts.skipped;
    }
    if (process.env["SKEIN_EVIDENCE"] === "1") write(EVIDENCE, this.#evidence(modules, total));
    const line = `${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`;
    write(SUMMARY, line);
    process.stdout.write(`${line}\n`);
  }

  #evidence(modules: readonly TestModule[], total: Counts): string {
    const files = modules.map((module) => ({
      file: relative(this.#root, module.moduleId),
      ...count(module),
      seconds: Math.round(module.diagnostic().duration / 100) / 10,
    }));
    const evidence = {
      of: "tests",
      commit: commitId(),
      node: process.version,
      machine: `${cpus().length} x ${cpus()[0]?.model ?? "unknown"}`,
      startedAt: this.#startedAt.toISOString(),
      wallSeconds: Math.round((Date.now() - this.#startedAt.getTime()) / 1_000),
      /** Of every property that has none of its own; SKEIN_SEED repeats it. */
      seed: Number(this.#seed),
      ...total,
      files: files.toSorted((a, b) => (a.file < b.file ? -1 : 1)),
    };
    return JSON.stringify(evidence, undefined, 2);
  }
}

function count(module: TestModule): Counts {
  const counts: Counts = { passed: 0, failed: 0, skipped: 0 };
  for (const test of module.children.allTests()) {
    const { state } = test.result();
    counts[state === "pending" ? "skipped" : state]++;
  }
  for (const suite of [module, ...module.children.allSuites()]) {
    if (suite.errors().length > 0) counts.failed++;
  }
  return counts;
}

function write(file: URL, text: string): void {
  mkdirSync(new URL(".", file), { recursive: true });
  writeFileSync(file, `${text}\n`);
}
