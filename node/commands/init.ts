import { ACCOUNT, command, parseRelay, usage } from "../command.ts";
import { createAccount, homeAt, readPassphrase, storeFolder } from "../home.ts";

/** Beyond this a name is a message. The profile's own limit is checked where the profile is made. */
const MAX_NAME_LENGTH = 64;

export const spec = command({
  name: "init",
  summary: "Make an account on this machine",
  args: [],
  options: {
    name: { type: "string", value: "NAME", help: "what others see; not unique, and no proof of anything" },
    relay: { type: "string", multiple: true, value: "ADDR", help: "a relay that holds messages while you are away" },
    "passphrase-file": { ...ACCOUNT["passphrase-file"], help: "lock the account with the passphrase in this file" },
  },
  notes: [
    "Prints the recovery phrase once: 24 words that are this account. Write them down; Skein keeps no copy to show again.",
    "Without a passphrase the key lies beside the store, readable by this user of the machine only.",
    "--json prints {account, device, phrase}.",
  ],
  async run({ values, output }) {
    const name = values.name?.trim() ?? "";
    if (name === "" || name.length > MAX_NAME_LENGTH) {
      throw usage("bad-value", `--name wants a name of at most ${MAX_NAME_LENGTH} characters`);
    }
    const home = homeAt(values.home);
    const file = values["passphrase-file"];
    const passphrase = file === undefined ? undefined : await readPassphrase(file);
    const relays = (values.relay ?? []).map(parseRelay);
    const [{ createIdentity }, { levelStoreHost }, { machine }] = await Promise.all([
      import("#src/peer/start.ts"),
      import("#src/runtime/level-store.ts"),
      import("../machine.ts"),
    ]);
    const made = await createAccount(home, passphrase, ({ folder, unlock }) =>
      createIdentity({ ...machine(), host: levelStoreHost(storeFolder(folder)), unlock, name, relays }),
    );
    const { account, device, phrase } = made;
    output.print({ account, device, phrase }, () =>
      [
        `Account ${account}`,
        "",
        "Your recovery phrase. Whoever has these words is you; without them and this machine, you are gone:",
        "",
        ...lines(phrase.split(" "), 6),
        "",
        "Next: skein daemon   and in another terminal: skein invite",
      ].join("\n"),
    );
  },
});

function lines(words: readonly string[], perLine: number): readonly string[] {
  return Array.from({ length: Math.ceil(words.length / perLine) }, (_, line) =>
    `  ${words
      .slice(line * perLine, (line + 1) * perLine)
      .map((word) => word.padEnd(10))
      .join("")}`.trimEnd(),
  );
}
