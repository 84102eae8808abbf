/**
 * The role of holding envelopes for people who are offline: hears the topics its clients proved, stores what is valid, says
 * what it holds and until when, hands it out to whoever may read the topic. It learns topic ids, times and sizes, and no
 * content. Rules: protocols/sync/SPEC.md SY10-SY36.
 *
 * Invariants:
 * - A receipt leaves only after the commit of what it names (SY19).
 * - What gossip brought is announced, what was put is pushed, each to every live reader, and `through` never passes what is
 *   still to be announced (SY13).
 * - After a failure of the store all sessions end and the log has a new id: nobody counts on what may be lost (SY12).
 */
import type { EnvelopeId, InboxId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { isReject, type OrReject } from "#protocols/base/reject.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import { toHex } from "#protocols/base/bytes.ts";
import { type EnvelopeInfo, inspectEnvelope, verifyEnvelope } from "#protocols/envelope/envelope.ts";
import type { Answer, Held, Receipt } from "#protocols/sync/frames.ts";
import { HAVE_DELAY_MS, MAX_ITEMS, SYNC_PROTOCOL } from "#protocols/sync/limits.ts";
import { signCustody } from "#protocols/sync/proofs.ts";
import { type FeedName, type InboxRequest, openServer, type ServerLimits } from "#protocols/sync/server.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Clock, FrameStream, Network, Random, StoreHost, Verdict } from "#src/runtime/ports.ts";
import { Directories } from "./directory.ts";
import { Inboxes } from "./inbox.ts";
import {
  MAILBOX_LIMITS,
  MAX_SESSIONS_PER_PEER,
  type MailboxLimits,
  REOPEN_FIRST_MS,
  REOPEN_LAST_MS,
  SWEEP_AGAIN_MS,
  SWEEP_INTERVAL_MS,
} from "./limits.ts";
import { EnvelopeLog, type Stored } from "./log.ts";
import type { Expiry } from "./rows.ts";
import { type Backend, type PutOutcome, Session } from "./session.ts";
import { Shelves } from "./shelves.ts";

export type MailboxOptions = {
  readonly network: Network;
  /** Its own store: nothing else may write to it. */
  readonly host: StoreHost;
  readonly clock: Clock;
  readonly random: Random;
  readonly crypto: CryptoSuite;
  /** Ed25519 seed of the receipts, for the first start; later the stored one stays. Drawn when absent. */
  readonly custodySeed?: Uint8Array;
  readonly limits?: Partial<MailboxLimits>;
  readonly sessionLimits?: Partial<ServerLimits>;
  /** False for a peer that has a validator of its own and passes on what it hears with `heard`. */
  readonly hearGossip?: boolean;
  /** The store failed; it is being opened anew. */
  readonly onFailure?: (failure: unknown) => void;
};

export type MailboxStats = {
  readonly sessions: number;
  readonly topics: number;
  readonly storedBytes: number;
  /** Since the start. */
  readonly stored: number;
  readonly refused: number;
  readonly state: "open" | "reopening" | "stopped";
};

export interface Mailbox {
  stop(): Promise<void>;
  stats(): MailboxStats;
  /** What a validator of gossip has to say about an envelope; stores it when it is valid. */
  heard(topic: TopicId, envelope: Uint8Array, from: PeerId): Promise<Verdict>;
}

/** @throws Failure `store/…` when the store cannot be opened, `mailbox/damaged`. */
export async function startMailbox(options: MailboxOptions): Promise<Mailbox> {
  const mailbox = new RunningMailbox(options);
  await mailbox.start();
  return mailbox;
}

/** A topic somebody reads. `unannounced` came by gossip and waits for its receipt, in order. */
type Watched = { readonly readers: Set<Session>; readonly unannounced: Held[]; latest: number; announcing: boolean };

/** All that goes with one opening of the store. */
type Opening = {
  readonly shelves: Shelves;
  readonly log: EnvelopeLog;
  readonly inboxes: Inboxes;
  readonly directories: Directories;
  readonly custodyKey: Uint8Array;
};

/** Marks what gossip brought, where a session stands for what was put. */
const GOSSIP = Symbol("gossip");

class RunningMailbox implements Mailbox, Backend {
  readonly #options: MailboxOptions;
  readonly #limits: MailboxLimits;
  readonly #sessions = new Set<Session>();
  readonly #topics = new Map<TopicId, Watched>();
  readonly #inboxReaders = new Map<InboxId, Set<Session>>();
  #opening: Opening | undefined;
  #stopped = false;
  #checks = 0;
  #stored = 0;
  #refused = 0;
  #cancelSweep: () => void = () => {};
  #cancelReopen: () => void = () => {};
  #sweeping: Promise<void> | undefined;

  constructor(options: MailboxOptions) {
    this.#options = options;
    this.#limits = { ...MAILBOX_LIMITS, ...options.limits };
  }

  async start(): Promise<void> {
    await this.#open();
    const { network, hearGossip = true } = this.#options;
    if (hearGossip) network.gossip.onEnvelope((topic, envelope, from) => this.heard(topic, envelope, from));
    network.handle(SYNC_PROTOCOL, (stream, peer) => this.#accept(stream, peer));
  }

  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#cancelSweep();
    this.#cancelReopen();
    this.#endSessions("sync/stopping");
    await this.#sweeping;
    const opening = this.#opening;
    this.#opening = undefined;
    await opening?.shelves.close();
  }

  stats(): MailboxStats {
    return {
      sessions: this.#sessions.size,
      topics: this.#topics.size,
      storedBytes: this.#opening?.shelves.bytes ?? 0,
      stored: this.#stored,
      refused: this.#refused,
      state: this.#stopped ? "stopped" : this.#opening ? "open" : "reopening",
    };
  }

  // Opening and failing.

  async #open(): Promise<void> {
    const { host, random, crypto, custodySeed } = this.#options;
    const shelves: Shelves = await Shelves.open({
      host,
      random,
      crypto,
      limits: this.#limits,
      ...(custodySeed && { custodySeed }),
      onFailure: (failure) => this.#failed(shelves, failure),
    });
    const custodyKey = await crypto.ed25519.publicKey(shelves.custodySeed);
    if (this.#stopped) {
      await shelves.close();
      return;
    }
    this.#opening = {
      shelves,
      log: new EnvelopeLog(shelves, (entries) => this.#onStored(entries)),
      inboxes: new Inboxes(shelves, (inbox, n) => this.#onDeposit(inbox, n)),
      directories: new Directories(shelves),
      custodyKey,
    };
    this.#sweepAfter(SWEEP_INTERVAL_MS);
  }

  #failed(shelves: Shelves, failure: unknown): void {
    this.#options.onFailure?.(failure);
    if (this.#opening?.shelves !== shelves || this.#stopped) return;
    this.#opening = undefined;
    this.#cancelSweep();
    this.#endSessions("sync/store-failed");
    void this.#reopen(shelves, REOPEN_FIRST_MS);
  }

  async #reopen(broken: Shelves | undefined, delayMs: number): Promise<void> {
    try {
      await broken?.store.close();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
    }
    if (this.#stopped) return;
    this.#cancelReopen = this.#options.clock.after(delayMs, () => {
      void this.#open().catch((error: unknown) => {
        if (!(error instanceof Failure)) throw error;
        this.#options.onFailure?.(error);
        void this.#reopen(undefined, Math.min(delayMs * 2, REOPEN_LAST_MS));
      });
    });
  }

  #sweepAfter(delayMs: number): void {
    this.#cancelSweep = this.#options.clock.after(delayMs, () => {
      this.#sweeping = this.#sweep();
    });
  }

  async #sweep(): Promise<void> {
    const opening = this.#opening;
    if (!opening) return;
    try {
      const more = await opening.shelves.sweep(this.#options.clock.now(), (expiry, at) => expire(opening, expiry, at));
      if (!this.#stopped && this.#opening === opening) this.#sweepAfter(more ? SWEEP_AGAIN_MS : SWEEP_INTERVAL_MS);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.#failed(opening.shelves, error);
    }
  }

  #endSessions(code: string): void {
    for (const session of this.#sessions) session.close(code);
  }

  #mustBeOpen(): Opening {
    if (!this.#opening) throw new Failure("mailbox/closed", "the mailbox is not open", { retryable: true });
    return this.#opening;
  }

  #env(): Env {
    const { clock, random, crypto } = this.#options;
    return { now: Math.floor(clock.now()), random, crypto };
  }

  // Sessions.

  #accept(stream: FrameStream, peer: PeerId): void {
    const opening = this.#opening;
    const theirs = [...this.#sessions].filter((session) => session.peer === peer);
    // Those that are closing linger a while, and count.
    const crowded = this.#sessions.size >= this.#limits.maxSessions || theirs.length >= 2 * MAX_SESSIONS_PER_PEER;
    if (!opening || crowded) {
      stream.abort();
      return;
    }
    // More than that means that the first ones are dead, or that somebody wants more than their share.
    if (theirs.length >= MAX_SESSIONS_PER_PEER) theirs[0]!.close("sync/replaced");
    const { network, clock, sessionLimits } = this.#options;
    const server = openServer(
      {
        log: opening.shelves.log,
        custodyKey: opening.custodyKey,
        mailboxPeer: network.peerId,
        clientPeer: peer,
        ...(sessionLimits && { limits: sessionLimits }),
      },
      this.#env(),
    );
    const session = new Session({
      stream,
      peer,
      ...server,
      backend: this,
      clock,
      env: () => this.#env(),
      onClose: (closed) => this.#left(closed),
    });
    this.#sessions.add(session);
  }

  #left(session: Session): void {
    this.#sessions.delete(session);
    for (const [topic, watched] of this.#topics) if (watched.readers.has(session)) this.#unwatchTopic(topic, session);
    for (const [inbox, readers] of this.#inboxReaders) {
      readers.delete(session);
      if (readers.size === 0) this.#inboxReaders.delete(inbox);
    }
  }

  watch(feed: FeedName, session: Session): void {
    if (feed.kind === "inbox") {
      const readers = this.#inboxReaders.get(feed.id) ?? new Set();
      this.#inboxReaders.set(feed.id, readers.add(session));
      return;
    }
    const { gossip } = this.#options.network;
    const watched = this.#topics.get(feed.id) ?? { readers: new Set(), unannounced: [], latest: 0, announcing: false };
    if (watched.readers.size === 0) gossip.join(feed.id);
    this.#topics.set(feed.id, watched);
    watched.readers.add(session);
    gossip.reveal(feed.id, session.peer);
  }

  unwatch(feed: FeedName, session: Session): void {
    if (feed.kind === "topic") {
      this.#unwatchTopic(feed.id, session);
      return;
    }
    const readers = this.#inboxReaders.get(feed.id);
    readers?.delete(session);
    if (readers?.size === 0) this.#inboxReaders.delete(feed.id);
  }

  /** When the last reader has gone, nobody is here who could publish through us: we leave. */
  #unwatchTopic(topic: TopicId, session: Session): void {
    const watched = this.#topics.get(topic);
    watched?.readers.delete(session);
    if (watched?.readers.size !== 0) return;
    this.#topics.delete(topic);
    this.#options.network.gossip.leave(topic);
  }

  // What comes in.

  async heard(topic: TopicId, envelope: Uint8Array, _from?: PeerId): Promise<Verdict> {
    const { crypto, clock } = this.#options;
    if (!this.#topics.has(topic) || this.#checks >= this.#limits.maxChecks) return "ignore";
    const claimed = inspectEnvelope(crypto, envelope);
    if (isReject(claimed) || claimed.topic !== topic) return "reject";
    this.#checks++;
    const info = await verifyEnvelope(crypto, envelope, { now: clock.now() });
    this.#checks--;
    // Time is no proof of ill will: a clock may be off, and what was valid may have been long on its way.
    if (isReject(info)) return info.code === "envelope/bad-signature" ? "reject" : "ignore";
    if (info.kind === "stored") void this.#keep(info, envelope);
    return "accept";
  }

  /** A full or failing store is no reason not to hand it on; who gets no receipt asks by a put and hears why. */
  async #keep(info: EnvelopeInfo, envelope: Uint8Array): Promise<void> {
    const opening = this.#opening;
    if (!opening) return;
    try {
      const outcome = await opening.log.append(info, envelope, GOSSIP);
      if (isReject(outcome)) this.#refused++;
    } catch (error) {
      // The failure itself goes to `onFailure` by the commits.
      if (!(error instanceof Failure)) throw error;
    }
  }

  async put(envelopes: readonly Uint8Array[], session: Session): Promise<PutOutcome> {
    const { log, shelves } = this.#mustBeOpen();
    const outcomes = await Promise.all(envelopes.map((envelope) => this.#putOne(log, envelope, session)));
    const held: Receipt[] = [];
    const refused: { id: EnvelopeId; code: string }[] = [];
    for (const { id, outcome } of outcomes) {
      if (isReject(outcome)) refused.push({ id, code: outcome.code });
      else held.push({ id, until: outcome.until });
    }
    this.#refused += refused.length;
    if (held.length === 0) return { held, refused };
    const signature = await signCustody(this.#options.crypto, shelves.custodySeed, { log: shelves.log, items: held });
    return { held, refused, signature };
  }

  async #putOne(
    log: EnvelopeLog,
    envelope: Uint8Array,
    session: Session,
  ): Promise<{ id: EnvelopeId; outcome: OrReject<Held> }> {
    const { crypto, clock } = this.#options;
    const info = await verifyEnvelope(crypto, envelope, { now: clock.now() });
    // An id even for what cannot be parsed: the hash of everything but a signature's length.
    const end = Math.max(0, envelope.length - 64);
    if (isReject(info)) return { id: toHex(crypto.sha256(envelope.subarray(0, end))) as EnvelopeId, outcome: info };
    if (info.kind === "ephemeral") return { id: info.id, outcome: { type: "reject", code: "sync/ephemeral" } };
    return { id: info.id, outcome: await log.append(info, envelope, session) };
  }

  // What goes out.

  #onStored(entries: readonly Stored[]): void {
    this.#stored += entries.length;
    const byTopic = new Map<TopicId, Stored[]>();
    for (const entry of entries) {
      const those = byTopic.get(entry.topic);
      if (those) those.push(entry);
      else byTopic.set(entry.topic, [entry]);
    }
    for (const [topic, stored] of byTopic) this.#tell(topic, stored);
  }

  #tell(topic: TopicId, stored: readonly Stored[]): void {
    const watched = this.#topics.get(topic);
    if (!watched) return;
    const latest = stored.at(-1)!.n;
    watched.latest = latest;
    for (const { source, n, id, until } of stored) if (source === GOSSIP) watched.unannounced.push({ n, id, until });
    const waiting = watched.unannounced.length > 0;
    const put = stored.filter((entry) => entry.source !== GOSSIP);
    for (const reader of watched.readers) {
      const others = put.filter((entry) => entry.source !== reader);
      const pushes = others.map(({ n, envelope }) => ({ n, envelope }));
      void reader.input({ type: "stored", topic, latest, pushes, ...(!waiting && { through: latest }) });
    }
    if (!waiting || watched.announcing) return;
    watched.announcing = true;
    this.#options.clock.after(HAVE_DELAY_MS, () => void this.#announce(topic, watched));
  }

  /** One signature for all readers of a topic, and for all that came in HAVE_DELAY_MS. */
  async #announce(topic: TopicId, watched: Watched): Promise<void> {
    while (watched.unannounced.length > 0 && this.#opening && this.#topics.get(topic) === watched) {
      const { log, custodySeed } = this.#opening.shelves;
      const items = watched.unannounced.slice(0, MAX_ITEMS);
      const receipts = items.map(({ id, until }) => ({ id, until }));
      const signature = await signCustody(this.#options.crypto, custodySeed, { log, items: receipts });
      if (this.#opening?.shelves.log !== log) break;
      watched.unannounced.splice(0, items.length);
      const through = (watched.unannounced[0]?.n ?? watched.latest + 1) - 1;
      for (const reader of watched.readers) void reader.input({ type: "announced", topic, items, signature, through });
    }
    watched.announcing = false;
  }

  #onDeposit(inbox: InboxId, n: number): void {
    for (const reader of this.#inboxReaders.get(inbox) ?? []) void reader.input({ type: "deposited", inbox, n });
  }

  async read(feed: FeedName, after: number, maxBytes: number): ReturnType<Backend["read"]> {
    const { log, inboxes } = this.#mustBeOpen();
    return feed.kind === "topic" ? log.read(feed.id, after, maxBytes) : inboxes.read(feed.id, after, maxBytes);
  }

  async fetch(topic: TopicId, ns: readonly number[], maxBytes: number): ReturnType<Backend["fetch"]> {
    return this.#mustBeOpen().log.fetch(topic, ns, maxBytes);
  }

  async removeDeposits(inbox: InboxId, ns: readonly number[]): Promise<void> {
    await this.#mustBeOpen().inboxes.remove(inbox, ns);
  }

  async request(body: InboxRequest): Promise<OrReject<Answer>> {
    const { inboxes, directories } = this.#mustBeOpen();
    const at = Math.floor(this.#options.clock.now());
    switch (body.type) {
      case "grant":
        return inboxes.grant(body.grant, at);
      case "revokeGrant":
        return inboxes.revoke(body.revocation, at);
      case "deposit":
        return inboxes.deposit(body.deposit, at);
      case "directoryPut":
        return directories.put(body.records, at);
      case "directoryTake":
        return directories.take(body.directory, body.slot, at);
      case "directoryCount":
        return directories.count(body.directory, at);
    }
  }
}

async function expire(opening: Opening, expiry: Expiry, at: number): ReturnType<Parameters<Shelves["sweep"]>[1]> {
  switch (expiry.type) {
    case "envelope":
    case "memory":
      return opening.log.expire(expiry);
    case "deposit":
    case "grant":
    case "redeemer":
      return opening.inboxes.expire(expiry, at);
    case "shelf":
      return opening.directories.expire(expiry, at);
  }
}
