import { ACCOUNT, command, parseRelay, usage } from "../command.ts";
import { printable, table } from "../output.ts";
import { withPeer } from "../session.ts";

export const spec = command({
  name: "relays",
  summary: "List, add or remove the relays of this account",
  args: ["[add|remove]", "[ADDRESS]"],
  options: ACCOUNT,
  notes: [
    "Relays of yours hold messages while you are away. Contacts are told of a change.",
    "Prints the relays afterwards; --json prints {address, state} for each.",
  ],
  async run(input) {
    const [change, address] = input.args;
    if (change !== undefined && change !== "add" && change !== "remove") {
      throw usage("bad-value", "skein relays, skein relays add ADDRESS or skein relays remove ADDRESS");
    }
    if (change !== undefined && address === undefined) throw usage("missing-argument", "ADDRESS is missing");
    if (change === "add") parseRelay(address!);
    const { relays } = await withPeer(input, { catchUp: true }, async ({ peer }) => {
      if (change === "add") await peer.addRelay(address!);
      if (change === "remove") await peer.removeRelay(address!);
      return peer.status();
    });
    if (input.output.json) {
      for (const relay of relays) input.output.print(relay, () => "");
      return;
    }
    const rows = relays.map(({ address: at, state, reason }) => [at, state, printable(reason ?? "")]);
    input.output.print({}, () => (rows.length === 0 ? "None: skein relays add ADDRESS" : table(rows)));
  },
});
