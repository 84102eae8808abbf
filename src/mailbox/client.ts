/**
 * A client's connection to one mailbox, kept up for as long as it is wanted: dials, reconnects, proves its topics, brings what
 * the mailbox has and asks it to hold what is put. An entry is never lost on the way: cursors move only after the handler has
 * committed. Decisions: `#protocols/sync/client.ts`.
 */
import type { InboxId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { encode } from "#protocols/base/codec.ts";
import {
  type CapabilityGrant,
  capabilityGrantSchema,
  type CapabilityRevocation,
  capabilityRevocationSchema,
} from "#protocols/envelope/envelope.ts";
import type { PutItem } from "#protocols/sync/client.ts";
import type { Answer, Cursor } from "#protocols/sync/frames.ts";
import { HOUR_MS, MAX_ITEMS, SYNC_PROTOCOL } from "#protocols/sync/limits.ts";
import type { InboxRequest } from "#protocols/sync/server.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Clock, FrameStream, Network, Random, Signal } from "#src/runtime/ports.ts";
import { CLIENT_LIMITS, type MailboxClientLimits, type MailboxHandlers, type MailboxState } from "./handlers.ts";
import { Line } from "./line.ts";

export * from "./handlers.ts";

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
    OrReject<{
      readonly slots: readonly { readonly slot: Uint8Array; readonly oneTime: number; readonly lastResort: boolean }[];
    }>
  > {
    return this.#ask({ type: "directoryCount", directory }, "directoryCounted");
  }

  async #ask<T extends Answer["type"]>(
    body: InboxRequest,
    expected: T,
  ): Promise<OrReject<Extract<Answer, { type: T }>>> {
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
