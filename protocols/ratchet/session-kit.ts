/** For this folder's tests: sessions from fixed randomness, and a suite that counts what it sealed. */
import { concat, toHex, u32, utf8 } from "#protocols/base/bytes.ts";
import { assert, isReject, type OrReject } from "#protocols/base/reject.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import { SALT_BYTES } from "./keys.ts";
import { type RatchetState, startSession, unwrap, wrap, WRAP_PLAINTEXT } from "./ratchet.ts";

/** 2026-01-01. */
export const START = 1_767_225_600_000;

/** SHA-256 of seed and counter: the same bytes in every implementation of the vectors. */
export function seededRandom(crypto: CryptoSuite, seed: string): (length: number) => Uint8Array {
  let counter = 0;
  return (length) => {
    const blocks: Uint8Array[] = [];
    for (let have = 0; have < length; have += 32) blocks.push(crypto.sha256(concat(utf8(seed), u32(counter++))));
    return concat(...blocks).slice(0, length);
  };
}

export type MovingEnv = { now: number; readonly random: Env["random"]; readonly crypto: CryptoSuite };

export function testEnv(crypto: CryptoSuite, seed: string, now = START): MovingEnv {
  return { now, crypto, random: seededRandom(crypto, seed) };
}

/** A session's two ends, as a handshake would leave them. */
export async function startPair(env: Env): Promise<{ initiator: RatchetState; responder: RatchetState }> {
  const common = { secret: env.random(32), associatedData: env.random(32), handshakeHash: env.random(32) };
  const secret = env.random(32);
  const publicKey = await env.crypto.x25519.publicKey(secret);
  return {
    initiator: await startSession({ ...common, role: "initiator", ratchetKey: publicKey }, env),
    responder: await startSession({ ...common, role: "responder", ratchetKey: { secret, publicKey } }, env),
  };
}

/** One end with its state, for tests that talk more than they look. */
export class End {
  state: RatchetState;
  readonly env: Env;

  constructor(state: RatchetState, env: Env) {
    this.state = state;
    this.env = env;
  }

  async send(plaintext: Uint8Array = this.env.random(WRAP_PLAINTEXT)): Promise<Packet> {
    const salt = this.env.random(SALT_BYTES);
    const sent = await wrap(this.state, { plaintext, salt }, this.env);
    this.state = sent.state;
    return { wrap: sent.wrap, salt, plaintext };
  }

  /** @returns The plaintext, or the reject with nothing changed. */
  async receive(packet: Omit<Packet, "plaintext">): Promise<OrReject<Uint8Array>> {
    const opened = await unwrap(this.state, packet, this.env);
    if (isReject(opened)) return opened;
    this.state = opened.state;
    return opened.plaintext;
  }
}

export type Packet = { readonly wrap: Uint8Array; readonly salt: Uint8Array; readonly plaintext: Uint8Array };

export async function startEnds(env: Env): Promise<{ initiator: End; responder: End }> {
  const pair = await startPair(env);
  return { initiator: new End(pair.initiator, env), responder: new End(pair.responder, env) };
}

/** Two ends that have heard each other. */
export async function talkingEnds(env: Env): Promise<{ initiator: End; responder: End }> {
  const ends = await startEnds(env);
  for (const [from, to] of [
    [ends.initiator, ends.responder],
    [ends.responder, ends.initiator],
  ] as const) {
    assert(!isReject(await to.receive(await from.send())), "the first messages open");
  }
  return ends;
}

/** Wraps `suite` so that every (key, nonce) that seals is remembered and none may come twice with other data. */
export function watchingSuite(suite: CryptoSuite): {
  readonly suite: CryptoSuite;
  readonly sealed: Map<string, string>;
} {
  const sealed = new Map<string, string>();
  return {
    sealed,
    suite: {
      ...suite,
      chacha20poly1305: {
        ...suite.chacha20poly1305,
        seal(input) {
          const name = toHex(concat(input.key, input.nonce));
          assert(!sealed.has(name), "key and nonce are used once");
          sealed.set(name, toHex(input.data));
          return suite.chacha20poly1305.seal(input);
        },
      },
    },
  };
}
