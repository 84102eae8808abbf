import { describe, expect, it } from "vitest";
import { equalBytes, toHex } from "#protocols/base/bytes.ts";
import { decode, encode } from "#protocols/base/codec.ts";
import { isReject, reject } from "#protocols/base/reject.ts";
import { nobleSuite } from "#protocols/base/noble.ts";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import { answer, bundleOf, makeDevice, must, reseal, start, testEnv, twoDevices as devices } from "./device-kit.ts";
import {
  dropInvite,
  INIT_BYTES,
  initHint,
  makeBundle,
  oneTimeRemaining,
  prekeyStoreSchema,
  type Purpose,
  rotate,
  rotationDue,
  verifyBundle,
} from "./handshake.ts";
import {
  MAX_INVITES,
  MAX_ONE_TIME,
  MAX_ONE_TIME_USES,
  MAX_SEEN,
  PREKEY_LIFETIME_MS,
  RETENTION_MS,
  ROTATION_MS,
} from "./prekeys.ts";

const crypto = webCryptoSuite(globalThis.crypto.subtle);
const INVITE: Purpose = { invite: "party" };
const twoDevices = (seed: string) => devices(crypto, seed);

describe("agreement", () => {
  it.each([
    ["directory", false],
    ["directory", true],
    ["invite", false],
    ["invite", true],
  ] as const)("[HS21] both sides have the same seed: %s, one-time %s", async (kind, oneTime) => {
    const { env, alice, bob } = await twoDevices(`agree ${kind} ${oneTime}`);
    const purpose = kind === "invite" ? INVITE : "directory";
    const bundle = await bundleOf(bob, env, { purpose, oneTime });
    expect(bundle.kemPrekey.kind).toBe(oneTime ? "one-time" : "last-resort");
    const started = must(await start(alice, bundle, env));
    expect(started.init.length).toBe(INIT_BYTES);
    expect(initHint(bob.store, started.init)).toBe(true);
    expect(initHint(alice.store, started.init)).toBe(false);
    const answered = must(await answer(bob, started.init, env));
    for (const part of ["secret", "associatedData", "handshakeHash"] as const) {
      expect(toHex(answered.seed[part])).toBe(toHex(started.seed[part]));
    }
    expect(started.seed.ratchetKey).toEqual(bundle.signedPrekey.publicKey);
    expect(answered.seed.ratchetKey).toMatchObject({ publicKey: bundle.signedPrekey.publicKey });
    expect(answered.remote).toEqual(alice.keys.certificate);
    expect(answered.remoteListHash).toEqual(alice.listHash);
    expect(answered.localListHash).toEqual(new Uint8Array(32).fill(7));
    expect(answered.invite).toBe(kind === "invite" ? "party" : undefined);
    expect(answered.repeated).toBe(false);
  });

  it("[HS3] suites agree: initiator on noble, responder on WebCrypto", async () => {
    const { env, alice, bob } = await twoDevices("suites");
    const bundle = await bundleOf(bob, env, { oneTime: true });
    const started = must(await start(alice, bundle, { ...env, crypto: nobleSuite() }));
    const answered = must(await answer(bob, started.init, env));
    expect(answered.seed.secret).toEqual(started.seed.secret);
  });

  it("[HS20] each of the things agreed on makes other keys", async () => {
    const { env, alice, bob } = await twoDevices("binding");
    const carol = await makeDevice(env);
    const bundle = await bundleOf(bob, env);
    const seeds = [
      must(await start(alice, bundle, testEnv(crypto, "same"))),
      must(await start(alice, bundle, testEnv(crypto, "same"), new Uint8Array(32))),
      must(await start({ ...alice, listHash: new Uint8Array(32) }, bundle, testEnv(crypto, "same"))),
      must(await start(carol, bundle, testEnv(crypto, "same"))),
      must(await start(alice, bundle, testEnv(crypto, "other"))),
      must(await start(alice, await bundleOf(bob, env, { oneTime: true }), testEnv(crypto, "same"))),
      must(await start(alice, await bundleOf(bob, env, { purpose: INVITE }), testEnv(crypto, "same"))),
    ].map(({ seed }) => seed);
    for (const part of ["secret", "associatedData", "handshakeHash"] as const) {
      expect(new Set(seeds.map((seed) => toHex(seed[part]))).size).toBe(seeds.length);
    }
  });

  it("[HS18] both start at once: two sessions, the same two on both sides", async () => {
    const { env, alice, bob } = await twoDevices("both");
    const fromAlice = must(await start(alice, await bundleOf(bob, env), env));
    const fromBob = must(await start(bob, await bundleOf(alice, env), env));
    const atBob = must(await answer(bob, fromAlice.init, env));
    const atAlice = must(await answer(alice, fromBob.init, env));
    const hashes = (...seeds: { handshakeHash: Uint8Array }[]) =>
      seeds.map((seed) => toHex(seed.handshakeHash)).toSorted();
    expect(hashes(fromAlice.seed, atAlice.seed)).toEqual(hashes(fromBob.seed, atBob.seed));
    expect(fromAlice.seed.secret).not.toEqual(fromBob.seed.secret);
  });
});

describe("repeats", () => {
  it("[HS16] the same initial message again is the same session, and changes nothing", async () => {
    const { env, alice, bob } = await twoDevices("repeat");
    const { init } = must(await start(alice, await bundleOf(bob, env, { oneTime: true }), env));
    const first = must(await answer(bob, init, env));
    bob.store = first.store;
    env.now += 24 * 3_600_000;
    const again = must(await answer(bob, init, env));
    expect(again.repeated).toBe(true);
    expect(again.seed).toEqual(first.seed);
    expect(again.store).toBe(bob.store);
  });

  it("[HS16] a copy sealed anew is the same handshake too", async () => {
    const { env, alice, bob } = await twoDevices("resealed");
    const { init } = must(await start(alice, await bundleOf(bob, env), env));
    bob.store = must(await answer(bob, init, env)).store;
    const copy = await reseal(crypto, bob, init, (plaintext) => plaintext);
    expect(equalBytes(copy, init)).toBe(false);
    expect(must(await answer(bob, copy, env)).repeated).toBe(true);
  });

  it("[HS14] a one-time pair handed out twice works for both, and dies a retention after its first use", async () => {
    const { env, alice, bob } = await twoDevices("twice");
    const carol = await makeDevice(env);
    const bundle = await bundleOf(bob, env, { oneTime: true });
    expect(oneTimeRemaining(bob.store, "directory", env.now)).toBe(1);
    const fromAlice = must(await start(alice, bundle, env));
    const fromCarol = must(await start(carol, bundle, env));
    const late = must(await start(carol, bundle, env));
    bob.store = must(await answer(bob, fromAlice.init, env)).store;
    expect(oneTimeRemaining(bob.store, "directory", env.now)).toBe(0);
    env.now += RETENTION_MS - 1;
    const second = must(await answer(bob, fromCarol.init, env));
    expect(second.repeated).toBe(false);
    expect(second.seed.secret).toEqual(fromCarol.seed.secret);
    env.now += 1;
    expect(await answer({ ...bob, store: second.store }, late.init, env)).toEqual(reject("handshake/unknown-prekey"));
    expect((await rotate(second.store, env)).purposes[0]!.generations.map((g) => g.oneTime.length)).toEqual([0, 0]);
  });

  it("[HS15] a one-time pair is good for eight handshakes, its repeats not counted", async () => {
    const { env, alice, bob } = await twoDevices("bound");
    const bundle = await bundleOf(bob, env, { oneTime: true });
    for (let use = 0; use < MAX_ONE_TIME_USES; use++) {
      const { init } = must(await start(alice, bundle, env));
      bob.store = must(await answer(bob, init, env)).store;
      expect(must(await answer(bob, init, env)).repeated).toBe(true);
    }
    const { init } = must(await start(alice, bundle, env));
    expect(await answer(bob, init, env)).toEqual(reject("handshake/one-time-spent"));
  });

  it("[HS16] when as many are remembered as may be, new ones are refused and old ones still known", async () => {
    const { env, alice, bob } = await twoDevices("full");
    const bundle = await bundleOf(bob, env);
    const { init } = must(await start(alice, bundle, env));
    bob.store = must(await answer(bob, init, env)).store;
    const [directory] = bob.store.purposes;
    const [generation] = directory!.generations;
    const seen = [...generation!.seen, ...Array.from({ length: MAX_SEEN - 1 }, () => env.random(16))];
    bob.store = { ...bob.store, purposes: [{ generations: [{ ...generation!, seen }] }] };
    const another = must(await start(alice, bundle, env));
    expect(await answer(bob, another.init, env)).toEqual(reject("handshake/too-many"));
    expect(must(await answer(bob, init, env)).repeated).toBe(true);
  });
});

describe("lives of prekeys", () => {
  it("[HS12] the directory's generation is replaced weekly, an invite's never", async () => {
    const { env, bob } = await twoDevices("weekly");
    const before = await bundleOf(bob, env);
    const invite = await bundleOf(bob, env, { purpose: INVITE });
    env.now += ROTATION_MS - 1;
    expect(rotationDue(bob.store, env.now)).toBe(false);
    expect(await rotate(bob.store, env)).toBe(bob.store);
    expect((await bundleOf(bob, env)).signedPrekey.id).toEqual(before.signedPrekey.id);
    env.now += 1;
    expect(rotationDue(bob.store, env.now)).toBe(true);
    bob.store = await rotate(bob.store, env);
    expect(rotationDue(bob.store, env.now)).toBe(false);
    const after = await bundleOf(bob, env);
    for (const key of ["bundleKey", "signedPrekey", "kemPrekey"] as const) expect(after[key]).not.toEqual(before[key]);
    expect((await bundleOf(bob, env, { purpose: INVITE })).bundleKey).toEqual(invite.bundleKey);
  });

  it("[HS13] private halves live a retention longer than their bundle, and are dropped then", async () => {
    const { env, alice, bob } = await twoDevices("retention");
    const bundle = await bundleOf(bob, env);
    env.now += PREKEY_LIFETIME_MS - 1;
    const { init } = must(await start(alice, bundle, env));
    bob.store = await rotate(bob.store, env);
    env.now += 1;
    expect(await start(alice, bundle, env)).toEqual(reject("handshake/expired"));
    env.now += RETENTION_MS - 1;
    expect(must(await answer(bob, init, env)).repeated).toBe(false);
    env.now += 1;
    expect(await answer(bob, init, env)).toEqual(reject("handshake/unknown-bundle-key"));
    const rotated = await rotate(bob.store, env);
    expect(rotated.purposes[0]!.generations.some((g) => equalBytes(g.bundleKey.id, bundle.bundleKey.id))).toBe(false);
  });

  it("[HS12] ten weeks of rotation keep a bounded number of generations", async () => {
    const { env, bob } = await twoDevices("bounded");
    for (let week = 0; week < 12; week++) {
      env.now += ROTATION_MS;
      bob.store = await rotate(bob.store, env);
    }
    expect(bob.store.purposes[0]!.generations.length).toBe(9);
    expect(isReject(decode(prekeyStoreSchema, encode(prekeyStoreSchema, bob.store)))).toBe(false);
  });

  it("[HS11] an expired generation is not handed out, even if nobody rotated", async () => {
    const { env, bob } = await twoDevices("away");
    const before = await bundleOf(bob, env);
    env.now += PREKEY_LIFETIME_MS;
    const after = await bundleOf(bob, env);
    expect(after.bundleKey).not.toEqual(before.bundleKey);
    expect(must(await verifyBundle(crypto, after, env))).toBe(after);
    expect(bob.store.purposes[0]!.generations.length).toBe(2);
  });

  it("[HS17] an invite's prekeys expire with it and die with it", async () => {
    const { env, alice, bob } = await twoDevices("invite");
    const expiresAt = env.now + 1000;
    const bundle = await bundleOf(bob, env, { purpose: { invite: "short", expiresAt }, oneTime: true });
    expect(oneTimeRemaining(bob.store, { invite: "short" }, env.now)).toBe(1);
    const { init } = must(await start(alice, bundle, env));
    expect(must(await answer(bob, init, env)).invite).toBe("short");
    expect(await answer({ ...bob, store: dropInvite(bob.store, "short") }, init, env)).toEqual(
      reject("handshake/unknown-bundle-key"),
    );
    env.now = expiresAt;
    expect(await start(alice, bundle, env)).toEqual(reject("handshake/expired"));
    expect(oneTimeRemaining(bob.store, { invite: "short" }, env.now)).toBe(0);
    env.now += RETENTION_MS;
    expect((await rotate(bob.store, env)).purposes.map((keys) => keys.invite)).toEqual([undefined]);
  });

  it("[HS19] invites and one-time pairs are bounded", async () => {
    const { env, bob } = await twoDevices("limits");
    for (let i = 0; i < MAX_INVITES; i++) await bundleOf(bob, env, { purpose: { invite: `i${i}` } });
    expect(await makeBundle(bob.store, { purpose: { invite: "more" }, oneTime: false }, env)).toEqual(
      reject("handshake/too-many-invites"),
    );
    await bundleOf(bob, env, { purpose: { invite: "i0" } });
    const [directory] = bob.store.purposes;
    const { store } = must(await makeBundle(bob.store, { purpose: "directory", oneTime: true }, env));
    const pair = store.purposes.at(-1)!.generations[0]!.oneTime[0]!;
    const oneTime = Array.from({ length: MAX_ONE_TIME }, () => pair);
    const full = { ...bob.store, purposes: [{ generations: [{ ...directory!.generations[0]!, oneTime }] }] };
    expect(await makeBundle(full, { purpose: "directory", oneTime: true }, env)).toEqual(
      reject("handshake/too-many-one-time"),
    );
  });
});
