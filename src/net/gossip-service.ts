import { gossipsub, StrictNoSign } from "@libp2p/gossipsub";
import type { GossipSub, GossipSubComponents } from "@libp2p/gossipsub";
import type { GossipLimits } from "./limits.ts";

/** Options of gossipsub, and what each peer's behaviour costs it. */
export type Sha256 = (data: Uint8Array) => Uint8Array;

/**
 * One rejected envelope (score -5) puts a peer out of the forwarding, two (-20) out of everything else we send, three (-45) on
 * the graylist, where nothing it says is heard. No honest peer sends one, because it has checked it itself. A percent is
 * forgiven each second: after four rejects a peer is heard again in half a minute, after ten in two. Time in the mesh
 * earns at most 1, so it never pays for a rejected envelope.
 */
export const TOPIC_SCORE = {
  topicWeight: 1,
  timeInMeshWeight: 0.1,
  timeInMeshQuantum: 1000,
  timeInMeshCap: 10,
  firstMessageDeliveriesWeight: 0,
  firstMessageDeliveriesDecay: 0.5,
  firstMessageDeliveriesCap: 1,
  // Quiet conversations are normal: nobody is expected to deliver so and so much.
  meshMessageDeliveriesWeight: 0,
  meshMessageDeliveriesDecay: 0.5,
  meshMessageDeliveriesCap: 1,
  meshMessageDeliveriesThreshold: 1,
  meshMessageDeliveriesWindow: 10,
  meshMessageDeliveriesActivation: 5000,
  meshFailurePenaltyWeight: 0,
  meshFailurePenaltyDecay: 0.5,
  invalidMessageDeliveriesWeight: -5,
  invalidMessageDeliveriesDecay: 0.99,
} as const;

/** Behaviour penalties: free up to the threshold of 6, then 10 x excess^2; half is forgiven in 7 seconds. */
export const STRAY_PENALTY = 0.1;
export const MALFORMED_PENALTY = 1;
export const OVERSIZE_PENALTY = 10;

/**
 * A service for libp2p's `services`; hand the instance to `EnvelopeGossip` before the node starts.
 *
 * Gossipsub's message id is the hash of the *whole* envelope. With the envelope id, which leaves out the signature, a hop could
 * send a copy with a broken signature first: the true one would then pass for a duplicate of a rejected message, be dropped,
 * and be held against whoever sent it (decision 0005).
 */
export function gossipService(options: {
  readonly limits: GossipLimits;
  readonly sha256: Sha256;
}): (components: GossipSubComponents) => GossipSub {
  const { limits } = options;
  return gossipsub({
    globalSignaturePolicy: StrictNoSign,
    msgIdFn: (message) => options.sha256(message.data),
    fallbackToFloodsub: false, // a floodsub peer would pass by every filter
    allowPublishToZeroTopicPeers: true,
    ignoreDuplicatePublishError: true,
    batchPublish: true,
    awaitRpcMessageHandler: true, // so that an RPC is done when its messages are validated: see #handle
    runOnLimitedConnection: true,
    tagMeshPeers: false, // it writes topic ids beside peer ids into the peer store
    doPX: false,
    directPeers: [],
    D: limits.maxTopicPeers,
    Dlo: limits.maxTopicPeers,
    Dhi: limits.maxTopicPeers,
    Dscore: limits.maxTopicPeers,
    Dout: 0,
    mcacheLength: 3,
    mcacheGossip: 2,
    // Below this size an IDONTWANT costs more than the duplicate it spares.
    idontwantMinDataSize: 16 * 1024,
    maxInboundStreams: 8,
    maxOutboundStreams: 8,
    maxInboundDataLength: limits.maxRpcBytes,
    // Beyond `maxBacklogBytes` nothing is sent, so this is met only by announcements that are not read.
    maxOutboundBufferSize: limits.maxBacklogBytes + 4 * limits.maxRpcBytes,
    maxTopicBytesPerPeer: Number.POSITIVE_INFINITY, // only revealed topics come that far; #remember counts the others
    decodeRpcLimits: {
      maxSubscriptions: limits.maxTopicsPerPeer,
      maxMessages: 256,
      maxIhaveMessageIDs: 1024,
      maxIwantMessageIDs: 1024,
      maxIdontwantMessageIDs: 512,
      maxControlMessages: limits.maxTopicsPerPeer,
      maxPeerInfos: 0,
    },
    scoreParams: {
      topicScoreCap: 1,
      IPColocationFactorWeight: 0, // everybody behind one NAT, and every client of a relay, shares an address
      behaviourPenaltyWeight: -10,
      behaviourPenaltyThreshold: 6,
      behaviourPenaltyDecay: 0.9,
      decayInterval: 1000,
      decayToZero: 0.1,
      retainScore: 60_000, // peer ids are throwaway; a longer memory only costs memory
    },
    scoreThresholds: {
      gossipThreshold: -10,
      publishThreshold: -15,
      graylistThreshold: -40,
      acceptPXThreshold: Number.MAX_SAFE_INTEGER,
      opportunisticGraftThreshold: 0,
    },
  });
}
