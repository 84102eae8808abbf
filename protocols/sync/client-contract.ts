/** The client's end of a sync stream: its state, what goes in and what comes out. The decisions are in `client.ts`. */
import type { EnvelopeId, InboxId, PeerId, TopicId } from "#protocols/base/ids.ts";
import type { Answer, Cursor, Frame, FrameOf, Held, Item, Lane, Receipt } from "./frames.ts";
import type { Binding } from "./proofs.ts";

export type Milestone = {
  readonly mark: number;
  readonly through: number | undefined;
  /** The mailbox had nothing after it when it was read. */
  readonly end: boolean;
  committed: boolean;
  /** Announced entries that gossip did not bring. */
  missing: number;
};

export type Topic = {
  readonly seed: Uint8Array;
  cursor: Cursor | undefined;
  subscribed: boolean;
  readonly milestones: Milestone[];
  readonly wanted: Map<number, Milestone[]>;
};

type Inbox = { readonly seed: Uint8Array; cursor: Cursor | undefined; opened: boolean };

export type ClientState = {
  readonly self: PeerId;
  readonly mailboxPeer: PeerId;
  readonly nonce: Uint8Array;
  phase: "hello" | "open" | "closed";
  binding: Binding | undefined;
  mailbox: NonNullable<FrameOf<"hello">["mailbox"]> | undefined;
  readonly topics: Map<TopicId, Topic>;
  readonly inboxes: Map<InboxId, Inbox>;
  nextMark: number;
  milestones: number;
  wanted: number;
  /** Bytes the mailbox may still send on each lane. */
  readonly granted: { backlog: number; live: number };
  /** Waiting for room in the mailbox's window, in order. */
  readonly queue: PutItem[];
  queuedBytes: number;
  readonly inFlight: Map<EnvelopeId, number>;
  inFlightBytes: number;
};

export type PutItem = { readonly id: EnvelopeId; readonly bytes: Uint8Array };

export type ClientInput =
  | { readonly type: "frame"; readonly raw: Uint8Array }
  | {
      readonly type: "subscribe";
      readonly topics: readonly { readonly id: TopicId; readonly seed: Uint8Array; readonly cursor?: Cursor }[];
    }
  | { readonly type: "unsubscribe"; readonly topic: TopicId }
  | {
      readonly type: "openInbox";
      readonly inbox: { readonly id: InboxId; readonly seed: Uint8Array };
      readonly cursor?: Cursor;
    }
  | { readonly type: "put"; readonly envelopes: readonly PutItem[] }
  /** The delivery with this mark is committed. */
  | {
      readonly type: "committed";
      readonly topic: TopicId;
      readonly mark: number;
      readonly lane: Lane;
      readonly items: readonly Item[];
    }
  | { readonly type: "depositsCommitted"; readonly inbox: InboxId; readonly items: readonly Item[] }
  /** Of what was announced with this mark, these positions are not here. */
  | { readonly type: "missing"; readonly topic: TopicId; readonly mark: number; readonly ns: readonly number[] };

export type ClientEffect =
  | { readonly type: "send"; readonly frame: Frame }
  | { readonly type: "opened"; readonly hello: FrameOf<"hello"> }
  | { readonly type: "subscribed"; readonly topic: TopicId; readonly cursor: Cursor; readonly reset: boolean }
  | { readonly type: "denied"; readonly topic: TopicId; readonly code: string }
  | { readonly type: "inboxDenied"; readonly inbox: InboxId; readonly code: string }
  /** Commit these, then answer with `committed`. Ask `cursorAfter` at the time of the commit for the cursor to keep. */
  | {
      readonly type: "deliver";
      readonly topic: TopicId;
      readonly mark: number;
      readonly lane: Lane;
      readonly items: readonly Item[];
    }
  | { readonly type: "deliverDeposits"; readonly inbox: InboxId; readonly items: readonly Item[] }
  /** Find out which of these are not here yet and answer with `missing`. */
  | { readonly type: "ask"; readonly topic: TopicId; readonly mark: number; readonly items: readonly Held[] }
  | { readonly type: "cursor"; readonly topic: TopicId; readonly cursor: Cursor }
  /** Everything the mailbox had on this topic is committed. */
  | { readonly type: "caughtUp"; readonly topic: TopicId }
  | { readonly type: "custody"; readonly custodyKey: string; readonly items: readonly Receipt[] }
  | { readonly type: "refused"; readonly items: readonly { readonly id: EnvelopeId; readonly code: string }[] }
  | { readonly type: "answer"; readonly request: number; readonly answer: Answer }
  | { readonly type: "refusal"; readonly request: number; readonly code: string }
  | { readonly type: "close"; readonly code: string };
