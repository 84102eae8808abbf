import { spawnSync } from "node:child_process";
import { existsSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { offlineNetwork } from "#node/offline-network.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import { createIdentity, startPeer } from "#src/peer/start.ts";
import { MemoryDisk } from "#src/runtime/memory-store.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import { type Json, Running, Stage } from "./processes.ts";
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
const HOUR_MS = 3_600_000;
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
/** Follows a link to where nobody listens, and takes its 20 seconds for it. */
let unreachable: Running;

const mayMount = spawnSync("unshare", ["-rm", "true"]).status === 0 ? "" : ": needs user and mount namespaces";

beforeAll(async () => {
  relay = await stage.ready("relay", "relay", "--dev");
  const { addresses } = (relay as unknown as { first: { addresses: string[] } }).first;
  relayAddress = addresses.find((address) => /\/tcp\/\d+\/p2p\//.test(address))!;
  for (const person of PEOPLE) {
    const [made] = await stage.run("init", person, "--name", person, "--relay", relayAddress);
    accounts[person] = made!["account"] as string;
  }
  for (const person of PEOPLE) await online(person);
  await stage.run("init", "fay", "--name", "fay");
  const nowhere = relayAddress.replace(/\/tcp\/\d+\//, "/tcp/1/");
  unreachable = stage.start("connect", "fay", await linkOf([nowhere], { agoMs: 0 }));
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

/** An invite of somebody who was never here, good for an hour from what their clock says. */
async function linkOf(relays: readonly string[], options: { readonly agoMs: number }): Promise<string> {
  const disk = new MemoryDisk();
  const home = {
    unlock: { platformKey: systemRandom(32) },
    clock: { ...systemClock, now: () => systemClock.now() - options.agoMs },
    random: systemRandom,
    crypto: synchronousSuite(),
  };
  await createIdentity({ ...home, host: disk.attach(), name: "old", relays });
  const peer = await startPeer({ ...home, host: disk.attach(), network: offlineNetwork() });
  const { link } = await peer.createInvite({ expiresInMs: HOUR_MS });
  await peer.close();
  return link;
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

test("a relay is added and removed, with a daemon and without", async () => {
  const second = await stage.ready("relay", "second-relay", "--dev");
  const [address] = second.first["addresses"] as string[];
  const addresses = (relays: readonly Json[]): unknown[] => relays.map((one) => one["address"]);
  expect(await stage.run("relays", "ada")).toEqual([{ address: relayAddress, state: "open" }]);
  expect(addresses(await stage.run("relays", "ada", "add", address!))).toEqual([relayAddress, address]);
  const open = (value: Json): boolean => value["type"] === "relay" && value["address"] === address;
  await watches.ada.line("the second relay open", (value) => open(value) && value["state"] === "open");
  expect(addresses(await stage.run("relays", "ada", "remove", address!))).toEqual([relayAddress]);
  expect(await stage.fails(1, "relays", "ada", "remove", address!)).toBe("relay/unknown");
  expect(await stage.fails(2, "relays", "ada", "add", "/ip4/127.0.0.1")).toBe("usage/bad-value");

  await stage.run("init", "gil", "--name", "gil");
  expect(await stage.run("relays", "gil", "--offline")).toEqual([]);
  expect(addresses(await stage.run("relays", "gil", "--offline", "add", address!))).toEqual([address]);
  expect(addresses(await stage.run("relays", "gil", "--offline"))).toEqual([address]);
  expect(await second.stop()).toBe(0);
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

  test("an invite that has expired, said by the link alone", async () => {
    expect(await stage.fails(1, "connect", "ada", await linkOf([relayAddress], { agoMs: 2 * HOUR_MS }))).toBe(
      "invite/expired",
    );
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
    expect(await unreachable.exited).toBe(1);
    expect(unreachable.json).toMatchObject([{ error: { code: "net/unreachable" } }]);
  });

  test.skipIf(mayMount !== "")(`a disk that is full is said, and loses nothing${mayMount}`, async () => {
    const conversation = conversationOf("ada", "bo");
    const script = fileURLToPath(new URL("./full-disk.sh", import.meta.url));
    const running = new Running("unshare", [
      "-rm",
      "bash",
      script,
      stage.home("ada"),
      stage.home("small"),
      conversation,
    ]);
    expect({ code: await running.exited, stderr: running.stderr }).toEqual({ code: 0, stderr: "" });
    const full = { error: { code: "store/full", message: expect.any(String) as string } };
    const sent = running.json[2]!;
    expect(running.json.slice(0, 3)).toEqual([full, full, { id: expect.any(String) as string, state: "queued" }]);
    const texts = running.json.slice(3).map((message) => message["text"]);
    expect(texts.filter((text) => String(text).startsWith("disk "))).toEqual(["disk has room"]);
    expect(running.json.at(-1)).toMatchObject({ id: sent["id"], state: "queued" });
  });
});
