import { encode } from "#protocols/base/codec.ts";
import { assert } from "#protocols/base/reject.ts";
import type { Failure } from "./failure.ts";
import { logId, Overlay, pointId, type RowWrite } from "./overlay.ts";
import type { RecordShelf, RowRange } from "./record-shelf.ts";
import { type Log, MARK_POSITION, type Row, type Table } from "./records.ts";

/** Reading typed records. Inside a step also what earlier steps and this one have written. */
export interface ReadTx {
  get<V>(table: Table<V>, key: string): Promise<V | undefined>;
  /** All values of a small table, in an order that is stable but means nothing. */
  values<V>(table: Table<V>): Promise<readonly V[]>;
  /** The row at a position. */
  row<V>(log: Log<V>, parent: string, n: number): Promise<V | undefined>;
  /** Rows in the order of their positions. Without a limit there must be at most `MAX_ROWS`. */
  rows<V>(log: Log<V>, parent: string, range?: RowRange): Promise<readonly Row<V>[]>;
}

export interface Tx extends ReadTx {
  put<V>(table: Table<V>, key: string, value: V): void;
  delete(table: Table<unknown>, key: string): void;
  /**
   * Adds a row above every row the log ever had, deleted ones included; positions ascend and may have gaps.
   * Steps that append under one parent share a lock. @returns Its position.
   */
  append<V>(log: Log<V>, parent: string, value: V): Promise<number>;
  putAt<V>(log: Log<V>, parent: string, n: number, value: V): void;
  deleteAt(log: Log<unknown>, parent: string, n: number): void;
  /** Called once the step is on the disk, in order, and never if it is discarded. It must not throw. */
  release(effect: () => void): void;
}

/** What a running step sees of the driver. */
export type StepView = {
  readonly shelf: RecordShelf;
  /** Writes of finished steps that are not on the disk, newest first. */
  layers(): readonly Overlay[];
  /** Why the step has no future, once a commit it builds on has failed. */
  discarded(): Failure | undefined;
};

const DELETED: RowWrite = { value: undefined, encoded: undefined };

/** One step while its body runs: it collects writes and effects, which the driver takes over when the body is done. */
export class StepTx implements Tx {
  readonly writes = new Overlay();
  readonly effects: (() => void)[] = [];
  readonly #view: StepView;
  readonly #locks: ReadonlySet<string>;
  #over = false;

  constructor(view: StepView, locks: readonly string[]) {
    this.#view = view;
    this.#locks = new Set(locks);
  }

  get<V>(table: Table<V>, key: string): Promise<V | undefined> {
    return this.#view.shelf.get(table, key, this.#layers());
  }

  values<V>(table: Table<V>): Promise<readonly V[]> {
    return this.#view.shelf.values(table, this.#layers());
  }

  row<V>(log: Log<V>, parent: string, n: number): Promise<V | undefined> {
    return this.#view.shelf.row(log, parent, n, this.#layers());
  }

  rows<V>(log: Log<V>, parent: string, range: RowRange = {}): Promise<readonly Row<V>[]> {
    return this.#view.shelf.rows(log, parent, range, this.#layers());
  }

  put<V>(table: Table<V>, key: string, value: V): void {
    assert(value !== undefined, "a stored value is not undefined");
    this.#mayWrite(table, key);
    const encoded = table.cached ? undefined : encode(table.schema, value);
    this.writes.setPoint(pointId(table, key), { table, key, value, encoded });
  }

  delete(table: Table<unknown>, key: string): void {
    this.#mayWrite(table, key);
    this.writes.setPoint(pointId(table, key), { table, key, ...DELETED });
  }

  async append<V>(log: Log<V>, parent: string, value: V): Promise<number> {
    this.#mayWrite(log, parent);
    // Appends of one step may run side by side: from here to putAt nothing is awaited.
    const n = await this.#view.shelf.position(log, parent, this.#layers());
    const mine = this.writes.logs.get(logId(log, parent))?.next ?? 0;
    const free = Math.max(n, mine);
    this.putAt(log, parent, free, value);
    return free;
  }

  putAt<V>(log: Log<V>, parent: string, n: number, value: V): void {
    assert(value !== undefined, "a stored value is not undefined");
    assert(Number.isInteger(n) && n >= 0 && n < MARK_POSITION, "row position in range");
    this.#mayWrite(log, parent);
    this.writes.setRow(logId(log, parent), log, parent, n, { value, encoded: encode(log.schema, value) });
  }

  deleteAt(log: Log<unknown>, parent: string, n: number): void {
    this.#mayWrite(log, parent);
    this.writes.setRow(logId(log, parent), log, parent, n, DELETED);
  }

  release(effect: () => void): void {
    assert(!this.#over, "the step is not over");
    this.effects.push(effect);
  }

  /** Where a step deletes the last row of a log, the position after it is written down: it is never given out again. */
  async keepPositions(): Promise<void> {
    for (const [id, writes] of this.writes.logs) {
      const deleted = [...writes.rows].filter(([, write]) => write.value === undefined).map(([n]) => n);
      if (deleted.length === 0) continue;
      const next = Math.max(
        await this.#view.shelf.position(writes.log, writes.parent, this.#view.layers()),
        writes.next,
      );
      if (deleted.includes(next - 1)) this.writes.setMark(id, writes.log, writes.parent, next);
    }
  }

  end(): void {
    this.#over = true;
  }

  #layers(): readonly Overlay[] {
    assert(!this.#over, "the step is not over");
    const discarded = this.#view.discarded();
    if (discarded !== undefined) throw discarded;
    return [this.writes, ...this.#view.layers()];
  }

  #mayWrite(kind: Table<unknown> | Log<unknown>, key: string): void {
    assert(!this.#over, "the step is not over");
    assert(
      kind.lock === undefined || this.#locks.has(kind.lock(key)),
      `a step that writes to ${kind.name} holds its lock`,
    );
  }
}
