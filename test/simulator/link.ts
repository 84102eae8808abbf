/**
 * The ways between machines: how long a packet takes from one to another, whether it comes at all, and the weather that makes
 * it worse. A way has a direction, so that a partition may be one-way.
 */
import { Dice } from "./random.ts";

/** One-way latency between two machines, fixed for the run: from the next street to across an ocean. */
const LATENCY_US = [3_000, 120_000] as const;
/** Bytes a second in one direction: a phone in the country to a home fibre. */
const BANDWIDTH = [250_000, 10_000_000] as const;
/** Part of the latency that differs from packet to packet; more than a packet's spacing, so gossip overtakes itself. */
const JITTER = 0.25;
/** TCP resends after the round trip and doubles from there; RFC 6298 has 1 s as the floor, real stacks 200 ms. */
const RESEND_FLOOR_US = 200_000;
/** Doublings until TCP gives a packet up; at 30 % loss one in 30,000 needs nine. */
const MAX_RESENDS = 9;

export type Weather = {
  /** Probability that a packet is lost: gossip loses it, a stream resends it later. */
  readonly loss: number;
  /** Probability that gossip brings a packet twice. */
  readonly duplication: number;
  /** Probability that a gossip packet is held back, so that later ones overtake it. */
  readonly reordering: number;
  /** Added to every packet, each way. */
  readonly delayUs: number;
};

/** A quiet day: a trace of everything. */
export const FAIR: Weather = { loss: 0.001, duplication: 0.002, reordering: 0.005, delayUs: 0 };
/** No fault of any kind. */
export const CALM: Weather = { loss: 0, duplication: 0, reordering: 0, delayUs: 0 };

export class Way {
  readonly from: string;
  readonly to: string;
  readonly latencyUs: number;
  readonly bytesPerSecond: number;
  /** Set by the faults of the run. */
  weather: Weather = CALM;
  /** Why nothing passes; more than one partition may hold a way. */
  readonly blocks = new Set<string>();
  readonly #dice: Dice;

  constructor(seed: number, from: string, to: string) {
    this.from = from;
    this.to = to;
    this.#dice = new Dice(seed, `way/${from}/${to}`);
    // Both directions have one distance.
    const distance = new Dice(seed, `distance/${[from, to].toSorted().join("/")}`);
    this.latencyUs = distance.spread(...LATENCY_US);
    this.bytesPerSecond = distance.spread(...BANDWIDTH);
  }

  get blocked(): boolean {
    return this.blocks.size > 0;
  }

  /** Time of one packet. */
  packetUs(): number {
    return this.weather.delayUs + this.latencyUs * (1 + JITTER * this.#dice.next());
  }

  /** Time of one segment of a reliable connection: a lost packet comes again, later and later. */
  segmentUs(onLoss: () => void): number {
    let delayUs = this.packetUs();
    let resendUs = Math.max(RESEND_FLOOR_US, 2 * this.latencyUs);
    for (let i = 0; i < MAX_RESENDS && this.#dice.chance(this.weather.loss); i++) {
      onLoss();
      delayUs += resendUs;
      resendUs *= 2;
    }
    return delayUs;
  }

  loses(): boolean {
    return this.#dice.chance(this.weather.loss);
  }

  duplicates(): boolean {
    return this.#dice.chance(this.weather.duplication);
  }

  reorders(): boolean {
    return this.#dice.chance(this.weather.reordering);
  }

  /** How long a packet is held back or comes again: mostly moments, at times long after everybody forgot it. */
  straggleUs(): number {
    return this.#dice.spread(1_000, 300_000_000);
  }
}
