import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { concat, toHex, utf8 } from "#protocols/base/bytes.ts";
import { struct, text, uint } from "#protocols/base/codec.ts";
import { openRig, settled, SUITE, SyncGate } from "#test/contracts/driver-rig.ts";
import type { RowRange, Tx } from "./driver.ts";
import { MemoryDisk } from "./memory-store.ts";
import { MAX_ROWS } from "./record-shelf.ts";
import { log, MARK_POSITION, rowKey, rowPosition, table } from "./records.ts";

const LONG = process.env["SKEIN_LONG"] === "1";

const plain = table({ name: "plain", number: 1, version: 1, schema: uint() });
const hot = table({ name: "hot", number: 2, version: 1, cached: true, schema: uint() });
const lines = log({ name: "lines", number: 3, version: 1, schema: uint() });

describe("logs", () => {
  test("RT13: a position is never given out again, deleted and restarted or not", async () => {
    const disk = new MemoryDisk();
    let { driver } = await openRig({ disk });
    const append = () => driver.run(["l"], (tx) => tx.append(lines, "p", 1));
    const remove = (...positions: number[]) =>
      driver.run(["l"], async (tx) => positions.forEach((n) => tx.deleteAt(lines, "p", n)));
    const restart = async (seed: string) => {
      await driver.close();
      ({ driver } = await openRig({ disk, seed }));
    };
    expect([await append(), await append(), await append()]).toEqual([0, 1, 2]);
    await remove(1);
    await restart("2");
    expect(await append()).toBe(3);
    await remove(0, 3, 2);
    await restart("3");
    expect(await driver.read((tx) => tx.rows(lines, "p"))).toEqual([]);
    expect(await append()).toBe(4);
    await restart("4");
    await remove(4);
    await restart("5");
    // A deletion of what is long gone does not move the mark back or forth.
    await remove(0, 1_000_000);
    await restart("6");
    expect(await append()).toBe(5);
    await driver.run(["l"], async (tx) => tx.putAt(lines, "p", 9, 9));
    expect(await append()).toBe(10);
  });

  test("RT13: a row appended and deleted in one step keeps its position", async () => {
    const disk = new MemoryDisk();
    const { driver } = await openRig({ disk });
    await driver.run(["l"], async (tx) => tx.deleteAt(lines, "p", await tx.append(lines, "p", 1)));
    await driver.close();
    const { driver: again } = await openRig({ disk, seed: "2" });
    expect(await again.run(["l"], (tx) => tx.append(lines, "p", 1))).toBe(1);
  });

  test("RT13: appends of one step side by side get positions of their own; parents do not share them", async () => {
    const { driver } = await openRig();
    const positions = await driver.run(["l"], (tx) =>
      Promise.all(["p", "p", "q", "p", "q"].map((parent) => tx.append(lines, parent, 0))),
    );
    expect(positions).toEqual([0, 1, 0, 2, 1]);
    expect(await driver.read((tx) => tx.rows(lines, "p"))).toHaveLength(3);
  });

  test("a long log is read in pages: without a limit too many rows are a mistake", async () => {
    const { driver } = await openRig();
    await driver.run(["l"], async (tx) => {
      for (let n = 0; n <= MAX_ROWS; n++) tx.putAt(lines, "p", n, n);
    });
    await expect(driver.read((tx) => tx.rows(lines, "p"))).rejects.toThrow("in pages");
    await expect(driver.read((tx) => tx.rows(lines, "p", { limit: MAX_ROWS + 1 }))).rejects.toThrow("row limit");
    expect(await driver.read((tx) => tx.rows(lines, "p", { limit: 2, reverse: true }))).toEqual([
      { n: MAX_ROWS, value: MAX_ROWS },
      { n: MAX_ROWS - 1, value: MAX_ROWS - 1 },
    ]);
  });

  test("row keys keep the order of positions over all 48 bits", () => {
    const prefix = new Uint8Array(9).fill(1);
    const position = fc.integer({ min: 0, max: MARK_POSITION });
    fc.assert(
      fc.property(position, position, (a, b) => {
        expect(rowPosition(rowKey(prefix, a))).toBe(a);
        const [left, right] = [toHex(rowKey(prefix, a)), toHex(rowKey(prefix, b))];
        expect(left < right).toBe(a < b);
      }),
    );
  });
});

describe("what a step sees", () => {
  type Op =
    | { readonly type: "append"; readonly value: number }
    | { readonly type: "putAt" | "put"; readonly at: number; readonly value: number }
    | { readonly type: "deleteAt" | "delete"; readonly at: number };
  type Move = { readonly ops: readonly Op[]; readonly gate: "shut" | "open" | "stay" };
  const value = fc.nat(1000);
  const at = fc.nat(7);
  const op: fc.Arbitrary<Op> = fc.oneof(
    fc.record({ type: fc.constant("append" as const), value }),
    fc.record({ type: fc.constantFrom("putAt" as const, "put" as const), at, value }),
    fc.record({ type: fc.constantFrom("deleteAt" as const, "delete" as const), at }),
  );
  const move: fc.Arbitrary<Move> = fc.record({
    ops: fc.array(op, { maxLength: 5 }),
    gate: fc.constantFrom("shut", "open", "stay"),
  });
  const ranges: RowRange[] = [{}, { reverse: true }, { limit: 2 }, { reverse: true, limit: 3 }, { from: 2, to: 5 }];
  ranges.push({ from: 3, limit: 1 }, { to: 4, reverse: true, limit: 2 }, { from: 5, to: 5 });

  /** The same in plain memory. */
  class Model {
    readonly rows = new Map<number, number>();
    readonly points = new Map<string, number>();
    next = 0;

    apply(op: Op): void {
      if (op.type === "append") this.rows.set(this.next++, op.value);
      else if (op.type === "putAt") {
        this.rows.set(op.at, op.value);
        this.next = Math.max(this.next, op.at + 1);
      } else if (op.type === "deleteAt") this.rows.delete(op.at);
      else if (op.type === "put") this.points.set(`${op.at}`, op.value);
      else this.points.delete(`${op.at}`);
    }

    range({ from = 0, to = Infinity, reverse = false, limit = Infinity }: RowRange): unknown[] {
      const rows = [...this.rows].filter(([n]) => n >= from && n < to).sort(([a], [b]) => a - b);
      if (reverse) rows.reverse();
      return rows.slice(0, limit).map(([n, value]) => ({ n, value }));
    }
  }

  async function apply(tx: Tx, op: Op): Promise<void> {
    if (op.type === "append") await tx.append(lines, "p", op.value);
    else if (op.type === "putAt") tx.putAt(lines, "p", op.at, op.value);
    else if (op.type === "deleteAt") tx.deleteAt(lines, "p", op.at);
    else {
      for (const kind of [plain, hot]) {
        if (op.type === "put") tx.put(kind, `${op.at}`, op.value);
        else tx.delete(kind, `${op.at}`);
      }
    }
  }

  async function compare(tx: Pick<Tx, "get" | "rows" | "values">, model: Model): Promise<void> {
    for (const range of ranges) expect(await tx.rows(lines, "p", range)).toEqual(model.range(range));
    for (const kind of [plain, hot]) {
      for (let key = 0; key <= 7; key++) expect(await tx.get(kind, `${key}`)).toBe(model.points.get(`${key}`));
      const sorted = [...(await tx.values(kind))].sort((a, b) => a - b);
      expect(sorted).toEqual([...model.points.values()].sort((a, b) => a - b));
    }
  }

  test("RT5: is the same, whether it stands in the step, the batch, the commit under way or the store", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(move, { maxLength: 12 }), async (moves) => {
        const gate = new SyncGate();
        const disk = new MemoryDisk({ sync: gate.sync });
        const { driver } = await openRig({ disk, limits: { cachedRecords: 3, logPositions: 1 } });
        const model = new Model();
        const runs: Promise<void>[] = [];
        for (const { ops, gate: turn } of moves) {
          if (turn === "shut") gate.shut();
          if (turn === "open") gate.open();
          const step = driver.run(["all"], async (tx) => {
            for (const one of ops) {
              await apply(tx, one);
              model.apply(one);
              if (one.type === "append") await tx.append(lines, "other", 0);
            }
            await compare(tx, model);
          });
          runs.push(step);
          // Not awaited to its end, which stands behind the gate; only until its body is done.
          await Promise.race([step, settled()]);
        }
        gate.open();
        await Promise.all(runs);
        await driver.read((tx) => compare(tx, model));
        await driver.close();
        const { driver: again } = await openRig({ disk, seed: "again" });
        await again.read((tx) => compare(tx, model));
        expect(await again.run(["all"], (tx) => tx.append(lines, "p", 0))).toBe(model.next);
      }),
      { numRuns: LONG ? 1_000 : 25 },
    );
  });
});

describe("schemas", () => {
  const v1 = table({ name: "thing", number: 5, version: 1, schema: struct({ name: text(20) }) });
  const v2 = table({
    name: "thing",
    number: 5,
    version: 2,
    schema: struct({ name: text(20), age: uint() }),
    older: [{ version: 1, schema: v1.schema, upgrade: (old: { name: string }) => ({ ...old, age: 0 }) }],
  });

  test("RT14: older records are read as the newest and stay older on the disk until written", async () => {
    const disk = new MemoryDisk();
    const { driver } = await openRig({ disk });
    await driver.run([], async (tx) => tx.put(v1, "a", { name: "old" }));
    expect(await driver.read((tx) => tx.get(v2, "a"))).toEqual({ name: "old", age: 0 });
    expect(await driver.read((tx) => tx.get(v1, "a"))).toEqual({ name: "old" });
    await driver.run([], async (tx) => tx.put(v2, "a", { name: "new", age: 3 }));
    expect(await driver.read((tx) => tx.get(v2, "a"))).toEqual({ name: "new", age: 3 });
    await expect(driver.read((tx) => tx.get(v1, "a"))).rejects.toMatchObject({ code: "store/unknown-schema" });
  });

  test("RT17: a record that does not open or decode is store/damaged-record, and the rest goes on", async () => {
    const disk = new MemoryDisk();
    const { driver } = await openRig({ disk });
    await driver.run([], async (tx) => {
      tx.put(plain, "a", 1);
      tx.put(plain, "b", 2);
    });
    const wrong = table({ name: "plain", number: 1, version: 1, schema: text(5) });
    await expect(driver.read((tx) => tx.get(wrong, "a"))).rejects.toMatchObject({ code: "store/damaged-record" });
    expect(await driver.read((tx) => tx.get(plain, "b"))).toBe(2);
  });

  test("RT15: tables are declared within their numbers and versions", () => {
    const schema = uint();
    expect(() => table({ name: "x", number: 0, version: 1, schema })).toThrow("number");
    expect(() => table({ name: "x", number: 240, version: 1, schema })).toThrow("number");
    expect(() => log({ name: "x", number: 1, version: 0, schema })).toThrow("version");
    const older = [{ version: 1, schema, upgrade: (value: number) => value }];
    expect(() => log({ name: "x", number: 1, version: 1, schema, older })).toThrow("older");
  });
});

describe("at rest", () => {
  const secrets = table({ name: "secret-table-name", number: 9, version: 1, schema: struct({ text: text(200) }) });
  const diary = log({ name: "secret-log-name", number: 10, version: 1, schema: struct({ text: text(200) }) });

  test("RT18: the disk holds no plaintext, name, id or key, nor anything that two stores share", async () => {
    const id = "0123456789abcdef".repeat(4);
    const words = ["Meet me at the old bridge", "alice@example.org", id];
    const secretBytes: Uint8Array[] = [];
    const hkdf = (options: Parameters<typeof SUITE.hkdf>[0]) => {
      const key = SUITE.hkdf(options);
      secretBytes.push(options.ikm.slice(), key.slice());
      return key;
    };
    const fill = async (seed: string) => {
      const rig = await openRig({ seed, crypto: { ...SUITE, hkdf } });
      await rig.driver.run([], async (tx) => {
        for (const word of words) {
          tx.put(secrets, word, { text: word });
          await tx.append(diary, word, { text: word });
        }
      });
      await rig.driver.close();
      return rig.disk.contents();
    };
    const mine = await fill("mine");
    const blob = toHex(concat(...mine.flat()));
    const forbidden = [...words, secrets.name, diary.name].map((word) => toHex(utf8(word)));
    for (const needle of [...forbidden, id, ...secretBytes.map(toHex)]) expect(blob.includes(needle)).toBe(false);
    expect(secretBytes.length).toBeGreaterThan(4);
    // What can be seen: how many records each table number has, and that rows of one parent belong together.
    expect(mine.map(([key]) => key[0])).toEqual([0, 9, 9, 9, 10, 10, 10]);
    const theirs = await fill("theirs");
    const shared = new Set(mine.map(([key]) => toHex(key)));
    expect(theirs.filter(([key]) => shared.has(toHex(key))).map(([key]) => toHex(key))).toEqual(["00"]);
  });

  test("RT21: a changed passphrase or platform key takes over, in a driver that runs", async () => {
    const { driver, disk, host } = await openRig();
    await driver.run([], async (tx) => tx.put(plain, "a", 1));
    const next = { platformKey: new Uint8Array(32).fill(8) };
    const current = { platformKey: new Uint8Array(32).fill(7) };
    await expect(driver.changeUnlock(next, next)).rejects.toMatchObject({ code: "vault/wrong-passphrase" });
    const commits = host.commits;
    await driver.changeUnlock(current, next);
    expect(host.commits).toBe(commits + 1);
    expect(await driver.run([], (tx) => tx.get(plain, "a"))).toBe(1);
    await driver.close();
    await expect(openRig({ disk })).rejects.toMatchObject({ code: "vault/wrong-passphrase" });
    const { driver: again } = await openRig({ disk, unlock: next });
    expect(await again.read((tx) => tx.get(plain, "a"))).toBe(1);
  });

  test("RT21: a changed key whose commit fails after all leaves a store that goes on", async () => {
    for (const fault of ["unknown-kept", "unknown-lost"] as const) {
      let failAt = -1;
      const { driver, host } = await openRig({ plan: { faultAt: (n) => (n === failAt ? fault : undefined) } });
      failAt = host.commits;
      const next = { platformKey: new Uint8Array(32).fill(8) };
      const change = driver.changeUnlock({ platformKey: new Uint8Array(32).fill(7) }, next);
      await expect(change).rejects.toMatchObject({ code: "store/unknown-outcome" });
      await driver.run([], async (tx) => tx.put(plain, "a", 1));
      expect(driver.state).toBe("open");
    }
  });
});
