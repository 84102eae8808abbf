/** Every key of a session comes from here. Synchronous: HMAC and HKDF only. Spec: ./SPEC.md RA6, RA13-RA17. */
import { concat, readU32, u32, utf8 } from "#protocols/base/bytes.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";

export const SALT_BYTES = 16;
export const TAG_BYTES = 8;
export const RANDOM_BYTES = 16;
export const HEADER_BYTES = 44;
export const HEADER_MAC_BYTES = 8;

const INFO_START = utf8("skein/1/ratchet-start");
const INFO_ROOT = utf8("skein/1/ratchet-root");
const INFO_WRAP = utf8("skein/1/ratchet-wrap");
const INFO_REKEY = utf8("skein/1/ratchet-rekey");

/** First byte under a header key, so that tag, stream and MAC never meet. */
const TAG = Uint8Array.of(1);
const STREAM = [Uint8Array.of(2, 0), Uint8Array.of(2, 1)] as const;
const HEADER_MAC = Uint8Array.of(3);
const MESSAGE_KEY = Uint8Array.of(1);
const NEXT_CHAIN_KEY = Uint8Array.of(2);

/** RA2: root, the first header key of each direction, and the key that authenticates rekeys. */
export function startKeys(crypto: CryptoSuite, secret: Uint8Array, handshakeHash: Uint8Array) {
  const derived = crypto.hkdf({ ikm: secret, salt: handshakeHash, info: INFO_START, length: 128 });
  return {
    rootKey: derived.slice(0, 32),
    initiatorHeaderKey: derived.slice(32, 64),
    responderHeaderKey: derived.slice(64, 96),
    rekeyAuthKey: derived.slice(96),
  };
}

/** RA6: one step of the root. `rekey` is the secret mixed in, `mixed` its number; 0 for none. */
export function rootStep(
  crypto: CryptoSuite,
  rootKey: Uint8Array,
  input: { readonly dh: Uint8Array; readonly mixed: number; readonly rekey?: Uint8Array | undefined },
) {
  const ikm = input.rekey ? concat(input.dh, input.rekey) : input.dh;
  const derived = crypto.hkdf({ ikm, salt: rootKey, info: concat(INFO_ROOT, u32(input.mixed)), length: 96 });
  return { rootKey: derived.slice(0, 32), chainKey: derived.slice(32, 64), nextHeaderKey: derived.slice(64) };
}

export function messageKeyOf(crypto: CryptoSuite, chainKey: Uint8Array): Uint8Array {
  return crypto.hmac(chainKey, MESSAGE_KEY);
}

export function nextChainKey(crypto: CryptoSuite, chainKey: Uint8Array): Uint8Array {
  return crypto.hmac(chainKey, NEXT_CHAIN_KEY);
}

/** RA16: fresh for each wrap, so that a state rolled back and used again repeats no key, and the nonce may be zero. */
export function wrapKey(crypto: CryptoSuite, messageKey: Uint8Array, random: Uint8Array): Uint8Array {
  return crypto.hkdf({ ikm: messageKey, salt: random, info: INFO_WRAP, length: 32 });
}

/** RA13: by it a device finds its own wrap. */
export function wrapTag(crypto: CryptoSuite, headerKey: Uint8Array, salt: Uint8Array): Uint8Array {
  return crypto.hmac(headerKey, concat(TAG, salt)).subarray(0, TAG_BYTES);
}

export type Header = {
  readonly publicKey: Uint8Array;
  readonly index: number;
  readonly previousLength: number;
  /** Number of the sender's rekey mixed in where this chain began; 0 for none. */
  readonly mixed: number;
};

export function encodeHeader(header: Header): Uint8Array {
  return concat(header.publicKey, u32(header.index), u32(header.previousLength), u32(header.mixed));
}

export function decodeHeader(raw: Uint8Array): Header {
  return {
    publicKey: raw.slice(0, 32),
    index: readU32(raw, 32),
    previousLength: readU32(raw, 36),
    mixed: readU32(raw, 40),
  };
}

/** RA14: encrypts and decrypts a header by HMAC as a stream; two blocks are enough for its 44 bytes. */
export function maskHeader(
  crypto: CryptoSuite,
  headerKey: Uint8Array,
  random: Uint8Array,
  header: Uint8Array,
): Uint8Array {
  const stream = concat(...STREAM.map((prefix) => crypto.hmac(headerKey, concat(prefix, random))));
  return header.map((byte, i) => byte ^ stream[i]!);
}

/** RA15: so that a header changed on the way costs no DH and no walk along the chain. */
export function headerMac(
  crypto: CryptoSuite,
  headerKey: Uint8Array,
  input: { readonly salt: Uint8Array; readonly random: Uint8Array; readonly masked: Uint8Array },
): Uint8Array {
  const message = concat(HEADER_MAC, input.salt, input.random, input.masked);
  return crypto.hmac(headerKey, message).subarray(0, HEADER_MAC_BYTES);
}

/** RA23: what a KEM secret becomes: bound to this session and to both messages that made it. */
export function rekeyKeys(
  crypto: CryptoSuite,
  input: {
    readonly kemSecret: Uint8Array;
    readonly authKey: Uint8Array;
    readonly offerHash: Uint8Array;
    readonly ciphertext: Uint8Array;
  },
) {
  const info = concat(INFO_REKEY, input.offerHash, crypto.sha256(input.ciphertext));
  const derived = crypto.hkdf({ ikm: input.kemSecret, salt: input.authKey, info, length: 64 });
  return { secret: derived.slice(0, 32), confirmKey: derived.slice(32) };
}
