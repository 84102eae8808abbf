/**
 * Every bound of the network layer, with its reason. A peer uses `PEER_LIMITS`; a relay, which has many clients behind one
 * address, uses `RELAY_LIMITS`.
 */
export type NetworkLimits = {
  /** Open connections. libp2p prunes the least valuable above it. A browser tab pays about 200 kB for each. */
  readonly maxConnections: number;
  /** Connections still in their handshake. The default of 10 refused 10 of 60 clients that came at once. */
  readonly maxPendingConnections: number;
  /** New connections a second from one address. The default of 5 shuts out an office or a school behind one NAT. */
  readonly maxNewConnectionsPerSecond: number;
  /** Inbound streams of one protocol on one connection; what comes above is reset. */
  readonly maxInboundStreams: number;
  /** Largest frame of a FrameStream. Holds the largest batch of sync with room to spare. */
  readonly maxFrameBytes: number;
  /** Overrides of the two above for single protocols. */
  readonly protocols: Readonly<
    Record<string, { readonly maxFrameBytes?: number; readonly maxInboundStreams?: number }>
  >;
  /** A dial with all it includes: name lookup, socket, noise, muxer. */
  readonly connectDeadlineMs: number;
  /** Opening a stream on a connection that is there: one round trip, on a bad mobile link a slow one. */
  readonly openStreamDeadlineMs: number;
  readonly gossip: GossipLimits;
};

export type GossipLimits = {
  /** Peers in one topic. A relay's clients are one star, so D = Dlo = Dhi = this; with smaller ones 66 % of 50 were reached. */
  readonly maxTopicPeers: number;
  /** Topics one peer may announce to us. 3 periods x some hundred conversations, and room for groups. */
  readonly maxTopicsPerPeer: number;
  /** Largest envelope gossiped: 64 KiB of padded payload with its frame, and a margin. */
  readonly maxEnvelopeBytes: number;
  /** Largest gossipsub RPC: one envelope, or the announcement of all topics of a peer (4,096 x 70 bytes). */
  readonly maxRpcBytes: number;
  /** RPCs of one peer being validated at once. Above it we stop reading from that peer, so its sender waits. */
  readonly maxPendingRpcs: number;
  /** Bytes waiting to be sent to one peer. Above it that peer is skipped: gossip is the fast path, sync the certain one. */
  readonly maxBacklogBytes: number;
  /** Envelope ids remembered, so that one is validated and handed on once. 65,536 x about 150 bytes is 10 MB. */
  readonly maxSeen: number;
  /** Messages of one peer on topics it has no business with, a second, before it is held against it (late ones are normal). */
  readonly maxStraysPerSecond: number;
};

const GOSSIP: GossipLimits = {
  maxTopicPeers: 256,
  maxTopicsPerPeer: 4096,
  maxEnvelopeBytes: 72 * 1024,
  maxRpcBytes: 512 * 1024,
  maxPendingRpcs: 256,
  maxBacklogBytes: 4 * 1024 * 1024,
  maxSeen: 65_536,
  maxStraysPerSecond: 256,
};

export const PEER_LIMITS: NetworkLimits = {
  maxConnections: 256,
  maxPendingConnections: 32,
  maxNewConnectionsPerSecond: 32,
  maxInboundStreams: 32,
  maxFrameBytes: 1024 * 1024,
  protocols: {},
  connectDeadlineMs: 10_000,
  openStreamDeadlineMs: 10_000,
  gossip: GOSSIP,
};

export const RELAY_LIMITS: NetworkLimits = {
  ...PEER_LIMITS,
  maxConnections: 2048,
  maxPendingConnections: 256,
  maxNewConnectionsPerSecond: 128,
  // 2,048 clients that do not read cost 2 GiB with this, which is what a relay's machine should have.
  gossip: { ...GOSSIP, maxTopicPeers: 2048, maxBacklogBytes: 1024 * 1024 },
};

/** What a relay gives away of circuit relay v2. libp2p's defaults (15 reservations, 128 KiB, 2 minutes) fit a test. */
export type RelayOptions = {
  /** Clients that can be reached through us. */
  readonly maxReservations: number;
  /** Clients renew five minutes before the end; a client that is gone holds its place this long. */
  readonly reservationMs: number;
  /** One circuit, both ways together. Chats and signalling fit; bulk data does not ride on relays (DESIGN section 8). */
  readonly maxCircuitBytes: number;
  readonly maxCircuitMs: number;
  /** Circuits one client may have opened through us at once. */
  readonly maxCircuitsPerClient: number;
};

export const RELAY_OPTIONS: RelayOptions = {
  maxReservations: 1024,
  reservationMs: 60 * 60 * 1000,
  maxCircuitBytes: 16 * 1024 * 1024,
  maxCircuitMs: 2 * 60 * 60 * 1000,
  maxCircuitsPerClient: 32,
};

/** `close` waits so long for what was sent to leave, then the stream is torn down. */
export const CLOSE_DEADLINE_MS = 10_000;
/** Unread frames of a stream above which we stop reading from it, and below which we read on. */
export const RECEIVE_HIGH_BYTES = 256 * 1024;
export const RECEIVE_LOW_BYTES = 64 * 1024;
/** What libp2p may hold for a stream that is not read. Above the muxer's window, so that an honest sender never meets it. */
export const READ_BUFFER_BYTES = 4 * 1024 * 1024;
/** Largest window a muxer grants one stream; a window above READ_BUFFER_BYTES would reset a paused stream. */
export const STREAM_WINDOW_BYTES = 2 * 1024 * 1024;
/** Bytes queued in libp2p above which `send` waits. */
export const SEND_HIGH_BYTES = 256 * 1024;
