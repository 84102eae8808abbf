/**
 * All machines and what lies between them: the ways, the weather on them, partitions, and which connection dies of what.
 * A connection has two ends, and each has its own opinion of whether it is open: what is sent on an open one arrives in order
 * or not at all; behind a partition it waits, and when that lasts, each end gives up at a time of its own.
 */
import type { PeerId } from "#protocols/base/ids.ts";

import type { Link, LinkEnd } from "./connection.ts";
import { CALM, Way, type Weather } from "./link.ts";
import { NetworkNode, type NodeOptions } from "./network.ts";
import { Dice } from "./random.ts";
import type { Process, Scheduler } from "./scheduler.ts";

/** How long a connection stays open without an answer; yamux pings every 30 s, TCP keepalive is slower. */
const DEAD_AFTER_US = [15_000_000, 40_000_000] as const;

export type NetworkFault = "loss" | "duplication" | "reordering" | "delay" | "partition" | "one-way-partition" | "cut";

export class Internet {
  readonly scheduler: Scheduler;
  /** Times each fault really hit something. */
  readonly hits: Partial<Record<NetworkFault, number>> = {};
  /** Most bytes a stream had waiting for its reader, over the run. */
  deepestStream = 0;
  /** Most bytes a stream kept for a sender that did not wait for room. */
  deepestUnsent = 0;
  streams = 0;
  gossiped = 0;
  readonly dice: Dice;
  readonly #seed: number;
  readonly #ways = new Map<string, Way>();
  readonly #byPeer = new Map<PeerId, NetworkNode>();
  readonly #links = new Set<Link>();
  /** Weather around one machine, and under "" that of all others. */
  readonly #weather = new Map<string, Weather>();

  constructor(scheduler: Scheduler, seed: number) {
    this.scheduler = scheduler;
    this.#seed = seed;
    this.dice = new Dice(seed, "network");
  }

  hit(fault: NetworkFault): void {
    this.hits[fault] = (this.hits[fault] ?? 0) + 1;
  }

  /** The network of one process. */
  attach(options: NodeOptions): NetworkNode {
    const node = new NetworkNode(this, options);
    this.#byPeer.set(node.peerId, node);
    return node;
  }

  /** The process is gone: its sockets with it. Others learn it at once (`closed`) or when they miss it (`silent`). */
  detach(process: Process, how: "closed" | "silent"): void {
    for (const node of this.#byPeer.values()) {
      if (node.process === process) this.#byPeer.delete(node.peerId);
    }
    for (const link of this.#links) {
      if (link.ends.some((end) => end.node.process === process)) this.#drop(link, how);
      else if (link.relay?.process === process) this.#drop(link, how);
    }
  }

  find(peer: PeerId): NetworkNode | undefined {
    return this.#byPeer.get(peer);
  }

  way(from: string, to: string): Way {
    const key = `${from}>${to}`;
    let way = this.#ways.get(key);
    if (way === undefined) {
      way = new Way(this.#seed, from, to);
      way.weather = this.#weatherOf(way);
      this.#ways.set(key, way);
    }
    return way;
  }

  /** From now on, the weather around `host`, or without one everywhere else; `undefined` ends what is special to a host. */
  setWeather(weather: Weather | undefined, host = ""): void {
    if (weather === undefined) this.#weather.delete(host);
    else this.#weather.set(host, weather);
    for (const way of this.#ways.values()) way.weather = this.#weatherOf(way);
  }

  #weatherOf(way: Way): Weather {
    return this.#weather.get(way.from) ?? this.#weather.get(way.to) ?? this.#weather.get("") ?? CALM;
  }

  /** Nothing passes from `from` to `to` until `unblock` with the same reason. */
  block(from: string, to: string, reason: string): void {
    this.way(from, to).blocks.add(reason);
    for (const link of this.#links) if (link.stuck) this.#doubt(link);
  }

  unblock(reason: string): void {
    for (const way of this.#ways.values()) way.blocks.delete(reason);
    this.flush();
  }

  /** A machine went to sleep: who waits for it longer than DEAD_AFTER gives up. */
  fellAsleep(process: Process): void {
    for (const link of this.#links) if (link.touches(process)) this.#doubt(link);
  }

  /** Something was lifted: what was held goes on its way. */
  flush(): void {
    for (const link of this.#links) link.flush();
  }

  /** Ends one open connection, as a router that forgot its table would. @returns False when there was none. */
  cut(): boolean {
    const open = [...this.#links].filter((link) => link.ends.some((end) => end.open));
    if (open.length === 0) return false;
    this.hit("cut");
    this.#drop(this.dice.pick(open), "silent");
    return true;
  }

  link(link: Link): void {
    this.#links.add(link);
  }

  /** Both ends lose the connection, each when it learns of it. */
  #drop(link: Link, how: "closed" | "silent"): void {
    this.unlink(link);
    for (const end of link.ends) {
      if (!end.open) continue;
      const delayUs = how === "closed" && !link.stuck ? link.packetUs() : this.dice.between(...DEAD_AFTER_US);
      this.scheduler.after(delayUs, "net/lost", end.node.process, () => end.down());
    }
  }

  /** One end closed properly; the other hears of it when the way allows. */
  close(link: Link, by: LinkEnd): void {
    this.unlink(link);
    by.down();
    const other = by.other;
    // What was sent before still arrives first.
    const soonUs = Math.max(link.packetUs(), by.busyUntilUs + 1 - this.scheduler.nowUs);
    const delayUs = link.stuck ? this.dice.between(...DEAD_AFTER_US) : soonUs;
    this.scheduler.after(delayUs, "net/closed", other.node.process, () => other.down());
  }

  /** No more packets; circuits that ran over it end too. */
  unlink(link: Link): void {
    if (!this.#links.delete(link)) return;
    link.dead = true;
    for (const circuit of this.#links) if (circuit.legs.includes(link)) this.#drop(circuit, "closed");
  }

  /** Looks again after a while whether the connection is still stuck. */
  #doubt(link: Link): void {
    this.scheduler.after(this.dice.between(...DEAD_AFTER_US), "net/doubt", undefined, () => {
      if (!link.dead && (link.stuck || link.ends.some((end) => end.node.process.asleep))) this.#drop(link, "closed");
    });
  }
}
