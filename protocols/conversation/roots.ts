/**
 * The roots of one conversation: every one that may still carry messages is heard, one is written on. Spec: ./SPEC.md CV70-CV77.
 */
import { equalBytes } from "#protocols/base/bytes.ts";
import { id, type Infer, list, optional, struct, uint } from "#protocols/base/codec.ts";
import type { DeviceId } from "#protocols/base/ids.ts";
import { type OrReject, reject } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import {
  advance,
  checkRoot,
  compareRoots,
  type ConversationRoot,
  conversationRootSchema,
  listenPeriods,
  openRoot,
  PERIOD_MS,
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

/** A clock ahead of ours by more than this was wrong; what it proposed waits for nobody (CV74). */
const MAX_AHEAD_MS = 24 * 3_600_000;
/**
 * How far one root may raise the version: twenty years of weekly ones that we slept through. Without a bound one root with the
 * last version would be the last root (CV76).
 */
export const MAX_VERSION_JUMP = 1_024;

export const rootEntrySchema = struct({
  chain: rootChainSchema,
  /** Kept while it may have to be handed on; dropped with the first period, for forward secrecy. */
  root: optional(conversationRootSchema),
  /** Index of our account's event that proposes it, until one of their devices has receipted that (CV73). */
  proposedIn: uint(),
  /** The event that brought it: whoever has receipted that one hears it, and our other devices may not yet (CV57). */
  broughtBy: struct({ device: id<DeviceId>(), index: uint() }),
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

/** CV76: whether a root that somebody else made may be opened. */
export function acceptableRoot(
  roots: Roots,
  root: ConversationRoot,
  options: { readonly now: number },
): OrReject<ConversationRoot> {
  const highest = roots.reduce((version, { chain }) => Math.max(version, chain.version), 0);
  if (root.version > highest + MAX_VERSION_JUMP) return reject("conversation/root-version");
  return checkRoot(root, options);
}

/**
 * Adds a root, or makes a known one active; marks what is beaten by an active one.
 * @param proposal.proposedIn - Index of our account's event that proposes it; 0 when it came from the contact.
 */
export function adoptRoot(
  crypto: CryptoSuite,
  roots: Roots,
  proposal: {
    readonly root: ConversationRoot;
    readonly proposedIn: number;
    readonly broughtBy: RootEntry["broughtBy"];
  },
  now: number,
): Roots {
  const { root, ...where } = proposal;
  return mergeRoots(roots, [{ chain: openRoot(crypto, root), root, ...where, supersededAt: 0 }], now);
}

/** Adds what another device of ours hears; what is active for one of us is active (CV53). */
export function mergeRoots(roots: Roots, others: Roots, now: number): Roots {
  let all = roots;
  for (const other of others) {
    const same = (entry: RootEntry): boolean => equalBytes(entry.chain.rootHash, other.chain.rootHash);
    const known = all.find(same);
    const entry = known ? { ...known, proposedIn: other.proposedIn === 0 ? 0 : known.proposedIn } : other;
    all = [...all.filter((each) => !same(each)), entry];
  }
  return settle(all, now);
}

/** A proposal counts once `receipted` says that its event has arrived. */
export function activateRoots(
  roots: Roots,
  receipted: (device: DeviceId, index: number) => boolean,
  now: number,
): Roots {
  const arrived = (entry: RootEntry): boolean =>
    !isActive(entry) && receipted(entry.broughtBy.device, entry.broughtBy.index);
  if (!roots.some(arrived)) return roots;
  return settle(
    roots.map((entry) => (arrived(entry) ? { ...entry, proposedIn: 0 } : entry)),
    now,
  );
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

/**
 * CV74: whether to propose a new root: the one we write on is a week old, or older than the going of a device.
 * @param revokedAt - When the last device of either side was revoked; 0 for never.
 */
export function rootDue(roots: Roots, now: number, revokedAt = 0): boolean {
  const writing = writingRoot(roots);
  if (writing === undefined || !roots.every((entry) => isActive(entry) || entry.chain.createdAt > now + MAX_AHEAD_MS)) {
    return false;
  }
  const { createdAt } = writing.chain;
  return now >= createdAt + ROOT_LIFETIME_MS || (revokedAt <= now && revokedAt > createdAt);
}

/** Every topic to hear now: previous, current and next period of every root, because clocks and periods overlap. */
export async function heardTopics(crypto: CryptoSuite, roots: Roots, now: number): Promise<readonly TopicKeys[]> {
  const keys: TopicKeys[] = [];
  for (const { chain } of roots) {
    for (const period of listenPeriods(chain, now)) keys.push(await topicKeys(crypto, chain, period));
  }
  return keys;
}
