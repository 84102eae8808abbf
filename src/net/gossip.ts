import { type GossipSub, TopicValidatorResult } from "@libp2p/gossipsub";
import type { RPC } from "@libp2p/gossipsub/message";
import type { Connection as LibConnection, PeerId as LibPeerId, Stream } from "@libp2p/interface";
import { toHex } from "#protocols/base/bytes.ts";
import type { PeerId, TopicId } from "#protocols/base/ids.ts";
import { assert } from "#protocols/base/reject.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Gossip, Verdict } from "#src/runtime/ports.ts";
import { DeliveryRecords, SeenIds } from "./bounded.ts";
import { type Internals, internals, type OutboundStream, type OutRpc } from "./gossip-internals.ts";
import { MALFORMED_PENALTY, OVERSIZE_PENALTY, type Sha256, STRAY_PENALTY, TOPIC_SCORE } from "./gossip-service.ts";
import type { GossipLimits } from "./limits.ts";

/**
 * Gossip of envelopes over js gossipsub 17, which by default tells every peer every topic, grafts whoever asks, answers
 * whoever wants, and forwards to a small random mesh. What holds here instead:
 *
 * 1. One fact decides everything: `reveal(topic, peer)`, kept in #revealed. Whatever is sent to a peer (announcement,
 *    GRAFT, PRUNE, IHAVE, message) is of a topic revealed to it: #mayLeave checks each RPC as it goes.
 * 2. Whatever a peer says about a topic not revealed to it is heard as if we were not on that topic: no mesh, no PRUNE, no
 *    IWANT, no answer, no validation. Only its announcements are remembered, so that a later `reveal` finds them.
 * 3. Recipients are all revealed peers that announced the topic, are not in bad standing, and keep up. The mesh plays no part
 *    (it only keeps score): through a relay the star of its clients is the mesh.
 * 4. Nothing here dials: no peer exchange, no direct peers.
 *
 * The instance's own methods are replaced, because gossipsub has no options for this; `internals` lists and checks every one
 * that is used, so that an update of the library fails loudly.
 */
export class EnvelopeGossip implements Gossip {
  readonly #gossipsub: Internals;
  readonly #limits: GossipLimits;
  readonly #connectionsOf: (peer: PeerId) => readonly LibConnection[];
  /** Topics we are on, and to whom each is revealed. */
  readonly #revealed = new Map<TopicId, Set<PeerId>>();
  /** Topics each peer told us, revealed or not, and the same the other way round. */
  readonly #announcedBy = new Map<PeerId, Set<TopicId>>();
  readonly #subscribers = new Map<TopicId, Set<PeerId>>();
  readonly #strays = new Map<PeerId, number>();
  /** Ids of envelopes we accepted or sent. Gossipsub's own ids cover the signature as well: see `gossipService`. */
  readonly #accepted: SeenIds;
  readonly #sha256: Sha256;
  readonly #pendingRpcs = new Map<PeerId, number>();
  /** Peers whose stream is on its way to a better connection. */
  readonly #moving = new Set<PeerId>();
  #validate: ((topic: TopicId, envelope: Uint8Array, from: PeerId) => Promise<Verdict>) | undefined;
  #stopped = false;

  constructor(service: GossipSub, options: GossipOptions) {
    this.#gossipsub = internals(service);
    this.#limits = options.limits;
    this.#connectionsOf = options.connectionsOf;
    this.#sha256 = options.sha256;
    this.#accepted = new SeenIds(options.limits.maxSeen);
    this.#takeOver(this.#gossipsub);
  }

  join(topic: TopicId): void {
    if (this.#revealed.has(topic) || this.#stopped) return;
    assert(isTopic(topic), "a topic id is 64 hex digits");
    this.#revealed.set(topic, new Set());
    this.#gossipsub.topicValidators.set(topic, this.#validateMessage);
    this.#gossipsub.subscribe(topic);
  }

  leave(topic: TopicId): void {
    const revealed = this.#revealed.get(topic);
    if (!revealed || this.#stopped) return;
    this.#gossipsub.unsubscribe(topic);
    this.#revealed.delete(topic);
    const { topics, topicValidators, backoff, score } = this.#gossipsub;
    topics.delete(topic);
    topicValidators.delete(topic);
    backoff.delete(topic);
    for (const stats of score.peerStats.values()) {
      // Misdeeds stay on record; the rest would pile up, a topic a week.
      if (stats.topics[topic]?.invalidMessageDeliveries === 0) delete stats.topics[topic];
    }
  }

  reveal(topic: TopicId, peer: PeerId): void {
    const revealed = this.#revealed.get(topic);
    if (!revealed || revealed.has(peer) || this.#stopped) return;
    if (revealed.size >= this.#limits.maxTopicPeers || this.#connectionsOf(peer).length === 0) return;
    revealed.add(peer);
    this.#gossipsub.sendSubscriptions(peer, [topic], true);
    if (this.#subscribers.get(topic)?.has(peer)) this.#admit(topic, peer);
  }

  peers(topic: TopicId): readonly PeerId[] {
    return [...(this.#subscribers.get(topic) ?? [])];
  }

  async publish(topic: TopicId, envelope: Uint8Array): Promise<number> {
    assert(envelope.length <= this.#limits.maxEnvelopeBytes, "envelope within the gossip limit");
    // Asked before gossipsub, which would mark the envelope as seen and drop it when it is published again to somebody.
    if (this.#stopped || this.#recipients(topic, "publish").size === 0) return 0;
    this.#accepted.put(this.#envelopeId(envelope));
    const { recipients } = await this.#gossipsub.publish(topic, envelope);
    return recipients.length;
  }

  onEnvelope(validate: (topic: TopicId, envelope: Uint8Array, from: PeerId) => Promise<Verdict>): void {
    assert(this.#validate === undefined, "one validator a node");
    this.#validate = validate;
  }

  /** The last connection to `peer` closed: it is revealed nothing, and what it announced is void. */
  peerGone(peer: PeerId): void {
    for (const revealed of this.#revealed.values()) revealed.delete(peer);
    for (const topic of this.#announcedBy.get(peer) ?? []) this.#forget(topic, peer);
    this.#announcedBy.delete(peer);
    this.#strays.delete(peer);
    const id = this.#gossipsub.peers.get(peer);
    if (id) this.#gossipsub.removePeer(id);
  }

  /**
   * One of several connections to `peer` opened or closed. Gossipsub keeps one stream and looks for no other when its
   * connection goes, nor for a better one when a direct connection follows a relayed one.
   */
  pathChanged(peer: PeerId): void {
    const { peers, streamsOutbound } = this.#gossipsub;
    const id = peers.get(peer);
    const best = this.#connectionsOf(peer)[0];
    if (!id || !best || this.#stopped) return;
    const outbound = streamsOutbound.get(peer);
    if (outbound?.rawStream.status !== "open") {
      streamsOutbound.delete(peer);
      this.#gossipsub.onPeerConnected(id, best);
    } else if (
      best.direct &&
      !this.#connectionsOf(peer).some((c) => c.direct && c.streams.includes(outbound.rawStream))
    ) {
      void this.#move(peer, { id, outbound, to: best });
    }
  }

  /** Opens a stream on the better connection while the old one still serves, then lets go of that. */
  async #move(peer: PeerId, move: { id: LibPeerId; outbound: OutboundStream; to: LibConnection }): Promise<void> {
    if (this.#moving.has(peer)) return;
    this.#moving.add(peer);
    const { streamsOutbound } = this.#gossipsub;
    // It looks before its first await whether there is a stream already, and sets the new one in the end. It never rejects.
    streamsOutbound.delete(peer);
    const moved = this.#gossipsub.createOutboundStream(move.id, move.to);
    streamsOutbound.set(peer, move.outbound);
    await moved;
    this.#moving.delete(peer);
    if (streamsOutbound.get(peer) !== move.outbound) await move.outbound.close();
  }

  stop(): void {
    this.#stopped = true;
  }

  #may(topic: string | undefined, peer: PeerId): boolean {
    return topic !== undefined && this.#revealed.get(topic as TopicId)?.has(peer) === true;
  }

  #takeOver(node: Internals): void {
    node.seenCache = new SeenIds(this.#limits.maxSeen);
    node.publishedMessageIds = new SeenIds(this.#limits.maxSeen);
    node.score.deliveryRecords = new DeliveryRecords(this.#limits.maxSeen);
    // One set of parameters for every topic; the library wants an entry for each and throws when one is gone.
    node.score.params.topics = new Proxy({}, { get: () => TOPIC_SCORE });

    const { sendRpc, sendRpcInBatch, pushGossip, handleReceivedRpc, onPeerConnected } = node;
    node.sendRpc = (peer, rpc) => {
      const cleared = this.#mayLeave(peer, rpc);
      return cleared !== undefined && sendRpc.call(node, peer, cleared);
    };
    node.sendRpcInBatch = (peers, rpc) => {
      for (const message of rpc.messages ?? []) {
        for (const peer of peers) if (!this.#may(message.topic, peer)) peers.delete(peer);
      }
      sendRpcInBatch.call(node, peers, rpc);
    };
    // `sendRpc` adds these to what it was given, so they are checked here.
    node.pushGossip = (peer, ihave) => {
      if (this.#may(ihave.topicID, peer)) pushGossip.call(node, peer, ihave);
    };
    node.selectPeersToForward = (topic, source, exclude) => {
      const recipients = this.#recipients(topic as TopicId, "forward");
      if (source !== undefined) recipients.delete(source);
      for (const peer of exclude ?? []) recipients.delete(peer);
      return recipients;
    };
    node.selectPeersToPublish = (topic) => {
      const tosend = this.#recipients(topic as TopicId, "publish");
      return { tosend, tosendCount: { direct: 0, floodsub: 0, mesh: tosend.size, fanout: 0 } };
    };
    // Leaving tells it by the announcement alone. The PRUNE of the library comes late, after a new announcement if the topic
    // is joined again at once, and with a backoff that refuses the mesh for a minute.
    node.leave = (topic) => {
      for (const peer of node.mesh.get(topic) ?? []) node.score.prune(peer, topic);
      node.mesh.delete(topic);
    };
    node.pxConnect = () => Promise.resolve();
    node.handleReceivedRpc = async (from, rpc) => {
      const heard = this.#hear(from, rpc);
      if (heard) await handleReceivedRpc.call(node, from, heard);
    };
    node.pipePeerReadStream = (from, source) => this.#read(from, source);
    // The library calls this late (after a look into its peer store), when the peer may be back already.
    node.onPeerDisconnected = (peer) => {
      if (this.#connectionsOf(peer.toString() as PeerId).length === 0) node.removePeer(peer);
    };
    node.onPeerConnected = (peer, connection) => {
      onPeerConnected.call(node, peer, this.#connectionsOf(peer.toString() as PeerId)[0] ?? connection);
    };
    node.addEventListener("gossipsub:heartbeat", () => {
      this.#strays.clear();
      for (const peer of node.peers.keys()) if (!node.streamsOutbound.has(peer)) this.pathChanged(peer);
    });
  }

  /** Invariant 3. */
  #recipients(topic: TopicId, what: "publish" | "forward"): Set<PeerId> {
    const { score, streamsOutbound, opts } = this.#gossipsub;
    const least = what === "publish" ? opts.scoreThresholds.publishThreshold : 0;
    const recipients = new Set<PeerId>();
    const subscribers = this.#subscribers.get(topic);
    for (const peer of this.#revealed.get(topic) ?? []) {
      if (!subscribers?.has(peer) || score.score(peer) < least) continue;
      const backlog = streamsOutbound.get(peer)?.rawStream.writeBufferLength;
      if (backlog !== undefined && backlog <= this.#limits.maxBacklogBytes) recipients.add(peer);
    }
    return recipients;
  }

  /** Invariant 1. @returns What of `rpc` may go to `peer`; undefined when nothing is left. */
  #mayLeave(peer: PeerId, rpc: OutRpc): OutRpc | undefined {
    const may = (topic: string | undefined): boolean => this.#may(topic, peer);
    const { control } = rpc;
    const cleared: OutRpc = {
      subscriptions: (rpc.subscriptions ?? []).filter((entry) => may(entry.topic)),
      messages: (rpc.messages ?? []).filter((message) => may(message.topic)),
      control: control && {
        ihave: (control.ihave ?? []).filter((entry) => may(entry.topicID)),
        graft: (control.graft ?? []).filter((entry) => may(entry.topicID)),
        prune: (control.prune ?? []).filter((entry) => may(entry.topicID)),
        iwant: control.iwant ?? [], // of what it offered on a topic it may know: `#hear`
        idontwant: control.idontwant ?? [],
      },
    };
    const { subscriptions = [], messages = [], control: cleared2 } = cleared;
    const parts = [subscriptions, messages, ...Object.values(cleared2 ?? {})];
    return parts.some((part) => part.length > 0) ? cleared : undefined;
  }

  /** Invariant 2. @returns What of `rpc` gossipsub may hear; undefined when nothing is left. */
  #hear(from: LibPeerId, rpc: RPC): RPC | undefined {
    const peer = from.toString() as PeerId;
    if (this.#connectionsOf(peer).length === 0) return undefined;
    const may = (topic: string | undefined): boolean => this.#may(topic, peer);
    for (const { topic, subscribe } of rpc.subscriptions) this.#remember(peer, topic, subscribe === true);
    const messages = rpc.messages.filter((message) => {
      if (may(message.topic) && message.from === undefined) return true;
      this.#stray(peer);
      return false;
    });
    const { control } = rpc;
    const heard: RPC = { subscriptions: rpc.subscriptions.filter((entry) => may(entry.topic)), messages };
    if (control) {
      heard.control = {
        ihave: control.ihave.filter((entry) => may(entry.topicID)),
        graft: control.graft.filter((entry) => may(entry.topicID)),
        prune: control.prune.filter((entry) => may(entry.topicID)),
        iwant: control.iwant, // the answer passes through #mayLeave
        idontwant: control.idontwant,
      };
    }
    return heard;
  }

  #remember(peer: PeerId, topic: string | undefined, subscribe: boolean): void {
    if (topic === undefined || !isTopic(topic)) return;
    if (!subscribe) {
      this.#announcedBy.get(peer)?.delete(topic);
      this.#forget(topic, peer);
      return;
    }
    const announced = this.#announcedBy.get(peer) ?? new Set();
    if (announced.size >= this.#limits.maxTopicsPerPeer) return;
    this.#announcedBy.set(peer, announced.add(topic));
    const subscribers = this.#subscribers.get(topic) ?? new Set();
    this.#subscribers.set(topic, subscribers.add(peer));
    // It may come back to a topic it left a moment ago: what it was told then to wait is void.
    this.#gossipsub.backoff.get(topic)?.delete(peer);
  }

  #forget(topic: TopicId, peer: PeerId): void {
    const subscribers = this.#subscribers.get(topic);
    subscribers?.delete(peer);
    if (subscribers?.size === 0) this.#subscribers.delete(topic);
    const { mesh, score } = this.#gossipsub;
    if (mesh.get(topic)?.delete(peer)) score.prune(peer, topic);
  }

  /** What `peer` announced before we revealed the topic to it is told to gossipsub now. */
  #admit(topic: TopicId, peer: PeerId): void {
    const id = this.#gossipsub.peers.get(peer);
    if (!id) return;
    this.#gossipsub.handleReceivedSubscription(id, topic, true);
    if (this.#gossipsub.graftOnSubscribe(peer, topic)) this.#gossipsub.sendGraft(peer, [topic]);
  }

  #stray(peer: PeerId): void {
    const strays = (this.#strays.get(peer) ?? 0) + 1;
    this.#strays.set(peer, strays);
    if (strays > this.#limits.maxStraysPerSecond) this.#gossipsub.score.addPenalty(peer, STRAY_PENALTY, "stray");
  }

  /** Reads RPCs of one peer, and waits when it has too many in validation: the muxer then makes the sender wait. */
  async #read(from: LibPeerId, source: AsyncIterable<{ subarray(): Uint8Array }>): Promise<void> {
    const peer = from.toString() as PeerId;
    const { score } = this.#gossipsub;
    const inbound = this.#gossipsub.streamsInbound.get(peer)?.rawStream;
    try {
      for await (const data of source) {
        let rpc: RPC;
        try {
          rpc = this.#gossipsub.decodeRpc(data.subarray());
        } catch {
          score.addPenalty(peer, MALFORMED_PENALTY, "malformed"); // any bytes can come; this is what they cost
          continue;
        }
        void this.#handle(from, peer, rpc, inbound);
      }
    } catch (error) {
      // The stream broke, which is normal, or an RPC was over the limit, which is not.
      if ((error as { name?: string }).name === "InvalidDataLengthError") {
        score.addPenalty(peer, OVERSIZE_PENALTY, "oversize");
        inbound?.abort(new Error("RPC over the limit"));
      }
    }
  }

  async #handle(from: LibPeerId, peer: PeerId, rpc: RPC, inbound: Stream | undefined): Promise<void> {
    const pending = (this.#pendingRpcs.get(peer) ?? 0) + 1;
    this.#pendingRpcs.set(peer, pending);
    if (pending >= this.#limits.maxPendingRpcs && inbound?.readStatus === "readable") inbound.pause();
    try {
      await this.#gossipsub.handleReceivedRpc(from, rpc);
    } catch {
      this.#gossipsub.score.addPenalty(peer, MALFORMED_PENALTY, "malformed"); // a part the library could not digest
    }
    const left = this.#pendingRpcs.get(peer)! - 1;
    if (left === 0) this.#pendingRpcs.delete(peer);
    else this.#pendingRpcs.set(peer, left);
    if (left < this.#limits.maxPendingRpcs / 2 && inbound?.readStatus === "paused" && inbound.status === "open") {
      inbound.resume();
    }
  }

  #envelopeId(envelope: Uint8Array): string {
    return toHex(this.#sha256(envelope.subarray(0, Math.max(0, envelope.length - SIGNATURE_BYTES))));
  }

  readonly #validateMessage = async (
    from: LibPeerId,
    message: { topic: string; data: Uint8Array },
  ): Promise<string> => {
    if (message.data.length > this.#limits.maxEnvelopeBytes) return TopicValidatorResult.Reject;
    // A copy: what libp2p gives in Node is a Buffer, whose `slice` copies nothing, on memory of the socket's.
    const envelope = new Uint8Array(message.data);
    const id = this.#envelopeId(envelope);
    if (!this.#validate || this.#accepted.has(id)) return TopicValidatorResult.Ignore;
    try {
      const verdict = await this.#validate(message.topic as TopicId, envelope, from.toString() as PeerId);
      if (verdict === "accept" && this.#accepted.put(id)) return TopicValidatorResult.Ignore;
      return VERDICTS[verdict];
    } catch (error) {
      // A store that fails is no fault of the sender. Anything else is a mistake of ours, and gossipsub would hide it.
      if (error instanceof Failure) return TopicValidatorResult.Ignore;
      queueMicrotask(() => {
        throw error;
      });
      return TopicValidatorResult.Ignore;
    }
  };
}

/** An envelope ends with its signature, which its id does not cover. */
const SIGNATURE_BYTES = 64;

export type GossipOptions = {
  readonly limits: GossipLimits;
  readonly sha256: Sha256;
  /** Open connections to a peer, the best one first. */
  readonly connectionsOf: (peer: PeerId) => readonly LibConnection[];
};

const VERDICTS: Record<Verdict, TopicValidatorResult> = {
  accept: TopicValidatorResult.Accept,
  ignore: TopicValidatorResult.Ignore,
  reject: TopicValidatorResult.Reject,
};

function isTopic(text: string): text is TopicId {
  return /^[0-9a-f]{64}$/.test(text);
}
