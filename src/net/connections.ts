import type { Connection as LibConnection, Libp2p, PeerId as LibPeerId } from "@libp2p/interface";
import type { Registrar, TransportManager } from "@libp2p/interface-internal";
import { peerIdFromString } from "@libp2p/peer-id";
import { CODE_P2P, type Multiaddr, multiaddr } from "@multiformats/multiaddr";
import type { PeerId } from "#protocols/base/ids.ts";
import { assert } from "#protocols/base/reject.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Connection, FrameStream, Gossip, Network, Signal } from "#src/runtime/ports.ts";
import type { EnvelopeGossip } from "./gossip.ts";
import type { NetworkLimits } from "./limits.ts";
import { Libp2pFrameStream } from "./streams.ts";

/** Parts of libp2p that its public face does not show; a service factory is handed them. */
export type Components = { readonly transportManager: TransportManager; readonly registrar: Registrar };

/**
 * Whom we may dial: only whom `connect` was asked for, and only while it waits. libp2p by itself redials relays that went,
 * and follows what others tell it about addresses.
 */
export class DialPermits {
  readonly #peers = new Map<string, number>();

  /** @returns Withdraws it. */
  grant(peers: readonly string[]): () => void {
    for (const peer of peers) this.#peers.set(peer, (this.#peers.get(peer) ?? 0) + 1);
    return () => {
      for (const peer of peers) {
        const left = this.#peers.get(peer)! - 1;
        if (left === 0) this.#peers.delete(peer);
        else this.#peers.set(peer, left);
      }
    };
  }

  allows(peer: LibPeerId): boolean {
    return this.#peers.has(peer.toString());
  }
}

export type NetworkParts = {
  readonly node: Libp2p;
  readonly components: Components;
  readonly gossip: EnvelopeGossip;
  readonly permits: DialPermits;
  /** Relays we asked for a reservation: only through these do we take relayed connections. */
  readonly relays: Set<PeerId>;
  readonly announce: readonly string[];
  readonly limits: NetworkLimits;
  /** Loads a transport for `address` if it is not there yet (WebRTC costs 0.3 s to import). */
  readonly prepareDial: (address: Multiaddr) => Promise<void>;
};

export class Libp2pNetwork implements Network {
  readonly peerId: PeerId;
  readonly gossip: Gossip;
  readonly #parts: NetworkParts;
  readonly #listeners = new Set<(peer: PeerId, state: "up" | "down") => void>();
  readonly #handled = new Set<string>();
  /** Relays with a listener in libp2p; it is kept when the relay goes, because closing one cancels all reservations. */
  readonly #listening = new Set<PeerId>();
  #stopping: Promise<void> | undefined;

  constructor(parts: NetworkParts) {
    this.#parts = parts;
    const { node, gossip } = parts;
    this.peerId = node.peerId.toString() as PeerId;
    this.gossip = gossip;
    node.addEventListener("peer:connect", (event) => this.#tell(event.detail, "up"));
    node.addEventListener("peer:disconnect", (event) => {
      gossip.peerGone(event.detail.toString() as PeerId);
      this.#tell(event.detail, "down");
    });
    node.addEventListener("connection:open", (event) => gossip.pathChanged(peerOf(event.detail)));
    node.addEventListener("connection:close", (event) => gossip.pathChanged(peerOf(event.detail)));
  }

  addresses(): readonly string[] {
    const { announce, components } = this.#parts;
    const listening = components.transportManager.getAddrs().map((address) => address.toString());
    const own = `/p2p/${this.peerId}`;
    const complete = [...announce, ...listening].map((address) => (address.endsWith(own) ? address : address + own));
    return [...new Set(complete)];
  }

  async connect(address: string, options: { readonly signal?: Signal } = {}): Promise<PeerId> {
    const { target, hops } = parseAddress(address);
    const { node, permits, limits, prepareDial } = this.#parts;
    const peer = hops.at(-1) as PeerId;
    if (peer === this.peerId) throw new Failure("net/bad-address", "this is our own address");
    const deadline = withDeadline(options.signal, limits.connectDeadlineMs);
    const withdraw = permits.grant(hops);
    try {
      await prepareDial(target);
      const connection = await node.dial(target, { signal: deadline.signal });
      return peerOf(connection);
    } catch (error) {
      throw unreachable("the peer cannot be reached", error);
    } finally {
      withdraw();
      deadline.clear();
    }
  }

  async reserve(relay: PeerId, options: { readonly signal?: Signal } = {}): Promise<void> {
    const { components, relays, limits } = this.#parts;
    const connection = connectionsOf(this.#parts.node, relay).find((candidate) => candidate.direct);
    if (!connection) throw unreachable("no direct connection to the relay");
    relays.add(relay);
    const deadline = withDeadline(options.signal, limits.connectDeadlineMs);
    try {
      await abortable(this.#reserve(components.transportManager, connection, relay), deadline.signal);
      this.#listening.add(relay);
    } catch (error) {
      if (!this.#listening.has(relay)) relays.delete(relay);
      throw unreachable("the relay gave no reservation", error);
    } finally {
      deadline.clear();
    }
  }

  async disconnect(peer: PeerId): Promise<void> {
    await this.#parts.node.hangUp(peerIdFromString(peer), { signal: AbortSignal.timeout(DISCONNECT_DEADLINE_MS) });
  }

  connections(): readonly Connection[] {
    const open = this.#parts.node.getConnections().filter((connection) => connection.status === "open");
    return open.map((connection) => ({
      peer: peerOf(connection),
      path: isDirect(connection) ? "direct" : "relayed",
      address: connection.remoteAddr.toString(),
    }));
  }

  onConnection(listener: (peer: PeerId, state: "up" | "down") => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async openStream(peer: PeerId, protocol: string, options: { readonly signal?: Signal } = {}): Promise<FrameStream> {
    const connection = connectionsOf(this.#parts.node, peer)[0];
    if (!connection) throw unreachable("no connection to the peer");
    const deadline = withDeadline(options.signal, this.#parts.limits.openStreamDeadlineMs);
    try {
      const stream = await connection.newStream(protocol, { signal: deadline.signal, runOnLimitedConnection: true });
      return new Libp2pFrameStream(stream, this.#frameLimit(protocol));
    } catch (error) {
      throw unreachable("the stream could not be opened", error);
    } finally {
      deadline.clear();
    }
  }

  handle(protocol: string, handler: (stream: FrameStream, peer: PeerId) => void): void {
    assert(!this.#handled.has(protocol), "one handler a protocol");
    this.#handled.add(protocol);
    const { limits, node } = this.#parts;
    // The handler is in place when this returns; what the promise waits for is the list that identify sends.
    void node.handle(
      protocol,
      (stream, connection) => handler(new Libp2pFrameStream(stream, this.#frameLimit(protocol)), peerOf(connection)),
      {
        runOnLimitedConnection: true,
        maxInboundStreams: limits.protocols[protocol]?.maxInboundStreams ?? limits.maxInboundStreams,
        maxOutboundStreams: MAX_OUTBOUND_STREAMS,
      },
    );
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    this.#parts.gossip.stop();
    await this.#parts.node.stop();
    this.#listeners.clear();
  }

  async #reserve(transports: TransportManager, connection: LibConnection, relay: PeerId): Promise<void> {
    const reservations = reservationStore(transports);
    if (this.#listening.has(relay)) {
      // The listener of last time is still there and takes up the new reservation.
      await reservations.addRelay(connection.remotePeer, "configured");
      return;
    }
    await transports.listen([connection.remoteAddr.encapsulate("/p2p-circuit")]);
  }

  #frameLimit(protocol: string): { readonly maxFrameBytes: number } {
    const { limits } = this.#parts;
    return { maxFrameBytes: limits.protocols[protocol]?.maxFrameBytes ?? limits.maxFrameBytes };
  }

  #tell(peer: LibPeerId, state: "up" | "down"): void {
    for (const listener of this.#listeners) listener(peer.toString() as PeerId, state);
  }
}

/** Open connections to `peer`: direct ones first, among them the oldest. */
export function connectionsOf(node: Libp2p, peer: PeerId): readonly LibConnection[] {
  const open = node.getConnections(peerIdFromString(peer)).filter((connection) => connection.status === "open");
  return open.sort((a, b) => Number(isDirect(b)) - Number(isDirect(a)));
}

/** A hang-up says goodbye first; a peer that does not answer is cut off. */
const DISCONNECT_DEADLINE_MS = 1000;
/** Our own streams of one protocol on one connection; libp2p's default of 64 is met by parallel fetches. */
const MAX_OUTBOUND_STREAMS = 256;

function peerOf(connection: LibConnection): PeerId {
  return connection.remotePeer.toString() as PeerId;
}

function isDirect(connection: LibConnection): boolean {
  return connection.direct && connection.limits === undefined;
}

/** @throws Failure `net/bad-address` unless it is a multiaddr that says with its last part whom we want to meet. */
function parseAddress(address: string): { readonly target: Multiaddr; readonly hops: readonly string[] } {
  let target: Multiaddr;
  let hops: string[];
  try {
    target = multiaddr(address);
    hops = target.getComponents().flatMap(({ code, value }) => (code === CODE_P2P && value ? [value] : []));
    for (const hop of hops) peerIdFromString(hop);
  } catch (error) {
    throw new Failure("net/bad-address", "not a multiaddr", { cause: error });
  }
  const last = target.getComponents().at(-1);
  if (last?.code !== CODE_P2P) throw new Failure("net/bad-address", "the address does not end in /p2p/<peer>");
  return { target, hops };
}

function unreachable(message: string, cause?: unknown): Failure {
  return new Failure("net/unreachable", message, { retryable: true, cause });
}

/** Joins a signal of ours and a deadline into a signal of the platform. `clear` when the work is done. */
function withDeadline(signal: Signal | undefined, ms: number): { readonly signal: AbortSignal; clear(): void } {
  const controller = new AbortController();
  const abort = (): void => controller.abort(signal?.reason);
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort, { once: true });
  const timer = setTimeout(() => controller.abort(new Error("deadline passed")), ms);
  return {
    signal: controller.signal,
    clear() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    },
  };
}

/** For the two calls of libp2p that take no signal. What they still do after it is harmless: a reservation more. */
async function abortable<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return Promise.race([
    work,
    new Promise<never>((_, reject) => {
      const fail = (): void => reject(signal.reason as Error);
      if (signal.aborted) fail();
      signal.addEventListener("abort", fail, { once: true });
    }),
  ]);
}

type ReservationStore = { addRelay(relay: LibPeerId, type: "configured"): Promise<unknown> };

function reservationStore(transports: TransportManager): ReservationStore {
  const found = transports.getTransports().find((transport) => "reservationStore" in transport);
  assert(found, "the circuit relay transport is there");
  return (found as unknown as { readonly reservationStore: ReservationStore }).reservationStore;
}
