/**
 * Direct conversations: how requests, sessions, receipts and topics fit. Old state and an input go in, new state and effects
 * come out; nothing here reads a clock, draws randomness of its own or stores anything. The driver commits the state and
 * what the effects write in one batch, and only then lets a `transmit` out.
 *
 * Invariants
 *  - Nothing of a message counts before its wrap, commitment, content tag, event id and author have all been checked.
 *  - (device, index) names an indexed event; a second arrival changes no history and asks for a receipt again.
 *  - What is indexed is held until every addressed device has receipted it; what is not is repeated by rules of its own.
 *  - The relation of two people is computed from facts (contact.ts), so both sides end in the same one.
 *
 * Spec: ./SPEC.md CV1-CV93.
 */
import { equalBytes } from "#protocols/base/bytes.ts";
import { bytes, encode, id, type Infer, list, optional, struct, text, uint } from "#protocols/base/codec.ts";
import type { AccountId, ConversationId, DeviceId, EventId, InboxId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject, type Reject, reject } from "#protocols/base/reject.ts";
import type { Env } from "#protocols/base/suite.ts";
import {
  type Body,
  type BodyOf,
  clipReceipt,
  covers,
  directConversationId,
  encodeEvent,
  type Event,
  eventId,
  hasRead,
  hlcSchema,
  isEphemeral,
  isIndexed,
  MAX_PARENTS,
  MAX_RELAYS,
  mergeReceipts,
  nameSchema,
  receive as receiveClock,
  receiptOf,
  type Receipts,
  storedReceiptsSchema,
  tick,
  trimReceipt,
  withIndex,
} from "#protocols/content/content.ts";
import type { ConversationRoot } from "#protocols/envelope/envelope.ts";
import {
  decodeBundle,
  encodeBundle,
  initHint,
  makeBundle,
  type PrekeyStore,
  respond,
} from "#protocols/handshake/handshake.ts";
import {
  acceptsFrom,
  type DeviceCertificate,
  type DeviceList,
  deviceListSchema,
  liveDevices,
  mergeDeviceLists,
  verifyDeviceList,
} from "#protocols/identity/identity.ts";
import { openRequest, relation, type Relation, requestsSchema, withRequest } from "./contact.ts";
import { fittingBundles, INTRODUCE_REPEAT_MS, introductionOf, introductionSchema } from "./introduction.ts";
import { addressesSchema, type Invite, redemptionProof } from "./invite.ts";
import {
  type DirectPayload,
  type Introduced,
  type Opened,
  openPayload,
  type Pairs,
  renewedPair,
  sealEvent,
  type Self,
  shortListHash,
} from "./message.ts";
import { type DevicePair, newPair, withInviteBundle } from "./pair.ts";
import { answerOffer, dueOffer, finishOffer } from "./rekey.ts";
import {
  acceptableRoot,
  activateRoots,
  adoptRoot,
  advanceRoots,
  mergeRoots,
  rootDue,
  rootsSchema,
  writingRoot,
} from "./roots.ts";

/** Devices of both sides whose receipts are kept: eight live ones each, and those that were revoked meanwhile. */
const MAX_RECEIPT_SENDERS = 32;

/** Ranges kept per author device: eight windows of a sender (512) in which every other event was lost (CV37). */
const MAX_KEPT_RANGES = 4_096;

/** A contact whose idea of our devices is old is told at most this often (CV36). */
const LIST_REPEAT_MS = 3_600_000;

const inboxSchema = struct({ id: id<InboxId>(), sealKey: bytes(32) });

/** Where a request goes until somebody there has answered anything. */
const redemptionSchema = struct({
  inbox: inboxSchema,
  capability: bytes(32),
  /** Ours for this redemption, so that mailboxes count its repeats once. */
  redeemer: bytes(32),
  relays: addressesSchema,
  expiresAt: uint(),
});
export type Redemption = Infer<typeof redemptionSchema>;

export const directSchema = struct({
  contact: id<AccountId>(),
  conversation: id<ConversationId>(),
  addedAt: uint(),
  name: nameSchema,
  nickname: optional(nameSchema),
  requests: requestsSchema,
  devices: deviceListSchema,
  relays: addressesSchema,
  inbox: optional(inboxSchema),
  directory: optional(struct({ id: text(64), sealKey: bytes(32) })),
  redemption: optional(redemptionSchema),
  roots: rootsSchema,
  clock: hlcSchema,
  heads: list(id<EventId>(), MAX_PARENTS),
  /** Indexed events of this device so far. */
  lastIndex: uint(),
  /** What this device has received of every other device, and how far it was read. */
  received: storedReceiptsSchema,
  /** What other devices say that they have received of each device. */
  receipts: list(struct({ from: id<DeviceId>(), devices: storedReceiptsSchema }), MAX_RECEIPT_SENDERS),
  /** When we last told them our device list. */
  listSentAt: uint(),
  /** When we last introduced this conversation to devices of our own. */
  introducedAt: uint(),
});
export type Direct = Infer<typeof directSchema>;

/** What one's own account tells a contact. */
export type Profile = {
  readonly name: string;
  readonly relays: readonly string[];
  readonly inbox: { readonly id: InboxId; readonly sealKey: Uint8Array };
  readonly directory: { readonly id: string; readonly sealKey: Uint8Array };
};

/** An invite of ours that is still open. */
export const openInviteSchema = struct({
  inviteId: bytes(16),
  capability: bytes(32),
  uses: uint(),
  usedBy: list(id<AccountId>(), 1000),
  expiresAt: uint(),
});
export type OpenInvite = Infer<typeof openInviteSchema>;

export type DirectState = {
  readonly self: Self;
  readonly profile: Profile;
  readonly direct: Direct | undefined;
  readonly pairs: Pairs;
  /** Loaded when the input can need them: a request, an answer, a payload with initial messages. */
  readonly prekeys?: PrekeyStore;
  /** Loaded for what comes through the inbox. */
  readonly invites?: readonly OpenInvite[];
};

export type StepEnv = Env & { readonly nextSequence: () => number };

export type Effect =
  /** An event to keep: ours or theirs. */
  | { readonly type: "record"; readonly id: EventId; readonly event: Event; readonly bytes: Uint8Array }
  /** Ours: keep offering it until each of `devices` has receipted it. */
  | { readonly type: "hold"; readonly id: EventId; readonly index: number; readonly devices: readonly DeviceId[] }
  | { readonly type: "transmit"; readonly id: EventId; readonly payload: Uint8Array; readonly ephemeral: boolean }
  /** For our own account's inbox: devices of ours learn of this conversation (CV50). */
  | { readonly type: "introduce"; readonly payload: Uint8Array }
  /** These devices have neither a session with us nor prekeys that we know. */
  | { readonly type: "fetch-prekeys"; readonly devices: readonly DeviceId[] }
  /** Something arrived that its author wants receipted. */
  | { readonly type: "receipt-due" }
  /** Their receipts moved: held rows can go, states of messages change. */
  | { readonly type: "receipted" }
  | { readonly type: "relation"; readonly relation: Relation }
  | { readonly type: "presence"; readonly device: DeviceId; readonly body: BodyOf<"presence"> }
  | { readonly type: "typing"; readonly active: boolean };

export type Step = { readonly state: DirectState; readonly effects: readonly Effect[] };

function withPair(state: DirectState, pair: DevicePair): DirectState {
  return { ...state, pairs: new Map(state.pairs).set(pair.device, pair) };
}

function withPairs(state: DirectState, moved: Pairs): DirectState {
  return moved.size === 0 ? state : { ...state, pairs: new Map([...state.pairs, ...moved]) };
}

/** All devices a message of this conversation is for. */
export function recipientsOf(self: Self, direct: Direct): readonly DeviceCertificate[] {
  const own = liveDevices(self.list).filter(({ device }) => device !== self.keys.certificate.device);
  return [...liveDevices(direct.devices), ...own];
}

/** Of a message of ours, what receipts prove: the furthest that any device of the contact has come. */
export function deliveryOf(
  direct: Direct,
  event: { readonly device: DeviceId; readonly index: number },
): "none" | "delivered" | "read" {
  const theirs = new Set(direct.devices.certificates.map(({ device }) => device));
  let best: "none" | "delivered" = "none";
  for (const { from, devices } of direct.receipts) {
    if (!theirs.has(from)) continue;
    if (hasRead(devices, event.device, event.index)) return "read";
    if (covers(devices, event.device, event.index)) best = "delivered";
  }
  return best;
}

/** Devices that still owe a receipt for an event of this device. */
export function missingReceipts(
  direct: Direct,
  self: DeviceId,
  index: number,
  devices: readonly DeviceId[],
): readonly DeviceId[] {
  return devices.filter((device) => {
    const known = direct.receipts.find(({ from }) => from === device);
    return known === undefined || !covers(known.devices, self, index);
  });
}

/** The last event of this device that anybody has receipted, 0 for none. */
export function highestReceipted(direct: Direct, self: DeviceId): number {
  let highest = 0;
  for (const { devices } of direct.receipts) {
    const entry = devices.find(({ device }) => device === self);
    if (entry) highest = Math.max(highest, entry.delivered, entry.ranges.at(-1)?.to ?? 0);
  }
  return highest;
}

/** Of this device's events, the last one that a device of the contact has read; 0 for none. */
export function highestRead(direct: Direct, self: DeviceId): number {
  let highest = 0;
  for (const { from, devices } of direct.receipts) {
    const entry = isTheirs(direct, from) ? devices.find(({ device }) => device === self) : undefined;
    highest = Math.max(highest, entry?.read ?? 0);
  }
  return highest;
}

/** Nobody there has answered anything yet, so what we write goes to the inbox too (CV52). */
export function unanswered(direct: Direct): boolean {
  return direct.redemption !== undefined && direct.receipts.every(({ from }) => !isTheirs(direct, from));
}

function isTheirs(direct: Direct, device: DeviceId): boolean {
  return direct.devices.certificates.some((certificate) => certificate.device === device);
}

/** Writes an event of ours into the state; sealing comes next. */
function compose(
  state: DirectState,
  direct: Direct,
  body: Body,
  env: StepEnv,
): { readonly direct: Direct; readonly event: Event; readonly bytes: Uint8Array; readonly id: EventId } {
  const indexed = isIndexed(body);
  const time = tick(direct.clock, env.now);
  const event: Event = {
    version: 1,
    conversation: direct.conversation,
    author: state.self.account,
    device: state.self.keys.certificate.device,
    sequence: env.nextSequence(),
    index: indexed ? direct.lastIndex + 1 : 0,
    time,
    parents: indexed ? direct.heads : [],
    body,
  };
  const encoded = encodeEvent(event);
  const newId = eventId(env.crypto, encoded);
  const moved = indexed ? { clock: time, lastIndex: event.index, heads: [newId] } : { clock: time };
  return { direct: { ...direct, ...moved }, event, bytes: encoded, id: newId };
}

/**
 * Seals an event of ours (a new one, or one that is offered again) for those of its devices that can be reached.
 * @param options.only - Restricts the recipients: who still owes a receipt, or the one device a control event is for.
 */
export async function seal(
  state: DirectState,
  options: {
    readonly id: EventId;
    readonly bytes: Uint8Array;
    readonly ephemeral: boolean;
    readonly only?: readonly DeviceId[];
  },
  env: Env,
): Promise<Step> {
  const { self, direct } = state;
  assert(direct !== undefined, "the conversation exists");
  const recipients = recipientsOf(self, direct).filter(({ device }) => options.only?.includes(device) ?? true);
  const sealed = await sealEvent(
    {
      self,
      peerList: direct.devices,
      conversation: direct.conversation,
      eventId: options.id,
      event: options.bytes,
      recipients,
      pairs: state.pairs,
    },
    env,
  );
  const effects: Effect[] = [];
  if (sealed.payload) {
    effects.push({ type: "transmit", id: options.id, payload: sealed.payload, ephemeral: options.ephemeral });
  }
  if (sealed.unreachable.length > 0) effects.push({ type: "fetch-prekeys", devices: sealed.unreachable });
  const moved = withPairs(state, sealed.pairs);
  const ownToo = recipients.some(({ account }) => account === self.account);
  if (options.ephemeral || !ownToo) return { state: moved, effects };
  return chain({ state: moved, effects }, (now) => introduce(now, env));
}

/**
 * CV57: a device of ours that has not receipted what brought the root we write on may not hear us. Goes with what is sealed for
 * own devices; to be called besides whenever held events are offered again, because the one who knows may have nothing to say.
 * @returns No effects when all of them hear us, or when it is too soon.
 */
export async function introduce(state: DirectState, env: Env): Promise<Step> {
  const { self, direct } = state;
  assert(direct !== undefined, "the conversation exists");
  const brought = writingRoot(direct.roots)?.broughtBy;
  const silent = recipientsOf(self, direct).filter(({ account, device }) => {
    if (account !== self.account || device === brought?.device) return false;
    const known = direct.receipts.find(({ from }) => from === device)?.devices;
    return known === undefined || (brought !== undefined && !covers(known, brought.device, brought.index));
  });
  const { introducedAt } = direct;
  const recently = env.now >= introducedAt && env.now < introducedAt + INTRODUCE_REPEAT_MS;
  if (silent.length === 0 || recently) return { state, effects: [] };
  const encoded = encode(introductionSchema, introductionOf(direct, state.pairs));
  const sealed = await sealEvent(
    {
      kind: "introduction",
      self,
      peerList: self.list,
      conversation: directConversationId(env.crypto, self.account, self.account),
      eventId: eventId(env.crypto, encoded),
      event: encoded,
      recipients: silent,
      pairs: state.pairs,
    },
    env,
  );
  if (sealed.payload === undefined) return { state, effects: [] };
  const next = withPairs({ ...state, direct: { ...direct, introducedAt: env.now } }, sealed.pairs);
  return { state: next, effects: [{ type: "introduce", payload: sealed.payload }] };
}

type PostOptions = {
  /** For control events that concern one device. */
  readonly only?: readonly DeviceId[];
  /** Hold without sealing: it goes when what waits before it has gone. */
  readonly later?: boolean;
};

/** Writes, seals and holds one event. */
async function post(state: DirectState, body: Body, env: StepEnv, options: PostOptions = {}): Promise<Step> {
  assert(state.direct !== undefined, "the conversation exists");
  const composed = compose(state, state.direct, body, env);
  const { id: newId, bytes: encoded, event } = composed;
  const next = { ...state, direct: composed.direct };
  const { only } = options;
  const sealed: Step =
    options.later === true && event.index > 0
      ? { state: next, effects: [] }
      : await seal(next, { id: newId, bytes: encoded, ephemeral: isEphemeral(body), ...(only && { only }) }, env);
  const effects: Effect[] = [];
  if (event.index > 0) {
    const devices = recipientsOf(state.self, composed.direct).map(({ device }) => device);
    effects.push({ type: "record", id: newId, event, bytes: encoded });
    effects.push({ type: "hold", id: newId, index: event.index, devices });
  }
  return { state: sealed.state, effects: [...effects, ...sealed.effects] };
}

/** Runs steps one after the other and joins their effects. */
async function chain(first: Step, ...more: readonly ((state: DirectState) => Promise<Step>)[]): Promise<Step> {
  let { state } = first;
  const effects = [...first.effects];
  for (const step of more) {
    const done = await step(state);
    state = done.state;
    effects.push(...done.effects);
  }
  return { state, effects };
}

/**
 * Posts what the user or the peer has to say, then what has come due with it: offers of the post-quantum rekey, a new root.
 * @param options.later - Record and hold it, but seal it only when it is offered (`seal`): others wait before it.
 */
export async function say(
  state: DirectState,
  body: Body,
  env: StepEnv,
  options: { readonly later?: boolean } = {},
): Promise<Step> {
  const posted = await post(state, body, env, options);
  if (options.later === true) return posted;
  return chain(
    posted,
    (state) => offerRekeys(state, env),
    (state) => replaceRoot(state, env),
  );
}

async function offerRekeys(state: DirectState, env: StepEnv): Promise<Step> {
  let result: Step = { state, effects: [] };
  for (const pair of state.pairs.values()) {
    const offered = await dueOffer(pair, env);
    if (offered === undefined) continue;
    const body: Body = { type: "rekeyOffer", session: offered.handshakeHash, offer: offered.offer };
    result = await chain(result, (now) => post(withPair(now, offered.pair), body, env, { only: [pair.device] }));
  }
  return result;
}

/** CV74: weekly, and when a device has gone that knows the old one. The old root stays heard. */
async function replaceRoot(state: DirectState, env: StepEnv): Promise<Step> {
  const { direct } = state;
  if (direct === undefined) return { state, effects: [] };
  const gone = [...state.self.list.revocations, ...direct.devices.revocations].map(({ revokedAt }) => revokedAt);
  const revokedAt = Math.max(0, ...gone.filter((at) => at <= env.now));
  if (!rootDue(direct.roots, env.now, revokedAt)) return { state, effects: [] };
  const root = nextRoot(direct, env);
  return withProposal(await post(state, { type: "rootChange", root }, env), root, env);
}

function nextRoot(direct: Direct, env: Env): ConversationRoot {
  const version = (writingRoot(direct.roots)?.chain.version ?? -1) + 1;
  return { version, secret: env.random(32), createdAt: env.now };
}

/** The root that the event just posted proposes. */
function withProposal(posted: Step, root: ConversationRoot, env: Env): Step {
  const { direct, self } = posted.state;
  assert(direct !== undefined, "posting keeps the conversation");
  const { lastIndex } = direct;
  const broughtBy = { device: self.keys.certificate.device, index: lastIndex };
  const roots = adoptRoot(env.crypto, direct.roots, { root, proposedIn: lastIndex, broughtBy }, env.now);
  return { ...posted, state: { ...posted.state, direct: { ...direct, roots } } };
}

/** The facts that a request and its acceptance carry: all the other side needs to write back, to each device. */
async function facts(state: DirectState, env: Env) {
  assert(state.prekeys !== undefined, "prekeys are loaded");
  const oneTime = await makeBundle(state.prekeys, { purpose: "directory", oneTime: true }, env);
  const made = isReject(oneTime)
    ? await makeBundle(state.prekeys, { purpose: "directory", oneTime: false }, env)
    : oneTime;
  assert(!isReject(made), "a last-resort bundle can always be made");
  const { self, profile } = state;
  const bundles = fittingBundles(self.list, [encodeBundle(made.bundle), ...bundlesOfOthers(state)]);
  return {
    state: { ...state, prekeys: made.store },
    facts: { ...profile, list: self.list, bundles },
  };
}

/** Prekeys of our own other devices, as they gave them to us. */
function bundlesOfOthers({ self, pairs }: DirectState): readonly Uint8Array[] {
  const bundles = liveDevices(self.list).map(({ device }) => pairs.get(device)?.bundle);
  return bundles.filter((bundle) => bundle !== undefined);
}

function currentRelation(state: DirectState, now: number): Relation {
  return state.direct ? relation(state.direct.requests, state.self.account, now) : "none";
}

/** Adds the effect that tells of a new relation, if it is one. */
function telling(before: Relation, done: Step, now: number): Step {
  const after = currentRelation(done.state, now);
  return before === after ? done : { ...done, effects: [...done.effects, { type: "relation", relation: after }] };
}

/**
 * Redeems an invite: asks its maker to be a contact. Asking again what is asked, or who is a contact already, changes nothing
 * but where the request is offered.
 * @param conversation - The direct conversation of both accounts.
 */
export async function redeem(
  state: DirectState,
  options: { readonly invite: Invite; readonly conversation: ConversationId },
  env: StepEnv,
): Promise<OrReject<Step>> {
  const { invite } = options;
  const before = currentRelation(state, env.now);
  if (invite.account === state.self.account) return reject("invite/own");
  const known = state.direct;
  const devices = known ? mergeDeviceLists(known.devices, invite.list) : invite.list;
  if (isReject(devices)) return devices;
  const redemption: Redemption = {
    inbox: { id: invite.inbox, sealKey: invite.inboxSealKey },
    capability: invite.capability,
    redeemer:
      known?.redemption && equalBytes(known.redemption.capability, invite.capability)
        ? known.redemption.redeemer
        : env.random(32),
    relays: invite.relays,
    expiresAt: invite.expiresAt,
  };
  const base: Direct = known
    ? { ...known, devices, redemption }
    : newDirect(
        { contact: invite.account, conversation: options.conversation, name: invite.name, devices, redemption },
        env,
      );
  const bundle = decodeBundle(invite.bundle);
  if (isReject(bundle)) return bundle;
  const pair = state.pairs.get(bundle.certificate.device) ?? newPair(invite.account, bundle.certificate.device);
  if (pair.account !== invite.account) return reject("conversation/not-their-device");
  const ready = withPair({ ...state, direct: base }, withInviteBundle(pair, invite.bundle));

  if (before === "accepted" || before === "requested") return { state: ready, effects: [] };
  if (before === "incoming") return telling(before, await answerWith(ready, "accepted", env), env.now);
  const made = await facts(ready, env);
  const root = nextRoot(base, env);
  const request: Body = {
    type: "contactRequest",
    ...made.facts,
    root,
    inviteId: invite.inviteId,
    inviteProof: redemptionProof(env.crypto, invite, state.self.account),
  };
  const posted = withProposal(await post(made.state, request, env), root, env);
  return telling(before, withListSent(withOwnRequest(posted), env), env.now);
}

/** The request just posted becomes a fact. */
function withOwnRequest(posted: Step): Step {
  const recorded = posted.effects.find((effect) => effect.type === "record");
  const { direct, self } = posted.state;
  assert(recorded !== undefined && direct !== undefined, "a request is recorded");
  const fact = { event: recorded.id, from: self.account, at: recorded.event.time.wall, answer: "open" } as const;
  return {
    ...posted,
    state: { ...posted.state, direct: { ...direct, requests: withRequest(direct.requests, fact) } },
  };
}

function newDirect(
  options: Pick<Direct, "contact" | "conversation" | "name" | "devices"> & { readonly redemption?: Redemption },
  env: Env,
): Direct {
  return {
    ...options,
    addedAt: env.now,
    requests: [],
    relays: [],
    roots: [],
    clock: { wall: 0, counter: 0 },
    heads: [],
    lastIndex: 0,
    received: [],
    receipts: [],
    listSentAt: 0,
    introducedAt: 0,
  };
}

/** Answers their open request, or takes back our own. @returns Reject `conversation/no-request` when there is none. */
export async function answer(
  state: DirectState,
  choice: "accepted" | "declined" | "withdrawn",
  env: StepEnv,
): Promise<OrReject<Step>> {
  const { direct, self } = state;
  const asked = direct && openRequest(direct.requests, choice === "withdrawn" ? self.account : direct.contact);
  if (asked === undefined) return reject("conversation/no-request");
  const before = currentRelation(state, env.now);
  return telling(before, await answerWith(state, choice, env), env.now);
}

async function answerWith(
  state: DirectState,
  choice: "accepted" | "declined" | "withdrawn",
  env: StepEnv,
): Promise<Step> {
  const { direct, self } = state;
  assert(direct !== undefined, "the conversation exists");
  const asked = openRequest(direct.requests, choice === "withdrawn" ? self.account : direct.contact);
  assert(asked !== undefined, "there is a request to answer");
  const answered: DirectState = {
    ...state,
    direct: { ...direct, requests: withRequest(direct.requests, { ...asked, answer: choice }) },
  };
  if (choice === "declined") return post(answered, { type: "contactDecline", request: asked.event }, env);
  if (choice === "withdrawn") return post(answered, { type: "contactWithdraw", request: asked.event }, env);
  const made = await facts(answered, env);
  const accept = { type: "contactAccept", request: asked.event, ...made.facts } as const;
  const known = writingRoot(direct.roots)?.root;
  if (known) return withListSent(await post(made.state, { ...accept, root: known }, env), env);
  // What came with the request was forgotten with its first period (EN2): whoever answers late brings a new one (CV75).
  const root = nextRoot(direct, env);
  return withListSent(withProposal(await post(made.state, { ...accept, root }, env), root, env), env);
}

/** What was just posted carries our device list. */
function withListSent(posted: Step, env: Env): Step {
  assert(posted.state.direct !== undefined, "posting keeps the conversation");
  return { ...posted, state: { ...posted.state, direct: { ...posted.state.direct, listSentAt: env.now } } };
}

/** Tells what this device has received and read. Not indexed: a lost one is made good by the next. */
export async function sendReceipt(state: DirectState, env: StepEnv): Promise<Step> {
  assert(state.direct !== undefined, "the conversation exists");
  const live = new Set(recipientsOf(state.self, state.direct).map(({ device }) => device));
  return post(state, { type: "receipt", devices: receiptToSend(state.direct.received, live) }, env);
}

/** CV33: of those that can still be told. There are at most 15, so one receipt names them all. */
function receiptToSend(received: Receipts, live: ReadonlySet<DeviceId>): Receipts {
  return received.filter(({ device }) => live.has(device)).map((entry) => trimReceipt(entry));
}

/**
 * Forgets the periods that are over. Only when the mailboxes have been read to their end: what lies there unread on an older
 * topic could never be opened again (EN4).
 */
export function forgetPeriods(state: DirectState, env: Env): Step {
  const { direct } = state;
  assert(direct !== undefined, "the conversation exists");
  const roots = advanceRoots(env.crypto, direct.roots, env.now);
  return { state: roots === direct.roots ? state : { ...state, direct: { ...direct, roots } }, effects: [] };
}

/** Marks everything received of `device` up to `index` as read. */
export function markRead(direct: Direct, device: DeviceId, index: number): Direct {
  const received = mergeReceipts(direct.received, [{ device, delivered: 0, ranges: [], read: index }]);
  return { ...direct, received };
}

/**
 * Takes in one payload.
 * @param options.viaInbox - It came as first contact; else on a topic of this conversation.
 * @returns A reject changes nothing; codes in SPEC.md.
 */
export async function receive(
  state: DirectState,
  options: { readonly payload: DirectPayload; readonly viaInbox: boolean },
  env: StepEnv,
): Promise<OrReject<Step>> {
  const conversation = options.viaInbox ? undefined : state.direct?.conversation;
  const opened = await openPayload(
    { self: state.self, payload: options.payload, pairs: state.pairs, prekeys: state.prekeys, conversation },
    env,
  );
  if (isReject(opened)) return (await renewed(state, options.payload, opened, env)) ?? opened;
  if ("introduction" in opened) return takeIntroduction(state, opened, env);
  const before = currentRelation(state, env.now);
  const admitted = await admit(state, opened, env);
  if (isReject(admitted)) return admitted;
  const moved: DirectState = {
    ...withPair(admitted, opened.pair),
    ...(opened.prekeys && { prekeys: opened.prekeys }),
  };
  const done = await take(moved, opened, env);
  if (isReject(done)) return done;
  return telling(before, await chain(done, (now) => answerOldList(now, opened, env)), env.now);
}

/** CV84: a session whose ends have parted is replaced, and the other side told of it by a receipt on the new one. */
async function renewed(
  state: DirectState,
  payload: DirectPayload,
  refused: Reject,
  env: StepEnv,
): Promise<Step | undefined> {
  const { self, direct, pairs } = state;
  if (refused.code !== "ratchet/unknown-rekey" || direct === undefined) return undefined;
  const pair = await renewedPair({ self, peerList: direct.devices, payload, pairs }, env);
  if (pair === undefined) return undefined;
  return sendReceipt(withPair(state, pair), env);
}

/** CV36: their message shows that they do not know all our devices, or of a revocation. */
async function answerOldList(state: DirectState, opened: Opened, env: StepEnv): Promise<Step> {
  const { self } = state;
  const direct = state.direct!;
  const current = equalBytes(opened.listHashes.peer, shortListHash(env.crypto, self.list));
  const told = env.now >= direct.listSentAt && env.now < direct.listSentAt + LIST_REPEAT_MS;
  if (opened.event.author === self.account || current || told) return { state, effects: [] };
  if (currentRelation(state, env.now) !== "accepted") return { state, effects: [] };
  return withListSent(await post(state, { type: "deviceList", list: self.list }, env), env);
}

/** CV54: what another device of ours says of a conversation. It brings no history and no relation: events do. */
async function takeIntroduction(state: DirectState, opened: Introduced, env: Env): Promise<OrReject<Step>> {
  const { self, direct } = state;
  const { introduction } = opened;
  const { contact, name, bundles } = introduction;
  if (!liveDevices(self.list).some(({ device }) => device === opened.pair.device)) {
    return reject("conversation/unknown-device");
  }
  if (contact === self.account || contact !== introduction.devices.account || (direct && direct.contact !== contact)) {
    return reject("conversation/wrong-contact");
  }
  const verified = await verifyDeviceList(env.crypto, introduction.devices, direct?.devices);
  if (isReject(verified)) return verified;
  const devices = direct ? mergeDeviceLists(direct.devices, verified) : verified;
  if (isReject(devices)) return devices;
  const conversation = directConversationId(env.crypto, self.account, contact);
  const base = direct ?? newDirect({ contact, conversation, name, devices }, env);
  const roots = mergeRoots(base.roots, introduction.roots, env.now);
  const moved: DirectState = {
    ...withPair({ ...state, direct: { ...base, devices, roots } }, opened.pair),
    ...(opened.prekeys && { prekeys: opened.prekeys }),
  };
  return { state: withBundles(moved, contact, bundles), effects: [{ type: "receipt-due" }] };
}

/**
 * Whose conversation an introduction speaks of, so that the caller can load and lock it before `receive`. Changes nothing.
 * @returns Undefined when the payload is not an introduction of ours.
 */
export async function introducedContact(
  state: Pick<DirectState, "self" | "pairs" | "prekeys">,
  payload: DirectPayload,
  env: Env,
): Promise<AccountId | undefined> {
  const { self, pairs, prekeys } = state;
  const opened = await openPayload({ self, payload, pairs, prekeys, conversation: undefined }, env);
  return !isReject(opened) && "introduction" in opened ? opened.introduction.contact : undefined;
}

/**
 * Who wrote a payload that came as first contact, from its initial messages: so that the caller can load and lock what belongs
 * to that person before `receive`. Changes nothing.
 */
export async function authorOf(
  self: Self,
  payload: DirectPayload,
  prekeys: PrekeyStore,
  env: Env,
): Promise<OrReject<DeviceCertificate>> {
  let refused: OrReject<DeviceCertificate> = reject("conversation/not-for-me");
  for (const init of payload.inits) {
    if (!initHint(prekeys, init)) continue;
    const answered = await respond({ self: self.keys, store: prekeys, init }, env);
    if (!isReject(answered)) return answered.remote;
    refused = answered;
  }
  return refused;
}

/** Is the author somebody we hear, with a device that is theirs? Makes the conversation when this is a request. */
async function admit(state: DirectState, opened: Opened, env: Env): Promise<OrReject<DirectState>> {
  const { event } = opened;
  const { body } = event;
  const own = event.author === state.self.account;
  if (own) return judged(state.self.list, event) ?? (state.direct ? state : reject("conversation/unknown-contact"));
  // They can certify a key of ours, but it does not speak for them (CV15).
  if (state.self.list.certificates.some(({ device }) => device === event.device)) {
    return reject("conversation/not-their-device");
  }
  if (state.direct && event.author !== state.direct.contact) return reject("conversation/wrong-author");
  if (!state.direct && body.type !== "contactRequest") return reject("conversation/unknown-contact");

  let devices = state.direct?.devices;
  // A list inside the event is taken before its device is judged: a new device brings its own certificate (CV35).
  if (body.type === "contactRequest" || body.type === "contactAccept" || body.type === "deviceList") {
    const verified = await verifyDeviceList(env.crypto, body.list, devices);
    if (isReject(verified)) return verified;
    const merged = devices ? mergeDeviceLists(devices, verified) : verified;
    if (isReject(merged)) return merged;
    devices = merged;
  }
  assert(devices !== undefined, "a known contact has a device list");
  const refused = judged(devices, event);
  if (refused) return refused;
  if (state.direct) return { ...state, direct: { ...state.direct, devices } };
  assert(body.type === "contactRequest", "only a request makes a conversation");
  const direct = newDirect({ contact: event.author, conversation: event.conversation, name: body.name, devices }, env);
  return { ...state, direct };
}

/** CV34: why nothing of this device counts, or not any more. */
function judged(devices: DeviceList, event: Event): Reject | undefined {
  if (acceptsFrom(devices, event)) return undefined;
  const listed = devices.certificates.some(({ device }) => device === event.device);
  return reject(listed ? "conversation/revoked-device" : "conversation/unknown-device");
}

/** Notes the arrival, then lets the body act. */
async function take(state: DirectState, opened: Opened, env: StepEnv): Promise<OrReject<Step>> {
  const { event } = opened;
  const { direct } = state;
  assert(direct !== undefined, "the author was admitted");
  if (event.index > 0 && covers(direct.received, event.device, event.index)) {
    return { state, effects: [{ type: "receipt-due" }] };
  }
  const heard: Direct = {
    ...direct,
    clock: receiveClock(direct.clock, event.time, env.now),
  };
  if (event.index === 0) return act({ state: { ...state, direct: heard }, effects: [] }, opened, env);

  const known = heard.received.find(({ device }) => device === event.device) ?? receiptOf(event.device, []);
  const indices = withIndex(known, event.index);
  if (indices.ranges.length > MAX_KEPT_RANGES) return reject("conversation/too-many-gaps");
  const parents = new Set(event.parents);
  const heads = [...heard.heads.filter((head) => !parents.has(head)), opened.eventId].toSorted().slice(-MAX_PARENTS);
  const noted: Direct = { ...heard, heads, received: mergeReceipts(heard.received, [indices]) };
  const effects: Effect[] = [
    { type: "record", id: opened.eventId, event, bytes: opened.bytes },
    { type: "receipt-due" },
  ];
  return act({ state: { ...state, direct: noted }, effects }, opened, env);
}

async function act(done: Step, opened: Opened, env: StepEnv): Promise<OrReject<Step>> {
  const { body } = opened.event;
  const { state } = done;
  const direct = state.direct!;
  const also = (effect: Effect): Step => ({ ...done, effects: [...done.effects, effect] });
  const becoming = (change: Partial<Direct>): Step => ({
    ...done,
    state: { ...state, direct: { ...direct, ...change } },
  });
  switch (body.type) {
    case "message": {
      const now = currentRelation(state, env.now);
      return now === "accepted" || now === "requested" ? done : reject("conversation/not-accepted");
    }
    case "receipt":
      return takeReceipt(state, opened, body, env);
    case "contactRequest":
      return takeRequest(done, opened, body, env);
    case "contactAccept": {
      const facts = takeFacts(state, opened, body, env);
      return isReject(facts) ? facts : withAnswer({ ...done, state: facts }, opened, "accepted");
    }
    case "contactDecline":
      return withAnswer(done, opened, "declined");
    case "contactWithdraw":
      return withAnswer(done, opened, "withdrawn");
    case "rootChange": {
      const roots = withTheirRoot(state, opened, body.root, env);
      return isReject(roots) ? roots : becoming({ roots });
    }
    case "relays": {
      if (opened.event.author !== direct.contact) return done;
      const kept = direct.relays.filter((relay) => !body.remove.includes(relay) && !body.add.includes(relay));
      return becoming({ relays: [...body.add, ...kept].slice(0, MAX_RELAYS) });
    }
    case "profile":
      return opened.event.author === direct.contact ? becoming({ name: body.name }) : done;
    case "prekeys":
      return { ...done, state: withBundles(state, opened.event.author, body.bundles) };
    case "rekeyOffer": {
      const answered = await answerOffer(opened.pair, body, env);
      if (isReject(answered)) return answered;
      const reply: Body = { type: "rekeyAnswer", session: body.session, answer: answered.answer };
      return chain({ ...done, state: withPair(state, answered.pair) }, (now) =>
        post(now, reply, env, { only: [opened.pair.device] }),
      );
    }
    case "rekeyAnswer": {
      const finished = await finishOffer(opened.pair, body, env);
      return isReject(finished) ? finished : { ...done, state: withPair(state, finished) };
    }
    case "presence":
      return also({ type: "presence", device: opened.event.device, body });
    case "typing":
      return also({ type: "typing", active: body.active });
    case "deviceList": // taken by admit
    case "instance": // the peer compares instances of its own devices
      return done;
  }
}

/** CV73: a contact listens on the root it sends; one from a device of ours is a proposal until they have receipted it. */
function withTheirRoot(
  state: DirectState,
  opened: Opened,
  sent: ConversationRoot,
  env: Env,
): OrReject<Direct["roots"]> {
  const { roots } = state.direct!;
  const root = acceptableRoot(roots, sent, { now: env.now });
  if (isReject(root)) return root;
  const { author, device, index } = opened.event;
  const proposedIn = author === state.self.account ? index : 0;
  return adoptRoot(env.crypto, roots, { root, proposedIn, broughtBy: { device, index } }, env.now);
}

/** What a request or an acceptance tells of its author. */
function takeFacts(
  state: DirectState,
  opened: Opened,
  body: BodyOf<"contactRequest"> | BodyOf<"contactAccept">,
  env: Env,
): OrReject<DirectState> {
  const direct = state.direct!;
  const roots = withTheirRoot(state, opened, body.root, env);
  if (isReject(roots)) return roots;
  const theirs =
    opened.event.author === direct.contact
      ? { name: body.name, relays: body.relays, inbox: body.inbox, directory: body.directory }
      : {};
  return withBundles({ ...state, direct: { ...direct, roots, ...theirs } }, opened.event.author, body.bundles);
}

/** Prekeys for devices that stand in the author's list; others are ignored. `initiate` verifies a bundle when it is used. */
function withBundles(state: DirectState, author: AccountId, bundles: readonly Uint8Array[]): DirectState {
  const listed = author === state.self.account ? state.self.list : state.direct!.devices;
  const live = new Set(liveDevices(listed).map(({ device }) => device));
  let next = state;
  for (const encoded of bundles) {
    const bundle = decodeBundle(encoded);
    if (isReject(bundle) || bundle.certificate.account !== author || !live.has(bundle.certificate.device)) continue;
    const { device } = bundle.certificate;
    if (device === state.self.keys.certificate.device) continue;
    const pair = next.pairs.get(device) ?? newPair(author, device);
    if (pair.account === author) next = withPair(next, { ...pair, bundle: encoded });
  }
  return next;
}

async function takeRequest(
  done: Step,
  opened: Opened,
  body: BodyOf<"contactRequest">,
  env: StepEnv,
): Promise<OrReject<Step>> {
  const state = takeFacts(done.state, opened, body, env);
  if (isReject(state)) return state;
  const direct = state.direct!;
  const { author, time } = opened.event;
  const fact = { event: opened.eventId, from: author, at: time.wall, answer: "open" } as const;
  const asked: DirectState = { ...state, direct: { ...direct, requests: withRequest(direct.requests, fact) } };
  const invited = author === direct.contact ? claimInvite(asked, author, body, env) : undefined;
  if (isReject(invited)) return invited;
  if (currentRelation(asked, env.now) !== "incoming") return { ...done, state: invited ?? asked };
  if (invited === undefined) {
    const bundles = fittingBundles(state.self.list, bundlesOfOthers(asked));
    if (bundles.length === 0) return { ...done, state: asked };
    // CV56: until it is answered they could not reach our other devices, on which it may be answered.
    return chain({ ...done, state: asked }, (now) => post(now, { type: "prekeys", bundles }, env));
  }
  return chain({ ...done, state: invited }, (now) => answerWith(now, "accepted", env));
}

/** CV65: the request names an open invite of ours and proves that its link was seen: it is accepted before it is asked. */
function claimInvite(
  state: DirectState,
  author: AccountId,
  body: BodyOf<"contactRequest">,
  env: Env,
): OrReject<DirectState | undefined> {
  const { inviteId, inviteProof } = body;
  if (inviteId === undefined) return undefined;
  const invite = state.invites?.find((open) => equalBytes(open.inviteId, inviteId));
  if (invite === undefined || env.now >= invite.expiresAt) return undefined;
  if (inviteProof === undefined || !equalBytes(redemptionProof(env.crypto, invite, author), inviteProof)) {
    return reject("conversation/bad-invite-proof");
  }
  if (invite.usedBy.includes(author)) return state;
  // Beyond its uses an invite brings a request that waits for the person, it does not vanish.
  if (invite.usedBy.length >= invite.uses) return undefined;
  const claimed = { ...invite, usedBy: [...invite.usedBy, author] };
  return { ...state, invites: state.invites!.map((open) => (open === invite ? claimed : open)) };
}

/** An answer counts only from the side that can give it: the asked one accepts and declines, the asker withdraws. */
function withAnswer(done: Step, opened: Opened, choice: "accepted" | "declined" | "withdrawn"): OrReject<Step> {
  const { body, author } = opened.event;
  assert(
    body.type === "contactAccept" || body.type === "contactDecline" || body.type === "contactWithdraw",
    "an answer",
  );
  const direct = done.state.direct!;
  const request = direct.requests.find(({ event }) => event === body.request);
  // It may overtake the request it answers: then it is offered again, because it was not receipted.
  if (request === undefined) return reject("conversation/unknown-request");
  if ((request.from === author) !== (choice === "withdrawn")) return reject("conversation/not-yours-to-answer");
  const requests = withRequest(direct.requests, { ...request, answer: choice });
  return { ...done, state: { ...done.state, direct: { ...direct, requests } } };
}

function takeReceipt(state: DirectState, opened: Opened, body: BodyOf<"receipt">, env: Env): Step {
  const direct = state.direct!;
  const self = state.self.keys.certificate.device;
  // What they say of our own events ends at what we have written; of our other devices' we cannot know (CO34). Devices that
  // nobody has are nobody's.
  const listed = new Set(
    [...state.self.list.certificates, ...direct.devices.certificates].map((entry) => entry.device),
  );
  const said = body.devices
    .filter((entry) => listed.has(entry.device))
    .map((entry) => (entry.device === self ? clipReceipt(entry, direct.lastIndex) : entry));
  const { device } = opened.event;
  const known = direct.receipts.find(({ from }) => from === device)?.devices ?? [];
  const others = direct.receipts.filter(({ from }) => from !== device);
  const devices = mergeReceipts(known, said).map((entry) => ({
    ...entry,
    ranges: entry.ranges.slice(0, MAX_KEPT_RANGES),
  }));
  const receipts = [{ from: device, devices }, ...others].slice(0, MAX_RECEIPT_SENDERS);
  const receipted = (by: DeviceId, index: number): boolean => covers(devices, by, index);
  const roots = isTheirs(direct, device) ? activateRoots(direct.roots, receipted, env.now) : direct.roots;
  return { state: { ...state, direct: { ...direct, receipts, roots } }, effects: [{ type: "receipted" }] };
}
