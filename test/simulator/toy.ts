/**
 * The smallest messenger that keeps every promise the checkers ask for, and the same with one bug each: it shows that the
 * simulator is passed by what is right and finds what is wrong. A relay queues for whoever is away; a message leaves the
 * outbox when its receipt came; what was seen before is not shown again.
 */
import { compareText, fromUtf8, toHex, utf8 } from "#protocols/base/bytes.ts";
import type { AccountId, ConversationId, EventId, TopicId } from "#protocols/base/ids.ts";
import type { Contact, Message, PeerEvent } from "#src/peer/face.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { FrameStream, Store, StoreHost, StoreOperation } from "#src/runtime/ports.ts";

import type { Environment, SimPeer, StartPeer, StartRelay } from "./world.ts";

export type ToyBug =
  /** `send` resolves before its commit is down. */
  | "acknowledges-early"
  /** Takes what it received off the relay before it is down. */
  | "receipts-early"
  | "forgets-ids"
  | "reuses-nonces"
  | "keeps-outbox"
  /** The two sides sort differently. */
  | "sorts-by-arrival"
  /** Waits for a real timer. */
  | "leaves-virtual-time"
  | "spins";

const PROTOCOL = "/skein/toy/1";
const SIGNATURE = new Uint8Array(64);
const RECONNECT_MS = 2_000;

type Item = {
  kind: "request" | "accept" | "message" | "receipt";
  id: string;
  from: string;
  to: string;
  at: number;
  text: string;
};
type Frame =
  | { t: "hello"; account: string }
  | { t: "put"; item: Item }
  | { t: "held"; id: string }
  | { t: "entry"; item: Item }
  | { t: "done"; id: string };
type Row = { item: Item; state: Message["state"]; arrived: number };

const bytes = (value: unknown): Uint8Array => utf8(JSON.stringify(value));
const parsed = <T>(data: Uint8Array): T => JSON.parse(fromUtf8(data) ?? "null") as T;
const put = (key: string, value: unknown): StoreOperation => ({ type: "put", key: utf8(key), value: bytes(value) });
const remove = (key: string): StoreOperation => ({ type: "delete", key: utf8(key) });

/** A store that comes back after a failure, and runs one change at a time. */
class ToyStore {
  #store: Promise<Store>;
  #last: Promise<unknown> = Promise.resolve();
  readonly #host: StoreHost;
  readonly #clock: Environment["clock"];

  constructor({ host, clock }: Environment) {
    this.#host = host;
    this.#clock = clock;
    this.#store = host.open();
  }

  ready(): Promise<unknown> {
    return this.#store;
  }

  async get<T>(key: string): Promise<T | undefined> {
    const value = await (await this.#store).get(utf8(key));
    return value === undefined ? undefined : parsed<T>(value);
  }

  async all<T>(prefix: string): Promise<T[]> {
    const rows: T[] = [];
    const range = { from: utf8(prefix), to: utf8(`${prefix}\x7f`) };
    for await (const [, value] of (await this.#store).entries(range)) rows.push(parsed<T>(value));
    return rows;
  }

  /** Reads, decides and writes with nobody in between. */
  change(body: () => Promise<StoreOperation[]>): Promise<void> {
    const result = this.#last.then(async () => {
      const operations = await body();
      if (operations.length > 0) await this.#commit(operations);
    });
    this.#last = result.catch(() => {});
    return result;
  }

  async #commit(operations: StoreOperation[]): Promise<void> {
    const store = await this.#store;
    try {
      await store.commit(operations);
    } catch (error) {
      await store.close();
      this.#store = this.#host.open();
      // Back off: a full disk stays full for a while.
      await new Promise<void>((resolve) => this.#clock.after(500, resolve));
      throw error;
    }
  }
}

export const startToyRelay: StartRelay = async (environment) => {
  const { network } = environment;
  const store = new ToyStore(environment);
  await store.ready();
  const clients = new Map<string, FrameStream>();
  const send = (account: string, frame: Frame): void => {
    clients.get(account)?.send(bytes(frame)).catch(ignoreClosed);
  };

  async function serve(stream: FrameStream, account: string): Promise<void> {
    clients.set(account, stream);
    for (const item of await store.all<Item>(`q/${account}/`)) send(account, { t: "entry", item });
    for (;;) {
      const data = await stream.receive();
      if (data === undefined) break;
      const frame = parsed<Frame>(data);
      if (frame.t === "put") {
        const { item } = frame;
        await store.change(async () => [put(`q/${item.to}/${item.id}`, item)]);
        send(account, { t: "held", id: item.id });
        send(item.to, { t: "entry", item });
      } else if (frame.t === "done") {
        await store.change(async () => [remove(`q/${account}/${frame.id}`)]);
      }
    }
    if (clients.get(account) === stream) clients.delete(account);
  }

  network.handle(PROTOCOL, (stream, peer) => {
    void (async () => {
      const hello = await stream.receive();
      if (hello === undefined) return;
      const frame = parsed<Frame>(hello);
      if (frame.t !== "hello") return stream.abort();
      network.gossip.join(frame.account as TopicId);
      for (const connection of network.connections()) network.gossip.reveal(frame.account as TopicId, connection.peer);
      for (const other of clients.keys()) network.gossip.reveal(other as TopicId, peer);
      await serve(stream, frame.account).catch((error: unknown) => {
        if (!(error instanceof Failure)) throw error;
        stream.abort();
      });
    })();
  });
  network.gossip.onEnvelope(async () => "accept");
};

/** @param bug - What is wrong with it. */
export function toyPeer(bug?: ToyBug): StartPeer {
  return async (environment) => {
    const toy = new Toy(environment, bug);
    await toy.start();
    return toy;
  };
}

class Toy implements SimPeer {
  account = "" as AccountId;
  readonly #store: ToyStore;
  readonly #env: Environment;
  readonly #bug: ToyBug | undefined;
  readonly #watchers = new Set<(event: PeerEvent) => void>();
  #stream: FrameStream | undefined;
  #telling: Promise<unknown> = Promise.resolve();
  #arrivals = 0;

  constructor(environment: Environment, bug: ToyBug | undefined) {
    this.#env = environment;
    this.#bug = bug;
    this.#store = new ToyStore(environment);
  }

  async start(): Promise<void> {
    await this.#store.ready();
    let account = await this.#store.get<string>("account");
    if (account === undefined) {
      account = toHex(this.#env.random(32));
      const made = account;
      await this.#store.change(async () => [put("account", made)]);
    }
    this.account = account as AccountId;
    this.#arrivals = (await this.#store.all("m/")).length;
    this.#env.network.gossip.onEnvelope(async (_topic, envelope) => {
      await this.#take(parsed<Item>(envelope.subarray(0, -SIGNATURE.length))).catch(ignoreFailure);
      return "accept";
    });
    void this.#connectForever();
    if (this.#bug === "spins") this.#spin();
  }

  async status(): ReturnType<SimPeer["status"]> {
    const outbox = (await this.#store.all("o/")).length;
    const device = this.account as unknown as Awaited<ReturnType<SimPeer["status"]>>["device"];
    return { account: this.account, device, name: "", addresses: [], relays: [], conversations: [], outbox, parked: 0 };
  }

  async createInvite(): Promise<{ link: string }> {
    return { link: this.account };
  }

  async connect(link: string): Promise<Contact> {
    const request = this.#item("request", link, "");
    await this.#store.change(async () => {
      if ((await this.#contact(link)) !== undefined) return [];
      return [put(`c/${link}`, this.#newContact(link, "requested")), put(`o/${request.id}`, request)];
    });
    this.#flush();
    return (await this.#contact(link))!;
  }

  contacts(): Promise<readonly Contact[]> {
    return this.#store.all<Contact>("c/");
  }

  async accept(account: AccountId): Promise<Contact> {
    return (await this.#contact(account))!;
  }

  async send(conversation: ConversationId, { text }: { text: string }): ReturnType<SimPeer["send"]> {
    if (this.#bug === "leaves-virtual-time") await new Promise((resolve) => setTimeout(resolve, 0));
    const to = conversation.split("-").find((account) => account !== this.account)!;
    const { crypto, random, network } = this.#env;
    const nonce = this.#bug === "reuses-nonces" ? new Uint8Array(12) : random(12);
    const key = this.#bug === "reuses-nonces" ? new Uint8Array(32) : random(32);
    await crypto.chacha20poly1305.seal({ key, nonce, data: utf8(text) });
    const item = this.#item("message", to, text);
    const row: Row = { item, state: "queued", arrived: this.#arrivals++ };
    const commit = this.#store.change(async () => [put(`m/${item.id}`, row), put(`o/${item.id}`, item)]);
    if (this.#bug === "acknowledges-early") commit.catch(ignoreFailure);
    else await commit;
    this.#tell({ t: "put", item });
    // Publishing takes part in a topic; the relay may know.
    network.gossip.join(to as TopicId);
    for (const { peer } of network.connections()) network.gossip.reveal(to as TopicId, peer);
    await network.gossip.publish(to as TopicId, new Uint8Array([...bytes(item), ...SIGNATURE]));
    return { id: item.id as EventId, state: "queued" };
  }

  async messages(conversation: ConversationId, options: { limit?: number; before?: EventId } = {}): Promise<Message[]> {
    const rows = (await this.#store.all<Row>("m/")).filter(
      ({ item }) => conversationOf(item.from, item.to) === conversation,
    );
    const byArrival = this.#bug === "sorts-by-arrival";
    rows.sort((a, b) =>
      byArrival ? a.arrived - b.arrived : a.item.at - b.item.at || compareText(a.item.id, b.item.id),
    );
    const end = options.before === undefined ? rows.length : rows.findIndex(({ item }) => item.id === options.before);
    return rows.slice(Math.max(0, end - (options.limit ?? 50)), end).map(messageOf);
  }

  async markRead(): Promise<void> {}

  watch(listener: (event: PeerEvent) => void): () => void {
    this.#watchers.add(listener);
    return () => this.#watchers.delete(listener);
  }

  #spin(): void {
    this.#env.clock.after(0, () => this.#spin());
  }

  #id(): string {
    return toHex(this.#env.random(16));
  }

  #item(kind: Item["kind"], to: string, text: string, id = this.#id()): Item {
    return { kind, id, from: this.account, to, at: this.#env.clock.now(), text };
  }

  #contact(account: string): Promise<Contact | undefined> {
    return this.#store.get<Contact>(`c/${account}`);
  }

  #newContact(account: string, state: Contact["state"]): Contact {
    const conversation = conversationOf(this.account, account);
    return { account: account as AccountId, name: "", state, conversation, addedAt: 0, safetyNumber: "" };
  }

  async #connectForever(): Promise<void> {
    const { network, clock, relays } = this.#env;
    for (;;) {
      try {
        const relay = await network.connect(relays[0]!);
        const stream = await network.openStream(relay, PROTOCOL);
        network.gossip.join(this.account as unknown as TopicId);
        network.gossip.reveal(this.account as unknown as TopicId, relay);
        await stream.send(bytes({ t: "hello", account: this.account }));
        this.#stream = stream;
        this.#flush();
        for (let data = await stream.receive(); data !== undefined; data = await stream.receive()) {
          await this.#hear(parsed<Frame>(data));
        }
      } catch (error) {
        if (!(error instanceof Failure)) throw error;
        this.#stream?.abort();
      }
      this.#stream = undefined;
      await new Promise<void>((resolve) => clock.after(RECONNECT_MS, resolve));
    }
  }

  async #hear(frame: Frame): Promise<void> {
    if (frame.t === "entry") {
      if (this.#bug === "receipts-early") this.#tell({ t: "done", id: frame.item.id });
      await this.#take(frame.item);
      this.#tell({ t: "done", id: frame.item.id });
    } else if (frame.t === "held") {
      await this.#store.change(async () => {
        const item = await this.#store.get<Item>(`o/${frame.id}`);
        return item === undefined || item.kind === "message" ? [] : [remove(`o/${frame.id}`)];
      });
    }
  }

  /** Everything that arrives, by whatever way and however often. */
  async #take(item: Item): Promise<void> {
    let shown: Row | undefined;
    let answer: Item | undefined;
    await this.#store.change(async () => {
      const known = await this.#contact(item.from);
      switch (item.kind) {
        case "request":
          answer = this.#item("accept", item.from, "");
          return [put(`c/${item.from}`, this.#newContact(item.from, "accepted")), put(`o/${answer.id}`, answer)];
        case "accept":
          return known === undefined ? [] : [put(`c/${item.from}`, { ...known, state: "accepted" })];
        case "receipt": {
          const row = await this.#store.get<Row>(`m/${item.text}`);
          const told = row === undefined ? [] : [put(`m/${item.text}`, { ...row, state: "delivered" })];
          return this.#bug === "keeps-outbox" ? told : [...told, remove(`o/${item.text}`)];
        }
        case "message": {
          const forgets = this.#bug === "forgets-ids";
          answer = this.#item("receipt", item.from, item.id, `r${item.id}`);
          const receipt = put(`o/${answer.id}`, answer);
          if (!forgets && (await this.#store.get(`m/${item.id}`)) !== undefined) return [receipt];
          shown = { item, state: "delivered", arrived: this.#arrivals++ };
          return [put(`m/${item.id}${forgets ? `-${shown.arrived}` : ""}`, shown), receipt];
        }
      }
    });
    if (shown !== undefined)
      for (const listener of this.#watchers) listener({ type: "message", message: messageOf(shown) });
    if (answer !== undefined) this.#tell({ t: "put", item: answer });
  }

  /** In order, and not faster than the stream takes it. */
  #tell(frame: Frame): void {
    const stream = this.#stream;
    this.#telling = this.#telling.then(() => stream?.send(bytes(frame))).catch(ignoreClosed);
  }

  /** Puts all that waits. */
  #flush(): void {
    void this.#store.all<Item>("o/").then((waiting) => {
      for (const item of waiting) this.#tell({ t: "put", item });
    }, ignoreFailure);
  }
}

function conversationOf(a: string, b: string): ConversationId {
  return [a, b].toSorted().join("-") as ConversationId;
}

function messageOf({ item, state }: Row): Message {
  return {
    id: item.id as EventId,
    conversation: conversationOf(item.from, item.to),
    author: item.from as AccountId,
    text: item.text,
    sentAt: item.at,
    state,
  };
}

/** The stream went; the item is in the outbox and goes with the next one. */
function ignoreClosed(error: unknown): void {
  if (!(error instanceof Failure) || error.code !== "net/stream-closed") throw error;
}

/** The store failed; it is opened anew, and what was not written comes again. */
function ignoreFailure(error: unknown): void {
  if (!(error instanceof Failure)) throw error;
}
