/**
 * The public face of a peer: what an app, the command line and a bot can ask and do. Everything here is plain data: no key,
 * no libp2p, no store. The web app's leader tab serves the same interface to other tabs over a MessagePort.
 */
import type { AccountId, ConversationId, DeviceId, EventId } from "#protocols/base/ids.ts";

/** requested: we asked; incoming: they asked; the rest as the words say. Both sides end in the same one. */
export type ContactState = "requested" | "incoming" | "accepted" | "declined" | "withdrawn" | "expired" | "removed";

export type Contact = {
  readonly account: AccountId;
  /** The name they gave themselves; not unique, not proof of anything. */
  readonly name: string;
  /** The name we gave them; it wins. */
  readonly nickname?: string;
  readonly state: ContactState;
  readonly conversation: ConversationId;
  readonly addedAt: number;
  readonly safetyNumber: string;
};

export type Conversation = {
  readonly conversation: ConversationId;
  readonly kind: "direct" | "group" | "channel";
  readonly title: string;
  readonly unread: number;
  readonly lastMessage?: Message;
};

/** Only what a receipt proves. `held` can fall back to `queued`. */
export type DeliveryState = "queued" | "held" | "delivered" | "read" | "failed";

export type Message = {
  readonly id: EventId;
  readonly conversation: ConversationId;
  readonly author: AccountId;
  readonly text: string;
  /** The author's clock, milliseconds since 1970. */
  readonly sentAt: number;
  /** Of our own messages: how far they came. Of others': "read" once we marked them so, else "delivered". */
  readonly state: DeliveryState;
  readonly replyTo?: EventId;
  /** Mailboxes that promised to hold it, and until when (the earliest). */
  readonly held?: { readonly mailboxes: number; readonly until: number };
  readonly deliveredAt?: number;
  readonly readAt?: number;
};

export type PeerEvent =
  | { readonly type: "message"; readonly message: Message }
  | {
      readonly type: "message-state";
      readonly conversation: ConversationId;
      readonly id: EventId;
      readonly state: DeliveryState;
    }
  | { readonly type: "contact"; readonly contact: Contact }
  | { readonly type: "conversation"; readonly conversation: Conversation }
  | { readonly type: "typing"; readonly conversation: ConversationId; readonly account: AccountId }
  | { readonly type: "path"; readonly conversation: ConversationId; readonly path: Path }
  | { readonly type: "relay"; readonly address: string; readonly state: RelayState }
  | { readonly type: "warning"; readonly code: string; readonly message: string };

/** How a conversation is connected right now. */
export type Path = "direct" | "relay" | "offline";
export type RelayState = "connecting" | "open" | "closed";

export type Status = {
  readonly account: AccountId;
  readonly device: DeviceId;
  readonly name: string;
  readonly addresses: readonly string[];
  readonly relays: readonly { readonly address: string; readonly state: RelayState; readonly reason?: string }[];
  readonly conversations: readonly { readonly conversation: ConversationId; readonly path: Path }[];
  /** Events that some addressed device has not receipted yet. */
  readonly outbox: number;
  /** Envelopes waiting for what they depend on. */
  readonly parked: number;
};

export interface Peer {
  readonly account: AccountId;
  readonly device: DeviceId;
  status(): Promise<Status>;

  /** @throws Failure `invite/no-prekeys`. */
  createInvite(options?: { readonly uses?: number; readonly expiresInMs?: number }): Promise<{ readonly link: string }>;
  /** What a link says, without redeeming it. @throws Failure `invite/bad-link`, `invite/expired`. */
  readInvite(link: string): Promise<{ readonly account: AccountId; readonly name: string; readonly expiresAt: number }>;
  /**
   * Redeems an invite. Commits the request, then waits up to `waitMs` for the other side; a later answer arrives as an event.
   * @throws Failure `invite/bad-link`, `invite/expired`, `invite/used-up`, `invite/own`, `net/unreachable` (no relay of the
   * link took it and none could be asked; it stays queued).
   */
  connect(link: string, options?: { readonly waitMs?: number }): Promise<Contact>;
  contacts(): Promise<readonly Contact[]>;
  accept(account: AccountId): Promise<Contact>;
  decline(account: AccountId): Promise<Contact>;
  withdraw(account: AccountId): Promise<Contact>;

  conversations(): Promise<readonly Conversation[]>;
  /** Resolves once the event is durable here. @throws Failure `conversation/unknown`, `message/too-long`, `conversation/not-accepted`. */
  send(
    conversation: ConversationId,
    message: { readonly text: string; readonly replyTo?: EventId },
  ): Promise<{ readonly id: EventId; readonly state: DeliveryState }>;
  /** Oldest first: the newest `limit`, or those before `before`. @throws Failure `message/unknown`, `conversation/unknown`. */
  messages(
    conversation: ConversationId,
    options?: { readonly limit?: number; readonly before?: EventId },
  ): Promise<readonly Message[]>;
  /** Marks everything up to and including `upTo` as read and sends the receipt. */
  markRead(conversation: ConversationId, upTo: EventId): Promise<void>;
  /** Tells the other side we are typing; ephemeral, rate-limited, never stored. */
  typing(conversation: ConversationId): Promise<void>;

  addRelay(address: string): Promise<void>;
  removeRelay(address: string): Promise<void>;

  /** Events as they happen, after they were committed. @returns Stops listening. */
  watch(listener: (event: PeerEvent) => void): () => void;
  close(): Promise<void>;
}
