import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { fromHex, toHex } from "#protocols/base/bytes.ts";
import { encode } from "#protocols/base/codec.ts";
import type { DeviceId } from "#protocols/base/ids.ts";
import { nobleSuite } from "#protocols/base/noble.ts";
import { isReject, type OrReject } from "#protocols/base/reject.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import {
  decodeRecord,
  directoryKeys,
  EMPTY_SHELF,
  encodeRecord,
  makeRecord,
  openRecord,
  shelfSchema,
  shelfStep,
  slotOf,
  verifyRecord,
} from "./directory.ts";

/** `vitest run -u protocols/directory` writes it anew. It must not change while version 1 of records and shelves lives. */
const FILE = new URL("./vectors/directory.json", import.meta.url);
const NOW = 1_800_000_000_000;
const DEVICE = "d3".repeat(32) as DeviceId;

function accepted<T>(result: OrReject<T>): T {
  if (isReject(result)) throw new Error(result.code);
  return result;
}

async function described() {
  const crypto = synchronousSuite();
  const accountSecret = new Uint8Array(32).fill(0x21);
  const keys = await directoryKeys(crypto, accountSecret);
  const slot = slotOf(crypto, keys, DEVICE);
  const records = [];
  let shelf = EMPTY_SHELF;
  for (const [kind, random] of [
    ["one-time", 1],
    ["last-resort", 2],
  ] as const) {
    const env = { now: NOW, crypto, random: (length: number) => new Uint8Array(length).fill(random) };
    const plaintext = Uint8Array.of(random, 0x77);
    const record = await makeRecord({ keys, slot, kind, expiresAt: NOW + random * 86_400_000, plaintext }, env);
    shelf = accepted(shelfStep(shelf, { type: "put", record }, { now: NOW })).shelf;
    records.push({
      kind,
      random: toHex(Uint8Array.of(random)),
      plaintext: toHex(plaintext),
      wire: toHex(encodeRecord(record)),
    });
  }
  shelf = accepted(shelfStep(shelf, { type: "take" }, { now: NOW })).shelf;
  const { id, seed, sealKey } = keys;
  return {
    accountSecret: toHex(accountSecret),
    keys: { id, seed: toHex(seed), sealKey: toHex(sealKey) },
    device: DEVICE,
    slot: toHex(slot),
    now: NOW,
    records,
    shelfAfterBothPutsAndOneTake: toHex(encode(shelfSchema, shelf)),
  };
}

describe("vectors", () => {
  test("[DI1] [DI3] [DI4] the same inputs give the published bytes", async () => {
    await expect(`${JSON.stringify(await described(), null, 2)}\n`).toMatchFileSnapshot(FILE.pathname);
  });

  test("[DI6] [DI7] published records verify and open in another suite", async () => {
    const crypto = nobleSuite();
    const published = JSON.parse(await readFile(FILE, "utf8")) as Awaited<ReturnType<typeof described>>;
    const access = { id: published.keys.id, sealKey: fromHex(published.keys.sealKey)! };
    expect(published.records).toHaveLength(2);
    for (const { wire, plaintext, kind } of published.records) {
      const record = accepted(decodeRecord(fromHex(wire)!));
      expect(record.kind).toBe(kind);
      expect(await verifyRecord(crypto, record, { now: published.now })).toEqual(record);
      const opened = await openRecord(crypto, access, record, { slot: fromHex(published.slot)! });
      expect(toHex(accepted(opened))).toBe(plaintext);
    }
  });
});
