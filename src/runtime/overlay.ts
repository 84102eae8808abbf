import type { Log, Table } from "./records.ts";

/** What a row or value becomes; `value` undefined is a deletion. */
export type RowWrite = {
  readonly value: unknown;
  /** Encoded where it was put, so that a wrong value is its own step's mistake. Cached tables encode once a batch instead. */
  readonly encoded: Uint8Array | undefined;
};

export type PointWrite = RowWrite & { readonly table: Table<unknown>; readonly key: string };

export type LogWrites = {
  readonly log: Log<unknown>;
  readonly parent: string;
  readonly rows: Map<number, RowWrite>;
  /** After the highest row that was put here, deleted again or not. */
  next: number;
  /** To be written down: positions below it were given out already, whatever rows are left. */
  mark: number | undefined;
};

/** Writes that are not on the disk yet: of one step while it runs, then of the batch it joined. */
export class Overlay {
  readonly points = new Map<string, PointWrite>();
  readonly logs = new Map<string, LogWrites>();
  /** Bytes of what is encoded already. */
  bytes = 0;
  /** Something is written, not only deleted. */
  hasPuts = false;

  get empty(): boolean {
    return this.points.size === 0 && this.logs.size === 0;
  }

  setPoint(id: string, write: PointWrite): void {
    this.points.set(id, write);
    this.#count(write);
  }

  setRow(id: string, log: Log<unknown>, parent: string, n: number, write: RowWrite): void {
    const writes = this.#logOf(id, log, parent);
    writes.rows.set(n, write);
    if (write.value !== undefined) writes.next = Math.max(writes.next, n + 1);
    this.#count(write);
  }

  setMark(id: string, log: Log<unknown>, parent: string, mark: number): void {
    this.#logOf(id, log, parent).mark = mark;
  }

  /** Lays the writes of a finished step over these. */
  absorb(step: Overlay): void {
    for (const [id, write] of step.points) this.points.set(id, write);
    for (const [id, writes] of step.logs) {
      const mine = this.#logOf(id, writes.log, writes.parent);
      for (const [n, write] of writes.rows) mine.rows.set(n, write);
      mine.next = Math.max(mine.next, writes.next);
      mine.mark = writes.mark ?? mine.mark;
    }
    this.bytes += step.bytes;
    this.hasPuts ||= step.hasPuts;
  }

  #logOf(id: string, log: Log<unknown>, parent: string): LogWrites {
    const known = this.logs.get(id);
    if (known !== undefined) return known;
    const made: LogWrites = { log, parent, rows: new Map(), next: 0, mark: undefined };
    this.logs.set(id, made);
    return made;
  }

  #count(write: RowWrite): void {
    this.bytes += write.encoded?.length ?? 0;
    this.hasPuts ||= write.value !== undefined;
  }
}

export function pointId(table: Table<unknown>, key: string): string {
  return `${table.number}:${key}`;
}

export function logId(log: Log<unknown>, parent: string): string {
  return `${log.number}:${parent}`;
}
