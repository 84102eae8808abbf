/** What every part of a peer is given: the ports, the keys and the one way to tell the face that something happened. */
import type { CryptoSuite } from "#protocols/base/suite.ts";
import type { StepEnv } from "#protocols/conversation/direct.ts";
import type { Driver } from "#src/runtime/driver.ts";
import type { Clock, Network, Random } from "#src/runtime/ports.ts";
import type { PeerEvent } from "./face.ts";
import type { Identity } from "./self.ts";

export type World = {
  readonly driver: Driver;
  readonly network: Network;
  readonly clock: Clock;
  readonly random: Random;
  readonly crypto: CryptoSuite;
  readonly identity: Identity;
  /** Network time: the median of our clock and what the mailboxes say. */
  readonly now: () => number;
  readonly tell: (event: PeerEvent) => void;
};

/** A step's view of the world: the time does not move while it runs. */
export function stepEnv(world: World): StepEnv {
  return {
    now: world.now(),
    random: world.random,
    crypto: world.crypto,
    nextSequence: () => world.identity.nextSequence(),
  };
}
