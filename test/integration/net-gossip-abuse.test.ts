import { afterEach, expect, test } from "vitest";
import type { PeerId } from "#protocols/base/ids.ts";
import type { Network, Verdict } from "#src/runtime/ports.ts";
import { addressOf, echo, meet, PROTOCOL, sampleTopic, validator } from "#test/contracts/network.contract.ts";
import { peer, relay, until, worldOf } from "./net-world.ts";
import { outsider } from "./outsider.ts";

const stops: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  await Promise.all(stops.splice(0).map((stop) => stop()));
});

async function network(made: Promise<Network>): Promise<Network> {
  const ready = await made;
  stops.push(() => ready.stop());
  return ready;
}

/** A hub with an honest client and a hostile one, both on the topic: the hostile one is, or was, a member. */
async function hubWithHostile(judge: (envelope: Uint8Array) => Verdict) {
  const [hub, honest] = await Promise.all([network(relay()), network(peer())]);
  const hostile = await outsider();
  stops.push(() => hostile.stop());
  const topic = await sampleTopic(50);
  const judged: { from: PeerId; envelope: Uint8Array }[] = [];
  hub.gossip.onEnvelope((_, envelope, from) => {
    judged.push({ from, envelope });
    return Promise.resolve(judge(envelope));
  });
  const heard = validator(honest, "accept");
  await meet(worldOf([honest], [hub]), [honest], hub, topic.id);
  const target = await hostile.connect(addressOf(hub));
  const id = hostile.node.peerId.toString() as PeerId;
  hostile.gossip.subscribe(topic.id);
  await until(() => hub.gossip.peers(topic.id).includes(id));
  hub.gossip.reveal(topic.id, id);
  await until(() => hostile.gossip.topics.has(topic.id));
  const receives = (): number => hostile.received.flatMap((rpc) => rpc.messages).length;
  return { hub, honest, hostile, topic, judged, heard, target, id, receives };
}

function rubbish(n: number): Uint8Array {
  const bytes = new Uint8Array(200);
  bytes.set(Buffer.from(`rubbish ${n}`));
  return bytes;
}

function isRubbish(envelope: Uint8Array): boolean {
  return Buffer.from(envelope.subarray(0, 7)).toString() === "rubbish";
}

test("a peer that sends rubbish is cut out of the forwarding and then not heard at all", async () => {
  const world = await hubWithHostile((envelope) => (isRubbish(envelope) ? "reject" : "accept"));
  const { hub, honest, hostile, topic, judged, heard, target, id, receives } = world;
  await honest.gossip.publish(topic.id, await topic.seal("while it behaves"));
  await until(() => receives() === 1);
  const fromHostile = (): number => judged.filter(({ from }) => from === id).length;
  for (let n = 0; n < 4; n++) hostile.send(target, { messages: [{ topic: topic.id, data: rubbish(n) }] });
  await until(() => fromHostile() === 4);
  await hostile.heartbeats(2); // gossipsub looks at a score once a second
  const judgedThen = fromHostile();
  for (let n = 0; n < 200; n++) hostile.send(target, { messages: [{ topic: topic.id, data: rubbish(10_000 + n) }] });
  const envelope = await topic.seal("after it misbehaved");
  hostile.send(target, { messages: [{ topic: topic.id, data: envelope }] }); // even what would be good
  await honest.gossip.publish(topic.id, await topic.seal("not for it"));
  await until(() => judged.some(({ from }) => from === honest.peerId));
  await honest.gossip.publish(topic.id, await topic.seal("not for it either"));
  await until(() => judged.filter(({ from }) => from === honest.peerId).length === 3);
  expect(fromHostile()).toBe(judgedThen);
  expect(receives()).toBe(1);
  expect(heard.map(({ envelope: bytes }) => bytes).filter(isRubbish)).toEqual([]);
  expect(hub.connections().some(({ peer: other }) => other === honest.peerId)).toBe(true);
});

test("a broken copy sent first neither keeps the true envelope out nor harms who sends it", async () => {
  const topic = await sampleTopic(50);
  const good = await topic.seal("the true one");
  const world = await hubWithHostile((envelope) => (String(envelope) === String(good) ? "accept" : "reject"));
  const { honest, hostile, target, judged } = world;
  const broken = Uint8Array.from(good);
  broken[broken.length - 1]! ^= 1; // in the signature, which the envelope id does not cover
  hostile.send(target, { messages: [{ topic: topic.id, data: broken }] });
  await until(() => judged.length === 1);
  await honest.gossip.publish(topic.id, good);
  await until(() => judged.length === 2);
  expect(judged[1]).toEqual({ from: honest.peerId, envelope: good });
});

test("an envelope re-signed by a member is accepted once", async () => {
  const { hostile, topic, target, judged, heard } = await hubWithHostile(() => "accept");
  const first = await topic.seal("once");
  const second = Uint8Array.from(first);
  second[second.length - 1]! ^= 1;
  hostile.send(target, {
    messages: [
      { topic: topic.id, data: first },
      { topic: topic.id, data: second },
    ],
  });
  hostile.send(target, { messages: [{ topic: topic.id, data: await topic.seal("last") }] });
  await until(() => heard.length === 2);
  expect(judged.map(({ envelope }) => envelope).filter((bytes) => String(bytes) === String(second))).toEqual([]);
});

test("oversize envelopes, signed messages and authors are refused", async () => {
  const { hostile, topic, target, judged, heard } = await hubWithHostile(() => "accept");
  const fine = await topic.seal("fine");
  hostile.send(target, { messages: [{ topic: topic.id, data: new Uint8Array(80_000) }] });
  hostile.send(target, { messages: [{ topic: topic.id, data: rubbish(1), from: new Uint8Array(34).fill(1) }] });
  hostile.send(target, { messages: [{ topic: topic.id, data: rubbish(2), seqno: new Uint8Array(8) }] });
  hostile.send(target, { messages: [{ topic: topic.id, data: fine }] });
  await until(() => heard.length === 1);
  expect(judged.map(({ envelope }) => String(envelope))).toEqual([String(fine)]);
});

test("what cannot be decoded, or is too long, ends in the graylist, and the honest go on", async () => {
  const { hub, honest, hostile, topic, judged, target, id, heard } = await hubWithHostile(() => "accept");
  const raw = hostile.gossip.streamsOutbound.get(target)!;
  for (let n = 0; n < 300; n++) raw.push(new Uint8Array(50).fill(0xff));
  raw.push(new Uint8Array(600 * 1024));
  await until(() => hub.connections().some(({ peer: other }) => other === id));
  await honest.gossip.publish(topic.id, await topic.seal("hello"));
  await until(() => judged.length === 1);
  expect(judged[0]?.from).toBe(honest.peerId);
  // It opens another stream, and is not heard there.
  await until(() => hostile.gossip.streamsOutbound.get(target) !== raw || !hostile.gossip.streamsOutbound.has(target));
  expect(heard).toEqual([]);
});

test("strays, announcements without end and unknown topics cost no memory beyond the limits", async () => {
  const { hub, honest, hostile, topic, judged, target, id } = await hubWithHostile(() => "accept");
  const hex = (n: number): string => n.toString(16).padStart(64, "0");
  for (let from = 0; from < 12_000; from += 1000) {
    hostile.send(target, {
      subscriptions: Array.from({ length: 1000 }, (_, n) => ({ subscribe: true, topic: hex(from + n) })),
    });
  }
  hostile.send(target, { subscriptions: [{ subscribe: true, topic: "x".repeat(10_000) }, { subscribe: true }] });
  hostile.send(target, { messages: [{ topic: hex(1), data: rubbish(1) }] });
  // It is still heard on what was announced first, and on nothing above the limit of 4,096 topics.
  await until(() => hub.gossip.peers(hex(4000) as never).length === 1);
  expect(hub.gossip.peers(hex(4095) as never)).toEqual([]);
  expect(hub.gossip.peers("x".repeat(10_000) as never)).toEqual([]);
  await honest.gossip.publish(topic.id, await topic.seal("hello"));
  await until(() => judged.length === 1);
  await hostile.node.stop();
  await until(() => !hub.connections().some(({ peer: other }) => other === id));
  expect(hub.gossip.peers(hex(1) as never)).toEqual([]);
});

test("a validator that is slow makes the sender wait and loses nothing", async () => {
  const [hub, a] = await Promise.all([network(relay()), network(peer())]);
  const topic = await sampleTopic(51);
  const waiting: (() => void)[] = [];
  let judged = 0;
  hub.gossip.onEnvelope(async () => {
    await new Promise<void>((resolve) => waiting.push(resolve));
    judged++;
    return "accept";
  });
  await meet(worldOf([a], [hub]), [a], hub, topic.id);
  echo(hub);
  const ping = await a.openStream(hub.peerId, PROTOCOL);
  const count = 1000;
  const envelopes = await Promise.all(Array.from({ length: count }, (_, n) => topic.seal(`${n}`)));
  for (const envelope of envelopes) expect(await a.gossip.publish(topic.id, envelope)).toBe(1);
  // On the same connection behind all of them: once it is answered, they have arrived as far as they are let in.
  await ping.send(Uint8Array.of(1));
  expect(await ping.receive()).toEqual(Uint8Array.of(1));
  expect(waiting.length).toBeGreaterThanOrEqual(256);
  expect(waiting.length).toBeLessThan(600); // 256, and what one read of the socket brought
  await until(() => {
    for (const release of waiting.splice(0)) release();
    return judged === count;
  });
});
