import { afterEach, expect, test } from "vitest";
import type { Connection, Stream } from "@libp2p/interface";
import { PEER_LIMITS } from "#src/net/limits.ts";
import type { FrameStream, Network } from "#src/runtime/ports.ts";
import { addressOf, codeOf, collect, PROTOCOL } from "#test/contracts/network.contract.ts";
import { peer, until } from "./net-world.ts";
import { outsider, type Outsider } from "./outsider.ts";

/** What strangers do to streams. FrameStream against raw bytes of libp2p. */

const RUBBISH = process.env["SKEIN_LONG"] ? 100_000 : 5000;

const stops: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  await Promise.all(stops.splice(0).map((stop) => stop()));
});

async function attacked(
  options: Parameters<typeof peer>[0] = {},
): Promise<{ b: Network; spy: Outsider; raw: Connection }> {
  const b = await peer(options);
  const spy = await outsider();
  stops.push(
    () => b.stop(),
    () => spy.stop(),
  );
  await spy.connect(addressOf(b));
  return { b, spy, raw: spy.node.getConnections()[0]! };
}

function open(raw: Connection): Promise<Stream> {
  return raw.newStream(PROTOCOL, { maxOutboundStreams: 1000 });
}

/** A small generator with a seed, so that a failing run can be had again. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 0x1_0000_0000;
  };
}

test("frames cut into any pieces come out whole", async () => {
  const { b, raw } = await attacked();
  const received: Uint8Array[] = [];
  b.handle(PROTOCOL, (stream) => void collect(stream, received));
  const stream = await open(raw);
  const next = random(1);
  const frames = Array.from({ length: 200 }, (_, n) => new Uint8Array(Math.floor(next() ** 4 * 20_000)).fill(n));
  const wire = Buffer.concat(frames.flatMap((frame) => [lengthOf(frame.length), frame]));
  for (let at = 0; at < wire.length;) {
    const size = next() < 0.5 ? 1 + Math.floor(next() * 5) : 1 + Math.floor(next() * 9000);
    stream.send(wire.subarray(at, at + size));
    at += size;
  }
  await until(() => received.length === frames.length);
  for (const [n, frame] of frames.entries()) expect(Buffer.compare(received[n]!, frame)).toBe(0);
});

test("a frame above the limit of its protocol aborts the stream before its bytes are read", async () => {
  const limits = { ...PEER_LIMITS, protocols: { [PROTOCOL]: { maxFrameBytes: 1000 } } };
  const { b, raw } = await attacked({ limits });
  const received: Uint8Array[] = [];
  let ended = 0;
  b.handle(PROTOCOL, (stream) => void collect(stream, received).then(() => ended++));
  const fits = await open(raw);
  fits.send(Buffer.concat([lengthOf(1000), new Uint8Array(1000)]));
  await until(() => received.length === 1);
  const over = await open(raw);
  over.send(lengthOf(1001));
  await until(() => ended === 1 && over.status === "reset");
  const huge = await open(raw);
  huge.send(lengthOf(0xffff_ffff));
  await until(() => ended === 2);
  expect(received).toHaveLength(1);
});

test("half a frame and then the end is the end, not a frame", async () => {
  const { b, raw } = await attacked();
  const received: Uint8Array[] = [];
  let ended = false;
  b.handle(PROTOCOL, (stream) => void collect(stream, received).then(() => (ended = true)));
  const stream = await open(raw);
  stream.send(Buffer.concat([lengthOf(3), Buffer.from("abc"), lengthOf(100), Buffer.from("half")]));
  await stream.close();
  await until(() => ended);
  expect(received.map((frame) => Buffer.from(frame).toString())).toEqual(["abc"]);
});

test("a reader that comes after the other side has sent, finished and gone gets what was sent", async () => {
  const { b, spy, raw } = await attacked();
  let inbound: FrameStream | undefined;
  b.handle(PROTOCOL, (stream) => (inbound = stream));
  const stream = await open(raw);
  stream.send(Buffer.concat([lengthOf(2), Buffer.from("hi")]));
  await stream.close();
  await until(() => inbound !== undefined);
  await spy.node.stop();
  await until(() => b.connections().length === 0);
  expect(Buffer.from((await inbound!.receive())!).toString()).toBe("hi");
  expect(await inbound!.receive()).toBeUndefined();
});

test("what a slow reader had not read when the connection went, it still gets, to the last frame", async () => {
  const { b, spy, raw } = await attacked();
  let inbound: FrameStream | undefined;
  b.handle(PROTOCOL, (stream) => (inbound = stream));
  const stream = await open(raw);
  // So many that reading stops at some frame; the rest waits in libp2p.
  const frames = 2500;
  for (let n = 0; n < frames; n += 100) {
    const wire = Array.from({ length: 100 }, () => [lengthOf(90), new Uint8Array(90)]).flat();
    stream.send(Buffer.concat(wire));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await stream.close();
  await until(() => inbound !== undefined);
  await spy.node.stop();
  await until(() => b.connections().length === 0);
  let received = 0;
  while (await inbound!.receive()) received++;
  expect(received).toBe(frames);
});

test("more streams of a protocol than allowed are reset, and the others live on", async () => {
  const { b, raw } = await attacked({ limits: { ...PEER_LIMITS, maxInboundStreams: 3 } });
  let handled = 0;
  const received: Uint8Array[] = [];
  b.handle(PROTOCOL, (stream) => {
    handled++;
    void collect(stream, received);
  });
  const streams = await Promise.all(Array.from({ length: 8 }, () => open(raw)));
  await until(() => streams.filter((stream) => stream.status === "open").length === 3);
  expect(handled).toBe(3);
  for (const stream of streams) if (stream.status === "open") stream.send(lengthOf(0));
  await until(() => received.length === 3);
});

test("a flood of small frames that nobody reads is held back", async () => {
  const { b, raw } = await attacked();
  let inbound: FrameStream | undefined;
  b.handle(PROTOCOL, (stream) => (inbound = stream));
  const stream = await open(raw);
  const empty = Buffer.alloc(64 * 1024); // 16,384 frames of no bytes
  let sent = 0;
  // Until the window is used up: then it is on the sender's side that the rest waits.
  await until(() => {
    if (!stream.writableNeedsDrain) {
      stream.send(empty);
      sent += empty.length / 4;
    }
    return stream.writeBufferLength > 0 && inbound !== undefined;
  });
  expect(sent * 4).toBeLessThan(8 * 1024 * 1024);
  let received = 0;
  while (received < 1000 && (await inbound!.receive())) received++;
  expect(received).toBe(1000);
});

test(`${RUBBISH} streams of rubbish end, and harm nobody`, async () => {
  const { b, raw } = await attacked();
  let open_ = 0;
  let handled = 0;
  b.handle(PROTOCOL, (stream) => {
    handled++;
    open_++;
    void collect(stream, []).then(async () => {
      open_--;
      await stream.close();
    });
  });
  const next = random(2);
  for (let n = 0; n < RUBBISH; n += 16) {
    const streams = await Promise.all(Array.from({ length: 16 }, () => open(raw)));
    for (const stream of streams) {
      const bytes = Buffer.from(Array.from({ length: Math.floor(next() * 40) }, () => Math.floor(next() * 256)));
      if (bytes.length > 0 && stream.status === "open") stream.send(bytes);
      if (next() < 0.5) stream.abort(new Error("enough"));
      else void stream.close().catch(() => stream.abort(new Error("was reset")));
    }
    await until(() => open_ === 0);
  }
  expect(handled).toBeGreaterThan(RUBBISH / 2);
  const friend = await peer();
  stops.push(() => friend.stop());
  await friend.connect(addressOf(b));
  const stream = await friend.openStream(b.peerId, PROTOCOL);
  await stream.send(Uint8Array.of(1));
  await stream.close();
  expect(await stream.receive()).toBeUndefined();
});

test("a protocol nobody handles and a connection that is gone have their code", async () => {
  const { b } = await attacked();
  const a = await peer();
  stops.push(() => a.stop());
  await a.connect(addressOf(b));
  expect((await codeOf(a.openStream(b.peerId, "/skein/unknown/1")))[0]).toBe("net/unreachable");
  await a.disconnect(b.peerId);
  expect((await codeOf(a.openStream(b.peerId, PROTOCOL)))[0]).toBe("net/unreachable");
});

function lengthOf(bytes: number): Buffer {
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32BE(bytes);
  return prefix;
}
