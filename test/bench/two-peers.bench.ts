/** Two peers and a relay as three processes; both peers persistent, every message synced to the disk on both sides. */
import { type ChildProcess, fork } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, connect as connectTcp } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { startRelay } from "#relay/relay.ts";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { systemRandom } from "#src/runtime/node.ts";
import type { Commands } from "./bench-peer.ts";
import { type Figure, quantile, sharedNowMs } from "./report.ts";

const SINGLE_MESSAGES = 500;
/** Between single messages: nothing queues, each is alone. */
const SPACING_MS = 8;
/** Sent before anything is measured: code that runs for the first time is no measure of what runs all day. */
const WARM_UP_MESSAGES = 300;
const BURST_MESSAGES = 10_000;
/** The middle one counts. */
const BURSTS = 3;
const READY_DEADLINE_MS = 30_000;

type Child = { readonly process: ChildProcess; readonly ask: AskFor };
type AskFor = <C extends keyof Commands>(command: C, ...args: Parameters<Commands[C]>) => ReturnType<Commands[C]>;

async function spawn(home: string, name: string, relay: string): Promise<Child> {
  const child = fork(new URL("./bench-peer.ts", import.meta.url), [home, name, relay], {
    execArgv: ["--disable-warning=ExperimentalWarning"],
  });
  const waiting = new Map<number, (value: unknown) => void>();
  const ready = new Promise((resolve) => waiting.set(0, resolve));
  child.on("message", (message: { id: number; value: unknown }) => {
    waiting.get(message.id)?.(message.value);
    waiting.delete(message.id);
  });
  let next = 1;
  const ask = ((command: string, ...args: unknown[]) =>
    new Promise<unknown>((resolve) => {
      const id = next++;
      waiting.set(id, resolve);
      child.send({ id, command, args });
    })) as AskFor;
  await ready;
  return { process: child, ask };
}

/** Asks it to close, and waits until its process is gone. */
function ended({ process: child, ask }: Child): Promise<void> {
  if (child.exitCode !== null || !child.connected) return Promise.resolve();
  return new Promise((resolve) => {
    child.once("exit", () => resolve());
    void ask("close");
  });
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + READY_DEADLINE_MS;
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error("the peers of the bench did not get ready");
    await wait(20);
  }
}

export async function twoPeersFigures(): Promise<readonly Figure[]> {
  const home = await mkdtemp(join(tmpdir(), "skein-bench-"));
  const relay = await startRelay({ home: join(home, "relay"), dev: true });
  const address = relay.addresses.find((text) => text.includes("/tcp/") && !text.includes("/ws"))!;
  const alice = await spawn(join(home, "alice"), "alice", address);
  const bob = await spawn(join(home, "bob"), "bob", address);
  try {
    await until(async () => (await alice.ask("status")).relayOpen && (await bob.ask("status")).relayOpen);
    const conversation = await bob.ask("connect", await alice.ask("invite"));
    await until(async () => (await alice.ask("status")).direct && (await bob.ask("status")).direct);

    const warm = alice.ask("receive", WARM_UP_MESSAGES);
    await bob.ask("burst", conversation, WARM_UP_MESSAGES);
    await warm;
    const single = alice.ask("receive", SINGLE_MESSAGES);
    for (let i = 0; i < SINGLE_MESSAGES; i++) {
      await bob.ask("send", conversation);
      await wait(SPACING_MS);
    }
    const { latencies } = await single;

    const before = (await alice.ask("cpu")) + (await bob.ask("cpu"));
    const rates: number[] = [];
    for (let i = 0; i < BURSTS; i++) {
      const all = alice.ask("receive", BURST_MESSAGES);
      const from = sharedNowMs();
      await bob.ask("burst", conversation, BURST_MESSAGES);
      rates.push((BURST_MESSAGES * 1000) / ((await all).at - from));
      await until(async () => (await bob.ask("status")).outbox === 0);
    }
    const cpu = (await alice.ask("cpu")) + (await bob.ask("cpu")) - before;

    const put = { name: "a synced LevelDB put of 1 KB", value: await syncedPutMs(join(home, "raw")), unit: "ms" };
    const tcp = { name: "1 KB over bare TCP, one way", value: await tcpOneWayMs(), unit: "ms" };
    const batch = {
      name: "synced LevelDB batches of 100 rows of 1 KB",
      value: await batchedPuts(join(home, "batch")),
      unit: "rows/s",
    };
    return [
      {
        name: "one way, durable, 1 KB, p50",
        value: quantile(latencies, 0.5),
        unit: "ms",
        goal: { value: 5, better: "less" },
        reference: put,
      },
      {
        name: "one way, durable, 1 KB, p95",
        value: quantile(latencies, 0.95),
        unit: "ms",
        goal: { value: 15, better: "less" },
        reference: tcp,
      },
      {
        name: "10,000 messages of 1 KB, both ends durable",
        value: quantile(rates, 0.5),
        unit: "messages/s",
        goal: { value: 1_500, better: "more" },
        reference: batch,
      },
      {
        name: "processor time a message, both ends",
        value: cpu / (BURSTS * BURST_MESSAGES),
        unit: "ms",
        reference: put,
      },
    ];
  } finally {
    for (const child of [alice, bob]) await ended(child);
    await relay.stop();
    await rm(home, { recursive: true, force: true });
  }
}

async function syncedPutMs(path: string): Promise<number> {
  const store = await levelStoreHost(path).open();
  const samples: number[] = [];
  for (let i = 0; i < 200; i++) {
    const from = performance.now();
    await store.commit([{ type: "put", key: systemRandom(16), value: systemRandom(1024) }]);
    samples.push(performance.now() - from);
  }
  await store.close();
  return quantile(samples, 0.5);
}

async function batchedPuts(path: string): Promise<number> {
  const store = await levelStoreHost(path).open();
  const value = systemRandom(1024);
  const from = performance.now();
  for (let i = 0; i < 100; i++) {
    await store.commit(Array.from({ length: 100 }, () => ({ type: "put" as const, key: systemRandom(16), value })));
  }
  const rate = 10_000_000 / (performance.now() - from);
  await store.close();
  return rate;
}

async function tcpOneWayMs(): Promise<number> {
  const server = createServer((socket) => socket.pipe(socket)).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  const socket = connectTcp(port, "127.0.0.1").setNoDelay(true);
  const message = systemRandom(1024);
  const samples: number[] = [];
  for (let i = 0; i < 500; i++) {
    const from = performance.now();
    let received = 0;
    await new Promise<void>((resolve) => {
      socket.on("data", (chunk) => {
        received += chunk.length;
        if (received < message.length) return;
        socket.removeAllListeners("data");
        resolve();
      });
      socket.write(message);
    });
    samples.push((performance.now() - from) / 2);
  }
  socket.destroy();
  server.close();
  return quantile(samples, 0.5);
}
