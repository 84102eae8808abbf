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

/** Between two handshakes that we start with one device (DESIGN section 4). */
export const HANDSHAKE_INTERVAL_MS = 3_600_000;

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
  /** When we first made the post-quantum rekey offer that is out, and when we last repeated it (CV81). */
  offeredAt: uint(),
  repeatedAt: uint(),
});
export type DevicePair = Infer<typeof pairSchema>;

export function newPair(account: AccountId, device: DeviceId): DevicePair {
  return { account, device, sessions: [], handshakeAt: 0, offeredAt: 0, repeatedAt: 0 };
}

/**
 * CV13: the session that last opened something, or that we started since; on a tie the lower handshake hash, which is the same
 * on both sides.
 */
export function sendingSession(pair: DevicePair): Session | undefined {
  let best: Session | undefined;
  for (const session of pair.sessions) {
    if (best === undefined || preferred(pair, session, best)) best = session;
  }
  return best;
}

function preferred(pair: DevicePair, a: Session, b: Session): boolean {
  const newer = lastUse(pair, a) - lastUse(pair, b);
  return newer === 0 ? compareBytes(a.handshakeHash, b.handshakeHash) < 0 : newer > 0;
}

function lastUse(pair: DevicePair, session: Session): number {
  return session.init === undefined ? session.receivedAt : Math.max(session.receivedAt, pair.handshakeAt);
}

/** CV12. A clock that was set back does not lock us out: a handshake in the future does not count. */
export function mayStartHandshake(pair: DevicePair, now: number): boolean {
  return now >= pair.handshakeAt + HANDSHAKE_INTERVAL_MS || now < pair.handshakeAt;
}

/**
 * CV14: a bundle from a new invite. Sessions that nobody has answered go: they may have been started from prekeys that are dead,
 * and then nothing ever would.
 */
export function withInviteBundle(pair: DevicePair, bundle: Uint8Array): DevicePair {
  if (pair.bundle !== undefined && equalBytes(pair.bundle, bundle)) return pair;
  return { ...pair, bundle, sessions: pair.sessions.filter(({ init }) => init === undefined) };
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
