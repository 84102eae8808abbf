import { concat, EMPTY, utf8 } from "./bytes.ts";
import { assert } from "./reject.ts";
import { acceptableDhKey } from "./strict.ts";
import type { CryptoSuite } from "./suite.ts";

/**
 * HPKE (RFC 9180), base mode, one message: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305. The sender is not
 * authenticated by it. Spec: ./SPEC.md BA25-BA28.
 */

const HPKE_V1 = utf8("HPKE-v1");
const KEM_SUITE_ID = concat(utf8("KEM"), Uint8Array.of(0x00, 0x20));
const HPKE_SUITE_ID = concat(utf8("HPKE"), Uint8Array.of(0x00, 0x20, 0x00, 0x01, 0x00, 0x03));
const MODE_BASE = Uint8Array.of(0x00);
const ENCAPSULATED_KEY_BYTES = 32;

/** enc (32) and tag (16): how much longer a sealed message is. */
export const HPKE_OVERHEAD = ENCAPSULATED_KEY_BYTES + 16;

/** LabeledExtract of section 4. */
function labeledExtract(
  crypto: CryptoSuite,
  options: { suiteId: Uint8Array; salt: Uint8Array; label: string; ikm: Uint8Array },
): Uint8Array {
  // HKDF-Extract is HMAC with the salt as key; an empty salt and one of zeros are the same HMAC key.
  return crypto.hmac(options.salt, concat(HPKE_V1, options.suiteId, utf8(options.label), options.ikm));
}

/** LabeledExpand of section 4. Nothing here is longer than one HMAC, so HKDF-Expand is its first block. */
function labeledExpand(
  crypto: CryptoSuite,
  options: { suiteId: Uint8Array; prk: Uint8Array; label: string; info: Uint8Array; length: number },
): Uint8Array {
  assert(options.length <= 32, "expands to one block");
  const length = Uint8Array.of(0, options.length);
  const info = concat(length, HPKE_V1, options.suiteId, utf8(options.label), options.info);
  return crypto.hmac(options.prk, concat(info, Uint8Array.of(1))).slice(0, options.length);
}

/** ExtractAndExpand of section 4.1. */
function kemSecret(crypto: CryptoSuite, dh: Uint8Array, enc: Uint8Array, publicKey: Uint8Array): Uint8Array {
  const prk = labeledExtract(crypto, { suiteId: KEM_SUITE_ID, salt: EMPTY, label: "eae_prk", ikm: dh });
  const info = concat(enc, publicKey);
  return labeledExpand(crypto, { suiteId: KEM_SUITE_ID, prk, label: "shared_secret", info, length: 32 });
}

/** KeySchedule of section 5.1 for the first and only message: its nonce is the base nonce. */
function keySchedule(
  crypto: CryptoSuite,
  sharedSecret: Uint8Array,
  info: Uint8Array,
): { key: Uint8Array; nonce: Uint8Array } {
  const suiteId = HPKE_SUITE_ID;
  const pskIdHash = labeledExtract(crypto, { suiteId, salt: EMPTY, label: "psk_id_hash", ikm: EMPTY });
  const infoHash = labeledExtract(crypto, { suiteId, salt: EMPTY, label: "info_hash", ikm: info });
  const context = concat(MODE_BASE, pskIdHash, infoHash);
  const prk = labeledExtract(crypto, { suiteId, salt: sharedSecret, label: "secret", ikm: EMPTY });
  return {
    key: labeledExpand(crypto, { suiteId, prk, label: "key", info: context, length: 32 }),
    nonce: labeledExpand(crypto, { suiteId, prk, label: "base_nonce", info: context, length: 12 }),
  };
}

/**
 * @param options.publicKey - The recipient's X25519 key; a stranger's may be any bytes.
 * @param options.ephemeralSecret - 32 random bytes, for this message alone: key and nonce follow from it (BA26).
 * @returns enc (32) | ciphertext with tag, or undefined when the recipient's key is of small order.
 */
export async function hpkeSeal(
  crypto: CryptoSuite,
  options: {
    readonly publicKey: Uint8Array;
    readonly info: Uint8Array;
    readonly associatedData: Uint8Array;
    readonly plaintext: Uint8Array;
    readonly ephemeralSecret: Uint8Array;
  },
): Promise<Uint8Array | undefined> {
  assert(options.ephemeralSecret.length === 32, "ephemeral secret has 32 bytes");
  if (!acceptableDhKey(options.publicKey)) return undefined;
  const enc = await crypto.x25519.publicKey(options.ephemeralSecret);
  const dh = await crypto.x25519.sharedSecret(options.ephemeralSecret, options.publicKey);
  if (dh === undefined) return undefined;
  const { key, nonce } = keySchedule(crypto, kemSecret(crypto, dh, enc, options.publicKey), options.info);
  const { associatedData, plaintext } = options;
  return concat(enc, await crypto.chacha20poly1305.seal({ key, nonce, data: plaintext, associatedData }));
}

/** @param options.publicKey - Of `secret`. @returns The plaintext, or undefined when it was not sealed to us like this. */
export async function hpkeOpen(
  crypto: CryptoSuite,
  options: {
    readonly secret: Uint8Array;
    readonly publicKey: Uint8Array;
    readonly info: Uint8Array;
    readonly associatedData: Uint8Array;
    readonly sealed: Uint8Array;
  },
): Promise<Uint8Array | undefined> {
  if (options.sealed.length < HPKE_OVERHEAD) return undefined;
  const enc = options.sealed.slice(0, ENCAPSULATED_KEY_BYTES);
  const dh = await crypto.x25519.sharedSecret(options.secret, enc);
  if (dh === undefined) return undefined;
  const { key, nonce } = keySchedule(crypto, kemSecret(crypto, dh, enc, options.publicKey), options.info);
  const data = options.sealed.subarray(ENCAPSULATED_KEY_BYTES);
  return crypto.chacha20poly1305.open({ key, nonce, data, associatedData: options.associatedData });
}
