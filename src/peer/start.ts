/** Starting a peer over its ports. The faces (command line, daemon, web, simulator) bring the ports and get a `Peer`. */
import type { AccountId, DeviceId } from "#protocols/base/ids.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import { Driver } from "#src/runtime/driver.ts";
import type { Clock, Network, Random, StoreHost } from "#src/runtime/ports.ts";
import type { Unlock } from "#src/runtime/vault.ts";
import type { Peer } from "./face.ts";
import { RunningPeer } from "./peer.ts";
import { Identity, makeIdentity } from "./self.ts";

export type HomeOptions = {
  readonly host: StoreHost;
  readonly unlock: Unlock;
  readonly clock: Clock;
  readonly random: Random;
  readonly crypto: CryptoSuite;
};

/**
 * Makes an account and its first device in an empty home.
 * @returns The recovery phrase, shown once: it is stored nowhere.
 * @throws Failure `identity/exists`, `identity/bad-name`, and those of the store and the vault.
 */
export async function createIdentity(
  options: HomeOptions & { readonly name: string; readonly relays: readonly string[] },
): Promise<{ readonly account: AccountId; readonly device: DeviceId; readonly phrase: string }> {
  const { clock, random, crypto } = options;
  const driver = await Driver.open(options);
  try {
    return await makeIdentity(driver, options, { now: clock.now(), random, crypto });
  } finally {
    await driver.close();
  }
}

/**
 * Opens a home and joins its conversations. The peer owns `network` from here on and stops it when it is closed.
 * @throws Failure `identity/missing`, `vault/wrong-passphrase`, `store/locked` and the store's others.
 */
export async function startPeer(options: HomeOptions & { readonly network: Network }): Promise<Peer> {
  const { network, clock, random, crypto } = options;
  const driver = await Driver.open(options);
  try {
    const identity = await Identity.load(driver, crypto);
    const peer = new RunningPeer({ driver, network, clock, random, crypto, identity });
    await peer.start();
    return peer;
  } catch (error) {
    await driver.close();
    throw error;
  }
}
