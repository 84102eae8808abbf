import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { toHex } from "#protocols/base/bytes.ts";
import type { EnvelopeId, InboxId, LogId, TopicId } from "#protocols/base/ids.ts";
import {
  type EnvelopeInfo,
  inspectEnvelope,
  MAX_DEPOSIT_BYTES,
  MAX_ENVELOPE_BYTES as SEALED_BYTES,
} from "#protocols/envelope/envelope.ts";
import { MAX_RECORD_BYTES as RECORD_BYTES, MAX_SLOTS as SHELF_SLOTS } from "#protocols/directory/directory.ts";
import { MAX_ENVELOPE_BYTES, MAX_RECORD_BYTES, MAX_SLOTS } from "#protocols/sync/limits.ts";
import { fill, idOf } from "#protocols/sync/frames.fixture.ts";
import { encode } from "#protocols/base/codec.ts";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Failure } from "#src/runtime/failure.ts";
import type { Store, StoreHost } from "#src/runtime/ports.ts";
import { MAILBOX_LIMITS } from "./limits.ts";
import { EnvelopeLog, type Stored } from "./log.ts";
import {
  expirySchema,
  grantSchema,
  inboxSchema,
  keys,
  knownSchema,
  metaSchema,
  position,
  readPosition,
  redeemerSchema,
  usageSchema,
} from "./rows.ts";
import { Shelves } from "./shelves.ts";
import { countingRandom, crypto, envelopeMaker, makeTopic } from "./world.fixture.ts";

const PINNED = new URL("./fixtures/rows.json", import.meta.url);

describe("rows", () => {
  test("the bytes on the disk are those of earlier versions", () => {
    const topic = idOf<TopicId>(1);
    const inbox = idOf<InboxId>(2);
    const id = idOf<EnvelopeId>(3);
    const [capability, redeemer, directory] = [fill(4), fill(5), fill(6)];
    const log = idOf<LogId>(9, 16);
    const rows = {
      "meta key": keys.meta,
      meta: encode(metaSchema, { version: 1, log, clean: true, next: 70_000, bytes: 1234, custodySeed: fill(7) }),
      "envelope key": keys.envelope(topic, 2 ** 40 + 5),
      "known key": keys.known(id),
      known: encode(knownSchema, { n: 5, until: 500_000 }),
      "usage key": keys.usage(topic),
      usage: encode(usageSchema, { count: 3, bytes: 900 }),
      "expiry key": keys.expiry(500_000, 5),
      "expiry of an envelope": encode(expirySchema, { type: "envelope", topic, id, n: 5, size: 300 }),
      "expiry of a memory": encode(expirySchema, { type: "memory", id }),
      "expiry of a deposit": encode(expirySchema, { type: "deposit", inbox, n: 6, size: 300 }),
      "expiry of a grant": encode(expirySchema, { type: "grant", inbox, capability }),
      "expiry of a redeemer": encode(expirySchema, { type: "redeemer", inbox, capability, redeemer }),
      "expiry of a shelf": encode(expirySchema, { type: "shelf", directory }),
      "grant key": keys.grant(inbox, capability),
      grant: encode(grantSchema, {
        uses: 9,
        used: 2,
        expiresAt: 1_800_000_000_000,
        keepUntil: 1_800_000_000_001,
        revoked: false,
      }),
      "redeemer key": keys.redeemer(inbox, capability, redeemer),
      redeemer: encode(redeemerSchema, { deposits: [{ id, n: 6, size: 300, expiresAt: 1_800_000_000_000 }] }),
      "deposit key": keys.deposit(inbox, 6),
      "inbox key": keys.inbox(inbox),
      inbox: encode(inboxSchema, { grants: 1, deposits: 2, bytes: 600 }),
      "shelf key": keys.shelf(directory),
      "record key": keys.record(directory, fill(8, 16)),
    };
    const found = Object.fromEntries(Object.entries(rows).map(([name, row]) => [name, toHex(row)]));
    if (process.env["SKEIN_WRITE_VECTORS"] === "1") writeFileSync(PINNED, `${JSON.stringify(found, null, 2)}\n`);
    expect(found).toEqual(JSON.parse(readFileSync(PINNED, "utf8")));
  });

  test("positions sort as their keys do", () => {
    const values = [0, 1, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, 2 ** 48 - 1];
    expect(values.map((value) => readPosition(position(value)))).toEqual(values);
    expect(values.map((value) => toHex(position(value))).toSorted()).toEqual(
      values.map((value) => toHex(position(value))),
    );
  });

  test("[SY3] the stream's limits hold what the protocols make", () => {
    expect(MAX_ENVELOPE_BYTES).toBeGreaterThanOrEqual(Math.max(SEALED_BYTES, MAX_DEPOSIT_BYTES));
    expect(MAX_RECORD_BYTES).toBeGreaterThanOrEqual(RECORD_BYTES);
    expect(MAX_SLOTS).toBeGreaterThanOrEqual(SHELF_SLOTS);
  });
});

describe("on LevelDB", () => {
  let openings = 0;

  async function open(host: StoreHost) {
    const stored: Stored[] = [];
    const failures: unknown[] = [];
    const shelves = await Shelves.open({
      host,
      random: countingRandom(`opening ${openings++}`),
      crypto,
      limits: MAILBOX_LIMITS,
      onFailure: (failure) => failures.push(failure),
    });
    return { shelves, stored, failures, log: new EnvelopeLog(shelves, (entries) => stored.push(...entries)) };
  }

  test("[SY10] the log is read back in order, by topic, in batches, over restarts", async () => {
    const dir = await mkdtemp(join(tmpdir(), "skein-mailbox-"));
    try {
      const seal = envelopeMaker(countingRandom("level"));
      const [one, two] = [await makeTopic("one"), await makeTopic("two")];
      let mailbox = await open(levelStoreHost(dir));
      const made: string[] = [];
      const appended: Promise<unknown>[] = [];
      for (let i = 0; i < 30; i++) {
        const topic = i % 3 === 0 ? two : one;
        const { bytes, id } = await seal(topic);
        if (topic === one) made.push(id);
        appended.push(mailbox.log.append(inspectEnvelope(crypto, bytes) as EnvelopeInfo, bytes, undefined));
      }
      await Promise.all(appended);
      expect(mailbox.stored).toHaveLength(30);
      expect(mailbox.stored.map(({ n }) => n)).toEqual(mailbox.stored.map((_, i) => i + 1));
      const before = mailbox.shelves.log;
      await mailbox.shelves.close();
      mailbox = await open(levelStoreHost(dir));
      expect(mailbox.shelves.log).toBe(before);
      const found: string[] = [];
      for (let after = 0, end = false; !end;) {
        const batch = await mailbox.log.read(one.id, after, 2_000);
        found.push(...batch.items.map(({ envelope }) => (inspectEnvelope(crypto, envelope) as EnvelopeInfo).id));
        expect(batch.items.length).toBeLessThan(10);
        end = batch.end;
        after = end ? batch.upTo : batch.items.at(-1)!.n;
      }
      expect(found).toEqual(made);
      await mailbox.shelves.close();
    } finally {
      await rm(dir, { recursive: true });
    }
  });

  test("[SY19] after a failed commit nothing is written any more and every waiter hears it", async () => {
    const dir = await mkdtemp(join(tmpdir(), "skein-mailbox-"));
    try {
      const host = levelStoreHost(dir);
      let broken = false;
      const breaking: StoreHost = {
        open: async () => {
          const store = await host.open();
          const commit: Store["commit"] = (operations) =>
            broken ? Promise.reject(new Failure("store/failed", "planned")) : store.commit(operations);
          return {
            get: (key) => store.get(key),
            entries: (range) => store.entries(range),
            compact: () => store.compact(),
            close: () => store.close(),
            commit,
          };
        },
      };
      const mailbox = await open(breaking);
      const topic = await makeTopic("one");
      const seal = envelopeMaker(countingRandom("failing"));
      broken = true;
      const sealed = await Promise.all([seal(topic), seal(topic), seal(topic)]);
      const outcomes = await Promise.allSettled(
        sealed.map(({ bytes }) => mailbox.log.append(inspectEnvelope(crypto, bytes) as EnvelopeInfo, bytes, undefined)),
      );
      expect(outcomes.map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected"]);
      expect(mailbox.failures).toHaveLength(1);
      expect(mailbox.stored).toEqual([]);
      broken = false;
      await expect(mailbox.shelves.commits.write([])).rejects.toMatchObject({ code: "store/failed" });
      await mailbox.shelves.store.close();
    } finally {
      await rm(dir, { recursive: true });
    }
  });
});
