import { describe, expect, test } from "vitest";
import { toHex } from "#protocols/base/bytes.ts";
import type { EnvelopeId } from "#protocols/base/ids.ts";
import { verifyCustody } from "#protocols/sync/proofs.ts";
import type { CommitFault } from "#test/contracts/faulty-store.ts";
import { countingRandom, crypto, envelopeMaker, makeTopic, settle } from "./world.fixture.ts";
import { Reader, World } from "./readers.fixture.ts";

const seal = envelopeMaker(countingRandom("envelopes"));

describe("putting and reading", () => {
  test("[SY19] a put is answered by a receipt once it is on the disk, and pushed to the other readers", async () => {
    const world = await new World().start();
    const topic = await makeTopic("one");
    const [alice, bob] = [await world.reader("alice", topic), await world.reader("bob", topic)];
    const envelope = await seal(topic);
    alice.client.put([envelope]);
    await settle();
    expect([...alice.got.custody.keys()]).toEqual([envelope.id]);
    expect([...bob.got.entries]).toEqual([[envelope.id, 1]]);
    expect(alice.got.entries.size).toBe(0);
    expect(alice.client.cursor(topic.id)!.n).toBeGreaterThan(0);
    expect(bob.got.cursors.get(topic.id)).toEqual(bob.client.cursor(topic.id));
    expect(world.disk.contents().some(([, value]) => toHex(value) === toHex(envelope.bytes))).toBe(true);
  });

  test("[SY20] what gossip brought is receipted to everyone who reads the topic, once, after a short wait", async () => {
    const world = await new World().start();
    const topic = await makeTopic("one");
    const [alice, bob] = [await world.reader("alice", topic), await world.reader("bob", topic)];
    const envelopes = [await seal(topic), await seal(topic), await seal(topic)];
    for (const envelope of envelopes) await alice.publish(topic, envelope);
    await settle();
    expect(alice.got.custody.size).toBe(0);
    await world.clock.advance(250);
    expect([...alice.got.custody.keys()].toSorted()).toEqual(envelopes.map(({ id }) => id).toSorted());
    expect([...bob.got.custody.keys()]).toEqual([...alice.got.custody.keys()]);
    expect([...bob.got.entries.values()]).toEqual([1, 1, 1]);
  });

  test("[SY13] what gossip lost on the way to a reader comes down the stream", async () => {
    const world = await new World().start();
    const topic = await makeTopic("one");
    const [alice, bob] = [await world.reader("alice", topic), await world.reader("bob", topic)];
    world.wire.onGossip = (to) => (to === bob.network.peerId ? "lose" : "deliver");
    const envelope = await seal(topic);
    await alice.publish(topic, envelope);
    await settle();
    expect(bob.got.entries.size).toBe(0);
    await world.clock.advance(250);
    expect([...bob.got.entries.keys()]).toEqual([envelope.id]);
    expect(bob.got.cursors.get(topic.id)).toEqual(bob.client.cursor(topic.id));
  });

  test("[SY10] who was away gets the backlog, and after that nothing twice", async () => {
    const world = await new World().start();
    const topic = await makeTopic("one");
    const alice = await world.reader("alice", topic);
    const envelopes = await Promise.all(Array.from({ length: 40 }, () => seal(topic, { size: 3000 })));
    alice.client.put(envelopes);
    await settle();
    const bob = await world.reader("bob", topic);
    expect(bob.got.entries.size).toBe(40);
    expect(bob.got.caughtUp.has(topic.id)).toBe(true);
    const cursor = bob.got.cursors.get(topic.id)!;
    bob.client.stop();
    const again = new Reader(world, "bob again");
    await settle();
    again.read(topic, cursor);
    await settle();
    expect(again.got.entries.size).toBe(0);
    const last = await seal(topic);
    alice.client.put([last]);
    await settle();
    expect([...again.got.entries.keys()]).toEqual([last.id]);
  });

  test("[SY15] a live envelope does not wait for a backlog that its reader is slow to commit", async () => {
    const world = await new World().start();
    const [old, fresh] = [await makeTopic("old"), await makeTopic("fresh")];
    const alice = await world.reader("alice", old, fresh);
    alice.client.put(await Promise.all(Array.from({ length: 60 }, () => seal(old, { size: 60_000 }))));
    await settle();
    const bob = new Reader(world, "bob");
    const stuck = Promise.withResolvers<void>();
    bob.commits = async (topic) => {
      if (topic === old.id) await stuck.promise;
    };
    await settle();
    bob.read(fresh);
    bob.read(old);
    await settle();
    const envelope = await seal(fresh);
    alice.client.put([envelope]);
    await settle();
    expect(bob.got.entries.has(envelope.id)).toBe(true);
    expect(bob.got.cursors.has(old.id)).toBe(false);
    stuck.resolve();
    await settle();
    expect(bob.got.entries.size).toBe(61);
  });

  test("[SY16] a reader that commits nothing costs the mailbox its credit and no more", async () => {
    const world = await new World().start();
    const topic = await makeTopic("one");
    const bob = await world.reader("bob", topic);
    bob.commits = () => new Promise(() => {});
    const alice = await world.reader("alice", topic);
    let received = 0;
    world.wire.onFrame = () => {
      received++;
      return "deliver";
    };
    for (let i = 0; i < 4; i++) {
      alice.client.put(await Promise.all(Array.from({ length: 20 }, () => seal(topic, { size: 60_000 }))));
      await settle();
    }
    expect(alice.got.custody.size).toBe(80);
    // 80 envelopes of 64 KiB are five credits of a lane; nothing of the rest lies in memory for bob.
    expect(received).toBeLessThan(120);
    expect(world.mailbox.stats().sessions).toBe(2);
  });

  test("[SY23] expired, ephemeral, forged and foreign puts are refused, each with its code", async () => {
    const world = await new World().start();
    const topic = await makeTopic("one");
    const alice = await world.reader("alice", topic);
    const stale = await seal(topic, { lifetime: "day", now: world.clock.now() - 3 * 24 * 3_600_000 });
    const ephemeral = await seal(topic, { kind: "ephemeral" });
    const forged = await seal(topic);
    forged.bytes[forged.bytes.length - 1]! ^= 1;
    const rubbish = { id: "00".repeat(32) as EnvelopeId, bytes: new Uint8Array(300) };
    alice.client.put([stale, ephemeral, forged, rubbish]);
    await settle();
    expect(alice.got.rejected.get(stale.id)).toBe("envelope/expired");
    expect(alice.got.rejected.get(ephemeral.id)).toBe("sync/ephemeral");
    expect(alice.got.rejected.get(forged.id)).toBe("envelope/bad-signature");
    expect([...alice.got.rejected.values()].filter((code) => code.startsWith("codec/"))).toHaveLength(1);
    expect(alice.got.custody.size).toBe(0);
  });

  test("[SY21] a full topic and a full mailbox refuse what is new and keep what they promised", async () => {
    const world = await new World().start({ maxTopicEnvelopes: 2, maxBytes: 2000 });
    const [one, two] = [await makeTopic("one"), await makeTopic("two")];
    const alice = await world.reader("alice", one, two);
    const sealed = await Promise.all([seal(one), seal(one), seal(one), seal(two), seal(two), seal(two)]);
    for (const envelope of sealed) {
      alice.client.put([envelope]);
      await settle();
    }
    expect(sealed.map(({ id }) => alice.got.rejected.get(id) ?? "held")).toEqual([
      "held",
      "held",
      "sync/topic-full",
      "held",
      "sync/mailbox-full",
      "sync/mailbox-full",
    ]);
    const bob = await world.reader("bob", one, two);
    expect(bob.got.entries.size).toBe(3);
  });

  test("[SY22] what expired is gone from the disk and is not taken again", async () => {
    const world = await new World().start();
    const topic = await makeTopic("one");
    const alice = await world.reader("alice", topic);
    const envelope = await seal(topic, { lifetime: "day" });
    alice.client.put([envelope]);
    await settle();
    const rows = world.disk.contents().length;
    expect(rows).toBe(5);
    await world.clock.advance(26 * 3_600_000);
    alice.client.put([envelope]);
    await settle();
    expect(alice.got.rejected.get(envelope.id)).toBe("envelope/expired");
    const bob = await world.reader("bob", topic);
    expect(bob.got.entries.size).toBe(0);
    await world.clock.advance(26 * 3_600_000);
    expect(world.disk.contents()).toHaveLength(1);
    expect(world.mailbox.stats().storedBytes).toBe(0);
  });

  test("[SY22] an id is remembered a day longer, for a mailbox whose clock went back", async () => {
    const world = await new World().start();
    const topic = await makeTopic("one");
    const alice = await world.reader("alice", topic);
    const envelope = await seal(topic, { lifetime: "day" });
    alice.client.put([envelope]);
    await world.clock.advance(26 * 3_600_000);
    world.disk.crash();
    world.wire.cut();
    // The same disk, by a clock that says it is yesterday.
    const earlier = Object.assign(new World(), { disk: world.disk });
    await earlier.start();
    const bob = await earlier.reader("bob", topic);
    bob.client.put([envelope]);
    await settle();
    expect(bob.got.rejected.get(envelope.id)).toBe("sync/forgotten");
  });

  test("[SY23] more than may wait for the disk is refused as busy, and taken later", async () => {
    const world = await new World().start({ maxQueuedBytes: 1_000 });
    const topic = await makeTopic("one");
    const alice = await world.reader("alice", topic);
    const envelopes = await Promise.all([seal(topic), seal(topic), seal(topic)]);
    alice.client.put(envelopes);
    await settle();
    expect([...alice.got.rejected.values()]).toEqual(["sync/busy"]);
    alice.client.put(envelopes);
    await settle();
    expect(alice.got.custody.size).toBe(3);
    expect(world.mailbox.stats().stored).toBe(3);
  });

  test("[SY24] a mailbox hears a topic as long as somebody reads it", async () => {
    const world = await new World().start();
    const topic = await makeTopic("one");
    const [alice, bob] = [await world.reader("alice", topic), await world.reader("bob", topic)];
    expect(world.network.joined).toEqual([topic.id]);
    expect([...world.network.revealed(topic.id)]).toEqual(["alice", "bob"]);
    alice.client.stop();
    await settle();
    expect(world.network.joined).toEqual([topic.id]);
    bob.client.unsubscribe(topic.id);
    await settle();
    expect(world.network.joined).toEqual([]);
  });

  test("[SY24] the validator rejects what is forged or foreign and ignores what is late", async () => {
    const world = await new World().start();
    const [topic, other] = [await makeTopic("one"), await makeTopic("two")];
    const alice = await world.reader("alice", topic);
    const from = alice.network.peerId;
    const good = await seal(topic);
    const forged = new Uint8Array(good.bytes);
    forged[forged.length - 1]! ^= 1;
    expect(await world.mailbox.heard(topic.id, forged, from)).toBe("reject");
    expect(await world.mailbox.heard(topic.id, (await seal(other)).bytes, from)).toBe("reject");
    expect(await world.mailbox.heard(topic.id, new Uint8Array(70_000), from)).toBe("reject");
    const stale = await seal(topic, { lifetime: "day", now: world.clock.now() - 3 * 24 * 3_600_000 });
    expect(await world.mailbox.heard(topic.id, stale.bytes, from)).toBe("ignore");
    expect(await world.mailbox.heard(other.id, (await seal(other)).bytes, from)).toBe("ignore");
    expect(world.mailbox.stats().stored).toBe(0);
    expect(await world.mailbox.heard(topic.id, (await seal(topic, { kind: "ephemeral" })).bytes, from)).toBe("accept");
    expect(await world.mailbox.heard(topic.id, good.bytes, from)).toBe("accept");
    await settle();
    expect(world.mailbox.stats().stored).toBe(1);
  });
});

describe("restarts and failures", () => {
  test("[SY12] after a clean stop the log goes on; after a crash it is a new one and everything comes again", async () => {
    const world = await new World().start();
    const topic = await makeTopic("one");
    const alice = await world.reader("alice", topic);
    const first = await seal(topic);
    alice.client.put([first]);
    await settle();
    const before = alice.client.cursor(topic.id)!;
    await world.mailbox.stop();
    world.wire.cut();
    await world.start();
    await world.clock.advance(2_000);
    expect(alice.got.states.at(-1)).toBe("open");
    expect(alice.client.cursor(topic.id)).toEqual(before);
    expect(alice.got.entries.size).toBe(0);

    world.disk.crash();
    world.wire.cut();
    await world.start();
    await world.clock.advance(4_000);
    const after = alice.client.cursor(topic.id)!;
    expect(after.log).not.toBe(before.log);
    expect(after.n).toBeGreaterThan(before.n);
    expect([...alice.got.entries.keys()]).toEqual([first.id]);
  });

  test.each<CommitFault>(["failed", "unknown-lost", "unknown-kept", "full"])(
    "[SY19] nothing is promised by a commit that ended %s, and the mailbox comes back",
    async (fault) => {
      const world = await new World().start({}, (commit) => (commit === 2 ? fault : undefined));
      const topic = await makeTopic("one");
      const alice = await world.reader("alice", topic);
      const [first, second] = [await seal(topic), await seal(topic)];
      alice.client.put([first]);
      await settle();
      alice.client.put([second]);
      await settle();
      expect([...alice.got.custody.keys()]).toEqual([first.id]);
      expect(world.failures).toHaveLength(1);
      world.host.makeRoom();
      await world.clock.advance(3_000);
      expect(alice.got.states.at(-1)).toBe("open");
      alice.client.put([second]);
      await settle();
      expect([...alice.got.custody.keys()]).toEqual([first.id, second.id]);
      const bob = await world.reader("bob", topic);
      expect([...bob.got.entries.keys()].toSorted()).toEqual([first.id, second.id].toSorted());
    },
  );
});

describe("receipts", () => {
  test("[SY20] a receipt stands alone: anybody can check it with the mailbox's key", async () => {
    const world = await new World().start();
    const topic = await makeTopic("one");
    let key = "";
    const alice = new Reader(world, "alice", { custody: ({ mailbox }) => void (key = mailbox) });
    await settle();
    alice.read(topic);
    alice.client.put([await seal(topic)]);
    await settle();
    expect(key).toMatch(/^[0-9a-f]{64}$/);
    const custody = { log: alice.client.cursor(topic.id)!.log, items: [] };
    const forged = { custodyKey: Uint8Array.from(Buffer.from(key, "hex")), custody, signature: new Uint8Array(64) };
    expect(await verifyCustody(crypto, forged)).toBe(false);
  });
});
