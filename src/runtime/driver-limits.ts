/** What bounds a driver, and why. */
export const DRIVER_LIMITS = {
  /** Steps running or waiting for the disk. Past some hundred a batch gains nothing; each holds its decoded records. */
  steps: 1_024,
  /** Steps waiting to be admitted. A queue this long is seconds behind: the caller must slow down instead. */
  waitingSteps: 65_536,
  /** Encoded bytes of a batch after which further steps wait for the next. LevelDB's write buffer is 4 MiB. */
  batchBytes: 4 * 1_048_576,
  /** Decoded records of cached tables, some kB each. */
  cachedRecords: 4_096,
  /** Logs whose next position is known, about 150 bytes each. */
  logPositions: 8_192,
  /** With the delays below: about half a minute, then a person has to look. */
  reopenAttempts: 10,
  reopenDelayMs: 50,
  reopenMaxDelayMs: 10_000,
  /** A read that a failed commit interrupts begins again. A store that fails this often in a row is news for the caller. */
  readAttempts: 3,
  /** How often a full disk is tried again. */
  roomProbeMs: 5_000,
  /** A body only touches tables: one that is not done by then waits for something it must not wait for. */
  slowStepMs: 30_000,
} as const;

export type DriverLimits = { readonly [K in keyof typeof DRIVER_LIMITS]: number };
