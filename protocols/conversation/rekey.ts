/**
 * The post-quantum rekey of one pair as events: offers and answers are not indexed, so a lost one is repeated here and not by
 * the outbox. Spec: ./SPEC.md CV80-CV84.
 */
import type { BodyOf } from "#protocols/content/content.ts";
import { isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import type { Env } from "#protocols/base/suite.ts";
import { acceptRekey, finishRekey, offerRekey, rekeyDue } from "#protocols/ratchet/ratchet.ts";
import { type DevicePair, findSession, sendingSession, withSession, withState } from "./pair.ts";

/** An offer without an answer goes again with the first message after this long: the answer may just be under way. */
export const OFFER_REPEAT_MS = 60_000;

export type Offered = { readonly pair: DevicePair; readonly handshakeHash: Uint8Array; readonly offer: Uint8Array };

/** The offer that should go with what is being sent now, if one is due. */
export async function dueOffer(pair: DevicePair, env: Env): Promise<Offered | undefined> {
  const session = sendingSession(pair);
  if (session === undefined) return undefined;
  const unanswered = session.state.rekey.own.type === "offered" && env.now >= pair.offeredAt + OFFER_REPEAT_MS;
  if (!unanswered && !rekeyDue(session.state, env.now)) return undefined;
  const { state, offer } = await offerRekey(session.state, env);
  const moved = withSession({ ...pair, offeredAt: env.now }, withState(session, state));
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

export async function finishOffer(pair: DevicePair, body: BodyOf<"rekeyAnswer">, env: Env): Promise<OrReject<DevicePair>> {
  const session = findSession(pair, body.session);
  if (session === undefined) return reject("conversation/unknown-session");
  const finished = await finishRekey(session.state, body.answer, env);
  return isReject(finished) ? finished : withSession(pair, withState(session, finished.state));
}
