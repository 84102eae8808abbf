/**
 * What this device writes: composed, sealed for whoever can be reached, held; and what comes due with it: introductions of the
 * conversation to our other devices, offers of the rekey, a new root. Spec: ./SPEC.md CV5-CV7, CV57, CV73-CV76, CV81.
 */
import { encode } from "#protocols/base/codec.ts";
import type { DeviceId, EventId } from "#protocols/base/ids.ts";
import { assert } from "#protocols/base/reject.ts";
import type { Env } from "#protocols/base/suite.ts";
import {
  type Body,
  covers,
  directConversationId,
  encodeEvent,
  type Event,
  eventId,
  isEphemeral,
  isIndexed,
  tick,
} from "#protocols/content/content.ts";
import type { ConversationRoot } from "#protocols/envelope/envelope.ts";
import { INTRODUCE_REPEAT_MS, introductionOf, introductionSchema } from "./introduction.ts";
import { sealEvent } from "./message.ts";
import { receiptToSend } from "./receipts.ts";
import { dueOffer } from "./rekey.ts";
import { adoptRoot, advanceRoots, rootDue, writingRoot } from "./roots.ts";
import {
  chain,
  type Direct,
  type DirectState,
  type Effect,
  recipientsOf,
  type Step,
  type StepEnv,
  withPair,
  withPairs,
} from "./state.ts";

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

type PostOptions = {
  /** For control events that concern one device. */
  readonly only?: readonly DeviceId[];
  /** Hold without sealing: it goes when what waits before it has gone. */
  readonly later?: boolean;
};

/** Writes, seals and holds one event. */
export async function post(state: DirectState, body: Body, env: StepEnv, options: PostOptions = {}): Promise<Step> {
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

/** Tells what this device has received and read. Not indexed: a lost one is made good by the next. */
export async function sendReceipt(state: DirectState, env: StepEnv): Promise<Step> {
  assert(state.direct !== undefined, "the conversation exists");
  const live = new Set(recipientsOf(state.self, state.direct).map(({ device }) => device));
  return post(state, { type: "receipt", devices: receiptToSend(state.direct.received, live) }, env);
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

export function nextRoot(direct: Direct, env: Env): ConversationRoot {
  const version = (writingRoot(direct.roots)?.chain.version ?? -1) + 1;
  return { version, secret: env.random(32), createdAt: env.now };
}

/** The root that the event just posted proposes. */
export function withProposal(posted: Step, root: ConversationRoot, env: Env): Step {
  const { direct, self } = posted.state;
  assert(direct !== undefined, "posting keeps the conversation");
  const { lastIndex } = direct;
  const broughtBy = { device: self.keys.certificate.device, index: lastIndex };
  const roots = adoptRoot(env.crypto, direct.roots, { root, proposedIn: lastIndex, broughtBy }, env.now);
  return { ...posted, state: { ...posted.state, direct: { ...direct, roots } } };
}

/** What was just posted carries our device list. */
export function withListSent(posted: Step, env: Env): Step {
  assert(posted.state.direct !== undefined, "posting keeps the conversation");
  return { ...posted, state: { ...posted.state, direct: { ...posted.state.direct, listSentAt: env.now } } };
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
