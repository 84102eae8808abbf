/**
 * One sync stream at the mailbox: carries out what the session's steps decide. Inputs are taken one at a time, in order; live
 * frames leave before a backlog frame that waits; a frame is read only when the one before it was taken in, and not sooner than
 * the session's tokens allow. Decisions: `#protocols/sync/server.ts`.
 */
import type { InboxId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { isReject, type OrReject } from "#protocols/base/reject.ts";
import type { Env } from "#protocols/base/suite.ts";
import { type Answer, encodeFrame, type Frame, type Item } from "#protocols/sync/frames.ts";
import { HELLO_DEADLINE_MS } from "#protocols/sync/limits.ts";
import {
  type FeedName,
  type InboxRequest,
  type ServerEffect,
  type ServerInput,
  type ServerState,
  hasRoom,
  serverStep,
} from "#protocols/sync/server.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Clock, FrameStream } from "#src/runtime/ports.ts";

/** How long a stream we closed may take to bring the last frames to the other side. */
const LINGER_MS = 5_000;

export type PutOutcome = Omit<Extract<ServerInput, { type: "putDone" }>, "type" | "bytes">;

/** What a session asks of the mailbox behind it. Everything that resolves is on the disk. @throws Failure of the store. */
export interface Backend {
  watch(feed: FeedName, session: Session): void;
  unwatch(feed: FeedName, session: Session): void;
  read(feed: FeedName, after: number, maxBytes: number): Promise<Omit<Extract<ServerInput, { type: "read" }>, "type">>;
  fetch(
    topic: TopicId,
    ns: readonly number[],
    maxBytes: number,
  ): Promise<{ readonly items: readonly Item[]; readonly gone: readonly number[]; readonly later: readonly number[] }>;
  put(envelopes: readonly Uint8Array[], session: Session): Promise<PutOutcome>;
  request(body: InboxRequest): Promise<OrReject<Answer>>;
  removeDeposits(inbox: InboxId, ns: readonly number[]): Promise<void>;
}

export type SessionOptions = {
  readonly stream: FrameStream;
  readonly peer: PeerId;
  readonly state: ServerState;
  readonly effects: readonly ServerEffect[];
  readonly backend: Backend;
  readonly clock: Clock;
  readonly env: () => Env;
  readonly onClose: (session: Session) => void;
};

export class Session {
  readonly peer: PeerId;
  readonly #options: SessionOptions;
  readonly #live: Frame[] = [];
  #backlog: Frame | undefined;
  #steps: Promise<unknown> = Promise.resolve();
  #sending = false;
  #closing = false;
  #closed = false;
  #stopLinger: (() => void) | undefined;
  /** The next frame that leaves, or the end. */
  #sent = Promise.withResolvers<void>();

  constructor(options: SessionOptions) {
    this.#options = options;
    this.peer = options.peer;
    this.#carryOut(options.effects);
    void this.#readAll();
  }

  /** Inputs are taken one after the other; effects are under way when it resolves. */
  input(input: ServerInput): Promise<readonly ServerEffect[]> {
    const step = this.#steps.then(async () => {
      if (this.#closed) return [];
      const effects = await serverStep(this.#options.state, input, this.#options.env());
      this.#carryOut(effects);
      return effects;
    });
    this.#steps = step;
    return step;
  }

  /** Says why, and ends. */
  close(code: string): void {
    if (this.#closing) return;
    this.#options.state.phase = "closed";
    this.#carryOut([
      { type: "send", lane: "live", frame: { type: "bye", code } },
      { type: "close", code },
    ]);
  }

  async #readAll(): Promise<void> {
    const { stream, clock, state } = this.#options;
    const stopDeadline = clock.after(HELLO_DEADLINE_MS, () => {
      if (state.phase === "hello") this.#end();
    });
    while (!this.#closed) {
      const raw = await stream.receive();
      if (raw === undefined) break;
      const effects = await this.input({ type: "frame", raw });
      if (this.#closing) break;
      for (const effect of effects) if (effect.type === "slow") await this.#wait(effect.delayMs);
      while (!this.#closed && !hasRoom(state)) await this.#sent.promise;
    }
    stopDeadline();
    if (!this.#closing) this.#end();
  }

  #wait(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.clock.after(delayMs, resolve);
    });
  }

  #carryOut(effects: readonly ServerEffect[]): void {
    for (const effect of effects) this.#start(effect);
    if (!this.#sending && (this.#live.length > 0 || this.#backlog || this.#closing)) {
      this.#sending = true;
      void this.#sendAll();
    }
  }

  #start(effect: ServerEffect): void {
    const { backend } = this.#options;
    switch (effect.type) {
      case "send":
        if (effect.lane === "live") this.#live.push(effect.frame);
        else this.#backlog = effect.frame;
        return;
      case "cancel":
        this.#cancel();
        return;
      case "watch":
        return backend.watch(effect.feed, this);
      case "unwatch":
        return backend.unwatch(effect.feed, this);
      case "read":
        return this.#ask(backend.read(effect.feed, effect.after, effect.maxBytes), (batch) => ({
          type: "read",
          ...batch,
        }));
      case "fetch": {
        const { topic } = effect;
        return this.#ask(backend.fetch(topic, effect.ns, effect.maxBytes), (found) => ({
          type: "fetched",
          topic,
          ...found,
        }));
      }
      case "put": {
        const { bytes } = effect;
        return this.#ask(backend.put(effect.envelopes, this), (outcome) => ({ type: "putDone", bytes, ...outcome }));
      }
      case "request": {
        const { request } = effect;
        return this.#ask(backend.request(effect.body), (answer) =>
          isReject(answer) ? { type: "refusal", request, code: answer.code } : { type: "answer", request, answer },
        );
      }
      case "removeDeposits":
        return this.#ask(backend.removeDeposits(effect.inbox, effect.ns), () => undefined);
      case "slow":
        return;
      case "close":
        this.#closing = true;
        this.#stopLinger ??= this.#options.clock.after(LINGER_MS, () => this.#end());
    }
  }

  /** A failure of the store ends the session here; the mailbox, which hears of it too, opens the store anew. */
  #ask<T>(asked: Promise<T>, answer: (value: T) => ServerInput | undefined): void {
    void asked.then(
      (value) => {
        const input = answer(value);
        if (input) void this.input(input);
      },
      (error: unknown) => {
        if (!(error instanceof Failure)) throw error;
        this.close("sync/store-failed");
      },
    );
  }

  #cancel(): void {
    const frame = this.#backlog;
    if (!frame) return;
    this.#backlog = undefined;
    void this.input({ type: "sent", lane: "backlog", frame, dropped: true });
  }

  async #sendAll(): Promise<void> {
    for (;;) {
      const lane = this.#live.length > 0 ? "live" : "backlog";
      const frame = this.#live.shift() ?? this.#backlog;
      if (!frame || this.#closed) break;
      if (lane === "backlog") this.#backlog = undefined;
      try {
        await this.#options.stream.send(encodeFrame(frame));
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        this.#end();
        return;
      }
      if (!this.#closing) void this.#told(lane, frame);
    }
    this.#sending = false;
    if (this.#closing && !this.#closed) await this.#finish();
  }

  async #told(lane: "backlog" | "live", frame: Frame): Promise<void> {
    await this.input({ type: "sent", lane, frame });
    const { resolve } = this.#sent;
    this.#sent = Promise.withResolvers();
    resolve();
  }

  /** What was sent still arrives; a reader that does not take it in is cut off by the linger. */
  async #finish(): Promise<void> {
    this.#forget();
    try {
      await this.#options.stream.close();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
    }
  }

  #end(): void {
    this.#options.stream.abort();
    this.#forget();
  }

  #forget(): void {
    this.#stopLinger?.();
    if (this.#closed) return;
    this.#closed = true;
    this.#sent.resolve();
    this.#closing = true;
    this.#options.state.phase = "closed";
    this.#live.length = 0;
    this.#backlog = undefined;
    this.#options.onClose(this);
  }
}
