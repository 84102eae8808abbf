/**
 * One peer over LevelDB and libp2p as a process of its own, to be killed. Obeys its parent over IPC and tells it everything that
 * happens, in the order in which it happens: what the parent has heard of is what was acknowledged.
 */
import type { ConversationId, EventId } from "#protocols/base/ids.ts";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import { createNodeNetwork } from "#src/net/node-network.ts";
import type { Message } from "#src/peer/face.ts";
import { createIdentity, startPeer } from "#src/peer/start.ts";
import { Failure } from "#src/runtime/failure.ts";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";

export type Question =
  | { readonly type: "invite" }
  | { readonly type: "connect"; readonly link: string }
  | { readonly type: "send"; readonly conversation: ConversationId; readonly text: string }
  | { readonly type: "look"; readonly conversation: ConversationId };

export type Answer = {
  readonly invite: string;
  readonly connect: ConversationId;
  readonly send: EventId;
  readonly look: {
    readonly messages: readonly Pick<Message, "id" | "author" | "text" | "state">[];
    readonly outbox: number;
    readonly parked: number;
  };
};

export type Told =
  | { readonly type: "ready" }
  | { readonly type: "answer"; readonly number: number; readonly value: unknown }
  | { readonly type: "shown"; readonly id: EventId };

const PAGE = 500;

const [folder = "", name = "", relay = ""] = process.argv.slice(2);
const tell = (told: Told): void => void process.send?.(told);

const home = {
  host: levelStoreHost(folder, { ballastBytes: 0 }),
  unlock: { platformKey: new Uint8Array(32).fill(name.length) },
  clock: systemClock,
  random: systemRandom,
  crypto: webCryptoSuite(globalThis.crypto.subtle),
};
// A life that was killed while it made its account has left one or none.
await createIdentity({ ...home, name, relays: [relay] }).catch((error: unknown) => {
  if (!(error instanceof Failure) || error.code !== "identity/exists") throw error;
});
const network = await createNodeNetwork({ listen: ["/ip4/127.0.0.1/tcp/0"] });
const peer = await startPeer({ ...home, network });

peer.watch((event) => {
  if (event.type === "message") tell({ type: "shown", id: event.message.id });
});

async function transcript(conversation: ConversationId): Promise<readonly Message[]> {
  const pages: (readonly Message[])[] = [];
  for (let before: EventId | undefined; ;) {
    const page = await peer.messages(conversation, { limit: PAGE, ...(before && { before }) });
    pages.unshift(page);
    if (page.length < PAGE) return pages.flat();
    before = page[0]!.id;
  }
}

async function answer(question: Question): Promise<unknown> {
  switch (question.type) {
    case "invite":
      return (await peer.createInvite()).link;
    case "connect":
      return (await peer.connect(question.link, { waitMs: 20_000 })).conversation;
    case "send":
      return (await peer.send(question.conversation, { text: question.text })).id;
    case "look": {
      const messages = await transcript(question.conversation);
      const { outbox, parked } = await peer.status();
      return { messages: messages.map(({ id, author, text, state }) => ({ id, author, text, state })), outbox, parked };
    }
  }
}

process.on("message", ({ number, question }: { number: number; question: Question }) => {
  void answer(question).then((value) => tell({ type: "answer", number, value }));
});
process.on("disconnect", () => process.exit());
tell({ type: "ready" });
