import type { GossipSub } from "@libp2p/gossipsub";
import type { RPC } from "@libp2p/gossipsub/message";
import type { Connection as LibConnection, PeerId as LibPeerId, Stream } from "@libp2p/interface";
import type { PeerId } from "#protocols/base/ids.ts";
import { assert } from "#protocols/base/reject.ts";
import type { DeliveryRecords, SeenIds } from "./bounded.ts";

export type OutRpc = {
  subscriptions?: RPC.SubOpts[] | undefined;
  messages?: RPC.Message[] | undefined;
  control?: { [K in keyof RPC.ControlMessage]?: RPC.ControlMessage[K] } | undefined;
};
export type OutboundStream = { readonly rawStream: Stream; readonly close: () => Promise<void> };

/** What is used of the inside of @libp2p/gossipsub 17. */
export type Internals = Omit<GossipSub, "publish"> & {
  publish: (topic: string, data: Uint8Array) => Promise<{ recipients: LibPeerId[] }>;
  readonly peers: Map<PeerId, LibPeerId>;
  readonly topics: Map<string, Set<PeerId>>;
  readonly mesh: Map<string, Set<PeerId>>;
  readonly backoff: Map<string, Map<PeerId, number>>;
  readonly streamsInbound: Map<PeerId, { readonly rawStream: Stream }>;
  readonly streamsOutbound: Map<PeerId, OutboundStream>;
  readonly topicValidators: Map<string, unknown>;
  readonly opts: { readonly scoreThresholds: { readonly publishThreshold: number } };
  readonly score: {
    readonly params: { topics: object };
    readonly peerStats: Map<PeerId, { readonly topics: Record<string, { readonly invalidMessageDeliveries: number }> }>;
    deliveryRecords: DeliveryRecords;
    score: (peer: PeerId) => number;
    prune: (peer: PeerId, topic: string) => void;
    addPenalty: (peer: PeerId, penalty: number, label: string) => void;
  };
  seenCache: SeenIds;
  publishedMessageIds: SeenIds;
  sendSubscriptions: (peer: PeerId, topics: string[], subscribe: boolean) => void;
  sendRpc: (peer: PeerId, rpc: OutRpc) => boolean;
  sendRpcInBatch: (peers: Set<PeerId>, rpc: OutRpc) => void;
  pushGossip: (peer: PeerId, ihave: RPC.ControlIHave) => void;
  selectPeersToForward: (topic: string, source?: PeerId, exclude?: Set<PeerId>) => Set<PeerId>;
  selectPeersToPublish: (topic: string) => {
    tosend: Set<PeerId>;
    tosendCount: { direct: number; floodsub: number; mesh: number; fanout: number };
  };
  leave: (topic: string) => void;
  pxConnect: (peers: unknown) => Promise<void>;
  decodeRpc: (bytes: Uint8Array) => RPC;
  handleReceivedRpc: (from: LibPeerId, rpc: RPC) => Promise<void>;
  handleReceivedSubscription: (from: LibPeerId, topic: string, subscribe: boolean) => boolean;
  graftOnSubscribe: (peer: PeerId, topic: string) => boolean;
  sendGraft: (peer: PeerId, topics: string[]) => void;
  pipePeerReadStream: (from: LibPeerId, source: AsyncIterable<{ subarray(): Uint8Array }>) => Promise<void>;
  onPeerConnected: (peer: LibPeerId, connection: LibConnection) => void;
  createOutboundStream: (peer: LibPeerId, connection: LibConnection) => Promise<void>;
  onPeerDisconnected: (peer: LibPeerId) => void;
  removePeer: (peer: LibPeerId) => void;
};

const METHODS = [
  "publish",
  "sendSubscriptions",
  "sendRpc",
  "sendRpcInBatch",
  "pushGossip",
  "selectPeersToForward",
  "selectPeersToPublish",
  "leave",
  "pxConnect",
  "decodeRpc",
  "handleReceivedRpc",
  "handleReceivedSubscription",
  "graftOnSubscribe",
  "sendGraft",
  "pipePeerReadStream",
  "onPeerConnected",
  "createOutboundStream",
  "onPeerDisconnected",
  "removePeer",
] as const;
const MAPS = ["peers", "topics", "mesh", "backoff", "streamsInbound", "streamsOutbound", "topicValidators"] as const;

/** @throws When an update of the library has taken one of them away. */
export function internals(service: GossipSub): Internals {
  const node = service as unknown as Internals;
  for (const name of METHODS) assert(typeof node[name] === "function", `gossipsub has ${name}`);
  for (const name of MAPS) assert(node[name] instanceof Map, `gossipsub has ${name}`);
  assert(node.score.peerStats instanceof Map, "gossipsub keeps scores");
  return node;
}
