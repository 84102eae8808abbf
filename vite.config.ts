import { defineConfig } from "vitest/config";

/**
 * Two projects, because they want different things of a machine with two cores. `pure` computes and may share the cores;
 * `live` starts processes and sockets and has the machine to itself, one file at a time, so that its deadlines mean something.
 */
const LIVE = [
  "node/**/*.test.ts",
  "relay/**/*.test.ts",
  "src/net/**/*.test.ts",
  "test/integration/**/*.test.ts",
  "test/e2e/**/*.test.ts",
];

const SEEDS = 0x7fff_ffff;
const LONG = {
  env: { SKEIN_LONG: "1", SKEIN_SEED: process.env["SKEIN_SEED"] ?? String(Math.floor(Math.random() * SEEDS)) },
  setupFiles: ["./test/seed.ts"],
};

export default defineConfig(({ mode }) => ({
  test: {
    environment: "node",
    pool: "forks",
    maxWorkers: 2,
    // ML-KEM and ChaCha20 in Node's WebCrypto call themselves experimental, in every worker anew.
    execArgv: ["--disable-warning=ExperimentalWarning"],
    // Counts are small by default; `npm run test:long` (--mode long) raises them.
    ...(mode === "long" ? LONG : {}),
    reporters: ["default", "./test/summary.ts"],
    projects: [
      {
        extends: true,
        test: {
          name: "pure",
          include: ["protocols/**/*.test.ts", "src/**/*.test.ts", "test/**/*.test.ts"],
          exclude: ["**/node_modules/**", ...LIVE],
          testTimeout: mode === "long" ? 3_600_000 : 20_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: "live",
          include: LIVE,
          fileParallelism: false,
          testTimeout: mode === "long" ? 3_600_000 : 60_000,
          hookTimeout: 60_000,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
}));
