import type { Stream } from "@libp2p/interface";
import { EMPTY, readU32, u32 } from "#protocols/base/bytes.ts";
import { assert } from "#protocols/base/reject.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { FrameStream } from "#src/runtime/ports.ts";
import {
  CLOSE_DEADLINE_MS,
  READ_BUFFER_BYTES,
  RECEIVE_HIGH_BYTES,
  RECEIVE_LOW_BYTES,
  SEND_HIGH_BYTES,
} from "./limits.ts";

/**
 * Frames over a libp2p v3 stream. Wire: length (4, big-endian) | frame (length). One `send` of libp2p is not one `message`
 * of the other side, so the length is always there. No Node in here: the browser uses this file too.
 */
const PREFIX_BYTES = 4;
/** Counted for each queued frame besides its bytes, so that a flood of empty frames is bounded as well. */
const FRAME_OVERHEAD_BYTES = 64;
/** A frame's buffer starts this small and doubles: a length alone does not make us allocate a megabyte. */
const FIRST_BUFFER_BYTES = 4 * 1024;

export class Libp2pFrameStream implements FrameStream {
  readonly #stream: Stream;
  readonly #maxFrameBytes: number;

  // What was received: the frame being assembled, then the queue.
  readonly #prefix = new Uint8Array(PREFIX_BYTES);
  #prefixLength = 0;
  #frame: Uint8Array | undefined;
  #frameLength = 0;
  #frameFilled = 0;
  #frames: Uint8Array[] = [];
  #first = 0;
  #queuedBytes = 0;
  #reader: ((frame: Uint8Array | undefined) => void) | undefined;
  #ended = false;

  #wakeSenders: (() => void)[] = [];
  #broken = false;
  #closing = false;

  /** Attaches its listeners at once: what a reader that comes later would miss, libp2p throws away. */
  constructor(stream: Stream, options: { readonly maxFrameBytes: number }) {
    this.#stream = stream;
    this.#maxFrameBytes = options.maxFrameBytes;
    stream.maxReadBufferLength = READ_BUFFER_BYTES;
    stream.addEventListener("message", (event) => this.#onMessage(event.data));
    stream.addEventListener("end", () => this.#end());
    stream.addEventListener("close", () => {
      this.#broken = true;
      this.#wake();
      // After a clean close there may be unread bytes, and "end" comes when they are read.
      if (stream.readBufferLength === 0) this.#end();
    });
    stream.addEventListener("drain", () => this.#wake());
    stream.addEventListener("idle", () => this.#wake());
    if (stream.status !== "open" && stream.status !== "closing") {
      this.#broken = true;
      if (stream.readBufferLength === 0) this.#end();
    } else {
      this.#endIfDrained();
    }
  }

  async send(frame: Uint8Array): Promise<void> {
    assert(frame.length <= this.#maxFrameBytes, "frame within the limit of its protocol");
    if (this.#closing || this.#broken) throw streamClosed();
    const framed = new Uint8Array(PREFIX_BYTES + frame.length);
    framed.set(u32(frame.length));
    framed.set(frame, PREFIX_BYTES);
    try {
      this.#stream.send(framed);
    } catch (error) {
      throw streamClosed(error);
    }
    // `onDrain` of libp2p 3.3 resolves at once from its second use on (its promise is never renewed), hence our own wait.
    while (this.#stream.writableNeedsDrain || this.#stream.writeBufferLength > SEND_HIGH_BYTES) {
      if (this.#broken) throw streamClosed();
      await new Promise<void>((resolve) => this.#wakeSenders.push(resolve));
    }
  }

  receive(): Promise<Uint8Array | undefined> {
    assert(this.#reader === undefined, "one reader at a time");
    const frame = this.#take();
    if (frame !== undefined || this.#ended) return Promise.resolve(frame);
    return new Promise((resolve) => {
      this.#reader = resolve;
    });
  }

  async close(): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    try {
      await this.#stream.close({ signal: AbortSignal.timeout(CLOSE_DEADLINE_MS) });
    } catch {
      // It broke while closing, or the other side does not read: nothing is left to be said on it.
      this.abort();
    }
  }

  abort(): void {
    this.#closing = true;
    this.#frames = [];
    this.#first = 0;
    this.#stream.abort(new Error("aborted"));
    this.#end();
  }

  #onMessage(data: Uint8Array | Iterable<Uint8Array>): void {
    if (data instanceof Uint8Array) this.#feed(data);
    else for (const chunk of data) this.#feed(chunk);
    if (this.#queuedBytes > RECEIVE_HIGH_BYTES && this.#stream.readStatus === "readable") this.#stream.pause();
    this.#endIfDrained();
  }

  /** Bytes that multistream-select read too much are pushed back after "end" was told, which is then not told again. */
  #endIfDrained(): void {
    if (this.#stream.readableEnded && this.#stream.readBufferLength === 0) this.#end();
  }

  #feed(chunk: Uint8Array): void {
    let offset = 0;
    while (offset < chunk.length && !this.#ended) {
      if (this.#frame === undefined) {
        this.#prefix[this.#prefixLength++] = chunk[offset++]!;
        if (this.#prefixLength < PREFIX_BYTES) continue;
        this.#prefixLength = 0;
        this.#frameLength = readU32(this.#prefix);
        this.#frameFilled = 0;
        if (this.#frameLength > this.#maxFrameBytes) {
          this.abort();
          return;
        }
        if (this.#frameLength === 0) this.#deliver(EMPTY);
        else this.#frame = new Uint8Array(Math.min(this.#frameLength, FIRST_BUFFER_BYTES));
        continue;
      }
      const taken = Math.min(this.#frameLength - this.#frameFilled, chunk.length - offset);
      this.#grow(this.#frameFilled + taken);
      this.#frame.set(chunk.subarray(offset, offset + taken), this.#frameFilled);
      this.#frameFilled += taken;
      offset += taken;
      if (this.#frameFilled === this.#frameLength) {
        const frame = this.#frame;
        this.#frame = undefined;
        this.#deliver(frame);
      }
    }
  }

  #grow(needed: number): void {
    assert(this.#frame !== undefined, "a frame is being assembled");
    if (needed <= this.#frame.length) return;
    const grown = new Uint8Array(Math.min(this.#frameLength, Math.max(needed, this.#frame.length * 2)));
    grown.set(this.#frame.subarray(0, this.#frameFilled));
    this.#frame = grown;
  }

  #deliver(frame: Uint8Array): void {
    const reader = this.#reader;
    if (reader) {
      this.#reader = undefined;
      reader(frame);
      return;
    }
    this.#frames.push(frame);
    this.#queuedBytes += frame.length + FRAME_OVERHEAD_BYTES;
  }

  #take(): Uint8Array | undefined {
    const frame = this.#frames[this.#first];
    if (frame === undefined) return undefined;
    this.#frames[this.#first++] = EMPTY;
    if (this.#first === this.#frames.length || this.#first > 1024) {
      this.#frames = this.#frames.slice(this.#first);
      this.#first = 0;
    }
    this.#queuedBytes -= frame.length + FRAME_OVERHEAD_BYTES;
    if (this.#queuedBytes < RECEIVE_LOW_BYTES && this.#stream.readStatus === "paused") this.#readOn();
    return frame;
  }

  #readOn(): void {
    const open = !this.#broken;
    try {
      this.#stream.resume();
    } catch (error) {
      // Of a stream whose connection has gone, `resume` hands out the unread bytes and then fails to grant the other side
      // more window. On one that is open it must not fail.
      if (open && this.#stream.status === "open") throw error;
    }
    this.#endIfDrained();
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#frame = undefined;
    const reader = this.#reader;
    this.#reader = undefined;
    reader?.(undefined);
  }

  #wake(): void {
    const waiting = this.#wakeSenders;
    this.#wakeSenders = [];
    for (const wake of waiting) wake();
  }
}

function streamClosed(cause?: unknown): Failure {
  return new Failure("net/stream-closed", "the stream is closed", { retryable: true, cause });
}
