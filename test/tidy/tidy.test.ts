import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, test } from "vitest";
import { LONG_FILES, untidiness } from "./house.ts";
import { COMPUTED, specifiers } from "./imports.ts";
import { breaches, filesOf } from "./walk.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const TSC = join(ROOT, "node_modules/.bin/tsc");

const planted: string[] = [];
afterEach(() => {
  for (const tree of planted.splice(0)) rmSync(tree, { recursive: true });
});

/** A small tree of our shape in a temporary folder, with the breach under test in it. */
function plant(files: Readonly<Record<string, string>>): string {
  const root = mkdtempSync(join(tmpdir(), "skein-tidy-"));
  planted.push(root);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

describe("the house as it stands", () => {
  test("every import is allowed by the table of layers", () => {
    expect(breaches(ROOT)).toEqual([]);
  });

  test("names, lengths, specs, paths and the lock file are tidy", () => {
    expect(untidiness(ROOT)).toEqual([]);
  });

  test("files listed as long exist", () => {
    const files = new Set(filesOf(ROOT));
    expect(Object.keys(LONG_FILES).filter((path) => !files.has(path))).toEqual([]);
  });

  test("protocols and src/peer compile with es2025 and no platform", () => {
    const { status, stdout } = spawnSync(TSC, ["-p", "tsconfig.pure.json"], { cwd: ROOT, encoding: "utf8" });
    expect(stdout).toBe("");
    expect(status).toBe(0);
  });
});

describe("a planted breach is found", () => {
  test("a relay that reaches the ratchet by the back door", () => {
    const root = plant({
      "relay/relay.ts": `import { hold } from "#src/mailbox/mailbox.ts";`,
      "src/mailbox/mailbox.ts": `export * from "../runtime/ports.ts"; export const hold = 1;`,
      "src/runtime/ports.ts": `export type { Ratchet } from "#protocols/ratchet/ratchet.ts";`,
      "protocols/ratchet/ratchet.ts": `export type Ratchet = 1;`,
    });
    expect(breaches(root)).toContain(
      "relay/relay.ts -> src/mailbox/mailbox.ts -> src/runtime/ports.ts -> protocols/ratchet/ratchet.ts: " +
        "relay/ may not reach protocols/ratchet/ratchet.ts",
    );
  });

  test("a protocol that imports another one, by a dynamic import too", () => {
    const root = plant({
      "protocols/ratchet/ratchet.ts": `const h = await import("#protocols/handshake/pqxdh.ts");`,
      "protocols/handshake/pqxdh.ts": `export type T = import("../ratchet/ratchet.ts").T;`,
      "protocols/conversation/direct.ts": `import "../ratchet/ratchet.ts"; import "../handshake/pqxdh.ts";`,
    });
    expect(breaches(root)).toEqual([
      expect.stringContaining("protocols/handshake/pqxdh.ts -> protocols/ratchet/ratchet.ts"),
      expect.stringContaining("protocols/ratchet/ratchet.ts -> protocols/handshake/pqxdh.ts"),
    ]);
  });

  test("a package in the wrong place, code in an undecided place, code that leans on tests", () => {
    const root = plant({
      "src/peer/peer.ts": `import { createLibp2p } from "libp2p";\nimport fs from "node:fs";`,
      "src/attic/attic.ts": `export {};`,
      "node/daemon.ts": `import "#test/simulator/world.ts";`,
      "src/net/wire.fixture.ts": `import "#test/simulator/world.ts";`,
      "src/net/wire.ts": `import "./wire.fixture.ts";`,
      "node/commands/sim.ts": `await import("#test/simulator/world.ts");`,
      "test/simulator/world.ts": `export {};`,
    });
    expect(breaches(root)).toEqual([
      "node/daemon.ts -> test/simulator/world.ts: node/ may not reach test/simulator/world.ts",
      "src/attic/attic.ts: its folder is not in the table of layers",
      "src/net/wire.ts -> src/net/wire.fixture.ts: src/net/ may not reach src/net/wire.fixture.ts",
      "src/peer/peer.ts: may not import package libp2p",
      "src/peer/peer.ts: may not import package node:fs",
    ]);
  });

  test("a computed import and one that leads nowhere", () => {
    const root = plant({ "node/skein.ts": `await import(name);\nimport "./gone.ts";` });
    expect(breaches(root)).toEqual([
      "node/skein.ts: imports a computed specifier, which nobody can check",
      "node/skein.ts: imports node/gone.ts, which is not there",
    ]);
  });

  test("drawers, camel case, length, a missing SPEC.md, an unknown rule, a machine's path, a registry's name", () => {
    const root = plant({
      "src/net/net-utils.ts": "",
      "src/net/dialQueue.ts": "",
      "src/net/long.ts": "\n".repeat(501),
      "protocols/sync/sync.test.ts": "",
      "protocols/ratchet/SPEC.md": "**RA7** A forged tag changes nothing.",
      "protocols/ratchet/ratchet.test.ts": `test("[RA7] fine", f); test("[RA8] unknown", f); test("[RA7, RA9] two", f);`,
      "docs/notes.md": "see /home/somebody/notes",
      "package-lock.json": `{"packages":{"node_modules/x":{"resolved":"https://registry.example/x.tgz"},"node_modules/react-native":{},"node_modules/y/node_modules/react-native-webrtc":{"name":"empty-npm-package"}}}`,
    });
    expect(untidiness(root)).toEqual([
      "src/net/dialQueue.ts: file names are in kebab-case",
      'src/net/net-utils.ts: "net-utils" is a drawer, name what is inside',
      "src/net/long.ts: 501 lines, more than 500; split it or list it with its reason",
      "protocols/sync: has no SPEC.md",
      "protocols/ratchet/ratchet.test.ts: cites [RA8], which no SPEC.md has",
      "protocols/ratchet/ratchet.test.ts: cites [RA9], which no SPEC.md has",
      "docs/notes.md: names /home/somebody, a path of one machine",
      "package-lock.json: node_modules/x names where it came from",
      "package-lock.json: node_modules/react-native drags in React Native",
    ]);
  });

  test("a clock in a protocol does not compile", () => {
    const root = plant({
      "tsconfig.json": JSON.stringify({
        extends: join(ROOT, "tsconfig.pure.json"),
        include: ["protocols"],
        compilerOptions: { incremental: false },
      }),
      "protocols/base/clock.ts": "export const later = setTimeout;",
    });
    const { status, stdout } = spawnSync(TSC, ["-p", root, "--tsBuildInfoFile", "null"], { encoding: "utf8" });
    expect(stdout).toContain("Cannot find name 'setTimeout'");
    expect(status).not.toBe(0);
  });
});

describe("the import scanner", () => {
  test.each([
    [`import a from "a"; import { b } from 'b'; import type { C } from "c";`, ["a", "b", "c"]],
    [`export * from "a"; export { b } from "b"; export type { C } from "c";`, ["a", "b", "c"]],
    [`import "a"; await import("b"); type T = import("c").T;`, ["a", "b", "c"]],
    [`import(x)`, [COMPUTED]],
    ["import(`a`)", [COMPUTED]],
    [`// import "a"\n/* import "b" */ const s = "import 'c'"; const t = \`import "d" \${"}"} from "e"\`;`, []],
    [`const r = /["']/; import "a"; const d = 1 / 2; import "b"; x(/[/"]/g); import "c";`, ["a", "b", "c"]],
    [`Array.from("a"); this.import("b"); const o = { from: "c", async import(d) {} };`, []],
    [`import {\n  a,\n  type B,\n} from "a" with { type: "json" };`, ["a"]],
  ])("%s", (source, expected) => {
    expect(specifiers(source)).toEqual(expected);
  });
});
