/**
 * Prekeys: rotated weekly, published at our relays so that others can start a session while we are away, and fetched from
 * theirs when a device of a contact has neither a session with us nor a bundle we know.
 */
import { fromHex, toHex } from "#protocols/base/bytes.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import type { Direct } from "#protocols/conversation/direct.ts";
import {
  decodeRecord,
  encodeRecord,
  makeRecord,
  openRecord,
  type RecordKind,
  slotOf,
  verifyRecord,
} from "#protocols/directory/directory.ts";
import { decodeBundle, encodeBundle, makeBundle, rotate, rotationDue } from "#protocols/handshake/handshake.ts";
import { liveDevices } from "#protocols/identity/identity.ts";
import type { MailboxClient } from "#src/mailbox/client.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Directs } from "./directs.ts";
import { LOCKS, prekeysTable, SELF } from "./tables.ts";
import { stepEnv, type World } from "./world.ts";

/** One-time bundles kept at each of our relays. New sessions are rare, invites bring keys of their own. */
const STOCK = 20;
const REFILL_BELOW = 10;

/** Nobody needs them in the first seconds of a start, and making them takes some. */
const PUBLISH_DELAY_MS = 3_000;

/** The same contact's prekeys are not asked for again within this time. */
const FETCH_QUIET_MS = 60_000;

export class Prekeys {
  readonly #world: World;
  readonly #directs: Directs;
  readonly #fetchedAt = new Map<string, number>();
  readonly #cancels = new Map<MailboxClient, () => void>();
  #stopped = false;

  constructor(world: World, directs: Directs) {
    this.#world = world;
    this.#directs = directs;
  }

  stop(): void {
    this.#stopped = true;
    for (const cancel of this.#cancels.values()) cancel();
  }

  /** Rotates when a week has passed. @returns Whether it did: then the mailboxes need the new ones. */
  async upkeep(): Promise<boolean> {
    return this.#world.driver.run([LOCKS.prekeys], async (tx) => {
      const store = await tx.get(prekeysTable, SELF);
      assert(store !== undefined, "an identity has prekeys");
      const env = stepEnv(this.#world);
      const due = rotationDue(store, env.now);
      if (due) tx.put(prekeysTable, SELF, await rotate(store, env));
      return due;
    });
  }

  /** Sees that the mailbox has prekeys to hand out, a little later. */
  publish(client: MailboxClient): void {
    this.#cancels.get(client)?.();
    const cancel = this.#world.clock.after(PUBLISH_DELAY_MS, () => {
      this.#cancels.delete(client);
      this.#refill(client).catch((error: unknown) => {
        // Without stock a contact finds the last-resort bundle it was given; the next connection tries again.
        if (!(error instanceof Failure)) throw error;
      });
    });
    this.#cancels.set(client, cancel);
  }

  async #refill(client: MailboxClient): Promise<void> {
    const { crypto, identity } = this.#world;
    const { directory, device } = identity;
    const slot = slotOf(crypto, directory, device);
    const counted = await client.directoryCount(fromHex(directory.id)!);
    if (isReject(counted) || this.#stopped) return;
    const stock = counted.slots.find((entry) => toHex(entry.slot) === toHex(slot));
    const missing = stock && stock.oneTime >= REFILL_BELOW ? 0 : STOCK - (stock?.oneTime ?? 0);
    // The last resort always: which generation the one there belongs to cannot be seen.
    const records: Uint8Array[] = [await this.#record("last-resort", slot)];
    for (let i = 0; i < missing && !this.#stopped; i++) records.push(await this.#record("one-time", slot));
    if (!this.#stopped) await client.directoryPut(records);
  }

  async #record(kind: RecordKind, slot: Uint8Array): Promise<Uint8Array> {
    const { driver, identity } = this.#world;
    const env = stepEnv(this.#world);
    const bundle = await driver.run([LOCKS.prekeys], async (tx) => {
      const store = await tx.get(prekeysTable, SELF);
      assert(store !== undefined, "an identity has prekeys");
      const made = await makeBundle(store, { purpose: "directory", oneTime: kind === "one-time" }, env);
      if (isReject(made)) throw new Failure(made.code, "No more one-time prekeys this week.");
      tx.put(prekeysTable, SELF, made.store);
      return made.bundle;
    });
    const expiresAt = Math.min(bundle.signedPrekey.expiresAt, bundle.kemPrekey.expiresAt);
    const keys = identity.directory;
    return encodeRecord(await makeRecord({ keys, slot, kind, expiresAt, plaintext: encodeBundle(bundle) }, env));
  }

  /** Asks the open mailboxes for prekeys of the contact's devices. @returns Whether any came. */
  async fetch(direct: Direct, clients: readonly MailboxClient[]): Promise<boolean> {
    const access = direct.directory;
    const now = this.#world.clock.monotonic();
    if (
      access === undefined ||
      now < (this.#fetchedAt.get(direct.contact) ?? Number.NEGATIVE_INFINITY) + FETCH_QUIET_MS
    ) {
      return false;
    }
    this.#fetchedAt.set(direct.contact, now);
    const { crypto } = this.#world;
    const devices = new Map(
      liveDevices(direct.devices).map(({ device }) => [toHex(slotOf(crypto, access, device)), device]),
    );
    let found = false;
    for (const client of clients) {
      const taken = await client.directoryTake(fromHex(access.id)!);
      if (isReject(taken) || this.#stopped) continue;
      for (const wire of taken.records) {
        const record = decodeRecord(wire);
        if (isReject(record) || isReject(await verifyRecord(crypto, record, { now: this.#world.now() }))) continue;
        const device = devices.get(toHex(record.slot));
        const plaintext = await openRecord(crypto, access, record);
        if (device === undefined || isReject(plaintext)) continue;
        const bundle = decodeBundle(plaintext);
        if (isReject(bundle) || bundle.certificate.device !== device) continue;
        await this.#directs.keepBundle(direct.contact, device, plaintext);
        found = true;
      }
    }
    return found;
  }
}
