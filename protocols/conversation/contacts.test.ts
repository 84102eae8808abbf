/** How two people become contacts, whatever happens on the way. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { seededRandom } from "#protocols/handshake/device-kit.ts";
import type { AccountId, EventId } from "#protocols/base/ids.ts";
import { type ContactRequest, relation, REQUEST_LIFETIME_MS, withRequest } from "./contact.ts";
import { crypto, DAY_MS, type Device, HOUR_MS, makeHousehold, must, START } from "./households.fixture.ts";
import { CALM, STORM, Village, agreement } from "./village.fixture.ts";

/** A run has a dozen handshakes in it, about a second of them. */
const RUNS = process.env["SKEIN_LONG"] ? 200 : 2;

const homes = {
  ann: await makeHousehold("ann", 2, "household ann"),
  bob: await makeHousehold("bob", 2, "household bob"),
  carol: await makeHousehold("carol", 1, "household carol"),
};

type Homes = {
  readonly a1: Device;
  readonly a2: Device;
  readonly b1: Device;
  readonly b2: Device;
  readonly all: readonly Device[];
};

function fresh(seed: number): Homes {
  const all = [...homes.ann, ...homes.bob].map((device) =>
    device.clone(seededRandom(crypto, `${seed} ${device.name}`)),
  );
  const [a1, a2, b1, b2] = all as [Device, Device, Device, Device];
  return { a1, a2, b1, b2, all };
}

function expectAgreement(village: Village, { a1, b1, all }: Homes, relation?: string): void {
  const [first, ...others] = agreement(all, a1.account.id, b1.account.id);
  for (const other of others) expect(other).toEqual(first);
  expect(village.held()).toBe(0);
  expect(first?.conversation).toBeDefined();
  if (relation !== undefined) expect(first?.relation).toBe(relation);
}

describe("connecting in calm weather", () => {
  it("[CV40] a redeemed invite makes contacts of all devices", async () => {
    const home = fresh(1);
    const village = new Village(home.all, { seed: 1 });
    must(await home.b1.redeem(await home.a1.invite()));
    await village.run(HOUR_MS);
    await village.heal();
    expectAgreement(village, home, "accepted");
  });
});

describe("answering in calm weather", () => {
  it("[CV65, CV66] an invite is accepted as often as it says; who comes later waits, and who comes again costs nothing", async () => {
    const { a1, b1 } = fresh(3);
    const [c1] = homes.carol.map((device) => device.clone(seededRandom(crypto, "carol waits")));
    const link = await a1.invite({ uses: 1, oneTime: false });
    for (const device of [b1, b1, c1!]) {
      must(await device.redeem(link));
      for (const packet of device.sent.splice(0)) await a1.take(packet);
    }
    expect(a1.relation(b1.account.id)).toBe("accepted");
    expect(a1.relation(c1!.account.id)).toBe("incoming");
    expect(a1.invites[0]?.usedBy).toEqual([b1.account.id]);
  });

  it.each(["declined", "accepted"] as const)(
    "[CV55, CV56] a request %s on one device is known on the other, and held by nobody",
    async (choice) => {
      const home = fresh(2);
      const village = new Village(home.all, { seed: 2 });
      const link = await home.a1.invite();
      home.a1.invites = [];
      must(await home.b1.redeem(link));
      // What the other device says to Bob is lost, so that he has no session from it.
      village.allows = (packet, to) => packet.from !== home.a2.id || to === home.a1;
      await village.run(HOUR_MS);
      village.allows = () => true;
      expect(home.a2.directs.has(home.b1.account.id)).toBe(true);
      must(await home.a1.answer(home.b1.account.id, choice));
      await village.heal();
      expectAgreement(village, home, choice);
      expect(home.a2.log).toHaveLength(home.a1.log.length);
    },
  );
});

describe("connecting in a storm", () => {
  const seeds = fc.integer({ min: 0, max: 2 ** 31 - 1 });

  /** Both households in a storm of three days; then all is offered until nothing is left. */
  async function stormy(
    seed: number,
    begin: (home: Homes, village: Village) => Promise<void>,
  ): Promise<{ home: Homes; village: Village }> {
    const home = fresh(seed);
    const village = new Village(home.all, { seed, weather: STORM });
    await begin(home, village);
    for (let i = 0; i < 6; i++) {
      await village.run(12 * HOUR_MS);
      await village.offerAll();
    }
    await village.heal();
    return { home, village };
  }

  async function bothConnect(seed: number): Promise<void> {
    const { home, village } = await stormy(seed, async ({ a1, a2, b1, b2 }, village) => {
      const [la, lb] = [await a1.invite({ uses: 5 }), await b1.invite({ uses: 5 })];
      const [la2, lb2] = [await a2.invite(), await b2.invite()];
      village.at(village.roll(3) * HOUR_MS, () => a1.redeem(lb));
      village.at(village.roll(3) * HOUR_MS, () => a2.redeem(lb2));
      village.at(village.roll(3) * HOUR_MS, () => b1.redeem(la));
      village.at(village.roll(3) * HOUR_MS, () => b2.redeem(la2));
    });
    expectAgreement(village, home, "accepted");
  }

  it("[CV40, CV44] both people press connect at once, on two devices each", async () => {
    await fc.assert(fc.asyncProperty(seeds, bothConnect), { numRuns: RUNS });
  });

  it("seed 22: a request whose root nobody else hears reaches the devices that were introduced to another one", () =>
    bothConnect(22));

  it("seed 1527558859: who knows the new root introduces it without having anything to say", () =>
    bothConnect(1527558859));

  it("[CV40, CV41] a request is repeated, a reply lost, the inviter away for a day", async () => {
    await fc.assert(
      fc.asyncProperty(seeds, async (seed) => {
        const { home, village } = await stormy(seed, async ({ a1, b1 }, village) => {
          const link = await a1.invite();
          const back = village.now + DAY_MS;
          village.allows = (packet, to) => village.now >= back || (to !== a1 && packet.from !== a1.id);
          village.at(0, () => b1.redeem(link));
          village.at(2 * HOUR_MS, () => b1.redeem(link));
        });
        expectAgreement(village, home, "accepted");
      }),
      { numRuns: RUNS },
    );
  });

  it("[CV41, CV43, CV56] accept, decline and withdraw cross in every order", async () => {
    const orders = [0, 1, 2, 3, 4, 5];
    await fc.assert(
      fc.asyncProperty(
        seeds,
        fc.constantFrom(...orders),
        fc.integer({ min: 0, max: 30 }),
        async (seed, order, gapHours) => {
          const { home, village } = await stormy(seed, async ({ a1, a2, b1 }, village) => {
            const link = await a1.invite();
            // Its uses are spent elsewhere: the request waits for a person.
            a1.invites = [];
            must(await b1.redeem(link));
            const acts = [
              () => a1.answer(b1.account.id, "accepted"),
              () => a2.answer(b1.account.id, "declined"),
              () => b1.answer(a1.account.id, "withdrawn"),
            ];
            const [first, second, third] = [
              [0, 1, 2],
              [0, 2, 1],
              [1, 0, 2],
              [1, 2, 0],
              [2, 0, 1],
              [2, 1, 0],
            ][order]!;
            // Whoever has nothing to answer, yet or any more, is told so.
            for (const [i, act] of [first!, second!, third!].entries())
              village.at((1 + i) * gapHours * HOUR_MS, acts[act]!);
          });
          expectAgreement(village, home);
        },
      ),
      { numRuns: 2 * RUNS },
    );
  });

  it("[CV66] one bundle redeemed by two people makes contacts of both", async () => {
    await fc.assert(
      fc.asyncProperty(seeds, fc.boolean(), async (seed, oneTime) => {
        const home = fresh(seed);
        const carol = homes.carol.map((device) => device.clone(seededRandom(crypto, `${seed} ${device.name}`)));
        const [c1] = carol as [Device];
        const village = new Village([...home.all, ...carol], { seed, weather: STORM });
        const link = await home.a1.invite({ uses: 2, oneTime });
        village.at(0, () => home.b1.redeem(link));
        village.at(village.roll(5) * HOUR_MS, () => c1.redeem(link));
        await village.run(2 * DAY_MS);
        await village.heal();
        expectAgreement(village, home, "accepted");
        const withCarol = agreement([home.a1, home.a2, c1], home.a1.account.id, c1.account.id);
        expect(withCarol[0]?.relation).toBe("accepted");
        expect(withCarol[1]).toEqual(withCarol[0]);
        expect(withCarol[2]).toEqual(withCarol[0]);
      }),
      { numRuns: RUNS },
    );
  });

  it("[CV4] messages of all four devices are known to all, once", async () => {
    await fc.assert(
      fc.asyncProperty(seeds, async (seed) => {
        const { home, village } = await stormy(seed, async ({ a1, all, b1 }, village) => {
          must(await b1.redeem(await a1.invite()));
          village.weather = CALM;
          await village.run(HOUR_MS);
          await village.offerAll();
          await village.run(HOUR_MS);
          village.weather = STORM;
          for (let i = 0; i < 12; i++) {
            const device = all[village.roll(4)]!;
            const contact = device.account === a1.account ? b1.account.id : a1.account.id;
            village.at(village.roll(48) * HOUR_MS, () => device.say(contact, `${i}`));
          }
        });
        expectAgreement(village, home, "accepted");
        expect(home.a2.log.filter(({ event }) => event.body.type === "message")).toHaveLength(12);
      }),
      { numRuns: RUNS },
    );
  });
});

describe("requests as facts", () => {
  const answers = fc.constantFrom(...(["open", "accepted", "declined", "withdrawn"] as const));
  // Event, asker and time belong together: the event's id is the hash over the other two.
  const fact = fc
    .record({ n: fc.integer({ min: 0, max: 24 }), answer: answers })
    .map(({ n, answer }): ContactRequest => ({
      event: n.toString(16).padStart(64, "0") as EventId,
      from: (n % 2 ? "aa" : "bb").padEnd(64, "0") as AccountId,
      at: START + (n % 7),
      answer,
    }));
  const facts = fc.array(fact, { maxLength: 40 });
  const merged = (all: readonly ContactRequest[]) => all.reduce<readonly ContactRequest[]>(withRequest, []);

  it("[CV41, CV42] any order and any number of repeats gives the same set", () => {
    fc.assert(
      fc.property(facts, fc.infiniteStream(fc.nat()), (all, keys) => {
        const shuffled = all.map((entry) => ({ entry, key: keys.next().value })).toSorted((a, b) => a.key - b.key);
        const order = shuffled.map(({ entry }) => entry);
        expect(merged(order)).toEqual(merged(all));
        expect(merged([...all, ...order])).toEqual(merged(all));
      }),
    );
  });

  it("[CV41] is associative: sets merge like facts, and never lose an answer", () => {
    fc.assert(
      fc.property(facts, facts, facts, (a, b, c) => {
        expect(merged([...merged([...a, ...b]), ...c])).toEqual(merged([...a, ...merged([...b, ...c])]));
      }),
    );
  });

  it("[CV43] both sides compute the same relation, up to who asked", () => {
    const swap = { requested: "incoming", incoming: "requested" } as Partial<Record<string, string>>;
    fc.assert(
      fc.property(facts, fc.integer({ min: 0, max: 2 * REQUEST_LIFETIME_MS }), (all, later) => {
        const [ours, theirs] = ["aa", "bb"].map((text) =>
          relation(merged(all), text.padEnd(64, "0") as AccountId, START + later),
        );
        expect(theirs).toBe(swap[ours!] ?? ours);
      }),
    );
  });

  it("[CV44, CV45] a request expires alone; two that crossed never do", () => {
    const [a, b] = [1, 2].map((n): ContactRequest => ({
      event: `${n}`.padStart(64, "0") as EventId,
      from: `a${n}`.padEnd(64, "0") as AccountId,
      at: START,
      answer: "open",
    }));
    const late = START + REQUEST_LIFETIME_MS;
    expect(relation([a!], a!.from, late - 1)).toBe("requested");
    expect(relation([a!], a!.from, late)).toBe("expired");
    expect(relation([a!, b!], a!.from, late)).toBe("accepted");
  });
});
