/**
 * What the world did: disk full, no route, a locked store. One class, told apart by its code; `retryable` says whether the
 * same call may work later without anybody changing anything. Messages are for people and carry no key, id or content.
 */
export class Failure extends Error {
  readonly code: string;
  readonly retryable: boolean;

  constructor(code: string, message: string, options: { readonly retryable?: boolean; readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "Failure";
    this.code = code;
    this.retryable = options.retryable ?? false;
  }
}
