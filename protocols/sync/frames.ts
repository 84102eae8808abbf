/**
 * Frames of the sync stream `/skein/sync/1` between a client and a mailbox: one canonical CBOR value a frame, `[tag, body]`.
 * Envelopes, deposits, grants and records are opaque here; whoever stores or opens them checks them. Spec: ./SPEC.md SY1-SY9.
 */
import {
  bool,
  bytes,
  choice,
  decode,
  encode,
  id,
  type Infer,
  list,
  literal,
  optional,
  refine,
  type Schema,
  struct,
  text,
  uint,
  union,
} from "#protocols/base/codec.ts";
import type { EnvelopeId, InboxId, LogId, TopicId } from "#protocols/base/ids.ts";
import { type OrReject, reject } from "#protocols/base/reject.ts";
import {
  MAX_CODE_BYTES,
  MAX_CREDIT_BYTES,
  MAX_ENVELOPE_BYTES,
  MAX_FRAME_BYTES,
  MAX_GRANT_BYTES,
  MAX_ITEMS,
  MAX_RECORD_BYTES,
  MAX_RECORDS_PER_FRAME,
  MAX_SLOTS,
  MAX_TOPICS_PER_FRAME,
} from "./limits.ts";

/** A position in a mailbox's log: 48 bits, so that it fits a store key of six bytes. 0 is before the first entry. */
export const MAX_N = 2 ** 48 - 1;

const n = uint(MAX_N);
const hour = uint(0xffff_ffff);
const request = uint(0xffff_ffff);
const topic = id<TopicId>();
const envelopeId = id<EnvelopeId>();
const inbox = id<InboxId>();
const log = id<LogId>(16);
const nonce = bytes(32);
const signature = bytes(64);
const code = text(MAX_CODE_BYTES);
const envelope = bytes({ min: 1, max: MAX_ENVELOPE_BYTES });
const record = bytes({ min: 1, max: MAX_RECORD_BYTES });
const grant = bytes({ min: 1, max: MAX_GRANT_BYTES });

function some<T>(item: Schema<T>, max: number): Schema<readonly T[]> {
  return refine(list(item, max), "codec/length", (values) => values.length > 0);
}

/** Backlog is what a reader missed while away; live is what has just come. Neither waits for the other (SY15). */
const lane = choice({ backlog: 0, live: 1 });
export type Lane = Infer<typeof lane>;

const cursor = struct({ log, n });
export type Cursor = Infer<typeof cursor>;

const item = struct({ n, envelope });
export type Item = Infer<typeof item>;

/** An envelope is stored at `n` and stays until `until` hours since 1970. */
const held = struct({ n, id: envelopeId, until: hour });
export type Held = Infer<typeof held>;

const receipt = struct({ id: envelopeId, until: hour });
export type Receipt = Infer<typeof receipt>;

const answer = union({
  granted: [0, struct({})],
  revoked: [1, struct({})],
  deposited: [2, struct({ until: hour })],
  directoryStored: [
    3,
    struct({ refused: list(struct({ index: uint(MAX_RECORDS_PER_FRAME - 1), code }), MAX_RECORDS_PER_FRAME) }),
  ],
  directoryTaken: [4, struct({ records: list(record, MAX_SLOTS) })],
  directoryCounted: [
    5,
    struct({ slots: list(struct({ slot: bytes(16), oneTime: uint(10_000), lastResort: bool }), MAX_SLOTS) }),
  ],
});
export type Answer = Infer<typeof answer>;

const hello = struct({
  version: literal(1),
  nonce,
  /** Milliseconds since 1970 by the sender's clock: one vote for network time (DESIGN section 6). */
  now: uint(),
  /** What a mailbox adds: its log, the key of its receipts, and what it takes from one connection. */
  mailbox: optional(
    struct({ log, custodyKey: bytes(32), maxTopics: uint(65_536), putWindowBytes: uint(MAX_CREDIT_BYTES) }),
  ),
});
export type Hello = Infer<typeof hello>;

const creditGrant = struct({
  lane,
  bytes: refine(uint(MAX_CREDIT_BYTES), "codec/integer-range", (value) => value > 0),
});

/**
 * Tags are never reused. 0-15 topics, 16-23 putting, 24-31 inbox, 32-47 requests; 48-63 are kept for range reconciliation
 * and 64-71 for tickets.
 */
export const frameSchema = union({
  hello: [0, hello],
  bye: [1, struct({ code })],
  subscribe: [
    2,
    struct({ items: some(struct({ topic, proof: signature, cursor: optional(cursor) }), MAX_TOPICS_PER_FRAME) }),
  ],
  subscribed: [3, struct({ topic, log, after: n, reset: bool })],
  denied: [4, struct({ topic, code })],
  unsubscribe: [5, struct({ topics: some(topic, MAX_TOPICS_PER_FRAME) })],
  entries: [6, struct({ lane, topic, log, items: list(item, MAX_ITEMS), through: optional(n), end: bool })],
  have: [7, struct({ topic, log, items: some(held, MAX_ITEMS), signature, through: optional(n) })],
  want: [8, struct({ topic, ns: some(n, MAX_ITEMS) })],
  gone: [9, struct({ topic, ns: some(n, MAX_ITEMS) })],
  credit: [10, creditGrant],

  put: [16, struct({ envelopes: some(envelope, MAX_ITEMS) })],
  custody: [17, struct({ items: some(receipt, MAX_ITEMS), signature })],
  refused: [18, struct({ items: some(struct({ id: envelopeId, code }), MAX_ITEMS) })],

  openInbox: [24, struct({ inbox, proof: signature, after: optional(cursor) })],
  inboxOpened: [25, struct({ inbox, log, after: n, reset: bool })],
  inboxDenied: [26, struct({ inbox, code })],
  deposits: [27, struct({ inbox, log, items: some(item, MAX_ITEMS) })],
  removeDeposits: [28, struct({ inbox, ns: some(n, MAX_ITEMS) })],

  grant: [32, struct({ request, grant })],
  revokeGrant: [33, struct({ request, revocation: grant })],
  deposit: [34, struct({ request, deposit: envelope })],
  directoryPut: [35, struct({ request, records: some(record, MAX_RECORDS_PER_FRAME) })],
  directoryTake: [36, struct({ request, directory: bytes(32), slot: optional(bytes(16)) })],
  directoryCount: [37, struct({ request, directory: bytes(32) })],
  answer: [46, struct({ request, answer })],
  refusal: [47, struct({ request, code })],
});
export type Frame = Infer<typeof frameSchema>;
export type FrameOf<T extends Frame["type"]> = Extract<Frame, { type: T }>;

export function encodeFrame(frame: Frame): Uint8Array {
  return encode(frameSchema, frame);
}

/** @returns The frame, or `sync/oversize` or `codec/…`; never throws on input (SY2). */
export function decodeFrame(raw: Uint8Array): OrReject<Frame> {
  return raw.length > MAX_FRAME_BYTES ? reject("sync/oversize") : decode(frameSchema, raw);
}
