/**
 * A process on a volume that really fills up: writes records until there is no room, has the rest of the room taken by
 * another file, then makes room. Prints what it saw as JSON. Started by the tests with the volume's folder as argument.
 */
import { randomBytes } from "node:crypto";
import { closeSync, openSync, rmSync, writeSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { join } from "node:path";
import { bytes } from "#protocols/base/codec.ts";
import { nobleSuite } from "#protocols/base/noble.ts";
import { Driver, type DriverState } from "#src/runtime/driver.ts";
import { Failure } from "#src/runtime/failure.ts";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import { table } from "#src/runtime/records.ts";

const records = table({ name: "record", number: 1, version: 1, schema: bytes({ max: 100_000 }) });
const folder = process.argv[2]!;
const MIB = 1_048_576;
const filler = join(folder, "filler");

/** Takes every byte that is left. */
function fill(): void {
  const file = openSync(filler, "w");
  for (let size = MIB; size >= 1; size = Math.floor(size / 2)) {
    try {
      for (;;) writeSync(file, randomBytes(size));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
    }
  }
  closeSync(file);
}

// Blind at first, so that LevelDB itself meets the full disk; then the margin keeps what the ballast gave up.
let blind = true;
const freeBytes = async (path: string): Promise<number> => {
  const { bavail, bsize } = await statfs(path);
  return blind ? Infinity : bavail * bsize;
};
const driver = await Driver.open({
  host: levelStoreHost(join(folder, "store"), { marginBytes: 5 * MIB, ballastBytes: 4 * MIB, freeBytes }),
  unlock: { platformKey: new Uint8Array(32) },
  random: systemRandom,
  clock: systemClock,
  crypto: nobleSuite(),
  limits: { roomProbeMs: 50 },
});
const states: DriverState[] = [];
const entered = (wanted: DriverState): Promise<void> =>
  new Promise((resolve) => {
    if (driver.state === wanted) resolve();
    const stop = driver.onState((state) => {
      if (state !== wanted) return;
      stop();
      resolve();
    });
  });
driver.onState((state) => states.push(state));

const value = systemRandom(50_000);
const write = (key: string): Promise<string> =>
  driver
    .run([], async (tx) => tx.put(records, key, value))
    .then(
      () => "written",
      (error: unknown) => (error instanceof Failure ? error.code : String(error)),
    );

let acknowledged = 0;
let failed = "";
for (; failed === "";) {
  const outcome = await write(`record ${acknowledged}`);
  if (outcome === "written") acknowledged++;
  else failed = outcome;
  blind = failed === "";
  if (acknowledged === 100) fill();
}
await entered("full");
const refused = await write("refused");
const readWhileFull = (await driver.read((tx) => tx.get(records, "record 0"))) !== undefined;
// At least one probe finds the disk as full as before.
await entered("reopening");
await entered("full");
const seenFull = states.slice(0, 4);
rmSync(filler);
await entered("open");
const afterRoom = await write("after");

let missing = 0;
for (let i = 0; i < acknowledged; i++) {
  if ((await driver.read((tx) => tx.get(records, `record ${i}`))) === undefined) missing++;
}
await driver.close();
const report = { failed, refused, readWhileFull, afterRoom, missing, acknowledged, states: [...seenFull, "open"] };
process.stdout.write(`${JSON.stringify(report)}\n`);
