import dgram from "node:dgram";
import dns from "node:dns";
import net from "node:net";
import { afterEach, expect, test } from "vitest";
import type { Network } from "#src/runtime/ports.ts";
import { addressOf, codeOf, echo, meet, PROTOCOL, sampleTopic, validator } from "#test/contracts/network.contract.ts";
import { PEER_LIMITS } from "#src/net/limits.ts";
import { peer, relay, TCP, until, WEBRTC, worldOf, WS } from "./net-world.ts";
import { outsider } from "./outsider.ts";

const stops: (() => unknown)[] = [];
afterEach(async () => {
  await Promise.all(stops.splice(0).map((stop) => stop()));
});

async function started(made: Promise<Network>): Promise<Network> {
  const network = await made;
  stops.push(() => network.stop());
  return network;
}

async function pathBetween(a: Network, b: Network): Promise<string | undefined> {
  await until(() => b.connections().some(({ peer: other }) => other === a.peerId));
  return a.connections().find(({ peer: other }) => other === b.peerId)?.path;
}

async function roundTrip(a: Network, b: Network): Promise<void> {
  echo(b);
  const stream = await a.openStream(b.peerId, PROTOCOL);
  const question = new Uint8Array(300_000).fill(5);
  await stream.send(question);
  expect(await stream.receive()).toEqual(question);
  await stream.close();
  expect(await stream.receive()).toBeUndefined();
}

for (const [name, listen] of [
  ["TCP", TCP],
  ["WebSockets", WS],
  ["WebRTC-direct", WEBRTC],
] as const) {
  test(`two peers meet over ${name}`, async () => {
    const [a, b] = [await started(peer({ listen: [] })), await started(peer({ listen: [listen] }))];
    expect(await a.connect(addressOf(b))).toBe(b.peerId);
    expect(await pathBetween(a, b)).toBe("direct");
    await roundTrip(a, b);
  });
}

test("a transport that several dials need at once is loaded once for all of them", async () => {
  const [a, b, c] = [
    await started(peer()),
    await started(peer({ listen: [WS] })),
    await started(peer({ listen: [WS] })),
  ];
  expect(await Promise.all([b, c, b].map((other) => a.connect(addressOf(other))))).toEqual([
    b.peerId,
    c.peerId,
    b.peerId,
  ]);
});

test("a peer id is new at every start; with a key it stays", async () => {
  const ids = new Set<string>();
  for (let n = 0; n < 3; n++) {
    const one = await started(peer());
    ids.add(one.peerId);
  }
  expect(ids.size).toBe(3);
  const keySeed = new Uint8Array(32).fill(8);
  const first = await started(peer({ keySeed }));
  const again = await started(peer({ keySeed }));
  expect(again.peerId).toBe(first.peerId);
});

test("gossip moves from the relayed to the direct connection, and outlives the relay", async () => {
  const [a, b, hub] = [await started(peer()), await started(peer()), await started(relay())];
  const heard = validator(b, "accept");
  validator(a, "accept");
  const topic = await sampleTopic(70);
  for (const one of [a, b]) await one.connect(addressOf(hub));
  await b.reserve(hub.peerId);
  await a.connect(b.addresses().find((address) => address.includes("p2p-circuit"))!);
  expect(await pathBetween(a, b)).toBe("relayed");
  for (const [one, other] of [
    [a, b],
    [b, a],
  ] as const) {
    one.gossip.join(topic.id);
    one.gossip.reveal(topic.id, other.peerId);
  }
  await until(() => a.gossip.peers(topic.id).includes(b.peerId) && b.gossip.peers(topic.id).includes(a.peerId));
  let said = 0;
  const say = async (): Promise<void> => {
    expect(await a.gossip.publish(topic.id, await topic.seal(`${said++}`))).toBe(1);
    await until(() => heard.length === said);
  };
  await say(); // over the circuit
  await a.connect(addressOf(b));
  await until(() => b.connections().filter(({ peer: other }) => other === a.peerId).length === 2);
  await say();
  await hub.stop();
  await until(() => a.connections().length === 1 && b.connections().length === 1);
  expect(await pathBetween(a, b)).toBe("direct");
  await say();
  await roundTrip(a, b);
});

test("gossip moves to another connection when its own goes", async () => {
  const [a, b] = [await started(peer()), await started(peer())];
  const hubs = [await started(relay()), await started(relay())];
  const heard = validator(b, "accept");
  const topic = await sampleTopic(71);
  for (const hub of hubs) {
    for (const one of [a, b]) await one.connect(addressOf(hub));
    await b.reserve(hub.peerId);
  }
  await a.connect(b.addresses().find((address) => address.includes(`${hubs[0]!.peerId}/p2p-circuit`))!);
  await meetHere(a, b, topic.id);
  await a.connect(b.addresses().find((address) => address.includes(`${hubs[1]!.peerId}/p2p-circuit`))!);
  await until(() => b.connections().filter(({ peer: other }) => other === a.peerId).length === 2);
  expect(await a.gossip.publish(topic.id, await topic.seal("one"))).toBe(1);
  await until(() => heard.length === 1);
  await hubs[0]!.stop();
  await until(() => a.connections().length === 2); // the other relay, and b through it
  await until(() => b.connections().length === 2);
  // For the round trip that a new stream takes, there is none: what is published then goes to nobody.
  const envelope = await topic.seal("two");
  let sent = 0;
  await until(() => {
    void a.gossip.publish(topic.id, envelope).then((recipients) => (sent += recipients));
    return sent === 1;
  });
  await until(() => heard.length === 2);
});

async function meetHere(a: Network, b: Network, topic: Parameters<Network["gossip"]["join"]>[0]): Promise<void> {
  await until(() => b.connections().some(({ peer: other }) => other === a.peerId));
  for (const [one, other] of [
    [a, b],
    [b, a],
  ] as const) {
    one.gossip.join(topic);
    one.gossip.reveal(topic, other.peerId);
  }
  await until(() => a.gossip.peers(topic).includes(b.peerId) && b.gossip.peers(topic).includes(a.peerId));
}

test("a relay is found again after it was away, and gives a new reservation", async () => {
  const keySeed = new Uint8Array(32).fill(9);
  const [a, b] = [await started(peer()), await started(peer())];
  const first = await relay({ keySeed });
  const address = addressOf(first);
  await b.connect(address);
  await b.reserve(first.peerId);
  const circuit = b.addresses().find((candidate) => candidate.includes("p2p-circuit"))!;
  await first.stop();
  await until(
    () => b.connections().length === 0 && !b.addresses().some((candidate) => candidate.includes("p2p-circuit")),
  );
  const port = /tcp\/(\d+)/.exec(address)![1]!;
  await started(relay({ keySeed, listen: [`/ip4/127.0.0.1/tcp/${port}`] }));
  await b.connect(address);
  await b.reserve(first.peerId);
  expect(b.addresses()).toContain(circuit);
  await a.connect(circuit);
  expect(await pathBetween(a, b)).toBe("relayed");
});

test("nobody is dialled whom nobody asked for, not even a relay that went", async () => {
  const [a, hub] = [await started(peer()), await started(relay())];
  const address = addressOf(hub);
  await a.connect(address);
  await a.reserve(hub.peerId);
  const dials = countDials();
  await hub.stop();
  await until(() => a.connections().length === 0);
  // One that was asked for, and what else might be under way comes about in the meantime.
  expect(await codeOf(a.connect(address))).toEqual(["net/unreachable", true]);
  expect(dials()).toBe(1);
});

/** Counts what this process dials by TCP from now on. */
function countDials(): () => number {
  const connect = net.Socket.prototype.connect;
  let dials = 0;
  net.Socket.prototype.connect = function (this: net.Socket, ...args: unknown[]) {
    dials++;
    return Reflect.apply(connect, this, args) as net.Socket;
  } as typeof connect;
  stops.push(() => {
    net.Socket.prototype.connect = connect;
  });
  return () => dials;
}

test("whoever is no relay of ours gets neither a relayed connection in nor a request for a reservation out", async () => {
  const b = await started(peer());
  const pretender = await outsider();
  stops.push(() => pretender.stop());
  let asked = 0;
  await pretender.node.handle("/libp2p/circuit/relay/0.2.0/hop", (stream) => {
    asked++;
    stream.abort(new Error("asked"));
  });
  await pretender.connect(addressOf(b));
  const before = b.addresses();
  const stop = await pretender.node
    .getConnections()[0]!
    .newStream("/libp2p/circuit/relay/0.2.0/stop", { runOnLimitedConnection: true });
  await until(() => stop.status === "reset");
  expect(asked).toBe(0);
  expect(b.addresses()).toEqual(before);
});

test("a signal and the deadline end a dial to a host that does not answer", async () => {
  const a = await started(peer({ limits: { ...PEER_LIMITS, connectDeadlineMs: 300 } }));
  const silent = net.createServer(() => {});
  await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
  stops.push(() => silent.close());
  const { port } = silent.address() as net.AddressInfo;
  const target = addressOf(await started(peer())).replace(/tcp\/\d+/, `tcp/${port}`);
  const controller = new AbortController();
  const dialling = codeOf(a.connect(target, { signal: controller.signal }));
  controller.abort();
  expect(await dialling).toEqual(["net/unreachable", true]);
  expect(await codeOf(a.connect(target))).toEqual(["net/unreachable", true]);
});

test("nothing of all this touches a host outside this machine, or asks for a name", async () => {
  const touched: string[] = [];
  const isLocal = (host: unknown): boolean => host === undefined || host === "127.0.0.1" || host === "::1";
  const connect = net.Socket.prototype.connect;
  const send = dgram.Socket.prototype.send;
  const lookup = dns.lookup;
  net.Socket.prototype.connect = function (this: net.Socket, ...args: unknown[]) {
    const [options] = Array.isArray(args[0]) ? (args[0] as unknown[]) : args;
    const host = typeof options === "object" ? (options as { host?: unknown }).host : args[1];
    if (!isLocal(host)) touched.push(`tcp ${String(host)}`);
    return Reflect.apply(connect, this, args) as net.Socket;
  } as typeof connect;
  dgram.Socket.prototype.send = function (this: dgram.Socket, ...args: unknown[]) {
    const host = args.find((argument) => typeof argument === "string");
    if (!isLocal(host)) touched.push(`udp ${String(host)}`);
    return Reflect.apply(send, this, args) as undefined;
  } as typeof send;
  dns.lookup = ((...args: unknown[]) => {
    if (!isLocal(args[0])) touched.push(`dns ${String(args[0])}`);
    return Reflect.apply(lookup, dns, args) as undefined;
  }) as typeof dns.lookup;
  stops.push(() => {
    net.Socket.prototype.connect = connect;
    dgram.Socket.prototype.send = send;
    dns.lookup = lookup;
  });
  const hub = await started(relay({ listen: [TCP, WS, WEBRTC] }));
  const [a, b] = [await started(peer({ listen: [TCP, WS, WEBRTC] })), await started(peer())];
  const heard = validator(b, "accept");
  validator(hub, "accept");
  const topic = await sampleTopic(72);
  await meet(worldOf([a, b], [hub]), [a, b], hub, topic.id);
  await b.reserve(hub.peerId);
  await a.connect(b.addresses().find((address) => address.includes("p2p-circuit"))!);
  await b.connect(a.addresses().find((address) => address.includes("webrtc-direct"))!);
  await roundTrip(a, b);
  await a.gossip.publish(topic.id, await topic.seal("hello"));
  await until(() => heard.length > 0);
  expect(touched).toEqual([]);
});
