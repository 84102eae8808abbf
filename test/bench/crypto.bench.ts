/** Handshakes and ratchet steps, in one process, without disk and network. */
import { assert, isReject } from "#protocols/base/reject.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import { createPrekeys, initiate, makeBundle, respond, type SessionSeed } from "#protocols/handshake/handshake.ts";
import { createDevice, deviceListHash } from "#protocols/identity/identity.ts";
import { findWrap, type RatchetState, startSession, unwrap, wrap, WRAP_PLAINTEXT } from "#protocols/ratchet/ratchet.ts";
import { systemRandom } from "#src/runtime/node.ts";
import { type Figure, perSecond, quantile } from "./report.ts";

const HANDSHAKES = 40;
const FOR_MS = 2_500;
/** One message. */
const CONTENT = new Uint8Array(1024).fill(7);

function env(crypto: CryptoSuite): Env {
  return { now: Date.now(), random: systemRandom, crypto };
}

async function devices(crypto: CryptoSuite) {
  const [alice, bob] = await Promise.all([
    createDevice(env(crypto), systemRandom(32)),
    createDevice(env(crypto), systemRandom(32)),
  ]);
  const list = (keys: typeof alice) =>
    deviceListHash(crypto, { account: keys.certificate.account, certificates: [keys.certificate], revocations: [] });
  return { alice, bob, aliceList: list(alice), bobList: list(bob) };
}

async function handshake(crypto: CryptoSuite): Promise<{ ms: number; initiator: SessionSeed; responder: SessionSeed }> {
  const { alice, bob, aliceList, bobList } = await devices(crypto);
  const store = await createPrekeys(env(crypto), bob);
  const made = await makeBundle(store, { purpose: "directory", oneTime: true }, env(crypto));
  assert(!isReject(made), "a bundle");
  const from = performance.now();
  const started = await initiate(
    {
      self: { certificate: alice.certificate, dhSecret: alice.dhSecret, listHash: aliceList },
      bundle: made.bundle,
      remoteListHash: bobList,
    },
    env(crypto),
  );
  assert(!isReject(started), "an initial message");
  const answered = await respond({ self: bob, store: made.store, init: started.init }, env(crypto));
  assert(!isReject(answered), "an answer");
  return { ms: performance.now() - from, initiator: started.seed, responder: answered.seed };
}

/** One 1 KB message: content under its own key, the key in a wrap, and back. */
class Line {
  #states: [RatchetState, RatchetState];
  readonly #env: Env;

  constructor(states: [RatchetState, RatchetState], crypto: CryptoSuite) {
    this.#states = states;
    this.#env = env(crypto);
  }

  async pass(from: 0 | 1): Promise<void> {
    const to = from === 0 ? 1 : 0;
    const { crypto } = this.#env;
    const salt = systemRandom(16);
    const plaintext = systemRandom(WRAP_PLAINTEXT);
    const nonce = new Uint8Array(12);
    const sealed = await crypto.chacha20poly1305.seal({ key: plaintext.slice(0, 32), nonce, data: CONTENT });
    const sent = await wrap(this.#states[from], { plaintext, salt }, this.#env);
    this.#states[from] = sent.state;
    assert(findWrap(crypto, this.#states[to], salt, [sent.wrap]) === 0, "the wrap is found");
    const got = await unwrap(this.#states[to], { wrap: sent.wrap, salt }, this.#env);
    assert(!isReject(got), "the wrap opens");
    this.#states[to] = got.state;
    const opened = await crypto.chacha20poly1305.open({ key: got.plaintext.slice(0, 32), nonce, data: sealed });
    assert(opened?.length === CONTENT.length, "the content opens");
  }
}

async function line(crypto: CryptoSuite): Promise<Line> {
  const { initiator, responder } = await handshake(crypto);
  const states: [RatchetState, RatchetState] = [
    await startSession(initiator, env(crypto)),
    await startSession(responder, env(crypto)),
  ];
  const made = new Line(states, crypto);
  await made.pass(0);
  await made.pass(1);
  return made;
}

export async function cryptoFigures(crypto: CryptoSuite): Promise<readonly Figure[]> {
  for (let i = 0; i < 5; i++) await handshake(crypto);
  const samples: number[] = [];
  for (let i = 0; i < HANDSHAKES; i++) samples.push((await handshake(crypto)).ms);
  const secret = systemRandom(32);
  const publicKey = await crypto.x25519.publicKey(systemRandom(32));
  const agreements = await perSecond(500, async () => {
    await crypto.x25519.sharedSecret(secret, publicKey);
    return 1;
  });
  const aeads = await perSecond(500, async () => {
    const sealed = await crypto.chacha20poly1305.seal({ key: secret, nonce: new Uint8Array(12), data: CONTENT });
    await crypto.chacha20poly1305.open({ key: secret, nonce: new Uint8Array(12), data: sealed });
    return 1;
  });
  const ordered = await line(crypto);
  const inOrder = await perSecond(FOR_MS, async () => {
    for (let i = 0; i < 100; i++) await ordered.pass(0);
    return 100;
  });
  const turns = await line(crypto);
  const pingPong = await perSecond(FOR_MS, async () => {
    for (let i = 0; i < 50; i++) await turns.pass(i % 2 === 0 ? 0 : 1);
    return 50;
  });
  const agreement = { name: "X25519 agreements", value: agreements, unit: "/s" };
  const aead = { name: "bare ChaCha20-Poly1305 of 1 KB, there and back", value: aeads, unit: "/s" };
  return [
    { name: "handshake (PQXDH, both sides)", value: quantile(samples, 0.5), unit: "ms", reference: agreement },
    {
      name: "ratchet 1 KB, in order",
      value: inOrder,
      unit: "pairs/s",
      goal: { value: 3_000, better: "more" },
      reference: aead,
    },
    {
      name: "ratchet 1 KB, ping-pong",
      value: pingPong,
      unit: "pairs/s",
      goal: { value: 900, better: "more" },
      reference: agreement,
    },
  ];
}
