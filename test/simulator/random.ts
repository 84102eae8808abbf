/**
 * All chance of a run comes from its seed, through streams with names: one for each peer, one for each kind of fault. A
 * stream's draws do not depend on how many the others made, so switching one fault off leaves the others as they were.
 */
import { createCipheriv, createHash } from "node:crypto";

import type { Random } from "#src/runtime/ports.ts";

/** Bytes of key stream made at once: most draws are 12 to 32 bytes, one AES call for about two hundred of them. */
const BUFFER_BYTES = 4_096;

function derive(seed: number, name: string): Buffer {
  return createHash("sha256").update(`skein/simulator/${seed}/${name}`).digest();
}

/**
 * The `Random` port: AES-256 in counter mode under a key of this name. One counter for the life of the run, restarts of the
 * peer included, so no bytes come twice.
 */
export function byteStream(seed: number, name: string): Random {
  const cipher = createCipheriv("aes-256-ctr", derive(seed, `bytes/${name}`), new Uint8Array(16));
  const zeros = new Uint8Array(BUFFER_BYTES);
  let buffer = cipher.update(zeros);
  let used = 0;
  return (length) => {
    if (length > BUFFER_BYTES) return new Uint8Array(cipher.update(new Uint8Array(length)));
    if (used + length > BUFFER_BYTES) {
      buffer = cipher.update(zeros);
      used = 0;
    }
    const bytes = new Uint8Array(length);
    bytes.set(buffer.subarray(used, used + length));
    used += length;
    return bytes;
  };
}

/** Draws for faults, latencies and workloads: sfc32, seeded by a hash of seed and name. Not for secrets. */
export class Dice {
  #a: number;
  #b: number;
  #c: number;
  #counter: number;

  constructor(seed: number, name: string) {
    const key = derive(seed, `dice/${name}`);
    this.#a = key.readInt32LE(0);
    this.#b = key.readInt32LE(4);
    this.#c = key.readInt32LE(8);
    this.#counter = key.readInt32LE(12);
    for (let i = 0; i < 12; i++) this.next();
  }

  /** Uniform in [0, 1). */
  next(): number {
    const t = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + t) | 0;
    return (t >>> 0) / 4_294_967_296;
  }

  /** @returns True with the given probability. Draws even when the answer is certain, so that rates do not shift the stream. */
  chance(probability: number): boolean {
    return this.next() < probability;
  }

  /** Uniform in [from, to). */
  between(from: number, to: number): number {
    return from + (to - from) * this.next();
  }

  /** Log-uniform in [from, to): as often around 1 s as around 100 s. */
  spread(from: number, to: number): number {
    return from * (to / from) ** this.next();
  }

  /** Time to the next event of a Poisson process. */
  wait(mean: number): number {
    return -Math.log(1 - this.next()) * mean;
  }

  /** Whole number in [0, count). */
  below(count: number): number {
    return Math.floor(this.next() * count);
  }

  pick<T>(options: readonly T[]): T {
    const chosen = options[this.below(options.length)];
    if (chosen === undefined) throw new Error("pick from an empty list");
    return chosen;
  }
}
