import { describe, expect, it } from "vitest";
import { equalBytes } from "#protocols/base/bytes.ts";
import { encode } from "#protocols/base/codec.ts";
import { isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import { acceptRekey, finishRekey, offerRekey, ratchetSchema, rekeyDue, rekeyOverdue } from "./ratchet.ts";
import { REKEY_YIELD_MESSAGES } from "./rekey.ts";
import { End, talkingEnds, testEnv } from "./session-kit.ts";
import { REKEY_INTERVAL_MS, REKEY_MESSAGES } from "./state.ts";

const crypto = synchronousSuite();
const LONG = process.env["SKEIN_LONG"] === "1";

function must<T>(value: OrReject<T>): T {
  if (isReject(value)) throw new Error(value.code);
  return value;
}

async function offer(end: End): Promise<Uint8Array> {
  const made = await offerRekey(end.state, end.env);
  end.state = made.state;
  return made.offer;
}

async function accept(end: End, bytes: Uint8Array): Promise<OrReject<Uint8Array>> {
  const accepted = await acceptRekey(end.state, bytes, end.env);
  if (isReject(accepted)) return accepted;
  end.state = accepted.state;
  return accepted.answer;
}

async function finish(end: End, bytes: Uint8Array): Promise<OrReject<true>> {
  const finished = await finishRekey(end.state, bytes, end.env);
  if (isReject(finished)) return finished;
  end.state = finished.state;
  return true;
}

async function talk(from: End, to: End, count = 1): Promise<void> {
  for (let i = 0; i < count; i++) {
    const packet = await from.send();
    expect(await to.receive(packet)).toEqual(packet.plaintext);
  }
}

describe("a rekey", () => {
  it.each(["initiator", "responder"] as const)(
    "[RA25] of the %s enters at its own next sending step, and its number stands in the header",
    async (role) => {
      const ends = await talkingEnds(testEnv(crypto, `enter ${role}`));
      const own = ends[role];
      const other = role === "initiator" ? ends.responder : ends.initiator;
      await talk(own, other);
      must(await finish(own, must(await accept(other, await offer(own)))));
      // The chain that is open goes on without it.
      await talk(own, other);
      expect(own.state.rekey.own.type).toBe("ready");
      expect(other.state.rekey.answered).toBeDefined();
      await talk(other, own);
      await talk(own, other, 2);
      expect(own.state.sending?.mixed).toBe(1);
      expect(own.state.rekey.own.type).toBe("mixed");
      expect(other.state.rekey).toMatchObject({ remoteNumber: 1, messages: 2 });
      expect(other.state.rekey.answered).toBeUndefined();
      await talk(other, own);
      expect(own.state.rekey.own.type).toBe("idle");
      // And again, with the next number.
      must(await finish(own, must(await accept(other, await offer(own)))));
      await talk(own, other);
      await talk(other, own);
      expect(own.state.sending?.mixed ?? 2).toBe(2);
    },
  );

  it("[RA25] whoever has the other secret cannot follow", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "secret"));
    must(await finish(initiator, must(await accept(responder, await offer(initiator)))));
    const { answered } = responder.state.rekey;
    // All that a quantum attacker has who read everything but the KEM's secret.
    const without = new End(
      {
        ...responder.state,
        rekey: { ...responder.state.rekey, answered: { ...answered!, secret: new Uint8Array(32) } },
      },
      responder.env,
    );
    const packet = await initiator.send();
    expect(await without.receive(packet)).toEqual(reject("ratchet/bad-tag"));
    expect(await responder.receive(packet)).toEqual(packet.plaintext);
  });

  it("[RA21] the same offer again is the same offer, and has the same answer", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "again"));
    const first = await offer(initiator);
    expect(await offer(initiator)).toEqual(first);
    const answer = must(await accept(responder, first));
    const state = encode(ratchetSchema, responder.state);
    expect(await accept(responder, first)).toEqual(answer);
    expect(encode(ratchetSchema, responder.state)).toEqual(state);
    must(await finish(initiator, answer));
    expect(await finish(initiator, answer)).toEqual(reject("ratchet/rekey-stale"));
  });

  it("[RA29] both offer at once: both secrets enter, each at its own side's step", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "both"));
    const [fromInitiator, fromResponder] = [await offer(initiator), await offer(responder)];
    const atResponder = must(await accept(responder, fromInitiator));
    const atInitiator = must(await accept(initiator, fromResponder));
    must(await finish(responder, atInitiator));
    must(await finish(initiator, atResponder));
    for (let turn = 0; turn < 3; turn++) {
      await talk(initiator, responder);
      await talk(responder, initiator);
    }
    for (const end of [initiator, responder]) {
      expect(end.state.rekey).toMatchObject({ ownNumber: 1, remoteNumber: 1, own: { type: "idle" } });
    }
  });

  it("[RA28] there is no new offer before the last one has surely been seen", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "one at a time"));
    must(await finish(initiator, must(await accept(responder, await offer(initiator)))));
    await expect(offer(initiator)).rejects.toThrow("one rekey of ours at a time");
    await talk(initiator, responder);
    await expect(offer(initiator)).rejects.toThrow("one rekey of ours at a time");
    await talk(responder, initiator);
    expect((await offer(initiator)).length).toBeGreaterThan(1_184);
  });

  it("[RA25] a chain that names a rekey nobody answered is rejected", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "unknown"));
    const honest = initiator.state;
    const { rekey } = honest;
    const ready = { ...rekey, ownNumber: 1, own: { type: "ready", secret: new Uint8Array(32) } } as const;
    initiator.state = { ...initiator.state, rekey: ready };
    const before = encode(ratchetSchema, responder.state);
    expect(await responder.receive(await initiator.send())).toEqual(reject("ratchet/unknown-rekey"));
    expect(encode(ratchetSchema, responder.state)).toEqual(before);
    // Nor does an answer to the first make a second.
    initiator.state = { ...honest, rekey: { ...rekey, ownNumber: 2, own: ready.own } };
    const { offer: bytes } = await offerRekey({ ...honest, rekey }, initiator.env);
    must(await accept(responder, bytes));
    expect(await responder.receive(await initiator.send())).toEqual(reject("ratchet/unknown-rekey"));
  });
});

describe("hostile control messages", () => {
  it("[RA24] an offer of another session, of our own, or changed is rejected", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "offers"));
    const others = await talkingEnds(testEnv(crypto, "other session"));
    const bytes = await offer(initiator);
    const bad = reject("ratchet/bad-offer");
    expect(await accept(others.responder, bytes)).toEqual(bad);
    // Reflected to whoever made it.
    expect(await accept(initiator, bytes)).toEqual(bad);
    const changed = bytes.slice();
    changed[600]! ^= 1;
    expect(await accept(responder, changed)).toEqual(bad);
  });

  it("[RA24] an encapsulation key that is none is rejected, though its tag is good", async () => {
    const lying = {
      ...crypto,
      mlkem768: { ...crypto.mlkem768, publicKey: async () => new Uint8Array(1184).fill(0xff) },
    };
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "no key"));
    const liar = new End(initiator.state, { ...initiator.env, crypto: lying });
    expect(await accept(responder, await offer(liar))).toEqual(reject("ratchet/bad-offer"));
  });

  it("[RA22] numbers are consecutive: stale, early and conflicting offers are told apart", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "numbers"));
    const rolledBack = new End(initiator.state, initiator.env);
    const first = await offer(initiator);
    must(await finish(initiator, must(await accept(responder, first))));
    expect(await accept(responder, await offer(rolledBack))).toEqual(reject("ratchet/rekey-conflict"));
    await talk(initiator, responder);
    expect(await accept(responder, first)).toEqual(reject("ratchet/rekey-stale"));
    const { rekey } = initiator.state;
    initiator.state = { ...initiator.state, rekey: { ...rekey, ownNumber: 2, own: { type: "idle" } } };
    expect(await accept(responder, await offer(initiator))).toEqual(reject("ratchet/rekey-unexpected"));
  });

  it("[RA23] an answer to no offer, or with another secret, is rejected", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "answers"));
    const answer = must(await accept(responder, await offer(initiator)));
    expect(await finish(responder, answer)).toEqual(reject("ratchet/rekey-unexpected"));
    const before = encode(ratchetSchema, initiator.state);
    for (const at of [answer.length - 1, 600]) {
      const changed = answer.slice();
      changed[at]! ^= 1;
      expect(await finish(initiator, changed)).toEqual(reject("ratchet/bad-answer"));
    }
    expect(encode(ratchetSchema, initiator.state)).toEqual(before);
    must(await finish(initiator, answer));
  });

  it("[RA24] mutated offers and answers never throw and change nothing", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "fuzz"));
    const bytes = await offer(initiator);
    const answer = must(await accept(new End(responder.state, responder.env), bytes));
    for (const mutated of mutations([bytes, answer], LONG ? 100_000 : 400, 43)) {
      if (equalBytes(mutated, bytes) || equalBytes(mutated, answer)) continue;
      expect(isReject(await accept(responder, mutated))).toBe(true);
      expect(isReject(await finish(initiator, mutated))).toBe(true);
    }
  });
});

describe("when", () => {
  it("[RA26] due after 50 messages, at the responder 10 later, and not while one is under way", async () => {
    const env = testEnv(crypto, "due");
    const { initiator, responder } = await talkingEnds(env);
    await talk(initiator, responder, REKEY_MESSAGES - 3);
    expect(rekeyDue(initiator.state, env.now)).toBe(false);
    await talk(initiator, responder);
    expect(rekeyDue(initiator.state, env.now)).toBe(true);
    expect(rekeyDue(responder.state, env.now)).toBe(false);
    await talk(initiator, responder, REKEY_YIELD_MESSAGES);
    expect(rekeyDue(responder.state, env.now)).toBe(true);
    const answer = must(await accept(responder, await offer(initiator)));
    expect(rekeyDue(initiator.state, env.now)).toBe(false);
    expect(rekeyDue(responder.state, env.now)).toBe(false);
    must(await finish(initiator, answer));
    await talk(responder, initiator);
    await talk(initiator, responder);
    await talk(responder, initiator);
    for (const end of [initiator, responder]) {
      expect(rekeyDue(end.state, env.now)).toBe(false);
      expect(end.state.rekey.messages).toBe(2);
    }
  });

  it("[RA26] due after 7 days, with the first message after them", async () => {
    const env = testEnv(crypto, "week");
    const { initiator, responder } = await talkingEnds(env);
    must(await finish(initiator, must(await accept(responder, await offer(initiator)))));
    await talk(initiator, responder);
    env.now += REKEY_INTERVAL_MS - 1;
    await talk(responder, initiator);
    expect(rekeyDue(initiator.state, env.now)).toBe(false);
    env.now += 1;
    expect(rekeyDue(initiator.state, env.now)).toBe(true);
  });

  it("[RA27] overdue at 100 messages", async () => {
    const env = testEnv(crypto, "overdue");
    const { initiator, responder } = await talkingEnds(env);
    await talk(initiator, responder, 2 * REKEY_MESSAGES - 3);
    expect(rekeyOverdue(initiator.state, env.now)).toBe(false);
    await talk(initiator, responder);
    expect(rekeyOverdue(initiator.state, env.now)).toBe(true);
  });

  it("[RA27] overdue 7 days after a message found it due; a session that slept is only due", async () => {
    const env = testEnv(crypto, "slept");
    const { initiator, responder } = await talkingEnds(env);
    env.now += 10 * REKEY_INTERVAL_MS;
    expect(rekeyDue(initiator.state, env.now)).toBe(true);
    await talk(initiator, responder);
    env.now += REKEY_INTERVAL_MS - 1;
    await talk(initiator, responder);
    expect(rekeyOverdue(initiator.state, env.now)).toBe(false);
    env.now += 1;
    expect(rekeyOverdue(initiator.state, env.now)).toBe(true);
    expect(rekeyOverdue(responder.state, env.now)).toBe(true);
    must(await finish(initiator, must(await accept(responder, await offer(initiator)))));
    await talk(responder, initiator);
    await talk(initiator, responder);
    expect(rekeyOverdue(initiator.state, env.now)).toBe(false);
    expect(rekeyOverdue(responder.state, env.now)).toBe(false);
  });
});
