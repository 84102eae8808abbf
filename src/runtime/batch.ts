import { Overlay } from "./overlay.ts";
import type { Random, StoreOperation } from "./ports.ts";

export type FinishedStep = {
  readonly effects: readonly (() => void)[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
};

/** Steps that go to the disk in one commit. */
export class Batch {
  readonly overlay = new Overlay();
  readonly steps: FinishedStep[] = [];
  /** Records that are not the tables': the vault's header, the probe for room. */
  readonly raw: StoreOperation[] = [];
  probesRoom = false;
}

const PROBE_KEY = Uint8Array.of(0xf0);
/** More than the slack of a block, so that it needs room. */
const PROBE_BYTES = 8_192;

/** Written to find out whether a full disk has room again. */
export function roomProbe(random: Random): StoreOperation {
  return { type: "put", key: PROBE_KEY, value: random(PROBE_BYTES) };
}
