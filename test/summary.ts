import { mkdirSync, writeFileSync } from "node:fs";
import type { Reporter, SerializedError, TestModule } from "vitest/node";

/** Where `.ci/run` finds the closing line of the last run. */
const SUMMARY = new URL("../node_modules/.cache/skein/summary.txt", import.meta.url);

/**
 * The last line of a run: `N passed, N failed, N skipped`. A file that could not be loaded, a hook that failed (its
 * tests are then skipped) and an error outside any test count as failed, so that a run can't look better than it was.
 */
export default class Summary implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly SerializedError[]): void {
    const count = { passed: 0, failed: unhandledErrors.length, skipped: 0, pending: 0 };
    for (const module of modules) {
      for (const test of module.children.allTests()) count[test.result().state]++;
      for (const suite of [module, ...module.children.allSuites()]) {
        if (suite.errors().length > 0) count.failed++;
      }
    }
    const line = `${count.passed} passed, ${count.failed} failed, ${count.skipped + count.pending} skipped`;
    mkdirSync(new URL(".", SUMMARY), { recursive: true });
    writeFileSync(SUMMARY, `${line}\n`);
    process.stdout.write(`${line}\n`);
  }
}
