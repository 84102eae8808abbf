/**
 * The vectors pin wire and stored bytes. They are written by `vitest run protocols/handshake/vectors.test.ts -u`; each is
 * complete: another implementation, given the secrets and the randomness, must make the same message and the same keys.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { concat, fromHex, toHex, utf8 } from "#protocols/base/bytes.ts";
import { decode, encode } from "#protocols/base/codec.ts";
import { nobleSuite } from "#protocols/base/noble.ts";
import { assert } from "#protocols/base/reject.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import { deviceKeysSchema } from "#protocols/identity/identity.ts";
import { makeDevice, must, reseal, seededRandom, START, type TestDevice, testEnv } from "./device-kit.ts";
import { decodeBundle, encodeBundle, initiate, makeBundle, prekeyStoreSchema, respond } from "./handshake.ts";

const FILE = "./vectors/handshakes.json";

type Vector = {
  readonly name: string;
  readonly now: number;
  /** Stored encodings of both devices' keys. */
  readonly initiator: string;
  readonly responder: string;
  /** The responder's prekeys, before and after. */
  readonly storeBefore: string;
  readonly storeAfter: string;
  readonly bundle: string;
  readonly initiatorList: string;
  readonly responderList: string;
  /** What the initiator drew: ephemeral, KEM randomness, HPKE ephemeral. */
  readonly random: readonly string[];
  readonly init: string;
  /** Inside the seal, with its length and padding. */
  readonly plaintext: string;
  readonly secret: string;
  readonly associatedData: string;
  readonly handshakeHash: string;
};

async function generate(): Promise<readonly Vector[]> {
  const crypto = nobleSuite();
  const env = testEnv(crypto, "skein handshake vectors 1");
  const alice = await makeDevice(env);
  const bob = await makeDevice(env);
  const vectors: Vector[] = [];
  for (const [name, purpose, oneTime] of [
    ["directory, last-resort", "directory", false],
    ["directory, one-time", "directory", true],
    ["invite, one-time", { invite: "vector" }, true],
  ] as const) {
    const made = must(await makeBundle(bob.store, { purpose, oneTime }, env));
    const random: string[] = [];
    const source = seededRandom(crypto, name);
    const drawing = {
      ...env,
      random(length: number) {
        const bytes = source(length);
        random.push(toHex(bytes));
        return bytes.slice();
      },
    };
    const self = { ...alice.keys, listHash: alice.listHash };
    const started = must(await initiate({ self, bundle: made.bundle, remoteListHash: bob.listHash }, drawing));
    const answered = must(await respond({ self: bob.keys, store: made.store, init: started.init }, env));
    let plaintext = "";
    await reseal(crypto, withGenerationOf(bob, made.store, purpose), started.init, (inside) => {
      plaintext = toHex(inside);
      return inside;
    });
    vectors.push({
      name,
      now: START,
      initiator: toHex(encode(deviceKeysSchema, alice.keys)),
      responder: toHex(encode(deviceKeysSchema, bob.keys)),
      storeBefore: toHex(encode(prekeyStoreSchema, made.store)),
      storeAfter: toHex(encode(prekeyStoreSchema, answered.store)),
      bundle: toHex(encodeBundle(made.bundle)),
      initiatorList: toHex(alice.listHash),
      responderList: toHex(bob.listHash),
      random,
      init: toHex(started.init),
      plaintext,
      secret: toHex(answered.seed.secret),
      associatedData: toHex(answered.seed.associatedData),
      handshakeHash: toHex(answered.seed.handshakeHash),
    });
    bob.store = made.store;
  }
  return vectors;
}

/** `reseal` looks at the first generation of the first purpose. */
function withGenerationOf(device: TestDevice, store: TestDevice["store"], purpose: "directory" | { invite: string }) {
  const invite = purpose === "directory" ? undefined : purpose.invite;
  return { ...device, store: { ...store, purposes: store.purposes.filter((keys) => keys.invite === invite) } };
}

function hex(text: string): Uint8Array {
  const bytes = fromHex(text);
  assert(bytes, "vectors are hexadecimal");
  return bytes;
}

describe("vectors", () => {
  it("[HS30] handshakes of fixed randomness are the ones on record", async () => {
    await expect(`${JSON.stringify(await generate(), null, 2)}\n`).toMatchFileSnapshot(FILE);
  });

  it("[HS21] the secret on record is what the schedule says, computed here from its parts", async () => {
    const crypto = nobleSuite();
    const vectors = JSON.parse(readFileSync(new URL(FILE, import.meta.url), "utf8")) as Vector[];
    for (const vector of vectors) {
      const initiator = must(decode(deviceKeysSchema, hex(vector.initiator)));
      const bundle = must(decodeBundle(hex(vector.bundle)));
      const [ephemeral, kemRandom] = vector.random.map(hex);
      const dh = async (secret: Uint8Array, publicKey: Uint8Array) =>
        (await crypto.x25519.sharedSecret(secret, publicKey)) ?? new Uint8Array(0);
      const { signedPrekey, oneTimePrekey } = bundle;
      const kem = await crypto.mlkem768.encapsulate(bundle.kemPrekey.publicKey, kemRandom!);
      const ikm = concat(
        new Uint8Array(32).fill(0xff),
        await dh(initiator.dhSecret, signedPrekey.publicKey),
        await dh(ephemeral!, bundle.certificate.dhKey),
        await dh(ephemeral!, signedPrekey.publicKey),
        ...(oneTimePrekey ? [await dh(ephemeral!, oneTimePrekey.publicKey)] : []),
        kem!.sharedSecret,
      );
      const info = concat(utf8("skein/1/pqxdh x25519 ml-kem-768 sha-256"), hex(vector.handshakeHash));
      expect(toHex(crypto.hkdf({ ikm, info, length: 32 }))).toBe(vector.secret);
      const session = concat(utf8("skein/1/session"), hex(vector.handshakeHash));
      expect(toHex(crypto.sha256(session))).toBe(vector.associatedData);
    }
  });

  it.each([
    ["synchronous", synchronousSuite()],
    ["webcrypto", webCryptoSuite(globalThis.crypto.subtle)],
  ])("[HS30] the %s suite, given the inputs, makes the same message and keys", async (_name, crypto) => {
    const vectors = JSON.parse(readFileSync(new URL(FILE, import.meta.url), "utf8")) as Vector[];
    expect(vectors.length).toBe(3);
    for (const vector of vectors) {
      const initiator = must(decode(deviceKeysSchema, hex(vector.initiator)));
      const responder = must(decode(deviceKeysSchema, hex(vector.responder)));
      const store = must(decode(prekeyStoreSchema, hex(vector.storeBefore)));
      const random = vector.random.map(hex);
      const env = { now: vector.now, crypto, random: () => random.shift() ?? new Uint8Array(0) };
      const self = { ...initiator, listHash: hex(vector.initiatorList) };
      const bundle = must(decodeBundle(hex(vector.bundle)));
      const started = must(await initiate({ self, bundle, remoteListHash: hex(vector.responderList) }, env));
      expect(toHex(started.init)).toBe(vector.init);
      const answered = must(await respond({ self: responder, store, init: hex(vector.init) }, env));
      expect(toHex(encode(prekeyStoreSchema, answered.store))).toBe(vector.storeAfter);
      for (const seed of [started.seed, answered.seed]) {
        expect(toHex(seed.secret)).toBe(vector.secret);
        expect(toHex(seed.associatedData)).toBe(vector.associatedData);
        expect(toHex(seed.handshakeHash)).toBe(vector.handshakeHash);
      }
    }
  });
});
