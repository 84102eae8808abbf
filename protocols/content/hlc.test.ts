import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { EventId } from "#protocols/base/ids.ts";
import { clampTime, compareEvents, compareHlc, type Hlc, MAX_AHEAD_MS, MAX_COUNTER, receive, tick } from "./hlc.ts";

const NOW = 1_800_000_000_000;
const HOUR_MS = 3_600_000;

const walls = fc.integer({ min: NOW - 3 * MAX_AHEAD_MS, max: NOW + 3 * MAX_AHEAD_MS });
const times: fc.Arbitrary<Hlc> = fc.record({
  wall: walls,
  counter: fc.oneof(fc.integer({ min: 0, max: 3 }), fc.constant(MAX_COUNTER)),
});
const events = fc.record({
  time: fc.record({ wall: fc.integer({ min: NOW, max: NOW + 2 }), counter: fc.integer({ min: 0, max: 2 }) }),
  id: fc.constantFrom("aa", "ab", "b0").map((text) => text as EventId),
});

describe("hybrid logical clock", () => {
  test("[CO21] a new event comes after all before it and not before now", () => {
    fc.assert(
      fc.property(times, walls, (local, now) => {
        const next = tick(local, now);
        expect(compareHlc(local, next)).toBeLessThan(0);
        expect(next.wall).toBeGreaterThanOrEqual(now);
        expect(next.counter).toBeLessThanOrEqual(MAX_COUNTER);
      }),
    );
  });

  test("[CO21] two events of one millisecond count", () => {
    expect(tick({ wall: NOW, counter: 0 }, NOW)).toEqual({ wall: NOW, counter: 1 });
    expect(tick({ wall: NOW, counter: 9 }, NOW + 1)).toEqual({ wall: NOW + 1, counter: 0 });
  });

  test("[CO21] a clock set back keeps the order by counting", () => {
    let clock: Hlc = { wall: NOW, counter: MAX_COUNTER - 1 };
    clock = tick(clock, NOW - HOUR_MS);
    expect(clock).toEqual({ wall: NOW, counter: MAX_COUNTER });
    expect(tick(clock, NOW - HOUR_MS)).toEqual({ wall: NOW + 1, counter: 0 });
  });

  test("[CO22] an answer comes after what it answers", () => {
    fc.assert(
      fc.property(times, times, walls, (local, remote, now) => {
        fc.pre(remote.wall <= now + MAX_AHEAD_MS);
        const answer = tick(receive(local, remote, now), now);
        expect(compareHlc(remote, answer)).toBeLessThan(0);
      }),
    );
  });

  test("[CO22] nobody pushes our clock out of the window in which our events are believed", () => {
    fc.assert(
      fc.property(fc.array(times, { maxLength: 20 }), (remotes) => {
        let clock: Hlc = { wall: NOW, counter: 0 };
        for (const remote of remotes) clock = tick(receive(clock, remote, NOW), NOW);
        expect(clampTime(clock, Math.floor(NOW / HOUR_MS))).toEqual(clock);
      }),
    );
  });

  test("[CO22] receiving is a maximum: any order gives the same clock", () => {
    fc.assert(
      fc.property(fc.array(times, { maxLength: 8 }), (remotes) => {
        const take = (list: readonly Hlc[]) =>
          list.reduce((clock, remote) => receive(clock, remote, NOW), { wall: NOW, counter: 0 });
        expect(take(remotes)).toEqual(take(remotes.toReversed()));
      }),
    );
  });

  test("[CO23] no event stands later than a day after its envelope's hour", () => {
    fc.assert(
      fc.property(times, walls, (time, sealed) => {
        const hour = Math.floor(sealed / HOUR_MS);
        const clamped = clampTime(time, hour);
        expect(clamped.wall).toBeLessThanOrEqual((hour + 1) * HOUR_MS + MAX_AHEAD_MS);
        expect(compareHlc(clamped, time)).toBeLessThanOrEqual(0);
        expect(clampTime(clamped, hour)).toEqual(clamped);
      }),
    );
  });

  test("[CO24] an honest event keeps its place, however late its envelope was sealed anew", () => {
    fc.assert(
      fc.property(walls, fc.integer({ min: 0, max: 60 * 24 }), (written, hoursLater) => {
        const time = tick({ wall: 0, counter: 0 }, written);
        expect(clampTime(time, Math.floor(written / HOUR_MS) + hoursLater)).toEqual(time);
      }),
    );
  });

  test("[CO25] the order of events is total and the same from every order of arrival", () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(events, { selector: ({ time, id }) => `${time.wall} ${time.counter} ${id}` }),
        (list) => {
          expect(list.toSorted(compareEvents)).toEqual(list.toReversed().toSorted(compareEvents));
          for (const event of list) expect(compareEvents(event, { ...event })).toBe(0);
        },
      ),
    );
  });
});
