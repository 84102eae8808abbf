import { beforeAll, describe, expect, test } from "vitest";
import { concat, toHex } from "#protocols/base/bytes.ts";
import { decode, encode } from "#protocols/base/codec.ts";
import { isReject, type OrReject } from "#protocols/base/reject.ts";
import { sign } from "#protocols/base/sign.ts";
import type { Env } from "#protocols/base/suite.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { type InboxKeys, inboxKeys } from "#protocols/identity/identity.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import {
  type CapabilityGrant,
  capabilityGrantSchema,
  type CapabilityRevocation,
  capabilityRevocationSchema,
  type InboxDeposit,
  inboxDepositSchema,
  makeDeposit,
  makeGrant,
  makeGrantRevocation,
  MAX_DEPOSIT_BYTES,
  MAX_GRANT_MS,
  openDeposit,
  verifyDeposit,
  verifyGrant,
  verifyGrantRevocation,
} from "./inbox.ts";
import { DAY_MS, HOUR_MS } from "./lifetime.ts";
import { MAX_PAYLOAD_BYTES } from "./padding.ts";

const LONG = process.env["SKEIN_LONG"] === "1";
const crypto = synchronousSuite();
const NOW = 1_800_000_000_000;
const capabilitySeed = new Uint8Array(32).fill(1);
const redeemerSeed = new Uint8Array(32).fill(2);
const strangerSeed = new Uint8Array(32).fill(3);

let count = 0;
const env: Env = {
  now: NOW,
  crypto,
  random: (length) => crypto.hkdf({ ikm: Uint8Array.of(5), info: Uint8Array.of(count++), length }),
};

function code(result: OrReject<unknown>): string {
  return isReject(result) ? result.code : "accepted";
}

let keys: InboxKeys;
let otherKeys: InboxKeys;
let good: Uint8Array;
let grant: CapabilityGrant;
let revocation: CapabilityRevocation;

async function deposit(payload: Uint8Array, sealKey = keys.sealKey) {
  return makeDeposit(
    { inbox: { id: keys.id, sealKey }, capabilitySeed, redeemerSeed, lifetime: "month", payload },
    env,
  );
}

beforeAll(async () => {
  keys = await inboxKeys(crypto, new Uint8Array(32).fill(9));
  otherKeys = await inboxKeys(crypto, new Uint8Array(32).fill(8));
  const made = await deposit(Uint8Array.of(1, 2, 3));
  if (isReject(made)) throw new Error(made.code);
  good = made.bytes;
  const capability = await crypto.ed25519.publicKey(capabilitySeed);
  grant = await makeGrant(crypto, keys, { capability, uses: 2, expiresAt: NOW + DAY_MS });
  revocation = await makeGrantRevocation(crypto, keys, { capability, now: NOW });
});

/** Changes fields and signs anew with the given seeds. */
async function forge(change: Partial<InboxDeposit>, by = { capability: capabilitySeed, redeemer: redeemerSeed }) {
  const fields = { ...(decode(inboxDepositSchema, good) as InboxDeposit), ...change };
  const wire = encode(inboxDepositSchema, fields);
  const hash = crypto.sha256(wire.subarray(0, -132));
  return encode(inboxDepositSchema, {
    ...fields,
    capabilitySignature: await sign(crypto, "inboxDeposit", by.capability, hash),
    redeemerSignature: await sign(crypto, "inboxRedeemer", by.redeemer, hash),
  });
}

function verified(wire: Uint8Array, now = NOW) {
  return verifyDeposit(crypto, wire, { now });
}

describe("inbox deposits", () => {
  test("[EN20] what is left for an inbox opens with its keys, and with no others", async () => {
    const info = await verified(good);
    expect(info).toEqual({
      id: toHex(crypto.sha256(good.subarray(0, -132))),
      inbox: keys.id,
      capability: toHex(await crypto.ed25519.publicKey(capabilitySeed)),
      redeemer: toHex(await crypto.ed25519.publicKey(redeemerSeed)),
      hour: 500_000,
      lifetime: "month",
      size: good.length,
      expiresAt: 500_001 * HOUR_MS + 30 * DAY_MS,
    });
    expect(await openDeposit(crypto, keys, good)).toEqual({ info, payload: Uint8Array.of(1, 2, 3) });
    expect(code(await openDeposit(crypto, otherKeys, good))).toBe("inbox/wrong-inbox");
    expect(code(await openDeposit(crypto, { ...otherKeys, id: keys.id }, good))).toBe("inbox/bad-seal");
  });

  test("[EN20] the largest deposit is just within the limit", async () => {
    const made = await deposit(new Uint8Array(MAX_PAYLOAD_BYTES).fill(7));
    if (isReject(made)) throw new Error(made.code);
    expect(made.bytes.length).toBe(MAX_DEPOSIT_BYTES);
    expect(code(await verified(made.bytes))).toBe("accepted");
    expect(code(await verified(concat(made.bytes, Uint8Array.of(0))))).toBe("inbox/too-large");
    await expect(deposit(new Uint8Array(MAX_PAYLOAD_BYTES + 1))).rejects.toThrow("payload fits");
  });

  test("[EN20] an inbox with a small-order seal key gets nothing", async () => {
    expect(code(await deposit(new Uint8Array(1), new Uint8Array(32)))).toBe("inbox/bad-key");
  });

  test("[EN21] without the invite's capability there is no deposit", async () => {
    const wire = await forge({}, { capability: strangerSeed, redeemer: redeemerSeed });
    expect(code(await verified(wire))).toBe("inbox/bad-capability-signature");
  });

  test("[EN22] a changed seal, hour or inbox breaks the signatures; signed anew, it breaks the seal", async () => {
    const changes: Partial<InboxDeposit>[] = [{ hour: 499_999 }, { lifetime: "day" }];
    for (const change of changes) {
      const fields = { ...(decode(inboxDepositSchema, good) as InboxDeposit), ...change };
      expect(code(await verified(encode(inboxDepositSchema, fields)))).toBe("inbox/bad-capability-signature");
      const wire = await forge(change);
      expect(code(await verified(wire))).toBe("accepted");
      expect(code(await openDeposit(crypto, keys, wire))).toBe("inbox/bad-seal");
    }
    const moved = await forge({ inbox: otherKeys.id });
    expect(code(await openDeposit(crypto, { ...keys, id: otherKeys.id }, moved))).toBe("inbox/bad-seal");
  });

  test("[EN22] time and padding are checked as for envelopes", async () => {
    expect(code(await verified(good, NOW - DAY_MS - HOUR_MS))).toBe("inbox/from-the-future");
    expect(code(await verified(good, NOW + 31 * DAY_MS))).toBe("inbox/expired");
    expect(code(await verified(await forge({ sealed: new Uint8Array(48 + 257) })))).toBe("inbox/not-padded");
  });

  test("[EN23] nobody redeems under another's redeemer key", async () => {
    const wire = await forge({}, { capability: capabilitySeed, redeemer: strangerSeed });
    expect(code(await verified(wire))).toBe("inbox/bad-redeemer-signature");
    const stolen = await forge({ redeemer: await crypto.ed25519.publicKey(strangerSeed) });
    expect(code(await verified(stolen))).toBe("inbox/bad-redeemer-signature");
  });

  test("[EN25] a sealed part with bad padding is refused by its reader", async () => {
    const { hpkeSeal } = await import("#protocols/base/hpke.ts");
    const fields = decode(inboxDepositSchema, good) as InboxDeposit;
    const clear = encode(inboxDepositSchema, fields);
    // The associated data is the clear fields as a six-field array: the same bytes under another head.
    const clearLength = clear.length - 132 - 3 - fields.sealed.length;
    const associatedData = concat(Uint8Array.of(0x86), clear.subarray(1, clearLength));
    const sealed = await hpkeSeal(crypto, {
      publicKey: keys.sealKey,
      info: new TextEncoder().encode("skein/1/inbox-deposit"),
      associatedData,
      plaintext: new Uint8Array(256),
      ephemeralSecret: env.random(32),
    });
    const wire = await forge({ sealed: sealed! });
    expect(code(await verified(wire))).toBe("accepted");
    expect(code(await openDeposit(crypto, keys, wire))).toBe("inbox/bad-padding");
  });

  test("[EN22] no mutated deposit is accepted, none throws", async () => {
    for (const mutant of mutations([good], LONG ? 100_000 : 1_000, 12)) {
      if (toHex(mutant) === toHex(good)) continue;
      expect(isReject(await verified(mutant))).toBe(true);
      const opened = await openDeposit(crypto, keys, mutant);
      const onlySignatures = toHex(mutant.subarray(0, -132)) === toHex(good.subarray(0, -132));
      expect(isReject(opened) || onlySignatures).toBe(true);
    }
  });
});

describe("grants", () => {
  function granted(change: Partial<CapabilityGrant>, now = NOW) {
    return verifyGrant(crypto, { ...grant, ...change }, { now });
  }

  async function signedGrant(uses: number, expiresAt: number) {
    return makeGrant(crypto, keys, { capability: grant.capability, uses, expiresAt });
  }

  test("[EN24] a grant holds for its inbox, capability, uses and time", async () => {
    expect(await granted({})).toEqual(grant);
    expect(code(await granted({ uses: 3 }))).toBe("inbox/bad-grant-signature");
    expect(code(await granted({ expiresAt: NOW + 2 * DAY_MS }))).toBe("inbox/bad-grant-signature");
    expect(code(await granted({ inbox: otherKeys.id }))).toBe("inbox/bad-grant-signature");
    expect(code(await granted({ capability: new Uint8Array(32) }))).toBe("inbox/bad-grant-signature");
    expect(code(await granted({}, NOW + DAY_MS))).toBe("inbox/grant-expired");
    expect(code(await granted({ uses: 0 }))).toBe("inbox/no-uses");
    const long = await signedGrant(1, NOW + MAX_GRANT_MS + 1);
    expect(code(await verifyGrant(crypto, long, { now: NOW }))).toBe("inbox/grant-too-long");
    await expect(signedGrant(0, NOW + 1)).rejects.toThrow("at least one use");
  });

  test("[EN27] only the owner revokes, and a revocation is no grant", async () => {
    expect(await verifyGrantRevocation(crypto, revocation)).toEqual(revocation);
    const forged = { ...revocation, inbox: otherKeys.id };
    expect(code(await verifyGrantRevocation(crypto, forged))).toBe("inbox/bad-revocation-signature");
    expect(code(await granted({ signature: revocation.signature }))).toBe("inbox/bad-grant-signature");
    const crossed = { ...revocation, signature: grant.signature };
    expect(code(await verifyGrantRevocation(crypto, crossed))).toBe("inbox/bad-revocation-signature");
  });

  test("[EN24] no mutated grant or revocation is accepted, none throws", async () => {
    const seeds = [encode(capabilityGrantSchema, grant), encode(capabilityRevocationSchema, revocation)];
    const originals = new Set(seeds.map(toHex));
    for (const mutant of mutations(seeds, LONG ? 100_000 : 1_000, 13)) {
      if (originals.has(toHex(mutant))) continue;
      const asGrant = decode(capabilityGrantSchema, mutant);
      const asRevocation = decode(capabilityRevocationSchema, mutant);
      expect(isReject(asGrant) || isReject(await verifyGrant(crypto, asGrant, { now: NOW }))).toBe(true);
      expect(isReject(asRevocation) || isReject(await verifyGrantRevocation(crypto, asRevocation))).toBe(true);
    }
  });
});
