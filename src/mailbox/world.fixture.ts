/** A small world for the tests of this folder: a clock that is moved by hand, and nodes joined by perfect wires that can be cut. */
import { toHex } from "#protocols/base/bytes.ts";
import type { EnvelopeId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { isReject } from "#protocols/base/reject.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { sealEnvelope, type TopicKeys } from "#protocols/envelope/envelope.ts";
import { decodeFrame, type Frame } from "#protocols/sync/frames.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Clock, Connection, FrameStream, Gossip, Network, Random, Verdict } from "#src/runtime/ports.ts";

export const START = Date.UTC(2026, 10, 20, 12, 30);
export const crypto = synchronousSuite();

/** All that was begun has come to rest: below the ports everything settles in microtasks. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
}

export class HandClock implements Clock {
  #elapsed = 0;
  #timers: { readonly at: number; readonly wake: () => void }[] = [];

  now(): number {
    return START + this.#elapsed;
  }

  monotonic(): number {
    return this.#elapsed;
  }

  after(delayMs: number, wake: () => void): () => void {
    const timer = { at: this.#elapsed + delayMs, wake };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }

  async advance(ms: number): Promise<void> {
    const end = this.#elapsed + ms;
    await settle();
    for (;;) {
      const next = this.#timers.reduce((a, b) => (b.at < a.at ? b : a), { at: Infinity, wake: () => {} });
      if (next.at > end) break;
      this.#timers = this.#timers.filter((other) => other !== next);
      this.#elapsed = Math.max(this.#elapsed, next.at);
      next.wake();
      await settle();
    }
    this.#elapsed = end;
  }

  get waiting(): number {
    return this.#timers.length;
  }
}

/** Different bytes at each draw, the same in each run. */
export function countingRandom(name: string): Random {
  let draws = 0;
  return (length) => {
    const drawn = new Uint8Array(length);
    for (let i = 0; i < length; i += 32) {
      drawn.set(crypto.sha256(new TextEncoder().encode(`${name}/${draws++}`)).subarray(0, Math.min(32, length - i)), i);
    }
    return drawn;
  };
}

class Pipe implements FrameStream {
  readonly frames: Uint8Array[] = [];
  other!: Pipe;
  readonly owner: PeerId | undefined;
  readonly #wire: Wire;
  #waiting: ((frame: Uint8Array | undefined) => void) | undefined;
  #ended = false;
  #broken = false;
  /** A reader that does not read: `send` waits once this many frames lie here. */
  capacity = Infinity;
  #room: (() => void)[] = [];

  constructor(
    wire: Wire,
    /** Who opened the stream and reads at this end. */
    owner: PeerId | undefined,
  ) {
    this.#wire = wire;
    this.owner = owner;
  }

  async send(frame: Uint8Array): Promise<void> {
    if (this.#broken) throw new Failure("net/stream-closed", "the stream is closed");
    if (this.#wire.onFrame() === "cut") {
      this.#wire.cut();
      throw new Failure("net/stream-closed", "the stream is closed");
    }
    this.other.take(frame.slice());
    while (this.other.frames.length >= this.other.capacity && !this.#broken) {
      await new Promise<void>((resolve) => this.other.#room.push(resolve));
    }
  }

  take(frame: Uint8Array): void {
    if (this.#waiting) {
      this.#waiting(frame);
      this.#waiting = undefined;
    } else this.frames.push(frame);
  }

  async receive(): Promise<Uint8Array | undefined> {
    const next = this.frames.shift();
    if (next) {
      for (const wake of this.#room.splice(0)) wake();
      return next;
    }
    if (this.#ended || this.#broken) return undefined;
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  async close(): Promise<void> {
    this.other.finish();
  }

  finish(): void {
    this.#ended = true;
    this.#waiting?.(undefined);
    this.#waiting = undefined;
  }

  abort(): void {
    for (const end of [this, this.other]) {
      end.#broken = true;
      end.frames.length = 0;
      end.finish();
      for (const wake of end.#room.splice(0)) wake();
    }
  }
}

/** All streams and gossip of one process. */
export class Wire {
  readonly nodes = new Map<PeerId, Node>();
  readonly pipes = new Set<Pipe>();
  /** Asked before each frame of any stream. */
  onFrame: () => "deliver" | "cut" = () => "deliver";
  /** Asked before each gossiped envelope that goes to somebody. */
  onGossip: (to: PeerId) => "deliver" | "lose" = () => "deliver";

  node(name: string): Node {
    const node = new Node(name as PeerId, this);
    this.nodes.set(node.peerId, node);
    return node;
  }

  /** Frames that may lie unread on each stream there is. */
  capacity(frames: number): void {
    for (const pipe of this.pipes) pipe.capacity = pipe.other.capacity = frames;
  }

  /** What lies unread for a node. */
  *received(node: PeerId): Generator<Frame> {
    for (const pipe of this.pipes) {
      for (const raw of pipe.owner === node ? pipe.frames : []) {
        const frame = decodeFrame(raw);
        if (!isReject(frame)) yield frame;
      }
    }
  }

  pair(owner: PeerId): readonly [Pipe, Pipe] {
    const [a, b] = [new Pipe(this, owner), new Pipe(this, undefined)];
    a.other = b;
    b.other = a;
    this.pipes.add(a);
    return [a, b];
  }

  /** Every connection breaks. */
  cut(): void {
    for (const pipe of this.pipes) pipe.abort();
    this.pipes.clear();
    for (const node of this.nodes.values()) node.forgetRevealed();
  }
}

export class Node implements Network {
  readonly peerId: PeerId;
  readonly #wire: Wire;
  readonly #handlers = new Map<string, (stream: FrameStream, peer: PeerId) => void>();
  readonly #topics = new Map<TopicId, Set<PeerId>>();
  #validate: ((topic: TopicId, envelope: Uint8Array, from: PeerId) => Promise<Verdict>) | undefined;
  reachable = true;
  readonly gossip: Gossip;

  constructor(peerId: PeerId, wire: Wire) {
    this.peerId = peerId;
    this.#wire = wire;
    this.gossip = {
      join: (topic) => void (this.#topics.has(topic) || this.#topics.set(topic, new Set())),
      leave: (topic) => void this.#topics.delete(topic),
      reveal: (topic, peer) => void this.#topics.get(topic)?.add(peer),
      peers: (topic) => [...this.revealed(topic)].filter((peer) => wire.nodes.get(peer)?.revealed(topic).has(peerId)),
      publish: (topic, envelope) => this.#publish(topic, envelope),
      onEnvelope: (validate) => {
        this.#validate = validate;
      },
    };
  }

  revealed(topic: TopicId): ReadonlySet<PeerId> {
    return this.#topics.get(topic) ?? new Set();
  }

  get joined(): readonly TopicId[] {
    return [...this.#topics.keys()];
  }

  forgetRevealed(): void {
    for (const peers of this.#topics.values()) peers.clear();
  }

  async #publish(topic: TopicId, envelope: Uint8Array, except?: PeerId): Promise<number> {
    const peers = this.gossip.peers(topic).filter((peer) => peer !== except && this.#wire.onGossip(peer) === "deliver");
    for (const peer of peers) void this.#wire.nodes.get(peer)!.hear(topic, envelope, this.peerId);
    return peers.length;
  }

  async hear(topic: TopicId, envelope: Uint8Array, from: PeerId): Promise<Verdict> {
    const verdict = (await this.#validate?.(topic, envelope, from)) ?? "accept";
    if (verdict === "accept") await this.#publish(topic, envelope, from);
    return verdict;
  }

  addresses(): readonly string[] {
    return [`/wire/p2p/${this.peerId}`];
  }

  async connect(address: string): Promise<PeerId> {
    const peer = address.split("/p2p/")[1] as PeerId;
    if (!this.#wire.nodes.get(peer)?.reachable)
      throw new Failure("net/unreachable", "nobody there", { retryable: true });
    return peer;
  }

  async reserve(): Promise<void> {}
  async disconnect(): Promise<void> {}
  connections(): readonly Connection[] {
    return [];
  }
  onConnection(): () => void {
    return () => {};
  }

  async openStream(peer: PeerId, protocol: string): Promise<FrameStream> {
    const handler = this.#wire.nodes.get(peer)?.reachable
      ? this.#wire.nodes.get(peer)!.#handlers.get(protocol)
      : undefined;
    if (!handler) throw new Failure("net/unreachable", "nobody there", { retryable: true });
    const [mine, theirs] = this.#wire.pair(this.peerId);
    handler(theirs, this.peerId);
    return mine;
  }

  handle(protocol: string, handler: (stream: FrameStream, peer: PeerId) => void): void {
    this.#handlers.set(protocol, handler);
  }

  async stop(): Promise<void> {}
}

export async function makeTopic(name: string): Promise<TopicKeys> {
  const seed = crypto.sha256(new TextEncoder().encode(`topic ${name}`));
  const sealKey = crypto.sha256(new TextEncoder().encode(`seal ${name}`));
  return { id: toHex(await crypto.ed25519.publicKey(seed)) as TopicId, seed, sealKey, period: 0 };
}

export type Sealed = { readonly id: EnvelopeId; readonly bytes: Uint8Array };

export function envelopeMaker(
  random: Random,
): (
  topic: TopicKeys,
  options?: { kind?: "stored" | "ephemeral"; lifetime?: "day" | "week" | "month"; size?: number; now?: number },
) => Promise<Sealed> {
  return (topic, { kind = "stored", lifetime = "week", size = 100, now = START } = {}) =>
    sealEnvelope({ topic, kind, lifetime, payload: random(size) }, { now, random, crypto });
}
