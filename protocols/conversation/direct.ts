/**
 * Direct conversations: how requests, sessions, receipts and topics fit. Old state and an input go in, new state and effects
 * come out; nothing here reads a clock, draws randomness of its own or stores anything. The driver commits the state and
 * what the effects write in one batch, and only then lets a `transmit` out.
 *
 * Invariants
 *  - Nothing of a message counts before its wrap, commitment, content tag, event id and author have all been checked.
 *  - (device, index) names an indexed event; a second arrival changes no history and asks for a receipt again.
 *  - What is indexed is held until every addressed device has receipted it; what is not is repeated by rules of its own.
 *  - The relation of two people is computed from facts (contact.ts), so both sides end in the same one.
 *
 * Spec: ./SPEC.md CV1-CV93.
 */
export {
  type Direct,
  directSchema,
  type DirectState,
  type Effect,
  type OpenInvite,
  openInviteSchema,
  type Profile,
  type Redemption,
  type Step,
  type StepEnv,
} from "./state.ts";
export { deliveryOf, highestRead, highestReceipted, markRead, missingReceipts, unanswered } from "./receipts.ts";
export { forgetPeriods, introduce, say, seal, sendReceipt } from "./post.ts";
export { answer, redeem } from "./ask.ts";
export { authorOf, introducedContact, receive } from "./receive.ts";
