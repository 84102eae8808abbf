/**
 * Hybrid logical clocks: an order of events that all members compute alike and that keeps cause before effect among honest
 * clocks. Arrival never counts. Spec: ./SPEC.md CO20-CO26.
 */
import { compareText } from "#protocols/base/bytes.ts";
import { type Infer, struct, uint } from "#protocols/base/codec.ts";
import type { EventId } from "#protocols/base/ids.ts";

const HOUR_MS = 3_600_000;

/** How far an event's time may lie after the hour its envelope was signed for, and our own clock after network time. */
export const MAX_AHEAD_MS = 24 * HOUR_MS;

/** Events of one millisecond before the clock steps to the next by itself. */
export const MAX_COUNTER = 0xffff;

const MAX_WALL_MS = 2 ** 48;

export const hlcSchema = struct({
  /** Milliseconds since 1970. */
  wall: uint(MAX_WALL_MS),
  counter: uint(MAX_COUNTER),
});
export type Hlc = Infer<typeof hlcSchema>;

export function compareHlc(a: Hlc, b: Hlc): number {
  return a.wall - b.wall || a.counter - b.counter;
}

/** The time of a new event of our own: after `local`, the last one known, and not before `now` (CO21). */
export function tick(local: Hlc, now: number): Hlc {
  if (now > local.wall) return { wall: now, counter: 0 };
  if (local.counter < MAX_COUNTER) return { wall: local.wall, counter: local.counter + 1 };
  return { wall: local.wall + 1, counter: 0 };
}

/**
 * Takes note of a remote event, so that what we write next comes after it. A remote time further ahead than MAX_AHEAD_MS
 * moves nothing: nobody can push our clock out of the window in which our own events are believed (CO22).
 * @param now - Network time.
 */
export function receive(local: Hlc, remote: Hlc, now: number): Hlc {
  if (remote.wall > now + MAX_AHEAD_MS) return local;
  return compareHlc(local, remote) < 0 ? remote : local;
}

/**
 * Where an event belongs, from its own time and the hour its envelope was signed for (hours since 1970): never later than a
 * day after that hour's end (CO23). There is no bound below: an event that waited offline is sealed anew in a later
 * envelope, and a lower bound would put it at different places for those who got the first and the second (CO24).
 */
export function clampTime(time: Hlc, hour: number): Hlc {
  const latest = (hour + 1) * HOUR_MS + MAX_AHEAD_MS;
  return time.wall > latest ? { wall: latest, counter: MAX_COUNTER } : time;
}

/** The total order of a conversation: time, counter, id (CO25). */
export function compareEvents(
  a: { readonly time: Hlc; readonly id: EventId },
  b: { readonly time: Hlc; readonly id: EventId },
): number {
  return compareHlc(a.time, b.time) || compareText(a.id, b.id);
}
