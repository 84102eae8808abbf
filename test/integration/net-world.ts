import type { MakeNetworkWorld, NetworkWorld } from "#test/contracts/network.contract.ts";
import { RELAY_OPTIONS } from "#src/net/limits.ts";
import { createNodeNetwork, type NodeNetworkOptions } from "#src/net/node-network.ts";
import type { Network } from "#src/runtime/ports.ts";

/** Real libp2p over loopback. */
export const TCP = "/ip4/127.0.0.1/tcp/0";
export const WS = "/ip4/127.0.0.1/tcp/0/ws";
export const WEBRTC = "/ip4/127.0.0.1/udp/0/webrtc-direct";

/** A condition that does not come true within this is a failure; on a busy machine things take their time. */
const FAIR_MS = 20_000;

export function peer(options: Partial<NodeNetworkOptions> = {}): Promise<Network> {
  return createNodeNetwork({ listen: [TCP], ...options });
}

export function relay(options: Partial<NodeNetworkOptions> = {}): Promise<Network> {
  return createNodeNetwork({ listen: [TCP], relay: RELAY_OPTIONS, ...options });
}

export const realWorld: MakeNetworkWorld = async (count) =>
  worldOf(
    await Promise.all(Array.from({ length: count.peers }, () => peer())),
    await Promise.all(Array.from({ length: count.relays }, () => relay())),
  );

export function worldOf(peers: readonly Network[], relays: readonly Network[] = []): NetworkWorld {
  return {
    peers,
    relays,
    at: (_, work) => work(),
    until,
    async close() {
      await Promise.all([...peers, ...relays].map((network) => network.stop()));
    },
  };
}

/** Looks after every turn of the event loop; no time of its own passes. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + FAIR_MS;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`not within ${FAIR_MS} ms: ${condition.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
