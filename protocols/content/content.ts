/**
 * The events: what is inside an envelope once the conversation's encryption is off. One canonical encoding each, whose
 * SHA-256 is the event's id. Spec: ./SPEC.md CO1-CO19. This is the folder's public file.
 */
import { concat, fromHex, toHex, utf8 } from "#protocols/base/bytes.ts";
import {
  bool,
  bytes,
  decode,
  encode,
  id,
  type Infer,
  list,
  literal,
  optional,
  refine,
  type Schema,
  sortedSet,
  struct,
  uint,
  union,
} from "#protocols/base/codec.ts";
import type { AccountId, ConversationId, DeviceId, EventId, InboxId } from "#protocols/base/ids.ts";
import { assert, type OrReject, reject } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { deviceListSchema } from "#protocols/identity/identity.ts";
import { hlcSchema } from "./hlc.ts";
import { receiptsSchema } from "./receipts.ts";
import { addressSchema, greetingSchema, messageTextSchema, nameSchema, peerIdSchema } from "./text.ts";

export * from "./hlc.ts";
export * from "./receipts.ts";
export * from "./text.ts";

/** Largest event. With the wraps and initial messages of 16 devices it still fits one 64 KiB envelope (CO4). */
export const MAX_EVENT_BYTES = 40 * 1024;

/** Causal parents: the heads an author saw. More concurrent heads than this are left to later events. */
export const MAX_PARENTS = 8;

/** Prekey bundles beside a device list: one for each device an account may have. */
export const MAX_BUNDLES = 8;

/** One encoded prekey bundle; a PQXDH bundle with a one-time prekey has about 2 KB. */
export const MAX_BUNDLE_BYTES = 3_072;

/** Relays of one person: reachability with two of them down. */
export const MAX_RELAYS = 3;

/** Addresses of one running peer. */
export const MAX_PRESENCE_ADDRESSES = 16;

/** A control message of the post-quantum rekey: an ML-KEM-768 key (1,184) or ciphertext (1,088), and numbers. */
export const MAX_REKEY_BYTES = 1_536;

const MAX_TIME_MS = 2 ** 48;
const bundlesSchema = list(bytes({ min: 1, max: MAX_BUNDLE_BYTES }), MAX_BUNDLES);

function withoutRepeats(values: readonly string[]): boolean {
  return new Set(values).size === values.length;
}

function addresses(max: number): Schema<readonly string[]> {
  return refine(list(addressSchema, max), "content/repeated-address", withoutRepeats);
}

/** 32 bytes as lower-case hex: an opaque key that names something. */
const hexKeySchema: Schema<string> = id<InboxId>();

/** A conversation's root as the ratchet carries it; what it opens is the business of `protocols/envelope`. */
const rootSchema = struct({ version: uint(0xffff_ffff), secret: bytes(32), createdAt: uint(MAX_TIME_MS) });

/** All that a new contact needs to write back: the same facts in a request and in its acceptance (CO15). */
const contactFacts = {
  name: nameSchema,
  list: deviceListSchema,
  /** Encoded prekey bundles, one a device; opaque here. */
  bundles: bundlesSchema,
  root: rootSchema,
  relays: addresses(MAX_RELAYS),
  inbox: struct({ id: id<InboxId>(), sealKey: bytes(32) }),
  directory: struct({ id: hexKeySchema, sealKey: bytes(32) }),
};

/** Each kind of event and its number. Numbers are never reused (CO6). */
export const bodySchema = union({
  message: [1, struct({ text: messageTextSchema, replyTo: optional(id<EventId>()) })],
  receipt: [2, struct({ devices: receiptsSchema })],
  presence: [3, struct({ instance: bytes(16), addresses: addresses(MAX_PRESENCE_ADDRESSES), peerId: peerIdSchema })],
  typing: [4, struct({ active: bool })],
  contactRequest: [
    5,
    struct({
      ...contactFacts,
      inviteId: optional(bytes(16)),
      /** Shows that the invite's link was seen; computed by `protocols/conversation`. */
      inviteProof: optional(bytes(32)),
      greeting: optional(greetingSchema),
    }),
  ],
  contactAccept: [6, struct({ request: id<EventId>(), ...contactFacts })],
  contactDecline: [7, struct({ request: id<EventId>() })],
  contactWithdraw: [8, struct({ request: id<EventId>() })],
  rootChange: [9, struct({ root: rootSchema })],
  relays: [10, struct({ add: addresses(MAX_RELAYS), remove: addresses(MAX_RELAYS) })],
  profile: [11, struct({ name: nameSchema })],
  rekeyOffer: [12, struct({ session: bytes(32), offer: bytes({ min: 1, max: MAX_REKEY_BYTES }) })],
  rekeyAnswer: [13, struct({ session: bytes(32), answer: bytes({ min: 1, max: MAX_REKEY_BYTES }) })],
  deviceList: [14, struct({ list: deviceListSchema })],
  prekeys: [15, struct({ bundles: bundlesSchema })],
  instance: [16, struct({ instance: bytes(16) })],
});
export type Body = Infer<typeof bodySchema>;
export type BodyType = Body["type"];
export type BodyOf<T extends BodyType> = Extract<Body, { readonly type: T }>;

const EPHEMERAL: ReadonlySet<BodyType> = new Set(["presence", "typing"]);

/** Repeated by rules of their own: a receipt by the next one, a rekey by its protocol, and for one device alone. */
const UNINDEXED: ReadonlySet<BodyType> = new Set(["presence", "typing", "receipt", "rekeyOffer", "rekeyAnswer"]);

/** Travels in ephemeral envelopes and is never stored (CO7). */
export function isEphemeral(body: Body): boolean {
  return EPHEMERAL.has(body.type);
}

/** Part of the conversation's history: numbered without gaps, receipted, offered again until it is (CO7). */
export function isIndexed(body: Body): boolean {
  return !UNINDEXED.has(body.type);
}

const fieldsSchema = struct({
  version: literal(1),
  conversation: id<ConversationId>(),
  author: id<AccountId>(),
  device: id<DeviceId>(),
  /** Of this device over all conversations, from 1: a revocation names the last one that counts. */
  sequence: uint(MAX_TIME_MS),
  /** Of this device in this conversation, from 1 and without gaps; 0 for events that are not indexed. */
  index: uint(MAX_TIME_MS),
  time: hlcSchema,
  /** In ascending order. */
  parents: sortedSet(id<EventId>(), MAX_PARENTS),
  body: bodySchema,
});
export type Event = Infer<typeof fieldsSchema>;

/** Nobody announces somebody else's devices: a list in an event is its author's own (CO8). */
function ownList(event: Event): boolean {
  const { body } = event;
  if (body.type !== "contactRequest" && body.type !== "contactAccept" && body.type !== "deviceList") return true;
  return body.list.account === event.author;
}

export const eventSchema: Schema<Event> = refine(
  refine(
    refine(fieldsSchema, "content/no-sequence", (event) => event.sequence > 0),
    "content/index",
    (event) => isIndexed(event.body) === event.index > 0,
  ),
  "content/foreign-device-list",
  ownList,
);

/** @param event - Within the limits of its schema; `parents` in ascending order. */
export function encodeEvent(event: Event): Uint8Array {
  const encoded = encode(eventSchema, event);
  assert(encoded.length <= MAX_EVENT_BYTES, "event within its limit");
  return encoded;
}

/** Form and bounds. Signatures inside (device lists, bundles) are checked by those whose they are (CO9). */
export function decodeEvent(encoded: Uint8Array): OrReject<Event> {
  return encoded.length > MAX_EVENT_BYTES ? reject("content/too-large") : decode(eventSchema, encoded);
}

/** SHA-256 of the canonical encoding. */
export function eventId(crypto: CryptoSuite, encoded: Uint8Array): EventId {
  return toHex(crypto.sha256(encoded)) as EventId;
}

const DIRECT_LABEL = utf8("skein/1/direct-conversation");

/** The one direct conversation of two accounts, the same from either side (CO16). */
export function directConversationId(crypto: CryptoSuite, a: AccountId, b: AccountId): ConversationId {
  const [low, high] = a < b ? [a, b] : [b, a];
  return toHex(crypto.sha256(concat(DIRECT_LABEL, fromHex(low)!, fromHex(high)!))) as ConversationId;
}
