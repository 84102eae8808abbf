/** One peer as a process of its own, for the benches: starts with a new account, then obeys its parent. */
import { startPeer, createIdentity } from "#src/peer/start.ts";
import { createNodeNetwork } from "#src/net/node-network.ts";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import { nodeSuite } from "#src/runtime/node-crypto.ts";
import type { ConversationId } from "#protocols/base/ids.ts";
import { sharedNowMs } from "./report.ts";

/** Text of a message of 1 KB, its time of sending in front. */
const TEXT = "x".repeat(1000);
const STAMP_LENGTH = 24;
/** Sends of a burst that wait for the disk at once. */
const CONCURRENT_SENDS = 256;

const [home = "", name = "", ...relays] = process.argv.slice(2);
const options = {
  host: levelStoreHost(home),
  unlock: { platformKey: systemRandom(32) },
  clock: systemClock,
  random: systemRandom,
  crypto: nodeSuite(),
};
await createIdentity({ ...options, name, relays });
const network = await createNodeNetwork({ listen: ["/ip4/127.0.0.1/tcp/0"] });
const peer = await startPeer({ ...options, network });

const latencies: number[] = [];
let awaited = Number.POSITIVE_INFINITY;
let allThere: () => void = () => {};

peer.watch((event) => {
  if (event.type !== "message" || event.message.author === peer.account) return;
  // Told after the commit: durable here as well.
  latencies.push(sharedNowMs() - Number(event.message.text.slice(0, STAMP_LENGTH)));
  if (latencies.length >= awaited) allThere();
});

const stamped = (): string => sharedNowMs().toFixed(3).padEnd(STAMP_LENGTH) + TEXT;

export type Commands = {
  status(): Promise<{ readonly relayOpen: boolean; readonly direct: boolean; readonly outbox: number }>;
  invite(): Promise<string>;
  connect(link: string): Promise<ConversationId>;
  /** From now on; resolves with the latencies of `count` messages and the time when the last was durable. */
  receive(count: number): Promise<{ readonly latencies: readonly number[]; readonly at: number }>;
  send(conversation: ConversationId): Promise<void>;
  burst(conversation: ConversationId, count: number): Promise<void>;
  cpu(): Promise<number>;
  close(): Promise<void>;
};

const commands: Commands = {
  async status() {
    const status = await peer.status();
    return {
      relayOpen: status.relays.every(({ state }) => state === "open"),
      direct: status.conversations.some(({ path }) => path === "direct"),
      outbox: status.outbox,
    };
  },
  async invite() {
    return (await peer.createInvite()).link;
  },
  async connect(link) {
    return (await peer.connect(link, { waitMs: 20_000 })).conversation;
  },
  async receive(count) {
    latencies.length = 0;
    awaited = count;
    await new Promise<void>((resolve) => {
      allThere = resolve;
    });
    return { latencies, at: sharedNowMs() };
  },
  async send(conversation) {
    await peer.send(conversation, { text: stamped() });
  },
  async burst(conversation, count) {
    const sends: Promise<unknown>[] = [];
    for (let i = 0; i < count; i++) {
      sends.push(peer.send(conversation, { text: stamped() }));
      if (sends.length >= CONCURRENT_SENDS) await Promise.all(sends.splice(0));
    }
    await Promise.all(sends);
  },
  async cpu() {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  },
  async close() {
    await peer.close();
    process.disconnect();
  },
};

process.on("message", (message: { id: number; command: keyof Commands; args: readonly never[] }) => {
  const command = commands[message.command] as (...args: readonly never[]) => Promise<unknown>;
  void command(...message.args).then((value) => process.connected && process.send?.({ id: message.id, value }));
});
// Whoever measures us is gone: so are we.
process.once("disconnect", () => process.exit());
process.send?.({ id: 0 });
