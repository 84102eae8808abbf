/**
 * Taking in what comes: opened once, its author judged, its arrival noted, and only then acted on. A reject changes nothing.
 * Spec: ./SPEC.md CV2-CV4, CV32-CV38, CV46-CV57, CV65-CV66, CV73, CV84.
 */
import { equalBytes } from "#protocols/base/bytes.ts";
import type { AccountId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject, type Reject, reject } from "#protocols/base/reject.ts";
import type { Env } from "#protocols/base/suite.ts";
import {
  type Body,
  type BodyOf,
  covers,
  directConversationId,
  type Event,
  MAX_PARENTS,
  MAX_RELAYS,
  mergeReceipts,
  receiptOf,
  receive as receiveClock,
  withIndex,
} from "#protocols/content/content.ts";
import type { ConversationRoot } from "#protocols/envelope/envelope.ts";
import { decodeBundle, initHint, type PrekeyStore, respond } from "#protocols/handshake/handshake.ts";
import {
  acceptsFrom,
  type DeviceCertificate,
  type DeviceList,
  liveDevices,
  mergeDeviceLists,
  verifyDeviceList,
} from "#protocols/identity/identity.ts";
import { answerWith } from "./ask.ts";
import { withRequest } from "./contact.ts";
import { redemptionProof } from "./invite.ts";
import {
  type DirectPayload,
  type Introduced,
  type Opened,
  openPayload,
  renewedPair,
  type Self,
  shortListHash,
} from "./message.ts";
import { newPair } from "./pair.ts";
import { post, sendReceipt, withListSent } from "./post.ts";
import { MAX_KEPT_RANGES, takeReceipt } from "./receipts.ts";
import { answerOffer, finishOffer } from "./rekey.ts";
import { acceptableRoot, adoptRoot, mergeRoots } from "./roots.ts";
import {
  chain,
  currentRelation,
  type Direct,
  type DirectState,
  type Effect,
  newDirect,
  type Step,
  type StepEnv,
  telling,
  withPair,
} from "./state.ts";

/** A contact whose idea of our devices is old is told at most this often (CV36). */
const LIST_REPEAT_MS = 3_600_000;

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
  if (invited === undefined || currentRelation(asked, env.now) !== "incoming") {
    return { ...done, state: invited ?? asked };
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
