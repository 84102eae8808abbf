import { existsSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Json, type Running, Stage } from "./processes.ts";
import { schemaErrors } from "./schemas.ts";

/**
 * A relay and three people, as processes. Each pair connects by an invite and talks both ways, and one of them is away while
 * being written to. The tests are one story and run in its order.
 */
const PEOPLE = ["ada", "bo", "cy"] as const;
type Person = (typeof PEOPLE)[number];
const PAIRS = [
  ["ada", "bo"],
  ["ada", "cy"],
  ["bo", "cy"],
] as const;
const LOOPBACK = ["--listen", "/ip4/127.0.0.1/tcp/0"] as const;

const stage = new Stage();
const accounts = {} as Record<Person, string>;
const daemons = {} as Record<Person, Running>;
const watches = {} as Record<Person, Running>;
/** By the two names in order. */
const conversations = new Map<string, string>();
const links = new Map<string, string>();
let relay: Running;
let relayAddress: string;

beforeAll(async () => {
  relay = await stage.ready("relay", "relay", "--dev");
  const { addresses } = (relay as unknown as { first: { addresses: string[] } }).first;
  relayAddress = addresses.find((address) => /\/tcp\/\d+\/p2p\//.test(address))!;
  for (const person of PEOPLE) {
    const [made] = await stage.run("init", person, "--name", person, "--relay", relayAddress);
    accounts[person] = made!["account"] as string;
  }
  for (const person of PEOPLE) await online(person);
});
afterAll(() => stage.clear());

async function online(person: Person): Promise<void> {
  daemons[person] = await stage.ready("daemon", person, ...LOOPBACK);
  watches[person] = await stage.watch(person);
}

async function away(person: Person): Promise<void> {
  const codes = [await daemons[person].stop(), await watches[person].exited];
  // The daemon ends well; who watched it is told that it has gone.
  expect(codes).toEqual([0, 1]);
}

function conversationOf(a: Person, b: Person): string {
  return conversations.get(`${a} ${b}`)!;
}

/** The message with `text` as `person` sees it, now or when it comes. */
async function arrival(person: Person, conversation: string, text: string): Promise<Json> {
  const known = await stage.run("messages", person, conversation);
  const found = known.find((message) => message["text"] === text);
  if (found !== undefined) return found;
  const event = await watches[person].line(
    `message ${text} for ${person}`,
    (value) => value["type"] === "message" && (value["message"] as Json)["text"] === text,
  );
  return event["message"] as Json;
}

/** Waits until `id` is in one of `states` at its author. */
async function reaches(person: Person, conversation: string, id: string, states: readonly string[]): Promise<void> {
  const there = (message: Json): boolean => message["id"] === id && states.includes(message["state"] as string);
  if ((await stage.run("messages", person, conversation)).some(there)) return;
  await watches[person].line(
    `${states.join(" or ")} for ${person}`,
    (value) => value["type"] === "message-state" && there(value),
  );
}

describe.each(PAIRS)("%s and %s", (inviter, guest) => {
  test("meet by an invite and end in one conversation", async () => {
    const [{ link }] = (await stage.run("invite", inviter)) as [{ link: string }];
    links.set(`${inviter} ${guest}`, link);
    const [connected] = await stage.run("connect", guest, link);
    expect(connected).toMatchObject({ contact: accounts[inviter], state: "accepted" });
    const conversation = connected!["conversation"] as string;
    conversations.set(`${inviter} ${guest}`, conversation);

    await watches[inviter].line("accepted contact", (value) => {
      const contact = value["contact"] as Json | undefined;
      return contact?.["account"] === accounts[guest] && contact["state"] === "accepted";
    });
    const theirs = (await stage.run("conversations", inviter)).map((one) => one["conversation"]);
    expect(theirs).toContain(conversation);
    expect(await stage.run("contacts", inviter)).toContainEqual({
      account: accounts[guest],
      name: guest,
      state: "accepted",
    });
  });

  test("talk both ways", async () => {
    const conversation = conversationOf(inviter, guest);
    for (const [author, reader] of [
      [inviter, guest],
      [guest, inviter],
    ] as const) {
      const text = `from ${author} to ${reader}: größer 👋\nsecond line`;
      const [sent] = await stage.run("send", author, conversation, text);
      expect(await arrival(reader, conversation, text)).toMatchObject({
        id: sent!["id"],
        author: accounts[author],
        text,
      });
      await reaches(author, conversation, sent!["id"] as string, ["delivered", "read"]);
    }
    const both = await Promise.all([inviter, guest].map((person) => stage.run("messages", person, conversation)));
    const [ids, others] = both.map((messages) => messages.map((message) => message["id"]));
    expect(ids).toHaveLength(2);
    expect(ids).toEqual(others);
  });
});

describe("bo is away", () => {
  test("what ada writes meanwhile is held, and is there when bo comes back", async () => {
    const conversation = conversationOf("ada", "bo");
    await away("bo");
    const [sent] = await stage.run("send", "ada", conversation, "while you were out");
    const id = sent!["id"] as string;
    await reaches("ada", conversation, id, ["held"]);

    await online("bo");
    expect(await arrival("bo", conversation, "while you were out")).toMatchObject({ id, author: accounts.ada });
    await reaches("ada", conversation, id, ["delivered", "read"]);
  });

  test("bo's commands work without a daemon, and what they send arrives", async () => {
    const conversation = conversationOf("ada", "bo");
    await away("bo");
    const [sent] = await stage.run("send", "bo", conversation, "no daemon here");
    expect(await arrival("ada", conversation, "no daemon here")).toMatchObject({
      id: sent!["id"],
      author: accounts.bo,
    });
    await stage.run("send", "ada", conversation, "answer to a short visit");
    const texts = (await stage.run("messages", "bo", conversation)).map((message) => message["text"]);
    expect(texts).toContain("no daemon here");
    await stage.run("contacts", "bo", "--offline");
    await online("bo");
    await arrival("bo", conversation, "answer to a short visit");
  });

  test("ada reads and bo is told", async () => {
    const conversation = conversationOf("ada", "bo");
    const [sent] = await stage.run("send", "bo", conversation, "read me");
    await arrival("ada", conversation, "read me");
    await stage.run("messages", "ada", conversation, "--read");
    await reaches("bo", conversation, sent!["id"] as string, ["read"]);
  });
});

describe("every command keeps to its schema", () => {
  test("what was watched", () => {
    for (const person of PEOPLE) {
      expect(watches[person].json.length).toBeGreaterThan(0);
      for (const event of watches[person].json) expect(schemaErrors("watch", event)).toBe("");
    }
  });

  test("status, lists, --limit, a conversation by its title or a beginning of its id", async () => {
    expect(await stage.run("status", "ada")).toHaveLength(1);
    expect(await stage.run("contacts", "ada")).toHaveLength(2);
    expect(await stage.run("conversations", "ada")).toHaveLength(2);
    const conversation = conversationOf("ada", "bo");
    const all = await stage.run("messages", "ada", conversation);
    expect(await stage.run("messages", "ada", conversation.slice(0, 12), "--limit", "2")).toEqual(all.slice(-2));
    expect(await stage.run("messages", "ada", "bo", "--limit", "1")).toEqual(all.slice(-1));
    const [reply] = await stage.run("send", "ada", "bo", "an answer", "--reply-to", all[0]!["id"] as string);
    expect((await stage.run("messages", "ada", "bo")).at(-1)).toMatchObject({
      id: reply!["id"],
      replyTo: all[0]!["id"],
    });
  });
});

describe("what goes wrong has a code", () => {
  test.each([
    ["conversation/unknown", "send", ["f".repeat(64), "x"]],
    ["conversation/unknown", "messages", ["nobody"]],
    ["invite/bad-link", "connect", ["https://example.org/#rubbish"]],
  ])("%s from %s", async (code, command, args) => {
    expect(await stage.fails(1, command, "ada", ...args)).toBe(code);
  });

  test("an invite used up, and one's own", async () => {
    await stage.run("init", "eve", "--name", "eve");
    expect(await stage.fails(1, "connect", "eve", links.get("ada bo")!)).toBe("invite/used-up");
    expect(await stage.fails(1, "connect", "ada", links.get("ada bo")!)).toBe("invite/own");
  });

  test("a second daemon, and a home that is taken", async () => {
    expect(await stage.fails(1, "daemon", "ada", ...LOOPBACK)).toBe("store/locked");
    expect(await stage.fails(1, "init", "ada", "--name", "ada")).toBe("home/exists");
  });

  test("a locked account without its passphrase, and with a wrong one", async () => {
    const [right, wrong] = ["right", "wrong"].map((name) => {
      const path = join(stage.folder, `${name}-passphrase`);
      writeFileSync(path, `${name} horse battery staple\n`);
      return path;
    }) as [string, string];
    await stage.run("init", "dee", "--name", "dee", "--passphrase-file", right);
    expect(await stage.fails(1, "contacts", "dee")).toBe("vault/passphrase-needed");
    expect(await stage.fails(1, "contacts", "dee", "--passphrase-file", wrong)).toBe("vault/wrong-passphrase");
    expect(await stage.run("contacts", "dee", "--passphrase-file", right)).toEqual([]);
  });
});

describe("the end", () => {
  test("a daemon that was killed leaves an api.json nobody believes", async () => {
    const file = join(stage.home("cy"), "api.json");
    expect((statSync(file).mode & 0o777).toString(8)).toBe("600");
    await daemons.cy.stop("SIGKILL");
    expect(existsSync(file)).toBe(true);
    expect(await stage.run("contacts", "cy", "--offline")).toHaveLength(2);
  });

  test("a daemon and a command that start together both get their turn", async () => {
    const [daemon, contacts] = await Promise.all([
      stage.ready("daemon", "cy", ...LOOPBACK),
      stage.run("contacts", "cy", "--offline"),
    ]);
    expect(contacts).toHaveLength(2);
    expect(await daemon.stop()).toBe(0);
  });

  test("watch works without a daemon, and ends well", async () => {
    const watch = await stage.watch("cy");
    expect(await watch.stop("SIGINT")).toBe(0);
    expect(watch.stderr).toBe("watching\n");
  });

  test("SIGTERM and SIGINT end everything well, and nothing is left lying about", async () => {
    expect(await watches.ada.stop("SIGINT")).toBe(0);
    expect(await daemons.ada.stop("SIGINT")).toBe(0);
    expect(existsSync(join(stage.home("ada"), "api.json"))).toBe(false);
    expect(await relay.stop("SIGTERM")).toBe(0);
  });

  test("an invite through a relay that is gone can't be followed now", async () => {
    await stage.run("init", "fay", "--name", "fay");
    expect(await stage.fails(1, "connect", "fay", links.get("bo cy")!)).toBe("net/unreachable");
  });
});
