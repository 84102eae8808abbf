import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { MemoryDisk } from "#src/runtime/memory-store.ts";
import { FaultyHost } from "./faulty-store.ts";
import { storeContract } from "./store.contract.ts";

storeContract("memory", async () => {
  const disk = new MemoryDisk();
  return { host: disk.attach(), rival: disk.attach(), dispose: async () => {} };
});

storeContract("faulty, while nothing fails", async () => {
  const disk = new MemoryDisk();
  return { host: new FaultyHost(disk.attach()), rival: disk.attach(), dispose: async () => {} };
});

storeContract("LevelDB", async () => {
  const folder = await mkdtemp(join(tmpdir(), "skein-store-"));
  const path = join(folder, "store");
  const options = { ballastBytes: 4096 };
  return {
    host: levelStoreHost(path, options),
    rival: levelStoreHost(path, options),
    dispose: () => rm(folder, { recursive: true }),
  };
});
