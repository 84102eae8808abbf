import { afterEach, beforeEach, describe, expect, test } from "vitest";

import type { EventId } from "#protocols/base/ids.ts";
import { say } from "#protocols/conversation/direct.ts";
import { safetyNumber } from "#protocols/identity/identity.ts";
import { type Met, metInTheSimulator, type Parts, partsOf } from "#test/integration/peer-parts.ts";

import type { Message } from "./face.ts";
import { MAX_MESSAGES, Views } from "./views.ts";

const MESSAGES = 8;

let met: Met;
let bob: Parts;
/** What mailboxes promised. */
const held = new Map<EventId, { readonly mailboxes: number; readonly until: number }>();
let views: Views;

beforeEach(async () => {
  met = await metInTheSimulator(9, MESSAGES);
  bob = await partsOf(met);
  held.clear();
  views = new Views(bob.world, (id) => held.get(id));
});
afterEach(() => bob.driver.close());

async function direct() {
  return (await bob.directs.get(met.alice))!;
}

async function messages(options: { readonly limit: number; readonly before?: EventId }): Promise<readonly Message[]> {
  const conversation = await direct();
  return bob.driver.read((tx) => views.messages(tx, conversation, options));
}

describe("messages", () => {
  test("oldest first, each once, with who said what when", async () => {
    const all = await messages({ limit: MAX_MESSAGES });
    expect(all).toHaveLength(2 * MESSAGES);
    expect(new Set(all.map(({ text }) => text)).size).toBe(2 * MESSAGES);
    for (const message of all) {
      const by = message.text.startsWith("alice") ? met.alice : met.bob;
      expect(message).toMatchObject({ author: by, conversation: met.conversation, state: "delivered" });
    }
    expect(all.map(({ sentAt }) => sentAt)).toEqual(all.map(({ sentAt }) => sentAt).toSorted((a, b) => a - b));
  });

  test("pages of any size make up the whole", async () => {
    const all = await messages({ limit: MAX_MESSAGES });
    for (const limit of [1, 3, 2 * MESSAGES]) {
      const pages: Message[] = [];
      for (;;) {
        const first = pages[0]?.id;
        const page = await messages({ limit, ...(first && { before: first }) });
        if (page.length === 0) break;
        pages.unshift(...page);
      }
      expect(pages).toEqual(all);
    }
    expect(await messages({ limit: 0 })).toEqual([]);
    expect(await messages({ limit: -5 })).toEqual([]);
    expect(await messages({ limit: 10 * MAX_MESSAGES })).toEqual(all);
  });

  test("an own one that nobody receipted is queued, in custody it is held, and held falls back", async () => {
    const { conversation } = await direct();
    await bob.directs.step(met.alice, {}, async (state, env) => {
      return say(state, { type: "message", text: "into the void" }, env, { later: true });
    });
    const last = (await messages({ limit: 1 }))[0]!;
    expect(last).toMatchObject({ text: "into the void", author: met.bob, state: "queued", conversation });
    const custody = { mailboxes: 2, until: met.now + 1 };
    held.set(last.id, custody);
    expect((await messages({ limit: 1 }))[0]).toMatchObject({ state: "held", held: custody });
    held.clear();
    expect((await messages({ limit: 1 }))[0]).toMatchObject({ state: "queued" });
    expect((await messages({ limit: 1 }))[0]).not.toHaveProperty("held");
    // What is proved is more than what is promised.
    const proved = (await messages({ limit: MAX_MESSAGES })).find(({ author }) => author === met.bob)!;
    held.set(proved.id, custody);
    expect((await messages({ limit: MAX_MESSAGES })).find(({ id }) => id === proved.id)?.state).toBe("delivered");
  });

  test("an id of another conversation, or of none, is no message of this one", async () => {
    const { id } = (await messages({ limit: 1 }))[0]!;
    const event = (which: EventId, conversation = met.conversation) =>
      bob.driver.read((tx) => views.event(tx, conversation, which));
    expect(await event(id)).toBeDefined();
    expect(await event(id, "00".repeat(32) as typeof met.conversation)).toBeUndefined();
    expect(await event("00".repeat(32) as EventId)).toBeUndefined();
  });
});

describe("contacts and conversations", () => {
  test("a conversation shows its newest message by order, and how many are unread", async () => {
    const conversation = await direct();
    const shown = await bob.driver.read((tx) => views.conversation(tx, conversation));
    expect(shown).toMatchObject({ conversation: met.conversation, kind: "direct", title: "alice", unread: MESSAGES });
    expect(shown.lastMessage).toEqual((await messages({ limit: 1 }))[0]);
  });

  test("a name of our own wins", async () => {
    const named = { ...(await direct()), nickname: "Al" };
    expect(views.contact(named)).toMatchObject({
      name: "alice",
      nickname: "Al",
      state: "accepted",
      account: met.alice,
    });
    expect((await bob.driver.read((tx) => views.conversation(tx, named))).title).toBe("Al");
    expect(views.contact(await direct())).not.toHaveProperty("nickname");
  });

  test("the safety number is of the two accounts, and the same at both", async () => {
    const { safetyNumber: shown } = views.contact(await direct());
    expect(shown).toBe(safetyNumber(met.crypto, met.alice, met.bob));
  });
});
