/** What one end of a session remembers, its limits, and how it is stored. Spec: ./SPEC.md RA1-RA5, RA30. */
import { bytes, choice, type Infer, list, literal, optional, struct, uint, union } from "#protocols/base/codec.ts";

const DAY_MS = 24 * 3_600_000;

/** Skipped keys per session. 2,000 x 48 bytes is about 96 kB. More helps delivery and hurts forward secrecy (RA11). */
export const MAX_SKIPPED = 2000;

/** A skipped key is kept as long as an envelope can be held for us; later its message cannot arrive (RA11). */
export const SKIPPED_LIFETIME_MS = 30 * DAY_MS;

/** How far a message may lie ahead in its chain: bounds the work for one message at about 20 ms (RA10). */
export const MAX_FORWARD_JUMP = 2000;

/** The current chain and four before it: how many times the conversation may turn while a message is on its way (RA12). */
export const MAX_RECEIVING_CHAINS = 5;

/** Messages of both directions after which a session wants a rekey, and after how long, whichever is first (RA26). */
export const REKEY_MESSAGES = 50;
export const REKEY_INTERVAL_MS = 7 * DAY_MS;

/** Positions and rekey numbers are 32 bits on the wire. */
export const MAX_INDEX = 0xffff_ffff;

const key = bytes(32);
const index = uint(MAX_INDEX);

const skippedSchema = struct({
  index,
  messageKey: key,
  /** When it was skipped. */
  at: uint(),
});
export type Skipped = Infer<typeof skippedSchema>;

const receivingChainSchema = struct({
  headerKey: key,
  /** Of the chain's headers: the remote's ratchet key and the rekey mixed in where the chain began. */
  remoteKey: key,
  mixed: index,
  /** Gone once the chain is closed: only its skipped keys are left (RA9). */
  chainKey: optional(key),
  /** Position of the next new message. */
  next: index,
  /** Ascending by index, and so by time. */
  skipped: list(skippedSchema, MAX_SKIPPED),
});
export type ReceivingChain = Infer<typeof receivingChainSchema>;

const sendingChainSchema = struct({ headerKey: key, chainKey: key, next: index, mixed: index });
export type SendingChain = Infer<typeof sendingChainSchema>;

/** Our own post-quantum rekey (RA20): idle -> offered -> ready -> mixed -> idle, one at a time. */
const ownRekeySchema = union({
  idle: [0, struct({})],
  /** Offer `number` is out; its ML-KEM seed. */
  offered: [1, struct({ seed: bytes(64) })],
  /** Answered; the secret enters the root at our next sending step. */
  ready: [2, struct({ secret: key })],
  /** It did; until they are heard on a chain that follows, they may not have seen it. */
  mixed: [3, struct({})],
});

/** An offer of theirs that we answered, until they mix its secret in (RA22). */
const answeredSchema = struct({
  offerHash: key,
  answer: bytes({ max: 1200 }),
  secret: key,
});

export const ratchetSchema = struct({
  version: literal(1),
  role: choice({ initiator: 1, responder: 2 }),
  handshakeHash: key,
  associatedData: key,
  /** Authenticates rekey offers and answers to this device pair, whatever carries them (RA24). */
  rekeyAuthKey: key,
  rootKey: key,
  nextSendHeaderKey: key,
  nextReceiveHeaderKey: key,
  /** Ours that they may still answer to; gone when they did, until we send again. */
  own: optional(struct({ secret: key, publicKey: key })),
  /** Theirs that we answer to; a responder has none before it received. */
  remoteKey: optional(key),
  /** The chain we send on; none when it is our turn to make a new one. */
  sending: optional(sendingChainSchema),
  /** Length of our last finished sending chain. */
  previousLength: index,
  /** Newest first; only the first can be open. */
  receiving: list(receivingChainSchema, MAX_RECEIVING_CHAINS),
  rekey: struct({
    /** Of our last offer, and of the last of theirs that was mixed in; 0 before the first. */
    ownNumber: index,
    own: ownRekeySchema,
    remoteNumber: index,
    answered: optional(answeredSchema),
    /** Messages of both directions since the last rekey of either. */
    messages: uint(),
    /** When that rekey, or the handshake, was; and the first message at which the next one was due (RA27). */
    mixedAt: uint(),
    dueSince: optional(uint()),
  }),
});

/** One end of a session. Secrets throughout: stored encrypted, in no backup. Never changed in place. */
export type RatchetState = Infer<typeof ratchetSchema>;
