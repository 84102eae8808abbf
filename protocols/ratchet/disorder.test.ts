import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decode, encode } from "#protocols/base/codec.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import { acceptRekey, canSend, finishRekey, offerRekey, ratchetSchema } from "./ratchet.ts";
import { type End, type Packet, startEnds, testEnv, watchingSuite } from "./session-kit.ts";
import { MAX_RECEIVING_CHAINS } from "./state.ts";

const LONG = process.env["SKEIN_LONG"] === "1";

/** Everything that can happen to two ends and the network between them. */
type Action =
  | { readonly type: "send" | "offer"; readonly from: 0 | 1 }
  /** Delivers, delivers a copy of, or loses one of what is under way. */
  | { readonly type: "deliver" | "copy" | "lose"; readonly pick: number }
  /** Writes an end to disk and reads it again. */
  | { readonly type: "restart"; readonly from: 0 | 1 };

const side = fc.constantFrom(0 as const, 1 as const);
const pick = fc.nat(1_000);
const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ type: fc.constant("send" as const), from: side }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constant("offer" as const), from: side }) },
  { weight: 8, arbitrary: fc.record({ type: fc.constant("deliver" as const), pick }) },
  { weight: 2, arbitrary: fc.record({ type: fc.constantFrom("copy" as const, "lose" as const), pick }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("restart" as const), from: side }) },
);

type Cargo =
  | { readonly type: "message"; readonly packet: Packet; readonly turn: number }
  | { readonly type: "offer" | "answer"; readonly bytes: Uint8Array };

/** Two ends, what is under way to each, and what the checks know. */
class World {
  readonly ends: readonly [End, End];
  readonly underWay: { readonly to: 0 | 1; readonly cargo: Cargo }[] = [];
  /** How many chains each end has begun to send on, and heard begin. */
  readonly sendingTurns: [number, number] = [0, 0];
  readonly heardTurns: [number, number] = [0, 0];
  readonly opened = new Set<Packet>();
  delivered = 0;
  rekeys = 0;

  constructor(ends: readonly [End, End]) {
    this.ends = ends;
  }

  async act(step: Action): Promise<void> {
    if (step.type === "restart") return this.restart(step.from);
    if ("from" in step) return step.type === "send" ? this.send(step.from) : this.offer(step.from);
    if (this.underWay.length === 0) return;
    const at = step.pick % this.underWay.length;
    const letter = this.underWay[at]!;
    if (step.type !== "copy") this.underWay.splice(at, 1);
    if (step.type !== "lose") await this.arrive(letter.to, letter.cargo);
  }

  async send(from: 0 | 1): Promise<void> {
    const end = this.ends[from];
    if (!canSend(end.state)) return;
    if (!end.state.sending) this.sendingTurns[from]++;
    const packet = await end.send();
    this.underWay.push({ to: from === 0 ? 1 : 0, cargo: { type: "message", packet, turn: this.sendingTurns[from] } });
  }

  async offer(from: 0 | 1): Promise<void> {
    const end = this.ends[from];
    const { type } = end.state.rekey.own;
    if (type !== "idle" && type !== "offered") return;
    const made = await offerRekey(end.state, end.env);
    end.state = made.state;
    this.underWay.push({ to: from === 0 ? 1 : 0, cargo: { type: "offer", bytes: made.offer } });
  }

  restart(at: 0 | 1): void {
    const end = this.ends[at];
    const state = decode(ratchetSchema, encode(ratchetSchema, end.state));
    assert(!isReject(state), "what was stored can be read");
    end.state = state;
  }

  async arrive(to: 0 | 1, cargo: Cargo): Promise<void> {
    const end = this.ends[to];
    if (cargo.type === "message") return this.open(to, cargo.packet, cargo.turn);
    if (cargo.type === "offer") {
      const accepted = await acceptRekey(end.state, cargo.bytes, end.env);
      // A copy of an offer that was mixed in since: nothing to do.
      if (isReject(accepted)) return expect(accepted.code).toBe("ratchet/rekey-stale");
      end.state = accepted.state;
      this.underWay.push({ to: to === 0 ? 1 : 0, cargo: { type: "answer", bytes: accepted.answer } });
      return;
    }
    const finished = await finishRekey(end.state, cargo.bytes, end.env);
    if (isReject(finished)) return expect(finished.code).toBe("ratchet/rekey-stale");
    end.state = finished.state;
    this.rekeys++;
  }

  async open(to: 0 | 1, packet: Packet, turn: number): Promise<void> {
    const end = this.ends[to];
    const before = encode(ratchetSchema, end.state);
    const result = await end.receive(packet);
    if (!isReject(result)) {
      expect(this.opened.has(packet)).toBe(false);
      expect(result).toEqual(packet.plaintext);
      this.opened.add(packet);
      this.heardTurns[to] = Math.max(this.heardTurns[to], turn);
      this.delivered++;
      return;
    }
    expect(encode(ratchetSchema, end.state)).toEqual(before);
    const forgotten = this.heardTurns[to] - turn >= MAX_RECEIVING_CHAINS;
    if (this.opened.has(packet)) expect(["ratchet/duplicate", "ratchet/no-match"]).toContain(result.code);
    else expect([result.code, forgotten]).toEqual(["ratchet/no-match", true]);
  }

  /** The network heals: everything under way arrives, and both talk until every rekey has run its course. */
  async settle(): Promise<void> {
    for (let round = 0; round < 4; round++) {
      for (const from of [0, 1] as const) {
        if (this.ends[from].state.rekey.own.type === "offered") await this.offer(from);
        await this.send(from);
        while (this.underWay.length > 0) {
          const letter = this.underWay.shift()!;
          await this.arrive(letter.to, letter.cargo);
        }
      }
    }
  }
}

describe("disorder", () => {
  it("[RA29] messages and rekeys in any order, lost and repeated: all that arrives opens once, both ends agree", async () => {
    const total = { delivered: 0, rekeys: 0, sealed: 0 };
    await fc.assert(
      fc.asyncProperty(fc.string(), fc.array(action, { maxLength: 80, size: "max" }), async (seed, actions) => {
        const { suite, sealed } = watchingSuite(webCryptoSuite(globalThis.crypto.subtle));
        const ends = await startEnds(testEnv(suite, seed));
        const world = new World([ends.initiator, ends.responder]);
        for (const step of actions) await world.act(step);
        await world.settle();
        const [a, b] = world.ends.map((end) => end.state.rekey);
        for (const [own, other] of [
          [a!, b!],
          [b!, a!],
        ] as const) {
          expect(own.own.type).toBe("idle");
          expect(own.answered).toBeUndefined();
          expect(own.ownNumber).toBe(other.remoteNumber);
        }
        total.delivered += world.delivered;
        total.rekeys += world.rekeys;
        total.sealed += sealed.size;
      }),
      { numRuns: LONG ? 2_000 : 60 },
    );
    // What a property did not see it has not shown.
    expect(total.delivered).toBeGreaterThan(500);
    expect(total.rekeys).toBeGreaterThan(50);
    expect(total.sealed).toBeGreaterThanOrEqual(total.delivered);
  });
});
