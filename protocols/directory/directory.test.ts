import { beforeAll, describe, expect, test } from "vitest";
import { concat, toHex } from "#protocols/base/bytes.ts";
import type { DeviceId } from "#protocols/base/ids.ts";
import { isReject, type OrReject } from "#protocols/base/reject.ts";
import type { Env } from "#protocols/base/suite.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import {
  decodeRecord,
  type DirectoryKeys,
  directoryKeys,
  type DirectoryRecord,
  encodeRecord,
  makeRecord,
  MAX_RECORD_BYTES,
  MAX_RECORD_LIFETIME_MS,
  MAX_RECORD_PLAINTEXT_BYTES,
  openRecord,
  slotOf,
  verifyRecord,
} from "./directory.ts";

const LONG = process.env["SKEIN_LONG"] === "1";
const crypto = synchronousSuite();
const NOW = 1_800_000_000_000;
const DAY_MS = 86_400_000;
const DEVICE = "d3".repeat(32) as DeviceId;
const PLAINTEXT = Uint8Array.of(1, 2, 3);

let count = 0;
const env: Env = {
  now: NOW,
  crypto,
  random: (length) => crypto.hkdf({ ikm: Uint8Array.of(7), info: Uint8Array.of(count++), length }),
};

function code(result: OrReject<unknown>): string {
  return isReject(result) ? result.code : "accepted";
}

let keys: DirectoryKeys;
let otherKeys: DirectoryKeys;
let slot: Uint8Array;
let good: DirectoryRecord;

beforeAll(async () => {
  keys = await directoryKeys(crypto, new Uint8Array(32).fill(4));
  otherKeys = await directoryKeys(crypto, new Uint8Array(32).fill(5));
  slot = slotOf(crypto, keys, DEVICE);
  good = await make({});
});

function make(change: Partial<Parameters<typeof makeRecord>[0]>) {
  const options = { keys, slot, kind: "one-time", expiresAt: NOW + 30 * DAY_MS, plaintext: PLAINTEXT } as const;
  return makeRecord({ ...options, ...change }, env);
}

function verified(record: DirectoryRecord, now = NOW) {
  return verifyRecord(crypto, record, { now });
}

describe("directory records", () => {
  test("[DI1] a record passes a mailbox unread and opens for a contact", async () => {
    const received = decodeRecord(encodeRecord(good));
    if (isReject(received)) throw new Error(received.code);
    expect(received).toEqual(good);
    expect(await verified(received)).toEqual(good);
    const access = { id: keys.id, sealKey: keys.sealKey };
    expect(await openRecord(crypto, access, received, { slot })).toEqual(PLAINTEXT);
    expect(toHex(encodeRecord(good))).not.toContain(toHex(PLAINTEXT));
  });

  test("[DI2] the largest record is just within the limit", async () => {
    const largest = await make({ plaintext: new Uint8Array(MAX_RECORD_PLAINTEXT_BYTES), expiresAt: NOW + DAY_MS });
    const wire = encodeRecord(largest);
    expect(wire.length).toBe(MAX_RECORD_BYTES);
    expect(decodeRecord(wire)).toEqual(largest);
    expect(code(decodeRecord(concat(wire, Uint8Array.of(0))))).toBe("directory/too-large");
    await expect(make({ plaintext: new Uint8Array(MAX_RECORD_PLAINTEXT_BYTES + 1) })).rejects.toThrow("record within");
  });

  test("[DI3] the directory's keys come from the account secret and name nobody", async () => {
    expect(await directoryKeys(crypto, new Uint8Array(32).fill(4))).toEqual(keys);
    expect(keys.id).toBe(toHex(await crypto.ed25519.publicKey(keys.seed)));
    expect(new Set([keys.id, otherKeys.id, toHex(keys.sealKey), toHex(keys.seed)]).size).toBe(4);
  });

  test("[DI4] a slot is the same for owner and contacts and differs by device and directory", () => {
    expect(slotOf(crypto, { sealKey: keys.sealKey }, DEVICE)).toEqual(slot);
    expect(slot).toHaveLength(16);
    expect(toHex(slotOf(crypto, otherKeys, DEVICE))).not.toBe(toHex(slot));
    expect(toHex(slotOf(crypto, keys, "d4".repeat(32) as DeviceId))).not.toBe(toHex(slot));
  });

  test("[DI5] no field can be changed by anybody but the account", async () => {
    const changes: Partial<DirectoryRecord>[] = [
      { directory: otherKeys.id === keys.id ? slot : Uint8Array.from(Buffer.from(otherKeys.id, "hex")) },
      { slot: new Uint8Array(16) },
      { kind: "last-resort" },
      { record: new Uint8Array(16) },
      { expiresAt: good.expiresAt + 1 },
      { sealed: concat(good.sealed, Uint8Array.of(0)) },
      { signature: new Uint8Array(64) },
    ];
    for (const change of changes) expect(code(await verified({ ...good, ...change }))).toBe("directory/bad-signature");
    const byStranger = await make({ keys: { ...keys, seed: otherKeys.seed } });
    expect(code(await verified(byStranger))).toBe("directory/bad-signature");
  });

  test("[DI6] expired records and those that would live too long are refused", async () => {
    expect(code(await verified(good, good.expiresAt - 1))).toBe("accepted");
    expect(code(await verified(good, good.expiresAt))).toBe("directory/expired");
    const longest = await make({ expiresAt: NOW + MAX_RECORD_LIFETIME_MS });
    expect(code(await verified(longest))).toBe("accepted");
    expect(code(await verified(longest, NOW - 1))).toBe("directory/too-long");
  });

  test("[DI7] a mailbox cannot answer with another's record, and strangers cannot read one", async () => {
    expect(code(await openRecord(crypto, otherKeys, good))).toBe("directory/wrong-directory");
    expect(code(await openRecord(crypto, keys, good, { slot: new Uint8Array(16) }))).toBe("directory/wrong-slot");
    expect(code(await openRecord(crypto, { ...keys, sealKey: otherKeys.sealKey }, good))).toBe("directory/bad-seal");
    expect(code(await openRecord(crypto, keys, { ...good, kind: "last-resort" }))).toBe("directory/bad-seal");
  });

  test("[DI5] no mutated record is accepted, none throws", async () => {
    const seeds = [encodeRecord(good), encodeRecord(await make({ kind: "last-resort" }))];
    const originals = new Set(seeds.map(toHex));
    for (const mutant of mutations(seeds, LONG ? 100_000 : 2_000, 31)) {
      if (originals.has(toHex(mutant))) continue;
      const record = decodeRecord(mutant);
      if (isReject(record)) continue;
      expect(isReject(await verified(record))).toBe(true);
      const bodyChanged = !seeds.some((seed) => toHex(seed.subarray(0, -64)) === toHex(mutant.subarray(0, -64)));
      expect(bodyChanged && !isReject(await openRecord(crypto, keys, record))).toBe(false);
    }
  });
});
