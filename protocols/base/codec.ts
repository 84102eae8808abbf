import { compareBytes, EMPTY, fromHex, fromUtf8, toHex, utf8 } from "./bytes.ts";
import type { AnyId } from "./ids.ts";
import { assert, type OrReject, type Reject, reject } from "./reject.ts";

/**
 * Deterministic CBOR (RFC 8949 section 4.2.1), driven by schemas: a schema is the type, the encoder and the decoder of
 * one message. A decoder only ever reads what its schema expects next, so hostile nesting, huge counts and unknown types
 * end at the first wrong byte, and there is exactly one encoding of every value: shortest integers, definite lengths,
 * fields in the order of the schema, no trailing bytes. Spec: ./SPEC.md BA1-BA9.
 */
export interface Schema<T> {
  /** @throws On a value outside the schema: a programmer's mistake, never a remote's. */
  write(writer: Writer, value: T): void;
  /** @throws Malformed, which `decode` turns into a reject. */
  read(reader: Reader): T;
}

/** A schema of whatever, where a table holds schemas of different types. */
export type AnySchema = Schema<any>;

export type Infer<S> = S extends Schema<infer T> ? T : never;

/** Ends decoding of hostile input; never leaves this file. */
class Malformed extends Error {
  readonly code: string;
  constructor(code: string) {
    super(code);
    this.code = code;
  }
}

function malformed(code: string): never {
  throw new Malformed(code);
}

const UINT = 0;
const NEGATIVE = 1;
const BYTES = 2;
const TEXT = 3;
const ARRAY = 4;
const FALSE = 0xf4;
const TRUE = 0xf5;
const NULL = 0xf6;
const TWO_32 = 0x1_0000_0000;

/** Levels of a schema that contains itself. Without a bound, a frame of nothing but list heads would exhaust the stack. */
const MAX_DEPTH = 32;

/** A writer's first room. Most values fit; larger ones grow, and their room is kept for the next. */
const SCRATCH_BYTES = 8_192;
const MAX_SCRATCH_BYTES = 131_072;
/** Of the writer that finished last: encoding is synchronous, so one is enough, and a nested one makes its own. */
let idleScratch: Uint8Array | undefined;

export class Writer {
  #bytes = takeScratch();
  #length = 0;
  #depth = 0;

  nested(write: () => void): void {
    assert(this.#depth < MAX_DEPTH, "value is not nested too deep");
    this.#depth++;
    write();
    this.#depth--;
  }

  #reserve(extra: number): void {
    if (this.#length + extra <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + extra));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
  }

  byte(value: number): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = value;
  }

  raw(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** Major type and argument in the shortest form. */
  head(major: number, argument: number): void {
    this.#reserve(9);
    const first = major << 5;
    const size = argument < 24 ? 0 : argument < 0x100 ? 1 : argument < 0x1_0000 ? 2 : argument < TWO_32 ? 4 : 8;
    if (size === 0) {
      this.#bytes[this.#length++] = first | argument;
      return;
    }
    this.#bytes[this.#length++] = first | (size === 1 ? 24 : size === 2 ? 25 : size === 4 ? 26 : 27);
    let rest = argument;
    for (let i = size - 1; i >= 0; i--) {
      this.#bytes[this.#length + i] = rest % 256;
      rest = Math.floor(rest / 256);
    }
    this.#length += size;
  }

  /** What was written. Ends this writer: its room is wiped, because it may hold secrets, and goes to the next. */
  finish(): Uint8Array {
    const written = this.#bytes.slice(0, this.#length);
    this.#bytes.fill(0, 0, this.#length);
    if (this.#bytes.length <= MAX_SCRATCH_BYTES) idleScratch = this.#bytes;
    this.#bytes = EMPTY;
    this.#length = 0;
    return written;
  }
}

function takeScratch(): Uint8Array {
  const taken = idleScratch ?? new Uint8Array(SCRATCH_BYTES);
  idleScratch = undefined;
  return taken;
}

export class Reader {
  readonly #bytes: Uint8Array;
  #offset = 0;
  #depth = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  nested<T>(read: () => T): T {
    if (this.#depth >= MAX_DEPTH) malformed("codec/too-deep");
    this.#depth++;
    const value = read();
    this.#depth--;
    return value;
  }

  get done(): boolean {
    return this.#offset === this.#bytes.length;
  }

  peek(): number {
    return this.#bytes[this.#offset] ?? malformed("codec/truncated");
  }

  byte(): number {
    const value = this.peek();
    this.#offset++;
    return value;
  }

  /** A copy, so that a small field never keeps a large frame alive. */
  raw(length: number): Uint8Array {
    if (length > this.#bytes.length - this.#offset) malformed("codec/truncated");
    const taken = this.#bytes.slice(this.#offset, this.#offset + length);
    this.#offset += length;
    return taken;
  }

  /** @returns The argument of the next head, which must be of `major` type and in the shortest form. */
  head(major: number): number {
    const first = this.byte();
    if (first >> 5 !== major) malformed("codec/wrong-type");
    const info = first & 0x1f;
    if (info < 24) return info;
    if (info > 27) malformed("codec/indefinite");
    const size = 1 << (info - 24);
    let value = 0;
    for (let i = 0; i < size; i++) value = value * 256 + this.byte();
    if (!Number.isSafeInteger(value)) malformed("codec/integer-range");
    const least = size === 1 ? 24 : size === 2 ? 0x100 : size === 4 ? 0x1_0000 : TWO_32;
    if (value < least) malformed("codec/not-shortest");
    return value;
  }
}

export function encode<T>(schema: Schema<T>, value: T): Uint8Array {
  const writer = new Writer();
  schema.write(writer, value);
  return writer.finish();
}

/** @returns The value, or a reject `codec/…` when `bytes` is not its one canonical encoding. Never throws on input. */
export function decode<T>(schema: Schema<T>, bytes: Uint8Array): OrReject<T> {
  try {
    const reader = new Reader(bytes);
    const value = schema.read(reader);
    return reader.done ? value : reject("codec/trailing-bytes");
  } catch (error) {
    if (error instanceof Malformed) return reject(error.code) satisfies Reject;
    throw error;
  }
}

/** Integers 0..max. */
export function uint(max: number = Number.MAX_SAFE_INTEGER): Schema<number> {
  return {
    write(writer, value) {
      assert(Number.isSafeInteger(value) && value >= 0 && value <= max, "uint in range");
      writer.head(UINT, value);
    },
    read(reader) {
      const value = reader.head(UINT);
      return value <= max ? value : malformed("codec/integer-range");
    },
  };
}

/** Integers min..max, negative ones included. */
export function int(min: number, max: number): Schema<number> {
  return {
    write(writer, value) {
      assert(Number.isSafeInteger(value) && value >= min && value <= max, "int in range");
      if (value < 0) writer.head(NEGATIVE, -1 - value);
      else writer.head(UINT, value);
    },
    read(reader) {
      const value = reader.peek() >> 5 === NEGATIVE ? -1 - reader.head(NEGATIVE) : reader.head(UINT);
      return value >= min && value <= max ? value : malformed("codec/integer-range");
    },
  };
}

/** Byte string of exactly `length` bytes, or of `min`..`max`. */
export function bytes(length: number | { readonly min?: number; readonly max: number }): Schema<Uint8Array> {
  const min = typeof length === "number" ? length : (length.min ?? 0);
  const max = typeof length === "number" ? length : length.max;
  return {
    write(writer, value) {
      assert(value.length >= min && value.length <= max, "byte string length in range");
      writer.head(BYTES, value.length);
      writer.raw(value);
    },
    read(reader) {
      const size = reader.head(BYTES);
      if (size < min || size > max) malformed("codec/length");
      return reader.raw(size);
    },
  };
}

/** A branded id: hex in memory, `length` raw bytes on the wire. */
export function id<T extends AnyId>(length: 16 | 32 = 32): Schema<T> {
  return {
    write(writer, value) {
      const raw = fromHex(value);
      assert(raw?.length === length, "id has its length");
      writer.head(BYTES, length);
      writer.raw(raw);
    },
    read(reader) {
      if (reader.head(BYTES) !== length) malformed("codec/length");
      return toHex(reader.raw(length)) as T;
    },
  };
}

/** UTF-8 text of at most `max` bytes (not characters). */
export function text(max: number): Schema<string> {
  return {
    write(writer, value) {
      const raw = utf8(value);
      assert(raw.length <= max, "text length in range");
      writer.head(TEXT, raw.length);
      writer.raw(raw);
    },
    read(reader) {
      const size = reader.head(TEXT);
      if (size > max) malformed("codec/length");
      return fromUtf8(reader.raw(size)) ?? malformed("codec/utf8");
    },
  };
}

export const bool: Schema<boolean> = {
  write: (writer, value) => writer.byte(value ? TRUE : FALSE),
  read(reader) {
    const byte = reader.byte();
    return byte === TRUE || (byte === FALSE ? false : malformed("codec/wrong-type"));
  },
};

/** Absent is `undefined` in memory and CBOR null on the wire. */
export function optional<T>(schema: Schema<T>): Schema<T | undefined> {
  return {
    write(writer, value) {
      if (value === undefined) writer.byte(NULL);
      else schema.write(writer, value);
    },
    read(reader) {
      if (reader.peek() !== NULL) return schema.read(reader);
      reader.byte();
      return undefined;
    },
  };
}

export function list<T>(item: Schema<T>, max: number): Schema<readonly T[]> {
  return {
    write(writer, value) {
      assert(value.length <= max, "list length in range");
      writer.head(ARRAY, value.length);
      for (const entry of value) item.write(writer, entry);
    },
    read(reader) {
      const size = reader.head(ARRAY);
      if (size > max) malformed("codec/length");
      const values: T[] = [];
      for (let i = 0; i < size; i++) values.push(item.read(reader));
      return values;
    },
  };
}

/** A list whose entries stand in strictly ascending order of their encoding: a set has one encoding too. */
export function sortedSet<T>(item: Schema<T>, max: number): Schema<readonly T[]> {
  const plain = list(item, max);
  const ascending = (values: readonly T[]): boolean => {
    let previous: Uint8Array | undefined;
    for (const value of values) {
      const current = encode(item, value);
      if (previous && compareBytes(previous, current) >= 0) return false;
      previous = current;
    }
    return true;
  };
  return {
    write(writer, value) {
      assert(ascending(value), "set is sorted");
      plain.write(writer, value);
    },
    read(reader) {
      const values = plain.read(reader);
      return ascending(values) ? values : malformed("codec/not-sorted");
    },
  };
}

type OptionalKeys<F> = { [K in keyof F]: undefined extends Infer<F[K]> ? K : never }[keyof F];
type Struct<F> = { readonly [K in Exclude<keyof F, OptionalKeys<F>>]: Infer<F[K]> } & {
  readonly [K in OptionalKeys<F>]?: Infer<F[K]>;
};

/** A record: an array of its fields in the order written here. Names never travel. */
export function struct<F extends Record<string, Schema<any>>>(fields: F): Schema<Struct<F>> {
  const entries = Object.entries(fields) as [string, Schema<any>][];
  return {
    write(writer, value) {
      writer.head(ARRAY, entries.length);
      for (const [name, schema] of entries) schema.write(writer, (value as Record<string, unknown>)[name]);
    },
    read(reader) {
      if (reader.head(ARRAY) !== entries.length) malformed("codec/fields");
      const value: Record<string, unknown> = {};
      for (const [name, schema] of entries) {
        const field = schema.read(reader);
        if (field !== undefined) value[name] = field;
      }
      return value as Struct<F>;
    },
  };
}

/** One fixed integer, for versions and protocol marks. */
export function literal<const N extends number>(expected: N): Schema<N> {
  return {
    write(writer, value) {
      assert(value === expected, "literal is as expected");
      writer.head(UINT, expected);
    },
    read: (reader) => (reader.head(UINT) === expected ? expected : malformed("codec/version")),
  };
}

/** One of a closed set of names, as its number on the wire. Numbers are never reused. */
export function choice<const C extends Readonly<Record<string, number>>>(choices: C): Schema<keyof C & string> {
  const names = new Map(Object.entries(choices).map(([name, number]) => [number, name]));
  return {
    write(writer, value) {
      const number = choices[value];
      assert(number !== undefined, "known choice");
      writer.head(UINT, number);
    },
    read: (reader) => names.get(reader.head(UINT)) ?? malformed("codec/choice"),
  };
}

type Variants = Readonly<Record<string, readonly [tag: number, schema: Schema<any>]>>;
export type Variant<V extends Variants> = {
  [K in keyof V & string]: { readonly type: K } & Infer<V[K][1]>;
}[keyof V & string];

/** A tagged union: [tag, body]. In memory the name is `type` and the body's fields stand beside it. */
export function union<const V extends Variants>(variants: V): Schema<Variant<V>> {
  const byTag = new Map(Object.entries(variants).map(([type, [tag, schema]]) => [tag, { type, schema }]));
  return {
    write(writer, value) {
      const variant = variants[value.type];
      assert(variant !== undefined, "known variant");
      writer.head(ARRAY, 2);
      writer.head(UINT, variant[0]);
      variant[1].write(writer, value);
    },
    read(reader) {
      if (reader.head(ARRAY) !== 2) malformed("codec/fields");
      const found = byTag.get(reader.head(UINT)) ?? malformed("codec/variant");
      return { type: found.type, ...(found.schema.read(reader) as object) } as Variant<V>;
    },
  };
}

/** Wraps `schema` with a check whose failure is a reject with `code`. */
export function refine<T>(schema: Schema<T>, code: string, valid: (value: T) => boolean): Schema<T> {
  return {
    write(writer, value) {
      assert(valid(value), code);
      schema.write(writer, value);
    },
    read(reader) {
      const value = schema.read(reader);
      return valid(value) ? value : malformed(code);
    },
  };
}

/** A schema that refers to itself or to one defined later. Each use is one level of MAX_DEPTH. */
export function lazy<T>(schema: () => Schema<T>): Schema<T> {
  return {
    write: (writer, value) => writer.nested(() => schema().write(writer, value)),
    read: (reader) => reader.nested(() => schema().read(reader)),
  };
}
