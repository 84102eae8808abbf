import { gcm } from "@noble/ciphers/aes.js";
import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import { x25519 as curveX25519 } from "@noble/curves/ed25519.js";
import { hashes, Point, sign as edSign, getPublicKey as edPublicKey } from "@noble/ed25519";
import { hkdf as nobleHkdf } from "@noble/hashes/hkdf.js";
import { hmac as nobleHmac } from "@noble/hashes/hmac.js";
import { sha256 as nobleSha256, sha512 } from "@noble/hashes/sha2.js";
import { ml_kem768 } from "@noble/post-quantum/ml-kem.js";
import { concat, EMPTY, equalBytes } from "./bytes.ts";
import { assert } from "./reject.ts";
import {
  acceptableDhKey,
  acceptableEncapsulationKey,
  acceptableSignature,
  KEM_CIPHERTEXT_BYTES,
  KEM_SEED_BYTES,
} from "./strict.ts";
import type { AeadInput, CryptoSuite } from "./suite.ts";

/**
 * The suite in plain JavaScript, on noble: the fallback where a platform lacks an algorithm, and what the other suites are
 * compared with. Big-integer arithmetic is not constant-time: SPEC.md, "Open attacks".
 */

// @noble/ed25519 brings no SHA-512 of its own for its synchronous half.
hashes.sha512 = sha512;

const MAX_HKDF_BYTES = 255 * 32;
/** Authentication tag of both AEADs. */
export const TAG_BYTES = 16;

export function sha256(data: Uint8Array): Uint8Array {
  return nobleSha256(data);
}

export function hmac(key: Uint8Array, data: Uint8Array): Uint8Array {
  return nobleHmac(nobleSha256, key, data);
}

export function hkdf(options: { ikm: Uint8Array; salt?: Uint8Array; info: Uint8Array; length: number }): Uint8Array {
  assert(options.length > 0 && options.length <= MAX_HKDF_BYTES, "hkdf length in range");
  return nobleHkdf(nobleSha256, options.ikm, options.salt, options.info, options.length);
}

const ORDER = Point.CURVE().n;

/** Little-endian integer. */
function littleEndian(bytes: Uint8Array): bigint {
  let hex = "0x";
  for (let i = bytes.length - 1; i >= 0; i--) hex += bytes[i]!.toString(16).padStart(2, "0");
  return BigInt(hex);
}

/** SHA-512 of the parts as a scalar (RFC 8032 section 5.1). */
export function hashToScalar(...parts: readonly Uint8Array[]): bigint {
  return littleEndian(sha512(concat(...parts))) % ORDER;
}

/** The point of a public key, negated, or undefined when the encoding is not on the curve. */
export function negatedPoint(publicKey: Uint8Array): Point | undefined {
  try {
    return Point.fromBytes(publicKey).negate();
  } catch {
    // The one thing it throws for after BA14's checks: no x belongs to this y.
    return undefined;
  }
}

/**
 * RFC 8032 section 5.1.7 without the cofactor: R' = SB - kA is encoded again and compared with R, as OpenSSL and BoringSSL
 * do, so that points of mixed order are judged as they judge them (BA15). noble's own `verify` multiplies by the cofactor.
 */
export function verifyWith(minusA: Point, publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
  const r = signature.subarray(0, 32);
  const s = littleEndian(signature.subarray(32));
  const k = hashToScalar(r, publicKey, message);
  const sB = Point.BASE.multiply(s, false);
  return equalBytes(sB.add(minusA.multiply(k, false)).toBytes(), r);
}

export const ed25519 = {
  publicKey: (seed: Uint8Array): Uint8Array => edPublicKey(seed),
  sign: (seed: Uint8Array, message: Uint8Array): Uint8Array => edSign(message, seed),
  verify(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
    if (!acceptableSignature(publicKey, signature)) return false;
    const minusA = negatedPoint(publicKey);
    return minusA !== undefined && verifyWith(minusA, publicKey, message, signature);
  },
};

export const x25519 = {
  publicKey: (secret: Uint8Array): Uint8Array => curveX25519.getPublicKey(secret),
  sharedSecret(secret: Uint8Array, publicKey: Uint8Array): Uint8Array | undefined {
    assert(secret.length === 32, "X25519 secret has 32 bytes");
    return acceptableDhKey(publicKey) ? curveX25519.getSharedSecret(secret, publicKey) : undefined;
  },
};

export const mlkem768 = {
  publicKey(seed: Uint8Array): Uint8Array {
    assert(seed.length === KEM_SEED_BYTES, "ML-KEM seed has 64 bytes");
    return ml_kem768.keygen(seed).publicKey;
  },
  encapsulate(publicKey: Uint8Array, randomness: Uint8Array) {
    assert(randomness.length === 32, "ML-KEM randomness has 32 bytes");
    if (!acceptableEncapsulationKey(publicKey)) return undefined;
    const { cipherText, sharedSecret } = ml_kem768.encapsulate(publicKey, randomness);
    return { ciphertext: cipherText as Uint8Array, sharedSecret: sharedSecret as Uint8Array };
  },
  decapsulate(seed: Uint8Array, ciphertext: Uint8Array): Uint8Array {
    assert(seed.length === KEM_SEED_BYTES, "ML-KEM seed has 64 bytes");
    assert(ciphertext.length === KEM_CIPHERTEXT_BYTES, "ML-KEM ciphertext has 1,088 bytes");
    return ml_kem768.decapsulate(ciphertext, ml_kem768.keygen(seed).secretKey);
  },
};

export type SynchronousAead = {
  seal(input: AeadInput): Uint8Array;
  open(input: AeadInput): Uint8Array | undefined;
};

type NobleCipher = { encrypt(data: Uint8Array): Uint8Array; decrypt(data: Uint8Array): Uint8Array };

function aead(
  cipher: (key: Uint8Array, nonce: Uint8Array, associatedData: Uint8Array) => NobleCipher,
): SynchronousAead {
  const keyed = ({ key, nonce, associatedData }: AeadInput) => {
    assert(key.length === 32 && nonce.length === 12, "AEAD key has 32 bytes and nonce 12");
    return cipher(key, nonce, associatedData ?? EMPTY);
  };
  return {
    seal: (input) => keyed(input).encrypt(input.data),
    open(input) {
      const opener = keyed(input);
      if (input.data.length < TAG_BYTES) return undefined;
      try {
        return opener.decrypt(input.data);
      } catch {
        // The one thing it throws for with sizes that fit: the tag does not verify.
        return undefined;
      }
    },
  };
}

export const chachaAead: SynchronousAead = aead(chacha20poly1305);
export const gcmAead: SynchronousAead = aead(gcm);

/** Asynchronous in its signature only: an `async` body without `await` is done before its promise exists. */
export function nobleSuite(): CryptoSuite {
  return {
    sha256,
    hmac,
    hkdf,
    ed25519: {
      publicKey: async (seed) => ed25519.publicKey(seed),
      sign: async (seed, message) => ed25519.sign(seed, message),
      verify: async (publicKey, message, signature) => ed25519.verify(publicKey, message, signature),
    },
    x25519: {
      publicKey: async (secret) => x25519.publicKey(secret),
      sharedSecret: async (secret, publicKey) => x25519.sharedSecret(secret, publicKey),
    },
    mlkem768: {
      publicKey: async (seed) => mlkem768.publicKey(seed),
      encapsulate: async (publicKey, randomness) => mlkem768.encapsulate(publicKey, randomness),
      decapsulate: async (seed, ciphertext) => mlkem768.decapsulate(seed, ciphertext),
    },
    chacha20poly1305: {
      seal: async (input) => chachaAead.seal(input),
      open: async (input) => chachaAead.open(input),
    },
    aes256gcm: {
      seal: async (input) => gcmAead.seal(input),
      open: async (input) => gcmAead.open(input),
    },
  };
}
