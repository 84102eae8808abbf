import { Point, utils } from "@noble/ed25519";
import { concat, toHex } from "./bytes.ts";
import { Lru } from "./lru.ts";
import { hashToScalar, negatedPoint, nobleSuite, sha256, verifyWith } from "./noble.ts";
import { assert } from "./reject.ts";
import { acceptableSignature } from "./strict.ts";
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
  };
}
