/** The mailbox's end of a sync stream: its state, what goes in and what comes out. The decisions are in `server.ts`. */
import type { EnvelopeId, InboxId, LogId, PeerId, TopicId } from "#protocols/base/ids.ts";
import type { Answer, Frame, FrameOf, Held, Item, Receipt } from "./frames.ts";
import { MAX_TOPICS, PUT_WINDOW_BYTES, TOKEN_BURST, TOKENS_PER_SECOND } from "./limits.ts";
import type { Binding } from "./proofs.ts";

export type ServerLimits = {
  readonly maxTopics: number;
  readonly putWindowBytes: number;
  readonly tokenBurst: number;
  readonly tokensPerSecond: number;
};

export const SERVER_LIMITS: ServerLimits = {
  maxTopics: MAX_TOPICS,
  putWindowBytes: PUT_WINDOW_BYTES,
  tokenBurst: TOKEN_BURST,
  tokensPerSecond: TOKENS_PER_SECOND,
};

/** What a reader follows: a topic's envelopes or an inbox's deposits. */
export type FeedName =
  | { readonly kind: "topic"; readonly id: TopicId }
  | { readonly kind: "inbox"; readonly id: InboxId };

export type Feed = { readonly name: FeedName; sent: number; latest: number; live: boolean };

export type ServerState = {
  readonly limits: ServerLimits;
  readonly log: LogId;
  readonly mailboxPeer: PeerId;
  readonly clientPeer: PeerId;
  readonly nonce: Uint8Array;
  phase: "hello" | "open" | "closed";
  binding: Binding | undefined;
  /** By id: an inbox's and a topic's are keys of different use, and a collision would only merge two feeds of one reader. */
  readonly feeds: Map<TopicId | InboxId, Feed>;
  /** Feeds to be read, taken in turn so that one long backlog does not hold up the rest. */
  readonly behind: Set<Feed>;
  readonly credit: { backlog: number; live: number };
  /** The one batch of a backlog under way: asked of the store, then waiting for the stream. */
  reading:
    | {
        readonly feed: Feed;
        readonly after: number;
        batch?: { readonly upTo: number; readonly end: boolean; readonly bytes: number };
      }
    | undefined;
  fetching: boolean;
  readonly wanted: { readonly topic: TopicId; readonly n: number }[];
  /** Bytes of frames handed out to be sent and not yet taken by the stream. */
  queuedBytes: number;
  /** Put bytes not yet answered. */
  putBytes: number;
  readonly requests: Set<number>;
  tokens: number;
  tokensAt: number;
};

export type InboxRequest =
  | Omit<FrameOf<"grant">, "request">
  | Omit<FrameOf<"revokeGrant">, "request">
  | Omit<FrameOf<"deposit">, "request">
  | Omit<FrameOf<"directoryPut">, "request">
  | Omit<FrameOf<"directoryTake">, "request">
  | Omit<FrameOf<"directoryCount">, "request">;

export type ServerInput =
  | { readonly type: "frame"; readonly raw: Uint8Array }
  /**
   * Entries up to `latest` are on the disk. `pushes` are those that came by puts of others (gossip did not carry them);
   * `through`: with them, everything on the topic up to there was pushed or announced to live readers.
   */
  | {
      readonly type: "stored";
      readonly topic: TopicId;
      readonly latest: number;
      readonly pushes: readonly Item[];
      readonly through?: number;
    }
  /** The signed receipt for what gossip brought on a topic (SY20). */
  | {
      readonly type: "announced";
      readonly topic: TopicId;
      readonly items: readonly Held[];
      readonly signature: Uint8Array;
      readonly through: number;
    }
  | { readonly type: "deposited"; readonly inbox: InboxId; readonly n: number }
  /** Everything on the feed after the position asked for and up to `upTo` (`end`), or its beginning. */
  | {
      readonly type: "read";
      readonly items: readonly Item[];
      readonly upTo: number;
      readonly end: boolean;
    }
  /** `later` did not fit in the bytes asked for. */
  | {
      readonly type: "fetched";
      readonly topic: TopicId;
      readonly items: readonly Item[];
      readonly gone: readonly number[];
      readonly later: readonly number[];
    }
  | {
      readonly type: "putDone";
      readonly bytes: number;
      readonly held: readonly Receipt[];
      readonly signature?: Uint8Array;
      readonly refused: readonly { readonly id: EnvelopeId; readonly code: string }[];
    }
  | { readonly type: "answer"; readonly request: number; readonly answer: Answer }
  | { readonly type: "refusal"; readonly request: number; readonly code: string }
  /** The stream took this frame, or it was dropped after a `cancel`. */
  | { readonly type: "sent"; readonly lane: "backlog" | "live"; readonly frame: Frame; readonly dropped?: boolean };

export type ServerEffect =
  /** Live frames go before a backlog frame that waits to be sent, and in order. Each is answered by `sent`. */
  | { readonly type: "send"; readonly lane: "backlog" | "live"; readonly frame: Frame }
  | { readonly type: "watch"; readonly feed: FeedName }
  | { readonly type: "unwatch"; readonly feed: FeedName }
  | { readonly type: "read"; readonly feed: FeedName; readonly after: number; readonly maxBytes: number }
  /** Drop the backlog frame if it still waits. */
  | { readonly type: "cancel" }
  | { readonly type: "fetch"; readonly topic: TopicId; readonly ns: readonly number[]; readonly maxBytes: number }
  | { readonly type: "put"; readonly envelopes: readonly Uint8Array[]; readonly bytes: number }
  | { readonly type: "request"; readonly request: number; readonly body: InboxRequest }
  | { readonly type: "removeDeposits"; readonly inbox: InboxId; readonly ns: readonly number[] }
  /** Take no further frame from this client before that time has passed (SY5). */
  | { readonly type: "slow"; readonly delayMs: number }
  /** After the frames before it. */
  | { readonly type: "close"; readonly code: string };
