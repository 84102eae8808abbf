/** What one mailbox takes and keeps. Those of a connection are in `#protocols/sync/limits.ts`. */
export type MailboxLimits = {
  /** Connections with a sync stream. A relay on a small machine; each costs a few KB and its share of memory for frames. */
  readonly maxSessions: number;
  /** Everything stored. 8 GiB is about four million envelopes of 1 KB with their index. */
  readonly maxBytes: number;
  /** Envelopes of one topic (one conversation, seven days): a busy group of 50. One topic must not fill the mailbox. */
  readonly maxTopicBytes: number;
  readonly maxTopicEnvelopes: number;
  /** Waiting for their commit. Beyond it the mailbox is busy, and the sender offers again. */
  readonly maxQueuedBytes: number;
  /** Signature checks of gossip under way; beyond it gossip is dropped, and comes by put. */
  readonly maxChecks: number;
  /** Grants of one inbox: open invites of one account and their revocations. */
  readonly maxGrants: number;
  /** Deposits one inbox holds, and their bytes. */
  readonly maxDeposits: number;
  readonly maxDepositBytes: number;
};

export const MAILBOX_LIMITS: MailboxLimits = {
  maxSessions: 1_000,
  maxBytes: 8 * 1024 ** 3,
  maxTopicBytes: 64 * 1024 ** 2,
  maxTopicEnvelopes: 20_000,
  maxQueuedBytes: 32 * 1024 ** 2,
  maxChecks: 256,
  maxGrants: 256,
  maxDeposits: 512,
  maxDepositBytes: 8 * 1024 ** 2,
};

/** Streams of one peer: it may know one relay by several addresses, one for each transport. */
export const MAX_SESSIONS_PER_PEER = 4;

/** Deposits kept of one redeemer: a request, and what its devices repeat of it. An older one makes room for a newer. */
export const MAX_DEPOSITS_PER_REDEEMER = 4;

/** How long an id is remembered after its envelope expired: clocks of a day apart must not bring it back (DESIGN 7.6). */
export const ID_MEMORY_MS = 24 * 3_600_000;

/** Expired rows removed in one go, so that a sweep never holds up a commit for long. */
export const SWEEP_ROWS = 500;

/** Between sweeps; shorter while there is more to remove. Expiry is by the hour, so a minute is prompt. */
export const SWEEP_INTERVAL_MS = 60_000;
export const SWEEP_AGAIN_MS = 100;

/** After a failed store: opened anew, later each time. */
export const REOPEN_FIRST_MS = 250;
export const REOPEN_LAST_MS = 30_000;

/** Positions skipped after an unclean start, so that no position of entries that may have been lost is used twice. */
export const UNCLEAN_SKIP = 1_048_576;

/** Approximate bytes of keys and indexes that an entry costs beside its value. */
export const ROW_OVERHEAD = 256;
