/** What a bench found: one figure beside a raw operation measured in the same run, because the machine is never the same. */
export type Figure = {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  /** What was aimed at on two cores, and whether more or less is better. */
  readonly goal?: { readonly value: number; readonly better: "more" | "less" };
  readonly reference: { readonly name: string; readonly value: number; readonly unit: string };
};

function shown(value: number, unit: string): string {
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${unit}`;
}

function verdict({ value, goal }: Figure): string {
  if (goal === undefined) return "";
  const met = goal.better === "more" ? value >= goal.value : value <= goal.value;
  return `${goal.better === "more" ? ">=" : "<="} ${goal.value} ${met ? "met" : "MISSED"}`;
}

/** A table for people. */
export function table(figures: readonly Figure[]): string {
  const rows = figures.map((figure) => [
    figure.name,
    shown(figure.value, figure.unit),
    verdict(figure),
    `${figure.reference.name}: ${shown(figure.reference.value, figure.reference.unit)}`,
  ]);
  const header = ["figure", "measured", "goal", "beside it, in the same run"];
  const widths = header.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]!.length)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join("  ")
      .trimEnd();
  return [line(header), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n");
}

/** The value below which `share` of the sorted samples lie. */
export function quantile(samples: readonly number[], share: number): number {
  const sorted = samples.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

/** Milliseconds of a clock that all processes of this machine share. */
export function sharedNowMs(): number {
  return Number(process.hrtime.bigint() / 1000n) / 1000;
}

/** How many times a second `work` can be done, over at least `forMs`. */
export async function perSecond(forMs: number, work: () => Promise<number>): Promise<number> {
  const from = performance.now();
  let done = 0;
  while (performance.now() < from + forMs) done += await work();
  return (done * 1000) / (performance.now() - from);
}
