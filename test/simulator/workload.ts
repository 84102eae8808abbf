/** What people do: every two of them meet by an invite, then they talk, at times in bursts, and read. */
import type { Contact, PeerEvent } from "#src/peer/face.ts";
import type { AccountId, ConversationId, EventId } from "#protocols/base/ids.ts";
import { Failure } from "#src/runtime/failure.ts";

import { Dice } from "./random.ts";
import type { Machine, SimPeer, World } from "./world.ts";

const SECOND_US = 1_000_000;
/** How often somebody looks whether two have met. */
const MEET_EVERY_US = 5 * SECOND_US;
/** A question that a crash swallowed is asked again after this. */
const FORGET_AFTER_US = 90 * SECOND_US;
/** Longest text; most are short. */
const MAX_TEXT = 1_500;
const INVITE_LIVES_MS = 7 * 24 * 3_600_000;

/** One `send` that was called. It counts only when it resolved: then `id` is set. */
export type Sent = {
  readonly from: number;
  readonly to: number;
  readonly conversation: ConversationId;
  readonly text: string;
  readonly calledAtUs: number;
  id?: EventId;
  acknowledgedAtUs?: number;
};

/** Two people on their way to each other. */
type Pair = {
  readonly a: number;
  readonly b: number;
  /** Both make an invite and both redeem the other's, at about the same time. */
  readonly mutual: boolean;
  readonly links: Map<number, string>;
  busyUntilUs: number;
  metAtUs?: number;
  /** What each of them calls the conversation, once accepted. */
  readonly conversations: Map<number, ConversationId>;
};

export class Workload {
  readonly sent: Sent[] = [];
  /** Refusals by code: a full disk, no relay to be reached. */
  readonly refused = new Map<string, number>();
  readonly pairs: Pair[] = [];
  /** "message" events that a face announced twice in one life. */
  readonly shownTwice: string[] = [];
  announced = 0;
  readonly #world: World;
  readonly #dice: Dice;
  readonly #accounts = new Map<number, AccountId>();
  #over = false;

  constructor(world: World, seed: number) {
    this.#world = world;
    this.#dice = new Dice(seed, "workload");
    for (let a = 0; a < world.peers.length; a++) {
      for (let b = a + 1; b < world.peers.length; b++) {
        const [inviter, other] = this.#dice.chance(0.5) ? [a, b] : [b, a];
        const mutual = this.#dice.chance(0.3);
        this.pairs.push({ a: inviter, b: other, mutual, links: new Map(), busyUntilUs: 0, conversations: new Map() });
      }
    }
    world.onStarted((machine, face) => this.#watch(machine, face));
  }

  /** Whether every two have met, as both see it. */
  get allMet(): boolean {
    return this.pairs.every((pair) => pair.metAtUs !== undefined);
  }

  get acknowledged(): Sent[] {
    return this.sent.filter((sent) => sent.id !== undefined);
  }

  account(peer: number): AccountId | undefined {
    return this.#accounts.get(peer);
  }

  /** People begin to meet at once; `messages` are spread over `forUs`. */
  begin(forUs: number, messages: number): void {
    const { scheduler } = this.#world;
    for (const pair of this.pairs) {
      scheduler.after(this.#dice.between(2, 10) * SECOND_US, "meet", undefined, () => this.#meet(pair));
    }
    for (let planned = 0; planned < messages;) {
      const burst = this.#dice.chance(0.05) ? Math.min(messages - planned, 2 + this.#dice.below(15)) : 1;
      const atUs = this.#dice.between(15 * SECOND_US, Math.max(forUs, 20 * SECOND_US));
      scheduler.after(atUs, "talk", undefined, () => this.#talk(burst));
      planned += burst;
    }
  }

  /** Nobody says anything new; meetings under way go on. */
  end(): void {
    this.#over = true;
  }

  #peer(number: number): Machine<SimPeer> {
    const machine = this.#world.peers[number];
    if (machine === undefined) throw new Error(`no peer ${number}`);
    return machine;
  }

  #face(number: number): SimPeer | undefined {
    return this.#world.usable(this.#peer(number));
  }

  #watch(machine: Machine<SimPeer>, face: SimPeer): void {
    this.#accounts.set(machine.process.node, face.account);
    const shown = new Set<EventId>();
    face.watch((event: PeerEvent) => {
      if (event.type !== "message") return;
      this.announced++;
      if (shown.has(event.message.id)) this.shownTwice.push(`${machine.name} announced a message twice`);
      shown.add(event.message.id);
    });
  }

  #refuse(error: unknown): void {
    if (!(error instanceof Failure)) {
      this.#world.violations.push(`a face threw what is no Failure: ${String(error)}`);
      return;
    }
    this.refused.set(error.code, (this.refused.get(error.code) ?? 0) + 1);
  }

  #meet(pair: Pair): void {
    const { scheduler } = this.#world;
    if (pair.metAtUs !== undefined) return;
    scheduler.after(MEET_EVERY_US, "meet", undefined, () => this.#meet(pair));
    if (scheduler.nowUs < pair.busyUntilUs) return;
    pair.busyUntilUs = scheduler.nowUs + FORGET_AFTER_US;
    const steps = [this.#invite(pair, pair.a, pair.b)];
    if (pair.mutual) steps.push(this.#invite(pair, pair.b, pair.a));
    void Promise.all(steps)
      .catch((error: unknown) => this.#refuse(error))
      .finally(() => {
        pair.busyUntilUs = 0;
      });
  }

  /** One step further: make the link, redeem it, accept, or see that both are there. */
  async #invite(pair: Pair, from: number, to: number): Promise<void> {
    const inviter = this.#face(from);
    const redeemer = this.#face(to);
    if (inviter === undefined || redeemer === undefined) return;
    const theirs = contact(await inviter.contacts(), redeemer.account);
    const ours = contact(await redeemer.contacts(), inviter.account);
    if (theirs?.state === "incoming") {
      await inviter.accept(redeemer.account);
      return;
    }
    if (ours?.state === "incoming") {
      await redeemer.accept(inviter.account);
      return;
    }
    if (theirs?.state === "accepted" && ours?.state === "accepted") {
      pair.conversations.set(from, theirs.conversation).set(to, ours.conversation);
      pair.metAtUs ??= this.#world.scheduler.nowUs;
      return;
    }
    // Somebody already asked: nothing to do but to wait for the answer.
    if (ours?.state === "requested" || ours?.state === "accepted") return;
    const link = pair.links.get(from);
    if (link === undefined) {
      const made = await inviter.createInvite({ uses: 1, expiresInMs: INVITE_LIVES_MS });
      pair.links.set(from, made.link);
      return;
    }
    await redeemer.connect(link, { waitMs: 20_000 }).catch((error: unknown) => {
      if (error instanceof Failure && error.code.startsWith("invite/")) pair.links.delete(from);
      throw error;
    });
  }

  #talk(burst: number): void {
    if (this.#over) return;
    const ready = this.pairs.filter((pair) => pair.metAtUs !== undefined);
    if (ready.length === 0) return;
    const pair = this.#dice.pick(ready);
    const [from, to] = this.#dice.chance(0.5) ? [pair.a, pair.b] : [pair.b, pair.a];
    const face = this.#face(from);
    const conversation = pair.conversations.get(from);
    if (face === undefined || conversation === undefined) return;
    for (let i = 0; i < burst; i++) this.#send(face, { from, to, conversation });
    if (this.#dice.chance(0.3)) void this.#read(face, conversation).catch((error: unknown) => this.#refuse(error));
  }

  #send(face: SimPeer, way: { from: number; to: number; conversation: ConversationId }): void {
    const { scheduler } = this.#world;
    const length = Math.round(this.#dice.spread(1, MAX_TEXT));
    const text = `${this.sent.length} ${"x".repeat(length)}`;
    const sent: Sent = { ...way, text, calledAtUs: scheduler.nowUs };
    this.sent.push(sent);
    face.send(way.conversation, { text }).then(
      ({ id }) => {
        sent.id = id;
        sent.acknowledgedAtUs = scheduler.nowUs;
      },
      (error: unknown) => this.#refuse(error),
    );
  }

  async #read(face: SimPeer, conversation: ConversationId): Promise<void> {
    const newest = (await face.messages(conversation, { limit: 1 })).at(-1);
    if (newest !== undefined && newest.author !== face.account) await face.markRead(conversation, newest.id);
  }
}

function contact(contacts: readonly Contact[], account: AccountId): Contact | undefined {
  return contacts.find((candidate) => candidate.account === account);
}
