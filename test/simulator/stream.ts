/** A FrameStream of the simulated network: two halves on one connection, credits in between. */
import { assert } from "#protocols/base/reject.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { FrameStream } from "#src/runtime/ports.ts";

import type { LinkEnd } from "./connection.ts";
import { never } from "./scheduler.ts";

/** Longest frame (ports: "frames above the limit of the protocol abort the stream"). */
export const MAX_FRAME_BYTES = 1_048_576;
/** Bytes on their way or unread before `send` waits: one frame of any size and what yamux begins with, 256 KiB. */
export const WINDOW_BYTES = MAX_FRAME_BYTES + 262_144;
/** Bytes kept for a sender that does not wait; above it the stream is aborted (libp2p: `maxWriteBufferLength`, 4 MiB). */
const MAX_UNSENT_BYTES = 4_194_304;

export class SimStream implements FrameStream {
  #other: SimStream | undefined;
  readonly #end: LinkEnd;
  readonly #unread: Uint8Array[] = [];
  #unreadBytes = 0;
  /** What did not fit into the window. */
  readonly #unsent: Uint8Array[] = [];
  #unsentBytes = 0;
  #reader: ((frame: Uint8Array | undefined) => void) | undefined;
  /** Bytes sent that the other side has not read. */
  #owed = 0;
  /** Bytes read that the other side has not been told of. */
  #credit = 0;
  readonly #writers: { resolve: () => void; reject: (failure: Failure) => void }[] = [];
  #finished = false;
  #saidEnd = false;
  #remoteFinished = false;
  #broken = false;

  constructor(end: LinkEnd) {
    this.#end = end;
  }

  join(other: SimStream): void {
    this.#other = other;
    other.#other = this;
  }

  send(frame: Uint8Array): Promise<void> {
    if (!this.#end.node.enter()) return never();
    if (this.#broken || this.#finished) return Promise.reject(closed());
    if (frame.length > MAX_FRAME_BYTES) {
      this.abort();
      return Promise.reject(new Failure("net/stream-closed", "the frame is above the limit; the stream was aborted"));
    }
    const bytes = frame.slice();
    const { scheduler } = this.#end.node.internet;
    scheduler.trace.bytes(scheduler.nowUs, "net/frame", this.#end.node.process.node, bytes);
    if (this.#unsent.length === 0 && this.#owed < WINDOW_BYTES) this.#ship(bytes);
    else this.#keep(bytes);
    if (this.#broken) return Promise.reject(closed());
    if (this.#owed < WINDOW_BYTES) return Promise.resolve();
    return new Promise((resolve, reject) => this.#writers.push({ resolve, reject }));
  }

  receive(): Promise<Uint8Array | undefined> {
    if (!this.#end.node.enter()) return never();
    assert(this.#reader === undefined, "one reader at a time");
    const frame = this.#unread.shift();
    if (frame !== undefined) {
      this.#unreadBytes -= frame.length;
      this.#read(frame.length);
      return Promise.resolve(frame);
    }
    if (this.#broken || this.#remoteFinished) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      this.#reader = resolve;
    });
  }

  close(): Promise<void> {
    if (!this.#end.node.enter()) return never();
    if (this.#finished || this.#broken) return Promise.resolve();
    this.#finished = true;
    if (this.#unsent.length === 0) this.#finish();
    return Promise.resolve();
  }

  /** The end goes out after what had to wait for room. */
  #finish(): void {
    if (this.#saidEnd) return;
    this.#saidEnd = true;
    this.#post(0, "net/finish", (other) => other.#heardFinish());
    this.#forgetWhenDone();
  }

  abort(): void {
    if (!this.#end.node.enter() || this.#broken) return;
    this.#post(0, "net/reset", (other) => other.broke());
    this.broke();
  }

  /** The stream or what it runs on is gone; what was not read is lost. */
  broke(): void {
    if (this.#broken) return;
    this.#broken = true;
    this.#unread.length = 0;
    this.#unsent.length = 0;
    this.#end.streams.delete(this);
    this.#reader?.(undefined);
    this.#reader = undefined;
    for (const writer of this.#writers.splice(0)) writer.reject(closed());
  }

  #post(size: number, kind: string, arrive: (other: SimStream) => void): void {
    const other = this.#other;
    assert(other !== undefined, "a stream is joined before anybody has it");
    this.#end.link.send(this.#end, size, kind, () => {
      if (!other.#broken) arrive(other);
    });
  }

  #ship(frame: Uint8Array): void {
    this.#owed += frame.length;
    this.#post(frame.length, "net/frame", (other) => other.#arrived(frame));
  }

  #keep(frame: Uint8Array): void {
    this.#unsent.push(frame);
    this.#unsentBytes += frame.length;
    const { internet } = this.#end.node;
    if (this.#unsentBytes > internet.deepestUnsent) internet.deepestUnsent = this.#unsentBytes;
    if (this.#unsentBytes > MAX_UNSENT_BYTES) this.abort();
  }

  #arrived(frame: Uint8Array): void {
    const reader = this.#reader;
    if (reader !== undefined) {
      this.#reader = undefined;
      this.#read(frame.length);
      reader(frame);
      return;
    }
    this.#unread.push(frame);
    this.#unreadBytes += frame.length;
    const { internet } = this.#end.node;
    if (this.#unreadBytes > internet.deepestStream) internet.deepestStream = this.#unreadBytes;
  }

  #heardFinish(): void {
    this.#remoteFinished = true;
    this.#reader?.(undefined);
    this.#reader = undefined;
    this.#forgetWhenDone();
  }

  #forgetWhenDone(): void {
    if (this.#finished && this.#remoteFinished) this.#end.streams.delete(this);
  }

  /** Credits go back by the half window, as yamux does it. */
  #read(bytes: number): void {
    this.#credit += bytes;
    if (this.#credit < WINDOW_BYTES / 2 || this.#broken) return;
    const credit = this.#credit;
    this.#credit = 0;
    this.#post(8, "net/credit", (other) => other.#granted(credit));
  }

  #granted(credit: number): void {
    this.#owed -= credit;
    while (this.#owed < WINDOW_BYTES) {
      const frame = this.#unsent.shift();
      if (frame === undefined) break;
      this.#unsentBytes -= frame.length;
      this.#ship(frame);
    }
    if (this.#unsent.length > 0) return;
    if (this.#finished) this.#finish();
    if (this.#owed >= WINDOW_BYTES) return;
    for (const writer of this.#writers.splice(0)) writer.resolve();
  }
}

function closed(): Failure {
  return new Failure("net/stream-closed", "the stream is closed", { retryable: true });
}
