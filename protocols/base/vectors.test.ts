/**
 * The folder's vectors. `rfc.json` is copied from the standards named in it; `ed25519-strict.json` is made here, with
 * SKEIN_WRITE_VECTORS=1, from cases built so that verifiers which are less strict, or which multiply by the cofactor, give
 * another verdict. The verdicts are written beside the construction, not computed.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { ed25519 as cofactored } from "@noble/curves/ed25519.js";
import { Point } from "@noble/ed25519";
import { shake128 } from "@noble/hashes/sha3.js";
import { describe, expect, test } from "vitest";
import { concat, fromHex, toHex, utf8 } from "./bytes.ts";
import { hpkeOpen, hpkeSeal } from "./hpke.ts";
import { hashToScalar, nobleSuite, verifyWith } from "./noble.ts";
import { acceptableSignature } from "./strict.ts";
import { synchronousSuite } from "./synchronous.ts";
import type { CryptoSuite } from "./suite.ts";
import { webCryptoSuite } from "./webcrypto.ts";

const SUITES: readonly [name: string, crypto: CryptoSuite][] = [
  ["noble", nobleSuite()],
  ["synchronous", synchronousSuite()],
  ["webcrypto", webCryptoSuite(crypto.subtle)],
  ["webcrypto with nothing native", webCryptoSuite(crypto.subtle, { algorithms: [] })],
];

function hex(text: string): Uint8Array {
  const bytes = fromHex(text);
  if (bytes === undefined) throw new Error(`not hexadecimal: ${text}`);
  return bytes;
}

function load<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`./vectors/${name}`, import.meta.url), "utf8")) as T;
}

/** Every leaf is hexadecimal. */
type Rows<Field extends string> = readonly Readonly<Record<Field, string>>[];
type RfcVectors = {
  readonly ed25519: Rows<"seed" | "publicKey" | "message" | "signature">;
  readonly x25519: Rows<"secret" | "publicKey" | "shared">;
  readonly x25519PublicKeys: Rows<"secret" | "publicKey">;
  readonly sha256: Rows<"data" | "hash">;
  readonly hmac: Rows<"key" | "data" | "mac">;
  readonly hkdf: Rows<"ikm" | "salt" | "info" | "okm">;
  readonly chacha20poly1305: Rows<"key" | "nonce" | "associatedData" | "plaintext" | "sealed">;
  readonly aes256gcm: Rows<"key" | "nonce" | "associatedData" | "plaintext" | "sealed">;
  readonly mlkem768Accumulated100: string;
  readonly hpke: Rows<"info" | "publicKey" | "secret" | "ephemeralSecret" | "associatedData" | "plaintext" | "sealed">;
};
const rfc = load<RfcVectors>("rfc.json");

type StrictCase = {
  readonly name: string;
  readonly publicKey: string;
  readonly message: string;
  readonly signature: string;
  readonly valid: boolean;
};

const L = Point.CURVE().n;

function scalar(value: bigint): Uint8Array {
  return Uint8Array.from({ length: 32 }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}

/** A message for which the challenge k satisfies what the case needs of it. */
function messageFor(r: Uint8Array, a: Uint8Array, wanted: (k: bigint) => boolean): Uint8Array {
  for (let n = 0; ; n++) {
    const message = utf8(`case ${n}`);
    if (wanted(hashToScalar(r, a, message))) return message;
  }
}

/** The cases of BA14-BA16. `secret` and `nonce` are discrete logarithms we may know, since these keys are nobody's. */
function strictCases(): readonly StrictCase[] {
  const secret = 0x1234_5678_9abc_def0_1357n;
  const nonce = 0xfedc_ba98_7654_3210_2468n;
  const A = Point.BASE.multiply(secret);
  const R = Point.BASE.multiply(nonce);
  // Order 8; its multiples are all the torsion there is.
  const T = Point.fromHex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05");
  const torsion = Array.from({ length: 8 }, (_, i) => (i === 0 ? Point.ZERO : T.multiply(BigInt(i), false)));
  const cases: StrictCase[] = [];
  const add = (name: string, valid: boolean, a: Uint8Array, message: Uint8Array, signature: Uint8Array): void => {
    cases.push({ name, publicKey: toHex(a), message: toHex(message), signature: toHex(signature), valid });
  };
  /** s = r + k·a, which fits whenever torsion parts cancel. */
  const signed = (name: string, valid: boolean, a: Uint8Array, r: Uint8Array, wanted: (k: bigint) => boolean): void => {
    const message = messageFor(r, a, wanted);
    const s = (nonce + hashToScalar(r, a, message) * secret) % L;
    add(name, valid, a, message, concat(r, scalar(s)));
  };
  const always = (): boolean => true;

  signed("plain", true, A.toBytes(), R.toBytes(), always);
  signed("mixed-order A, torsion vanishes: k = 0 mod 8", true, A.add(T).toBytes(), R.toBytes(), (k) => k % 8n === 0n);
  signed(
    "mixed-order A, only the cofactored equation holds",
    false,
    A.add(T).toBytes(),
    R.toBytes(),
    (k) => k % 8n === 3n,
  );
  signed("mixed-order R, only the cofactored equation holds", false, A.toBytes(), R.add(T).toBytes(), always);
  // R = rB - kT and A = aB + T with k = 5 mod 8: R + kA has no torsion, so every cofactorless verifier accepts.
  signed(
    "mixed-order A and R that cancel",
    true,
    A.add(T).toBytes(),
    R.add(torsion[3]!).toBytes(),
    (k) => k % 8n === 5n,
  );

  for (const [i, small] of torsion.entries()) {
    const a = small.toBytes();
    // R = rB, s = r: holds for each A of small order whenever k times it vanishes.
    const message = messageFor(R.toBytes(), a, (k) => (k * BigInt(i)) % 8n === 0n);
    add(`small-order A: ${i}T`, false, a, message, concat(R.toBytes(), scalar(nonce)));
    // s = k·a with R of small order: for R = 0 the cofactorless equation holds, for the others the cofactored one.
    const r = small.toBytes();
    const k = hashToScalar(r, A.toBytes(), utf8("small R"));
    add(`small-order R: ${i}T`, false, A.toBytes(), utf8("small R"), concat(r, scalar((k * secret) % L)));
  }
  add("small-order A and R, s = 0", false, Point.ZERO.toBytes(), utf8("any"), concat(Point.ZERO.toBytes(), scalar(0n)));

  const P = Point.CURVE().p;
  const sign = 1n << 255n;
  const odd: readonly [name: string, encoding: bigint][] = [
    ["the identity as y = p + 1", P + 1n],
    ["the identity with x = -0", 1n | sign],
    ["the identity as y = p + 1 with x = -0", (P + 1n) | sign],
    ["order 2 with x = -0", (P - 1n) | sign],
    ["order 4 as y = p", P],
    ["order 4 as y = p, other sign", P | sign],
    ["y = 2^255 - 1", (1n << 255n) - 1n],
    ["y = 2^255 - 1, other sign", (1n << 256n) - 1n],
  ];
  for (const [name, encoding] of odd) {
    const point = scalar(encoding);
    const message = messageFor(R.toBytes(), point, (k) => k % 8n === 0n);
    add(`non-canonical A: ${name}`, false, point, message, concat(R.toBytes(), scalar(nonce)));
    const k = hashToScalar(point, A.toBytes(), utf8("odd R"));
    add(`non-canonical R: ${name}`, false, A.toBytes(), utf8("odd R"), concat(point, scalar((k * secret) % L)));
  }
  // A point far from small, its y written above p: k is taken over these bytes, the equation cannot hold by chance.
  add("non-canonical A: y = p + 3", false, scalar(P + 3n), utf8("any"), concat(R.toBytes(), scalar(nonce)));
  add("A off the curve: y = 2", false, scalar(2n), utf8("any"), concat(R.toBytes(), scalar(nonce)));
  add("R off the curve: y = 2", false, A.toBytes(), utf8("any"), concat(scalar(2n), scalar(nonce)));

  const message = utf8("malleable");
  const s = (nonce + hashToScalar(R.toBytes(), A.toBytes(), message) * secret) % L;
  add("S", true, A.toBytes(), message, concat(R.toBytes(), scalar(s)));
  for (const n of [1n, 2n, 7n]) {
    add(`S + ${n} L`, false, A.toBytes(), message, concat(R.toBytes(), scalar(s + n * L)));
  }
  add("S = L", false, A.toBytes(), message, concat(R.toBytes(), scalar(L)));
  add("S with its top bit set", false, A.toBytes(), message, concat(R.toBytes(), scalar(s | sign)));
  add("63 bytes", false, A.toBytes(), message, concat(R.toBytes(), scalar(s)).slice(0, 63));
  add("65 bytes", false, A.toBytes(), message, concat(R.toBytes(), scalar(s), Uint8Array.of(0)));
  add("a key of 31 bytes", false, A.toBytes().slice(0, 31), message, concat(R.toBytes(), scalar(s)));
  add("no signature", false, A.toBytes(), message, new Uint8Array(0));
  add("another message", false, A.toBytes(), utf8("other"), concat(R.toBytes(), scalar(s)));
  return cases;
}

test("[BA14] the strict cases are those of the generator", () => {
  const made = `${JSON.stringify({ rule: "BA14-BA16", cases: strictCases() }, null, 1)}\n`;
  const file = new URL("./vectors/ed25519-strict.json", import.meta.url);
  if (process.env["SKEIN_WRITE_VECTORS"] === "1") writeFileSync(file, made);
  expect(readFileSync(file, "utf8")).toBe(made);
});

test("[BA14] what must be refused before any implementation is asked is refused by strict.ts alone", () => {
  const early = /^(small-order|non-canonical|S \+|S =|S with|6[35] bytes|a key of|no signature)/;
  for (const { name, publicKey, signature } of strictCases()) {
    expect([name, acceptableSignature(hex(publicKey), hex(signature))]).toEqual([name, !early.test(name)]);
  }
});

test("[BA14] the cases tell verifiers apart: the bare equation, with and without cofactor, accepts what must be refused", () => {
  const refused = strictCases().filter((entry) => !entry.valid && entry.publicKey.length === 64);
  const whole = refused.filter((entry) => entry.signature.length === 128);
  const cofactorless = whole.filter(({ publicKey, message, signature }) => {
    const [a, m, s] = [hex(publicKey), hex(message), hex(signature)];
    try {
      return verifyWith(Point.fromBytes(a, true).negate(), a, m, s);
    } catch (error) {
      // Off the curve, or S out of range: noble's point arithmetic says so by throwing.
      if (error instanceof Error) return false;
      throw error;
    }
  });
  const withCofactor = whole.filter(({ publicKey, message, signature }) =>
    cofactored.verify(hex(signature), hex(message), hex(publicKey)),
  );
  expect(cofactorless.length).toBeGreaterThanOrEqual(12);
  expect(withCofactor.length).toBeGreaterThanOrEqual(25);
});

describe.each(SUITES)("%s", (_name, suite) => {
  const strict = load<{ readonly cases: readonly StrictCase[] }>("ed25519-strict.json").cases;

  test.each(strict.map((entry) => [entry.name, entry] as const))("[BA14] Ed25519: %s", async (_case, entry) => {
    const verdict = await suite.ed25519.verify(hex(entry.publicKey), hex(entry.message), hex(entry.signature));
    expect(verdict).toBe(entry.valid);
  });

  test("[BA13] Ed25519: RFC 8032 section 7.1", async () => {
    for (const { seed, publicKey, message, signature } of rfc.ed25519) {
      expect(toHex(await suite.ed25519.publicKey(hex(seed)))).toBe(publicKey);
      expect(toHex(await suite.ed25519.sign(hex(seed), hex(message)))).toBe(signature);
      expect(await suite.ed25519.verify(hex(publicKey), hex(message), hex(signature))).toBe(true);
    }
  });

  test("[BA17] X25519: RFC 7748 sections 5.2 and 6.1", async () => {
    for (const { secret, publicKey, shared } of rfc.x25519) {
      expect(toHex((await suite.x25519.sharedSecret(hex(secret), hex(publicKey)))!)).toBe(shared);
    }
    for (const { secret, publicKey } of rfc.x25519PublicKeys) {
      expect(toHex(await suite.x25519.publicKey(hex(secret)))).toBe(publicKey);
    }
  });

  test("[BA11] SHA-256, HMAC, HKDF: FIPS 180-4, RFC 4231, RFC 5869", () => {
    for (const { data, hash } of rfc.sha256) expect(toHex(suite.sha256(hex(data)))).toBe(hash);
    for (const { key, data, mac } of rfc.hmac) expect(toHex(suite.hmac(hex(key), hex(data)))).toBe(mac);
    for (const { ikm, salt, info, okm } of rfc.hkdf) {
      const options = { ikm: hex(ikm), salt: hex(salt), info: hex(info), length: okm.length / 2 };
      expect(toHex(suite.hkdf(options))).toBe(okm);
    }
  });

  test("[BA19] ChaCha20-Poly1305 and AES-256-GCM: RFC 8439, GCM test case 16", async () => {
    for (const name of ["chacha20poly1305", "aes256gcm"] as const) {
      for (const { key, nonce, associatedData, plaintext, sealed } of rfc[name]) {
        const common = { key: hex(key), nonce: hex(nonce), associatedData: hex(associatedData) };
        expect(toHex(await suite[name].seal({ ...common, data: hex(plaintext) }))).toBe(sealed);
        expect(toHex((await suite[name].open({ ...common, data: hex(sealed) }))!)).toBe(plaintext);
      }
    }
  });

  test("[BA25] HPKE: RFC 9180 appendix A.2.1", async () => {
    for (const { info, publicKey, secret, ephemeralSecret, associatedData, plaintext, sealed } of rfc.hpke) {
      const common = { publicKey: hex(publicKey), info: hex(info), associatedData: hex(associatedData) };
      const made = await hpkeSeal(suite, {
        ...common,
        plaintext: hex(plaintext),
        ephemeralSecret: hex(ephemeralSecret),
      });
      expect(toHex(made!)).toBe(sealed);
      const opened = await hpkeOpen(suite, { ...common, secret: hex(secret), sealed: hex(sealed) });
      expect(toHex(opened!)).toBe(plaintext);
    }
  });
});

// The other two suites compute it with noble's very functions.
describe.each(SUITES.filter(([name]) => name === "noble" || name === "webcrypto"))("%s", (_name, suite) => {
  test("[BA18] ML-KEM-768: the accumulated vectors of C2SP/CCTV, 100 rounds", async () => {
    // https://github.com/C2SP/CCTV/tree/main/ML-KEM: inputs from SHAKE-128 of nothing, outputs into another.
    const inputs = shake128.create({});
    const outputs = shake128.create({});
    for (let round = 0; round < 100; round++) {
      const seed = inputs.xof(64);
      const publicKey = await suite.mlkem768.publicKey(seed);
      const made = (await suite.mlkem768.encapsulate(publicKey, inputs.xof(32)))!;
      outputs.update(publicKey).update(made.ciphertext).update(made.sharedSecret);
      expect(await suite.mlkem768.decapsulate(seed, made.ciphertext)).toEqual(made.sharedSecret);
      outputs.update(await suite.mlkem768.decapsulate(seed, inputs.xof(1088)));
    }
    expect(toHex(outputs.xof(32))).toBe(rfc.mlkem768Accumulated100);
  });
});
