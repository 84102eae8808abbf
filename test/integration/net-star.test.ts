import { afterEach, expect, test } from "vitest";
import type { Network } from "#src/runtime/ports.ts";
import { meet, sampleTopic, validator } from "#test/contracts/network.contract.ts";
import { peer, relay, until, worldOf } from "./net-world.ts";

const CLIENTS = process.env["SKEIN_LONG"] ? 200 : 50;

const stops: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  await Promise.all(stops.splice(0).map((stop) => stop()));
});

test(`every one of ${CLIENTS} clients of a relay gets every one of 20 envelopes`, async () => {
  const hub = await relay();
  stops.push(() => hub.stop());
  const clients: Network[] = [];
  const heard: { envelope: Uint8Array }[][] = [];
  for (let n = 0; n < CLIENTS; n++) {
    const client = await peer({ listen: [] });
    stops.push(() => client.stop());
    clients.push(client);
    heard.push(validator(client, "accept"));
  }
  validator(hub, "accept");
  const topic = await sampleTopic(60);
  await meet(worldOf(clients, [hub]), clients, hub, topic.id);
  const counts = Array.from({ length: CLIENTS }, () => 0);
  for (let n = 0; n < 20; n++) {
    const author = (n * 7) % CLIENTS;
    expect(await clients[author]!.gossip.publish(topic.id, await topic.seal(`message ${n}`))).toBe(1);
    for (const other of counts.keys()) if (other !== author) counts[other]!++;
  }
  await until(() => heard.every((list, index) => list.length === counts[index]));
  for (const list of heard) expect(new Set(list.map(({ envelope }) => String(envelope))).size).toBe(list.length);
});
