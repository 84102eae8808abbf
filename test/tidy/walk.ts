import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path/posix";
import { COMPUTED, specifiers } from "./imports.ts";
import { EXCEPTIONS, LAYERS, type Layer } from "./layers.ts";

/** Top-level folders that hold our code. */
const ROOTS = ["protocols", "src", "node", "relay", "test"];

/** All files under the folders of ours, as slash paths from `root`, sorted. */
export function filesOf(root: string, folders: readonly string[] = ROOTS): readonly string[] {
  return folders
    .filter((folder) => existsSync(join(root, folder)))
    .flatMap((folder) =>
      readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile() && !entry.parentPath.includes("node_modules"))
        .map((entry) => join(entry.parentPath, entry.name).slice(normalize(`${root}/`).length)),
    )
    .toSorted();
}

/** Fixtures are what several test files of a folder share. */
export function isTest(path: string): boolean {
  return path.startsWith("test/") || /\.(test|bench|fixture)\.ts$/.test(path);
}

export function isSource(path: string): boolean {
  return path.endsWith(".ts") || path.endsWith(".tsx");
}

/** Path of ours that `specifier` means in `from`, or undefined when it is a package. */
function resolve(from: string, specifier: string): string | undefined {
  if (specifier.startsWith("#")) return specifier.slice(1);
  if (specifier.startsWith(".")) return join(dirname(from), specifier);
  return undefined;
}

function within(path: string, folders: readonly string[]): boolean {
  return folders.some((folder) => path === folder || (folder.endsWith("/") && path.startsWith(folder)));
}

function layerOf(path: string, layers: readonly Layer[]): Layer | undefined {
  return layers
    .filter((layer) => within(path, [layer.folder]))
    .toSorted((a, b) => b.folder.length - a.folder.length)[0];
}

function allowedPackage(specifier: string, packages: readonly string[]): boolean {
  return packages.some((name) => specifier === name || specifier.startsWith(/[/:]$/.test(name) ? name : `${name}/`));
}

/** Every import that the table of layers does not allow, with the way that leads there, as sentences for the reader. */
export function breaches(root: string, layers: readonly Layer[] = LAYERS): readonly string[] {
  const sources = filesOf(root).filter(isSource);
  const known = new Set(sources);
  const imports = new Map(sources.map((path) => [path, specifiers(readFileSync(join(root, path), "utf8"))] as const));
  const excepted = (from: string, to: string): boolean =>
    EXCEPTIONS.some((exception) => exception.from === from && within(to, [exception.to]));
  const found = new Set<string>();

  for (const start of sources) {
    if (isTest(start)) continue;
    const layer = layerOf(start, layers);
    if (layer === undefined) {
      found.add(`${start}: its folder is not in the table of layers`);
      continue;
    }
    const cameFrom = new Map<string, string | undefined>([[start, undefined]]);
    for (const path of cameFrom.keys()) {
      for (const specifier of imports.get(path) ?? []) {
        const target = resolve(path, specifier);
        if (target === undefined) {
          if (path !== start) continue;
          if (specifier === COMPUTED) found.add(`${start}: imports a computed specifier, which nobody can check`);
          else if (!allowedPackage(specifier, layer.packages))
            found.add(`${start}: may not import package ${specifier}`);
          continue;
        }
        if (excepted(path, target) || cameFrom.has(target)) continue;
        if (!within(target, [layer.folder, ...layer.may]) || isTest(target)) {
          found.add(`${[...way(cameFrom, path), target].join(" -> ")}: ${layer.folder} may not reach ${target}`);
        } else if (known.has(target)) {
          cameFrom.set(target, path);
        } else if (!existsSync(join(root, target))) {
          found.add(`${path}: imports ${target}, which is not there`);
        }
      }
    }
  }
  return [...found];
}

function way(cameFrom: ReadonlyMap<string, string | undefined>, to: string): readonly string[] {
  const before = cameFrom.get(to);
  return before === undefined ? [to] : [...way(cameFrom, before), to];
}
