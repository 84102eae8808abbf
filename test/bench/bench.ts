/** `npm run bench`: figures as JSON on stdout's last line, a table for people before it. Never part of the tests. */
import { nodeSuite } from "#src/runtime/node-crypto.ts";
import { coldStartFigures } from "./cold-start.bench.ts";
import { cryptoFigures } from "./crypto.bench.ts";
import { type Figure, table } from "./report.ts";
import { twoPeersFigures } from "./two-peers.bench.ts";

const BENCHES: Readonly<Record<string, () => Promise<readonly Figure[]>>> = {
  crypto: () => cryptoFigures(nodeSuite()),
  "two-peers": twoPeersFigures,
  "cold-start": coldStartFigures,
};

const asked = process.argv.slice(2);
const figures: Figure[] = [];
for (const [name, bench] of Object.entries(BENCHES)) {
  if (asked.length > 0 && !asked.includes(name)) continue;
  process.stderr.write(`${name} …\n`);
  figures.push(...(await bench()));
}
console.log(table(figures));
console.log(JSON.stringify({ node: process.version, figures }));
