/**
 * First contact. Somebody who holds an invite's capability leaves a sealed deposit at a mailbox of the account, which learns
 * the inbox, the capability and that the deposit is genuine, not from whom it is. Spec: ./SPEC.md EN20-EN29.
 *
 * Wire: [version, inbox (32), capability (32), redeemer (32), hour, lifetime, enc (32) | ciphertext (256..65,536) | tag (16),
 * signature by the capability (64), signature by the redeemer (64)]
 */
import { fromHex, toHex, utf8 } from "#protocols/base/bytes.ts";
import { bytes, choice, decode, encode, id, type Infer, literal, struct, uint } from "#protocols/base/codec.ts";
import { hpkeOpen, hpkeSeal } from "#protocols/base/hpke.ts";
import type { EnvelopeId, InboxId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import { sign, verify } from "#protocols/base/sign.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import type { InboxKeys } from "#protocols/identity/identity.ts";
import { DAY_MS, expiryOf, hourOf, LIFETIMES, type Lifetime, MAX_HOUR, timeFault } from "./lifetime.ts";
import { isBucket, MAX_PADDED_BYTES, MAX_PAYLOAD_BYTES, MIN_PADDED_BYTES, pad, unpad } from "./padding.ts";

/** Longest life of a capability at a mailbox: a mailbox must be able to forget (EN24). */
export const MAX_GRANT_MS = 366 * DAY_MS;

/** Most redemptions of one capability: each may leave a 64 KiB deposit (EN24). */
export const MAX_GRANT_USES = 1_000;

const HPKE_INFO = utf8("skein/1/inbox-deposit");
const HPKE_BYTES = 32 + 16;
const SIGNATURE_BYTES = 64;
/** Both signatures with their two-byte heads end the wire; what is before them is signed. */
const SIGNATURES_BYTES = 2 * (SIGNATURE_BYTES + 2);

const clear = {
  version: literal(1),
  inbox: id<InboxId>(),
  /** Ed25519 public key of the invite's capability. */
  capability: bytes(32),
  /** Ed25519 public key made for this redemption and kept, so that a repeat counts once (EN23). */
  redeemer: bytes(32),
  hour: uint(MAX_HOUR),
  lifetime: choice(LIFETIMES),
};
const clearSchema = struct(clear);
export const inboxDepositSchema = struct({
  ...clear,
  sealed: bytes({ min: HPKE_BYTES + MIN_PADDED_BYTES, max: HPKE_BYTES + MAX_PADDED_BYTES }),
  capabilitySignature: bytes(SIGNATURE_BYTES),
  redeemerSignature: bytes(SIGNATURE_BYTES),
});
export type InboxDeposit = Infer<typeof inboxDepositSchema>;

/** Array 1, version 1, inbox 34, capability 34, redeemer 34, hour 5, lifetime 1, sealed 5 + n, signatures 132. */
export const MAX_DEPOSIT_BYTES = 247 + HPKE_BYTES + MAX_PADDED_BYTES;

/** What a mailbox may know of a deposit. Capability and redeemer are lower-case hex, to be map keys. */
export type DepositInfo = {
  /** SHA-256 of everything but the signatures. */
  readonly id: EnvelopeId;
  readonly inbox: InboxId;
  readonly capability: string;
  readonly redeemer: string;
  readonly hour: number;
  readonly lifetime: Lifetime;
  readonly size: number;
  readonly expiresAt: number;
};

function hashOf(crypto: CryptoSuite, wire: Uint8Array): Uint8Array {
  return crypto.sha256(wire.subarray(0, wire.length - SIGNATURES_BYTES));
}

/** @returns Reject `inbox/bad-key` when the inbox's seal key, which came with the invite, is no usable X25519 key. */
export async function makeDeposit(
  options: {
    readonly inbox: { readonly id: InboxId; readonly sealKey: Uint8Array };
    /** From the invite. */
    readonly capabilitySeed: Uint8Array;
    /** Fresh for each redemption and kept for its repeats. */
    readonly redeemerSeed: Uint8Array;
    readonly lifetime: Lifetime;
    /** At most MAX_PAYLOAD_BYTES. */
    readonly payload: Uint8Array;
  },
  env: Env,
): Promise<OrReject<{ readonly id: EnvelopeId; readonly bytes: Uint8Array }>> {
  const { inbox, capabilitySeed, redeemerSeed, lifetime, payload } = options;
  const { crypto } = env;
  assert(payload.length <= MAX_PAYLOAD_BYTES, "payload fits in a deposit");
  const head = {
    version: 1 as const,
    inbox: inbox.id,
    capability: await crypto.ed25519.publicKey(capabilitySeed),
    redeemer: await crypto.ed25519.publicKey(redeemerSeed),
    hour: hourOf(env.now),
    lifetime,
  };
  const sealed = await hpkeSeal(crypto, {
    publicKey: inbox.sealKey,
    info: HPKE_INFO,
    associatedData: encode(clearSchema, head),
    plaintext: pad(payload),
    ephemeralSecret: env.random(32),
  });
  if (sealed === undefined) return reject("inbox/bad-key");
  const unsigned = new Uint8Array(SIGNATURE_BYTES);
  const deposit = { ...head, sealed, capabilitySignature: unsigned, redeemerSignature: unsigned };
  const hash = hashOf(crypto, encode(inboxDepositSchema, deposit));
  const wire = encode(inboxDepositSchema, {
    ...deposit,
    capabilitySignature: await sign(crypto, "inboxDeposit", capabilitySeed, hash),
    redeemerSignature: await sign(crypto, "inboxRedeemer", redeemerSeed, hash),
  });
  return { id: toHex(hash) as EnvelopeId, bytes: wire };
}

function parse(
  crypto: CryptoSuite,
  wire: Uint8Array,
): OrReject<{ readonly deposit: InboxDeposit; readonly hash: Uint8Array; readonly info: DepositInfo }> {
  if (wire.length > MAX_DEPOSIT_BYTES) return reject("inbox/too-large");
  const deposit = decode(inboxDepositSchema, wire);
  if (isReject(deposit)) return deposit;
  if (!isBucket(deposit.sealed.length - HPKE_BYTES)) return reject("inbox/not-padded");
  const hash = hashOf(crypto, wire);
  const { inbox, hour, lifetime } = deposit;
  const info = {
    id: toHex(hash) as EnvelopeId,
    inbox,
    capability: toHex(deposit.capability),
    redeemer: toHex(deposit.redeemer),
    hour,
    lifetime,
    size: wire.length,
    expiresAt: expiryOf(hour, lifetime),
  };
  return { deposit, hash, info };
}

/** All that a mailbox can check by itself (EN22). Whether the capability is granted and not used up is its books' business. */
export async function verifyDeposit(
  crypto: CryptoSuite,
  wire: Uint8Array,
  options: { readonly now: number },
): Promise<OrReject<DepositInfo>> {
  const parsed = parse(crypto, wire);
  if (isReject(parsed)) return parsed;
  const { deposit, hash, info } = parsed;
  const fault = timeFault(deposit.hour, deposit.lifetime, options.now);
  if (fault !== undefined) return reject(`inbox/${fault}`);
  const byCapability = { publicKey: deposit.capability, message: hash, signature: deposit.capabilitySignature };
  if (!(await verify(crypto, "inboxDeposit", byCapability))) return reject("inbox/bad-capability-signature");
  const byRedeemer = { publicKey: deposit.redeemer, message: hash, signature: deposit.redeemerSignature };
  if (!(await verify(crypto, "inboxRedeemer", byRedeemer))) return reject("inbox/bad-redeemer-signature");
  return info;
}

/** For the owner's devices. `verifyDeposit` comes first: a mailbox is trusted with nothing (EN25). */
export async function openDeposit(
  crypto: CryptoSuite,
  keys: Omit<InboxKeys, "seed">,
  wire: Uint8Array,
): Promise<OrReject<{ readonly info: DepositInfo; readonly payload: Uint8Array }>> {
  const parsed = parse(crypto, wire);
  if (isReject(parsed)) return parsed;
  const { deposit, info } = parsed;
  if (deposit.inbox !== keys.id) return reject("inbox/wrong-inbox");
  const padded = await hpkeOpen(crypto, {
    secret: keys.sealSecret,
    publicKey: keys.sealKey,
    info: HPKE_INFO,
    associatedData: encode(clearSchema, deposit),
    sealed: deposit.sealed,
  });
  if (padded === undefined) return reject("inbox/bad-seal");
  const payload = unpad(padded, "inbox/bad-padding");
  return isReject(payload) ? payload : { info, payload };
}

const grantFields = {
  version: literal(1),
  inbox: id<InboxId>(),
  capability: bytes(32),
  /** How many different redeemers may use it. */
  uses: uint(MAX_GRANT_USES),
  expiresAt: uint(2 ** 48),
};
const unsignedGrantSchema = struct(grantFields);
/** The owner's word to a mailbox: take deposits made with this capability. */
export const capabilityGrantSchema = struct({ ...grantFields, signature: bytes(SIGNATURE_BYTES) });
export type CapabilityGrant = Infer<typeof capabilityGrantSchema>;

const revocationFields = { version: literal(1), inbox: id<InboxId>(), capability: bytes(32), revokedAt: uint(2 ** 48) };
const unsignedRevocationSchema = struct(revocationFields);
/** Takes a grant back, for good: the mailbox remembers it as long as any grant could live (EN27). */
export const capabilityRevocationSchema = struct({ ...revocationFields, signature: bytes(SIGNATURE_BYTES) });
export type CapabilityRevocation = Infer<typeof capabilityRevocationSchema>;

type Owner = Pick<InboxKeys, "id" | "seed">;

export async function makeGrant(
  crypto: CryptoSuite,
  keys: Owner,
  options: { readonly capability: Uint8Array; readonly uses: number; readonly expiresAt: number },
): Promise<CapabilityGrant> {
  assert(options.uses > 0, "a grant allows at least one use");
  const { capability, uses, expiresAt } = options;
  const unsigned = { version: 1 as const, inbox: keys.id, capability, uses, expiresAt };
  const signature = await sign(crypto, "inboxCapability", keys.seed, encode(unsignedGrantSchema, unsigned));
  return { ...unsigned, signature };
}

export async function verifyGrant(
  crypto: CryptoSuite,
  grant: CapabilityGrant,
  options: { readonly now: number },
): Promise<OrReject<CapabilityGrant>> {
  if (grant.uses === 0) return reject("inbox/no-uses");
  if (grant.expiresAt <= options.now) return reject("inbox/grant-expired");
  if (grant.expiresAt > options.now + MAX_GRANT_MS) return reject("inbox/grant-too-long");
  const publicKey = fromHex(grant.inbox)!;
  const message = encode(unsignedGrantSchema, grant);
  const valid = await verify(crypto, "inboxCapability", { publicKey, message, signature: grant.signature });
  return valid ? grant : reject("inbox/bad-grant-signature");
}

export async function makeGrantRevocation(
  crypto: CryptoSuite,
  keys: Owner,
  options: { readonly capability: Uint8Array; readonly now: number },
): Promise<CapabilityRevocation> {
  const unsigned = { version: 1 as const, inbox: keys.id, capability: options.capability, revokedAt: options.now };
  const signature = await sign(crypto, "inboxRevocation", keys.seed, encode(unsignedRevocationSchema, unsigned));
  return { ...unsigned, signature };
}

export async function verifyGrantRevocation(
  crypto: CryptoSuite,
  revocation: CapabilityRevocation,
): Promise<OrReject<CapabilityRevocation>> {
  const publicKey = fromHex(revocation.inbox)!;
  const message = encode(unsignedRevocationSchema, revocation);
  const valid = await verify(crypto, "inboxRevocation", { publicKey, message, signature: revocation.signature });
  return valid ? revocation : reject("inbox/bad-revocation-signature");
}
