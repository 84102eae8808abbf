/**
 * First contact at a mailbox: which capabilities an inbox's owner granted, who redeemed them, and the deposits that wait for
 * the owner's devices. Deposits stay until they expire or the owner removes them, because every device of the owner reads
 * them (SY31). A redeemer counts once, however often it repeats itself (SY30).
 */
import { fromHex } from "#protocols/base/bytes.ts";
import { decode } from "#protocols/base/codec.ts";
import type { InboxId } from "#protocols/base/ids.ts";
import { isReject, type OrReject, reject } from "#protocols/base/reject.ts";
import {
  capabilityGrantSchema,
  capabilityRevocationSchema,
  MAX_GRANT_MS,
  verifyDeposit,
  verifyGrant,
  verifyGrantRevocation,
} from "#protocols/envelope/envelope.ts";
import type { Answer, Item } from "#protocols/sync/frames.ts";
import { MAX_ITEMS } from "#protocols/sync/limits.ts";
import type { StoreOperation } from "#src/runtime/ports.ts";
import { MAX_DEPOSITS_PER_REDEEMER } from "./limits.ts";
import type { Batch } from "./log.ts";
import {
  type Expiry,
  expirySchema,
  type Grant,
  grantSchema,
  type InboxCounts,
  inboxSchema,
  keys,
  readPosition,
  redeemerSchema,
} from "./rows.ts";
import { HOUR_MS, type Shelves } from "./shelves.ts";
import { Turns } from "./turns.ts";

const NO_COUNTS: InboxCounts = { grants: 0, deposits: 0, bytes: 0 };

export class Inboxes {
  readonly #shelves: Shelves;
  readonly #onDeposit: (inbox: InboxId, n: number) => void;
  readonly #turns = new Turns();
  /** The last position of a deposit that is on the disk; one that was only taken must not be passed by a reader. */
  #committed: number;

  /** @param onDeposit - Called after a deposit is on the disk. */
  constructor(shelves: Shelves, onDeposit: (inbox: InboxId, n: number) => void) {
    this.#shelves = shelves;
    this.#onDeposit = onDeposit;
    this.#committed = shelves.next - 1;
  }

  /** @returns Rejects of `verifyGrant`, `codec/…`, `inbox/revoked`, `inbox/too-many-grants`, `sync/mailbox-full`. */
  async grant(wire: Uint8Array, now: number): Promise<OrReject<Answer>> {
    const parsed = decode(capabilityGrantSchema, wire);
    if (isReject(parsed)) return parsed;
    const grant = await verifyGrant(this.#shelves.crypto, parsed, { now });
    if (isReject(grant)) return grant;
    const { inbox, capability, uses, expiresAt } = grant;
    return this.#turns.run(inbox, async () => {
      const stored = await this.#shelves.get(grantSchema, keys.grant(inbox, capability));
      if (stored?.revoked) return reject("inbox/revoked");
      if (stored && stored.uses === uses && stored.expiresAt === expiresAt) return { type: "granted" };
      // The owner may widen or narrow it; what was used stays used.
      const row: Grant = { uses, used: stored?.used ?? 0, expiresAt, keepUntil: expiresAt, revoked: false };
      return (await this.#writeGrant(inbox, capability, row, stored)) ?? { type: "granted" };
    });
  }

  /** A revocation may come before its grant, from another device of the owner. */
  async revoke(wire: Uint8Array, now: number): Promise<OrReject<Answer>> {
    const parsed = decode(capabilityRevocationSchema, wire);
    if (isReject(parsed)) return parsed;
    const revocation = await verifyGrantRevocation(this.#shelves.crypto, parsed);
    if (isReject(revocation)) return revocation;
    const { inbox, capability } = revocation;
    return this.#turns.run(inbox, async () => {
      const stored = await this.#shelves.get(grantSchema, keys.grant(inbox, capability));
      if (stored?.revoked) return { type: "revoked" };
      const row: Grant = { uses: 0, used: 0, expiresAt: now, keepUntil: now + MAX_GRANT_MS, revoked: true };
      return (await this.#writeGrant(inbox, capability, row, stored)) ?? { type: "revoked" };
    });
  }

  async #writeGrant(
    inbox: InboxId,
    capability: Uint8Array,
    row: Grant,
    stored: Grant | undefined,
  ): Promise<OrReject<undefined>> {
    const shelves = this.#shelves;
    const operations = [shelves.put(grantSchema, keys.grant(inbox, capability), row)];
    if (!stored) {
      const counts = (await shelves.get(inboxSchema, keys.inbox(inbox))) ?? NO_COUNTS;
      if (counts.grants >= shelves.limits.maxGrants) return reject("inbox/too-many-grants");
      if (!shelves.reserve(0)) return reject("sync/mailbox-full");
      operations.push(shelves.put(inboxSchema, keys.inbox(inbox), { ...counts, grants: counts.grants + 1 }));
    }
    operations.push(this.#expiry({ type: "grant", inbox, capability }, row.keepUntil));
    await shelves.commits.write(operations);
    return undefined;
  }

  /**
   * @returns When it goes, or rejects of `verifyDeposit`, `inbox/unknown-capability`, `inbox/revoked`, `inbox/grant-expired`,
   * `inbox/used-up`, `inbox/full`, `sync/mailbox-full`.
   */
  async deposit(wire: Uint8Array, now: number): Promise<OrReject<Answer>> {
    const shelves = this.#shelves;
    const info = await verifyDeposit(shelves.crypto, wire, { now });
    if (isReject(info)) return info;
    const { inbox } = info;
    const capability = fromHex(info.capability)!;
    const redeemer = fromHex(info.redeemer)!;
    const deposited = { type: "deposited", until: Math.floor(info.expiresAt / HOUR_MS) } as const;
    return this.#turns.run(inbox, async () => {
      const [grant, earlier, counts = NO_COUNTS] = await Promise.all([
        shelves.get(grantSchema, keys.grant(inbox, capability)),
        shelves.get(redeemerSchema, keys.redeemer(inbox, capability, redeemer)),
        shelves.get(inboxSchema, keys.inbox(inbox)),
      ]);
      if (!grant) return reject("inbox/unknown-capability");
      if (grant.revoked) return reject("inbox/revoked");
      if (grant.expiresAt <= now) return reject("inbox/grant-expired");
      const before = earlier?.deposits ?? [];
      if (before.some((one) => one.id === info.id)) return deposited;
      if (!earlier && grant.used >= grant.uses) return reject("inbox/used-up");

      // A redeemer's oldest deposit makes room for its newest.
      const dropped = before.length >= MAX_DEPOSITS_PER_REDEEMER ? before[0] : undefined;
      const kept = dropped ? before.slice(1) : before;
      const deposits = counts.deposits + 1 - (dropped ? 1 : 0);
      const bytes = counts.bytes + wire.length - (dropped?.size ?? 0);
      if (deposits > shelves.limits.maxDeposits || bytes > shelves.limits.maxDepositBytes) return reject("inbox/full");
      if (!shelves.reserve(wire.length)) return reject("sync/mailbox-full");

      const n = shelves.take();
      const { id, size, expiresAt } = info;
      const operations: StoreOperation[] = [
        { type: "put", key: keys.deposit(inbox, n), value: wire },
        shelves.put(redeemerSchema, keys.redeemer(inbox, capability, redeemer), {
          deposits: [...kept, { id, n, size, expiresAt }],
        }),
        shelves.put(inboxSchema, keys.inbox(inbox), { ...counts, deposits, bytes }),
        shelves.put(expirySchema, keys.expiry(Math.floor(expiresAt / HOUR_MS), n), { type: "deposit", inbox, n, size }),
      ];
      if (!earlier) {
        operations.push(shelves.put(grantSchema, keys.grant(inbox, capability), { ...grant, used: grant.used + 1 }));
        // A redeemer is remembered while its capability can be used: forgetting it would give its use back.
        operations.push(this.#expiry({ type: "redeemer", inbox, capability, redeemer }, grant.expiresAt));
      }
      if (dropped) {
        operations.push(shelves.delete(keys.deposit(inbox, dropped.n)));
        shelves.free(dropped.size);
      }
      await shelves.commits.write(operations);
      this.#committed = Math.max(this.#committed, n);
      this.#onDeposit(inbox, n);
      return deposited;
    });
  }

  async read(inbox: InboxId, after: number, maxBytes: number): Promise<Batch> {
    const upTo = this.#committed;
    const items: Item[] = [];
    if (upTo <= after) return { items, upTo: after, end: true };
    let bytes = 0;
    const range = { from: keys.deposit(inbox, after + 1), to: keys.deposit(inbox, upTo + 1), limit: MAX_ITEMS + 1 };
    for await (const [key, envelope] of this.#shelves.store.entries(range)) {
      bytes += envelope.length;
      if (items.length > 0 && (bytes > maxBytes || items.length === MAX_ITEMS)) return { items, upTo, end: false };
      items.push({ n: readPosition(key), envelope });
    }
    return { items, upTo, end: true };
  }

  /** By the owner: all its devices have them. What is not there is no error. */
  async remove(inbox: InboxId, ns: readonly number[]): Promise<void> {
    await this.#turns.run(inbox, async () => {
      const operations: StoreOperation[] = [];
      let counts = (await this.#shelves.get(inboxSchema, keys.inbox(inbox))) ?? NO_COUNTS;
      for (const n of new Set(ns)) {
        const deposit = await this.#shelves.store.get(keys.deposit(inbox, n));
        if (!deposit) continue;
        counts = { ...counts, deposits: counts.deposits - 1, bytes: counts.bytes - deposit.length };
        this.#shelves.free(deposit.length);
        operations.push(this.#shelves.delete(keys.deposit(inbox, n)));
      }
      if (operations.length === 0) return;
      await this.#shelves.commits.write([...operations, this.#shelves.put(inboxSchema, keys.inbox(inbox), counts)]);
    });
  }

  /** Each kind writes for itself, in its inbox's turn, and does nothing the second time. */
  async expire(
    expiry: Extract<Expiry, { type: "deposit" | "grant" | "redeemer" }>,
    now: number,
  ): Promise<readonly StoreOperation[]> {
    if (expiry.type === "deposit") {
      await this.remove(expiry.inbox, [expiry.n]);
      return [];
    }
    const { inbox, capability } = expiry;
    const shelves = this.#shelves;
    return this.#turns.run(inbox, async () => {
      const grant = await shelves.get(grantSchema, keys.grant(inbox, capability));
      if (grant && grant.keepUntil > now) {
        // Prolonged or revoked since. A grant has an expiry row for each of its ends; a redeemer only this one.
        return expiry.type === "grant" ? [] : [this.#expiry(expiry, grant.keepUntil)];
      }
      if (expiry.type === "redeemer") return [shelves.delete(keys.redeemer(inbox, capability, expiry.redeemer))];
      if (!grant) return [];
      const counts = (await shelves.get(inboxSchema, keys.inbox(inbox))) ?? NO_COUNTS;
      shelves.free(0);
      await shelves.commits.write([
        shelves.delete(keys.grant(inbox, capability)),
        shelves.put(inboxSchema, keys.inbox(inbox), { ...counts, grants: Math.max(0, counts.grants - 1) }),
      ]);
      return [];
    });
  }

  #expiry(expiry: Expiry, at: number): StoreOperation {
    const key = keys.expiry(Math.ceil(at / HOUR_MS), this.#shelves.take());
    return this.#shelves.put(expirySchema, key, expiry);
  }
}
