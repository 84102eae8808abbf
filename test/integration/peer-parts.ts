/**
 * The parts of a peer, put together by hand over the home of one who has met another and talked: for tests that ask one part
 * something the face does not tell. The meeting itself is the shipping code in the simulator; then the peers are gone and time
 * stands still.
 */
import { decode } from "#protocols/base/codec.ts";
import type { AccountId, ConversationId, TopicId } from "#protocols/base/ids.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { inspectEnvelope } from "#protocols/envelope/envelope.ts";
import { Directs, type Outcome } from "#src/peer/directs.ts";
import type { PeerEvent } from "#src/peer/face.ts";
import { Inbound } from "#src/peer/inbound.ts";
import { batchSchema, PUSH_PROTOCOL } from "#src/peer/push.ts";
import { Identity } from "#src/peer/self.ts";
import { Topics } from "#src/peer/topics.ts";
import type { World as PeerWorld } from "#src/peer/world.ts";
import { Driver } from "#src/runtime/driver.ts";
import { MemoryDisk } from "#src/runtime/memory-store.ts";
import type { Network, StoreHost } from "#src/runtime/ports.ts";
import type { Unlock } from "#src/runtime/vault.ts";
import { ManualClock } from "#test/contracts/manual-clock.ts";
import { byteStream } from "#test/simulator/random.ts";
import { shippingProgram } from "#test/simulator/shipping.ts";
import { Workload } from "#test/simulator/workload.ts";
import { instead } from "./peer-world.ts";
import { type Environment, type Machine, type SimPeer, World } from "#test/simulator/world.ts";

const SECOND_US = 1_000_000;
const FOR_EVER_US = 1e15;
/** Messages alice says after bob's end. */
const UNSEEN = 3;
/** As the simulator's programs have it. */
const UNLOCK = { platformKey: new Uint8Array(32).fill(7) };

/** What two people have left behind who met and talked. */
export type Met = {
  readonly crypto: CryptoSuite;
  /** Bob's, after his end. */
  readonly disk: MemoryDisk;
  readonly alice: AccountId;
  readonly bob: AccountId;
  readonly conversation: ConversationId;
  /** Every envelope alice let out while bob was there, in order. */
  readonly gossiped: readonly Gossiped[];
  /** What she let out after his end: he has not seen it. */
  readonly unseen: readonly Gossiped[];
  /** Network time at the end. */
  readonly now: number;
};

export type Gossiped = { readonly topic: TopicId; readonly envelope: Uint8Array };

/** Alice and bob meet, then each says `messages` things and gets the receipts. */
export async function metInTheSimulator(seed: number, messages: number): Promise<Met> {
  const { startPeer, startRelay, crypto } = shippingProgram();
  const disk = new MemoryDisk();
  const gossiped: Gossiped[] = [];
  let now = 0;
  const world = new World({
    seed,
    crypto,
    peers: [
      { name: "alice", dialable: true, start: (environment) => startPeer(recording(environment, gossiped)) },
      {
        name: "bob",
        start: (environment) => {
          now = environment.clock.now();
          return startPeer({ ...environment, host: disk.attach() });
        },
      },
    ],
    relays: [{ name: "relay", start: startRelay }],
  });
  const [alice, bob] = world.peers as [Machine<SimPeer>, Machine<SimPeer>];
  const pass = (us: number): Promise<void> => world.scheduler.run(world.scheduler.nowUs + us);
  const workload = new Workload(world, seed);
  const startedUs = SECOND_US;
  world.boot();
  workload.begin(0, 0);
  while (!workload.allMet) await pass(5 * SECOND_US);
  const conversation = workload.pairs[0]!.conversations.get(0)!;
  for (let i = 0; i < messages; i++) {
    await world.ask(alice, (face) => face.send(conversation, { text: `alice ${i}` }));
    await world.ask(bob, (face) => face.send(conversation, { text: `bob ${i}` }));
  }
  await pass(120 * SECOND_US);
  const statuses = [await world.ask(alice, (face) => face.status()), await world.ask(bob, (face) => face.status())];
  assert(
    statuses.every((status) => status?.outbox === 0),
    "both have everything",
  );
  now += Math.round((world.scheduler.nowUs - startedUs) / 1_000);
  world.crash(bob, { silent: true, downForUs: FOR_EVER_US });
  disk.crash();
  const seen = gossiped.splice(0);
  for (let i = 0; i < UNSEEN; i++) await world.ask(alice, (face) => face.send(conversation, { text: `unseen ${i}` }));
  await pass(SECOND_US);
  const accounts = { alice: workload.account(0)!, bob: workload.account(1)! };
  return { crypto, disk, ...accounts, conversation, gossiped: seen, unseen: gossiped, now };
}

/** Notes every envelope that leaves: gossiped, or pushed straight to a contact's device. */
function recording(environment: Environment, left: Gossiped[]): Environment {
  const { network, crypto } = environment;
  const note = (envelope: Uint8Array): void => {
    const info = inspectEnvelope(crypto, envelope);
    assert(!isReject(info), "a peer lets out well-formed envelopes");
    left.push({ topic: info.topic, envelope: envelope.slice() });
  };
  const gossip = instead(network.gossip, {
    publish: (topic: TopicId, envelope: Uint8Array) => {
      note(envelope);
      return network.gossip.publish(topic, envelope);
    },
  });
  const openStream: Network["openStream"] = async (peer, protocol, options) => {
    const stream = await network.openStream(peer, protocol, options);
    if (protocol !== PUSH_PROTOCOL) return stream;
    return instead(stream, {
      send: (frame: Uint8Array) => {
        const batch = decode(batchSchema, frame);
        assert(!isReject(batch), "a peer pushes well-formed batches");
        batch.forEach(note);
        return stream.send(frame);
      },
    });
  };
  return { ...environment, network: instead(network, { gossip, openStream }) };
}

export type Parts = {
  readonly world: PeerWorld;
  readonly clock: ManualClock;
  readonly driver: Driver;
  readonly directs: Directs;
  readonly topics: Topics;
  readonly inbound: Inbound;
  /** Steps that were committed since. */
  readonly outcomes: Outcome[];
  readonly events: PeerEvent[];
  /** Network time may be moved. */
  setNow: (now: number) => void;
};

/** Bob's parts over what is on his disk. He is connected to nobody. */
export function partsOf(met: Met): Promise<Parts> {
  return openParts({ host: met.disk.attach(), unlock: UNLOCK, crypto: met.crypto, now: met.now });
}

/** The parts of whoever left this home, connected to nobody. */
export async function openParts(home: {
  readonly host: StoreHost;
  readonly unlock: Unlock;
  readonly crypto: CryptoSuite;
  readonly now: number;
}): Promise<Parts> {
  const { crypto, host, unlock } = home;
  const clock = new ManualClock();
  const random = byteStream(1, "parts");
  const driver = await Driver.open({ host, unlock, clock, random, crypto });
  const identity = await Identity.load(driver, crypto);
  const outcomes: Outcome[] = [];
  const events: PeerEvent[] = [];
  let now = home.now;
  const world: PeerWorld = {
    driver,
    network: NOBODY,
    clock,
    random,
    crypto,
    identity,
    now: () => now,
    tell: (event) => void events.push(event),
  };
  const directs = new Directs(world, { prepare: () => {}, outbound: (outcome) => void outcomes.push(outcome) });
  const topics = new Topics(world, () => {});
  const inbound = new Inbound(world, directs, topics);
  const all = await directs.load();
  await inbound.load(all.map(({ contact }) => contact));
  for (const direct of all) await topics.refresh(direct);
  const setNow = (time: number): void => {
    now = time;
  };
  return { world, clock, driver, directs, topics, inbound, outcomes, events, setNow };
}

/** A network without anybody: joining is heard by none. */
const NOBODY = {
  peerId: "nobody",
  addresses: () => [],
  connections: () => [],
  gossip: { join: () => {}, leave: () => {}, reveal: () => {}, peers: () => [], publish: () => Promise.resolve(0) },
} as unknown as Network;
