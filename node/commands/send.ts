import type { EventId } from "#protocols/base/ids.ts";
import { ACCOUNT, command, usage } from "../command.ts";
import { findConversation, sendAndDeliver, withPeer } from "../session.ts";

export const spec = command({
  name: "send",
  summary: "Send a message",
  args: ["CONVERSATION", "TEXT"],
  options: { "reply-to": { type: "string", value: "ID", help: "the message this one answers" }, ...ACCOUNT },
  notes: [
    "CONVERSATION is an id, a unique beginning of one, or a title. TEXT that begins with a dash goes after --.",
    "The message is on the disk when this returns. Without a daemon it waits some seconds for somebody to hold it.",
    "--json prints {id, state}.",
  ],
  async run(input) {
    const [name, text] = input.args;
    const replyTo = input.values["reply-to"];
    if (text === "") throw usage("bad-value", "TEXT is empty");
    if (replyTo !== undefined && !/^[0-9a-f]{64}$/.test(replyTo))
      throw usage("bad-value", "--reply-to wants a message id");
    const { id, state } = await withPeer(input, { catchUp: false }, async (session) => {
      const conversation = await findConversation(session.peer, name);
      const message = { conversation, text, ...(replyTo !== undefined && { replyTo: replyTo as EventId }) };
      return sendAndDeliver(session, message, { wait: input.values.offline !== true });
    });
    input.output.print({ id, state }, () => state);
  },
});
