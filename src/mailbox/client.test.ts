import { describe, expect, test } from "vitest";
import { toHex } from "#protocols/base/bytes.ts";
import type { EnvelopeId, LogId, PeerId } from "#protocols/base/ids.ts";
import { decodeFrame, encodeFrame, type Frame } from "#protocols/sync/frames.ts";
import { SYNC_PROTOCOL } from "#protocols/sync/limits.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { FrameStream } from "#src/runtime/ports.ts";
import { MailboxClient, type MailboxHandlers } from "./client.ts";
import { countingRandom, crypto, HandClock, makeTopic, settle, START, Wire } from "./world.fixture.ts";

const LOG = "09".repeat(16) as LogId;
const topic = await makeTopic("one");

/** A client, and a mailbox that says only what the test says. */
async function talk(handlers: Partial<MailboxHandlers> = {}, greets = true) {
  const wire = new Wire();
  const clock = new HandClock();
  const mailbox = wire.node("mailbox");
  const streams: FrameStream[] = [];
  const heard: Frame[] = [];
  const custodyKey = await crypto.ed25519.publicKey(new Uint8Array(32).fill(5));
  const hello: Frame = {
    type: "hello",
    version: 1,
    nonce: new Uint8Array(32),
    now: START,
    mailbox: { log: LOG, custodyKey, maxTopics: 10, putWindowBytes: 1_000_000 },
  };
  mailbox.handle(SYNC_PROTOCOL, (stream) => {
    streams.push(stream);
    if (greets) void stream.send(encodeFrame(hello));
    void (async () => {
      for (let raw = await stream.receive(); raw; raw = await stream.receive()) heard.push(decodeFrame(raw) as Frame);
    })();
  });
  const states: string[] = [];
  const rejected: [EnvelopeId, string][] = [];
  const client = new MailboxClient({
    network: wire.node("client"),
    clock,
    random: countingRandom("client"),
    crypto,
    address: "/wire/p2p/mailbox",
    handlers: {
      entries: async () => {},
      seen: () => false,
      custody: () => {},
      rejected: (id, code) => rejected.push([id, code]),
      networkTime: () => {},
      state: (state, reason) => states.push(reason === undefined ? state : `${state} ${reason}`),
      ...handlers,
    },
  });
  client.start();
  await settle();
  const say = async (frame: Frame): Promise<void> => {
    await streams.at(-1)!.send(encodeFrame(frame));
    await settle();
  };
  return { wire, clock, mailbox, client, streams, heard, states, rejected, say };
}

const id = (byte: number) => toHex(new Uint8Array(32).fill(byte)) as EnvelopeId;

describe("keeping a line up", () => {
  test("[SY4] a mailbox that does not greet is left, and asked again later", async () => {
    const { clock, states, streams } = await talk({}, false);
    await clock.advance(11_000);
    expect(states).toEqual(["connecting", "connecting sync/no-hello"]);
    expect(streams).toHaveLength(2);
  });

  test("attempts come later each time, up to a minute, and never at once", async () => {
    const { clock, mailbox, streams, wire, client } = await talk();
    mailbox.reachable = false;
    wire.cut();
    await settle();
    const times: number[] = [];
    const { connect } = Object.getPrototypeOf(mailbox) as { connect: (address: string) => Promise<PeerId> };
    wire.nodes.get("client" as PeerId)!.connect = async (address) => {
      times.push(clock.monotonic());
      return connect.call(mailbox, address);
    };
    await clock.advance(600_000);
    const waits = times.slice(1).map((time, i) => time - times[i]!);
    expect(Math.min(...waits)).toBeGreaterThanOrEqual(250);
    expect(Math.max(...waits)).toBeLessThanOrEqual(60_000);
    expect(times.length).toBeLessThan(30);
    expect(client.state()).toBe("connecting");
    expect(streams).toHaveLength(1);
    client.stop();
    expect(client.state()).toBe("closed");
    await clock.advance(600_000);
    expect(clock.waiting).toBe(0);
  });

  test("[SY14] a handler that could not commit ends the line; no cursor moves and no credit goes back", async () => {
    const { client, say, states, heard } = await talk({
      entries: () => Promise.reject(new Failure("store/full", "no room", { retryable: true })),
    });
    client.subscribe(topic);
    await settle();
    await say({ type: "subscribed", topic: topic.id, log: LOG, after: 0, reset: false });
    const items = [{ n: 7, envelope: new Uint8Array(100) }];
    await say({ type: "entries", lane: "backlog", topic: topic.id, log: LOG, items, through: 7, end: true });
    expect(states.at(-1)).toBe("connecting store/full");
    expect(client.cursor(topic.id)).toEqual({ log: LOG, n: 0 });
    expect(heard.filter((frame) => frame.type === "credit")).toHaveLength(2);
  });

  test("[SY13] a cursor that moves without entries is told, so that it can be kept", async () => {
    const kept: (number | undefined)[] = [];
    const { client, say } = await talk({
      entries: async (_topic, _log, items, cursor) => void kept.push(items.length, cursor),
    });
    client.subscribe(topic);
    await settle();
    await say({ type: "subscribed", topic: topic.id, log: LOG, after: 0, reset: false });
    await say({ type: "entries", lane: "live", topic: topic.id, log: LOG, items: [], through: 9, end: false });
    expect(kept).toEqual([0, 9]);
    expect(client.cursor(topic.id)).toEqual({ log: LOG, n: 9 });
  });
});

describe("asking and not being answered", () => {
  test("[SY37] a request ends at its deadline, an unanswered put ends the line", async () => {
    const { client, clock, states } = await talk();
    const request = client.directoryCount(new Uint8Array(32));
    await clock.advance(15_000);
    expect(await request).toEqual({ type: "reject", code: "sync/timeout" });
    client.put([{ id: id(1), bytes: new Uint8Array(10) }]);
    await clock.advance(29_000);
    expect(client.state()).toBe("open");
    await clock.advance(1_001);
    expect(states.at(-1)).toBe("connecting sync/stalled");
  });

  test("[SY18] what cannot be queued is told at once", async () => {
    const { client, rejected, heard } = await talk();
    const bytes = new Uint8Array(70_000);
    client.put(Array.from({ length: 250 }, (_, i) => ({ id: id(i), bytes })));
    expect(rejected).toHaveLength(250 - Math.floor(2 ** 24 / 70_000));
    expect(new Set(rejected.map(([, code]) => code))).toEqual(new Set(["sync/queue-full"]));
    await settle();
    const put = heard.flatMap((frame) => (frame.type === "put" ? frame.envelopes : []));
    expect(put).toHaveLength(Math.floor(1_000_000 / 70_000));
    client.stop();
    client.put([{ id: id(1), bytes }]);
    expect(rejected.at(-1)).toEqual([id(1), "sync/not-open"]);
  });
});
