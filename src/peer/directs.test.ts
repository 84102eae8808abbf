import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { say } from "#protocols/conversation/direct.ts";
import { type Met, metInTheSimulator, type Parts, partsOf } from "#test/integration/peer-parts.ts";

import { Directs } from "./directs.ts";
import { outboxLog } from "./tables.ts";

/** More than the store hands out in one call. */
const LARGE_OUTBOX = 10_050;

let met: Met;
let bob: Parts;

beforeEach(async () => {
  met = await metInTheSimulator(11, 1);
  bob = await partsOf(met);
});
afterEach(() => bob.driver.close());

function write(text: string) {
  return bob.directs.step(met.alice, {}, (state, env) => say(state, { type: "message", text }, env, { later: true }));
}

describe("the outbox in memory", () => {
  test("is that of the disk at a start, however long", async () => {
    await write("held");
    const [row] = [...bob.directs.heldFor(met.alice).values()];
    const { n: _n, account: _account, ...value } = row!;
    await bob.driver.run([`direct:${met.alice}`], async (tx) => {
      for (let i = 1; i < LARGE_OUTBOX; i++) {
        const id = i.toString(16).padStart(64, "0") as typeof value.id;
        await tx.append(outboxLog, met.alice, { ...value, id, index: value.index + i });
      }
    });
    const next = new Directs(bob.world, { prepare: () => {}, outbound: () => {} });
    await next.load();
    expect(next.heldCount()).toBe(LARGE_OUTBOX);
    expect([...next.heldFor(met.alice).values()].map(({ index }) => index - value.index)).toEqual(
      Array.from({ length: LARGE_OUTBOX }, (_, i) => i),
    );
    // And after the store was opened anew.
    await bob.directs.reload();
    expect(bob.directs.heldCount()).toBe(LARGE_OUTBOX);
  });

  test("drops what is on the disk no more when it is read anew, and says so", async () => {
    await write("one");
    await write("two");
    const [one, two] = [...bob.directs.heldFor(met.alice).values()];
    await bob.driver.run([`direct:${met.alice}`], async (tx) => tx.deleteAt(outboxLog, met.alice, one!.n));
    expect(await bob.directs.reload()).toEqual(new Map([[met.alice, { settled: [one], recorded: [] }]]));
    expect(bob.directs.heldCount()).toBe(1);
    expect(bob.directs.held(one!.id)).toBeUndefined();
    expect(bob.directs.held(two!.id)).toEqual(two);
  });

  test("a step that is refused changes nothing", async () => {
    const before = met.disk.contents().length;
    const refused = await bob.directs.step(met.alice, {}, () => Promise.resolve({ type: "reject", code: "test/no" }));
    expect(refused).toEqual({ type: "reject", code: "test/no" });
    expect(bob.outcomes).toEqual([]);
    expect(met.disk.contents().length).toBe(before);
  });
});
