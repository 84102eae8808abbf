import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { fromHex, toHex } from "#protocols/base/bytes.ts";
import { struct, text, uint } from "#protocols/base/codec.ts";
import { openRig, UNLOCK } from "#test/contracts/driver-rig.ts";
import { MemoryDisk } from "./memory-store.ts";
import { log, table } from "./records.ts";

/**
 * `vitest run src/runtime/stored-bytes -u` writes it anew (in this order: `-u` takes for its own what follows it). It must
 * not change while version 1 lives: these are the bytes on people's disks.
 */
const FILE = new URL("./vectors/store.json", import.meta.url);

const notes = table({ name: "note", number: 1, version: 3, schema: struct({ text: text(64), n: uint() }) });
const lines = log({ name: "line", number: 2, version: 1, schema: text(64) });

const PASSPHRASE = { passphrase: "correct horse battery staple" };

async function write(unlock: typeof UNLOCK | typeof PASSPHRASE): Promise<MemoryDisk> {
  const { driver, disk } = await openRig({ unlock, seed: "stored bytes" });
  await driver.run([], async (tx) => {
    tx.put(notes, "first", { text: "hello", n: 1 });
    tx.put(notes, "second", { text: "", n: 2 ** 40 });
    for (const line of ["zero", "one", "two"]) await tx.append(lines, "parent", line);
  });
  await driver.run([], async (tx) => tx.deleteAt(lines, "parent", 2));
  await driver.close();
  return disk;
}

function listed(disk: MemoryDisk): (readonly [string, string])[] {
  return disk.contents().map(([key, value]) => [toHex(key), toHex(value)] as const);
}

test("RT14: the bytes of version 1 are these", async () => {
  const made = { platformKey: listed(await write(UNLOCK)), passphrase: listed(await write(PASSPHRASE)) };
  await expect(`${JSON.stringify(made, null, 2)}\n`).toMatchFileSnapshot(FILE.pathname);
});

test.each([
  ["platformKey", UNLOCK],
  ["passphrase", PASSPHRASE],
] as const)("RT14: a store of version 1 opens: %s", async (kind, unlock) => {
  const vectors = JSON.parse(await readFile(FILE, "utf8")) as Record<string, [string, string][]>;
  const disk = new MemoryDisk();
  const store = await disk.attach().open();
  await store.commit(
    vectors[kind]!.map(([key, value]) => ({ type: "put", key: fromHex(key)!, value: fromHex(value)! })),
  );
  await store.close();
  const { driver } = await openRig({ disk, unlock, seed: "later" });
  await driver.read(async (tx) => {
    expect(await tx.get(notes, "first")).toEqual({ text: "hello", n: 1 });
    expect(await tx.get(notes, "second")).toEqual({ text: "", n: 2 ** 40 });
    expect(await tx.rows(lines, "parent")).toEqual([
      { n: 0, value: "zero" },
      { n: 1, value: "one" },
    ]);
  });
  expect(await driver.run([], (tx) => tx.append(lines, "parent", "three"))).toBe(3);
  await driver.close();
});
