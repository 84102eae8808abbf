/** From `fork` to a first message that is encrypted, on the disk and handed to the network, and to its custody at a relay. */
import { fork, spawnSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { nodeSuite } from "#src/runtime/node-crypto.ts";
import { startRelay } from "#relay/relay.ts";
import { createNodeNetwork } from "#src/net/node-network.ts";
import { createIdentity, startPeer } from "#src/peer/start.ts";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import { type Figure, quantile } from "./report.ts";

const STARTS = 7;

export async function coldStartFigures(): Promise<readonly Figure[]> {
  const home = await mkdtemp(join(tmpdir(), "skein-bench-"));
  const relay = await startRelay({ home: join(home, "relay"), dev: true });
  const address = relay.addresses.find((text) => text.includes("/tcp/") && !text.includes("/ws"))!;
  try {
    const key = await prepare(home, address);
    const sent: number[] = [];
    const held: number[] = [];
    for (let i = 0; i < STARTS; i++) {
      const times = await start(join(home, "alice"), key);
      sent.push(times.sent);
      held.push(times.held);
    }
    const bare = { name: "node -e 0", value: bareStartMs(), unit: "ms" };
    return [
      {
        name: "cold start to the first encrypted message",
        value: quantile(sent, 0.5),
        unit: "ms",
        goal: { value: 500, better: "less" },
        reference: bare,
      },
      { name: "cold start to its custody at a relay", value: quantile(held, 0.5), unit: "ms", reference: bare },
    ];
  } finally {
    await relay.stop();
    await rm(home, { recursive: true, force: true });
  }
}

/** Two accounts that are contacts; bob stays away, so that alice's messages are held. @returns The key of alice's home. */
async function prepare(home: string, address: string): Promise<string> {
  const crypto = nodeSuite();
  const made = await Promise.all(
    ["alice", "bob"].map(async (name) => {
      const key = systemRandom(32);
      const options = {
        host: levelStoreHost(join(home, name)),
        unlock: { platformKey: key },
        clock: systemClock,
        random: systemRandom,
        crypto,
      };
      await createIdentity({ ...options, name, relays: [address] });
      const network = await createNodeNetwork({ listen: ["/ip4/127.0.0.1/tcp/0"] });
      return { key, peer: await startPeer({ ...options, network }) };
    }),
  );
  const [alice, bob] = made as [(typeof made)[0], (typeof made)[0]];
  await alice.peer.connect((await bob.peer.createInvite()).link, { waitMs: 20_000 });
  await Promise.all([alice.peer.close(), bob.peer.close()]);
  return Buffer.from(alice.key).toString("hex");
}

function start(home: string, key: string): Promise<{ readonly sent: number; readonly held: number }> {
  const from = performance.now();
  const child = fork(new URL("./first-message.ts", import.meta.url), [home, key], {
    execArgv: ["--disable-warning=ExperimentalWarning"],
  });
  return new Promise((resolve, reject) => {
    let sent = Number.NaN;
    let held = Number.NaN;
    child.on("message", (message) => {
      if (message === "sent") sent = performance.now() - from;
      else {
        held = performance.now() - from;
        child.send("close");
      }
    });
    child.once("error", reject);
    child.once("exit", () => resolve({ sent, held }));
  });
}

function bareStartMs(): number {
  const samples: number[] = [];
  for (let i = 0; i < STARTS; i++) {
    const from = performance.now();
    spawnSync(process.execPath, ["-e", "0"]);
    samples.push(performance.now() - from);
  }
  return quantile(samples, 0.5);
}
