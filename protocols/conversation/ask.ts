/** Asking somebody to be a contact, and answering. Spec: ./SPEC.md CV40-CV49, CV56, CV65, CV75. */
import { equalBytes } from "#protocols/base/bytes.ts";
import type { ConversationId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import type { Env } from "#protocols/base/suite.ts";
import type { Body } from "#protocols/content/content.ts";
import { decodeBundle, encodeBundle, makeBundle } from "#protocols/handshake/handshake.ts";
import { liveDevices, mergeDeviceLists } from "#protocols/identity/identity.ts";
import { openRequest, withRequest } from "./contact.ts";
import { fittingBundles } from "./introduction.ts";
import { type Invite, redemptionProof } from "./invite.ts";
import { newPair, withInviteBundle } from "./pair.ts";
import { nextRoot, post, withListSent, withProposal } from "./post.ts";
import { writingRoot } from "./roots.ts";
import {
  currentRelation,
  type Direct,
  type DirectState,
  newDirect,
  type Redemption,
  type Step,
  type StepEnv,
  telling,
  withPair,
} from "./state.ts";

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

/** The facts that a request and its acceptance carry: all the other side needs to write back, to each device. */
export async function facts(state: DirectState, env: Env) {
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

export async function answerWith(
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
