import { hash } from "node:crypto";
import { yamux } from "@chainsafe/libp2p-yamux";
import { circuitRelayServer, circuitRelayTransport } from "@libp2p/circuit-relay-v2";
import { generateKeyPairFromSeed } from "@libp2p/crypto/keys";
import { identify } from "@libp2p/identify";
import type { Connection as LibConnection, PeerDiscovery, Stream, Transport } from "@libp2p/interface";
import { noise } from "@libp2p/noise";
import { tcp } from "@libp2p/tcp";
import { type Multiaddr, multiaddr } from "@multiformats/multiaddr";
import { createLibp2p, type Libp2pOptions } from "libp2p";
import type { PeerId } from "#protocols/base/ids.ts";
import { assert } from "#protocols/base/reject.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Network } from "#src/runtime/ports.ts";
import { type Components, connectionsOf, DialPermits, Libp2pNetwork } from "./connections.ts";
import { EnvelopeGossip } from "./gossip.ts";
import { gossipService } from "./gossip-service.ts";
import { type NetworkLimits, PEER_LIMITS, RELAY_LIMITS, type RelayOptions, STREAM_WINDOW_BYTES } from "./limits.ts";
import { silentLog } from "./silent-log.ts";

/**
 * A libp2p node for Node: TCP, WebSockets, WebRTC-direct, noise, yamux, identify, circuit relay, gossipsub. It contacts no
 * host but those it is told to: no bootstrap, no routing, no autonat, no hole punching, no STUN, and no dial that
 * `connect` did not ask for (`DialPermits`).
 */
export type NodeNetworkOptions = {
  /** Multiaddrs, such as `/ip4/127.0.0.1/tcp/0` or `/ip4/0.0.0.0/udp/0/webrtc-direct`. None: we only dial. */
  readonly listen: readonly string[];
  /** Addresses under which the listening ones are known outside (behind a NAT or a proxy). */
  readonly announce?: readonly string[];
  /** Serve as a circuit relay. Then identify tells everybody our addresses, as a peer's does not. */
  readonly relay?: RelayOptions | false;
  /** Announce ourselves on the local network, and hear of others there. Whether to dial them is the caller's business. */
  readonly mdns?: { readonly onFound: (address: string) => void };
  /** Ed25519 seed of the PeerId, 32 bytes: for relays. Without it the PeerId is new at every start. */
  readonly keySeed?: Uint8Array;
  /** WebRTC certificate, so that a relay's address stays the same: from `createWebRtcCertificate`. */
  readonly certificate?: WebRtcCertificate;
  readonly limits?: NetworkLimits;
};

export type WebRtcCertificate = { readonly privateKey: string; readonly pem: string; readonly certhash: string };

export async function createNodeNetwork(options: NodeNetworkOptions): Promise<Network> {
  const { listen, announce = [], relay = false, limits = relay ? RELAY_LIMITS : PEER_LIMITS } = options;
  for (const address of [...listen, ...announce]) checkAddress(address);
  const permits = new DialPermits();
  const relays = new Set<PeerId>();
  let components: (Components & TransportComponents) | undefined;

  const init: Libp2pOptions = {
    ...(options.keySeed && { privateKey: await generateKeyPairFromSeed("Ed25519", options.keySeed) }),
    start: false,
    logger: silentLog,
    nodeInfo: { name: "skein", version: "1", userAgent: "skein" },
    addresses: {
      listen: [...listen],
      announce: [],
      appendAnnounce: [...announce],
      // Identify tells our addresses to whoever connects; a peer tells them only to its contacts, inside their conversation.
      ...(relay === false && { announceFilter: () => [] }),
    },
    transports: [tcp(), circuitTransport(relays)],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux({ streamOptions: { maxStreamWindowSize: STREAM_WINDOW_BYTES } })],
    connectionGater: { denyDialPeer: (peer) => !permits.allows(peer), denyDialMultiaddr: () => false },
    connectionManager: {
      maxConnections: limits.maxConnections,
      maxIncomingPendingConnections: limits.maxPendingConnections,
      inboundConnectionThreshold: limits.maxNewConnectionsPerSecond,
      dialTimeout: limits.connectDeadlineMs,
      reconnectRetries: 0,
      resolvers: {}, // /dnsaddr would ask DNS for further hosts to contact
    },
    // Pings measure; a connection full of our own data must not be cut for answering them late (js-libp2p#3463).
    connectionMonitor: { abortConnectionOnPingFailure: false },
    services: {
      identify: identify(),
      gossip: gossipService({ limits: limits.gossip, sha256 }),
      ...(relay && { relay: relayService(relay) }),
      inside: (given) => {
        components = given as unknown as Components & TransportComponents;
        return {};
      },
    },
  };
  const optional = new OptionalTransports(options.certificate);
  for (const address of listen) {
    await optional.load(address, (transport) => Promise.resolve(init.transports!.push(transport)));
  }
  if (options.mdns) init.peerDiscovery = [await discovery(options.mdns.onFound)];

  const node = await createLibp2p(init);
  assert(components, "libp2p made its services");
  const inside = components;
  const gossip = new EnvelopeGossip(node.services["gossip"] as ConstructorParameters<typeof EnvelopeGossip>[0], {
    limits: limits.gossip,
    sha256,
    connectionsOf: (peer) => connectionsOf(node, peer),
  });
  const network = new Libp2pNetwork({
    node,
    components: inside,
    gossip,
    permits,
    relays,
    announce,
    limits,
    prepareDial: (address) =>
      optional.load(address.toString(), async (make) => {
        const transport = make(inside as never);
        await startable(transport).start?.();
        inside.transportManager.add(transport);
      }),
  });
  try {
    await node.start();
  } catch (error) {
    throw new Failure("net/cannot-listen", "could not listen on the given addresses", { cause: error });
  }
  return network;
}

/** A self-signed certificate for WebRTC-direct; its hash is in the address, so a relay keeps it. */
export async function createWebRtcCertificate(): Promise<WebRtcCertificate> {
  // Made by a transport that never listens: the library has no function for it. Its renewal timer must stay below 2^31 ms,
  // or Node fires it at once.
  const renewAfterMs = 20 * 24 * 60 * 60 * 1000;
  const { webRTCDirect } = await import("@libp2p/webrtc");
  const make = webRTCDirect({
    certificateLifespan: CERTIFICATE_LIFE_MS,
    certificateRenewalThreshold: CERTIFICATE_LIFE_MS - renewAfterMs,
  });
  const transport = make({ logger: silentLog, datastore: NO_DATASTORE } as never) as unknown as {
    certificate?: WebRtcCertificate;
    start(): Promise<void>;
    stop(): Promise<void>;
  };
  await transport.start();
  const { certificate } = transport;
  await transport.stop();
  assert(certificate, "the transport made a certificate");
  return certificate;
}

/** Browsers check the hash, not the date; an address in an old invite should still work. */
const CERTIFICATE_LIFE_MS = 10 * 365 * 24 * 60 * 60 * 1000;

const NO_DATASTORE = {
  get: () => Promise.reject(Object.assign(new Error("not found"), { name: "NotFoundError" })),
};

type TransportComponents = { readonly transportManager: Components["transportManager"] & TransportAdder };
type TransportAdder = { add(transport: Transport): void };
type MakeTransport = NonNullable<Libp2pOptions["transports"]>[number];

/**
 * Transports imported when the first address asks for them: WebSockets cost 40 ms, WebRTC as much as all the rest. Dials that
 * come meanwhile wait for the same import and find it done.
 */
class OptionalTransports {
  readonly #loads: { readonly pattern: RegExp; readonly load: () => Promise<MakeTransport> }[];
  #turn: Promise<unknown> = Promise.resolve();

  constructor(certificate: WebRtcCertificate | undefined) {
    this.#loads = [
      { pattern: /\/wss?(\/|$)/, load: webSocketTransport },
      { pattern: /\/webrtc-direct(\/|$)/, load: () => webRtcTransport(certificate) },
    ];
  }

  /** Hands those that `address` needs to `add`, each once, and waits for what others are adding. */
  async load(address: string, add: (transport: MakeTransport) => Promise<unknown>): Promise<void> {
    const before = this.#turn;
    const turn = Promise.withResolvers<void>();
    this.#turn = turn.promise;
    await before;
    try {
      for (const wanted of this.#loads.filter(({ pattern }) => pattern.test(address))) {
        await add(await wanted.load());
        this.#loads.splice(this.#loads.indexOf(wanted), 1);
      }
    } finally {
      turn.resolve();
    }
  }
}

function startable(transport: Transport): { start?: () => Promise<void> } {
  return transport as unknown as { start?: () => Promise<void> };
}

function sha256(data: Uint8Array): Uint8Array {
  return hash("sha256", data, "buffer");
}

function checkAddress(address: string): void {
  try {
    multiaddr(address);
  } catch (error) {
    throw new Failure("net/bad-address", "not a multiaddr", { cause: error });
  }
}

async function webSocketTransport(): Promise<MakeTransport> {
  const { webSockets } = await import("@libp2p/websockets");
  return webSockets();
}

/** Its default ICE servers are hosts nobody chose. */
async function webRtcTransport(certificate: WebRtcCertificate | undefined): Promise<MakeTransport> {
  const { webRTCDirect } = await import("@libp2p/webrtc");
  return webRTCDirect({
    rtcConfiguration: { iceServers: [] },
    certificate: certificate ?? (await createWebRtcCertificate()),
  });
}

/** Takes relayed connections only through relays we chose; libp2p reserves at whoever sends us one. */
function circuitTransport(relays: ReadonlySet<PeerId>): ReturnType<typeof circuitRelayTransport> {
  const make = circuitRelayTransport();
  return (components) => {
    const transport = make(components);
    const inside = transport as unknown as { onStop: (stream: Stream, connection: LibConnection) => Promise<void> };
    assert(typeof inside.onStop === "function", "the circuit transport has onStop");
    const onStop = inside.onStop;
    inside.onStop = async (stream, connection) => {
      if (relays.has(connection.remotePeer.toString() as PeerId)) await onStop(stream, connection);
      else stream.abort(new Error("not a relay of ours"));
    };
    return transport;
  };
}

function relayService(relay: RelayOptions): ReturnType<typeof circuitRelayServer> {
  return circuitRelayServer({
    maxInboundHopStreams: relay.maxCircuitsPerClient,
    maxOutboundHopStreams: relay.maxCircuitsPerClient,
    maxOutboundStopStreams: relay.maxCircuitsPerClient,
    reservations: {
      maxReservations: relay.maxReservations,
      reservationTtl: relay.reservationMs,
      defaultDataLimit: BigInt(relay.maxCircuitBytes),
      defaultDurationLimit: relay.maxCircuitMs,
    },
  });
}

async function discovery(onFound: (address: string) => void) {
  const { mdns } = await import("@libp2p/mdns");
  return (components: Parameters<ReturnType<typeof mdns>>[0]): PeerDiscovery => {
    const inside = components as unknown as Components & { readonly peerId: { toString(): string } };
    // Our addresses, which identify keeps to itself.
    const own = (): Multiaddr[] => {
      const listening = inside.transportManager
        .getAddrs()
        .filter((address) => !address.toString().includes("/p2p-circuit"));
      return listening.map((address) => address.encapsulate(`/p2p/${inside.peerId.toString()}`));
    };
    const found = mdns({ serviceTag: "_skein._udp.local" })({
      logger: silentLog,
      addressManager: { getAddresses: own } as Parameters<ReturnType<typeof mdns>>[0]["addressManager"],
    });
    found.addEventListener("peer", (event) => {
      const { id, multiaddrs } = event.detail;
      for (const address of multiaddrs) {
        const text = address.toString();
        onFound(text.includes("/p2p/") ? text : `${text}/p2p/${id.toString()}`);
      }
    });
    return found;
  };
}
