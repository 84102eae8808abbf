import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { fromHex, toHex } from "#protocols/base/bytes.ts";
import { type AnySchema, decode, encode } from "#protocols/base/codec.ts";
import type { AccountId, DeviceId } from "#protocols/base/ids.ts";
import { isReject, type OrReject } from "#protocols/base/reject.ts";
import { sign } from "#protocols/base/sign.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import {
  acceptsFrom,
  accountId,
  accountSecret,
  certificateHash,
  checkSafetyCode,
  createDevice,
  createPhrase,
  type DeviceCertificate,
  type DeviceKeys,
  type DeviceList,
  deviceCertificateSchema,
  deviceKeysSchema,
  deviceListHash,
  deviceListSchema,
  inboxKeys,
  issueCertificate,
  liveDevices,
  MAX_LISTED_DEVICES,
  MAX_LIVE_DEVICES,
  mergeDeviceLists,
  type Revocation,
  revocationSchema,
  revokeDevice,
  rootSeedFromPhrase,
  safetyCode,
  safetyNumber,
  verifyCertificate,
  verifyDeviceList,
  verifyRevocation,
} from "./identity.ts";

const LONG = process.env["SKEIN_LONG"] === "1";
const MUTANTS = LONG ? 100_000 : 2_000;

const suite: CryptoSuite = synchronousSuite();
const rootSeed = new Uint8Array(32).fill(1);
const otherSeed = new Uint8Array(32).fill(2);

/** Bytes that differ at each call and are the same in each run. */
function counted(): (length: number) => Uint8Array {
  let n = 0;
  return (length) => {
    n++;
    return suite.hkdf({ ikm: Uint8Array.of(n >> 8, n & 0xff), info: new Uint8Array(0), length });
  };
}

const env: Env = { now: 1_790_000_000_000, random: counted(), crypto: suite };

function ok<T>(result: OrReject<T>): T {
  if (isReject(result)) throw new Error(`rejected: ${result.code}`);
  return result;
}

const code = (result: unknown): string | undefined => (isReject(result) ? result.code : undefined);

let account: AccountId;
let keys: DeviceKeys;
/** Twelve devices of one account, and a revocation for each at two sequence numbers. */
let certificates: readonly DeviceCertificate[];
let revocations: readonly (readonly Revocation[])[];
let twin: DeviceCertificate;

beforeAll(async () => {
  account = await accountId(suite, rootSeed);
  keys = await createDevice(env, rootSeed);
  const made: DeviceCertificate[] = [];
  const revoked: Revocation[][] = [];
  for (let n = 0; n < 12; n++) {
    const { certificate } = await createDevice({ ...env, now: env.now + (n % 5) }, rootSeed);
    made.push(certificate);
    const { device } = certificate;
    revoked.push([
      await revokeDevice(suite, { rootSeed, device, lastSequence: 10, revokedAt: env.now }),
      await revokeDevice(suite, { rootSeed, device, lastSequence: 5, revokedAt: env.now + 1 }),
      await revokeDevice(suite, { rootSeed, device, lastSequence: 5, revokedAt: env.now + 2 }),
    ]);
  }
  certificates = made;
  revocations = revoked;
  const { device, createdAt } = made[0]!;
  // Older, and greater as bytes, so that the two halves of ID13 cannot stand in for each other.
  const dhKey = new Uint8Array(32).fill(0xfe);
  twin = await issueCertificate(suite, { rootSeed, device, dhKey, createdAt: createdAt - 1 });
});

function byDevice<T extends { readonly device: DeviceId }>(entries: readonly T[]): readonly T[] {
  return entries.toSorted((a, b) => (a.device < b.device ? -1 : 1));
}

/** Any list over the twelve devices, the first of which has two certificates. */
const lists = fc
  .tuple(
    fc.uniqueArray(fc.nat(11), { maxLength: 12 }),
    fc.uniqueArray(fc.tuple(fc.nat(11), fc.nat(2)), { maxLength: 6, selector: ([n]) => n }),
    fc.boolean(),
  )
  .map(([certified, revoked, second]): DeviceList => ({
    account,
    certificates: byDevice(certified.map((n) => (n === 0 && second ? twin : certificates[n]!))),
    revocations: byDevice(revoked.map(([n, which]) => revocations[n]![which]!)),
  }));

describe("phrase and account keys", () => {
  test("[ID1] 24 words come back to the same seed, however they are typed", () => {
    const { phrase, entropy } = createPhrase(counted());
    expect(phrase.split(" ")).toHaveLength(24);
    expect(entropy).toHaveLength(32);
    const seed = ok(rootSeedFromPhrase(suite, phrase));
    for (const typed of [
      phrase.toUpperCase(),
      `  ${phrase.replaceAll(" ", "\n\t ")} `,
      phrase.replaceAll(" ", "\u3000"),
    ]) {
      expect(rootSeedFromPhrase(suite, typed)).toEqual(seed);
    }
    expect(seed).not.toEqual(entropy);
  });

  test("[ID2] what is wrong with a phrase is told apart", () => {
    const { phrase } = createPhrase(counted());
    const words = phrase.split(" ");
    expect(code(rootSeedFromPhrase(suite, words.slice(1).join(" ")))).toBe("identity/bad-phrase-length");
    expect(code(rootSeedFromPhrase(suite, `${phrase} zoo`))).toBe("identity/bad-phrase-length");
    expect(code(rootSeedFromPhrase(suite, ""))).toBe("identity/bad-phrase-length");
    expect(code(rootSeedFromPhrase(suite, "zoo ".repeat(300)))).toBe("identity/bad-phrase-length");
    expect(code(rootSeedFromPhrase(suite, ["zooo", ...words.slice(1)].join(" ")))).toBe("identity/bad-phrase-word");
    const swapped = words.with(0, words[1]!).with(1, words[0]!);
    expect(swapped).not.toEqual(words);
    expect(code(rootSeedFromPhrase(suite, swapped.join(" ")))).toBe("identity/bad-phrase-checksum");
  });

  test("[ID3] the seed is HKDF of the entropy, not the BIP-39 wallet seed", () => {
    const zeros = `${"abandon ".repeat(23)}art`;
    const info = new TextEncoder().encode("skein/1/root-seed");
    expect(rootSeedFromPhrase(suite, zeros)).toEqual(suite.hkdf({ ikm: new Uint8Array(32), info, length: 32 }));
  });

  test("[ID20] [ID21] all devices of an account derive the same inbox, and no other account does", async () => {
    const secret = accountSecret(suite, rootSeed);
    const inbox = await inboxKeys(suite, secret);
    expect(await inboxKeys(suite, secret.slice())).toEqual(inbox);
    expect(inbox.id).toBe(toHex(await suite.ed25519.publicKey(inbox.seed)));
    expect(inbox.sealKey).toEqual(await suite.x25519.publicKey(inbox.sealSecret));
    const other = await inboxKeys(suite, accountSecret(suite, otherSeed));
    const all = [secret, rootSeed, inbox.seed, inbox.sealSecret, other.seed, other.sealSecret].map(toHex);
    expect(new Set(all).size).toBe(all.length);
  });
});

describe("certificates", () => {
  test("[ID4] [ID6] [ID9] a new device is its account's, and its keys are those of the certificate", async () => {
    const { certificate, signSeed, dhSecret } = keys;
    expect(certificate.account).toBe(account);
    expect(certificate.createdAt).toBe(env.now);
    expect(certificate.device).toBe(toHex(await suite.ed25519.publicKey(signSeed)));
    expect(certificate.dhKey).toEqual(await suite.x25519.publicKey(dhSecret));
    expect(await verifyCertificate(suite, certificate)).toBe(certificate);
    expect(decode(deviceKeysSchema, encode(deviceKeysSchema, keys))).toEqual(keys);
  });

  test("[ID6] any changed field is a bad certificate", async () => {
    const { certificate } = keys;
    const changed: readonly DeviceCertificate[] = [
      { ...certificate, account: await accountId(suite, otherSeed) },
      { ...certificate, device: certificates[0]!.device },
      { ...certificate, dhKey: certificates[0]!.dhKey },
      { ...certificate, createdAt: certificate.createdAt + 1 },
      { ...certificate, signature: certificates[0]!.signature },
    ];
    for (const forged of changed) expect(code(await verifyCertificate(suite, forged))).toBe("identity/bad-certificate");
  });

  test("[ID6] a revocation's signature makes no certificate, nor does a device's", async () => {
    const body = encode(deviceCertificateSchema, keys.certificate).slice(0, -66);
    for (const [context, seed] of [
      ["deviceRevocation", rootSeed],
      ["deviceCertificate", keys.signSeed],
    ] as const) {
      const signature = await sign(suite, context, seed, body);
      expect(code(await verifyCertificate(suite, { ...keys.certificate, signature }))).toBe("identity/bad-certificate");
    }
  });

  test("[ID7] an identity key of small order is refused, even when signed", async () => {
    const dhKey = new Uint8Array(32);
    const certificate = await issueCertificate(suite, {
      rootSeed,
      device: keys.certificate.device,
      dhKey,
      createdAt: 0,
    });
    expect(code(await verifyCertificate(suite, certificate))).toBe("identity/bad-dh-key");
  });

  test("[ID8] the hash covers every byte, the signature too", () => {
    const { certificate } = keys;
    const hash = toHex(certificateHash(suite, certificate));
    const signature = certificate.signature.slice();
    signature[63]! ^= 1;
    expect(toHex(certificateHash(suite, { ...certificate, signature }))).not.toBe(hash);
    expect(toHex(certificateHash(suite, { ...certificate, createdAt: 0 }))).not.toBe(hash);
  });
});

describe("device lists", () => {
  test("[ID10] out of order or with a device twice a list is not decoded, and not verified", async () => {
    const [a, b] = byDevice(certificates.slice(0, 2)) as [DeviceCertificate, DeviceCertificate];
    const good = encode(deviceListSchema, { account, certificates: [a, b], revocations: [] });
    const [rawA, rawB] = [encode(deviceCertificateSchema, a), encode(deviceCertificateSchema, b)];
    const swapped = good.slice();
    const start = good.length - 1 - rawA.length - rawB.length;
    swapped.set(rawB, start);
    swapped.set(rawA, start + rawB.length);
    const twice = good.slice();
    twice.set(rawA, start + rawA.length);
    for (const bad of [swapped, twice]) expect(code(decode(deviceListSchema, bad))).toBe("identity/not-sorted");
    expect(ok(decode(deviceListSchema, good)).certificates).toEqual([a, b]);
    const list: DeviceList = { account, certificates: [b, a], revocations: [] };
    expect(code(await verifyDeviceList(suite, list))).toBe("identity/not-sorted");
    expect(() => encode(deviceListSchema, list)).toThrow();
  });

  test("[ID11] every signature is checked, and every account", async () => {
    const good: DeviceList = {
      account,
      certificates: byDevice(certificates),
      revocations: byDevice(revocations.map((each) => each[0]!)),
    };
    expect(await verifyDeviceList(suite, good)).toBe(good);
    const other = await createDevice(env, otherSeed);
    const foreign = byDevice([...good.certificates, other.certificate]);
    expect(code(await verifyDeviceList(suite, { ...good, certificates: foreign }))).toBe("identity/other-account");
    const forgedCertificate = good.certificates.with(7, { ...good.certificates[7]!, createdAt: 1 });
    expect(code(await verifyDeviceList(suite, { ...good, certificates: forgedCertificate }))).toBe(
      "identity/bad-certificate",
    );
    const forgedRevocation = good.revocations.with(3, { ...good.revocations[3]!, lastSequence: 99 });
    const bad = { ...good, revocations: forgedRevocation };
    expect(code(await verifyDeviceList(suite, bad))).toBe("identity/bad-revocation");
    // What is already known is trusted byte for byte only: the forged entry is still found.
    expect(code(await verifyDeviceList(suite, bad, good))).toBe("identity/bad-revocation");
    expect(code(await verifyDeviceList(suite, { ...good, certificates: forgedCertificate }, good))).toBe(
      "identity/bad-certificate",
    );
  });

  test("[ID11] what stands in a list already verified costs no verification", async () => {
    let asked = 0;
    const counting: CryptoSuite = {
      ...suite,
      ed25519: {
        ...suite.ed25519,
        verify: (...args) => {
          asked++;
          return suite.ed25519.verify(...args);
        },
      },
    };
    const known: DeviceList = { account, certificates: byDevice(certificates.slice(1)), revocations: [] };
    const grown = ok(
      mergeDeviceLists(known, { account, certificates: [certificates[0]!], revocations: [revocations[0]![0]!] }),
    );
    await verifyDeviceList(counting, grown, known);
    expect(asked).toBe(2);
  });

  test("[ID12] at most eight devices are live: the newest, the same at everybody", () => {
    const all: DeviceList = { account, certificates: byDevice(certificates), revocations: [] };
    const live = liveDevices(all);
    expect(live).toHaveLength(MAX_LIVE_DEVICES);
    expect(live).toEqual(byDevice(live));
    const left = certificates.filter((certificate) => !live.includes(certificate));
    const oldestLive = Math.min(...live.map((certificate) => certificate.createdAt));
    for (const certificate of left) expect(certificate.createdAt).toBeLessThanOrEqual(oldestLive);
    const { revocations: none, ...rest } = all;
    const revoked = liveDevices({ ...rest, revocations: [...none, revocations[3]![0]!] });
    expect(revoked.some(({ device }) => device === certificates[3]!.device)).toBe(false);
  });

  test("[ID13] merging is commutative, associative and idempotent, and keeps lists well formed", () => {
    fc.assert(
      fc.property(lists, lists, lists, (a, b, c) => {
        const ab = ok(mergeDeviceLists(a, b));
        expect(ok(mergeDeviceLists(b, a))).toEqual(ab);
        expect(ok(mergeDeviceLists(ab, c))).toEqual(ok(mergeDeviceLists(a, ok(mergeDeviceLists(b, c)))));
        expect(ok(mergeDeviceLists(a, a))).toEqual(a);
        expect(ok(mergeDeviceLists(ab, a))).toEqual(ab);
        expect(decode(deviceListSchema, encode(deviceListSchema, ab))).toEqual(ab);
      }),
      { numRuns: LONG ? 5000 : 100 },
    );
  });

  test("[ID14] merging never revives a device nor lets more of it through", () => {
    fc.assert(
      fc.property(lists, lists, fc.nat(11), fc.nat(12), (a, b, n, sequence) => {
        const merged = ok(mergeDeviceLists(a, b));
        const { device } = certificates[n]!;
        for (const one of [a, b]) {
          const revoked = one.revocations.find((entry) => entry.device === device);
          if (revoked === undefined) continue;
          expect(liveDevices(merged).some((entry) => entry.device === device)).toBe(false);
          expect(acceptsFrom(merged, { device, sequence }) && sequence > revoked.lastSequence).toBe(false);
        }
      }),
      { numRuns: LONG ? 5000 : 200 },
    );
  });

  test("[ID14] of a revoked device counts what it sent up to the last sequence number, of an unknown one nothing", () => {
    const { device } = certificates[0]!;
    const list: DeviceList = { account, certificates: [certificates[0]!], revocations: [] };
    expect(acceptsFrom(list, { device, sequence: 1_000_000 })).toBe(true);
    expect(acceptsFrom(list, { device: certificates[1]!.device, sequence: 0 })).toBe(false);
    const revoked: DeviceList = { ...list, revocations: [revocations[0]![0]!] };
    expect(acceptsFrom(revoked, { device, sequence: 10 })).toBe(true);
    expect(acceptsFrom(revoked, { device, sequence: 11 })).toBe(false);
    // The lower number wins; on a tie one of the two, whichever list is first.
    const [ten, five, alsoFive] = revocations[0]! as [Revocation, Revocation, Revocation];
    const other = ok(mergeDeviceLists(revoked, { ...list, revocations: [five] }));
    expect(other.revocations).toEqual([five]);
    expect(ok(mergeDeviceLists({ ...list, revocations: [alsoFive] }, other))).toEqual(
      ok(mergeDeviceLists(other, { ...list, revocations: [alsoFive] })),
    );
    expect(ten.lastSequence).toBe(10);
  });

  test("[ID13] of two certificates of one device the older counts", () => {
    const device = certificates[0]!;
    const merged = ok(
      mergeDeviceLists(
        { account, certificates: [device], revocations: [] },
        { account, certificates: [twin], revocations: [] },
      ),
    );
    expect(merged.certificates).toEqual([twin]);
  });

  test("[ID15] lists of two accounts, or a union above the bound, are not merged", async () => {
    const other: DeviceList = { account: await accountId(suite, otherSeed), certificates: [], revocations: [] };
    expect(code(mergeDeviceLists({ account, certificates: [], revocations: [] }, other))).toBe(
      "identity/other-account",
    );
    const many = Array.from({ length: MAX_LISTED_DEVICES + 1 }, (_, n) => ({
      ...certificates[0]!,
      device: n.toString(16).padStart(64, "0") as DeviceId,
    }));
    const half = (from: number, to: number): DeviceList => ({
      account,
      certificates: many.slice(from, to),
      revocations: [],
    });
    expect(code(mergeDeviceLists(half(0, 60), half(40, 101)))).toBe("identity/too-many-devices");
    expect(ok(mergeDeviceLists(half(0, 60), half(40, 100))).certificates).toHaveLength(MAX_LISTED_DEVICES);
  });

  test("[ID16] the hash is the version: equal for equal knowledge only", () => {
    fc.assert(
      fc.property(lists, lists, (a, b) => {
        const same = toHex(encode(deviceListSchema, a)) === toHex(encode(deviceListSchema, b));
        expect(toHex(deviceListHash(suite, a)) === toHex(deviceListHash(suite, b))).toBe(same);
      }),
    );
  });
});

describe("safety number", () => {
  test("[ID25] [ID26] [ID27] sixty digits, the same from both sides, others for others", async () => {
    const other = await accountId(suite, otherSeed);
    const number = safetyNumber(suite, account, other);
    expect(number).toMatch(/^(\d{5} ){11}\d{5}$/);
    expect(safetyNumber(suite, other, account)).toBe(number);
    const third = await accountId(suite, new Uint8Array(32).fill(3));
    const [half] = number.split(" ");
    expect(safetyNumber(suite, account, third)).not.toBe(number);
    expect(half).toHaveLength(5);
  });

  test("[ID25] [ID26] digits by another way: BigInt over the iterated hash", async () => {
    const other = await accountId(suite, otherSeed);
    const halves = [account, other].map((one) => {
      const key = fromHex(one)!;
      let hash = suite.sha256(new Uint8Array([...new TextEncoder().encode("skein/1/safety-number"), ...key]));
      for (let round = 2; round <= 1024; round++) hash = suite.sha256(new Uint8Array([...hash, ...key]));
      const groups = Array.from({ length: 6 }, (_, i) => BigInt(`0x${toHex(hash.slice(5 * i, 5 * i + 5))}`) % 100_000n);
      return { hash: toHex(hash), text: groups.map((group) => String(group).padStart(5, "0")).join(" ") };
    });
    const [low, high] = halves.toSorted((a, b) => (a.hash < b.hash ? -1 : 1));
    expect(safetyNumber(suite, account, other)).toBe(`${low!.text} ${high!.text}`);
  });

  test("[ID28] a scanned code tells mine from another's", async () => {
    const other = await accountId(suite, otherSeed);
    const third = await accountId(suite, new Uint8Array(32).fill(3));
    const theirs = safetyCode(suite, { self: other, other: account });
    expect(checkSafetyCode(suite, { self: account, other }, theirs)).toBe(true);
    // My own code shown back to me proves nothing.
    const mine = safetyCode(suite, { self: account, other });
    expect(code(checkSafetyCode(suite, { self: account, other }, mine))).toBe("identity/code-mismatch");
    for (const others of [
      safetyCode(suite, { self: other, other: third }),
      safetyCode(suite, { self: third, other: account }),
    ]) {
      expect(code(checkSafetyCode(suite, { self: account, other }, others))).toBe("identity/code-mismatch");
    }
    expect(code(checkSafetyCode(suite, { self: account, other }, theirs.slice(1)))).toBe("identity/bad-code");
  });
});

describe("bad input", () => {
  test("[ID30] mutated certificates, lists and codes are rejected or are what they say", async () => {
    const list: DeviceList = {
      account,
      certificates: byDevice(certificates.slice(0, 3)),
      revocations: [revocations[1]![0]!],
    };
    const good: readonly [AnySchema, Uint8Array][] = [
      [deviceCertificateSchema, encode(deviceCertificateSchema, keys.certificate)],
      [revocationSchema, encode(revocationSchema, revocations[0]![0]!)],
      [deviceListSchema, encode(deviceListSchema, list)],
      [deviceKeysSchema, encode(deviceKeysSchema, keys)],
    ];
    for (const [schema, bytes] of good) {
      for (const mutant of mutations([bytes], MUTANTS, 41)) {
        const read = decode(schema, mutant);
        if (isReject(read)) continue;
        expect(toHex(encode(schema, read))).toBe(toHex(mutant));
      }
    }
    const self = { self: account, other: await accountId(suite, otherSeed) };
    const mine = safetyCode(suite, self);
    for (const mutant of mutations([mine], 50, 42)) expect(isReject(checkSafetyCode(suite, self, mutant))).toBe(true);
  });

  test("[ID30] no mutant of a signed statement verifies", async () => {
    const certificate = encode(deviceCertificateSchema, keys.certificate);
    const revocation = encode(revocationSchema, revocations[0]![0]!);
    for (const mutant of mutations([certificate], 300, 43)) {
      const read = decode(deviceCertificateSchema, mutant);
      if (isReject(read) || toHex(mutant) === toHex(certificate)) continue;
      expect(isReject(await verifyCertificate(suite, read))).toBe(true);
    }
    for (const mutant of mutations([revocation], 300, 44)) {
      const read = decode(revocationSchema, mutant);
      if (isReject(read) || toHex(mutant) === toHex(revocation)) continue;
      expect(isReject(await verifyRevocation(suite, read))).toBe(true);
    }
  });

  test("[ID31] any text is a phrase or a reject", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 400 }), (text) => {
        expect(isReject(rootSeedFromPhrase(suite, text))).toBe(true);
      }),
    );
  });
});
