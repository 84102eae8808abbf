/**
 * Writes steps over LevelDB until it is killed, and says on stdout which were acknowledged: one number a line, written
 * synchronously after `run` resolved. Started by the tests with the store's folder and the first number as arguments.
 */
import { writeSync } from "node:fs";
import { nobleSuite } from "#protocols/base/noble.ts";
import { Driver } from "#src/runtime/driver.ts";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import { KILLED_UNLOCK, writeStep } from "./kill-records.ts";

/** Enough that a batch has several steps while the one before is being synced. */
const CONCURRENT = 16;

const driver = await Driver.open({
  host: levelStoreHost(process.argv[2]!, { ballastBytes: 0 }),
  unlock: KILLED_UNLOCK,
  random: systemRandom,
  clock: systemClock,
  crypto: nobleSuite(),
});

let next = Number(process.argv[3]);
async function work(): Promise<never> {
  for (;;) {
    const step = next++;
    await writeStep(driver, step);
    writeSync(1, `${step}\n`);
  }
}
await Promise.all(Array.from({ length: CONCURRENT }, work));
