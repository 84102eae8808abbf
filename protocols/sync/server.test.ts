import { describe, expect, test } from "vitest";
import type { EnvelopeId, InboxId, LogId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import { crypto, exampleFrames, fill, idOf, keyPair } from "./frames.fixture.ts";
import { encodeFrame, type Frame, type FrameOf } from "./frames.ts";
import { BATCH_BYTES, MAX_QUEUED_BYTES, MAX_REQUESTS, MAX_WANTED } from "./limits.ts";
import { type Binding, proveInbox, proveTopic } from "./proofs.ts";
import { openServer, type ServerEffect, type ServerInput, type ServerLimits, serverStep } from "./server.ts";

const LOG = idOf<LogId>(9, 16);
const MAILBOX = "mailbox" as PeerId;
const CLIENT = "client" as PeerId;
const NOW = 1_795_177_800_000;

/** A session and what a test says to it. The stream takes every frame at once unless `stuck`. */
class Talk {
  now = NOW;
  readonly server;
  readonly effects: ServerEffect[] = [];
  stuck = false;
  #nonces = 0;

  constructor(limits: Partial<ServerLimits> = {}) {
    this.server = openServer(
      { log: LOG, custodyKey: fill(5), mailboxPeer: MAILBOX, clientPeer: CLIENT, limits },
      this.env(),
    );
    this.effects.push(...this.server.effects);
  }

  env() {
    return { now: this.now, crypto, random: (length: number) => fill(100 + this.#nonces++, length) };
  }

  async input(input: ServerInput): Promise<readonly ServerEffect[]> {
    const effects = [...(await serverStep(this.server.state, input, this.env()))];
    this.effects.push(...effects);
    if (!this.stuck) {
      const sent = effects.filter((effect) => effect.type === "send");
      for (const effect of sent) effects.push(...(await this.input({ ...effect, type: "sent" })));
    }
    return effects;
  }

  say(frame: Frame): Promise<readonly ServerEffect[]> {
    return this.input({ type: "frame", raw: encodeFrame(frame) });
  }

  get binding(): Binding {
    return { mailboxNonce: this.server.state.nonce, clientNonce: fill(2), mailboxPeer: MAILBOX, clientPeer: CLIENT };
  }

  async hello(): Promise<this> {
    const [greeting] = this.server.effects;
    if (greeting?.type === "send") await this.input({ ...greeting, type: "sent" });
    await this.say({ type: "hello", version: 1, nonce: fill(2), now: NOW });
    return this;
  }

  async subscribe(byte: number, cursor?: { log: LogId; n: number }): Promise<TopicId> {
    const topic = await keyPair<TopicId>(byte);
    const proof = await proveTopic(crypto, topic, this.binding);
    await this.say({ type: "subscribe", items: [{ topic: topic.id, proof, cursor }] });
    return topic.id;
  }

  /** A topic read to its end. */
  async live(byte: number): Promise<TopicId> {
    const topic = await this.subscribe(byte);
    await this.say({ type: "credit", lane: "backlog", bytes: 1000 });
    await this.input({ type: "read", items: [], upTo: 10, end: true });
    return topic;
  }

  frames<T extends Frame["type"]>(type: T): FrameOf<T>[] {
    const sent = this.effects.flatMap((effect) => (effect.type === "send" ? [effect.frame] : []));
    return sent.filter((frame): frame is FrameOf<T> => frame.type === type);
  }

  get closed(): string | undefined {
    return this.effects.find((effect) => effect.type === "close")?.code;
  }

  last<T extends ServerEffect["type"]>(type: T): Extract<ServerEffect, { type: T }> | undefined {
    return this.effects.findLast((effect): effect is Extract<ServerEffect, { type: T }> => effect.type === type);
  }
}

const item = (n: number, size = 100) => ({ n, envelope: fill(6, size) });

describe("greeting and proving", () => {
  test("[SY4] a hello comes first and once; other frames, or frames of a mailbox, end the stream with a code", async () => {
    const first = new Talk();
    await first.say({ type: "credit", lane: "live", bytes: 1 });
    expect(first.closed).toBe("sync/hello-first");
    const twice = await new Talk().hello();
    await twice.say({ type: "hello", version: 1, nonce: fill(2), now: NOW });
    expect(twice.closed).toBe("sync/unexpected");
    for (const frame of Object.values(await exampleFrames())) {
      const ours = [
        "subscribed",
        "denied",
        "entries",
        "have",
        "gone",
        "custody",
        "refused",
        "inboxOpened",
        "inboxDenied",
        "deposits",
        "answer",
        "refusal",
      ];
      if (!ours.includes(frame.type)) continue;
      const talk = await new Talk().hello();
      await talk.say(frame);
      expect(talk.closed).toBe("sync/unexpected");
    }
  });

  test("[SY6] only a proof for this very connection opens a topic", async () => {
    const talk = await new Talk().hello();
    const [topic, other] = [await keyPair<TopicId>(3), await keyPair<TopicId>(4)];
    const wrong = [
      await proveTopic(crypto, { id: topic.id, seed: other.seed }, talk.binding),
      await proveTopic(crypto, topic, { ...talk.binding, mailboxNonce: fill(99) }),
      await proveTopic(crypto, topic, { ...talk.binding, clientNonce: fill(99) }),
      await proveTopic(crypto, topic, { ...talk.binding, mailboxPeer: "another mailbox" as PeerId }),
      await proveTopic(crypto, topic, { ...talk.binding, clientPeer: "another client" as PeerId }),
      await proveInbox(crypto, { id: topic.id as string as InboxId, seed: topic.seed }, talk.binding),
    ];
    for (const proof of wrong) await talk.say({ type: "subscribe", items: [{ topic: topic.id, proof }] });
    expect(talk.frames("denied").map(({ code }) => code)).toEqual(wrong.map(() => "sync/bad-proof"));
    expect(talk.server.state.feeds.size).toBe(0);
    expect(talk.last("watch")).toBeUndefined();

    const proof = await proveTopic(crypto, topic, talk.binding);
    await talk.say({ type: "subscribe", items: [{ topic: topic.id, proof }] });
    expect(talk.last("watch")?.feed.id).toBe(topic.id);
    const replayed = await new Talk().hello();
    await replayed.input({ type: "frame", raw: encodeFrame({ type: "bye", code: "x" }) });
    const again = new Talk();
    again.server.state.nonce.set(fill(77));
    await again.hello();
    await again.say({ type: "subscribe", items: [{ topic: topic.id, proof }] });
    expect(again.frames("denied")[0]?.code).toBe("sync/bad-proof");
  });

  test("[SY7] topics and inboxes are counted, and none is opened twice", async () => {
    const talk = await new Talk({ maxTopics: 2 }).hello();
    await talk.subscribe(3);
    await talk.subscribe(3);
    await talk.subscribe(4);
    await talk.subscribe(5);
    expect(talk.frames("denied").map(({ code }) => code)).toEqual(["sync/subscribed", "sync/too-many-topics"]);
    for (let i = 0; i < 17; i++) {
      const inbox = await keyPair<InboxId>(30 + i);
      await talk.say({ type: "openInbox", inbox: inbox.id, proof: await proveInbox(crypto, inbox, talk.binding) });
    }
    expect(talk.frames("inboxDenied").map(({ code }) => code)).toEqual(["sync/too-many-inboxes"]);
    await talk.say({ type: "removeDeposits", inbox: idOf<InboxId>(99), ns: [1] });
    expect(talk.frames("inboxDenied").at(-1)?.code).toBe("sync/not-open");
    expect(talk.last("removeDeposits")).toBeUndefined();
  });

  test("[SY12] a cursor counts in its own log only", async () => {
    const talk = await new Talk().hello();
    await talk.subscribe(3, { log: LOG, n: 500 });
    await talk.subscribe(4, { log: idOf<LogId>(10, 16), n: 500 });
    await talk.subscribe(5);
    const answers = talk.frames("subscribed").map(({ after, reset }) => ({ after, reset }));
    expect(answers).toEqual([
      { after: 500, reset: false },
      { after: 0, reset: true },
      { after: 0, reset: false },
    ]);
  });
});

describe("reading", () => {
  test("[SY11] nothing is sent of a backlog without credit, and never more than one envelope beyond it", async () => {
    const talk = await new Talk().hello();
    await talk.subscribe(3);
    expect(talk.last("read")).toBeUndefined();
    await talk.say({ type: "credit", lane: "backlog", bytes: 150 });
    expect(talk.last("read")).toMatchObject({ after: 0, maxBytes: 150 });
    await talk.input({ type: "read", items: [item(1, 400)], upTo: 9, end: false });
    expect(talk.server.state.credit.backlog).toBe(-250);
    expect(talk.effects.filter((effect) => effect.type === "read")).toHaveLength(1);
    await talk.say({ type: "credit", lane: "backlog", bytes: 400 });
    expect(talk.last("read")).toMatchObject({ after: 1, maxBytes: 150 });
    await talk.say({ type: "credit", lane: "live", bytes: 16 * 1024 * 1024 });
    expect(talk.closed).toBeUndefined();
    await talk.say({ type: "credit", lane: "live", bytes: 1 });
    expect(talk.closed).toBe("sync/overrun");
  });

  test("[SY14] no live frame speaks of what comes after a batch that has not left", async () => {
    const talk = await new Talk().hello();
    const topic = await talk.subscribe(3);
    await talk.say({ type: "credit", lane: "live", bytes: 1000 });
    await talk.say({ type: "credit", lane: "backlog", bytes: 1000 });
    talk.stuck = true;
    await talk.input({ type: "read", items: [item(5)], upTo: 9, end: true });
    await talk.input({ type: "stored", topic, latest: 10, pushes: [item(10)], through: 10 });
    const pushed = talk.frames("entries").at(-1)!;
    expect(pushed).toMatchObject({ lane: "live", items: [{ n: 10 }] });
    expect(pushed.through).toBeUndefined();
    const batch = talk.frames("entries")[0]!;
    talk.stuck = false;
    await talk.input({ type: "sent", lane: "backlog", frame: batch });
    // Something came while it was on its way: it is read again from where it ended.
    expect(talk.last("read")).toMatchObject({ after: 9 });
    await talk.input({ type: "read", items: [item(10)], upTo: 10, end: true });
    await talk.input({ type: "stored", topic, latest: 11, pushes: [item(11)], through: 11 });
    expect(talk.frames("entries").at(-1)).toMatchObject({ lane: "live", through: 11 });
  });

  test("[SY14] a batch of an old subscription does not pass for one of a new one", async () => {
    const talk = await new Talk().hello();
    const topic = await talk.subscribe(3);
    await talk.say({ type: "credit", lane: "backlog", bytes: 1000 });
    talk.stuck = true;
    await talk.input({ type: "read", items: [item(5)], upTo: 5, end: true });
    await talk.say({ type: "unsubscribe", topics: [topic] });
    expect(talk.last("cancel")).toBeDefined();
    const again = await keyPair<TopicId>(3);
    const proof = await proveTopic(crypto, again, talk.binding);
    await talk.say({ type: "subscribe", items: [{ topic, proof, cursor: { log: LOG, n: 2 } }] });
    const dropped = talk.frames("entries")[0]!;
    await talk.input({ type: "sent", lane: "backlog", frame: dropped, dropped: true });
    expect(talk.server.state.credit.backlog).toBe(1000);
    expect(talk.last("read")).toMatchObject({ after: 2 });
  });

  test("[SY15] long backlogs take turns", async () => {
    const talk = await new Talk().hello();
    const [one, two] = [await talk.subscribe(3), await talk.subscribe(4)];
    await talk.say({ type: "credit", lane: "backlog", bytes: 10_000 });
    for (let i = 1; i <= 4; i++) await talk.input({ type: "read", items: [item(i)], upTo: 100, end: false });
    const reads = talk.effects.flatMap((effect) => (effect.type === "read" ? [effect.feed.id] : []));
    expect(reads).toEqual([one, two, one, two, one]);
  });

  test("[SY16] without credit or room a live topic falls behind; the log keeps what comes, not memory", async () => {
    const talk = await new Talk().hello();
    const topic = await talk.live(3);
    await talk.input({ type: "stored", topic, latest: 11, pushes: [item(11)], through: 11 });
    expect(talk.frames("entries").filter(({ lane }) => lane === "live")).toEqual([]);
    expect(talk.last("read")).toMatchObject({ after: 10 });
    for (let n = 12; n < 2000; n++)
      await talk.input({ type: "stored", topic, latest: n, pushes: [item(n)], through: n });
    expect(talk.server.state.queuedBytes).toBe(0);
    expect(talk.effects.filter((effect) => effect.type === "read")).toHaveLength(2);

    const slow = await new Talk().hello();
    const busy = await slow.live(3);
    await slow.say({ type: "credit", lane: "live", bytes: 16 * 1024 * 1024 });
    slow.stuck = true;
    for (let n = 11; n < 500; n++) {
      await slow.input({ type: "stored", topic: busy, latest: n, pushes: [item(n, 60_000)], through: n });
    }
    expect(slow.server.state.queuedBytes).toBeLessThan(MAX_QUEUED_BYTES + 61_000);
  });

  test("[SY17] what a client wants is fetched in order, within its credit; what is gone is said", async () => {
    const talk = await new Talk().hello();
    const topic = await talk.live(3);
    await talk.say({ type: "want", topic, ns: [4, 5, 6] });
    expect(talk.last("fetch")).toBeUndefined();
    await talk.say({ type: "credit", lane: "live", bytes: 100 });
    expect(talk.last("fetch")).toMatchObject({ ns: [4, 5, 6], maxBytes: 100 });
    await talk.input({ type: "fetched", topic, items: [item(4)], gone: [5], later: [6] });
    expect(talk.frames("gone").at(-1)).toMatchObject({ ns: [5] });
    expect(talk.frames("entries").at(-1)).toMatchObject({ lane: "live", items: [{ n: 4 }] });
    await talk.say({ type: "credit", lane: "live", bytes: 100 });
    expect(talk.last("fetch")).toMatchObject({ ns: [6] });
    await talk.say({ type: "want", topic: idOf<TopicId>(99), ns: [1] });
    expect(talk.frames("gone").at(-1)).toMatchObject({ ns: [1] });
    const ns = Array.from({ length: 512 }, (_, i) => i);
    for (let i = 0; i <= MAX_WANTED / 512; i++) await talk.say({ type: "want", topic, ns });
    expect(talk.closed).toBe("sync/overrun");
  });

  test("[SY13] a receipt reaches a reader that is behind, and moves no cursor", async () => {
    const talk = await new Talk().hello();
    const topic = await talk.subscribe(3);
    const items = [{ n: 11, id: idOf<EnvelopeId>(8), until: 500_000 }];
    await talk.input({ type: "announced", topic, items, signature: fill(1, 64), through: 11 });
    expect(talk.frames("have").at(-1)!.through).toBeUndefined();
    await talk.say({ type: "credit", lane: "backlog", bytes: 1000 });
    await talk.input({ type: "read", items: [], upTo: 11, end: true });
    await talk.input({
      type: "announced",
      topic,
      items: [{ ...items[0]!, n: 12 }],
      signature: fill(1, 64),
      through: 12,
    });
    expect(talk.frames("have").at(-1)!.through).toBe(12);
    await talk.input({ type: "announced", topic: idOf<TopicId>(99), items, signature: fill(1, 64), through: 12 });
    expect(talk.frames("have")).toHaveLength(2);
  });
});

describe("asking for work", () => {
  test("[SY18] unanswered puts stay within the window", async () => {
    const talk = await new Talk({ putWindowBytes: 1000 }).hello();
    await talk.say({ type: "put", envelopes: [fill(1, 600)] });
    expect(talk.last("put")).toMatchObject({ bytes: 600 });
    await talk.input({
      type: "putDone",
      bytes: 600,
      held: [],
      refused: [{ id: idOf<EnvelopeId>(8), code: "sync/busy" }],
    });
    expect(talk.frames("refused")).toHaveLength(1);
    await talk.say({ type: "put", envelopes: [fill(1, 600)] });
    await talk.say({ type: "put", envelopes: [fill(1, 600)] });
    expect(talk.closed).toBe("sync/overrun");
  });

  test("[SY33] requests in flight are counted, and a number is used once at a time", async () => {
    const talk = await new Talk().hello();
    const ask = (request: number) => talk.say({ type: "directoryCount", request, directory: fill(1) });
    for (let request = 0; request <= MAX_REQUESTS; request++) await ask(request);
    expect(talk.frames("refusal")).toEqual([
      { type: "refusal", request: MAX_REQUESTS, code: "sync/too-many-requests" },
    ]);
    await talk.input({ type: "answer", request: 0, answer: { type: "directoryCounted", slots: [] } });
    await ask(0);
    expect(talk.closed).toBeUndefined();
    await ask(0);
    expect(talk.closed).toBe("sync/unexpected");
  });

  test("[SY5] a flood is slowed to what its tokens pay, and time gives them back", async () => {
    const talk = await new Talk({ tokenBurst: 100, tokensPerSecond: 100 }).hello();
    const topic = await keyPair<TopicId>(3);
    const items = Array.from({ length: 20 }, () => ({ topic: topic.id, proof: fill(1, 64) }));
    const effects = await talk.say({ type: "subscribe", items });
    expect(effects.find((effect) => effect.type === "slow")).toEqual({ type: "slow", delayMs: 620 });
    talk.now += 5_000;
    const later = await talk.say({ type: "unsubscribe", topics: [topic.id] });
    expect(later.find((effect) => effect.type === "slow")).toBeUndefined();
  });

  test("[SY2] rubbish ends the session with a code and changes nothing before it", async () => {
    const seeds = Object.values(await exampleFrames()).map(encodeFrame);
    const codes = new Set<string>();
    let survived = 0;
    for (const raw of mutations(seeds, process.env["SKEIN_LONG"] === "1" ? 100_000 : 5_000, 11)) {
      const talk = await new Talk().hello();
      const opened = talk.effects.length;
      await talk.input({ type: "frame", raw });
      if (talk.closed === undefined) survived++;
      else codes.add(talk.closed);
      expect(talk.server.state.feeds.size).toBe(0);
      expect(talk.effects.length - opened).toBeLessThan(70);
    }
    expect(codes.has("sync/unexpected")).toBe(true);
    expect(codes.size).toBeGreaterThan(6);
    expect(survived).toBeGreaterThan(0);
  });

  test("[SY4] after its end a session does nothing", async () => {
    const talk = await new Talk().hello();
    await talk.say({ type: "bye", code: "app/closing" });
    expect(talk.closed).toBe("sync/bye");
    expect(await talk.say({ type: "credit", lane: "live", bytes: 1 })).toEqual([]);
    expect(BATCH_BYTES).toBeLessThan(MAX_QUEUED_BYTES);
  });
});
