/**
 * A client's connection to one mailbox, kept up for as long as it is wanted: dials, reconnects, proves its topics, brings what
 * the mailbox has and asks it to hold what is put. An entry is never lost on the way: cursors move only after the handler has
 * committed. Decisions: `#protocols/sync/client.ts`.
 */
import type { EnvelopeId, InboxId, LogId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import { encode } from "#protocols/base/codec.ts";
import {
  type CapabilityGrant,
  capabilityGrantSchema,
  type CapabilityRevocation,
  capabilityRevocationSchema,
} from "#protocols/envelope/envelope.ts";
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
import { HELLO_DEADLINE_MS, HOUR_MS, MAX_ITEMS, MAX_REQUESTS, SYNC_PROTOCOL } from "#protocols/sync/limits.ts";
import type { InboxRequest } from "#protocols/sync/server.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Clock, FrameStream, Network, Random, Signal } from "#src/runtime/ports.ts";

/** @param n - The cursor that may be kept once this item is committed; on a reconnect the mailbox goes on after it. */
export type Item = { readonly n: number; readonly envelope: Uint8Array };

/** What lies in an inbox. `n` names it towards the mailbox, for a cursor and for `removeDeposits`. */
export type DepositItem = { readonly n: number; readonly deposit: Uint8Array };

export interface MailboxHandlers {
  /**
   * Commit these, and resolve. Within a lane calls come one at a time; a backlog and what is live overlap. `cursor`, when
   * given, belongs into the same commit; it is the largest `n` of the items, or stands alone when there are none.
   */
  entries(topic: TopicId, log: LogId, items: readonly Item[], cursor?: number): Promise<void>;
  /** Whether an envelope is here already, committed or in a commit before which no cursor will be. */
  seen(id: EnvelopeId): boolean | Promise<boolean>;
  /** The mailbox whose receipts this key (hex) signs holds these until then (ms since 1970). */
  custody(receipt: { readonly ids: readonly EnvelopeId[]; readonly until: number; readonly mailbox: string }): void;
  /** `sync/not-open` and `sync/queue-full` are ours: offer it again when the state is open. The rest are the mailbox's. */
  rejected(id: EnvelopeId, code: string): void;
  /** Commit these, and resolve. They come again on the next connection unless `n` was passed as a cursor. */
  deposits?(items: readonly DepositItem[], inbox: InboxId, log: LogId): Promise<void>;
  networkTime(ms: number): void;
  state(state: MailboxState, reason?: string): void;
  /** Everything the mailbox had on this topic is committed (DESIGN section 4: only now re-handshake). */
  caughtUp?(topic: TopicId): void;
  /** The mailbox does not serve this topic to us: a code of protocols/sync. It is asked again on the next connection. */
  denied?(topic: TopicId, code: string): void;
}

export type MailboxState = "connecting" | "open" | "closed";

export type MailboxClientLimits = {
  /** Between attempts: doubles from the first to the last, with jitter, so that a relay that comes back is not trampled. */
  readonly retryFirstMs: number;
  readonly retryLastMs: number;
  /** A connection that lived this long resets the wait. */
  readonly settledMs: number;
  readonly connectDeadlineMs: number;
  readonly requestDeadlineMs: number;
  /** Puts that the mailbox leaves unanswered this long mean that the line is dead. */
  readonly putDeadlineMs: number;
  /** Envelopes waiting for the mailbox's window, bytes. The outbox on disk holds the rest. */
  readonly maxQueuedBytes: number;
};

export const CLIENT_LIMITS: MailboxClientLimits = {
  retryFirstMs: 500,
  retryLastMs: 60_000,
  settledMs: 30_000,
  connectDeadlineMs: 15_000,
  requestDeadlineMs: 15_000,
  putDeadlineMs: 30_000,
  maxQueuedBytes: 16 * 1024 ** 2,
};

export type MailboxClientOptions = {
  readonly network: Network;
  readonly clock: Clock;
  readonly random: Random;
  readonly crypto: CryptoSuite;
  /** Multiaddr with its /p2p part. */
  readonly address: string;
  readonly handlers: MailboxHandlers;
  readonly limits?: Partial<MailboxClientLimits>;
  /** Ask it for a circuit as well, so that others reach us through it. Default true. */
  readonly reserve?: boolean;
};

/** How long our last word may take to leave. */
const LINGER_MS = 5_000;

type TopicEntry = { readonly seed: Uint8Array; cursor: Cursor | undefined };
type InboxEntry = { readonly seed: Uint8Array; readonly cursor: Cursor | undefined };

export class MailboxClient {
  readonly #options: MailboxClientOptions;
  readonly #limits: MailboxClientLimits;
  readonly #topics = new Map<TopicId, TopicEntry>();
  readonly #inboxes = new Map<InboxId, InboxEntry>();
  #line: Line | undefined;
  #state: MailboxState = "closed";
  #peer: PeerId | undefined;
  #running = false;
  #attempts = 0;
  #cancelRetry: () => void = () => {};
  #abortConnect: () => void = () => {};

  constructor(options: MailboxClientOptions) {
    this.#options = options;
    this.#limits = { ...CLIENT_LIMITS, ...options.limits };
  }

  start(): void {
    if (this.#running) return;
    this.#running = true;
    this.#attempts = 0;
    void this.#connect();
  }

  stop(): void {
    if (!this.#running) return;
    this.#running = false;
    this.#cancelRetry();
    this.#abortConnect();
    this.#line?.end("sync/stopped");
    this.#become("closed");
  }

  state(): MailboxState {
    return this.#state;
  }

  /** While open. */
  peer(): PeerId | undefined {
    return this.#peer;
  }

  /** Survives reconnects. Join the topic in gossip first: it is revealed to the mailbox here, at each connection. */
  subscribe(topic: { readonly id: TopicId; readonly seed: Uint8Array }, cursor?: Cursor): void {
    if (this.#topics.has(topic.id)) return;
    this.#topics.set(topic.id, { seed: topic.seed, cursor });
    this.#line?.input({ type: "subscribe", topics: [{ ...topic, ...(cursor && { cursor }) }] });
  }

  unsubscribe(topic: TopicId): void {
    if (this.#topics.delete(topic)) this.#line?.input({ type: "unsubscribe", topic });
  }

  /** Where the next connection goes on. */
  cursor(topic: TopicId): Cursor | undefined {
    return this.#topics.get(topic)?.cursor;
  }

  /** Offering again after a reconnect is the caller's business: its outbox knows what has no receipt yet. */
  put(envelopes: readonly PutItem[]): void {
    if (this.#line) this.#line.put(envelopes);
    else for (const { id } of envelopes) this.#options.handlers.rejected(id, "sync/not-open");
  }

  /** Survives reconnects; deposits come from the beginning each time, or after `cursor`. */
  openInbox(inbox: { readonly id: InboxId; readonly seed: Uint8Array }, cursor?: Cursor): void {
    if (this.#inboxes.has(inbox.id)) return;
    this.#inboxes.set(inbox.id, { seed: inbox.seed, cursor });
    this.#line?.input({ type: "openInbox", inbox, ...(cursor && { cursor }) });
  }

  /** When all devices of the account have them. */
  removeDeposits(inbox: InboxId, ns: readonly number[]): void {
    for (let i = 0; i < ns.length; i += MAX_ITEMS) {
      this.#line?.send({ type: "removeDeposits", inbox, ns: ns.slice(i, i + MAX_ITEMS) });
    }
  }

  async grant(grant: CapabilityGrant): Promise<OrReject<object>> {
    return this.#ask({ type: "grant", grant: encode(capabilityGrantSchema, grant) }, "granted");
  }

  async revokeGrant(revocation: CapabilityRevocation): Promise<OrReject<object>> {
    return this.#ask({ type: "revokeGrant", revocation: encode(capabilityRevocationSchema, revocation) }, "revoked");
  }

  /** @returns Until when it is kept (ms since 1970), or the mailbox's `inbox/…`. */
  async deposit(deposit: Uint8Array): Promise<OrReject<{ readonly until: number }>> {
    const answer = await this.#ask({ type: "deposit", deposit }, "deposited");
    return isReject(answer) ? answer : { until: answer.until * HOUR_MS };
  }

  /** Encoded directory records. @returns Those it did not take, by index, with their codes. */
  async directoryPut(
    records: readonly Uint8Array[],
  ): Promise<OrReject<{ readonly refused: readonly { readonly index: number; readonly code: string }[] }>> {
    return this.#ask({ type: "directoryPut", records }, "directoryStored");
  }

  /** One encoded record of the slot, or of each slot. Verify them: a mailbox is trusted with nothing. */
  async directoryTake(
    directory: Uint8Array,
    slot?: Uint8Array,
  ): Promise<OrReject<{ readonly records: readonly Uint8Array[] }>> {
    return this.#ask({ type: "directoryTake", directory, ...(slot && { slot }) }, "directoryTaken");
  }

  async directoryCount(directory: Uint8Array): Promise<
    OrReject<{ readonly slots: readonly { readonly slot: Uint8Array; readonly oneTime: number; readonly lastResort: boolean }[] }>
  > {
    return this.#ask({ type: "directoryCount", directory }, "directoryCounted");
  }

  async #ask<T extends Answer["type"]>(body: InboxRequest, expected: T): Promise<OrReject<Extract<Answer, { type: T }>>> {
    const line = this.#line;
    if (!line) return reject("sync/not-open");
    const answer = await line.request(body);
    if (isReject(answer)) return answer;
    return answer.type === expected ? (answer as Extract<Answer, { type: T }>) : reject("sync/unexpected");
  }

  async #connect(): Promise<void> {
    const { network, address, clock } = this.#options;
    this.#become("connecting");
    const deadline = deadlineSignal(clock, this.#limits.connectDeadlineMs);
    this.#abortConnect = deadline.abort;
    try {
      const peer = await network.connect(address, { signal: deadline.signal });
      const stream = await network.openStream(peer, SYNC_PROTOCOL, { signal: deadline.signal });
      if (this.#running) this.#open(peer, stream);
      else stream.abort();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      if (this.#running) this.#retry(error.code);
    } finally {
      deadline.clear();
    }
  }

  #open(peer: PeerId, stream: FrameStream): void {
    const { clock } = this.#options;
    const openedAt = clock.monotonic();
    const line: Line = new Line({
      ...this.#options,
      limits: this.#limits,
      peer,
      stream,
      onOpen: () => this.#greeted(peer, line),
      onCursor: (topic, cursor) => {
        const entry = this.#topics.get(topic);
        if (entry) entry.cursor = cursor;
      },
      onEnd: (reason) => {
        if (this.#line === line) this.#line = undefined;
        this.#peer = undefined;
        if (!this.#running) return;
        if (clock.monotonic() - openedAt >= this.#limits.settledMs) this.#attempts = 0;
        this.#retry(reason);
      },
    });
    this.#abortConnect = () => line.end("sync/stopped");
  }

  #greeted(peer: PeerId, line: Line): void {
    this.#line = line;
    this.#peer = peer;
    const topics = [...this.#topics].map(([id, { seed, cursor }]) => ({ id, seed, ...(cursor && { cursor }) }));
    if (topics.length > 0) line.input({ type: "subscribe", topics });
    for (const [id, { seed, cursor }] of this.#inboxes) {
      line.input({ type: "openInbox", inbox: { id, seed }, ...(cursor && { cursor }) });
    }
    this.#become("open");
    if (this.#options.reserve ?? true) void this.#reserve(peer);
  }

  /** A mailbox need not be a relay, and a relay may be full: we stay its client without a circuit. */
  async #reserve(peer: PeerId): Promise<void> {
    const deadline = deadlineSignal(this.#options.clock, this.#limits.connectDeadlineMs);
    try {
      await this.#options.network.reserve(peer, { signal: deadline.signal });
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      if (this.#state === "open" && this.#peer === peer) this.#options.handlers.state("open", error.code);
    } finally {
      deadline.clear();
    }
  }

  #retry(reason: string): void {
    const { clock, random } = this.#options;
    const ceiling = Math.min(this.#limits.retryLastMs, this.#limits.retryFirstMs * 2 ** Math.min(this.#attempts, 20));
    this.#attempts++;
    // Half fixed, half random: never at once, never all together.
    const [high = 0, low = 0] = random(2);
    const delayMs = Math.ceil(ceiling / 2 + (ceiling / 2) * ((high * 256 + low) / 65_536));
    this.#become("connecting", reason);
    this.#cancelRetry = clock.after(delayMs, () => void this.#connect());
  }

  #become(state: MailboxState, reason?: string): void {
    if (this.#state === state && reason === undefined) return;
    this.#state = state;
    this.#options.handlers.state(state, reason);
  }
}

type LineOptions = Omit<MailboxClientOptions, "limits"> & {
  readonly limits: MailboxClientLimits;
  readonly peer: PeerId;
  readonly stream: FrameStream;
  readonly onOpen: () => void;
  readonly onCursor: (topic: TopicId, cursor: Cursor) => void;
  readonly onEnd: (reason: string) => void;
};

/** One connection, from hello to its end. */
class Line {
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
    const stop = this.#options.clock.after(this.#options.limits.requestDeadlineMs, () => resolve(reject("sync/timeout")));
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
    const seen = await Promise.all(items.map((item) => this.#options.handlers.seen(item.id)));
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

/** A signal that our own clock aborts: `AbortSignal.timeout` is wall time and no part of the language. */
function deadlineSignal(clock: Clock, delayMs: number): { signal: Signal; abort: () => void; clear: () => void } {
  const listeners = new Set<() => void>();
  const signal = {
    aborted: false,
    reason: undefined as unknown,
    addEventListener: (_type: "abort", listener: () => void) => void listeners.add(listener),
    removeEventListener: (_type: "abort", listener: () => void) => void listeners.delete(listener),
  };
  const abort = (): void => {
    if (signal.aborted) return;
    signal.aborted = true;
    signal.reason = new Failure("net/timeout", "the deadline has passed", { retryable: true });
    for (const listener of listeners) listener();
  };
  return { signal, abort, clear: clock.after(delayMs, abort) };
}

