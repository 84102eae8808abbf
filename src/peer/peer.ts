/**
 * One peer: the parts put together behind the face. Data travels one way each:
 *
 *   send:     face -> Directs.step -> disk -> Delivery -> gossip, mailboxes, inbox
 *   receive:  gossip, mailboxes, inbox -> Inbound -> Directs.step -> disk -> face, Receipts
 *
 * Topics says what is heard, Mailboxes where, Links whom we are connected to.
 */
import type { AccountId, ConversationId, EventId } from "#protocols/base/ids.ts";
import { isReject } from "#protocols/base/reject.ts";
import { relation } from "#protocols/conversation/contact.ts";
import {
  answer,
  type Direct,
  forgetPeriods,
  highestRead,
  markRead,
  redeem,
  say,
} from "#protocols/conversation/direct.ts";
import { decodeInvite } from "#protocols/conversation/invite.ts";
import { isAddress, isMessageText, MAX_RELAYS, MAX_TEXT_BYTES } from "#protocols/content/content.ts";
import { Failure } from "#src/runtime/failure.ts";
import { Delivery } from "./delivery.ts";
import { type Outcome, type Recorded, Directs } from "./directs.ts";
import type { Contact, Conversation, Message, Peer, PeerEvent, Status } from "./face.ts";
import { Inbound } from "./inbound.ts";
import { Invites } from "./invites.ts";
import { Links } from "./links.ts";
import { linkFailure, refusalOf } from "./invite-failures.ts";
import { Mailboxes } from "./mailboxes.ts";
import { newestOrdered } from "./order.ts";
import { Prekeys } from "./prekeys.ts";
import { Push } from "./push.ts";
import { ReceiptSchedule } from "./receipts.ts";
import { pairTable, prekeysTable, summaryTable } from "./tables.ts";
import { Topics } from "./topics.ts";
import { MAX_MESSAGES, storedEvent, Views } from "./views.ts";
import type { World } from "./world.ts";

/** Messages of one call without a limit. */
const DEFAULT_MESSAGES = 50;

/** A typing notice says "typing" for some seconds; more of them say no more. */
const TYPING_QUIET_MS = 3_000;

/** Unread messages counted when something is marked read; beyond it the count stays at this. */
const MAX_COUNTED = MAX_MESSAGES;

export class RunningPeer implements Peer {
  readonly #world: World;
  readonly #listeners: Set<(event: PeerEvent) => void>;
  readonly #directs: Directs;
  readonly #topics: Topics;
  readonly #mailboxes: Mailboxes;
  readonly #inbound: Inbound;
  readonly #delivery: Delivery;
  readonly #push: Push;
  readonly #receipts: ReceiptSchedule;
  readonly #links: Links;
  readonly #invites: Invites;
  readonly #prekeys: Prekeys;
  readonly #views: Views;
  readonly #typingAt = new Map<ConversationId, number>();
  /** Contacts that were sent a receipt in this life. */
  readonly #receiptedOnce = new Set<AccountId>();
  #closed: Promise<void> | undefined;
  #stopStoreWatch: () => void = () => {};

  constructor(world: Omit<World, "tell" | "now">) {
    this.#listeners = new Set();
    this.#world = { ...world, tell: (event) => this.#tell(event), now: () => this.#mailboxes.now() };
    this.#directs = new Directs(this.#world, {
      prepare: (outcome) => this.#delivery.prepare(outcome),
      outbound: (outcome) => this.#committed(outcome),
    });
    this.#topics = new Topics(this.#world, (account, { left }) => {
      this.#mailboxes.drop(left);
      void this.#guard(this.#carry(account));
    });
    this.#inbound = new Inbound(this.#world, this.#directs, this.#topics);
    this.#prekeys = new Prekeys(this.#world, this.#directs);
    this.#mailboxes = new Mailboxes(this.#world, {
      envelopes: (batch) => this.#inbound.envelopes(batch),
      deposits: (batch) => this.#inbound.deposits(batch),
      seen: (id) => this.#inbound.seen(id),
      custody: (mailbox, ids, until) => this.#delivery.noteCustody(mailbox, ids, until),
      refused: (_mailbox, _id, code) => this.#tell({ type: "warning", code, message: "A relay refused an envelope." }),
      opened: (address) => void this.#guard(this.#mailboxOpened(address)),
      closed: (address) => this.#mailboxClosed(address),
      reached: (account) => this.#pathOpened(account),
    });
    const parts = { directs: this.#directs, topics: this.#topics, mailboxes: this.#mailboxes };
    this.#push = new Push(this.#world, {
      admit: (peer) => this.#links.isContact(peer),
      take: (batch) => this.#inbound.envelopes(batch),
    });
    this.#delivery = new Delivery(this.#world, { ...parts, inbound: this.#inbound, push: this.#push });
    this.#links = new Links(this.#world, parts, (account) => this.#delivery.pathOpened(account));
    this.#receipts = new ReceiptSchedule(this.#world, this.#directs, (account) => this.#links.knows(account));
    this.#invites = new Invites(this.#world);
    this.#views = new Views(this.#world, (id) => this.#delivery.custody(id));
  }

  get account() {
    return this.#world.identity.account;
  }

  get device() {
    return this.#world.identity.device;
  }

  async #storeReopened(): Promise<void> {
    for (const [account, { settled, recorded }] of await this.#directs.reload()) {
      await this.#inbound.reload(account);
      this.#delivery.settledUnseen(settled);
      const direct = await this.#directs.get(account);
      if (direct === undefined || this.#closed) continue;
      this.#tellMessages(direct, recorded);
      if (recorded.some(({ own }) => !own)) this.#receipts.due(account);
      await this.#routesChanged(direct);
      this.#delivery.offer(account);
    }
  }

  /** From the disk to the network: what is stored is there before anything is dialled. */
  async start(): Promise<void> {
    const { network, driver } = this.#world;
    const directs = await this.#directs.load();
    await this.#inbound.load(directs.map(({ contact }) => contact));
    network.gossip.onEnvelope((topic, envelope, from) => this.#inbound.validate(topic, envelope, from));
    this.#stopStoreWatch = driver.onState((state) => {
      if (state === "open") void this.#guard(this.#storeReopened());
    });
    this.#links.start();
    await this.#prekeys.upkeep();
    for (const direct of directs) await this.#topics.refresh(direct);
    this.#mailboxes.setOwn(this.#world.identity.relays);
    this.#topics.start(() => void this.#guard(this.#turn()));
  }

  /** Hourly: periods turn, prekeys rotate, and the space of spent secrets is given back. */
  async #turn(): Promise<void> {
    await this.#world.driver.compact([pairTable, prekeysTable]);
    if (await this.#prekeys.upkeep()) this.#mailboxes.ownOpen().forEach((client) => this.#prekeys.publish(client));
    for (const direct of await this.#directs.all()) {
      if (this.#mailboxes.caughtUp(direct.contact)) {
        await this.#directs.step(direct.contact, {}, async (state, env) => forgetPeriods(state, env));
      }
      await this.#topics.refresh(direct);
    }
  }

  async #carry(account: AccountId): Promise<void> {
    const direct = await this.#directs.get(account);
    if (direct && !this.#closed) this.#mailboxes.carry(direct, this.#topics.of(account));
  }

  async #mailboxOpened(address: string): Promise<void> {
    const client = this.#mailboxes.client(address);
    if (client === undefined) return;
    if (this.#mailboxes.own.includes(address)) {
      client.openInbox(this.#world.identity.inbox);
      for (const grant of await this.#invites.grants()) await client.grant(grant);
      this.#prekeys.publish(client);
    }
    for (const account of this.#mailboxes.usersOf(address)) this.#pathOpened(account);
  }

  #mailboxClosed(address: string): void {
    for (const account of this.#mailboxes.usersOf(address)) this.#links.refresh(account);
  }

  #pathOpened(account: AccountId): void {
    this.#links.refresh(account);
    this.#links.tell(account);
    this.#delivery.pathOpened(account);
    if (this.#receiptedOnce.has(account)) return;
    // We may have died between a commit and its receipt: the first thing a contact hears is what we have of theirs.
    this.#receiptedOnce.add(account);
    this.#receipts.due(account);
  }

  #tell(event: PeerEvent): void {
    if (this.#closed) return;
    for (const listener of this.#listeners) listener(event);
  }

  /** A step is on the disk: everything that follows from it starts here. */
  #committed(outcome: Outcome): void {
    const { account, direct, effects, recorded, settled } = outcome;
    this.#delivery.committed(outcome);
    this.#tellMessages(direct, recorded);
    for (const effect of effects) {
      if (effect.type === "receipt-due") this.#receipts.due(account);
      else if (effect.type === "receipted") void this.#guard(this.#tellRead(outcome.before, direct));
      else if (effect.type === "typing" && effect.active) {
        this.#tell({ type: "typing", conversation: direct.conversation, account });
      } else if (effect.type === "presence") this.#links.presence(account, effect.device, effect.body);
      else if (effect.type === "fetch-prekeys") void this.#guard(this.#fetchPrekeys(account, direct));
      else if (effect.type === "relation") {
        this.#tell({ type: "contact", contact: this.#views.contact(direct) });
        if (effect.relation === "accepted") this.#links.tell(account);
      }
    }
    if (outcome.routesChanged) void this.#guard(this.#routesChanged(direct));
    if (settled.length > 0) this.#links.refresh(account);
  }

  #tellMessages(direct: Direct, recorded: readonly Recorded[]): void {
    for (const { id, event } of recorded) {
      if (event.body.type !== "message") continue;
      this.#tell({ type: "message", message: this.#views.message(direct, id, event) });
    }
  }

  /** Messages of ours that became read with the last receipt, newest first. */
  async #tellRead(before: Direct | undefined, direct: Direct): Promise<void> {
    const from = before ? highestRead(before, this.device) : 0;
    const to = highestRead(direct, this.device);
    if (to <= from) return;
    const { conversation } = direct;
    const messages = await this.#world.driver.read((tx) => this.#views.own(tx, direct, { from, to }));
    for (const id of messages) this.#tell({ type: "message-state", conversation, id, state: "read" });
  }

  async #routesChanged(direct: Direct): Promise<void> {
    if (this.#closed) return;
    await this.#topics.refresh(direct);
    this.#mailboxes.carry(direct, this.#topics.of(direct.contact));
    this.#links.refresh(direct.contact);
  }

  async #fetchPrekeys(account: AccountId, direct: Direct): Promise<void> {
    if (await this.#prekeys.fetch(direct, this.#mailboxes.openFor(direct))) this.#delivery.offer(account);
  }

  async #guard(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      // Whoever asked for this has been answered; a failing store or network is told and tried again by its owner.
      if (!(error instanceof Failure)) throw error;
      this.#tell({ type: "warning", code: error.code, message: error.message });
    }
  }

  async status(): Promise<Status> {
    const directs = await this.#directs.all();
    return {
      account: this.account,
      device: this.device,
      name: this.#world.identity.profile.name,
      addresses: this.#world.network.addresses(),
      relays: this.#mailboxes.list(),
      conversations: directs.map(({ contact, conversation }) => ({ conversation, path: this.#links.path(contact) })),
      outbox: this.#directs.heldCount(),
      parked: this.#inbound.parkedCount(),
    };
  }

  async createInvite(options: { readonly uses?: number; readonly expiresInMs?: number } = {}) {
    const { link, grant } = await this.#invites.create(options);
    // A mailbox that is not there now is told when it opens; the link is good from then on.
    await Promise.all(this.#mailboxes.ownOpen().map((client) => client.grant(grant)));
    return { link };
  }

  async readInvite(link: string) {
    const { account, name, expiresAt } = await this.#invite(link);
    return { account, name, expiresAt };
  }

  async #invite(link: string) {
    const invite = await decodeInvite(this.#world.crypto, link, this.#world.now());
    if (isReject(invite)) throw linkFailure(invite.code);
    return invite;
  }

  async connect(link: string, options: { readonly waitMs?: number } = {}): Promise<Contact> {
    const invite = await this.#invite(link);
    const conversation = this.#directs.conversationWith(invite.account);
    const step = await this.#directs.step(invite.account, { prekeys: true }, (state, env) =>
      redeem(state, { invite, conversation }, env),
    );
    if (isReject(step)) throw linkFailure(step.code);
    await this.#routesChanged(step);
    this.#delivery.pathOpened(invite.account);
    if ((options.waitMs ?? 0) > 0) await this.#answered(invite.account, options.waitMs ?? 0);
    const contact = await this.#contact(invite.account);
    const refused = refusalOf(this.#delivery.depositFailure(invite.account));
    if (contact.state === "requested" && refused) throw refused;
    if (contact.state === "requested" && (options.waitMs ?? 0) > 0 && !(await this.#handedOn(invite.account))) {
      const message = "No relay of this invite can be reached. The request is kept and goes out when one is.";
      throw new Failure("net/unreachable", message, { retryable: true });
    }
    return contact;
  }

  /** Whether a mailbox has our request, or is there to take it. */
  async #handedOn(account: AccountId): Promise<boolean> {
    const held = [...this.#directs.heldFor(account).values()].some(({ id }) => this.#delivery.custody(id));
    const direct = await this.#directs.get(account);
    return held || direct === undefined || this.#mailboxes.isOpen(direct);
  }

  /** Resolves when the relation is no longer open, when a mailbox refused it for good, or after `waitMs`. */
  #answered(account: AccountId, waitMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const done = (): void => {
        cancel();
        stop();
        resolve();
      };
      const look = (): void => {
        this.#contact(account).then(({ state }) => {
          if (state !== "requested" || this.#delivery.depositFailure(account)) done();
        }, reject);
      };
      const cancel = this.#world.clock.after(waitMs, done);
      const stop = this.watch((event) => {
        if (event.type === "contact" || event.type === "warning") look();
      });
      look();
    });
  }

  async #contact(account: AccountId): Promise<Contact> {
    const direct = await this.#directs.get(account);
    if (direct === undefined) throw new Failure("contact/unknown", "There is no such contact.");
    return this.#views.contact(direct);
  }

  async contacts(): Promise<readonly Contact[]> {
    return (await this.#directs.all()).map((direct) => this.#views.contact(direct));
  }

  accept(account: AccountId): Promise<Contact> {
    return this.#answer(account, "accepted");
  }

  decline(account: AccountId): Promise<Contact> {
    return this.#answer(account, "declined");
  }

  withdraw(account: AccountId): Promise<Contact> {
    return this.#answer(account, "withdrawn");
  }

  async #answer(account: AccountId, choice: "accepted" | "declined" | "withdrawn"): Promise<Contact> {
    const step = await this.#directs.step(account, { prekeys: true }, (state, env) => answer(state, choice, env));
    if (isReject(step)) throw new Failure(step.code, "There is no open request to answer.");
    return this.#views.contact(step);
  }

  async conversations(): Promise<readonly Conversation[]> {
    const directs = await this.#directs.all();
    return this.#world.driver.read((tx) => Promise.all(directs.map((direct) => this.#views.conversation(tx, direct))));
  }

  #accountOf(conversation: ConversationId): AccountId {
    const account = this.#directs.accountOf(conversation);
    if (account === undefined) throw new Failure("conversation/unknown", "There is no such conversation.");
    return account;
  }

  async send(conversation: ConversationId, message: { readonly text: string; readonly replyTo?: EventId }) {
    const account = this.#accountOf(conversation);
    if (!isMessageText(message.text)) {
      throw new Failure("message/bad-text", `A message has 1 to ${MAX_TEXT_BYTES} bytes and no control characters.`);
    }
    const body = { type: "message", ...message } as const;
    let id: EventId | undefined;
    const step = await this.#directs.step(account, {}, async (state, env) => {
      const { direct } = state;
      const open = direct && relation(direct.requests, this.account, env.now) === "accepted";
      if (!open) return { type: "reject", code: "conversation/not-accepted" };
      const done = await say(state, body, env, { later: !this.#delivery.ready(account, direct) });
      id = done.effects.find((effect) => effect.type === "record")?.id;
      return done;
    });
    if (isReject(step) || id === undefined) {
      throw new Failure("conversation/not-accepted", "You can write once you are contacts.");
    }
    return { id, state: "queued" as const };
  }

  async messages(
    conversation: ConversationId,
    options: { readonly limit?: number; readonly before?: EventId } = {},
  ): Promise<readonly Message[]> {
    const direct = await this.#directs.get(this.#accountOf(conversation));
    if (direct === undefined) return [];
    const { limit = DEFAULT_MESSAGES, before } = options;
    return this.#world.driver.read((tx) => this.#views.messages(tx, direct, { limit, ...(before && { before }) }));
  }

  async markRead(conversation: ConversationId, upTo: EventId): Promise<void> {
    const account = this.#accountOf(conversation);
    await this.#directs.step(account, {}, async (state, _env, tx) => {
      const event = await this.#views.event(tx, conversation, upTo);
      if (state.direct === undefined || event === undefined) return { type: "reject", code: "message/unknown" };
      let direct = state.direct;
      const newer = await newestOrdered(tx, conversation, { limit: MAX_COUNTED });
      let unread = 0;
      let reached = false;
      for (const entry of newer) {
        const { id, event: other } = await storedEvent(tx, conversation, entry.row);
        reached ||= id === upTo;
        if (other.author === this.account) continue;
        if (reached) direct = markRead(direct, other.device, other.index);
        else unread++;
        if (reached && other.device === event.device) break;
      }
      const summary = await tx.get(summaryTable, conversation);
      tx.put(summaryTable, conversation, { ...summary, unread });
      return { state: { ...state, direct }, effects: direct === state.direct ? [] : [{ type: "receipt-due" }] };
    });
  }

  async typing(conversation: ConversationId): Promise<void> {
    const account = this.#accountOf(conversation);
    const now = this.#world.clock.monotonic();
    if (now < (this.#typingAt.get(conversation) ?? Number.NEGATIVE_INFINITY) + TYPING_QUIET_MS) return;
    this.#typingAt.set(conversation, now);
    await this.#directs.step(account, {}, async (state, env) => {
      const open = state.direct && relation(state.direct.requests, this.account, env.now) === "accepted";
      return open
        ? say(state, { type: "typing", active: true }, env)
        : { type: "reject", code: "conversation/not-accepted" };
    });
  }

  async addRelay(address: string): Promise<void> {
    const relays = this.#world.identity.relays;
    if (!isAddress(address))
      throw new Failure("relay/bad-address", "A relay's address is a multiaddr with its /p2p part.");
    if (relays.includes(address)) return;
    if (relays.length >= MAX_RELAYS) throw new Failure("relay/too-many", `At most ${MAX_RELAYS} relays of one's own.`);
    await this.#setRelays([...relays, address], { add: [address], remove: [] });
  }

  async removeRelay(address: string): Promise<void> {
    const relays = this.#world.identity.relays;
    if (!relays.includes(address)) throw new Failure("relay/unknown", "This is no relay of yours.");
    await this.#setRelays(
      relays.filter((other) => other !== address),
      { add: [], remove: [address] },
    );
  }

  /** Contacts are told, so that they deposit where we listen. */
  async #setRelays(
    relays: readonly string[],
    change: { readonly add: readonly string[]; readonly remove: readonly string[] },
  ): Promise<void> {
    await this.#world.identity.setRelays(relays);
    this.#mailboxes.setOwn(relays);
    for (const direct of await this.#directs.all()) {
      if (relation(direct.requests, this.account, this.#world.now()) === "accepted") {
        await this.#directs.step(direct.contact, {}, (state, env) => say(state, { type: "relays", ...change }, env));
      }
      await this.#carry(direct.contact);
    }
  }

  watch(listener: (event: PeerEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#stopStoreWatch();
    this.#delivery.stop();
    this.#push.stop();
    this.#receipts.stop();
    this.#links.stop();
    this.#prekeys.stop();
    this.#topics.stop();
    this.#mailboxes.stop();
    await this.#world.network.stop();
    await this.#world.driver.close();
  }
}
