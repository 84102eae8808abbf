/** `npm start`: a relay on this machine, and on the screen what to type next to hold a conversation in two terminals. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startRelay } from "#relay/relay.ts";
import { Failure } from "#src/runtime/failure.ts";
import { aborted, interruption } from "./interruption.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
/** The same at every start, so that what was initialised with this relay finds it again. */
const LISTEN = ["/ip4/127.0.0.1/tcp/4720", "/ip4/127.0.0.1/tcp/4721/ws"];

async function relayHere(): Promise<Awaited<ReturnType<typeof startRelay>>> {
  const home = join(ROOT, ".skein", "relay");
  try {
    return await startRelay({ home, dev: true, listen: LISTEN });
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    process.stdout.write("Port 4720 or 4721 is taken; taking free ones.\n");
    return startRelay({ home, dev: true });
  }
}

function stepsFor(name: string, relay: string): readonly string[] {
  const home = `.skein/${name.toLowerCase()}`;
  const init = `npx skein init --home ${home} --name ${name} --relay ${relay}`;
  return [...(existsSync(join(ROOT, home, "account")) ? [] : [`  ${init}`]), `  npx skein daemon --home ${home} &`];
}

const relay = await relayHere();
const address = relay.addresses.find((one) => /\/tcp\/\d+\/p2p\//.test(one)) ?? relay.addresses[0]!;
process.stdout.write(`
A relay is running on this machine. It will hold sealed messages and can't read them. Ctrl-C ends it.

Open a terminal in this folder and be Ada:

${stepsFor("Ada", address).join("\n")}
  npx skein invite --home .skein/ada

Open another one and be Bo. LINK is what the invite printed:

${stepsFor("Bo", address).join("\n")}
  npx skein connect --home .skein/bo "LINK"
  npx skein send --home .skein/bo Ada "Hello from Bo"

Back at Ada's:

  npx skein messages --home .skein/ada Bo
  npx skein send --home .skein/ada Bo "Hello from Ada"
  npx skein watch --home .skein/ada

npx skein --help lists everything else.
`);

await aborted(interruption());
await relay.stop();
process.exit(0);
