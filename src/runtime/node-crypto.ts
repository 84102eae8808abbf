/**
 * The crypto suite of Node processes: `node:crypto` called synchronously behind the suite's promises, and noble where a call
 * into OpenSSL costs more than the work; the same bytes as the others (node-crypto.test.ts). WebCrypto hands every call to
 * another thread and back, which for a message of 1 KB costs more than the cryptography.
 */
import {
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  decapsulate,
  diffieHellman,
  hash,
  type KeyObject,
  sign,
  verify,
} from "node:crypto";
import { Lru } from "#protocols/base/lru.ts";
import { nobleSuite } from "#protocols/base/noble.ts";
import { assert } from "#protocols/base/reject.ts";
import { acceptableDhKey, acceptableSignature } from "#protocols/base/strict.ts";
import type { Aead, AeadInput, CryptoSuite } from "#protocols/base/suite.ts";

/** Parsed public keys, about 1 kB each: more than the people and topics one hears of in a busy hour. */
const MAX_PUBLIC_KEYS = 4_096;
/** Of SHA-256, as RFC 2104 wants it. */
const BLOCK_BYTES = 64;
const TAG_BYTES = 16;

/** From here on OpenSSL wins: setting up its cipher takes 15 µs, in which noble seals 1.5 KB. */
const OPENSSL_CHACHA_MIN_BYTES = 2_048;

/** What PKCS #8 and SPKI put before the 32 bytes of RFC 8410 keys, with the last byte of the algorithm's name. */
const PRIVATE_PREFIX = {
  x25519: "302e020100300506032b656e04220420",
  ed25519: "302e020100300506032b657004220420",
} as const;
const PUBLIC_PREFIX = { x25519: "302a300506032b656e032100", ed25519: "302a300506032b6570032100" } as const;
type Curve = keyof typeof PUBLIC_PREFIX;
/** The same for the 64 bytes of an ML-KEM-768 seed (RFC 9935). */
const KEM_PREFIX = "3054020100300b060960864801650304040204428040";
const KEM_PUBLIC_BYTES = 1_184;
const KEM_CIPHERTEXT_BYTES = 1_088;

/** Node's Buffers may share one block of memory; what leaves the suite stands alone. */
function plain(bytes: Buffer): Uint8Array {
  return new Uint8Array(bytes);
}

/** RFC 2104 by hand: Node's own makes a KeyObject of the key, which takes longer than the hashing. */
function hmac(key: Uint8Array, data: Uint8Array): Buffer {
  const short = key.length > BLOCK_BYTES ? hash("sha256", key, "buffer") : key;
  const inner = Buffer.alloc(BLOCK_BYTES + data.length, 0x36);
  const outer = Buffer.alloc(BLOCK_BYTES + 32, 0x5c);
  for (let i = 0; i < short.length; i++) {
    inner[i]! ^= short[i]!;
    outer[i]! ^= short[i]!;
  }
  inner.set(data, BLOCK_BYTES);
  outer.set(hash("sha256", inner, "buffer"), BLOCK_BYTES);
  const digest = hash("sha256", outer, "buffer");
  inner.fill(0, 0, BLOCK_BYTES);
  outer.fill(0, 0, BLOCK_BYTES);
  return digest;
}

type Secret = { readonly key: KeyObject; readonly publicKey: Uint8Array; readonly mark: number };

/** A few bytes that change when the array is overwritten: 32 bits of FNV-1a. */
function mark(secret: Uint8Array): number {
  let digest = 0x811c9dc5;
  for (const byte of secret) digest = Math.imul(digest ^ byte, 0x01000193);
  return digest >>> 0;
}

/** Parsed secret keys by the identity of their array, held weakly: the parsed key dies with the bytes it was made of (BA22). */
class SecretKeys {
  readonly #known = new WeakMap<Uint8Array, Secret>();
  readonly #prefix: Buffer;
  readonly #publicBytes: number;

  constructor(prefix: string, publicBytes: number) {
    this.#prefix = Buffer.from(prefix, "hex");
    this.#publicBytes = publicBytes;
  }

  get(seed: Uint8Array): Secret {
    const now = mark(seed);
    const known = this.#known.get(seed);
    if (known?.mark === now) return known;
    const der = Buffer.concat([this.#prefix, seed]);
    const key = createPrivateKey({ key: der, format: "der", type: "pkcs8" });
    der.fill(0);
    const spki = createPublicKey(key).export({ format: "der", type: "spki" });
    const secret = { key, publicKey: plain(spki.subarray(-this.#publicBytes)), mark: now };
    this.#known.set(seed, secret);
    return secret;
  }
}

class PublicKeys {
  readonly #keys = new Lru<string, KeyObject>(MAX_PUBLIC_KEYS);
  readonly #prefix: Buffer;

  constructor(curve: Curve) {
    this.#prefix = Buffer.from(PUBLIC_PREFIX[curve], "hex");
  }

  get(raw: Uint8Array): KeyObject {
    const name = Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength).toString("latin1");
    const known = this.#keys.get(name);
    if (known !== undefined) return known;
    const key = createPublicKey({ key: Buffer.concat([this.#prefix, raw]), format: "der", type: "spki" });
    this.#keys.set(name, key);
    return key;
  }
}

function aead(name: "chacha20-poly1305" | "aes-256-gcm"): Aead {
  // The two names have types of their own in Node, with the same calls.
  const cipher = name as "chacha20-poly1305";
  const options = { authTagLength: TAG_BYTES };
  const check = ({ key, nonce }: AeadInput): void =>
    assert(key.length === 32 && nonce.length === 12, "key and nonce have their lengths");
  return {
    async seal(input) {
      check(input);
      const { key, nonce, data, associatedData } = input;
      const sealing = createCipheriv(cipher, key, nonce, options);
      if (associatedData !== undefined) sealing.setAAD(associatedData, { plaintextLength: data.length });
      const sealed = new Uint8Array(data.length + TAG_BYTES);
      sealed.set(sealing.update(data));
      sealing.final();
      sealed.set(sealing.getAuthTag(), data.length);
      return sealed;
    },
    async open(input) {
      check(input);
      const { key, nonce, data, associatedData } = input;
      if (data.length < TAG_BYTES) return undefined;
      const length = data.length - TAG_BYTES;
      const opening = createDecipheriv(cipher, key, nonce, options);
      if (associatedData !== undefined) opening.setAAD(associatedData, { plaintextLength: length });
      opening.setAuthTag(data.subarray(length));
      const opened = plain(opening.update(data.subarray(0, length)));
      try {
        opening.final();
        return opened;
      } catch {
        // The only thing `final` has to say: the tag does not verify.
        opened.fill(0);
        return undefined;
      }
    },
  };
}

/**
 * @param options.pooled - Verify signatures on Node's thread pool: for a relay, which does little else and may use every core.
 * One message alone is faster without the way to another thread and back.
 */
export function nodeSuite(options: { readonly pooled?: boolean } = {}): CryptoSuite {
  const noble = nobleSuite();
  const chacha = aead("chacha20-poly1305");
  const signers = new SecretKeys(PRIVATE_PREFIX.ed25519, 32);
  const agreers = new SecretKeys(PRIVATE_PREFIX.x25519, 32);
  const kems = new SecretKeys(KEM_PREFIX, KEM_PUBLIC_BYTES);
  const verifiers = new PublicKeys("ed25519");
  const others = new PublicKeys("x25519");
  return {
    sha256: (data) => plain(hash("sha256", data, "buffer")),
    hmac: (key, data) => plain(hmac(key, data)),
    hkdf: (options) => noble.hkdf(options),
    ed25519: {
      publicKey: async (seed) => {
        assert(seed.length === 32, "Ed25519 seed has 32 bytes");
        return signers.get(seed).publicKey.slice();
      },
      sign: async (seed, message) => plain(sign(null, message, signers.get(seed).key)),
      verify: async (signer, message, signature) => {
        if (!acceptableSignature(signer, signature)) return false;
        let key: KeyObject;
        try {
          key = verifiers.get(signer);
        } catch {
          // OpenSSL takes any 32 bytes today; a version that refuses points off the curve says no with this.
          return false;
        }
        if (!options.pooled) return verify(null, message, key, signature);
        return new Promise((resolve, reject) => {
          verify(null, message, key, signature, (error, valid) => (error ? reject(error) : resolve(valid)));
        });
      },
    },
    x25519: {
      publicKey: async (secret) => {
        assert(secret.length === 32, "X25519 secret has 32 bytes");
        return agreers.get(secret).publicKey.slice();
      },
      async sharedSecret(secret, other) {
        if (!acceptableDhKey(other)) return undefined;
        try {
          return plain(diffieHellman({ privateKey: agreers.get(secret).key, publicKey: others.get(other) }));
        } catch {
          // OpenSSL refuses a result of zeros by throwing.
          return undefined;
        }
      },
    },
    mlkem768: {
      publicKey: async (seed) => {
        assert(seed.length === 64, "ML-KEM seed has 64 bytes");
        return kems.get(seed).publicKey.slice();
      },
      // Node's own takes no randomness of ours.
      encapsulate: (publicKey, randomness) => noble.mlkem768.encapsulate(publicKey, randomness),
      async decapsulate(seed, ciphertext) {
        assert(ciphertext.length === KEM_CIPHERTEXT_BYTES, "ML-KEM ciphertext has 1,088 bytes");
        return plain(decapsulate(kems.get(seed).key, ciphertext));
      },
    },
    chacha20poly1305: {
      seal: (input) => (input.data.length < OPENSSL_CHACHA_MIN_BYTES ? noble.chacha20poly1305 : chacha).seal(input),
      open: (input) => (input.data.length < OPENSSL_CHACHA_MIN_BYTES ? noble.chacha20poly1305 : chacha).open(input),
    },
    aes256gcm: aead("aes-256-gcm"),
  };
}
