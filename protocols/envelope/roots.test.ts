import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { equalBytes } from "#protocols/base/bytes.ts";
import { decode, encode } from "#protocols/base/codec.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { DAY_MS, expiryOf, hourOf } from "./lifetime.ts";
import {
  advance,
  checkRoot,
  compareRoots,
  type ConversationRoot,
  conversationRootSchema,
  listenPeriods,
  MAX_ROOT_AGE_MS,
  openRoot,
  PERIOD_MS,
  periodAt,
  rootChainSchema,
  rootHash,
  topicKeys,
} from "./roots.ts";

const crypto = synchronousSuite();
const START = 1_800_000_000_000;

const roots = fc.record({
  version: fc.integer({ min: 0, max: 0xffff_ffff }),
  secret: fc.uint8Array({ minLength: 32, maxLength: 32 }),
  createdAt: fc.integer({ min: START, max: START + 3 * PERIOD_MS }),
}) satisfies fc.Arbitrary<ConversationRoot>;

const root: ConversationRoot = { version: 1, secret: new Uint8Array(32).fill(7), createdAt: START };

describe("conversation roots", () => {
  test("[EN1] the hash covers version, secret and time", () => {
    const hashes = [
      root,
      { ...root, version: 2 },
      { ...root, createdAt: START + 1 },
      { ...root, secret: new Uint8Array(32).fill(8) },
    ].map((each) => rootHash(crypto, each).join());
    expect(new Set(hashes).size).toBe(4);
  });

  test("[EN1] two members with the same root have the same topics, those of other roots and periods differ", async () => {
    const [mine, theirs] = [openRoot(crypto, root), openRoot(crypto, { ...root })];
    const other = openRoot(crypto, { ...root, version: 2 });
    const period = periodAt(mine, START);
    const same = await topicKeys(crypto, theirs, period);
    expect(await topicKeys(crypto, mine, period)).toEqual(same);
    expect((await topicKeys(crypto, mine, period + 1)).id).not.toBe(same.id);
    expect((await topicKeys(crypto, other, period)).id).not.toBe(same.id);
    expect(equalBytes(same.seed, same.sealKey)).toBe(false);
  });

  test("[EN2] advancing forgets spent periods and changes no later one", async () => {
    await fc.assert(
      fc.asyncProperty(
        roots,
        fc.array(fc.integer({ min: 0, max: 20 * PERIOD_MS }), { maxLength: 5 }),
        async (each, jumps) => {
          const first = openRoot(crypto, each);
          let chain = first;
          for (const jump of jumps.toSorted((a, b) => a - b)) {
            const now = each.createdAt + jump;
            chain = advance(crypto, chain, now);
            const current = periodAt(chain, now);
            expect(listenPeriods(chain, now)).toEqual([current - 1, current, current + 1]);
            expect(await topicKeys(crypto, chain, current)).toEqual(await topicKeys(crypto, first, current));
          }
          await expect(topicKeys(crypto, chain, chain.period - 1)).rejects.toThrow("period is not spent");
          expect(equalBytes(chain.secret, first.secret)).toBe(chain.period === first.period);
          expect(decode(rootChainSchema, encode(rootChainSchema, chain))).toEqual(chain);
        },
      ),
      { numRuns: 40 },
    );
  });

  test("[EN2] a clock set back asks for nothing that is spent", () => {
    const chain = advance(crypto, openRoot(crypto, root), START + 10 * PERIOD_MS);
    expect(periodAt(chain, START)).toBe(chain.period);
    expect(listenPeriods(chain, START)).toEqual([chain.period, chain.period + 1]);
    expect(advance(crypto, chain, START)).toBe(chain);
  });

  test("[EN3] concurrent roots have one order on all sides: higher version, then lower hash", () => {
    fc.assert(
      fc.property(fc.array(roots, { minLength: 2, maxLength: 5 }), (several) => {
        const chains = several.map((each) => openRoot(crypto, each));
        const order = (list: typeof chains) => list.toSorted(compareRoots).map((chain) => chain.rootHash.join());
        expect(order(chains)).toEqual(order(chains.toReversed()));
        const versions = chains.toSorted(compareRoots).map((chain) => chain.version);
        expect(versions).toEqual(versions.toSorted((a, b) => b - a));
      }),
      { numRuns: 40 },
    );
  });

  test("[EN4] whoever is less than a period apart hears what the other writes", () => {
    fc.assert(
      fc.property(
        roots,
        fc.integer({ min: 0, max: 40 * PERIOD_MS }),
        fc.integer({ min: -PERIOD_MS + 1, max: PERIOD_MS - 1 }),
        (each, after, skew) => {
          const now = each.createdAt + after;
          const writer = advance(crypto, openRoot(crypto, each), now);
          const listener = advance(crypto, openRoot(crypto, each), now + skew);
          expect(listenPeriods(listener, now + skew)).toContain(periodAt(writer, now));
        },
      ),
    );
  });

  test("[EN4] one who was away hears every period in which something may still be alive, until the chain is advanced", () => {
    fc.assert(
      fc.property(roots, fc.nat(20 * PERIOD_MS), fc.nat(31 * DAY_MS), (each, after, ago) => {
        const chain = openRoot(crypto, each);
        const now = each.createdAt + after;
        const written = Math.max(each.createdAt, now - ago);
        const heard = listenPeriods(chain, now);
        // Sealed within the hour before, it lives for 30 days from the hour's end.
        fc.pre(expiryOf(hourOf(written), "month") > now);
        expect(heard).toContain(periodAt(chain, written));
        expect(heard.length).toBeLessThanOrEqual(7);
        expect(listenPeriods(advance(crypto, chain, now), now)).toEqual(heard.slice(-3));
      }),
    );
    const long = openRoot(crypto, root);
    const lastMoment = (long.period + 4) * PERIOD_MS - long.offset - 1;
    expect(listenPeriods(long, expiryOf(hourOf(lastMoment), "month") - 1)).toContain(long.period + 3);
    const counts = Array.from(
      { length: 7 },
      (_, day) => listenPeriods(long, START + 20 * PERIOD_MS + day * DAY_MS).length,
    );
    expect([...new Set(counts)].toSorted((a, b) => a - b)).toEqual([6, 7]);
  });

  test("[EN4] roots turn at different moments", () => {
    const turns = Array.from({ length: 20 }, (_, n) => openRoot(crypto, { ...root, version: n }).offset);
    expect(new Set(turns).size).toBe(20);
  });

  test("[EN5] a root from the future or of long ago is not opened", () => {
    expect(checkRoot(root, { now: START })).toBe(root);
    expect(checkRoot(root, { now: START - DAY_MS })).toBe(root);
    expect(checkRoot(root, { now: START - DAY_MS - 1 })).toMatchObject({ code: "envelope/root-from-the-future" });
    expect(checkRoot(root, { now: START + MAX_ROOT_AGE_MS })).toBe(root);
    expect(checkRoot(root, { now: START + MAX_ROOT_AGE_MS + 1 })).toMatchObject({ code: "envelope/root-too-old" });
  });

  test("[EN1] a root has one encoding of bounded size", () => {
    fc.assert(
      fc.property(roots, (each) => {
        const encoded = encode(conversationRootSchema, each);
        expect(encoded.length).toBeLessThanOrEqual(49);
        expect(decode(conversationRootSchema, encoded)).toEqual(each);
      }),
      { numRuns: 50 },
    );
  });
});
