/**
 * How two people become contacts. The relation is not a protocol of turns but a set of facts that only grows: requests, each
 * with the strongest answer known. Both sides exchange every fact until it is receipted, merging is commutative and
 * idempotent, and the state is computed from the facts; so whatever was lost, repeated, reordered or pressed at once, both
 * sides end in the same state. Spec: ./SPEC.md CV40-CV49.
 *
 *   open request --accept--> accepted      answers of one request, weakest first:
 *        |  \--decline-----> declined        open < accepted < declined < withdrawn
 *        |--withdraw-------> withdrawn     open requests of both sides at once: accepted
 *        \--30 days--------> expired
 */
import { choice, id, type Infer, list, struct, uint } from "#protocols/base/codec.ts";
import type { AccountId, EventId } from "#protocols/base/ids.ts";

/** Requests remembered for one contact. Beyond it the oldest answered ones go; an honest pair makes one or two. */
export const MAX_REQUESTS = 16;

/** An unanswered request ends by itself: the longest envelope retention, after which nothing new can arrive. */
export const REQUEST_LIFETIME_MS = 30 * 24 * 3_600_000;

const ANSWERS = { open: 0, accepted: 1, declined: 2, withdrawn: 3 } as const;
export type Answer = keyof typeof ANSWERS;

export const requestSchema = struct({
  /** The contactRequest event. */
  event: id<EventId>(),
  from: id<AccountId>(),
  /** The event's own wall time; both sides compute the expiry from it. */
  at: uint(),
  answer: choice(ANSWERS),
});
export type ContactRequest = Infer<typeof requestSchema>;
export const requestsSchema = list(requestSchema, MAX_REQUESTS);

export type Relation = "none" | "requested" | "incoming" | "accepted" | "declined" | "withdrawn" | "expired";

/** Adds a fact. An answer never weakens (CV41), so any order and number of repeats gives the same set. */
export function withRequest(requests: readonly ContactRequest[], fact: ContactRequest): readonly ContactRequest[] {
  const known = requests.find((request) => request.event === fact.event);
  const answer = known && ANSWERS[known.answer] > ANSWERS[fact.answer] ? known.answer : fact.answer;
  const merged = [...requests.filter((request) => request.event !== fact.event), { ...(known ?? fact), answer }];
  return newestFirst(merged).slice(0, MAX_REQUESTS);
}

/** CV42: one order on both sides. */
function newestFirst(requests: readonly ContactRequest[]): readonly ContactRequest[] {
  return requests.toSorted((a, b) => b.at - a.at || (a.event < b.event ? 1 : -1));
}

/** @param self - Whose view it is: only "requested" and "incoming" depend on it. */
export function relation(requests: readonly ContactRequest[], self: AccountId, now: number): Relation {
  if (requests.some((request) => request.answer === "accepted")) return "accepted";
  const open = requests.filter((request) => request.answer === "open");
  const mine = open.filter((request) => request.from === self);
  // Two requests that crossed need no answer, however old they are by now (CV44).
  if (mine.length > 0 && mine.length < open.length) return "accepted";
  const live = open.filter((request) => now < request.at + REQUEST_LIFETIME_MS);
  if (live.length > 0) return live[0]?.from === self ? "requested" : "incoming";
  const last = newestFirst(requests)[0];
  if (last === undefined) return "none";
  return last.answer === "open" ? "expired" : last.answer === "declined" ? "declined" : "withdrawn";
}

/** The open request of `from`, if any: what an answer speaks of. */
export function openRequest(requests: readonly ContactRequest[], from: AccountId): ContactRequest | undefined {
  return newestFirst(requests).find((request) => request.from === from && request.answer === "open");
}
