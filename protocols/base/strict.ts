import { fromHex } from "./bytes.ts";
import { assert } from "./reject.ts";

/**
 * What is refused before any implementation is asked. Verifiers disagree on small-order points, on encodings above the
 * field prime and on S above the group order; what is left after these checks, all cofactorless verifiers judge alike.
 * Everything here looks at public values only. Spec: ./SPEC.md BA14-BA18.
 */

function constant(hex: string): Uint8Array {
  const bytes = fromHex(hex);
  assert(bytes?.length === 32, "constant has 32 bytes");
  return bytes;
}

/** The field prime 2^255 - 19, little-endian. */
const P = constant("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
/** The group order L = 2^252 + 27742317777372353535851937790883648493, little-endian. */
const L = constant("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");

/** y of the eight torsion points: order 1, 2, 4 (twice), 8 (four times); the sign of x tells the pairs apart. */
const SMALL_ORDER_Y: readonly Uint8Array[] = [
  constant("0000000000000000000000000000000000000000000000000000000000000000"),
  constant("0100000000000000000000000000000000000000000000000000000000000000"),
  constant("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
  constant("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
  constant("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
];

/** u of every point whose multiple by a clamped scalar is 0: 0, 1, both of order 8, -1, and 0 and 1 written as p, p + 1. */
const SMALL_ORDER_U: readonly Uint8Array[] = [
  constant("0000000000000000000000000000000000000000000000000000000000000000"),
  constant("0100000000000000000000000000000000000000000000000000000000000000"),
  constant("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
  constant("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
  constant("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
  constant("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
  constant("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
];

/** Little-endian `bytes[offset..offset+32]` < `bound`; `topMask` clears bits of the last byte first. */
function below(bytes: Uint8Array, offset: number, topMask: number, bound: Uint8Array): boolean {
  for (let i = 31; i >= 0; i--) {
    const byte = i === 31 ? bytes[offset + i]! & topMask : bytes[offset + i]!;
    if (byte !== bound[i]!) return byte < bound[i]!;
  }
  return false;
}

/** Equality with the top bit of the last byte left out. */
function equalBut255(bytes: Uint8Array, offset: number, other: Uint8Array): boolean {
  for (let i = 0; i < 31; i++) {
    if (bytes[offset + i] !== other[i]) return false;
  }
  return (bytes[offset + 31]! & 0x7f) === other[31];
}

/** An Ed25519 point encoding with canonical y that is none of the eight torsion points. It may still be off the curve. */
function acceptablePoint(bytes: Uint8Array, offset: number): boolean {
  return below(bytes, offset, 0x7f, P) && !SMALL_ORDER_Y.some((y) => equalBut255(bytes, offset, y));
}

/** BA14-BA16. False: no implementation is asked, the signature is bad. */
export function acceptableSignature(publicKey: Uint8Array, signature: Uint8Array): boolean {
  return (
    publicKey.length === 32 &&
    signature.length === 64 &&
    below(signature, 32, 0xff, L) &&
    acceptablePoint(publicKey, 0) &&
    acceptablePoint(signature, 0)
  );
}

/** BA17. False: the shared secret would be all zero, whatever our secret is. */
export function acceptableDhKey(publicKey: Uint8Array): boolean {
  return publicKey.length === 32 && !SMALL_ORDER_U.some((u) => equalBut255(publicKey, 0, u));
}

export const KEM_PUBLIC_KEY_BYTES = 1184;
export const KEM_CIPHERTEXT_BYTES = 1088;
export const KEM_SEED_BYTES = 64;
const KEM_MODULUS = 3329;

/** BA18, the modulus check of FIPS 203 section 7.2: every 12-bit coefficient is below q. */
export function acceptableEncapsulationKey(publicKey: Uint8Array): boolean {
  if (publicKey.length !== KEM_PUBLIC_KEY_BYTES) return false;
  for (let i = 0; i < KEM_PUBLIC_KEY_BYTES - 32; i += 3) {
    const middle = publicKey[i + 1]!;
    const first = publicKey[i]! | ((middle & 0x0f) << 8);
    const second = (middle >> 4) | (publicKey[i + 2]! << 4);
    if (first >= KEM_MODULUS || second >= KEM_MODULUS) return false;
  }
  return true;
}
