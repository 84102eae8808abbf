/** What the writer that gets killed and the test that looks at its remains have in common. */
import { bytes, struct, uint } from "#protocols/base/codec.ts";
import type { Driver } from "#src/runtime/driver.ts";
import { log, table } from "#src/runtime/records.ts";

export const KILLED_UNLOCK = { platformKey: new Uint8Array(32).fill(3) };

export const counter = table({
  name: "counter",
  number: 1,
  version: 1,
  cached: true,
  schema: uint(),
  lock: () => "all",
});
export const journal = log({ name: "journal", number: 2, version: 1, schema: uint(), lock: () => "all" });
export const payloads = table({
  name: "payload",
  number: 3,
  version: 1,
  schema: struct({ step: uint(), body: bytes({ max: 2_000 }) }),
});

/** Three records a step: all of them or none. */
export function writeStep(driver: Driver, step: number): Promise<void> {
  return driver.run(["all"], async (tx) => {
    tx.put(counter, "steps", ((await tx.get(counter, "steps")) ?? 0) + 1);
    await tx.append(journal, "steps", step);
    tx.put(payloads, `${step}`, { step, body: new Uint8Array(500 + (step % 1_500)).fill(step & 0xff) });
  });
}
