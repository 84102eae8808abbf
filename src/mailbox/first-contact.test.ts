import { describe, expect, test } from "vitest";
import { fromHex, toHex } from "#protocols/base/bytes.ts";
import type { InboxId } from "#protocols/base/ids.ts";
import { isReject, type OrReject } from "#protocols/base/reject.ts";
import { directoryKeys, encodeRecord, makeRecord, type RecordKind } from "#protocols/directory/directory.ts";
import { makeDeposit, makeGrant, makeGrantRevocation } from "#protocols/envelope/envelope.ts";
import { MemoryDisk } from "#src/runtime/memory-store.ts";
import { MailboxClient } from "./client.ts";
import type { MailboxLimits } from "./limits.ts";
import { startMailbox } from "./mailbox.ts";
import { countingRandom, crypto, HandClock, settle, START, Wire } from "./world.fixture.ts";

const random = countingRandom("first contact");
const env = { now: START, random, crypto };
const HOUR = 3_600_000;

async function world(limits: Partial<MailboxLimits> = {}, sync: () => Promise<void> = async () => {}) {
  const wire = new Wire();
  const clock = new HandClock();
  const disk = new MemoryDisk({ sync });
  const network = wire.node("mailbox");
  const start = () =>
    startMailbox({ network, host: disk.attach(), clock, random: countingRandom("mailbox"), crypto, limits });
  const mailbox = await start();
  const client = async (name: string) => {
    const received: { n: number; deposit: Uint8Array }[] = [];
    const one = new MailboxClient({
      network: wire.node(name),
      clock,
      random: countingRandom(name),
      crypto,
      address: "/wire/p2p/mailbox",
      handlers: {
        entries: async () => {},
        seen: () => false,
        custody: () => {},
        rejected: () => {},
        deposits: async (items) => void received.push(...items),
        networkTime: () => {},
        state: () => {},
      },
    });
    one.start();
    await settle();
    return Object.assign(one, { received });
  };
  return { wire, clock, disk, mailbox, client, start };
}

async function owner() {
  const seed = random(32);
  const sealSecret = random(32);
  return {
    id: toHex(await crypto.ed25519.publicKey(seed)) as InboxId,
    seed,
    sealSecret,
    sealKey: await crypto.x25519.publicKey(sealSecret),
  };
}

async function capability() {
  const seed = random(32);
  return { seed, key: await crypto.ed25519.publicKey(seed) };
}

function code(outcome: OrReject<object>): string {
  return isReject(outcome) ? outcome.code : "taken";
}

async function deposit(
  inbox: Awaited<ReturnType<typeof owner>>,
  seed: Uint8Array,
  redeemerSeed = random(32),
): Promise<Uint8Array> {
  const made = await makeDeposit(
    { inbox, capabilitySeed: seed, redeemerSeed, lifetime: "week", payload: random(100) },
    env,
  );
  if (isReject(made)) throw new Error(made.code);
  return made.bytes;
}

describe("inbox", () => {
  test("[SY28] a deposit needs a grant that is known, alive, not revoked and not used up", async () => {
    const { client, clock } = await world();
    const [alice, bob] = [await client("alice"), await client("bob")];
    const [inbox, invite] = [await owner(), await capability()];
    expect(code(await bob.deposit(await deposit(inbox, invite.seed)))).toBe("inbox/unknown-capability");

    const expiresAt = START + 48 * HOUR;
    expect(
      code(await alice.grant(await makeGrant(crypto, inbox, { capability: invite.key, uses: 2, expiresAt }))),
    ).toBe("taken");
    const outcome = await bob.deposit(await deposit(inbox, invite.seed));
    expect(outcome).toEqual({ until: Math.floor(START / HOUR) * HOUR + HOUR + 7 * 24 * HOUR });
    expect(code(await bob.deposit(await deposit(inbox, invite.seed)))).toBe("taken");
    expect(code(await bob.deposit(await deposit(inbox, invite.seed)))).toBe("inbox/used-up");

    const wider = await makeGrant(crypto, inbox, { capability: invite.key, uses: 3, expiresAt });
    expect(code(await alice.grant(wider))).toBe("taken");
    expect(code(await bob.deposit(await deposit(inbox, invite.seed)))).toBe("taken");
    await clock.advance(49 * HOUR);
    expect(code(await bob.deposit(await deposit(inbox, invite.seed)))).toMatch(
      /inbox\/(unknown-capability|grant-expired)/,
    );
  });

  test("[SY29] a revocation holds against the grant too, whichever comes first", async () => {
    const { client } = await world();
    const [alice, bob] = [await client("alice"), await client("bob")];
    const inbox = await owner();
    for (const order of ["grant first", "revocation first"]) {
      const invite = await capability();
      const grant = await makeGrant(crypto, inbox, { capability: invite.key, uses: 9, expiresAt: START + HOUR });
      const revocation = await makeGrantRevocation(crypto, inbox, { capability: invite.key, now: START });
      if (order === "grant first") await alice.grant(grant);
      expect(code(await alice.revokeGrant(revocation))).toBe("taken");
      expect(code(await alice.grant(grant))).toBe("inbox/revoked");
      expect(code(await bob.deposit(await deposit(inbox, invite.seed)))).toBe("inbox/revoked");
    }
  });

  test("[SY30] a redeemer counts once and keeps its last four deposits", async () => {
    const { client } = await world();
    const [alice, bob] = [await client("alice"), await client("bob")];
    const [inbox, invite] = [await owner(), await capability()];
    await alice.grant(await makeGrant(crypto, inbox, { capability: invite.key, uses: 1, expiresAt: START + HOUR }));
    const redeemer = random(32);
    const made = [];
    for (let i = 0; i < 6; i++) made.push(await deposit(inbox, invite.seed, redeemer));
    for (const one of [...made, made[5]!]) expect(code(await bob.deposit(one))).toBe("taken");
    expect(code(await bob.deposit(await deposit(inbox, invite.seed)))).toBe("inbox/used-up");
    alice.openInbox(inbox);
    await settle();
    expect(alice.received.map((item) => toHex(item.deposit))).toEqual(made.slice(2).map(toHex));
  });

  test("[SY31] every device of the owner reads them, now and later, until one removes them", async () => {
    const { client } = await world();
    const [phone, laptop, bob] = [await client("phone"), await client("laptop"), await client("bob")];
    const [inbox, invite] = [await owner(), await capability()];
    await phone.grant(await makeGrant(crypto, inbox, { capability: invite.key, uses: 5, expiresAt: START + HOUR }));
    phone.openInbox(inbox);
    await settle();
    const [first, second] = [await deposit(inbox, invite.seed), await deposit(inbox, invite.seed)];
    await bob.deposit(first);
    await bob.deposit(second);
    await settle();
    expect(phone.received.map((item) => toHex(item.deposit))).toEqual([first, second].map(toHex));
    laptop.openInbox(inbox);
    await settle();
    expect(laptop.received).toEqual(phone.received);
    bob.removeDeposits(inbox.id, [phone.received[0]!.n]);
    phone.removeDeposits(inbox.id, [phone.received[1]!.n]);
    await settle();
    const tablet = await client("tablet");
    tablet.openInbox(inbox);
    await settle();
    expect(tablet.received.map((item) => toHex(item.deposit))).toEqual([toHex(first)]);
  });

  test("[SY31] a reader that comes while a deposit is on its way to the disk gets it afterwards", async () => {
    const slow = { until: Promise.resolve() };
    const { client } = await world({}, () => slow.until);
    const [phone, bob] = [await client("phone"), await client("bob")];
    const [inbox, invite] = [await owner(), await capability()];
    await phone.grant(await makeGrant(crypto, inbox, { capability: invite.key, uses: 5, expiresAt: START + HOUR }));
    const { promise, resolve } = Promise.withResolvers<void>();
    slow.until = promise;
    const outcome = bob.deposit(await deposit(inbox, invite.seed));
    await settle();
    phone.openInbox(inbox);
    await settle();
    expect(phone.received).toEqual([]);
    resolve();
    expect(code(await outcome)).toBe("taken");
    await settle();
    expect(phone.received).toHaveLength(1);
  });

  test("[SY32] a full inbox refuses, and expiry makes room and leaves no row", async () => {
    const { client, clock, disk } = await world({ maxDeposits: 2, maxGrants: 1 });
    const [alice, bob] = [await client("alice"), await client("bob")];
    const [inbox, invite, other] = [await owner(), await capability(), await capability()];
    const expiresAt = START + 20 * 24 * HOUR;
    expect(
      code(await alice.grant(await makeGrant(crypto, inbox, { capability: invite.key, uses: 9, expiresAt }))),
    ).toBe("taken");
    const surplus = await makeGrant(crypto, inbox, { capability: other.key, uses: 9, expiresAt });
    expect(code(await alice.grant(surplus))).toBe("inbox/too-many-grants");
    for (const expected of ["taken", "taken", "inbox/full"]) {
      expect(code(await bob.deposit(await deposit(inbox, invite.seed)))).toBe(expected);
    }
    await clock.advance(9 * 24 * HOUR);
    const later = { ...env, now: clock.now() };
    const made = await makeDeposit(
      { inbox, capabilitySeed: invite.seed, redeemerSeed: random(32), lifetime: "day", payload: random(10) },
      later,
    );
    expect(code(await bob.deposit((made as { bytes: Uint8Array }).bytes))).toBe("taken");
    await clock.advance(20 * 24 * HOUR);
    // What is left: the mailbox's own record, and the inbox's counts at zero.
    expect(disk.contents()).toHaveLength(2);
  });

  test("[SY27] a forged grant, revocation, deposit or inbox proof is refused with its code", async () => {
    const { client } = await world();
    const alice = await client("alice");
    const [inbox, stranger, invite] = [await owner(), await owner(), await capability()];
    const grant = await makeGrant(crypto, inbox, { capability: invite.key, uses: 1, expiresAt: START + HOUR });
    expect(code(await alice.grant({ ...grant, uses: 2 }))).toBe("inbox/bad-grant-signature");
    expect(code(await alice.grant({ ...grant, inbox: stranger.id }))).toBe("inbox/bad-grant-signature");
    const revocation = await makeGrantRevocation(crypto, inbox, { capability: invite.key, now: START });
    expect(code(await alice.revokeGrant({ ...revocation, revokedAt: 1 }))).toBe("inbox/bad-revocation-signature");
    const made = await deposit(inbox, invite.seed);
    made[made.length - 1]! ^= 1;
    expect(code(await alice.deposit(made))).toBe("inbox/bad-redeemer-signature");
    alice.openInbox({ id: inbox.id, seed: stranger.seed });
    await settle();
    expect(alice.received).toEqual([]);
    expect(alice.state()).toBe("open");
  });
});

describe("directory", () => {
  async function records(kinds: readonly RecordKind[]) {
    const keys = await directoryKeys(crypto, random(32));
    const slot = random(16);
    const made = [];
    for (const [i, kind] of kinds.entries()) {
      const expiresAt = START + (24 + i) * HOUR;
      made.push(encodeRecord(await makeRecord({ keys, slot, kind, expiresAt, plaintext: random(50) }, env)));
    }
    return { directory: fromHex(keys.id)!, slot, made };
  }

  test("[SY34] one-time records are handed out once, then the last resort; takes survive a crash", async () => {
    const w = await world();
    const [alice, bob] = [await w.client("alice"), await w.client("bob")];
    const { directory, slot, made } = await records(["one-time", "one-time", "last-resort"]);
    expect(await alice.directoryPut(made)).toMatchObject({ refused: [] });
    expect(await alice.directoryCount(directory)).toMatchObject({ slots: [{ oneTime: 2, lastResort: true }] });
    const take = async () => {
      const taken = await bob.directoryTake(directory, slot);
      return isReject(taken) ? taken.code : taken.records.map(toHex);
    };
    expect(await take()).toEqual([toHex(made[0]!)]);
    w.disk.crash();
    w.wire.cut();
    await w.start();
    await w.clock.advance(2_000);
    expect(await take()).toEqual([toHex(made[1]!)]);
    expect(await take()).toEqual([toHex(made[2]!)]);
    expect(await take()).toEqual([toHex(made[2]!)]);
    expect(await alice.directoryPut([made[0]!])).toMatchObject({ refused: [{ index: 0, code: "directory/spent" }] });
  });

  test("[SY35] each record is judged by itself, and nothing is found in an unknown directory", async () => {
    const { client } = await world();
    const alice = await client("alice");
    const { directory, made } = await records(["one-time", "one-time"]);
    made[1]![made[1]!.length - 1]! ^= 1;
    const outcome = await alice.directoryPut([made[0]!, made[1]!, new Uint8Array(20)]);
    expect(outcome).toMatchObject({ refused: [{ index: 1, code: "directory/bad-signature" }, { index: 2 }] });
    expect(await alice.directoryTake(random(32))).toMatchObject({ records: [] });
    expect(await alice.directoryCount(directory)).toMatchObject({ slots: [{ oneTime: 1, lastResort: false }] });
  });

  test("[SY36] expired records leave the disk", async () => {
    const { client, clock, disk } = await world();
    const alice = await client("alice");
    const { made } = await records(["one-time", "one-time", "last-resort"]);
    await alice.directoryPut(made);
    expect(disk.contents().length).toBeGreaterThan(4);
    await clock.advance(40 * HOUR);
    expect(disk.contents()).toHaveLength(1);
  });

  test("[SY37] a request that is not answered ends with its deadline, and one without a connection at once", async () => {
    const { client, mailbox } = await world();
    const alice = await client("alice");
    const unanswered = alice.directoryTake(random(32));
    alice.stop();
    expect(await unanswered).toEqual({ type: "reject", code: "sync/disconnected" });
    expect(await alice.directoryTake(random(32))).toEqual({ type: "reject", code: "sync/not-open" });
    await mailbox.stop();
  });
});
