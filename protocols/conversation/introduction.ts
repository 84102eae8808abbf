/**
 * How a device learns of a conversation that another device of its account began. It cannot hear the conversation's topics yet,
 * so the news goes to the account's own inbox, sealed like any payload to the own devices alone. It says who the contact is and
 * where the conversation is heard; everything else comes as events, offered until receipted. Spec: ./SPEC.md CV50-CV57.
 */
import { bytes, encode, id, type Infer, list, literal, struct } from "#protocols/base/codec.ts";
import type { AccountId, DeviceId } from "#protocols/base/ids.ts";
import { MAX_BUNDLE_BYTES, MAX_EVENT_BYTES, nameSchema } from "#protocols/content/content.ts";
import { type DeviceList, deviceListSchema, liveDevices, MAX_LIVE_DEVICES } from "#protocols/identity/identity.ts";
import type { DevicePair } from "./pair.ts";
import { type Roots, rootsSchema } from "./roots.ts";

/** An own device that has not answered is introduced again with the first thing said after this long (CV57). */
export const INTRODUCE_REPEAT_MS = 60_000;

/** Fields and heads of an event or introduction beside its device list and bundles; roots are below 2 KB. */
const OTHER_BYTES = 4_096;

export const introductionSchema = struct({
  version: literal(1),
  contact: id<AccountId>(),
  name: nameSchema,
  devices: deviceListSchema,
  /** Prekeys of the contact's devices, as far as we know them. */
  bundles: list(bytes({ max: MAX_BUNDLE_BYTES }), MAX_LIVE_DEVICES),
  roots: rootsSchema,
});
export type Introduction = Infer<typeof introductionSchema>;

/** CV25: as many bundles as fit an event beside their list: an account near 100 listed devices has no room for eight. */
export function fittingBundles(devices: DeviceList, bundles: readonly Uint8Array[]): readonly Uint8Array[] {
  let room = MAX_EVENT_BYTES - OTHER_BYTES - encode(deviceListSchema, devices).length;
  return bundles.filter((bundle) => (room -= bundle.length + 3) >= 0).slice(0, MAX_LIVE_DEVICES);
}

export function introductionOf(
  direct: { readonly contact: AccountId; readonly name: string; readonly devices: DeviceList; readonly roots: Roots },
  pairs: ReadonlyMap<DeviceId, DevicePair>,
): Introduction {
  const { contact, name, devices } = direct;
  const known = liveDevices(devices).map(({ device }) => pairs.get(device));
  const bundles = known.map((pair) => (pair?.account === contact ? pair.bundle : undefined));
  return {
    version: 1,
    contact,
    name,
    devices,
    bundles: fittingBundles(
      devices,
      bundles.filter((bundle) => bundle !== undefined),
    ),
    roots: direct.roots,
  };
}
