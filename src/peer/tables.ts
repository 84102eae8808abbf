/**
 * What a peer keeps, by name. Numbers stand in the store and are never reused. Everything of one contact is written under the
 * lock `direct:<account>`; sessions with one's own devices serve all conversations and have a lock of their own.
 */
import { bool, bytes, id, list, optional, type Schema, struct, text, uint } from "#protocols/base/codec.ts";
import type { AccountId, ConversationId, DeviceId, EnvelopeId, EventId, LogId } from "#protocols/base/ids.ts";
import { directSchema, openInviteSchema } from "#protocols/conversation/direct.ts";
import { addressesSchema } from "#protocols/conversation/invite.ts";
import { type DevicePair, pairSchema } from "#protocols/conversation/pair.ts";
import { MAX_BUNDLE_BYTES, MAX_EVENT_BYTES } from "#protocols/content/content.ts";
import { MAX_ENVELOPE_BYTES } from "#protocols/envelope/envelope.ts";
import { prekeyStoreSchema } from "#protocols/handshake/handshake.ts";
import { deviceKeysSchema, deviceListSchema } from "#protocols/identity/identity.ts";
import { log, table } from "#src/runtime/records.ts";
import { orderEntrySchema } from "./order.ts";

export const LOCKS = {
  self: "self",
  prekeys: "prekeys",
  invites: "invites",
  ownDevices: "own-devices",
  contacts: "contacts",
  direct: (account: string): string => `direct:${account}`,
} as const;

/** One row: who this peer is. */
export const SELF = "self";
export const selfTable = table({
  name: "self",
  number: 1,
  version: 1,
  cached: true,
  lock: () => LOCKS.self,
  schema: struct({
    account: id<AccountId>(),
    /** Only on the device where the account was made or restored; linked devices have none. */
    rootSeed: optional(bytes(32)),
    accountSecret: bytes(32),
    keys: deviceKeysSchema,
    devices: deviceListSchema,
    name: text(64),
    relays: addressesSchema,
  }),
});

/** Sequence numbers handed out so far, in blocks: the numbers between are skipped after a crash, never given twice. */
export const sequenceTable = table({ name: "sequence", number: 2, version: 1, schema: uint(), lock: () => LOCKS.self });

export const prekeysTable = table({
  name: "prekeys",
  number: 3,
  version: 1,
  cached: true,
  schema: prekeyStoreSchema,
  lock: () => LOCKS.prekeys,
});

export const MAX_OPEN_INVITES = 64;
export const invitesTable = table({
  name: "invites",
  number: 4,
  version: 1,
  schema: list(openInviteSchema, MAX_OPEN_INVITES),
  lock: () => LOCKS.invites,
});

/** By account. */
export const directTable = table({
  name: "direct",
  number: 5,
  version: 1,
  cached: true,
  schema: directSchema,
  lock: LOCKS.direct,
});

/** A pair moves with every message, its 2 KB bundle nearly never: the bundle has a table of its own. */
const pairWithoutBundle: Schema<DevicePair> = {
  write(writer, { bundle: _elsewhere, ...pair }) {
    pairSchema.write(writer, pair);
  },
  read: (reader) => pairSchema.read(reader),
};

/** By device; read and written by directs.ts alone, which puts pair and bundle together. */
export const pairTable = table({ name: "pair", number: 6, version: 1, cached: true, schema: pairWithoutBundle });
export const bundleTable = table({
  name: "bundle",
  number: 14,
  version: 1,
  cached: true,
  schema: bytes({ max: MAX_BUNDLE_BYTES }),
});

/** Parent `ALL`: the accounts there are direct conversations with, in order of appearance. */
export const ALL = "all";
export const contactLog = log({
  name: "contacts",
  number: 7,
  version: 1,
  schema: id<AccountId>(),
  lock: () => LOCKS.contacts,
});

/** Parent: conversation. Rows in order of arrival; order.ts sorts them. */
export const eventLog = log({
  name: "events",
  number: 8,
  version: 1,
  schema: struct({ id: id<EventId>(), event: bytes({ max: MAX_EVENT_BYTES }) }),
});

/** By event id. */
export const eventIndexTable = table({
  name: "event-index",
  number: 9,
  version: 1,
  schema: struct({ conversation: id<ConversationId>(), row: uint() }),
});

/** Parent: account of the contact. What some addressed device has not receipted yet. */
export const outboxLog = log({
  name: "outbox",
  number: 10,
  version: 1,
  lock: LOCKS.direct,
  schema: struct({
    id: id<EventId>(),
    /** Row of the event log. */
    row: uint(),
    index: uint(),
    devices: list(id<DeviceId>(), 16),
    /** It is a message, whose state people see. */
    visible: bool,
  }),
});
/** By conversation: what a list of conversations shows, kept so that it is painted from one read each. */
export const summaryTable = table({
  name: "summary",
  number: 11,
  version: 1,
  cached: true,
  schema: struct({
    unread: uint(),
    /** Of the newest message by order, not by arrival. */
    last: optional(orderEntrySchema),
  }),
});

/** Parent: account. Envelopes that cannot be opened yet. */
export const MAX_PARKED = 256;
export const parkedLog = log({
  name: "parked",
  number: 12,
  version: 1,
  lock: LOCKS.direct,
  schema: struct({ id: id<EnvelopeId>(), envelope: bytes({ max: MAX_ENVELOPE_BYTES }) }),
});

/** By mailbox and topic: how far its log was read. */
export const cursorTable = table({
  name: "cursor",
  number: 13,
  version: 1,
  schema: struct({ log: id<LogId>(16), n: uint() }),
});
