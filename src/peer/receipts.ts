/** Receipts of what arrived, gathered: one tells of everything so far, so that a burst costs a handful. */
import type { AccountId } from "#protocols/base/ids.ts";
import { reject } from "#protocols/base/reject.ts";
import { sendReceipt } from "#protocols/conversation/direct.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Directs } from "./directs.ts";
import type { World } from "./world.ts";

/** While the other side knows that we are here: long enough to gather a burst, short enough to look immediate. */
const PROMPT_MS = 50;

/** When a receipt would be the only sign that we are here, it comes at a time that says little (DESIGN 7.5). */
const QUIET_MIN_MS = 1_000;
const QUIET_SPREAD_MS = 29_000;

/** Arrivals after which a receipt goes without waiting: an eighth of a sender's window, so that it never runs dry. */
const PROMPT_COUNT = 128;

export class ReceiptSchedule {
  readonly #world: World;
  readonly #directs: Directs;
  readonly #known: (account: AccountId) => boolean;
  readonly #due = new Map<AccountId, { count: number; readonly quiet: boolean; readonly cancel: () => void }>();
  readonly #sending = new Set<AccountId>();

  /** @param known - Whether the contact has been told that we are here. */
  constructor(world: World, directs: Directs, known: (account: AccountId) => boolean) {
    this.#world = world;
    this.#directs = directs;
    this.#known = known;
  }

  stop(): void {
    for (const { cancel } of this.#due.values()) cancel();
    this.#due.clear();
  }

  /** Something arrived that wants a receipt, or was read. */
  due(account: AccountId): void {
    const waiting = this.#due.get(account);
    const quiet = !this.#known(account);
    if (waiting && (quiet || !waiting.quiet)) {
      waiting.count++;
      if (waiting.count >= PROMPT_COUNT && !quiet) this.#flush(account);
      return;
    }
    waiting?.cancel();
    const delay = quiet ? QUIET_MIN_MS + (this.#world.random(2)[0]! / 256) * QUIET_SPREAD_MS : PROMPT_MS;
    const cancel = this.#world.clock.after(delay, () => this.#flush(account));
    this.#due.set(account, { count: 1, quiet, cancel });
  }

  #flush(account: AccountId): void {
    this.#due.get(account)?.cancel();
    this.#due.delete(account);
    if (this.#sending.has(account)) return this.due(account);
    this.#sending.add(account);
    this.#directs
      .step(account, {}, async (state, env) => {
        const some = state.direct !== undefined && state.direct.received.length > 0;
        return some ? sendReceipt(state, env) : reject("conversation/nothing-received");
      })
      .catch((error: unknown) => {
        // A receipt that could not be written is asked for again: what it speaks of will be offered again.
        if (!(error instanceof Failure)) throw error;
      })
      .finally(() => this.#sending.delete(account));
  }
}
