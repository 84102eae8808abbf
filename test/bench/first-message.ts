/**
 * A home as a daemon opens it, from nothing to the first encrypted message on the wire. Started by the cold-start bench, which
 * measures from before this process exists; the conversation was made before. Compiled code is cached as node/skein.ts has it.
 */
import { enableCompileCache } from "node:module";
import { fileURLToPath } from "node:url";

enableCompileCache(fileURLToPath(new URL("../../node_modules/.cache/compile", import.meta.url)));

const [{ startPeer }, { createNodeNetwork }, { levelStoreHost }, { systemClock, systemRandom }, { nodeSuite }] =
  await Promise.all([
    import("#src/peer/start.ts"),
    import("#src/net/node-network.ts"),
    import("#src/runtime/level-store.ts"),
    import("#src/runtime/node.ts"),
    import("#src/runtime/node-crypto.ts"),
  ]);

const [home = "", key = ""] = process.argv.slice(2);
const peer = await startPeer({
  host: levelStoreHost(home),
  unlock: { platformKey: Buffer.from(key, "hex") },
  network: await createNodeNetwork({ listen: ["/ip4/127.0.0.1/tcp/0"] }),
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
process.once("disconnect", () => process.exit());
process.once("message", () => void peer.close().then(() => process.disconnect()));
