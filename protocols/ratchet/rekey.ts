/**
 * The post-quantum rekey: two control messages, an encapsulation key and a ciphertext, whose secret enters the root at the
 * *offerer's* next sending step. The answerer knows the secret from the moment it answered, so it is ready before any
 * message can name the number; both directions are numbered apart and never wait for each other. Spec: ./SPEC.md RA20-RA29.
 *
 *   ours:    idle --offerRekey--> offered --finishRekey--> ready --next sending step--> mixed --they answer on it--> idle
 *   theirs:  nothing --acceptRekey--> answered --a chain of theirs that names it--> nothing
 */
import { concat, equalBytes, utf8 } from "#protocols/base/bytes.ts";
import { bytes, decode, encode, type Infer, literal, struct, uint } from "#protocols/base/codec.ts";
import { assert, isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import { rekeyKeys } from "./keys.ts";
import { MAX_INDEX, type RatchetState, REKEY_INTERVAL_MS, REKEY_MESSAGES } from "./state.ts";

/** The responder's patience: without it both would offer at the same message, at twice the bytes (RA26). */
export const REKEY_YIELD_MESSAGES = 10;

const REKEY_TAG_BYTES = 16;
const OFFER_LABEL = { initiator: utf8("skein/1/offer-i"), responder: utf8("skein/1/offer-r") } as const;
const ANSWER_LABEL = utf8("skein/1/answer");

const offerBody = { version: literal(1), number: uint(MAX_INDEX), encapsulationKey: bytes(1184) };
const offerBodySchema = struct(offerBody);
/** Wire: about 1,210 bytes. The tag is HMAC under the session's rekey key, with the offerer's role. */
const offerSchema = struct({ ...offerBody, tag: bytes(REKEY_TAG_BYTES) });

const answerBody = { version: literal(1), number: uint(MAX_INDEX), ciphertext: bytes(1088) };
const answerBodySchema = struct(answerBody);
/** Wire: about 1,115 bytes. The tag is HMAC under a key that only the KEM secret gives. */
const answerSchema = struct({ ...answerBody, tag: bytes(REKEY_TAG_BYTES) });

function otherRole(role: RatchetState["role"]): RatchetState["role"] {
  return role === "initiator" ? "responder" : "initiator";
}

function offerTag(
  crypto: CryptoSuite,
  state: RatchetState,
  offerer: RatchetState["role"],
  body: Infer<typeof offerBodySchema>,
): Uint8Array {
  const message = concat(OFFER_LABEL[offerer], encode(offerBodySchema, body));
  return crypto.hmac(state.rekeyAuthKey, message).slice(0, REKEY_TAG_BYTES);
}

function answerTag(crypto: CryptoSuite, confirmKey: Uint8Array, body: Infer<typeof answerBodySchema>): Uint8Array {
  return crypto.hmac(confirmKey, concat(ANSWER_LABEL, encode(answerBodySchema, body))).slice(0, REKEY_TAG_BYTES);
}

/** Whether a rekey of either direction is under way. */
function underWay({ rekey }: RatchetState): boolean {
  return rekey.own.type !== "idle" || rekey.answered !== undefined;
}

/** RA26: whether to call `offerRekey` now. False while one is under way. */
export function rekeyDue(state: RatchetState, now: number): boolean {
  const { messages, mixedAt } = state.rekey;
  if (underWay(state) || messages === 0) return false;
  const patience = state.role === "initiator" ? 0 : REKEY_YIELD_MESSAGES;
  return messages >= REKEY_MESSAGES + patience || now - mixedAt >= REKEY_INTERVAL_MS;
}

/**
 * RA27: twice overdue, whoever is to blame: another 50 messages, or another 7 days since a message found it due. A session
 * that merely slept is due when it wakes, not overdue. The caller then makes a new handshake.
 */
export function rekeyOverdue(state: RatchetState, now: number): boolean {
  const { messages, dueSince } = state.rekey;
  return messages >= 2 * REKEY_MESSAGES || (dueSince !== undefined && now - dueSince >= REKEY_INTERVAL_MS);
}

/**
 * Makes the offer, or the same one again while it has no answer: repeat it as often as it may have been lost.
 * Only when `rekeyDue`, or again.
 */
export async function offerRekey(
  state: RatchetState,
  env: Env,
): Promise<{ readonly state: RatchetState; readonly offer: Uint8Array }> {
  const { rekey } = state;
  assert(rekey.own.type === "idle" || rekey.own.type === "offered", "one rekey of ours at a time");
  const offered =
    rekey.own.type === "offered"
      ? state
      : {
          ...state,
          rekey: { ...rekey, ownNumber: rekey.ownNumber + 1, own: { type: "offered", seed: env.random(64) } as const },
        };
  return { state: offered, offer: await offerOf(offered, env.crypto) };
}

async function offerOf(state: RatchetState, crypto: CryptoSuite): Promise<Uint8Array> {
  const { own, ownNumber } = state.rekey;
  assert(own.type === "offered", "an offer is out");
  const body = { version: 1, number: ownNumber, encapsulationKey: await crypto.mlkem768.publicKey(own.seed) } as const;
  return encode(offerSchema, { ...body, tag: offerTag(crypto, state, state.role, body) });
}

/**
 * Answers their offer. The same offer again gives the same answer, because the first may have been lost.
 * @returns Rejects `codec/…`, `ratchet/bad-offer` (not from the other end of this session), `ratchet/rekey-stale` (mixed in
 * long ago), `ratchet/rekey-unexpected` (numbers are consecutive), `ratchet/rekey-conflict` (two offers of one number).
 */
export async function acceptRekey(
  state: RatchetState,
  offer: Uint8Array,
  env: Env,
): Promise<OrReject<{ readonly state: RatchetState; readonly answer: Uint8Array }>> {
  const { crypto } = env;
  const { rekey } = state;
  const parsed = decode(offerSchema, offer);
  if (isReject(parsed)) return parsed;
  const { tag, ...body } = parsed;
  if (!equalBytes(tag, offerTag(crypto, state, otherRole(state.role), body))) return reject("ratchet/bad-offer");
  if (body.number <= rekey.remoteNumber) return reject("ratchet/rekey-stale");
  if (body.number > rekey.remoteNumber + 1) return reject("ratchet/rekey-unexpected");
  const offerHash = crypto.sha256(offer);
  if (rekey.answered) {
    if (!equalBytes(rekey.answered.offerHash, offerHash)) return reject("ratchet/rekey-conflict");
    return { state, answer: rekey.answered.answer };
  }

  const encapsulated = await crypto.mlkem768.encapsulate(body.encapsulationKey, env.random(32));
  if (!encapsulated) return reject("ratchet/bad-offer");
  const { ciphertext, sharedSecret } = encapsulated;
  const keys = rekeyKeys(crypto, { kemSecret: sharedSecret, authKey: state.rekeyAuthKey, offerHash, ciphertext });
  const answerFields = { version: 1, number: body.number, ciphertext } as const;
  const answer = encode(answerSchema, { ...answerFields, tag: answerTag(crypto, keys.confirmKey, answerFields) });
  return { state: { ...state, rekey: { ...rekey, answered: { offerHash, answer, secret: keys.secret } } }, answer };
}

/**
 * Takes their answer. Its secret enters the root at our next sending step.
 * @returns Rejects `codec/…`, `ratchet/rekey-stale` (already taken), `ratchet/rekey-unexpected` (no such offer),
 * `ratchet/bad-answer` (the KEM secret is another).
 */
export async function finishRekey(
  state: RatchetState,
  answer: Uint8Array,
  env: Env,
): Promise<OrReject<{ readonly state: RatchetState }>> {
  const { crypto } = env;
  const { rekey } = state;
  const parsed = decode(answerSchema, answer);
  if (isReject(parsed)) return parsed;
  const { tag, ...body } = parsed;
  if (body.number > rekey.ownNumber) return reject("ratchet/rekey-unexpected");
  if (body.number < rekey.ownNumber || rekey.own.type !== "offered") return reject("ratchet/rekey-stale");

  const offerHash = crypto.sha256(await offerOf(state, crypto));
  const { ciphertext } = body;
  const kemSecret = await crypto.mlkem768.decapsulate(rekey.own.seed, ciphertext);
  const keys = rekeyKeys(crypto, { kemSecret, authKey: state.rekeyAuthKey, offerHash, ciphertext });
  if (!equalBytes(tag, answerTag(crypto, keys.confirmKey, body))) return reject("ratchet/bad-answer");
  return { state: { ...state, rekey: { ...rekey, own: { type: "ready", secret: keys.secret } } } };
}
