import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { fromHex, toHex } from "#protocols/base/bytes.ts";
import type { AccountId, ConversationId, DeviceId, EventId, InboxId } from "#protocols/base/ids.ts";
import { nobleSuite } from "#protocols/base/noble.ts";
import { isReject } from "#protocols/base/reject.ts";
import {
  type Body,
  type BodyType,
  decodeEvent,
  directConversationId,
  encodeEvent,
  eventId,
  isIndexed,
} from "./content.ts";

/** `vitest run -u protocols/content` writes it anew. It must not change while version 1 lives: ids are hashes of these bytes. */
const FILE = new URL("./vectors/content.json", import.meta.url);
const crypto = nobleSuite();

function name<T extends string>(byte: string): T {
  return byte.repeat(32) as T;
}

function filled(length: number, value: number): Uint8Array {
  return new Uint8Array(length).fill(value);
}

const AUTHOR = name<AccountId>("a1");
const REQUEST = name<EventId>("e1");
const root = { version: 1, secret: filled(32, 0x11), createdAt: 1_800_000_000_000 };
const list = {
  account: AUTHOR,
  certificates: [
    {
      version: 1,
      account: AUTHOR,
      device: name<DeviceId>("d1"),
      dhKey: filled(32, 2),
      createdAt: 5,
      signature: filled(64, 3),
    },
  ],
  revocations: [
    {
      version: 1,
      account: AUTHOR,
      device: name<DeviceId>("d0"),
      lastSequence: 9,
      revokedAt: 6,
      signature: filled(64, 4),
    },
  ],
} as const;
const facts = {
  name: "Zoë",
  list,
  bundles: [Uint8Array.of(1, 2, 3)],
  root,
  relays: ["/ip4/192.0.2.1/tcp/4001"],
  inbox: { id: name<InboxId>("1b"), sealKey: filled(32, 5) },
  directory: { id: name<string>("d7"), sealKey: filled(32, 6) },
};

const bodies: { readonly [T in BodyType]: Omit<Extract<Body, { type: T }>, "type"> } = {
  message: { text: "Good morning ☀\nsecond line", replyTo: REQUEST },
  receipt: { devices: [{ device: name("d1"), delivered: 4, ranges: [{ from: 6, to: 9 }], read: 3 }] },
  presence: { instance: filled(16, 7), addresses: ["/ip4/192.0.2.2/tcp/1"], peerId: "12D3KooWExample" },
  typing: { active: true },
  contactRequest: { ...facts, inviteId: filled(16, 8), inviteProof: filled(32, 9), greeting: "Hello" },
  contactAccept: { request: REQUEST, ...facts },
  contactDecline: { request: REQUEST },
  contactWithdraw: { request: REQUEST },
  rootChange: { root },
  relays: { add: ["/dns4/relay.example/tcp/443/wss"], remove: [] },
  profile: { name: "Zoë" },
  rekeyOffer: { session: filled(32, 10), offer: Uint8Array.of(1) },
  rekeyAnswer: { session: filled(32, 10), answer: Uint8Array.of(2) },
  deviceList: { list },
  prekeys: { bundles: [Uint8Array.of(4)] },
  instance: { instance: filled(16, 11) },
};

function described() {
  const events = Object.entries(bodies).map(([type, fields]) => {
    const body = { type, ...fields } as Body;
    const encoded = encodeEvent({
      version: 1,
      conversation: name<ConversationId>("c0"),
      author: AUTHOR,
      device: name<DeviceId>("d1"),
      sequence: 300,
      index: isIndexed(body) ? 12 : 0,
      time: { wall: 1_800_000_000_123, counter: 2 },
      parents: [name<EventId>("01"), name<EventId>("02")],
      body,
    });
    return { type, encoded: toHex(encoded), id: eventId(crypto, encoded) };
  });
  const accounts = { a: AUTHOR, b: name<AccountId>("b2") };
  return { events, direct: { ...accounts, conversation: directConversationId(crypto, accounts.a, accounts.b) } };
}

describe("vectors", () => {
  test("[CO1] [CO2] [CO16] the same events give the published bytes and ids", async () => {
    await expect(`${JSON.stringify(described(), null, 2)}\n`).toMatchFileSnapshot(FILE.pathname);
  });

  test("[CO1] published events decode to what they say", async () => {
    const { events } = JSON.parse(await readFile(FILE, "utf8")) as ReturnType<typeof described>;
    expect(events).toHaveLength(16);
    for (const { type, encoded, id } of events) {
      const bytes = fromHex(encoded)!;
      const event = decodeEvent(bytes);
      if (isReject(event)) throw new Error(`${type}: ${event.code}`);
      expect(event.body).toEqual({ type, ...bodies[type as BodyType] });
      expect(eventId(crypto, bytes)).toBe(id);
    }
  });
});
