import { expect, test } from "vitest";
import { utf8 } from "#protocols/base/bytes.ts";
import { settled, SyncGate } from "#test/contracts/driver-rig.ts";
import { MemoryDisk } from "./memory-store.ts";

test.each([
  { keepUnsynced: false, left: ["synced"] },
  { keepUnsynced: true, left: ["synced", "unsynced"] },
])("a crash keeps what was synced, and of the rest what it is told: $keepUnsynced", async ({ keepUnsynced, left }) => {
  const gate = new SyncGate();
  const disk = new MemoryDisk({ sync: gate.sync });
  const store = await disk.attach().open();
  await store.commit([{ type: "put", key: utf8("a"), value: utf8("synced") }]);
  gate.shut();
  const calls: string[] = [];
  void store.commit([{ type: "put", key: utf8("b"), value: utf8("unsynced") }]).then(() => calls.push("commit"));
  await settled();
  // Not on the disk, not visible.
  expect(await store.get(utf8("b"))).toBeUndefined();
  disk.crash({ keepUnsynced });
  gate.open();
  await settled();
  expect(calls).toEqual([]);
  expect(disk.contents().map(([, value]) => value)).toEqual(left.map((text) => utf8(text)));
});

test("a dead process gets no answer, good or bad, and does not hold the store", async () => {
  const disk = new MemoryDisk();
  const host = disk.attach();
  const store = await host.open();
  disk.crash();
  const answers: string[] = [];
  const listen = (name: string, call: Promise<unknown>): void => {
    void call.then(
      () => answers.push(name),
      () => answers.push(name),
    );
  };
  listen("get", store.get(utf8("a")));
  listen("commit", store.commit([]));
  listen("close", store.close());
  listen("compact", store.compact());
  listen("open", host.open());
  await settled();
  expect(answers).toEqual([]);
  await (await disk.attach().open()).close();
});
