/**
 * PQXDH between two devices (X25519 and ML-KEM-768): one message from the initiator, none back, and both hold the secret
 * from which their Double Ratchet starts. Pure; what `respond` returns is committed together with the session it made.
 * Spec: ./SPEC.md HS1-HS30.
 *
 *   initiator                                              responder
 *   bundle --verify--> initiate --init (1,536 bytes)--> respond --verify certificate, find keys, confirm--> seed
 *      seed                                                store: one-time pair used, handshake remembered
 */
import { concat, equalBytes, utf8, zero } from "#protocols/base/bytes.ts";
import { bytes, decode, encode, id, type Infer, literal, optional, struct } from "#protocols/base/codec.ts";
import { HPKE_OVERHEAD, hpkeOpen, hpkeSeal } from "#protocols/base/hpke.ts";
import type { AccountId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import {
  certificateHash,
  type DeviceCertificate,
  deviceCertificateSchema,
  verifyCertificate,
} from "#protocols/identity/identity.ts";
import {
  type BundleFacts,
  bundleFacts,
  bundleFactsSchema,
  KEM_CIPHERTEXT_BYTES,
  KEY_ID_BYTES,
  keyId,
  type PrekeyBundle,
  verifyBundle,
  X25519_KEY_BYTES,
} from "./bundle.ts";
import {
  bundleFactsOf,
  findGeneration,
  type Generation,
  MAX_ONE_TIME_USES,
  MAX_SEEN,
  type OneTimePair,
  pairAlive,
  type PrekeyStore,
  SEEN_BYTES,
  withGeneration,
} from "./prekeys.ts";

export { decodeBundle, encodeBundle, type PrekeyBundle, prekeyBundleSchema, verifyBundle } from "./bundle.ts";
export {
  createPrekeys,
  dropInvite,
  makeBundle,
  oneTimeRemaining,
  type PrekeyStore,
  prekeyStoreSchema,
  type Purpose,
  rotate,
  rotationDue,
} from "./prekeys.ts";

/** What both sides start their ratchet with. */
export type SessionSeed = {
  /** 32 bytes. Spent by starting the session. */
  readonly secret: Uint8Array;
  /** 32 bytes: hash of all that both sides must agree on (HS20). */
  readonly associatedData: Uint8Array;
  /** 32 bytes: names the session on both sides. Not secret. */
  readonly handshakeHash: Uint8Array;
} & (
  | { readonly role: "initiator"; /** The responder's signed prekey. */ readonly ratchetKey: Uint8Array }
  | {
      readonly role: "responder";
      /** Our signed prekey. */
      readonly ratchetKey: { readonly secret: Uint8Array; readonly publicKey: Uint8Array };
    }
);

/** Wire: bundle key id (8) | HPKE encapsulation (32) | sealed message (1,480) | tag (16). Always this long (HS25). */
export const INIT_BYTES = 1536;
const INIT_PLAINTEXT_BYTES = INIT_BYTES - KEY_ID_BYTES - HPKE_OVERHEAD;
const HASH_BYTES = 32;

const INFO_SEAL = utf8("skein/1/initial-message");
const INFO_KEYS = utf8("skein/1/pqxdh x25519 ml-kem-768 sha-256");
const LABEL_TRANSCRIPT = utf8("skein/1/handshake");
const LABEL_SESSION = utf8("skein/1/session");

/** PQXDH's F: no X25519 public key encodes so, hence no DH input of another protocol begins so. */
const F = new Uint8Array(32).fill(0xff);

/** What is inside the seal. Everything else the responder knows by the ids. */
const initialMessageSchema = struct({
  version: literal(1),
  /** 1: X25519, ML-KEM-768, HKDF-SHA-256, ChaCha20-Poly1305. */
  suite: literal(1),
  certificate: deviceCertificateSchema,
  /** The initiator's device list, and what it believes the responder's to be. */
  listHash: bytes(HASH_BYTES),
  remoteListHash: bytes(HASH_BYTES),
  ephemeral: bytes(X25519_KEY_BYTES),
  signedPrekey: keyId,
  kemPrekey: keyId,
  oneTimePrekey: optional(keyId),
  ciphertext: bytes(KEM_CIPHERTEXT_BYTES),
  confirmation: bytes(HASH_BYTES),
});
type InitialMessage = Infer<typeof initialMessageSchema>;

/** HS20: what the keys depend on. A difference in any of it gives the two sides different keys. */
const transcriptSchema = struct({
  version: literal(1),
  suite: literal(1),
  initiator: id<AccountId>(),
  responder: id<AccountId>(),
  initiatorCertificate: bytes(HASH_BYTES),
  responderCertificate: bytes(HASH_BYTES),
  initiatorList: bytes(HASH_BYTES),
  responderList: bytes(HASH_BYTES),
  ephemeral: bytes(X25519_KEY_BYTES),
  ciphertext: bytes(KEM_CIPHERTEXT_BYTES),
  bundle: bundleFactsSchema,
});

type Agreement = {
  readonly initiator: DeviceCertificate;
  readonly initiatorList: Uint8Array;
  readonly responderList: Uint8Array;
  readonly ephemeral: Uint8Array;
  readonly ciphertext: Uint8Array;
  readonly bundle: BundleFacts;
  /** DH1, DH2, DH3 and, with a one-time prekey, DH4. */
  readonly shared: readonly Uint8Array[];
  readonly kemSecret: Uint8Array;
};

/** The key schedule, the same on both sides (HS20-HS22). */
function deriveKeys(crypto: CryptoSuite, agreement: Agreement) {
  const { initiator, bundle } = agreement;
  const transcript = encode(transcriptSchema, {
    version: 1,
    suite: 1,
    initiator: initiator.account,
    responder: bundle.certificate.account,
    initiatorCertificate: certificateHash(crypto, initiator),
    responderCertificate: certificateHash(crypto, bundle.certificate),
    initiatorList: agreement.initiatorList,
    responderList: agreement.responderList,
    ephemeral: agreement.ephemeral,
    ciphertext: agreement.ciphertext,
    bundle,
  });
  const handshakeHash = crypto.sha256(concat(LABEL_TRANSCRIPT, transcript));
  const ikm = concat(F, ...agreement.shared, agreement.kemSecret);
  const derived = crypto.hkdf({ ikm, info: concat(INFO_KEYS, handshakeHash), length: 64 });
  const secret = derived.slice(0, 32);
  const confirmation = crypto.hmac(derived.subarray(32), handshakeHash);
  zero(ikm, derived, agreement.kemSecret, ...agreement.shared);
  return { secret, confirmation, handshakeHash, associatedData: crypto.sha256(concat(LABEL_SESSION, handshakeHash)) };
}

/**
 * Starts a session with the device that made `bundle`, which need not be there.
 * @param options.self.listHash - Hash of our own device list; `remoteListHash` of theirs as we know it.
 * @returns The seed, and the initial message to repeat until they have answered; rejects those of `verifyBundle`,
 * `handshake/self`, `handshake/bad-key`.
 */
export async function initiate(
  options: {
    readonly self: {
      readonly certificate: DeviceCertificate;
      readonly dhSecret: Uint8Array;
      readonly listHash: Uint8Array;
    };
    readonly bundle: PrekeyBundle;
    readonly remoteListHash: Uint8Array;
  },
  env: Env,
): Promise<OrReject<{ readonly seed: SessionSeed; readonly init: Uint8Array }>> {
  const { self, remoteListHash } = options;
  const { crypto } = env;
  const bundle = await verifyBundle(crypto, options.bundle, { now: env.now });
  if (isReject(bundle)) return bundle;
  if (bundle.certificate.device === self.certificate.device) return reject("handshake/self");

  const ephemeralSecret = env.random(32);
  const ephemeral = await crypto.x25519.publicKey(ephemeralSecret);
  const encapsulated = await crypto.mlkem768.encapsulate(bundle.kemPrekey.publicKey, env.random(32));
  const { signedPrekey, oneTimePrekey } = bundle;
  const shared = await agree(crypto, [
    [self.dhSecret, signedPrekey.publicKey],
    [ephemeralSecret, bundle.certificate.dhKey],
    [ephemeralSecret, signedPrekey.publicKey],
    ...(oneTimePrekey ? [[ephemeralSecret, oneTimePrekey.publicKey] as const] : []),
  ]);
  zero(ephemeralSecret);
  if (!encapsulated || !shared) return reject("handshake/bad-key");
  const { ciphertext } = encapsulated;
  const keys = deriveKeys(crypto, {
    initiator: self.certificate,
    initiatorList: self.listHash,
    responderList: remoteListHash,
    ephemeral,
    ciphertext,
    bundle: bundleFacts(bundle),
    shared,
    kemSecret: encapsulated.sharedSecret,
  });
  const init = await sealInit(
    bundle.bundleKey,
    {
      version: 1,
      suite: 1,
      certificate: self.certificate,
      listHash: self.listHash,
      remoteListHash,
      ephemeral,
      signedPrekey: signedPrekey.id,
      kemPrekey: bundle.kemPrekey.id,
      ...(oneTimePrekey && { oneTimePrekey: oneTimePrekey.id }),
      ciphertext,
      confirmation: keys.confirmation,
    },
    env,
  );
  if (!init) return reject("handshake/bad-key");
  const { secret, associatedData, handshakeHash } = keys;
  return {
    seed: { role: "initiator", secret, associatedData, handshakeHash, ratchetKey: signedPrekey.publicKey },
    init,
  };
}

/** Whether `init` is for a bundle key of this store: cheap, and false for the initial messages to other devices. */
export function initHint(store: PrekeyStore, init: Uint8Array): boolean {
  const hint = init.subarray(0, KEY_ID_BYTES);
  const known = (generation: Generation) => equalBytes(generation.bundleKey.id, hint);
  return init.length === INIT_BYTES && store.purposes.some(({ generations }) => generations.some(known));
}

export type Response = {
  readonly seed: SessionSeed;
  /** To be committed with the session. The same object when `repeated`. */
  readonly store: PrekeyStore;
  /** Verified, but not checked against the account's device list: revocation is the caller's to look up. */
  readonly remote: DeviceCertificate;
  readonly remoteListHash: Uint8Array;
  /** What the initiator thought our device list was. */
  readonly localListHash: Uint8Array;
  /** The invite whose prekeys it used. */
  readonly invite: string | undefined;
  /** This very handshake was answered before: keep the session there is, start no second one (HS16). */
  readonly repeated: boolean;
};

/**
 * Answers an initial message. Nothing changes unless its confirmation proves that the initiator holds the certificate's key.
 * @returns Rejects `handshake/bad-length`, `handshake/unknown-bundle-key`, `handshake/cannot-open`, `handshake/bad-padding`,
 * `codec/…`, those of `verifyCertificate`, `handshake/self`, `handshake/unknown-prekey`, `handshake/bad-key`,
 * `handshake/bad-confirmation`, `handshake/one-time-spent`, `handshake/too-many`.
 */
export async function respond(
  options: {
    readonly self: { readonly certificate: DeviceCertificate; readonly dhSecret: Uint8Array };
    readonly store: PrekeyStore;
    readonly init: Uint8Array;
  },
  env: Env,
): Promise<OrReject<Response>> {
  const { self, store, init } = options;
  const { crypto } = env;
  assert(self.certificate.device === store.certificate.device, "the prekeys are this device's");
  if (init.length !== INIT_BYTES) return reject("handshake/bad-length");
  const found = findGeneration(store, init.subarray(0, KEY_ID_BYTES), env.now);
  if (!found) return reject("handshake/unknown-bundle-key");
  const { invite, generation } = found;
  const message = await openInit(crypto, generation, init);
  if (isReject(message)) return message;
  const verified = await verifyCertificate(crypto, message.certificate);
  if (isReject(verified)) return verified;
  if (message.certificate.device === self.certificate.device) return reject("handshake/self");
  const prekeys = findPrekeys(generation, message, env.now);
  if (!prekeys) return reject("handshake/unknown-prekey");

  const { pair } = prekeys;
  const signed = generation.signedPrekey;
  const shared = await agree(crypto, [
    [signed.secret, message.certificate.dhKey],
    [self.dhSecret, message.ephemeral],
    [signed.secret, message.ephemeral],
    ...(pair ? [[pair.curve.secret, message.ephemeral] as const] : []),
  ]);
  if (!shared) return reject("handshake/bad-key");
  const keys = deriveKeys(crypto, {
    initiator: message.certificate,
    initiatorList: message.listHash,
    responderList: message.remoteListHash,
    ephemeral: message.ephemeral,
    ciphertext: message.ciphertext,
    bundle: await bundleFactsOf(crypto, store.certificate, generation, pair),
    shared,
    kemSecret: await crypto.mlkem768.decapsulate((pair?.kem ?? generation.lastResort).seed, message.ciphertext),
  });
  if (!equalBytes(keys.confirmation, message.confirmation)) return reject("handshake/bad-confirmation");

  const { secret, associatedData, handshakeHash } = keys;
  const mark = handshakeHash.slice(0, SEEN_BYTES);
  const repeated = generation.seen.some((other) => equalBytes(other, mark));
  if (!repeated && pair && pair.uses >= MAX_ONE_TIME_USES) return reject("handshake/one-time-spent");
  if (!repeated && generation.seen.length >= MAX_SEEN) return reject("handshake/too-many");
  return {
    seed: {
      role: "responder",
      secret,
      associatedData,
      handshakeHash,
      ratchetKey: { secret: signed.secret, publicKey: signed.publicKey },
    },
    store: repeated ? store : withGeneration(store, invite, remembering(generation, mark, pair, env.now)),
    remote: message.certificate,
    remoteListHash: message.listHash,
    localListHash: message.remoteListHash,
    invite,
    repeated,
  };
}

/** HS14, HS16: the pair counts a use, the handshake is remembered. */
function remembering(generation: Generation, mark: Uint8Array, pair: OneTimePair | undefined, now: number): Generation {
  const oneTime = generation.oneTime.map((other) =>
    other === pair ? { ...other, uses: other.uses + 1, usedAt: other.usedAt ?? now } : other,
  );
  return { ...generation, oneTime, seen: [...generation.seen, mark] };
}

/** The private halves a message names: all of one generation, and one-time prekeys only as the pair they were made (HS24). */
function findPrekeys(
  generation: Generation,
  message: InitialMessage,
  now: number,
): { readonly pair: OneTimePair | undefined } | undefined {
  if (!equalBytes(message.signedPrekey, generation.signedPrekey.id)) return undefined;
  const { oneTimePrekey, kemPrekey } = message;
  if (!oneTimePrekey) return equalBytes(kemPrekey, generation.lastResort.id) ? { pair: undefined } : undefined;
  const pair = generation.oneTime.find(
    ({ curve, kem }) => equalBytes(curve.id, oneTimePrekey) && equalBytes(kem.id, kemPrekey),
  );
  return pair && pairAlive(pair, now) ? { pair } : undefined;
}

/** One after the other, so that the order of awaits is the code's. @returns Undefined when a public key was of small order. */
async function agree(
  crypto: CryptoSuite,
  pairs: readonly (readonly [secret: Uint8Array, publicKey: Uint8Array])[],
): Promise<readonly Uint8Array[] | undefined> {
  const shared: Uint8Array[] = [];
  for (const [secret, publicKey] of pairs) {
    const value = await crypto.x25519.sharedSecret(secret, publicKey);
    if (!value) return undefined;
    shared.push(value);
  }
  return shared;
}

/** Padded to one length: whether a one-time prekey was used is nobody's business (HS25). */
async function sealInit(
  bundleKey: BundleFacts["bundleKey"],
  message: InitialMessage,
  env: Env,
): Promise<Uint8Array | undefined> {
  const encoded = encode(initialMessageSchema, message);
  const plaintext = new Uint8Array(INIT_PLAINTEXT_BYTES);
  plaintext.set([encoded.length >> 8, encoded.length & 0xff]);
  plaintext.set(encoded, 2);
  const sealed = await hpkeSeal(env.crypto, {
    publicKey: bundleKey.publicKey,
    info: INFO_SEAL,
    associatedData: bundleKey.id,
    plaintext,
    ephemeralSecret: env.random(32),
  });
  return sealed && concat(bundleKey.id, sealed);
}

async function openInit(
  crypto: CryptoSuite,
  generation: Generation,
  init: Uint8Array,
): Promise<OrReject<InitialMessage>> {
  const { bundleKey } = generation;
  const plaintext = await hpkeOpen(crypto, {
    secret: bundleKey.secret,
    publicKey: bundleKey.publicKey,
    info: INFO_SEAL,
    associatedData: bundleKey.id,
    sealed: init.subarray(KEY_ID_BYTES),
  });
  if (!plaintext) return reject("handshake/cannot-open");
  const end = 2 + plaintext[0]! * 256 + plaintext[1]!;
  const padding = plaintext.subarray(end);
  if (end > plaintext.length || padding.some((byte) => byte !== 0)) return reject("handshake/bad-padding");
  return decode(initialMessageSchema, plaintext.subarray(2, end));
}
