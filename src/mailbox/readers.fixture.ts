import type { EnvelopeId, TopicId } from "#protocols/base/ids.ts";
import { inspectEnvelope, type TopicKeys } from "#protocols/envelope/envelope.ts";
import type { Cursor } from "#protocols/sync/frames.ts";
import type { ServerLimits } from "#protocols/sync/server.ts";
import { MemoryDisk } from "#src/runtime/memory-store.ts";
import { type CommitFault, FaultyHost } from "#test/contracts/faulty-store.ts";
import { MailboxClient, type MailboxHandlers } from "./client.ts";
import type { MailboxLimits } from "./limits.ts";
import { type Mailbox, startMailbox } from "./mailbox.ts";
import { countingRandom, crypto, HandClock, settle, type Sealed, Wire } from "./world.fixture.ts";

type Got = {
  readonly entries: Map<EnvelopeId, number>;
  readonly cursors: Map<TopicId, Cursor>;
  readonly custody: Map<EnvelopeId, number>;
  readonly rejected: Map<EnvelopeId, string>;
  readonly states: string[];
  readonly caughtUp: Set<TopicId>;
};

/** A reader that commits at once and keeps what it was told to keep. */
export class Reader {
  readonly got: Got = {
    entries: new Map(),
    cursors: new Map(),
    custody: new Map(),
    rejected: new Map(),
    states: [],
    caughtUp: new Set(),
  };
  readonly client: MailboxClient;
  readonly network;
  commits: (topic: TopicId) => Promise<void> = async () => {};

  constructor(world: World, name: string, handlers: Partial<MailboxHandlers> = {}, network = world.wire.node(name)) {
    this.network = network;
    this.network.gossip.onEnvelope(async (_topic, envelope) => {
      this.take(envelope);
      return "accept";
    });
    this.client = new MailboxClient({
      network: this.network,
      clock: world.clock,
      random: countingRandom(name),
      crypto,
      address: "/wire/p2p/mailbox",
      handlers: {
        entries: async (topic, log, items, cursor) => {
          await this.commits(topic);
          for (const item of items) this.take(item.envelope);
          const n = cursor ?? Math.max(0, ...items.map((item) => item.n));
          const before = this.got.cursors.get(topic);
          if (before?.log !== log || before.n < n) this.got.cursors.set(topic, { log, n });
        },
        seen: (id) => this.got.entries.has(id),
        custody: ({ ids, until }) => ids.forEach((id) => this.got.custody.set(id, until)),
        rejected: (id, code) => this.got.rejected.set(id, code),
        networkTime: () => {},
        state: (state, reason) => this.got.states.push(reason ? `${state} ${reason}` : state),
        caughtUp: (topic) => this.got.caughtUp.add(topic),
        ...handlers,
      },
    });
    this.client.start();
  }

  take(envelope: Uint8Array): void {
    const info = inspectEnvelope(crypto, envelope) as { id: EnvelopeId };
    this.got.entries.set(info.id, (this.got.entries.get(info.id) ?? 0) + 1);
  }

  read(topic: TopicKeys, cursor?: Cursor): void {
    this.network.gossip.join(topic.id);
    this.client.subscribe(topic, cursor);
  }

  async publish(topic: TopicKeys, envelope: Sealed): Promise<void> {
    this.got.entries.set(envelope.id, 1);
    await this.network.gossip.publish(topic.id, envelope.bytes);
  }
}

export class World {
  readonly wire = new Wire();
  readonly clock = new HandClock();
  readonly disk = new MemoryDisk();
  readonly network = this.wire.node("mailbox");
  readonly failures: unknown[] = [];
  host = new FaultyHost(this.disk.attach());
  mailbox!: Mailbox;
  starts = 0;

  async start(
    limits: Partial<MailboxLimits> = {},
    faultAt?: (commit: number) => CommitFault | undefined,
    sessionLimits: Partial<ServerLimits> = {},
  ): Promise<this> {
    this.host = new FaultyHost(this.disk.attach(), faultAt && { faultAt });
    this.mailbox = await startMailbox({
      network: this.network,
      host: this.host,
      clock: this.clock,
      random: countingRandom(`mailbox ${this.starts++}`),
      crypto,
      limits,
      sessionLimits,
      onFailure: (failure) => this.failures.push(failure),
    });
    return this;
  }

  async reader(name: string, ...topics: TopicKeys[]): Promise<Reader> {
    const reader = new Reader(this, name);
    await settle();
    for (const topic of topics) reader.read(topic);
    await settle();
    return reader;
  }
}
