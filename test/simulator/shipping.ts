/** The programs that ship, as the world starts them: `src/peer` and `src/mailbox`, nothing of theirs replaced. */
import { startMailbox } from "#src/mailbox/mailbox.ts";
import { createIdentity, startPeer } from "#src/peer/start.ts";
import { Failure } from "#src/runtime/failure.ts";

import { nativeSuite } from "./native.ts";
import type { Program } from "./run.ts";
import type { Environment, SimPeer } from "./world.ts";

/** Argon2id would only cost time here (and WebAssembly compiles in real time): the platform gives the key. */
const UNLOCK = { platformKey: new Uint8Array(32).fill(7) };

/** Opens the home, or makes one where there is none; a crash in between finds either. */
async function startShippingPeer(environment: Environment): Promise<SimPeer> {
  const { name, host, network, clock, random, crypto, relays } = environment;
  const home = { host, unlock: UNLOCK, clock, random, crypto };
  try {
    return await startPeer({ ...home, network });
  } catch (error) {
    if (!(error instanceof Failure) || error.code !== "identity/missing") throw error;
  }
  await createIdentity({ ...home, name, relays });
  return startPeer({ ...home, network });
}

export function shippingProgram(): Program {
  return {
    startPeer: startShippingPeer,
    startRelay: ({ host, network, clock, random, crypto }) => startMailbox({ host, network, clock, random, crypto }),
    crypto: nativeSuite(),
  };
}
