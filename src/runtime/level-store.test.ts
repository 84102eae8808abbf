import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, rm, stat, unlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { utf8 } from "#protocols/base/bytes.ts";
import { levelStoreHost, repairLevelStore } from "./level-store.ts";
import type { StoreOperation } from "./ports.ts";

const run = promisify(execFile);

let folder: string;
let path: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "skein-level-"));
  path = join(folder, "store");
});
afterEach(() => rm(folder, { recursive: true }));

const MIB = 1_048_576;
const script = fileURLToPath(new URL("../../test/contracts/full-disk.ts", import.meta.url));
const MOUNT = ["--user", "--map-root-user", "--mount"];
const canMount = await run("unshare", [...MOUNT, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/tmp"]).then(
  () => true,
  () => false,
);

function put(key: string, bytes = 10): StoreOperation {
  return { type: "put", key: utf8(key), value: new Uint8Array(bytes).fill(1) };
}

describe("a disk that fills up", () => {
  function limited(free: { bytes: number }) {
    return levelStoreHost(path, { marginBytes: 2 * MIB, ballastBytes: MIB, freeBytes: async () => free.bytes });
  }

  test("RT9: below the margin what puts is refused, what makes room is not, and nothing breaks", async () => {
    const free = { bytes: 100 * MIB };
    const host = limited(free);
    let store = await host.open();
    await store.commit([put("a"), put("b")]);
    free.bytes = 2 * MIB - 1;
    // Asked again only after a while: the answer may be old by as much as is written meanwhile.
    await store.commit([put("c", MIB)]);
    await expect(store.commit([put("d")])).rejects.toMatchObject({ code: "store/full", retryable: true });
    await expect(store.get(utf8("a"))).rejects.toMatchObject({ code: "store/closed" });
    await store.close();
    store = await host.open();
    expect(await store.get(utf8("d"))).toBeUndefined();
    await store.commit([{ type: "delete", key: utf8("a") }, { type: "delete", key: utf8("b") }, put("mark")]);
    free.bytes = 100 * MIB;
    await store.commit([put("d")]);
    expect(await store.get(utf8("d"))).toBeDefined();
    await store.close();
  });

  test("RT9: a commit that would take the last of the margin is refused before it", async () => {
    const store = await limited({ bytes: 3 * MIB }).open();
    await expect(store.commit([put("big", MIB + 1)])).rejects.toMatchObject({ code: "store/full" });
    await store.close();
  });

  test("the ballast takes room of its own, and is not laid where there is none", async () => {
    const free = { bytes: 2 * MIB };
    await (await limited(free).open()).close();
    await expect(stat(`${path}.ballast`)).rejects.toMatchObject({ code: "ENOENT" });
    free.bytes = 100 * MIB;
    await (await limited(free).open()).close();
    const ballast = await stat(`${path}.ballast`);
    expect(ballast.size).toBe(MIB);
    expect(ballast.blocks * 512).toBeGreaterThanOrEqual(MIB);
    expect(ballast.mode & 0o777).toBe(0o600);
    expect((await stat(path)).mode & 0o777).toBe(0o700);
  });

  test.skipIf(!canMount)(
    "RT9: really: LevelDB meets it, the ballast goes, room comes: nothing acknowledged is lost",
    async () => {
      const command = `mount -t tmpfs -o size=24m tmpfs "$1" && exec "$2" "$3" "$1"`;
      const shell = ["sh", "-c", command, "sh", folder, process.execPath, script];
      const { stdout } = await run("unshare", [...MOUNT, ...shell], { timeout: 15_000 });
      const seen = JSON.parse(stdout) as Record<string, unknown>;
      expect(seen).toMatchObject({ failed: "store/full", refused: "store/full", readWhileFull: true, missing: 0 });
      expect(seen["states"]).toEqual(["reopening", "full", "reopening", "full", "open"]);
      expect(seen["acknowledged"]).toBeGreaterThan(20);
      expect(seen["afterRoom"]).toBe("written");
    },
  );
});

describe("damage", () => {
  test("a store whose manifest is gone is store/damaged, and repairing brings the records back", async () => {
    const store = await levelStoreHost(path).open();
    for (let i = 0; i < 100; i++) await store.commit([put(`key ${i}`)]);
    await store.close();
    for (const file of await readdir(path)) if (file.startsWith("MANIFEST")) await unlink(join(path, file));
    await expect(levelStoreHost(path).open()).rejects.toMatchObject({ code: "store/damaged" });
    await repairLevelStore(path);
    const repaired = await levelStoreHost(path).open();
    for (let i = 0; i < 100; i++) expect(await repaired.get(utf8(`key ${i}`))).toBeDefined();
    await repaired.close();
  });

  test("RT20: a store that has lost its CURRENT file is not taken for a new one", async () => {
    const store = await levelStoreHost(path).open();
    await store.commit([put("a")]);
    await store.close();
    await unlink(join(path, "CURRENT"));
    const before = await readdir(path);
    await expect(levelStoreHost(path).open()).rejects.toMatchObject({ code: "store/damaged" });
    expect(await readdir(path)).toEqual(before);
    await repairLevelStore(path);
    const repaired = await levelStoreHost(path).open();
    expect(await repaired.get(utf8("a"))).toBeDefined();
    await repaired.close();
  });

  test("a store that died while it was made is made again", async () => {
    await mkdir(path);
    for (const file of ["LOCK", "LOG", "MANIFEST-000001", "000003.log"]) await writeFile(join(path, file), "");
    const store = await levelStoreHost(path).open();
    await store.commit([put("a")]);
    await store.close();
  });

  test("a path that cannot be a store is a failure, not a hang", async () => {
    await writeFile(path, "");
    await expect(levelStoreHost(path).open()).rejects.toMatchObject({ name: "Failure", code: "store/failed" });
  });
});
