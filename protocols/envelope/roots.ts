/**
 * From a conversation's root to the topics of its periods. The chain of period secrets goes one way: what is kept of a root
 * opens the previous period and all later ones, never an earlier one. Spec: ./SPEC.md EN1-EN5.
 */
import { compareBytes, concat, toHex, utf8 } from "#protocols/base/bytes.ts";
import { bytes, encode, type Infer, struct, uint } from "#protocols/base/codec.ts";
import type { TopicId } from "#protocols/base/ids.ts";
import { assert, type OrReject, reject } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { DAY_MS, HOUR_MS, MAX_AHEAD_MS, MAX_LIFETIME_MS } from "./lifetime.ts";

/** A topic lives this long. Shorter hides more and costs more subscriptions; envelopes outlive it through `previous`. */
export const PERIOD_MS = 7 * DAY_MS;

/** A root older than this is not opened: direct roots are replaced weekly, and the chain to today must stay short (EN5). */
export const MAX_ROOT_AGE_MS = 365 * DAY_MS;

const MAX_TIME_MS = 2 ** 48;
const ROOT_LABEL = utf8("skein/1/root");
const FIRST_LABEL = utf8("skein/1/period-first");
const NEXT_LABEL = utf8("skein/1/period-next");
const TOPIC_LABEL = utf8("skein/1/period-topic");

/** 32 random bytes that a conversation's topics come from, with the version that orders its replacements. */
export const conversationRootSchema = struct({
  version: uint(0xffff_ffff),
  secret: bytes(32),
  createdAt: uint(MAX_TIME_MS),
});
export type ConversationRoot = Infer<typeof conversationRootSchema>;

/** What is kept of a root. `secret` belongs to `period`, the oldest that can still be derived. */
export const rootChainSchema = struct({
  version: uint(0xffff_ffff),
  rootHash: bytes(32),
  createdAt: uint(MAX_TIME_MS),
  /** Milliseconds by which this root's periods are shifted, so that not all conversations turn at once. */
  offset: uint(PERIOD_MS - 1),
  period: uint(0xffff_ffff),
  secret: bytes(32),
});
export type RootChain = Infer<typeof rootChainSchema>;

/** One period's topic. `seed` is the right to write, `sealKey` the right to read; every member has both. */
export type TopicKeys = {
  readonly id: TopicId;
  readonly seed: Uint8Array;
  readonly sealKey: Uint8Array;
  readonly period: number;
};

export function rootHash(crypto: CryptoSuite, root: ConversationRoot): Uint8Array {
  return crypto.sha256(concat(ROOT_LABEL, encode(conversationRootSchema, root)));
}

/** Checks a root that somebody else made. Before `openRoot`: its time decides how long the chain to today is (EN5). */
export function checkRoot(root: ConversationRoot, options: { readonly now: number }): OrReject<ConversationRoot> {
  if (root.createdAt > options.now + MAX_AHEAD_MS) return reject("envelope/root-from-the-future");
  if (root.createdAt < options.now - MAX_ROOT_AGE_MS) return reject("envelope/root-too-old");
  return root;
}

/** The chain begins one period before the root was made: a member whose clock is behind listens there. */
export function openRoot(crypto: CryptoSuite, root: ConversationRoot): RootChain {
  const hash = rootHash(crypto, root);
  const offset = Number.parseInt(toHex(hash.subarray(0, 6)), 16) % PERIOD_MS;
  return {
    version: root.version,
    rootHash: hash,
    createdAt: root.createdAt,
    offset,
    period: Math.max(0, periodOf(offset, root.createdAt) - 1),
    secret: crypto.hkdf({ ikm: root.secret, info: concat(FIRST_LABEL, hash), length: 32 }),
  };
}

function periodOf(offset: number, now: number): number {
  return Math.floor((now + offset) / PERIOD_MS);
}

/** The period to write in. Never a spent one, so that a clock set back does not ask for what is gone. */
export function periodAt(chain: RootChain, now: number): number {
  return Math.max(chain.period, periodOf(chain.offset, now));
}

/**
 * Previous, current and next; before them, those that are not forgotten yet and in which something may still lie at a
 * mailbox. So one who was away hears what was written meanwhile, until `advance` (EN4). At most seven.
 */
export function listenPeriods(chain: RootChain, now: number): readonly number[] {
  const alive = periodOf(chain.offset, now - MAX_LIFETIME_MS - HOUR_MS);
  const first = Math.max(chain.period, alive);
  return Array.from({ length: periodAt(chain, now) + 2 - first }, (_, i) => first + i);
}

/**
 * Forgets the periods before the previous one. Not before the mailboxes were read to their end on these (EN4).
 * @param now - Network time that another party has confirmed: what a wrong clock forgets does not come back (EN4).
 */
export function advance(crypto: CryptoSuite, chain: RootChain, now: number): RootChain {
  const period = periodAt(chain, now) - 1;
  if (period <= chain.period) return chain;
  return { ...chain, period, secret: secretOf(crypto, chain, period) };
}

function secretOf(crypto: CryptoSuite, chain: RootChain, period: number): Uint8Array {
  assert(period >= chain.period, "period is not spent");
  let secret = chain.secret;
  for (let at = chain.period; at < period; at++) secret = crypto.hkdf({ ikm: secret, info: NEXT_LABEL, length: 32 });
  return secret;
}

/** Pure, so callers may cache it by root hash and period. */
export async function topicKeys(crypto: CryptoSuite, chain: RootChain, period: number): Promise<TopicKeys> {
  const keys = crypto.hkdf({ ikm: secretOf(crypto, chain, period), info: TOPIC_LABEL, length: 64 });
  const seed = keys.slice(0, 32);
  const id = toHex(await crypto.ed25519.publicKey(seed)) as TopicId;
  return { id, seed, sealKey: keys.slice(32), period };
}

/** Order of concurrent roots: the higher version first, then the lower hash. The first one is written on (EN3). */
export function compareRoots(a: RootChain, b: RootChain): number {
  return b.version - a.version || compareBytes(a.rootHash, b.rootHash);
}
