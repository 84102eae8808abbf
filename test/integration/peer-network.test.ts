/** Peers over real libp2p: without their relay, with it again, and among those who mean no good. */
import { afterEach, describe, expect, test } from "vitest";

import { decode, encode } from "#protocols/base/codec.ts";
import type { PeerId } from "#protocols/base/ids.ts";
import { isReject } from "#protocols/base/reject.ts";
import { createNodeNetwork } from "#src/net/node-network.ts";
import { batchSchema as batch, PUSH_PROTOCOL } from "#src/peer/push.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { FrameStream, Network } from "#src/runtime/ports.ts";
import { mutations } from "#test/fuzz/mutate.ts";

import { TCP } from "./net-world.ts";
import {
  drained,
  eventually,
  listenAgain,
  meet,
  pathIs,
  relaysOpen,
  type Running,
  stateOf,
  tapped,
  texts,
  Town,
} from "./peer-world.ts";

const LONG = process.env["SKEIN_LONG"] === "1";
const RUBBISH = LONG ? 100_000 : 5_000;
/** Of the rubbish, frames that are no list of envelopes: each ends its stream, so each needs one of its own. */
const BROKEN_FRAMES = LONG ? 5_000 : 500;
/** Longer than anything a peer waits for that has just met or lost somebody. */
const QUIET_MS = 3_000;

let town: Town | undefined;
afterEach(async () => {
  await town?.clear();
  town = undefined;
});

async function two() {
  town = new Town();
  const relay = await town.relay("relay");
  const address = relay.addresses[0]!;
  const alice = await town.person("alice", [address]);
  const bob = await town.person("bob", [address]);
  const conversation = await meet(alice, bob);
  await pathIs("direct", conversation, alice, bob);
  return { town, relay, address, alice, bob, conversation };
}

function has(events: Running["events"], type: string): boolean {
  return events.some((event) => event.type === type);
}

describe("without a relay", () => {
  test("a direct conversation goes on: messages, receipts, typing; and nothing is held", async () => {
    const { relay, alice, bob, conversation } = await two();
    await drained(alice, bob);
    await relay.stop();
    await eventually("both have noticed", async () => {
      const statuses = await Promise.all([alice, bob].map(({ peer }) => peer.status()));
      return statuses.every(({ relays }) => relays.every(({ state }) => state !== "open"));
    });
    const sent: string[] = [];
    for (let i = 0; i < 20; i++) {
      for (const from of [alice, bob]) {
        const { id } = await from.peer.send(conversation, { text: `${i} of ${from === alice ? "alice" : "bob"}` });
        if (from === alice) sent.push(id);
      }
    }
    await drained(alice, bob);
    expect(await texts(alice, conversation)).toEqual(await texts(bob, conversation));
    expect(await texts(alice, conversation)).toHaveLength(40);
    const last = (await bob.peer.messages(conversation, { limit: 1 })).at(-1)!;
    await bob.peer.markRead(conversation, last.id);
    await eventually("what alice said is read", async () => {
      const own = (await alice.peer.messages(conversation)).filter(({ author }) => author === alice.peer.account);
      return own.slice(0, -1).every(({ state }) => state === "read");
    });
    await alice.peer.typing(conversation);
    await eventually("bob sees her typing", () => has(bob.events, "typing"));
    expect(sent).toHaveLength(20);
  });

  test("the relay comes back: who was offline meanwhile gets what was said, also from one who has gone by then", async () => {
    const { town, relay, address, alice, bob, conversation } = await two();
    const carol = await town.person("carol", [address]);
    const withCarol = await meet(alice, carol);
    await drained(alice, bob, carol);
    await carol.peer.close();
    await relay.stop();
    const { id } = await alice.peer.send(withCarol, { text: "while nobody was there" });
    const direct = await alice.peer.send(conversation, { text: "bob is here" });
    await eventually("bob has his", async () => (await stateOf(alice, conversation, direct.id)) === "delivered");
    expect(await stateOf(alice, withCarol, id)).toBe("queued");

    await town.relay("relay", { listen: listenAgain(address) });
    await relaysOpen(alice, bob);
    await eventually("the relay holds it", async () => (await stateOf(alice, withCarol, id)) === "held");
    await alice.peer.close();
    const again = await town.start(carol.home);
    await eventually("carol has it", async () => (await texts(again, withCarol)).includes("while nobody was there"));
  });

  test("two starts of one home are two peers on the network", async () => {
    const { town, alice, bob, conversation } = await two();
    const first = alice.network.peerId;
    await alice.peer.close();
    const again = await town.start(alice.home);
    expect(again.network.peerId).not.toBe(first);
    expect(again.peer.account).toBe(alice.peer.account);
    expect(again.peer.device).toBe(alice.peer.device);
    await pathIs("direct", conversation, again, bob);
    const { id } = await bob.peer.send(conversation, { text: "still you?" });
    await eventually("it arrives", async () => (await stateOf(bob, conversation, id)) === "delivered");
  });
});

/** @returns Whether the other side let it go on. */
async function sends(stream: FrameStream, frame: Uint8Array): Promise<boolean> {
  try {
    await stream.send(frame);
    return true;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    return false;
  }
}

/** Resolves when the other side has ended the stream. */
async function ended(stream: FrameStream): Promise<void> {
  let over = false;
  void (async () => {
    while ((await stream.receive()) !== undefined);
    over = true;
  })();
  await eventually("the stream is ended", () => over);
}

function disk({ home }: Awaited<ReturnType<Town["person"]>>): string {
  return home.disk
    .contents()
    .map(([key, value]) => Buffer.concat([key, value]).toString("base64"))
    .join();
}

/** Nothing was written for a while: presence and receipts that were still due have come and gone. */
async function quiet(person: Awaited<ReturnType<Town["person"]>>): Promise<void> {
  let last = disk(person);
  let since = performance.now();
  await eventually("the disk is quiet", () => {
    const now = disk(person);
    if (now !== last) since = performance.now();
    last = now;
    return performance.now() - since > QUIET_MS;
  });
}

function addressOf(network: Network): string {
  return network.addresses().find((address) => !address.includes("/p2p-circuit"))!;
}

async function streamTo(network: Network, peer: PeerId): Promise<FrameStream> {
  let stream: FrameStream | undefined;
  await eventually("a stream", async () => {
    stream = await network.openStream(peer, PUSH_PROTOCOL).catch((error: unknown) => {
      if (!(error instanceof Failure)) throw error;
      return undefined;
    });
    return stream !== undefined;
  });
  return stream!;
}

describe("on the push stream", () => {
  test("a stranger is refused, whatever it sends", async () => {
    const { alice, bob, conversation } = await two();
    await drained(alice, bob);
    await quiet(alice);
    const before = disk(alice);
    const stranger = await createNodeNetwork({ listen: [TCP] });
    try {
      const peer = await stranger.connect(addressOf(alice.network));
      for (let i = 0; i < 10; i++) {
        const stream = await stranger.openStream(peer, PUSH_PROTOCOL);
        await sends(stream, encode(batch, [new Uint8Array(400)]));
        await ended(stream);
      }
      expect(disk(alice)).toBe(before);
      const { id } = await bob.peer.send(conversation, { text: "they are gone" });
      await eventually("it arrives", async () => (await stateOf(bob, conversation, id)) === "delivered");
    } finally {
      await stranger.stop();
    }
  });

  test(
    `a contact that sends ${RUBBISH} frames of rubbish changes nothing, and is heard when it talks sense`,
    async () => {
      const { town, address, alice } = await two();
      // Mallory is a contact of alice's whose network we hold in our hands; what she says truly is the seed of the rubbish.
      const said: Uint8Array[] = [];
      const mallory = await town.person("mallory", [address], {
        wrap: (network) =>
          tapped(network, (way, bytes) => {
            if (way === "gossip") said.push(bytes);
            const pushed = way === PUSH_PROTOCOL ? decode(batch, bytes) : [];
            if (!isReject(pushed)) said.push(...pushed);
          }),
      });
      const conversation = await meet(alice, mallory);
      await pathIs("direct", conversation, alice, mallory);
      for (let i = 0; i < 12; i++) await mallory.peer.send(conversation, { text: `sense ${i}` });
      await drained(alice, mallory);
      expect(said.length).toBeGreaterThan(10);
      await quiet(alice);
      const before = disk(alice);

      let sent = 0;
      let stream = await streamTo(mallory.network, alice.network.peerId);
      // Lists of rubbish envelopes: the stream lives on.
      for (const rubbish of mutations(said.slice(-16), RUBBISH - BROKEN_FRAMES, 5)) {
        expect(await sends(stream, encode(batch, [rubbish]))).toBe(true);
        sent++;
      }
      // Frames that are no lists: each ends its stream.
      for (const frame of mutations([encode(batch, [said.at(-1)!])], BROKEN_FRAMES, 6)) {
        if (!(await sends(stream, frame))) stream = await streamTo(mallory.network, alice.network.peerId);
        sent++;
      }
      expect(sent).toBe(RUBBISH);
      stream.abort();
      expect(disk(alice)).toBe(before);
      const { id } = await mallory.peer.send(conversation, { text: "sense again" });
      await eventually("it arrives", async () => (await stateOf(mallory, conversation, id)) === "delivered");
      const heard = await texts(alice, conversation);
      expect(heard.toSorted()).toEqual(
        [...Array.from({ length: 12 }, (_, i) => `sense ${i}`), "sense again"].toSorted(),
      );
    },
    LONG ? 900_000 : 120_000,
  );
});
