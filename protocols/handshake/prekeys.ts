/**
 * The private half of all bundles a device has handed out, as one record. Pure: every function returns a new store, and
 * the caller commits it before the bundle leaves. Spec: ./SPEC.md HS10-HS19.
 *
 *   purpose (directory, or one invite)
 *     generation: bundle key, signed prekey, last-resort KEM prekey, made together, replaced weekly
 *       one-time pairs (X25519 and KEM), each for one bundle; and the handshakes seen, which die with the generation
 */
import { equalBytes } from "#protocols/base/bytes.ts";
import { bytes, type Infer, list, literal, optional, struct, text, uint } from "#protocols/base/codec.ts";
import { assert, type OrReject, reject } from "#protocols/base/reject.ts";
import type { Env } from "#protocols/base/suite.ts";
import { type DeviceCertificate, type DeviceKeys, deviceCertificateSchema } from "#protocols/identity/identity.ts";
import { type BundleFacts, KEY_ID_BYTES, keyId, type PrekeyBundle, signBundle, X25519_KEY_BYTES } from "./bundle.ts";

const DAY_MS = 24 * 3_600_000;

/** A new generation weekly: what a stolen prekey opens is the handshakes of about a week (HS12). */
export const ROTATION_MS = 7 * DAY_MS;

/**
 * How long a bundle may be used: as long as an envelope can be held for a device that is offline. With a shorter life a
 * device away for two weeks could not be written to, with a longer one the message would expire unread.
 */
export const PREKEY_LIFETIME_MS = 30 * DAY_MS;

/** The longest envelope retention, and two days for clocks and slow relays: a message in flight finds its keys (HS13). */
export const RETENTION_MS = 32 * DAY_MS;

/** Invites of one device with keys alive, about 300 bytes each. Whoever needs more drops spent ones (`dropInvite`). */
export const MAX_INVITES = 128;

/** Longest name of an invite, bytes. */
export const MAX_INVITE_ID_BYTES = 64;

/** Generations of one purpose that can be alive: (lifetime + retention) / rotation is 8.9, and one for a clock set back. */
const MAX_GENERATIONS = 10;

/** One-time pairs of one generation: a directory shelf of 100, refilled once within the week. */
export const MAX_ONE_TIME = 200;

/**
 * How often a one-time pair may be used. No server hands it out exactly once, so several initiators may hold it, and all of
 * them must get through; the bound keeps a pair that leaked from becoming a second last-resort key (HS15).
 */
export const MAX_ONE_TIME_USES = 8;

/** Handshakes remembered of one generation, 18 bytes each. When it is full, new ones are refused, never old ones forgotten. */
export const MAX_SEEN = 1024;

/** Half a hash. Two handshakes alike in it cost 2^64 tries, and then the second one of the same attacker is refused. */
export const SEEN_BYTES = 16;

const secretKey = bytes(32);
const kemSeed = bytes(64);

const oneTimeSchema = struct({
  curve: struct({ id: keyId, secret: secretKey }),
  kem: struct({ id: keyId, seed: kemSeed }),
  uses: uint(MAX_ONE_TIME_USES),
  /** When it was used first; it dies a retention later, although its generation lives on (HS14). */
  usedAt: optional(uint()),
});
export type OneTimePair = Infer<typeof oneTimeSchema>;

const generationSchema = struct({
  createdAt: uint(),
  /** Of every prekey of the generation. The private halves die a retention later. */
  expiresAt: uint(),
  bundleKey: struct({ id: keyId, secret: secretKey, publicKey: bytes(X25519_KEY_BYTES) }),
  signedPrekey: struct({ id: keyId, secret: secretKey, publicKey: bytes(X25519_KEY_BYTES) }),
  lastResort: struct({ id: keyId, seed: kemSeed }),
  oneTime: list(oneTimeSchema, MAX_ONE_TIME),
  /** First bytes of the handshake hashes answered with this generation's keys (HS16). */
  seen: list(bytes(SEEN_BYTES), MAX_SEEN),
});
export type Generation = Infer<typeof generationSchema>;

const purposeSchema = struct({
  /** Undefined for the directory. */
  invite: optional(text(MAX_INVITE_ID_BYTES)),
  /** Newest first. */
  generations: list(generationSchema, MAX_GENERATIONS),
});
type PurposeKeys = Infer<typeof purposeSchema>;

/** Storage encoding, version 1. Holds secrets: only ever stored encrypted, and in no backup. */
export const prekeyStoreSchema = struct({
  version: literal(1),
  certificate: deviceCertificateSchema,
  signSeed: secretKey,
  purposes: list(purposeSchema, 1 + MAX_INVITES),
});
export type PrekeyStore = Infer<typeof prekeyStoreSchema>;

/** `invite` is the invite's own id; its prekeys serve it alone, expire with it and die with it (HS17). */
export type Purpose = "directory" | { readonly invite: string; readonly expiresAt?: number };

export async function createPrekeys(
  env: Env,
  device: Pick<DeviceKeys, "certificate" | "signSeed">,
): Promise<PrekeyStore> {
  return {
    version: 1,
    certificate: device.certificate,
    signSeed: device.signSeed,
    purposes: [{ generations: [await newGeneration(env, env.now + PREKEY_LIFETIME_MS)] }],
  };
}

async function newGeneration(env: Env, expiresAt: number): Promise<Generation> {
  const curve = async () => {
    const secret = env.random(32);
    return { id: env.random(KEY_ID_BYTES), secret, publicKey: await env.crypto.x25519.publicKey(secret) };
  };
  return {
    createdAt: env.now,
    expiresAt,
    bundleKey: await curve(),
    signedPrekey: await curve(),
    lastResort: { id: env.random(KEY_ID_BYTES), seed: env.random(64) },
    oneTime: [],
    seen: [],
  };
}

/**
 * A bundle to hand out. Without `oneTime` it is the generation's last-resort bundle, the same at each call but for its
 * signatures; with it, a new one-time pair is made for this bundle alone.
 * @returns Rejects `handshake/too-many-invites` and `handshake/too-many-one-time`: our own limits, in the way of no remote.
 */
export async function makeBundle(
  store: PrekeyStore,
  options: { readonly purpose: Purpose; readonly oneTime: boolean },
  env: Env,
): Promise<OrReject<{ readonly store: PrekeyStore; readonly bundle: PrekeyBundle }>> {
  const invite = options.purpose === "directory" ? undefined : options.purpose.invite;
  const live = prune(store, env.now);
  const known = live.purposes.find((keys) => keys.invite === invite);
  if (!known && live.purposes.filter((keys) => keys.invite !== undefined).length >= MAX_INVITES) {
    return reject("handshake/too-many-invites");
  }
  const older = known?.generations ?? [];
  const [newest, ...rest] = older;
  const usable = newest && env.now < newest.expiresAt;
  let generation = usable ? newest : await newGeneration(env, firstExpiry(options.purpose, env.now));
  let pair: OneTimePair | undefined;
  if (options.oneTime) {
    if (generation.oneTime.length >= MAX_ONE_TIME) return reject("handshake/too-many-one-time");
    pair = {
      curve: { id: env.random(KEY_ID_BYTES), secret: env.random(32) },
      kem: { id: env.random(KEY_ID_BYTES), seed: env.random(64) },
      uses: 0,
    };
    generation = { ...generation, oneTime: [...generation.oneTime, pair] };
  }
  const facts = await bundleFactsOf(env.crypto, store.certificate, generation, pair);
  return {
    store: withGenerations(live, invite, [generation, ...(usable ? rest : older)]),
    bundle: await signBundle(env.crypto, store.signSeed, facts),
  };
}

function firstExpiry(purpose: Purpose, now: number): number {
  const expiresAt = purpose === "directory" ? undefined : purpose.expiresAt;
  assert(expiresAt === undefined || expiresAt > now, "an invite's prekeys are made before it expires");
  return expiresAt ?? now + PREKEY_LIFETIME_MS;
}

/** What the bundle of these keys says; both sides of the handshake compute its transcript from it. */
export async function bundleFactsOf(
  crypto: Env["crypto"],
  certificate: DeviceCertificate,
  generation: Generation,
  pair: OneTimePair | undefined,
): Promise<BundleFacts> {
  const { bundleKey, signedPrekey, lastResort, expiresAt } = generation;
  const kem = pair?.kem ?? lastResort;
  return {
    version: 1,
    certificate,
    bundleKey: { id: bundleKey.id, publicKey: bundleKey.publicKey },
    signedPrekey: { id: signedPrekey.id, publicKey: signedPrekey.publicKey, expiresAt },
    kemPrekey: {
      kind: pair ? "one-time" : "last-resort",
      id: kem.id,
      publicKey: await crypto.mlkem768.publicKey(kem.seed),
      expiresAt,
    },
    ...(pair && {
      oneTimePrekey: { id: pair.curve.id, publicKey: await crypto.x25519.publicKey(pair.curve.secret), expiresAt },
    }),
  };
}

/** Whether `rotate` would replace the directory's generation: ask daily and at start. */
export function rotationDue(store: PrekeyStore, now: number): boolean {
  const newest = generationsOf(store, undefined)[0];
  return newest === undefined || now - newest.createdAt >= ROTATION_MS;
}

/**
 * Replaces the directory's generation when it is a week old and drops what has died; the same store when neither. After it
 * the directory needs new bundles. Invites keep theirs: their links are out.
 */
export async function rotate(store: PrekeyStore, env: Env): Promise<PrekeyStore> {
  const live = prune(store, env.now);
  if (!rotationDue(live, env.now)) return live;
  const fresh = await newGeneration(env, env.now + PREKEY_LIFETIME_MS);
  return withGenerations(live, undefined, [fresh, ...generationsOf(live, undefined)]);
}

/** The invite was revoked, or all its uses are spent: nobody starts a session with its prekeys any more (HS17). */
export function dropInvite(store: PrekeyStore, invite: string): PrekeyStore {
  return { ...store, purposes: store.purposes.filter((keys) => keys.invite !== invite) };
}

/** One-time pairs handed out for `purpose` that may still be used and were not: what a refill compares with the shelf. */
export function oneTimeRemaining(store: PrekeyStore, purpose: Purpose, now: number): number {
  const invite = purpose === "directory" ? undefined : purpose.invite;
  let count = 0;
  for (const generation of generationsOf(store, invite)) {
    if (now < generation.expiresAt) count += generation.oneTime.filter((pair) => pair.uses === 0).length;
  }
  return count;
}

/** Which generation a bundle key belongs to, dead ones excluded. */
export function findGeneration(
  store: PrekeyStore,
  bundleKeyId: Uint8Array,
  now: number,
): { readonly invite: string | undefined; readonly generation: Generation } | undefined {
  for (const { invite, generations } of store.purposes) {
    for (const generation of generations) {
      if (equalBytes(generation.bundleKey.id, bundleKeyId) && now < generation.expiresAt + RETENTION_MS) {
        return { invite, generation };
      }
    }
  }
  return undefined;
}

/** The store with `generation` in the place of the one with its bundle key. */
export function withGeneration(store: PrekeyStore, invite: string | undefined, generation: Generation): PrekeyStore {
  const replaced = generationsOf(store, invite).map((other) =>
    equalBytes(other.bundleKey.id, generation.bundleKey.id) ? generation : other,
  );
  return withGenerations(store, invite, replaced);
}

export function pairAlive(pair: OneTimePair, now: number): boolean {
  return pair.usedAt === undefined || now < pair.usedAt + RETENTION_MS;
}

function generationsOf(store: PrekeyStore, invite: string | undefined): readonly Generation[] {
  return store.purposes.find((keys) => keys.invite === invite)?.generations ?? [];
}

function withGenerations(
  store: PrekeyStore,
  invite: string | undefined,
  generations: readonly Generation[],
): PrekeyStore {
  const keys: PurposeKeys = {
    ...(invite !== undefined && { invite }),
    generations: generations.slice(0, MAX_GENERATIONS),
  };
  const others = store.purposes.filter((other) => other.invite !== invite);
  return { ...store, purposes: [...others, keys] };
}

/** Drops dead generations and dead one-time pairs. @returns The same object when nothing has died. */
function prune(store: PrekeyStore, now: number): PrekeyStore {
  let died = false;
  const purposes: PurposeKeys[] = [];
  for (const keys of store.purposes) {
    const generations: Generation[] = [];
    for (const generation of keys.generations) {
      const oneTime = generation.oneTime.filter((pair) => pairAlive(pair, now));
      if (now >= generation.expiresAt + RETENTION_MS) died = true;
      else if (oneTime.length === generation.oneTime.length) generations.push(generation);
      else {
        died = true;
        generations.push({ ...generation, oneTime });
      }
    }
    if (generations.length > 0 || keys.invite === undefined) purposes.push({ ...keys, generations });
  }
  return died ? { ...store, purposes } : store;
}
