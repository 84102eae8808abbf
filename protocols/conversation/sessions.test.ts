/** Device pairs: rekeys happen and break nothing, ends that parted find each other, lists that are old are made good. */
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { equalBytes, toHex } from "#protocols/base/bytes.ts";
import { assert } from "#protocols/base/reject.ts";
import { MAX_EVENT_BYTES } from "#protocols/content/content.ts";
import { MAX_PAYLOAD_BYTES } from "#protocols/envelope/envelope.ts";
import { seededRandom } from "#protocols/handshake/device-kit.ts";
import { encodeBundle, makeBundle } from "#protocols/handshake/handshake.ts";
import { revokeDevice } from "#protocols/identity/identity.ts";
import {
  crypto,
  type Device,
  HOUR_MS,
  makeDevice,
  makeHousehold,
  MINUTE_MS,
  must,
  type Packet,
} from "./households.fixture.ts";
import { decodePayload, sealEvent } from "./message.ts";
import { MAX_SESSIONS, newPair, sendingSession, withInviteBundle, withSession } from "./pair.ts";
import { OFFER_PATIENCE_MS } from "./rekey.ts";
import { CALM, Village, agreement } from "./village.fixture.ts";

const RUNS = process.env["SKEIN_LONG"] ? 100 : 1;

let contacts: readonly [Device, Device];

beforeAll(async () => {
  const [a1] = await makeHousehold("ann", 1, "sessions ann");
  const [b1] = await makeHousehold("bob", 1, "sessions bob");
  const village = new Village([a1!, b1!], { seed: 1 });
  must(await b1!.redeem(await a1!.invite()));
  await village.run(HOUR_MS);
  await village.heal();
  contacts = [a1!, b1!];
});

function fresh(seed: number | string): {
  a1: Device;
  b1: Device;
  a: Device["account"]["id"];
  b: Device["account"]["id"];
} {
  const [a1, b1] = contacts.map((device) => device.clone(seededRandom(crypto, `sessions ${seed} ${device.name}`))) as [
    Device,
    Device,
  ];
  return { a1, b1, a: a1.account.id, b: b1.account.id };
}

const pairOf = (device: Device, other: Device) => device.pairs.get(other.id)!;
const sendingOf = (device: Device, other: Device) => sendingSession(pairOf(device, other))!;

/** The same text in both logs, each once. */
function expectSameHistory(village: Village, a1: Device, b1: Device): void {
  const [ours, theirs] = agreement([a1, b1], a1.account.id, b1.account.id);
  // The clones begin with empty logs, so these are the events of this run.
  expect(ours?.events).toBe(theirs?.events);
  expect(village.held()).toBe(0);
}

describe("rekeys", () => {
  it("[CV80-CV82] 50 messages each way, everything lost and reordered: they happen and break nothing", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 2 ** 31 - 1 }), async (seed) => {
        const { a1, b1, a, b } = fresh(seed);
        const village = new Village([a1, b1], {
          seed,
          weather: { lost: 25, repeated: 20, maxDelayMs: 20 * MINUTE_MS },
        });
        for (let i = 0; i < 50; i++) {
          village.at(i * 10 * MINUTE_MS, () => a1.say(b, `a${i}`));
          village.at(i * 10 * MINUTE_MS + village.roll(5 * MINUTE_MS), () => b1.say(a, `b${i}`));
        }
        for (let i = 0; i < 4; i++) {
          await village.run(3 * HOUR_MS);
          await village.offerAll();
        }
        await village.heal();
        for (let i = 0; i < 10; i++) {
          await a1.say(b, `after ${i}`);
          await village.run(2 * MINUTE_MS);
          await b1.say(a, `after ${i}`);
          await village.run(2 * MINUTE_MS);
        }
        expectSameHistory(village, a1, b1);
        expect(a1.log.filter(({ event }) => event.body.type === "message")).toHaveLength(120);
        const numbers = [a1, b1].flatMap((device) =>
          pairOf(device, device === a1 ? b1 : a1).sessions.map(({ state }) => state.rekey),
        );
        expect(numbers.some(({ remoteNumber }) => remoteNumber > 0)).toBe(true);
        expect(numbers.some(({ ownNumber, own }) => ownNumber > 0 && own.type !== "offered")).toBe(true);
        expect(pairOf(a1, b1).sessions.length).toBeLessThanOrEqual(MAX_SESSIONS);
      }),
      { numRuns: RUNS },
    );
  });

  it("[CV81] an offer without an answer goes again after a minute, not with every message", async () => {
    const { a1, b } = fresh("repeat");
    const offers = () => a1.sent.splice(0).length;
    for (let i = 0; i < 60; i++) await a1.say(b, `${i}`);
    expect(offers()).toBe(61);
    a1.env.now += MINUTE_MS;
    await a1.say(b, "later");
    expect(offers()).toBe(2);
    await a1.say(b, "at once");
    expect(offers()).toBe(1);
  });

  it("[CV83] a rekey that is ignored for an hour of talk leads to a new session, one an hour", async () => {
    const { a1, b1, a, b } = fresh("ignored");
    await freshBundles(a1, b1);
    const village = new Village([a1, b1], { seed: 3 });
    const handshakes = new Set<number>();
    // No offer and no answer arrives: they are the only payloads above 1,600 bytes between devices that have met.
    village.allows = (packet) => packet.payload.length < 1_600 || must(decodePayload(packet.payload)).inits.length > 0;
    for (let i = 0; i < 90; i++) {
      await a1.say(b, `a${i}`);
      await village.run(3 * MINUTE_MS);
      await b1.say(a, `b${i}`);
      await village.run(3 * MINUTE_MS);
      handshakes.add(pairOf(a1, b1).handshakeAt).add(pairOf(b1, a1).handshakeAt);
      expect(pairOf(a1, b1).sessions.length).toBeLessThanOrEqual(MAX_SESSIONS);
    }
    await village.heal();
    expectSameHistory(village, a1, b1);
    const started = [...handshakes].filter((at) => at > contacts[0].env.now).toSorted((x, y) => x - y);
    expect(started.length).toBeGreaterThan(0);
    expect(pairOf(a1, b1).sessions.length).toBeGreaterThan(1);
    for (const [i, at] of started.entries()) expect(at - (started[i - 2] ?? 0)).toBeGreaterThanOrEqual(HOUR_MS);
  });

  it("[CV83] who is merely away is not started anew", async () => {
    const { a1, b1, b } = fresh("away");
    await freshBundles(a1, b1);
    const before = pairOf(a1, b1).sessions.length;
    for (let i = 0; i < 130; i++) {
      a1.env.now += HOUR_MS / 2;
      await a1.say(b, `${i}`);
    }
    expect(pairOf(a1, b1).sessions).toHaveLength(before);
    expect(a1.env.now - pairOf(a1, b1).offeredAt).toBeGreaterThan(OFFER_PATIENCE_MS);
  });

  it("[CV84] ends that parted over a rekey make a new session, and both talk on", async () => {
    const { a1, b1, a, b } = fresh("parted");
    await freshBundles(a1, b1);
    const village = new Village([a1, b1], { seed: 4 });
    // Bob began the session, so he offers and Ann answers.
    for (let i = 0; sendingOf(a1, b1).state.rekey.answered === undefined; i++) {
      assert(i < 200, "a rekey happens");
      if (i % 2 === 0) await b1.say(a, `b${i}`);
      else await a1.say(b, `a${i}`);
      for (let s = 0; s < 20 && sendingOf(a1, b1).state.rekey.answered === undefined; s++) await village.run(1_000);
    }
    // Ann's disk loses what she answered, and not that she did.
    const session = sendingOf(a1, b1);
    const { answered: _lost, ...rekey } = session.state.rekey;
    a1.pairs.set(b1.id, withSession(pairOf(a1, b1), { ...session, state: { ...session.state, rekey } }));
    village.allows = (packet) => packet.from === a1.id;
    await village.run(HOUR_MS);
    await a1.say(b, "your turn");
    await village.run(HOUR_MS);
    expect(sendingOf(b1, a1).state.rekey.own.type).toBe("mixed");
    const started = a1.env.now;
    const sessions = pairOf(a1, b1).sessions.length;
    const packet = await sentBy(b1, a);
    expect(Array.isArray(await a1.take(packet))).toBe(true);
    expect(pairOf(a1, b1).sessions).toHaveLength(sessions + 1);
    // One new session an hour, however much comes that cannot be opened.
    a1.env.now += HOUR_MS - 1;
    expect(await a1.take(packet)).toEqual({ type: "reject", code: "ratchet/unknown-rekey" });
    expect(pairOf(a1, b1).sessions).toHaveLength(sessions + 1);
    a1.env.now = started;
    village.allows = () => true;
    for (let i = 0; i < 8; i++) {
      await b1.say(a, `more b${i}`);
      await village.run(10 * MINUTE_MS);
      await village.offerAll();
      await a1.say(b, `more a${i}`);
      await village.run(10 * MINUTE_MS);
    }
    await village.heal();
    expectSameHistory(village, a1, b1);
    expect(pairOf(a1, b1).handshakeAt).toBe(started);
    expect(pairOf(b1, a1).sessions).toHaveLength(sessions + 1);
  });

  async function sentBy(device: Device, contact: Device["account"]["id"]): Promise<Packet> {
    device.sent.length = 0;
    await device.say(contact, "what cannot be opened");
    const [packet] = device.sent;
    assert(packet, "something was sent");
    return packet;
  }

  /** A bundle each that lives on, as the directory would give. */
  async function freshBundles(...devices: readonly Device[]): Promise<void> {
    for (const device of devices) {
      for (const other of devices) {
        if (other === device) continue;
        const made = must(await makeBundle(device.prekeys, { purpose: "directory", oneTime: false }, device.env));
        device.prekeys = made.store;
        other.pairs.set(device.id, { ...pairOf(other, device), bundle: encodeBundle(made.bundle) });
      }
    }
  }
});

describe("sessions of a pair", () => {
  const session = (n: number, receivedAt: number, init = false) => ({
    ...contacts[0].pairs.get(contacts[1].id)!.sessions[0]!,
    handshakeHash: new Uint8Array(32).fill(n),
    receivedAt,
    init: init ? new Uint8Array(1) : undefined,
  });
  const withoutInit = ({ init, ...rest }: ReturnType<typeof session>) => (init ? { ...rest, init } : rest);
  const pairWith = (handshakeAt: number, ...sessions: readonly ReturnType<typeof session>[]) =>
    sessions.reduce((pair, each) => withSession(pair, withoutInit(each)), {
      ...newPair(contacts[1].account.id, contacts[1].id),
      handshakeAt,
    });

  it("[CV12] holds five; the one that opened something longest ago goes", () => {
    const pair = pairWith(0, ...[1, 2, 3, 4, 5, 6].map((n) => session(n, n)));
    expect(pair.sessions.map(({ receivedAt }) => receivedAt).toSorted((a, b) => a - b)).toEqual([2, 3, 4, 5, 6]);
  });

  it("[CV13] sends on the one that opened last, or was started since; on a tie on the lower hash", () => {
    expect(sendingSession(pairWith(0, session(1, 5), session(2, 9)))?.receivedAt).toBe(9);
    expect(sendingSession(pairWith(10, session(1, 5), session(2, 0, true)))?.handshakeHash[0]).toBe(2);
    expect(sendingSession(pairWith(3, session(1, 5), session(2, 0, true)))?.handshakeHash[0]).toBe(1);
    expect(sendingSession(pairWith(0, session(2, 5), session(1, 5)))?.handshakeHash[0]).toBe(1);
  });

  it("[CV14] another invite replaces sessions that nobody answered, and no others", () => {
    const pair = { ...pairWith(3, session(1, 5), session(2, 0, true)), bundle: Uint8Array.of(1) };
    expect(withInviteBundle(pair, Uint8Array.of(1))).toBe(pair);
    expect(withInviteBundle(pair, Uint8Array.of(2)).sessions.map(({ handshakeHash }) => handshakeHash[0])).toEqual([1]);
  });

  it("[CV14] a second invite connects after the first one's prekeys have died", async () => {
    const [a1] = await makeHousehold("ann", 1, "dead invite ann");
    const [b1] = await makeHousehold("bob", 1, "dead invite bob");
    const village = new Village([a1!, b1!], { seed: 1 });
    const prekeys = a1!.prekeys;
    must(await b1!.redeem(await a1!.invite()));
    a1!.prekeys = prekeys;
    await village.run(HOUR_MS);
    expect(a1!.relation(b1!.account.id)).toBe("none");
    must(await b1!.redeem(await a1!.invite()));
    await village.heal();
    expect(a1!.relation(b1!.account.id)).toBe("accepted");
    expectSameHistory(village, a1!, b1!);
  });

  it("[CV11] an initial message is repeated until they have answered, and no longer", async () => {
    const [a1] = await makeHousehold("ann", 1, "init ann");
    const [b1] = await makeHousehold("bob", 1, "init bob");
    const inits = (packet: Packet | undefined) => must(decodePayload(packet!.payload)).inits.length;
    must(await b1!.redeem(await a1!.invite()));
    await b1!.say(a1!.account.id, "again");
    expect(b1!.sent.map(inits)).toEqual([1, 1, 1, 1]);
    // The second one arrives first.
    must((await a1!.take(b1!.sent[0]!))!);
    for (const packet of a1!.sent.splice(0)) await b1!.take(packet);
    b1!.sent.length = 0;
    await b1!.say(a1!.account.id, "heard");
    expect(b1!.sent.every((packet) => inits(packet) === 0)).toBe(true);
  });
});

describe("the form of a payload", () => {
  it("[CV22] four, eight or sixteen wraps, in order", async () => {
    const { a1, b1 } = fresh("form");
    const account = b1.account;
    for (const [count, expected] of [
      [1, 4],
      [4, 4],
      [5, 8],
      [9, 16],
    ] as const) {
      const more: Device[] = [];
      for (let i = 0; i < count; i++)
        more.push(await makeDevice(`m${i}`, account, seededRandom(crypto, `form ${count} ${i}`)));
      const { payload } = await sealFor(a1, more, new Uint8Array(10));
      const { wraps } = must(decodePayload(payload!));
      expect(wraps).toHaveLength(expected);
      expect(wraps.map(toHex)).toEqual(wraps.map(toHex).toSorted());
    }
  });

  it("[CV23] the largest event and 15 first contacts fit an envelope, in two goes", async () => {
    const { a1, b1 } = fresh("large");
    const more: Device[] = [];
    for (let i = 0; i < 15; i++) more.push(await makeDevice(`m${i}`, b1.account, seededRandom(crypto, `large ${i}`)));
    const event = new Uint8Array(MAX_EVENT_BYTES);
    const first = await sealFor(a1, more, event);
    expect(first.payload!.length).toBeLessThanOrEqual(MAX_PAYLOAD_BYTES);
    expect(first.unreachable).toEqual([]);
    const left = more.filter(({ id }) => !first.pairs.has(id));
    expect(left.length).toBeGreaterThan(0);
    const second = await sealFor(a1, left, event);
    expect(second.payload!.length).toBeLessThanOrEqual(MAX_PAYLOAD_BYTES);
    expect(left.every(({ id }) => second.pairs.has(id))).toBe(true);
  });

  async function sealFor(from: Device, to: readonly Device[], event: Uint8Array) {
    const pairs = new Map(from.pairs);
    for (const device of to) {
      const made = must(await makeBundle(device.prekeys, { purpose: "directory", oneTime: false }, device.env));
      pairs.set(device.id, { ...newPair(device.account.id, device.id), bundle: encodeBundle(made.bundle) });
    }
    const direct = from.direct(contacts[1].account.id);
    return sealEvent(
      {
        self: from.self,
        peerList: direct.devices,
        conversation: direct.conversation,
        eventId: contacts[0].log[0]!.id,
        event,
        recipients: to.map(({ keys }) => keys.certificate),
        pairs,
      },
      from.env,
    );
  }
});

describe("device lists", () => {
  it("[CV35, CV36] a new device is announced to a contact who does not know it, once an hour, and is heard then", async () => {
    const { a1, b1, a, b } = fresh("list");
    const village = new Village([a1, b1], { seed: 6 });
    const b2 = await makeDevice("bob2", b1.account, seededRandom(crypto, "list b2"));
    const certificates = [b1, b2]
      .map(({ keys }) => keys.certificate)
      .toSorted((x, y) => (x.device < y.device ? -1 : 1));
    b1.list = { ...b1.list, certificates };
    await village.run(2 * HOUR_MS);
    village.allows = () => false;
    await a1.say(b, "to one device");
    const [old] = a1.sent;
    b1.sent.length = 0;
    must((await b1.take(old!))!);
    expect(b1.log.filter(({ event }) => event.body.type === "deviceList")).toHaveLength(1);
    await a1.say(b, "still to one");
    must((await b1.take(a1.sent.at(-1)!))!);
    expect(b1.log.filter(({ event }) => event.body.type === "deviceList")).toHaveLength(1);
    for (const packet of b1.sent) await a1.take(packet);
    expect(a1.direct(b).devices.certificates).toHaveLength(2);
    await b1.say(a, "nothing more to tell");
    expect(b1.log.filter(({ event }) => event.body.type === "deviceList")).toHaveLength(1);
  });

  it("[CV74] when a device has been revoked, the next thing said brings a new root", async () => {
    const { a1, b1, a, b } = fresh("revoked");
    const village = new Village([a1, b1], { seed: 7, weather: CALM });
    await village.run(HOUR_MS);
    const before = a1.direct(b).roots;
    const gone = await makeDevice("bob9", b1.account, seededRandom(crypto, "gone"));
    const certificates = [b1, gone]
      .map(({ keys }) => keys.certificate)
      .toSorted((x, y) => (x.device < y.device ? -1 : 1));
    const revocation = await revokeDevice(crypto, {
      rootSeed: b1.account.rootSeed,
      device: gone.id,
      lastSequence: 0,
      revokedAt: b1.env.now - 1,
    });
    b1.list = { ...b1.list, certificates, revocations: [revocation] };
    await b1.say(a, "it is gone");
    await village.run(HOUR_MS);
    expect(a1.direct(b).roots.length).toBe(before.length + 1);
    const roots = [a1.direct(b), b1.direct(a)].map(({ roots }) => roots[0]!.chain.rootHash);
    expect(equalBytes(roots[0]!, roots[1]!)).toBe(true);
    const count = b1.direct(a).roots.length;
    await b1.say(a, "and once is enough");
    expect(b1.direct(a).roots).toHaveLength(count);
  });
});
