/** The `Network` port of one process: addresses, dialling, circuits through a relay, streams. */
import { toHex } from "#protocols/base/bytes.ts";
import type { PeerId } from "#protocols/base/ids.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Connection, FrameStream, Network, Random, Signal } from "#src/runtime/ports.ts";

import { Link, type LinkEnd } from "./connection.ts";
import { GossipNode } from "./gossip.ts";
import type { Internet } from "./internet.ts";
import { never, type Process } from "./scheduler.ts";
import { SimStream } from "./stream.ts";

/** After this a dial of a silent address is given up (libp2p: 10 s). */
const DIAL_TIMEOUT_US = 10_000_000;
/** Round trips of TCP, noise and yamux before a connection is of use. */
const DIAL_ROUND_TRIPS = 2;
/** Circuit reservations of one relay; above it `reserve` fails. */
const MAX_RESERVATIONS = 256;
/** Streams one end may have open; above it a new one is refused (libp2p resets it). */
const MAX_STREAMS = 256;

export type NodeOptions = {
  readonly process: Process;
  /** The host part of its addresses. */
  readonly host: string;
  readonly random: Random;
  /** Relays keep theirs; everybody else gets a new one at each start. */
  readonly peerId?: PeerId;
  /** Whether others can dial it; the rest is behind a NAT and reachable through relays only. */
  readonly dialable: boolean;
  /** Whether it offers circuits. */
  readonly relay: boolean;
};

/** A text as long and as opaque as the real ones. */
export function newPeerId(random: Random): PeerId {
  return `12D3KooW${toHex(random(22))}` as PeerId;
}

type Target = { readonly host: string; readonly peer: PeerId; readonly through?: { host: string; peer: PeerId } };

const ADDRESS = /^\/sim\/([a-z0-9-]+)\/p2p\/([A-Za-z0-9]+)(?:\/p2p-circuit\/p2p\/([A-Za-z0-9]+))?$/;

function parseAddress(address: string): Target | undefined {
  const [, host, first, behind] = ADDRESS.exec(address) ?? [];
  if (host === undefined || first === undefined) return undefined;
  if (behind === undefined) return { host, peer: first as PeerId };
  return { host, peer: behind as PeerId, through: { host, peer: first as PeerId } };
}

/** One process on the network. */
export class NetworkNode implements Network {
  readonly peerId: PeerId;
  readonly host: string;
  readonly process: Process;
  readonly gossip: GossipNode;
  readonly ends = new Set<LinkEnd>();
  /** Relays that gave us a reservation, with the address we used. */
  readonly reservations = new Map<PeerId, string>();
  /** Peers that have a reservation here. */
  readonly granted = new Set<PeerId>();
  readonly options: NodeOptions;
  readonly internet: Internet;
  #stopped = false;
  readonly #listeners = new Set<(peer: PeerId, state: "up" | "down") => void>();
  readonly #handlers = new Map<string, (stream: FrameStream, peer: PeerId) => void>();

  constructor(internet: Internet, options: NodeOptions) {
    this.internet = internet;
    this.options = options;
    this.process = options.process;
    this.host = options.host;
    this.peerId = options.peerId ?? newPeerId(options.random);
    this.gossip = new GossipNode(this);
  }

  enter(): boolean {
    return this.internet.scheduler.enter(this.process);
  }

  addresses(): readonly string[] {
    this.enter();
    const circuits = [...this.reservations.values()].map((relay) => `${relay}/p2p-circuit/p2p/${this.peerId}`);
    return this.options.dialable ? [`/sim/${this.host}/p2p/${this.peerId}`, ...circuits] : circuits;
  }

  connections(): readonly Connection[] {
    this.enter();
    return [...this.ends].map((end) => ({ peer: end.peer, path: end.link.path, address: end.address }));
  }

  onConnection(listener: (peer: PeerId, state: "up" | "down") => void): () => void {
    this.enter();
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async connect(address: string, options: { readonly signal?: Signal } = {}): Promise<PeerId> {
    if (!this.enter()) return never();
    const target = parseAddress(address);
    if (target === undefined) throw new Failure("net/bad-address", "this is not an address of the simulated network");
    if (this.#stopped) throw unreachable("this node is stopped", false);
    const wanted = target.through === undefined ? "direct" : "relayed";
    const has = this.endsWith(target.peer).some((end) => end.link.path === "direct" || end.link.path === wanted);
    if (has) return target.peer;
    if (target.through === undefined) await this.#dial(address, target, options.signal);
    else await this.#dialThrough(address, target, target.through, options.signal);
    return target.peer;
  }

  reserve(relay: PeerId, options: { readonly signal?: Signal } = {}): Promise<void> {
    if (!this.enter()) return never();
    const end = this.endsWith(relay).find((candidate) => candidate.link.path === "direct");
    if (end === undefined) return Promise.reject(unreachable("no direct connection to this relay"));
    const answer = (server: NetworkNode): boolean => {
      if (!server.options.relay || server.granted.size >= MAX_RESERVATIONS) return false;
      server.granted.add(this.peerId);
      return true;
    };
    return this.#ask({ end, signal: options.signal, kind: "net/reserve", answer }).then(() => {
      if (!end.open) throw unreachable("the connection closed");
      this.reservations.set(relay, end.address);
    });
  }

  disconnect(peer: PeerId): Promise<void> {
    if (!this.enter()) return never();
    for (const end of this.endsWith(peer)) this.internet.close(end.link, end);
    return Promise.resolve();
  }

  openStream(peer: PeerId, protocol: string, options: { readonly signal?: Signal } = {}): Promise<FrameStream> {
    if (!this.enter()) return never();
    const candidates = this.endsWith(peer);
    const end = candidates.find((candidate) => candidate.link.path === "direct") ?? candidates[0];
    if (end === undefined) return Promise.reject(unreachable("no connection to this peer"));
    const ours = new SimStream(end);
    const answer = (server: NetworkNode): boolean => {
      const handler = server.#handlers.get(protocol);
      if (handler === undefined || end.other.streams.size >= MAX_STREAMS || !end.other.open) return false;
      const theirs = new SimStream(end.other);
      ours.join(theirs);
      end.other.streams.add(theirs);
      this.internet.streams++;
      handler(theirs, this.peerId);
      return true;
    };
    const late = (): void => ours.abort();
    return this.#ask({ end, signal: options.signal, kind: "net/stream", answer, late }).then(() => {
      if (!end.open) throw unreachable("the connection closed");
      end.streams.add(ours);
      return ours;
    });
  }

  handle(protocol: string, handler: (stream: FrameStream, peer: PeerId) => void): void {
    if (this.enter()) this.#handlers.set(protocol, handler);
  }

  stop(): Promise<void> {
    if (!this.enter()) return never();
    this.#stopped = true;
    for (const end of this.ends) this.internet.close(end.link, end);
    this.internet.detach(this.process, "closed");
    return Promise.resolve();
  }

  endsWith(peer: PeerId): LinkEnd[] {
    const found: LinkEnd[] = [];
    for (const end of this.ends) if (end.peer === peer) found.push(end);
    return found;
  }

  tell(peer: PeerId, state: "up" | "down"): void {
    for (const listener of this.#listeners) listener(peer, state);
  }

  /**
   * A question to the other end: `answer` runs there; the promise settles here, after the way back. `late` is told of a yes
   * that came when nobody waited any more.
   */
  #ask(options: {
    end: LinkEnd;
    signal: Signal | undefined;
    kind: string;
    answer: (server: NetworkNode) => boolean;
    late?: () => void;
  }): Promise<void> {
    const { end, kind, answer, late } = options;
    return new Promise((resolve, reject) => {
      const settle = this.#settleOnce({ signal: options.signal, kind, resolve, reject });
      const giveUp = (): void => {
        end.asked.delete(giveUp);
        settle(unreachable("the connection closed"));
      };
      end.asked.add(giveUp);
      end.link.send(end, 100, kind, () => {
        const good = answer(end.other.node);
        end.link.send(end.other, 100, `${kind}-answer`, () => {
          end.asked.delete(giveUp);
          if (!settle(good ? undefined : unreachable("the other side refused", false)) && good) late?.();
        });
      });
    });
  }

  /** One outcome out of answer, abort and timeout. @returns What to call with it; true when it was the first. */
  #settleOnce(options: {
    signal: Signal | undefined;
    kind: string;
    resolve: () => void;
    reject: (reason: unknown) => void;
  }): (failure?: Failure) => boolean {
    const { signal, resolve, reject } = options;
    const { scheduler } = this.internet;
    let settled = false;
    const timeout = scheduler.after(DIAL_TIMEOUT_US, `${options.kind}-timeout`, this.process, () => {
      settle(unreachable("no answer in time"));
    });
    const abort = (): void => {
      if (end()) reject(signal?.reason);
    };
    const end = (): boolean => {
      if (settled) return false;
      settled = true;
      scheduler.cancel(timeout);
      signal?.removeEventListener("abort", abort);
      return true;
    };
    const settle = (failure?: Failure): boolean => {
      if (!end()) return false;
      if (failure === undefined) resolve();
      else reject(failure);
      return true;
    };
    if (signal?.aborted === true) abort();
    else signal?.addEventListener("abort", abort, { once: true });
    return settle;
  }

  #dial(address: string, target: Target, signal: Signal | undefined): Promise<void> {
    return this.#establish(signal, () => {
      const listener = this.internet.find(target.peer);
      if (listener === undefined || listener.host !== target.host || !listener.options.dialable || listener === this) {
        return undefined;
      }
      return new Link({ internet: this.internet, dialer: this, listener, address });
    });
  }

  async #dialThrough(
    address: string,
    target: Target,
    through: { host: string; peer: PeerId },
    signal: Signal | undefined,
  ): Promise<void> {
    const relayAddress = `/sim/${through.host}/p2p/${through.peer}`;
    await this.connect(relayAddress, signal === undefined ? {} : { signal });
    await this.#establish(signal, () => {
      const relay = this.internet.find(through.peer);
      const near = this.endsWith(through.peer).find((end) => end.link.path === "direct")?.link;
      const far = relay?.endsWith(target.peer).find((end) => end.link.path === "direct")?.link;
      const listener = this.internet.find(target.peer);
      if (relay === undefined || near === undefined || far === undefined || listener === undefined) return undefined;
      if (!relay.granted.has(target.peer) || listener === this) return undefined;
      return new Link({ internet: this.internet, dialer: this, listener, address, relay, legs: [near, far] });
    });
  }

  /** The time it takes, the silence behind a partition, and the refusal of a machine that is up but has no such peer. */
  #establish(signal: Signal | undefined, make: () => Link | undefined): Promise<void> {
    const { scheduler } = this.internet;
    return new Promise((resolve, reject) => {
      const settle = this.#settleOnce({ signal, kind: "net/dial", resolve, reject });
      const link = make();
      if (link === undefined) {
        const us = this.internet.dice.between(2_000, 200_000);
        scheduler.after(us, "net/refused", this.process, () => settle(unreachable("nobody there takes the call")));
        return;
      }
      // A packet into a partition or to a sleeper is answered by nobody: the timeout has it.
      if (link.stuck || link.ends[1].node.process.asleep) return;
      let us = 0;
      for (let i = 0; i < DIAL_ROUND_TRIPS; i++) us += link.packetUs() + link.packetUs();
      scheduler.after(us, "net/accept", link.ends[1].node.process, () => {
        if (link.stuck || link.legs.some((leg) => leg.dead)) return;
        this.internet.link(link);
        link.ends[1].up();
        link.send(link.ends[1], 100, "net/connected", () => {
          if (link.dead) settle(unreachable("the connection closed"));
          else if (settle()) link.ends[0].up();
          else this.internet.close(link, link.ends[0]);
        });
      });
    });
  }
}

function unreachable(message: string, retryable = true): Failure {
  return new Failure("net/unreachable", message, { retryable });
}
