/**
 * Everything that comes in, from gossip, mailboxes and the inbox, goes through here: checked at the door, opened once, handed
 * to the step of its conversation. What cannot be opened yet is parked; what never can be is counted and forgotten.
 */
import type { AccountId, EnvelopeId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { isReject, type OrReject, type Reject, reject } from "#protocols/base/reject.ts";
import { authorOf, type Effect, receive } from "#protocols/conversation/direct.ts";
import { decodePayload, type DirectPayload } from "#protocols/conversation/message.ts";
import {
  type EnvelopeInfo,
  inspectEnvelope,
  openDeposit,
  openEnvelope,
  verifyDeposit,
  verifyEnvelope,
} from "#protocols/envelope/envelope.ts";
import type { Verdict } from "#src/runtime/ports.ts";
import type { Directs } from "./directs.ts";
import { MAX_PARKED, parkedLog, prekeysTable, SELF } from "./tables.ts";
import type { HeardTopic, Topics } from "./topics.ts";
import { stepEnv, type World } from "./world.ts";

/** Envelope ids remembered in memory, so that what comes by several ways is opened once: an hour of a busy peer. */
const MAX_REMEMBERED = 32_768;

/** Parked for want of something that another message brings (DESIGN section 2). */
const NOT_YET: ReadonlySet<string> = new Set([
  "ratchet/too-far",
  "conversation/unknown-request",
  "conversation/not-accepted",
]);

/** An envelope of a topic we hear. */
type Arrival = { readonly heard: HeardTopic; readonly info: EnvelopeInfo; readonly bytes: Uint8Array };

export class Inbound {
  readonly #world: World;
  readonly #directs: Directs;
  readonly #topics: Topics;
  /** Taken in, or being taken in. Insertion order is age. */
  readonly #remembered = new Map<EnvelopeId, Promise<void> | undefined>();
  readonly #parked = new Map<AccountId, number>();
  readonly #unparking = new Set<AccountId>();
  /** How often each code refused something; for the status and for tests. No ids. */
  readonly rejects = new Map<string, number>();

  constructor(world: World, directs: Directs, topics: Topics) {
    this.#world = world;
    this.#directs = directs;
    this.#topics = topics;
  }

  async load(accounts: readonly AccountId[]): Promise<void> {
    await this.#world.driver.read(async (tx) => {
      for (const account of accounts) this.#parked.set(account, (await tx.rows(parkedLog, account)).length);
    });
  }

  /** Counts anew after the store failed: a commit whose outcome nobody knew may have parked or freed something. */
  async reload(account: AccountId): Promise<void> {
    await this.#directs.locked(account, async (tx) => {
      const { length } = await tx.rows(parkedLog, account);
      tx.release(() => this.#parked.set(account, length));
    });
  }

  parkedCount(): number {
    let count = 0;
    for (const parked of this.#parked.values()) count += parked;
    return count;
  }

  /** Whether it is here; while it is being taken in, the answer waits for the commit. */
  seen(id: EnvelopeId): boolean | Promise<boolean> {
    if (!this.#remembered.has(id)) return false;
    const work = this.#remembered.get(id);
    return (
      work === undefined ||
      work.then(
        () => true,
        () => false,
      )
    );
  }

  /** Our own envelope: it need not be opened when it comes back. */
  remember(id: EnvelopeId): void {
    this.#remember(id, undefined);
  }

  #remember(id: EnvelopeId, work: Promise<void> | undefined): void {
    this.#remembered.set(id, work);
    if (this.#remembered.size <= MAX_REMEMBERED) return;
    const [oldest] = this.#remembered.keys();
    this.#remembered.delete(oldest!);
  }

  /** The validator of gossip. Opening goes on after the verdict: others need not wait for our disk. */
  async validate(topic: TopicId, bytes: Uint8Array, _from: PeerId): Promise<Verdict> {
    const heard = this.#topics.get(topic);
    if (heard === undefined) return "ignore";
    const claimed = inspectEnvelope(this.#world.crypto, bytes);
    // It came straight from its author already; who else wants it has it from there or from a mailbox.
    if (!isReject(claimed) && this.#remembered.has(claimed.id)) return "ignore";
    const info = await verifyEnvelope(this.#world.crypto, bytes, { now: this.#world.now() });
    if (isReject(info)) {
      this.#count(info);
      return info.code === "envelope/expired" || info.code === "envelope/from-the-future" ? "ignore" : "reject";
    }
    if (info.topic !== topic) return "reject";
    void this.#accept([{ heard, info, bytes }]).catch((error: unknown) => this.#failed(error));
    return "accept";
  }

  /**
   * A batch of a mailbox's log, or of a contact's device. Their signature is not checked again: that is for those who cannot
   * open them, and whoever can seal one can sign one (EN14). @throws Failure when the store failed: then none counts as taken.
   */
  async envelopes(batch: readonly Uint8Array[]): Promise<void> {
    const arrivals: Arrival[] = [];
    for (const bytes of batch) {
      const info = inspectEnvelope(this.#world.crypto, bytes);
      const refused = isReject(info) ? info : this.#late(info);
      if (refused) this.#count(refused);
      const heard = isReject(info) || refused ? undefined : this.#topics.get(info.topic);
      if (heard && !isReject(info)) arrivals.push({ heard, info, bytes });
    }
    await this.#accept(arrivals);
  }

  #late(info: EnvelopeInfo): Reject | undefined {
    return info.expiresAt <= this.#world.now() ? reject("envelope/expired") : undefined;
  }

  #failed(error: unknown): void {
    // The driver has told of the store's failure already; gossip is repeated by its sender until we receipt it.
    const message = error instanceof Error ? error.message : "unknown";
    this.#world.tell({ type: "warning", code: "peer/not-taken", message });
  }

  /** Takes in what is not here yet, the arrivals of one contact in one step; resolves when all of it is committed. */
  async #accept(arrivals: readonly Arrival[]): Promise<void> {
    const works = new Set<Promise<void>>();
    const fresh = new Map<AccountId, Arrival[]>();
    for (const arrival of arrivals) {
      const { heard, info } = arrival;
      if (this.#remembered.has(info.id)) {
        works.add(this.#remembered.get(info.id) ?? Promise.resolve());
        continue;
      }
      this.#remember(info.id, undefined);
      fresh.set(heard.account, [...(fresh.get(heard.account) ?? []), arrival]);
    }
    for (const [account, mine] of fresh) {
      const work = this.#openAll(account, mine);
      for (const { info } of mine) this.#remember(info.id, work);
      works.add(
        work.then(
          () => mine.forEach(({ info }) => this.#remember(info.id, undefined)),
          (error: unknown) => {
            mine.forEach(({ info }) => this.#remembered.delete(info.id));
            throw error;
          },
        ),
      );
    }
    await Promise.all(works);
  }

  async #openAll(account: AccountId, arrivals: readonly Arrival[]): Promise<void> {
    const refusals = await this.#attempt(account, arrivals);
    let opened = false;
    for (const [i, { info, bytes }] of arrivals.entries()) {
      const refused = refusals[i];
      opened ||= refused === undefined;
      if (refused === undefined) continue;
      if (!NOT_YET.has(refused.code) || info.kind === "ephemeral") this.#count(refused);
      else await this.#park(account, info.id, bytes);
    }
    if (opened) await this.#unpark(account);
  }

  /** @returns For each, why it was not taken in, or undefined when it was. */
  async #attempt(account: AccountId, arrivals: readonly Arrival[]): Promise<readonly (Reject | undefined)[]> {
    const payloads = await Promise.all(arrivals.map((arrival) => this.#payload(arrival)));
    const refusals: (Reject | undefined)[] = payloads.map((payload) => (isReject(payload) ? payload : undefined));
    if (payloads.every(isReject)) return refusals;
    // A request on a topic is one that crossed ours; it may claim an invite too.
    const inits = payloads.some((payload) => !isReject(payload) && payload.inits.length > 0);
    await this.#directs.step(account, { prekeys: inits, invites: inits }, async (before, env) => {
      let state = before;
      const effects: Effect[] = [];
      for (const [i, payload] of payloads.entries()) {
        if (isReject(payload)) continue;
        const taken = await receive(state, { payload, viaInbox: false }, env);
        refusals[i] = isReject(taken) ? taken : undefined;
        if (isReject(taken)) continue;
        state = taken.state;
        effects.push(...taken.effects);
      }
      return state === before ? reject("peer/nothing-taken") : { state, effects };
    });
    return refusals;
  }

  async #payload({ heard, bytes }: Arrival): Promise<OrReject<DirectPayload>> {
    const opened = await openEnvelope(this.#world.crypto, heard.keys, bytes);
    return isReject(opened) ? opened : decodePayload(opened.payload);
  }

  /** First contact, as our mailboxes hand it over. @throws Failure when the store failed. */
  async deposits(batch: readonly Uint8Array[]): Promise<void> {
    for (const bytes of batch) {
      const taken = await this.#deposit(bytes);
      if (isReject(taken)) this.#count(taken);
    }
  }

  async #deposit(bytes: Uint8Array): Promise<OrReject<unknown>> {
    const { crypto, driver, identity } = this.#world;
    const verified = await verifyDeposit(crypto, bytes, { now: this.#world.now() });
    if (isReject(verified)) return verified;
    const opened = await openDeposit(crypto, identity.inbox, bytes);
    if (isReject(opened)) return opened;
    const payload = decodePayload(opened.payload);
    if (isReject(payload)) return payload;
    const prekeys = await driver.read((tx) => tx.get(prekeysTable, SELF));
    if (prekeys === undefined) return undefined;
    const author = await authorOf(identity.self, payload, prekeys, stepEnv(this.#world));
    if (isReject(author)) return author;
    return this.#directs.step(author.account, { prekeys: true, invites: true }, (state, env) =>
      receive(state, { payload, viaInbox: true }, env),
    );
  }

  async #park(account: AccountId, id: EnvelopeId, envelope: Uint8Array): Promise<void> {
    if ((this.#parked.get(account) ?? 0) >= MAX_PARKED)
      return this.#count({ type: "reject", code: "peer/parking-full" });
    await this.#directs.locked(account, async (tx) => {
      await tx.append(parkedLog, account, { id, envelope });
      tx.release(() => this.#parked.set(account, (this.#parked.get(account) ?? 0) + 1));
    });
  }

  /** After something opened, what waited may open too. One pass at a time; a pass that opened something asks for another. */
  async #unpark(account: AccountId): Promise<void> {
    if ((this.#parked.get(account) ?? 0) === 0 || this.#unparking.has(account)) return;
    this.#unparking.add(account);
    try {
      let progress = true;
      while (progress) progress = await this.#unparkPass(account);
    } finally {
      this.#unparking.delete(account);
    }
  }

  async #unparkPass(account: AccountId): Promise<boolean> {
    const { driver, crypto } = this.#world;
    const rows = await driver.read((tx) => tx.rows(parkedLog, account, { limit: MAX_PARKED }));
    const arrivals: (Arrival & { readonly n: number })[] = [];
    const done: number[] = [];
    for (const { n, value } of rows) {
      const info = inspectEnvelope(crypto, value.envelope);
      const heard = isReject(info) ? undefined : this.#topics.get(info.topic);
      if (heard && !isReject(info)) arrivals.push({ heard, info, bytes: value.envelope, n });
      else done.push(n);
    }
    const refusals = await this.#attempt(account, arrivals);
    let progress = false;
    for (const [i, { n }] of arrivals.entries()) {
      const refused = refusals[i];
      if (refused && NOT_YET.has(refused.code)) continue;
      if (refused) this.#count(refused);
      else progress = true;
      done.push(n);
    }
    if (done.length > 0) {
      await this.#directs.locked(account, async (tx) => {
        for (const n of done) tx.deleteAt(parkedLog, account, n);
      });
    }
    this.#parked.set(account, rows.length - done.length);
    return progress;
  }

  #count(refused: Reject): void {
    this.rejects.set(refused.code, (this.rejects.get(refused.code) ?? 0) + 1);
  }
}
