/** One connection of the simulated network and its two ends. */
import { assert } from "#protocols/base/reject.ts";
import type { PeerId } from "#protocols/base/ids.ts";

import type { Internet } from "./internet.ts";
import type { Way } from "./link.ts";
import type { NetworkNode } from "./network.ts";
import type { Process } from "./scheduler.ts";
import type { SimStream } from "./stream.ts";

/** Segments behind a partition; window of every stream together, so only endless opening of streams gets here. */
const MAX_HELD = 10_000;
/** Length, stream id and flags of a yamux frame with noise's tag, in bytes on the way. */
const SEGMENT_OVERHEAD = 30;

/** One connection: two ends, the ways between them, what is held behind a partition. */
export class Link {
  dead = false;
  readonly ends: readonly [LinkEnd, LinkEnd];
  readonly path: "direct" | "relayed";
  readonly relay: NetworkNode | undefined;
  /** The connections a circuit runs over. */
  readonly legs: readonly Link[];
  readonly #internet: Internet;

  constructor(options: {
    internet: Internet;
    dialer: NetworkNode;
    listener: NetworkNode;
    address: string;
    relay?: NetworkNode;
    legs?: readonly Link[];
  }) {
    this.#internet = options.internet;
    this.relay = options.relay;
    this.legs = options.legs ?? [];
    this.path = options.relay === undefined ? "direct" : "relayed";
    this.ends = [
      new LinkEnd(this, options.dialer, options.address),
      new LinkEnd(this, options.listener, `/sim/${options.dialer.host}/p2p/${options.dialer.peerId}`),
    ];
    this.ends[0].other = this.ends[1];
    this.ends[1].other = this.ends[0];
  }

  touches(process: Process): boolean {
    return this.ends.some((end) => end.node.process === process) || this.relay?.process === process;
  }

  /** The ways a packet of `from` takes. */
  ways(from: LinkEnd): readonly Way[] {
    const a = from.node.host;
    const b = from.other.node.host;
    const relay = this.relay?.host;
    if (relay === undefined) return [this.#internet.way(a, b)];
    return [this.#internet.way(a, relay), this.#internet.way(relay, b)];
  }

  /** What `end` sends does not arrive now. */
  stuckFrom(end: LinkEnd): boolean {
    return this.relay?.process.asleep === true || this.ways(end).some((way) => way.blocked);
  }

  /** Without acknowledgements a connection does not live: one blocked direction ends it in time. */
  get stuck(): boolean {
    return this.ends.some((end) => this.stuckFrom(end));
  }

  packetUs(): number {
    let us = 0;
    for (const way of this.ways(this.ends[0])) us += way.packetUs();
    return us;
  }

  later(kind: string, process: Process, action: () => void): void {
    this.#internet.scheduler.after(0, kind, process, action);
  }

  /** Sends `size` bytes to the other end, where `arrive` happens, in order. */
  send(from: LinkEnd, size: number, kind: string, arrive: () => void): void {
    if (this.dead) return;
    if (from.held.length > 0 || this.stuckFrom(from)) {
      assert(from.held.length < MAX_HELD, "too much held behind a partition");
      from.held.push(() => this.#transmit(from, size, kind, arrive));
      return;
    }
    this.#transmit(from, size, kind, arrive);
  }

  flush(): void {
    if (this.dead) return;
    for (const end of this.ends) {
      if (!this.stuckFrom(end)) for (const transmit of end.held.splice(0)) transmit();
    }
  }

  #transmit(from: LinkEnd, size: number, kind: string, arrive: () => void): void {
    const { scheduler } = this.#internet;
    let us = 0;
    for (const way of this.ways(from)) {
      us += way.segmentUs(() => this.#internet.hit("loss"));
      us += ((size + SEGMENT_OVERHEAD) / way.bytesPerSecond) * 1e6;
      if (way.weather.delayUs > 0) this.#internet.hit("delay");
    }
    // The pipe is one: a segment arrives after the one before it, and its bytes queue behind those bytes.
    const width = Math.min(...this.ways(from).map((way) => way.bytesPerSecond));
    const afterPrevious = from.busyUntilUs + ((size + SEGMENT_OVERHEAD) / width) * 1e6;
    const atUs = Math.round(Math.max(scheduler.nowUs + us, afterPrevious, from.busyUntilUs + 1));
    from.busyUntilUs = atUs;
    scheduler.after(atUs - scheduler.nowUs, kind, from.other.node.process, () => {
      if (from.other.open || !from.other.opened) arrive();
    });
  }
}

/** What one process knows of a connection. */
export class LinkEnd {
  open = false;
  /** Whether it was ever open. */
  opened = false;
  other!: LinkEnd;
  busyUntilUs = 0;
  readonly held: (() => void)[] = [];
  readonly link: Link;
  readonly node: NetworkNode;
  readonly address: string;
  readonly streams = new Set<SimStream>();
  /** Questions without an answer yet: they fail when the connection goes. */
  readonly asked = new Set<() => void>();

  constructor(link: Link, node: NetworkNode, address: string) {
    this.link = link;
    this.node = node;
    this.address = address;
  }

  get peer(): PeerId {
    return this.other.node.peerId;
  }

  up(): void {
    this.open = true;
    this.opened = true;
    this.node.ends.add(this);
    if (this.node.endsWith(this.peer).length === 1) this.node.tell(this.peer, "up");
  }

  /** This end learns that the connection is over. */
  down(): void {
    if (!this.open) return;
    this.open = false;
    this.held.length = 0;
    this.node.ends.delete(this);
    for (const stream of this.streams) stream.broke();
    this.streams.clear();
    for (const giveUp of this.asked) giveUp();
    if (this.node.endsWith(this.peer).length > 0) return this.node.gossip.tellAgain(this.peer);
    this.node.reservations.delete(this.peer);
    this.node.granted.delete(this.peer);
    this.node.gossip.peerGone(this.peer);
    // In an event of its own: a listener never runs inside the `disconnect` that caused it.
    this.link.later("net/down", this.node.process, () => this.node.tell(this.peer, "down"));
  }
}
