import type { DeliveryState, Message } from "#src/peer/face.ts";
import { ACCOUNT, command, parseCount } from "../command.ts";
import { printable, time } from "../output.ts";
import { findConversation, withPeer } from "../session.ts";

const DEFAULT_LIMIT = "50";
/** What a terminal can hold; scripts page with the last id they have. */
const MAX_LIMIT = 10_000;

const MARKS: Readonly<Record<DeliveryState, string>> = {
  queued: "…",
  held: "·",
  delivered: "✓",
  read: "✓✓",
  failed: "✗",
};

export const spec = command({
  name: "messages",
  summary: "Show messages of a conversation",
  args: ["CONVERSATION"],
  options: {
    limit: { type: "string", value: "N", help: `the newest N (default ${DEFAULT_LIMIT})` },
    read: { type: "boolean", help: "mark them as read, which the other side is told" },
    ...ACCOUNT,
  },
  notes: [
    "Oldest first. Marks of your own: … queued, · held by a mailbox, ✓ delivered, ✓✓ read, ✗ failed.",
    "--json prints {id, author, text, sentAt, state, …} for each; sentAt is in milliseconds since 1970.",
  ],
  async run(input) {
    const limit = parseCount(input.values.limit ?? DEFAULT_LIMIT, "limit", { min: 1, max: MAX_LIMIT });
    await withPeer(input, { catchUp: true }, async ({ peer }) => {
      const conversation = await findConversation(peer, input.args[0]);
      const messages = await peer.messages(conversation, { limit });
      const names = new Map<string, string>([[peer.account, "you"]]);
      if (!input.output.json) {
        for (const { account, name, nickname } of await peer.contacts()) names.set(account, nickname ?? name);
      }
      for (const message of messages) {
        input.output.print(message, () =>
          line(message, names.get(message.author) ?? "somebody", message.author === peer.account),
        );
      }
      const newest = messages.at(-1);
      if (input.values.read === true && newest !== undefined) await peer.markRead(conversation, newest.id);
    });
  },
});

function line(message: Message, name: string, own: boolean): string {
  const mark = own ? ` ${MARKS[message.state]}` : "";
  return `${time(message.sentAt)}  ${printable(name)}: ${printable(message.text)}${mark}`;
}
