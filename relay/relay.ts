import { join } from "node:path";
import type { PeerId } from "#protocols/base/ids.ts";
import { nodeSuite } from "#src/runtime/node-crypto.ts";
import { type MailboxStats, startMailbox } from "#src/mailbox/mailbox.ts";
import type { NetworkLimits, RelayOptions } from "#src/net/limits.ts";
import { RELAY_LIMITS, RELAY_OPTIONS } from "#src/net/limits.ts";
import { createNodeNetwork } from "#src/net/node-network.ts";
import { Failure } from "#src/runtime/failure.ts";
import { levelStoreHost } from "#src/runtime/level-store.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import { loadRelayIdentity } from "./identity.ts";
import { startStun } from "./stun.ts";

/**
 * One process that helps others to meet: circuit relay, gossip peer for its clients' topics, mailbox, STUN. It writes nothing
 * about them anywhere but what the mailbox stores, which is opaque.
 */
export type Relay = {
  readonly peerId: PeerId;
  /** Multiaddrs to put into invites, each with its /p2p part. */
  readonly addresses: readonly string[];
  /** Port of the STUN server, UDP. */
  readonly stunPort: number | undefined;
  /** How many and how much, of nobody in particular. */
  stats(): MailboxStats & { readonly connections: number };
  stop(): Promise<void>;
};

export type StartRelayOptions = {
  /** Directory of everything this relay keeps. */
  readonly home: string;
  /** Multiaddrs; by default all interfaces on the ports below, with `dev` loopback on free ones. */
  readonly listen?: readonly string[];
  readonly announce?: readonly string[];
  readonly dev?: boolean;
  /** False for none. */
  readonly stun?: { readonly host: string; readonly port: number } | false;
  readonly limits?: { readonly network?: NetworkLimits; readonly circuits?: RelayOptions };
  /** What its operator should know, a line each, by default on stderr: never a peer, a topic or an address. */
  readonly log?: (line: string) => void;
};

const LISTEN = ["/ip4/0.0.0.0/tcp/4720", "/ip4/0.0.0.0/tcp/4721/ws", "/ip4/0.0.0.0/udp/4722/webrtc-direct"] as const;
const STUN = { host: "0.0.0.0", port: 4723 } as const;
const DEV_LISTEN = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws", "/ip4/127.0.0.1/udp/0/webrtc-direct"] as const;
const DEV_STUN = { host: "127.0.0.1", port: 0 } as const;

/** @throws Failure `net/cannot-listen`, `net/bad-address`, `relay/damaged-identity`, `store/locked` and others of the store. */
export async function startRelay(options: StartRelayOptions): Promise<Relay> {
  const { home, dev = false, announce = [], log = toStderr } = options;
  const { listen = dev ? DEV_LISTEN : LISTEN, stun = dev ? DEV_STUN : STUN } = options;
  const identity = await loadRelayIdentity(home);
  const network = await createNodeNetwork({
    listen,
    announce,
    relay: options.limits?.circuits ?? RELAY_OPTIONS,
    limits: options.limits?.network ?? RELAY_LIMITS,
    ...identity,
  });
  // Started one after the other, stopped the other way round; what started is stopped when a later one fails.
  const stops = [(): Promise<void> => network.stop()];
  const stop = async (): Promise<void> => {
    for (const next of stops.splice(0).reverse()) await next();
  };
  try {
    const mailbox = await startMailbox({
      network,
      host: levelStoreHost(join(home, "mailbox")),
      clock: systemClock,
      random: systemRandom,
      crypto: nodeSuite({ pooled: true }),
      onFailure: (failure) => log(`mailbox: ${failure instanceof Failure ? failure.code : "failed"}, opening it anew`),
    });
    stops.push(() => mailbox.stop());
    const stunServer = stun ? await startStun({ ...stun, clock: systemClock }) : undefined;
    if (stunServer) stops.push(() => stunServer.stop());
    return {
      peerId: network.peerId,
      addresses: network.addresses(),
      stunPort: stunServer?.port,
      stats: () => ({ ...mailbox.stats(), connections: network.connections().length }),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

function toStderr(line: string): void {
  process.stderr.write(`${line}\n`);
}
