import { readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { fromHex, toHex } from "#protocols/base/bytes.ts";
import { decode, encode } from "#protocols/base/codec.ts";
import type { Env } from "#protocols/base/suite.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import {
  accountId,
  accountSecret,
  certificateHash,
  createDevice,
  deviceCertificateSchema,
  deviceKeysSchema,
  type DeviceList,
  deviceListHash,
  deviceListSchema,
  inboxKeys,
  revocationSchema,
  revokeDevice,
  rootSeedFromPhrase,
  safetyCode,
  safetyNumber,
  verifyDeviceList,
} from "./identity.ts";

const suite = synchronousSuite();

/** Bytes that differ at each call and are the same in each run. */
function counted(): (length: number) => Uint8Array {
  let n = 0;
  return (length) => {
    n++;
    return suite.hkdf({ ikm: Uint8Array.of(n >> 8, n & 0xff), info: new Uint8Array(0), length });
  };
}

test("[ID32] vectors: everything from one phrase", async () => {
  const file = new URL("./vectors/identity.json", import.meta.url);
  const phrase = "abandon ".repeat(23) + "art";
  const other = await accountId(suite, new Uint8Array(32).fill(1));
  const root = rootSeedFromPhrase(suite, phrase) as Uint8Array;
  const fixed: Env = { now: 1_790_000_000_000, random: counted(), crypto: suite };
  const device = await createDevice(fixed, root);
  const inbox = await inboxKeys(suite, accountSecret(suite, root));
  const revocation = await revokeDevice(suite, {
    rootSeed: root,
    device: device.certificate.device,
    lastSequence: 300,
    revokedAt: fixed.now + 1,
  });
  const list: DeviceList = {
    account: device.certificate.account,
    certificates: [device.certificate],
    revocations: [revocation],
  };
  const made = {
    phrase,
    rootSeed: toHex(root),
    account: device.certificate.account,
    accountSecret: toHex(accountSecret(suite, root)),
    inbox: {
      id: inbox.id,
      seed: toHex(inbox.seed),
      sealSecret: toHex(inbox.sealSecret),
      sealKey: toHex(inbox.sealKey),
    },
    deviceKeys: toHex(encode(deviceKeysSchema, device)),
    certificate: toHex(encode(deviceCertificateSchema, device.certificate)),
    certificateHash: toHex(certificateHash(suite, device.certificate)),
    revocation: toHex(encode(revocationSchema, revocation)),
    list: toHex(encode(deviceListSchema, list)),
    listHash: toHex(deviceListHash(suite, list)),
    safety: {
      other,
      number: safetyNumber(suite, device.certificate.account, other),
      code: toHex(safetyCode(suite, { self: device.certificate.account, other })),
    },
  };
  const text = `${JSON.stringify(made, null, 1)}\n`;
  if (process.env["SKEIN_WRITE_VECTORS"] === "1") writeFileSync(file, text);
  expect(readFileSync(file, "utf8")).toBe(text);
  const stored = JSON.parse(text) as typeof made;
  expect(await verifyDeviceList(suite, decode(deviceListSchema, fromHex(stored.list)!) as DeviceList)).toEqual(list);
});
