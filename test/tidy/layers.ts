/**
 * Who may import whom. What a folder may reach, directly or through others, is what is listed here and nothing else, so a
 * forbidden folder can't come in by the back door. A folder that is not listed may not exist: its place must be decided.
 */
export type Layer = {
  /** A folder ("src/net/") or a file. The longest matching entry governs a file. */
  readonly folder: string;
  /** Folders and files it may reach, itself included without saying. */
  readonly may: readonly string[];
  /** npm packages and `node:` it may name itself: exact, or a prefix that ends with "/" or ":". */
  readonly packages: readonly string[];
};

const PROTOCOL_PACKAGES = ["@noble/", "@scure/"];
/** What can be known without reading a conversation. */
const BLIND = ["base", "identity", "envelope", "sync", "directory"].map((name) => `protocols/${name}/`);
const LIBP2P = ["libp2p", "@libp2p/", "@chainsafe/", "@multiformats/", "datastore-level", "interface-datastore"];

function protocol(name: string): Layer {
  return { folder: `protocols/${name}/`, may: ["protocols/base/", "protocols/identity/"], packages: PROTOCOL_PACKAGES };
}

export const LAYERS: readonly Layer[] = [
  { folder: "protocols/base/", may: [], packages: PROTOCOL_PACKAGES },
  protocol("identity"),
  protocol("handshake"),
  protocol("ratchet"),
  protocol("group"),
  protocol("access"),
  protocol("envelope"),
  protocol("sync"),
  protocol("directory"),
  protocol("content"),
  // The one protocol that composes the others.
  { folder: "protocols/conversation/", may: ["protocols/"], packages: PROTOCOL_PACKAGES },

  { folder: "src/runtime/", may: ["protocols/base/"], packages: ["node:", "classic-level", "hash-wasm", "@noble/"] },
  { folder: "src/net/", may: ["src/runtime/", ...BLIND], packages: ["node:", ...LIBP2P] },
  { folder: "src/mailbox/", may: ["src/runtime/", ...BLIND], packages: [] },
  { folder: "src/media/pins/", may: ["src/runtime/", ...BLIND], packages: [] },
  { folder: "src/peer/", may: ["protocols/", "src/runtime/", "src/mailbox/"], packages: [] },
  { folder: "src/app/", may: ["src/peer/face.ts", "protocols/content/", "protocols/base/"], packages: [] },

  {
    folder: "node/",
    // `skein relay` starts a relay, so the relay is within reach; the relay itself reaches nothing of ours that can read.
    may: ["protocols/", "src/runtime/", "src/peer/", "src/net/", "src/mailbox/", "src/media/", "src/calls/", "relay/"],
    packages: ["node:", "valibot"],
  },
  // That the relay cannot read is a rule of the build: no handshake, ratchet, group, access, content, conversation, peer.
  {
    folder: "relay/",
    may: ["src/runtime/", "src/net/", "src/mailbox/", "src/media/pins/", ...BLIND],
    packages: ["node:"],
  },
];

/**
 * Edges the table does not allow and we want all the same, each with its reason. They are not followed further.
 */
export const EXCEPTIONS: readonly { readonly from: string; readonly to: string; readonly reason: string }[] = [
  {
    from: "node/commands/sim.ts",
    to: "test/simulator/",
    reason:
      "`skein sim` runs the simulator. It is a research tool, loaded by nothing else, and lives where it is tested.",
  },
];
