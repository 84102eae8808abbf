/** What tests of the driver share: a disk in memory, a clock by hand, seeded randomness and a gate before the sync. */
import { createHash } from "node:crypto";
import { nobleSuite } from "#protocols/base/noble.ts";
import { Driver, type DriverOptions } from "#src/runtime/driver.ts";
import { MemoryDisk } from "#src/runtime/memory-store.ts";
import type { Random } from "#src/runtime/ports.ts";
import { type FaultPlan, FaultyHost } from "./faulty-store.ts";
import { ManualClock } from "./manual-clock.ts";

export const UNLOCK = { platformKey: new Uint8Array(32).fill(7) };
export const SUITE = nobleSuite();

export function seededRandom(seed: string): Random {
  let counter = 0;
  return (length) => {
    const bytes = new Uint8Array(length);
    for (let offset = 0; offset < length; offset += 32) {
      bytes.set(
        createHash("sha256")
          .update(`${seed}:${counter++}`)
          .digest()
          .subarray(0, length - offset),
        offset,
      );
    }
    return bytes;
  };
}

/** Opens the driver on `disk` as a new process would. */
export async function openRig(
  options: {
    readonly disk?: MemoryDisk;
    readonly plan?: FaultPlan;
    readonly seed?: string;
  } & Partial<DriverOptions> = {},
): Promise<{
  readonly driver: Driver;
  readonly disk: MemoryDisk;
  readonly host: FaultyHost;
  readonly clock: ManualClock;
}> {
  const { disk = new MemoryDisk(), plan, seed = "rig", ...rest } = options;
  const clock = new ManualClock();
  const host = new FaultyHost(disk.attach(), plan);
  const driver = await Driver.open({
    host,
    clock,
    unlock: UNLOCK,
    random: seededRandom(seed),
    crypto: SUITE,
    ...rest,
  });
  return { driver, disk, host, clock };
}

/** Everything that only waits for promises has gone as far as it can. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Stands before the sync of a `MemoryDisk`: commits wait there while it is shut. */
export class SyncGate {
  #waiting: (() => void)[] = [];
  #shut = false;

  readonly sync = (): Promise<void> =>
    this.#shut ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve();

  shut(): void {
    this.#shut = true;
  }

  /** Lets through who waits, and all who come. */
  open(): void {
    this.#shut = false;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  get waiting(): number {
    return this.#waiting.length;
  }
}
