import { randomBytes } from "node:crypto";
import { mkdir, open as openFile, readdir, rm, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { ClassicLevel } from "classic-level";
import { Failure } from "./failure.ts";
import type { Store, StoreHost, StoreOperation, StoreRange } from "./ports.ts";

/**
 * The store of a home in Node: LevelDB, each commit one synced batch.
 *
 * A full disk is met before LevelDB meets it, because LevelDB then cannot even delete and stays unusable until it is opened
 * anew: commits that put something are refused while less than a margin is free, and a ballast file beside the store is given
 * up when not even opening works.
 */
export type LevelStoreOptions = {
  readonly marginBytes?: number;
  readonly ballastBytes?: number;
  /** Bytes that this process may still write to the volume of `path`. */
  readonly freeBytes?: (path: string) => Promise<number>;
};

/** LevelDB writes a memtable of 4 MiB and compacts some tables of 2 MiB at once: below this, that may fail midway. */
export const MARGIN_BYTES = 32 * 1_048_576;
/** Enough for the log, manifest and one table that opening after a full disk writes. */
export const BALLAST_BYTES = 8 * 1_048_576;
/** Free space is asked for again after this much was written; others fill the disk too, and then the commit itself fails. */
const CHECK_EVERY_BYTES = 1_048_576;
/** Other users of the machine have no business in it. */
const FOLDER_MODE = 0o700;
const WRITE_CHUNK_BYTES = 1_048_576;

type Level = ClassicLevel<Uint8Array, Uint8Array>;

export function levelStoreHost(path: string, options: LevelStoreOptions = {}): StoreHost {
  const space = new FreeSpace(path, options);
  return {
    open: async () => {
      try {
        await mkdir(path, { recursive: true, mode: FOLDER_MODE });
        await refuseHeadless(path);
        await space.prepare();
        return new LevelStore(await openWithBallast(path, space), space);
      } catch (error) {
        throw asFailure(error);
      }
    },
  };
}

async function openWithBallast(path: string, space: FreeSpace): Promise<Level> {
  try {
    return await openLevel(path);
  } catch (error) {
    if (asFailure(error).code !== "store/full" || !(await space.dropBallast())) throw error;
    return openLevel(path);
  }
}

async function openLevel(path: string): Promise<Level> {
  const level: Level = new ClassicLevel(path, { keyEncoding: "view", valueEncoding: "view" });
  await level.open();
  return level;
}

/**
 * Without its CURRENT file LevelDB takes a store for none, makes a new one in its place and deletes the tables of the old.
 * Where there are records there must be a CURRENT: it is written before the first of them.
 */
async function refuseHeadless(path: string): Promise<void> {
  const files = await readdir(path);
  if (files.includes("CURRENT")) return;
  for (const file of files) {
    if (/\.(ldb|sst|log)$/.test(file) && (await fileBytes(join(path, file))) > 0) {
      throw new Failure("store/damaged", "the store has records but lacks its CURRENT file");
    }
  }
}

/** Recovers what LevelDB can of a store that opens with `store/damaged`. Records may be lost: reconcile with others after it. */
export async function repairLevelStore(path: string): Promise<void> {
  await ClassicLevel.repair(path);
}

class LevelStore implements Store {
  readonly #level: Level;
  readonly #space: FreeSpace;
  /** A failed write leaves LevelDB refusing all others until it is opened anew: so do we, reading included. */
  #usable = true;

  constructor(level: Level, space: FreeSpace) {
    this.#level = level;
    this.#space = space;
  }

  async get(key: Uint8Array): Promise<Uint8Array | undefined> {
    this.#mustBeUsable();
    try {
      const value = await this.#level.get(key);
      return value && plain(value);
    } catch (error) {
      throw asFailure(error);
    }
  }

  async commit(operations: readonly StoreOperation[]): Promise<void> {
    this.#mustBeUsable();
    try {
      await this.#space.reserve(operations);
      await this.#level.batch(
        operations.map((operation) =>
          operation.type === "put"
            ? { type: "put", key: operation.key, value: operation.value }
            : { type: "del", key: operation.key },
        ),
        { sync: true },
      );
    } catch (error) {
      this.#usable = false;
      throw commitFailure(error);
    }
  }

  async *entries(range: StoreRange): AsyncIterable<readonly [key: Uint8Array, value: Uint8Array]> {
    this.#mustBeUsable();
    const { from, to, reverse = false, limit = -1 } = range;
    try {
      for await (const [key, value] of this.#level.iterator({ gte: from, lt: to, reverse, limit })) {
        yield [plain(key), plain(value)];
      }
    } catch (error) {
      throw asFailure(error);
    }
  }

  async compact(range?: { readonly from: Uint8Array; readonly to: Uint8Array }): Promise<void> {
    this.#mustBeUsable();
    try {
      await this.#level.compactRange(range?.from ?? new Uint8Array(0), range?.to ?? new Uint8Array(64).fill(0xff));
    } catch (error) {
      throw asFailure(error);
    }
  }

  async close(): Promise<void> {
    this.#usable = false;
    await this.#level.close();
  }

  #mustBeUsable(): void {
    if (!this.#usable) throw new Failure("store/closed", "the store is closed");
  }
}

/** classic-level hands out Buffers, whose `slice` shares memory instead of copying it. */
function plain(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** How much room the volume has, asked for seldom, and the ballast. */
class FreeSpace {
  readonly #path: string;
  readonly #ballast: string;
  readonly #marginBytes: number;
  readonly #ballastBytes: number;
  readonly #ask: (path: string) => Promise<number>;
  #free = 0;
  #writtenSince = Infinity;

  constructor(path: string, options: LevelStoreOptions) {
    this.#path = path;
    this.#ballast = `${path}.ballast`;
    this.#marginBytes = options.marginBytes ?? MARGIN_BYTES;
    this.#ballastBytes = options.ballastBytes ?? BALLAST_BYTES;
    this.#ask = options.freeBytes ?? volumeFreeBytes;
  }

  /** Before opening: what we believed of the room may be why it is opened anew. Lays the ballast down if there is room. */
  async prepare(): Promise<void> {
    this.#writtenSince = Infinity;
    if ((await fileBytes(this.#ballast)) === this.#ballastBytes) return;
    if ((await this.#ask(this.#path)) < this.#marginBytes + this.#ballastBytes) return;
    try {
      await writeRandom(this.#ballast, this.#ballastBytes);
    } catch (error) {
      await this.dropBallast();
      if (asFailure(error).code !== "store/full") throw error;
    }
  }

  /** @returns Whether there was one to drop. */
  async dropBallast(): Promise<boolean> {
    const bytes = await fileBytes(this.#ballast);
    await rm(this.#ballast, { force: true });
    return bytes > 0;
  }

  /** @throws Failure `store/full`. Commits that delete more than they put may use the margin: they make room. */
  async reserve(operations: readonly StoreOperation[]): Promise<void> {
    let bytes = 0;
    let puts = 0;
    for (const operation of operations) {
      bytes += operation.key.length + (operation.type === "put" ? operation.value.length : 0);
      puts += operation.type === "put" ? 1 : 0;
    }
    const near = this.#free - this.#writtenSince - bytes < 2 * this.#marginBytes;
    if (near || this.#writtenSince >= CHECK_EVERY_BYTES) {
      this.#free = await this.#ask(this.#path);
      this.#writtenSince = 0;
    }
    this.#writtenSince += bytes;
    if (this.#free - bytes < this.#marginBytes && 2 * puts >= operations.length) throw fullFailure();
  }
}

/** Random bytes, because a file of zeros may take no room at all. */
async function writeRandom(path: string, bytes: number): Promise<void> {
  const file = await openFile(path, "w", 0o600);
  try {
    for (let left = bytes; left > 0; left -= WRITE_CHUNK_BYTES) {
      await file.write(randomBytes(Math.min(left, WRITE_CHUNK_BYTES)));
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

/** 0 when there is no such file. */
async function fileBytes(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return 0;
    throw error;
  }
}

async function volumeFreeBytes(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path);
  return bavail * bsize;
}

function fullFailure(cause?: unknown): Failure {
  return new Failure("store/full", "there is no room left on the disk", { retryable: true, cause });
}

/** After an error of the write itself nobody knows what of it is on the disk, save that there was no room. */
function commitFailure(error: unknown): Failure {
  const failure = asFailure(error);
  if (failure.code !== "store/failed") return failure;
  return new Failure("store/unknown-outcome", "a commit failed midway", { retryable: true, cause: error });
}

const NO_ROOM = /no space left|quota exceeded|file too large|ENOSPC|EDQUOT/i;

/** LevelDB's codes, which classic-level hangs on the error or on its cause, as ours. */
function asFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  const causes: { readonly code?: unknown; readonly message: string }[] = [];
  for (let cause = error; cause instanceof Error; cause = cause.cause) causes.push(cause);
  const has = (code: string): boolean => causes.some((cause) => cause.code === code);
  if (causes.some((cause) => NO_ROOM.test(cause.message) || cause.code === "ENOSPC" || cause.code === "EDQUOT")) {
    return fullFailure(error);
  }
  if (has("LEVEL_LOCKED")) {
    return new Failure("store/locked", "another process has this store open", { retryable: true, cause: error });
  }
  const lostFile = causes.some((cause) => /MANIFEST.*no such file/i.test(cause.message));
  if (has("LEVEL_CORRUPTION") || lostFile)
    return new Failure("store/damaged", "the store is damaged", { cause: error });
  if (!has("LEVEL_IO_ERROR") && (has("LEVEL_DATABASE_NOT_OPEN") || has("LEVEL_ITERATOR_NOT_OPEN"))) {
    return new Failure("store/closed", "the store is closed", { cause: error });
  }
  return new Failure("store/failed", "the store failed", { retryable: true, cause: error });
}
