import { ACCOUNT, command } from "../command.ts";
import { printable, short, table } from "../output.ts";
import { withPeer } from "../session.ts";

export const spec = command({
  name: "conversations",
  summary: "List conversations",
  args: [],
  options: ACCOUNT,
  notes: ["--json prints {conversation, kind, title, unread} for each."],
  async run(input) {
    const all = await withPeer(input, { catchUp: true }, ({ peer }) => peer.conversations());
    if (input.output.json) {
      for (const { conversation, kind, title, unread } of all) {
        input.output.print({ conversation, kind, title, unread }, () => "");
      }
      return;
    }
    const rows = all.map(({ conversation, kind, title, unread }) => [
      short(conversation),
      kind,
      printable(title),
      unread === 0 ? "" : `${unread} unread`,
    ]);
    input.output.print({}, () => (rows.length === 0 ? "None yet: skein invite, or skein connect LINK" : table(rows)));
  },
});
