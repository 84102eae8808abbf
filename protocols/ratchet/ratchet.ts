/**
 * Double Ratchet with encrypted headers for one device pair. Pure: commit the state with the plaintext, then send.
 * Spec: ./SPEC.md RA1-RA31.
 *
 * The root moves in strict turns: sending step, receiving step, ... We make our sending step late, with the first message
 * that needs it, so receiving draws no randomness and costs one DH.
 *
 * What always holds:
 * - A message key opens one wrap and is gone. A state never changes unless the wrap's own tag verified (RA7).
 * - `sending` exists from our sending step until their answer to it; `own` is the key pair of that step.
 * - Only `receiving[0]` can be open. It closes when they begin a new chain, and keeps the keys of what is still missing.
 */
import { concat, equalBytes, zero } from "#protocols/base/bytes.ts";
import { assert, isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import {
  decodeHeader,
  encodeHeader,
  type Header,
  HEADER_BYTES,
  HEADER_MAC_BYTES,
  headerMac,
  maskHeader,
  messageKeyOf,
  nextChainKey,
  RANDOM_BYTES,
  rootStep,
  SALT_BYTES,
  startKeys,
  TAG_BYTES,
  wrapKey,
  wrapTag,
} from "./keys.ts";
import {
  MAX_FORWARD_JUMP,
  MAX_INDEX,
  MAX_RECEIVING_CHAINS,
  MAX_SKIPPED,
  type RatchetState,
  type ReceivingChain,
  REKEY_INTERVAL_MS,
  REKEY_MESSAGES,
  type SendingChain,
  type Skipped,
  SKIPPED_LIFETIME_MS,
} from "./state.ts";

export { acceptRekey, finishRekey, offerRekey, rekeyDue, rekeyOverdue } from "./rekey.ts";
export { type RatchetState, ratchetSchema } from "./state.ts";

/** Content key (32), recipients hash (32), and 16 bytes of each device list's hash. */
export const WRAP_PLAINTEXT = 96;

const AEAD_TAG_BYTES = 16;
const MASKED_AT = TAG_BYTES + RANDOM_BYTES;
const MAC_AT = MASKED_AT + HEADER_BYTES;
const CIPHERTEXT_AT = MAC_AT + HEADER_MAC_BYTES;

/** Wire: tag (8) | random (16) | encrypted header (44) | header MAC (8) | ciphertext (96) | tag (16). Always this long. */
export const WRAP_BYTES = CIPHERTEXT_AT + WRAP_PLAINTEXT + AEAD_TAG_BYTES;

/** One zero nonce: every wrap has a key of its own (RA16). */
const NONCE = new Uint8Array(12);

/** What the handshake gives; see its SessionSeed. */
type Seed = {
  readonly secret: Uint8Array;
  readonly associatedData: Uint8Array;
  readonly handshakeHash: Uint8Array;
} & (
  | { readonly role: "initiator"; readonly ratchetKey: Uint8Array }
  | {
      readonly role: "responder";
      readonly ratchetKey: { readonly secret: Uint8Array; readonly publicKey: Uint8Array };
    }
);

/** RA2. The initiator can send at once, the responder after it received (`canSend`). */
export async function startSession(seed: Seed, env: Env): Promise<RatchetState> {
  const keys = startKeys(env.crypto, seed.secret, seed.handshakeHash);
  const initiator = seed.role === "initiator";
  return {
    version: 1,
    role: seed.role,
    handshakeHash: seed.handshakeHash,
    associatedData: seed.associatedData,
    rekeyAuthKey: keys.rekeyAuthKey,
    rootKey: keys.rootKey,
    nextSendHeaderKey: initiator ? keys.initiatorHeaderKey : keys.responderHeaderKey,
    nextReceiveHeaderKey: initiator ? keys.responderHeaderKey : keys.initiatorHeaderKey,
    ...(seed.role === "initiator" ? { remoteKey: seed.ratchetKey } : { own: seed.ratchetKey }),
    previousLength: 0,
    receiving: [],
    rekey: { ownNumber: 0, own: { type: "idle" }, remoteNumber: 0, messages: 0, mixedAt: env.now },
  };
}

export function canSend(state: RatchetState): boolean {
  return state.remoteKey !== undefined;
}

/** As long as a wrap, and to everybody without its header key like one. */
export function randomWrap(env: Env): Uint8Array {
  return env.random(WRAP_BYTES);
}

/**
 * Encrypts `plaintext` (WRAP_PLAINTEXT bytes) for the other device.
 * @param options.salt - The envelope's, 16 bytes: one wrap of a session an envelope.
 * @returns Next state, to be on disk before the wrap leaves.
 */
export async function wrap(
  state: RatchetState,
  options: { readonly plaintext: Uint8Array; readonly salt: Uint8Array },
  env: Env,
): Promise<{ readonly state: RatchetState; readonly wrap: Uint8Array }> {
  const { plaintext, salt } = options;
  const { crypto } = env;
  assert(plaintext.length === WRAP_PLAINTEXT && salt.length === SALT_BYTES, "wrap input has its length");
  const ready = state.sending ? state : await sendingStep(state, env);
  const { sending, own } = ready;
  assert(sending && own && sending.next < MAX_INDEX, "a chain to send on");

  const random = env.random(RANDOM_BYTES);
  const header = encodeHeader({
    publicKey: own.publicKey,
    index: sending.next,
    previousLength: ready.previousLength,
    mixed: sending.mixed,
  });
  const masked = maskHeader(crypto, sending.headerKey, random, header);
  const mac = headerMac(crypto, sending.headerKey, { salt, random, masked });
  const prefix = concat(wrapTag(crypto, sending.headerKey, salt), random, masked, mac);
  const messageKey = messageKeyOf(crypto, sending.chainKey);
  const sealed = await crypto.chacha20poly1305.seal({
    key: wrapKey(crypto, messageKey, random),
    nonce: NONCE,
    data: plaintext,
    associatedData: concat(ready.associatedData, salt, prefix),
  });
  zero(messageKey);
  const moved: SendingChain = {
    ...sending,
    chainKey: nextChainKey(crypto, sending.chainKey),
    next: sending.next + 1,
  };
  return { state: counted({ ...ready, sending: moved }, env.now), wrap: concat(prefix, sealed) };
}

/** RA6, RA25: our turn of the root. A rekey secret that is ready goes in here and nowhere else. */
async function sendingStep(state: RatchetState, env: Env): Promise<RatchetState> {
  const { crypto } = env;
  const { remoteKey, rekey } = state;
  assert(remoteKey, "a responder sends only after it received");
  const secret = env.random(32);
  const publicKey = await crypto.x25519.publicKey(secret);
  const dh = await crypto.x25519.sharedSecret(secret, remoteKey);
  assert(dh, "the remote key was refused when it came, if it is of small order");
  const mixing = rekey.own.type === "ready" ? rekey.own.secret : undefined;
  const mixed = mixing ? rekey.ownNumber : 0;
  const step = rootStep(crypto, state.rootKey, { dh, mixed, rekey: mixing });
  return {
    ...state,
    rootKey: step.rootKey,
    own: { secret, publicKey },
    sending: { headerKey: state.nextSendHeaderKey, chainKey: step.chainKey, next: 0, mixed },
    nextSendHeaderKey: step.nextHeaderKey,
    rekey: mixing ? { ...restarted(rekey, env.now), own: { type: "mixed" } } : rekey,
  };
}

/** The count towards the next rekey begins anew. */
function restarted({ dueSince: _due, ...rekey }: RatchetState["rekey"], now: number): RatchetState["rekey"] {
  return { ...rekey, messages: 0, mixedAt: now };
}

function counted(state: RatchetState, now: number): RatchetState {
  const { rekey } = state;
  const messages = rekey.messages + 1;
  const due = messages >= REKEY_MESSAGES || now - rekey.mixedAt >= REKEY_INTERVAL_MS;
  const dueSince = rekey.dueSince ?? (due ? now : undefined);
  return { ...state, rekey: { ...rekey, messages, ...(dueSince !== undefined && { dueSince }) } };
}

/** A receiving chain of this state, or the one they may begin next. */
type Match = { readonly headerKey: Uint8Array; readonly chain: ReceivingChain | undefined };

/** Likeliest first: the open chain, the next one, then what is still missing of older ones. At most six. */
function* candidates(state: RatchetState): Generator<Match> {
  const [current, ...older] = state.receiving;
  if (current) yield { headerKey: current.headerKey, chain: current };
  yield { headerKey: state.nextReceiveHeaderKey, chain: undefined };
  for (const chain of older) yield { headerKey: chain.headerKey, chain };
}

/**
 * Which of `wraps` is this session's, by its tag: at most six HMACs and no trial decryption (RA13).
 * @returns Its index, or undefined.
 */
export function findWrap(
  crypto: CryptoSuite,
  state: RatchetState,
  salt: Uint8Array,
  wraps: readonly Uint8Array[],
): number | undefined {
  for (const { headerKey } of candidates(state)) {
    const tag = wrapTag(crypto, headerKey, salt);
    const found = wraps.findIndex((wrapped) => equalBytes(wrapped.subarray(0, TAG_BYTES), tag));
    if (found >= 0) return found;
  }
  return undefined;
}

/**
 * Decrypts a wrap of this session. On a reject nothing has changed.
 * @returns Next state and the plaintext, to be committed together; rejects `ratchet/bad-length`, `ratchet/no-match` (not
 * this session's), `ratchet/bad-header`, `ratchet/duplicate` (opened before, or its key has expired), `ratchet/too-far`
 * (park it), `ratchet/unknown-rekey`, `ratchet/bad-key`, `ratchet/bad-tag`.
 */
export async function unwrap(
  state: RatchetState,
  options: { readonly wrap: Uint8Array; readonly salt: Uint8Array },
  env: Env,
): Promise<OrReject<{ readonly state: RatchetState; readonly plaintext: Uint8Array }>> {
  const { wrap: wrapped, salt } = options;
  const { crypto } = env;
  if (wrapped.length !== WRAP_BYTES || salt.length !== SALT_BYTES) return reject("ratchet/bad-length");
  const match = matching(crypto, state, salt, wrapped.subarray(0, TAG_BYTES));
  if (!match) return reject("ratchet/no-match");
  const random = wrapped.subarray(TAG_BYTES, MASKED_AT);
  const header = openHeader(crypto, match.headerKey, salt, wrapped);
  if (!header) return reject("ratchet/bad-header");

  const stepped = match.chain ? state : await receivingStep(state, header, env);
  if (isReject(stepped)) return stepped;
  const chain = match.chain ?? stepped.receiving[0];
  assert(chain, "a receiving step opens a chain");
  const taken = takeKey(crypto, chain, header, env.now);
  if (isReject(taken)) return taken;
  const plaintext = await crypto.chacha20poly1305.open({
    key: wrapKey(crypto, taken.messageKey, random),
    nonce: NONCE,
    data: wrapped.subarray(CIPHERTEXT_AT),
    associatedData: concat(stepped.associatedData, salt, wrapped.subarray(0, CIPHERTEXT_AT)),
  });
  if (!plaintext) return reject("ratchet/bad-tag");
  const receiving = stepped.receiving.map((other) => (other === chain ? taken.chain : other));
  return { state: counted({ ...stepped, receiving: bounded(receiving, env.now) }, env.now), plaintext };
}

function matching(crypto: CryptoSuite, state: RatchetState, salt: Uint8Array, tag: Uint8Array): Match | undefined {
  for (const candidate of candidates(state)) {
    if (equalBytes(wrapTag(crypto, candidate.headerKey, salt), tag)) return candidate;
  }
  return undefined;
}

function openHeader(
  crypto: CryptoSuite,
  headerKey: Uint8Array,
  salt: Uint8Array,
  wrapped: Uint8Array,
): Header | undefined {
  const random = wrapped.subarray(TAG_BYTES, MASKED_AT);
  const masked = wrapped.subarray(MASKED_AT, MAC_AT);
  const mac = headerMac(crypto, headerKey, { salt, random, masked });
  if (!equalBytes(mac, wrapped.subarray(MAC_AT, CIPHERTEXT_AT))) return undefined;
  return decodeHeader(maskHeader(crypto, headerKey, random, masked));
}

/**
 * Their turn of the root: closes the open chain at the length they say and opens a new one (RA6, RA9).
 * @returns The state as it would be; kept only if the wrap then opens.
 */
async function receivingStep(state: RatchetState, header: Header, env: Env): Promise<OrReject<RatchetState>> {
  const { crypto } = env;
  const { own, rekey } = state;
  // Nobody honest begins a chain without an answer to answer: they have not heard from us since their last.
  if (!own) return reject("ratchet/bad-header");
  const closed = closedChains(crypto, state.receiving, header.previousLength, env.now);
  if (isReject(closed)) return closed;
  const mixing = header.mixed === 0 ? undefined : rekey.answered?.secret;
  if (header.mixed !== 0 && (!mixing || header.mixed !== rekey.remoteNumber + 1)) {
    return reject("ratchet/unknown-rekey");
  }
  const dh = await crypto.x25519.sharedSecret(own.secret, header.publicKey);
  if (!dh) return reject("ratchet/bad-key");
  const step = rootStep(crypto, state.rootKey, { dh, mixed: header.mixed, rekey: mixing });

  const { own: _answered, sending, ...rest } = state;
  const chain: ReceivingChain = {
    headerKey: state.nextReceiveHeaderKey,
    remoteKey: header.publicKey,
    mixed: header.mixed,
    chainKey: step.chainKey,
    next: 0,
    skipped: [],
  };
  return {
    ...rest,
    rootKey: step.rootKey,
    nextReceiveHeaderKey: step.nextHeaderKey,
    remoteKey: header.publicKey,
    previousLength: sending?.next ?? 0,
    receiving: [chain, ...closed],
    rekey: heard(rekey, header.mixed, env.now),
  };
}

/** RA28: their new chain answers our last one, so they saw what we mixed in; and it may itself mix in theirs. */
function heard(rekey: RatchetState["rekey"], mixed: number, now: number): RatchetState["rekey"] {
  const own = rekey.own.type === "mixed" ? ({ type: "idle" } as const) : rekey.own;
  if (mixed === 0) return { ...rekey, own };
  const { answered: _mixedIn, ...rest } = restarted(rekey, now);
  return { ...rest, own, remoteNumber: mixed };
}

/** RA9: the open chain ends at `length`; the keys of what is missing up to there are kept and its chain key goes. */
function closedChains(
  crypto: CryptoSuite,
  receiving: readonly ReceivingChain[],
  length: number,
  now: number,
): OrReject<readonly ReceivingChain[]> {
  const [open, ...closed] = receiving;
  if (!open) return length === 0 ? [] : reject("ratchet/bad-header");
  const walked = walk(crypto, open, length, now);
  if (isReject(walked)) return walked;
  const { chainKey: _spent, ...ended } = open;
  return [{ ...ended, next: length, skipped: walked.skipped }, ...closed];
}

/** Moves an open chain to `index`, keeping the keys it passes. */
function walk(
  crypto: CryptoSuite,
  chain: ReceivingChain,
  index: number,
  now: number,
): OrReject<{ readonly chainKey: Uint8Array; readonly skipped: readonly Skipped[] }> {
  let { chainKey } = chain;
  if (!chainKey || index < chain.next) return reject("ratchet/bad-header");
  if (index - chain.next > MAX_FORWARD_JUMP) return reject("ratchet/too-far");
  if (index === chain.next) return { chainKey, skipped: chain.skipped };
  const passed: Skipped[] = [];
  for (let position = chain.next; position < index; position++) {
    passed.push({ index: position, messageKey: messageKeyOf(crypto, chainKey), at: now });
    chainKey = nextChainKey(crypto, chainKey);
  }
  return { chainKey, skipped: [...chain.skipped, ...passed] };
}

/**
 * Finds the message key for `header` and moves the chain past it.
 * @returns The chain as it would be; kept only if the wrap then opens (RA7).
 */
function takeKey(
  crypto: CryptoSuite,
  chain: ReceivingChain,
  header: Header,
  now: number,
): OrReject<{ readonly chain: ReceivingChain; readonly messageKey: Uint8Array }> {
  const { index } = header;
  if (header.mixed !== chain.mixed || !equalBytes(header.publicKey, chain.remoteKey))
    return reject("ratchet/bad-header");
  if (index < chain.next) {
    const known = chain.skipped.find((skipped) => skipped.index === index && !expired(skipped, now));
    if (!known) return reject("ratchet/duplicate");
    return {
      chain: { ...chain, skipped: chain.skipped.filter((skipped) => skipped !== known) },
      messageKey: known.messageKey,
    };
  }
  if (index >= MAX_INDEX) return reject("ratchet/bad-header");
  const walked = walk(crypto, chain, index, now);
  if (isReject(walked)) return walked;
  return {
    chain: {
      ...chain,
      chainKey: nextChainKey(crypto, walked.chainKey),
      next: index + 1,
      skipped: walked.skipped,
    },
    messageKey: messageKeyOf(crypto, walked.chainKey),
  };
}

function expired(skipped: Skipped, now: number): boolean {
  return now - skipped.at >= SKIPPED_LIFETIME_MS;
}

/** RA11, RA12: what is too old, too many or too many turns ago is forgotten, oldest first. Newest chain first in and out. */
function bounded(receiving: readonly ReceivingChain[], now: number): readonly ReceivingChain[] {
  if (receiving.every(({ skipped }) => skipped.length === 0) && receiving.length <= MAX_RECEIVING_CHAINS)
    return receiving;
  const kept: ReceivingChain[] = [];
  let room = MAX_SKIPPED;
  for (const chain of roomForChains(receiving)) {
    const alive = chain.skipped.filter((skipped) => !expired(skipped, now));
    const skipped = room === 0 ? [] : alive.slice(-room);
    room -= skipped.length;
    kept.push(skipped.length === chain.skipped.length ? chain : { ...chain, skipped });
  }
  return kept;
}

/** At most five chains: a closed one that misses nothing goes before one that does. */
function roomForChains(receiving: readonly ReceivingChain[]): readonly ReceivingChain[] {
  if (receiving.length <= MAX_RECEIVING_CHAINS) return receiving;
  const complete = receiving.findLastIndex((chain) => !chain.chainKey && chain.skipped.length === 0);
  return receiving.filter((_, i) => i !== (complete >= 0 ? complete : receiving.length - 1));
}
