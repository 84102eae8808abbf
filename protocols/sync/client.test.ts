import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { toHex } from "#protocols/base/bytes.ts";
import type { EnvelopeId, InboxId, LogId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import { type ClientEffect, type ClientInput, clientStep, cursorAfter, openClient } from "./client.ts";
import { crypto, exampleFrames, fill, idOf, keyPair } from "./frames.fixture.ts";
import { encodeFrame, type Frame, type FrameOf, type Lane } from "./frames.ts";
import { LANE_CREDIT_BYTES, MAX_WANTED } from "./limits.ts";
import { signCustody, verifyTopicProof } from "./proofs.ts";

const LOG = idOf<LogId>(9, 16);
const MAILBOX = "mailbox" as PeerId;
const CLIENT = "client" as PeerId;
const env = { now: 1_795_177_800_000, crypto, random: (length: number) => fill(2, length) };
const custodyKey = await crypto.ed25519.publicKey(fill(5));
const topic = await keyPair<TopicId>(3);

/** The client's end, and what a test says to it in the mailbox's name. */
class Talk {
  readonly state;
  readonly effects: ClientEffect[];

  constructor() {
    const client = openClient({ self: CLIENT, mailboxPeer: MAILBOX }, env);
    this.state = client.state;
    this.effects = [...client.effects];
  }

  async input(input: ClientInput): Promise<readonly ClientEffect[]> {
    const effects = await clientStep(this.state, input, env);
    this.effects.push(...effects);
    return effects;
  }

  hear(frame: Frame): Promise<readonly ClientEffect[]> {
    return this.input({ type: "frame", raw: encodeFrame(frame) });
  }

  async hello(putWindowBytes = 1000): Promise<this> {
    const mailbox = { log: LOG, custodyKey, maxTopics: 10, putWindowBytes };
    await this.hear({ type: "hello", version: 1, nonce: fill(1), now: env.now, mailbox });
    return this;
  }

  async subscribed(n = 0): Promise<this> {
    const cursor = n > 0 ? { cursor: { log: LOG, n } } : {};
    await this.input({ type: "subscribe", topics: [{ ...topic, ...cursor }] });
    await this.hear({ type: "subscribed", topic: topic.id, log: LOG, after: n, reset: false });
    return this;
  }

  entries(lane: Lane, ns: readonly number[], through?: number, end = false): Promise<readonly ClientEffect[]> {
    const items = ns.map((n) => ({ n, envelope: fill(6, 10) }));
    return this.hear({ type: "entries", lane, topic: topic.id, log: LOG, items, through, end });
  }

  async have(ns: readonly number[], through?: number): Promise<readonly ClientEffect[]> {
    const items = ns.map((n) => ({ n, id: idOf<EnvelopeId>(n % 256), until: 500_000 }));
    const signature = await signCustody(crypto, fill(5), { log: LOG, items });
    return this.hear({ type: "have", topic: topic.id, log: LOG, items, signature, through });
  }

  commit(effect: ClientEffect | undefined): Promise<readonly ClientEffect[]> {
    if (effect?.type !== "deliver") throw new Error("a delivery");
    const { topic: id, mark, lane, items } = effect;
    return this.input({ type: "committed", topic: id, mark, lane, items });
  }

  get cursor(): number | undefined {
    return this.state.topics.get(topic.id)?.cursor?.n;
  }

  get closed(): string | undefined {
    return this.effects.find((effect) => effect.type === "close")?.code;
  }

  sent<T extends Frame["type"]>(type: T): FrameOf<T>[] {
    const frames = this.effects.flatMap((effect) => (effect.type === "send" ? [effect.frame] : []));
    return frames.filter((frame): frame is FrameOf<T> => frame.type === type);
  }

  of<T extends ClientEffect["type"]>(type: T): Extract<ClientEffect, { type: T }>[] {
    return this.effects.filter((effect): effect is Extract<ClientEffect, { type: T }> => effect.type === type);
  }
}

describe("cursors", () => {
  test("[SY14] the cursor waits for the slower lane", async () => {
    const talk = await (await new Talk().hello()).subscribed();
    const [backlog] = await talk.entries("backlog", [1, 2], 5, true);
    const [live] = await talk.entries("live", [6], 6);
    if (live?.type !== "deliver") throw new Error("a delivery");
    expect(cursorAfter(talk.state, topic.id, live.mark)).toBeUndefined();
    await talk.commit(live);
    expect(talk.cursor).toBe(0);
    await talk.commit(backlog);
    expect(talk.cursor).toBe(6);
    expect(talk.of("caughtUp")).toHaveLength(1);
  });

  test("[SY13] it waits for what was announced and is not here, and asks for it", async () => {
    const talk = await (await new Talk().hello()).subscribed();
    const [, ask] = await talk.have([3, 4], 4);
    if (ask?.type !== "ask") throw new Error("a question");
    await talk.input({ type: "missing", topic: topic.id, mark: ask.mark, ns: [4] });
    expect(talk.sent("want")).toEqual([{ type: "want", topic: topic.id, ns: [4] }]);
    expect(talk.cursor).toBe(0);
    const [found] = await talk.entries("live", [4]);
    await talk.commit(found);
    expect(talk.cursor).toBe(4);
    const [, second] = await talk.have([7, 8], 8);
    if (second?.type !== "ask") throw new Error("a question");
    await talk.input({ type: "missing", topic: topic.id, mark: second.mark, ns: [7, 8] });
    await talk.hear({ type: "gone", topic: topic.id, ns: [7, 8] });
    expect(talk.cursor).toBe(8);
    expect(talk.state.milestones + talk.state.wanted).toBe(0);
  });

  test("[SY13] a receipt without `through` is a receipt and nothing more", async () => {
    const talk = await (await new Talk().hello()).subscribed();
    const effects = await talk.have([3]);
    expect(effects.map((effect) => effect.type)).toEqual(["custody"]);
    expect(talk.state.milestones).toBe(0);
  });

  test("[SY14] in any order of commits and answers the cursor passes nothing that is outstanding", async () => {
    const step = fc.record({
      lane: fc.constantFrom("backlog" as const, "live" as const, "have" as const),
      count: fc.integer({ min: 0, max: 3 }),
      told: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 12 }), fc.infiniteStream(fc.nat()), async (steps, picks) => {
        const talk = await (await new Talk().hello()).subscribed();
        const outstanding = new Set<number>();
        const todo: (() => Promise<void>)[] = [];
        let n = 0;
        const act = async (effects: readonly ClientEffect[]): Promise<void> => {
          for (const effect of effects) {
            if (effect.type === "deliver") {
              todo.push(async () => {
                for (const item of effect.items) outstanding.delete(item.n);
                await act(await talk.commit(effect));
              });
            }
            if (effect.type === "ask") {
              const ns = effect.items.map((item) => item.n).filter((one) => one % 2 === 0);
              for (const item of effect.items) if (!ns.includes(item.n)) outstanding.delete(item.n);
              todo.push(async () => act(await talk.input({ type: "missing", topic: topic.id, mark: effect.mark, ns })));
            }
            if (effect.type === "send" && effect.frame.type === "want") {
              const { ns } = effect.frame;
              todo.push(async () => act(await talk.entries("live", ns)));
            }
          }
        };
        const check = (): void => {
          for (const one of outstanding) expect(talk.cursor).toBeLessThan(one);
        };
        for (const { lane, count, told } of steps) {
          const ns = Array.from({ length: lane === "have" ? count + 1 : count }, () => ++n);
          for (const one of ns) outstanding.add(one);
          // A mailbox says `through` only when everything up to it was sent; here all of it was.
          if (lane === "have") await act(await talk.have(ns, n));
          else await act(await talk.entries(lane, ns, told ? n : undefined));
          check();
          if (told && todo.length > 0) {
            await todo.splice(picks.next().value % todo.length, 1)[0]!();
            check();
          }
        }
        while (todo.length > 0) {
          await todo.splice(picks.next().value % todo.length, 1)[0]!();
          check();
        }
        expect(outstanding.size).toBe(0);
        expect(talk.state.wanted).toBe(0);
        expect(talk.state.milestones).toBe(0);
        expect(talk.closed).toBeUndefined();
      }),
      { numRuns: process.env["SKEIN_LONG"] === "1" ? 2_000 : 60 },
    );
  });

  test("[SY10] the answer to a subscription must fit what was asked", async () => {
    const answers = [
      { after: 400, reset: false },
      { after: 500, reset: true },
      { after: 0, reset: true },
      { after: 0, reset: false },
    ];
    for (const answer of answers) {
      const talk = await new Talk().hello();
      await talk.input({ type: "subscribe", topics: [{ ...topic, cursor: { log: LOG, n: 500 } }] });
      await talk.hear({ type: "subscribed", topic: topic.id, log: LOG, ...answer });
      expect(talk.closed).toBe("sync/unexpected");
    }
    const moved = await new Talk().hello();
    await moved.input({ type: "subscribe", topics: [{ ...topic, cursor: { log: idOf<LogId>(7, 16), n: 500 } }] });
    await moved.hear({ type: "subscribed", topic: topic.id, log: LOG, after: 0, reset: true });
    expect(moved.closed).toBeUndefined();
    expect(moved.cursor).toBe(0);
  });
});

describe("a mailbox that misbehaves", () => {
  test("[SY11] more than was granted ends the stream", async () => {
    const talk = await (await new Talk().hello()).subscribed();
    const envelope = fill(6, 70_000);
    for (let n = 1; n * 70_000 <= LANE_CREDIT_BYTES + 210_000; n++) {
      await talk.hear({
        type: "entries",
        lane: "live",
        topic: topic.id,
        log: LOG,
        items: [{ n, envelope }],
        through: n,
        end: false,
      });
    }
    expect(talk.closed).toBe("sync/overrun");
  });

  test("[SY11] what is committed is granted again, on its lane", async () => {
    const talk = await (await new Talk().hello()).subscribed();
    const [delivery] = await talk.entries("backlog", [1, 2], 2);
    await talk.commit(delivery);
    expect(talk.sent("credit").slice(2)).toEqual([{ type: "credit", lane: "backlog", bytes: 20 }]);
    expect(talk.state.granted).toEqual({ backlog: LANE_CREDIT_BYTES, live: LANE_CREDIT_BYTES });
  });

  test("[SY17] one that announces without end is left", async () => {
    const talk = await (await new Talk().hello()).subscribed();
    for (let first = 1; first <= MAX_WANTED + 1; first += 512) {
      const ns = Array.from({ length: 512 }, (_, i) => first + i);
      const ask = (await talk.have(ns, first + 511)).find((effect) => effect.type === "ask");
      if (ask) await talk.input({ type: "missing", topic: topic.id, mark: ask.mark, ns });
    }
    expect(talk.closed).toBe("sync/overrun");
  });

  test("[SY20] a receipt with a wrong signature ends the stream and is told to nobody", async () => {
    const items = [{ id: idOf<EnvelopeId>(1), until: 500_000 }];
    const frames: Frame[] = [
      { type: "custody", items, signature: fill(1, 64) },
      { type: "have", topic: topic.id, log: LOG, items: [{ n: 1, ...items[0]! }], signature: fill(1, 64), through: 1 },
    ];
    for (const frame of frames) {
      const talk = await (await new Talk().hello()).subscribed();
      await talk.hear(frame);
      expect(talk.closed).toBe("sync/bad-receipt");
      expect(talk.of("custody")).toEqual([]);
    }
  });

  test("[SY4] frames of a client, entries of another log and positions out of order end the stream", async () => {
    for (const frame of Object.values(await exampleFrames())) {
      const theirs = [
        "subscribe",
        "unsubscribe",
        "want",
        "credit",
        "put",
        "openInbox",
        "removeDeposits",
        "grant",
        "revokeGrant",
        "deposit",
        "directoryPut",
        "directoryTake",
        "directoryCount",
      ];
      if (!theirs.includes(frame.type)) continue;
      const talk = await new Talk().hello();
      await talk.hear(frame);
      expect(talk.closed).toBe("sync/unexpected");
    }
    const elsewhere = await (await new Talk().hello()).subscribed();
    const items = [{ n: 1, envelope: fill(6, 10) }];
    await elsewhere.hear({
      type: "entries",
      lane: "live",
      topic: topic.id,
      log: idOf<LogId>(7, 16),
      items,
      end: false,
    });
    expect(elsewhere.closed).toBe("sync/unexpected");
    const disorder = await (await new Talk().hello()).subscribed();
    await disorder.entries("live", [2, 1]);
    expect(disorder.closed).toBe("sync/unexpected");
    const noMailbox = new Talk();
    await noMailbox.hear({ type: "hello", version: 1, nonce: fill(1), now: env.now });
    expect(noMailbox.closed).toBe("sync/not-a-mailbox");
  });

  test("[SY2] rubbish in the mailbox's name ends the stream with a code and moves no cursor", async () => {
    const seeds = Object.values(await exampleFrames()).map(encodeFrame);
    const codes = new Set<string>();
    for (const raw of mutations(seeds, process.env["SKEIN_LONG"] === "1" ? 100_000 : 5_000, 13)) {
      const talk = await new Talk().hello();
      await talk.input({ type: "frame", raw });
      if (talk.closed !== undefined) codes.add(talk.closed);
      expect(talk.state.topics.size).toBe(0);
    }
    expect(codes.has("sync/unexpected")).toBe(true);
    expect(codes.size).toBeGreaterThan(6);
  });
});

describe("asking", () => {
  test("[SY6] each topic is proved for this connection, in frames of sixty-four", async () => {
    const talk = await new Talk().hello();
    const topics = await Promise.all(Array.from({ length: 70 }, (_, i) => keyPair<TopicId>(100 + i)));
    await talk.input({ type: "subscribe", topics });
    expect(talk.sent("subscribe").map((frame) => frame.items.length)).toEqual([64, 6]);
    const binding = { mailboxNonce: fill(1), clientNonce: fill(2), mailboxPeer: MAILBOX, clientPeer: CLIENT };
    expect(await verifyTopicProof(crypto, talk.sent("subscribe")[0]!.items[7]!, binding)).toBe(true);
  });

  test("[SY18] puts wait for room in the window, in order, and a repeated one goes once", async () => {
    const talk = await new Talk().hello(1000);
    const put = (i: number) => ({ id: idOf<EnvelopeId>(i), bytes: fill(i, 400) });
    await talk.input({ type: "put", envelopes: [put(1), put(2), put(1), put(3)] });
    expect(talk.sent("put").flatMap((frame) => frame.envelopes.map((one) => one[0]))).toEqual([1, 2]);
    const items = [{ id: idOf<EnvelopeId>(1), until: 500_000 }];
    await talk.hear({ type: "custody", items, signature: await signCustody(crypto, fill(5), { log: LOG, items }) });
    expect(talk.of("custody")).toEqual([{ type: "custody", custodyKey: toHex(custodyKey), items }]);
    expect(
      talk
        .sent("put")
        .at(-1)!
        .envelopes.map((one) => one[0]),
    ).toEqual([3]);
    await talk.hear({ type: "refused", items: [{ id: idOf<EnvelopeId>(2), code: "sync/topic-full" }] });
    expect(talk.state.inFlightBytes).toBe(400);
  });

  test("[SY10] what comes of a topic that was dropped gives its credit back and nothing else", async () => {
    const talk = await (await new Talk().hello()).subscribed();
    await talk.input({ type: "unsubscribe", topic: topic.id });
    const effects = await talk.entries("live", [1], 1);
    expect(effects).toEqual([{ type: "send", frame: { type: "credit", lane: "live", bytes: 10 } }]);
    expect(talk.state.milestones).toBe(0);
  });

  test("[SY31] deposits come in order, count against the backlog, and move the inbox's cursor when committed", async () => {
    const talk = await new Talk().hello();
    const inbox = await keyPair<InboxId>(4);
    await talk.input({ type: "openInbox", inbox });
    await talk.hear({ type: "inboxOpened", inbox: inbox.id, log: LOG, after: 0, reset: false });
    const items = [{ n: 3, envelope: fill(6, 10) }];
    await talk.hear({ type: "deposits", inbox: inbox.id, log: LOG, items });
    expect(talk.of("deliverDeposits")).toEqual([{ type: "deliverDeposits", inbox: inbox.id, items }]);
    await talk.input({ type: "depositsCommitted", inbox: inbox.id, items });
    expect(talk.state.inboxes.get(inbox.id)?.cursor).toEqual({ log: LOG, n: 3 });
    expect(talk.state.granted.backlog).toBe(LANE_CREDIT_BYTES);
  });
});
