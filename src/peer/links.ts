/**
 * Direct connections to contacts. Addresses travel as presence inside the conversation and nowhere else, so only accepted
 * contacts learn them; of two peers that learn of each other the one with the lower PeerId dials, the other waits a little.
 */
import type { AccountId, DeviceId, PeerId } from "#protocols/base/ids.ts";
import { compareText } from "#protocols/base/bytes.ts";
import { relation } from "#protocols/conversation/contact.ts";
import { say } from "#protocols/conversation/direct.ts";
import type { BodyOf } from "#protocols/content/content.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Directs } from "./directs.ts";
import type { Path } from "./face.ts";
import type { Mailboxes } from "./mailboxes.ts";
import type { Topics } from "./topics.ts";
import type { World } from "./world.ts";

/** Presence is not repeated to one contact within this time, whatever asks for it. */
const QUIET_MS = 2_000;

/** The one with the higher PeerId dials only after this long: usually the other has by then. */
const YIELD_MS = 2_000;

/** A presence speaks for this long; after it we no longer assume that they know we are here. */
const PRESENCE_MS = 120_000;

/** Addresses tried of one presence, in their order. */
const MAX_DIALS = 6;

type Link = {
  /** When we last told them where we are, monotonic. */
  toldAt: number;
  /** Their running instances, by device. */
  readonly instances: Map<DeviceId, { readonly instance: string; readonly peer: PeerId }>;
  cancelTell: (() => void) | undefined;
  path: Path;
};

export class Links {
  readonly #world: World;
  readonly #directs: Directs;
  readonly #topics: Topics;
  readonly #mailboxes: Mailboxes;
  readonly #opened: (account: AccountId) => void;
  readonly #instance: Uint8Array;
  readonly #links = new Map<AccountId, Link>();
  readonly #byPeer = new Map<PeerId, AccountId>();
  readonly #dialling = new Set<PeerId>();
  readonly #timers = new Set<() => void>();
  #stopListening: () => void = () => {};
  #stopped = false;

  constructor(
    world: World,
    parts: { directs: Directs; topics: Topics; mailboxes: Mailboxes },
    opened: (account: AccountId) => void,
  ) {
    this.#world = world;
    this.#directs = parts.directs;
    this.#topics = parts.topics;
    this.#mailboxes = parts.mailboxes;
    this.#opened = opened;
    this.#instance = world.random(16);
  }

  start(): void {
    this.#stopListening = this.#world.network.onConnection((peer, state) => this.#connection(peer, state));
  }

  stop(): void {
    this.#stopped = true;
    this.#stopListening();
    for (const cancel of this.#timers) cancel();
    for (const { cancelTell } of this.#links.values()) cancelTell?.();
  }

  /** Whether the contact has lately been told that we are here. */
  knows(account: AccountId): boolean {
    const link = this.#links.get(account);
    return link !== undefined && this.#world.clock.monotonic() < link.toldAt + PRESENCE_MS;
  }

  path(account: AccountId): Path {
    return this.#links.get(account)?.path ?? "offline";
  }

  /** Whether a peer has shown inside a conversation that it is a contact's device. */
  isContact(peer: PeerId): boolean {
    return this.#byPeer.has(peer);
  }

  #link(account: AccountId): Link {
    const known = this.#links.get(account);
    if (known) return known;
    const link: Link = {
      toldAt: Number.NEGATIVE_INFINITY,
      instances: new Map(),
      cancelTell: undefined,
      path: "offline",
    };
    this.#links.set(account, link);
    return link;
  }

  /** Tells the contact where we are: at a start, when a path opens, when they have told us. */
  tell(account: AccountId): void {
    const link = this.#link(account);
    if (link.cancelTell || this.#stopped) return;
    const wait = Math.max(0, link.toldAt + QUIET_MS - this.#world.clock.monotonic());
    if (wait === 0) return this.#tellNow(account, link);
    link.cancelTell = this.#world.clock.after(wait, () => {
      link.cancelTell = undefined;
      this.#tellNow(account, link);
    });
  }

  #tellNow(account: AccountId, link: Link): void {
    link.toldAt = this.#world.clock.monotonic();
    const { network, identity } = this.#world;
    const addresses = network.addresses().slice(0, 16);
    const body = { type: "presence", instance: this.#instance, peerId: network.peerId, addresses } as const;
    const told = this.#directs.step(account, {}, async (state, env) => {
      const now = state.direct ? relation(state.direct.requests, identity.account, env.now) : "none";
      // Where somebody is, is nobody's business who is not a contact.
      return now === "accepted" ? say(state, body, env) : { type: "reject", code: "conversation/not-accepted" };
    });
    told.catch((error: unknown) => this.#failed(error));
  }

  /** The contact has told where a device of theirs is. */
  presence(account: AccountId, device: DeviceId, body: BodyOf<"presence">): void {
    const link = this.#link(account);
    const peer = body.peerId as PeerId;
    if (peer === this.#world.network.peerId) return;
    const instance = body.instance.join(".");
    const known = link.instances.get(device);
    if (known && known.peer !== peer) this.#byPeer.delete(known.peer);
    link.instances.set(device, { instance, peer });
    this.#byPeer.set(peer, account);
    // An instance that was just started cannot have heard what we told before it.
    if (known?.instance !== instance) this.#tellNow(account, link);
    else if (!this.knows(account)) this.tell(account);
    if (this.#connected(peer)) return this.#met(account, peer);
    const first = compareText(this.#world.network.peerId, peer) < 0;
    if (first) return this.#dial(account, peer, body.addresses);
    const cancel = this.#world.clock.after(YIELD_MS, () => {
      this.#timers.delete(cancel);
      if (!this.#connected(peer)) this.#dial(account, peer, body.addresses);
    });
    this.#timers.add(cancel);
  }

  #connected(peer: PeerId): boolean {
    return this.#world.network.connections().some((connection) => connection.peer === peer);
  }

  #dial(account: AccountId, peer: PeerId, addresses: readonly string[]): void {
    if (this.#dialling.has(peer) || this.#stopped) return;
    this.#dialling.add(peer);
    void this.#dialEach(peer, addresses)
      .then((connected) => {
        if (connected) this.#met(account, peer);
      })
      .finally(() => this.#dialling.delete(peer));
  }

  /** @returns Whether one of the addresses led to `peer`. */
  async #dialEach(peer: PeerId, addresses: readonly string[]): Promise<boolean> {
    // An address that names another peer is no address of theirs; relayed ones come last.
    const theirs = addresses.filter((address) => address.endsWith(`/p2p/${peer}`));
    const direct = theirs.filter((address) => !address.includes("/p2p-circuit"));
    const relayed = theirs.filter((address) => address.includes("/p2p-circuit"));
    for (const address of [...direct, ...relayed].slice(0, MAX_DIALS)) {
      if (this.#stopped) return false;
      try {
        if ((await this.#world.network.connect(address)) === peer) return true;
      } catch (error) {
        // Most addresses lead nowhere from where we are: that is what there are several for.
        if (!(error instanceof Failure)) throw error;
      }
    }
    return false;
  }

  #met(account: AccountId, peer: PeerId): void {
    if (this.#stopped) return;
    this.#topics.revealTo(account, peer);
    this.refresh(account);
    this.#opened(account);
  }

  #connection(peer: PeerId, state: "up" | "down"): void {
    const account = this.#byPeer.get(peer);
    if (account === undefined) return;
    if (state === "up") return this.#met(account, peer);
    this.#topics.forget(peer);
    this.refresh(account);
  }

  /** Looks how the conversation is connected now, and tells when that changed. */
  refresh(account: AccountId): void {
    const link = this.#link(account);
    const path = this.#pathOf(account, link);
    if (path === link.path) return;
    link.path = path;
    this.#world.tell({ type: "path", conversation: this.#directs.conversationWith(account), path });
  }

  #pathOf(account: AccountId, link: Link): Path {
    const peers = new Set([...link.instances.values()].map(({ peer }) => peer));
    const connections = this.#world.network.connections().filter(({ peer }) => peers.has(peer));
    if (connections.some(({ path }) => path === "direct")) return "direct";
    return connections.length > 0 || this.#mailboxes.carries(account) ? "relay" : "offline";
  }

  #failed(error: unknown): void {
    // Presence is ephemeral: the next one makes good what a failing store swallowed.
    if (!(error instanceof Failure)) throw error;
  }
}
