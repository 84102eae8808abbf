import { ACCOUNT, command, parseCount, parseDuration } from "../command.ts";
import { withPeer } from "../session.ts";

/** An invite has prekeys of its own, which live as long as it does; more uses or a longer life cost the relay's patience. */
const MAX_USES = 1_000;

export const spec = command({
  name: "invite",
  summary: "Make a link by which somebody can reach you",
  args: [],
  options: {
    uses: { type: "string", value: "N", help: "how many people may use it (default 1)" },
    expires: { type: "string", value: "7d", help: "how long it is good: 30m, 12h, 7d, 2w (default 7d)" },
    ...ACCOUNT,
  },
  notes: [
    "Whoever has the link can ask to be your contact. Hand it over where nobody else reads.",
    "--json prints {link}.",
  ],
  async run(input) {
    const { values, output } = input;
    const options = {
      ...(values.uses !== undefined && { uses: parseCount(values.uses, "uses", { min: 1, max: MAX_USES }) }),
      ...(values.expires !== undefined && { expiresInMs: parseDuration(values.expires, "expires") }),
    };
    const { link } = await withPeer(input, { catchUp: true }, ({ peer }) => peer.createInvite(options));
    output.print({ link }, () => link);
  },
});
