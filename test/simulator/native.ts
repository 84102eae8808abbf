/**
 * The simulator's suite, faster: the same functions computed by Node's own synchronous calls where those win, so that an hour
 * of four peers takes half the time. Same bytes as `synchronousSuite`, hence the same trace (simulation.test.ts).
 */
import {
  createPrivateKey,
  createPublicKey,
  decapsulate,
  diffieHellman,
  hash,
  type KeyObject,
  sign,
  verify,
} from "node:crypto";

import { concat, EMPTY } from "#protocols/base/bytes.ts";
import { Lru } from "#protocols/base/lru.ts";
import { assert } from "#protocols/base/reject.ts";
import { acceptableDhKey, acceptableSignature } from "#protocols/base/strict.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";

/** Parsed keys, about 1 kB each; a seed that comes again is parsed once. */
const MAX_KEYS = 4_096;
/** Judged signatures: every hop of a flood checks the same one. */
const MAX_VERDICTS = 16_384;
/** Of SHA-256, as RFC 2104 wants it. */
const BLOCK_BYTES = 64;

/** What PKCS #8 and SPKI put before the 32 bytes of RFC 8410 keys; the last byte of the algorithm tells them apart. */
const PRIVATE_PREFIX = "302e020100300506032b65%%04220420";
const PUBLIC_PREFIX = "302a300506032b65%%032100";
const ALGORITHMS = { x25519: "6e", ed25519: "70" } as const;
type Algorithm = keyof typeof ALGORITHMS;
/** The same for the 64 bytes of an ML-KEM-768 seed (RFC 9935). */
const KEM_PREFIX = "3054020100300b060960864801650304040204428040";
const KEM_PUBLIC_BYTES = 1_184;
const KEM_CIPHERTEXT_BYTES = 1_088;

type Secret = { readonly key: KeyObject; readonly publicKey: Uint8Array };

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("hex");
}

function plain(bytes: Buffer): Uint8Array {
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength).slice();
}

function question(raw: Uint8Array, message: Uint8Array, signature: Uint8Array): string {
  return hash("sha256", Buffer.concat([raw, signature, message]), "base64");
}

/** RFC 2104 by hand, as RFC 5869 below: Node's own make a KeyObject of the key, which takes longer than the hashing. */
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
  return hash("sha256", outer, "buffer");
}

const hkdf: CryptoSuite["hkdf"] = ({ ikm, salt = EMPTY, info, length }) => {
  const prk = hmac(salt, ikm);
  const output = new Uint8Array(length);
  let block: Uint8Array = EMPTY;
  for (let offset = 0, i = 1; offset < length; offset += block.length, i++) {
    block = hmac(prk, concat(block, info, Uint8Array.of(i)));
    output.set(block.subarray(0, length - offset), offset);
  }
  return output;
};

export function nativeSuite(): CryptoSuite {
  const secrets = new Lru<string, Secret>(MAX_KEYS);
  const publics = new Lru<string, KeyObject>(MAX_KEYS);
  const verdicts = new Lru<string, boolean>(MAX_VERDICTS);

  function parsed(prefix: string, seed: Uint8Array, publicBytes: number): Secret {
    const name = prefix + hex(seed);
    const known = secrets.get(name);
    if (known !== undefined) return known;
    const der = Buffer.concat([Buffer.from(prefix, "hex"), seed]);
    const key = createPrivateKey({ key: der, format: "der", type: "pkcs8" });
    const exported = createPublicKey(key).export({ format: "der", type: "spki" });
    const secret = { key, publicKey: plain(exported.subarray(-publicBytes)) };
    secrets.set(name, secret);
    return secret;
  }

  function secretKey(algorithm: Algorithm, seed: Uint8Array): Secret {
    assert(seed.length === 32, `an ${algorithm} secret has 32 bytes`);
    return parsed(PRIVATE_PREFIX.replace("%%", ALGORITHMS[algorithm]), seed, 32);
  }

  function kemKey(seed: Uint8Array): Secret {
    assert(seed.length === 64, "ML-KEM seed has 64 bytes");
    return parsed(KEM_PREFIX, seed, KEM_PUBLIC_BYTES);
  }

  function publicKey(algorithm: Algorithm, raw: Uint8Array): KeyObject {
    const name = algorithm + hex(raw);
    const known = publics.get(name);
    if (known !== undefined) return known;
    const prefix = Buffer.from(PUBLIC_PREFIX.replace("%%", ALGORITHMS[algorithm]), "hex");
    const key = createPublicKey({ key: Buffer.concat([prefix, raw]), format: "der", type: "spki" });
    publics.set(name, key);
    return key;
  }

  function judge(raw: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
    if (!acceptableSignature(raw, signature)) return false;
    const asked = question(raw, message, signature);
    const known = verdicts.get(asked);
    if (known !== undefined) return known;
    const verdict = verify(null, message, publicKey("ed25519", raw), signature);
    verdicts.set(asked, verdict);
    return verdict;
  }

  const synchronous = synchronousSuite();
  return {
    ...synchronous,
    sha256: (data) => plain(hash("sha256", data, "buffer")),
    hmac: (key, data) => plain(hmac(key, data)),
    hkdf,
    ed25519: {
      publicKey: async (seed) => secretKey("ed25519", seed).publicKey.slice(),
      async sign(seed, message) {
        const secret = secretKey("ed25519", seed);
        const signature = plain(sign(null, message, secret.key));
        // Good by construction, unless the key is one that nobody accepts.
        if (acceptableSignature(secret.publicKey, signature)) {
          verdicts.set(question(secret.publicKey, message, signature), true);
        }
        return signature;
      },
      verify: async (raw, message, signature) => judge(raw, message, signature),
    },
    x25519: {
      publicKey: async (secret) => secretKey("x25519", secret).publicKey.slice(),
      async sharedSecret(secret, raw) {
        if (!acceptableDhKey(raw)) return undefined;
        const privateKey = secretKey("x25519", secret).key;
        try {
          return plain(diffieHellman({ privateKey, publicKey: publicKey("x25519", raw) }));
        } catch {
          // OpenSSL refuses a result of zeros by throwing.
          return undefined;
        }
      },
    },
    mlkem768: {
      publicKey: async (seed) => kemKey(seed).publicKey.slice(),
      // Node's own takes no randomness of ours.
      encapsulate: (key, randomness) => synchronous.mlkem768.encapsulate(key, randomness),
      async decapsulate(seed, ciphertext) {
        assert(ciphertext.length === KEM_CIPHERTEXT_BYTES, "ML-KEM ciphertext has 1,088 bytes");
        return plain(decapsulate(kemKey(seed).key, ciphertext));
      },
    },
  };
}
