import { afterEach, beforeEach, describe, expect, test } from "vitest";

import type { PeerId, TopicId } from "#protocols/base/ids.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import { concat } from "#protocols/base/bytes.ts";
import {
  inspectEnvelope,
  openEnvelope,
  openRoot,
  periodAt,
  sealEnvelope,
  topicKeys,
  type TopicKeys,
} from "#protocols/envelope/envelope.ts";
import { decodePayload } from "#protocols/conversation/message.ts";
import { MAX_PARKED } from "#src/peer/tables.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import { type Gossiped, type Met, metInTheSimulator, type Parts, partsOf } from "#test/integration/peer-parts.ts";

const LONG = process.env["SKEIN_LONG"] === "1";
const MUTATIONS = LONG ? 100_000 : 3_000;
const DAY_MS = 86_400_000;
const SOMEBODY = "somebody" as PeerId;

let met: Met;
let bob: Parts;

beforeEach(async () => {
  met = await metInTheSimulator(3, 5);
  bob = await partsOf(met);
});
afterEach(() => bob.driver.close());

function disk(): string {
  return met.disk
    .contents()
    .map(([key, value]) => Buffer.concat([key, value]).toString("base64"))
    .join();
}

/** The gossip's verdict, once everything that follows from it has happened. */
async function verdict({ topic, envelope }: Gossiped): Promise<string> {
  const said = await bob.inbound.validate(topic, envelope, SOMEBODY);
  const info = inspectEnvelope(met.crypto, envelope);
  if (!isReject(info)) await bob.inbound.seen(info.id);
  return said;
}

function env() {
  return { now: met.now, random: bob.world.random, crypto: met.crypto };
}

/** The topic alice writes on, with its keys: every member has them. */
function topic(): TopicKeys {
  const written = met.unseen.at(-1)!.topic;
  const keys = bob.topics.of(met.alice).find(({ id }) => id === written);
  assert(keys, "bob hears what alice writes on");
  return keys;
}

async function sealed(keys: TopicKeys, payload: Uint8Array): Promise<Gossiped> {
  const { bytes } = await sealEnvelope({ topic: keys, kind: "stored", lifetime: "month", payload }, env());
  return { topic: keys.id, envelope: bytes };
}

async function foreignKeys(): Promise<TopicKeys> {
  const root = { version: 1, secret: new Uint8Array(32).fill(9), createdAt: met.now };
  const chain = openRoot(met.crypto, root);
  return topicKeys(met.crypto, chain, periodAt(chain, met.now));
}

async function unseenPayloads(): Promise<readonly Uint8Array[]> {
  return Promise.all(
    met.unseen
      .filter(({ envelope }) => kindOf(envelope) === "stored")
      .map(async ({ envelope }) => {
        const opened = await openEnvelope(met.crypto, topic(), envelope);
        assert(!isReject(opened), "bob can open what alice says");
        return opened.payload;
      }),
  );
}

function kindOf(envelope: Uint8Array): string {
  const info = inspectEnvelope(met.crypto, envelope);
  return isReject(info) ? info.code : info.kind;
}

function counted(): number {
  return [...bob.inbound.rejects.values()].reduce((sum, count) => sum + count, 0);
}

describe("at the door", () => {
  test("what is new is taken in", async () => {
    for (const gossiped of met.unseen) expect(await verdict(gossiped)).toBe("accept");
    expect(bob.outcomes.flatMap(({ recorded }) => recorded)).toHaveLength(3);
    expect([...bob.inbound.rejects]).toEqual([]);
  });

  test("an old envelope again is handed on, counted, and changes nothing", async () => {
    const before = disk();
    // An ephemeral one may have missed him the first time; what is stored he has.
    const old = met.gossiped.filter(({ envelope }) => kindOf(envelope) === "stored");
    for (const gossiped of old) expect(await verdict(gossiped)).toBe("accept");
    expect(old.length).toBeGreaterThan(8);
    expect([...bob.inbound.rejects]).toEqual([["ratchet/duplicate", old.length]]);
    expect(bob.outcomes).toEqual([]);
    expect(disk()).toBe(before);
  });

  test("what an outsider signs for a topic is rejected: another key's seal, another key's signature", async () => {
    const before = disk();
    const [payload] = await unseenPayloads();
    const outsider = await foreignKeys();
    expect(await verdict(await sealed({ ...outsider, id: topic().id }, payload!))).toBe("reject");
    expect(await verdict(await sealed({ ...topic(), seed: outsider.seed }, payload!))).toBe("reject");
    expect([...bob.inbound.rejects]).toEqual([["envelope/bad-signature", 2]]);
    expect(disk()).toBe(before);
  });

  test("a member's signature under another seal key passes the door, and is refused inside", async () => {
    const [payload] = await unseenPayloads();
    const outsider = await foreignKeys();
    expect(await verdict(await sealed({ ...topic(), sealKey: outsider.sealKey }, payload!))).toBe("accept");
    expect([...bob.inbound.rejects]).toEqual([["envelope/bad-seal", 1]]);
    expect(bob.outcomes).toEqual([]);
  });

  test("an envelope of one topic does not travel on another; on a topic we are not on, we say nothing", async () => {
    const other = bob.topics.of(met.alice).find(({ id }) => id !== topic().id)!;
    const { envelope } = met.unseen[0]!;
    expect(await bob.inbound.validate(other.id, envelope, SOMEBODY)).toBe("reject");
    const outsider = await foreignKeys();
    expect(await verdict(await sealed(outsider, new Uint8Array(10)))).toBe("ignore");
    expect(await bob.inbound.validate("00".repeat(32) as TopicId, envelope, SOMEBODY)).toBe("ignore");
    expect(bob.outcomes).toEqual([]);
  });

  test("what has expired, or comes from the future, is ignored: a clock may be off", async () => {
    const { topic: on, envelope } = met.unseen[0]!;
    bob.setNow(met.now + 40 * DAY_MS);
    expect(await bob.inbound.validate(on, envelope, SOMEBODY)).toBe("ignore");
    bob.setNow(met.now - 2 * DAY_MS);
    expect(await bob.inbound.validate(on, envelope, SOMEBODY)).toBe("ignore");
    expect([...bob.inbound.rejects.keys()].toSorted()).toEqual(["envelope/expired", "envelope/from-the-future"]);
    bob.setNow(met.now);
    expect(await verdict({ topic: on, envelope })).toBe("accept");
    expect(bob.outcomes).toHaveLength(1);
  });
});

describe(`${MUTATIONS} mutations`, () => {
  test(
    "of envelopes: none gets through the door",
    async () => {
      const before = disk();
      const good = met.unseen.map(({ envelope }) => envelope);
      let refused = 0;
      for (const envelope of mutations(good, MUTATIONS, 1)) {
        if (good.some((other) => Buffer.compare(other, envelope) === 0)) continue;
        expect(await verdict({ topic: topic().id, envelope })).not.toBe("accept");
        refused++;
      }
      expect(refused).toBeGreaterThan(MUTATIONS / 2);
      expect(counted()).toBe(refused);
      expect(disk()).toBe(before);
      // And after all that the good ones are as welcome as ever.
      for (const gossiped of met.unseen) await verdict(gossiped);
      expect(bob.outcomes.flatMap(({ recorded }) => recorded)).toHaveLength(3);
    },
    LONG ? 3_600_000 : 30_000,
  );

  test(
    "of what a contact seals: each has a code, or is the very message it was made from",
    async () => {
      const before = disk();
      const good = await unseenPayloads();
      let tried = 0;
      for (const payload of mutations(good, MUTATIONS, 2)) {
        const { envelope } = await sealed(topic(), payload);
        await bob.inbound.envelopes([envelope]);
        tried++;
      }
      // Wraps that are for nobody are random bytes: other ones do not change what is said.
      const taken = bob.outcomes.flatMap(({ recorded }) => recorded);
      expect(counted() + bob.outcomes.length).toBe(tried);
      expect(bob.inbound.rejects.size).toBeGreaterThan(8);
      expect(new Set(taken.map(({ id }) => id)).size).toBe(taken.length);
      expect(taken.length).toBe(bob.outcomes.length);
      for (const { event } of taken)
        expect(event).toMatchObject({ author: met.alice, body: { text: expect.stringMatching(/^unseen/) } });
      if (taken.length === 0) expect(disk()).toBe(before);
    },
    LONG ? 3_600_000 : 30_000,
  );

  test(
    "of a ciphertext beside its good wrap: refused, and the wrap still opens the good one",
    async () => {
      const before = disk();
      const good = await unseenPayloads();
      let tried = 0;
      for (let i = 0; i < MUTATIONS / 10; i++) {
        const changed = good[i % good.length]!.slice();
        const payload = decodePayload(changed);
        assert(!isReject(payload), "a good payload");
        const from = Buffer.from(changed).indexOf(payload.ciphertext);
        const at = from + ((i * 7) % payload.ciphertext.length);
        changed[at] = changed[at]! ^ (1 << (i % 8));
        await bob.inbound.envelopes([(await sealed(topic(), changed)).envelope]);
        tried++;
      }
      // Its first 32 bytes are the commitment to the content key.
      expect([...bob.inbound.rejects.keys()].toSorted()).toEqual([
        "conversation/bad-content",
        "conversation/two-key-ciphertext",
      ]);
      expect(counted()).toBe(tried);
      expect(bob.outcomes).toEqual([]);
      expect(disk()).toBe(before);
      for (const gossiped of met.unseen) await verdict(gossiped);
      expect(bob.outcomes.flatMap(({ recorded }) => recorded)).toHaveLength(3);
    },
    LONG ? 3_600_000 : 30_000,
  );

  test("of deposits and of noise: refused with a code", async () => {
    const before = disk();
    const noise = [
      ...mutations([met.unseen[0]!.envelope, concat(met.unseen[1]!.envelope, met.unseen[0]!.envelope)], 500, 3),
    ];
    await bob.inbound.deposits(noise);
    expect(counted()).toBe(noise.length);
    expect(disk()).toBe(before);
    expect(bob.inbound.parkedCount()).toBeLessThanOrEqual(MAX_PARKED);
  });
});
