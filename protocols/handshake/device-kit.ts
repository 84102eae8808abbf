/** For this folder's tests: devices from fixed randomness. */
import { concat, u32, utf8 } from "#protocols/base/bytes.ts";
import { hpkeOpen, hpkeSeal } from "#protocols/base/hpke.ts";
import { assert, isReject, type OrReject } from "#protocols/base/reject.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import { createDevice, type DeviceKeys } from "#protocols/identity/identity.ts";
import {
  createPrekeys,
  initiate,
  makeBundle,
  type PrekeyBundle,
  type PrekeyStore,
  type Purpose,
  respond,
} from "./handshake.ts";

/** 2026-01-01. */
export const START = 1_767_225_600_000;

/** SHA-256 of seed and counter: the same bytes in every implementation of the vectors. */
export function seededRandom(crypto: CryptoSuite, seed: string): (length: number) => Uint8Array {
  let counter = 0;
  return (length) => {
    const blocks: Uint8Array[] = [];
    for (let have = 0; have < length; have += 32) blocks.push(crypto.sha256(concat(utf8(seed), u32(counter++))));
    return concat(...blocks).slice(0, length);
  };
}

export type MovingEnv = { now: number; readonly random: Env["random"]; readonly crypto: CryptoSuite };

export function testEnv(crypto: CryptoSuite, seed: string): MovingEnv {
  return { now: START, crypto, random: seededRandom(crypto, seed) };
}

export type TestDevice = { readonly keys: DeviceKeys; store: PrekeyStore; readonly listHash: Uint8Array };

/** A device of an account of its own, with its prekeys. */
export async function makeDevice(env: Env): Promise<TestDevice> {
  const keys = await createDevice(env, env.random(32));
  return { keys, store: await createPrekeys(env, keys), listHash: env.random(32) };
}

export function must<T>(value: OrReject<T>): T {
  assert(!isReject(value), isReject(value) ? value.code : "");
  return value;
}

export async function bundleOf(
  device: TestDevice,
  env: Env,
  options: { purpose?: Purpose; oneTime?: boolean } = {},
): Promise<PrekeyBundle> {
  const { purpose = "directory", oneTime = false } = options;
  const made = must(await makeBundle(device.store, { purpose, oneTime }, env));
  device.store = made.store;
  return made.bundle;
}

export function start(from: TestDevice, bundle: PrekeyBundle, env: Env, remoteListHash = new Uint8Array(32).fill(7)) {
  const { certificate, dhSecret } = from.keys;
  return initiate({ self: { certificate, dhSecret, listHash: from.listHash }, bundle, remoteListHash }, env);
}

export function answer(to: TestDevice, init: Uint8Array, env: Env) {
  return respond({ self: to.keys, store: to.store, init }, env);
}

export async function twoDevices(
  crypto: CryptoSuite,
  seed: string,
): Promise<{ env: MovingEnv; alice: TestDevice; bob: TestDevice }> {
  const env = testEnv(crypto, seed);
  return { env, alice: await makeDevice(env), bob: await makeDevice(env) };
}

/** Opens an initial message with the responder's key, as an attacker who made it could, and seals it again changed. */
export async function reseal(
  crypto: CryptoSuite,
  to: TestDevice,
  init: Uint8Array,
  change: (plaintext: Uint8Array) => Uint8Array,
) {
  const { bundleKey } = newest(to);
  const shared = {
    info: utf8("skein/1/initial-message"),
    associatedData: bundleKey.id,
    publicKey: bundleKey.publicKey,
  };
  const plaintext = await hpkeOpen(crypto, { ...shared, secret: bundleKey.secret, sealed: init.subarray(8) });
  assert(plaintext, "it is for this device");
  const sealed = await hpkeSeal(crypto, {
    ...shared,
    plaintext: change(plaintext.slice()),
    ephemeralSecret: new Uint8Array(32).fill(5),
  });
  assert(sealed, "the key is good");
  return concat(bundleKey.id, sealed);
}

function newest(device: TestDevice) {
  const generation = device.store.purposes[0]?.generations[0];
  assert(generation, "a device has prekeys");
  return generation;
}
