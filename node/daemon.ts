import { Failure } from "#src/runtime/failure.ts";
import { serveApi } from "./api.ts";
import { homeAt, removeApiFile, writeApiFile } from "./home.ts";
import { aborted } from "./interruption.ts";
import { openAccount } from "./machine.ts";
import { type Output, short } from "./output.ts";
import { daemonOr } from "./session.ts";

const DEFAULT_LISTEN = ["/ip4/0.0.0.0/tcp/0"];

/** Opens the account, serves the local API and stays until `signal`. */
export async function runDaemon(options: {
  readonly home: string | undefined;
  readonly listen: readonly string[] | undefined;
  readonly passphraseFile: string | undefined;
  readonly output: Output;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { output, signal } = options;
  const home = homeAt(options.home);
  const { daemon, opened: peer } = await daemonOr(home, signal, () =>
    openAccount(home, {
      passphraseFile: options.passphraseFile,
      listen: options.listen ?? DEFAULT_LISTEN,
      offline: false,
    }),
  );
  if (daemon !== undefined) {
    await daemon.close();
    throw new Failure("store/locked", "A daemon of this home runs already.");
  }
  const stopWarnings = peer.watch((event) => {
    if (event.type === "warning") output.note(`skein: ${event.message} (${event.code})`);
  });
  try {
    const api = await serveApi(peer, {
      onMistake: (error) =>
        output.note(`skein: mistake in ${(error as Error).stack?.split("\n")[1]?.trim() ?? "the API"}`),
    });
    try {
      await writeApiFile(home, { port: api.port, token: api.token, pid: process.pid });
      const { addresses } = await peer.status();
      output.print({ ready: true, account: peer.account, device: peer.device, addresses, api: api.url }, () =>
        [`Ready. Account ${short(peer.account)}, listening on:`, ...addresses.map((address) => `  ${address}`)].join(
          "\n",
        ),
      );
      await aborted(signal);
    } finally {
      await removeApiFile(home, api.token);
      await api.close();
    }
  } finally {
    stopWarnings();
    await peer.close();
  }
}
