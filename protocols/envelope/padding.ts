import { type OrReject, reject } from "#protocols/base/reject.ts";

/**
 * Sizes are buckets: 256 bytes, doubling to 64 KiB (EN10). A size tells a relay one of nine things, and no text is long
 * enough to be told by its length alone.
 */
export const MIN_PADDED_BYTES = 256;
export const MAX_PADDED_BYTES = 65_536;

/** One byte of every bucket is the mark that ends the payload. */
export const MAX_PAYLOAD_BYTES = MAX_PADDED_BYTES - 1;

const MARK = 0x80;

/** @returns The bucket a payload of `length` bytes goes into. `length` at most MAX_PAYLOAD_BYTES. */
export function paddedLength(length: number): number {
  let bucket = MIN_PADDED_BYTES;
  while (bucket < length + 1) bucket *= 2;
  return bucket;
}

export function isBucket(length: number): boolean {
  return length >= MIN_PADDED_BYTES && length <= MAX_PADDED_BYTES && Number.isInteger(Math.log2(length));
}

/** payload | 0x80 | zeros. */
export function pad(payload: Uint8Array): Uint8Array {
  const padded = new Uint8Array(paddedLength(payload.length));
  padded.set(payload);
  padded[payload.length] = MARK;
  return padded;
}

/** @returns The payload, or `code` when the padding is not the one `pad` makes: the smallest bucket, a mark, zeros. */
export function unpad(padded: Uint8Array, code: string): OrReject<Uint8Array> {
  let end = padded.length - 1;
  while (end >= 0 && padded[end] === 0) end--;
  if (end < 0 || padded[end] !== MARK || paddedLength(end) !== padded.length) return reject(code);
  return padded.slice(0, end);
}
