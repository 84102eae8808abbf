/**
 * What is signed on a sync stream: the right to read a topic or an inbox, bound to this very connection (SY6), and the
 * mailbox's receipt, which stands alone (SY20).
 */
import { bytes, encode, id, list, literal, struct, text, uint } from "#protocols/base/codec.ts";
import { fromHex } from "#protocols/base/bytes.ts";
import type { EnvelopeId, InboxId, LogId, PeerId, TopicId } from "#protocols/base/ids.ts";
import { assert } from "#protocols/base/reject.ts";
import { sign, verify } from "#protocols/base/sign.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import type { Receipt } from "./frames.ts";
import { MAX_ITEMS } from "./limits.ts";

/** Both ends of one connection: a proof made for it is worth nothing on another. */
export type Binding = {
  readonly mailboxNonce: Uint8Array;
  readonly clientNonce: Uint8Array;
  readonly mailboxPeer: PeerId;
  readonly clientPeer: PeerId;
};

const proofSchema = struct({
  version: literal(1),
  key: bytes(32),
  mailboxNonce: bytes(32),
  clientNonce: bytes(32),
  mailboxPeer: text(128),
  clientPeer: text(128),
});

function publicKey(name: TopicId | InboxId): Uint8Array {
  const key = fromHex(name);
  assert(key?.length === 32, "an id is a public key");
  return key;
}

function proofMessage(name: TopicId | InboxId, binding: Binding): Uint8Array {
  return encode(proofSchema, { version: 1, key: publicKey(name), ...binding });
}

export function proveTopic(
  crypto: CryptoSuite,
  topic: { readonly id: TopicId; readonly seed: Uint8Array },
  binding: Binding,
): Promise<Uint8Array> {
  return sign(crypto, "topicProof", topic.seed, proofMessage(topic.id, binding));
}

export function verifyTopicProof(
  crypto: CryptoSuite,
  claim: { readonly topic: TopicId; readonly proof: Uint8Array },
  binding: Binding,
): Promise<boolean> {
  const message = proofMessage(claim.topic, binding);
  return verify(crypto, "topicProof", { publicKey: publicKey(claim.topic), message, signature: claim.proof });
}

export function proveInbox(
  crypto: CryptoSuite,
  inbox: { readonly id: InboxId; readonly seed: Uint8Array },
  binding: Binding,
): Promise<Uint8Array> {
  return sign(crypto, "inboxProof", inbox.seed, proofMessage(inbox.id, binding));
}

export function verifyInboxProof(
  crypto: CryptoSuite,
  claim: { readonly inbox: InboxId; readonly proof: Uint8Array },
  binding: Binding,
): Promise<boolean> {
  const message = proofMessage(claim.inbox, binding);
  return verify(crypto, "inboxProof", { publicKey: publicKey(claim.inbox), message, signature: claim.proof });
}

const custodySchema = struct({
  version: literal(1),
  log: id<LogId>(16),
  items: list(struct({ id: id<EnvelopeId>(), until: uint(0xffff_ffff) }), MAX_ITEMS),
});

/** A receipt as it may be shown to anybody: who holds what, until how many hours since 1970. */
export type Custody = { readonly log: LogId; readonly items: readonly Receipt[] };

function custodyMessage(custody: Custody): Uint8Array {
  const items = custody.items.map((item) => ({ id: item.id, until: item.until }));
  return encode(custodySchema, { version: 1, log: custody.log, items });
}

/** @param seed The mailbox's custody key. Call it only when every item is on the disk (SY19). */
export function signCustody(crypto: CryptoSuite, seed: Uint8Array, custody: Custody): Promise<Uint8Array> {
  return sign(crypto, "custody", seed, custodyMessage(custody));
}

export function verifyCustody(
  crypto: CryptoSuite,
  receipt: { readonly custodyKey: Uint8Array; readonly custody: Custody; readonly signature: Uint8Array },
): Promise<boolean> {
  const { custodyKey, custody, signature } = receipt;
  return verify(crypto, "custody", { publicKey: custodyKey, message: custodyMessage(custody), signature });
}
