import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { Driver } from "#src/runtime/driver.ts";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import { SUITE } from "./driver-rig.ts";
import { counter, journal, KILLED_UNLOCK, payloads } from "./kill-records.ts";

const KILLS = process.env["SKEIN_LONG"] === "1" ? 200 : 20;
/** The first life dies after this many acknowledgements, later ones after more: from the first batch to well under way. */
const FIRST_ACKNOWLEDGED = 1;
const ACKNOWLEDGED_STEP = 7;
const ACKNOWLEDGED_CYCLE = 150;

const script = fileURLToPath(new URL("./kill-writer.ts", import.meta.url));

/** Runs the writer and kills it once it has acknowledged `enough`. @returns All it acknowledged. */
function lifeOf(path: string, first: number, enough: number): Promise<number[]> {
  const writer = spawn(process.execPath, [script, path, `${first}`], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  let lines = 0;
  writer.stdout.setEncoding("utf8").on("data", (text: string) => {
    said += text;
    lines += text.split("\n").length - 1;
    if (lines >= enough) writer.kill("SIGKILL");
  });
  return new Promise((resolve, reject) => {
    writer.on("error", reject);
    writer.on("close", (_code, signal) => {
      if (signal !== "SIGKILL") reject(new Error(`the writer ended by itself: ${signal ?? "no signal"}`));
      resolve(said.split("\n").slice(0, -1).map(Number));
    });
  });
}

test(`RT22: ${KILLS} times killed: no acknowledged step is lost, none is there in part, and order holds`, async () => {
  const folder = await mkdtemp(join(tmpdir(), "skein-kill-"));
  const path = join(folder, "store");
  const acknowledged: number[] = [];
  let unacknowledged = 0;
  for (let kill = 0; kill < KILLS; kill++) {
    const enough = FIRST_ACKNOWLEDGED + ((kill * ACKNOWLEDGED_STEP) % ACKNOWLEDGED_CYCLE);
    const life = await lifeOf(path, kill * 100_000, enough);
    expect(life.length).toBeGreaterThanOrEqual(enough);
    acknowledged.push(...life);

    const driver = await Driver.open({
      host: levelStoreHost(path, { ballastBytes: 0 }),
      unlock: KILLED_UNLOCK,
      random: systemRandom,
      clock: systemClock,
      crypto: SUITE,
    });
    const steps = await driver.read(async (tx) => {
      const held: number[] = [];
      for (let from = 0; ; from = held.length) {
        const rows = await tx.rows(journal, "steps", { from, limit: 1_000 });
        for (const { n, value } of rows) expect(n).toBe(held.push(value) - 1);
        if (rows.length === 0) break;
      }
      expect((await tx.get(counter, "steps")) ?? 0).toBe(held.length);
      for (const step of held.slice(-500)) expect((await tx.get(payloads, `${step}`))?.step).toBe(step);
      return held;
    });
    await driver.close();
    expect(steps.filter((step, i) => i > 0 && step <= steps[i - 1]!)).toEqual([]);
    const held = new Set(steps);
    expect(acknowledged.filter((step) => !held.has(step))).toEqual([]);
    unacknowledged = steps.length - acknowledged.length;
  }
  // Some were on the disk that nobody had heard of yet: the kills did land in the middle of things.
  expect(unacknowledged).toBeGreaterThan(0);
  await rm(folder, { recursive: true });
}, 1_200_000);
