/**
 * The opaque thing that travels and is stored. Everybody on its way can check that it belongs to its topic; only members can
 * open it; nobody learns who wrote it. Spec: ./SPEC.md EN6-EN16. This is the folder's public file.
 *
 * Wire: [version, topic (32), hour, lifetime, kind, nonce (12) | ciphertext (256..65,536) | tag (16), signature (64)]
 */
import { concat, fromHex, toHex } from "#protocols/base/bytes.ts";
import { bytes, choice, decode, encode, id, type Infer, literal, struct, uint } from "#protocols/base/codec.ts";
import type { EnvelopeId, TopicId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import { sign, verify } from "#protocols/base/sign.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import { expiryOf, hourOf, LIFETIMES, type Lifetime, MAX_HOUR, timeFault } from "./lifetime.ts";
import { isBucket, MAX_PADDED_BYTES, MAX_PAYLOAD_BYTES, MIN_PADDED_BYTES, pad, unpad } from "./padding.ts";
import type { TopicKeys } from "./roots.ts";

export * from "./inbox.ts";
export { DAY_MS, HOUR_MS, LIFETIME_MS, type Lifetime } from "./lifetime.ts";
export { MAX_PAYLOAD_BYTES } from "./padding.ts";
export * from "./roots.ts";

/** Ephemeral ones (typing, presence, call signalling) are gossiped and never stored. */
export type EnvelopeKind = "stored" | "ephemeral";

export type EnvelopeInfo = {
  readonly id: EnvelopeId;
  readonly topic: TopicId;
  /** Hours since 1970 of the sealing, by the sender's network time. */
  readonly hour: number;
  readonly lifetime: Lifetime;
  readonly kind: EnvelopeKind;
  /** Of the whole envelope, bytes. */
  readonly size: number;
  readonly expiresAt: number;
};

const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const SEAL_BYTES = NONCE_BYTES + TAG_BYTES;
const SIGNATURE_BYTES = 64;

const clear = {
  version: literal(1),
  topic: id<TopicId>(),
  hour: uint(MAX_HOUR),
  lifetime: choice(LIFETIMES),
  kind: choice({ stored: 1, ephemeral: 2 } satisfies Record<EnvelopeKind, number>),
};
const clearSchema = struct(clear);
const envelopeSchema = struct({
  ...clear,
  sealed: bytes({ min: SEAL_BYTES + MIN_PADDED_BYTES, max: SEAL_BYTES + MAX_PADDED_BYTES }),
  signature: bytes(SIGNATURE_BYTES),
});
type Envelope = Infer<typeof envelopeSchema>;

/** Array 1, version 1, topic 34, hour 5, lifetime 1, kind 1, sealed 5 + n, signature 66. */
export const MAX_ENVELOPE_BYTES = 114 + SEAL_BYTES + MAX_PADDED_BYTES;

/** The clear fields are the associated data: none can be changed without the seal breaking (EN9). */
function associatedData(envelope: Infer<typeof clearSchema>): Uint8Array {
  return encode(clearSchema, envelope);
}

/** SHA-256 of everything but the signature; it is what the topic key signs. */
function hashOf(crypto: CryptoSuite, wire: Uint8Array): Uint8Array {
  return crypto.sha256(wire.subarray(0, wire.length - SIGNATURE_BYTES));
}

/** @param options.payload - At most MAX_PAYLOAD_BYTES, which is the caller's to keep: chunks are not made here. */
export async function sealEnvelope(
  options: {
    readonly topic: TopicKeys;
    readonly kind: EnvelopeKind;
    readonly lifetime: Lifetime;
    readonly payload: Uint8Array;
  },
  env: Env,
): Promise<{ readonly id: EnvelopeId; readonly bytes: Uint8Array }> {
  const { topic, kind, lifetime, payload } = options;
  assert(payload.length <= MAX_PAYLOAD_BYTES, "payload fits in an envelope");
  const head = { version: 1 as const, topic: topic.id, hour: hourOf(env.now), lifetime, kind };
  const nonce = env.random(NONCE_BYTES);
  const ciphertext = await env.crypto.chacha20poly1305.seal({
    key: topic.sealKey,
    nonce,
    data: pad(payload),
    associatedData: associatedData(head),
  });
  const envelope: Envelope = { ...head, sealed: concat(nonce, ciphertext), signature: new Uint8Array(SIGNATURE_BYTES) };
  const wire = encode(envelopeSchema, envelope);
  const hash = hashOf(env.crypto, wire);
  wire.set(await sign(env.crypto, "envelope", topic.seed, hash), wire.length - SIGNATURE_BYTES);
  return { id: toHex(hash) as EnvelopeId, bytes: wire };
}

type Parsed = { readonly envelope: Envelope; readonly hash: Uint8Array; readonly info: EnvelopeInfo };

function parse(crypto: CryptoSuite, wire: Uint8Array): OrReject<Parsed> {
  if (wire.length > MAX_ENVELOPE_BYTES) return reject("envelope/too-large");
  const envelope = decode(envelopeSchema, wire);
  if (isReject(envelope)) return envelope;
  if (!isBucket(envelope.sealed.length - SEAL_BYTES)) return reject("envelope/not-padded");
  const hash = hashOf(crypto, wire);
  const { topic, hour, lifetime, kind } = envelope;
  const expiresAt = expiryOf(hour, lifetime);
  return {
    envelope,
    hash,
    info: { id: toHex(hash) as EnvelopeId, topic, hour, lifetime, kind, size: wire.length, expiresAt },
  };
}

/** Form and bounds alone: what it claims to be, cheap enough to ask before anything else. Proves nothing. */
export function inspectEnvelope(crypto: CryptoSuite, wire: Uint8Array): OrReject<EnvelopeInfo> {
  const parsed = parse(crypto, wire);
  return isReject(parsed) ? parsed : parsed.info;
}

/**
 * All that someone who is not a member can check, and every hop and mailbox must (EN13): size, form, padding, hour, expiry,
 * and the signature by the topic's key. Cheap checks come first.
 * @param options.now - Network time.
 */
export async function verifyEnvelope(
  crypto: CryptoSuite,
  wire: Uint8Array,
  options: { readonly now: number },
): Promise<OrReject<EnvelopeInfo>> {
  const parsed = parse(crypto, wire);
  if (isReject(parsed)) return parsed;
  const { envelope, hash, info } = parsed;
  const fault = timeFault(envelope.hour, envelope.lifetime, options.now);
  if (fault !== undefined) return reject(`envelope/${fault}`);
  const publicKey = fromHex(envelope.topic)!;
  const valid = await verify(crypto, "envelope", { publicKey, message: hash, signature: envelope.signature });
  return valid ? info : reject("envelope/bad-signature");
}

/** For members. Does not look at the signature or the time: `verifyEnvelope` came before, at the door (EN14). */
export async function openEnvelope(
  crypto: CryptoSuite,
  topic: TopicKeys,
  wire: Uint8Array,
): Promise<OrReject<{ readonly info: EnvelopeInfo; readonly payload: Uint8Array }>> {
  const parsed = parse(crypto, wire);
  if (isReject(parsed)) return parsed;
  const { envelope, info } = parsed;
  if (envelope.topic !== topic.id) return reject("envelope/wrong-topic");
  const padded = await crypto.chacha20poly1305.open({
    key: topic.sealKey,
    nonce: envelope.sealed.subarray(0, NONCE_BYTES),
    data: envelope.sealed.subarray(NONCE_BYTES),
    associatedData: associatedData(envelope),
  });
  if (padded === undefined) return reject("envelope/bad-seal");
  const payload = unpad(padded, "envelope/bad-padding");
  return isReject(payload) ? payload : { info, payload };
}
