/**
 * The client's end of one sync stream. Like the server's it lives with its connection: a step changes it in place and
 * returns what is to be done. What outlives a connection is a cursor for each topic, and it moves only over entries that
 * the caller has committed. Spec: ./SPEC.md SY1-SY24.
 *
 *   hello -> open -> closed
 *
 * Every frame that carries entries or announces some is a *milestone* of its topic. It is passed when its entries are
 * committed and what it announced is here. The cursor is the `through` of the last milestone before which all are passed, so
 * it never skips, in whatever order the two lanes get their commits done (SY14).
 */
import { toHex } from "#protocols/base/bytes.ts";
import type { EnvelopeId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import type { Env } from "#protocols/base/suite.ts";
import { type Cursor, decodeFrame, type Frame, type FrameOf, type Item, type Lane, type Receipt } from "./frames.ts";
import {
  LANE_CREDIT_BYTES,
  MAX_ENVELOPE_BYTES,
  MAX_ITEMS,
  MAX_MILESTONES,
  MAX_TOPICS_PER_FRAME,
  MAX_WANTED,
  PUT_FRAME_BYTES,
} from "./limits.ts";
import type { ClientEffect, ClientInput, ClientState, Milestone, Topic } from "./client-contract.ts";
import { proveInbox, proveTopic, verifyCustody } from "./proofs.ts";

export * from "./client-contract.ts";

export function openClient(
  options: { readonly self: PeerId; readonly mailboxPeer: PeerId },
  env: Env,
): { state: ClientState; effects: readonly ClientEffect[] } {
  const nonce = env.random(32);
  const state: ClientState = {
    ...options,
    nonce,
    phase: "hello",
    binding: undefined,
    mailbox: undefined,
    topics: new Map(),
    inboxes: new Map(),
    nextMark: 1,
    milestones: 0,
    wanted: 0,
    granted: { backlog: 0, live: 0 },
    queue: [],
    queuedBytes: 0,
    inFlight: new Map(),
    inFlightBytes: 0,
  };
  return { state, effects: [send({ type: "hello", version: 1, nonce, now: env.now })] };
}

export async function clientStep(state: ClientState, input: ClientInput, env: Env): Promise<readonly ClientEffect[]> {
  if (state.phase === "closed") return [];
  const effects = await decide(state, input, env);
  if (effects.some((effect) => effect.type === "close")) state.phase = "closed";
  return effects;
}

async function decide(state: ClientState, input: ClientInput, env: Env): Promise<readonly ClientEffect[]> {
  if (input.type === "frame") {
    const frame = decodeFrame(input.raw);
    return isReject(frame) ? bye(frame.code) : accept(state, frame, env);
  }
  assert(state.phase === "open", "nothing is asked before the hello");
  switch (input.type) {
    case "subscribe":
      return subscribe(state, input.topics, env);
    case "unsubscribe":
      if (!state.topics.has(input.topic)) return [];
      forget(state, input.topic);
      return [send({ type: "unsubscribe", topics: [input.topic] })];
    case "openInbox":
      return openInbox(state, input, env);
    case "put":
      for (const item of input.envelopes) {
        state.queue.push(item);
        state.queuedBytes += item.bytes.length;
      }
      return putMore(state);
    case "committed":
      return committed(state, input);
    case "depositsCommitted":
      return depositsCommitted(state, input);
    case "missing":
      return missing(state, input);
  }
}

/**
 * The cursor that may be kept in the commit of the delivery with this mark, and the position up to which it would stand.
 * @returns Undefined while something before it is outstanding: keep the cursor you have.
 */
export function cursorAfter(state: ClientState, topic: TopicId, mark: number): Cursor | undefined {
  const known = state.topics.get(topic);
  const first = known?.milestones[0];
  if (!known?.cursor || first?.mark !== mark || first.missing > 0 || first.through === undefined) return undefined;
  return { log: known.cursor.log, n: Math.max(known.cursor.n, first.through) };
}

// What a mailbox sends.

async function accept(state: ClientState, frame: Frame, env: Env): Promise<readonly ClientEffect[]> {
  if (frame.type === "bye") return [{ type: "close", code: frame.code }];
  if (state.phase === "hello") return frame.type === "hello" ? greeted(state, frame) : bye("sync/hello-first");
  switch (frame.type) {
    case "subscribed":
      return subscribed(state, frame);
    case "denied":
      forget(state, frame.topic);
      return [{ type: "denied", topic: frame.topic, code: frame.code }];
    case "entries":
      return entries(state, frame);
    case "have":
      return have(state, frame, env);
    case "gone":
      return gone(state, frame);
    case "custody":
      return custody(state, frame, env);
    case "refused":
      for (const item of frame.items) answered(state, item.id);
      return [{ type: "refused", items: frame.items }, ...putMore(state)];
    case "inboxOpened":
      return inboxOpened(state, frame);
    case "inboxDenied":
      state.inboxes.delete(frame.inbox);
      return [{ type: "inboxDenied", inbox: frame.inbox, code: frame.code }];
    case "deposits":
      return deposits(state, frame);
    case "answer":
      return [{ type: "answer", request: frame.request, answer: frame.answer }];
    case "refusal":
      return [{ type: "refusal", request: frame.request, code: frame.code }];
    // Sent by clients only, or once.
    case "hello":
    case "subscribe":
    case "unsubscribe":
    case "want":
    case "credit":
    case "put":
    case "openInbox":
    case "removeDeposits":
    case "grant":
    case "revokeGrant":
    case "deposit":
    case "directoryPut":
    case "directoryTake":
    case "directoryCount":
      return bye("sync/unexpected");
  }
}

function greeted(state: ClientState, frame: FrameOf<"hello">): readonly ClientEffect[] {
  if (!frame.mailbox) return bye("sync/not-a-mailbox");
  state.mailbox = frame.mailbox;
  state.binding = {
    mailboxNonce: frame.nonce,
    clientNonce: state.nonce,
    mailboxPeer: state.mailboxPeer,
    clientPeer: state.self,
  };
  state.phase = "open";
  return [
    { type: "opened", hello: frame },
    ...grant(state, "live", LANE_CREDIT_BYTES),
    ...grant(state, "backlog", LANE_CREDIT_BYTES),
  ];
}

function subscribed(state: ClientState, frame: FrameOf<"subscribed">): readonly ClientEffect[] {
  const topic = state.topics.get(frame.topic);
  // Dropped while the answer was on its way.
  if (!topic) return [];
  const asked = topic.cursor;
  const kept = !frame.reset && asked?.log === frame.log && asked.n === frame.after;
  const fresh =
    frame.after === 0 && (frame.reset ? asked !== undefined && asked.log !== frame.log : asked === undefined);
  if (topic.subscribed || !(kept || fresh)) return bye("sync/unexpected");
  topic.subscribed = true;
  topic.cursor = { log: frame.log, n: frame.after };
  return [{ type: "subscribed", topic: frame.topic, cursor: topic.cursor, reset: frame.reset }];
}

function entries(state: ClientState, frame: FrameOf<"entries">): readonly ClientEffect[] {
  const size = sizeOf(frame.items);
  state.granted[frame.lane] -= size;
  if (state.granted[frame.lane] < -MAX_ENVELOPE_BYTES) return bye("sync/overrun");
  const topic = state.topics.get(frame.topic);
  // Dropped while it was on its way: the credit goes back, nothing else happens.
  if (!topic) return grant(state, frame.lane, size);
  // Of a subscription before this one; what it held comes again after the answer to the new one.
  if (!topic.subscribed) return grant(state, frame.lane, size);
  if (topic.cursor?.log !== frame.log || !ascending(frame.items)) return bye("sync/unexpected");
  if (state.milestones >= MAX_MILESTONES) return bye("sync/overrun");
  const milestone = open(state, topic, frame.through, frame.end);
  const { topic: id, lane, items } = frame;
  if (items.length > 0) return [{ type: "deliver", topic: id, mark: milestone.mark, lane, items }];
  milestone.committed = true;
  return pass(state, id, topic);
}

async function have(state: ClientState, frame: FrameOf<"have">, env: Env): Promise<readonly ClientEffect[]> {
  const { mailbox } = state;
  assert(mailbox, "open connections have greeted");
  if (frame.log !== mailbox.log) return bye("sync/unexpected");
  const items = frame.items.map((item) => ({ id: item.id, until: item.until }));
  if (!(await genuine(state, items, frame.signature, env))) return bye("sync/bad-receipt");
  for (const item of items) answered(state, item.id);
  const effects: ClientEffect[] = [
    { type: "custody", custodyKey: toHex(mailbox.custodyKey), items },
    ...putMore(state),
  ];
  const topic = state.topics.get(frame.topic);
  // Without `through` it is a receipt only: the backlog, still being read, brings the entries themselves.
  if (!topic?.subscribed || frame.through === undefined) return effects;
  if (state.milestones >= MAX_MILESTONES) return bye("sync/overrun");
  const milestone = open(state, topic, frame.through, false);
  effects.push({ type: "ask", topic: frame.topic, mark: milestone.mark, items: frame.items });
  return effects;
}

function gone(state: ClientState, frame: FrameOf<"gone">): readonly ClientEffect[] {
  const topic = state.topics.get(frame.topic);
  if (!topic) return [];
  for (const n of frame.ns) found(state, topic, n);
  return pass(state, frame.topic, topic);
}

async function custody(state: ClientState, frame: FrameOf<"custody">, env: Env): Promise<readonly ClientEffect[]> {
  const { mailbox } = state;
  assert(mailbox, "open connections have greeted");
  if (!(await genuine(state, frame.items, frame.signature, env))) return bye("sync/bad-receipt");
  for (const item of frame.items) answered(state, item.id);
  return [{ type: "custody", custodyKey: toHex(mailbox.custodyKey), items: frame.items }, ...putMore(state)];
}

function genuine(state: ClientState, items: readonly Receipt[], signature: Uint8Array, env: Env): Promise<boolean> {
  const { mailbox } = state;
  assert(mailbox, "open connections have greeted");
  const { custodyKey, log } = mailbox;
  return verifyCustody(env.crypto, { custodyKey, custody: { log, items }, signature });
}

function inboxOpened(state: ClientState, frame: FrameOf<"inboxOpened">): readonly ClientEffect[] {
  const inbox = state.inboxes.get(frame.inbox);
  if (!inbox || inbox.opened) return bye("sync/unexpected");
  inbox.opened = true;
  inbox.cursor = { log: frame.log, n: frame.after };
  return [];
}

function deposits(state: ClientState, frame: FrameOf<"deposits">): readonly ClientEffect[] {
  state.granted.backlog -= sizeOf(frame.items);
  if (state.granted.backlog < -MAX_ENVELOPE_BYTES) return bye("sync/overrun");
  const inbox = state.inboxes.get(frame.inbox);
  if (!inbox?.opened || inbox.cursor?.log !== frame.log || !ascending(frame.items)) return bye("sync/unexpected");
  return [{ type: "deliverDeposits", inbox: frame.inbox, items: frame.items }];
}

// What the caller asks and tells.

async function subscribe(
  state: ClientState,
  topics: Extract<ClientInput, { type: "subscribe" }>["topics"],
  env: Env,
): Promise<readonly ClientEffect[]> {
  const { binding } = state;
  assert(binding, "open connections are bound");
  const fresh = topics.filter((topic) => !state.topics.has(topic.id));
  const items = await Promise.all(
    fresh.map(async (topic) => ({
      topic: topic.id,
      proof: await proveTopic(env.crypto, topic, binding),
      cursor: topic.cursor,
    })),
  );
  for (const { id, seed, cursor } of fresh) {
    state.topics.set(id, { seed, cursor, subscribed: false, milestones: [], wanted: new Map() });
  }
  const effects: ClientEffect[] = [];
  for (let i = 0; i < items.length; i += MAX_TOPICS_PER_FRAME) {
    effects.push(send({ type: "subscribe", items: items.slice(i, i + MAX_TOPICS_PER_FRAME) }));
  }
  return effects;
}

async function openInbox(
  state: ClientState,
  input: Extract<ClientInput, { type: "openInbox" }>,
  env: Env,
): Promise<readonly ClientEffect[]> {
  const { binding } = state;
  assert(binding, "open connections are bound");
  const { inbox, cursor } = input;
  if (state.inboxes.has(inbox.id)) return [];
  state.inboxes.set(inbox.id, { seed: inbox.seed, cursor, opened: false });
  const proof = await proveInbox(env.crypto, inbox, binding);
  return [send({ type: "openInbox", inbox: inbox.id, proof, after: cursor })];
}

function committed(state: ClientState, input: Extract<ClientInput, { type: "committed" }>): readonly ClientEffect[] {
  const effects = grant(state, input.lane, sizeOf(input.items));
  const topic = state.topics.get(input.topic);
  const milestone = topic?.milestones.find((one) => one.mark === input.mark);
  if (!topic || !milestone) return effects;
  milestone.committed = true;
  for (const item of input.items) found(state, topic, item.n);
  return [...effects, ...pass(state, input.topic, topic)];
}

function depositsCommitted(
  state: ClientState,
  input: Extract<ClientInput, { type: "depositsCommitted" }>,
): readonly ClientEffect[] {
  const inbox = state.inboxes.get(input.inbox);
  const last = input.items.at(-1);
  if (inbox?.cursor && last) inbox.cursor = { log: inbox.cursor.log, n: Math.max(inbox.cursor.n, last.n) };
  return grant(state, "backlog", sizeOf(input.items));
}

function missing(state: ClientState, input: Extract<ClientInput, { type: "missing" }>): readonly ClientEffect[] {
  const topic = state.topics.get(input.topic);
  const milestone = topic?.milestones.find((one) => one.mark === input.mark);
  if (!topic || !milestone) return [];
  milestone.committed = true;
  const ns: number[] = [];
  for (const n of new Set(input.ns)) {
    const waiting = topic.wanted.get(n);
    milestone.missing++;
    if (waiting) waiting.push(milestone);
    else {
      topic.wanted.set(n, [milestone]);
      state.wanted++;
      ns.push(n);
    }
  }
  if (state.wanted > MAX_WANTED) return bye("sync/overrun");
  const effects: ClientEffect[] = [];
  for (let i = 0; i < ns.length; i += MAX_ITEMS) {
    effects.push(send({ type: "want", topic: input.topic, ns: ns.slice(i, i + MAX_ITEMS) }));
  }
  return [...effects, ...pass(state, input.topic, topic)];
}

/** Sends what the mailbox's window has room for, in frames of moderate size. */
function putMore(state: ClientState): readonly ClientEffect[] {
  const { mailbox } = state;
  assert(mailbox, "open connections have greeted");
  const effects: ClientEffect[] = [];
  for (;;) {
    const envelopes: Uint8Array[] = [];
    let size = 0;
    while (envelopes.length < MAX_ITEMS) {
      const next = state.queue[0];
      if (!next) break;
      const repeated = state.inFlight.has(next.id);
      if (!repeated && size > 0 && size + next.bytes.length > PUT_FRAME_BYTES) break;
      if (!repeated && state.inFlightBytes + next.bytes.length > mailbox.putWindowBytes) break;
      state.queue.shift();
      state.queuedBytes -= next.bytes.length;
      if (repeated) continue;
      state.inFlight.set(next.id, next.bytes.length);
      state.inFlightBytes += next.bytes.length;
      envelopes.push(next.bytes);
      size += next.bytes.length;
    }
    if (envelopes.length === 0) return effects;
    effects.push(send({ type: "put", envelopes }));
  }
}

function answered(state: ClientState, id: EnvelopeId): void {
  state.inFlightBytes -= state.inFlight.get(id) ?? 0;
  state.inFlight.delete(id);
}

// Milestones.

function open(state: ClientState, topic: Topic, through: number | undefined, end: boolean): Milestone {
  const milestone: Milestone = { mark: state.nextMark++, through, end, committed: false, missing: 0 };
  topic.milestones.push(milestone);
  state.milestones++;
  return milestone;
}

function found(state: ClientState, topic: Topic, n: number): void {
  const waiting = topic.wanted.get(n);
  if (!waiting) return;
  topic.wanted.delete(n);
  state.wanted--;
  for (const milestone of waiting) milestone.missing--;
}

/** Moves the cursor over the milestones that are passed, up to the first that is not. */
function pass(state: ClientState, id: TopicId, topic: Topic): readonly ClientEffect[] {
  assert(topic.cursor, "a subscribed topic has a cursor");
  let { n } = topic.cursor;
  let end = false;
  for (let first = topic.milestones[0]; first?.committed && first.missing === 0; first = topic.milestones[0]) {
    topic.milestones.shift();
    state.milestones--;
    n = Math.max(n, first.through ?? 0);
    end ||= first.end;
  }
  const effects: ClientEffect[] = [];
  if (n > topic.cursor.n) {
    topic.cursor = { log: topic.cursor.log, n };
    effects.push({ type: "cursor", topic: id, cursor: topic.cursor });
  }
  if (end) effects.push({ type: "caughtUp", topic: id });
  return effects;
}

function forget(state: ClientState, id: TopicId): void {
  const topic = state.topics.get(id);
  if (!topic) return;
  state.milestones -= topic.milestones.length;
  state.wanted -= topic.wanted.size;
  state.topics.delete(id);
}

function grant(state: ClientState, lane: Lane, bytes: number): readonly ClientEffect[] {
  if (bytes === 0) return [];
  state.granted[lane] += bytes;
  return [send({ type: "credit", lane, bytes })];
}

function ascending(items: readonly Item[]): boolean {
  return items.every((item, i) => i === 0 || items[i - 1]!.n < item.n);
}

function sizeOf(items: readonly Item[]): number {
  let size = 0;
  for (const item of items) size += item.envelope.length;
  return size;
}

function send(frame: Frame): ClientEffect {
  return { type: "send", frame };
}

function bye(code: string): readonly ClientEffect[] {
  return [send({ type: "bye", code }), { type: "close", code }];
}
