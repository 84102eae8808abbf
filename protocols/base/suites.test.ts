import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { concat, fromHex, toHex, utf8 } from "./bytes.ts";
import { HPKE_OVERHEAD, hpkeOpen, hpkeSeal } from "./hpke.ts";
import { Lru } from "./lru.ts";
import { nobleSuite } from "./noble.ts";
import { SIGN_CONTEXTS, type SignContext, sign, verify } from "./sign.ts";
import { synchronousSuite } from "./synchronous.ts";
import type { CryptoSuite } from "./suite.ts";
import { NATIVE_CHACHA_MIN_BYTES, type Subtle, webCryptoSuite } from "./webcrypto.ts";

const RUNS = process.env["SKEIN_LONG"] === "1" ? 200 : 15;

const noble = nobleSuite();
const SUITES: readonly [name: string, crypto: CryptoSuite][] = [
  ["noble", noble],
  ["synchronous", synchronousSuite()],
  ["webcrypto", webCryptoSuite(crypto.subtle)],
  ["webcrypto with nothing native", webCryptoSuite(crypto.subtle, { algorithms: [] })],
];

const octets = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
/** Around the size from which native ChaCha is used, too. */
const data = fc.oneof(
  fc.uint8Array({ maxLength: 200 }),
  fc.constantFrom(-1, 0, 1).map((n) => new Uint8Array(NATIVE_CHACHA_MIN_BYTES + n).fill(7)),
);

describe.each(SUITES)("%s computes the bytes of noble", (_name, suite) => {
  test("[BA10] Ed25519 and X25519", async () => {
    await fc.assert(
      fc.asyncProperty(octets(32), octets(32), data, async (a, b, message) => {
        const publicKey = await suite.ed25519.publicKey(a);
        expect(publicKey).toEqual(await noble.ed25519.publicKey(a));
        const signature = await suite.ed25519.sign(a, message);
        expect(signature).toEqual(await noble.ed25519.sign(a, message));
        expect(await suite.ed25519.verify(publicKey, message, signature)).toBe(true);
        expect(await noble.ed25519.verify(publicKey, message, signature)).toBe(true);
        // Twice: the second verdict may be a remembered one.
        expect(await suite.ed25519.verify(publicKey, message, signature)).toBe(true);
        expect(await suite.ed25519.verify(publicKey, concat(message, b), signature)).toBe(false);
        const theirs = await suite.x25519.publicKey(b);
        expect(theirs).toEqual(await noble.x25519.publicKey(b));
        const shared = await suite.x25519.sharedSecret(a, theirs);
        expect(shared).toEqual(await noble.x25519.sharedSecret(a, theirs));
        expect(shared).toEqual(await suite.x25519.sharedSecret(b, await suite.x25519.publicKey(a)));
      }),
      { numRuns: RUNS },
    );
  });

  test("[BA10] X25519 with any public key, canonical or not", async () => {
    const odd = fc.integer({ min: 0, max: 18 }).chain((n) =>
      fc.constantFrom(0x7f, 0xff).map((top) => {
        const key = new Uint8Array(32).fill(0xff);
        key[0] = 0xed + n;
        key[31] = top;
        return key;
      }),
    );
    await fc.assert(
      fc.asyncProperty(octets(32), fc.oneof(octets(32), odd), async (secret, publicKey) => {
        expect(await suite.x25519.sharedSecret(secret, publicKey)).toEqual(
          await noble.x25519.sharedSecret(secret, publicKey),
        );
      }),
      { numRuns: 2 * RUNS },
    );
  });

  test("[BA10] ML-KEM-768", async () => {
    await fc.assert(
      fc.asyncProperty(octets(64), octets(32), octets(1088), async (seed, randomness, forged) => {
        const publicKey = await suite.mlkem768.publicKey(seed);
        expect(publicKey).toEqual(await noble.mlkem768.publicKey(seed));
        const made = (await suite.mlkem768.encapsulate(publicKey, randomness))!;
        expect(made).toEqual(await noble.mlkem768.encapsulate(publicKey, randomness));
        expect(await suite.mlkem768.decapsulate(seed, made.ciphertext)).toEqual(made.sharedSecret);
        const other = await suite.mlkem768.decapsulate(seed, forged);
        expect(other).toEqual(await noble.mlkem768.decapsulate(seed, forged));
        expect(other).not.toEqual(made.sharedSecret);
      }),
      { numRuns: Math.ceil(RUNS / 3) },
    );
  });

  test.each(["chacha20poly1305", "aes256gcm"] as const)("[BA19] %s", async (name) => {
    await fc.assert(
      fc.asyncProperty(octets(32), octets(12), data, data, fc.nat(), async (key, nonce, plaintext, aad, at) => {
        const associatedData = aad.slice(0, 300);
        const sealed = await suite[name].seal({ key, nonce, data: plaintext, associatedData });
        expect(toHex(sealed)).toBe(toHex(await noble[name].seal({ key, nonce, data: plaintext, associatedData })));
        expect(await suite[name].open({ key, nonce, data: sealed, associatedData })).toEqual(plaintext);
        const forged = sealed.slice();
        forged[at % forged.length]! ^= 1;
        expect(await suite[name].open({ key, nonce, data: forged, associatedData })).toBeUndefined();
        expect(await suite[name].open({ key, nonce, data: sealed, associatedData: concat(aad, key) })).toBeUndefined();
        expect(await suite[name].open({ key, nonce, data: sealed.slice(0, 15) })).toBeUndefined();
        expect(toHex(await suite[name].seal({ key, nonce, data: plaintext }))).toBe(
          toHex(await suite[name].seal({ key, nonce, data: plaintext, associatedData: new Uint8Array(0) })),
        );
      }),
      { numRuns: RUNS },
    );
  });

  test("[BA17] a public key of small order, or of another length, gives no shared secret", async () => {
    const small = [
      "0000000000000000000000000000000000000000000000000000000000000000",
      "0100000000000000000000000000000000000000000000000000000000000000",
      "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
      "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
      "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
      "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
      "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ].map((text) => fromHex(text)!);
    const secret = new Uint8Array(32).fill(9);
    for (const key of small) {
      const highBit = key.slice();
      highBit[31]! |= 0x80;
      expect(await suite.x25519.sharedSecret(secret, key)).toBeUndefined();
      expect(await suite.x25519.sharedSecret(secret, highBit)).toBeUndefined();
    }
    expect(await suite.x25519.sharedSecret(secret, new Uint8Array(31).fill(5))).toBeUndefined();
  });

  test("[BA18] an encapsulation key above the modulus, or of another length, is refused", async () => {
    const good = await suite.mlkem768.publicKey(new Uint8Array(64).fill(1));
    const randomness = new Uint8Array(32).fill(2);
    const even = good.slice();
    even.set([0x01, (good[1]! & 0xf0) | 0x0d], 0);
    const odd = good.slice();
    odd.set([(good[1]! & 0x0f) | 0x10, 0xd0], 1);
    const last = good.slice();
    last[1151] = 0xff;
    for (const bad of [even, odd, last, good.slice(1), concat(good, good)]) {
      expect(await suite.mlkem768.encapsulate(bad, randomness)).toBeUndefined();
    }
    // 3,328 is the last coefficient below the modulus.
    const highest = good.slice();
    highest.set([0x00, (good[1]! & 0xf0) | 0x0d], 0);
    expect(await suite.mlkem768.encapsulate(highest, randomness)).toBeDefined();
  });

  test("[BA21] wrong lengths of our own are a programmer's mistake", async () => {
    const short = new Uint8Array(31).fill(1);
    const nonce = new Uint8Array(12);
    await expect(suite.ed25519.publicKey(short)).rejects.toThrow();
    await expect(suite.ed25519.sign(short, nonce)).rejects.toThrow();
    await expect(suite.x25519.publicKey(short)).rejects.toThrow();
    await expect(suite.x25519.sharedSecret(short, new Uint8Array(32).fill(9))).rejects.toThrow();
    await expect(suite.mlkem768.publicKey(short)).rejects.toThrow();
    await expect(suite.mlkem768.decapsulate(new Uint8Array(64), short)).rejects.toThrow();
    for (const name of ["chacha20poly1305", "aes256gcm"] as const) {
      for (const data of [nonce, new Uint8Array(NATIVE_CHACHA_MIN_BYTES + 16)]) {
        await expect(suite[name].seal({ key: short, nonce, data })).rejects.toThrow();
        await expect(
          suite[name].open({ key: new Uint8Array(32), nonce: short, data: concat(data, data) }),
        ).rejects.toThrow();
      }
    }
    expect(() => suite.hkdf({ ikm: short, info: short, length: 8161 })).toThrow();
  });

  test("[BA22] zeroing a secret or a result changes no later answer", async () => {
    const seed = new Uint8Array(32).fill(3);
    const expected = toHex(await noble.ed25519.publicKey(seed));
    const first = await suite.ed25519.publicKey(seed);
    first.fill(0);
    expect(toHex(await suite.ed25519.publicKey(seed))).toBe(expected);
    const message = utf8("m");
    const before = await suite.ed25519.sign(seed, message);
    seed.fill(4);
    expect(await suite.ed25519.sign(seed, message)).not.toEqual(before);
    expect(await suite.ed25519.sign(seed, message)).toEqual(
      await noble.ed25519.sign(new Uint8Array(32).fill(4), message),
    );

    const [mine, theirs] = [new Uint8Array(32).fill(5), new Uint8Array(32).fill(6)];
    const agree = async (): Promise<Uint8Array> =>
      (await suite.x25519.sharedSecret(mine, await suite.x25519.publicKey(theirs)))!;
    const shared = toHex(await agree());
    (await suite.x25519.publicKey(theirs)).fill(0);
    (await agree()).fill(0);
    expect(toHex(await agree())).toBe(shared);
    mine.fill(7);
    expect(toHex(await agree())).not.toBe(shared);
  });
});

describe("sign", () => {
  const seed = new Uint8Array(32).fill(7);
  const contexts = Object.keys(SIGN_CONTEXTS) as SignContext[];

  test("[BA20] a signature of one context passes for no other", async () => {
    const publicKey = await noble.ed25519.publicKey(seed);
    const message = utf8("the same bytes");
    const verifier = webCryptoSuite(crypto.subtle);
    for (const made of contexts) {
      const signature = await sign(verifier, made, seed, message);
      for (const asked of contexts) {
        expect(await verify(verifier, asked, { publicKey, message, signature })).toBe(made === asked);
      }
    }
  });

  test("[BA20] context names are distinct, short and none begins another with its length", () => {
    const names = Object.values(SIGN_CONTEXTS);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(utf8(name).length).toBeLessThan(256);
  });
});

describe("HPKE", () => {
  const secret = new Uint8Array(32).fill(5);
  const ephemeralSecret = new Uint8Array(32).fill(6);
  const info = utf8("info");
  const associatedData = utf8("aad");
  let publicKey: Uint8Array;
  let sealed: Uint8Array;
  beforeAll(async () => {
    publicKey = await noble.x25519.publicKey(secret);
    sealed = (await hpkeSeal(noble, { publicKey, info, associatedData, plaintext: utf8("hello"), ephemeralSecret }))!;
  });

  test("[BA25] opens for its recipient alone, with its info and associated data alone", async () => {
    const right = { secret, publicKey, info, associatedData, sealed };
    expect(sealed.length).toBe(5 + HPKE_OVERHEAD);
    expect(await hpkeOpen(noble, right)).toEqual(utf8("hello"));
    const other = new Uint8Array(32).fill(8);
    const wrong = [
      { ...right, secret: other, publicKey: await noble.x25519.publicKey(other) },
      { ...right, publicKey: await noble.x25519.publicKey(other) },
      { ...right, info: utf8("Info") },
      { ...right, associatedData: utf8("AAD") },
    ];
    for (const options of wrong) expect(await hpkeOpen(noble, options)).toBeUndefined();
  });

  test("[BA27] every changed, shortened or lengthened byte is refused", async () => {
    for (let at = 0; at < sealed.length; at++) {
      const forged = sealed.slice();
      forged[at]! ^= 0x10;
      expect(await hpkeOpen(noble, { secret, publicKey, info, associatedData, sealed: forged })).toBeUndefined();
    }
    for (const length of [0, 31, 32, HPKE_OVERHEAD - 1, sealed.length - 1]) {
      const cut = sealed.slice(0, length);
      expect(await hpkeOpen(noble, { secret, publicKey, info, associatedData, sealed: cut })).toBeUndefined();
    }
    const longer = concat(sealed, Uint8Array.of(0));
    expect(await hpkeOpen(noble, { secret, publicKey, info, associatedData, sealed: longer })).toBeUndefined();
  });

  test("[BA28] a recipient's key of small order, or an ephemeral one, is refused", async () => {
    const small = new Uint8Array(32);
    expect(
      await hpkeSeal(noble, { publicKey: small, info, associatedData, plaintext: info, ephemeralSecret }),
    ).toBeUndefined();
    const forged = sealed.slice();
    forged.fill(0, 0, 32);
    expect(await hpkeOpen(noble, { secret, publicKey, info, associatedData, sealed: forged })).toBeUndefined();
  });
});

test("[BA23] the synchronous suite is done before its promise exists", async () => {
  const suite = synchronousSuite();
  const seed = new Uint8Array(32).fill(1);
  const order: string[] = [];
  // Three promises of very different work, asked for in this order, settle in this order and in one turn of microtasks.
  void suite.mlkem768.publicKey(new Uint8Array(64)).then(() => order.push("kem"));
  void suite.ed25519.sign(seed, seed).then(() => order.push("sign"));
  void suite.chacha20poly1305.seal({ key: seed, nonce: seed.slice(0, 12), data: seed }).then(() => order.push("seal"));
  await Promise.resolve();
  expect(order).toEqual(["kem", "sign", "seal"]);
});

test("[BA24] a cache forgets what was used longest ago and never grows", () => {
  const cache = new Lru<number, string>(2);
  cache.set(1, "a");
  cache.set(2, "b");
  expect(cache.get(1)).toBe("a");
  cache.set(3, "c");
  expect([cache.get(1), cache.get(2), cache.get(3), cache.size]).toEqual(["a", undefined, "c", 2]);
  for (let n = 0; n < 100; n++) cache.set(n, "x");
  expect(cache.size).toBe(2);
});

describe("native algorithms", () => {
  /** The real SubtleCrypto, with calls counted and some of them answered otherwise. */
  function platform(answer: (method: string, algorithm: string) => "as is" | "missing" | "random") {
    const calls = new Map<string, number>();
    const subtle = new Proxy(crypto.subtle, {
      get(target, method: string) {
        return async (...args: unknown[]) => {
          const named = args.find((arg) => typeof (arg as { name?: unknown })?.name === "string") as { name: string };
          const algorithm = named?.name ?? "";
          const reply = answer(method, algorithm);
          if (reply === "missing") throw new DOMException("not here", "NotSupportedError");
          calls.set(`${method} ${algorithm}`, (calls.get(`${method} ${algorithm}`) ?? 0) + 1);
          const result = await (target as unknown as Record<string, (...all: unknown[]) => unknown>)[method]!(...args);
          if (reply === "random" && result instanceof ArrayBuffer) crypto.getRandomValues(new Uint8Array(result));
          return result;
        };
      },
    }) as unknown as Subtle;
    return { subtle, calls };
  }
  const seed = new Uint8Array(32).fill(3);
  const big = new Uint8Array(NATIVE_CHACHA_MIN_BYTES);
  const nonce = new Uint8Array(12);

  async function exercise(suite: CryptoSuite): Promise<string[]> {
    const signature = await suite.ed25519.sign(seed, seed);
    const publicKey = await suite.ed25519.publicKey(seed);
    const dh = await suite.x25519.publicKey(seed);
    const kemSeed = new Uint8Array(64).fill(2);
    const kem = (await suite.mlkem768.encapsulate(await suite.mlkem768.publicKey(kemSeed), seed))!;
    return [
      toHex(signature),
      String(await suite.ed25519.verify(publicKey, seed, signature)),
      toHex((await suite.x25519.sharedSecret(seed, dh))!),
      toHex(await suite.mlkem768.decapsulate(kemSeed, kem.ciphertext)),
      toHex(await suite.aes256gcm.seal({ key: seed, nonce, data: big })),
      toHex(await suite.chacha20poly1305.seal({ key: seed, nonce, data: big })),
    ];
  }

  test("[BA11] are really used here: a silent fallback would only be slow", async () => {
    const { subtle, calls } = platform(() => "as is");
    await exercise(webCryptoSuite(subtle));
    // One call by the known answer, one by us.
    for (const call of [
      "sign Ed25519",
      "verify Ed25519",
      "deriveBits X25519",
      "decapsulateBits ML-KEM-768",
      "encrypt AES-GCM",
      "encrypt ChaCha20-Poly1305",
    ]) {
      expect([call, Math.min(2, calls.get(call) ?? 0)]).toEqual([call, 2]);
    }
  });

  test("[BA11] one call an operation once keys are known, and the question is asked once", async () => {
    const { subtle, calls } = platform(() => "as is");
    const suite = webCryptoSuite(subtle);
    const publicKey = await suite.ed25519.publicKey(seed);
    const signature = await suite.ed25519.sign(seed, seed);
    await suite.ed25519.verify(publicKey, seed, signature);
    calls.clear();
    for (let n = 0; n < 5; n++) {
      await suite.ed25519.sign(seed, seed);
      await suite.ed25519.verify(publicKey.slice(), seed, signature);
    }
    expect(Object.fromEntries(calls)).toEqual({ "sign Ed25519": 5, "verify Ed25519": 5 });
  });

  test("[BA11] small ChaCha, hashes and encapsulation never leave JavaScript", async () => {
    const { subtle, calls } = platform(() => "as is");
    const suite = webCryptoSuite(subtle);
    const sealed = await suite.chacha20poly1305.seal({ key: seed, nonce, data: big.slice(1) });
    await suite.chacha20poly1305.open({ key: seed, nonce, data: sealed });
    await suite.mlkem768.encapsulate(await noble.mlkem768.publicKey(new Uint8Array(64)), seed);
    expect(calls.size).toBe(0);
  });

  test.each(["X25519", "Ed25519", "ML-KEM-768", "AES-GCM", "ChaCha20-Poly1305"])(
    "[BA12] without %s noble computes the same",
    async (missing) => {
      const { subtle } = platform((_method, algorithm) => (algorithm === missing ? "missing" : "as is"));
      expect(await exercise(webCryptoSuite(subtle))).toEqual(await exercise(noble));
    },
  );

  test("[BA13] a platform that signs with randomness is not asked to sign", async () => {
    const { subtle } = platform((method) => (method === "sign" ? "random" : "as is"));
    expect(await exercise(webCryptoSuite(subtle))).toEqual(await exercise(noble));
  });

  test("[BA12] a platform whose answers are wrong is not used", async () => {
    const { subtle } = platform((method) => (/deriveBits|encrypt|decapsulateBits/.test(method) ? "random" : "as is"));
    expect(await exercise(webCryptoSuite(subtle))).toEqual(await exercise(noble));
  });

  test("[BA11] concurrent first uses ask once and agree", async () => {
    const { subtle, calls } = platform(() => "as is");
    const suite = webCryptoSuite(subtle);
    const answers = await Promise.all(Array.from({ length: 10 }, () => suite.ed25519.sign(seed.slice(), seed)));
    expect(new Set(answers.map(toHex)).size).toBe(1);
    expect(calls.get("verify Ed25519")).toBe(2);
  });
});
