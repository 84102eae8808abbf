/**
 * Two devices that talk: their sessions, and which one to send on. Either side may have started one, both at once, or the
 * same request may have come twice, so a pair holds up to five sessions and settles on one by itself. Spec: ./SPEC.md CV10-CV16.
 */
import { compareBytes, equalBytes } from "#protocols/base/bytes.ts";
import { bytes, id, type Infer, list, optional, struct, uint } from "#protocols/base/codec.ts";
import type { AccountId, DeviceId } from "#protocols/base/ids.ts";
import { MAX_BUNDLE_BYTES } from "#protocols/content/content.ts";
import { type RatchetState, ratchetSchema } from "#protocols/ratchet/ratchet.ts";

/** Sessions of one device pair. More never arise honestly: each costs a handshake, at most one an hour (CV12). */
export const MAX_SESSIONS = 5;

/** An initiator's sealed initial message: PQXDH with its KEM ciphertext and certificate. */
export const MAX_INIT_BYTES = 4096;

const sessionSchema = struct({
  /** Names the session on both sides. */
  handshakeHash: bytes(32),
  state: ratchetSchema,
  /** Repeated with every message until the other side has answered: any of them may be the first to arrive (CV11). */
  init: optional(bytes({ max: MAX_INIT_BYTES })),
  /** Network time of the last message that opened; 0 before the first. */
  receivedAt: uint(),
});
export type Session = Infer<typeof sessionSchema>;

export const pairSchema = struct({
  account: id<AccountId>(),
  device: id<DeviceId>(),
  sessions: list(sessionSchema, MAX_SESSIONS),
  /** The newest prekey bundle they gave us, encoded; what a first message, or a new handshake, is made from. */
  bundle: optional(bytes({ max: MAX_BUNDLE_BYTES })),
  /** When we last started a handshake, so that there is at most one an hour. */
  handshakeAt: uint(),
  /** When we last offered a post-quantum rekey, so that an unanswered offer is not repeated with every message. */
  offeredAt: uint(),
});
export type DevicePair = Infer<typeof pairSchema>;

export function newPair(account: AccountId, device: DeviceId): DevicePair {
  return { account, device, sessions: [], handshakeAt: 0, offeredAt: 0 };
}

/** CV13: the session that last opened something; before any did, and on a tie, the lower handshake hash on both sides. */
export function sendingSession(pair: DevicePair): Session | undefined {
  let best: Session | undefined;
  for (const session of pair.sessions) {
    if (best === undefined || preferred(session, best)) best = session;
  }
  return best;
}

function preferred(a: Session, b: Session): boolean {
  if (a.receivedAt !== b.receivedAt) return a.receivedAt > b.receivedAt;
  return compareBytes(a.handshakeHash, b.handshakeHash) < 0;
}

export function findSession(pair: DevicePair, handshakeHash: Uint8Array): Session | undefined {
  return pair.sessions.find((session) => equalBytes(session.handshakeHash, handshakeHash));
}

/** Puts `session` in, replacing the one with its hash; beyond the limit the one that opened something longest ago goes. */
export function withSession(pair: DevicePair, session: Session): DevicePair {
  const others = pair.sessions.filter((other) => !equalBytes(other.handshakeHash, session.handshakeHash));
  const sessions = [session, ...others.toSorted((a, b) => b.receivedAt - a.receivedAt)].slice(0, MAX_SESSIONS);
  return { ...pair, sessions };
}

/** State of one session after it sent or received; everything else stays. */
export function withState(session: Session, state: RatchetState): Session {
  return { ...session, state };
}
