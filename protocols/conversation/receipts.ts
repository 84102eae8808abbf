/** What has arrived: at the other devices, as their receipts tell, and here. Spec: ./SPEC.md CV4-CV7, CV33-CV39. */
import type { DeviceId } from "#protocols/base/ids.ts";
import type { Env } from "#protocols/base/suite.ts";
import {
  type BodyOf,
  clipReceipt,
  covers,
  hasRead,
  mergeReceipts,
  type Receipts,
  trimReceipt,
} from "#protocols/content/content.ts";
import type { Opened } from "./message.ts";
import { activateRoots } from "./roots.ts";
import { type Direct, type DirectState, isTheirs, MAX_RECEIPT_SENDERS, type Step } from "./state.ts";

/** Ranges kept per author device: eight windows of a sender (512) in which every other event was lost (CV37). */
export const MAX_KEPT_RANGES = 4_096;

/** Of a message of ours, what receipts prove: the furthest that any device of the contact has come. */
export function deliveryOf(
  direct: Direct,
  event: { readonly device: DeviceId; readonly index: number },
): "none" | "delivered" | "read" {
  const theirs = new Set(direct.devices.certificates.map(({ device }) => device));
  let best: "none" | "delivered" = "none";
  for (const { from, devices } of direct.receipts) {
    if (!theirs.has(from)) continue;
    if (hasRead(devices, event.device, event.index)) return "read";
    if (covers(devices, event.device, event.index)) best = "delivered";
  }
  return best;
}

/** Devices that still owe a receipt for an event of this device. */
export function missingReceipts(
  direct: Direct,
  self: DeviceId,
  index: number,
  devices: readonly DeviceId[],
): readonly DeviceId[] {
  return devices.filter((device) => {
    const known = direct.receipts.find(({ from }) => from === device);
    return known === undefined || !covers(known.devices, self, index);
  });
}

/** The last event of this device that anybody has receipted, 0 for none. */
export function highestReceipted(direct: Direct, self: DeviceId): number {
  let highest = 0;
  for (const { devices } of direct.receipts) {
    const entry = devices.find(({ device }) => device === self);
    if (entry) highest = Math.max(highest, entry.delivered, entry.ranges.at(-1)?.to ?? 0);
  }
  return highest;
}

/** Of this device's events, the last one that a device of the contact has read; 0 for none. */
export function highestRead(direct: Direct, self: DeviceId): number {
  let highest = 0;
  for (const { from, devices } of direct.receipts) {
    const entry = isTheirs(direct, from) ? devices.find(({ device }) => device === self) : undefined;
    highest = Math.max(highest, entry?.read ?? 0);
  }
  return highest;
}

/** Nobody there has answered anything yet, so what we write goes to the inbox too (CV52). */
export function unanswered(direct: Direct): boolean {
  return direct.redemption !== undefined && direct.receipts.every(({ from }) => !isTheirs(direct, from));
}

/** CV33: of those that can still be told. There are at most 15, so one receipt names them all. */
export function receiptToSend(received: Receipts, live: ReadonlySet<DeviceId>): Receipts {
  return received.filter(({ device }) => live.has(device)).map((entry) => trimReceipt(entry));
}

/** Marks everything received of `device` up to `index` as read. */
export function markRead(direct: Direct, device: DeviceId, index: number): Direct {
  const received = mergeReceipts(direct.received, [{ device, delivered: 0, ranges: [], read: index }]);
  return { ...direct, received };
}

export function takeReceipt(state: DirectState, opened: Opened, body: BodyOf<"receipt">, env: Env): Step {
  const direct = state.direct!;
  const self = state.self.keys.certificate.device;
  // What they say of our own events ends at what we have written; of our other devices' we cannot know (CO34). Devices that
  // nobody has are nobody's.
  const listed = new Set(
    [...state.self.list.certificates, ...direct.devices.certificates].map((entry) => entry.device),
  );
  const said = body.devices
    .filter((entry) => listed.has(entry.device))
    .map((entry) => (entry.device === self ? clipReceipt(entry, direct.lastIndex) : entry));
  const { device } = opened.event;
  const known = direct.receipts.find(({ from }) => from === device)?.devices ?? [];
  const others = direct.receipts.filter(({ from }) => from !== device);
  const devices = mergeReceipts(known, said).map((entry) => ({
    ...entry,
    ranges: entry.ranges.slice(0, MAX_KEPT_RANGES),
  }));
  const receipts = [{ from: device, devices }, ...others].slice(0, MAX_RECEIPT_SENDERS);
  const receipted = (by: DeviceId, index: number): boolean => covers(devices, by, index);
  const roots = isTheirs(direct, device) ? activateRoots(direct.roots, receipted, env.now) : direct.roots;
  return { state: { ...state, direct: { ...direct, receipts, roots } }, effects: [{ type: "receipted" }] };
}
