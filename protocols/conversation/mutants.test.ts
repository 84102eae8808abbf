/** Payloads and links in which something was changed: refused, and nothing moves. */
import { beforeEach, describe, expect, it } from "vitest";
import { equalBytes, toHex, utf8 } from "#protocols/base/bytes.ts";
import { encode } from "#protocols/base/codec.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import type { Body } from "#protocols/content/content.ts";
import { seededRandom } from "#protocols/handshake/device-kit.ts";
import { revokeDevice } from "#protocols/identity/identity.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import { receive } from "./direct.ts";
import { codeOf, crypto, type Device, makeDevice, makeHousehold, must, type Packet } from "./households.fixture.ts";
import { fittingBundles } from "./introduction.ts";
import { decodeInvite, MAX_INVITE_LIFETIME_MS } from "./invite.ts";
import { decodePayload, type DirectPayload, directPayloadSchema } from "./message.ts";
import { talkingHouseholds } from "./village.fixture.ts";

const MUTANTS = process.env["SKEIN_LONG"] ? 100_000 : 4_000;

const talking = await talkingHouseholds();
let a1: Device;
let a2: Device;
let b1: Device;

beforeEach(() => {
  [a1, a2, b1] = talking.map((device) => device.clone(seededRandom(crypto, `attack ${device.name}`))) as [
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

describe("mutants", () => {
  it("[CV31] a changed payload is refused, whatever was changed, and changes nothing", async () => {
    const raw: Uint8Array[] = [];
    for (const text of ["one", "two"]) raw.push(encode(directPayloadSchema, await said(b1, a1, text)));
    const contact = b1.account.id;
    const state = a1.state(contact);
    const before = a1.snapshot(contact);
    let parsed = 0;
    let opened = 0;
    for (const mutant of mutations(raw, MUTANTS, 7)) {
      const payload = decodePayload(mutant);
      if (isReject(payload)) continue;
      parsed++;
      expect(toHex(encode(directPayloadSchema, payload))).toBe(toHex(mutant));
      const result = await receive(state, { payload, viaInbox: false }, a1.env);
      if (isReject(result)) continue;
      opened++;
      // The random wraps and other recipients' are not ours to judge; the event is the one that was written.
      const record = result.effects.find((effect) => effect.type === "record");
      expect(raw.some((good) => must(decodePayload(good)).event === record?.id)).toBe(true);
    }
    expect(parsed).toBeGreaterThan(MUTANTS / 20);
    expect(opened).toBeGreaterThan(0);
    expect(a1.snapshot(contact)).toBe(before);
  });

  it("[CV31] so is a changed first message", async () => {
    const [carol] = await makeHousehold("carol", 1, "mutant");
    carol!.env.now = a1.env.now;
    must(await carol!.redeem(await a1.invite()));
    const raw = carol!.sent[0]!.payload;
    const state = a1.state(carol!.account.id);
    let opened = 0;
    for (const mutant of mutations([raw], MUTANTS / 20, 8)) {
      const payload = decodePayload(mutant);
      if (isReject(payload)) continue;
      const result = await receive(state, { payload, viaInbox: true }, a1.env);
      if (!isReject(result)) opened++;
    }
    expect(opened).toBeLessThan(MUTANTS / 40);
  });

  it("[CV60] an account with a hundred listed devices still makes a link that can be read", async () => {
    const certificates = [...a1.list.certificates];
    const revocations = [];
    for (let i = 0; certificates.length < 100; i++) {
      const { keys } = await makeDevice("old", a1.account, seededRandom(crypto, `old ${i}`));
      const { device } = keys.certificate;
      certificates.push(keys.certificate);
      revocations.push(
        await revokeDevice(crypto, { rootSeed: a1.account.rootSeed, device, lastSequence: 9, revokedAt: 1 }),
      );
    }
    const ascending = (x: { device: string }, y: { device: string }) => (x.device < y.device ? -1 : 1);
    a1.list = {
      ...a1.list,
      certificates: certificates.toSorted(ascending),
      revocations: revocations.toSorted(ascending),
    };
    const invite = must(await decodeInvite(crypto, await a1.invite(), a1.env.now));
    expect(invite.list.certificates).toHaveLength(2);
    const bundles = Array.from({ length: 8 }, () => invite.bundle);
    const fitting = fittingBundles(a1.list, bundles).length;
    expect(fitting).toBeGreaterThan(0);
    expect(fitting).toBeLessThan(8);
    expect(fittingBundles(b1.list, bundles)).toHaveLength(8);
    // And its request still fits an event, with fewer bundles than it has (CV25).
    const [carol] = await makeHousehold("carol", 1, "long list");
    carol!.env.now = a1.env.now;
    must(await a1.redeem(await carol!.invite()));
    must((await carol!.take(a1.sent[0]!))!);
    expect(carol!.relation(a1.account.id)).toBe("accepted");
  });

  it("[CV61] a link for a device that its list does not hold is a bad link", async () => {
    const link = await a1.invite({ change: { list: { ...a1.list, certificates: [a2.keys.certificate] } } });
    expect(codeOf(await decodeInvite(crypto, link, a1.env.now))).toBe("invite/bad-link");
  });

  it("[CV61] a link whose bundle was not made by its device is a bad link, whoever signed it", async () => {
    const { bundle } = must(await decodeInvite(crypto, await a1.invite(), a1.env.now));
    const changed = bundle.slice();
    changed[changed.length - 1]! ^= 1;
    const link = await a1.invite({ change: { bundle: changed } });
    expect(codeOf(await decodeInvite(crypto, link, a1.env.now))).toBe("invite/bad-link");
  });

  it("[CV62] an old link has expired, and says so", async () => {
    const link = await a1.invite();
    expect(codeOf(await decodeInvite(crypto, link, a1.env.now + MAX_INVITE_LIFETIME_MS))).toBe("invite/expired");
    expect(isReject(await decodeInvite(crypto, link, a1.env.now + MAX_INVITE_LIFETIME_MS - 1))).toBe(false);
    expect(codeOf(await a1.redeem(link))).toBe("invite/own");
  });

  it("[CV61] a changed link is a bad link", async () => {
    const link = await a1.invite();
    for (const mutant of mutations([utf8(link)], MUTANTS, 9)) {
      const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(mutant);
      if (text.slice(text.indexOf("#") + 1).trim() === link.slice(link.indexOf("#") + 1)) continue;
      expect(codeOf(await decodeInvite(crypto, text, a1.env.now))).toBe("invite/bad-link");
    }
  });

  it("[CV61] so is one whose inside was changed", async () => {
    const link = await a1.invite();
    const inner = Uint8Array.from(Buffer.from(link.slice(link.indexOf("#") + 1), "base64url"));
    for (const mutant of mutations([inner], MUTANTS / 4, 10)) {
      if (equalBytes(mutant, inner)) continue;
      const text = `skein:invite#${Buffer.from(mutant).toString("base64url")}`;
      expect(codeOf(await decodeInvite(crypto, text, a1.env.now))).toBe("invite/bad-link");
    }
  });

  it("[CV61] a link whose end was moved into the past is bad, and not told to have expired", async () => {
    const link = await a1.invite();
    const inner = Uint8Array.from(Buffer.from(link.slice(link.indexOf("#") + 1), "base64url"));
    // The end is the invite's last field, eight bytes; a signature of 66 bytes with its head follows.
    const last = inner.length - 66;
    expect(inner[last - 9]).toBe(0x1b);
    inner.set([0, 0, 0, 1, 0, 0, 0, 0], last - 8);
    const text = `skein:invite#${Buffer.from(inner).toString("base64url")}`;
    expect(codeOf(await decodeInvite(crypto, text, a1.env.now))).toBe("invite/bad-link");
  });
});
