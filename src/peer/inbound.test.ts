import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { toHex } from "#protocols/base/bytes.ts";
import { encode, decode, list, bytes } from "#protocols/base/codec.ts";
import type { PeerId, TopicId } from "#protocols/base/ids.ts";
import { isReject } from "#protocols/base/reject.ts";
import {
  inspectEnvelope,
  openEnvelope,
  openRoot,
  periodAt,
  sealEnvelope,
  topicKeys,
  type TopicKeys,
} from "#protocols/envelope/envelope.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import { type Met, metInTheSimulator, type Parts, partsOf } from "#test/integration/peer-parts.ts";

void toHex; void encode; void decode; void list; void bytes; void isReject; void inspectEnvelope; void openEnvelope; void openRoot; void periodAt; void topicKeys; void mutations;
let met: Met;
let bob: Parts;
beforeAll(async () => { met = await metInTheSimulator(3, 5); });
beforeEach(async () => { bob = await partsOf(met); });
afterEach(async () => { await bob.driver.close(); });
describe("x", () => {
  test("replay", async () => {
    for (const { topic, envelope } of met.gossiped) {
      const v = await bob.inbound.validate(topic, envelope, "x" as PeerId);
      console.log(v);
    }
    await bob.driver.run([], async () => {});
    console.log(bob.inbound.rejects, bob.outcomes.length);
    const keys = bob.topics.of(met.alice);
    console.log(keys.length, met.gossiped.map(({topic}) => keys.findIndex(({id}) => id === topic)));
    const env = { now: met.now, random: bob.world.random, crypto: met.crypto };
    const writing: TopicKeys = keys.find(({ id }) => id === met.gossiped.at(-1)!.topic)!;
    const e = await sealEnvelope({ topic: writing, kind: "stored", lifetime: "month", payload: new Uint8Array(100) }, env);
    await bob.inbound.envelopes([e.bytes]);
    console.log(bob.inbound.rejects, bob.outcomes.length);
  });
});
