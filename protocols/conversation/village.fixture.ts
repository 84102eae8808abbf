/** For this folder's tests: the network between households, in virtual time, and what must hold when it is over. */
import { toHex } from "#protocols/base/bytes.ts";
import type { AccountId, ConversationId } from "#protocols/base/ids.ts";
import type { Relation } from "./contact.ts";
import { DAY_MS, type Device, HOUR_MS, makeHousehold, MINUTE_MS, must, type Packet } from "./households.fixture.ts";
import { writingRoot } from "./roots.ts";

export type Weather = {
  /** Of 100 packets to a device. */
  readonly lost: number;
  readonly repeated: number;
  readonly maxDelayMs: number;
};

export const CALM: Weather = { lost: 0, repeated: 0, maxDelayMs: 1_000 };
export const STORM: Weather = { lost: 40, repeated: 25, maxDelayMs: DAY_MS };

/** mulberry32: which packet is lost needs no cryptography. */
export function dice(seed: number): (limit: number) => number {
  let state = seed >>> 0;
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % limit;
  };
}

type Job = { readonly at: number; readonly n: number; readonly run: () => Promise<unknown> };

/** Virtual time: jobs in order of time and of their making. */
export class Village {
  readonly devices: readonly Device[];
  readonly roll: (limit: number) => number;
  weather: Weather;
  now: number;
  /** Whether a packet may travel at all; for what is cut on purpose. */
  allows: (packet: Packet, to: Device) => boolean = () => true;
  #jobs: Job[] = [];
  #made = 0;

  constructor(devices: readonly Device[], options: { readonly seed: number; readonly weather?: Weather }) {
    this.devices = devices;
    this.roll = dice(options.seed);
    this.weather = options.weather ?? CALM;
    this.now = Math.max(...devices.map(({ env }) => env.now));
  }

  at(delayMs: number, run: () => Promise<unknown>): void {
    this.#jobs.push({ at: this.now + delayMs, n: this.#made++, run });
  }

  /** Puts what has left its device on its ways. */
  #collect(): void {
    for (const from of this.devices) {
      for (const packet of from.sent.splice(0)) {
        for (const to of this.devices) if (to !== from) this.#dispatch(packet, to);
      }
      for (const contact of from.receiptDue) {
        from.receiptDue.delete(contact);
        this.at(1_000 + this.roll(5_000), () => from.receipt(contact));
      }
    }
  }

  #dispatch(packet: Packet, to: Device): void {
    if (!this.allows(packet, to)) return;
    const { lost, repeated, maxDelayMs } = this.weather;
    if (this.roll(100) < lost) return;
    const copies = this.roll(100) < repeated ? 2 : 1;
    for (let i = 0; i < copies; i++) this.at(this.roll(maxDelayMs), () => to.take(packet));
  }

  /** Runs all that happens within `ms`, and moves every clock there. */
  async run(ms: number): Promise<void> {
    const end = this.now + ms;
    for (;;) {
      this.#collect();
      let next: Job | undefined;
      for (const job of this.#jobs) {
        if (job.at <= end && (next === undefined || job.at < next.at || (job.at === next.at && job.n < next.n)))
          next = job;
      }
      if (next === undefined) break;
      this.#jobs.splice(this.#jobs.indexOf(next), 1);
      this.#setNow(Math.max(this.now, next.at));
      await next.run();
    }
    this.#setNow(end);
  }

  #setNow(now: number): void {
    const passed = now - this.now;
    this.now = now;
    // Each device keeps the distance of its clock.
    for (const { env } of this.devices) env.now += passed;
  }

  async offerAll(): Promise<void> {
    for (const device of this.devices) {
      for (const contact of device.directs.keys()) await device.offerAgain(contact);
    }
  }

  /** The network is well again: everything is offered until nothing is left. */
  async heal(rounds = 40): Promise<void> {
    this.weather = CALM;
    await this.run(DAY_MS + HOUR_MS);
    for (let round = 0; round < rounds && this.held() > 0; round++) {
      await this.offerAll();
      await this.run(2 * MINUTE_MS);
    }
    // One more receipt each: what nobody has to say any more, nobody has heard either (CV77).
    for (const device of this.devices) {
      for (const contact of device.directs.keys()) await device.receipt(contact);
    }
    await this.run(2 * MINUTE_MS);
  }

  held(): number {
    return this.devices.reduce((sum, { outbox }) => sum + [...outbox.values()].flat().length, 0);
  }
}

/** What all devices of two accounts have to agree on in the end. */
export function agreement(devices: readonly Device[], a: AccountId, b: AccountId) {
  return devices.map((device) => {
    const contact = device.account.id === a ? b : a;
    const direct = device.directs.get(contact);
    const conversation: ConversationId | undefined = direct?.conversation;
    const writing = direct && writingRoot(direct.roots);
    const seen = { requested: "open", incoming: "open" } as Partial<Record<Relation, string>>;
    const now = device.relation(contact);
    return {
      conversation,
      relation: seen[now] ?? now,
      requests: direct?.requests
        .map(({ event, answer: given }) => `${event} ${given}`)
        .toSorted()
        .join(),
      root: writing && toHex(writing.chain.rootHash),
      events: device.log
        .filter(({ event }) => event.conversation === conversation)
        .map(({ id }) => id)
        .toSorted()
        .join(),
    };
  });
}

/** Ann on two devices and Bob on one, who have talked in both directions; and Eve, whom nobody knows. */
export async function talkingHouseholds() {
  const [ann1, ann2] = await makeHousehold("ann", 2, "attacks ann");
  const [bob1] = await makeHousehold("bob", 1, "attacks bob");
  const [eve1] = await makeHousehold("eve", 1, "attacks eve");
  const village = new Village([ann1!, ann2!, bob1!], { seed: 5 });
  must(await bob1!.redeem(await ann1!.invite()));
  await village.run(HOUR_MS);
  await village.heal();
  await ann1!.say(bob1!.account.id, "hello");
  await bob1!.say(ann1!.account.id, "hello yourself");
  await village.heal();
  eve1!.env.now = ann1!.env.now;
  return [ann1!, ann2!, bob1!, eve1!] as const;
}
