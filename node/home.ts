/**
 * A home is a folder of one person on this machine:
 *
 *     account/key      32 bytes that unlock the store; not there when a passphrase does
 *     account/store/   LevelDB, every value encrypted; name, relays and everything else are in it
 *     relay/           of a relay that was given the same home
 *     api.json         where the running daemon listens, and the token; there only while it runs
 *
 * Folders are 0700 and files 0600. An account appears with one rename, so that there is no half of one.
 */
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { chmod, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import * as v from "valibot";
import { fromHex, toHex } from "#protocols/base/bytes.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Unlock } from "#src/runtime/vault.ts";

const apiSchema = v.object({ port: v.number(), token: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)), pid: v.number() });
export type ApiFile = v.InferOutput<typeof apiSchema>;

/** A passphrase is a line, not a book; a larger file is a mistake. */
const MAX_PASSPHRASE_BYTES = 1024;

export type Home = {
  readonly folder: string;
  readonly relayFolder: string;
  readonly apiFile: string;
};

export function homeAt(folder: string | undefined): Home {
  const root = resolve(folder ?? join(homedir(), ".skein"));
  return { folder: root, relayFolder: join(root, "relay"), apiFile: join(root, "api.json") };
}

export function storeFolder(account: string): string {
  return join(account, "store");
}

export function accountFolder(home: Home): string {
  return join(home.folder, "account");
}

function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return codes.includes((error as NodeJS.ErrnoException | undefined)?.code ?? "");
}

/** What the file system refused, in words. */
function diskFailure(error: unknown, what: string): Failure {
  if (hasCode(error, "ENOSPC", "EDQUOT"))
    return new Failure("store/full", "The disk is full.", { retryable: true, cause: error });
  if (hasCode(error, "EACCES", "EPERM", "EROFS"))
    return new Failure("home/no-access", `No permission to ${what}.`, { cause: error });
  return new Failure("home/failed", `Could not ${what}.`, { cause: error });
}

async function readOrNothing(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw diskFailure(error, `read ${path}`);
  }
}

function parseJson<T>(schema: v.GenericSchema<unknown, T>, bytes: Buffer): T | undefined {
  try {
    const result = v.safeParse(schema, JSON.parse(bytes.toString("utf8")));
    return result.success ? result.output : undefined;
  } catch {
    // Not JSON at all is the same to the caller as JSON of another shape.
    return undefined;
  }
}

/** @throws Failure `home/none`. */
export function mustHaveAccount(home: Home): void {
  if (!existsSync(accountFolder(home))) throw new Failure("home/none", `There is no account in ${home.folder}.`);
}

/** @throws Failure `usage/bad-value` when the file can't be a passphrase. */
export async function readPassphrase(path: string): Promise<string> {
  const bytes = await readOrNothing(path);
  if (bytes === undefined) throw new Failure("usage/bad-value", `--passphrase-file: there is no file ${path}`);
  const passphrase = bytes.toString("utf8").replace(/\r?\n$/, "");
  if (passphrase === "" || bytes.length > MAX_PASSPHRASE_BYTES) {
    throw new Failure("usage/bad-value", `--passphrase-file wants one line of at most ${MAX_PASSPHRASE_BYTES} bytes`);
  }
  return passphrase;
}

/** How this home's store is opened. @throws Failure `vault/passphrase-needed`, `home/damaged`. */
export async function readUnlock(home: Home, passphraseFile: string | undefined): Promise<Unlock> {
  const bytes = await readOrNothing(join(accountFolder(home), "key"));
  if (bytes === undefined) {
    if (passphraseFile === undefined) {
      throw new Failure("vault/passphrase-needed", "This account is locked with a passphrase.");
    }
    return { passphrase: await readPassphrase(passphraseFile) };
  }
  const platformKey = fromHex(bytes.toString("utf8").trim());
  if (platformKey?.length !== 32) throw new Failure("home/damaged", `${accountFolder(home)}/key is no key.`);
  return { platformKey };
}

/**
 * Makes an account: `build` fills a folder beside the final place, and one rename puts it there. When `build` fails, nothing
 * is left.
 * @throws Failure `home/exists`, and what `build` throws.
 */
export async function createAccount<T>(
  home: Home,
  passphrase: string | undefined,
  build: (account: { readonly folder: string; readonly unlock: Unlock }) => Promise<T>,
): Promise<T> {
  const final = accountFolder(home);
  const folder = `${final}.${toHex(randomBytes(4))}.new`;
  try {
    // A folder that was there before keeps its mode but for what others could do in it.
    await mkdir(home.folder, { recursive: true, mode: 0o700 });
    await chmod(home.folder, 0o700);
    if (existsSync(final)) throw new Failure("home/exists", `There is an account in ${home.folder} already.`);
    await mkdir(folder, { mode: 0o700 });
  } catch (error) {
    throw error instanceof Failure ? error : diskFailure(error, `make ${home.folder}`);
  }
  try {
    const unlock = passphrase === undefined ? { platformKey: new Uint8Array(randomBytes(32)) } : { passphrase };
    if ("platformKey" in unlock) {
      await writeFile(join(folder, "key"), `${toHex(unlock.platformKey)}\n`, { mode: 0o600, flush: true });
    }
    const result = await build({ folder, unlock });
    await rename(folder, final);
    return result;
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    if (hasCode(error, "ENOTEMPTY", "EEXIST"))
      throw new Failure("home/exists", `${final} is in the way.`, { cause: error });
    throw hasCode(error, "ENOSPC", "EDQUOT", "EACCES", "EPERM") ? diskFailure(error, `write to ${home.folder}`) : error;
  }
}

/** The daemon's address, or undefined when there is none or the file is half written. */
export async function readApiFile(home: Home): Promise<ApiFile | undefined> {
  const bytes = await readOrNothing(home.apiFile);
  return bytes === undefined ? undefined : parseJson(apiSchema, bytes);
}

/** Written beside and renamed, so that nobody reads half a token. */
export async function writeApiFile(home: Home, api: ApiFile): Promise<void> {
  const temporary = `${home.apiFile}.${api.pid}`;
  try {
    await rm(temporary, { force: true });
    await writeFile(temporary, JSON.stringify(api), { mode: 0o600, flag: "wx" });
    await rename(temporary, home.apiFile);
  } catch (error) {
    throw diskFailure(error, `write ${home.apiFile}`);
  }
}

/** Removes the file unless another daemon has written its own meanwhile. */
export async function removeApiFile(home: Home, token: string): Promise<void> {
  if ((await readApiFile(home))?.token === token) await rm(home.apiFile, { force: true });
}
