import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { fromHex } from "#protocols/base/bytes.ts";
import { nobleSuite } from "#protocols/base/noble.ts";
import { nodeSuite } from "./node-crypto.ts";

const RUNS = process.env["SKEIN_LONG"] === "1" ? 300 : 25;
const suite = nodeSuite();
const noble = nobleSuite();

const octets = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
/** Also around the size from which OpenSSL takes over from noble. */
const data = fc.oneof(
  fc.uint8Array({ maxLength: 300 }),
  fc.integer({ min: 2_040, max: 2_060 }).map((length) => new Uint8Array(length).fill(7)),
);

describe("[BA10] the suite of Node gives the bytes of noble", () => {
  test("hashes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), data, fc.integer({ min: 1, max: 200 }), (key, input, length) => {
        expect(suite.sha256(input)).toEqual(noble.sha256(input));
        expect(suite.hmac(key, input)).toEqual(noble.hmac(key, input));
        const info = input.slice(0, 40);
        expect(suite.hkdf({ ikm: key, info, length })).toEqual(noble.hkdf({ ikm: key, info, length }));
      }),
      { numRuns: RUNS },
    );
  });

  test.each(["chacha20poly1305", "aes256gcm"] as const)("%s, and nothing forged opens", async (name) => {
    await fc.assert(
      fc.asyncProperty(
        octets(32),
        octets(12),
        data,
        fc.option(fc.uint8Array({ maxLength: 50 })),
        fc.nat(),
        async (key, nonce, plaintext, extra, at) => {
          const context = extra === null ? {} : { associatedData: extra };
          const sealed = await suite[name].seal({ key, nonce, data: plaintext, ...context });
          expect(sealed).toEqual(await noble[name].seal({ key, nonce, data: plaintext, ...context }));
          expect(await suite[name].open({ key, nonce, data: sealed, ...context })).toEqual(plaintext);
          const forged = sealed.slice();
          forged[at % forged.length]! ^= 1 + (at % 255);
          expect(await suite[name].open({ key, nonce, data: forged, ...context })).toBeUndefined();
          expect(await suite[name].open({ key, nonce, data: sealed.slice(0, 15) })).toBeUndefined();
        },
      ),
      { numRuns: RUNS },
    );
  });

  test("Ed25519 and X25519", async () => {
    await fc.assert(
      fc.asyncProperty(octets(32), octets(32), data, async (a, b, message) => {
        const publicKey = await suite.ed25519.publicKey(a);
        expect(publicKey).toEqual(await noble.ed25519.publicKey(a));
        const signature = await suite.ed25519.sign(a, message);
        expect(signature).toEqual(await noble.ed25519.sign(a, message));
        expect(await suite.ed25519.verify(publicKey, message, signature)).toBe(true);
        expect(await suite.ed25519.verify(await suite.ed25519.publicKey(b), message, signature)).toBe(false);
        const theirs = await suite.x25519.publicKey(b);
        expect(theirs).toEqual(await noble.x25519.publicKey(b));
        expect(await suite.x25519.sharedSecret(a, theirs)).toEqual(await noble.x25519.sharedSecret(a, theirs));
      }),
      { numRuns: Math.ceil(RUNS / 5) },
    );
  });

  test("ML-KEM-768", async () => {
    await fc.assert(
      fc.asyncProperty(octets(64), octets(32), octets(1088), async (seed, randomness, noise) => {
        const publicKey = await suite.mlkem768.publicKey(seed);
        expect(publicKey).toEqual(await noble.mlkem768.publicKey(seed));
        const made = await suite.mlkem768.encapsulate(publicKey, randomness);
        expect(await suite.mlkem768.decapsulate(seed, made!.ciphertext)).toEqual(made!.sharedSecret);
        // Implicit rejection: an unrelated secret, and the same one everywhere.
        expect(await suite.mlkem768.decapsulate(seed, noise)).toEqual(await noble.mlkem768.decapsulate(seed, noise));
      }),
      { numRuns: Math.ceil(RUNS / 5) },
    );
  });
});

test("[BA10] a secret that was overwritten is not used by its old value", async () => {
  const secret = new Uint8Array(32).fill(1);
  const before = await suite.x25519.publicKey(secret);
  secret.fill(2);
  expect(await suite.x25519.publicKey(secret)).not.toEqual(before);
  expect(await suite.x25519.publicKey(secret)).toEqual(await noble.x25519.publicKey(secret));
});

test("[BA14] strict Ed25519: the verdicts of every other suite", async () => {
  const file = new URL("../../protocols/base/vectors/ed25519-strict.json", import.meta.url);
  const { cases } = JSON.parse(readFileSync(file, "utf8")) as {
    cases: { name: string; publicKey: string; message: string; signature: string; valid: boolean }[];
  };
  expect(cases.length).toBeGreaterThan(40);
  for (const { name, publicKey, message, signature, valid } of cases) {
    for (const ed25519 of [suite.ed25519, nodeSuite({ pooled: true }).ed25519]) {
      const verdict = await ed25519.verify(fromHex(publicKey)!, fromHex(message)!, fromHex(signature)!);
      expect({ name, valid: verdict }).toEqual({ name, valid });
    }
  }
});
