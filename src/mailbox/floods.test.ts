import { describe, expect, test } from "vitest";
import type { TopicKeys } from "#protocols/envelope/envelope.ts";
import { decodeFrame, encodeFrame } from "#protocols/sync/frames.ts";
import { SYNC_PROTOCOL } from "#protocols/sync/limits.ts";
import { countingRandom, envelopeMaker, makeTopic, settle, START } from "./world.fixture.ts";
import { Reader, World } from "./readers.fixture.ts";

const seal = envelopeMaker(countingRandom("envelopes"));

describe("floods", () => {
  test("[SY7] a peer has four streams at most; a fifth ends the first", async () => {
    const world = await new World().start();
    const vandal = world.wire.node("vandal");
    const streams = [];
    for (let i = 0; i < 9; i++) streams.push(await vandal.openStream(world.network.peerId, SYNC_PROTOCOL));
    await settle();
    expect(world.mailbox.stats().sessions).toBe(4);
    const ends = await Promise.all(
      streams.slice(0, 5).map(async (stream) => [await stream.receive(), await stream.receive()]),
    );
    for (const [greeting, end] of ends) {
      expect(decodeFrame(greeting!)).toMatchObject({ type: "hello" });
      expect(decodeFrame(end!)).toEqual({ type: "bye", code: "sync/replaced" });
    }
    await world.clock.advance(10_000);
    expect(world.mailbox.stats().sessions).toBe(0);
  });

  test("[SY13] one peer on two streams gets everything on both, and its puts come back to no loss", async () => {
    const world = await new World().start();
    const topic = await makeTopic("one");
    const [first, bob] = [await world.reader("alice", topic), await world.reader("bob", topic)];
    const second = new Reader(world, "alice again", {}, first.network);
    await settle();
    second.read(topic);
    await settle();
    expect(world.mailbox.stats().sessions).toBe(3);
    const envelope = await seal(topic);
    second.client.put([envelope]);
    await settle();
    expect(second.got.custody.size).toBe(1);
    expect([first.got.entries.size, bob.got.entries.size]).toEqual([1, 1]);
    second.client.stop();
    await settle();
    expect(world.network.joined).toEqual([topic.id]);
  });

  const hello = encodeFrame({ type: "hello", version: 1, nonce: new Uint8Array(32), now: START });
  const unproved = (topic: TopicKeys) =>
    encodeFrame({
      type: "subscribe",
      items: Array.from({ length: 64 }, () => ({ topic: topic.id, proof: new Uint8Array(64) })),
    });

  test("[SY5] a flood is read as fast as its tokens come back", async () => {
    const world = await new World().start();
    const vandal = world.wire.node("vandal");
    const stream = await vandal.openStream(world.network.peerId, SYNC_PROTOCOL);
    const flood = unproved(await makeTopic("one"));
    await stream.send(hello);
    for (let i = 0; i < 200; i++) await stream.send(flood);
    const denied = async (ms: number) => {
      await world.clock.advance(ms);
      let count = 0;
      for (const frame of world.wire.received(vandal.peerId)) if (frame.type === "denied") count++;
      return count;
    };
    // 64 checks and the frame itself: a burst of 16,384 tokens pays for 32 frames, a second for 64 more.
    expect(await denied(0)).toBe(32 * 64);
    expect(await denied(1_000)).toBeLessThanOrEqual(97 * 64);
    expect(await denied(5_000)).toBe(200 * 64);
  });

  test("[SY16] who asks and does not read is not read either", async () => {
    const world = await new World().start({}, undefined, { tokenBurst: 1e9 });
    const vandal = world.wire.node("vandal");
    const stream = await vandal.openStream(world.network.peerId, SYNC_PROTOCOL);
    world.wire.capacity(4);
    const flood = unproved(await makeTopic("one"));
    await stream.send(hello);
    let taken = 0;
    const sending = (async () => {
      for (; taken < 1_000; taken++) await stream.send(flood);
    })();
    await settle();
    // 2 MiB of answers, counted as 128 bytes each, and a few frames on the wire.
    expect(taken).toBeLessThan(2 ** 21 / (64 * 128) + 10);
    stream.abort();
    await expect(sending).rejects.toMatchObject({ code: "net/stream-closed" });
    await world.clock.advance(10_000);
    expect(world.mailbox.stats().sessions).toBe(0);
  });
});
