import type { Clock, Random } from "./ports.ts";

/** Clock and randomness of this machine, in Node and in browsers alike. */

/** `setTimeout` fires at once when asked for more (a signed 32-bit number of milliseconds, 24.8 days). */
const LONGEST_TIMEOUT_MS = 2 ** 31 - 1;
/** `getRandomValues` refuses more at once. */
const RANDOM_CHUNK_BYTES = 65_536;

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after(delayMs, wake) {
    let timer: ReturnType<typeof setTimeout>;
    const due = performance.now() + delayMs;
    // Node counts from the time its loop last looked at the clock, so a timer may fire a millisecond or two early.
    const arm = (): void => {
      const left = Math.ceil(due - performance.now());
      timer = setTimeout(
        () => (performance.now() < due ? arm() : wake()),
        Math.max(0, Math.min(left, LONGEST_TIMEOUT_MS)),
      );
    };
    arm();
    return () => clearTimeout(timer);
  },
};

export const systemRandom: Random = (length) => {
  const bytes = new Uint8Array(length);
  for (let offset = 0; offset < length; offset += RANDOM_CHUNK_BYTES) {
    globalThis.crypto.getRandomValues(bytes.subarray(offset, offset + RANDOM_CHUNK_BYTES));
  }
  return bytes;
};
