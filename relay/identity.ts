import { randomBytes } from "node:crypto";
import { mkdir, open, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { fromHex, toHex } from "#protocols/base/bytes.ts";
import { createWebRtcCertificate, type WebRtcCertificate } from "#src/net/node-network.ts";
import { Failure } from "#src/runtime/failure.ts";

/**
 * What a relay keeps so that its address stays the same over restarts: the seed of its PeerId and its WebRTC certificate. Not
 * libp2p's datastore, which would put every client's PeerId and address on the disk as well.
 */
export type RelayIdentity = { readonly keySeed: Uint8Array; readonly certificate: WebRtcCertificate };

const FILE = "relay-identity.json";
const SEED_BYTES = 32;

export async function loadRelayIdentity(home: string): Promise<RelayIdentity> {
  await mkdir(home, { recursive: true, mode: 0o700 });
  const path = join(home, FILE);
  const text = await readIfThere(path);
  if (text !== undefined) return parse(text);
  const identity: RelayIdentity = {
    keySeed: new Uint8Array(randomBytes(SEED_BYTES)),
    certificate: await createWebRtcCertificate(),
  };
  const { keySeed, certificate } = identity;
  await writeDurably(path, `${JSON.stringify({ version: 1, keySeed: toHex(keySeed), certificate }, null, 2)}\n`);
  return identity;
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Damaged is an error, never a new identity: everybody who has the old address would be lost without a word. */
function parse(text: string): RelayIdentity {
  try {
    const { version, keySeed, certificate } = JSON.parse(text) as { [name: string]: unknown };
    const seed = typeof keySeed === "string" ? fromHex(keySeed) : undefined;
    if (version === 1 && seed?.length === SEED_BYTES && isCertificate(certificate))
      return { keySeed: seed, certificate };
  } catch (cause) {
    throw new Failure("relay/damaged-identity", `${FILE} cannot be read`, { cause });
  }
  throw new Failure("relay/damaged-identity", `${FILE} is not complete`);
}

function isCertificate(value: unknown): value is WebRtcCertificate {
  const { privateKey, pem, certhash } = (value ?? {}) as { [name: string]: unknown };
  return typeof privateKey === "string" && typeof pem === "string" && typeof certhash === "string";
}

async function writeDurably(path: string, text: string): Promise<void> {
  const temporary = `${path}.new`;
  const file = await open(temporary, "w", 0o600);
  await file.writeFile(text);
  await file.sync();
  await file.close();
  await rename(temporary, path);
}
