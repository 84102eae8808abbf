import { describe, expect, it } from "vitest";
import { equalBytes } from "#protocols/base/bytes.ts";
import { decode, encode } from "#protocols/base/codec.ts";
import { isReject, reject } from "#protocols/base/reject.ts";
import { sign } from "#protocols/base/sign.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import { type DeviceCertificate, deviceCertificateSchema } from "#protocols/identity/identity.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import { type BundleFacts, bundleFacts, signBundle } from "./bundle.ts";
import {
  answer,
  bundleOf,
  makeDevice,
  must,
  reseal,
  start,
  type TestDevice,
  twoDevices as devices,
} from "./device-kit.ts";
import {
  decodeBundle,
  encodeBundle,
  INIT_BYTES,
  type PrekeyBundle,
  prekeyBundleSchema,
  prekeyStoreSchema,
  verifyBundle,
} from "./handshake.ts";

const crypto = webCryptoSuite(globalThis.crypto.subtle);
const LONG = process.env["SKEIN_LONG"] === "1";
const twoDevices = (seed: string) => devices(crypto, seed);

function flipped(bytes: Uint8Array, at = 0): Uint8Array {
  return bytes.map((byte, i) => (i === at ? byte ^ 1 : byte));
}

/** `plaintext` with `to` where `from` stood. */
function replaced(plaintext: Uint8Array, from: Uint8Array, to: Uint8Array = new Uint8Array(from.length)): Uint8Array {
  const at = plaintext.findIndex((_, i) => equalBytes(plaintext.subarray(i, i + from.length), from));
  expect(at).toBeGreaterThan(0);
  plaintext.set(to, at);
  return plaintext;
}

describe("bundles", () => {
  it("[HS3] every changed field is found: certificate, prekeys, their kinds, ids and expiries, the whole", async () => {
    const { env, bob } = await twoDevices("bundle");
    const good = await bundleOf(bob, env, { oneTime: true });
    expect(must(await verifyBundle(crypto, good, env))).toBe(good);
    const { signedPrekey, kemPrekey, oneTimePrekey, bundleKey, certificate } = good;
    const whole = "handshake/bad-bundle-signature";
    const bad: [Partial<PrekeyBundle>, string][] = [
      [{ certificate: { ...certificate, dhKey: flipped(certificate.dhKey) } }, "identity/bad-certificate"],
      [{ bundleKey: { ...bundleKey, publicKey: flipped(bundleKey.publicKey) } }, whole],
      [{ bundleKey: { ...bundleKey, id: flipped(bundleKey.id) } }, whole],
      [{ signedPrekey: { ...signedPrekey, publicKey: flipped(signedPrekey.publicKey) } }, whole],
      [{ kemPrekey: { ...kemPrekey, id: flipped(kemPrekey.id) } }, whole],
      [{ oneTimePrekey: { ...oneTimePrekey!, expiresAt: oneTimePrekey!.expiresAt + 1 } }, whole],
      [{ oneTimePrekey: undefined }, "handshake/mixed-one-time"],
      [{ kemPrekey: { ...kemPrekey, kind: "last-resort" } }, "handshake/mixed-one-time"],
      [{ signature: flipped(good.signature) }, whole],
    ];
    for (const [change, code] of bad) {
      expect(await verifyBundle(crypto, { ...good, ...change }, env)).toEqual(reject(code));
    }
  });

  it("[HS2] a prekey signed as another kind, or for another device, is rejected even in a well-signed bundle", async () => {
    const { env, alice, bob } = await twoDevices("kinds");
    const lastResort = await bundleOf(bob, env);
    const oneTime = await bundleOf(bob, env, { oneTime: true });
    // The device itself vouches for the whole, but one prekey's own signature says something else.
    const resigned = async (facts: BundleFacts, prekey: Partial<PrekeyBundle>) => {
      const signed = await signBundle(crypto, bob.keys.signSeed, facts);
      const { signature: _old, ...body } = { ...signed, ...prekey };
      return resignWhole(bob.keys.signSeed, body);
    };
    const kem = { ...oneTime.kemPrekey, signature: lastResort.kemPrekey.signature };
    expect(await verifyBundle(crypto, await resigned(bundleFacts(oneTime), { kemPrekey: kem }), env)).toEqual(
      reject("handshake/bad-prekey-signature"),
    );
    const foreign = await signBundle(crypto, alice.keys.signSeed, bundleFacts(lastResort));
    const mixed = await resigned(bundleFacts(lastResort), { signedPrekey: foreign.signedPrekey });
    expect(await verifyBundle(crypto, mixed, env)).toEqual(reject("handshake/bad-prekey-signature"));
  });

  it("[HS5] is refused from the moment any of its prekeys expires", async () => {
    const { env, bob } = await twoDevices("expired");
    const good = await bundleOf(bob, env, { oneTime: true });
    for (const part of ["signedPrekey", "kemPrekey", "oneTimePrekey"] as const) {
      const soon = { ...good, [part]: { ...good[part], expiresAt: env.now } };
      expect(await verifyBundle(crypto, soon, env)).toEqual(reject("handshake/expired"));
    }
  });

  it("[HS6] keys of small order and of no KEM are refused before anything is sent", async () => {
    const { env, alice, bob } = await twoDevices("small");
    const facts = bundleFacts(await bundleOf(bob, env, { oneTime: true }));
    const zero = new Uint8Array(32);
    const bad: Partial<BundleFacts>[] = [
      { signedPrekey: { ...facts.signedPrekey, publicKey: zero } },
      { oneTimePrekey: { ...facts.oneTimePrekey!, publicKey: zero } },
      { bundleKey: { ...facts.bundleKey, publicKey: zero } },
      { kemPrekey: { ...facts.kemPrekey, publicKey: new Uint8Array(1184).fill(0xff) } },
    ];
    for (const change of bad) {
      const bundle = await signBundle(crypto, bob.keys.signSeed, { ...facts, ...change });
      expect(await start(alice, bundle, env)).toEqual(reject("handshake/bad-key"));
    }
  });

  it("[HS7] a device does not start a session with itself", async () => {
    const { env, alice } = await twoDevices("self");
    expect(await start(alice, await bundleOf(alice, env), env)).toEqual(reject("handshake/self"));
  });

  it("[HS8] is at most 1,736 bytes, and has one encoding", async () => {
    const { env, bob } = await twoDevices("size");
    const bundle = await bundleOf(bob, env, { oneTime: true });
    const raw = encodeBundle(bundle);
    expect(raw.length).toBeLessThanOrEqual(1_736);
    expect(decodeBundle(raw)).toEqual(bundle);
    for (const mutated of mutations([raw], LONG ? 100_000 : 3_000, 11)) {
      const read = decodeBundle(mutated);
      if (isReject(read)) continue;
      expect(equalBytes(encodeBundle(read), mutated)).toBe(true);
    }
  });

  it("[HS3] mutated bundles never verify and never throw", async () => {
    const { env, bob } = await twoDevices("mutated bundle");
    const raw = encodeBundle(await bundleOf(bob, env, { oneTime: true }));
    let parsed = 0;
    for (const mutated of mutations([raw], LONG ? 20_000 : 1_000, 12)) {
      const read = decodeBundle(mutated);
      if (isReject(read) || equalBytes(mutated, raw)) continue;
      parsed++;
      expect(isReject(await verifyBundle(crypto, read, env))).toBe(true);
    }
    expect(parsed).toBeGreaterThan(50);
  });
});

async function plaintextOf(to: TestDevice, init: Uint8Array): Promise<Uint8Array> {
  let inside = new Uint8Array(0);
  await reseal(crypto, to, init, (plaintext) => (inside = plaintext.slice()));
  return inside;
}

const encodeCertificate = (certificate: DeviceCertificate) => encode(deviceCertificateSchema, certificate);

/** A bundle whose whole is signed by its device whatever its parts say. */
async function resignWhole(signSeed: Uint8Array, body: Omit<PrekeyBundle, "signature">): Promise<PrekeyBundle> {
  // The last field of the encoding is the signature: 2 bytes of head and 64; the array head counts one field less.
  const raw = encode(prekeyBundleSchema, { ...body, signature: new Uint8Array(64) }).slice(0, -66);
  raw[0]! -= 1;
  return { ...body, signature: await sign(crypto, "prekeyBundle", signSeed, raw) };
}

describe("initial messages", () => {
  it("[HS23] without the certified key there is no session: a stolen certificate changes nothing", async () => {
    const { env, alice, bob } = await twoDevices("stolen");
    const mallory = await makeDevice(env);
    const bundle = await bundleOf(bob, env, { oneTime: true });
    const posing = { ...mallory, keys: { ...mallory.keys, certificate: alice.keys.certificate } };
    const { init } = must(await start(posing, bundle, env));
    const before = encode(prekeyStoreSchema, bob.store);
    expect(await answer(bob, init, env)).toEqual(reject("handshake/bad-confirmation"));
    expect(encode(prekeyStoreSchema, bob.store)).toEqual(before);
  });

  it("[HS23] any bit changed and sealed again is rejected, with the store unchanged", async () => {
    const { env, alice, bob } = await twoDevices("changed");
    const { init } = must(await start(alice, await bundleOf(bob, env, { oneTime: true }), env));
    const before = encode(prekeyStoreSchema, bob.store);
    const codes = new Set<string>();
    for (let at = 0; at < 1_480; at += LONG ? 1 : 13) {
      const changed = await reseal(crypto, bob, init, (plaintext) => flipped(plaintext, at));
      const result = await answer(bob, changed, env);
      codes.add(isReject(result) ? result.code.replace(/^codec\/.*/, "codec") : `accepted with byte ${at} changed`);
    }
    expect(encode(prekeyStoreSchema, bob.store)).toEqual(before);
    for (const code of ["handshake/bad-confirmation", "handshake/bad-padding", "identity/bad-certificate"]) {
      expect([...codes]).toContain(code);
    }
    expect([...codes].filter((code) => code.startsWith("accepted"))).toEqual([]);
  });

  it("[HS24] prekeys of another generation, or half a one-time pair, are unknown", async () => {
    const { env, alice, bob } = await twoDevices("mixed");
    const oneTime = await bundleOf(bob, env, { oneTime: true });
    const lastResort = await bundleOf(bob, env);
    const { init } = must(await start(alice, oneTime, env));
    const swap = (from: Uint8Array, to: Uint8Array) =>
      reseal(crypto, bob, init, (plaintext) => replaced(plaintext, from, to));
    const unknown = reject("handshake/unknown-prekey");
    expect(await answer(bob, await swap(oneTime.kemPrekey.id, lastResort.kemPrekey.id), env)).toEqual(unknown);
    expect(await answer(bob, await swap(oneTime.oneTimePrekey!.id, env.random(8)), env)).toEqual(unknown);
    expect(await answer(bob, await swap(oneTime.signedPrekey.id, env.random(8)), env)).toEqual(unknown);
    const plain = must(await start(alice, lastResort, env));
    const renamed = await reseal(crypto, bob, plain.init, (plaintext) => replaced(plaintext, lastResort.kemPrekey.id));
    expect(await answer(bob, renamed, env)).toEqual(unknown);
  });

  it("[HS25] wrong lengths, other devices' messages and broken seals", async () => {
    const { env, alice, bob } = await twoDevices("framing");
    const { init } = must(await start(alice, await bundleOf(bob, env), env));
    for (const wrong of [new Uint8Array(0), init.subarray(1), new Uint8Array(INIT_BYTES + 1)]) {
      expect(await answer(bob, wrong, env)).toEqual(reject("handshake/bad-length"));
    }
    expect(await answer(alice, init, env)).toEqual(reject("handshake/unknown-bundle-key"));
    expect(await answer(bob, flipped(init, 0), env)).toEqual(reject("handshake/unknown-bundle-key"));
    expect(await answer(bob, flipped(init, 100), env)).toEqual(reject("handshake/cannot-open"));
    const long = await reseal(crypto, bob, init, (plaintext) => flipped(plaintext, 0).fill(0xff, 0, 2));
    expect(await answer(bob, long, env)).toEqual(reject("handshake/bad-padding"));
    const empty = await reseal(crypto, bob, init, (plaintext) => plaintext.fill(0));
    expect(await answer(bob, empty, env)).toEqual(reject("codec/truncated"));
  });

  it("[HS26] an ephemeral of small order is rejected", async () => {
    const { env, alice, bob } = await twoDevices("ephemeral");
    const bundle = await bundleOf(bob, env);
    let first = true;
    const zeroEphemeral: CryptoSuite = {
      ...crypto,
      x25519: {
        ...crypto.x25519,
        publicKey: async (secret) => {
          const publicKey = first ? new Uint8Array(32) : await crypto.x25519.publicKey(secret);
          first = false;
          return publicKey;
        },
      },
    };
    const { init } = must(await start(alice, bundle, { ...env, crypto: zeroEphemeral }));
    expect(await answer(bob, init, env)).toEqual(reject("handshake/bad-key"));
  });

  it("[HS7] a message from the device itself is rejected", async () => {
    const { env, bob } = await twoDevices("own");
    const twin = { ...bob, keys: { ...bob.keys, certificate: { ...bob.keys.certificate } } };
    const other = await makeDevice(env);
    // Made by a copy of this device that does not notice: its certificate says so only inside the seal.
    const posing = { ...other, keys: { ...twin.keys, certificate: other.keys.certificate } };
    const { init } = must(await start(posing, await bundleOf(bob, env), env));
    const encoded = encodeCertificate(other.keys.certificate);
    const own = encodeCertificate(bob.keys.certificate);
    expect(own.length).toBe(encoded.length);
    const looped = await reseal(crypto, bob, init, (plaintext) => replaced(plaintext, encoded, own));
    expect(await answer(bob, looped, env)).toEqual(reject("handshake/self"));
  });

  it("[HS25] mutated initial messages never throw and never succeed", async () => {
    const { env, alice, bob } = await twoDevices("fuzz");
    const { init } = must(await start(alice, await bundleOf(bob, env, { oneTime: true }), env));
    for (const mutated of mutations([init], LONG ? 100_000 : 1_000, 13)) {
      if (equalBytes(mutated, init)) continue;
      expect(isReject(await answer(bob, mutated, env))).toBe(true);
    }
    // The same inside the seal, where an attacker with the bundle can write.
    for (const mutated of mutations([await plaintextOf(bob, init)], LONG ? 20_000 : 300, 14)) {
      if (mutated.length !== 1_480) continue;
      let same = false;
      const changed = await reseal(crypto, bob, init, (plaintext) => {
        same = equalBytes(plaintext, mutated);
        return mutated;
      });
      expect(isReject(await answer(bob, changed, env))).toBe(!same);
    }
  });

  it("[HS10] mutated stores never throw, and what decodes encodes to the same bytes", async () => {
    const { env, bob } = await twoDevices("fuzz store");
    await bundleOf(bob, env, { oneTime: true });
    await bundleOf(bob, env, { purpose: { invite: "party" } });
    const raw = encode(prekeyStoreSchema, bob.store);
    expect(decode(prekeyStoreSchema, raw)).toEqual(bob.store);
    for (const mutated of mutations([raw], LONG ? 100_000 : 2_000, 15)) {
      const store = decode(prekeyStoreSchema, mutated);
      if (isReject(store)) continue;
      expect(equalBytes(encode(prekeyStoreSchema, store), mutated)).toBe(true);
    }
  });
});
