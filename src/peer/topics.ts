/**
 * Which topics this peer is on, and who may know it. A conversation is heard on the previous, current and next period of each
 * of its roots; a topic is announced only to mailboxes that were shown its key and to peers that spoke on it.
 */
import { toHex } from "#protocols/base/bytes.ts";
import type { AccountId, PeerId, TopicId } from "#protocols/base/ids.ts";
import type { Direct } from "#protocols/conversation/direct.ts";
import { heardTopics, writingRoot } from "#protocols/conversation/roots.ts";
import { periodAt, PERIOD_MS, topicKeys, type TopicKeys } from "#protocols/envelope/envelope.ts";
import type { World } from "./world.ts";

/** Topics are recomputed this often, so that a period turns while nobody writes. An hour is a hundredth of a period. */
const TURN_MS = PERIOD_MS / 168;

/** Derived keys kept: three periods of eight roots for some hundred conversations. A miss costs some microseconds. */
const MAX_CACHED_KEYS = 4096;

export type HeardTopic = { readonly account: AccountId; readonly keys: TopicKeys };

export class Topics {
  readonly #world: World;
  readonly #changed: (
    account: AccountId,
    change: { readonly joined: readonly TopicKeys[]; readonly left: readonly TopicId[] },
  ) => void;
  readonly #heard = new Map<TopicId, HeardTopic>();
  readonly #byAccount = new Map<AccountId, ReadonlyMap<TopicId, TopicKeys>>();
  /** Peers that belong to a contact: they learn of every topic of the conversation, present and future ones. */
  readonly #peers = new Map<AccountId, Set<PeerId>>();
  readonly #keys = new Map<string, TopicKeys>();
  #cancelTurn: () => void = () => {};

  constructor(
    world: World,
    changed: (
      account: AccountId,
      change: { readonly joined: readonly TopicKeys[]; readonly left: readonly TopicId[] },
    ) => void,
  ) {
    this.#world = world;
    this.#changed = changed;
  }

  /** Calls `turn` every hour until `stop`. */
  start(turn: () => void): void {
    this.#cancelTurn = this.#world.clock.after(TURN_MS, () => {
      turn();
      this.start(turn);
    });
  }

  stop(): void {
    this.#cancelTurn();
    for (const topic of this.#heard.keys()) this.#world.network.gossip.leave(topic);
  }

  get(topic: TopicId): HeardTopic | undefined {
    return this.#heard.get(topic);
  }

  of(account: AccountId): readonly TopicKeys[] {
    return [...(this.#byAccount.get(account)?.values() ?? [])];
  }

  /** The topic to write on now, or undefined while the conversation has no root. */
  async writing(direct: Direct): Promise<TopicKeys | undefined> {
    const entry = writingRoot(direct.roots);
    if (entry === undefined) return undefined;
    const period = periodAt(entry.chain, this.#world.now());
    const name = `${toHex(entry.chain.rootHash)}/${period}`;
    const cached = this.#keys.get(name);
    if (cached) return cached;
    const keys = await topicKeys(this.#world.crypto, entry.chain, period);
    if (this.#keys.size >= MAX_CACHED_KEYS) this.#keys.clear();
    this.#keys.set(name, keys);
    return keys;
  }

  /** Joins and leaves what the conversation's roots and the time ask for. */
  async refresh(direct: Direct): Promise<void> {
    const { gossip } = this.#world.network;
    const account = direct.contact;
    const wanted = new Map(
      (await heardTopics(this.#world.crypto, direct.roots, this.#world.now())).map((keys) => [keys.id, keys]),
    );
    const before = this.#byAccount.get(account) ?? new Map<TopicId, TopicKeys>();
    this.#byAccount.set(account, wanted);
    const joined = [...wanted.values()].filter(({ id }) => !before.has(id));
    const left = [...before.keys()].filter((topic) => !wanted.has(topic));
    for (const topic of left) {
      this.#heard.delete(topic);
      gossip.leave(topic);
    }
    for (const keys of joined) {
      this.#heard.set(keys.id, { account, keys });
      gossip.join(keys.id);
      for (const peer of this.#peers.get(account) ?? []) gossip.reveal(keys.id, peer);
    }
    if (joined.length > 0 || left.length > 0) this.#changed(account, { joined, left });
  }

  /** `peer` has shown inside the conversation that it is a device of the contact. */
  revealTo(account: AccountId, peer: PeerId): void {
    const peers = this.#peers.get(account) ?? new Set<PeerId>();
    peers.add(peer);
    this.#peers.set(account, peers);
    for (const { id } of this.of(account)) this.#world.network.gossip.reveal(id, peer);
  }

  forget(peer: PeerId): void {
    for (const peers of this.#peers.values()) peers.delete(peer);
  }

  /** Peers of the contact that we are connected to, or were told of. */
  peersOf(account: AccountId): ReadonlySet<PeerId> {
    return this.#peers.get(account) ?? new Set();
  }
}
