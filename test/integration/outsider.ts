import { yamux } from "@chainsafe/libp2p-yamux";
import { gossipsub, StrictNoSign } from "@libp2p/gossipsub";
import type { RPC } from "@libp2p/gossipsub/message";
import { identify } from "@libp2p/identify";
import type { Libp2p, PeerId as LibPeerId } from "@libp2p/interface";
import { noise } from "@libp2p/noise";
import { tcp } from "@libp2p/tcp";
import { multiaddr } from "@multiformats/multiaddr";
import { createLibp2p } from "libp2p";
import { until } from "./net-world.ts";

/**
 * A stranger with libp2p as it comes: it writes down every RPC it is sent, and can send any. Its gossipsub is the library's
 * own, so what it does unasked (announce, graft, gossip) is what others out there would do.
 */
export type Outsider = {
  readonly node: Libp2p;
  readonly received: RPC[];
  readonly gossip: OutsiderGossip;
  connect: (address: string) => Promise<string>;
  /** Sends raw RPCs, bypassing its own gossipsub. */
  send: (peer: string, rpc: Partial<RPC>) => void;
  /** Everything it was sent, as one text to search in. */
  transcript: () => string;
  /** Waits until that many of its heartbeats (one a second) have passed: what others emit on their own has been emitted. */
  heartbeats: (count: number) => Promise<void>;
  stop: () => Promise<void>;
};

export type OutsiderGossip = {
  subscribe: (topic: string) => void;
  publish: (topic: string, data: Uint8Array) => Promise<unknown>;
  getSubscribers: (topic: string) => LibPeerId[];
  getTopics: () => string[];
  readonly streamsOutbound: Map<string, { push: (bytes: Uint8Array) => void }>;
  readonly topics: Map<string, Set<string>>;
  readonly mesh: Map<string, Set<string>>;
  handleReceivedRpc: (from: LibPeerId, rpc: RPC) => Promise<void>;
  sendRpc: (peer: string, rpc: Partial<RPC>) => boolean;
};

export async function outsider(): Promise<Outsider> {
  const node = await createLibp2p({
    start: false,
    addresses: { listen: [] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: {
      identify: identify(),
      gossip: gossipsub({
        globalSignaturePolicy: StrictNoSign,
        allowPublishToZeroTopicPeers: true,
        floodPublish: true,
      }),
    },
  });
  const gossip = node.services["gossip"] as unknown as OutsiderGossip;
  const received: RPC[] = [];
  const original = gossip.handleReceivedRpc;
  gossip.handleReceivedRpc = async (from, rpc) => {
    received.push(rpc);
    await original.call(gossip, from, rpc);
  };
  await node.start();
  return {
    node,
    received,
    gossip,
    async connect(address) {
      const connection = await node.dial(multiaddr(address));
      const peer = connection.remotePeer.toString();
      await until(() => gossip.streamsOutbound.has(peer));
      return peer;
    },
    send: (peer, rpc) => {
      if (!gossip.sendRpc(peer, rpc)) throw new Error("the outsider has no stream");
    },
    transcript: () => JSON.stringify(received, readable),
    async heartbeats(count) {
      let beats = 0;
      const onBeat = (): number => beats++;
      const events = gossip as unknown as EventTarget;
      events.addEventListener("gossipsub:heartbeat", onBeat);
      await until(() => beats >= count);
      events.removeEventListener("gossipsub:heartbeat", onBeat);
    },
    stop: async () => node.stop(),
  };
}

function readable(_: string, value: unknown): unknown {
  return value instanceof Uint8Array ? Buffer.from(value).toString("latin1") : value;
}
