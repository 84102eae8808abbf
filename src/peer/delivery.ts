/**
 * From a committed step to the other side: gossip for speed, mailboxes for certainty, the inbox for first contact. What is held
 * is offered until it is receipted; only receipts and custody move a state that people see.
 *
 *   held row:  waiting --a path, room in the window--> in flight --receipt of every device--> gone
 *                 ^                                        | no custody and no receipt in time
 *                 +----------------------------------------+
 */
import type { AccountId, EnvelopeId, EventId, TopicId } from "#protocols/base/ids.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import {
  deliveryOf,
  type Direct,
  type DirectState,
  type Effect,
  highestReceipted,
  missingReceipts,
  seal,
  type Step,
  unanswered,
} from "#protocols/conversation/direct.ts";
import { liveDevices } from "#protocols/identity/identity.ts";
import { makeDeposit, sealEnvelope } from "#protocols/envelope/envelope.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Directs, HeldRow, Outcome } from "./directs.ts";
import type { DeliveryState } from "./face.ts";
import type { Inbound } from "./inbound.ts";
import type { Mailboxes } from "./mailboxes.ts";
import type { Push } from "./push.ts";
import { eventLog } from "./tables.ts";
import type { Topics } from "./topics.ts";
import { stepEnv, type World } from "./world.ts";

/** Held events of one contact under way at once. Some megabytes of envelopes; more only fills queues on the way. */
export const WINDOW = 1_024;

/** Steps that seal at once: while one is synced to the disk the next seals. */
const OFFERS_AT_ONCE = 3;

/** Sealed in one step: their fsync is shared, and receipts are let in between. */
const OFFER_BATCH = 128;

/** Above this many under way it is a burst: nothing is gossiped, streams carry them in batches (DESIGN 7.3, decision 0013). */
const GOSSIP_FIRST = 32;

/** A mailbox that has not acknowledged what was gossiped within this time gets it on its stream (DESIGN 7.3). */
const PUT_AFTER_MS = 1_000;

/** In a burst receipts take longer, and a mailbox that gets all of it besides only slows it down. */
const PUT_BURST_AFTER_MS = 5_000;

/** Without custody or a receipt an event goes out anew after this long, twice as long each time. */
const RETRY_MS = 4_000;
const MAX_RETRY_MS = 300_000;

/** What waits for a path is looked at this often: a path can open without a sign, when a peer tells its topics late. */
const LOOK_MS = 15_000;

/** What is in custody is offered anew this rarely: a mailbox may lie, and a receipt may be lost. */
const HELD_RETRY_MS = 600_000;

type Flight = {
  readonly row: HeldRow;
  sentAt: number;
  attempts: number;
  /** Every envelope it went in; custody of any of them counts. */
  readonly envelopes: EnvelopeId[];
  /** By mailbox, until when it promised to hold it. */
  readonly held: Map<string, number>;
};

type Transmit = Extract<Effect, { type: "transmit" }>;
type Sealed = { readonly topic: TopicId; readonly envelope: { readonly id: EnvelopeId; readonly bytes: Uint8Array } };

export class Delivery {
  readonly #world: World;
  readonly #directs: Directs;
  readonly #topics: Topics;
  readonly #mailboxes: Mailboxes;
  readonly #inbound: Pick<Inbound, "remember">;
  readonly #push: Push;
  readonly #flights = new Map<EventId, Flight>();
  readonly #inFlight = new Map<AccountId, number>();
  readonly #byEnvelope = new Map<EnvelopeId, EventId>();
  /** Envelopes of steps that are being synced; what is discarded is collected with its effect. */
  readonly #sealed = new WeakMap<Transmit, Promise<Sealed | undefined>>();
  readonly #offering = new Map<AccountId, "once" | "again">();
  readonly #timers = new Map<AccountId, () => void>();
  readonly #depositFailures = new Map<AccountId, string>();
  #stopped = false;

  constructor(
    world: World,
    parts: { directs: Directs; topics: Topics; mailboxes: Mailboxes; inbound: Pick<Inbound, "remember">; push: Push },
  ) {
    this.#world = world;
    this.#directs = parts.directs;
    this.#topics = parts.topics;
    this.#mailboxes = parts.mailboxes;
    this.#inbound = parts.inbound;
    this.#push = parts.push;
  }

  stop(): void {
    this.#stopped = true;
    for (const cancel of this.#timers.values()) cancel();
  }

  /** Whether a new event may be sealed at once, or has to wait for those before it. */
  ready(account: AccountId, direct: Direct): boolean {
    const under = this.#inFlight.get(account) ?? 0;
    const waiting = this.#directs.heldFor(account).size > under;
    return !waiting && under < WINDOW && this.#hasPath(account, direct);
  }

  #hasPath(account: AccountId, direct: Direct): boolean {
    if (this.#mailboxes.isOpen(direct)) return true;
    return this.#topics.of(account).some(({ id }) => this.#world.network.gossip.peers(id).length > 0);
  }

  /** Custody of one event, for its state. */
  custody(id: EventId): { readonly mailboxes: number; readonly until: number } | undefined {
    const now = this.#world.now();
    const until = [...(this.#flights.get(id)?.held.values() ?? [])].filter((time) => time > now);
    return until.length > 0 ? { mailboxes: until.length, until: Math.min(...until) } : undefined;
  }

  /** Why the last deposit of a request was refused by a mailbox for good, if it was. */
  depositFailure(account: AccountId): string | undefined {
    return this.#depositFailures.get(account);
  }

  /** A step is on the disk: lets out what it sealed, forgets what it settled. */
  committed(outcome: Outcome): void {
    const { account, direct } = outcome;
    for (const row of outcome.settled) this.#landed(row);
    for (const effect of outcome.effects) {
      if (effect.type === "receipted") this.#tellDelivered(outcome);
      if (effect.type === "transmit") void this.#guard(this.#transmit(account, direct, effect));
    }
    if (outcome.settled.length > 0 || outcome.held.length > 0) this.offer(account);
  }

  /** Rows that a commit settled of which nobody heard that it had happened. */
  settledUnseen(rows: readonly HeldRow[]): void {
    for (const row of rows) {
      this.#landed(row);
      if (row.visible) this.#tellState(row, "delivered");
    }
  }

  #landed({ id, account }: HeldRow): void {
    const flight = this.#flights.get(id);
    if (flight === undefined) return;
    for (const envelope of flight.envelopes) this.#byEnvelope.delete(envelope);
    this.#flights.delete(id);
    this.#inFlight.set(account, Math.max(0, (this.#inFlight.get(account) ?? 1) - 1));
  }

  /** Seals what a step wants out while the step is being synced, so that it leaves as soon as it may. */
  prepare({ direct, effects }: Outcome): void {
    for (const effect of effects) {
      if (effect.type === "transmit") this.#sealed.set(effect, this.#seal(direct, effect));
    }
  }

  async #seal(direct: Direct, { payload, ephemeral }: Transmit): Promise<Sealed | undefined> {
    const topic = await this.#topics.writing(direct);
    if (topic === undefined) return undefined;
    const kind = ephemeral ? "ephemeral" : "stored";
    const lifetime = ephemeral ? "day" : "month";
    const envelope = await sealEnvelope({ topic, kind, lifetime, payload }, stepEnv(this.#world));
    return { topic: topic.id, envelope };
  }

  async #transmit(account: AccountId, direct: Direct, effect: Transmit): Promise<void> {
    const row = this.#directs.held(effect.id);
    if (row && !this.#flights.has(row.id)) this.#launch(row);
    if (unanswered(direct)) await this.#toInbox(account, direct, effect);
    const sealed = await (this.#sealed.get(effect) ?? this.#seal(direct, effect));
    if (sealed === undefined || this.#stopped) return;
    const { envelope, topic } = sealed;
    const { ephemeral } = effect;
    this.#inbound.remember(envelope.id);
    if (row) {
      this.#byEnvelope.set(envelope.id, effect.id);
      this.#flights.get(effect.id)?.envelopes.push(envelope.id);
    }
    const boxes = ephemeral ? [] : this.#mailboxes.openFor(direct);
    const burst = !ephemeral && (this.#inFlight.get(account) ?? 0) > GOSSIP_FIRST;
    const way = await this.#spread(direct, topic, envelope, { stored: !ephemeral, burst, mailboxes: boxes.length > 0 });
    if (way === "nowhere") {
      for (const box of boxes) box.put([envelope]);
      return;
    }
    if (boxes.length === 0) return;
    this.#world.clock.after(burst ? PUT_BURST_AFTER_MS : PUT_AFTER_MS, () => {
      if (this.#stopped || (row && !this.#flights.has(effect.id))) return;
      if (this.#flights.get(effect.id)?.held.size) return;
      for (const box of boxes) box.put([envelope]);
    });
  }

  /** Devices a message of this conversation is for. */
  #recipients(direct: Direct): number {
    return liveDevices(direct.devices).length + liveDevices(this.#world.identity.self.list).length - 1;
  }

  /**
   * To whoever is there: straight to devices we are connected to, by gossip to all others. With every device connected, or
   * in a burst, nothing is gossiped: receipts come at once, and a mailbox gets what is not receipted soon. What went nowhere
   * is for the mailboxes' streams at once.
   */
  async #spread(
    direct: Direct,
    topic: TopicId,
    envelope: { readonly bytes: Uint8Array },
    options: { readonly stored: boolean; readonly burst: boolean; readonly mailboxes: boolean },
  ): Promise<"gossiped" | "pushed" | "nowhere"> {
    const { gossip } = this.#world.network;
    const theirs = this.#topics.peersOf(direct.contact);
    const online = options.stored ? gossip.peers(topic).filter((peer) => theirs.has(peer)) : [];
    const queued = online.map((peer) => this.#push.send(peer, envelope.bytes));
    if (online.length > 0 && (options.burst || online.length >= this.#recipients(direct))) {
      return queued.includes(false) ? "nowhere" : "pushed";
    }
    if (options.burst && options.mailboxes) return "nowhere";
    return (await gossip.publish(topic, envelope.bytes)) > 0 ? "gossiped" : "nowhere";
  }

  #launch(row: HeldRow): void {
    const { account } = row;
    const flight = this.#flights.get(row.id);
    if (flight) {
      flight.sentAt = this.#world.clock.monotonic();
      flight.attempts++;
    } else {
      this.#flights.set(row.id, {
        row,
        sentAt: this.#world.clock.monotonic(),
        attempts: 1,
        envelopes: [],
        held: new Map(),
      });
      this.#inFlight.set(account, (this.#inFlight.get(account) ?? 0) + 1);
    }
    this.#schedule(account);
  }

  async #toInbox(account: AccountId, direct: Direct, effect: Transmit): Promise<void> {
    const { redemption } = direct;
    if (redemption === undefined || effect.ephemeral || this.#world.now() >= redemption.expiresAt) return;
    const deposit = await makeDeposit(
      {
        inbox: redemption.inbox,
        capabilitySeed: redemption.capability,
        redeemerSeed: redemption.redeemer,
        lifetime: "month",
        payload: effect.payload,
      },
      stepEnv(this.#world),
    );
    if (isReject(deposit)) {
      this.#depositFailures.set(account, deposit.code);
      return;
    }
    await Promise.all(
      redemption.relays.map(async (address) => {
        const answer = await this.#mailboxes.deposit(address, deposit.bytes);
        if (this.#stopped) return;
        if (!isReject(answer)) this.#noteCustody(effect.id, address, answer.until);
        else if (!answer.code.startsWith("sync/")) {
          this.#depositFailures.set(account, answer.code);
          this.#world.tell({ type: "warning", code: answer.code, message: "A mailbox refused the contact request." });
        }
      }),
    );
  }

  /** A mailbox has promised to hold these. */
  noteCustody(mailbox: string, ids: readonly EnvelopeId[], until: number): void {
    for (const id of ids) {
      const event = this.#byEnvelope.get(id);
      if (event !== undefined) this.#noteCustody(event, mailbox, until);
    }
  }

  #noteCustody(id: EventId, mailbox: string, until: number): void {
    const flight = this.#flights.get(id);
    if (flight === undefined) return;
    const first = flight.held.size === 0;
    flight.held.set(mailbox, until);
    if (first && flight.row.visible) this.#tellState(flight.row, "held");
  }

  #tellState(row: HeldRow, state: DeliveryState): void {
    const conversation = this.#directs.conversationWith(row.account);
    this.#world.tell({ type: "message-state", conversation, id: row.id, state });
  }

  /** Tells of messages that a receipt shows to be delivered. */
  #tellDelivered({ before, direct, settled, account }: Outcome): void {
    const { device } = this.#world.identity;
    const highest = highestReceipted(direct, device);
    const tell = (row: HeldRow): void => {
      const event = { device, index: row.index };
      const proved =
        deliveryOf(direct, event) !== "none" && (before === undefined || deliveryOf(before, event) === "none");
      if (row.visible && proved) this.#tellState(row, "delivered");
    };
    settled.forEach(tell);
    for (const row of this.#directs.heldFor(account).values()) {
      if (row.index > highest) break;
      tell(row);
    }
  }

  /** Offers what is due to `account`: because a path opened, a receipt made room, or time has passed. */
  offer(account: AccountId): void {
    if (this.#stopped) return;
    if (this.#offering.has(account)) {
      this.#offering.set(account, "again");
      return;
    }
    this.#offering.set(account, "once");
    void this.#guard(this.#offerAll(account));
  }

  /** A path opened: what was sent on others before may be lost, so it is due at once. */
  pathOpened(account: AccountId): void {
    for (const flight of this.#flightsOf(account)) {
      if (flight.held.size === 0) flight.attempts = 0;
    }
    this.offer(account);
  }

  *#flightsOf(account: AccountId): Generator<Flight> {
    for (const row of this.#directs.heldFor(account).values()) {
      const flight = this.#flights.get(row.id);
      if (flight) yield flight;
    }
  }

  async #offerAll(account: AccountId): Promise<void> {
    const sealing = new Set<Promise<void>>();
    try {
      while (!this.#stopped) {
        this.#offering.set(account, "once");
        const rows = await this.#due(account);
        if (rows.length > 0) {
          // In flight from here on, so that the next batch is another one; what fails is due again by its time.
          for (const row of rows) this.#launch(row);
          const work = this.#guard(this.#sealAgain(account, rows)).finally(() => sealing.delete(work));
          sealing.add(work);
        }
        if (sealing.size >= OFFERS_AT_ONCE || (rows.length === 0 && sealing.size > 0)) await Promise.race(sealing);
        else if (rows.length === 0 && this.#offering.get(account) === "once") break;
      }
    } finally {
      this.#offering.delete(account);
      await Promise.all(sealing);
      this.#schedule(account);
    }
  }

  async #due(account: AccountId): Promise<readonly HeldRow[]> {
    const direct = await this.#directs.get(account);
    if (direct === undefined || !this.#hasPath(account, direct)) return [];
    const now = this.#world.clock.monotonic();
    let room = WINDOW - (this.#inFlight.get(account) ?? 0);
    const due: HeldRow[] = [];
    for (const row of this.#directs.heldFor(account).values()) {
      if (due.length >= OFFER_BATCH) break;
      const flight = this.#flights.get(row.id);
      if (flight === undefined) {
        if (room-- > 0) due.push(row);
      } else if (now >= flight.sentAt + retryDelay(flight)) due.push(row);
    }
    return due;
  }

  async #sealAgain(account: AccountId, rows: readonly HeldRow[]): Promise<void> {
    const device = this.#world.identity.device;
    await this.#directs.step(account, {}, async (state, env, tx) => {
      let next: DirectState = state;
      const effects: Effect[] = [];
      for (const row of rows) {
        assert(next.direct !== undefined, "held rows belong to a conversation");
        const only = missingReceipts(next.direct, device, row.index, row.devices);
        const found = await tx.row(eventLog, next.direct.conversation, row.row);
        if (found === undefined || only.length === 0) continue;
        const done: Step = await seal(next, { id: row.id, bytes: found.event, ephemeral: false, only }, env);
        next = done.state;
        effects.push(...done.effects);
      }
      return { state: next, effects };
    });
  }

  #schedule(account: AccountId): void {
    if (this.#stopped || this.#timers.has(account)) return;
    const now = this.#world.clock.monotonic();
    let earliest = Number.POSITIVE_INFINITY;
    for (const { id } of this.#directs.heldFor(account).values()) {
      const flight = this.#flights.get(id);
      earliest = Math.min(earliest, flight ? flight.sentAt + retryDelay(flight) : now + LOOK_MS);
    }
    if (earliest === Number.POSITIVE_INFINITY) return;
    const jitter = 1 + this.#world.random(1)[0]! / 1024;
    const delay = Math.max(250, earliest - now) * jitter;
    const cancel = this.#world.clock.after(delay, () => {
      this.#timers.delete(account);
      this.offer(account);
    });
    this.#timers.set(account, cancel);
  }

  async #guard(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      // The store or the network failed; what is held stays held and is offered again.
      if (!(error instanceof Failure)) throw error;
      if (!this.#stopped) this.#world.tell({ type: "warning", code: error.code, message: error.message });
    }
  }
}

function retryDelay(flight: Flight): number {
  if (flight.held.size > 0) return HELD_RETRY_MS;
  if (flight.attempts === 0) return 0;
  return Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** (flight.attempts - 1));
}
