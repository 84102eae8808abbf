/** The roots of a conversation: replaced weekly by both at once, heard long enough, believed only when heard. */
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { equalBytes, toHex } from "#protocols/base/bytes.ts";
import { isReject } from "#protocols/base/reject.ts";
import { type ConversationRoot, openRoot, PERIOD_MS, rootHash } from "#protocols/envelope/envelope.ts";
import { seededRandom } from "#protocols/handshake/device-kit.ts";
import { forgetPeriods } from "./direct.ts";
import { codeOf, crypto, DAY_MS, type Device, HOUR_MS, makeHousehold, must, START } from "./households.fixture.ts";
import {
  acceptableRoot,
  activateRoots,
  adoptRoot,
  advanceRoots,
  MAX_ROOTS,
  MAX_VERSION_JUMP,
  mergeRoots,
  rootDue,
  type Roots,
  SUPERSEDED_MS,
  writingRoot,
} from "./roots.ts";
import { STORM, Village, agreement } from "./village.fixture.ts";

const RUNS = process.env["SKEIN_LONG"] ? 100 : 1;

const root = (n: number, version = 0, createdAt = START): ConversationRoot => ({
  version,
  secret: new Uint8Array(32).fill(n),
  createdAt,
});
const [own, other, theirs] = ["aa", "bb", "cc"].map((text) => text.repeat(32) as Device["id"]) as [
  Device["id"],
  Device["id"],
  Device["id"],
];
const broughtBy = { device: theirs, index: 1 };
const active = (roots: Roots, ...more: readonly ConversationRoot[]): Roots =>
  more.reduce((all, each) => adoptRoot(crypto, all, { root: each, proposedIn: 0, broughtBy }, START), roots);
const hashOf = (roots: Roots): string => toHex(writingRoot(roots)!.chain.rootHash);

describe("a set of roots", () => {
  it("[CV71] the higher version is written on, and of one version the lower hash, in any order of arrival", () => {
    const [a, b, c] = [root(1), root(2), root(3, 1)];
    const lower = [a, b].map((each) => toHex(rootHash(crypto, each))).toSorted()[0];
    expect(hashOf(active([], a, b))).toBe(lower);
    expect(hashOf(active([], b, a))).toBe(lower);
    expect(hashOf(active([], c, a, b))).toBe(toHex(rootHash(crypto, c)));
    expect(hashOf(active([], a, b, c))).toBe(toHex(rootHash(crypto, c)));
  });

  it("[CV72] one that lost is heard for two periods", () => {
    const roots = active([], root(1), root(2, 1));
    const heard = (now: number) => advanceRoots(crypto, roots, now).length;
    expect(SUPERSEDED_MS).toBe(2 * PERIOD_MS);
    expect(heard(START + SUPERSEDED_MS - 1)).toBe(2);
    expect(heard(START + SUPERSEDED_MS)).toBe(1);
  });

  it("[CV73] a proposal is written on once its event has been receipted", () => {
    const old = active([], root(1));
    const proposed = adoptRoot(
      crypto,
      old,
      { root: root(2, 1), proposedIn: 7, broughtBy: { device: own, index: 7 } },
      START,
    );
    expect(hashOf(proposed)).toBe(hashOf(old));
    expect(activateRoots(proposed, (_device, index) => index < 7, START)).toBe(proposed);
    const heard = activateRoots(proposed, (device, index) => index === 7 && device === own, START + 5);
    expect(hashOf(heard)).toBe(toHex(rootHash(crypto, root(2, 1))));
    expect(heard.find(({ supersededAt }) => supersededAt > 0)?.supersededAt).toBe(START + 5);
  });

  it("[CV53, CV73] another own device's proposal waits for its receipt; what is active for one is active", () => {
    const old = active([], root(1));
    const told = adoptRoot(
      crypto,
      old,
      { root: root(2, 1), proposedIn: 3, broughtBy: { device: other, index: 3 } },
      START,
    );
    expect(hashOf(told)).toBe(hashOf(old));
    expect(hashOf(activateRoots(told, (device, index) => index === 3 && device === other, START))).not.toBe(
      hashOf(old),
    );
    expect(hashOf(mergeRoots(told, active([], root(2, 1)), START))).not.toBe(hashOf(old));
    expect(mergeRoots(told, told, START)).toEqual(told);
  });

  it("[CV70] at most eight, the best", () => {
    const many = Array.from({ length: 12 }, (_, i) => root(i, i));
    const roots = active([], ...many);
    expect(roots).toHaveLength(MAX_ROOTS);
    expect(roots.map(({ chain }) => chain.version)).toEqual([11, 10, 9, 8, 7, 6, 5, 4]);
  });

  it("[CV74] is due after a week or a revocation, unless a proposal is out; one from the future waits for nobody", () => {
    const roots = active([], root(1));
    expect(rootDue(roots, START + PERIOD_MS - 1)).toBe(false);
    expect(rootDue(roots, START + PERIOD_MS)).toBe(true);
    expect(rootDue(roots, START + 9, START + 8)).toBe(true);
    expect(rootDue(roots, START + 7, START + 8)).toBe(false);
    const out = adoptRoot(
      crypto,
      roots,
      { root: root(2, 1, START + PERIOD_MS), proposedIn: 4, broughtBy: { device: own, index: 4 } },
      START + PERIOD_MS,
    );
    expect(rootDue(out, START + PERIOD_MS)).toBe(false);
    expect(rootDue(out, START + PERIOD_MS - 2 * DAY_MS, START + DAY_MS)).toBe(true);
  });

  it("[CV76] a version may rise by a thousand at once, not by four billion", () => {
    const roots = active([], root(1, 5));
    const check = (version: number) => acceptableRoot(roots, root(2, version), { now: START });
    expect(isReject(check(5 + MAX_VERSION_JUMP))).toBe(false);
    expect(codeOf(check(6 + MAX_VERSION_JUMP))).toBe("conversation/root-version");
    expect(codeOf(acceptableRoot(roots, root(2, 6, START + 2 * DAY_MS), { now: START }))).toBe(
      "envelope/root-from-the-future",
    );
  });

  it("[CV70] what is heard is kept as a chain: the root itself goes with its first period", () => {
    const roots = active([], root(1));
    expect(roots[0]?.root).toBeDefined();
    const later = advanceRoots(crypto, roots, START + 2 * PERIOD_MS);
    expect(later[0]?.root).toBeUndefined();
    expect(later[0]!.chain.period).toBe(openRoot(crypto, root(1)).period + 2);
    expect(advanceRoots(crypto, later, START)).toBe(later);
  });
});

describe("two people's roots", () => {
  let contacts: readonly Device[];
  let extra: readonly Device[];

  beforeAll(async () => {
    const [ann, bob] = [await makeHousehold("ann", 2, "roots ann"), await makeHousehold("bob", 2, "roots bob")];
    contacts = [...ann, bob[0]!];
    extra = [bob[1]!];
    const [a1, , b1] = contacts as [Device, Device, Device];
    const village = new Village([...contacts, ...extra], { seed: 1 });
    must(await b1.redeem(await a1.invite()));
    await village.run(HOUR_MS);
    await village.heal();
  });

  function fresh(seed: string) {
    const all = [...contacts, ...extra].map((device) => device.clone(seededRandom(crypto, `${seed} ${device.name}`)));
    const [a1, a2, b1] = all as [Device, Device, Device];
    return { a1, a2, b1, all, a: a1.account.id, b: b1.account.id, village: new Village(all, { seed: 9 }) };
  }

  it("[CV71, CV74] both replace it at once, for five weeks, and agree each time", async () => {
    const { a1, a2, b1, all, a, b, village } = fresh("weekly");
    const seen = new Set<string>();
    for (let week = 0; week < 5; week++) {
      await village.run(7 * DAY_MS + HOUR_MS);
      // Before anybody has heard anybody.
      await a1.say(b, `from a1 ${week}`);
      await b1.say(a, `from b1 ${week}`);
      await a2.say(b, `from a2 ${week}`);
      await village.run(HOUR_MS);
      await village.heal();
      const [first, ...others] = agreement(all, a, b);
      for (const other of others) expect(other).toEqual(first);
      seen.add(first!.root!);
      for (const device of all) {
        const contact = device.account === b1.account ? a : b;
        device.commit(contact, forgetPeriods(device.state(contact), device.env));
        expect(device.direct(contact).roots.length).toBeLessThanOrEqual(MAX_ROOTS);
      }
    }
    expect(seen.size).toBe(5);
    expect(village.held()).toBe(0);
    expect(b1.log.filter(({ event }) => event.body.type === "message")).toHaveLength(15);
  });

  it("[CV73] what one's own sibling proposes is heard at once, and written on when the contact has receipted it", async () => {
    const { a1, a2, a, b, b1, village } = fresh("sibling");
    await village.run(8 * DAY_MS);
    const before = hashOf(a2.direct(b).roots);
    village.allows = (_packet, to) => to === a2;
    await a1.say(b, "and a new root");
    await village.run(HOUR_MS);
    expect(a2.direct(b).roots).toHaveLength(a1.direct(b).roots.length);
    expect(a2.direct(b).roots.length).toBeGreaterThan(1);
    expect(hashOf(a2.direct(b).roots)).toBe(before);
    village.allows = () => true;
    await village.heal();
    expect(hashOf(a2.direct(b).roots)).not.toBe(before);
    expect(hashOf(a2.direct(b).roots)).toBe(hashOf(b1.direct(a).roots));
  });

  it("[CV57, CV72-CV74] weeks of storm: no device is left behind on a root that nobody writes on", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 2 ** 31 - 1 }), async (seed) => {
        const all = [...contacts, ...extra].map((device) =>
          device.clone(seededRandom(crypto, `weeks ${seed} ${device.name}`)),
        );
        const [a1, , b1] = all as [Device, Device, Device];
        const village = new Village(all, { seed });
        village.weather = STORM;
        for (let day = 0; day < 22; day++) {
          const device = all[village.roll(4)]!;
          village.at(day * DAY_MS + village.roll(DAY_MS), () =>
            device.say(device.account === a1.account ? b1.account.id : a1.account.id, `${day}`),
          );
        }
        for (let round = 0; round < 22; round++) {
          await village.run(DAY_MS);
          await village.offerAll();
        }
        await village.heal();
        const [first, ...others] = agreement(all, a1.account.id, b1.account.id);
        for (const other of others) expect(other).toEqual(first);
        expect(village.held()).toBe(0);
        expect(a1.direct(b1.account.id).roots.length).toBeGreaterThan(1);
      }),
      { numRuns: RUNS },
    );
  });

  it("[CV75] a request answered when its root is forgotten brings a new one", async () => {
    const { a1, a2, b1, all, village } = fresh("late");
    const [carol] = await makeHousehold("carol", 1, "roots late carol");
    carol!.env.now = village.now;
    const both = new Village([...all, carol!], { seed: 3 });
    const link = await a1.invite();
    a1.invites = [];
    must(await carol!.redeem(link));
    const c = carol!.account.id;
    await both.run(HOUR_MS);
    await both.run(15 * DAY_MS);
    for (const device of [a1, a2]) device.commit(c, forgetPeriods(device.state(c), device.env));
    expect(writingRoot(a1.direct(c).roots)?.root).toBeUndefined();
    must(await a1.answer(c, "accepted"));
    await both.heal();
    const [first, ...others] = agreement([a1, a2, carol!], a1.account.id, c);
    expect(first?.relation).toBe("accepted");
    for (const other of others) expect(other).toEqual(first);
    expect(both.held()).toBe(0);
    expect(b1.directs.size).toBe(1);
  });

  it("[CV74, CV76] a clock that jumps a year ahead and back costs nothing but time", async () => {
    const { a1, b1, a, b, village } = fresh("jump");
    await village.run(2 * DAY_MS);
    a1.env.now += 365 * DAY_MS;
    await a1.say(b, "from next year");
    // Bob does not listen a year ahead.
    await village.run(HOUR_MS);
    const stays = toHex(writingRoot(b1.direct(a).roots)!.chain.rootHash);
    a1.env.now -= 365 * DAY_MS;
    await a1.offerAgain(b);
    await village.run(HOUR_MS);
    // He does not take a root from the future, and nobody writes on it.
    expect(b1.rejects).toContain("envelope/root-from-the-future");
    expect(toHex(writingRoot(a1.direct(b).roots)!.chain.rootHash)).toBe(stays);
    await a1.say(b, "back again");
    await b1.say(a, "welcome");
    await village.run(HOUR_MS);
    await village.offerAll();
    await village.run(HOUR_MS);
    expect(b1.log.some(({ event }) => event.body.type === "message" && event.body.text === "back again")).toBe(true);
    // A week later it is replaced as ever, by one that both can hear.
    await village.run(7 * DAY_MS);
    await a1.say(b, "a week later");
    await village.run(HOUR_MS);
    await b1.say(a, "yes");
    await village.run(HOUR_MS);
    const [ours, theirs] = [a1.direct(b), b1.direct(a)].map(({ roots }) => writingRoot(roots)!.chain.rootHash);
    expect(equalBytes(ours!, theirs!)).toBe(true);
    expect(toHex(ours!)).not.toBe(stays);
  });
});
