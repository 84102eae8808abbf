/**
 * One connection of a client to its mailbox, from hello to its end: carries out what `#protocols/sync/client.ts` decides. What
 * comes on the two lanes is committed side by side, one delivery at a time on each.
 */
import type { EnvelopeId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { type OrReject, reject } from "#protocols/base/reject.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import {
  type ClientEffect,
  type ClientInput,
  type ClientState,
  clientStep,
  cursorAfter,
  openClient,
  type PutItem,
} from "#protocols/sync/client.ts";
import { type Answer, type Cursor, encodeFrame, type Frame } from "#protocols/sync/frames.ts";
import { HELLO_DEADLINE_MS, HOUR_MS, MAX_REQUESTS } from "#protocols/sync/limits.ts";
import type { InboxRequest } from "#protocols/sync/server.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Clock, FrameStream, Network, Random } from "#src/runtime/ports.ts";
import type { MailboxClientLimits, MailboxHandlers } from "./handlers.ts";

/** Frames waiting for a mailbox that does not read. Windows and credits keep an honest one's far below. */
const MAX_OUTGOING = 4_096;

/** How long our last word may take to leave. */
const LINGER_MS = 5_000;

type LineOptions = {
  readonly network: Network;
  readonly clock: Clock;
  readonly random: Random;
  readonly crypto: CryptoSuite;
  readonly handlers: MailboxHandlers;
  readonly limits: MailboxClientLimits;
  readonly peer: PeerId;
  readonly stream: FrameStream;
  readonly onOpen: () => void;
  readonly onCursor: (topic: TopicId, cursor: Cursor) => void;
  readonly onEnd: (reason: string) => void;
};

/** One connection, from hello to its end. */
export class Line {
  readonly #options: LineOptions;
  readonly #state: ClientState;
  readonly #outgoing: Frame[] = [];
  readonly #lanes = { backlog: Promise.resolve(), live: Promise.resolve() };
  readonly #requests = new Map<number, (answer: OrReject<Answer>) => void>();
  /** Cursors that moved after the commit they could have been part of. */
  readonly #loose = new Map<TopicId, Cursor>();
  readonly #kept = new Map<TopicId, number>();
  #steps: Promise<unknown> = Promise.resolve();
  #sending = false;
  #ended = false;
  #nextRequest = 1;
  #comingBytes = 0;
  #stopHello: () => void;
  #stopLinger: (() => void) | undefined;
  #closing: string | undefined;
  #stopPuts: (() => void) | undefined;

  constructor(options: LineOptions) {
    this.#options = options;
    const { network, peer, clock } = options;
    const client = openClient({ self: network.peerId, mailboxPeer: peer }, this.#env());
    this.#state = client.state;
    this.#stopHello = clock.after(HELLO_DEADLINE_MS, () => this.end("sync/no-hello"));
    this.#carryOut(client.effects);
    void this.#readAll();
  }

  #env(): Env {
    const { clock, random, crypto } = this.#options;
    return { now: Math.floor(clock.now()), random, crypto };
  }

  input(input: ClientInput): void {
    void this.#input(input);
  }

  #input(input: ClientInput): Promise<void> {
    const step = this.#steps.then(async () => {
      if (this.#ended) return;
      this.#carryOut(await clientStep(this.#state, input, this.#env()));
    });
    this.#steps = step;
    return step;
  }

  send(frame: Frame): void {
    this.#carryOut([{ type: "send", frame }]);
  }

  put(envelopes: readonly PutItem[]): void {
    const taken: PutItem[] = [];
    let size = 0;
    for (const envelope of envelopes) {
      const queued = this.#comingBytes + this.#state.queuedBytes + size;
      if (queued + envelope.bytes.length > this.#options.limits.maxQueuedBytes) {
        this.#options.handlers.rejected(envelope.id, "sync/queue-full");
        continue;
      }
      size += envelope.bytes.length;
      taken.push(envelope);
    }
    if (taken.length === 0) return;
    // Until the step has run; from there on the state counts them.
    this.#comingBytes += size;
    void this.#input({ type: "put", envelopes: taken }).then(() => {
      this.#comingBytes -= size;
    });
  }

  async request(body: InboxRequest): Promise<OrReject<Answer>> {
    if (this.#requests.size >= MAX_REQUESTS) return reject("sync/too-many-requests");
    const request = this.#nextRequest++;
    const { promise, resolve } = Promise.withResolvers<OrReject<Answer>>();
    this.#requests.set(request, resolve);
    const stop = this.#options.clock.after(this.#options.limits.requestDeadlineMs, () =>
      resolve(reject("sync/timeout")),
    );
    this.send({ ...body, request } as Frame);
    const answer = await promise;
    stop();
    this.#requests.delete(request);
    return answer;
  }

  async #readAll(): Promise<void> {
    while (!this.#ended) {
      const raw = await this.#options.stream.receive();
      if (raw === undefined) break;
      await this.#input({ type: "frame", raw });
    }
    this.end("sync/disconnected");
  }

  end(reason: string): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#state.phase = "closed";
    this.#stopHello();
    this.#stopPuts?.();
    this.#stopLinger?.();
    this.#options.stream.abort();
    for (const resolve of this.#requests.values()) resolve(reject("sync/disconnected"));
    this.#options.onEnd(reason);
  }

  #carryOut(effects: readonly ClientEffect[]): void {
    for (const effect of effects) this.#start(effect);
    if (!this.#sending && (this.#outgoing.length > 0 || this.#closing !== undefined)) {
      this.#sending = true;
      void this.#sendAll();
    }
  }

  #start(effect: ClientEffect): void {
    const { handlers } = this.#options;
    switch (effect.type) {
      case "send":
        this.#outgoing.push(effect.frame);
        if (this.#outgoing.length > MAX_OUTGOING) this.end("sync/overrun");
        if (effect.frame.type === "put") this.#watchPuts();
        return;
      case "opened":
        this.#stopHello();
        handlers.networkTime(effect.hello.now);
        this.#options.onOpen();
        return;
      case "subscribed":
        this.#kept.set(effect.topic, effect.cursor.n);
        this.#options.onCursor(effect.topic, effect.cursor);
        this.#options.network.gossip.reveal(effect.topic, this.#options.peer);
        return;
      case "denied":
        handlers.denied?.(effect.topic, effect.code);
        return;
      case "inboxDenied":
        handlers.state("open", effect.code);
        return;
      case "deliver":
        this.#inLane(effect.lane, () => this.#deliver(effect));
        return;
      case "deliverDeposits":
        this.#inLane("backlog", () => this.#deliverDeposits(effect));
        return;
      case "ask":
        void this.#orEnd(this.#whatIsMissing(effect));
        return;
      case "cursor":
        this.#options.onCursor(effect.topic, effect.cursor);
        this.#keepLoose(effect.topic, effect.cursor);
        return;
      case "caughtUp":
        handlers.caughtUp?.(effect.topic);
        return;
      case "custody":
        this.#watchPuts();
        this.#custody(effect);
        return;
      case "refused":
        this.#watchPuts();
        for (const { id, code } of effect.items) handlers.rejected(id, code);
        return;
      case "answer":
        this.#requests.get(effect.request)?.(effect.answer);
        return;
      case "refusal":
        this.#requests.get(effect.request)?.(reject(effect.code));
        return;
      case "close":
        this.#closeAfterSending(effect.code);
    }
  }

  /** The reason, queued before, still leaves; a mailbox that does not take it in is not waited for. */
  #closeAfterSending(code: string): void {
    this.#closing = code;
    this.#stopLinger = this.#options.clock.after(LINGER_MS, () => this.end(code));
  }

  /** A handler that could not commit ends the line; what it was given comes again on the next one. */
  #inLane(lane: "backlog" | "live", work: () => Promise<void>): void {
    this.#lanes[lane] = this.#lanes[lane].then(() => (this.#ended ? undefined : this.#orEnd(work())));
  }

  async #orEnd(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.end(error.code);
    }
  }

  async #deliver(effect: Extract<ClientEffect, { type: "deliver" }>): Promise<void> {
    const { topic, mark, lane, items } = effect;
    const held = this.#state.topics.get(topic)?.cursor;
    if (held) {
      const cursor = cursorAfter(this.#state, topic, mark);
      // The first milestone's items are safe one by one; those of others only when what came before them is.
      const entries = items.map(({ n, envelope }) => ({ n: cursor ? Math.min(n, cursor.n) : held.n, envelope }));
      await this.#options.handlers.entries(topic, held.log, entries, cursor?.n);
      if (cursor) this.#kept.set(topic, Math.max(this.#kept.get(topic) ?? 0, cursor.n));
    }
    this.input({ type: "committed", topic, mark, lane, items });
  }

  /** A cursor that moved without entries to commit it with: gossip brought them, or the other lane was the slower one. */
  #keepLoose(topic: TopicId, cursor: Cursor): void {
    if (cursor.n <= (this.#kept.get(topic) ?? 0)) return;
    const waiting = this.#loose.has(topic);
    this.#loose.set(topic, cursor);
    if (waiting) return;
    this.#inLane("live", async () => {
      const latest = this.#loose.get(topic);
      this.#loose.delete(topic);
      if (!latest || latest.n <= (this.#kept.get(topic) ?? 0)) return;
      this.#kept.set(topic, latest.n);
      await this.#options.handlers.entries(topic, latest.log, [], latest.n);
    });
  }

  async #deliverDeposits(effect: Extract<ClientEffect, { type: "deliverDeposits" }>): Promise<void> {
    const { inbox, items } = effect;
    const log = this.#state.inboxes.get(inbox)?.cursor?.log;
    const found = items.map(({ n, envelope }) => ({ n, deposit: envelope }));
    if (log) await this.#options.handlers.deposits?.(found, inbox, log);
    this.input({ type: "depositsCommitted", inbox, items });
  }

  async #whatIsMissing(effect: Extract<ClientEffect, { type: "ask" }>): Promise<void> {
    const { topic, mark, items } = effect;
    const seen = await Promise.all(items.map(async (item) => this.#options.handlers.seen(item.id)));
    const ns = items.filter((_, i) => !seen[i]).map((item) => item.n);
    this.input({ type: "missing", topic, mark, ns });
  }

  #custody(effect: Extract<ClientEffect, { type: "custody" }>): void {
    const byHour = new Map<number, EnvelopeId[]>();
    for (const { id, until } of effect.items) {
      const ids = byHour.get(until);
      if (ids) ids.push(id);
      else byHour.set(until, [id]);
    }
    for (const [hour, ids] of byHour) {
      this.#options.handlers.custody({ ids, until: hour * HOUR_MS, mailbox: effect.custodyKey });
    }
  }

  /** Each answer proves that the line is alive; without puts under way nothing is waited for. */
  #watchPuts(): void {
    this.#stopPuts?.();
    this.#stopPuts = undefined;
    if (this.#state.inFlight.size === 0) return;
    const { clock, limits } = this.#options;
    this.#stopPuts = clock.after(limits.putDeadlineMs, () => this.end("sync/stalled"));
  }

  async #sendAll(): Promise<void> {
    for (let frame = this.#outgoing.shift(); frame && !this.#ended; frame = this.#outgoing.shift()) {
      try {
        await this.#options.stream.send(encodeFrame(frame));
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        this.end("sync/disconnected");
      }
    }
    this.#sending = false;
    if (this.#closing === undefined || this.#ended) return;
    await this.#options.stream.close().catch((error: unknown) => {
      if (!(error instanceof Failure)) throw error;
    });
    this.end(this.#closing);
  }
}
