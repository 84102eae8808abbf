/**
 * Runs the steps of direct conversations: loads what a step reads, lets it decide, writes what it changed and recorded in the
 * same batch, and hands what must leave to `outbound` once the batch is on the disk.
 */
import type { Infer } from "#protocols/base/codec.ts";
import type { AccountId, ConversationId, DeviceId, EventId } from "#protocols/base/ids.ts";
import { assert, isReject, type OrReject } from "#protocols/base/reject.ts";
import { decodeEvent, directConversationId, type Event } from "#protocols/content/content.ts";
import {
  type Direct,
  type DirectState,
  type Effect,
  highestReceipted,
  missingReceipts,
  type Step,
  type StepEnv,
} from "#protocols/conversation/direct.ts";
import { type DevicePair, newPair } from "#protocols/conversation/pair.ts";
import { liveDevices } from "#protocols/identity/identity.ts";
import type { ReadTx, Tx } from "#src/runtime/driver.ts";
import type { Log } from "#src/runtime/records.ts";
import { comparePositions, insertOrdered, positionOf } from "./order.ts";
import {
  ALL,
  bundleTable,
  contactLog,
  directTable,
  eventIndexTable,
  eventLog,
  invitesTable,
  LOCKS,
  outboxLog,
  pairTable,
  prekeysTable,
  SELF,
  summaryTable,
} from "./tables.ts";
import { stepEnv, type World } from "./world.ts";

/** A held event, as the outbox keeps it. */
export type HeldRow = { readonly n: number; readonly account: AccountId } & Infer<typeof outboxLog.schema>;

/** What a committed step lets out. */
export type Outcome = {
  readonly account: AccountId;
  readonly before: Direct | undefined;
  readonly direct: Direct;
  readonly effects: readonly Effect[];
  readonly held: readonly HeldRow[];
  readonly settled: readonly HeldRow[];
  readonly recorded: readonly Recorded[];
  /** What is heard, or where, may have changed. */
  readonly routesChanged: boolean;
};

export type Recorded = { readonly id: EventId; readonly event: Event; readonly row: number; readonly own: boolean };

/** What a commit did of which nobody heard. */
export type Reloaded = { readonly settled: readonly HeldRow[]; readonly recorded: readonly Recorded[] };

export type StepOptions = {
  /** The step may need prekeys: a request, an answer, a payload with initial messages. */
  readonly prekeys?: boolean;
  readonly invites?: boolean;
};

export class Directs {
  readonly #world: World;
  readonly #outbound: (outcome: Outcome) => void;
  readonly #prepare: (outcome: Outcome) => void;
  /** Rows held for each contact, in order: the committed outbox, in memory. */
  readonly #held = new Map<AccountId, Map<number, HeldRow>>();
  readonly #heldById = new Map<EventId, HeldRow>();
  readonly #byConversation = new Map<ConversationId, AccountId>();
  /** The event row of each contact that will be told of next, and those before it that never were. */
  readonly #nextTold = new Map<AccountId, number>();
  readonly #untold = new Map<AccountId, Set<number>>();

  /**
   * @param options.prepare - Called while the step is on its way to the disk, for work that needs no waiting; the step may
   * still be discarded.
   * @param options.outbound - Called once it is down.
   */
  constructor(
    world: World,
    options: { readonly prepare: (outcome: Outcome) => void; readonly outbound: (outcome: Outcome) => void },
  ) {
    this.#world = world;
    this.#prepare = options.prepare;
    this.#outbound = options.outbound;
  }

  /** Reads the outbox and who there is. @returns All direct conversations. */
  async load(): Promise<readonly Direct[]> {
    return this.#world.driver.read(async (tx) => {
      const directs: Direct[] = [];
      for (const account of await this.#accounts(tx)) {
        const direct = await tx.get(directTable, account);
        assert(direct !== undefined, "a listed contact has a conversation");
        this.#byConversation.set(direct.conversation, account);
        const [last] = await tx.rows(eventLog, direct.conversation, { reverse: true, limit: 1 });
        this.#nextTold.set(account, last === undefined ? 0 : last.n + 1);
        const rows = await everyRow(tx, outboxLog, account);
        this.#hold(
          account,
          rows.map(({ n, value }) => ({ n, account, ...value })),
        );
        directs.push(direct);
      }
      return directs;
    });
  }

  async #accounts(tx: ReadTx): Promise<readonly AccountId[]> {
    return (await everyRow(tx, contactLog, ALL)).map(({ value }) => value);
  }

  /**
   * Reads the outbox anew after the store failed: a commit whose outcome nobody knew may have happened. Its rows must be offered
   * like all others, what it settled is settled, and what it recorded was told to nobody. @returns The contacts.
   */
  async reload(): Promise<ReadonlyMap<AccountId, Reloaded>> {
    const accounts = await this.#world.driver.read((tx) => this.#accounts(tx));
    const reloaded = new Map<AccountId, Reloaded>();
    for (const account of accounts) {
      await this.locked(account, async (tx) => {
        const direct = await tx.get(directTable, account);
        assert(direct !== undefined, "a listed contact has a conversation");
        const rows = await everyRow(tx, outboxLog, account);
        const from = Math.min(this.#nextTold.get(account) ?? 0, ...(this.#untold.get(account) ?? []));
        const events = await everyRow(tx, eventLog, direct.conversation, from);
        tx.release(() => {
          this.#byConversation.set(direct.conversation, account);
          const before = this.#held.get(account) ?? new Map<number, HeldRow>();
          for (const { id } of before.values()) this.#heldById.delete(id);
          this.#held.delete(account);
          this.#hold(
            account,
            rows.map(({ n, value }) => ({ n, account, ...value })),
          );
          const settled = [...before.values()].filter(({ id }) => !this.#heldById.has(id));
          // Asked only now: steps before this one have told of theirs by now.
          const recorded = events.filter(({ n }) => this.#isUntold(account, n)).map((row) => this.#recorded(row));
          this.#told(account, recorded);
          this.#untold.delete(account);
          reloaded.set(account, { settled, recorded });
        });
      });
    }
    return reloaded;
  }

  #recorded({ n, value }: { readonly n: number; readonly value: Infer<typeof eventLog.schema> }): Recorded {
    const event = decodeEvent(value.event);
    assert(!isReject(event), "a stored event is well-formed");
    return { id: value.id, event, row: n, own: event.author === this.#world.identity.account };
  }

  #isUntold(account: AccountId, row: number): boolean {
    return row >= (this.#nextTold.get(account) ?? 0) || this.#untold.get(account)?.has(row) === true;
  }

  /** Rows come in order; one that was passed over is of a commit whose outcome nobody knew. */
  #told(account: AccountId, recorded: readonly Recorded[]): void {
    for (const { row } of recorded) {
      let next = this.#nextTold.get(account) ?? 0;
      for (; next < row; next++) this.#untold.set(account, (this.#untold.get(account) ?? new Set()).add(next));
      this.#nextTold.set(account, Math.max(next, row + 1));
    }
  }

  all(): Promise<readonly Direct[]> {
    return this.#world.driver.read(async (tx) => {
      const directs = await Promise.all((await this.#accounts(tx)).map((account) => tx.get(directTable, account)));
      return directs.filter((direct) => direct !== undefined);
    });
  }

  get(account: AccountId): Promise<Direct | undefined> {
    return this.#world.driver.read((tx) => tx.get(directTable, account));
  }

  accountOf(conversation: ConversationId): AccountId | undefined {
    return this.#byConversation.get(conversation);
  }

  conversationWith(account: AccountId): ConversationId {
    return directConversationId(this.#world.crypto, this.#world.identity.account, account);
  }

  heldFor(account: AccountId): ReadonlyMap<number, HeldRow> {
    return this.#held.get(account) ?? new Map();
  }

  /** The held row of an event of ours, until it is settled. */
  held(id: EventId): HeldRow | undefined {
    return this.#heldById.get(id);
  }

  heldCount(): number {
    return this.#heldById.size;
  }

  #hold(account: AccountId, rows: readonly HeldRow[]): void {
    const held = this.#held.get(account) ?? new Map<number, HeldRow>();
    for (const row of rows) {
      held.set(row.n, row);
      this.#heldById.set(row.id, row);
    }
    this.#held.set(account, held);
  }

  #locks(account: AccountId, options: StepOptions): readonly string[] {
    const locks = [LOCKS.direct(account)];
    if (liveDevices(this.#world.identity.self.list).length > 1) locks.push(LOCKS.ownDevices);
    if (options.prekeys) locks.push(LOCKS.prekeys);
    if (options.invites) locks.push(LOCKS.invites);
    if (!this.#held.has(account)) locks.push(LOCKS.contacts);
    return locks;
  }

  /**
   * One step on the conversation with `account`: `decide` gets the state, and what it returns is committed.
   * @returns Once it is durable; a reject changed nothing.
   */
  async step(
    account: AccountId,
    options: StepOptions,
    decide: (state: DirectState, env: StepEnv, tx: Tx) => Promise<OrReject<Step>>,
  ): Promise<OrReject<Direct>> {
    return this.#world.driver.run(this.#locks(account, options), async (tx) => {
      const before = await this.#state(tx, account, options);
      const env = stepEnv(this.#world);
      const done = await decide(before, env, tx);
      if (isReject(done)) return done;
      const outcome = await this.#write(tx, account, before, done);
      this.#prepare(outcome);
      tx.release(() => this.#released(outcome));
      return outcome.direct;
    });
  }

  /** Keeps a prekey bundle of a contact's device that was fetched from a directory. */
  async keepBundle(account: AccountId, device: DeviceId, bundle: Uint8Array): Promise<void> {
    await this.locked(account, async (tx) => {
      const pair = (await tx.get(pairTable, device)) ?? newPair(account, device);
      tx.put(pairTable, device, { ...pair, bundle });
      tx.put(bundleTable, device, bundle);
    });
  }

  /** A write beside the conversation, under its lock. */
  locked<T>(account: AccountId, body: (tx: Tx) => Promise<T>): Promise<T> {
    return this.#world.driver.run([LOCKS.direct(account)], body);
  }

  async #state(tx: Tx, account: AccountId, options: StepOptions): Promise<DirectState> {
    const { self, profile } = this.#world.identity;
    const direct = await tx.get(directTable, account);
    const devices = [...(direct ? liveDevices(direct.devices) : []), ...liveDevices(self.list)];
    const pairs = new Map<DeviceId, DevicePair>();
    for (const { device } of devices) {
      const pair = device === self.keys.certificate.device ? undefined : await tx.get(pairTable, device);
      if (pair === undefined) continue;
      const bundle = pair.bundle ?? (await tx.get(bundleTable, device));
      pairs.set(device, bundle === pair.bundle ? pair : { ...pair, ...(bundle && { bundle }) });
    }
    const prekeys = options.prekeys ? await tx.get(prekeysTable, SELF) : undefined;
    const invites = options.invites ? ((await tx.get(invitesTable, SELF)) ?? []) : undefined;
    return { self, profile, direct, pairs, ...(prekeys && { prekeys }), ...(invites && { invites }) };
  }

  async #write(tx: Tx, account: AccountId, before: DirectState, done: Step): Promise<Outcome> {
    const { state, effects } = done;
    assert(state.direct !== undefined, "a step leaves a conversation");
    const { direct } = state;
    if (direct !== before.direct) tx.put(directTable, account, direct);
    if (before.direct === undefined) await tx.append(contactLog, ALL, account);
    for (const [device, pair] of state.pairs) {
      const was = before.pairs.get(device);
      if (pair !== was) tx.put(pairTable, device, pair);
      if (pair.bundle && pair.bundle !== was?.bundle) tx.put(bundleTable, device, pair.bundle);
    }
    if (state.prekeys && state.prekeys !== before.prekeys) tx.put(prekeysTable, SELF, state.prekeys);
    if (state.invites && state.invites !== before.invites) tx.put(invitesTable, SELF, state.invites);

    const recorded = await this.#record(tx, direct, effects);
    const held: HeldRow[] = [];
    for (const effect of effects) {
      if (effect.type !== "hold") continue;
      const at = recorded.find(({ id }) => id === effect.id);
      assert(at !== undefined, "what is held was recorded");
      const { id, index, devices } = effect;
      const row = { id, index, devices, row: at.row, visible: at.event.body.type === "message" };
      held.push({ n: await tx.append(outboxLog, account, row), account, ...row });
    }
    const settled = effects.some(({ type }) => type === "receipted") ? this.#settled(account, direct) : [];
    for (const { n } of settled) tx.deleteAt(outboxLog, account, n);
    const was = before.direct;
    const routesChanged =
      direct.roots !== was?.roots || direct.relays !== was.relays || direct.redemption !== was.redemption;
    return { account, before: was, direct, effects, held, settled, recorded, routesChanged };
  }

  /** Appends what was written and received, sorts messages into the conversation and counts what is unread. */
  async #record(tx: Tx, direct: Direct, effects: readonly Effect[]): Promise<readonly Recorded[]> {
    const { conversation } = direct;
    const recorded: Recorded[] = [];
    let summary = await tx.get(summaryTable, conversation);
    const before = summary;
    for (const effect of effects) {
      if (effect.type !== "record") continue;
      const { id, event, bytes } = effect;
      const row = await tx.append(eventLog, conversation, { id, event: bytes });
      tx.put(eventIndexTable, id, { conversation, row });
      const own = event.author === this.#world.identity.account;
      recorded.push({ id, event, row, own });
      if (event.body.type !== "message") continue;
      const entry = { ...positionOf(event, id), row };
      await insertOrdered(tx, conversation, entry);
      const last = summary?.last;
      summary = {
        unread: (summary?.unread ?? 0) + (own ? 0 : 1),
        last: last !== undefined && comparePositions(last, entry) > 0 ? last : entry,
      };
    }
    if (summary !== before && summary) tx.put(summaryTable, conversation, summary);
    return recorded;
  }

  /** Rows that nobody owes a receipt for any more. */
  #settled(account: AccountId, direct: Direct): readonly HeldRow[] {
    const { device } = this.#world.identity;
    const highest = highestReceipted(direct, device);
    const settled: HeldRow[] = [];
    for (const row of this.heldFor(account).values()) {
      if (row.index > highest) break; // rows ascend by index
      const missing = missingReceipts(direct, device, row.index, row.devices);
      if (missing.length === 0) settled.push(row);
    }
    return settled;
  }

  #released(outcome: Outcome): void {
    const { account, direct, held, settled } = outcome;
    this.#byConversation.set(direct.conversation, account);
    this.#told(account, outcome.recorded);
    this.#hold(account, held);
    for (const { n, id } of settled) {
      this.#held.get(account)?.delete(n);
      this.#heldById.delete(id);
    }
    this.#outbound(outcome);
  }
}

/** Rows read at once. The store refuses more than some thousands, and an outbox may hold what was said in a month offline. */
const ROWS_AT_ONCE = 4_096;

async function everyRow<V>(tx: ReadTx, log: Log<V>, parent: string, first = 0) {
  const all: Awaited<ReturnType<typeof tx.rows<V>>>[number][] = [];
  for (;;) {
    const rows = await tx.rows(log, parent, { from: (all.at(-1)?.n ?? first - 1) + 1, limit: ROWS_AT_ONCE });
    all.push(...rows);
    if (rows.length < ROWS_AT_ONCE) return all;
  }
}
