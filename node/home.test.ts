import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Failure } from "#src/runtime/failure.ts";
import {
  accountFolder,
  createAccount,
  type Home,
  homeAt,
  mustHaveAccount,
  readApiFile,
  readPassphrase,
  readUnlock,
  removeApiFile,
  writeApiFile,
} from "./home.ts";

let root: string;
let home: Home;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "skein-home-"));
  home = homeAt(join(root, "home"));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const nothing = (): Promise<void> => Promise.resolve();

async function codeOf(action: Promise<unknown>): Promise<string> {
  const error: unknown = await action.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof Failure) return error.code;
  throw error;
}

function mode(path: string): string {
  return (statSync(path).mode & 0o777).toString(8);
}

describe("an account", () => {
  test("is readable by its user alone, and opens with the key it was made with", async () => {
    const made = await createAccount(home, undefined, async ({ unlock }) => unlock);
    mustHaveAccount(home);
    expect(await readUnlock(home, undefined)).toEqual(made);
    expect([home.folder, accountFolder(home)].map(mode)).toEqual(["700", "700"]);
    expect(mode(join(accountFolder(home), "key"))).toBe("600");
  });

  test("with a passphrase keeps no key on the disk", async () => {
    await createAccount(home, "correct horse", nothing);
    expect(readdirSync(accountFolder(home))).toEqual([]);
    expect(await codeOf(readUnlock(home, undefined))).toBe("vault/passphrase-needed");
    writeFileSync(join(root, "phrase"), "correct horse\n");
    expect(await readUnlock(home, join(root, "phrase"))).toEqual({ passphrase: "correct horse" });
  });

  test("is not made over another one", async () => {
    await createAccount(home, undefined, nothing);
    const before = await readFile(join(accountFolder(home), "key"));
    const second = createAccount(home, undefined, nothing);
    expect(await codeOf(second)).toBe("home/exists");
    expect(await readFile(join(accountFolder(home), "key"))).toEqual(before);
  });

  test("of two made at once one is whole and the other is refused", async () => {
    const names = ["Ada", "Bo"];
    const results = await Promise.allSettled(
      names.map((name) =>
        createAccount(home, undefined, async ({ folder }) => writeFileSync(join(folder, "made-by"), name)),
      ),
    );
    expect(results.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected"]);
    const winner = results.findIndex(({ status }) => status === "fulfilled");
    expect(await readFile(join(accountFolder(home), "made-by"), "utf8")).toBe(names[winner]);
    expect(readdirSync(home.folder)).toEqual(["account"]);
  });

  test("that could not be made leaves nothing behind", async () => {
    const full = Object.assign(new Error("no space"), { code: "ENOSPC" });
    const failing = createAccount(home, undefined, () => Promise.reject(full));
    expect(await codeOf(failing)).toBe("store/full");
    expect(readdirSync(home.folder)).toEqual([]);
    await createAccount(home, undefined, nothing);
  });

  test("fits beside a relay of the same home", async () => {
    await createAccount(homeAt(home.relayFolder), undefined, nothing);
    await createAccount(home, undefined, nothing);
    expect(readdirSync(home.folder)).toEqual(["account", "relay"]);
  });

  test("that is not there or damaged says so", async () => {
    expect(() => mustHaveAccount(home)).toThrow("There is no account");
    await createAccount(home, undefined, nothing);
    writeFileSync(join(accountFolder(home), "key"), "00ff");
    expect(await codeOf(readUnlock(home, undefined))).toBe("home/damaged");
  });
});

test("a passphrase file holds one line, and something in it", async () => {
  const file = join(root, "phrase");
  expect(await codeOf(readPassphrase(file))).toBe("usage/bad-value");
  for (const bad of ["", "\n", "x".repeat(2000)]) {
    writeFileSync(file, bad);
    expect(await codeOf(readPassphrase(file))).toBe("usage/bad-value");
  }
  writeFileSync(file, "  spaces count \r\n");
  expect(await readPassphrase(file)).toBe("  spaces count ");
});

describe("api.json", () => {
  const api = { port: 1234, token: "ab".repeat(32), pid: 1 };
  beforeEach(() => createAccount(home, undefined, nothing));

  test("is readable by its user alone, also where a looser file was before", async () => {
    writeFileSync(home.apiFile, "{}", { mode: 0o644 });
    await writeApiFile(home, api);
    expect(mode(home.apiFile)).toBe("600");
    expect(await readApiFile(home)).toEqual(api);
  });

  test("half a file is none", async () => {
    writeFileSync(home.apiFile, `{"port":12`);
    expect(await readApiFile(home)).toBeUndefined();
  });

  test("is removed by the daemon that wrote it and by no other", async () => {
    await writeApiFile(home, api);
    await removeApiFile(home, "cd".repeat(32));
    expect(existsSync(home.apiFile)).toBe(true);
    await removeApiFile(home, api.token);
    expect(existsSync(home.apiFile)).toBe(false);
  });
});
