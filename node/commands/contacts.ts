import { ACCOUNT, command } from "../command.ts";
import { printable, short, table } from "../output.ts";
import { withPeer } from "../session.ts";

export const spec = command({
  name: "contacts",
  summary: "List the people you know",
  args: [],
  options: ACCOUNT,
  notes: ["--json prints {account, name, state} for each."],
  async run(input) {
    const contacts = await withPeer(input, { catchUp: true }, ({ peer }) => peer.contacts());
    if (input.output.json) {
      for (const { account, name, nickname, state } of contacts) {
        input.output.print({ account, name: nickname ?? name, state }, () => "");
      }
      return;
    }
    const rows = contacts.map(({ account, name, nickname, state, safetyNumber }) => [
      short(account),
      printable(nickname ?? name),
      state,
      safetyNumber,
    ]);
    input.output.print({}, () => (rows.length === 0 ? "Nobody yet: skein invite" : table(rows)));
  },
});
