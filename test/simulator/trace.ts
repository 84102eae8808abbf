/**
 * What happened, as one hash: every event and every port call that carries bytes adds a record of fixed size. Two runs with
 * the same hash did the same things at the same virtual times with the same bytes.
 */
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";

/** time (8) | kind (4) | owner (4) | size (4) | checksum (4). */
const RECORD_BYTES = 24;
/** Records hashed at once: 64 KiB a chunk keeps the cost of a record near that of five stores to memory. */
const RECORDS_PER_CHUNK = 2_730;

export class Trace {
  /** Records written so far. */
  count = 0;
  readonly #hash = createHash("sha256");
  readonly #chunk = new DataView(new ArrayBuffer(RECORD_BYTES * RECORDS_PER_CHUNK));
  readonly #kinds = new Map<string, number>();
  #filled = 0;

  note(timeUs: number, kind: string, owner: number, size = 0, checksum = 0): void {
    if (this.#filled === RECORDS_PER_CHUNK) this.#flush();
    const at = this.#filled * RECORD_BYTES;
    this.#chunk.setFloat64(at, timeUs);
    this.#chunk.setUint32(at + 8, this.#kind(kind));
    this.#chunk.setInt32(at + 12, owner);
    this.#chunk.setUint32(at + 16, size);
    this.#chunk.setUint32(at + 20, checksum);
    this.#filled++;
    this.count++;
  }

  /** A record of bytes: their length and their CRC-32, which is enough to tell two runs apart. */
  bytes(timeUs: number, kind: string, owner: number, data: Uint8Array): void {
    this.note(timeUs, kind, owner, data.length, crc32(data));
  }

  /** The hash so far, lower-case hex; more may follow. */
  digest(): string {
    this.#flush();
    return this.#hash.copy().digest("hex");
  }

  #flush(): void {
    this.#hash.update(new Uint8Array(this.#chunk.buffer, 0, this.#filled * RECORD_BYTES));
    this.#filled = 0;
  }

  /** Kinds get a number and their name into the hash when they first occur. */
  #kind(name: string): number {
    let number = this.#kinds.get(name);
    if (number === undefined) {
      number = this.#kinds.size + 1;
      this.#kinds.set(name, number);
      // Records before the name come first in the hash as well.
      this.#flush();
      this.#hash.update(name);
    }
    return number;
  }
}
