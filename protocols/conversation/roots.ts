/**
 * The roots of one conversation: every one that may still carry messages is heard, one is written on. Spec: ./SPEC.md CV70-CV76.
 */
import { equalBytes } from "#protocols/base/bytes.ts";
import { type Infer, list, optional, struct, uint } from "#protocols/base/codec.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import {
  advance,
  compareRoots,
  type ConversationRoot,
  conversationRootSchema,
  listenPeriods,
  openRoot,
  PERIOD_MS,
  periodAt,
  rootChainSchema,
  topicKeys,
  type TopicKeys,
} from "#protocols/envelope/envelope.ts";

/** Roots heard at once. Weekly replacement and two periods of hearing make three; the rest is for concurrent ones. */
export const MAX_ROOTS = 8;
/** A root that lost is heard this long, for messages under way when it did (CV72). */
export const SUPERSEDED_MS = 2 * PERIOD_MS;
/** A direct chat replaces its root when it is this old (CV74). */
export const ROOT_LIFETIME_MS = PERIOD_MS;

export const rootEntrySchema = struct({
  chain: rootChainSchema,
  /** Kept while it may have to be handed on; dropped with the first period, for forward secrecy. */
  root: optional(conversationRootSchema),
  /** Index of our event that proposes it, until one of their devices has receipted that: nobody listens there yet (CV73). */
  proposedIn: uint(),
  /** When a better root became active, or 0. */
  supersededAt: uint(),
});
export type RootEntry = Infer<typeof rootEntrySchema>;
export const rootsSchema = list(rootEntrySchema, MAX_ROOTS);
export type Roots = readonly RootEntry[];

/** CV71: one order on both sides, whatever arrived first. */
function better(a: RootEntry, b: RootEntry): number {
  return compareRoots(a.chain, b.chain);
}

function isActive(entry: RootEntry): boolean {
  return entry.proposedIn === 0;
}

/** The root to write on: the best that somebody else is known to hear, else the best there is. */
export function writingRoot(roots: Roots): RootEntry | undefined {
  const sorted = roots.toSorted(better);
  return sorted.find(isActive) ?? sorted[0];
}

/**
 * Adds a root, or makes a known one active; marks what is beaten by an active one.
 * @param proposedIn - Index of our event that proposes it; 0 when it came from another device.
 */
export function adoptRoot(
  crypto: CryptoSuite,
  roots: Roots,
  proposal: { readonly root: ConversationRoot; readonly proposedIn: number },
  now: number,
): Roots {
  const { root, proposedIn } = proposal;
  const chain = openRoot(crypto, root);
  const same = (entry: RootEntry): boolean => equalBytes(entry.chain.rootHash, chain.rootHash);
  const known = roots.find(same);
  const entry: RootEntry = known
    ? { ...known, proposedIn: Math.min(known.proposedIn, proposedIn) }
    : { chain, root, proposedIn, supersededAt: 0 };
  return settle([...roots.filter((other) => !same(other)), entry], now);
}

/** A proposal counts once `receipted` says that its event has arrived. */
export function activateRoots(roots: Roots, receipted: (index: number) => boolean, now: number): Roots {
  if (!roots.some((entry) => !isActive(entry) && receipted(entry.proposedIn))) return roots;
  const heard = roots.map((entry) => (!isActive(entry) && receipted(entry.proposedIn) ? { ...entry, proposedIn: 0 } : entry));
  return settle(heard, now);
}

function settle(roots: Roots, now: number): Roots {
  const writing = writingRoot(roots);
  const marked = roots.map((entry) => {
    const beaten = writing !== undefined && entry !== writing && isActive(writing) && isActive(entry);
    return { ...entry, supersededAt: beaten ? entry.supersededAt || now : 0 };
  });
  return marked.toSorted(better).slice(0, MAX_ROOTS);
}

/**
 * Moves every chain to `now`: spent period secrets go, and roots that lost long enough ago.
 * @returns The same roots when nothing has turned, so that callers see by identity that nothing did.
 */
export function advanceRoots(crypto: CryptoSuite, roots: Roots, now: number): Roots {
  const advanced = roots.filter(isHeard).map((entry) => {
    const chain = advance(crypto, entry.chain, now);
    if (chain === entry.chain) return entry;
    const { root: _spent, ...rest } = entry;
    return { ...rest, chain };
  });
  return advanced.length === roots.length && advanced.every((entry, i) => entry === roots[i]) ? roots : advanced;

  function isHeard(entry: RootEntry): boolean {
    return entry.supersededAt === 0 || now < entry.supersededAt + SUPERSEDED_MS;
  }
}

export function rootDue(roots: Roots, now: number): boolean {
  const writing = writingRoot(roots);
  return writing !== undefined && roots.every(isActive) && now >= writing.chain.createdAt + ROOT_LIFETIME_MS;
}

/** Every topic to hear now: previous, current and next period of every root, because clocks and periods overlap. */
export async function heardTopics(crypto: CryptoSuite, roots: Roots, now: number): Promise<readonly TopicKeys[]> {
  const keys: TopicKeys[] = [];
  for (const { chain } of roots) {
    for (const period of listenPeriods(chain, now)) keys.push(await topicKeys(crypto, chain, period));
  }
  return keys;
}

export async function writingTopic(crypto: CryptoSuite, roots: Roots, now: number): Promise<TopicKeys | undefined> {
  const writing = writingRoot(roots);
  return writing && topicKeys(crypto, writing.chain, periodAt(writing.chain, now));
}
