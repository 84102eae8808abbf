import { command } from "../command.ts";
import { homeAt } from "../home.ts";
import { aborted } from "../interruption.ts";

export const spec = command({
  name: "relay",
  summary: "Run a relay for others",
  args: [],
  options: {
    dev: { type: "boolean", help: "listen on the loopback only, on free ports" },
    listen: { type: "string", multiple: true, value: "MULTIADDR", help: "where to listen" },
  },
  notes: [
    "Runs until SIGTERM or Ctrl-C. A relay bridges networks and holds sealed envelopes; it cannot read them.",
    "--json prints {ready, peerId, addresses, web} once it is ready.",
  ],
  async run({ values, output, signal }) {
    const { startRelay } = await import("#relay/relay.ts");
    const relay = await startRelay({
      home: homeAt(values.home).relayFolder,
      dev: values.dev === true,
      ...(values.listen !== undefined && { listen: values.listen }),
    });
    const { peerId, addresses } = relay;
    // The web app is not served yet.
    output.print({ ready: true, peerId, addresses, web: null }, () =>
      ["Relay ready:", ...addresses.map((address) => `  ${address}`)].join("\n"),
    );
    await aborted(signal);
    await relay.stop();
  },
});
