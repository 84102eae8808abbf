/** How two people become contacts, whatever happens on the way. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { seededRandom } from "#protocols/handshake/device-kit.ts";
import {
  agreement,
  CALM,
  codeOf,
  crypto,
  DAY_MS,
  type Device,
  HOUR_MS,
  makeHousehold,
  must,
  STORM,
  Village,
} from "./households.fixture.ts";

/** A run has a dozen handshakes in it, about a second of them. */
const RUNS = process.env["SKEIN_LONG"] ? 200 : 2;

const homes = {
  ann: await makeHousehold("ann", 2, "household ann"),
  bob: await makeHousehold("bob", 2, "household bob"),
};

type Homes = { readonly a1: Device; readonly a2: Device; readonly b1: Device; readonly b2: Device; readonly all: readonly Device[] };

function fresh(seed: number): Homes {
  const all = [...homes.ann, ...homes.bob].map((device) => device.clone(seededRandom(crypto, `${seed} ${device.name}`)));
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

describe("connecting in a storm", () => {
  const seeds = fc.integer({ min: 0, max: 2 ** 31 - 1 });

  /** Both households in a storm of three days; then all is offered until nothing is left. */
  async function stormy(seed: number, begin: (home: Homes, village: Village) => Promise<void>): Promise<{ home: Homes; village: Village }> {
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

  it("[CV40, CV44] both people press connect at once, on two devices each", async () => {
    await fc.assert(
      fc.asyncProperty(seeds, async (seed) => {
        const { home, village } = await stormy(seed, async ({ a1, a2, b1, b2 }, village) => {
          const [la, lb] = [await a1.invite({ uses: 5 }), await b1.invite({ uses: 5 })];
          const [la2, lb2] = [await a2.invite(), await b2.invite()];
          village.at(village.roll(3) * HOUR_MS, () => a1.redeem(lb));
          village.at(village.roll(3) * HOUR_MS, () => a2.redeem(lb2));
          village.at(village.roll(3) * HOUR_MS, () => b1.redeem(la));
          village.at(village.roll(3) * HOUR_MS, () => b2.redeem(la2));
        });
        expectAgreement(village, home, "accepted");
      }),
      { numRuns: RUNS },
    );
  });

  it("[CV40, CV41] a request is repeated, a reply lost, the inviter away for a day", async () => {
    await fc.assert(
      fc.asyncProperty(seeds, async (seed) => {
        const { home, village } = await stormy(seed, async ({ a1, b1 }, village) => {
          const link = await a1.invite();
          village.allows = (_packet, to) => to !== a1 || village.now >= a1.env.now - village.now + DAY_MS;
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
});
