/** What a client of a mailbox is told, and the limits it keeps. */
import type { EnvelopeId, InboxId, LogId, TopicId } from "#protocols/base/ids.ts";

/** @param n - The cursor that may be kept once this item is committed; on a reconnect the mailbox goes on after it. */
export type Item = { readonly n: number; readonly envelope: Uint8Array };

/** What lies in an inbox. `n` names it towards the mailbox, for a cursor and for `removeDeposits`. */
export type DepositItem = { readonly n: number; readonly deposit: Uint8Array };

export interface MailboxHandlers {
  /**
   * Commit these, and resolve. Within a lane calls come one at a time; a backlog and what is live overlap. `cursor`, when
   * given, belongs into the same commit; it is the largest `n` of the items, or stands alone when there are none.
   */
  entries(topic: TopicId, log: LogId, items: readonly Item[], cursor?: number): Promise<void>;
  /** Whether an envelope is here already, committed or in a commit before which no cursor will be. */
  seen(id: EnvelopeId): boolean | Promise<boolean>;
  /** The mailbox whose receipts this key (hex) signs holds these until then (ms since 1970). */
  custody(receipt: { readonly ids: readonly EnvelopeId[]; readonly until: number; readonly mailbox: string }): void;
  /** `sync/not-open` and `sync/queue-full` are ours: offer it again when the state is open. The rest are the mailbox's. */
  rejected(id: EnvelopeId, code: string): void;
  /** Commit these, and resolve. They come again on the next connection unless `n` was passed as a cursor. */
  deposits?(items: readonly DepositItem[], inbox: InboxId, log: LogId): Promise<void>;
  networkTime(ms: number): void;
  state(state: MailboxState, reason?: string): void;
  /** Everything the mailbox had on this topic is committed (DESIGN section 4: only now re-handshake). */
  caughtUp?(topic: TopicId): void;
  /** The mailbox does not serve this topic to us: a code of protocols/sync. It is asked again on the next connection. */
  denied?(topic: TopicId, code: string): void;
}

export type MailboxState = "connecting" | "open" | "closed";

export type MailboxClientLimits = {
  /** Between attempts: doubles from the first to the last, with jitter, so that a relay that comes back is not trampled. */
  readonly retryFirstMs: number;
  readonly retryLastMs: number;
  /** A connection that lived this long resets the wait. */
  readonly settledMs: number;
  readonly connectDeadlineMs: number;
  readonly requestDeadlineMs: number;
  /** Puts that the mailbox leaves unanswered this long mean that the line is dead. */
  readonly putDeadlineMs: number;
  /** Envelopes waiting for the mailbox's window, bytes. The outbox on disk holds the rest. */
  readonly maxQueuedBytes: number;
};

export const CLIENT_LIMITS: MailboxClientLimits = {
  retryFirstMs: 500,
  retryLastMs: 60_000,
  settledMs: 30_000,
  connectDeadlineMs: 15_000,
  requestDeadlineMs: 15_000,
  putDeadlineMs: 30_000,
  maxQueuedBytes: 16 * 1024 ** 2,
};
