import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { concat, fromHex, toHex } from "#protocols/base/bytes.ts";
import { bytes, choice, decode, encode, id, type Infer, literal, struct, uint } from "#protocols/base/codec.ts";
import type { TopicId } from "#protocols/base/ids.ts";
import { isReject, type OrReject } from "#protocols/base/reject.ts";
import { sign } from "#protocols/base/sign.ts";
import type { Env } from "#protocols/base/suite.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import {
  DAY_MS,
  type EnvelopeKind,
  HOUR_MS,
  inspectEnvelope,
  type Lifetime,
  LIFETIME_MS,
  MAX_ENVELOPE_BYTES,
  MAX_PAYLOAD_BYTES,
  openEnvelope,
  openRoot,
  sealEnvelope,
  type TopicKeys,
  topicKeys,
  verifyEnvelope,
} from "./envelope.ts";
import { pad, unpad } from "./padding.ts";

const LONG = process.env["SKEIN_LONG"] === "1";
const crypto = synchronousSuite();
const NOW = 1_800_000_000_000 + 17 * 60_000;

/** The wire written down a second time, so that tests can forge it. */
const wireSchema = struct({
  version: literal(1),
  topic: id<TopicId>(),
  hour: uint(),
  lifetime: choice({ day: 1, week: 2, month: 3 }),
  kind: choice({ stored: 1, ephemeral: 2 }),
  sealed: bytes({ max: 100_000 }),
  signature: bytes(64),
});
type Wire = Infer<typeof wireSchema>;

function environment(seed: number, now = NOW): Env {
  let count = 0;
  const random = (length: number) => crypto.hkdf({ ikm: Uint8Array.of(seed), info: Uint8Array.of(count++), length });
  return { now, random, crypto };
}

function code(result: OrReject<unknown>): string {
  return isReject(result) ? result.code : "accepted";
}

let topic: TopicKeys;
let otherTopic: TopicKeys;
let good: Uint8Array;

beforeAll(async () => {
  const chain = openRoot(crypto, { version: 1, secret: new Uint8Array(32).fill(7), createdAt: NOW });
  topic = await topicKeys(crypto, chain, chain.period + 1);
  otherTopic = await topicKeys(crypto, chain, chain.period + 2);
  good = await seal(Uint8Array.of(1, 2, 3));
});

async function seal(payload: Uint8Array, options: { kind?: EnvelopeKind; lifetime?: Lifetime; env?: Env } = {}) {
  const { kind = "stored", lifetime = "week", env = environment(1) } = options;
  return (await sealEnvelope({ topic, kind, lifetime, payload }, env)).bytes;
}

/** Changes fields and signs anew with `signer`: what a member, or an outsider with a key of his own, could make. */
async function forge(change: Partial<Wire>, signer: TopicKeys = topic): Promise<Uint8Array> {
  const wire = encode(wireSchema, { ...(decode(wireSchema, good) as Wire), ...change });
  const hash = crypto.sha256(wire.subarray(0, -64));
  wire.set(await sign(crypto, "envelope", signer.seed, hash), wire.length - 64);
  return wire;
}

function verified(wire: Uint8Array, now = NOW) {
  return verifyEnvelope(crypto, wire, { now });
}

describe("envelopes", () => {
  test("[EN6] what is sealed for a topic opens with its keys", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 2_000 }),
        fc.constantFrom<EnvelopeKind>("stored", "ephemeral"),
        fc.constantFrom<Lifetime>("day", "week", "month"),
        async (payload, kind, lifetime) => {
          const wire = await seal(payload, { kind, lifetime });
          const info = await verified(wire);
          expect(info).toMatchObject({ topic: topic.id, kind, lifetime, hour: 500_000, size: wire.length });
          expect(await openEnvelope(crypto, topic, wire)).toEqual({ info, payload });
          expect(inspectEnvelope(crypto, wire)).toEqual(info);
        },
      ),
      { numRuns: 30 },
    );
  });

  test("[EN7] the lifetime counts from the end of the hour", async () => {
    for (const lifetime of ["day", "week", "month"] as const) {
      const wire = await seal(new Uint8Array(0), { lifetime });
      const end = 500_001 * HOUR_MS + LIFETIME_MS[lifetime];
      expect(await verified(wire, end - 1)).toMatchObject({ expiresAt: end });
      expect(code(await verified(wire, end))).toBe("envelope/expired");
    }
  });

  test("[EN8] an hour more than a day ahead is refused", async () => {
    const hour = 500_000 + 24;
    expect(code(await verified(await forge({ hour }), 500_000 * HOUR_MS))).toBe("accepted");
    expect(code(await verified(await forge({ hour }), 500_000 * HOUR_MS - 1))).toBe("envelope/from-the-future");
    expect(code(await verified(good, NOW - DAY_MS - HOUR_MS))).toBe("envelope/from-the-future");
  });

  test("[EN9] even a member cannot move a seal under other clear fields", async () => {
    const changes: Partial<Wire>[] = [{ hour: 499_999 }, { lifetime: "month" }, { kind: "ephemeral" }];
    for (const change of changes) {
      const wire = await forge(change);
      expect(code(await verified(wire))).toBe("accepted");
      expect(code(await openEnvelope(crypto, topic, wire))).toBe("envelope/bad-seal");
    }
    const moved = await forge({ topic: otherTopic.id }, otherTopic);
    expect(code(await verified(moved))).toBe("accepted");
    expect(code(await openEnvelope(crypto, otherTopic, moved))).toBe("envelope/bad-seal");
    expect(code(await openEnvelope(crypto, { ...topic, id: otherTopic.id }, moved))).toBe("envelope/bad-seal");
  });

  test("[EN10] nine sizes, the largest just within the limit", async () => {
    const sizes = new Set<number>();
    for (let length = 0; length <= MAX_PAYLOAD_BYTES; length = length * 2 + 1) {
      const payload = new Uint8Array(length).fill(0x80);
      const wire = await seal(payload);
      sizes.add(wire.length);
      expect(await openEnvelope(crypto, topic, wire)).toMatchObject({ payload });
    }
    expect([...sizes]).toEqual([396, 652, 1_164, 2_188, 4_236, 8_332, 16_524, 32_908, MAX_ENVELOPE_BYTES]);
    await expect(seal(new Uint8Array(MAX_PAYLOAD_BYTES + 1))).rejects.toThrow("payload fits");
  });

  test("[EN10] padding has one form", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 1_100 }), (payload) => {
        const padded = pad(payload);
        expect(unpad(padded, "bad")).toEqual(payload);
        expect(code(unpad(concat(padded, new Uint8Array(padded.length)), "bad"))).toBe("bad");
      }),
    );
    const markless = new Uint8Array(256);
    expect(code(unpad(markless, "bad"))).toBe("bad");
    expect(code(unpad(markless.fill(1), "bad"))).toBe("bad");
  });

  test("[EN10] a sealed part that is no bucket is refused before any signature is checked", async () => {
    expect(code(await verified(await forge({ sealed: new Uint8Array(28 + 300) })))).toBe("envelope/not-padded");
  });

  test("[EN10] a member's bad padding is refused", async () => {
    const head = {
      version: 1 as const,
      topic: topic.id,
      hour: 500_000,
      lifetime: "week" as const,
      kind: "stored" as const,
    };
    const { sealed: _, signature: __, ...fields } = decode(wireSchema, good) as Wire;
    expect(fields).toEqual(head);
    const headSchema = struct({
      version: literal(1),
      topic: id<TopicId>(),
      hour: uint(),
      lifetime: choice({ week: 2 }),
      kind: choice({ stored: 1 }),
    });
    const nonce = new Uint8Array(12);
    const associatedData = encode(headSchema, head);
    const data = new Uint8Array(256);
    const ciphertext = await crypto.chacha20poly1305.seal({ key: topic.sealKey, nonce, data, associatedData });
    const wire = await forge({ sealed: concat(nonce, ciphertext) });
    expect(code(await verified(wire))).toBe("accepted");
    expect(code(await openEnvelope(crypto, topic, wire))).toBe("envelope/bad-padding");
  });

  test("[EN11] the same payload sealed twice has nothing in common", async () => {
    const payload = new Uint8Array(100);
    const [first, second] = [
      await seal(payload, { env: environment(2) }),
      await seal(payload, { env: environment(3) }),
    ];
    const sealedOf = (wire: Uint8Array) => (decode(wireSchema, wire) as Wire).sealed;
    expect(toHex(sealedOf(first)).slice(0, 24)).not.toBe(toHex(sealedOf(second)).slice(0, 24));
    expect(toHex(sealedOf(first)).slice(24)).not.toBe(toHex(sealedOf(second)).slice(24));
  });

  test("[EN12] the id is the hash of everything but the signature", async () => {
    const { id: envelopeId, bytes: wire } = await sealEnvelope(
      { topic, kind: "stored", lifetime: "day", payload: new Uint8Array(9) },
      environment(4),
    );
    expect(envelopeId).toBe(toHex(crypto.sha256(wire.subarray(0, -64))));
    expect(inspectEnvelope(crypto, wire)).toMatchObject({ id: envelopeId });
  });

  test("[EN13] an outsider's signature, a flipped one and another context are refused", async () => {
    expect(code(await verified(await forge({}, otherTopic)))).toBe("envelope/bad-signature");
    const flipped = good.slice();
    flipped[flipped.length - 1]! ^= 1;
    expect(code(await verified(flipped))).toBe("envelope/bad-signature");
    const proof = good.slice();
    proof.set(await sign(crypto, "topicProof", topic.seed, crypto.sha256(good.subarray(0, -64))), proof.length - 64);
    expect(code(await verified(proof))).toBe("envelope/bad-signature");
  });

  test("[EN13] a small-order topic key signs nothing", async () => {
    const wire = encode(wireSchema, {
      ...(decode(wireSchema, good) as Wire),
      topic: toHex(concat(Uint8Array.of(1), new Uint8Array(31))) as TopicId,
      signature: concat(Uint8Array.of(1), new Uint8Array(63)),
    });
    expect(code(await verified(wire))).toBe("envelope/bad-signature");
  });

  test("[EN13] size comes before parsing, form before time, time before the signature", async () => {
    expect(code(await verified(new Uint8Array(MAX_ENVELOPE_BYTES + 1)))).toBe("envelope/too-large");
    expect(code(await verified(new Uint8Array(MAX_ENVELOPE_BYTES)))).toBe("codec/wrong-type");
    expect(code(await verified(await forge({ hour: 1 }, otherTopic)))).toBe("envelope/expired");
    expect(code(await verified(concat(good, Uint8Array.of(0))))).toBe("codec/trailing-bytes");
  });

  test("[EN14] keys of another period open nothing", async () => {
    expect(code(await openEnvelope(crypto, otherTopic, good))).toBe("envelope/wrong-topic");
    expect(code(await openEnvelope(crypto, { ...topic, sealKey: otherTopic.sealKey }, good))).toBe("envelope/bad-seal");
    expect(code(await openEnvelope(crypto, topic, good.subarray(1)))).toBe("codec/wrong-type");
  });

  test("[EN13] no mutated envelope is accepted, none throws", async () => {
    const seeds = [good, await seal(new Uint8Array(600), { kind: "ephemeral", lifetime: "month" })];
    const originals = new Set(seeds.map(toHex));
    for (const mutant of mutations(seeds, LONG ? 100_000 : 1_500, 11)) {
      if (originals.has(toHex(mutant))) continue;
      expect(isReject(await verified(mutant))).toBe(true);
      expect(isReject(await openEnvelope(crypto, topic, mutant)) || (await signatureAlone(mutant, seeds))).toBe(true);
    }
  });

  /** The seal does not cover the signature: an envelope with nothing but that changed still opens. */
  async function signatureAlone(mutant: Uint8Array, seeds: readonly Uint8Array[]): Promise<boolean> {
    return seeds.some((seed) => toHex(seed.subarray(0, -64)) === toHex(mutant.subarray(0, -64)));
  }

  test("[EN6] the topic's id is its public key", async () => {
    expect(toHex(await crypto.ed25519.publicKey(topic.seed))).toBe(topic.id);
    expect(fromHex(topic.id)).toHaveLength(32);
  });
});
