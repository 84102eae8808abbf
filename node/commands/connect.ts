import { ACCOUNT, command } from "../command.ts";
import { printable } from "../output.ts";
import { withPeer } from "../session.ts";

const WAIT_MS = 20_000;

export const spec = command({
  name: "connect",
  summary: "Follow somebody's link",
  args: ["LINK"],
  options: ACCOUNT,
  notes: [
    "Waits up to 20 seconds for the other side; a later answer is picked up by the daemon.",
    "--json prints {contact, conversation, state}.",
  ],
  async run(input) {
    const { account, conversation, state, name, nickname } = await withPeer(input, { catchUp: false }, ({ peer }) =>
      peer.connect(input.args[0], { waitMs: WAIT_MS }),
    );
    input.output.print({ contact: account, conversation, state }, () =>
      state === "accepted"
        ? `You and ${printable(nickname ?? name)} can talk now:\n  skein send ${conversation} "hello"`
        : `Asked ${printable(nickname ?? name)}; the answer is awaited (${state}).`,
    );
  },
});
