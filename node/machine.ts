/** Puts a peer together from this machine's clock, randomness, disk and network: what the daemon runs, and a command alone. */
import { nodeSuite } from "#src/runtime/node-crypto.ts";
import type { Peer } from "#src/peer/face.ts";
import { startPeer } from "#src/peer/start.ts";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import type { Network } from "#src/runtime/ports.ts";
import { accountFolder, type Home, mustHaveAccount, readUnlock, storeFolder } from "./home.ts";
import { offlineNetwork } from "./offline-network.ts";

export function machine() {
  return { clock: systemClock, random: systemRandom, crypto: nodeSuite() };
}

/**
 * Opens the account of `home` in this process.
 * @param options.listen Multiaddrs to listen on; none: we only dial.
 * @returns The peer, which owns its network from here on.
 * @throws Failure `home/none`, `home/damaged`, `vault/…`, `store/locked`, `net/bad-address`, …
 */
export async function openAccount(
  home: Home,
  options: {
    readonly passphraseFile: string | undefined;
    readonly listen: readonly string[];
    readonly offline: boolean;
  },
): Promise<Peer> {
  mustHaveAccount(home);
  const unlock = await readUnlock(home, options.passphraseFile);
  const ports = machine();
  const network = options.offline ? offlineNetwork() : await onlineNetwork(options.listen);
  try {
    const host = levelStoreHost(storeFolder(accountFolder(home)));
    return await startPeer({ ...ports, host, unlock, network });
  } catch (error) {
    await network.stop();
    throw error;
  }
}

async function onlineNetwork(listen: readonly string[]): Promise<Network> {
  const { createNodeNetwork } = await import("#src/net/node-network.ts");
  return createNodeNetwork({ listen });
}
