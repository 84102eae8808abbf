/** Two processes talk through a relay and directly; one after the other is killed in the middle of it (SIGKILL). */
import { type ChildProcess, fork } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, expect, test } from "vitest";

import type { ConversationId, EventId } from "#protocols/base/ids.ts";
import { type Relay, startRelay } from "#relay/relay.ts";
import { Dice } from "#test/simulator/random.ts";

import type { Answer, Question, Told } from "./peer-child.ts";

const LONG = process.env["SKEIN_LONG"] === "1";
const KILLS = LONG ? 200 : 20;
/** A victim dies at one of so many things it tells in a life: from its first words to the middle of a conversation. */
const KILLED_WITHIN = 60;
/** Messages on their way to the disk at once, of each. */
const SENDS_AT_ONCE = 4;
/** Of the survivor, while the other dies and comes up. The victim sends until it dies. */
const SENDS_PER_LIFE = 40;
/** Two cores and other tests before us: only a hang meets it. */
const DEADLINE_MS = 60_000;
/** Between two looks at whether everything has arrived: each reads two whole transcripts. */
const LOOK_MS = 100;

const folder = mkdtempSync(join(tmpdir(), "skein-kill-"));
const children = new Set<ChildProcess>();
let relay: Relay;

beforeAll(async () => {
  relay = await startRelay({ home: join(folder, "relay"), dev: true, stun: false });
});

afterAll(async () => {
  for (const child of children) child.kill("SIGKILL");
  await relay.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** One life of one process. */
class Life {
  readonly ready: Promise<void>;
  readonly dead: Promise<void>;
  readonly shown = new Set<EventId>();
  shownTwice = 0;
  told = 0;
  #killAt = Number.POSITIVE_INFINITY;
  #number = 0;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (value: unknown) => void>();

  constructor(name: string, address: string) {
    const script = new URL("./peer-child.ts", import.meta.url);
    const child = fork(script, [join(folder, name), name, address], {
      execArgv: ["--disable-warning=ExperimentalWarning"],
    });
    this.#child = child;
    children.add(child);
    const ready = Promise.withResolvers<void>();
    const dead = Promise.withResolvers<void>();
    this.ready = ready.promise;
    this.dead = dead.promise;
    child.once("close", (code, signal) => {
      children.delete(child);
      if (signal === "SIGKILL") dead.resolve();
      else dead.reject(new Error(`${name} ended by itself, code ${code}`));
    });
    child.on("message", (told: Told) => {
      this.told++;
      if (told.type === "ready") ready.resolve();
      if (told.type === "shown") {
        if (this.shown.has(told.id)) this.shownTwice++;
        this.shown.add(told.id);
      }
      if (told.type === "answer") this.#waiting.get(told.number)?.(told.value);
      this.#killWhenDue();
    });
  }

  /** Kills it at the `count`-th thing it tells from now on. */
  killAfter(count: number): void {
    this.#killAt = this.told + count;
  }

  #killWhenDue(): void {
    if (this.told >= this.#killAt) this.#child.kill("SIGKILL");
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  /** Never answered by a process that dies. */
  ask<T extends Question["type"]>(question: Extract<Question, { type: T }>): Promise<Answer[T]> {
    const number = this.#number++;
    return new Promise((resolve) => {
      this.#waiting.set(number, (value) => resolve(value as Answer[T]));
      if (this.#child.connected) this.#child.send({ number, question });
    });
  }
}

/** One of the two, over all its lives. */
class Talker {
  readonly name: string;
  readonly acknowledged: { readonly id: EventId; readonly text: string }[] = [];
  life: Life;
  shownTwice = 0;
  #texts = 0;

  constructor(name: string) {
    this.name = name;
    this.life = new Life(name, relay.addresses[0]!);
  }

  reborn(): void {
    this.shownTwice += this.life.shownTwice;
    this.life = new Life(this.name, relay.addresses[0]!);
  }

  /** Sends with some in flight until `count` are acknowledged, or for ever into a life that ends. */
  async talk(conversation: ConversationId, count: number): Promise<void> {
    const { life } = this;
    let left = count;
    const line = async (): Promise<void> => {
      while (left-- > 0) {
        const text = `${this.name} says ${this.#texts++}`;
        const id = await life.ask<"send">({ type: "send", conversation, text });
        this.acknowledged.push({ id, text });
      }
    };
    await Promise.all(Array.from({ length: SENDS_AT_ONCE }, line));
  }
}

async function within<T>(what: string, work: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`deadline: ${what}`)), DEADLINE_MS);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

test(
  `${KILLS} times killed: what was acknowledged is on both sides, once, in one order`,
  async () => {
    const dice = new Dice(7, "peer-kill");
    const alice = new Talker("alice");
    const bob = new Talker("bob");
    const both = [alice, bob] as const;
    await within("ready", Promise.all([alice.life.ready, bob.life.ready]));
    const link = await alice.life.ask<"invite">({ type: "invite" });
    const conversation = await within("connected", bob.life.ask<"connect">({ type: "connect", link }));

    for (let kill = 0; kill < KILLS; kill++) {
      const [victim, survivor] = dice.chance(0.5) ? [alice, bob] : [bob, alice];
      victim.life.killAfter(1 + dice.below(KILLED_WITHIN));
      // Of the last sends of a life nobody hears; whether they happened shows in the end.
      void victim.talk(conversation, Number.POSITIVE_INFINITY);
      const talked = survivor.talk(conversation, SENDS_PER_LIFE);
      await within(`kill ${kill}`, Promise.race([victim.life.dead, survivor.life.dead]));
      victim.reborn();
      await within(`restart ${kill}`, Promise.all([victim.life.ready, talked]));
    }

    const look = () => Promise.all(both.map(({ life }) => life.ask<"look">({ type: "look", conversation })));
    const deadline = performance.now() + DEADLINE_MS;
    let [a, b] = (await within("looking", look())) as [Answer["look"], Answer["look"]];
    const settled = (): boolean =>
      a.outbox === 0 && b.outbox === 0 && a.messages.length === b.messages.length && a.parked === 0 && b.parked === 0;
    while (!settled() && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      [a, b] = (await within("looking", look())) as [typeof a, typeof b];
    }

    expect({ alice: [a.outbox, a.parked], bob: [b.outbox, b.parked] }).toEqual({ alice: [0, 0], bob: [0, 0] });
    const told = ({ messages }: Answer["look"]) => messages.map(({ id, author, text }) => ({ id, author, text }));
    expect(told(a)).toEqual(told(b));
    expect(new Set(a.messages.map(({ text }) => text)).size).toBe(a.messages.length);
    const there = new Map(a.messages.map(({ id, text }) => [id, text]));
    const acknowledged = both.flatMap((talker) => talker.acknowledged);
    expect(acknowledged.filter(({ id, text }) => there.get(id) !== text)).toEqual([]);
    expect(acknowledged.length).toBeGreaterThan(KILLS * SENDS_PER_LIFE);
    // Kills did land between commit and answer.
    expect(a.messages.length).toBeGreaterThan(acknowledged.length);
    for (const talker of both) expect(talker.shownTwice + talker.life.shownTwice).toBe(0);
    for (const { life } of both) {
      life.kill();
      await life.dead;
    }
  },
  LONG ? 1_800_000 : 240_000,
);
