import { mkdtemp, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { EnvelopeId, TopicId } from "#protocols/base/ids.ts";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import { openRoot, periodAt, sealEnvelope, topicKeys } from "#protocols/envelope/envelope.ts";
import { MailboxClient } from "#src/mailbox/client.ts";
import { createNodeNetwork } from "#src/net/node-network.ts";
import type { Network } from "#src/runtime/ports.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import { codeOf } from "#test/contracts/network.contract.ts";
import { until } from "#test/integration/net-world.ts";
import { type Relay, startRelay } from "./relay.ts";

let home: string;
const stops: (() => Promise<void>)[] = [];
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), "skein-relay-"));
});
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
  await rm(home, { recursive: true });
});

async function start(options: Partial<Parameters<typeof startRelay>[0]> = {}): Promise<Relay> {
  const relay = await startRelay({ home, dev: true, ...options });
  stops.push(() => relay.stop());
  return relay;
}

const certhash = (relay: Relay): string | undefined => /certhash\/[^/]+/.exec(relay.addresses.join())?.[0];

test("a development relay listens on loopback alone, on every transport, with STUN beside", async () => {
  const relay = await start();
  expect(relay.addresses).toHaveLength(3);
  for (const address of relay.addresses) expect(address).toMatch(/^\/ip4\/127\.0\.0\.1\/.*\/p2p\/[A-Za-z0-9]+$/);
  expect(relay.stunPort).toBeGreaterThan(0);
});

test("peer id and certificate survive a restart, and are readable by their owner alone", async () => {
  const first = await start();
  const [peerId, hash] = [first.peerId, certhash(first)];
  await first.stop();
  const second = await start();
  expect([second.peerId, certhash(second)]).toEqual([peerId, hash]);
  expect(hash).toBeDefined();
  for (const name of await readdir(home)) expect((await stat(join(home, name))).mode & 0o077).toBe(0);
});

test("two homes are two relays", async () => {
  const other = await mkdtemp(join(tmpdir(), "skein-relay-"));
  stops.push(() => rm(other, { recursive: true }));
  const [first, second] = [await start(), await start({ home: other })];
  expect(first.peerId).not.toBe(second.peerId);
  expect(certhash(first)).not.toBe(certhash(second));
});

test("a damaged identity is an error, not a new identity", async () => {
  const first = await start();
  await first.stop();
  const path = join(home, "relay-identity.json");
  const text = await readFile(path, "utf8");
  for (const damaged of [text.slice(0, 40), "{}", text.replace(/"keySeed": "../, '"keySeed": "')]) {
    await writeFile(path, damaged);
    expect(await codeOf(start())).toEqual(["relay/damaged-identity", false]);
  }
});

test("what cannot be listened on has a code, and nothing stays behind", async () => {
  const first = await start();
  const port = /tcp\/(\d+)\/p2p/.exec(first.addresses.join("\n"))![1]!;
  const other = await mkdtemp(join(tmpdir(), "skein-relay-"));
  stops.push(() => rm(other, { recursive: true }));
  const taken = [`/ip4/127.0.0.1/tcp/${port}`];
  expect(await codeOf(start({ home: other, listen: taken }))).toEqual(["net/cannot-listen", false]);
  expect(await codeOf(start({ home: other, listen: ["no address"] }))).toEqual(["net/bad-address", false]);
  const stun = { host: "127.0.0.1", port: first.stunPort! };
  expect(await codeOf(start({ home: other, stun }))).toEqual(["net/cannot-listen", false]);
});

test("announced addresses are told as they are", async () => {
  const relay = await start({ announce: ["/dns4/relay.example/tcp/443/wss"] });
  expect(relay.addresses[0]).toBe(`/dns4/relay.example/tcp/443/wss/p2p/${relay.peerId}`);
});

test("clients meet through it, and its home holds nothing of them", async () => {
  const relay = await start();
  const [a, b] = [await createNodeNetwork({ listen: [] }), await createNodeNetwork({ listen: [] })];
  stops.push(
    () => a.stop(),
    () => b.stop(),
  );
  for (const [client, address] of [
    [a, relay.addresses[0]!],
    [b, relay.addresses[1]!],
  ] as const)
    await client.connect(address);
  await b.reserve(relay.peerId);
  const circuit = b.addresses().find((address) => address.includes("p2p-circuit"))!;
  expect(await a.connect(circuit)).toBe(b.peerId);
  expect(a.connections().find(({ peer }) => peer === b.peerId)?.path).toBe("relayed");
  await relay.stop();
  for (const name of await readdir(home, { recursive: true })) {
    const path = join(home, name);
    if (!(await stat(path)).isFile()) continue;
    const bytes = await readFile(path, "latin1");
    for (const { peerId } of [a, b]) expect(bytes).not.toContain(peerId);
  }
});

const crypto = webCryptoSuite(globalThis.crypto.subtle);
const env = { random: systemRandom, crypto };

/** A member of one topic with its own network and line to the relay; keeps what came and what is promised. */
async function member(relay: Relay, topic: { readonly id: TopicId; readonly seed: Uint8Array }) {
  const network: Network = await createNodeNetwork({ listen: [] });
  const came: Uint8Array[] = [];
  const held = new Set<EnvelopeId>();
  const client = new MailboxClient({
    network,
    clock: systemClock,
    random: systemRandom,
    crypto,
    address: relay.addresses[0]!,
    handlers: {
      entries: (_, __, items) => {
        came.push(...items.map(({ envelope }) => envelope));
        return Promise.resolve();
      },
      seen: () => false,
      custody: ({ ids }) => {
        for (const id of ids) held.add(id);
      },
      rejected: () => {},
      networkTime: () => {},
      state: () => {},
    },
  });
  network.gossip.onEnvelope(() => Promise.resolve("accept"));
  network.gossip.join(topic.id);
  client.subscribe(topic);
  client.start();
  stops.push(async () => {
    client.stop();
    await network.stop();
  });
  await until(() => network.gossip.peers(topic.id).includes(relay.peerId));
  return { network, client, came, held };
}

async function someTopic() {
  const now = Date.now();
  const chain = openRoot(crypto, { version: 1, secret: systemRandom(32), createdAt: now });
  const keys = await topicKeys(crypto, chain, periodAt(chain, now));
  const seal = (text: string) =>
    sealEnvelope(
      { topic: keys, kind: "stored", lifetime: "week", payload: new Uint8Array(Buffer.from(text)) },
      { ...env, now: Date.now() },
    );
  return { id: keys.id, seed: keys.seed, seal };
}

test("what was gossiped or put while somebody was away is there for them, also after the relay was away", async () => {
  const first = await start({ stun: false });
  const topic = await someTopic();
  const author = await member(first, topic);
  const [gossiped, put] = [await topic.seal("gossiped"), await topic.seal("put")];
  expect(await author.network.gossip.publish(topic.id, gossiped.bytes)).toBe(1);
  author.client.put([put]);
  await until(() => author.held.size === 2);
  expect([...author.held].sort()).toEqual([gossiped.id, put.id].sort());
  await first.stop();
  const second = await start({ stun: false });
  const reader = await member(second, topic);
  await until(() => reader.came.length === 2);
  expect(new Set(reader.came.map(String))).toEqual(new Set([gossiped.bytes, put.bytes].map(String)));
  expect(second.stats()).toMatchObject({ sessions: 1, topics: 1, connections: 1, state: "open" });
});

test("two of one home do not run at once", async () => {
  await start();
  expect((await codeOf(start()))[0]).toBe("store/locked");
});

test("it stops while clients are connected, and says nothing", async () => {
  const lines: string[] = [];
  const relay = await start({ log: (line) => lines.push(line) });
  const { network } = await member(relay, await someTopic());
  await relay.stop();
  await until(() => network.connections().length === 0);
  expect(lines).toEqual([]);
});
