/** What goes wrong with an invite, in words for a person. */
import { Failure } from "#src/runtime/failure.ts";

/** What an invite that a mailbox refuses means to a person. */
const DEPOSIT_FAILURES: Readonly<Record<string, readonly [code: string, message: string]>> = {
  "inbox/used-up": ["invite/used-up", "This invite has been used up."],
  "inbox/expired": ["invite/expired", "This invite has expired."],
  "inbox/grant-expired": ["invite/expired", "This invite has expired."],
  "inbox/unknown-capability": [
    "invite/unknown",
    "The relay does not know this invite: it was revoked, or never reached it.",
  ],
  "inbox/revoked": ["invite/revoked", "This invite was revoked."],
};

const LINK_FAILURES: Readonly<Record<string, string>> = {
  "invite/bad-link": "This is not a Skein invite, or it was damaged on the way.",
  "invite/expired": "This invite has expired.",
  "invite/own": "This is an invite of your own.",
};

/** Why a mailbox does not take a request, when it will never take it. */
export function refusalOf(code: string | undefined): Failure | undefined {
  const said = DEPOSIT_FAILURES[code ?? ""];
  return said && new Failure(...said);
}

/** What is wrong with a link, or with using it here. */
export function linkFailure(code: string): Failure {
  const message = LINK_FAILURES[code];
  return new Failure(message ? code : "invite/bad-link", message ?? LINK_FAILURES["invite/bad-link"]!);
}
