/**
 * Envelopes in batches, straight to a device of a contact that we are connected to. One stream a direction, opened when
 * it is first needed; the reader takes a batch in before it asks for more, so a slow disk slows the sender and nothing grows.
 * A broken stream loses nothing: what is not receipted is offered again. Wire: ../../protocols/conversation/SPEC.md CV90-CV93.
 */
import { bytes, decode, encode, list } from "#protocols/base/codec.ts";
import type { PeerId } from "#protocols/base/ids.ts";
import { isReject } from "#protocols/base/reject.ts";
import { MAX_ENVELOPE_BYTES } from "#protocols/envelope/envelope.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { FrameStream } from "#src/runtime/ports.ts";
import type { World } from "./world.ts";

export const PUSH_PROTOCOL = "/skein/push/1";

/** Envelopes in one frame: enough that framing, encryption and the fsync of the other side are shared. */
const MAX_BATCH = 128;
/** Half of the largest frame, so that one more envelope always fits. */
const MAX_BATCH_BYTES = 512 * 1024;
/** Frames being taken in at once: while one is synced to the disk the next is opened. */
const MAX_OPENING = 4;
/** Waiting for a stream to drain, for one device. The outbox holds the rest and offers it again. */
const MAX_QUEUED = 1_024;

/** One frame. */
export const batchSchema = list(bytes({ max: MAX_ENVELOPE_BYTES }), MAX_BATCH);

type Line = { readonly queue: Uint8Array[]; pumping: boolean; stream: FrameStream | undefined };

export class Push {
  readonly #world: World;
  readonly #lines = new Map<PeerId, Line>();
  readonly #inbound = new Set<FrameStream>();
  #stopped = false;

  /**
   * @param options.admit - Whether a peer has shown inside a conversation that it is a contact's device.
   * @param options.take - Takes a batch in; resolves when it is committed or refused for good.
   */
  constructor(
    world: World,
    options: {
      readonly admit: (peer: PeerId) => boolean;
      readonly take: (batch: readonly Uint8Array[]) => Promise<void>;
    },
  ) {
    this.#world = world;
    world.network.handle(PUSH_PROTOCOL, (stream, peer) => {
      if (this.#stopped || !options.admit(peer)) return stream.abort();
      void this.#read(stream, options.take);
    });
  }

  stop(): void {
    this.#stopped = true;
    for (const { stream } of this.#lines.values()) stream?.abort();
    for (const stream of this.#inbound) stream.abort();
  }

  forget(peer: PeerId): void {
    this.#lines.get(peer)?.stream?.abort();
    this.#lines.delete(peer);
  }

  /** Queues an envelope for `peer`, to whom we are connected. @returns False when its queue is full. */
  send(peer: PeerId, envelope: Uint8Array): boolean {
    const line = this.#lines.get(peer) ?? { queue: [], pumping: false, stream: undefined };
    this.#lines.set(peer, line);
    if (line.queue.length >= MAX_QUEUED) return false;
    line.queue.push(envelope);
    if (!line.pumping) void this.#pump(peer, line);
    return true;
  }

  async #pump(peer: PeerId, line: Line): Promise<void> {
    line.pumping = true;
    try {
      line.stream ??= await this.#world.network.openStream(peer, PUSH_PROTOCOL);
      while (line.queue.length > 0 && !this.#stopped)
        await line.stream.send(encode(batchSchema, nextBatch(line.queue)));
    } catch (error) {
      // The connection is gone, or they do not know us yet: receipts will tell what has to go again.
      if (!(error instanceof Failure)) throw error;
      line.stream?.abort();
      line.stream = undefined;
      line.queue.length = 0;
    } finally {
      line.pumping = false;
    }
  }

  async #read(stream: FrameStream, take: (batch: readonly Uint8Array[]) => Promise<void>): Promise<void> {
    this.#inbound.add(stream);
    const opening = new Set<Promise<void>>();
    try {
      for (let frame = await stream.receive(); frame !== undefined; frame = await stream.receive()) {
        const batch = decode(batchSchema, frame);
        if (isReject(batch)) break;
        const work = take(batch).then(
          () => void opening.delete(work),
          (error: unknown) => {
            opening.delete(work);
            // Our store failed: whoever pushed this offers it again when no receipt comes.
            if (!(error instanceof Failure)) throw error;
            stream.abort();
          },
        );
        opening.add(work);
        if (opening.size >= MAX_OPENING) await Promise.race(opening);
      }
    } finally {
      this.#inbound.delete(stream);
      stream.abort();
    }
  }
}

function nextBatch(queue: Uint8Array[]): readonly Uint8Array[] {
  const batch: Uint8Array[] = [];
  for (let size = 0; queue.length > 0 && batch.length < MAX_BATCH && size < MAX_BATCH_BYTES;) {
    const envelope = queue.shift()!;
    batch.push(envelope);
    size += envelope.length;
  }
  return batch;
}
