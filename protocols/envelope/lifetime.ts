/** How long a mailbox is asked to hold something. A class, not a time: an exact expiry would tell envelopes apart (EN7). */
export type Lifetime = "day" | "week" | "month";

export const LIFETIMES = { day: 1, week: 2, month: 3 } as const satisfies Readonly<Record<Lifetime, number>>;

export const HOUR_MS = 3_600_000;
export const DAY_MS = 24 * HOUR_MS;

export const LIFETIME_MS: Readonly<Record<Lifetime, number>> = { day: DAY_MS, week: 7 * DAY_MS, month: 30 * DAY_MS };

/** The longest lifetime: prekeys, resend memories and mailboxes measure their own limits by it. */
export const MAX_LIFETIME_MS = LIFETIME_MS.month;

/** How far ahead of network time an hour may lie: covers a sender whose clock nobody has corrected yet (EN8). */
export const MAX_AHEAD_MS = 24 * HOUR_MS;

/** Hours fit in 32 bits: the year 491,000. */
export const MAX_HOUR = 0xffff_ffff;

export function hourOf(now: number): number {
  return Math.floor(now / HOUR_MS);
}

/** The lifetime counts from the end of the hour, so that nothing lives shorter than its class says. */
export function expiryOf(hour: number, lifetime: Lifetime): number {
  return (hour + 1) * HOUR_MS + LIFETIME_MS[lifetime];
}

/** @returns Why `hour` and `lifetime` are not acceptable at `now`, or undefined. */
export function timeFault(hour: number, lifetime: Lifetime, now: number): "from-the-future" | "expired" | undefined {
  if (hour * HOUR_MS > now + MAX_AHEAD_MS) return "from-the-future";
  return expiryOf(hour, lifetime) <= now ? "expired" : undefined;
}
