/**
 * An invite: what a stranger needs to reach one account, in a link. Everything stands in the fragment of the URL, which
 * browsers send to no host. The capability's seed is in the link; mailboxes know only its public key. Spec: ./SPEC.md CV60-CV66.
 */
import { base64urlnopad } from "@scure/base";
import { fromHex, utf8 } from "#protocols/base/bytes.ts";
import { bytes, decode, encode, id, type Infer, list, literal, struct, uint } from "#protocols/base/codec.ts";
import type { AccountId, InboxId } from "#protocols/base/ids.ts";
import { isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import { sign, verify } from "#protocols/base/sign.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { decodeBundle, verifyBundle } from "#protocols/handshake/handshake.ts";
import { type DeviceKeys, deviceListSchema, liveDevices, verifyDeviceList } from "#protocols/identity/identity.ts";
import { addressSchema, MAX_BUNDLE_BYTES, MAX_RELAYS, nameSchema } from "#protocols/content/content.ts";

export const MAX_USES = 1000;
/** Longest life of an invite. Its prekeys live as long. */
export const MAX_INVITE_LIFETIME_MS = 30 * 24 * 3_600_000;
/** A link longer than this is no invite of ours: 8 KiB of bundle and list, and base64. */
export const MAX_LINK_LENGTH = 24 * 1024;
const LINK_PREFIX = "skein:invite#";

export const addressesSchema = list(addressSchema, MAX_RELAYS);

export const inviteSchema = struct({
  version: literal(1),
  account: id<AccountId>(),
  name: nameSchema,
  list: deviceListSchema,
  /** Names the invite at its maker: its prekeys, its uses. */
  inviteId: bytes(16),
  bundle: bytes({ max: MAX_BUNDLE_BYTES }),
  inbox: id<InboxId>(),
  inboxSealKey: bytes(32),
  /** Ed25519 seed. Whoever has the link may deposit. */
  capability: bytes(32),
  relays: addressesSchema,
  uses: uint(MAX_USES),
  expiresAt: uint(),
});
export type Invite = Infer<typeof inviteSchema>;

const signedSchema = struct({ invite: bytes({ max: MAX_LINK_LENGTH }), signature: bytes(64) });

/**
 * The list in a link is of live devices alone: a long history of devices would make it longer than anybody reads. What was
 * revoked comes with the first event (CV60).
 */
export async function encodeInvite(crypto: CryptoSuite, keys: DeviceKeys, invite: Invite): Promise<string> {
  const live = { account: invite.account, certificates: liveDevices(invite.list), revocations: [] };
  const raw = encode(inviteSchema, { ...invite, list: live });
  const signature = await sign(crypto, "invite", keys.signSeed, raw);
  return LINK_PREFIX + base64urlnopad.encode(encode(signedSchema, { invite: raw, signature }));
}

function parseLink(link: string): OrReject<Uint8Array> {
  const fragment = link.trim().slice(link.trim().indexOf("#") + 1);
  if (link.length > MAX_LINK_LENGTH || !/^[A-Za-z0-9_-]+$/.test(fragment)) return reject("invite/bad-link");
  try {
    return base64urlnopad.decode(fragment);
  } catch {
    // The alphabet was checked; what is left is a wrong length or non-zero spare bits: not an encoding of ours.
    return reject("invite/bad-link");
  }
}

/**
 * Reads and checks a link. Whatever is wrong with it before its expiry is `invite/bad-link`: a person can do nothing with the
 * difference. @returns Rejects `invite/bad-link`, `invite/expired`.
 */
export async function decodeInvite(crypto: CryptoSuite, link: string, now: number): Promise<OrReject<Invite>> {
  const raw = parseLink(link);
  if (isReject(raw)) return raw;
  const signed = decode(signedSchema, raw);
  if (isReject(signed)) return reject("invite/bad-link");
  const invite = decode(inviteSchema, signed.invite);
  if (isReject(invite)) return reject("invite/bad-link");
  const bundle = decodeBundle(invite.bundle);
  if (isReject(bundle) || bundle.certificate.account !== invite.account) return reject("invite/bad-link");
  const publicKey = fromHex(bundle.certificate.device)!;
  const message = signed.invite;
  if (!(await verify(crypto, "invite", { publicKey, message, signature: signed.signature }))) {
    return reject("invite/bad-link");
  }
  // Only now is the time its maker's word: a damaged link is not told to have expired.
  if (now >= invite.expiresAt) return reject("invite/expired");
  const listed = await verifyDeviceList(crypto, invite.list);
  if (isReject(listed) || listed.account !== invite.account) return reject("invite/bad-link");
  if (!liveDevices(listed).some(({ device }) => device === bundle.certificate.device)) return reject("invite/bad-link");
  if (isReject(await verifyBundle(crypto, bundle, { now }))) return reject("invite/bad-link");
  return invite;
}

/** What the redeemer's request carries to show which invite it answers: only holders of the link can compute it (CV65). */
export function redemptionProof(
  crypto: CryptoSuite,
  invite: { readonly capability: Uint8Array },
  redeemer: AccountId,
): Uint8Array {
  return crypto.hmac(invite.capability, utf8(`skein/1/redeem ${redeemer}`));
}
