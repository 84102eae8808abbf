import { Failure } from "./failure.ts";

/** The failures a driver makes itself; the store's own are listed in ports.ts. */

export function asFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  return new Failure("store/failed", "the store failed in a way it does not name", { retryable: true, cause: error });
}

/** A step that is not on the disk, or not known to be: it may be run again. */
export function discardedBy(failure: Failure): Failure {
  const retryable = failure.retryable || failure.code === "store/unknown-outcome" || failure.code === "store/failed";
  return new Failure(failure.code, `step discarded: ${failure.message}`, { retryable, cause: failure });
}

export function closedFailure(): Failure {
  return new Failure("store/closed", "the store is closed");
}

export function fencedFailure(): Failure {
  return new Failure("store/fenced", "another live copy has taken over this store");
}
