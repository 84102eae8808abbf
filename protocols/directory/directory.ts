/**
 * Records that an account leaves at a mailbox for those who want to write to it: prekey bundles, sealed so that the mailbox
 * cannot read them, signed so that only the account can put them. Spec: ./SPEC.md DI1-DI13. This is the folder's public file.
 *
 * Wire: [version, directory (32), slot (16), kind, record (16), expiresAt, nonce (12) | ciphertext | tag (16), signature (64)]
 */
import { concat, fromHex, toHex, utf8 } from "#protocols/base/bytes.ts";
import { bytes, choice, decode, encode, type Infer, literal, struct, uint } from "#protocols/base/codec.ts";
import type { DeviceId } from "#protocols/base/ids.ts";
import { assert, type OrReject, reject } from "#protocols/base/reject.ts";
import { sign, verify } from "#protocols/base/sign.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";

export * from "./shelf.ts";

const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const SIGNATURE_BYTES = 64;
const SLOT_BYTES = 16;
const RECORD_BYTES = 16;

/** Sealed bytes of one record: a PQXDH bundle has about 2 KB, a KeyPackage below 4. */
export const MAX_SEALED_BYTES = 8_192;
export const MAX_RECORD_PLAINTEXT_BYTES = MAX_SEALED_BYTES - NONCE_BYTES - TAG_BYTES;
/** Array 1, version 1, directory 34, slot 17, kind 1, record 17, expiresAt 9, sealed 3 + n, signature 66. */
export const MAX_RECORD_BYTES = 149 + MAX_SEALED_BYTES;

/** Longest life of a record. Prekeys live for the longest envelope lifetime and their weekly rotation; this is twice it. */
export const MAX_RECORD_LIFETIME_MS = 90 * 24 * 3_600_000;

/** A one-time record is handed out once, the last-resort one whenever there is no other. */
export type RecordKind = "one-time" | "last-resort";

const clear = {
  version: literal(1),
  /** Ed25519 public key of the directory: one an account, and not the account's id. */
  directory: bytes(32),
  /** Names a device to those who know the seal key, and nothing to others. */
  slot: bytes(SLOT_BYTES),
  kind: choice({ "one-time": 1, "last-resort": 2 } satisfies Record<RecordKind, number>),
  /** Random. */
  record: bytes(RECORD_BYTES),
  /** Milliseconds since 1970. */
  expiresAt: uint(2 ** 48),
};
const clearSchema = struct(clear);
const unsigned = { ...clear, sealed: bytes({ min: NONCE_BYTES + TAG_BYTES, max: MAX_SEALED_BYTES }) };
const unsignedSchema = struct(unsigned);
export const directoryRecordSchema = struct({ ...unsigned, signature: bytes(SIGNATURE_BYTES) });
export type DirectoryRecord = Infer<typeof directoryRecordSchema>;

/** `id` in lower-case hex is public to the mailbox; contacts know `sealKey` as well; `seed` stays with the account. */
export type DirectoryKeys = { readonly id: string; readonly seed: Uint8Array; readonly sealKey: Uint8Array };

/** What contacts are given. */
export type DirectoryAccess = Omit<DirectoryKeys, "seed">;

const KEYS_LABEL = utf8("skein/1/directory-keys");
const SLOT_LABEL = utf8("skein/1/directory-slot");

/** @param accountSecret - 32 bytes that all devices of the account share. */
export async function directoryKeys(crypto: CryptoSuite, accountSecret: Uint8Array): Promise<DirectoryKeys> {
  const derived = crypto.hkdf({ ikm: accountSecret, info: KEYS_LABEL, length: 64 });
  const seed = derived.slice(0, 32);
  return { id: toHex(await crypto.ed25519.publicKey(seed)), seed, sealKey: derived.slice(32) };
}

/** Where `device`'s records stand, for its account and for contacts (DI4). */
export function slotOf(crypto: CryptoSuite, access: Pick<DirectoryKeys, "sealKey">, device: DeviceId): Uint8Array {
  return crypto.hmac(access.sealKey, concat(SLOT_LABEL, fromHex(device)!)).slice(0, SLOT_BYTES);
}

/** @param options.plaintext - At most MAX_RECORD_PLAINTEXT_BYTES. */
export async function makeRecord(
  options: {
    readonly keys: DirectoryKeys;
    readonly slot: Uint8Array;
    readonly kind: RecordKind;
    readonly expiresAt: number;
    readonly plaintext: Uint8Array;
  },
  env: Env,
): Promise<DirectoryRecord> {
  const { keys, slot, kind, expiresAt, plaintext } = options;
  assert(plaintext.length <= MAX_RECORD_PLAINTEXT_BYTES, "record within its limit");
  const directory = fromHex(keys.id)!;
  const head = { version: 1 as const, directory, slot, kind, record: env.random(RECORD_BYTES), expiresAt };
  const nonce = env.random(NONCE_BYTES);
  const ciphertext = await env.crypto.chacha20poly1305.seal({
    key: keys.sealKey,
    nonce,
    data: plaintext,
    associatedData: encode(clearSchema, head),
  });
  const body = { ...head, sealed: concat(nonce, ciphertext) };
  const signature = await sign(env.crypto, "directoryRecord", keys.seed, encode(unsignedSchema, body));
  return { ...body, signature };
}

export function encodeRecord(record: DirectoryRecord): Uint8Array {
  return encode(directoryRecordSchema, record);
}

export function decodeRecord(wire: Uint8Array): OrReject<DirectoryRecord> {
  return wire.length > MAX_RECORD_BYTES ? reject("directory/too-large") : decode(directoryRecordSchema, wire);
}

/** All that a mailbox can check, and takers check again (DI6). @param options.now - Network time. */
export async function verifyRecord(
  crypto: CryptoSuite,
  record: DirectoryRecord,
  options: { readonly now: number },
): Promise<OrReject<DirectoryRecord>> {
  if (record.expiresAt <= options.now) return reject("directory/expired");
  if (record.expiresAt > options.now + MAX_RECORD_LIFETIME_MS) return reject("directory/too-long");
  const valid = await verify(crypto, "directoryRecord", {
    publicKey: record.directory,
    message: encode(unsignedSchema, record),
    signature: record.signature,
  });
  return valid ? record : reject("directory/bad-signature");
}

/**
 * For contacts, after `verifyRecord`.
 * @param expected.slot - Of the device that was asked for: a mailbox may not answer with another's record (DI7).
 */
export async function openRecord(
  crypto: CryptoSuite,
  access: DirectoryAccess,
  record: DirectoryRecord,
  expected: { readonly slot?: Uint8Array } = {},
): Promise<OrReject<Uint8Array>> {
  if (toHex(record.directory) !== access.id) return reject("directory/wrong-directory");
  if (expected.slot && toHex(expected.slot) !== toHex(record.slot)) return reject("directory/wrong-slot");
  const plaintext = await crypto.chacha20poly1305.open({
    key: access.sealKey,
    nonce: record.sealed.subarray(0, NONCE_BYTES),
    data: record.sealed.subarray(NONCE_BYTES),
    associatedData: encode(clearSchema, record),
  });
  return plaintext ?? reject("directory/bad-seal");
}
