/**
 * A home as the command line opens it, from nothing to the first encrypted message on the wire: started by the cold-start
 * bench, which measures from before this process exists. The conversation was made before; this is a daemon coming back.
 */
import { startPeer } from "#src/peer/start.ts";
import { createNodeNetwork } from "#src/net/node-network.ts";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import { nodeSuite } from "#src/runtime/node-crypto.ts";

const [home = "", key = ""] = process.argv.slice(2);
const network = await createNodeNetwork({ listen: ["/ip4/127.0.0.1/tcp/0"] });
const peer = await startPeer({
  host: levelStoreHost(home),
  unlock: { platformKey: Buffer.from(key, "hex") },
  network,
  clock: systemClock,
  random: systemRandom,
  crypto: nodeSuite(),
});
const [conversation] = await peer.conversations();
const held = new Promise<void>((resolve) => {
  peer.watch((event) => {
    if (event.type === "message-state" && event.state !== "queued") resolve();
  });
});
await peer.send(conversation!.conversation, { text: "good morning" });
process.send?.("sent");
await held;
process.send?.("held");
process.once("message", () => void peer.close().then(() => process.disconnect()));
