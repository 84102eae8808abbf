import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path/posix";
import { filesOf, isSource } from "./walk.ts";

/** Above this a file asks why. Listed files have answered. */
const COMFORTABLE_LINES = 500;
export const LONG_FILES: Readonly<Record<string, string>> = {
  "src/runtime/driver.ts": "the one way in and its invariants; what could stand alone already does, in files beside it",
};

/** These tests plant breaches as text, which is none. */
const HERE = "test/tidy/";

/** Drawers: names that say nothing of what is inside. */
const DRAWER = /(^|-)(helpers?|utils?|utilities|managers?|misc|common)(-|$)/;

/** Every breach of taste that a machine can see, as sentences for the reader. */
export function untidiness(root: string): readonly string[] {
  return [...names(root), ...lengths(root), ...specs(root), ...privatePaths(root), ...lock(root)];
}

function names(root: string): readonly string[] {
  return filesOf(root).flatMap((path) => {
    const parts = path.split("/").map((part) => part.replace(/\..*$/, ""));
    const drawer = parts.find((part) => DRAWER.test(part));
    if (drawer !== undefined) return [`${path}: "${drawer}" is a drawer, name what is inside`];
    const file = basename(path);
    return isSource(file) && !/^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+)*\.tsx?$/.test(file)
      ? [`${path}: file names are in kebab-case`]
      : [];
  });
}

function lengths(root: string): readonly string[] {
  return filesOf(root)
    .filter(isSource)
    .flatMap((path) => {
      const lines = readFileSync(join(root, path), "utf8").split("\n").length - 1;
      if (lines <= COMFORTABLE_LINES || path in LONG_FILES) return [];
      return [`${path}: ${lines} lines, more than ${COMFORTABLE_LINES}; split it or list it with its reason`];
    });
}

/** Every protocol has a SPEC.md, and every rule a test names (`[RA7] …`) stands in one of them. */
function specs(root: string): readonly string[] {
  const found: string[] = [];
  const rules = new Set<string>();
  const folder = join(root, "protocols");
  for (const entry of existsSync(folder) ? readdirSync(folder, { withFileTypes: true }) : []) {
    if (!entry.isDirectory() || entry.name === "decisions") continue;
    const spec = join(folder, entry.name, "SPEC.md");
    if (!existsSync(spec)) {
      found.push(`protocols/${entry.name}: has no SPEC.md`);
      continue;
    }
    for (const [rule] of readFileSync(spec, "utf8").matchAll(/\b[A-Z]{2}\d+\b/g)) rules.add(rule);
  }
  for (const path of filesOf(root).filter((file) => file.endsWith(".test.ts") && !file.startsWith(HERE))) {
    for (const [, cited] of readFileSync(join(root, path), "utf8").matchAll(/["'`]\[((?:[A-Z]{2}\d+(?:, ?)?)+)\]/g)) {
      for (const rule of cited!.split(/, ?/)) {
        if (!rules.has(rule)) found.push(`${path}: cites [${rule}], which no SPEC.md has`);
      }
    }
  }
  return found;
}

/** Paths of the machine that somebody worked on. */
function privatePaths(root: string): readonly string[] {
  return filesOf(root, ["protocols", "src", "node", "relay", "test", "docs", ".ci"])
    .filter((path) => /\.(ts|tsx|md|json|sh|toml)$|^\.ci\//.test(path) && !path.startsWith(HERE))
    .flatMap((path) => {
      const hit = /(?:^|["'`\s(=])(\/(?:work|home|root|Users)\/[\w.-]+)/m.exec(readFileSync(join(root, path), "utf8"));
      return hit === null ? [] : [`${path}: names ${hit[1]}, a path of one machine`];
    });
}

/** The lock file pins packages, not the registry or the folder they once came from, and React Native is not among them. */
function lock(root: string): readonly string[] {
  const path = join(root, "package-lock.json");
  if (!existsSync(path)) return [];
  const { packages } = JSON.parse(readFileSync(path, "utf8")) as {
    packages: Record<string, { name?: string; resolved?: string; link?: boolean }>;
  };
  return Object.entries(packages).flatMap(([place, entry]) => {
    const name = entry.name ?? place.split("node_modules/").at(-1)!;
    return [
      ...(entry.resolved !== undefined || entry.link === true
        ? [`package-lock.json: ${place} names where it came from`]
        : []),
      ...(/(^|\/)react-native(-|$)/.test(name) ? [`package-lock.json: ${place} drags in React Native`] : []),
    ];
  });
}
