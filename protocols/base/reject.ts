/**
 * What a remote did wrong is a value, not an exception: it is normal. Codes are `<protocol>/<what>`, listed in each
 * protocol's SPEC.md; they carry no keys, ids or content, so they may be logged and counted.
 */
export type Reject = { readonly type: "reject"; readonly code: string };

export type OrReject<T> = T | Reject;

export function reject(code: string): Reject {
  return { type: "reject", code };
}

export function isReject(value: unknown): value is Reject {
  return typeof value === "object" && value !== null && (value as { type?: unknown }).type === "reject";
}

/** A programmer's mistake: thrown, never caught. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${message}`);
}
