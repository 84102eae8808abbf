import { concat, equalBytes, utf8, zero } from "#protocols/base/bytes.ts";
import { bytes, decode, encode, type Infer, literal, optional, struct, uint } from "#protocols/base/codec.ts";
import { Lru } from "#protocols/base/lru.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { Failure } from "./failure.ts";
import type { Random, Store, StoreOperation } from "./ports.ts";

/**
 * Encryption at rest. A random data key is wrapped under Argon2id over the passphrase, or under a key that the platform keeps.
 * From the data key follow the key of store keys (HMAC) and, with 16 random bytes of each start, the key of the values this
 * start writes.
 *
 * Invariants:
 * - No (key, nonce) pair encrypts twice: a start's salt is fresh, its counter only grows, over reopened stores too. Two live
 *   copies of one store differ in their salts.
 * - A value opens only under its own store key and schema version (associated data): moving it elsewhere is damage.
 * - The salt stands in each value, so that no single lost record makes others unreadable.
 * - Parameters weaker than ours, or large enough to stall the machine, are refused before any work is done.
 *
 * Open: whoever can write the disk can put back an older value of the same key.
 */
export type Unlock = { readonly passphrase: string } | { readonly platformKey: Uint8Array };

/** Argon2id, RFC 9106 section 4 (second recommended option: 64 MiB, t = 3), one lane because the wasm has one thread. */
export type PassphraseCost = {
  readonly memoryKiB: number;
  readonly iterations: number;
  readonly parallelism: number;
};

export const DEFAULT_COST: PassphraseCost = { memoryKiB: 65_536, iterations: 3, parallelism: 1 };
/** A forged header must not make opening take minutes or all memory: 1 GiB and 16 passes are some 20 s. */
export const LARGEST_COST: PassphraseCost = { memoryKiB: 1_048_576, iterations: 16, parallelism: 4 };

const KEY_BYTES = 32;
const SALT_BYTES = 16;
const CHECK_BYTES = 8;
const WRAPPED_BYTES = KEY_BYTES + 16;
/** Each wrapping and each start has a key of its own; the wrapping key is used for one nonce only. */
const WRAP_NONCE = new Uint8Array(12);

/** Key of the one record in clear. */
export const HEADER_KEY = Uint8Array.of(0);

/** Schema version (1) | salt of the start (16) | counter (6) | ciphertext (n) | tag (16). */
const VALUE_HEAD_BYTES = 23;
export const VALUE_OVERHEAD_BYTES = VALUE_HEAD_BYTES + 16;
const MAX_COUNTER = 2 ** 48 - 1;

/** Value keys of earlier starts, 32 bytes each; deriving one costs 20 us. */
const MAX_VALUE_KEYS = 256;
/** Store keys by table and text, about 200 bytes each. Computing one costs 6 us, and hot records have the same few. */
const MAX_STORE_KEYS = 16_384;

const costSchema = struct({ memoryKiB: uint(), iterations: uint(), parallelism: uint() });
/** How the data key is wrapped; associated data of the wrapping. No cost means a platform key. */
const wrappingSchema = struct({ version: literal(1), salt: bytes(SALT_BYTES), cost: optional(costSchema) });
/** `check` is a plain hash that tells a damaged header from a wrong passphrase. It protects nothing. */
const headerSchema = struct({
  wrapping: wrappingSchema,
  wrappedKey: bytes(WRAPPED_BYTES),
  check: bytes(CHECK_BYTES),
});
type Wrapping = Infer<typeof wrappingSchema>;
type Header = Infer<typeof headerSchema>;

export type VaultOptions = {
  readonly store: Store;
  readonly unlock: Unlock;
  readonly random: Random;
  readonly crypto: CryptoSuite;
};

export class Vault {
  readonly #crypto: CryptoSuite;
  readonly #dataKey: Uint8Array;
  readonly #nameKey: Uint8Array;
  readonly #startSalt: Uint8Array;
  readonly #startKey: Uint8Array;
  readonly #valueKeys = new Map<string, Uint8Array>();
  readonly #storeKeys = new Lru<string, Uint8Array>(MAX_STORE_KEYS);
  #header: Uint8Array;
  /** Handed out by `rewrap`, perhaps on the disk: a commit's outcome may be unknown. */
  #offered: Uint8Array | undefined;
  #counter = 0;
  #open = true;

  /**
   * Opens the vault of `store`, or makes one when the store is empty.
   * @throws Failure `vault/wrong-passphrase` (or platform key), `vault/needs-passphrase`, `vault/needs-platform-key`,
   * `vault/refused-parameters`, `vault/damaged`, and what the store throws.
   */
  static async open(options: VaultOptions): Promise<Vault> {
    const { store, unlock, random, crypto } = options;
    const header = await store.get(HEADER_KEY);
    if (header !== undefined) return new Vault(crypto, random, await unwrap(crypto, header, unlock), header);

    for await (const _ of store.entries({ from: new Uint8Array(0), to: Uint8Array.of(0xff), limit: 1 })) {
      throw new Failure("vault/damaged", "the store holds records but its vault header is gone");
    }
    const dataKey = random(KEY_BYTES);
    const created = await wrap(crypto, random, dataKey, unlock);
    await store.commit([{ type: "put", key: HEADER_KEY, value: created }]);
    return new Vault(crypto, random, dataKey, created);
  }

  private constructor(crypto: CryptoSuite, random: Random, dataKey: Uint8Array, header: Uint8Array) {
    this.#crypto = crypto;
    this.#dataKey = dataKey;
    this.#header = header;
    this.#nameKey = crypto.hkdf({ ikm: dataKey, info: utf8("skein/1/store-names"), length: KEY_BYTES });
    this.#startSalt = random(SALT_BYTES);
    this.#startKey = this.#valueKey(this.#startSalt);
  }

  /** The first `length` bytes of number | HMAC(number | text): 17 for a table's key, 9 for a log's prefix. */
  storeKey(number: number, text: string, length: number): Uint8Array {
    const name = `${number}:${length}:${text}`;
    const known = this.#storeKeys.get(name);
    if (known !== undefined) return known;
    assert(this.#open, "the vault is open");
    const digest = this.#crypto.hmac(this.#nameKey, concat(Uint8Array.of(number), utf8(text)));
    const key = concat(Uint8Array.of(number), digest.subarray(0, length - 1));
    this.#storeKeys.set(name, key);
    return key;
  }

  /** Encrypts a value for its place in the store. The nonce is taken before the first await. */
  async seal(storeKey: Uint8Array, version: number, plaintext: Uint8Array): Promise<Uint8Array> {
    assert(this.#open, "the vault is open");
    assert(this.#counter < MAX_COUNTER, "nonces of this start are left");
    const head = valueHead(version, this.#startSalt, this.#counter++);
    const sealed = await this.#crypto.chacha20poly1305.seal({
      key: this.#startKey,
      nonce: valueNonce(head),
      data: plaintext,
      associatedData: valueContext(storeKey, version),
    });
    return concat(head, sealed);
  }

  /** @throws Failure `store/damaged-record`. */
  async open(
    storeKey: Uint8Array,
    value: Uint8Array,
  ): Promise<{ readonly version: number; readonly plaintext: Uint8Array }> {
    assert(this.#open, "the vault is open");
    if (value.length < VALUE_OVERHEAD_BYTES) throw damagedRecord();
    const head = value.subarray(0, VALUE_HEAD_BYTES);
    const version = head[0]!;
    const plaintext = await this.#crypto.chacha20poly1305.open({
      key: this.#valueKey(head.subarray(1, 1 + SALT_BYTES)),
      nonce: valueNonce(head),
      data: value.subarray(VALUE_HEAD_BYTES),
      associatedData: valueContext(storeKey, version),
    });
    if (plaintext === undefined) throw damagedRecord();
    return { version, plaintext };
  }

  /**
   * Wraps the same data key anew. Commit the operation, then call `accept`. Until the store is compacted the old wrapping
   * may still stand in its files.
   * @throws Failure `vault/wrong-passphrase` when `current` does not open the vault.
   */
  async rewrap(
    random: Random,
    current: Unlock,
    next: Unlock,
  ): Promise<{ readonly operation: StoreOperation; readonly accept: () => void }> {
    const opened = await unwrap(this.#crypto, this.#header, current);
    zero(opened);
    assert(this.#open, "the vault is open");
    const header = await wrap(this.#crypto, random, this.#dataKey, next);
    this.#offered = header;
    return {
      operation: { type: "put", key: HEADER_KEY, value: header },
      accept: () => {
        this.#header = header;
      },
    };
  }

  /** Whether `store`, opened anew, still is the one of this vault. */
  async belongsTo(store: Store): Promise<boolean> {
    const header = await store.get(HEADER_KEY);
    if (header === undefined) return false;
    if (this.#offered !== undefined && equalBytes(header, this.#offered)) this.#header = this.#offered;
    return equalBytes(header, this.#header);
  }

  /** Forgets every key. */
  close(): void {
    this.#open = false;
    zero(this.#dataKey, this.#nameKey, this.#startKey);
    for (const key of this.#valueKeys.values()) zero(key);
    this.#valueKeys.clear();
    this.#storeKeys.clear();
  }

  #valueKey(salt: Uint8Array): Uint8Array {
    const name = String.fromCharCode(...salt);
    const known = this.#valueKeys.get(name);
    if (known !== undefined) return known;
    const key = this.#crypto.hkdf({ ikm: this.#dataKey, salt, info: utf8("skein/1/store-values"), length: KEY_BYTES });
    if (this.#valueKeys.size >= MAX_VALUE_KEYS) {
      // Forgotten but not zeroed: an `open` that is under way may still use it.
      const [oldest] = this.#valueKeys.keys();
      this.#valueKeys.delete(oldest!);
    }
    this.#valueKeys.set(name, key);
    return key;
  }
}

function valueHead(version: number, salt: Uint8Array, counter: number): Uint8Array {
  const head = new Uint8Array(VALUE_HEAD_BYTES);
  head[0] = version;
  head.set(salt, 1);
  let rest = counter;
  for (let i = VALUE_HEAD_BYTES - 1; i > SALT_BYTES; i--) {
    head[i] = rest % 256;
    rest = Math.floor(rest / 256);
  }
  return head;
}

function valueNonce(head: Uint8Array): Uint8Array {
  const nonce = new Uint8Array(12);
  nonce.set(head.subarray(1 + SALT_BYTES), 6);
  return nonce;
}

function valueContext(storeKey: Uint8Array, version: number): Uint8Array {
  return concat(storeKey, Uint8Array.of(version));
}

function damagedRecord(): Failure {
  return new Failure("store/damaged-record", "a stored record does not open");
}

async function wrap(crypto: CryptoSuite, random: Random, dataKey: Uint8Array, unlock: Unlock): Promise<Uint8Array> {
  const salt = random(SALT_BYTES);
  const wrapping: Wrapping = { version: 1, salt, ...("passphrase" in unlock ? { cost: DEFAULT_COST } : {}) };
  const key = await wrappingKey(crypto, wrapping, unlock);
  const wrappedKey = await crypto.chacha20poly1305.seal({
    key,
    nonce: WRAP_NONCE,
    data: dataKey,
    associatedData: encode(wrappingSchema, wrapping),
  });
  zero(key);
  return encode(headerSchema, { wrapping, wrappedKey, check: headerCheck(crypto, wrapping, wrappedKey) });
}

async function unwrap(crypto: CryptoSuite, encoded: Uint8Array, unlock: Unlock): Promise<Uint8Array> {
  const header = decode(headerSchema, encoded);
  if (isReject(header)) throw new Failure("vault/damaged", "the vault header cannot be read");
  const { wrapping, wrappedKey, check } = header satisfies Header;
  if (!equalBytes(check, headerCheck(crypto, wrapping, wrappedKey))) {
    throw new Failure("vault/damaged", "the vault header is damaged");
  }
  if (wrapping.cost !== undefined && !acceptableCost(wrapping.cost)) {
    throw new Failure("vault/refused-parameters", "the vault asks for key derivation outside the accepted limits");
  }
  const key = await wrappingKey(crypto, wrapping, unlock);
  const dataKey = await crypto.chacha20poly1305.open({
    key,
    nonce: WRAP_NONCE,
    data: wrappedKey,
    associatedData: encode(wrappingSchema, wrapping),
  });
  zero(key);
  if (dataKey === undefined) throw new Failure("vault/wrong-passphrase", "this does not open the vault");
  return dataKey;
}

function headerCheck(crypto: CryptoSuite, wrapping: Wrapping, wrappedKey: Uint8Array): Uint8Array {
  return crypto.sha256(concat(encode(wrappingSchema, wrapping), wrappedKey)).slice(0, CHECK_BYTES);
}

function acceptableCost(cost: PassphraseCost): boolean {
  return (Object.keys(DEFAULT_COST) as (keyof PassphraseCost)[]).every(
    (name) => cost[name] >= DEFAULT_COST[name] && cost[name] <= LARGEST_COST[name],
  );
}

async function wrappingKey(crypto: CryptoSuite, wrapping: Wrapping, unlock: Unlock): Promise<Uint8Array> {
  const { salt, cost } = wrapping;
  if (cost === undefined) {
    if (!("platformKey" in unlock)) throw new Failure("vault/needs-platform-key", "this vault has no passphrase");
    assert(unlock.platformKey.length === KEY_BYTES, "platform key has 32 bytes");
    return crypto.hkdf({ ikm: unlock.platformKey, salt, info: utf8("skein/1/platform-wrap"), length: KEY_BYTES });
  }
  if (!("passphrase" in unlock)) throw new Failure("vault/needs-passphrase", "this vault has a passphrase");
  if (unlock.passphrase === "") throw new Failure("vault/wrong-passphrase", "the passphrase is empty");
  // Loaded when needed: who uses a platform key never pays for the wasm.
  const { argon2id } = await import("hash-wasm");
  return argon2id({
    // The same words typed on another keyboard are the same bytes.
    password: utf8(unlock.passphrase.normalize("NFKC")),
    salt,
    memorySize: cost.memoryKiB,
    iterations: cost.iterations,
    parallelism: cost.parallelism,
    hashLength: KEY_BYTES,
    outputType: "binary",
  });
}
