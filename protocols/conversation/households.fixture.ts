/**
 * For this folder's tests: two accounts of two devices each that run the shipping steps, with an outbox a device and a network
 * between them that loses, repeats, reorders and delays, all from one seed. What goes to an account's inbox reaches all its
 * devices; what goes on a topic reaches every device that hears the topic when it arrives.
 */
import { equalBytes, toHex } from "#protocols/base/bytes.ts";
import { encode } from "#protocols/base/codec.ts";
import type { AccountId, DeviceId, EventId, InboxId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { type Body, directConversationId, type Event } from "#protocols/content/content.ts";
import { listenPeriods, periodAt } from "#protocols/envelope/envelope.ts";
import { seededRandom } from "#protocols/handshake/device-kit.ts";
import {
  createPrekeys,
  encodeBundle,
  makeBundle,
  type PrekeyStore,
  prekeyStoreSchema,
} from "#protocols/handshake/handshake.ts";
import { accountId, createDevice, type DeviceKeys, type DeviceList } from "#protocols/identity/identity.ts";
import { relation, type Relation } from "./contact.ts";
import {
  answer,
  authorOf,
  type Direct,
  directSchema,
  type DirectState,
  type Effect,
  introduce,
  introducedContact,
  missingReceipts,
  type OpenInvite,
  type Profile,
  receive,
  redeem,
  say,
  seal,
  sendReceipt,
  type Step,
  type StepEnv,
  unanswered,
} from "./direct.ts";
import { decodeInvite, encodeInvite, type Invite, MAX_INVITE_LIFETIME_MS } from "./invite.ts";
import { decodePayload } from "./message.ts";
import { type DevicePair, newPair, pairSchema } from "./pair.ts";
import { writingRoot } from "./roots.ts";

/** 2026-01-01. */
export const START = 1_767_225_600_000;
export const MINUTE_MS = 60_000;
export const HOUR_MS = 60 * MINUTE_MS;
export const DAY_MS = 24 * HOUR_MS;

export const crypto = synchronousSuite();

export function must<T>(value: OrReject<T>): T {
  assert(!isReject(value), isReject(value) ? value.code : "");
  return value;
}

/** Why it was refused; a test that expects a refusal fails when there is none. */
export function codeOf(value: unknown): string {
  return isReject(value) ? value.code : "not refused";
}

export type Held = {
  readonly id: EventId;
  readonly index: number;
  readonly devices: readonly DeviceId[];
  readonly bytes: Uint8Array;
};

type Account = {
  readonly id: AccountId;
  readonly rootSeed: Uint8Array;
  readonly inbox: { readonly id: InboxId; readonly sealKey: Uint8Array };
};

/** Where a payload goes: an account's inbox, or the topic of a root and period. */
export type Route = { readonly inbox: AccountId } | { readonly rootHash: Uint8Array; readonly period: number };
export type Packet = {
  readonly payload: Uint8Array;
  readonly route: Route;
  readonly from: DeviceId;
  readonly event: EventId | undefined;
};

/** Everything one device keeps. */
export class Device {
  readonly name: string;
  readonly account: Account;
  readonly keys: DeviceKeys;
  readonly env: StepEnv & { now: number };
  list: DeviceList;
  pairs = new Map<DeviceId, DevicePair>();
  prekeys: PrekeyStore;
  invites: readonly OpenInvite[] = [];
  directs = new Map<AccountId, Direct>();
  outbox = new Map<AccountId, Held[]>();
  /** Every event recorded, in order; one id twice is a broken promise. */
  log: { readonly id: EventId; readonly event: Event; readonly bytes: Uint8Array }[] = [];
  receiptDue = new Set<AccountId>();
  rejects: string[] = [];
  /** What has left since it was last collected. */
  sent: Packet[] = [];

  constructor(
    name: string,
    account: Account,
    keys: DeviceKeys,
    prekeys: PrekeyStore,
    random: StepEnv["random"],
    suite: CryptoSuite,
  ) {
    this.name = name;
    this.account = account;
    this.keys = keys;
    this.prekeys = prekeys;
    this.list = { account: account.id, certificates: [keys.certificate], revocations: [] };
    let sequence = 0;
    this.env = { now: START, random, crypto: suite, nextSequence: () => ++sequence };
  }

  get id(): DeviceId {
    return this.keys.certificate.device;
  }

  get self() {
    return { account: this.account.id, keys: this.keys, list: this.list };
  }

  get profile(): Profile {
    const inbox = this.account.inbox;
    return {
      name: this.name,
      relays: ["/dns4/relay.example/tcp/443"],
      inbox,
      directory: { id: toHex(inbox.sealKey), sealKey: inbox.sealKey },
    };
  }

  direct(contact: AccountId): Direct {
    const direct = this.directs.get(contact);
    assert(direct !== undefined, "the conversation exists");
    return direct;
  }

  relation(contact: AccountId): Relation {
    const direct = this.directs.get(contact);
    return direct ? relation(direct.requests, this.account.id, this.env.now) : "none";
  }

  state(contact: AccountId): DirectState {
    const { self, profile, prekeys, invites } = this;
    return { self, profile, direct: this.directs.get(contact), pairs: new Map(this.pairs), prekeys, invites };
  }

  /** Stored encodings of everything a step could have changed. */
  snapshot(contact: AccountId): string {
    const direct = this.directs.get(contact);
    const pairs = [...this.pairs.values()].map((pair) => toHex(encode(pairSchema, pair)));
    return [
      direct ? toHex(encode(directSchema, direct)) : "",
      ...pairs,
      toHex(encode(prekeyStoreSchema, this.prekeys)),
    ].join();
  }

  commit(contact: AccountId, step: Step): readonly Effect[] {
    const { state, effects } = step;
    assert(state.direct !== undefined, "a step leaves a conversation");
    // Whatever a step leaves can be stored: a limit that is passed would throw here.
    encode(directSchema, state.direct);
    this.directs.set(contact, state.direct);
    for (const [id, pair] of state.pairs) {
      if (this.pairs.get(id) !== pair) encode(pairSchema, pair);
    }
    this.pairs = new Map(state.pairs);
    if (state.prekeys) this.prekeys = state.prekeys;
    if (state.invites) this.invites = state.invites;
    for (const effect of effects) this.#act(contact, effect);
    return effects;
  }

  #act(contact: AccountId, effect: Effect): void {
    const direct = this.direct(contact);
    if (effect.type === "record") {
      assert(!this.log.some(({ id }) => id === effect.id), `${this.name} knows an event once`);
      this.log.push({ id: effect.id, event: effect.event, bytes: effect.bytes });
      this.#bytes.set(effect.id, effect.bytes);
    }
    if (effect.type === "hold") {
      const { id, index, devices } = effect;
      this.outbox.set(contact, [
        ...(this.outbox.get(contact) ?? []),
        { id, index, devices, bytes: this.#bytes.get(id)! },
      ]);
    }
    if (effect.type === "receipt-due") this.receiptDue.add(contact);
    if (effect.type === "receipted") this.#settle(contact);
    if (effect.type === "introduce") {
      this.#send({ payload: effect.payload, route: { inbox: this.account.id }, event: undefined });
    }
    if (effect.type !== "transmit") return;
    const { payload, id } = effect;
    if (unanswered(direct)) this.#send({ payload, route: { inbox: contact }, event: id });
    const writing = writingRoot(direct.roots);
    if (writing === undefined) return;
    const { chain } = writing;
    this.#send({ payload, route: { rootHash: chain.rootHash, period: periodAt(chain, this.env.now) }, event: id });
  }

  readonly #bytes = new Map<EventId, Uint8Array>();

  #send(packet: Omit<Packet, "from">): void {
    this.sent.push({ ...packet, from: this.id });
  }

  #settle(contact: AccountId): void {
    const direct = this.direct(contact);
    const rows = this.outbox.get(contact) ?? [];
    this.outbox.set(
      contact,
      rows.filter(({ index, devices }) => missingReceipts(direct, this.id, index, devices).length > 0),
    );
  }

  hears(contact: AccountId, route: Route): boolean {
    if ("inbox" in route) return route.inbox === this.account.id;
    const { rootHash, period } = route;
    return (this.directs.get(contact)?.roots ?? []).some(
      ({ chain }) => equalBytes(chain.rootHash, rootHash) && listenPeriods(chain, this.env.now).includes(period),
    );
  }

  /** Takes in one packet that reached it. @returns Undefined when it cannot hear it. */
  async take(packet: Packet): Promise<OrReject<readonly Effect[]> | undefined> {
    const payload = must(decodePayload(packet.payload));
    if ("inbox" in packet.route) {
      if (packet.route.inbox !== this.account.id) return undefined;
      const introduced = await introducedContact(
        { self: this.self, pairs: this.pairs, prekeys: this.prekeys },
        payload,
        this.env,
      );
      const author = introduced ?? (await authorOf(this.self, payload, this.prekeys, this.env));
      if (isReject(author)) return author;
      return this.#receive(typeof author === "string" ? author : author.account, packet, true);
    }
    const contact = [...this.directs.keys()].find((account) => this.hears(account, packet.route));
    return contact === undefined ? undefined : this.#receive(contact, packet, false);
  }

  async #receive(contact: AccountId, packet: Packet, viaInbox: boolean): Promise<OrReject<readonly Effect[]>> {
    const payload = must(decodePayload(packet.payload));
    const step = await receive(this.state(contact), { payload, viaInbox }, this.env);
    if (isReject(step)) {
      this.rejects.push(step.code);
      return step;
    }
    return this.commit(contact, step);
  }

  async redeem(link: string): Promise<OrReject<readonly Effect[]>> {
    const invite = await decodeInvite(this.env.crypto, link, this.env.now);
    if (isReject(invite)) return invite;
    const conversation = directConversationId(this.env.crypto, this.account.id, invite.account);
    const step = await redeem(this.state(invite.account), { invite, conversation }, this.env);
    return isReject(step) ? step : this.commit(invite.account, step);
  }

  async answer(
    contact: AccountId,
    choice: "accepted" | "declined" | "withdrawn",
  ): Promise<OrReject<readonly Effect[]>> {
    const step = await answer(this.state(contact), choice, this.env);
    return isReject(step) ? step : this.commit(contact, step);
  }

  async say(contact: AccountId, body: Body | string): Promise<readonly Effect[]> {
    const said: Body = typeof body === "string" ? { type: "message", text: body } : body;
    return this.commit(contact, await say(this.state(contact), said, this.env));
  }

  async receipt(contact: AccountId): Promise<void> {
    this.receiptDue.delete(contact);
    this.commit(contact, await sendReceipt(this.state(contact), this.env));
  }

  /** Seals anew what some device still owes a receipt for. */
  async offerAgain(contact: AccountId): Promise<void> {
    for (const { id, index, devices, bytes } of this.outbox.get(contact) ?? []) {
      const only = missingReceipts(this.direct(contact), this.id, index, devices);
      this.commit(contact, await seal(this.state(contact), { id, bytes, ephemeral: false, only }, this.env));
    }
    this.commit(contact, await introduce(this.state(contact), this.env));
  }

  async invite(
    options: { readonly uses?: number; readonly oneTime?: boolean; readonly change?: Partial<Invite> } = {},
  ): Promise<string> {
    const { env } = this;
    const { uses = 1, oneTime = uses === 1 } = options;
    const inviteId = env.random(16);
    const capability = env.random(32);
    const expiresAt = env.now + MAX_INVITE_LIFETIME_MS;
    const purpose = { invite: toHex(inviteId), expiresAt };
    const made = must(await makeBundle(this.prekeys, { purpose, oneTime }, env));
    this.prekeys = made.store;
    this.invites = [...this.invites, { inviteId, capability, uses, usedBy: [], expiresAt }];
    return encodeInvite(env.crypto, this.keys, {
      version: 1,
      account: this.account.id,
      name: this.name,
      list: this.list,
      inviteId,
      bundle: encodeBundle(made.bundle),
      inbox: this.account.inbox.id,
      inboxSealKey: this.account.inbox.sealKey,
      capability,
      relays: this.profile.relays,
      uses,
      expiresAt,
      ...options.change,
    });
  }

  /** Gives `other`, a device of the same account, what it needs to start a session with this one. */
  async meet(other: Device): Promise<void> {
    const made = must(await makeBundle(this.prekeys, { purpose: "directory", oneTime: false }, this.env));
    this.prekeys = made.store;
    other.pairs.set(this.id, { ...newPair(this.account.id, this.id), bundle: encodeBundle(made.bundle) });
  }

  /** As it was, with randomness of its own from here on: for runs that start alike. */
  clone(random: StepEnv["random"]): Device {
    const copy = new Device(this.name, this.account, this.keys, this.prekeys, random, this.env.crypto);
    copy.list = this.list;
    copy.pairs = new Map(this.pairs);
    copy.directs = new Map(this.directs);
    copy.invites = this.invites;
    copy.env.now = this.env.now;
    return copy;
  }
}

export async function makeAccount(random: StepEnv["random"], suite = crypto): Promise<Account> {
  const rootSeed = random(32);
  return {
    id: await accountId(suite, rootSeed),
    rootSeed,
    inbox: { id: toHex(random(32)) as InboxId, sealKey: random(32) },
  };
}

export async function makeDevice(
  name: string,
  account: Account,
  random: StepEnv["random"],
  suite = crypto,
): Promise<Device> {
  const env = { now: START, random, crypto: suite };
  const keys = await createDevice(env, account.rootSeed);
  return new Device(name, account, keys, await createPrekeys(env, keys), random, suite);
}

/** An account with devices that know each other. */
export async function makeHousehold(
  name: string,
  count: number,
  seed: string,
  suite = crypto,
): Promise<readonly Device[]> {
  const random = seededRandom(suite, seed);
  const account = await makeAccount(random, suite);
  const devices: Device[] = [];
  for (let i = 1; i <= count; i++) devices.push(await makeDevice(`${name}${i}`, account, random, suite));
  const certificates = devices.map(({ keys }) => keys.certificate).toSorted((a, b) => (a.device < b.device ? -1 : 1));
  for (const device of devices) device.list = { account: account.id, certificates, revocations: [] };
  for (const device of devices) for (const other of devices) if (other !== device) await device.meet(other);
  return devices;
}
