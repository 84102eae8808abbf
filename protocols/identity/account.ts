import { entropyToMnemonic, mnemonicToEntropy } from "@scure/bip39";
import { wordlist } from "@scure/bip39/wordlists/english.js";
import { toHex, utf8 } from "#protocols/base/bytes.ts";
import type { AccountId, InboxId } from "#protocols/base/ids.ts";
import { type OrReject, reject } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";

/** The account's own secrets: phrase -> root seed -> account secret -> inbox keys. Spec: ./SPEC.md ID1-ID5, ID20-ID21. */

const PHRASE_WORDS = 24;
/** 24 words of at most 8 letters need 215 characters; generous spacing fits, a pasted book does not. */
const MAX_PHRASE_LENGTH = 1024;
const WORDS: ReadonlySet<string> = new Set(wordlist);

/** Makes the phrase a person writes down: 256 bits as 24 English words (BIP-39). */
export function createPhrase(random: (length: number) => Uint8Array): { phrase: string; entropy: Uint8Array } {
  const entropy = random(32);
  return { phrase: entropyToMnemonic(entropy, wordlist), entropy };
}

/**
 * The account's Ed25519 seed. Case, spacing and Unicode form of the phrase do not matter. The phrase carries 256 bits, so it
 * is not stretched as BIP-39 wallets do (ID3).
 * @returns 32 bytes, or `identity/bad-phrase-length`, `identity/bad-phrase-word` (one is not in the list),
 * `identity/bad-phrase-checksum` (all are, but swapped or wrong).
 */
export function rootSeedFromPhrase(crypto: CryptoSuite, phrase: string): OrReject<Uint8Array> {
  if (phrase.length > MAX_PHRASE_LENGTH) return reject("identity/bad-phrase-length");
  const words = phrase
    .normalize("NFKD")
    .toLowerCase()
    .split(/\s+/u)
    .filter((word) => word !== "");
  if (words.length !== PHRASE_WORDS) return reject("identity/bad-phrase-length");
  if (words.some((word) => !WORDS.has(word))) return reject("identity/bad-phrase-word");
  let entropy: Uint8Array;
  try {
    entropy = mnemonicToEntropy(words.join(" "), wordlist);
  } catch {
    // Length and words were checked; the checksum is all that is left to fail.
    return reject("identity/bad-phrase-checksum");
  }
  return crypto.hkdf({ ikm: entropy, info: utf8("skein/1/root-seed"), length: 32 });
}

export async function accountId(crypto: CryptoSuite, rootSeed: Uint8Array): Promise<AccountId> {
  return toHex(await crypto.ed25519.publicKey(rootSeed)) as AccountId;
}

/** What all devices of an account share, linked ones too, which never see the root seed (ID20). 32 bytes. */
export function accountSecret(crypto: CryptoSuite, rootSeed: Uint8Array): Uint8Array {
  return crypto.hkdf({ ikm: rootSeed, info: utf8("skein/1/account-secret"), length: 32 });
}

export type InboxKeys = {
  /** Public key of `seed`; the inbox's name at a mailbox. */
  readonly id: InboxId;
  /** Ed25519 seed: proves at the mailbox who may read. */
  readonly seed: Uint8Array;
  /** X25519: first contact is HPKE-sealed to its public key. */
  readonly sealSecret: Uint8Array;
  readonly sealKey: Uint8Array;
};

/** The keys under which strangers reach the account, the same on each of its devices (ID21). */
export async function inboxKeys(crypto: CryptoSuite, secret: Uint8Array): Promise<InboxKeys> {
  const seed = crypto.hkdf({ ikm: secret, info: utf8("skein/1/inbox-seed"), length: 32 });
  const sealSecret = crypto.hkdf({ ikm: secret, info: utf8("skein/1/inbox-seal"), length: 32 });
  const id = toHex(await crypto.ed25519.publicKey(seed)) as InboxId;
  return { id, seed, sealSecret, sealKey: await crypto.x25519.publicKey(sealSecret) };
}
