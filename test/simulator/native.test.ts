import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { synchronousSuite } from "#protocols/base/synchronous.ts";

import { nativeSuite } from "./native.ts";

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const data = fc.uint8Array({ maxLength: 300 });
const [native, reference] = [nativeSuite(), synchronousSuite()];
const RUNS = { numRuns: 30 };

describe("the faster suite has the bytes of the synchronous one", () => {
  test("hashes", () => {
    fc.assert(
      fc.property(data, data, data, fc.integer({ min: 1, max: 200 }), (a, b, c, length) => {
        expect(native.sha256(a)).toEqual(reference.sha256(a));
        expect(native.hmac(a, b)).toEqual(reference.hmac(a, b));
        const options = { ikm: a, salt: b, info: c, length };
        expect(native.hkdf(options)).toEqual(reference.hkdf(options));
        expect(native.hkdf({ ikm: a, info: c, length })).toEqual(reference.hkdf({ ikm: a, info: c, length }));
      }),
    );
  });

  test("signatures, and what is no signature", async () => {
    await fc.assert(
      fc.asyncProperty(bytes(32), data, fc.nat(63), async (seed, message, at) => {
        const key = await reference.ed25519.publicKey(seed);
        expect(await native.ed25519.publicKey(seed)).toEqual(key);
        const signature = await native.ed25519.sign(seed, message);
        expect(signature).toEqual(await reference.ed25519.sign(seed, message));
        expect(await native.ed25519.verify(key, message, signature)).toBe(true);
        const forged = signature.slice();
        forged[at]! ^= 1;
        expect(await native.ed25519.verify(key, message, forged)).toBe(false);
        expect(await native.ed25519.verify(new Uint8Array(32), message, signature)).toBe(false);
      }),
      RUNS,
    );
  });

  test("agreements, and none with a point of small order", async () => {
    await fc.assert(
      fc.asyncProperty(bytes(32), bytes(32), async (secret, other) => {
        expect(await native.x25519.publicKey(secret)).toEqual(await reference.x25519.publicKey(secret));
        expect(await native.x25519.sharedSecret(secret, other)).toEqual(
          await reference.x25519.sharedSecret(secret, other),
        );
      }),
      RUNS,
    );
    for (const raw of [new Uint8Array(32), Uint8Array.of(1, ...new Uint8Array(31))]) {
      expect(await native.x25519.sharedSecret(new Uint8Array(32).fill(9), raw)).toBeUndefined();
    }
  });

  test("encapsulations, and what implicit rejection makes of a forged one", async () => {
    await fc.assert(
      fc.asyncProperty(bytes(64), bytes(32), fc.nat(1_087), async (seed, randomness, at) => {
        const key = await reference.mlkem768.publicKey(seed);
        expect(await native.mlkem768.publicKey(seed)).toEqual(key);
        const made = await native.mlkem768.encapsulate(key, randomness);
        expect(made).toEqual(await reference.mlkem768.encapsulate(key, randomness));
        const { ciphertext, sharedSecret } = made!;
        expect(await native.mlkem768.decapsulate(seed, ciphertext)).toEqual(sharedSecret);
        const forged = ciphertext.slice();
        forged[at]! ^= 1;
        expect(await native.mlkem768.decapsulate(seed, forged)).toEqual(
          await reference.mlkem768.decapsulate(seed, forged),
        );
      }),
      RUNS,
    );
  });
});
