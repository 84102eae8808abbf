/**
 * Remembers under which (key, nonce) everything was sealed, over all peers and all their restarts. The same pair for two
 * different plaintexts is the end of an AEAD; the same pair for the same bytes again is only a repeat.
 */
import { hash } from "node:crypto";

import { EMPTY } from "#protocols/base/bytes.ts";
import type { Aead, AeadInput, CryptoSuite } from "#protocols/base/suite.ts";

/** Pairs remembered: between one and two million, the latest. About 200 MB at worst; an hour of four peers has 100,000. */
const PAIRS_PER_GENERATION = 1_000_000;

export class NonceLedger {
  seals = 0;
  repeats = 0;
  /** Pairs that are remembered no more: above zero, an old pair could return unseen. */
  forgotten = 0;
  readonly violations: string[] = [];
  #young = new Map<string, string>();
  #old = new Map<string, string>();

  watch(crypto: CryptoSuite, who: string): CryptoSuite {
    return {
      ...crypto,
      chacha20poly1305: this.#aead(crypto.chacha20poly1305, "chacha20poly1305", who),
      aes256gcm: this.#aead(crypto.aes256gcm, "aes256gcm", who),
    };
  }

  #aead(aead: Aead, name: string, who: string): Aead {
    return {
      seal: (input) => {
        this.#record(name, who, input);
        return aead.seal(input);
      },
      open: (input) => aead.open(input),
    };
  }

  #record(name: string, who: string, { key, nonce, data, associatedData }: AeadInput): void {
    this.seals++;
    const pair = name + Buffer.concat([key, nonce]).toString("latin1");
    const content = hash("sha256", Buffer.concat([lengthOf(data), data, associatedData ?? EMPTY]), "base64");
    const known = this.#young.get(pair) ?? this.#old.get(pair);
    if (known === undefined) {
      this.#remember(pair, content);
    } else if (known === content) {
      this.repeats++;
    } else {
      this.violations.push(`${who} sealed two different texts under one ${name} key and nonce`);
    }
  }

  #remember(pair: string, content: string): void {
    if (this.#young.size >= PAIRS_PER_GENERATION) {
      this.forgotten += this.#old.size;
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(pair, content);
  }
}

/** Tells where the data ends and the associated data begins. */
function lengthOf(data: Uint8Array): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  return length;
}
