/**
 * What must hold (DESIGN section 12), asked of what the surviving peers show. Each checker counts what it looked at: one that
 * looked at nothing has found nothing out, and that is a violation too.
 */
import type { ConversationId } from "#protocols/base/ids.ts";
import type { Message, Status } from "#src/peer/face.ts";

import { MAX_FRAME_BYTES, WINDOW_BYTES } from "./stream.ts";
import type { Workload } from "./workload.ts";
import type { Machine, SimPeer, World } from "./world.ts";

/** Rows of an outbox that are not messages: requests, answers, receipts, announcements; a few for each contact. */
const OUTBOX_PER_CONTACT = 64;
/** Envelopes that wait for what they depend on, over all topics of one peer. */
const MAX_PARKED = 1_000;
/** Bytes a sender gave a stream that had no room. Some frames sent together may; who ignores back-pressure gets beyond. */
const MAX_UNSENT_BYTES = 2_097_152;
/** Events that wait in the whole world: timers of some peers, packets on their way. */
const MAX_WAITING_EVENTS = 200_000;
/** Messages of one page of a transcript. */
const PAGE = 200;
/** Messages that are told apart in the report; the rest is only counted. */
const MAX_TOLD = 20;

export type Verdict = { readonly name: string; readonly checked: number; readonly violations: readonly string[] };

type Transcript = { readonly peer: number; readonly messages: readonly Message[] };

export class Checkers {
  readonly #world: World;
  readonly #workload: Workload;
  #samples = 0;
  readonly #outOfBounds: string[] = [];

  constructor(world: World, workload: Workload) {
    this.#world = world;
    this.#workload = workload;
  }

  /** Looks at the queues of whoever answers now. */
  async sample(): Promise<void> {
    for (const machine of this.#world.peers) {
      if (this.#world.usable(machine) === undefined) continue;
      const status = await this.#world.ask(machine, (face) => face.status());
      if (status !== undefined) this.#bounds(machine, status);
    }
  }

  /** Whether everything has arrived: the run may end before its time for settling is over. */
  async settled(): Promise<boolean> {
    const { peers } = this.#world;
    if (!this.#workload.allMet || peers.some((machine) => this.#world.usable(machine) === undefined)) return false;
    for (const machine of peers) {
      const status = await this.#world.ask(machine, (face) => face.status());
      if (status === undefined || status.outbox > 0 || status.parked > 0) return false;
    }
    return (await this.verdicts()).every(({ violations }) => violations.length === 0);
  }

  async verdicts(): Promise<Verdict[]> {
    const transcripts = await this.#transcripts();
    const { ledger, internet, scheduler } = this.#world;
    const unread = internet.deepestStream > WINDOW_BYTES + MAX_FRAME_BYTES;
    const unsent = internet.deepestUnsent > MAX_UNSENT_BYTES;
    return [
      this.#met(),
      this.#lost(transcripts),
      this.#twice(transcripts),
      this.#equal(transcripts),
      this.#receipted(transcripts),
      await this.#drained(),
      { name: "nonces", checked: ledger.seals, violations: ledger.violations },
      {
        name: "bounds",
        checked: this.#samples,
        violations: [
          ...this.#outOfBounds,
          ...(unsent ? [`a sender went on while ${internet.deepestUnsent} bytes waited for room`] : []),
          ...(unread ? [`a stream held ${internet.deepestStream} unread bytes`] : []),
          ...(scheduler.highWater > MAX_WAITING_EVENTS ? [`${scheduler.highWater} events waited at once`] : []),
        ],
      },
    ];
  }

  #bounds(machine: Machine<SimPeer>, status: Status): void {
    this.#samples++;
    const { node } = machine.process;
    const own = this.#workload.sent.filter((sent) => sent.from === node).length;
    const outbox = own + OUTBOX_PER_CONTACT * this.#world.peers.length;
    if (status.outbox > outbox) this.#outOfBounds.push(`${machine.name} has ${status.outbox} rows in its outbox`);
    if (status.parked > MAX_PARKED) this.#outOfBounds.push(`${machine.name} parked ${status.parked} envelopes`);
  }

  #name(peer: number): string {
    return this.#world.peers[peer]?.name ?? `peer ${peer}`;
  }

  async #transcripts(): Promise<Map<string, Transcript>> {
    const transcripts = new Map<string, Transcript>();
    for (const pair of this.#workload.pairs) {
      for (const [peer, conversation] of pair.conversations) {
        const machine = this.#world.peers[peer];
        if (machine === undefined) continue;
        const messages = await this.#world.ask(machine, (face) => wholeTranscript(face, conversation));
        if (messages !== undefined) transcripts.set(`${peer}/${conversation}`, { peer, messages });
      }
    }
    return transcripts;
  }

  /** Every two who wanted to meet see each other as accepted, in one conversation. */
  #met(): Verdict {
    const violations: string[] = [];
    for (const { a, b, conversations } of this.#workload.pairs) {
      if (conversations.size === 0) violations.push(`${this.#name(a)} and ${this.#name(b)} never met`);
      else if (conversations.get(a) !== conversations.get(b)) {
        violations.push(`${this.#name(a)} and ${this.#name(b)} have two conversations`);
      }
    }
    return { name: "met", checked: this.#workload.pairs.length, violations };
  }

  /** Nothing acknowledged is lost: a `send` that resolved is in both transcripts, with its text. */
  #lost(transcripts: ReadonlyMap<string, Transcript>): Verdict {
    const violations: string[] = [];
    let checked = 0;
    const indexed = new Map(
      [...transcripts].map(([key, { messages }]) => [key, new Map(messages.map((m) => [m.id, m]))]),
    );
    for (const { id, from, to, conversation, text, acknowledgedAtUs = 0 } of this.#workload.acknowledged) {
      for (const side of [from, to]) {
        checked++;
        const message = id === undefined ? undefined : indexed.get(`${side}/${conversation}`)?.get(id);
        if (message?.text === text) continue;
        const what = message === undefined ? "is missing" : "has another text";
        const at = (acknowledgedAtUs / 60e6).toFixed(2);
        violations.push(
          `a message of ${this.#name(from)}, acknowledged at minute ${at}, ${what} at ${this.#name(side)}`,
        );
      }
    }
    return { name: "nothing-lost", checked, violations };
  }

  /** Nothing is shown twice, and nothing that nobody said. */
  #twice(transcripts: ReadonlyMap<string, Transcript>): Verdict {
    const violations = [...this.#workload.shownTwice];
    let checked = 0;
    const said = new Map(this.#workload.sent.map((sent) => [sent.text, sent]));
    for (const { peer, messages } of transcripts.values()) {
      const ids = new Set<string>();
      const texts = new Set<string>();
      for (const { id, text, author } of messages) {
        checked++;
        const sent = said.get(text);
        if (ids.has(id) || texts.has(text)) violations.push(`${this.#name(peer)} shows a message twice`);
        if (sent === undefined || this.#workload.account(sent.from) !== author) {
          violations.push(`${this.#name(peer)} shows a message that its author never sent`);
        }
        ids.add(id);
        texts.add(text);
      }
    }
    return { name: "nothing-twice", checked, violations };
  }

  /** Both sides see the same messages in the same order. */
  #equal(transcripts: ReadonlyMap<string, Transcript>): Verdict {
    const violations: string[] = [];
    let checked = 0;
    for (const { a, b, conversations } of this.#workload.pairs) {
      if (conversations.size === 0) continue;
      const one = transcripts.get(`${a}/${conversations.get(a)}`);
      const other = transcripts.get(`${b}/${conversations.get(b)}`);
      if (one === undefined || other === undefined) {
        violations.push(`no transcript of ${this.#name(a)} and ${this.#name(b)}`);
        continue;
      }
      checked++;
      if (one.messages.map(shown).join() !== other.messages.map(shown).join()) {
        const counts = `${one.messages.length} and ${other.messages.length}`;
        violations.push(`${this.#name(a)} and ${this.#name(b)} see different transcripts (${counts} messages)`);
      }
    }
    return { name: "equal-transcripts", checked, violations };
  }

  /** Authors know that what arrived has arrived. */
  #receipted(transcripts: ReadonlyMap<string, Transcript>): Verdict {
    const violations: string[] = [];
    let checked = 0;
    for (const { peer, messages } of transcripts.values()) {
      for (const { author, state } of messages) {
        if (author !== this.#workload.account(peer)) continue;
        checked++;
        if (state !== "delivered" && state !== "read")
          violations.push(`${this.#name(peer)} still has a message ${state}`);
      }
    }
    return { name: "receipted", checked, violations };
  }

  /** After everything arrived nothing waits in outboxes or parking. */
  async #drained(): Promise<Verdict> {
    const violations: string[] = [];
    let checked = 0;
    for (const machine of this.#world.peers) {
      const status = await this.#world.ask(machine, (face) => face.status());
      if (status === undefined) {
        violations.push(`${machine.name} does not answer`);
        continue;
      }
      checked++;
      if (status.outbox > 0) violations.push(`${machine.name} still has ${status.outbox} rows in its outbox`);
      if (status.parked > 0) violations.push(`${machine.name} still parks ${status.parked} envelopes`);
    }
    return { name: "drained", checked, violations };
  }
}

/** One line a violation, not too many of a kind; a checker that saw nothing is a violation. */
export function told(verdicts: readonly Verdict[]): string[] {
  return verdicts.flatMap(({ name, checked, violations }) => {
    if (checked === 0) return [`${name}: nothing was checked`];
    const rest = violations.length - MAX_TOLD;
    const lines = violations.slice(0, MAX_TOLD).map((violation) => `${name}: ${violation}`);
    return rest > 0 ? [...lines, `${name}: and ${rest} more`] : lines;
  });
}

function shown({ id, author, text }: Message): string {
  return `${id}/${author}/${text.length}`;
}

async function wholeTranscript(face: SimPeer, conversation: ConversationId): Promise<Message[]> {
  let messages: Message[] = [];
  for (;;) {
    const first = messages[0];
    const page = await face.messages(
      conversation,
      first === undefined ? { limit: PAGE } : { limit: PAGE, before: first.id },
    );
    messages = [...page, ...messages];
    if (page.length < PAGE) return messages;
  }
}
