import { afterEach, describe, expect, test } from "vitest";

import type { TopicId } from "#protocols/base/ids.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { FrameStream } from "#src/runtime/ports.ts";
import { collect, type NetworkWorld, networkContract } from "#test/contracts/network.contract.ts";

import { CALM } from "./link.ts";
import type { NetworkNode } from "./network.ts";
import { byteStream } from "./random.ts";
import { makeRig, type Rig } from "./rig.fixture.ts";
import type { Process } from "./scheduler.ts";
import { WINDOW_BYTES } from "./stream.ts";

type SimWorld = NetworkWorld & { readonly rig: Rig; readonly processes: readonly Process[] };

async function makeWorld(count: { readonly peers: number; readonly relays: number }): Promise<SimWorld> {
  const rig = makeRig();
  const processes: Process[] = [];
  const node = (host: string, relay: boolean): NetworkNode => {
    const process = rig.process(host);
    processes.push(process);
    return rig.internet.attach({ process, host, random: byteStream(1, host), dialable: true, relay });
  };
  return {
    rig,
    processes,
    peers: Array.from({ length: count.peers }, (_, i) => node(`peer-${i}`, false)),
    relays: Array.from({ length: count.relays }, (_, i) => node(`relay-${i}`, true)),
    at: (_, work) => rig.at(work),
    until: (condition) => rig.until(condition),
    close: () => rig.close(),
  };
}

networkContract("simulated", makeWorld);

describe("what the simulated network does to people", () => {
  const worlds: SimWorld[] = [];
  afterEach(async () => {
    for (const world of worlds.splice(0)) await world.close();
  });
  const TOPIC = "ab".repeat(32) as TopicId;

  /** Two peers with a stream between them; b collects what arrives. */
  async function connected() {
    const world = await makeWorld({ peers: 2, relays: 0 });
    worlds.push(world);
    const [a, b] = world.peers as [NetworkNode, NetworkNode];
    const received: Uint8Array[] = [];
    let ended = false;
    b.handle("/t", (stream) => {
      void collect(stream, received).then(() => (ended = true));
    });
    const { at } = world.rig;
    await at(() => a.connect(b.addresses()[0]!));
    const stream = await at(() => a.openStream(b.peerId, "/t"));
    return { ...world, a, b, stream, received, ended: () => ended };
  }

  async function gossiping() {
    const two = await connected();
    const heard: number[] = [];
    two.b.gossip.onEnvelope((_, envelope) => {
      heard.push(envelope[0]! * 256 + envelope[1]!);
      return Promise.resolve("accept");
    });
    for (const node of [two.a, two.b]) node.gossip.join(TOPIC);
    two.b.gossip.reveal(TOPIC, two.a.peerId);
    two.a.gossip.reveal(TOPIC, two.b.peerId);
    await two.until(() => two.a.gossip.peers(TOPIC).length === 1);
    const publish = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++)
        await two.a.gossip.publish(TOPIC, Uint8Array.of(i >> 8, i & 255, ...new Uint8Array(64)));
    };
    return { ...two, heard, publish };
  }

  test("30 % loss costs a stream time and gossip a third of its messages", async () => {
    const { rig, stream, received, heard, publish, until } = await gossiping();
    rig.internet.setWeather({ ...CALM, loss: 0.3 });
    const fromUs = rig.scheduler.nowUs;
    for (let i = 0; i < 100; i++) await stream.send(Uint8Array.of(i));
    await until(() => received.length === 100);
    expect(received.map(([first]) => first)).toEqual(Array.from({ length: 100 }, (_, i) => i));
    expect(rig.scheduler.nowUs - fromUs).toBeGreaterThan(200_000);
    await publish(1_000);
    await rig.pass(10_000_000);
    expect(heard.length).toBeGreaterThan(600);
    expect(heard.length).toBeLessThan(800);
    expect(rig.internet.hits.loss).toBeGreaterThan(250);
  });

  test("in calm weather gossip brings everything once, though not in order", async () => {
    const { rig, heard, publish } = await gossiping();
    await publish(300);
    await rig.pass(10_000_000);
    expect(heard.toSorted((x, y) => x - y)).toEqual(Array.from({ length: 300 }, (_, i) => i));
    expect(heard).not.toEqual(heard.toSorted((x, y) => x - y));
  });

  test("what comes twice within two minutes is dropped, later it is new", async () => {
    const { rig, heard, publish } = await gossiping();
    rig.internet.setWeather({ ...CALM, duplication: 1 });
    await publish(200);
    await rig.pass(600_000_000);
    expect(rig.internet.hits.duplication).toBe(200);
    expect(heard.length).toBeGreaterThan(200);
    expect(heard.length).toBeLessThan(300);
  });

  test("held back packets are overtaken", async () => {
    const { rig, heard, publish } = await gossiping();
    rig.internet.setWeather({ ...CALM, reordering: 0.5 });
    await publish(100);
    await rig.pass(400_000_000);
    expect(heard.toSorted((x, y) => x - y)).toEqual(Array.from({ length: 100 }, (_, i) => i));
    const inversions = heard.filter((value, i) => i > 0 && value < heard[i - 1]!).length;
    expect(inversions).toBeGreaterThan(20);
    expect(rig.internet.hits.reordering).toBeGreaterThan(30);
  });

  test("delay is delay", async () => {
    const { rig, stream, received, until } = await connected();
    rig.internet.setWeather({ ...CALM, delayUs: 3_000_000 });
    const fromUs = rig.scheduler.nowUs;
    await stream.send(Uint8Array.of(1));
    await until(() => received.length === 1);
    expect(rig.scheduler.nowUs - fromUs).toBeGreaterThanOrEqual(3_000_000);
  });

  test("a short partition holds streams up, and everything arrives in order", async () => {
    const { rig, stream, received, until, a, b } = await connected();
    for (const [from, to] of [
      ["peer-0", "peer-1"],
      ["peer-1", "peer-0"],
    ] as const)
      rig.internet.block(from, to, "p");
    for (let i = 0; i < 20; i++) await stream.send(Uint8Array.of(i));
    await rig.pass(5_000_000);
    expect(received).toEqual([]);
    rig.internet.unblock("p");
    await until(() => received.length === 20);
    expect(received.map(([first]) => first)).toEqual(Array.from({ length: 20 }, (_, i) => i));
    expect([a.connections().length, b.connections().length]).toEqual([1, 1]);
  });

  test("a long partition ends connections, each end at its own time, and dialling fails", async () => {
    const { rig, stream, until, a, b, ended } = await connected();
    const downs: number[] = [];
    for (const node of [a, b]) node.onConnection(() => downs.push(rig.scheduler.nowUs));
    for (const [from, to] of [
      ["peer-0", "peer-1"],
      ["peer-1", "peer-0"],
    ] as const)
      rig.internet.block(from, to, "p");
    await until(() => downs.length === 2 && ended());
    expect(downs[0]).not.toBe(downs[1]);
    await expect(stream.send(new Uint8Array(1))).rejects.toThrow(Failure);
    const fromUs = rig.scheduler.nowUs;
    await expect(rig.at(() => a.connect(b.addresses()[0]!))).rejects.toMatchObject({
      code: "net/unreachable",
      retryable: true,
    });
    expect(rig.scheduler.nowUs - fromUs).toBeGreaterThanOrEqual(10_000_000);
    rig.internet.unblock("p");
    expect(await rig.at(() => a.connect(b.addresses()[0]!))).toBe(b.peerId);
  });

  test("a one-way partition lets one side hear the other, for a while", async () => {
    const { rig, received, stream, until, a, b, ended } = await connected();
    rig.internet.block("peer-1", "peer-0", "p");
    await stream.send(Uint8Array.of(1));
    await until(() => received.length === 1);
    let heard = 0;
    a.gossip.onEnvelope(() => {
      heard++;
      return Promise.resolve("accept");
    });
    await b.gossip.publish(TOPIC, new Uint8Array(100));
    await until(() => a.connections().length === 0 && b.connections().length === 0 && ended());
    expect(heard).toBe(0);
  });

  test("a cut connection is noticed late, and the next dial works", async () => {
    const { rig, until, a, b } = await connected();
    const fromUs = rig.scheduler.nowUs;
    expect(rig.internet.cut()).toBe(true);
    await until(() => a.connections().length === 0 && b.connections().length === 0);
    expect(rig.scheduler.nowUs - fromUs).toBeGreaterThan(15_000_000);
    expect(await rig.at(() => a.connect(b.addresses()[0]!))).toBe(b.peerId);
    expect(rig.internet.hits.cut).toBe(1);
  });

  test("the sockets of a dead process die with it, and it says nothing more", async () => {
    const { rig, stream, until, a, b, processes, received, ended } = await connected();
    processes[0]!.alive = false;
    rig.internet.detach(processes[0]!, "closed");
    let settled = 0;
    void stream.send(Uint8Array.of(1)).then(() => settled++);
    void stream.receive().then(() => settled++);
    void a.connect(b.addresses()[0]!).then(() => settled++);
    void a.gossip.publish(TOPIC, new Uint8Array(100)).then(() => settled++);
    stream.abort();
    await until(() => b.connections().length === 0 && ended());
    await rig.pass(60_000_000);
    expect([settled, received]).toEqual([0, []]);
  });

  test("what reaches a sleeping machine is there when it wakes, unless it slept too long", async () => {
    const { rig, stream, received, until, processes, b, a } = await connected();
    const sleep = async (us: number): Promise<void> => {
      processes[1]!.asleep = true;
      rig.internet.fellAsleep(processes[1]!);
      await rig.pass(us);
    };
    await sleep(1_000);
    await stream.send(Uint8Array.of(1));
    await rig.pass(5_000_000);
    expect(received).toEqual([]);
    rig.scheduler.wake(processes[1]!);
    await until(() => received.length === 1);
    await sleep(200_000_000);
    expect(a.connections()).toEqual([]);
    rig.scheduler.wake(processes[1]!);
    await until(() => b.connections().length === 0);
  });

  test("an abort signal ends a dial that gets no answer, and no connection is left of it", async () => {
    const { rig, until, a, b } = await connected();
    await a.disconnect(b.peerId);
    await until(() => b.connections().length === 0);
    const controller = new AbortController();
    const dial = rig.at(() => a.connect(b.addresses()[0]!, { signal: controller.signal }));
    controller.abort(new Error("enough"));
    await expect(dial).rejects.toThrow("enough");
    await rig.pass(60_000_000);
    expect([a.connections(), b.connections()]).toEqual([[], []]);
  });

  test("a reader that does not read bounds what lies between, whether the sender waits or not", async () => {
    const { rig, a, b } = await connected();
    let inbound: FrameStream | undefined;
    b.handle("/unread", (given) => {
      inbound = given;
    });
    const stream = await rig.at(() => a.openStream(b.peerId, "/unread"));
    const sends = Array.from({ length: 40 }, () => stream.send(new Uint8Array(65_536)));
    let resolved = 0;
    for (const send of sends) void send.then(() => resolved++);
    await rig.pass(60_000_000);
    expect(resolved).toBeLessThan(20);
    expect(rig.internet.deepestStream).toBeLessThanOrEqual(WINDOW_BYTES + 65_536);
    expect(rig.internet.deepestUnsent).toBeGreaterThan(1_000_000);
    await stream.close();
    const late: Uint8Array[] = [];
    await rig.at(() => collect(inbound!, late));
    expect(late).toHaveLength(40);
    expect(resolved).toBe(40);
  });

  test("a circuit ends with the relay it runs through", async () => {
    const world = await makeWorld({ peers: 2, relays: 1 });
    worlds.push(world);
    const { rig, processes, relays, until } = world;
    const [a, b] = world.peers as [NetworkNode, NetworkNode];
    const relay = relays[0]!;
    await rig.at(() => b.connect(relay.addresses()[0]!));
    await rig.at(() => b.reserve(relay.peerId));
    const circuit = b.addresses().find((address) => address.includes("p2p-circuit"))!;
    await rig.at(() => a.connect(circuit));
    await until(() => b.connections().length === 2);
    // Its leg from a goes first, by hand; the other end of the circuit hears of it.
    await rig.at(() => a.disconnect(relay.peerId));
    await until(() => a.connections().length === 0 && b.connections().length === 1);
    await rig.at(() => a.connect(circuit));
    processes[2]!.alive = false;
    rig.internet.detach(processes[2]!, "closed");
    await until(() => a.connections().length === 0 && b.connections().length === 0);
    expect(b.addresses().some((address) => address.includes("p2p-circuit"))).toBe(false);
  });

  test("a peer whose messages are rejected is heard no more", async () => {
    const { rig, publish, b } = await gossiping();
    let asked = 0;
    b.gossip.onEnvelope(() => {
      asked++;
      return Promise.resolve("reject");
    });
    await publish(50);
    await rig.pass(10_000_000);
    expect(asked).toBeGreaterThanOrEqual(4);
    await publish(50);
    const before = asked;
    await publish(100);
    await rig.pass(10_000_000);
    expect(asked).toBe(before);
  });
});
