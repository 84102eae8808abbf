/**
 * The mailboxes this peer uses: its own relays, where it listens, and those of its contacts, where it deposits. One client a
 * mailbox; which conversations need it is counted, and the last one to go closes it.
 */
import type { AccountId, EnvelopeId, TopicId } from "#protocols/base/ids.ts";
import { type OrReject, reject } from "#protocols/base/reject.ts";
import type { Direct } from "#protocols/conversation/direct.ts";
import type { TopicKeys } from "#protocols/envelope/envelope.ts";
import { MailboxClient } from "#src/mailbox/client.ts";
import type { RelayState } from "./face.ts";
import { cursorTable } from "./tables.ts";
import type { World } from "./world.ts";

/** Mailboxes connected at once: three of one's own, and those of contacts. Above it the contacts' latest are left out. */
const MAX_MAILBOXES = 16;

export type MailboxHandlers = {
  /** Resolves when all of it is committed or refused for good. */
  readonly envelopes: (envelopes: readonly Uint8Array[]) => Promise<void>;
  readonly deposits: (deposits: readonly Uint8Array[]) => Promise<void>;
  readonly seen: (id: EnvelopeId) => boolean | Promise<boolean>;
  readonly custody: (mailbox: string, ids: readonly EnvelopeId[], until: number) => void;
  readonly refused: (mailbox: string, id: EnvelopeId, code: string) => void;
  readonly opened: (address: string) => void;
  readonly closed: (address: string) => void;
  /** A mailbox that is open already carries this conversation from now on. */
  readonly reached: (account: AccountId) => void;
};

type Mailbox = {
  readonly address: string;
  readonly client: MailboxClient;
  /** Contacts whose conversation is carried here; our own relays need none. */
  readonly users: Set<AccountId>;
  state: RelayState;
  reason: string | undefined;
  /** Topics read to their end on this connection. */
  readonly caughtUp: Set<TopicId>;
  /** Topics asked for. */
  readonly topics: Map<TopicId, AccountId>;
  /** Their clock when they last said, and ours that does not jump at that moment, milliseconds. */
  told: { readonly now: number; readonly at: number } | undefined;
};

export class Mailboxes {
  readonly #world: World;
  readonly #handlers: MailboxHandlers;
  readonly #boxes = new Map<string, Mailbox>();
  #own: readonly string[] = [];
  #stopped = false;

  constructor(world: World, handlers: MailboxHandlers) {
    this.#world = world;
    this.#handlers = handlers;
  }

  /** Our own relays, as the settings name them. */
  setOwn(relays: readonly string[]): void {
    const gone = this.#own.filter((address) => !relays.includes(address));
    this.#own = relays;
    for (const address of relays) this.#open(address);
    for (const address of gone) this.#closeUnused(address);
  }

  get own(): readonly string[] {
    return this.#own;
  }

  list(): readonly { readonly address: string; readonly state: RelayState; readonly reason?: string }[] {
    return [...this.#boxes.values()].map(({ address, state, reason }) => ({
      address,
      state,
      ...(reason !== undefined && { reason }),
    }));
  }

  /** Where a conversation is carried: our relays and theirs. */
  addressesFor(direct: Direct): readonly string[] {
    return [...new Set([...this.#own, ...direct.relays, ...(direct.redemption?.relays ?? [])])];
  }

  /** Sees to it that the mailboxes of this conversation are connected and hear its topics. */
  carry(direct: Direct, topics: readonly TopicKeys[]): void {
    const account = direct.contact;
    const addresses = this.addressesFor(direct);
    for (const address of addresses) {
      const box = this.#open(address);
      if (box === undefined) continue;
      for (const keys of topics) this.#subscribe(box, account, keys);
      if (box.users.has(account)) continue;
      box.users.add(account);
      if (box.state === "open") this.#handlers.reached(account);
    }
    for (const box of this.#boxes.values()) {
      if (!addresses.includes(box.address) && box.users.delete(account)) this.#closeUnused(box.address);
    }
  }

  drop(topics: readonly TopicId[]): void {
    for (const { client, ...box } of this.#boxes.values()) {
      for (const topic of topics) {
        client.unsubscribe(topic);
        box.topics.delete(topic);
        box.caughtUp.delete(topic);
      }
    }
  }

  /** Whether every mailbox of this conversation is open and read to its end, so that nothing lies there unseen. */
  caughtUp(account: AccountId): boolean {
    const boxes = [...this.#boxes.values()].filter(({ users }) => users.has(account));
    return boxes.length > 0 && boxes.every(isRead);

    function isRead({ state, topics, caughtUp }: Mailbox): boolean {
      return state === "open" && [...topics].every(([topic, user]) => user !== account || caughtUp.has(topic));
    }
  }

  /** Our own relays that are connected. */
  ownOpen(): readonly MailboxClient[] {
    return this.#own
      .map((address) => this.#boxes.get(address))
      .filter((box) => box?.state === "open")
      .map((box) => box!.client);
  }

  openFor(direct: Direct): readonly MailboxClient[] {
    return this.addressesFor(direct)
      .map((address) => this.#boxes.get(address))
      .filter((box) => box?.state === "open")
      .map((box) => box!.client);
  }

  isOpen(direct: Direct): boolean {
    return this.openFor(direct).length > 0;
  }

  /** Whether a mailbox that carries the conversation with `account` is open. */
  carries(account: AccountId): boolean {
    return [...this.#boxes.values()].some(({ state, users }) => state === "open" && users.has(account));
  }

  /** Contacts whose conversation is carried by the mailbox at `address`. */
  usersOf(address: string): ReadonlySet<AccountId> {
    return this.#boxes.get(address)?.users ?? new Set();
  }

  /** The client of one address, connecting when it must. */
  client(address: string): MailboxClient | undefined {
    return this.#open(address)?.client;
  }

  /**
   * Network time: the median of our clock and what the mailboxes said, carried on by the clock that does not jump. Of two
   * middle ones the mailbox's: with a single relay a clock that is a year off still finds its topics.
   */
  now(): number {
    const { clock } = this.#world;
    const own = clock.now();
    const told = [...this.#boxes.values()].map((box) => box.told).filter((said) => said !== undefined);
    const times = [own, ...told.map(({ now, at }) => now + clock.monotonic() - at)].toSorted((a, b) => a - b);
    const upper = times[times.length >> 1] ?? own;
    const lower = times[(times.length - 1) >> 1] ?? own;
    return Math.round(Math.abs(lower - own) > Math.abs(upper - own) ? lower : upper);
  }

  stop(): void {
    this.#stopped = true;
    for (const { client } of this.#boxes.values()) client.stop();
    this.#boxes.clear();
  }

  /** What the mailbox at `address` says of a deposit. @returns Rejects of the mailbox, or `sync/…`. */
  async deposit(address: string, deposit: Uint8Array): Promise<OrReject<{ readonly until: number }>> {
    const client = this.client(address);
    return client ? client.deposit(deposit) : reject("sync/not-open");
  }

  #subscribe(box: Mailbox, account: AccountId, keys: TopicKeys): void {
    if (box.topics.has(keys.id)) return;
    box.topics.set(keys.id, account);
    const key = `${box.address}/${keys.id}`;
    const { driver } = this.#world;
    void driver
      .read((tx) => tx.get(cursorTable, key))
      .then(
        (cursor) => box.client.subscribe({ id: keys.id, seed: keys.seed }, cursor),
        // A store that cannot be read now is told elsewhere; from the start is right, only longer.
        () => box.client.subscribe({ id: keys.id, seed: keys.seed }),
      );
  }

  #closeUnused(address: string): void {
    const box = this.#boxes.get(address);
    if (box === undefined || box.users.size > 0 || this.#own.includes(address)) return;
    this.#boxes.delete(address);
    box.client.stop();
  }

  #open(address: string): Mailbox | undefined {
    const known = this.#boxes.get(address);
    if (known) return known;
    if (this.#stopped || this.#boxes.size >= MAX_MAILBOXES) return undefined;
    const { network, clock, random, crypto, driver } = this.#world;
    const handlers = this.#handlers;
    const client = new MailboxClient({
      network,
      clock,
      random,
      crypto,
      address,
      handlers: {
        entries: async (topic, log, items, cursor) => {
          await handlers.envelopes(items.map(({ envelope }) => envelope));
          // After the entries' own commits: a crash between them brings the entries again, which changes nothing.
          if (cursor !== undefined)
            await driver.run([], async (tx) => tx.put(cursorTable, `${address}/${topic}`, { log, n: cursor }));
        },
        seen: handlers.seen,
        custody: ({ ids, until, mailbox }) => handlers.custody(mailbox, ids, until),
        rejected: (id, code) => handlers.refused(address, id, code),
        deposits: (items) => handlers.deposits(items.map(({ deposit }) => deposit)),
        caughtUp: (topic) => void box.caughtUp.add(topic),
        networkTime: (ms) => {
          box.told = { now: ms, at: clock.monotonic() };
        },
        state: (state, reason) => {
          const before = box.state;
          box.state = state;
          box.reason = reason;
          if (before === state) return;
          if (before === "open") box.caughtUp.clear();
          this.#world.tell({ type: "relay", address, state });
          if (state === "open") handlers.opened(address);
          else if (before === "open") handlers.closed(address);
        },
      },
    });
    const box: Mailbox = {
      address,
      client,
      users: new Set(),
      state: "connecting",
      reason: undefined,
      caughtUp: new Set(),
      topics: new Map(),
      told: undefined,
    };
    this.#boxes.set(address, box);
    client.start();
    return box;
  }
}
