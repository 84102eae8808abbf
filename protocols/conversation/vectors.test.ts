/**
 * The vectors pin wire and stored bytes of a first conversation: invite, request, acceptance, two messages, a receipt. They are
 * written by `vitest run protocols/conversation/vectors.test.ts -u` and are a transcript: whoever feeds the same randomness to
 * another implementation makes the same link, events and payloads.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { fromHex, toHex } from "#protocols/base/bytes.ts";
import { decode, encode } from "#protocols/base/codec.ts";
import { assert } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import { seededRandom } from "#protocols/handshake/device-kit.ts";
import { directSchema } from "./direct.ts";
import { type Device, makeHousehold, must, START } from "./households.fixture.ts";
import { decodePayload } from "./message.ts";
import { pairSchema } from "./pair.ts";

const FILE = "./vectors/transcript.json";

type Step = {
  readonly does: string;
  readonly by: string;
  /** All that was drawn, in order. */
  readonly random: readonly string[];
  readonly link?: string;
  /** What left: event ids with their payloads; one event may go to the inbox and the topic. */
  readonly payloads?: readonly { readonly event: string; readonly to: "inbox" | "topic"; readonly payload: string }[];
  /** Events that became part of this device's history. */
  readonly events?: readonly { readonly id: string; readonly event: string }[];
};

type Stored = { readonly direct: string; readonly pair: string };
type Transcript = {
  readonly now: number;
  readonly steps: readonly Step[];
  readonly stored: Readonly<Record<string, Stored>>;
};

async function run(suite: CryptoSuite): Promise<Transcript> {
  let drawn: string[] = [];
  const device = async (name: string): Promise<Device> => {
    const [made] = await makeHousehold(name, 1, `conversation vectors ${name}`, suite);
    assert(made, "a household of one");
    const random = seededRandom(suite, `conversation vectors of ${name}`);
    return made.clone((length) => {
      const bytes = random(length);
      drawn.push(toHex(bytes));
      return bytes;
    });
  };
  const [ann, bob] = [await device("ann"), await device("bob")];
  const steps: Step[] = [];
  const step = async (does: string, by: Device, act: () => Promise<unknown>): Promise<unknown> => {
    drawn = [];
    const known = by.log.length;
    const result = await act();
    by.env.now += 1_000;
    const payloads = by.sent.map((packet) => ({
      event: must(decodePayload(packet.payload)).event,
      to: "inbox" in packet.route ? ("inbox" as const) : ("topic" as const),
      payload: toHex(packet.payload),
    }));
    const events = by.log.slice(known).map(({ id, bytes }) => ({ id, event: toHex(bytes) }));
    steps.push({
      does,
      by: by.name,
      random: drawn,
      ...(typeof result === "string" && { link: result }),
      ...(payloads.length > 0 && { payloads }),
      ...(events.length > 0 && { events }),
    });
    return result;
  };
  /** `to` takes in the last that `from` sent. */
  const pass = async (from: Device, to: Device): Promise<void> => {
    const packet = from.sent.splice(0).at(-1);
    assert(packet, "something was sent");
    must((await to.take(packet))!);
  };

  const link = (await step("invite", ann, () => ann.invite())) as string;
  await step("redeem", bob, () => bob.redeem(link));
  // The topic is not Ann's yet: the request comes through her inbox.
  const deposit = bob.sent.splice(0).find(({ route }) => "inbox" in route);
  await step("take request, accept", ann, async () => void must((await ann.take(deposit!))!));
  await step("take acceptance", bob, () => pass(ann, bob));
  await step("say", bob, () => bob.say(ann.account.id, "Hello, Ann."));
  await step("take message", ann, () => pass(bob, ann));
  await step("say", ann, () => ann.say(bob.account.id, "Hello, Bob."));
  await step("take message", bob, () => pass(ann, bob));
  await step("receipt", bob, () => bob.receipt(ann.account.id));
  await step("take receipt", ann, () => pass(bob, ann));
  const stored = (self: Device, other: Device): Stored => ({
    direct: toHex(encode(directSchema, self.direct(other.account.id))),
    pair: toHex(encode(pairSchema, self.pairs.get(other.id)!)),
  });
  expect(ann.outbox.get(bob.account.id)).toEqual([]);
  return { now: START, steps, stored: { ann: stored(ann, bob), bob: stored(bob, ann) } };
}

const suites = [
  ["synchronous", synchronousSuite()],
  ["webcrypto", webCryptoSuite(globalThis.crypto.subtle)],
] as const;

describe("vectors", () => {
  it.each(suites)(
    "[CV1, CV20] the %s suite makes the transcript on record from fixed randomness",
    async (_name, suite) => {
      await expect(`${JSON.stringify(await run(suite), null, 2)}\n`).toMatchFileSnapshot(FILE);
    },
  );

  it("[CV8] what is stored on record can still be read", () => {
    const { stored } = JSON.parse(readFileSync(new URL(FILE, import.meta.url), "utf8")) as Transcript;
    for (const { direct, pair } of Object.values(stored)) {
      expect(toHex(encode(directSchema, must(decode(directSchema, fromHex(direct)!))))).toBe(direct);
      expect(toHex(encode(pairSchema, must(decode(pairSchema, fromHex(pair)!))))).toBe(pair);
    }
  });
});
