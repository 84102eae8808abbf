import { base64urlnopad } from "@scure/base";
import { concat, EMPTY, equalBytes, fromHex, toHex } from "./bytes.ts";
import { Lru } from "./lru.ts";
import {
  chachaAead,
  ed25519,
  gcmAead,
  hkdf,
  hmac,
  mlkem768,
  type SynchronousAead,
  sha256,
  TAG_BYTES,
  x25519,
} from "./noble.ts";
import { assert } from "./reject.ts";
import { acceptableDhKey, acceptableSignature, KEM_CIPHERTEXT_BYTES, KEM_SEED_BYTES } from "./strict.ts";
import type { Aead, AeadInput, CryptoSuite } from "./suite.ts";

/**
 * The suite of real peers: the platform's WebCrypto where it is faster, noble elsewhere. Each native algorithm is used only
 * after it has given a known answer, once; where it is missing, random or wrong, noble computes the same bytes. SHA-256,
 * HMAC, HKDF and small ChaCha20-Poly1305 are noble's always: at their size the call costs more than the work. So is ML-KEM
 * encapsulation: the native one draws its own randomness (BA12). Spec: ./SPEC.md BA10-BA24.
 */

/** A CryptoKey, opaque to us. */
type NativeKey = object;

/** WebCrypto takes no shared memory, and says so in its types. */
type NativeBytes = Uint8Array<ArrayBuffer>;

/** Nothing in Skein lies in shared memory; where something did, WebCrypto would throw. */
function native(bytes: Uint8Array): NativeBytes {
  return bytes as NativeBytes;
}

type Named = { readonly name: string };

/** The part of SubtleCrypto that is used; `protocols/` compiles without DOM types. A browser's and Node's are such. */
export interface Subtle {
  importKey(
    format: string,
    data: NativeBytes,
    algorithm: Named,
    extractable: boolean,
    usages: string[],
  ): Promise<NativeKey>;
  exportKey(format: string, key: NativeKey): Promise<unknown>;
  sign(algorithm: Named, key: NativeKey, data: NativeBytes): Promise<ArrayBuffer>;
  verify(algorithm: Named, key: NativeKey, signature: NativeBytes, data: NativeBytes): Promise<boolean>;
  deriveBits(algorithm: Named, key: NativeKey, length: number): Promise<ArrayBuffer>;
  encrypt(algorithm: Named, key: NativeKey, data: NativeBytes): Promise<ArrayBuffer>;
  decrypt(algorithm: Named, key: NativeKey, data: NativeBytes): Promise<ArrayBuffer>;
}

/** Methods of the newer draft (wicg.github.io/webcrypto-modern-algos), which not every SubtleCrypto has. */
interface ModernSubtle extends Subtle {
  getPublicKey(key: NativeKey, usages: string[]): Promise<NativeKey>;
  decapsulateBits(algorithm: Named, key: NativeKey, ciphertext: NativeBytes): Promise<ArrayBuffer>;
}

export const NATIVE_ALGORITHMS = ["X25519", "Ed25519", "ML-KEM-768", "AES-GCM", "ChaCha20-Poly1305"] as const;
export type NativeAlgorithm = (typeof NATIVE_ALGORITHMS)[number];

/** Imported public keys per algorithm: a few hundred bytes each, more than the people one hears of in a busy hour. */
const MAX_CACHED_PUBLIC_KEYS = 1024;
/** From here on native ChaCha20-Poly1305, the import of its key included, is faster than noble in Node (FACTS: 30 µs both). */
export const NATIVE_CHACHA_MIN_BYTES = 4096;

/** DER of a PKCS #8 private key (RFC 8410 section 7) up to the 32 bytes of the key itself. */
const PKCS8_X25519 = constant("302e020100300506032b656e04220420");
const PKCS8_ED25519 = constant("302e020100300506032b657004220420");

function constant(hex: string): Uint8Array {
  const raw = fromHex(hex);
  assert(raw, "constant is hexadecimal");
  return raw;
}

/** Whether one native algorithm can be used; asked once, at its first use. */
class Probe {
  /** Undefined until the answer is known, so that the hot path awaits nothing. */
  usable: boolean | undefined;
  #asking: Promise<boolean> | undefined;
  readonly #knownAnswer: () => Promise<boolean>;

  constructor(allowed: boolean, knownAnswer: () => Promise<boolean>) {
    this.#knownAnswer = knownAnswer;
    if (!allowed) this.usable = false;
  }

  ask(): Promise<boolean> {
    this.#asking ??= this.#check();
    return this.#asking;
  }

  async #check(): Promise<boolean> {
    try {
      this.usable = await this.#knownAnswer();
    } catch {
      // Whatever is thrown here says one thing: the platform cannot do it. NotSupportedError where it says so, TypeError
      // where a method is missing, DataError where it takes the key in another form.
      this.usable = false;
    }
    return this.usable;
  }
}

/** A few bytes that change when the array is overwritten: 32 bits of FNV-1a. */
function mark(secret: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of secret) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/**
 * Imported secret keys by the identity of their array, held weakly: a native key dies with the bytes it was made of. A
 * cache by value would keep ratchet keys alive that their owner deleted for forward secrecy (BA22). The mark notices an
 * array that was zeroed or reused.
 */
class SecretKeys {
  readonly #keys = new WeakMap<Uint8Array, { readonly mark: number; readonly key: NativeKey }>();
  readonly #importKey: (secret: Uint8Array) => Promise<NativeKey>;

  constructor(importKey: (secret: Uint8Array) => Promise<NativeKey>) {
    this.#importKey = importKey;
  }

  known(secret: Uint8Array): NativeKey | undefined {
    const entry = this.#keys.get(secret);
    return entry?.mark === mark(secret) ? entry.key : undefined;
  }

  async import(secret: Uint8Array): Promise<NativeKey> {
    const before = mark(secret);
    const key = await this.#importKey(secret);
    this.#keys.set(secret, { mark: before, key });
    return key;
  }
}

/** Imported public keys by value: they are no secret, and every message brings them as new arrays. */
class PublicKeys {
  readonly #keys = new Lru<string, NativeKey>(MAX_CACHED_PUBLIC_KEYS);
  readonly #subtle: Subtle;
  readonly #algorithm: Named;
  readonly #usages: string[];

  constructor(subtle: Subtle, name: string, usages: string[]) {
    this.#subtle = subtle;
    this.#algorithm = { name };
    this.#usages = usages;
  }

  known(publicKey: Uint8Array): NativeKey | undefined {
    return this.#keys.get(toHex(publicKey));
  }

  async import(publicKey: Uint8Array): Promise<NativeKey> {
    const name = toHex(publicKey);
    const key = await this.#subtle.importKey("raw", native(publicKey), this.#algorithm, true, this.#usages);
    this.#keys.set(name, key);
    return key;
  }
}

function isErrorNamed(error: unknown, name: string): boolean {
  return typeof error === "object" && error !== null && (error as { name?: unknown }).name === name;
}

/** The public half of an extractable private key: a JWK's `x` (RFC 8037). */
async function exportedPublicKey(subtle: Subtle, key: NativeKey): Promise<Uint8Array> {
  const jwk = (await subtle.exportKey("jwk", key)) as { readonly x: string };
  return base64urlnopad.decode(jwk.x);
}

function x25519Suite(subtle: Subtle, allowed: boolean): CryptoSuite["x25519"] {
  const name = "X25519";
  // Extractable, or its public key could not be asked for; the seed lies beside it anyway.
  const secrets = new SecretKeys((secret) => {
    assert(secret.length === 32, "X25519 secret has 32 bytes");
    return subtle.importKey("pkcs8", native(concat(PKCS8_X25519, secret)), { name }, true, ["deriveBits"]);
  });
  const publics = new PublicKeys(subtle, name, []);

  const publicKey = async (secret: Uint8Array): Promise<Uint8Array> =>
    exportedPublicKey(subtle, secrets.known(secret) ?? (await secrets.import(secret)));
  const agreement = (theirs: NativeKey) => ({ name, public: theirs });
  const sharedSecret = async (secret: Uint8Array, other: Uint8Array): Promise<Uint8Array> => {
    const mine = secrets.known(secret) ?? (await secrets.import(secret));
    const theirs = publics.known(other) ?? (await publics.import(other));
    return new Uint8Array(await subtle.deriveBits(agreement(theirs), mine, 256));
  };
  // RFC 7748 section 6.1.
  const probe = new Probe(allowed, async () => {
    const alice = constant("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    const alicePublic = constant("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    const bobPublic = constant("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    const shared = constant("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    return equalBytes(await publicKey(alice), alicePublic) && equalBytes(await sharedSecret(alice, bobPublic), shared);
  });
  return {
    publicKey: async (secret) => ((probe.usable ?? (await probe.ask())) ? publicKey(secret) : x25519.publicKey(secret)),
    sharedSecret: async (secret, other) => {
      if (!acceptableDhKey(other)) return undefined;
      return (probe.usable ?? (await probe.ask())) ? sharedSecret(secret, other) : x25519.sharedSecret(secret, other);
    },
  };
}

function ed25519Suite(subtle: Subtle, allowed: boolean): CryptoSuite["ed25519"] {
  const name = "Ed25519";
  const algorithm = { name };
  const secrets = new SecretKeys((seed) => {
    assert(seed.length === 32, "Ed25519 seed has 32 bytes");
    return subtle.importKey("pkcs8", native(concat(PKCS8_ED25519, seed)), algorithm, true, ["sign"]);
  });
  const publics = new PublicKeys(subtle, name, ["verify"]);

  const publicKey = async (seed: Uint8Array): Promise<Uint8Array> =>
    exportedPublicKey(subtle, secrets.known(seed) ?? (await secrets.import(seed)));
  const sign = async (seed: Uint8Array, message: Uint8Array): Promise<Uint8Array> => {
    const key = secrets.known(seed) ?? (await secrets.import(seed));
    return new Uint8Array(await subtle.sign(algorithm, key, native(message)));
  };
  const verify = async (signer: Uint8Array, message: Uint8Array, signature: Uint8Array): Promise<boolean> => {
    let key = publics.known(signer);
    if (key === undefined) {
      try {
        key = await publics.import(signer);
      } catch (error) {
        // Some platforms refuse a key off the curve here, some at `verify`.
        if (isErrorNamed(error, "DataError")) return false;
        throw error;
      }
    }
    return subtle.verify(algorithm, key, native(signature), native(message));
  };
  // RFC 8032 section 7.1, TEST 1. A platform that signs with randomness fails it, and is right to (BA13).
  const probe = new Probe(allowed, async () => {
    const seed = constant("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    const expected = constant("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    const signature = constant(
      "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    );
    return (
      equalBytes(await publicKey(seed), expected) &&
      equalBytes(await sign(seed, EMPTY), signature) &&
      (await verify(expected, EMPTY, signature)) &&
      !(await verify(expected, Uint8Array.of(0), signature))
    );
  });
  return {
    publicKey: async (seed) => ((probe.usable ?? (await probe.ask())) ? publicKey(seed) : ed25519.publicKey(seed)),
    sign: async (seed, message) =>
      (probe.usable ?? (await probe.ask())) ? sign(seed, message) : ed25519.sign(seed, message),
    verify: async (signer, message, signature) => {
      if (!acceptableSignature(signer, signature)) return false;
      return (probe.usable ?? (await probe.ask()))
        ? verify(signer, message, signature)
        : ed25519.verify(signer, message, signature);
    },
  };
}

function mlkem768Suite(subtle: Subtle, allowed: boolean): CryptoSuite["mlkem768"] {
  const name = "ML-KEM-768";
  const modern = subtle as ModernSubtle;
  const secrets = new SecretKeys((seed) => {
    assert(seed.length === KEM_SEED_BYTES, "ML-KEM seed has 64 bytes");
    return modern.importKey("raw-seed", native(seed), { name }, false, ["decapsulateBits"]);
  });

  const publicKey = async (seed: Uint8Array): Promise<Uint8Array> => {
    const key = secrets.known(seed) ?? (await secrets.import(seed));
    const shared = await modern.getPublicKey(key, ["encapsulateBits"]);
    return new Uint8Array((await modern.exportKey("raw-public", shared)) as ArrayBuffer);
  };
  const decapsulate = async (seed: Uint8Array, ciphertext: Uint8Array): Promise<Uint8Array> => {
    assert(ciphertext.length === KEM_CIPHERTEXT_BYTES, "ML-KEM ciphertext has 1,088 bytes");
    const key = secrets.known(seed) ?? (await secrets.import(seed));
    return new Uint8Array(await modern.decapsulateBits({ name }, key, native(ciphertext)));
  };
  // Seed 00 01 .. 3f: SHA-256 of its encapsulation key, and what implicit rejection makes of a ciphertext of zeros.
  const probe = new Probe(allowed, async () => {
    const seed = Uint8Array.from({ length: KEM_SEED_BYTES }, (_, i) => i);
    const keyHash = constant("0b7934c83125c788995e2ba6bd761e33046b3e40571be53e023309a29f398cc9");
    const rejected = constant("c8fbeddafdacef2ffeb8b354ea644f11b5c150f3e2c4a74ce38abba8f854ae16");
    return (
      equalBytes(sha256(await publicKey(seed)), keyHash) &&
      equalBytes(await decapsulate(seed, new Uint8Array(KEM_CIPHERTEXT_BYTES)), rejected)
    );
  });
  return {
    publicKey: async (seed) => ((probe.usable ?? (await probe.ask())) ? publicKey(seed) : mlkem768.publicKey(seed)),
    encapsulate: async (other, randomness) => mlkem768.encapsulate(other, randomness),
    decapsulate: async (seed, ciphertext) =>
      (probe.usable ?? (await probe.ask())) ? decapsulate(seed, ciphertext) : mlkem768.decapsulate(seed, ciphertext),
  };
}

/** @param options.nativeFrom - Shortest input, bytes of plaintext, that goes to the platform. */
function aeadSuite(
  subtle: Subtle,
  options: {
    readonly allowed: boolean;
    readonly name: "AES-GCM" | "ChaCha20-Poly1305";
    readonly keyFormat: "raw" | "raw-secret";
    readonly nativeFrom: number;
    readonly fallback: SynchronousAead;
    /** Tag and ciphertext of the known answer. */
    readonly answer: string;
  },
): Aead {
  const { name, fallback, nativeFrom } = options;
  const secrets = new SecretKeys((key) => {
    assert(key.length === 32, "AEAD key has 32 bytes");
    return subtle.importKey(options.keyFormat, native(key), { name }, false, ["encrypt", "decrypt"]);
  });
  const parameters = ({ nonce, associatedData }: AeadInput) => {
    assert(nonce.length === 12, "AEAD nonce has 12 bytes");
    return { name, iv: nonce, additionalData: associatedData ?? EMPTY, tagLength: 8 * TAG_BYTES };
  };
  const seal = async (input: AeadInput): Promise<Uint8Array> => {
    const key = secrets.known(input.key) ?? (await secrets.import(input.key));
    return new Uint8Array(await subtle.encrypt(parameters(input), key, native(input.data)));
  };
  const open = async (input: AeadInput): Promise<Uint8Array | undefined> => {
    const key = secrets.known(input.key) ?? (await secrets.import(input.key));
    try {
      return new Uint8Array(await subtle.decrypt(parameters(input), key, native(input.data)));
    } catch (error) {
      if (isErrorNamed(error, "OperationError")) return undefined;
      throw error;
    }
  };
  const probe = new Probe(options.allowed, async () => {
    const key = Uint8Array.from({ length: 32 }, (_, i) => i);
    const nonce = key.slice(0, 12);
    const associatedData = Uint8Array.of(5, 6, 7);
    const sealed = await seal({ key, nonce, data: Uint8Array.of(1, 2, 3, 4), associatedData });
    const forged = await open({ key, nonce, data: sealed });
    const opened = await open({ key, nonce, data: sealed, associatedData });
    return equalBytes(sealed, constant(options.answer)) && forged === undefined && opened?.[3] === 4;
  });
  return {
    seal: async (input) => {
      const natively = input.data.length >= nativeFrom && (probe.usable ?? (await probe.ask()));
      return natively ? seal(input) : fallback.seal(input);
    },
    open: async (input) => {
      if (input.data.length < TAG_BYTES) return undefined;
      const natively = input.data.length - TAG_BYTES >= nativeFrom && (probe.usable ?? (await probe.ask()));
      return natively ? open(input) : fallback.open(input);
    },
  };
}

/**
 * @param subtle - The platform's `crypto.subtle`.
 * @param options.algorithms - Native ones that may be used; all where absent. Node warns on stderr at the first use of
 * ML-KEM-768 and ChaCha20-Poly1305.
 */
export function webCryptoSuite(
  subtle: Subtle,
  options: { readonly algorithms?: readonly NativeAlgorithm[] } = {},
): CryptoSuite {
  const allowed = new Set(options.algorithms ?? NATIVE_ALGORITHMS);
  return {
    sha256,
    hmac,
    hkdf,
    x25519: x25519Suite(subtle, allowed.has("X25519")),
    ed25519: ed25519Suite(subtle, allowed.has("Ed25519")),
    mlkem768: mlkem768Suite(subtle, allowed.has("ML-KEM-768")),
    chacha20poly1305: aeadSuite(subtle, {
      allowed: allowed.has("ChaCha20-Poly1305"),
      name: "ChaCha20-Poly1305",
      keyFormat: "raw-secret",
      nativeFrom: NATIVE_CHACHA_MIN_BYTES,
      fallback: chachaAead,
      answer: "88f90b04871326d341cce20b13c7e0c26390c26b",
    }),
    aes256gcm: aeadSuite(subtle, {
      allowed: allowed.has("AES-GCM"),
      name: "AES-GCM",
      keyFormat: "raw",
      nativeFrom: 0,
      fallback: gcmAead,
      answer: "4600d51f005ed259817f57ebaca8b055dd73e234",
    }),
  };
}
