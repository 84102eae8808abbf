/**
 * The mailbox's end of one sync stream. A session lives and dies with its connection and is never stored, so a step changes
 * it in place and returns what is to be done: feed it inputs one at a time, carry out the effects in order. It reads no
 * clock, draws no randomness and holds no envelope: positions in the log are all it remembers of what a reader lacks, so a
 * reader that never grants credit costs a few numbers a topic. Spec: ./SPEC.md SY1-SY24.
 *
 *   hello -> open -> closed          a topic: behind <-> live
 *
 * Invariants:
 * - `sent` of a feed is the last `through` (or start) told: everything on it up to there went out before.
 * - A live feed was read to its end, that end has left for the stream, and everything stored on it since was pushed or
 *   announced to this session. (A live frame may overtake a queued backlog frame; a `through` must not.)
 * - At most one batch of a backlog and one fetch are under way; a reader's bytes on a lane exceed its credit by at most one
 *   envelope.
 */
import type { LogId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import type { Env } from "#protocols/base/suite.ts";
import { type Cursor, decodeFrame, type Frame, type FrameOf, type Item } from "./frames.ts";
import {
  BATCH_BYTES,
  BYTES_PER_TOKEN,
  MAX_CREDIT_BYTES,
  MAX_INBOXES,
  MAX_ITEMS,
  MAX_PUSH_BYTES,
  MAX_QUEUED_BYTES,
  MAX_REQUESTS,
  MAX_WANTED,
  TOKENS_PER_CHECK,
} from "./limits.ts";
import { verifyInboxProof, verifyTopicProof } from "./proofs.ts";
import {
  type Feed,
  type FeedName,
  type InboxRequest,
  SERVER_LIMITS,
  type ServerEffect,
  type ServerInput,
  type ServerLimits,
  type ServerState,
} from "./server-contract.ts";

export * from "./server-contract.ts";

export function openServer(
  options: {
    readonly log: LogId;
    readonly custodyKey: Uint8Array;
    readonly mailboxPeer: PeerId;
    readonly clientPeer: PeerId;
    readonly limits?: Partial<ServerLimits>;
  },
  env: Env,
): { state: ServerState; effects: readonly ServerEffect[] } {
  const limits = { ...SERVER_LIMITS, ...options.limits };
  const nonce = env.random(32);
  const state: ServerState = {
    limits,
    log: options.log,
    mailboxPeer: options.mailboxPeer,
    clientPeer: options.clientPeer,
    nonce,
    phase: "hello",
    binding: undefined,
    feeds: new Map(),
    behind: new Set(),
    credit: { backlog: 0, live: 0 },
    reading: undefined,
    fetching: false,
    wanted: [],
    queuedBytes: 0,
    putBytes: 0,
    requests: new Set(),
    tokens: limits.tokenBurst,
    tokensAt: env.now,
  };
  const { maxTopics, putWindowBytes } = limits;
  const mailbox = { log: options.log, custodyKey: options.custodyKey, maxTopics, putWindowBytes };
  const hello: Frame = { type: "hello", version: 1, nonce, now: env.now, mailbox };
  state.queuedBytes = weight(hello);
  return { state, effects: [now(hello)] };
}

export async function serverStep(state: ServerState, input: ServerInput, env: Env): Promise<readonly ServerEffect[]> {
  if (state.phase === "closed") return [];
  const effects = await decide(state, input, env);
  for (const effect of effects) {
    if (effect.type === "send") state.queuedBytes += weight(effect.frame);
    if (effect.type === "close") state.phase = "closed";
  }
  return effects;
}

async function decide(state: ServerState, input: ServerInput, env: Env): Promise<readonly ServerEffect[]> {
  switch (input.type) {
    case "frame":
      return received(state, input.raw, env);
    case "stored":
      return [...stored(state, input), ...pump(state)];
    case "announced":
      return [...announced(state, input), ...pump(state)];
    case "deposited":
      return [...deposited(state, input), ...pump(state)];
    case "read":
      return [...read(state, input), ...pump(state)];
    case "fetched":
      return [...fetched(state, input), ...pump(state)];
    case "putDone":
      return putDone(state, input);
    case "answer":
      state.requests.delete(input.request);
      return [now({ type: "answer", request: input.request, answer: input.answer })];
    case "refusal":
      state.requests.delete(input.request);
      return [now({ type: "refusal", request: input.request, code: input.code })];
    case "sent":
      state.queuedBytes -= weight(input.frame);
      assert(state.queuedBytes >= 0, "each frame is sent once");
      if (input.lane === "backlog") batchSent(state, input.dropped ?? false);
      return pump(state);
  }
}

// What a client sends.

async function received(state: ServerState, raw: Uint8Array, env: Env): Promise<readonly ServerEffect[]> {
  spend(state, 1 + Math.floor(raw.length / BYTES_PER_TOKEN), env.now);
  const frame = decodeFrame(raw);
  if (isReject(frame)) return bye(frame.code);
  const effects = [...(await accept(state, frame, env))];
  if (state.tokens < 0) {
    effects.push({ type: "slow", delayMs: Math.ceil((-state.tokens * 1000) / state.limits.tokensPerSecond) });
  }
  return effects;
}

async function accept(state: ServerState, frame: Frame, env: Env): Promise<readonly ServerEffect[]> {
  if (state.phase === "hello") return frame.type === "hello" ? greeted(state, frame) : bye("sync/hello-first");
  switch (frame.type) {
    case "subscribe":
      return subscribe(state, frame, env);
    case "unsubscribe":
      return frame.topics.flatMap((topic) => drop(state, topic));
    case "want":
      return want(state, frame);
    case "credit":
      if (state.credit[frame.lane] + frame.bytes > MAX_CREDIT_BYTES) return bye("sync/overrun");
      state.credit[frame.lane] += frame.bytes;
      return pump(state);
    case "put":
      return put(state, frame);
    case "openInbox":
      return openInbox(state, frame, env);
    case "removeDeposits":
      // Only who proved the inbox may clear it; for others it is not there.
      if (!state.feeds.has(frame.inbox))
        return [now({ type: "inboxDenied", inbox: frame.inbox, code: "sync/not-open" })];
      return [{ type: "removeDeposits", inbox: frame.inbox, ns: frame.ns }];
    case "grant":
    case "revokeGrant":
    case "deposit":
    case "directoryPut":
    case "directoryTake":
    case "directoryCount":
      return request(state, frame);
    case "bye":
      return [{ type: "close", code: "sync/bye" }];
    // Sent by mailboxes only, or once.
    case "hello":
    case "subscribed":
    case "denied":
    case "entries":
    case "have":
    case "gone":
    case "custody":
    case "refused":
    case "inboxOpened":
    case "inboxDenied":
    case "deposits":
    case "answer":
    case "refusal":
      return bye("sync/unexpected");
  }
}

function greeted(state: ServerState, frame: FrameOf<"hello">): readonly ServerEffect[] {
  state.binding = {
    mailboxNonce: state.nonce,
    clientNonce: frame.nonce,
    mailboxPeer: state.mailboxPeer,
    clientPeer: state.clientPeer,
  };
  state.phase = "open";
  return [];
}

async function subscribe(state: ServerState, frame: FrameOf<"subscribe">, env: Env): Promise<readonly ServerEffect[]> {
  const { binding } = state;
  assert(binding, "open sessions are bound");
  spend(state, frame.items.length * TOKENS_PER_CHECK, env.now);
  const proved = await Promise.all(frame.items.map((item) => verifyTopicProof(env.crypto, item, binding)));
  const effects: ServerEffect[] = [];
  for (const [i, { topic, cursor }] of frame.items.entries()) {
    const deny = (code: string) => effects.push(now({ type: "denied", topic, code }));
    if (!proved[i]) deny("sync/bad-proof");
    else if (state.feeds.has(topic)) deny("sync/subscribed");
    else if (count(state, "topic") >= state.limits.maxTopics) deny("sync/too-many-topics");
    else {
      const start = startAt(state, cursor);
      effects.push(...follow(state, { kind: "topic", id: topic }, start.after));
      effects.push(now({ type: "subscribed", topic, log: state.log, ...start }));
    }
  }
  return [...effects, ...pump(state)];
}

async function openInbox(state: ServerState, frame: FrameOf<"openInbox">, env: Env): Promise<readonly ServerEffect[]> {
  const { binding } = state;
  assert(binding, "open sessions are bound");
  spend(state, TOKENS_PER_CHECK, env.now);
  const { inbox } = frame;
  const deny = (code: string) => [now({ type: "inboxDenied", inbox, code })];
  if (!(await verifyInboxProof(env.crypto, frame, binding))) return deny("sync/bad-proof");
  if (state.feeds.has(inbox)) return deny("sync/subscribed");
  if (count(state, "inbox") >= MAX_INBOXES) return deny("sync/too-many-inboxes");
  const start = startAt(state, frame.after);
  const opened = now({ type: "inboxOpened", inbox, log: state.log, ...start });
  return [...follow(state, { kind: "inbox", id: inbox }, start.after), opened, ...pump(state)];
}

/** A cursor of another log says nothing about this one: the reader starts over (SY12). */
function startAt(state: ServerState, cursor: Cursor | undefined): { after: number; reset: boolean } {
  if (cursor === undefined) return { after: 0, reset: false };
  return cursor.log === state.log ? { after: cursor.n, reset: false } : { after: 0, reset: true };
}

function count(state: ServerState, kind: FeedName["kind"]): number {
  let found = 0;
  for (const feed of state.feeds.values()) if (feed.name.kind === kind) found++;
  return found;
}

/** Watching begins before the first read, so nothing falls between them. */
function follow(state: ServerState, name: FeedName, after: number): readonly ServerEffect[] {
  const feed: Feed = { name, sent: after, latest: 0, live: false };
  state.feeds.set(name.id, feed);
  state.behind.add(feed);
  return [{ type: "watch", feed: name }];
}

function drop(state: ServerState, id: TopicId): readonly ServerEffect[] {
  const feed = state.feeds.get(id);
  if (feed?.name.kind !== "topic") return [];
  state.feeds.delete(id);
  state.behind.delete(feed);
  const effects: ServerEffect[] = [{ type: "unwatch", feed: feed.name }];
  // A batch that arrived after a new subscription to the same topic would pass for one of it.
  if (state.reading?.feed === feed && state.reading.batch) effects.push({ type: "cancel" });
  return effects;
}

function want(state: ServerState, frame: FrameOf<"want">): readonly ServerEffect[] {
  if (state.feeds.get(frame.topic)?.name.kind !== "topic")
    return [now({ type: "gone", topic: frame.topic, ns: frame.ns })];
  if (state.wanted.length + frame.ns.length > MAX_WANTED) return bye("sync/overrun");
  for (const n of frame.ns) state.wanted.push({ topic: frame.topic, n });
  return pump(state);
}

function put(state: ServerState, frame: FrameOf<"put">): readonly ServerEffect[] {
  const bytes = sizeOf(frame.envelopes);
  if (state.putBytes + bytes > state.limits.putWindowBytes) return bye("sync/overrun");
  state.putBytes += bytes;
  state.tokens -= frame.envelopes.length * TOKENS_PER_CHECK;
  return [{ type: "put", envelopes: frame.envelopes, bytes }];
}

function request(
  state: ServerState,
  frame: Extract<Frame, { request: number; type: InboxRequest["type"] }>,
): readonly ServerEffect[] {
  if (state.requests.has(frame.request)) return bye("sync/unexpected");
  if (state.requests.size >= MAX_REQUESTS) {
    return [now({ type: "refusal", request: frame.request, code: "sync/too-many-requests" })];
  }
  state.requests.add(frame.request);
  const checks = frame.type === "directoryPut" ? frame.records.length : frame.type === "deposit" ? 2 : 1;
  state.tokens -= checks * TOKENS_PER_CHECK;
  const { request: number, ...body } = frame;
  return [{ type: "request", request: number, body }];
}

// What the mailbox tells.

function stored(state: ServerState, input: Extract<ServerInput, { type: "stored" }>): readonly ServerEffect[] {
  const feed = state.feeds.get(input.topic);
  if (!feed) return [];
  feed.latest = Math.max(feed.latest, input.latest);
  const { pushes } = input;
  const bytes = sizeOf(pushes.map((item) => item.envelope));
  const fits = bytes <= MAX_PUSH_BYTES && (pushes.length === 1 ? state.credit.live > 0 : bytes <= state.credit.live);
  if (pushes.length > 0 && !(fits && hasRoom(state))) {
    fallBehind(state, feed);
    return [];
  }
  state.credit.live -= bytes;
  const moved = advance(feed, input.through);
  // Without pushes this moves the cursor of the one who put it: it needs no copy of its own envelope.
  if (pushes.length === 0 && !("through" in moved)) return [];
  return [now({ ...entries(state, feed, "live", pushes), ...moved })];
}

function announced(state: ServerState, input: Extract<ServerInput, { type: "announced" }>): readonly ServerEffect[] {
  const feed = state.feeds.get(input.topic);
  if (!feed) return [];
  if (!hasRoom(state)) {
    fallBehind(state, feed);
    return [];
  }
  const { topic, items, signature } = input;
  return [now({ type: "have", topic, log: state.log, items, signature, ...advance(feed, input.through) })];
}

function deposited(state: ServerState, input: Extract<ServerInput, { type: "deposited" }>): readonly ServerEffect[] {
  const feed = state.feeds.get(input.inbox);
  if (!feed) return [];
  feed.latest = Math.max(feed.latest, input.n);
  fallBehind(state, feed);
  return [];
}

function read(state: ServerState, input: Extract<ServerInput, { type: "read" }>): readonly ServerEffect[] {
  const { reading } = state;
  assert(reading && !reading.batch, "a batch was asked for");
  const { feed, after } = reading;
  if (state.feeds.get(feed.name.id) !== feed) {
    state.reading = undefined;
    return [];
  }
  const { items, end } = input;
  const upTo = Math.max(after, end ? input.upTo : (items.at(-1)?.n ?? after));
  reading.batch = { upTo, end, bytes: sizeOf(items.map((item) => item.envelope)) };
  if (feed.name.kind === "topic") return [later({ ...entries(state, feed, "backlog", items), through: upTo, end })];
  if (items.length > 0) return [later({ type: "deposits", inbox: feed.name.id, log: state.log, items })];
  batchSent(state, false);
  return [];
}

/** The batch has left: only now may live frames speak of what comes after it. */
function batchSent(state: ServerState, dropped: boolean): void {
  const { reading } = state;
  assert(reading?.batch, "a batch was on its way");
  const { feed, batch } = reading;
  state.reading = undefined;
  if (!dropped) state.credit.backlog -= batch.bytes;
  if (state.feeds.get(feed.name.id) !== feed) return;
  feed.sent = batch.upTo;
  feed.live = batch.end && feed.latest <= batch.upTo;
  state.behind.delete(feed);
  if (!feed.live) state.behind.add(feed);
}

function fetched(state: ServerState, input: Extract<ServerInput, { type: "fetched" }>): readonly ServerEffect[] {
  state.fetching = false;
  const { topic, items, gone } = input;
  state.wanted.unshift(...input.later.map((n) => ({ topic, n })));
  const feed = state.feeds.get(topic);
  if (!feed) return [];
  state.credit.live -= sizeOf(items.map((item) => item.envelope));
  const effects: ServerEffect[] = [];
  if (items.length > 0) effects.push(now(entries(state, feed, "live", items)));
  if (gone.length > 0) effects.push(now({ type: "gone", topic, ns: gone }));
  return effects;
}

function putDone(state: ServerState, input: Extract<ServerInput, { type: "putDone" }>): readonly ServerEffect[] {
  state.putBytes -= input.bytes;
  assert(state.putBytes >= 0, "each put is answered once");
  const effects: ServerEffect[] = [];
  if (input.signature) effects.push(now({ type: "custody", items: input.held, signature: input.signature }));
  if (input.refused.length > 0) effects.push(now({ type: "refused", items: input.refused }));
  return effects;
}

// What comes next.

/** Begins what credit and room allow: wanted entries first, then the next feed that is behind. */
function pump(state: ServerState): readonly ServerEffect[] {
  const effects: ServerEffect[] = [];
  if (state.phase !== "open" || !hasRoom(state)) return effects;
  const first = state.wanted[0];
  if (!state.fetching && first && state.credit.live > 0) {
    const { topic } = first;
    const ns: number[] = [];
    while (ns.length < MAX_ITEMS && state.wanted[0]?.topic === topic) ns.push(state.wanted.shift()!.n);
    state.fetching = true;
    effects.push({ type: "fetch", topic, ns, maxBytes: Math.min(BATCH_BYTES, state.credit.live) });
  }
  const [feed] = state.behind;
  if (!state.reading && feed && state.credit.backlog > 0) {
    state.reading = { feed, after: feed.sent };
    effects.push({
      type: "read",
      feed: feed.name,
      after: feed.sent,
      maxBytes: Math.min(BATCH_BYTES, state.credit.backlog),
    });
  }
  return effects;
}

function fallBehind(state: ServerState, feed: Feed): void {
  feed.live = false;
  state.behind.add(feed);
}

/** The `through` to tell: only of a live feed, and only forwards. */
function advance(feed: Feed, through: number | undefined): { through?: number } {
  if (!feed.live || through === undefined || through <= feed.sent) return {};
  feed.sent = through;
  return { through };
}

function entries(state: ServerState, feed: Feed, lane: "backlog" | "live", items: readonly Item[]): FrameOf<"entries"> {
  assert(feed.name.kind === "topic", "entries are of topics");
  return { type: "entries", lane, topic: feed.name.id, log: state.log, items, end: false };
}

/** Without room nothing more is read of this client either: what it asks for would only pile up (SY5). */
export function hasRoom(state: ServerState): boolean {
  return state.queuedBytes < MAX_QUEUED_BYTES;
}

function spend(state: ServerState, tokens: number, at: number): void {
  const { tokenBurst, tokensPerSecond } = state.limits;
  const elapsedMs = Math.max(0, at - state.tokensAt);
  state.tokens = Math.min(tokenBurst, state.tokens + (elapsedMs * tokensPerSecond) / 1000) - tokens;
  state.tokensAt = at;
}

function sizeOf(envelopes: readonly Uint8Array[]): number {
  let size = 0;
  for (const envelope of envelopes) size += envelope.length;
  return size;
}

/** What a queued frame is counted as; the I/O reports the same figure when it is sent. */
export function weight(frame: Frame): number {
  if (frame.type === "entries" || frame.type === "deposits")
    return 64 + sizeOf(frame.items.map((item) => item.envelope));
  if (frame.type === "have" || frame.type === "custody") return 128 + frame.items.length * 48;
  return 128;
}

function now(frame: Frame): ServerEffect {
  return { type: "send", lane: "live", frame };
}

function later(frame: Frame): ServerEffect {
  return { type: "send", lane: "backlog", frame };
}

function bye(code: string): readonly ServerEffect[] {
  return [now({ type: "bye", code }), { type: "close", code }];
}
