/** One frame of each kind, from fixed bytes: the vectors of this folder and the seeds of its fuzz tests. */
import { toHex } from "#protocols/base/bytes.ts";
import type { AnyId, PeerId } from "#protocols/base/ids.ts";
import { synchronousSuite } from "#protocols/base/synchronous.ts";
import type { Frame } from "./frames.ts";
import { type Binding, proveInbox, proveTopic, signCustody } from "./proofs.ts";

export const crypto = synchronousSuite();

export function fill(byte: number, length = 32): Uint8Array {
  return new Uint8Array(length).fill(byte);
}

export function idOf<T extends AnyId>(byte: number, length = 32): T {
  return toHex(fill(byte, length)) as T;
}

export async function keyPair<T extends AnyId>(byte: number): Promise<{ id: T; seed: Uint8Array }> {
  const seed = fill(byte);
  return { id: toHex(await crypto.ed25519.publicKey(seed)) as T, seed };
}

export const BINDING: Binding = {
  mailboxNonce: fill(1),
  clientNonce: fill(2),
  mailboxPeer: "12D3KooWMailbox" as PeerId,
  clientPeer: "12D3KooWClient" as PeerId,
};

const log = idOf<never>(9, 16);
const id = idOf<never>(8);

export async function exampleFrames(): Promise<Record<string, Frame>> {
  const topic = await keyPair<never>(3);
  const inbox = await keyPair<never>(4);
  const cursor = { log, n: 70_000 };
  const receipts = [{ id, until: 500_000 }];
  const signature = await signCustody(crypto, fill(5), { log, items: receipts });
  const mailbox = {
    log,
    custodyKey: await crypto.ed25519.publicKey(fill(5)),
    maxTopics: 1024,
    putWindowBytes: 2_097_152,
  };
  const frames: readonly (readonly [string, Frame])[] = [
    ["hello of a client", { type: "hello", version: 1, nonce: fill(2), now: 1_795_177_800_000 }],
    ["hello of a mailbox", { type: "hello", version: 1, nonce: fill(1), now: 1_795_177_800_000, mailbox }],
    ["bye", { type: "bye", code: "sync/unexpected" }],
    [
      "subscribe",
      {
        type: "subscribe",
        items: [
          { topic: topic.id, proof: await proveTopic(crypto, topic, BINDING), cursor },
          { topic: id, proof: fill(7, 64) },
        ],
      },
    ],
    ["subscribed", { type: "subscribed", topic: topic.id, log, after: 70_000, reset: false }],
    ["denied", { type: "denied", topic: topic.id, code: "sync/bad-proof" }],
    ["unsubscribe", { type: "unsubscribe", topics: [topic.id] }],
    [
      "entries",
      {
        type: "entries",
        lane: "backlog",
        topic: topic.id,
        log,
        items: [{ n: 1, envelope: fill(6, 300) }],
        through: 1,
        end: false,
      },
    ],
    [
      "entries that only move the cursor",
      { type: "entries", lane: "live", topic: topic.id, log, items: [], through: 24, end: true },
    ],
    [
      "have",
      { type: "have", topic: topic.id, log, items: [{ n: 256, id, until: 500_000 }], signature, through: 65_536 },
    ],
    ["want", { type: "want", topic: topic.id, ns: [1, 2, 3] }],
    ["gone", { type: "gone", topic: topic.id, ns: [2] }],
    ["credit", { type: "credit", lane: "live", bytes: 1_048_576 }],
    ["put", { type: "put", envelopes: [fill(6, 300), fill(7, 24)] }],
    ["custody", { type: "custody", items: receipts, signature }],
    ["refused", { type: "refused", items: [{ id, code: "envelope/expired" }] }],
    [
      "openInbox",
      { type: "openInbox", inbox: inbox.id, proof: await proveInbox(crypto, inbox, BINDING), after: cursor },
    ],
    ["inboxOpened", { type: "inboxOpened", inbox: inbox.id, log, after: 0, reset: true }],
    ["inboxDenied", { type: "inboxDenied", inbox: inbox.id, code: "sync/bad-proof" }],
    ["deposits", { type: "deposits", inbox: inbox.id, log, items: [{ n: 2 ** 48 - 1, envelope: fill(6, 30) }] }],
    ["removeDeposits", { type: "removeDeposits", inbox: inbox.id, ns: [4] }],
    ["grant", { type: "grant", request: 1, grant: fill(6, 40) }],
    ["revokeGrant", { type: "revokeGrant", request: 2, revocation: fill(6, 41) }],
    ["deposit", { type: "deposit", request: 3, deposit: fill(6, 400) }],
    ["directoryPut", { type: "directoryPut", request: 4, records: [fill(6, 50), fill(7, 51)] }],
    ["directoryTake", { type: "directoryTake", request: 5, directory: fill(10), slot: fill(11, 16) }],
    ["directoryCount", { type: "directoryCount", request: 6, directory: fill(10) }],
    ["answer granted", { type: "answer", request: 1, answer: { type: "granted" } }],
    ["answer revoked", { type: "answer", request: 2, answer: { type: "revoked" } }],
    ["answer deposited", { type: "answer", request: 3, answer: { type: "deposited", until: 500_000 } }],
    [
      "answer stored",
      {
        type: "answer",
        request: 4,
        answer: { type: "directoryStored", refused: [{ index: 1, code: "directory/spent" }] },
      },
    ],
    ["answer taken", { type: "answer", request: 5, answer: { type: "directoryTaken", records: [fill(6, 50)] } }],
    [
      "answer counted",
      {
        type: "answer",
        request: 6,
        answer: { type: "directoryCounted", slots: [{ slot: fill(11, 16), oneTime: 99, lastResort: true }] },
      },
    ],
    ["refusal", { type: "refusal", request: 3, code: "inbox/used-up" }],
  ];
  return Object.fromEntries(frames);
}
