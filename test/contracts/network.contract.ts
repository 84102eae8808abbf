import { afterEach, describe, expect, test } from "vitest";
import type { PeerId, TopicId } from "#protocols/base/ids.ts";
import { nobleSuite } from "#protocols/base/noble.ts";
import { openRoot, periodAt, sealEnvelope, topicKeys } from "#protocols/envelope/envelope.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { FrameStream, Network, Verdict } from "#src/runtime/ports.ts";

/**
 * What every `Network` does, libp2p's and the simulator's. An implementation brings a world of peers that can dial each other,
 * and of relays. Nothing here sleeps: `at` lets one node do something and waits for it, `until` lets time pass.
 */
export type NetworkWorld = {
  readonly peers: readonly Network[];
  readonly relays: readonly Network[];
  /** Runs `work` as something this node does, and the world until it is done. */
  readonly at: <T>(network: Network, work: () => Promise<T>) => Promise<T>;
  /** Runs the world until `condition` holds; fails when it does not within a fair time. */
  readonly until: (condition: () => boolean) => Promise<void>;
  readonly close: () => Promise<void>;
};
export type MakeNetworkWorld = (count: { readonly peers: number; readonly relays: number }) => Promise<NetworkWorld>;

export const PROTOCOL = "/skein/test/1";

export function networkContract(name: string, makeWorld: MakeNetworkWorld): void {
  const worlds: NetworkWorld[] = [];
  const world = async (peers: number, relays = 0): Promise<NetworkWorld> => {
    const made = await makeWorld({ peers, relays });
    worlds.push(made);
    return made;
  };
  afterEach(async () => {
    for (const made of worlds.splice(0)) await made.close();
  });

  describe(`${name}: connections`, () => {
    test("connect answers with the peer, and both sides hear that it is up", async () => {
      const { peers, at, until } = await world(2);
      const [a, b] = two(peers);
      const heard: string[] = [];
      a.onConnection((peer, state) => heard.push(`a ${peer} ${state}`));
      b.onConnection((peer, state) => heard.push(`b ${peer} ${state}`));
      expect(await at(a, () => a.connect(addressOf(b)))).toBe(b.peerId);
      await until(() => heard.length === 2);
      expect(heard.sort()).toEqual([`a ${b.peerId} up`, `b ${a.peerId} up`]);
      expect(a.connections()).toMatchObject([{ peer: b.peerId, path: "direct" }]);
      expect(b.connections()).toMatchObject([{ peer: a.peerId, path: "direct" }]);
    });

    test("connecting again changes nothing", async () => {
      const { peers, at } = await world(2);
      const [a, b] = two(peers);
      await at(a, () => a.connect(addressOf(b)));
      expect(await at(a, () => a.connect(addressOf(b)))).toBe(b.peerId);
      expect(a.connections()).toHaveLength(1);
    });

    test("disconnect is heard on both sides, once", async () => {
      const { peers, at, until } = await world(2);
      const [a, b] = two(peers);
      await at(a, () => a.connect(addressOf(b)));
      await until(() => b.connections().length === 1);
      const heard: string[] = [];
      a.onConnection((_, state) => heard.push(`a ${state}`));
      b.onConnection((_, state) => heard.push(`b ${state}`));
      await at(a, () => a.disconnect(b.peerId));
      await until(() => heard.length === 2 && b.connections().length === 0);
      expect(heard.sort()).toEqual(["a down", "b down"]);
      expect(a.connections()).toEqual([]);
    });

    test("a listener that was taken off hears nothing", async () => {
      const { peers, at, until } = await world(2);
      const [a, b] = two(peers);
      let heard = 0;
      const off = a.onConnection(() => heard++);
      off();
      await at(a, () => a.connect(addressOf(b)));
      await until(() => b.connections().length === 1);
      expect(heard).toBe(0);
    });

    test("what is no address and who is not there have their codes", async () => {
      const { peers, at } = await world(2);
      const [a, b] = two(peers);
      const gone = addressOf(b);
      await at(b, () => b.stop());
      expect(await codeOf(at(a, () => a.connect("not an address")))).toEqual(["net/bad-address", false]);
      expect(await codeOf(at(a, () => a.connect(gone)))).toEqual(["net/unreachable", true]);
      expect(await codeOf(at(a, () => a.openStream(b.peerId, PROTOCOL)))).toEqual(["net/unreachable", true]);
    });

    test("every node has a peer id of its own", async () => {
      const { peers } = await world(3);
      expect(new Set(peers.map((peer) => peer.peerId)).size).toBe(3);
      for (const peer of peers)
        for (const address of peer.addresses()) expect(address.endsWith(peer.peerId)).toBe(true);
    });

    test("through a relay that gave a reservation, and not without one", async () => {
      const { peers, relays, at, until } = await world(2, 1);
      const [a, b] = two(peers);
      const relay = relays[0]!;
      await at(a, () => a.connect(addressOf(relay)));
      const circuit = `${addressOf(relay)}/p2p-circuit/p2p/${b.peerId}`;
      expect(await codeOf(at(a, () => a.connect(circuit)))).toEqual(["net/unreachable", true]);
      await at(b, () => b.connect(addressOf(relay)));
      await at(b, () => b.reserve(relay.peerId));
      await until(() => b.addresses().some((address) => address.includes("p2p-circuit")));
      expect(await at(a, () => a.connect(circuit))).toBe(b.peerId);
      await until(() => b.connections().some(({ peer }) => peer === a.peerId));
      expect(a.connections().find(({ peer }) => peer === b.peerId)?.path).toBe("relayed");
      expect(b.connections().find(({ peer }) => peer === a.peerId)?.path).toBe("relayed");
      echo(b);
      const stream = await at(a, () => a.openStream(b.peerId, PROTOCOL));
      expect(await at(a, () => ask(stream, text("through")))).toEqual(text("through"));
    });

    test("no reservation at a peer that is not connected", async () => {
      const { peers, relays, at } = await world(1, 1);
      const a = peers[0]!;
      expect(await codeOf(at(a, () => a.reserve(relays[0]!.peerId)))).toEqual(["net/unreachable", true]);
    });

    test("a direct connection outlives the relay", async () => {
      const { peers, relays, at, until } = await world(2, 1);
      const [a, b] = two(peers);
      const relay = relays[0]!;
      for (const peer of [a, b]) await at(peer, () => peer.connect(addressOf(relay)));
      await at(a, () => a.connect(addressOf(b)));
      echo(b);
      const stream = await at(a, () => a.openStream(b.peerId, PROTOCOL));
      await at(relay, () => relay.stop());
      await until(() => a.connections().length === 1 && b.connections().length === 1);
      expect(await at(a, () => ask(stream, text("still here")))).toEqual(text("still here"));
    });
  });

  describe(`${name}: frames`, () => {
    const pair = async (): Promise<NetworkWorld & { a: Network; b: Network }> => {
      const made = await world(2);
      const [a, b] = two(made.peers);
      await made.at(a, () => a.connect(addressOf(b)));
      await made.until(() => b.connections().length === 1);
      return { ...made, a, b };
    };

    test("arrive whole and in order, empty ones too", async () => {
      const { a, b, at, until } = await pair();
      const received: Uint8Array[] = [];
      let from: PeerId | undefined;
      b.handle(PROTOCOL, (stream, peer) => {
        from = peer;
        void collect(stream, received);
      });
      const sizes = [0, 1, 3, 4, 5, 1000, 16_377, 65_536, 0, 300_000, 1024 * 1024, 7];
      const stream = await at(a, () => a.openStream(b.peerId, PROTOCOL));
      await at(a, async () => {
        for (const [index, size] of sizes.entries()) await stream.send(new Uint8Array(size).fill(index));
      });
      await until(() => received.length === sizes.length);
      expect(from).toBe(a.peerId);
      for (const [index, size] of sizes.entries()) {
        expect(received[index]!.length).toBe(size);
        expect(received[index]!.every((byte) => byte === index)).toBe(true);
      }
    });

    test("sent without waiting keep their order", async () => {
      const { a, b, at, until } = await pair();
      const received: Uint8Array[] = [];
      b.handle(PROTOCOL, (stream) => void collect(stream, received));
      const stream = await at(a, () => a.openStream(b.peerId, PROTOCOL));
      await at(a, () => Promise.all(Array.from({ length: 200 }, (_, n) => stream.send(Uint8Array.of(n)))));
      await until(() => received.length === 200);
      expect(received.map(([first]) => first)).toEqual(Array.from({ length: 200 }, (_, n) => n));
    });

    test("go both ways at once", async () => {
      const { a, b, at } = await pair();
      echo(b);
      const stream = await at(a, () => a.openStream(b.peerId, PROTOCOL));
      for (const word of ["one", "two", "three"])
        expect(await at(a, () => ask(stream, text(word)))).toEqual(text(word));
    });

    test("what was sent before close arrives, then the end", async () => {
      const { a, b, at, until } = await pair();
      const received: Uint8Array[] = [];
      let ended = false;
      b.handle(PROTOCOL, (stream) => void collect(stream, received).then(() => (ended = true)));
      const stream = await at(a, () => a.openStream(b.peerId, PROTOCOL));
      await at(a, async () => {
        await stream.send(text("first"));
        await stream.send(text("last"));
        await stream.close();
      });
      await until(() => ended);
      expect(received).toEqual([text("first"), text("last")]);
      expect(await codeOf(at(a, () => stream.send(text("more"))))).toEqual(["net/stream-closed", true]);
    });

    test("the end is told to whoever reads late", async () => {
      const { a, b, at, until } = await pair();
      let inbound: FrameStream | undefined;
      b.handle(PROTOCOL, (stream) => (inbound = stream));
      const stream = await at(a, () => a.openStream(b.peerId, PROTOCOL));
      await at(a, async () => {
        await stream.send(text("unread"));
        await stream.close();
      });
      await at(a, () => a.disconnect(b.peerId));
      await until(() => inbound !== undefined && b.connections().length === 0);
      const rest = await at(b, async () => [await inbound!.receive(), await inbound!.receive()]);
      expect(rest.at(-1)).toBeUndefined();
    });

    test("an aborted stream ends for its reader", async () => {
      const { a, b, at, until } = await pair();
      let ended = false;
      b.handle(PROTOCOL, (stream) => void collect(stream, []).then(() => (ended = true)));
      const stream = await at(a, () => a.openStream(b.peerId, PROTOCOL));
      await at(a, () => stream.send(text("hello")));
      stream.abort();
      await until(() => ended);
      expect(await at(a, () => stream.receive())).toBeUndefined();
      expect(await codeOf(at(a, () => stream.send(text("more"))))).toEqual(["net/stream-closed", true]);
    });

    test("a lost connection ends its streams", async () => {
      const { a, b, at, until } = await pair();
      b.handle(PROTOCOL, (stream) => void collect(stream, []));
      const stream = await at(a, () => a.openStream(b.peerId, PROTOCOL));
      await at(a, () => stream.send(text("hello")));
      const ended = at(a, () => stream.receive());
      await at(b, () => b.stop());
      expect(await ended).toBeUndefined();
      await until(() => a.connections().length === 0);
    });

    test("a sender waits for a reader that does not read", async () => {
      const { a, b, at, until } = await pair();
      let inbound: FrameStream | undefined;
      b.handle(PROTOCOL, (stream) => (inbound = stream));
      const stream = await at(a, () => a.openStream(b.peerId, PROTOCOL));
      const frames = 64;
      let sent = 0;
      const sending = at(a, async () => {
        for (; sent < frames; sent++) await stream.send(new Uint8Array(1024 * 1024).fill(sent));
      });
      // 64 MiB do not fit into what is between them; how much does is the implementation's.
      await until(() => inbound !== undefined && sent > 0);
      let received = 0;
      await at(b, async () => {
        expect(sent).toBeLessThan(frames);
        for (; received < frames; received++) expect((await inbound!.receive())?.[0]).toBe(received);
      });
      await sending;
      expect([sent, received]).toEqual([frames, frames]);
    });
  });

  describe(`${name}: gossip`, () => {
    test("a topic is known to those it was revealed to, and to nobody else", async () => {
      const { peers, at, until } = await world(3);
      const [a, b, c] = [peers[0]!, peers[1]!, peers[2]!];
      const topic = await sampleTopic(1);
      for (const other of [b, c]) await at(a, () => a.connect(addressOf(other)));
      await until(() => b.connections().length === 1 && c.connections().length === 1);
      for (const peer of peers) peer.gossip.join(topic.id);
      a.gossip.reveal(topic.id, b.peerId);
      await until(() => b.gossip.peers(topic.id).includes(a.peerId));
      expect(c.gossip.peers(topic.id)).toEqual([]);
    });

    test("an envelope goes to the revealed, from whom it came, once, and not to its author", async () => {
      const { peers, at, until } = await world(2);
      const [a, b] = two(peers);
      const heardByA = validator(a, "accept");
      const heardByB = validator(b, "accept");
      const topic = await sampleTopic(2);
      await meet({ at, until }, [a], b, topic.id);
      const envelope = await topic.seal("hello");
      expect(await at(a, () => a.gossip.publish(topic.id, envelope))).toBe(1);
      await until(() => heardByB.length === 1);
      expect(heardByB).toEqual([{ topic: topic.id, envelope, from: a.peerId }]);
      expect(await at(a, () => a.gossip.publish(topic.id, envelope))).toBeLessThanOrEqual(1);
      expect(await at(b, () => b.gossip.publish(topic.id, envelope))).toBeLessThanOrEqual(1);
      const next = await topic.seal("next");
      await at(a, () => a.gossip.publish(topic.id, next));
      await until(() => heardByB.length === 2);
      expect(heardByB[1]?.envelope).toEqual(next);
      expect(Object.getPrototypeOf(heardByB[1]?.envelope)).toBe(Uint8Array.prototype); // a Buffer's slice is no copy
      expect(heardByA).toEqual([]);
    });

    test("publishing where nobody listens, or where we are not, is no error", async () => {
      const { peers, at } = await world(1);
      const a = peers[0]!;
      const topic = await sampleTopic(3);
      const envelope = await topic.seal("hello");
      expect(await at(a, () => a.gossip.publish(topic.id, envelope))).toBe(0);
      a.gossip.join(topic.id);
      expect(await at(a, () => a.gossip.publish(topic.id, envelope))).toBe(0);
    });

    test("what was published to nobody can be published again", async () => {
      const { peers, at, until } = await world(2);
      const [a, b] = two(peers);
      const heard = validator(b, "accept");
      const topic = await sampleTopic(4);
      a.gossip.join(topic.id);
      const envelope = await topic.seal("hello");
      expect(await at(a, () => a.gossip.publish(topic.id, envelope))).toBe(0);
      await meet({ at, until }, [a], b, topic.id);
      expect(await at(a, () => a.gossip.publish(topic.id, envelope))).toBe(1);
      await until(() => heard.length === 1);
    });

    test("a relay hands on what it accepts, and nothing else", async () => {
      const { peers, relays, at, until } = await world(3, 1);
      const [a, b, c] = [peers[0]!, peers[1]!, peers[2]!];
      const relay = relays[0]!;
      const topic = await sampleTopic(5);
      const [bad, odd, good] = [await topic.seal("bad"), await topic.seal("odd"), await topic.seal("good")];
      const verdicts = new Map<string, Verdict>([
        [String(bad), "reject"],
        [String(odd), "ignore"],
      ]);
      const heardByRelay: Heard[] = [];
      relay.gossip.onEnvelope((id, envelope, from) => {
        heardByRelay.push({ topic: id, envelope, from });
        return Promise.resolve(verdicts.get(String(envelope)) ?? "accept");
      });
      const heard = [validator(b, "accept"), validator(c, "accept")];
      await meet({ at, until }, [a, b, c], relay, topic.id);
      for (const envelope of [odd, bad]) expect(await at(a, () => a.gossip.publish(topic.id, envelope))).toBe(1);
      await until(() => heardByRelay.length === 2);
      await at(b, () => b.gossip.publish(topic.id, good));
      await until(() => heard[1]!.length === 1);
      expect(heard[0]).toEqual([]);
      expect(heard[1]).toEqual([{ topic: topic.id, envelope: good, from: relay.peerId }]);
    });

    test("one topic's envelopes are not heard on another", async () => {
      const { peers, at, until } = await world(2);
      const [a, b] = two(peers);
      const heard = validator(b, "accept");
      const [one, other] = [await sampleTopic(6), await sampleTopic(7)];
      await meet({ at, until }, [a], b, one.id);
      a.gossip.join(other.id);
      b.gossip.join(other.id);
      const [hidden, seen] = [await other.seal("hidden"), await one.seal("seen")];
      expect(await at(a, () => a.gossip.publish(other.id, hidden))).toBe(0);
      await at(a, () => a.gossip.publish(one.id, seen));
      await until(() => heard.length === 1);
      expect(heard[0]?.topic).toBe(one.id);
    });

    test("after leaving, the others know, and nothing comes any more; joining again works at once", async () => {
      const { peers, at, until } = await world(2);
      const [a, b] = two(peers);
      const heard = validator(b, "accept");
      const topic = await sampleTopic(8);
      await meet({ at, until }, [a], b, topic.id);
      b.gossip.leave(topic.id);
      await until(() => a.gossip.peers(topic.id).length === 0);
      const [lost, arrived] = [await topic.seal("lost"), await topic.seal("arrived")];
      expect(await at(a, () => a.gossip.publish(topic.id, lost))).toBe(0);
      b.gossip.join(topic.id);
      b.gossip.reveal(topic.id, a.peerId);
      await until(() => a.gossip.peers(topic.id).length === 1);
      await at(a, () => a.gossip.publish(topic.id, arrived));
      await until(() => heard.length === 1);
      expect(heard[0]?.envelope).toEqual(arrived);
    });

    test("what was revealed to a peer is forgotten when it goes", async () => {
      const { peers, at, until } = await world(2);
      const [a, b] = two(peers);
      const topic = await sampleTopic(9);
      await meet({ at, until }, [a], b, topic.id);
      await at(a, () => a.disconnect(b.peerId));
      await until(() => a.gossip.peers(topic.id).length === 0 && b.gossip.peers(topic.id).length === 0);
      await at(a, () => a.connect(addressOf(b)));
      await until(() => b.connections().length === 1);
      b.gossip.reveal(topic.id, a.peerId);
      await until(() => a.gossip.peers(topic.id).length === 1);
      expect(b.gossip.peers(topic.id)).toEqual([]);
      const envelope = await topic.seal("hello");
      expect(await at(a, () => a.gossip.publish(topic.id, envelope))).toBe(0);
    });
  });
}

type Heard = { topic: TopicId; envelope: Uint8Array; from: PeerId };

export function validator(network: Network, verdict: Verdict): Heard[] {
  const heard: Heard[] = [];
  network.gossip.onEnvelope((topic, envelope, from) => {
    heard.push({ topic, envelope, from });
    return Promise.resolve(verdict);
  });
  return heard;
}

/** Connects each of `many` to `one`; all join the topic and reveal it to each other along these connections. */
export async function meet(
  { at, until }: Pick<NetworkWorld, "at" | "until">,
  many: readonly Network[],
  one: Network,
  topic: TopicId,
): Promise<void> {
  one.gossip.join(topic);
  for (const peer of many) {
    await at(peer, () => peer.connect(addressOf(one)));
    await until(() => one.connections().some((connection) => connection.peer === peer.peerId));
    peer.gossip.join(topic);
    peer.gossip.reveal(topic, one.peerId);
    one.gossip.reveal(topic, peer.peerId);
  }
  await until(() => one.gossip.peers(topic).length >= many.length);
  await until(() => many.every((peer) => peer.gossip.peers(topic).includes(one.peerId)));
}

/** A real topic with real envelopes: an implementation may look into them. */
export async function sampleTopic(
  seed: number,
): Promise<{ readonly id: TopicId; seal(words: string): Promise<Uint8Array> }> {
  const crypto = nobleSuite();
  const now = 1_800_000_000_000;
  let drawn = 0;
  const random = (length: number): Uint8Array =>
    crypto.hkdf({ ikm: Uint8Array.of(seed, drawn & 255, drawn++ >> 8), info: text("t"), length });
  const chain = openRoot(crypto, { version: 1, secret: random(32), createdAt: now });
  const keys = await topicKeys(crypto, chain, periodAt(chain, now));
  return {
    id: keys.id,
    async seal(words) {
      const options = { topic: keys, kind: "stored", lifetime: "week", payload: text(words) } as const;
      return (await sealEnvelope(options, { now, random, crypto })).bytes;
    },
  };
}

export function addressOf(network: Network): string {
  const address = network.addresses().find((candidate) => !candidate.includes("p2p-circuit"));
  if (address === undefined) throw new Error("the node has no address");
  return address;
}

export async function codeOf(work: Promise<unknown>): Promise<readonly [code: string, retryable: boolean]> {
  try {
    await work;
  } catch (error) {
    if (error instanceof Failure) return [error.code, error.retryable];
    throw error;
  }
  return ["none", false];
}

export async function collect(stream: FrameStream, into: Uint8Array[]): Promise<void> {
  for (;;) {
    const frame = await stream.receive();
    if (frame === undefined) return;
    into.push(frame);
  }
}

/** Sends back whatever comes on the test protocol, to its end. */
export function echo(network: Network): void {
  network.handle(PROTOCOL, (stream) => void sendBack(stream));
}

async function sendBack(stream: FrameStream): Promise<void> {
  for (let frame = await stream.receive(); frame; frame = await stream.receive()) await stream.send(frame);
  await stream.close();
}

async function ask(stream: FrameStream, question: Uint8Array): Promise<Uint8Array | undefined> {
  await stream.send(question);
  return stream.receive();
}

function text(words: string): Uint8Array {
  return new Uint8Array(Buffer.from(words));
}

function two(networks: readonly Network[]): readonly [Network, Network] {
  return [networks[0]!, networks[1]!];
}
