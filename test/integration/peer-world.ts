/** Peers and relays of one process over real libp2p on loopback; homes outlive their peers. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import type { ConversationId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import { type Relay, startRelay } from "#relay/relay.ts";
import type { Contact, Message, Peer, PeerEvent } from "#src/peer/face.ts";
import { createIdentity, startPeer } from "#src/peer/start.ts";
import { createNodeNetwork } from "#src/net/node-network.ts";
import { MemoryDisk } from "#src/runtime/memory-store.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import type { FrameStream, Network, Signal, StoreHost } from "#src/runtime/ports.ts";

import { TCP } from "./net-world.ts";

/** Above the longest retry that a test waits for; a condition that takes longer is not met. */
const PATIENCE_MS = 45_000;
const LOOK_MS = 20;

export async function eventually(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error(`not within ${PATIENCE_MS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

/** A peer that runs, with its port to the network, and all that it told. */
export type Running = { readonly peer: Peer; readonly network: Network; readonly events: readonly PeerEvent[] };

export class Home {
  readonly name: string;
  readonly disk = new MemoryDisk();
  readonly unlock = { platformKey: systemRandom(32) };
  readonly #host: () => StoreHost;

  /** @param options.host - Another store than one in memory. */
  constructor(name: string, options: { readonly host?: StoreHost } = {}) {
    this.name = name;
    this.#host = () => options.host ?? this.disk.attach();
  }

  get #options() {
    const crypto = webCryptoSuite(globalThis.crypto.subtle);
    return { host: this.#host(), unlock: this.unlock, clock: systemClock, random: systemRandom, crypto };
  }

  async create(relays: readonly string[]): Promise<{ readonly phrase: string }> {
    return createIdentity({ ...this.#options, name: this.name, relays });
  }

  /** @param options.wrap - Puts something between the peer and its network. */
  async start(
    options: { readonly wrap?: (network: Network) => Network; readonly listen?: readonly string[] } = {},
  ): Promise<Running> {
    const network = await createNodeNetwork({ listen: options.listen ?? [TCP] });
    const events: PeerEvent[] = [];
    const peer = await startPeer({ ...this.#options, network: options.wrap?.(network) ?? network });
    peer.watch((event) => void events.push(event));
    return { peer, network, events };
  }
}

/** What a test starts, and its folder, so that nothing outlives it. */
export class Town {
  readonly folder = mkdtempSync(join(tmpdir(), "skein-town-"));
  readonly log: string[] = [];
  readonly #stops = new Set<() => Promise<void>>();

  /** At the same home the same address. */
  async relay(name: string, options: { readonly listen?: string } = {}): Promise<Relay> {
    const relay = await startRelay({
      home: join(this.folder, name),
      listen: [options.listen ?? TCP],
      stun: false,
      log: (line) => void this.log.push(line),
    });
    this.#stops.add(() => relay.stop());
    return relay;
  }

  async start(home: Home, options: Parameters<Home["start"]>[0] = {}): Promise<Running> {
    const running = await home.start(options);
    this.#stops.add(() => running.peer.close());
    return running;
  }

  async person(
    name: string,
    relays: readonly string[],
    options: Parameters<Home["start"]>[0] = {},
  ): Promise<Running & { readonly home: Home }> {
    const home = new Home(name);
    await home.create(relays);
    return { home, ...(await this.start(home, options)) };
  }

  async clear(): Promise<void> {
    await Promise.all([...this.#stops].map((stop) => stop()));
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Where a peer let bytes out: the protocol of a stream, or gossip. To whom is not asked. */
export type Tap = (way: string, bytes: Uint8Array) => void;

/** The same network, with everything heard that its peer sends: frames of streams it opened or took, and what it gossips. */
export function tapped(network: Network, tap: Tap): Network {
  const gossip = instead(network.gossip, {
    publish: (topic: TopicId, envelope: Uint8Array) => {
      tap("gossip", envelope);
      return network.gossip.publish(topic, envelope);
    },
  });
  const stream = (protocol: string, inner: FrameStream): FrameStream =>
    instead(inner, {
      send: (frame: Uint8Array) => {
        tap(protocol, frame);
        return inner.send(frame);
      },
    });
  return instead(network, {
    gossip,
    openStream: async (peer: PeerId, protocol: string, options?: { readonly signal?: Signal }) =>
      stream(protocol, await network.openStream(peer, protocol, options)),
    handle: (protocol: string, handler: (stream: FrameStream, peer: PeerId) => void) =>
      network.handle(protocol, (inner, peer) => handler(stream(protocol, inner), peer)),
  });
}

/** `inner` with some of its members replaced. */
export function instead<T extends object>(inner: T, members: Partial<T>): T {
  return new Proxy(inner, {
    get(target, name) {
      if (name in members) return members[name as keyof T];
      const value: unknown = Reflect.get(target, name);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}

/** The relay at `address` with its port fixed, so that it comes back under it. */
export function listenAgain(address: string): string {
  return address.slice(0, address.indexOf("/p2p/"));
}

export async function relaysOpen(...running: readonly Running[]): Promise<void> {
  await eventually("relays are open", async () => {
    const statuses = await Promise.all(running.map(({ peer }) => peer.status()));
    return statuses.every(({ relays }) => relays.length > 0 && relays.every(({ state }) => state === "open"));
  });
}

/** By an invite; resolves when both see each other as accepted. */
export async function meet(inviter: Running, redeemer: Running): Promise<ConversationId> {
  await relaysOpen(inviter, redeemer);
  const { link } = await inviter.peer.createInvite();
  const { conversation } = await redeemer.peer.connect(link, { waitMs: 20_000 });
  const accepted = (contact: Contact): boolean => contact.conversation === conversation && contact.state === "accepted";
  await eventually("both have accepted", async () => {
    const contacts = await Promise.all([inviter, redeemer].map(({ peer }) => peer.contacts()));
    return contacts.every((those) => those.some(accepted));
  });
  return conversation;
}

export async function pathIs(
  path: string,
  conversation: ConversationId,
  ...running: readonly Running[]
): Promise<void> {
  await eventually(`the path is ${path}`, async () => {
    const statuses = await Promise.all(running.map(({ peer }) => peer.status()));
    return statuses.every(({ conversations }) => {
      return conversations.some((other) => other.conversation === conversation && other.path === path);
    });
  });
}

export async function drained(...running: readonly Running[]): Promise<void> {
  await eventually("outboxes are empty", async () => {
    const statuses = await Promise.all(running.map(({ peer }) => peer.status()));
    return statuses.every(({ outbox, parked }) => outbox === 0 && parked === 0);
  });
}

export async function texts({ peer }: Running, conversation: ConversationId): Promise<readonly string[]> {
  return (await peer.messages(conversation, { limit: 1_000 })).map(({ text }) => text);
}

export async function stateOf({ peer }: Running, conversation: ConversationId, id: Message["id"]): Promise<string> {
  const messages = await peer.messages(conversation, { limit: 1_000 });
  return messages.find((message) => message.id === id)?.state ?? "absent";
}
