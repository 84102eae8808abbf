import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { toHex } from "#protocols/base/bytes.ts";
import { encode } from "#protocols/base/codec.ts";
import type { AccountId, ConversationId, DeviceId, EventId, InboxId } from "#protocols/base/ids.ts";
import { isReject, type OrReject } from "#protocols/base/reject.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import {
  type Body,
  bodySchema,
  type BodyType,
  decodeEvent,
  directConversationId,
  encodeEvent,
  type Event,
  eventId,
  isEphemeral,
  isIndexed,
  MAX_BUNDLE_BYTES,
  MAX_BUNDLES,
  MAX_EVENT_BYTES,
  MAX_TEXT_BYTES,
} from "./content.ts";
import { mergeReceipts, receiptOf } from "./receipts.ts";

const LONG = process.env["SKEIN_LONG"] === "1";
const crypto = synchronousSuite();
const AUTHOR = "a1".repeat(32) as AccountId;
const OTHER = "b2".repeat(32) as AccountId;
const DEVICE = "d3".repeat(32) as DeviceId;

const raw = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const hex = <T extends string>(length: number) => raw(length).map((bytes) => toHex(bytes) as T);
const moments = fc.integer({ min: 0, max: 2 ** 48 });
const names = fc.constantFrom("Ada", "Zoë", "李小龙", "a".repeat(64));
const addressLists = fc.uniqueArray(
  fc.nat(9_999).map((port) => `/ip4/127.0.0.1/tcp/${port}/ws`),
  { maxLength: 3 },
);
const roots = fc.record({ version: fc.nat(99), secret: raw(32), createdAt: moments });
const bundleLists = fc.array(fc.uint8Array({ minLength: 1, maxLength: 200 }), { maxLength: 8 });
const deviceLists = fc
  .record({ device: hex<DeviceId>(32), dhKey: raw(32), createdAt: moments, signature: raw(64), revoked: fc.boolean() })
  .map(({ device, dhKey, createdAt, signature, revoked }) => ({
    account: AUTHOR,
    certificates: [{ version: 1 as const, account: AUTHOR, device, dhKey, createdAt, signature }],
    revocations: revoked
      ? [{ version: 1 as const, account: AUTHOR, device, lastSequence: 7, revokedAt: createdAt, signature }]
      : [],
  }));
const facts = {
  name: names,
  list: deviceLists,
  bundles: bundleLists,
  root: roots,
  relays: addressLists,
  inbox: fc.record({ id: hex<InboxId>(32), sealKey: raw(32) }),
  directory: fc.record({ id: hex<string>(32), sealKey: raw(32) }),
};
const maybe = { requiredKeys: [] as [] };

/** One arbitrary a body; a kind without one fails to compile. */
const bodies: { readonly [T in BodyType]: fc.Arbitrary<Omit<Extract<Body, { type: T }>, "type">> } = {
  message: fc
    .tuple(
      fc.record({ text: fc.constantFrom("Hi", "two\nlines", "€") }),
      fc.record({ replyTo: hex<EventId>(32) }, maybe),
    )
    .map(([text, reply]) => ({ ...text, ...reply })),
  receipt: fc
    .uniqueArray(
      fc
        .record({ device: hex<DeviceId>(32), indices: fc.array(fc.integer({ min: 1, max: 60 })), read: fc.nat(60) })
        .map(({ device, indices, read }) => receiptOf(device, indices, read)),
      { selector: ({ device }) => device, maxLength: 4 },
    )
    .map((devices) => ({ devices: mergeReceipts([], devices) })),
  presence: fc.record({
    instance: raw(16),
    addresses: addressLists,
    peerId: fc.constantFrom("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA", "p1"),
  }),
  typing: fc.record({ active: fc.boolean() }),
  contactRequest: fc
    .tuple(
      fc.record(facts),
      fc.record({ inviteId: raw(16), inviteProof: raw(32), greeting: fc.constant("Hello,\nit is me.") }, maybe),
    )
    .map(([known, optional]) => ({ ...known, ...optional })),
  contactAccept: fc.record({ request: hex<EventId>(32), ...facts }),
  contactDecline: fc.record({ request: hex<EventId>(32) }),
  contactWithdraw: fc.record({ request: hex<EventId>(32) }),
  rootChange: fc.record({ root: roots }),
  relays: fc.record({ add: addressLists, remove: addressLists }),
  profile: fc.record({ name: names }),
  rekeyOffer: fc.record({ session: raw(32), offer: fc.uint8Array({ minLength: 1, maxLength: 1_536 }) }),
  rekeyAnswer: fc.record({ session: raw(32), answer: fc.uint8Array({ minLength: 1, maxLength: 1_536 }) }),
  deviceList: fc.record({ list: deviceLists }),
  prekeys: fc.record({ bundles: bundleLists }),
  instance: fc.record({ instance: raw(16) }),
};
const KINDS = Object.keys(bodies) as BodyType[];

function bodyOf(kind: BodyType): fc.Arbitrary<Body> {
  return (bodies[kind] as fc.Arbitrary<object>).map((fields) => ({ type: kind, ...fields }) as Body);
}

function eventOf(kind: BodyType): fc.Arbitrary<Event> {
  return fc
    .record({
      conversation: hex<ConversationId>(32),
      sequence: fc.integer({ min: 1, max: 2 ** 40 }),
      index: fc.integer({ min: 1, max: 2 ** 40 }),
      time: fc.record({ wall: moments, counter: fc.nat(0xffff) }),
      parents: fc.uniqueArray(hex<EventId>(32), { maxLength: 8 }).map((ids) => ids.toSorted()),
      body: bodyOf(kind),
    })
    .map((fields) => ({
      version: 1 as const,
      author: AUTHOR,
      device: DEVICE,
      ...fields,
      index: isIndexed(fields.body) ? fields.index : 0,
    }));
}

const events = fc.constantFrom(...KINDS).chain(eventOf);

function code(result: OrReject<unknown>): string {
  return isReject(result) ? result.code : "accepted";
}

/** The bytes of an event that `encodeEvent` would refuse: a good one with a piece of its encoding exchanged. */
function exchanged(good: Uint8Array, from: string, to: string): Uint8Array {
  const text = toHex(good);
  expect(text.split(from)).toHaveLength(2);
  return Uint8Array.from(Buffer.from(text.replace(from, to), "hex"));
}

const message: Event = {
  version: 1,
  conversation: "c0".repeat(32) as ConversationId,
  author: AUTHOR,
  device: DEVICE,
  sequence: 0x1234,
  index: 0x5678,
  time: { wall: 1_800_000_000_000, counter: 0 },
  parents: [],
  body: { type: "message", text: "Hi" },
};

describe("events", () => {
  test.each(KINDS)("[CO1] every %s has one encoding and comes back the same", (kind) => {
    fc.assert(
      fc.property(eventOf(kind), (event) => {
        const encoded = encodeEvent(event);
        const decoded = decodeEvent(encoded);
        expect(decoded).toEqual(event);
        expect(toHex(encodeEvent(decoded as Event))).toBe(toHex(encoded));
      }),
      { numRuns: 40 },
    );
  });

  test("[CO2] the id is the hash of the encoding, so author device and sequence make events different", () => {
    const ids = [message, { ...message, sequence: 2 }, { ...message, device: "d4".repeat(32) as DeviceId }].map(
      (event) => eventId(crypto, encodeEvent(event)),
    );
    expect(new Set(ids).size).toBe(3);
    expect(ids[0]).toBe(toHex(crypto.sha256(encodeEvent(message))));
  });

  test("[CO3] parents are a set", () => {
    const parents = ["01", "02"].map((text) => text.repeat(32) as EventId);
    expect(() => encodeEvent({ ...message, parents: parents.toReversed() })).toThrow("set is sorted");
    const good = encodeEvent({ ...message, parents });
    const [first, second] = parents as [EventId, EventId];
    expect(code(decodeEvent(exchanged(good, first, second)))).toBe("codec/not-sorted");
    const nine = Array.from({ length: 9 }, (_, i) => `0${i}`.repeat(32) as EventId);
    expect(() => encodeEvent({ ...message, parents: nine })).toThrow("list length");
  });

  test("[CO4] an event above its limit is refused before it is parsed", () => {
    expect(code(decodeEvent(new Uint8Array(MAX_EVENT_BYTES + 1)))).toBe("content/too-large");
    expect(code(decodeEvent(new Uint8Array(MAX_EVENT_BYTES)))).toBe("codec/wrong-type");
    const bundles = Array.from({ length: MAX_BUNDLES }, () => new Uint8Array(MAX_BUNDLE_BYTES));
    for (const body of [
      { type: "message", text: "x".repeat(MAX_TEXT_BYTES) },
      { type: "prekeys", bundles },
    ] satisfies Body[]) {
      expect(encodeEvent({ ...message, body }).length).toBeLessThan(MAX_EVENT_BYTES);
    }
  });

  test("[CO5] sequences begin with 1", () => {
    expect(() => encodeEvent({ ...message, sequence: 0 })).toThrow("content/no-sequence");
    const zero = exchanged(encodeEvent(message), "191234", "00");
    expect(code(decodeEvent(zero))).toBe("content/no-sequence");
  });

  test("[CO6] numbers of kinds do not change", () => {
    const numbers = KINDS.map((kind) => {
      const [body] = fc.sample(bodyOf(kind), 1);
      return [kind, encode(bodySchema, body!)[1]];
    });
    expect(numbers).toEqual([
      ["message", 1],
      ["receipt", 2],
      ["presence", 3],
      ["typing", 4],
      ["contactRequest", 5],
      ["contactAccept", 6],
      ["contactDecline", 7],
      ["contactWithdraw", 8],
      ["rootChange", 9],
      ["relays", 10],
      ["profile", 11],
      ["rekeyOffer", 12],
      ["rekeyAnswer", 13],
      ["deviceList", 14],
      ["prekeys", 15],
      ["instance", 16],
    ]);
  });

  test("[CO6] an unknown kind is refused", () => {
    expect(code(decodeEvent(exchanged(encodeEvent(message), "820182624869f6", "82186382624869f6")))).toBe(
      "codec/variant",
    );
  });

  test("[CO7] what is indexed has an index, what is not has none", () => {
    fc.assert(
      fc.property(events, fc.nat(2), (event, index) => {
        const written = () => code(decodeEvent(encodeEvent({ ...event, index })));
        fc.pre(isIndexed(event.body) !== index > 0);
        expect(written).toThrow("content/index");
      }),
    );
    expect(code(decodeEvent(exchanged(encodeEvent(message), "195678", "00")))).toBe("content/index");
    const ofKinds = (test: (body: Body) => boolean) => KINDS.filter((kind) => test({ type: kind } as Body));
    expect(ofKinds(isEphemeral)).toEqual(["presence", "typing"]);
    expect(ofKinds((body) => !isIndexed(body))).toEqual(["receipt", "presence", "typing", "rekeyOffer", "rekeyAnswer"]);
  });

  test("[CO8] nobody announces somebody else's devices", () => {
    for (const kind of ["contactRequest", "contactAccept", "deviceList"] as const) {
      const [event] = fc.sample(eventOf(kind), { numRuns: 1, seed: 1 });
      expect(() => encodeEvent({ ...event!, author: OTHER })).toThrow("content/foreign-device-list");
      // The first occurrence is the author of the event; those of the list follow.
      const forged = toHex(encodeEvent(event!)).replace(AUTHOR, OTHER);
      expect(code(decodeEvent(Uint8Array.from(Buffer.from(forged, "hex"))))).toBe("content/foreign-device-list");
    }
  });

  test("[CO10] a bad text inside an event is refused with its code", () => {
    const good = encodeEvent(message);
    expect(code(decodeEvent(exchanged(good, "624869f6", "624807f6")))).toBe("content/text");
    expect(code(decodeEvent(exchanged(good, "624869f6", "6248fff6")))).toBe("codec/utf8");
    const profile = encodeEvent({ ...message, body: { type: "profile", name: "Ada" } });
    expect(code(decodeEvent(exchanged(profile, "63416461", "6341640a")))).toBe("content/name");
    const relays = encodeEvent({ ...message, body: { type: "relays", add: ["/a/1", "/b/2"], remove: [] } });
    expect(code(decodeEvent(exchanged(relays, "642f622f32", "642f612f31")))).toBe("content/repeated-address");
    expect(code(decodeEvent(exchanged(relays, "642f622f32", "64622f3232")))).toBe("content/address");
    const presence = { type: "presence", instance: new Uint8Array(16), addresses: [], peerId: "peer" } as const;
    const present = encodeEvent({ ...message, index: 0, body: presence });
    expect(code(decodeEvent(exchanged(present, "6470656572", "6470652e72")))).toBe("content/peer-id");
  });

  test("[CO32] a receipt with two forms of one set is refused", () => {
    const devices = [{ device: DEVICE, delivered: 1, ranges: [{ from: 0x77, to: 0x79 }], read: 0 }];
    const good = encodeEvent({ ...message, index: 0, body: { type: "receipt", devices } });
    expect(code(decodeEvent(exchanged(good, "8218771879", "8218791877")))).toBe("content/receipt-ranges");
    const second = "d4".repeat(32) as DeviceId;
    const two = [receiptOf(DEVICE, []), receiptOf(second, [])];
    const both = toHex(encodeEvent({ ...message, index: 0, body: { type: "receipt", devices: two } }));
    const repeated = both.replace(second, DEVICE);
    expect(code(decodeEvent(Uint8Array.from(Buffer.from(repeated, "hex"))))).toBe("content/receipt-order");
  });

  test("[CO16] a direct conversation has one id on both sides", () => {
    expect(directConversationId(crypto, AUTHOR, OTHER)).toBe(directConversationId(crypto, OTHER, AUTHOR));
    expect(directConversationId(crypto, AUTHOR, OTHER)).not.toBe(directConversationId(crypto, AUTHOR, AUTHOR));
  });

  test("[CO1] a mutated event is refused or is another event in its one encoding; none throws", () => {
    const seeds = KINDS.flatMap((kind) => fc.sample(eventOf(kind), { numRuns: 2, seed: 5 }).map(encodeEvent));
    let accepted = 0;
    for (const mutant of mutations(seeds, LONG ? 100_000 : 6_000, 21)) {
      const decoded = decodeEvent(mutant);
      if (isReject(decoded)) continue;
      accepted++;
      expect(toHex(encodeEvent(decoded))).toBe(toHex(mutant));
    }
    expect(accepted).toBeGreaterThan(0);
  });
});
