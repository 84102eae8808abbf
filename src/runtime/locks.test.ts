import fc from "fast-check";
import { expect, test } from "vitest";
import { Locks } from "./locks.ts";

const RUNS = process.env["SKEIN_LONG"] === "1" ? 5_000 : 300;

test("RT4: holders of one name never overlap, disjoint ones do, and nobody waits for ever", async () => {
  const names = fc.uniqueArray(fc.constantFrom("a", "b", "c", "d"));
  await fc.assert(
    fc.asyncProperty(fc.array(fc.record({ names, turns: fc.nat(5) }), { maxLength: 40 }), async (requests) => {
      const locks = new Locks();
      const held = new Set<string>();
      const order: number[] = [];
      await Promise.all(
        requests.map(async ({ names, turns }, i) => {
          const release = await locks.acquire(names);
          for (const name of names) {
            expect(held.has(name)).toBe(false);
            held.add(name);
          }
          order.push(i);
          for (let turn = 0; turn < turns; turn++) await Promise.resolve();
          for (const name of names) held.delete(name);
          release();
        }),
      );
      expect(order).toHaveLength(requests.length);
      // First come, first served: of two that share a name the earlier goes first.
      for (const [at, later] of order.entries()) {
        for (const earlier of order.slice(at + 1)) {
          if (earlier > later) continue;
          expect(requests[earlier]!.names.some((name) => requests[later]!.names.includes(name))).toBe(false);
        }
      }
    }),
    { numRuns: RUNS },
  );
});

test("RT4: a request waits for all its names, and those behind it do not overtake it", async () => {
  const locks = new Locks();
  const granted: string[] = [];
  const holdA = await locks.acquire(["a"]);
  const both = locks.acquire(["a", "b"]).then((release) => (granted.push("a+b"), release));
  const lateB = locks.acquire(["b"]).then((release) => (granted.push("b"), release));
  const other = locks.acquire(["c"]).then((release) => (granted.push("c"), release));
  (await other)();
  expect(granted).toEqual(["c"]);
  holdA();
  (await both)();
  (await lateB)();
  expect(granted).toEqual(["c", "a+b", "b"]);
});

test("no names are granted at once, and releasing twice is a mistake", async () => {
  const release = await new Locks().acquire([]);
  release();
  expect(release).toThrow("released once");
});
