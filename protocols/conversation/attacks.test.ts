/** What is refused, each with its code and with nothing changed. */
import { beforeEach, describe, expect, it } from "vitest";
import { concat, equalBytes, utf8 } from "#protocols/base/bytes.ts";
import { encode } from "#protocols/base/codec.ts";
import type { DeviceId, EventId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import {
  type Body,
  directConversationId,
  encodeEvent,
  type Event,
  eventId,
  receiptOf,
} from "#protocols/content/content.ts";
import { seededRandom } from "#protocols/handshake/device-kit.ts";
import { decodeBundle } from "#protocols/handshake/handshake.ts";
import { issueCertificate, revokeDevice } from "#protocols/identity/identity.ts";
import { unwrap, wrap } from "#protocols/ratchet/ratchet.ts";
import { deliveryOf, receive } from "./direct.ts";
import {
  codeOf,
  crypto,
  type Device,
  HOUR_MS,
  makeAccount,
  makeDevice,
  makeHousehold,
  must,
  type Packet,
} from "./households.fixture.ts";
import { type Introduction, introductionOf, introductionSchema } from "./introduction.ts";
import { decodeInvite, redemptionProof } from "./invite.ts";
import { decodePayload, type DirectPayload, sealEvent } from "./message.ts";
import { newPair, sendingSession, withSession, withState } from "./pair.ts";
import { Village, talkingHouseholds } from "./village.fixture.ts";

const talking = await talkingHouseholds();
let a1: Device;
let a2: Device;
let b1: Device;
let eve: Device;

beforeEach(() => {
  [a1, a2, b1, eve] = talking.map((device) => device.clone(seededRandom(crypto, `attack ${device.name}`))) as [
    Device,
    Device,
    Device,
    Device,
  ];
});

function payloadOf(packet: Packet | undefined): DirectPayload {
  assert(packet !== undefined, "something was sent");
  return must(decodePayload(packet.payload));
}

/** What `from` sends when it says `text`. */
async function said(from: Device, to: Device, body: Body | string = "text"): Promise<DirectPayload> {
  from.sent.length = 0;
  await from.say(to.account.id, body);
  return payloadOf(from.sent[0]);
}

/** `to` gets it and nothing changes. @returns The code. */
async function refusal(to: Device, contact: Device, payload: DirectPayload, viaInbox = false): Promise<string> {
  const before = to.snapshot(contact.account.id);
  const state = to.state(contact.account.id);
  const result = await receive(state, { payload, viaInbox }, to.env);
  if (!isReject(result)) to.commit(contact.account.id, result);
  expect(to.snapshot(contact.account.id)).toBe(before);
  return codeOf(result);
}

function eventBy(author: Device, contact: Device, change: Partial<Event> = {}): Event {
  return {
    version: 1,
    conversation: directConversationId(crypto, author.account.id, contact.account.id),
    author: author.account.id,
    device: author.id,
    sequence: 900,
    index: author.directs.get(contact.account.id)?.lastIndex ?? 0,
    time: { wall: author.env.now, counter: 0 },
    parents: [],
    body: { type: "message", text: "forged" },
    ...change,
  };
}

/** Seals any event with `from`'s sessions, as a sender of evil intent could. */
async function sealed(
  from: Device,
  to: Device,
  event: Event,
  options: { id?: EventId; as?: Partial<Event> } = {},
): Promise<DirectPayload> {
  const encoded = encodeEvent(event);
  const made = await sealEvent(
    {
      self: from.self,
      peerList: to.list,
      conversation: options.as?.conversation ?? event.conversation,
      eventId: options.id ?? eventId(crypto, encoded),
      event: encoded,
      recipients: [to.keys.certificate],
      pairs: from.pairs,
    },
    from.env,
  );
  assert(made.payload, "the recipient is reachable");
  from.pairs = new Map([...from.pairs, ...made.pairs]);
  return must(decodePayload(made.payload));
}

const next = (device: Device, contact: Device): number => device.direct(contact.account.id).lastIndex + 1;

describe("who may write", () => {
  it("[CV30] an outsider's payload is for nobody", async () => {
    eve.pairs.set(a1.id, b1.pairs.get(a1.id)!);
    const [stranger] = await makeHousehold("mallory", 1, "mallory");
    must(await stranger!.redeem(await eve.invite()));
    expect(await refusal(a1, b1, payloadOf(stranger!.sent[0]))).toBe("conversation/not-for-me");
  });

  it("[CV27] an event that names another author, our own account or another device is refused", async () => {
    const forged = (change: Partial<Event>) => sealed(b1, a1, eventBy(b1, a1, { index: next(b1, a1), ...change }));
    expect(await refusal(a1, b1, await forged({ author: eve.account.id }))).toBe("conversation/wrong-author");
    expect(await refusal(a1, b1, await forged({ author: a1.account.id, device: a2.id }))).toBe(
      "conversation/wrong-author",
    );
    expect(await refusal(a1, b1, await forged({ author: a1.account.id, device: a1.id }))).toBe(
      "conversation/wrong-author",
    );
    expect(await refusal(a1, b1, await forged({ device: eve.id }))).toBe("conversation/wrong-author");
  });

  it("[CV32] a stranger begins with a request and nothing else", async () => {
    const invite = must(await decodeInvite(crypto, await a1.invite(), a1.env.now));
    const bundle = must(decodeBundle(invite.bundle));
    eve.pairs.set(a1.id, { ...newPair(a1.account.id, bundle.certificate.device), bundle: invite.bundle });
    const payload = await sealed(eve, a1, eventBy(eve, a1, { index: 1 }));
    const result = await receive(a1.state(eve.account.id), { payload, viaInbox: true }, a1.env);
    expect(codeOf(result)).toBe("conversation/unknown-contact");
  });

  it("[CV34] a device that is not in the list, or revoked and beyond its last sequence, is refused", async () => {
    const direct = a1.direct(b1.account.id);
    const withDevices = (devices: typeof direct.devices) => a1.directs.set(b1.account.id, { ...direct, devices });
    const late = await sealed(b1, a1, eventBy(b1, a1, { index: next(b1, a1), sequence: 901 }));
    const early = await sealed(b1, a1, eventBy(b1, a1, { index: next(b1, a1), sequence: 900 }));
    const revocation = await revokeDevice(crypto, {
      rootSeed: b1.account.rootSeed,
      device: b1.id,
      lastSequence: 900,
      revokedAt: b1.env.now,
    });
    withDevices({ ...direct.devices, revocations: [revocation] });
    expect(await refusal(a1, b1, late)).toBe("conversation/revoked-device");
    expect(isReject(await receive(a1.state(b1.account.id), { payload: early, viaInbox: false }, a1.env))).toBe(false);
    withDevices({ ...direct.devices, certificates: [] });
    expect(await refusal(a1, b1, early)).toBe("conversation/unknown-device");
  });

  it("[CV15] an account that certifies a device of ours does not speak for us", async () => {
    // Eve's account certifies the id of Ann's second device, with a key of her own.
    const dhSecret = eve.env.random(32);
    const stolen = await issueCertificate(crypto, {
      rootSeed: eve.account.rootSeed,
      device: a2.id,
      dhKey: await crypto.x25519.publicKey(dhSecret),
      createdAt: eve.env.now,
    });
    const account = await makeAccount(seededRandom(crypto, "unused"));
    const mallory = await makeDevice("mallory", account, seededRandom(crypto, "mallory"));
    const thief = Object.assign(eve.clone(seededRandom(crypto, "thief")), {
      keys: { ...mallory.keys, certificate: stolen, dhSecret },
    });
    const invite = must(await decodeInvite(crypto, await a1.invite(), a1.env.now));
    thief.pairs.set(a1.id, { ...newPair(a1.account.id, a1.id), bundle: invite.bundle });
    const event = eventBy(eve, a1, { author: a2.account.id, device: a2.id, index: 1 });
    expect(await refusal(a1, b1, await sealed(thief, a1, event), true)).toBe("conversation/not-their-device");
    // Nor does it under its own name, when no pair is there to compare.
    a1.pairs.delete(a2.id);
    const named = await sealed(thief, a1, { ...event, author: eve.account.id });
    expect(await refusal(a1, eve, named, true)).toBe("conversation/not-their-device");
  });

  it("[CV15] nor gets what is written to her, or replaces its prekeys", async () => {
    const stolen = await issueCertificate(crypto, {
      rootSeed: eve.account.rootSeed,
      device: a2.id,
      dhKey: a2.keys.certificate.dhKey,
      createdAt: 1,
    });
    const recipients = [stolen, b1.keys.certificate];
    const made = await sealEvent(
      {
        self: a1.self,
        peerList: b1.list,
        conversation: a1.direct(b1.account.id).conversation,
        eventId: "00".repeat(32) as EventId,
        event: new Uint8Array(8),
        recipients,
        pairs: a1.pairs,
      },
      a1.env,
    );
    expect(made.unreachable).toEqual([a2.id]);
    expect([...made.pairs.keys()]).toEqual([b1.id]);
  });

  it("[CV65] a proof made for another account claims no invite", async () => {
    const link = await a1.invite();
    const invite = must(await decodeInvite(crypto, link, a1.env.now));
    const [carol] = await makeHousehold("carol", 1, "attacks carol");
    carol!.env.now = a1.env.now;
    must(await carol!.redeem(link));
    const request = carol!.log[0]!.event;
    assert(request.body.type === "contactRequest", "a request");
    const stolen = redemptionProof(crypto, invite, b1.account.id);
    const payload = await sealed(carol!, a1, { ...request, body: { ...request.body, inviteProof: stolen } });
    const result = await receive(a1.state(carol!.account.id), { payload, viaInbox: true }, a1.env);
    expect(codeOf(result)).toBe("conversation/bad-invite-proof");
  });

  it("[CV46, CV47] an answer from the wrong side, or to no request, is refused", async () => {
    const [request] = b1.direct(a1.account.id).requests;
    const wrong = { type: "contactDecline", request: request!.event } as const;
    expect(await refusal(a1, b1, await said(b1, a1, wrong))).toBe("conversation/not-yours-to-answer");
    const unknown = { type: "contactDecline", request: "ab".repeat(32) as EventId } as const;
    expect(await refusal(a1, b1, await said(b1, a1, unknown))).toBe("conversation/unknown-request");
    const withdrawn = { type: "contactWithdraw", request: request!.event } as const;
    expect(await refusal(b1, a1, await said(a1, b1, withdrawn))).toBe("conversation/not-yours-to-answer");
  });
});

describe("what a payload proves", () => {
  it("[CV29] the same payload again, and an old one, open no more", async () => {
    const old = await said(b1, a1);
    const taken = must(await receive(a1.state(b1.account.id), { payload: old, viaInbox: false }, a1.env));
    a1.commit(b1.account.id, taken);
    expect(await refusal(a1, b1, old)).toBe("ratchet/duplicate");
  });

  it("[CV29] an initial message that comes again makes no second session", async () => {
    const [carol] = await makeHousehold("carol", 1, "repeated");
    carol!.env.now = a1.env.now;
    must(await carol!.redeem(await a1.invite()));
    const first = payloadOf(carol!.sent[0]);
    must((await a1.take(carol!.sent[0]!))!);
    expect(await refusal(a1, carol!, first, true)).toBe("ratchet/duplicate");
    // Not even when its session has made room for others.
    a1.pairs.set(carol!.id, { ...a1.pairs.get(carol!.id)!, sessions: [] });
    expect(await refusal(a1, carol!, first, true)).toBe("conversation/repeated-init");
  });

  it("[CV26] another conversation is another associated data", async () => {
    const conversation = directConversationId(crypto, eve.account.id, a1.account.id);
    const other = eventBy(b1, a1, { index: next(b1, a1), conversation });
    expect(await refusal(a1, b1, await sealed(b1, a1, other))).toBe("conversation/bad-content");
    const inside = { as: { conversation: eventBy(b1, a1).conversation } };
    expect(await refusal(a1, b1, await sealed(b1, a1, other, inside))).toBe("conversation/wrong-conversation");
  });

  it("[CV26] an id that is not the event's is refused", async () => {
    const event = eventBy(b1, a1, { index: next(b1, a1) });
    const lied = await sealed(b1, a1, event, { id: "cd".repeat(32) as EventId });
    expect(await refusal(a1, b1, lied)).toBe("conversation/wrong-event-id");
    const relabelled = { ...(await sealed(b1, a1, event)), event: "cd".repeat(32) as EventId };
    expect(await refusal(a1, b1, relabelled)).toBe("conversation/bad-content");
  });

  it("[CV24] one ciphertext has one key: a wrap with another key opens nothing", async () => {
    const payload = await said(b1, a1);
    const session = sendingSession(b1.pairs.get(a1.id)!)!;
    const salt = payload.salt;
    const made = await wrap(session.state, { plaintext: b1.env.random(96), salt }, b1.env);
    b1.pairs.set(a1.id, withSession(b1.pairs.get(a1.id)!, withState(session, made.state)));
    const own = await ownWrap(payload);
    const wraps = payload.wraps.map((other) => (equalBytes(other, own) ? made.wrap : other));
    expect(await refusal(a1, b1, { ...payload, wraps })).toBe("conversation/two-key-ciphertext");
  });

  it("[CV24] nor does a commitment that was exchanged with it", async () => {
    const [payload, other] = [await said(b1, a1), await said(b1, a1, "another")];
    const ciphertext = concat(other.ciphertext.slice(0, 32), payload.ciphertext.slice(32));
    expect(await refusal(a1, b1, { ...payload, ciphertext })).toBe("conversation/two-key-ciphertext");
  });

  it("[CV28] a recipient cannot hand a ciphertext on to a third person as his own or as the author's", async () => {
    // Ann opens Bob's wrap, and wraps its content key for Carol, with whom she talks too.
    const [carol] = await makeHousehold("carol", 1, "third");
    const village = new Village([a1, carol!], { seed: 1 });
    carol!.env.now = a1.env.now;
    must(await carol!.redeem(await a1.invite()));
    await village.run(HOUR_MS);
    await a1.say(carol!.account.id, "we talk");
    await village.run(HOUR_MS);
    const payload = await said(b1, a1);
    const { plaintext } = must(await unwrapped(payload));
    const session = sendingSession(a1.pairs.get(carol!.id)!)!;
    const made = await wrap(session.state, { plaintext, salt: payload.salt }, a1.env);
    expect(await refusal(carol!, a1, { ...payload, wraps: [made.wrap], inits: [] })).toBe("conversation/bad-content");
  });

  it("[CV28] a wrap that names other recipients does not open the content", async () => {
    const payload = await said(b1, a1);
    const session = sendingSession(b1.pairs.get(a1.id)!)!;
    const { plaintext } = must(await unwrapped(payload));
    plaintext[40]! ^= 1;
    const made = await wrap(session.state, { plaintext, salt: payload.salt }, b1.env);
    const own = await ownWrap(payload);
    const wraps = payload.wraps.map((other) => (equalBytes(other, own) ? made.wrap : other));
    expect(await refusal(a1, b1, { ...payload, wraps })).toBe("conversation/bad-content");
  });

  /** The wrap for Ann's first device, found as she finds it. */
  async function unwrapped(
    payload: DirectPayload,
  ): Promise<OrReject<{ readonly plaintext: Uint8Array; readonly wrap: Uint8Array }>> {
    for (const { state } of a1.pairs.get(b1.id)!.sessions) {
      for (const candidate of payload.wraps) {
        const opened = await unwrap(state, { wrap: candidate, salt: payload.salt }, a1.env);
        if (!isReject(opened)) return { plaintext: opened.plaintext, wrap: candidate };
      }
    }
    return reject("no wrap");
  }

  async function ownWrap(payload: DirectPayload): Promise<Uint8Array> {
    return must(await unwrapped(payload)).wrap;
  }

  it("[CV50] what introduces a conversation comes from a device of ours, and from nobody else", async () => {
    // Bob seals an introduction as if Ann's devices did; for her it is an event of his, and does not open.
    const encoded = utf8("whatever it says");
    const made = await sealEvent(
      {
        kind: "introduction",
        self: b1.self,
        peerList: a1.list,
        conversation: directConversationId(crypto, b1.account.id, a1.account.id),
        eventId: eventId(crypto, encoded),
        event: encoded,
        recipients: [a1.keys.certificate],
        pairs: b1.pairs,
      },
      b1.env,
    );
    expect(await refusal(a1, b1, must(decodePayload(made.payload!)), true)).toBe("conversation/bad-content");
  });
});

describe("what our own devices say", () => {
  async function introduced(change: Partial<Introduction>): Promise<DirectPayload> {
    const contact = b1.account.id;
    const encoded = encode(introductionSchema, { ...introductionOf(a2.direct(contact), a2.pairs), ...change });
    const made = await sealEvent(
      {
        kind: "introduction",
        self: a2.self,
        peerList: a2.list,
        conversation: directConversationId(crypto, a2.account.id, a2.account.id),
        eventId: eventId(crypto, encoded),
        event: encoded,
        recipients: [a1.keys.certificate],
        pairs: a2.pairs,
      },
      a2.env,
    );
    a2.pairs = new Map([...a2.pairs, ...made.pairs]);
    return must(decodePayload(made.payload!));
  }

  it("[CV51, CV54] an introduction makes a conversation without history or relation, and again changes none", async () => {
    const known = a1.directs.get(b1.account.id)!;
    a1.directs.delete(b1.account.id);
    const step = must(
      await receive(a1.state(b1.account.id), { payload: await introduced({}), viaInbox: true }, a1.env),
    );
    a1.commit(b1.account.id, step);
    expect(a1.relation(b1.account.id)).toBe("none");
    expect(a1.direct(b1.account.id)).toMatchObject({
      conversation: known.conversation,
      devices: known.devices,
      lastIndex: 0,
    });
    expect(step.effects).toEqual([{ type: "receipt-due" }]);
    a1.directs.set(b1.account.id, known);
    a1.commit(
      b1.account.id,
      must(await receive(a1.state(b1.account.id), { payload: await introduced({}), viaInbox: true }, a1.env)),
    );
    expect(a1.direct(b1.account.id)).toEqual(known);
  });

  it("[CV15] prekeys do not get into another account's pair", async () => {
    const strange = newPair(eve.account.id, b1.id);
    a1.pairs.set(b1.id, strange);
    expect(introductionOf(a2.direct(b1.account.id), a2.pairs).bundles).toHaveLength(1);
    const step = must(
      await receive(a1.state(b1.account.id), { payload: await introduced({}), viaInbox: true }, a1.env),
    );
    expect(step.state.pairs.get(b1.id)).toBe(strange);
  });

  it("[CV50, CV51] not of ourselves, of another contact than the state's, with another's list, or from a device that is gone", async () => {
    const refused = async (change: Partial<Introduction>) => refusal(a1, b1, await introduced(change), true);
    expect(await refused({ contact: a1.account.id, devices: a1.list })).toBe("conversation/wrong-contact");
    expect(await refused({ contact: eve.account.id, devices: eve.list })).toBe("conversation/wrong-contact");
    expect(await refused({ devices: eve.list })).toBe("conversation/wrong-contact");
    const forged = { ...b1.keys.certificate, dhKey: eve.keys.certificate.dhKey };
    expect(await refused({ devices: { ...b1.list, certificates: [forged] } })).toBe("identity/bad-certificate");
    a1.list = { ...a1.list, certificates: [a1.keys.certificate] };
    expect(await refused({})).toBe("conversation/unknown-device");
  });
});

describe("what contacts may claim", () => {
  it("[CV38] a receipt for more than was sent counts up to what was sent; strange devices not at all", async () => {
    const { lastIndex } = a1.direct(b1.account.id);
    const devices = [receiptOf(a1.id, [], 5_000), receiptOf("ee".repeat(32) as DeviceId, [1])]
      .map((entry) => ({ ...entry, delivered: 5_000 }))
      .toSorted((x, y) => (x.device < y.device ? -1 : 1));
    const payload = await said(b1, a1, { type: "receipt", devices });
    a1.commit(b1.account.id, must(await receive(a1.state(b1.account.id), { payload, viaInbox: false }, a1.env)));
    const direct = a1.direct(b1.account.id);
    const kept = direct.receipts.find(({ from }) => from === b1.id)!.devices;
    expect(kept.find(({ device }) => device === a1.id)).toMatchObject({ delivered: lastIndex, read: lastIndex });
    expect(kept.some(({ device }) => device === "ee".repeat(32))).toBe(false);
    await a1.say(b1.account.id, "not yet there");
    expect(deliveryOf(a1.direct(b1.account.id), { device: a1.id, index: lastIndex + 1 })).toBe("none");
  });

  it("[CV33] a receipt names devices that can be told, not all that ever wrote", async () => {
    const direct = a1.direct(b1.account.id);
    const strange = Array.from({ length: 40 }, (_, i) =>
      receiptOf(`00${i.toString(16).padStart(62, "0")}` as DeviceId, [1]),
    );
    a1.directs.set(b1.account.id, { ...direct, received: [...strange, ...direct.received] });
    a1.sent.length = 0;
    await a1.receipt(b1.account.id);
    must((await b1.take(a1.sent[0]!))!);
    const told = b1.direct(a1.account.id).receipts.find(({ from }) => from === a1.id)!;
    expect(told.devices.map(({ device }) => device)).toContain(b1.id);
    const step = await receive(a2.state(b1.account.id), { payload: payloadOf(a1.sent[0]), viaInbox: false }, a2.env);
    expect(must(step).effects).toEqual([{ type: "receipted" }]);
    const devices = must(step).state.direct!.receipts.find(({ from }) => from === a1.id)!.devices;
    expect(devices.map(({ device }) => device)).toEqual([b1.id]);
  });

  it("[CV37] endless gaps are refused, and what was taken can be stored", async () => {
    const direct = a1.direct(b1.account.id);
    const first = next(b1, a1) + 2;
    const gaps = Array.from({ length: 4_096 }, (_, i) => first + 2 * i);
    const received = direct.received.map((entry) =>
      entry.device === b1.id
        ? receiptOf(b1.id, [...Array(entry.delivered).keys()].map((i) => i + 1).concat(gaps))
        : entry,
    );
    a1.directs.set(b1.account.id, { ...direct, received });
    const far = eventBy(b1, a1, { index: first + 10_000 });
    expect(await refusal(a1, b1, await sealed(b1, a1, far))).toBe("conversation/too-many-gaps");
  });

  it("[CV76] a root of the last version is refused", async () => {
    const root = { version: 0xffff_ffff, secret: b1.env.random(32), createdAt: b1.env.now };
    expect(await refusal(a1, b1, await said(b1, a1, { type: "rootChange", root }))).toBe("conversation/root-version");
  });

  it("[CV48] a message before the answer waits for it", async () => {
    const [carol] = await makeHousehold("carol", 1, "impatient");
    carol!.env.now = a1.env.now;
    const link = await a1.invite();
    a1.invites = [];
    must(await carol!.redeem(link));
    await a1.take(carol!.sent[0]!);
    const early = await said(carol!, a1);
    expect(await refusal(a1, carol!, early)).toBe("conversation/not-accepted");
    must(await a1.answer(carol!.account.id, "accepted"));
    expect(isReject(await receive(a1.state(carol!.account.id), { payload: early, viaInbox: false }, a1.env))).toBe(
      false,
    );
  });
});
