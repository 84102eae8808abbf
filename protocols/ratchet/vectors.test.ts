/**
 * The vectors pin wire and stored bytes. They are written by `vitest run protocols/ratchet/vectors.test.ts -u` and are a
 * transcript: whoever feeds the same randomness to another implementation must get the same wraps, and open them.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { fromHex, toHex } from "#protocols/base/bytes.ts";
import { decode, encode } from "#protocols/base/codec.ts";
import { nobleSuite } from "#protocols/base/noble.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import {
  acceptRekey,
  finishRekey,
  offerRekey,
  type RatchetState,
  ratchetSchema,
  startSession,
  unwrap,
  wrap,
} from "./ratchet.ts";
import { seededRandom, START } from "./session-kit.ts";

const FILE = "./vectors/transcript.json";
type Name = "initiator" | "responder";

/** What happens, in order. Wraps are numbered as they are made and opened by number. */
const SCRIPT = [
  ["wrap", "initiator"], // 0
  ["wrap", "initiator"], // 1
  ["unwrap", "responder", 1],
  ["wrap", "responder"], // 2
  ["unwrap", "responder", 0],
  ["unwrap", "initiator", 2],
  ["offer", "initiator"],
  ["accept", "responder"],
  ["finish", "initiator"],
  ["wrap", "initiator"], // 3: the rekey enters
  ["wrap", "initiator"], // 4
  ["unwrap", "responder", 4],
  ["wrap", "responder"], // 5
  ["unwrap", "initiator", 5],
  ["unwrap", "responder", 3],
] as const;

type Step = {
  readonly do: (typeof SCRIPT)[number][0];
  readonly by: Name;
  /** Of wraps: its number. */
  readonly wrap?: number;
  /** All that was drawn in this step, in order. */
  readonly random?: readonly string[];
  readonly salt?: string;
  readonly plaintext?: string;
  /** The wrap, offer or answer made or taken. */
  readonly bytes: string;
  /** Stored encoding of the state after it. */
  readonly state: string;
};

type Transcript = {
  readonly now: number;
  readonly secret: string;
  readonly associatedData: string;
  readonly handshakeHash: string;
  readonly signedPrekeySecret: string;
  readonly signedPrekey: string;
  readonly steps: readonly Step[];
};

type Drawn = { readonly random: (length: number) => Uint8Array; take(): readonly string[] };

function recording(random: (length: number) => Uint8Array): Drawn {
  let drawn: string[] = [];
  return {
    random(length) {
      const bytes = random(length);
      drawn.push(toHex(bytes));
      return bytes;
    },
    take() {
      const taken = drawn;
      drawn = [];
      return taken;
    },
  };
}

/** Runs the script. `given` replays the randomness, salts and plaintexts of a transcript instead of drawing new ones. */
async function run(crypto: CryptoSuite, given?: Transcript): Promise<Transcript> {
  const source = seededRandom(crypto, "skein ratchet vectors 1");
  const replayed = given?.steps.flatMap((step) => step.random ?? []);
  const drawn = recording((length) => {
    const bytes = replayed ? hex(replayed.shift() ?? "") : source(length);
    assert(bytes.length === length, "the transcript draws as much");
    return bytes;
  });
  const start = {
    secret: given ? hex(given.secret) : source(32),
    associatedData: given ? hex(given.associatedData) : source(32),
    handshakeHash: given ? hex(given.handshakeHash) : source(32),
  };
  const secret = given ? hex(given.signedPrekeySecret) : source(32);
  const publicKey = await crypto.x25519.publicKey(secret);
  const env = { now: START, crypto, random: drawn.random };
  const states: Record<Name, RatchetState> = {
    initiator: await startSession({ ...start, role: "initiator", ratchetKey: publicKey }, env),
    responder: await startSession({ ...start, role: "responder", ratchetKey: { secret, publicKey } }, env),
  };
  const wraps: { readonly bytes: Uint8Array; readonly salt: Uint8Array }[] = [];
  let control = new Uint8Array(0) as Uint8Array;
  const steps: Step[] = [];
  for (const [i, [action, by, number]] of SCRIPT.entries()) {
    const old = given?.steps[i];
    const before = states[by];
    let fields: Omit<Step, "do" | "by" | "state"> = { bytes: toHex(control) };
    if (action === "wrap") {
      const salt = old?.salt === undefined ? source(16) : hex(old.salt);
      const plaintext = old?.plaintext === undefined ? source(96) : hex(old.plaintext);
      const made = await wrap(before, { plaintext, salt }, env);
      states[by] = made.state;
      fields = { wrap: wraps.length, salt: toHex(salt), plaintext: toHex(plaintext), bytes: toHex(made.wrap) };
      wraps.push({ bytes: made.wrap, salt });
    } else if (action === "unwrap") {
      const { bytes, salt } = wraps[number]!;
      const opened = await unwrap(before, { wrap: bytes, salt }, env);
      assert(!isReject(opened), "the transcript's wraps open");
      states[by] = opened.state;
      fields = { wrap: number, plaintext: toHex(opened.plaintext), bytes: toHex(bytes) };
    } else if (action === "offer") {
      const made = await offerRekey(before, env);
      states[by] = made.state;
      control = made.offer;
      fields = { bytes: toHex(control) };
    } else if (action === "accept") {
      const accepted = await acceptRekey(before, control, env);
      assert(!isReject(accepted), "the transcript's offer is good");
      states[by] = accepted.state;
      control = accepted.answer;
      fields = { bytes: toHex(control) };
    } else {
      const finished = await finishRekey(before, control, env);
      assert(!isReject(finished), "the transcript's answer is good");
      states[by] = finished.state;
    }
    const random = drawn.take();
    const state = toHex(encode(ratchetSchema, states[by]));
    steps.push({ do: action, by, ...fields, ...(random.length > 0 && { random }), state });
  }
  return {
    now: START,
    secret: toHex(start.secret),
    associatedData: toHex(start.associatedData),
    handshakeHash: toHex(start.handshakeHash),
    signedPrekeySecret: toHex(secret),
    signedPrekey: toHex(publicKey),
    steps,
  };
}

function hex(text: string): Uint8Array {
  const bytes = fromHex(text);
  assert(bytes, "vectors are hexadecimal");
  return bytes;
}

function stored(): Transcript {
  return JSON.parse(readFileSync(new URL(FILE, import.meta.url), "utf8")) as Transcript;
}

describe("vectors", () => {
  it("[RA3] the transcript of fixed randomness is the one on record", async () => {
    await expect(`${JSON.stringify(await run(nobleSuite()), null, 2)}\n`).toMatchFileSnapshot(FILE);
  });

  it.each([
    ["synchronous", synchronousSuite()],
    ["webcrypto", webCryptoSuite(globalThis.crypto.subtle)],
  ])("[RA3] the %s suite, given its inputs, makes the same bytes", async (_name, suite) => {
    const transcript = stored();
    expect(await run(suite, transcript)).toEqual(transcript);
  });

  it("[RA30] every state on record can still be read", () => {
    for (const { state } of stored().steps) {
      const read = decode(ratchetSchema, hex(state));
      assert(!isReject(read), "a stored state is readable");
      expect(toHex(encode(ratchetSchema, read))).toBe(state);
    }
  });
});
