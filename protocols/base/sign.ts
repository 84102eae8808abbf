import { concat, utf8 } from "./bytes.ts";
import type { CryptoSuite } from "./suite.ts";

/**
 * Every signature of Skein names what it is for, so that one never passes for another (BA20). A context is registered
 * here once and never changes its meaning; a new meaning is a new context.
 */
export const SIGN_CONTEXTS = {
  deviceCertificate: "skein/1/device-certificate",
  deviceRevocation: "skein/1/device-revocation",
  prekey: "skein/1/prekey",
  prekeyBundle: "skein/1/prekey-bundle",
  invite: "skein/1/invite",
  inviteRedemption: "skein/1/invite-redemption",
  envelope: "skein/1/envelope",
  topicProof: "skein/1/topic-proof",
  inboxProof: "skein/1/inbox-proof",
  inboxCapability: "skein/1/inbox-capability",
  inboxDeposit: "skein/1/inbox-deposit",
  inboxRedeemer: "skein/1/inbox-redeemer",
  inboxRevocation: "skein/1/inbox-revocation",
  directoryRecord: "skein/1/directory-record",
  custody: "skein/1/custody",
} as const;

export type SignContext = keyof typeof SIGN_CONTEXTS;

function framed(context: SignContext, message: Uint8Array): Uint8Array {
  const name = utf8(SIGN_CONTEXTS[context]);
  return concat(Uint8Array.of(name.length), name, message);
}

/** @param seed Ed25519 seed, 32 bytes. @returns 64 bytes over length(context) | context | message. */
export function sign(
  crypto: CryptoSuite,
  context: SignContext,
  seed: Uint8Array,
  message: Uint8Array,
): Promise<Uint8Array> {
  return crypto.ed25519.sign(seed, framed(context, message));
}

export function verify(
  crypto: CryptoSuite,
  context: SignContext,
  options: { readonly publicKey: Uint8Array; readonly message: Uint8Array; readonly signature: Uint8Array },
): Promise<boolean> {
  return crypto.ed25519.verify(options.publicKey, framed(context, options.message), options.signature);
}
