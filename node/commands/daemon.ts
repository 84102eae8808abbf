import { ACCOUNT, command } from "../command.ts";

export const spec = command({
  name: "daemon",
  summary: "Keep this account online",
  args: [],
  options: {
    listen: {
      type: "string",
      multiple: true,
      value: "ADDR",
      help: "multiaddr to listen on (default /ip4/0.0.0.0/tcp/0)",
    },
    "passphrase-file": ACCOUNT["passphrase-file"],
  },
  notes: [
    "Runs until SIGTERM or Ctrl-C. Other commands of this home use it through its local API on 127.0.0.1.",
    "Addresses go only to people you accepted, inside your conversation.",
    "--json prints {ready, account, device, addresses, api} once it is ready.",
  ],
  async run({ values, output, signal }) {
    const { runDaemon } = await import("../daemon.ts");
    await runDaemon({
      home: values.home,
      listen: values.listen,
      passphraseFile: values["passphrase-file"],
      output,
      signal,
    });
  },
});
