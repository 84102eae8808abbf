/** Where a command's results go: stdout as JSON lines or as text for people; stderr for everything beside the result. */
export type Output = {
  readonly json: boolean;
  /** One result. `human` is called only when somebody will read it. */
  print(value: object, human: () => string): void;
  /** A line somebody else has made ready, for scripts or for people as `json` says. */
  line(text: string): void;
  /** Something a person may want to know meanwhile. */
  note(text: string): void;
};

type Sink = { write(text: string): unknown };

export function createOutput(options: { json: boolean; stdout: Sink; stderr: Sink }): Output {
  return {
    json: options.json,
    print(value, human) {
      options.stdout.write(`${options.json ? JSON.stringify(value) : human()}\n`);
    },
    line(text) {
      options.stdout.write(`${text}\n`);
    },
    note(text) {
      options.stderr.write(`${text}\n`);
    },
  };
}

/**
 * Text of others for a terminal: no control character (an escape sequence could move the cursor or worse) and no mark that
 * turns the direction of what follows. Line breaks stay.
 */
export function printable(text: string): string {
  // eslint-disable-next-line no-control-regex -- control characters are what this is about
  return text.replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\u{fffd}");
}

/** An id as people see it. Commands accept any beginning that is unique. */
export function short(id: string): string {
  return id.slice(0, 10);
}

/** Columns, as wide as their widest cell. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

export function time(ms: number): string {
  const date = new Date(ms);
  const two = (value: number): string => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}`;
}
