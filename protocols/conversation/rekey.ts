/**
 * The post-quantum rekey of one pair as events: offers and answers are not indexed, so a lost one is repeated here and not by
 * the outbox. Spec: ./SPEC.md CV80-CV84.
 */
import type { BodyOf } from "#protocols/content/content.ts";
import { isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import type { Env } from "#protocols/base/suite.ts";
import { acceptRekey, finishRekey, offerRekey, rekeyDue, rekeyOverdue } from "#protocols/ratchet/ratchet.ts";
import {
  type DevicePair,
  findSession,
  mayStartHandshake,
  sendingSession,
  type Session,
  withSession,
  withState,
} from "./pair.ts";

/** An offer without an answer goes again with the first message after this long: the answer may just be under way. */
export const OFFER_REPEAT_MS = 60_000;

/** How long the other side may talk on without answering an offer that is overdue, before we start anew. */
export const OFFER_PATIENCE_MS = 3_600_000;

export type Offered = { readonly pair: DevicePair; readonly handshakeHash: Uint8Array; readonly offer: Uint8Array };

/** The offer that should go with what is being sent now, if one is due. */
export async function dueOffer(pair: DevicePair, env: Env): Promise<Offered | undefined> {
  const session = sendingSession(pair);
  if (session === undefined) return undefined;
  const out = session.state.rekey.own.type === "offered";
  // A repeat "in the future" is from a clock that was wrong then.
  const repeat = out && (env.now >= pair.repeatedAt + OFFER_REPEAT_MS || env.now < pair.repeatedAt);
  if (!repeat && !rekeyDue(session.state, env.now)) return undefined;
  const { state, offer } = await offerRekey(session.state, env);
  const offeredAt = out ? pair.offeredAt : env.now;
  const moved = withSession({ ...pair, offeredAt, repeatedAt: env.now }, withState(session, state));
  return { pair: moved, handshakeHash: session.handshakeHash, offer };
}

export async function answerOffer(
  pair: DevicePair,
  body: BodyOf<"rekeyOffer">,
  env: Env,
): Promise<OrReject<{ readonly pair: DevicePair; readonly answer: Uint8Array }>> {
  const session = findSession(pair, body.session);
  if (session === undefined) return reject("conversation/unknown-session");
  const accepted = await acceptRekey(session.state, body.offer, env);
  if (isReject(accepted)) return accepted;
  return { pair: withSession(pair, withState(session, accepted.state)), answer: accepted.answer };
}

export async function finishOffer(
  pair: DevicePair,
  body: BodyOf<"rekeyAnswer">,
  env: Env,
): Promise<OrReject<DevicePair>> {
  const session = findSession(pair, body.session);
  if (session === undefined) return reject("conversation/unknown-session");
  const finished = await finishRekey(session.state, body.answer, env);
  return isReject(finished) ? finished : withSession(pair, withState(session, finished.state));
}

/**
 * CV83: twice overdue, an offer of ours out for an hour, and they talked to us after that hour without answering it: whatever
 * keeps the rekey from happening, a new handshake does without it. Who is merely away is not started anew.
 */
export function renewalDue(pair: DevicePair, session: Session, now: number): boolean {
  const ignored =
    session.state.rekey.own.type === "offered" && session.receivedAt >= pair.offeredAt + OFFER_PATIENCE_MS;
  return ignored && rekeyOverdue(session.state, now) && mayStartHandshake(pair, now);
}
