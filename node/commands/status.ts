import { ACCOUNT, command } from "../command.ts";
import { printable, short } from "../output.ts";
import { withPeer } from "../session.ts";

export const spec = command({
  name: "status",
  summary: "Show connections and queues",
  args: [],
  options: ACCOUNT,
  notes: ["--json prints {account, device, name, addresses, relays, conversations, outbox, parked}."],
  async run(input) {
    const { status, daemon } = await withPeer(input, { catchUp: true }, async (session) => ({
      status: await session.peer.status(),
      daemon: session.daemon !== undefined,
    }));
    input.output.print(status, () =>
      [
        `${printable(status.name)}  account ${short(status.account)}  ${daemon ? "daemon running" : "no daemon"}`,
        ...status.addresses.map((address) => `listening  ${address}`),
        ...status.relays.map(
          ({ address, state, reason }) =>
            `relay      ${address}  ${state}${reason === undefined ? "" : `: ${printable(reason)}`}`,
        ),
        ...status.conversations.map(({ conversation, path }) => `talk       ${short(conversation)}  ${path}`),
        `outbox ${status.outbox}, parked ${status.parked}`,
      ].join("\n"),
    );
  },
});
