/**
 * What every implementation of the `Store` port must do. Called by one test file an implementation; the property at the end
 * compares it with a plain sorted map.
 */
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { compareBytes, toHex, utf8 } from "#protocols/base/bytes.ts";
import type { Store, StoreHost, StoreOperation, StoreRange } from "#src/runtime/ports.ts";

export type StoreUnderTest = {
  readonly host: StoreHost;
  /** Another process of the same machine. */
  readonly rival: StoreHost;
  dispose(): Promise<void>;
};

const RUNS = process.env["SKEIN_LONG"] === "1" ? 300 : 20;

const put = (key: string, value = key): StoreOperation => ({ type: "put", key: utf8(key), value: utf8(value) });
const drop = (key: string): StoreOperation => ({ type: "delete", key: utf8(key) });
const EVERYTHING: StoreRange = { from: new Uint8Array(0), to: new Uint8Array(32).fill(0xff) };

async function listed(store: Store, range: StoreRange = EVERYTHING): Promise<string[]> {
  const found: string[] = [];
  for await (const [key, value] of store.entries(range)) found.push(`${toHex(key)}=${toHex(value)}`);
  return found;
}

function row(key: string, value = key): string {
  return `${toHex(utf8(key))}=${toHex(utf8(value))}`;
}

export function storeContract(name: string, make: () => Promise<StoreUnderTest>): void {
  describe(`store contract: ${name}`, () => {
    let under: StoreUnderTest;
    let store: Store;
    beforeEach(async () => {
      under = await make();
      store = await under.host.open();
    });
    afterEach(async () => {
      await store.close();
      await under.dispose();
    });

    async function reopen(): Promise<void> {
      await store.close();
      store = await under.host.open();
    }

    test("what was committed is read, and a missing key is undefined", async () => {
      await store.commit([put("a", "1"), put("b", "")]);
      expect(await store.get(utf8("a"))).toEqual(utf8("1"));
      expect(await store.get(utf8("b"))).toEqual(utf8(""));
      expect(await store.get(utf8("c"))).toBeUndefined();
    });

    test("a later commit replaces and deletes; deleting what is not there is fine", async () => {
      await store.commit([put("a", "1"), put("b", "1")]);
      await store.commit([put("a", "2"), drop("b"), drop("never")]);
      expect(await listed(store)).toEqual([row("a", "2")]);
    });

    test("within one commit the last operation on a key wins", async () => {
      await store.commit([put("a", "1"), drop("a"), put("b", "1"), put("b", "2")]);
      expect(await listed(store)).toEqual([row("b", "2")]);
    });

    test("an empty commit is a commit", async () => {
      await store.commit([]);
      expect(await listed(store)).toEqual([]);
    });

    test("keys stand in the order of their bytes, shorter first, and any byte may be in them", async () => {
      const keys = [[], [0], [0, 0], [0, 255], [1], [127], [128], [255], [255, 0], [255, 255]]
        .slice(1)
        .map((key) => Uint8Array.from(key));
      await store.commit(keys.toReversed().map((key) => ({ type: "put", key, value: key })));
      const found: Uint8Array[] = [];
      for await (const [key] of store.entries(EVERYTHING)) found.push(Uint8Array.from(key));
      expect(found).toEqual(keys);
    });

    test("a range holds its first key and not its end, both ways, within the limit", async () => {
      await store.commit(["a", "b", "c", "d", "e"].map((key) => put(key)));
      const range = { from: utf8("b"), to: utf8("e") };
      expect(await listed(store, range)).toEqual(["b", "c", "d"].map((key) => row(key)));
      expect(await listed(store, { ...range, reverse: true })).toEqual(["d", "c", "b"].map((key) => row(key)));
      expect(await listed(store, { ...range, limit: 2 })).toEqual(["b", "c"].map((key) => row(key)));
      expect(await listed(store, { ...range, reverse: true, limit: 1 })).toEqual([row("d")]);
      expect(await listed(store, { from: utf8("e"), to: utf8("b") })).toEqual([]);
      expect(await listed(store, { from: utf8("b"), to: utf8("b") })).toEqual([]);
    });

    test("a range left early leaves nothing open", async () => {
      await store.commit(["a", "b", "c"].map((key) => put(key)));
      for await (const _ of store.entries(EVERYTHING)) break;
      await reopen();
      expect(await listed(store)).toHaveLength(3);
    });

    test("a range that has begun does not see later commits", async () => {
      await store.commit(["a", "b", "c"].map((key) => put(key)));
      const found: string[] = [];
      for await (const [key] of store.entries(EVERYTHING)) {
        if (found.length === 0) await store.commit([drop("c"), put("d")]);
        found.push(toHex(key));
      }
      expect(found).toEqual(["a", "b", "c"].map((key) => toHex(utf8(key))));
    });

    test("what is handed in and out may be changed afterwards", async () => {
      const key = utf8("a");
      const value = utf8("1");
      await store.commit([{ type: "put", key, value }]);
      key.fill(0);
      value.fill(0);
      (await store.get(utf8("a")))!.fill(0);
      expect(await listed(store)).toEqual([row("a", "1")]);
    });

    test("everything is there after reopening, and closing twice is fine", async () => {
      await store.commit([put("a", "1"), put("b", "2")]);
      await store.commit([drop("a")]);
      await store.close();
      await reopen();
      expect(await listed(store)).toEqual([row("b", "2")]);
    });

    test("a closed store answers nothing: store/closed", async () => {
      await store.close();
      const closed = { name: "Failure", code: "store/closed" };
      await expect(store.get(utf8("a"))).rejects.toMatchObject(closed);
      await expect(store.commit([put("a")])).rejects.toMatchObject(closed);
      await expect(listed(store)).rejects.toMatchObject(closed);
      await expect(store.compact()).rejects.toMatchObject(closed);
    });

    test("one opener at a time: store/locked, retryable, and free again after closing", async () => {
      await expect(under.rival.open()).rejects.toMatchObject({ code: "store/locked", retryable: true });
      await store.close();
      const other = await under.rival.open();
      await other.close();
      store = await under.host.open();
    });

    test("compacting changes nothing that is read", async () => {
      await store.commit(["a", "b", "c"].map((key) => put(key)));
      await store.commit([drop("b")]);
      await store.compact({ from: utf8("a"), to: utf8("c") });
      await store.compact();
      expect(await listed(store)).toEqual([row("a"), row("c")]);
    });

    test("a value of a megabyte comes back whole", async () => {
      const value = Uint8Array.from({ length: 1_048_576 }, (_, i) => (i * 31) & 0xff);
      await store.commit([{ type: "put", key: utf8("big"), value }]);
      await reopen();
      expect(compareBytes((await store.get(utf8("big")))!, value)).toBe(0);
    });

    test("random commits and reopenings leave what a sorted map has", async () => {
      const key = fc.uint8Array({ minLength: 1, maxLength: 3 });
      const operation = fc.oneof(
        fc.record({ type: fc.constant("put" as const), key, value: fc.uint8Array({ maxLength: 40 }) }),
        fc.record({ type: fc.constant("delete" as const), key }),
      );
      const commits = fc.array(fc.oneof({ weight: 5, arbitrary: fc.array(operation) }, fc.constant("reopen" as const)));
      await fc.assert(
        fc.asyncProperty(commits, key, key, async (script, from, to) => {
          const expected = new Map<string, string>();
          const left: StoreOperation[] = [];
          for await (const [stored] of store.entries(EVERYTHING)) left.push({ type: "delete", key: stored });
          await store.commit(left);
          for (const operations of script) {
            if (operations === "reopen") {
              await reopen();
              continue;
            }
            await store.commit(operations);
            for (const one of operations) {
              if (one.type === "put") expected.set(toHex(one.key), toHex(one.value));
              else expected.delete(toHex(one.key));
            }
          }
          const inRange = [...expected]
            .filter(([name]) => name >= toHex(from) && name < toHex(to))
            .sort(([a], [b]) => (a < b ? -1 : 1))
            .map(([name, value]) => `${name}=${value}`);
          expect(await listed(store, { from, to })).toEqual(inRange);
          expect(await listed(store, { from, to, reverse: true })).toEqual(inRange.toReversed());
        }),
        { numRuns: RUNS },
      );
    });
  });
}
