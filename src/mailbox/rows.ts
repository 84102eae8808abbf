/**
 * How the mailbox lays out its store. Keys hold topic, envelope, inbox and directory ids, which are keys made for this use:
 * no account, device or name. Values are opaque ciphertext as it came, or counters; the bytes here are pinned by a test.
 *
 *   m                            log id, clean mark, next position, bytes stored, custody seed
 *   e topic n -> envelope        in the order of arrival, so that a reader's backlog is one scan
 *   i id      -> n, until        what was taken, kept a day beyond expiry
 *   u topic   -> count, bytes
 *   x hour n  -> what expires then
 *   g inbox capability           grant, revocation or both
 *   r inbox capability redeemer  deposits of one redeemer
 *   d inbox n -> deposit         w inbox -> counts
 *   s directory -> shelf         p directory record -> record
 */
import { concat, fromHex, utf8 } from "#protocols/base/bytes.ts";
import { bool, bytes, id, type Infer, list, literal, struct, uint, union } from "#protocols/base/codec.ts";
import type { EnvelopeId, InboxId, LogId, TopicId } from "#protocols/base/ids.ts";
import { assert } from "#protocols/base/reject.ts";
import { MAX_N } from "#protocols/sync/frames.ts";
import { MAX_DEPOSITS_PER_REDEEMER } from "./limits.ts";

const n = uint(MAX_N);
const hour = uint(0xffff_ffff);
const count = uint();

export const metaSchema = struct({
  version: literal(1),
  log: id<LogId>(16),
  clean: bool,
  next: n,
  bytes: count,
  custodySeed: bytes(32),
});
export type Meta = Infer<typeof metaSchema>;

export const knownSchema = struct({ n, until: hour });
export const usageSchema = struct({ count, bytes: count });
export type Usage = Infer<typeof usageSchema>;

export const expirySchema = union({
  envelope: [0, struct({ topic: id<TopicId>(), id: id<EnvelopeId>(), n, size: count })],
  /** The id of an envelope that expired a day ago. */
  memory: [1, struct({ id: id<EnvelopeId>() })],
  deposit: [2, struct({ inbox: id<InboxId>(), n, size: count })],
  grant: [3, struct({ inbox: id<InboxId>(), capability: bytes(32) })],
  redeemer: [4, struct({ inbox: id<InboxId>(), capability: bytes(32), redeemer: bytes(32) })],
  shelf: [5, struct({ directory: bytes(32) })],
});
export type Expiry = Infer<typeof expirySchema>;

export const grantSchema = struct({
  uses: count,
  used: count,
  expiresAt: count,
  /** When the row may be forgotten: a revocation outlives every grant it could be followed by (EN27). */
  keepUntil: count,
  revoked: bool,
});
export type Grant = Infer<typeof grantSchema>;

export const redeemerSchema = struct({
  deposits: list(struct({ id: id<EnvelopeId>(), n, size: count, expiresAt: count }), MAX_DEPOSITS_PER_REDEEMER),
});

export const inboxSchema = struct({ grants: count, deposits: count, bytes: count });
export type InboxCounts = Infer<typeof inboxSchema>;

function prefix(letter: string): Uint8Array {
  return utf8(letter);
}

function raw(name: TopicId | InboxId | EnvelopeId): Uint8Array {
  const value = fromHex(name);
  assert(value?.length === 32, "an id has 32 bytes");
  return value;
}

/** Six bytes, big-endian, so that keys sort by position. */
export function position(value: number): Uint8Array {
  const encoded = new Uint8Array(6);
  let rest = value;
  for (let i = 5; i >= 0; i--) {
    encoded[i] = rest % 256;
    rest = Math.floor(rest / 256);
  }
  return encoded;
}

export function readPosition(key: Uint8Array): number {
  let value = 0;
  for (const byte of key.subarray(key.length - 6)) value = value * 256 + byte;
  return value;
}

function hours(value: number): Uint8Array {
  return position(value).slice(2);
}

export const keys = {
  meta: prefix("m"),
  envelope: (topic: TopicId, at: number) => concat(prefix("e"), raw(topic), position(at)),
  known: (envelope: EnvelopeId) => concat(prefix("i"), raw(envelope)),
  usage: (topic: TopicId) => concat(prefix("u"), raw(topic)),
  expiry: (atHour: number, at: number) => concat(prefix("x"), hours(atHour), position(at)),
  grant: (inbox: InboxId, capability: Uint8Array) => concat(prefix("g"), raw(inbox), capability),
  redeemer: (inbox: InboxId, capability: Uint8Array, redeemer: Uint8Array) =>
    concat(prefix("r"), raw(inbox), capability, redeemer),
  deposit: (inbox: InboxId, at: number) => concat(prefix("d"), raw(inbox), position(at)),
  inbox: (inbox: InboxId) => concat(prefix("w"), raw(inbox)),
  shelf: (directory: Uint8Array) => concat(prefix("s"), directory),
  record: (directory: Uint8Array, record: Uint8Array) => concat(prefix("p"), directory, record),
};
