import { compareBytes, concat, equalBytes, fromHex, readU32, utf8 } from "#protocols/base/bytes.ts";
import { bytes, decode, encode, literal, struct } from "#protocols/base/codec.ts";
import type { AccountId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";

/** Two people compare what they see of each other, by reading digits aloud or by scanning. Spec: ./SPEC.md ID25-ID28. */

/**
 * Hashes in a row for one half. Digits hold 99.7 bits of a key; this makes each guess of a look-alike dearer, as Signal's
 * 5,200 do, at some milliseconds for us. Part of the format.
 */
const ITERATIONS = 1024;
const DIGITS_PER_GROUP = 5;
const GROUPS_PER_HALF = 6;

/** 32 bytes that stand for one account: h0 = H(label | key), h = H(h | key) (ID25). */
function fingerprint(crypto: CryptoSuite, account: AccountId): Uint8Array {
  const key = fromHex(account);
  assert(key?.length === 32, "account id is 32 bytes of hex");
  let hash = crypto.sha256(concat(utf8("skein/1/safety-number"), key));
  for (let i = 1; i < ITERATIONS; i++) hash = crypto.sha256(concat(hash, key));
  return hash;
}

/** Six groups of five digits from 30 bytes: each group is 5 bytes, big-endian, modulo 100,000. */
function digits(hash: Uint8Array): string {
  const groups: string[] = [];
  for (let group = 0; group < GROUPS_PER_HALF; group++) {
    const offset = group * 5;
    const value = hash[offset]! * 0x1_0000_0000 + readU32(hash, offset + 1);
    groups.push((value % 10 ** DIGITS_PER_GROUP).toString().padStart(DIGITS_PER_GROUP, "0"));
  }
  return groups.join(" ");
}

/**
 * 60 digits in twelve groups of five, the same whoever asks. It takes some milliseconds: keep it with the contact, account
 * keys never change.
 */
export function safetyNumber(crypto: CryptoSuite, a: AccountId, b: AccountId): string {
  const [low, high] = [fingerprint(crypto, a), fingerprint(crypto, b)].toSorted(compareBytes);
  return `${digits(low!)} ${digits(high!)}`;
}

/** Wire: 70 bytes. */
const safetyCodeSchema = struct({ version: literal(1), own: bytes(32), other: bytes(32) });

type Pair = { readonly self: AccountId; readonly other: AccountId };

/** What the QR code on my screen holds: my fingerprint, and the one I see of the other. */
export function safetyCode(crypto: CryptoSuite, { self, other }: Pair): Uint8Array {
  return encode(safetyCodeSchema, { version: 1, own: fingerprint(crypto, self), other: fingerprint(crypto, other) });
}

/**
 * Compares a code scanned from the other's screen with what I see.
 * @returns True when both see each other's keys; `identity/code-mismatch` when not; `identity/bad-code` when it is none.
 */
export function checkSafetyCode(crypto: CryptoSuite, { self, other }: Pair, scanned: Uint8Array): OrReject<true> {
  const code = decode(safetyCodeSchema, scanned);
  if (isReject(code)) return reject("identity/bad-code");
  const same = equalBytes(code.own, fingerprint(crypto, other)) && equalBytes(code.other, fingerprint(crypto, self));
  return same ? true : reject("identity/code-mismatch");
}
