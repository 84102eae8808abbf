/**
 * The `Gossip` port: a publish floods along the peers that revealed the topic to each other, hop by hop, each hop's validator
 * asked first. Every hop may lose, double or hold back. What is lost here nobody repeats: gossip is the fast path only.
 */
import { createHash } from "node:crypto";

import type { PeerId, TopicId } from "#protocols/base/ids.ts";
import type { Gossip, Verdict } from "#src/runtime/ports.ts";

import type { NetworkNode } from "./network.ts";
import { never } from "./scheduler.ts";

/** How long a node remembers what it has seen (gossipsub: 120 s); what comes later is new to it. */
export const SEEN_FOR_US = 120_000_000;
/** Larger messages go to nobody, silently, as in gossipsub. */
export const MAX_GOSSIP_BYTES = 262_144;
/** The signature that ends an envelope is no part of its id. */
const SIGNATURE_BYTES = 64;
/** Rejected messages after which nothing more is taken from a peer on this connection. */
const REJECTS_TO_GRAYLIST = 4;
/** Seen ids are swept when there are more than this. */
const SWEEP_SEEN_ABOVE = 4_096;

type Validator = (topic: TopicId, envelope: Uint8Array, from: PeerId) => Promise<Verdict>;

export class GossipNode implements Gossip {
  readonly #node: NetworkNode;
  /** Topics we are on, and whom we told. */
  readonly #joined = new Map<TopicId, Set<PeerId>>();
  /** Who told us to be on a topic. */
  readonly #known = new Map<TopicId, Set<PeerId>>();
  readonly #seen = new Map<string, number>();
  readonly #rejects = new Map<PeerId, number>();
  #validate: Validator | undefined;

  constructor(node: NetworkNode) {
    this.#node = node;
  }

  join(topic: TopicId): void {
    if (!this.#node.enter() || this.#joined.has(topic)) return;
    this.#joined.set(topic, new Set());
  }

  leave(topic: TopicId): void {
    if (!this.#node.enter()) return;
    const told = this.#joined.get(topic);
    if (told === undefined) return;
    this.#joined.delete(topic);
    for (const peer of told) this.#tell(peer, (gossip) => gossip.#known.get(topic)?.delete(this.#node.peerId));
  }

  reveal(topic: TopicId, peer: PeerId): void {
    if (!this.#node.enter()) return;
    const told = this.#joined.get(topic);
    if (told === undefined || told.has(peer) || this.#node.endsWith(peer).length === 0) return;
    told.add(peer);
    this.#tell(peer, (gossip) => {
      let peers = gossip.#known.get(topic);
      if (peers === undefined) gossip.#known.set(topic, (peers = new Set()));
      peers.add(this.#node.peerId);
    });
  }

  peers(topic: TopicId): readonly PeerId[] {
    this.#node.enter();
    return [...(this.#known.get(topic) ?? [])];
  }

  publish(topic: TopicId, envelope: Uint8Array): Promise<number> {
    if (!this.#node.enter()) return never();
    // What went to nobody was not published: it may be tried again.
    if (envelope.length > MAX_GOSSIP_BYTES || this.#recipients(topic).length === 0) return Promise.resolve(0);
    if (!this.#firstTime(envelope)) return Promise.resolve(0);
    return Promise.resolve(this.#flood(topic, envelope.slice()));
  }

  onEnvelope(validate: Validator): void {
    if (this.#node.enter()) this.#validate = validate;
  }

  /** The last connection to `peer` closed: it may not be what it was when it comes back. */
  peerGone(peer: PeerId): void {
    for (const told of this.#joined.values()) told.delete(peer);
    for (const peers of this.#known.values()) peers.delete(peer);
    this.#rejects.delete(peer);
  }

  /** One of several connections to `peer` closed; what it carried may be lost. */
  tellAgain(peer: PeerId): void {
    for (const [topic, told] of this.#joined) {
      if (!told.delete(peer)) continue;
      this.reveal(topic, peer);
    }
  }

  /** Announcements ride on a stream: in order, not lost. */
  #tell(peer: PeerId, hear: (gossip: GossipNode) => void): void {
    const end = this.#node.endsWith(peer)[0];
    end?.link.send(end, 60, "gossip/announce", () => {
      if (end.other.open) hear(end.other.node.gossip);
    });
  }

  /** Who is on the topic and may know that we are: whoever gets a message knows. */
  #recipients(topic: TopicId): PeerId[] {
    const told = this.#joined.get(topic);
    return told === undefined ? [] : [...(this.#known.get(topic) ?? [])].filter((peer) => told.has(peer));
  }

  #flood(topic: TopicId, envelope: Uint8Array, from?: PeerId): number {
    const peers = this.#recipients(topic).filter((peer) => peer !== from);
    for (const peer of peers) this.#sendTo(peer, topic, envelope);
    return peers.length;
  }

  #sendTo(peer: PeerId, topic: TopicId, envelope: Uint8Array): void {
    const ends = this.#node.endsWith(peer);
    const end = ends.find((candidate) => candidate.link.path === "direct") ?? ends[0];
    if (end === undefined) return;
    const { internet } = this.#node;
    const { scheduler } = internet;
    internet.gossiped++;
    scheduler.trace.bytes(scheduler.nowUs, "gossip/send", this.#node.process.node, envelope);
    if (end.link.dead) return;
    if (end.link.stuckFrom(end)) return;
    let us = 0;
    let again = 0;
    for (const way of end.link.ways(end)) {
      if (way.loses()) return internet.hit("loss");
      us += way.packetUs() + (envelope.length / way.bytesPerSecond) * 1e6;
      if (way.weather.delayUs > 0) internet.hit("delay");
      if (way.reorders()) {
        internet.hit("reordering");
        us += way.straggleUs();
      }
      if (way.duplicates()) {
        internet.hit("duplication");
        again = us + way.straggleUs();
      }
    }
    const receiver = end.other.node;
    const deliver = (): void => {
      // A straggler of an old connection is as good as any: it comes from whom it came from.
      if (receiver.endsWith(this.#node.peerId).length > 0) receiver.gossip.#receive(topic, envelope, this.#node.peerId);
    };
    scheduler.after(us, "gossip/receive", receiver.process, deliver);
    if (again > 0) scheduler.after(again, "gossip/again", receiver.process, deliver);
  }

  #receive(topic: TopicId, envelope: Uint8Array, from: PeerId): void {
    // To whom we did not reveal the topic, we are not on it.
    if (this.#joined.get(topic)?.has(from) !== true || (this.#rejects.get(from) ?? 0) >= REJECTS_TO_GRAYLIST) return;
    if (!this.#firstTime(envelope) || this.#validate === undefined) return;
    void this.#validate(topic, envelope.slice(), from).then((verdict) => {
      if (verdict === "accept") this.#flood(topic, envelope, from);
      else if (verdict === "reject") this.#rejects.set(from, (this.#rejects.get(from) ?? 0) + 1);
    });
  }

  #firstTime(envelope: Uint8Array): boolean {
    const signed = envelope.subarray(0, Math.max(0, envelope.length - SIGNATURE_BYTES) || envelope.length);
    const id = createHash("sha256").update(signed).digest("base64");
    const now = this.#node.internet.scheduler.nowUs;
    const seenAt = this.#seen.get(id);
    if (seenAt !== undefined && now - seenAt < SEEN_FOR_US) return false;
    this.#seen.delete(id);
    this.#seen.set(id, now);
    if (this.#seen.size > SWEEP_SEEN_ABOVE) this.#sweep(now);
    return true;
  }

  /** Insertion order is time order, so the old ones come first. */
  #sweep(now: number): void {
    for (const [id, seenAt] of this.#seen) {
      if (now - seenAt < SEEN_FOR_US) return;
      this.#seen.delete(id);
    }
  }
}
