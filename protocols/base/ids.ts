/**
 * Ids are branded lower-case hex strings in memory, so that `===`, Map keys and sorting mean what they say, and raw bytes
 * on the wire (see `id` in codec.ts). The brands keep an account from being passed where a device is wanted.
 */
declare const brand: unique symbol;
type Id<Name extends string> = string & { readonly [brand]: Name };

/** A person's Ed25519 root public key, 32 bytes. */
export type AccountId = Id<"account">;
/** A device's Ed25519 signing public key, 32 bytes. */
export type DeviceId = Id<"device">;
/** SHA-256 of the canonical event, 32 bytes. */
export type EventId = Id<"event">;
/** SHA-256 of an envelope without its signature, 32 bytes. */
export type EnvelopeId = Id<"envelope">;
/** Ed25519 public key of a topic, 32 bytes; holding the private key is the right to write. */
export type TopicId = Id<"topic">;
/** What the user sees as one chat, 32 bytes. A direct one is the hash of both account ids. */
export type ConversationId = Id<"conversation">;
/** Ed25519 public key under which a mailbox takes first contact for one account, 32 bytes. */
export type InboxId = Id<"inbox">;
/** A log of one mailbox, 16 bytes, made anew at every unclean start. */
export type LogId = Id<"log">;
/** A libp2p PeerId in its text form. A throwaway transport key: never in a certificate, a log or a stored record. */
export type PeerId = string & { readonly [brand]: "peer" };

export type AnyId = AccountId | DeviceId | EventId | EnvelopeId | TopicId | ConversationId | InboxId | LogId;
