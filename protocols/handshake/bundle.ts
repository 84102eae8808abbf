/**
 * What a device publishes so that others can start a session while it is offline: its certificate and one prekey of each
 * kind. The public half; prekeys.ts holds the private one. Spec: ./SPEC.md HS1-HS9.
 */
import { fromHex } from "#protocols/base/bytes.ts";
import {
  bytes,
  choice,
  decode,
  encode,
  id,
  type Infer,
  literal,
  optional,
  struct,
  uint,
} from "#protocols/base/codec.ts";
import type { DeviceId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import { sign, verify } from "#protocols/base/sign.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { deviceCertificateSchema, verifyCertificate } from "#protocols/identity/identity.ts";

/** Random, so that it says nothing of how many prekeys a device has handed out. 2^64 values, a few hundred alive. */
export const KEY_ID_BYTES = 8;
export const X25519_KEY_BYTES = 32;
export const KEM_KEY_BYTES = 1184;
export const KEM_CIPHERTEXT_BYTES = 1088;
const SIGNATURE_BYTES = 64;

/** What a prekey is good for. Signed with the key, so that one kind never passes for another (HS2). */
const PREKEY_KINDS = { signed: 1, "kem-one-time": 2, "kem-last-resort": 3 } as const;
export type PrekeyKind = keyof typeof PREKEY_KINDS;

export const keyId = bytes(KEY_ID_BYTES);

const curvePrekey = { id: keyId, publicKey: bytes(X25519_KEY_BYTES), expiresAt: uint() };
const kemPrekey = {
  kind: choice({ "one-time": 1, "last-resort": 2 }),
  id: keyId,
  publicKey: bytes(KEM_KEY_BYTES),
  expiresAt: uint(),
};

/** The facts of a bundle: everything but its signatures. This is what the handshake's transcript covers (HS20). */
const facts = {
  version: literal(1),
  certificate: deviceCertificateSchema,
  bundleKey: struct({ id: keyId, publicKey: bytes(X25519_KEY_BYTES) }),
  signedPrekey: struct(curvePrekey),
  kemPrekey: struct(kemPrekey),
  oneTimePrekey: optional(struct(curvePrekey)),
};
export const bundleFactsSchema = struct(facts);
export type BundleFacts = Infer<typeof bundleFactsSchema>;

const unsigned = {
  ...facts,
  signedPrekey: struct({ ...curvePrekey, signature: bytes(SIGNATURE_BYTES) }),
  kemPrekey: struct({ ...kemPrekey, signature: bytes(SIGNATURE_BYTES) }),
};
const unsignedBundleSchema = struct(unsigned);

/** Wire: 1,684 bytes, with a one-time prekey 1,736: a sealed directory record of 8 KiB holds it (HS8). */
export const prekeyBundleSchema = struct({ ...unsigned, signature: bytes(SIGNATURE_BYTES) });
export type PrekeyBundle = Infer<typeof prekeyBundleSchema>;

export function encodeBundle(bundle: PrekeyBundle): Uint8Array {
  return encode(prekeyBundleSchema, bundle);
}

/** Parses only; `initiate` verifies. @returns Rejects `codec/…`. */
export function decodeBundle(raw: Uint8Array): OrReject<PrekeyBundle> {
  return decode(prekeyBundleSchema, raw);
}

const signedPrekeySchema = struct({
  version: literal(1),
  device: id<DeviceId>(),
  kind: choice(PREKEY_KINDS),
  id: keyId,
  publicKey: bytes({ max: KEM_KEY_BYTES }),
  expiresAt: uint(),
});

type Prekey = { readonly id: Uint8Array; readonly publicKey: Uint8Array; readonly expiresAt: number };

/** What a prekey's signature is over (HS2). */
function prekeyMessage(device: DeviceId, kind: PrekeyKind, prekey: Prekey): Uint8Array {
  const { id: prekeyId, publicKey, expiresAt } = prekey;
  return encode(signedPrekeySchema, { version: 1, device, kind, id: prekeyId, publicKey, expiresAt });
}

/** Signs both signed prekeys and then the whole. The signatures need not be the same when it is made again. */
export async function signBundle(
  crypto: CryptoSuite,
  signSeed: Uint8Array,
  bundle: BundleFacts,
): Promise<PrekeyBundle> {
  const { device } = bundle.certificate;
  const signedPrekey = {
    ...bundle.signedPrekey,
    signature: await sign(crypto, "prekey", signSeed, prekeyMessage(device, "signed", bundle.signedPrekey)),
  };
  const kem = {
    ...bundle.kemPrekey,
    signature: await sign(crypto, "prekey", signSeed, prekeyMessage(device, kemKind(bundle), bundle.kemPrekey)),
  };
  const whole = { ...bundle, signedPrekey, kemPrekey: kem };
  return { ...whole, signature: await sign(crypto, "prekeyBundle", signSeed, encode(unsignedBundleSchema, whole)) };
}

function kemKind(bundle: BundleFacts): PrekeyKind {
  return bundle.kemPrekey.kind === "one-time" ? "kem-one-time" : "kem-last-resort";
}

/**
 * Whether this bundle was made by the device its certificate names and may be used now (HS3-HS5). That the certificate is
 * not revoked is for the device list to say.
 * @returns The same bundle; rejects `handshake/expired`, `handshake/mixed-one-time`, `handshake/bad-prekey-signature`,
 * `handshake/bad-bundle-signature`, and those of `verifyCertificate`.
 */
export async function verifyBundle(
  crypto: CryptoSuite,
  bundle: PrekeyBundle,
  options: { readonly now: number },
): Promise<OrReject<PrekeyBundle>> {
  const { signedPrekey, kemPrekey: kem, oneTimePrekey } = bundle;
  // Cheap checks first: an expired bundle costs no signature.
  const expiresAt = Math.min(
    signedPrekey.expiresAt,
    kem.expiresAt,
    oneTimePrekey?.expiresAt ?? Number.MAX_SAFE_INTEGER,
  );
  if (options.now >= expiresAt) return reject("handshake/expired");
  if ((kem.kind === "one-time") !== (oneTimePrekey !== undefined)) return reject("handshake/mixed-one-time");

  const certificate = await verifyCertificate(crypto, bundle.certificate);
  if (isReject(certificate)) return certificate;
  const { device } = bundle.certificate;
  const publicKey = fromHex(device);
  assert(publicKey, "a device id is hexadecimal");
  const { signature, ...whole } = bundle;
  const message = encode(unsignedBundleSchema, whole);
  if (!(await verify(crypto, "prekeyBundle", { publicKey, message, signature }))) {
    return reject("handshake/bad-bundle-signature");
  }
  for (const [kind, prekey] of [
    ["signed", signedPrekey],
    [kemKind(bundle), kem],
  ] as const) {
    const signed = { publicKey, message: prekeyMessage(device, kind, prekey), signature: prekey.signature };
    if (!(await verify(crypto, "prekey", signed))) return reject("handshake/bad-prekey-signature");
  }
  return bundle;
}

/** A bundle's facts, for the transcript. */
export function bundleFacts(bundle: PrekeyBundle): BundleFacts {
  const { signature: _whole, signedPrekey, kemPrekey: kem, ...rest } = bundle;
  const { signature: _signed, ...signedFacts } = signedPrekey;
  const { signature: _kem, ...kemFacts } = kem;
  return { ...rest, signedPrekey: signedFacts, kemPrekey: kemFacts };
}
