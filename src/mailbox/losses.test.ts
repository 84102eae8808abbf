/** Whatever breaks and whenever: what was promised is there, and everybody gets everything. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { EnvelopeId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { inspectEnvelope, type TopicKeys } from "#protocols/envelope/envelope.ts";
import { type Cursor, encodeFrame } from "#protocols/sync/frames.ts";
import { SYNC_PROTOCOL } from "#protocols/sync/limits.ts";
import { MemoryDisk } from "#src/runtime/memory-store.ts";
import { FaultyHost } from "#test/contracts/faulty-store.ts";
import { exampleFrames } from "#protocols/sync/frames.fixture.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import { MailboxClient } from "./client.ts";
import { startMailbox } from "./mailbox.ts";
import {
  countingRandom,
  crypto,
  envelopeMaker,
  HandClock,
  makeTopic,
  settle,
  type Sealed,
  Wire,
} from "./world.fixture.ts";

const LONG = process.env["SKEIN_LONG"] === "1";
const LONG_MS = LONG ? 300_000 : 20_000;
const seal = envelopeMaker(countingRandom("losses"));
const topics = [await makeTopic("one"), await makeTopic("two")];
const stock: Sealed[][] = await Promise.all(
  topics.map((topic) =>
    Promise.all(Array.from({ length: 24 }, (_, i) => seal(topic, { size: i % 4 === 0 ? 30_000 : 200 }))),
  ),
);

/** A peer whose memory dies with `crash` and whose committed state does not: what it has, and its cursors. */
class Peer {
  readonly committed = new Set<EnvelopeId>();
  readonly cursors = new Map<TopicId, Cursor>();
  readonly custody = new Set<EnvelopeId>();
  readonly outbox = new Map<EnvelopeId, { topic: TopicKeys; envelope: Sealed }>();
  client!: MailboxClient;
  readonly network;
  readonly #world: { wire: Wire; clock: HandClock };
  readonly #name: string;
  #life = 0;
  /** Chance to crash instead of committing. */
  fails: () => boolean = () => false;

  constructor(world: { wire: Wire; clock: HandClock }, name: string) {
    this.#world = world;
    this.#name = name;
    this.network = world.wire.node(name);
    this.network.gossip.onEnvelope(async (_topic, envelope) => {
      // Heard and committed a moment later, as a driver does.
      const life = this.#life;
      await Promise.resolve();
      if (life === this.#life) this.#commit(envelope);
      return "accept";
    });
    for (const topic of topics) this.network.gossip.join(topic.id);
    this.start();
  }

  #commit(envelope: Uint8Array): void {
    this.committed.add((inspectEnvelope(crypto, envelope) as { id: EnvelopeId }).id);
  }

  start(): void {
    const life = ++this.#life;
    this.client = new MailboxClient({
      network: this.network,
      clock: this.#world.clock,
      random: countingRandom(`${this.#name} ${life}`),
      crypto,
      address: "/wire/p2p/mailbox",
      handlers: {
        entries: async (topic, log, items, cursor) => {
          await Promise.resolve();
          if (life !== this.#life) return new Promise(() => {});
          if (this.fails()) {
            this.crash();
            return new Promise(() => {});
          }
          for (const item of items) this.#commit(item.envelope);
          if (cursor !== undefined) this.cursors.set(topic, { log, n: cursor });
        },
        seen: (id) => this.committed.has(id),
        custody: ({ ids }) => {
          for (const id of ids) {
            this.custody.add(id);
            this.outbox.delete(id);
          }
        },
        rejected: () => {},
        networkTime: () => {},
        state: (state) => {
          if (state === "open") this.client.put([...this.outbox.values()].map(({ envelope }) => envelope));
        },
      },
    });
    this.client.start();
    for (const topic of topics) this.client.subscribe(topic, this.cursors.get(topic.id));
  }

  crash(): void {
    this.client.stop();
    this.start();
  }

  send(topic: TopicKeys, envelope: Sealed, by: "gossip" | "put"): void {
    this.committed.add(envelope.id);
    this.outbox.set(envelope.id, { topic, envelope });
    if (by === "put") this.client.put([envelope]);
    else void this.network.gossip.publish(topic.id, envelope.bytes);
  }
}

/** Evenly spread numbers from one seed (mulberry32), so that a plan that failed fails again. */
function diceOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
}

type Step =
  | { type: "send"; peer: number; topic: number; count: number; by: "gossip" | "put" }
  | { type: "wait"; ms: number }
  | { type: "cut" }
  | { type: "crash peer"; peer: number }
  | { type: "crash mailbox"; keepUnsynced: boolean }
  | { type: "stop mailbox" };

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        type: fc.constant("send" as const),
        peer: fc.nat(2),
        topic: fc.nat(1),
        count: fc.integer({ min: 1, max: 5 }),
        by: fc.constantFrom("gossip" as const, "put" as const),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({ type: fc.constant("wait" as const), ms: fc.constantFrom(1, 100, 300, 2_000) }),
    },
    { weight: 1, arbitrary: fc.record({ type: fc.constant("cut" as const) }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant("crash peer" as const), peer: fc.nat(2) }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant("crash mailbox" as const), keepUnsynced: fc.boolean() }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant("stop mailbox" as const) }) },
  ),
  { minLength: 8, maxLength: 24 },
);

describe("losses", () => {
  test(
    "[SY14] [SY19] cuts at any frame, lost gossip, crashes at both ends: what has a receipt is kept, all get all",
    async () => {
      const seen = { custody: 0, cuts: 0, crashes: 0 };
      const run = async (plan: readonly Step[], dice: () => number): Promise<void> => {
        const wire = new Wire();
        const clock = new HandClock();
        // A commit takes its time, so that everything can happen while it is under way.
        const disk = new MemoryDisk({ sync: () => new Promise((resolve) => void clock.after(3, resolve)) });
        const network = wire.node("mailbox");
        let starts = 0;
        const start = async () => {
          const starting = startMailbox({
            network,
            host: new FaultyHost(disk.attach(), {
              faultAt: () => (faults && dice() % 40 === 0 ? "unknown-lost" : undefined),
            }),
            clock,
            random: countingRandom(`mailbox ${starts++}`),
            crypto,
          });
          await clock.advance(10);
          return starting;
        };
        let faults = false;
        // One validator a node, and one handler: a new life of the mailbox takes both over.
        let mailbox = await start();
        faults = true;
        const peers = [0, 1, 2].map((i) => new Peer({ wire, clock }, `peer ${i}`));
        for (const peer of peers) {
          peer.fails = () => {
            const fails = faults && dice() % 8 === 0;
            if (fails) seen.crashes++;
            return fails;
          };
        }
        wire.onFrame = () => {
          const cut = faults && dice() % 60 === 0;
          if (cut) seen.cuts++;
          return cut ? "cut" : "deliver";
        };
        wire.onGossip = () => (faults && dice() % 3 === 0 ? "lose" : "deliver");
        const restart = async (): Promise<void> => {
          wire.cut();
          faults = false;
          mailbox = await start();
          faults = true;
        };
        const used = [0, 0];
        for (const step of plan) {
          if (step.type === "send") {
            for (let i = 0; i < step.count; i++) {
              const envelope = stock[step.topic]![used[step.topic]!++];
              if (envelope) peers[step.peer]!.send(topics[step.topic]!, envelope, step.by);
            }
          } else if (step.type === "wait") await clock.advance(step.ms);
          else if (step.type === "cut") wire.cut();
          else if (step.type === "crash peer") peers[step.peer]!.crash();
          else if (step.type === "crash mailbox") {
            disk.crash(step);
            await restart();
          } else {
            faults = false;
            const stopping = mailbox.stop();
            await clock.advance(10);
            await stopping;
            await restart();
          }
        }
        faults = false;
        // Long enough for the longest wait between attempts; what has no receipt is offered again once they are open.
        await clock.advance(70_000);
        wire.cut();
        await clock.advance(70_000);
        const sent = new Set(peers.flatMap((peer) => [...peer.custody]));
        for (const peer of peers) {
          expect(peer.client.state()).toBe("open");
          expect(peer.outbox.size).toBe(0);
          for (const id of sent) expect(peer.committed.has(id)).toBe(true);
        }
        seen.custody += sent.size;
        // Who comes new gets all of it: nothing was lost behind a receipt.
        const late = new Peer({ wire, clock }, "late");
        await clock.advance(1_000);
        for (const id of sent) expect(late.committed.has(id)).toBe(true);
      };
      await fc.assert(
        fc.asyncProperty(steps, fc.nat(), (plan, seed) => run(plan, diceOf(seed))),
        { numRuns: LONG ? 500 : 40 },
      );
      expect(Object.entries(seen).filter(([, count]) => count <= 10)).toEqual([]);
    },
    LONG_MS,
  );
});

describe("rubbish", () => {
  test(
    "[SY2] thousands of rubbish streams: no throw, no hang, and the mailbox serves on",
    async () => {
      const wire = new Wire();
      const clock = new HandClock();
      const network = wire.node("mailbox");
      const mailbox = await startMailbox({
        network,
        host: new MemoryDisk().attach(),
        clock,
        random: countingRandom("m"),
        crypto,
      });
      const seeds = Object.values(await exampleFrames()).map(encodeFrame);
      const hello = encodeFrame({ type: "hello", version: 1, nonce: new Uint8Array(32), now: clock.now() });
      const vandal = wire.node("vandal");
      const count = LONG ? 100_000 : 5_000;
      let i = 0;
      for (const frame of mutations(seeds, count, 17)) {
        const stream = await vandal.openStream("mailbox" as PeerId, SYNC_PROTOCOL);
        if (i % 4 !== 0) await stream.send(hello);
        await stream.send(frame);
        if (i % 8 === 0) stream.abort();
        else if (i % 8 === 1) await stream.close();
        if (i++ % 100 === 0) await clock.advance(100);
      }
      await clock.advance(20_000);
      expect(mailbox.stats()).toMatchObject({ topics: 0, storedBytes: 0, stored: 0, state: "open" });
      expect(mailbox.stats().sessions).toBeLessThanOrEqual(1);
      const peer = new Peer({ wire, clock }, "honest");
      await settle();
      peer.send(topics[0]!, stock[0]![0]!, "put");
      await settle();
      expect(peer.custody.size).toBe(1);
      await mailbox.stop();
      peer.client.stop();
      await clock.advance(20_000);
      // Nothing waits for ever: the mailbox's timers are gone with it.
      expect(clock.waiting).toBe(0);
    },
    LONG_MS,
  );
});
