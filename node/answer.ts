import type { AccountId } from "#protocols/base/ids.ts";
import { ACCOUNT, command, type Command, usage } from "./command.ts";
import { withPeer } from "./session.ts";

/** The two answers to somebody who asked. */
export function answerTo(answer: "accept" | "decline", summary: string): Command {
  return command({
    name: answer,
    summary,
    args: ["ACCOUNT"],
    options: ACCOUNT,
    notes: ["--json prints {account, name, state}."],
    async run(input) {
      const [text] = input.args;
      if (!/^[0-9a-f]{64}$/.test(text))
        throw usage("bad-value", "ACCOUNT is 64 hexadecimal digits: skein contacts --json");
      const contact = await withPeer(input, { catchUp: true }, ({ peer }) => peer[answer](text as AccountId));
      const { account, name, nickname, state } = contact;
      input.output.print({ account, name: nickname ?? name, state }, () => state);
    },
  });
}
