import { Point, utils } from "@noble/ed25519";
import { concat, toHex } from "./bytes.ts";
import { Lru } from "./lru.ts";
import { hashToScalar, negatedPoint, nobleSuite, sha256, verifyWith, x25519 } from "./noble.ts";
import { assert } from "./reject.ts";
import { acceptableDhKey, acceptableSignature } from "./strict.ts";
import type { CryptoSuite } from "./suite.ts";

/**
 * The suite of the simulator: noble's computations, done before their promise exists, and a memory of signatures made or
 * judged, because a thousand simulated peers check the same envelope in one process: share one suite among them. It keeps
 * seeds and what follows from them: never for real keys. Spec: ./SPEC.md BA23.
 */

/** About 100 bytes each; a busy hour of ten peers has fewer envelopes in flight than this. */
const MAX_REMEMBERED_VERDICTS = 16_384;
/** Expanded signing keys, about 1 kB each: topics and devices of a large simulation. */
const MAX_REMEMBERED_SIGNERS = 2_048;
/** X25519 public keys and shared secrets, about 300 bytes each: until the other side of a ratchet step asks for it too. */
const MAX_REMEMBERED_AGREEMENTS = 4_096;

type Signer = ReturnType<typeof utils.getExtendedPublicKey>;

const ORDER = Point.CURVE().n;

function scalarBytes(scalar: bigint): Uint8Array {
  const bytes = new Uint8Array(32);
  let rest = scalar;
  for (let i = 0; i < 32; i++) {
    bytes[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  return bytes;
}

export function synchronousSuite(): CryptoSuite {
  const verdicts = new Lru<string, boolean>(MAX_REMEMBERED_VERDICTS);
  const signers = new Lru<string, Signer>(MAX_REMEMBERED_SIGNERS);
  const dhPublicKeys = new Lru<string, Uint8Array>(MAX_REMEMBERED_AGREEMENTS);
  const agreements = new Lru<string, Uint8Array>(MAX_REMEMBERED_AGREEMENTS);
  const question = (publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): string =>
    toHex(sha256(concat(publicKey, signature, message)));

  function signer(seed: Uint8Array): Signer {
    const name = toHex(seed);
    const known = signers.get(name);
    if (known) return known;
    const expanded = utils.getExtendedPublicKey(seed);
    signers.set(name, expanded);
    return expanded;
  }

  /**
   * RFC 8032 section 5.1.6 from the expanded key, which is half of the work. What was signed here needs no verifying here,
   * which would be eight times dearer; suites.test.ts lets the other suites verify it.
   */
  function sign(seed: Uint8Array, message: Uint8Array): Uint8Array {
    const { prefix, scalar, pointBytes } = signer(seed);
    const r = hashToScalar(prefix, message);
    const encodedR = Point.BASE.multiply(r).toBytes();
    const k = hashToScalar(encodedR, pointBytes, message);
    const signature = concat(encodedR, scalarBytes((r + k * scalar) % ORDER));
    verdicts.set(question(pointBytes, message, signature), true);
    return signature;
  }

  function verify(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
    if (!acceptableSignature(publicKey, signature)) return false;
    const asked = question(publicKey, message, signature);
    const known = verdicts.get(asked);
    if (known !== undefined) return known;
    const minusA = negatedPoint(publicKey);
    const verdict = minusA !== undefined && verifyWith(minusA, publicKey, message, signature);
    verdicts.set(asked, verdict);
    return verdict;
  }

  function dhPublicKey(secret: Uint8Array): Uint8Array {
    const name = toHex(secret);
    const known = dhPublicKeys.get(name);
    if (known) return known;
    const publicKey = x25519.publicKey(secret);
    dhPublicKeys.set(name, publicKey);
    return publicKey;
  }

  /** Both sides of an agreement compute here, so the second finds it under the same two public keys. */
  function sharedSecret(secret: Uint8Array, other: Uint8Array): Uint8Array | undefined {
    if (!acceptableDhKey(other)) return undefined;
    const pair = [toHex(dhPublicKey(secret)), toHex(other)].toSorted().join();
    const known = agreements.get(pair);
    if (known) return known.slice();
    const shared = x25519.sharedSecret(secret, other);
    if (shared) agreements.set(pair, shared.slice());
    return shared;
  }

  return {
    ...nobleSuite(),
    ed25519: {
      // Copies: whoever zeroes a result must not zero what is remembered.
      publicKey: async (seed) => {
        assert(seed.length === 32, "Ed25519 seed has 32 bytes");
        return signer(seed).pointBytes.slice();
      },
      sign: async (seed, message) => sign(seed, message),
      verify: async (publicKey, message, signature) => verify(publicKey, message, signature),
    },
    x25519: {
      publicKey: async (secret) => dhPublicKey(secret).slice(),
      sharedSecret: async (secret, other) => sharedSecret(secret, other),
    },
  };
}
