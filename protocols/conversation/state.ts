/**
 * What a device keeps of one direct conversation, what a step is given and what it returns, and the few things every part of
 * the step needs. Spec: ./SPEC.md CV1-CV8.
 */
import { bytes, id, type Infer, list, optional, struct, text, uint } from "#protocols/base/codec.ts";
import type { AccountId, ConversationId, DeviceId, EventId, InboxId } from "#protocols/base/ids.ts";
import type { Env } from "#protocols/base/suite.ts";
import {
  type BodyOf,
  type Event,
  hlcSchema,
  MAX_PARENTS,
  nameSchema,
  storedReceiptsSchema,
} from "#protocols/content/content.ts";
import type { PrekeyStore } from "#protocols/handshake/handshake.ts";
import { type DeviceCertificate, deviceListSchema, liveDevices } from "#protocols/identity/identity.ts";
import { type Relation, relation, requestsSchema } from "./contact.ts";
import { addressesSchema } from "./invite.ts";
import type { Pairs, Self } from "./message.ts";
import type { DevicePair } from "./pair.ts";
import { rootsSchema } from "./roots.ts";

/** Devices of both sides whose receipts are kept: eight live ones each, and those that were revoked meanwhile. */
export const MAX_RECEIPT_SENDERS = 32;

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

export function withPair(state: DirectState, pair: DevicePair): DirectState {
  return { ...state, pairs: new Map(state.pairs).set(pair.device, pair) };
}

export function withPairs(state: DirectState, moved: Pairs): DirectState {
  return moved.size === 0 ? state : { ...state, pairs: new Map([...state.pairs, ...moved]) };
}

/** All devices a message of this conversation is for. */
export function recipientsOf(self: Self, direct: Direct): readonly DeviceCertificate[] {
  const own = liveDevices(self.list).filter(({ device }) => device !== self.keys.certificate.device);
  return [...liveDevices(direct.devices), ...own];
}

export function isTheirs(direct: Direct, device: DeviceId): boolean {
  return direct.devices.certificates.some((certificate) => certificate.device === device);
}

export function currentRelation(state: DirectState, now: number): Relation {
  return state.direct ? relation(state.direct.requests, state.self.account, now) : "none";
}

/** Adds the effect that tells of a new relation, if it is one. */
export function telling(before: Relation, done: Step, now: number): Step {
  const after = currentRelation(done.state, now);
  return before === after ? done : { ...done, effects: [...done.effects, { type: "relation", relation: after }] };
}

export function newDirect(
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

/** Runs steps one after the other and joins their effects. */
export async function chain(first: Step, ...more: readonly ((state: DirectState) => Promise<Step>)[]): Promise<Step> {
  let { state } = first;
  const effects = [...first.effects];
  for (const step of more) {
    const done = await step(state);
    state = done.state;
    effects.push(...done.effects);
  }
  return { state, effects };
}
