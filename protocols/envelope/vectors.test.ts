import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { concat, fromHex, toHex } from "#protocols/base/bytes.ts";
import { decode, encode } from "#protocols/base/codec.ts";
import { nobleSuite } from "#protocols/base/noble.ts";
import { isReject, type OrReject } from "#protocols/base/reject.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { inboxKeys } from "#protocols/identity/identity.ts";
import {
  capabilityGrantSchema,
  capabilityRevocationSchema,
  DAY_MS,
  makeDeposit,
  makeGrant,
  makeGrantRevocation,
  openDeposit,
  openEnvelope,
  openRoot,
  PERIOD_MS,
  sealEnvelope,
  topicKeys,
  verifyDeposit,
  verifyEnvelope,
  verifyGrant,
  verifyGrantRevocation,
} from "./envelope.ts";

/**
 * `vitest run -u protocols/envelope` writes the file anew. It must not change while version 1 of the wire lives: bytes that
 * were stored or sent by an older peer have to open.
 */
const FILE = new URL("./vectors/envelope.json", import.meta.url);
const NOW = 1_800_000_000_000;
const HEX = /^[0-9a-f]+$/;

function unhex(text: string): Uint8Array {
  return fromHex(text)!;
}

function filled(length: number, value: number): Uint8Array {
  return new Uint8Array(length).fill(value);
}

function accepted<T>(result: OrReject<T>): T {
  if (isReject(result)) throw new Error(result.code);
  return result;
}

async function rootVectors() {
  const crypto = synchronousSuite();
  const described = [];
  for (const [version, secret, createdAt] of [
    [1, 0x11, NOW],
    [7, 0x22, NOW + 123_456_789],
  ] as const) {
    const chain = openRoot(crypto, { version, secret: filled(32, secret), createdAt });
    const periods = [];
    for (const period of [0, 1, 2, 30].map((after) => chain.period + after)) {
      const { id, seed, sealKey } = await topicKeys(crypto, chain, period);
      periods.push({ period, topic: id, seed: toHex(seed), sealKey: toHex(sealKey) });
    }
    const root = { version, secret: toHex(filled(32, secret)), createdAt };
    described.push({ ...root, rootHash: toHex(chain.rootHash), offset: chain.offset, periods });
  }
  return described;
}

async function envelopeVectors() {
  const crypto = synchronousSuite();
  const chain = openRoot(crypto, { version: 1, secret: filled(32, 0x11), createdAt: NOW });
  const topic = await topicKeys(crypto, chain, chain.period + 1);
  const described = [];
  for (const [kind, lifetime, length, nonce] of [
    ["stored", "day", 0, 1],
    ["stored", "week", 255, 2],
    ["stored", "month", 256, 3],
    ["ephemeral", "day", 40, 4],
  ] as const) {
    const env = { now: NOW, crypto, random: (size: number) => filled(size, nonce) };
    const payload = Uint8Array.from({ length }, (_, i) => i & 0xff);
    const { id, bytes } = await sealEnvelope({ topic, kind, lifetime, payload }, env);
    const input = { seed: toHex(topic.seed), sealKey: toHex(topic.sealKey), now: NOW, kind, lifetime };
    described.push({ ...input, nonce: toHex(filled(12, nonce)), payload: toHex(payload), id, wire: toHex(bytes) });
  }
  return described;
}

async function depositVectors() {
  const crypto = synchronousSuite();
  const keys = await inboxKeys(crypto, filled(32, 0x33));
  const [capabilitySeed, redeemerSeed] = [filled(32, 0x44), filled(32, 0x55)];
  const env = { now: NOW, crypto, random: (size: number) => filled(size, 0x66) };
  const payload = Uint8Array.of(1, 2, 3);
  const inbox = { id: keys.id, sealKey: keys.sealKey };
  const made = accepted(await makeDeposit({ inbox, capabilitySeed, redeemerSeed, lifetime: "month", payload }, env));
  const capability = await crypto.ed25519.publicKey(capabilitySeed);
  const grant = await makeGrant(crypto, keys, { capability, uses: 3, expiresAt: NOW + 7 * DAY_MS });
  const revocation = await makeGrantRevocation(crypto, keys, { capability, now: NOW });
  return {
    accountSecret: toHex(filled(32, 0x33)),
    capabilitySeed: toHex(capabilitySeed),
    redeemerSeed: toHex(redeemerSeed),
    ephemeralSecret: toHex(filled(32, 0x66)),
    now: NOW,
    lifetime: "month",
    payload: toHex(payload),
    id: made.id,
    wire: toHex(made.bytes),
    grant: toHex(encode(capabilityGrantSchema, grant)),
    revocation: toHex(encode(capabilityRevocationSchema, revocation)),
  };
}

/** Wires that every implementation must refuse at `now`, and with which code. */
function rejections(envelope: string, deposit: string) {
  const changed = (text: string, at: number, value: number): string => {
    const bytes = unhex(text);
    bytes[at < 0 ? bytes.length + at : at] = value;
    return toHex(bytes);
  };
  return {
    envelopes: [
      { code: "codec/version", now: NOW, wire: changed(envelope, 1, 2) },
      { code: "codec/trailing-bytes", now: NOW, wire: `${envelope}00` },
      { code: "codec/truncated", now: NOW, wire: envelope.slice(0, -2) },
      { code: "codec/choice", now: NOW, wire: changed(envelope, 41, 9) },
      { code: "envelope/bad-signature", now: NOW, wire: changed(envelope, 100, 0) },
      { code: "envelope/bad-signature", now: NOW, wire: changed(envelope, -1, 0xff) },
      { code: "envelope/expired", now: NOW + 40 * DAY_MS, wire: envelope },
      { code: "envelope/from-the-future", now: NOW - DAY_MS - 1, wire: envelope },
    ],
    deposits: [
      { code: "inbox/bad-capability-signature", now: NOW, wire: changed(deposit, 200, 0) },
      { code: "inbox/bad-redeemer-signature", now: NOW, wire: changed(deposit, -1, 0xff) },
      { code: "inbox/expired", now: NOW + 40 * DAY_MS, wire: deposit },
      { code: "inbox/from-the-future", now: NOW - DAY_MS - 1, wire: deposit },
    ],
  };
}

type Vectors = {
  readonly roots: Awaited<ReturnType<typeof rootVectors>>;
  readonly envelopes: Awaited<ReturnType<typeof envelopeVectors>>;
  readonly deposit: Awaited<ReturnType<typeof depositVectors>>;
  readonly rejected: ReturnType<typeof rejections>;
};

async function published(): Promise<Vectors> {
  return JSON.parse(await readFile(FILE, "utf8")) as Vectors;
}

describe("vectors", () => {
  test("[EN1] [EN6] [EN20] the same inputs give the published bytes", async () => {
    const [roots, envelopes, deposit] = [await rootVectors(), await envelopeVectors(), await depositVectors()];
    const vectors: Vectors = { roots, envelopes, deposit, rejected: rejections(envelopes[0]!.wire, deposit.wire) };
    await expect(`${JSON.stringify(vectors, null, 2)}\n`).toMatchFileSnapshot(FILE.pathname);
  });

  test("[EN1] published roots lead to their topics in another suite", async () => {
    const crypto = nobleSuite();
    for (const { periods, rootHash, offset, ...root } of (await published()).roots) {
      const chain = openRoot(crypto, { ...root, secret: unhex(root.secret) });
      expect([toHex(chain.rootHash), chain.offset]).toEqual([rootHash, offset]);
      expect(chain.period).toBe(Math.floor((root.createdAt + offset) / PERIOD_MS) - 1);
      for (const { period, topic } of periods) expect((await topicKeys(crypto, chain, period)).id).toBe(topic);
    }
  });

  test("[EN13] [EN14] published envelopes verify and open", async () => {
    const crypto = nobleSuite();
    for (const { seed, sealKey, now, payload, id, wire, kind, lifetime } of (await published()).envelopes) {
      const info = accepted(await verifyEnvelope(crypto, unhex(wire), { now }));
      expect(info).toMatchObject({ id, kind, lifetime });
      const topic = { id: info.topic, seed: unhex(seed), sealKey: unhex(sealKey), period: 0 };
      expect(toHex(accepted(await openEnvelope(crypto, topic, unhex(wire))).payload)).toBe(payload);
    }
  });

  test("[EN22] [EN24] [EN25] [EN27] the published deposit, grant and revocation verify and open", async () => {
    const crypto = nobleSuite();
    const { deposit } = await published();
    const keys = await inboxKeys(crypto, unhex(deposit.accountSecret));
    expect(await verifyDeposit(crypto, unhex(deposit.wire), { now: NOW })).toMatchObject({ id: deposit.id });
    expect(toHex(accepted(await openDeposit(crypto, keys, unhex(deposit.wire))).payload)).toBe(deposit.payload);
    const grant = accepted(decode(capabilityGrantSchema, unhex(deposit.grant)));
    expect(await verifyGrant(crypto, grant, { now: NOW })).toEqual(grant);
    const revocation = accepted(decode(capabilityRevocationSchema, unhex(deposit.revocation)));
    expect(await verifyGrantRevocation(crypto, revocation)).toEqual(revocation);
    expect(concat(grant.capability, revocation.capability)).toHaveLength(64);
  });

  test("[EN13] [EN22] what is published as refused is refused with its code", async () => {
    const crypto = nobleSuite();
    const { rejected } = await published();
    expect(rejected.envelopes.length + rejected.deposits.length).toBe(12);
    for (const { code, now, wire } of rejected.envelopes) {
      expect(wire).toMatch(HEX);
      expect(await verifyEnvelope(crypto, unhex(wire), { now })).toEqual({ type: "reject", code });
    }
    for (const { code, now, wire } of rejected.deposits) {
      expect(await verifyDeposit(crypto, unhex(wire), { now })).toEqual({ type: "reject", code });
    }
  });
});
