/**
 * One event, encrypted once, readable by each device of both sides (DESIGN section 4).
 *
 *   content key --HKDF--> encryption key, commitment
 *   ciphertext   = commitment (32) | AEAD(encryption key, event), bound to conversation, author, event id and recipients
 *   wrap per device = that pair's ratchet over (content key, recipients hash, device-list hashes)
 *
 * The author is the account of the session that opened the wrap, whatever the event says; the commitment makes one
 * ciphertext mean one event for every key; the recipients hash keeps a wrap from being put on another message. Pure:
 * the caller commits the returned pairs together with what the event changed. Spec: ./SPEC.md CV20-CV31.
 */
import { compareBytes, concat, EMPTY, equalBytes, fromHex, utf8, zero } from "#protocols/base/bytes.ts";
import { bytes, decode, encode, id, type Infer, list, literal, struct } from "#protocols/base/codec.ts";
import type { AccountId, ConversationId, DeviceId, EventId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import { decodeEvent, directConversationId, type Event, eventId } from "#protocols/content/content.ts";
import { MAX_PAYLOAD_BYTES } from "#protocols/envelope/envelope.ts";
import { decodeBundle, initHint, initiate, type PrekeyStore, respond } from "#protocols/handshake/handshake.ts";
import {
  type DeviceCertificate,
  type DeviceKeys,
  type DeviceList,
  deviceListHash,
} from "#protocols/identity/identity.ts";
import { findWrap, randomWrap, startSession, unwrap, wrap, WRAP_BYTES } from "#protocols/ratchet/ratchet.ts";
import { type Introduction, introductionSchema } from "./introduction.ts";
import {
  type DevicePair,
  findSession,
  mayStartHandshake,
  MAX_INIT_BYTES,
  newPair,
  sendingSession,
  type Session,
  withSession,
  withState,
} from "./pair.ts";
import { renewalDue } from "./rekey.ts";

/** Devices one message can be for: 8 of theirs and 7 others of ours, padded to a power of two (CV22). */
export const MAX_WRAPS = 16;
const SALT_BYTES = 16;
const TAG_BYTES = 16;
const COMMITMENT_BYTES = 32;
/** An initial message of the handshake with its head. */
const INIT_ROOM_BYTES = 1_540;
/** Device lists are compared by this much of their hash: a mismatch is a hint to send the list, not a proof. */
const LIST_HASH_BYTES = 16;
/** What the envelope carries (64 KiB) less wraps, initial messages and framing. Larger content goes to media. */
export const MAX_EVENT_BYTES = 40 * 1024;
/** CBOR heads of everything in a payload: 16 wraps, 16 initial messages and the fields, with room to spare. */
const FRAMING_BYTES = 256;
const NONCE = new Uint8Array(12);
const CONTENT_LABEL = utf8("skein/1/content");
/** What the content is; an introduction never passes for an event (CV50). */
const LABELS = { event: utf8("skein/1/direct"), introduction: utf8("skein/1/introduction") } as const;
type Kind = keyof typeof LABELS;
const RECIPIENTS_LABEL = utf8("skein/1/recipients");

export const directPayloadSchema = struct({
  version: literal(1),
  salt: bytes(SALT_BYTES),
  event: id<EventId>(),
  ciphertext: bytes({ min: COMMITMENT_BYTES + TAG_BYTES, max: MAX_EVENT_BYTES + COMMITMENT_BYTES + TAG_BYTES }),
  wraps: list(bytes(WRAP_BYTES), MAX_WRAPS),
  inits: list(bytes({ max: MAX_INIT_BYTES }), MAX_WRAPS),
});
export type DirectPayload = Infer<typeof directPayloadSchema>;

/** This device, as sessions need it. */
export type Self = {
  readonly account: AccountId;
  readonly keys: DeviceKeys;
  readonly list: DeviceList;
};

export type Pairs = ReadonlyMap<DeviceId, DevicePair>;

function contentKeys(crypto: CryptoSuite, contentKey: Uint8Array, salt: Uint8Array) {
  const derived = crypto.hkdf({ ikm: contentKey, salt, info: CONTENT_LABEL, length: 64 });
  return { key: derived.slice(0, 32), commitment: derived.slice(32) };
}

type Binding = {
  readonly kind: Kind;
  readonly conversation: ConversationId;
  readonly account: AccountId;
  readonly device: DeviceId;
  readonly event: EventId;
  readonly recipientsHash: Uint8Array;
};

function associatedData(binding: Binding): Uint8Array {
  const raw = [binding.conversation, binding.account, binding.device, binding.event].map((text) => fromHex(text)!);
  return concat(LABELS[binding.kind], ...raw, binding.recipientsHash);
}

function recipientsHash(crypto: CryptoSuite, recipients: readonly DeviceId[], listHashes: Uint8Array): Uint8Array {
  const devices = recipients.toSorted().map((device) => fromHex(device)!);
  return crypto.sha256(concat(RECIPIENTS_LABEL, listHashes, ...devices));
}

/** 4, 8 or 16: the number of wraps says no more than that about how many devices two people have. */
function paddedCount(count: number): number {
  return count <= 4 ? 4 : count <= 8 ? 8 : MAX_WRAPS;
}

export type Sealed = {
  readonly payload: Uint8Array;
  /** The pairs whose sessions moved; commit them before the payload leaves. */
  readonly pairs: Pairs;
  /** Recipients with neither a session nor a usable bundle: their prekeys have to be fetched. */
  readonly unreachable: readonly DeviceId[];
};

/** CV23: how many initial messages (1,536 bytes, the dearest part of a first message) fit beside an event. */
function roomForInits(eventBytes: number): number {
  const wraps = MAX_WRAPS * WRAP_BYTES;
  const fixed = SALT_BYTES + COMMITMENT_BYTES + TAG_BYTES + 32 + wraps + FRAMING_BYTES;
  return Math.floor((MAX_PAYLOAD_BYTES - fixed - eventBytes) / INIT_ROOM_BYTES);
}

/**
 * @param options.event - Canonical encoding of `eventId`'s event.
 * @param options.recipients - Live devices of both sides without this one. Those for whose initial message there is no room
 * are left out this time; they have receipted nothing, so they come next (CV23).
 * @returns Undefined when no recipient can be reached at all.
 */
export async function sealEvent(
  options: {
    readonly self: Self;
    readonly peerList: DeviceList;
    readonly conversation: ConversationId;
    readonly eventId: EventId;
    readonly event: Uint8Array;
    readonly recipients: readonly DeviceCertificate[];
    readonly pairs: Pairs;
    readonly kind?: Kind;
  },
  env: Env,
): Promise<{ readonly payload: Uint8Array | undefined } & Omit<Sealed, "payload">> {
  const { self, peerList, recipients } = options;
  const { crypto } = env;
  assert(options.event.length <= MAX_EVENT_BYTES, "event fits one envelope");
  assert(recipients.length <= MAX_WRAPS, "recipients fit one message");

  const ownHash = deviceListHash(crypto, self.list);
  const peerHash = deviceListHash(crypto, peerList);
  const moved = new Map<DeviceId, DevicePair>();
  const reachable: { readonly pair: DevicePair; readonly session: Session }[] = [];
  const unreachable: DeviceId[] = [];
  let room = roomForInits(options.event.length);
  for (const certificate of recipients) {
    const pair = options.pairs.get(certificate.device) ?? newPair(certificate.account, certificate.device);
    const remoteListHash = certificate.account === self.account ? ownHash : peerHash;
    // Whoever lists somebody else's device does not get that one's session (CV15).
    const theirs = pair.account === certificate.account;
    const ready = theirs ? await readySession(self, pair, { ownHash, remoteListHash }, env) : undefined;
    if (ready === undefined) unreachable.push(certificate.device);
    else if (ready.session.init === undefined || room-- > 0) reachable.push(ready);
  }
  if (reachable.length === 0) return { payload: undefined, pairs: moved, unreachable };

  const salt = env.random(SALT_BYTES);
  const contentKey = env.random(32);
  const listHashes = concat(ownHash.slice(0, LIST_HASH_BYTES), peerHash.slice(0, LIST_HASH_BYTES));
  const recipientIds = reachable.map(({ pair }) => pair.device);
  const binding: Binding = {
    kind: options.kind ?? "event",
    conversation: options.conversation,
    account: self.account,
    device: self.keys.certificate.device,
    event: options.eventId,
    recipientsHash: recipientsHash(crypto, recipientIds, listHashes),
  };
  const { key, commitment } = contentKeys(crypto, contentKey, salt);
  const sealed = await crypto.chacha20poly1305.seal({
    key,
    nonce: NONCE,
    data: options.event,
    associatedData: concat(associatedData(binding), commitment),
  });

  const wrapPlaintext = concat(contentKey, binding.recipientsHash, listHashes);
  const wraps: Uint8Array[] = [];
  const inits: Uint8Array[] = [];
  for (const { pair, session } of reachable) {
    const wrapped = await wrap(session.state, { plaintext: wrapPlaintext, salt }, env);
    wraps.push(wrapped.wrap);
    if (session.init) inits.push(session.init);
    moved.set(pair.device, withSession(pair, withState(session, wrapped.state)));
  }
  for (let spare = paddedCount(wraps.length) - wraps.length; spare > 0; spare--) wraps.push(randomWrap(env));
  zero(contentKey, key, wrapPlaintext);

  const payload = encode(directPayloadSchema, {
    version: 1,
    salt,
    event: options.eventId,
    ciphertext: concat(commitment, sealed),
    wraps: wraps.toSorted(compareBytes),
    inits: inits.toSorted(compareBytes),
  });
  return { payload, pairs: moved, unreachable };
}

/** The session to send on, made from the pair's bundle when there is none yet. */
async function readySession(
  self: Self,
  pair: DevicePair,
  hashes: { readonly ownHash: Uint8Array; readonly remoteListHash: Uint8Array },
  env: Env,
): Promise<{ readonly pair: DevicePair; readonly session: Session } | undefined> {
  const existing = sendingSession(pair);
  if (existing && !renewalDue(pair, existing, env.now)) return { pair, session: existing };
  const started = await startedSession(self, pair, hashes, env);
  // Without a usable bundle the old session goes on: late forward secrecy is better than silence (CV84).
  return started ?? (existing && { pair, session: existing });
}

/** CV12: a new session from the bundle they gave us, if there is one that can be used. */
async function startedSession(
  self: Self,
  pair: DevicePair,
  hashes: { readonly ownHash: Uint8Array; readonly remoteListHash: Uint8Array },
  env: Env,
): Promise<{ readonly pair: DevicePair; readonly session: Session } | undefined> {
  if (!pair.bundle) return undefined;
  const bundle = decodeBundle(pair.bundle);
  if (isReject(bundle)) return undefined;
  const started = await initiate(
    {
      self: { certificate: self.keys.certificate, dhSecret: self.keys.dhSecret, listHash: hashes.ownHash },
      bundle,
      remoteListHash: hashes.remoteListHash,
    },
    env,
  );
  if (isReject(started)) return undefined;
  const session: Session = {
    handshakeHash: started.seed.handshakeHash,
    state: await startSession(started.seed, env),
    init: started.init,
    receivedAt: 0,
  };
  return { pair: { ...pair, handshakeAt: env.now }, session };
}

export type Opened = {
  readonly event: Event;
  readonly eventId: EventId;
  readonly bytes: Uint8Array;
  /** The pair that opened it, moved on; commit it with what the event changes. */
  readonly pair: DevicePair;
  /** The session it came on. */
  readonly handshakeHash: Uint8Array;
  /** Set when an initial message used up prekeys; commit it too. */
  readonly prekeys?: PrekeyStore;
  /** The author's certificate, when this message brought a new session. */
  readonly certificate?: DeviceCertificate;
  /** What the author believed the two device lists to be: first bytes of their hashes. */
  readonly listHashes: { readonly author: Uint8Array; readonly peer: Uint8Array };
};

type Unwrapped = {
  readonly pair: DevicePair;
  readonly handshakeHash: Uint8Array;
  readonly plaintext: Uint8Array;
  readonly prekeys?: PrekeyStore;
  readonly certificate?: DeviceCertificate;
};

/** What one of our own devices told us of a conversation that we may not know yet (introduction.ts). */
export type Introduced = Pick<Opened, "pair" | "handshakeHash" | "prekeys" | "certificate"> & {
  readonly introduction: Introduction;
};

/**
 * Opens a payload that reached this device. Nothing it returns has been stored; on a reject nothing has changed.
 * @param options.conversation - The conversation of the topic it came on; undefined for the inbox, where it is the direct
 * conversation with whoever wrote, and an introduction if that is a device of our own (CV50).
 * @returns Rejects: `conversation/not-for-me`, those of handshake and ratchet, `conversation/two-key-ciphertext`,
 * `conversation/bad-content`, `conversation/wrong-event-id`, `conversation/wrong-author`, `conversation/wrong-conversation`,
 * and those of content's decoder.
 */
export async function openPayload(
  options: {
    readonly self: Self;
    readonly payload: DirectPayload;
    readonly pairs: Pairs;
    readonly prekeys: PrekeyStore | undefined;
    readonly conversation: ConversationId | undefined;
  },
  env: Env,
): Promise<OrReject<Opened | Introduced>> {
  const { self, payload } = options;
  const { crypto } = env;
  const unwrapped =
    (await unwrapWithSessions(payload, options.pairs, env)) ??
    (options.prekeys && (await unwrapWithInit(self, payload, options.pairs, options.prekeys, env)));
  if (unwrapped === undefined) return reject("conversation/not-for-me");
  if (isReject(unwrapped)) return unwrapped;

  const { pair, plaintext } = unwrapped;
  const contentKey = plaintext.slice(0, 32);
  const kind = options.conversation === undefined && pair.account === self.account ? "introduction" : "event";
  const binding: Binding = {
    kind,
    conversation: options.conversation ?? directConversationId(crypto, self.account, pair.account),
    account: pair.account,
    device: pair.device,
    event: payload.event,
    recipientsHash: plaintext.slice(32, 64),
  };
  const { key, commitment } = contentKeys(crypto, contentKey, payload.salt);
  if (!equalBytes(commitment, payload.ciphertext.slice(0, COMMITMENT_BYTES))) {
    return reject("conversation/two-key-ciphertext");
  }
  const opened = await crypto.chacha20poly1305.open({
    key,
    nonce: NONCE,
    data: payload.ciphertext.slice(COMMITMENT_BYTES),
    associatedData: concat(associatedData(binding), commitment),
  });
  if (opened === undefined) return reject("conversation/bad-content");
  if (eventId(crypto, opened) !== payload.event) return reject("conversation/wrong-event-id");
  const session = {
    pair,
    handshakeHash: unwrapped.handshakeHash,
    ...(unwrapped.prekeys && { prekeys: unwrapped.prekeys }),
    ...(unwrapped.certificate && { certificate: unwrapped.certificate }),
  };
  if (kind === "introduction") {
    const introduction = decode(introductionSchema, opened);
    return isReject(introduction) ? introduction : { ...session, introduction };
  }
  const event = decodeEvent(opened);
  if (isReject(event)) return event;
  if (event.author !== pair.account || event.device !== pair.device) return reject("conversation/wrong-author");
  if (event.conversation !== binding.conversation) return reject("conversation/wrong-conversation");
  const hashes = plaintext.slice(64);
  zero(contentKey, key, plaintext);
  return {
    event,
    eventId: payload.event,
    bytes: opened,
    ...session,
    listHashes: { author: hashes.slice(0, LIST_HASH_BYTES), peer: hashes.slice(LIST_HASH_BYTES) },
  };
}

/** Finds our wrap by its tag among the sessions we have; at most one session can know it. */
async function unwrapWithSessions(
  payload: DirectPayload,
  pairs: Pairs,
  env: Env,
): Promise<OrReject<Unwrapped> | undefined> {
  for (const pair of pairs.values()) {
    for (const session of pair.sessions) {
      const found = findWrap(env.crypto, session.state, payload.salt, payload.wraps);
      if (found === undefined) continue;
      return unwrapOn(pair, session, payload, payload.wraps[found] ?? EMPTY, env);
    }
  }
  return undefined;
}

async function unwrapOn(
  pair: DevicePair,
  session: Session,
  payload: DirectPayload,
  wrapped: Uint8Array,
  env: Env,
): Promise<OrReject<Unwrapped>> {
  const result = await unwrap(session.state, { wrap: wrapped, salt: payload.salt }, env);
  if (isReject(result)) return result;
  // The other side has the session: its initial message need not be repeated any more (CV11).
  const { init: _answered, ...rest } = session;
  const moved: Session = { ...rest, state: result.state, receivedAt: env.now };
  return { pair: withSession(pair, moved), handshakeHash: session.handshakeHash, plaintext: result.plaintext };
}

/** Makes the session that one of the initial messages offers us, if it is one we can answer and the wrap proves it. */
async function unwrapWithInit(
  self: Self,
  payload: DirectPayload,
  pairs: Pairs,
  prekeys: PrekeyStore,
  env: Env,
): Promise<OrReject<Unwrapped> | undefined> {
  let refused: OrReject<Unwrapped> | undefined;
  for (const init of payload.inits) {
    if (!initHint(prekeys, init)) continue;
    const answered = await respond({ self: self.keys, store: prekeys, init }, env);
    if (isReject(answered)) {
      refused = answered;
      continue;
    }
    const { certificate, seed } = { certificate: answered.remote, seed: answered.seed };
    const pair = pairs.get(certificate.device) ?? newPair(certificate.account, certificate.device);
    // An account can certify any device key, also one that is not its own; the handshake proves the account alone (CV15).
    if (pair.account !== certificate.account) {
      refused = reject("conversation/not-their-device");
      continue;
    }
    // A session of this hash whose keys did not match the wrap has moved past it: an old message came again.
    if (findSession(pair, seed.handshakeHash) || answered.repeated) {
      refused = reject("conversation/repeated-init");
      continue;
    }
    const session: Session = {
      handshakeHash: seed.handshakeHash,
      state: await startSession(seed, env),
      receivedAt: 0,
    };
    const found = findWrap(env.crypto, session.state, payload.salt, payload.wraps);
    if (found === undefined) {
      refused = reject("conversation/init-without-wrap");
      continue;
    }
    const unwrapped = await unwrapOn(pair, session, payload, payload.wraps[found] ?? EMPTY, env);
    if (isReject(unwrapped)) {
      refused = unwrapped;
      continue;
    }
    return { ...unwrapped, prekeys: answered.store, certificate };
  }
  return refused;
}

/**
 * CV84: a wrap of ours that names a rekey we do not know comes from a session whose ends have parted (a restored disk, a lost
 * commit). Its header was authentic, so the pair gets a new session. @returns Undefined when it is too soon or cannot be done.
 */
export async function renewedPair(
  options: {
    readonly self: Self;
    readonly peerList: DeviceList;
    readonly payload: DirectPayload;
    readonly pairs: Pairs;
  },
  env: Env,
): Promise<DevicePair | undefined> {
  const { self, payload } = options;
  const parted = (session: Session): boolean =>
    findWrap(env.crypto, session.state, payload.salt, payload.wraps) !== undefined;
  const pair = options.pairs.values().find(({ sessions }) => sessions.some(parted));
  if (pair === undefined || !mayStartHandshake(pair, env.now)) return undefined;
  const ownHash = deviceListHash(env.crypto, self.list);
  const peerHash = deviceListHash(env.crypto, options.peerList);
  const hashes = { ownHash, remoteListHash: pair.account === self.account ? ownHash : peerHash };
  const started = await startedSession(self, pair, hashes, env);
  return started && withSession(started.pair, started.session);
}

/** What one of our lists is compared by. */
export function shortListHash(crypto: CryptoSuite, devices: DeviceList): Uint8Array {
  return deviceListHash(crypto, devices).slice(0, LIST_HASH_BYTES);
}

/** Parses what came out of an envelope or a deposit. */
export function decodePayload(raw: Uint8Array): OrReject<DirectPayload> {
  return decode(directPayloadSchema, raw);
}
