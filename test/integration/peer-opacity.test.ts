/**
 * What a relay and a disk can see of two people: their whole way from init to read receipts is recorded, then searched.
 *
 * Searched are (1) every file below the relay's home, as bytes, (2) every key and value of its LevelDB, as LevelDB reads them, so
 * compressed blocks too, (3) stdout and stderr of its process, (4) every frame and every envelope that either peer let out, on
 * whatever protocol; both peers listen nowhere, so everything goes to or through the relay, (5) files, keys and values of both
 * peers' homes.
 *
 * Searched for are texts, names, the recovery phrase, the invite link, ids of accounts, devices, conversation and events, and of
 * what envelopes and deposits carry sealed: salts, ciphertexts, tags and wraps. Each as bytes, and in hex and base64 of either
 * kind. To a peer's own home topics and the relay's address are added.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { fromHex } from "#protocols/base/bytes.ts";
import { isReject } from "#protocols/base/reject.ts";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import { decodePayload } from "#protocols/conversation/message.ts";
import { openDeposit, openEnvelope } from "#protocols/envelope/envelope.ts";
import { SYNC_PROTOCOL } from "#protocols/sync/limits.ts";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { Stage } from "#test/e2e/processes.ts";

import { openParts, type Parts } from "./peer-parts.ts";
import { drained, eventually, Home, meet, type Running, tapped } from "./peer-world.ts";

const crypto = webCryptoSuite(globalThis.crypto.subtle);

type Needle = { readonly what: string; readonly bytes: Uint8Array };
type Hay = { readonly where: string; readonly bytes: Uint8Array };

/** Shorter ones would be found by chance. */
const MIN_NEEDLE_BYTES = 8;

function needles(what: string, bytes: Uint8Array): readonly Needle[] {
  const raw = Buffer.from(bytes);
  expect(raw.length, what).toBeGreaterThanOrEqual(MIN_NEEDLE_BYTES);
  const base64 = raw.toString("base64").replace(/=+$/, "");
  const written = [raw.toString("hex"), raw.toString("hex").toUpperCase(), base64, raw.toString("base64url")];
  return [{ what, bytes: raw }, ...written.map((text) => ({ what: `${what}, written`, bytes: Buffer.from(text) }))];
}

function found(hay: readonly Hay[], wanted: readonly Needle[]): readonly string[] {
  const hits = new Set<string>();
  for (const { where, bytes } of hay) {
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (const needle of wanted) if (buffer.includes(Buffer.from(needle.bytes))) hits.add(`${needle.what} in ${where}`);
  }
  return [...hits];
}

/** All files below `folder` as they are, and the records of every LevelDB among them. Nobody may have them open. */
async function scan(folder: string): Promise<readonly Hay[]> {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const hay: Hay[] = files.map(({ parentPath, name }) => ({
    where: `file ${name}`,
    bytes: readFileSync(join(parentPath, name)),
  }));
  // Opening a store writes its files anew: only after they were read.
  for (const { parentPath, name } of files) if (name === "CURRENT") hay.push(...(await records(parentPath)));
  return hay;
}

async function records(folder: string): Promise<readonly Hay[]> {
  const store = await levelStoreHost(folder, { ballastBytes: 0 }).open();
  const hay: Hay[] = [];
  for await (const [key, value] of store.entries({ from: new Uint8Array(), to: new Uint8Array(64).fill(255) })) {
    hay.push({ where: "a key", bytes: key }, { where: "a value", bytes: value });
  }
  await store.close();
  return hay;
}

const stage = new Stage();
afterAll(() => stage.clear());

const NAMES = { alice: "Alicia Markerine", bob: "Roberto Zeichen" } as const;
const TEXTS = [
  "The password is xyzzyplugh-1",
  "Meet me at the markerstrasse at nine",
  "Understood, markerstrasse it is",
] as const;

const frames: Hay[] = [];
const secrets: Needle[] = [];
/** What a relay may know; found there, they show that the search does look. */
const known: Needle[] = [];
let relayHay: readonly Hay[];
let relayOutput: Hay;
const homes = { alice: [] as readonly Hay[], bob: [] as readonly Hay[] };
let address = "";
const opened = { envelopes: 0, deposits: 0 };

type Person = { readonly home: Home; readonly host: string };

function person(name: keyof typeof NAMES): Person {
  const host = stage.home(name);
  return { host, home: new Home(NAMES[name], { host: levelStoreHost(host, { ballastBytes: 0 }) }) };
}

async function live(people: readonly [Person, Person]): Promise<void> {
  const tap = (way: string, bytes: Uint8Array): void => void frames.push({ where: way, bytes: bytes.slice() });
  const running: Running[] = [];
  for (const { home } of people) {
    const { phrase } = await home.create([address]);
    secrets.push(...needles("phrase", Buffer.from(phrase)));
    running.push(await home.start({ listen: [], wrap: (network) => tapped(network, tap) }));
  }
  const [alice, bob] = running as [Running, Running];
  const conversation = await meet(alice, bob);
  secrets.push(...needles("conversation", fromHex(conversation)!));

  for (const [i, text] of TEXTS.entries()) {
    const from = [alice, bob][i % 2]!;
    await from.peer.typing(conversation);
    const { id } = await from.peer.send(conversation, { text });
    secrets.push(...needles("event", fromHex(id)!), ...needles("text", Buffer.from(text)));
  }
  await drained(alice, bob);
  const last = (await bob.peer.messages(conversation, { limit: 1 })).at(-1)!;
  await bob.peer.markRead(conversation, last.id);
  await eventually("alice sees it read", async () => {
    const own = (await alice.peer.messages(conversation)).filter(({ author }) => author === alice.peer.account);
    return own.every(({ state }) => state === "read");
  });
  const { link } = await alice.peer.createInvite();
  secrets.push(...needles("invite", Buffer.from(link.slice(link.indexOf("#") + 1))));
  for (const { peer } of running) {
    secrets.push(...needles("account", fromHex(peer.account)!), ...needles("device", fromHex(peer.device)!));
    await peer.close();
  }
  for (const name of Object.values(NAMES)) secrets.push(...needles("name", Buffer.from(name)));
}

/** With the keys of a home, what its envelopes and deposits carried sealed. */
async function lookInside({ home, host }: Person): Promise<void> {
  const parts = await openParts({
    host: levelStoreHost(host, { ballastBytes: 0 }),
    unlock: home.unlock,
    crypto,
    now: Date.now(),
  });
  const directs = await parts.directs.all();
  const keys = directs.flatMap(({ contact }) => parts.topics.of(contact));
  for (const { id } of keys) known.push(...needles("topic", fromHex(id)!));
  for (const { where, bytes } of frames) {
    if (where !== "gossip") continue;
    for (const topic of keys) {
      const inside = await openEnvelope(crypto, topic, bytes);
      if (isReject(inside)) continue;
      opened.envelopes++;
      framing(inside.payload);
    }
  }
  for (const wire of deposits()) {
    const inside = await openDeposit(crypto, parts.world.identity.inbox, wire);
    if (isReject(inside)) continue;
    opened.deposits++;
    framing(inside.payload);
  }
  await close(parts);
}

function close({ driver }: Parts): Promise<void> {
  return driver.close();
}

/** Byte strings of frames that might be deposits: long ones, with their CBOR head. */
function* deposits(): Generator<Uint8Array> {
  for (const { where, bytes } of frames) {
    if (where !== SYNC_PROTOCOL) continue;
    for (let at = 0; at + 3 < bytes.length; at++) {
      // 0x59: a byte string with its length in two bytes.
      if (bytes[at] !== 0x59) continue;
      const length = (bytes[at + 1]! << 8) | bytes[at + 2]!;
      if (length > 400 && at + 3 + length <= bytes.length) yield bytes.subarray(at + 3, at + 3 + length);
    }
  }
}

function framing(raw: Uint8Array): void {
  const payload = decodePayload(raw);
  expect(isReject(payload)).toBe(false);
  if (isReject(payload)) return;
  secrets.push(...needles("salt", payload.salt), ...needles("ciphertext", payload.ciphertext.subarray(0, 32)));
  for (const wrap of payload.wraps)
    secrets.push({ what: "ratchet tag", bytes: wrap.subarray(0, 8) }, ...needles("wrap", wrap.subarray(8, 40)));
  for (const init of payload.inits) secrets.push(...needles("initial message", initBytes(init)));
}

function initBytes(init: unknown): Uint8Array {
  if (init instanceof Uint8Array) return init.subarray(0, 32);
  const bytes = Object.values(init as object).find(
    (value) => value instanceof Uint8Array && value.length >= 32,
  ) as Uint8Array;
  return bytes.subarray(0, 32);
}

beforeAll(async () => {
  const relay = await stage.ready("relay", "relay", "--dev");
  address = (relay.first["addresses"] as string[])[0]!;
  const alice = person("alice");
  const bob = person("bob");
  await live([alice, bob]);
  await relay.stop();
  relayOutput = { where: "output", bytes: Buffer.from(`${relay.lines.join("\n")}\n${relay.stderr}`) };
  relayHay = await scan(stage.home("relay"));
  homes.alice = await scan(alice.host);
  homes.bob = await scan(bob.host);
  await lookInside(alice);
  await lookInside(bob);
}, 120_000);

describe("the relay", () => {
  test("stores nothing that tells who or what: no text, name, id, tag or wrap", () => {
    expect(found(relayHay, secrets)).toEqual([]);
    expect(relayHay.filter(({ where }) => where === "a value").length).toBeGreaterThan(5);
  });

  test("writes nothing of it to its output", () => {
    expect(found([relayOutput], [...secrets, ...known])).toEqual([]);
    expect(Buffer.from(relayOutput.bytes).toString()).toContain('"ready":true');
  });

  test("is sent nothing of it, in gossip, on sync or on any other stream", () => {
    expect(found(frames, secrets)).toEqual([]);
    expect(new Set(frames.map(({ where }) => where))).toContain("gossip");
    expect(new Set(frames.map(({ where }) => where))).toContain(SYNC_PROTOCOL);
  });

  test("knows topics, which shows that the search finds what is there", () => {
    expect(found(relayHay, known)).toContain("topic in a key");
    expect(found(frames, known)).toContain("topic in gossip");
    expect(opened.envelopes).toBeGreaterThan(TEXTS.length);
    expect(opened.deposits).toBeGreaterThan(0);
    expect(new Set(secrets.map(({ what }) => what))).toContain("initial message");
  });
});

describe("a home", () => {
  test.each(["alice", "bob"] as const)("of %s tells nothing without its key", (name) => {
    const more = [...known, { what: "relay", bytes: Buffer.from(address) }];
    expect(found(homes[name], [...secrets, ...more])).toEqual([]);
    expect(homes[name].filter(({ where }) => where === "a value").length).toBeGreaterThan(20);
    expect(homes[name].some(({ where }) => where.endsWith(".log") || where.endsWith(".ldb"))).toBe(true);
  });
});

describe("the search", () => {
  test("finds what is written in the clear: as bytes, in hex, in base64, in compressed blocks", async () => {
    const secret = needles("secret", crypto.sha256(Buffer.from("secret")));
    const folder = stage.home("planted");
    const store = await levelStoreHost(folder, { ballastBytes: 0 }).open();
    for (const [i, { bytes }] of secret.entries()) {
      await store.commit([
        { type: "put", key: Uint8Array.of(i), value: Buffer.concat(Array.from({ length: 200 }, () => bytes)) },
      ]);
    }
    await store.compact();
    await store.close();
    const hay = await scan(folder);
    for (const needle of secret)
      expect(
        found(
          hay.filter(({ where }) => where === "a value"),
          [needle],
        ),
      ).toHaveLength(1);
    expect(
      found([{ where: "a frame", bytes: Buffer.concat([Buffer.from("x"), secret[0]!.bytes]) }], secret),
    ).toHaveLength(1);
  });
});
