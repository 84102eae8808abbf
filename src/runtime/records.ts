import type { Schema } from "#protocols/base/codec.ts";
import { assert } from "#protocols/base/reject.ts";

/**
 * What is stored, by name: a *table* holds one value a text key, a *log* ordered rows under a text parent. Declared once as a
 * constant; the number is what stands in the store and is never reused or changed.
 *
 * Store keys say nothing: table = number (1) | HMAC(key) (16), log row = number (1) | HMAC(parent) (8) | counter (6).
 * Values are read-only from the moment they are put: they are handed to later steps before they are encoded.
 */
export type Table<V> = {
  readonly kind: "table";
  readonly name: string;
  readonly number: number;
  readonly schema: Schema<V>;
  /** Of the schema, 1-255. It is authenticated with each value; a change of the schema is a new version. */
  readonly version: number;
  /** How values written by earlier versions become ones of this version. */
  readonly older: readonly Older<V>[];
  /** Decoded values stay in memory, within the driver's limit: for records that nearly every step reads. */
  readonly cached: boolean;
  /** The lock that whoever writes this key must hold. */
  readonly lock: ((key: string) => string) | undefined;
};

export type Log<V> = Omit<Table<V>, "kind" | "cached"> & { readonly kind: "log" };

export type Older<V> = {
  readonly version: number;
  readonly schema: Schema<unknown>;
  /** A method, so that it may name the type its schema has. */
  upgrade(value: unknown): V;
};

export type Row<V> = { readonly n: number; readonly value: V };

type Declaration<V> = {
  readonly name: string;
  readonly number: number;
  readonly schema: Schema<V>;
  readonly version: number;
  readonly older?: readonly Older<V>[];
  readonly lock?: (key: string) => string;
};

/** 0 is the vault's header, 240-255 are the driver's own. */
const MAX_TABLE_NUMBER = 239;
const MAX_VERSION = 255;

export const POINT_KEY_BYTES = 17;
export const ROW_PREFIX_BYTES = 9;
export const ROW_KEY_BYTES = 15;
/** Rows are numbered 0..2^48-2; the last position under a parent holds the log's high-water mark. */
export const MARK_POSITION = 2 ** 48 - 1;

export function table<V>(declaration: Declaration<V> & { readonly cached?: boolean }): Table<V> {
  return { kind: "table", ...checked(declaration), cached: declaration.cached ?? false };
}

export function log<V>(declaration: Declaration<V>): Log<V> {
  return { kind: "log", ...checked(declaration) };
}

function checked<V>(declaration: Declaration<V>): Omit<Log<V>, "kind"> {
  const { name, number, schema, version, older = [], lock } = declaration;
  assert(Number.isInteger(number) && number >= 1 && number <= MAX_TABLE_NUMBER, "table number in range");
  assert(Number.isInteger(version) && version >= 1 && version <= MAX_VERSION, "schema version in range");
  assert(
    older.every((entry) => entry.version < version),
    "older versions are older",
  );
  return { name, number, schema, version, older, lock };
}

/** @param prefix number | HMAC(parent), 9 bytes. */
export function rowKey(prefix: Uint8Array, n: number): Uint8Array {
  const key = new Uint8Array(ROW_KEY_BYTES);
  key.set(prefix);
  let rest = n;
  for (let i = ROW_KEY_BYTES - 1; i >= ROW_PREFIX_BYTES; i--) {
    key[i] = rest % 256;
    rest = Math.floor(rest / 256);
  }
  return key;
}

export function rowPosition(key: Uint8Array): number {
  let n = 0;
  for (let i = ROW_PREFIX_BYTES; i < ROW_KEY_BYTES; i++) n = n * 256 + key[i]!;
  return n;
}
