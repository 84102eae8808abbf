import { compareBytes, concat, fromHex, toHex, utf8 } from "#protocols/base/bytes.ts";
import {
  bytes,
  encode,
  id,
  type Infer,
  list,
  literal,
  refine,
  type Schema,
  struct,
  uint,
} from "#protocols/base/codec.ts";
import type { AccountId, DeviceId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import { sign, verify } from "#protocols/base/sign.ts";
import { acceptableDhKey } from "#protocols/base/strict.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";

/**
 * Who somebody is: an account is an Ed25519 root key, its devices are certified by that key, and what others know of them is
 * a set of root-signed statements that only grows. Merging two sets is union, so it needs no order, no server and no clock.
 * Spec: ./SPEC.md ID1-ID32.
 */
export { accountId, accountSecret, createPhrase, inboxKeys, type InboxKeys, rootSeedFromPhrase } from "./account.ts";
export { checkSafetyCode, safetyCode, safetyNumber } from "./safety.ts";

/** Devices of one account that others encrypt to (ID12). Each costs every message a wrap. */
export const MAX_LIVE_DEVICES = 8;
/** Certificates, and revocations, of one account over its whole life: about 33 kB together, so a list fits in one envelope. */
export const MAX_LISTED_DEVICES = 100;

const certificateBody = {
  version: literal(1),
  account: id<AccountId>(),
  device: id<DeviceId>(),
  /** X25519 identity key. */
  dhKey: bytes(32),
  /** Wall time of the issuer, milliseconds since 1970. */
  createdAt: uint(),
};
const certificateBodySchema = struct(certificateBody);

/** Wire: 179 bytes. The signature is the account's, over everything before it. */
export const deviceCertificateSchema = struct({ ...certificateBody, signature: bytes(64) });
export type DeviceCertificate = Infer<typeof deviceCertificateSchema>;

const revocationBody = {
  version: literal(1),
  account: id<AccountId>(),
  device: id<DeviceId>(),
  /** The last sequence number that is accepted from the device; nothing else of it counts (ID14). */
  lastSequence: uint(),
  revokedAt: uint(),
};
const revocationBodySchema = struct(revocationBody);

/** Wire: at most 154 bytes. */
export const revocationSchema = struct({ ...revocationBody, signature: bytes(64) });
export type Revocation = Infer<typeof revocationSchema>;

/** All that is known of an account's devices. Both lists ascend by device, each device at most once in each (ID10). */
export type DeviceList = {
  readonly account: AccountId;
  readonly certificates: readonly DeviceCertificate[];
  readonly revocations: readonly Revocation[];
};

function ascending(entries: readonly { readonly device: DeviceId }[]): boolean {
  return entries.every((entry, i) => i === 0 || entries[i - 1]!.device < entry.device);
}

export const deviceListSchema: Schema<DeviceList> = refine(
  struct({
    account: id<AccountId>(),
    certificates: list(deviceCertificateSchema, MAX_LISTED_DEVICES),
    revocations: list(revocationSchema, MAX_LISTED_DEVICES),
  }),
  "identity/not-sorted",
  ({ certificates, revocations }) => ascending(certificates) && ascending(revocations),
);

/** What one device keeps secret, with the certificate that makes it somebody's. */
export const deviceKeysSchema = struct({
  certificate: deviceCertificateSchema,
  /** Ed25519 seed of the device's id. */
  signSeed: bytes(32),
  /** X25519 secret of the certificate's dhKey. */
  dhSecret: bytes(32),
});
export type DeviceKeys = Infer<typeof deviceKeysSchema>;

function keyOf(name: AccountId | DeviceId): Uint8Array {
  const raw = fromHex(name);
  assert(raw?.length === 32, "id is 32 bytes of hex");
  return raw;
}

/** @param rootSeed - The account's Ed25519 seed, 32 bytes. It decides whose certificate this becomes. */
export async function issueCertificate(
  crypto: CryptoSuite,
  options: {
    readonly rootSeed: Uint8Array;
    readonly device: DeviceId;
    readonly dhKey: Uint8Array;
    readonly createdAt: number;
  },
): Promise<DeviceCertificate> {
  const account = toHex(await crypto.ed25519.publicKey(options.rootSeed)) as AccountId;
  const body = {
    version: 1,
    account,
    device: options.device,
    dhKey: options.dhKey,
    createdAt: options.createdAt,
  } as const;
  const signature = await sign(crypto, "deviceCertificate", options.rootSeed, encode(certificateBodySchema, body));
  return { ...body, signature };
}

/** @returns The certificate, or `identity/bad-certificate`, `identity/bad-dh-key` (ID6, ID7). */
export async function verifyCertificate(
  crypto: CryptoSuite,
  certificate: DeviceCertificate,
): Promise<OrReject<DeviceCertificate>> {
  if (!acceptableDhKey(certificate.dhKey)) return reject("identity/bad-dh-key");
  const genuine = await verify(crypto, "deviceCertificate", {
    publicKey: keyOf(certificate.account),
    message: encode(certificateBodySchema, certificate),
    signature: certificate.signature,
  });
  return genuine ? certificate : reject("identity/bad-certificate");
}

/** 32 bytes over the whole encoding, signature included: two certificates that differ anywhere are different (ID8). */
export function certificateHash(crypto: CryptoSuite, certificate: DeviceCertificate): Uint8Array {
  return crypto.sha256(concat(utf8("skein/1/certificate-hash"), encode(deviceCertificateSchema, certificate)));
}

/** A new device of the account behind `rootSeed`; the seed is only borrowed. */
export async function createDevice(env: Env, rootSeed: Uint8Array): Promise<DeviceKeys> {
  const signSeed = env.random(32);
  const dhSecret = env.random(32);
  const device = toHex(await env.crypto.ed25519.publicKey(signSeed)) as DeviceId;
  const dhKey = await env.crypto.x25519.publicKey(dhSecret);
  const certificate = await issueCertificate(env.crypto, { rootSeed, device, dhKey, createdAt: env.now });
  return { certificate, signSeed, dhSecret };
}

/** @param options.lastSequence - The last of its sequence numbers that is to count; 0 if none was seen. */
export async function revokeDevice(
  crypto: CryptoSuite,
  options: {
    readonly rootSeed: Uint8Array;
    readonly device: DeviceId;
    readonly lastSequence: number;
    readonly revokedAt: number;
  },
): Promise<Revocation> {
  const account = toHex(await crypto.ed25519.publicKey(options.rootSeed)) as AccountId;
  const { device, lastSequence, revokedAt } = options;
  const body = { version: 1, account, device, lastSequence, revokedAt } as const;
  const signature = await sign(crypto, "deviceRevocation", options.rootSeed, encode(revocationBodySchema, body));
  return { ...body, signature };
}

/** @returns The revocation, or `identity/bad-revocation`. */
export async function verifyRevocation(crypto: CryptoSuite, revocation: Revocation): Promise<OrReject<Revocation>> {
  const genuine = await verify(crypto, "deviceRevocation", {
    publicKey: keyOf(revocation.account),
    message: encode(revocationBodySchema, revocation),
    signature: revocation.signature,
  });
  return genuine ? revocation : reject("identity/bad-revocation");
}

/**
 * Checks every signature of a list: at most 200 verifications.
 * @param known - A list already verified; what stands in it byte for byte is not verified again (ID11).
 * @returns The list, or `identity/other-account`, `identity/not-sorted`, or what its entries are rejected for.
 */
export async function verifyDeviceList(
  crypto: CryptoSuite,
  devices: DeviceList,
  known?: DeviceList,
): Promise<OrReject<DeviceList>> {
  const { account, certificates, revocations } = devices;
  if (!ascending(certificates) || !ascending(revocations)) return reject("identity/not-sorted");
  if ([...certificates, ...revocations].some((entry) => entry.account !== account)) {
    return reject("identity/other-account");
  }
  const trusted = new Set<string>();
  for (const entry of known?.certificates ?? []) trusted.add(toHex(encode(deviceCertificateSchema, entry)));
  for (const entry of known?.revocations ?? []) trusted.add(toHex(encode(revocationSchema, entry)));
  for (const certificate of certificates) {
    if (trusted.has(toHex(encode(deviceCertificateSchema, certificate)))) continue;
    const verified = await verifyCertificate(crypto, certificate);
    if (isReject(verified)) return verified;
  }
  for (const revocation of revocations) {
    if (trusted.has(toHex(encode(revocationSchema, revocation)))) continue;
    const verified = await verifyRevocation(crypto, revocation);
    if (isReject(verified)) return verified;
  }
  return devices;
}

/** One entry a device, the lesser of two by `compare`, in order of device. */
function joined<T extends { readonly device: DeviceId }>(
  a: readonly T[],
  b: readonly T[],
  compare: (x: T, y: T) => number,
): readonly T[] {
  const byDevice = new Map<DeviceId, T>();
  for (const entry of [...a, ...b]) {
    const rival = byDevice.get(entry.device);
    if (rival === undefined || compare(entry, rival) < 0) byDevice.set(entry.device, entry);
  }
  return [...byDevice.values()].toSorted((x, y) => (x.device < y.device ? -1 : 1));
}

/** ID13: of two certificates of one device the older counts. */
function compareCertificates(a: DeviceCertificate, b: DeviceCertificate): number {
  return (
    a.createdAt - b.createdAt || compareBytes(encode(deviceCertificateSchema, a), encode(deviceCertificateSchema, b))
  );
}

/** ID14: of two revocations of one device the one that lets less through counts. */
function compareRevocations(a: Revocation, b: Revocation): number {
  return a.lastSequence - b.lastSequence || compareBytes(encode(revocationSchema, a), encode(revocationSchema, b));
}

/**
 * Union of two verified lists: commutative, associative, idempotent (ID13-ID15), so everybody who has seen the same
 * statements has the same list, whatever came first.
 * @returns `identity/other-account`, or `identity/too-many-devices` when the union is above MAX_LISTED_DEVICES.
 */
export function mergeDeviceLists(a: DeviceList, b: DeviceList): OrReject<DeviceList> {
  if (a.account !== b.account) return reject("identity/other-account");
  const certificates = joined(a.certificates, b.certificates, compareCertificates);
  const revocations = joined(a.revocations, b.revocations, compareRevocations);
  if (Math.max(certificates.length, revocations.length) > MAX_LISTED_DEVICES) {
    return reject("identity/too-many-devices");
  }
  return { account: a.account, certificates, revocations };
}

/** The version of a list, 32 bytes. Equal on both sides means: the same statements are known (ID16). */
export function deviceListHash(crypto: CryptoSuite, devices: DeviceList): Uint8Array {
  return crypto.sha256(concat(utf8("skein/1/device-list"), encode(deviceListSchema, devices)));
}

/**
 * The devices to encrypt to: certified, not revoked, at most MAX_LIVE_DEVICES, in order of device. Of more than that (a phrase
 * restored in two places) the newest are live: a function of the set, so all peers choose the same ones (ID12).
 */
export function liveDevices(devices: DeviceList): readonly DeviceCertificate[] {
  const revoked = new Set(devices.revocations.map((revocation) => revocation.device));
  const standing = devices.certificates.filter((certificate) => !revoked.has(certificate.device));
  if (standing.length <= MAX_LIVE_DEVICES) return standing;
  return standing
    .toSorted((a, b) => b.createdAt - a.createdAt || (a.device < b.device ? -1 : 1))
    .slice(0, MAX_LIVE_DEVICES)
    .toSorted((a, b) => (a.device < b.device ? -1 : 1));
}

/** ID14: whether an event with this sequence number of this device still counts. */
export function acceptsFrom(
  devices: DeviceList,
  event: { readonly device: DeviceId; readonly sequence: number },
): boolean {
  if (!devices.certificates.some((certificate) => certificate.device === event.device)) return false;
  const revocation = devices.revocations.find((entry) => entry.device === event.device);
  return revocation === undefined || event.sequence <= revocation.lastSequence;
}
