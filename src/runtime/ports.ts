/**
 * The four ports through which a peer, a mailbox and a relay meet the world: clock, randomness, store and network. Node, the
 * browser and the simulator implement them; everything above them is the same code in all three. Each port has one
 * acceptance suite in `test/contracts/`.
 *
 * This file and whatever `src/peer` imports compile with `lib: es2025` and no platform types.
 */
import type { PeerId, TopicId } from "#protocols/base/ids.ts";

/** The part of AbortSignal that is used above the ports; a real AbortSignal is one. */
export interface Signal {
  readonly aborted: boolean;
  readonly reason: unknown;
  addEventListener(type: "abort", listener: () => void, options?: { once?: boolean }): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

export interface Clock {
  /** Wall time of this machine, milliseconds since 1970. It may be wrong and may jump. */
  now(): number;
  /** Monotonic milliseconds from an arbitrary start. */
  monotonic(): number;
  /** Calls `wake` once after `delayMs` of monotonic time. @returns Cancels it. */
  after(delayMs: number, wake: () => void): () => void;
}

/** Cryptographically secure random bytes; in the simulator, the seeded stream. */
export type Random = (length: number) => Uint8Array;

export type StoreOperation =
  | { readonly type: "put"; readonly key: Uint8Array; readonly value: Uint8Array }
  | { readonly type: "delete"; readonly key: Uint8Array };

export type StoreRange = {
  /** First key, included. */
  readonly from: Uint8Array;
  /** End, excluded. */
  readonly to: Uint8Array;
  readonly reverse?: boolean;
  readonly limit?: number;
};

/**
 * An ordered map of bytes to bytes (lexicographic). A store that failed a commit with `store/failed`, `store/full` or
 * `store/unknown-outcome` answers nothing more until it is opened anew.
 */
export interface Store {
  get(key: Uint8Array): Promise<Uint8Array | undefined>;
  /**
   * All operations or none, on the disk (fsync) before it resolves.
   * @throws Failure `store/full`, `store/failed`, `store/unknown-outcome` (it may or may not have happened), `store/closed`.
   */
  commit(operations: readonly StoreOperation[]): Promise<void>;
  entries(range: StoreRange): AsyncIterable<readonly [key: Uint8Array, value: Uint8Array]>;
  /** Gives the space of deleted values back, and takes what they held off the disk. Without a range, everywhere. */
  compact(range?: { readonly from: Uint8Array; readonly to: Uint8Array }): Promise<void>;
  close(): Promise<void>;
}

/** Opens the one store of a home. @throws Failure `store/locked` while another process has it. */
export interface StoreHost {
  open(): Promise<Store>;
}

export type ConnectionPath = "direct" | "relayed";

export type Connection = { readonly peer: PeerId; readonly path: ConnectionPath; readonly address: string };

/** What a validator says of a gossiped envelope: hand on, drop silently, or drop and count against who sent it. */
export type Verdict = "accept" | "ignore" | "reject";

export interface Network {
  /** Throwaway transport identity of this start (a relay keeps its own). */
  readonly peerId: PeerId;
  /** Multiaddrs under which this node can be dialled now, each with its /p2p part. */
  addresses(): readonly string[];
  /** @throws Failure `net/unreachable` (retryable), `net/bad-address`. */
  connect(address: string, options?: { readonly signal?: Signal }): Promise<PeerId>;
  /** Asks a relay we are connected to for a circuit reservation, so that others reach us through it. */
  reserve(relay: PeerId, options?: { readonly signal?: Signal }): Promise<void>;
  disconnect(peer: PeerId): Promise<void>;
  connections(): readonly Connection[];
  /** Called whenever the first connection to a peer opens or its last one closes. @returns Stops listening. */
  onConnection(listener: (peer: PeerId, state: "up" | "down") => void): () => void;
  /** Uses an open connection (a relayed one too); never dials. @throws Failure `net/unreachable`. */
  openStream(peer: PeerId, protocol: string, options?: { readonly signal?: Signal }): Promise<FrameStream>;
  /** Registers before the next inbound stream. `handler` owns the stream. */
  handle(protocol: string, handler: (stream: FrameStream, peer: PeerId) => void): void;
  readonly gossip: Gossip;
  stop(): Promise<void>;
}

/** Length-prefixed frames over one stream, in order. Frames above the limit of the protocol abort the stream. */
export interface FrameStream {
  /** Resolves when more may be sent (back-pressure). @throws Failure `net/stream-closed`. */
  send(frame: Uint8Array): Promise<void>;
  /** The next frame, or undefined when the other side has finished or the stream broke. One reader at a time. */
  receive(): Promise<Uint8Array | undefined>;
  /** Finishes our side; what was sent still arrives. */
  close(): Promise<void>;
  /** Tears the stream down at once. */
  abort(): void;
}

/**
 * Gossip of envelopes. A topic we join is announced to nobody until `reveal` names a peer (DESIGN section 6): what a node
 * is interested in is not everybody's business.
 */
export interface Gossip {
  join(topic: TopicId): void;
  leave(topic: TopicId): void;
  /** From now on `peer` may know that we are on `topic`; withdrawn by `leave` or when the peer goes. */
  reveal(topic: TopicId, peer: PeerId): void;
  /** Peers known to be on `topic`. */
  peers(topic: TopicId): readonly PeerId[];
  /** @returns To how many peers it went at once; 0 is no error: gossip is the fast path, never the only one. */
  publish(topic: TopicId, envelope: Uint8Array): Promise<number>;
  /**
   * The one validator of this node. The message is handed on only when it says "accept"; signature, size and hour are its
   * business. It is called once per envelope id and not for our own.
   */
  onEnvelope(validate: (topic: TopicId, envelope: Uint8Array, from: PeerId) => Promise<Verdict>): void;
}
