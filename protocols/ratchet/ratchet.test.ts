import { describe, expect, it } from "vitest";
import { equalBytes, toHex } from "#protocols/base/bytes.ts";
import { decode, encode } from "#protocols/base/codec.ts";
import { isReject, reject } from "#protocols/base/reject.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import {
  canSend,
  findWrap,
  type RatchetState,
  randomWrap,
  ratchetSchema,
  unwrap,
  wrap,
  WRAP_BYTES,
} from "./ratchet.ts";
import { End, startEnds, startPair, talkingEnds, testEnv, watchingSuite } from "./session-kit.ts";
import { MAX_FORWARD_JUMP, MAX_RECEIVING_CHAINS, MAX_SKIPPED, SKIPPED_LIFETIME_MS } from "./state.ts";

const crypto = synchronousSuite();
const LONG = process.env["SKEIN_LONG"] === "1";

const skippedOf = (state: RatchetState) => state.receiving.reduce((sum, chain) => sum + chain.skipped.length, 0);

async function sendMany(end: End, count: number) {
  const packets = [];
  for (let i = 0; i < count; i++) packets.push(await end.send());
  return packets;
}

describe("sessions", () => {
  it("[RA2] the initiator sends at once, the responder after it received", async () => {
    const { initiator, responder } = await startEnds(testEnv(crypto, "start"));
    expect(canSend(initiator.state)).toBe(true);
    expect(canSend(responder.state)).toBe(false);
    await expect(responder.send()).rejects.toThrow("a responder sends only after it received");
    const first = await initiator.send();
    expect(await responder.receive(first)).toEqual(first.plaintext);
    expect(canSend(responder.state)).toBe(true);
    const answer = await responder.send();
    expect(await initiator.receive(answer)).toEqual(answer.plaintext);
  });

  it("[RA1] every wrap has one length and looks like random bytes", async () => {
    const env = testEnv(crypto, "length");
    const { initiator, responder } = await startEnds(env);
    const seen = new Set<string>();
    for (let turn = 0; turn < 4; turn++) {
      for (const [from, to] of [
        [initiator, responder],
        [responder, initiator],
      ] as const) {
        const packet = await from.send();
        expect(packet.wrap.length).toBe(WRAP_BYTES);
        expect(await to.receive(packet)).toEqual(packet.plaintext);
        // Neither tag nor header repeats from one wrap to the next, whatever it is about.
        seen.add(toHex(packet.wrap.subarray(0, 8))).add(toHex(packet.wrap.subarray(24, 68)));
      }
    }
    expect(seen.size).toBe(16);
    expect(randomWrap(env).length).toBe(WRAP_BYTES);
  });

  it("[RA8] messages of a chain arrive in any order, each once", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "order"));
    const packets = await sendMany(initiator, 6);
    for (const i of [3, 0, 5, 1, 4, 2]) expect(await responder.receive(packets[i]!)).toEqual(packets[i]!.plaintext);
    for (const packet of packets) expect(await responder.receive(packet)).toEqual(reject("ratchet/duplicate"));
    expect(skippedOf(responder.state)).toBe(0);
  });

  it("[RA9] what was missing of a chain still opens after the next one began", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "late"));
    const [first, lost, last] = await sendMany(initiator, 3);
    expect(isReject(await responder.receive(first!))).toBe(false);
    expect(isReject(await initiator.receive(await responder.send()))).toBe(false);
    // The next chain overtakes two messages of the last one.
    expect(isReject(await responder.receive(await initiator.send()))).toBe(false);
    expect(await responder.receive(last!)).toEqual(last!.plaintext);
    expect(await responder.receive(lost!)).toEqual(lost!.plaintext);
    expect(await responder.receive(lost!)).toEqual(reject("ratchet/duplicate"));
  });

  it("[RA30] a stored state is the same state, and every byte of it has one encoding", async () => {
    const env = testEnv(crypto, "stored");
    const { initiator, responder } = await talkingEnds(env);
    const [, second] = await sendMany(initiator, 2);
    await responder.receive(second!);
    for (const end of [initiator, responder]) {
      const stored = encode(ratchetSchema, end.state);
      const reread = decode(ratchetSchema, stored);
      expect(reread).toEqual(end.state);
      if (isReject(reread)) continue;
      end.state = reread;
    }
    const packet = await responder.send();
    expect(await initiator.receive(packet)).toEqual(packet.plaintext);
  });
});

describe("hostile input", () => {
  it("[RA7] a wrap with any byte changed is rejected and leaves the state unchanged", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "forged"));
    // One on the open chain, one that would begin a new chain.
    const [onOpen] = await sendMany(responder, 1);
    expect(isReject(await initiator.receive(onOpen!))).toBe(false);
    const inOrder = await responder.send();
    const turned = new End(responder.state, responder.env);
    expect(isReject(await turned.receive(await initiator.send()))).toBe(false);
    const nextChain = await turned.send();
    const codes = new Set<string>();
    for (const packet of [inOrder, nextChain]) {
      const before = encode(ratchetSchema, initiator.state);
      for (let at = 0; at < WRAP_BYTES; at++) {
        const forged = packet.wrap.slice();
        forged[at]! ^= 1 << (at % 8);
        const result = await initiator.receive({ ...packet, wrap: forged });
        codes.add(isReject(result) ? result.code : "opened");
        expect(equalBytes(encode(ratchetSchema, initiator.state), before)).toBe(true);
      }
      expect(await initiator.receive(packet)).toEqual(packet.plaintext);
    }
    expect([...codes].toSorted()).toEqual(["ratchet/bad-header", "ratchet/bad-tag", "ratchet/no-match"]);
  });

  it("[RA7] a wrap put into another envelope does not open", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "salt"));
    const [a, b] = await sendMany(initiator, 2);
    expect(await responder.receive({ wrap: a!.wrap, salt: b!.salt })).toEqual(reject("ratchet/no-match"));
    const moved = a!.wrap.slice();
    moved.set(b!.wrap.subarray(0, 8));
    expect(await responder.receive({ wrap: moved, salt: b!.salt })).toEqual(reject("ratchet/bad-header"));
  });

  it("[RA4] inputs of another length are rejected", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "lengths"));
    const packet = await initiator.send();
    const wrongs = [packet.wrap.subarray(1), new Uint8Array(0), new Uint8Array(WRAP_BYTES + 1)];
    for (const wrong of wrongs) {
      expect(await responder.receive({ ...packet, wrap: wrong })).toEqual(reject("ratchet/bad-length"));
    }
    expect(await responder.receive({ ...packet, salt: packet.salt.subarray(1) })).toEqual(reject("ratchet/bad-length"));
  });

  it("[RA7] mutated wraps never throw and never open", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "mutated"));
    const { wrap: original, salt } = await initiator.send();
    const before = encode(ratchetSchema, responder.state);
    let tried = 0;
    for (const mutated of mutations([original], LONG ? 100_000 : 2_000, 41)) {
      if (equalBytes(mutated, original)) continue;
      const result = await unwrap(responder.state, { wrap: mutated, salt }, responder.env);
      expect(isReject(result)).toBe(true);
      tried++;
    }
    expect(tried).toBeGreaterThan(1_500);
    expect(encode(ratchetSchema, responder.state)).toEqual(before);
  });

  it("[RA30] mutated stored states never throw, and what decodes encodes to the same bytes", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "fuzz-state"));
    await responder.receive((await sendMany(initiator, 3))[2]!);
    const seeds = [encode(ratchetSchema, initiator.state), encode(ratchetSchema, responder.state)];
    for (const mutated of mutations(seeds, LONG ? 100_000 : 2_000, 42)) {
      const state = decode(ratchetSchema, mutated);
      if (isReject(state)) continue;
      expect(equalBytes(encode(ratchetSchema, state), mutated)).toBe(true);
    }
  });

  it("[RA6] a ratchet key of small order is rejected", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "small-order"));
    await initiator.send();
    const { own } = initiator.state;
    initiator.state = { ...initiator.state, own: { secret: own!.secret, publicKey: new Uint8Array(32) } };
    expect(await responder.receive(await initiator.send())).toEqual(reject("ratchet/bad-key"));
  });

  it("[RA9] a remote that contradicts itself is rejected: another key or length in one chain, a chain out of turn", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "contradiction"));
    await responder.receive(await initiator.send());
    const honest = initiator.state;
    initiator.state = { ...honest, own: { ...honest.own!, publicKey: new Uint8Array(32).fill(9) } };
    expect(await responder.receive(await initiator.send())).toEqual(reject("ratchet/bad-header"));
    initiator.state = { ...honest, sending: { ...honest.sending!, mixed: 1 } };
    expect(await responder.receive(await initiator.send())).toEqual(reject("ratchet/bad-header"));
    initiator.state = { ...honest, sending: { ...honest.sending!, next: 0xffff_fffe } };
    expect(await responder.receive(await initiator.send())).toEqual(reject("ratchet/too-far"));
    // A sending step that answers nothing: the responder has sent nothing since the last one.
    const { sending: _current, ...withoutChain } = honest;
    initiator.state = withoutChain;
    expect(await responder.receive(await initiator.send())).toEqual(reject("ratchet/bad-header"));
    // A new chain that says the last one was shorter than what came on it.
    initiator.state = honest;
    await initiator.receive(await responder.send());
    initiator.state = { ...initiator.state, previousLength: 0 };
    expect(await responder.receive(await initiator.send())).toEqual(reject("ratchet/bad-header"));
    // And a first chain that names one before it.
    const fresh = await startEnds(testEnv(crypto, "contradiction-2"));
    fresh.initiator.state = { ...fresh.initiator.state, previousLength: 1 };
    expect(await fresh.responder.receive(await fresh.initiator.send())).toEqual(reject("ratchet/bad-header"));
  });
});

describe("limits", () => {
  it("[RA10] a jump of 2,000 opens, one more is too far, in the chain and at its end", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "jump"));
    const [first] = await sendMany(initiator, 1);
    await responder.receive(first!);
    const packets = await sendMany(initiator, MAX_FORWARD_JUMP + 2);
    const last = packets.at(-1)!;
    expect(await responder.receive(last)).toEqual(reject("ratchet/too-far"));
    expect(skippedOf(responder.state)).toBe(0);
    const other = new End(responder.state, responder.env);
    await initiator.receive(await responder.send());
    expect(await responder.receive(await initiator.send())).toEqual(reject("ratchet/too-far"));
    const reachable = packets.at(-2)!;
    expect(await other.receive(reachable)).toEqual(reachable.plaintext);
    expect(skippedOf(other.state)).toBe(MAX_FORWARD_JUMP);
    expect(await other.receive(last)).toEqual(last.plaintext);
    expect(await other.receive(packets[0]!)).toEqual(packets[0]!.plaintext);
  });

  it("[RA11] at most 2,000 skipped keys: the oldest go", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "skipped"));
    const packets = await sendMany(initiator, MAX_SKIPPED + 12);
    await responder.receive(packets[1_500]!);
    expect(skippedOf(responder.state)).toBe(1_500);
    await responder.receive(packets.at(-1)!);
    expect(skippedOf(responder.state)).toBe(MAX_SKIPPED);
    // 2,010 were skipped: 0-9 are forgotten, 10 is kept.
    expect(await responder.receive(packets[9]!)).toEqual(reject("ratchet/duplicate"));
    expect(await responder.receive(packets[10]!)).toEqual(packets[10]!.plaintext);
    expect(isReject(decode(ratchetSchema, encode(ratchetSchema, responder.state)))).toBe(false);
  });

  it("[RA11] a skipped key is gone after 30 days", async () => {
    const env = testEnv(crypto, "expiry");
    const { initiator, responder } = await talkingEnds(env);
    const [a, b, c, d] = await sendMany(initiator, 4);
    await responder.receive(c!);
    env.now += SKIPPED_LIFETIME_MS - 1;
    expect(await responder.receive(a!)).toEqual(a!.plaintext);
    env.now += 1;
    expect(await responder.receive(b!)).toEqual(reject("ratchet/duplicate"));
    expect(skippedOf(responder.state)).toBe(1);
    await responder.receive(d!);
    expect(skippedOf(responder.state)).toBe(0);
  });

  it("[RA12] a message opens up to four turns late; complete chains are forgotten first", async () => {
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "turns"));
    const late: Awaited<ReturnType<typeof initiator.send>>[] = [];
    for (let turn = 0; turn < MAX_RECEIVING_CHAINS + 1; turn++) {
      const [kept, missing] = await sendMany(initiator, 2);
      await responder.receive(kept!);
      late.push(missing!);
      await initiator.receive(await responder.send());
    }
    expect(responder.state.receiving.length).toBe(MAX_RECEIVING_CHAINS);
    expect(await responder.receive(late[0]!)).toEqual(reject("ratchet/no-match"));
    // Chain 2 misses nothing any more: it makes room, not chain 1, which is older.
    expect(await responder.receive(late[2]!)).toEqual(late[2]!.plaintext);
    await responder.receive(await initiator.send());
    expect(await responder.receive(late[1]!)).toEqual(late[1]!.plaintext);
    expect(await responder.receive(late[2]!)).toEqual(reject("ratchet/no-match"));
  });
});

describe("finding a wrap", () => {
  it("[RA13] by its tag among others, on the open chain, the next and old ones", async () => {
    const env = testEnv(crypto, "find");
    const { initiator, responder } = await talkingEnds(env);
    const strangers = await talkingEnds(testEnv(crypto, "strangers"));
    const [old, kept] = await sendMany(initiator, 2);
    await responder.receive(kept!);
    await initiator.receive(await responder.send());
    const next = await initiator.send();
    const ahead = new End(responder.state, env);
    await ahead.receive(next);
    const open = await initiator.send();
    for (const [end, packet] of [
      [responder, next],
      [ahead, open],
      [ahead, old!],
    ] as const) {
      const wraps = [randomWrap(env), (await strangers.initiator.send()).wrap, packet.wrap, randomWrap(env)];
      expect(findWrap(crypto, end.state, packet.salt, wraps)).toBe(2);
      expect(findWrap(crypto, strangers.responder.state, packet.salt, wraps)).toBeUndefined();
      expect(findWrap(crypto, end.state, env.random(16), wraps)).toBeUndefined();
      expect(findWrap(crypto, end.state, packet.salt, [])).toBeUndefined();
    }
  });

  it("[RA13] costs at most six HMACs", async () => {
    let hmacs = 0;
    const counting = {
      ...crypto,
      hmac: (key: Uint8Array, data: Uint8Array) => {
        hmacs++;
        return crypto.hmac(key, data);
      },
    };
    const { initiator, responder } = await talkingEnds(testEnv(crypto, "cost"));
    for (let turn = 0; turn < 8; turn++) {
      const [kept] = await sendMany(initiator, 2);
      await responder.receive(kept!);
      await initiator.receive(await responder.send());
    }
    findWrap(counting, responder.state, responder.env.random(16), [randomWrap(responder.env)]);
    expect(hmacs).toBe(MAX_RECEIVING_CHAINS + 1);
  });
});

describe("old states", () => {
  it("[RA16] a state rolled back and used again repeats no key and nonce", async () => {
    const { suite, sealed } = watchingSuite(crypto);
    const { initiator, responder } = await talkingEnds(testEnv(suite, "rollback"));
    const wrapsBefore = sealed.size;
    for (const end of [initiator, responder]) {
      const backup = encode(ratchetSchema, end.state);
      for (let restored = 0; restored < 3; restored++) {
        const state = decode(ratchetSchema, backup);
        if (isReject(state)) throw new Error(state.code);
        end.state = state;
        // The same position, key chain and plaintext, once more.
        for (let i = 0; i < 2; i++) await end.send(new Uint8Array(96).fill(i));
      }
    }
    // watchingSuite asserts; this only shows that it watched.
    expect(sealed.size - wrapsBefore).toBe(12);
  });

  it("[RA31] a step changes nothing of the state it was given", async () => {
    const env = testEnv(crypto, "immutable");
    const { initiator, responder } = await talkingEnds(env);
    const before = encode(ratchetSchema, initiator.state);
    const held = initiator.state;
    const packet = await initiator.send();
    await responder.receive(packet);
    const turned = await responder.send();
    await unwrap(held, turned, env);
    await wrap(held, { plaintext: packet.plaintext, salt: packet.salt }, env);
    expect(encode(ratchetSchema, held)).toEqual(before);
  });
});

describe("suites", () => {
  it("[RA3] two ends on different suites understand each other", async () => {
    const native = webCryptoSuite(globalThis.crypto.subtle);
    const env = testEnv(crypto, "suites");
    const pair = await startPair(env);
    const initiator = new End(pair.initiator, env);
    const responder = new End(pair.responder, { ...env, crypto: native });
    for (let turn = 0; turn < 3; turn++) {
      const there = await initiator.send();
      expect(await responder.receive(there)).toEqual(there.plaintext);
      const back = await responder.send();
      expect(await initiator.receive(back)).toEqual(back.plaintext);
    }
  });
});
