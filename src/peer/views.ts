/** What the face shows, computed from what is stored: plain data, no state of its own. */
import type { AccountId, ConversationId, EventId } from "#protocols/base/ids.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import { relation } from "#protocols/conversation/contact.ts";
import { deliveryOf, type Direct } from "#protocols/conversation/direct.ts";
import { decodeEvent, type Event, hasRead } from "#protocols/content/content.ts";
import { safetyNumber } from "#protocols/identity/identity.ts";
import type { ReadTx } from "#src/runtime/driver.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Contact, Conversation, Message } from "./face.ts";
import { newestOrdered, type OrderEntry, positionOf } from "./order.ts";
import { eventIndexTable, eventLog, summaryTable } from "./tables.ts";
import type { World } from "./world.ts";

/** Messages read at once. */
export const MAX_MESSAGES = 1_000;

type Custody = (id: EventId) => { readonly mailboxes: number; readonly until: number } | undefined;

export class Views {
  readonly #world: World;
  readonly #custody: Custody;
  readonly #safetyNumbers = new Map<AccountId, string>();

  constructor(world: World, custody: Custody) {
    this.#world = world;
    this.#custody = custody;
  }

  contact(direct: Direct): Contact {
    const { account } = this.#world.identity;
    const state = relation(direct.requests, account, this.#world.now());
    return {
      account: direct.contact,
      name: direct.name,
      ...(direct.nickname !== undefined && { nickname: direct.nickname }),
      state: state === "none" ? "removed" : state,
      conversation: direct.conversation,
      addedAt: direct.addedAt,
      safetyNumber: this.#safetyNumber(direct.contact),
    };
  }

  /** Computed once an account: it is an iterated hash. */
  #safetyNumber(account: AccountId): string {
    const known = this.#safetyNumbers.get(account);
    if (known) return known;
    const number = safetyNumber(this.#world.crypto, this.#world.identity.account, account);
    this.#safetyNumbers.set(account, number);
    return number;
  }

  async conversation(tx: ReadTx, direct: Direct): Promise<Conversation> {
    const summary = await tx.get(summaryTable, direct.conversation);
    const lastMessage = summary?.last && (await this.#messageAt(tx, direct, summary.last));
    return {
      conversation: direct.conversation,
      kind: "direct",
      title: direct.nickname ?? direct.name,
      unread: summary?.unread ?? 0,
      ...(lastMessage && { lastMessage }),
    };
  }

  /** Oldest first. */
  async messages(
    tx: ReadTx,
    direct: Direct,
    options: { readonly limit: number; readonly before?: EventId },
  ): Promise<readonly Message[]> {
    const limit = Math.max(0, Math.min(options.limit, MAX_MESSAGES));
    const before = options.before && (await this.#positionOf(tx, direct.conversation, options.before));
    if (options.before && before === undefined) throw new Failure("message/unknown", "There is no such message here.");
    const entries = await newestOrdered(tx, direct.conversation, { limit, ...(before && { before }) });
    const messages = await Promise.all(entries.map((entry) => this.#messageAt(tx, direct, entry)));
    return messages.toReversed();
  }

  async #positionOf(tx: ReadTx, conversation: ConversationId, id: EventId) {
    const event = await this.event(tx, conversation, id);
    return event && positionOf(event, id);
  }

  async event(tx: ReadTx, conversation: ConversationId, id: EventId): Promise<Event | undefined> {
    const at = await tx.get(eventIndexTable, id);
    if (at === undefined || at.conversation !== conversation) return undefined;
    return (await storedEvent(tx, conversation, at.row)).event;
  }

  /** Messages of this device with an index above `from`, up to `to`. */
  async own(
    tx: ReadTx,
    direct: Direct,
    range: { readonly from: number; readonly to: number },
  ): Promise<readonly EventId[]> {
    const found: EventId[] = [];
    for (const entry of await newestOrdered(tx, direct.conversation, { limit: MAX_MESSAGES })) {
      const { id, event } = await storedEvent(tx, direct.conversation, entry.row);
      if (event.device !== this.#world.identity.device) continue;
      if (event.index <= range.from) break;
      if (event.index <= range.to) found.push(id);
    }
    return found;
  }

  async #messageAt(tx: ReadTx, direct: Direct, entry: OrderEntry): Promise<Message> {
    const { id, event } = await storedEvent(tx, direct.conversation, entry.row);
    return this.message(direct, id, event);
  }

  message(direct: Direct, id: EventId, event: Event): Message {
    assert(event.body.type === "message", "only messages are shown as messages");
    const { text, replyTo } = event.body;
    const own = event.author === this.#world.identity.account;
    const shown = {
      id,
      conversation: direct.conversation,
      author: event.author,
      text,
      sentAt: event.time.wall,
      ...(replyTo !== undefined && { replyTo }),
    };
    if (!own) return { ...shown, state: hasRead(direct.received, event.device, event.index) ? "read" : "delivered" };
    const proved = deliveryOf(direct, event);
    if (proved !== "none") return { ...shown, state: proved };
    const held = this.#custody(id);
    return held ? { ...shown, state: "held", held } : { ...shown, state: "queued" };
  }
}

/** The event that an entry of the order stands for. */
export async function storedEvent(
  tx: ReadTx,
  conversation: ConversationId,
  row: number,
): Promise<{ readonly id: EventId; readonly event: Event }> {
  const found = await tx.row(eventLog, conversation, row);
  assert(found !== undefined, "an indexed event is stored");
  const event = decodeEvent(found.event);
  assert(!isReject(event), "a stored event is well-formed");
  return { id: found.id, event };
}
