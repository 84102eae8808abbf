#!/usr/bin/env node
// Small on purpose: a command loads what it needs and nothing else, because people wait for it (cold start).
import { enableCompileCache } from "node:module";
import { fileURLToPath } from "node:url";

// Beside the dependencies and not in the shared temporary folder, where another user of this machine could plant code.
enableCompileCache(fileURLToPath(new URL("../node_modules/.cache/compile", import.meta.url)));

// Node announces ML-KEM and ChaCha20 in its WebCrypto as experimental at each start. Our tests hold them to the standard's
// vectors, and a person at a terminal can do nothing about it. Every other warning is shown, on stderr.
process.removeAllListeners("warning");
process.on("warning", (warning) => {
  if (warning.name !== "ExperimentalWarning") process.stderr.write(`${warning.name}: ${warning.message}\n`);
});

const { main } = await import("./main.ts");
const code = await main(process.argv.slice(2));
// A transport may still hold a socket open; what was printed is written out before we go.
process.stdout.write("", () => process.exit(code));
