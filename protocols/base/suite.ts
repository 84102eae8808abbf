/**
 * The cryptography every protocol is given. One interface, three implementations with the same bytes: `webcrypto.ts`
 * (native where it is faster), `noble.ts` (pure fallback) and `synchronous.ts` (for the simulator: it computes before the
 * promise exists, so the order of awaits depends on nothing but the code).
 *
 * All randomness is an argument: nothing in a suite draws any. Secret keys are their seeds, because seeds have one
 * encoding everywhere. Spec: ./SPEC.md BA10-BA24.
 */
export interface CryptoSuite {
  sha256(data: Uint8Array): Uint8Array;
  /** HMAC-SHA-256, 32 bytes. */
  hmac(key: Uint8Array, data: Uint8Array): Uint8Array;
  /** HKDF-SHA-256 (RFC 5869), extract and expand. `length` at most 8,160. */
  hkdf(options: { ikm: Uint8Array; salt?: Uint8Array; info: Uint8Array; length: number }): Uint8Array;

  readonly ed25519: {
    /** @param seed 32 bytes. @returns The public key, 32 bytes. */
    publicKey(seed: Uint8Array): Promise<Uint8Array>;
    sign(seed: Uint8Array, message: Uint8Array): Promise<Uint8Array>;
    /** Strict and the same everywhere (BA14): small-order and non-canonical A and R are refused, no cofactor. */
    verify(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): Promise<boolean>;
  };
  readonly x25519: {
    /** @param secret 32 bytes, clamped by the function. @returns The public key, 32 bytes. */
    publicKey(secret: Uint8Array): Promise<Uint8Array>;
    /** @returns The shared secret, or undefined when it is all zero (a small-order public key). */
    sharedSecret(secret: Uint8Array, publicKey: Uint8Array): Promise<Uint8Array | undefined>;
  };
  readonly mlkem768: {
    /** @param seed 64 bytes (FIPS 203 d || z). @returns The encapsulation key, 1,184 bytes. */
    publicKey(seed: Uint8Array): Promise<Uint8Array>;
    /** @param randomness 32 bytes, used once. @returns Undefined when the key fails the FIPS 203 modulus check. */
    encapsulate(
      publicKey: Uint8Array,
      randomness: Uint8Array,
    ): Promise<{ ciphertext: Uint8Array; sharedSecret: Uint8Array } | undefined>;
    /** @param ciphertext 1,088 bytes. Never fails: a forged one gives an unrelated secret (implicit rejection). */
    decapsulate(seed: Uint8Array, ciphertext: Uint8Array): Promise<Uint8Array>;
  };
  /** ChaCha20-Poly1305 (RFC 8439): messages, headers, envelopes. Key 32, nonce 12, tag 16 appended. */
  readonly chacha20poly1305: Aead;
  /** AES-256-GCM: bulk data (media chunks). Key 32, nonce 12, tag 16 appended. */
  readonly aes256gcm: Aead;
}

export interface Aead {
  seal(options: AeadInput): Promise<Uint8Array>;
  /** @returns The plaintext, or undefined when the tag does not verify. */
  open(options: AeadInput): Promise<Uint8Array | undefined>;
}

export type AeadInput = {
  readonly key: Uint8Array;
  readonly nonce: Uint8Array;
  /** Plaintext for `seal`, ciphertext with its tag for `open`. */
  readonly data: Uint8Array;
  readonly associatedData?: Uint8Array;
};

/** What a step is given, and all it may use of the world. */
export type Env = {
  /** Milliseconds since 1970, network time. */
  readonly now: number;
  /** Fresh random bytes. The only source of randomness, key generation and encapsulation included. */
  readonly random: (length: number) => Uint8Array;
  readonly crypto: CryptoSuite;
};
