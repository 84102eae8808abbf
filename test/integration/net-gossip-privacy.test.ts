import { createHash } from "node:crypto";
import { afterEach, expect, test } from "vitest";
import type { PeerId } from "#protocols/base/ids.ts";
import type { Network } from "#src/runtime/ports.ts";
import { addressOf, meet, sampleTopic, validator } from "#test/contracts/network.contract.ts";
import { peer, relay, until, worldOf } from "./net-world.ts";
import { outsider, type Outsider } from "./outsider.ts";

/** What a stranger can learn of who is on which topic: nothing, whatever it announces, asks or sends. */

const stops: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  await Promise.all(stops.splice(0).map((stop) => stop()));
});

async function stranger(): Promise<Outsider> {
  const made = await outsider();
  stops.push(() => made.stop());
  return made;
}

async function network(made: Promise<Network>): Promise<Network> {
  const ready = await made;
  stops.push(() => ready.stop());
  return ready;
}

/** Two clients in a conversation through a relay, some envelopes already gone through. */
async function conversation() {
  const [a, b, hub] = await Promise.all([network(peer()), network(peer()), network(relay())]);
  const topic = await sampleTopic(40);
  const heard = validator(b, "accept");
  validator(a, "accept");
  const heardByHub = validator(hub, "accept");
  await meet(worldOf([a, b], [hub]), [a, b], hub, topic.id);
  let spoken = 0;
  const say = async (): Promise<Uint8Array> => {
    const envelope = await topic.seal(`words ${spoken++}`);
    const before = heard.length;
    await a.gossip.publish(topic.id, envelope);
    await until(() => heard.length === before + 1);
    return envelope;
  };
  return { a, b, hub, topic, heard, heardByHub, say };
}

test("a stranger that dials a peer and a relay is told no topic, no message, no message id", async () => {
  const { a, hub, topic, say } = await conversation();
  const spy = await stranger();
  for (const target of [a, hub]) await spy.connect(addressOf(target));
  await say();
  await spy.heartbeats(2);
  await say();
  expect(spy.received).toEqual([]);
  expect(spy.gossip.topics.size).toBe(0);
  expect(spy.transcript()).not.toContain(topic.id);
});

test("a stranger that knows the topic learns nothing by announcing it, grafting, asking or offering", async () => {
  const { a, hub, topic, say, heardByHub } = await conversation();
  const spy = await stranger();
  const targets = [await spy.connect(addressOf(a)), await spy.connect(addressOf(hub))];
  const said = await say();
  spy.gossip.subscribe(topic.id);
  // The id of a message as gossipsub knows it: what was said is in the caches of both.
  const messageIds = [
    createHash("sha256").update(said).digest(),
    createHash("sha256").update(said.subarray(0, -64)).digest(),
  ];
  for (const target of targets) {
    spy.send(target, {
      control: {
        graft: [{ topicID: topic.id }],
        prune: [{ topicID: topic.id, peers: [], backoff: 60 }],
        ihave: [{ topicID: topic.id, messageIDs: [new Uint8Array(32).fill(7)] }],
        iwant: [{ messageIDs: messageIds }],
        idontwant: [{ messageIDs: messageIds }],
      },
    });
  }
  await spy.heartbeats(2);
  const forged = new Uint8Array(300).fill(9);
  await spy.gossip.publish(topic.id, forged);
  const before = heardByHub.length;
  await say();
  await spy.heartbeats(2);
  await say();
  expect(spy.received).toEqual([]);
  expect(heardByHub.length).toBe(before + 2);
  expect(heardByHub.some(({ from }) => from === spy.node.peerId.toString())).toBe(false);
});

test("what a peer announced before it was told is acted upon when it is told", async () => {
  const { a, topic } = await conversation();
  const late = await stranger();
  await late.connect(addressOf(a));
  late.gossip.subscribe(topic.id);
  const id = late.node.peerId.toString() as PeerId;
  await until(() => a.gossip.peers(topic.id).includes(id));
  expect(late.received).toEqual([]);
  a.gossip.reveal(topic.id, id);
  await until(() => late.gossip.topics.has(topic.id));
  await a.gossip.publish(topic.id, await topic.seal("for you too"));
  await until(() => late.received.some((rpc) => rpc.messages.length > 0));
});

test("a revealed peer is told that topic alone, and nothing when it connects anew", async () => {
  const { a, topic } = await conversation();
  const others = await Promise.all([41, 42, 43].map((seed) => sampleTopic(seed)));
  for (const other of others) a.gossip.join(other.id);
  const friend = await stranger();
  const id = friend.node.peerId.toString() as PeerId;
  const isConnected = (): boolean => a.connections().some((connection) => connection.peer === id);
  await friend.connect(addressOf(a));
  await until(isConnected);
  a.gossip.reveal(topic.id, id);
  await until(() => friend.received.length > 0);
  await friend.heartbeats(1);
  expect(friend.transcript()).toContain(topic.id);
  for (const other of others) expect(friend.transcript()).not.toContain(other.id);
  friend.received.length = 0;
  await friend.node.hangUp(friend.node.getPeers()[0]!);
  await until(() => !isConnected());
  await friend.connect(addressOf(a));
  await until(isConnected);
  await friend.heartbeats(1);
  expect(friend.received).toEqual([]);
});

test("leaving is told to the revealed alone", async () => {
  const { a, b, hub, topic } = await conversation();
  const spy = await stranger();
  await spy.connect(addressOf(a));
  spy.gossip.subscribe(topic.id);
  await spy.heartbeats(1);
  a.gossip.leave(topic.id);
  await until(() => !hub.gossip.peers(topic.id).includes(a.peerId));
  expect(hub.gossip.peers(topic.id)).toEqual([b.peerId]);
  await spy.heartbeats(1);
  expect(spy.received).toEqual([]);
});
