import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { toHex } from "#protocols/base/bytes.ts";
import { decode, encode } from "#protocols/base/codec.ts";
import { isReject } from "#protocols/base/reject.ts";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import { answer, bundleOf, makeDevice, must, start, type TestDevice, testEnv } from "./device-kit.ts";
import { type PrekeyBundle, prekeyStoreSchema, rotate, type SessionSeed } from "./handshake.ts";
import { MAX_ONE_TIME_USES, RETENTION_MS } from "./prekeys.ts";

const LONG = process.env["SKEIN_LONG"] === "1";
const DAY_MS = 24 * 3_600_000;

/** What can happen between a device and those who want to talk to it. */
type Action =
  /** Publishes a bundle; the shelf may hand it out to any number of people. */
  | { readonly type: "publish"; readonly oneTime: boolean }
  | { readonly type: "start"; readonly who: number; readonly bundle: number }
  | { readonly type: "deliver" | "copy" | "lose"; readonly pick: number }
  /** Days pass, the store is rotated, written and read. */
  | { readonly type: "wait"; readonly days: number };

const nat = fc.nat(1_000);
const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ type: fc.constant("publish" as const), oneTime: fc.boolean() }) },
  { weight: 5, arbitrary: fc.record({ type: fc.constant("start" as const), who: fc.nat(2), bundle: nat }) },
  { weight: 5, arbitrary: fc.record({ type: fc.constantFrom("deliver" as const, "copy" as const), pick: nat }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("lose" as const), pick: nat }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("wait" as const), days: fc.integer({ min: 1, max: 10 }) }) },
);

type Letter = {
  readonly init: Uint8Array;
  readonly seed: SessionSeed;
  readonly oneTimeId: string;
  readonly at: number;
};

class World {
  readonly env = testEnv(webCryptoSuite(globalThis.crypto.subtle), "handshake disorder");
  readonly bob: TestDevice;
  readonly others: readonly TestDevice[];
  readonly shelf: PrekeyBundle[] = [];
  readonly underWay: Letter[] = [];
  /** Sessions the device made: handshake hash to secret. */
  readonly sessions = new Map<string, string>();
  /** Of one-time prekeys: how often, and since when. */
  readonly uses = new Map<string, number>();
  readonly firstUsed = new Map<string, number>();

  constructor(bob: TestDevice, others: readonly TestDevice[]) {
    this.bob = bob;
    this.others = others;
  }

  async act(step: Action): Promise<void> {
    if (step.type === "publish") {
      this.shelf.push(await bundleOf(this.bob, this.env, { oneTime: step.oneTime }));
    } else if (step.type === "wait") {
      this.env.now += step.days * DAY_MS;
      const rotated = await rotate(this.bob.store, this.env);
      this.bob.store = must(decode(prekeyStoreSchema, encode(prekeyStoreSchema, rotated)));
    } else if (step.type === "start") {
      await this.start(step.who, step.bundle);
    } else if (this.underWay.length > 0) {
      const at = step.pick % this.underWay.length;
      const letter = this.underWay[at]!;
      if (step.type !== "copy") this.underWay.splice(at, 1);
      if (step.type !== "lose") await this.arrive(letter);
    }
  }

  async start(who: number, pick: number): Promise<void> {
    const bundle = this.shelf[pick % Math.max(this.shelf.length, 1)];
    if (!bundle) return;
    const started = await start(this.others[who]!, bundle, this.env);
    if (isReject(started)) return expect(started.code).toBe("handshake/expired");
    const oneTimeId = bundle.oneTimePrekey ? toHex(bundle.oneTimePrekey.id) : "";
    this.underWay.push({ ...started, oneTimeId, at: this.env.now });
  }

  async arrive({ init, seed, oneTimeId, at }: Letter): Promise<void> {
    const name = toHex(seed.handshakeHash);
    const uses = this.uses.get(oneTimeId) ?? 0;
    const before = encode(prekeyStoreSchema, this.bob.store);
    const answered = await answer(this.bob, init, this.env);
    if (isReject(answered)) {
      expect(encode(prekeyStoreSchema, this.bob.store)).toEqual(before);
      // Within the retention only a pair that eight have used may refuse, or one first used a retention ago.
      const firstUsed = this.firstUsed.get(oneTimeId) ?? this.env.now;
      const dead = this.env.now - Math.min(at, firstUsed) >= RETENTION_MS;
      const spent = uses >= MAX_ONE_TIME_USES && answered.code === "handshake/one-time-spent";
      return expect(dead || (spent && oneTimeId !== "")).toBe(true);
    }
    expect(toHex(answered.seed.handshakeHash)).toBe(name);
    expect(answered.seed.secret).toEqual(seed.secret);
    expect(answered.repeated).toBe(this.sessions.has(name));
    this.sessions.set(name, toHex(answered.seed.secret));
    if (!answered.repeated) this.uses.set(oneTimeId, uses + 1);
    if (uses === 0) this.firstUsed.set(oneTimeId, this.env.now);
    this.bob.store = answered.store;
  }
}

describe("disorder", () => {
  it("[HS18] initial messages in any order, lost and repeated: one session each, equal on both sides", async () => {
    let sessions = 0;
    const env = testEnv(webCryptoSuite(globalThis.crypto.subtle), "people");
    const bob = await makeDevice(env);
    const others = [await makeDevice(env), await makeDevice(env), await makeDevice(env)];
    await fc.assert(
      fc.asyncProperty(fc.array(action, { maxLength: 40, size: "max" }), async (actions) => {
        const world = new World({ ...bob }, others);
        for (const step of actions) await world.act(step);
        for (const letter of world.underWay) await world.arrive(letter);
        for (const letter of world.underWay) await world.arrive(letter);
        sessions += world.sessions.size;
        expect(new Set(world.sessions.values()).size).toBe(world.sessions.size);
      }),
      { numRuns: LONG ? 1_000 : 20 },
    );
    expect(sessions).toBeGreaterThan(20);
  });
});
