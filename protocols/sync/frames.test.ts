import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { equalBytes, fromHex, toHex } from "#protocols/base/bytes.ts";
import type { LogId, PeerId } from "#protocols/base/ids.ts";
import { isReject } from "#protocols/base/reject.ts";
import { mutations } from "#test/fuzz/mutate.ts";
import { BINDING, crypto, exampleFrames, fill, idOf, keyPair } from "./frames.fixture.ts";
import { decodeFrame, encodeFrame, type Frame } from "./frames.ts";
import { MAX_FRAME_BYTES, MAX_ITEMS } from "./limits.ts";
import { proveInbox, proveTopic, signCustody, verifyCustody, verifyInboxProof, verifyTopicProof } from "./proofs.ts";

const VECTORS = new URL("./vectors/frames.json", import.meta.url);
const examples = await exampleFrames();

describe("frames", () => {
  test("[SY1] every kind of frame has the bytes of the vectors and reads back", () => {
    const encoded = Object.fromEntries(
      Object.entries(examples).map(([name, frame]) => [name, toHex(encodeFrame(frame))]),
    );
    if (process.env["SKEIN_WRITE_VECTORS"] === "1") writeFileSync(VECTORS, `${JSON.stringify(encoded, null, 2)}\n`);
    const vectors = JSON.parse(readFileSync(VECTORS, "utf8")) as Record<string, string>;
    expect(encoded).toEqual(vectors);
    for (const [name, hex] of Object.entries(vectors)) expect(decodeFrame(fromHex(hex)!)).toEqual(examples[name]);
    expect(new Set(Object.values(examples).map((frame) => frame.type)).size).toBe(27);
  });

  test("[SY2] 100,000 mutated frames: a frame that encodes to the same bytes, or a code", () => {
    const seeds = Object.values(examples).map(encodeFrame);
    const codes = new Set<string>();
    const ambiguous: string[] = [];
    for (const mutant of mutations(seeds, 100_000, 7)) {
      const frame = decodeFrame(mutant);
      if (isReject(frame)) codes.add(frame.code);
      else if (!equalBytes(encodeFrame(frame), mutant)) ambiguous.push(toHex(mutant));
    }
    expect(ambiguous).toEqual([]);
    expect([...codes]).toEqual(
      expect.arrayContaining([
        "codec/fields",
        "codec/length",
        "codec/trailing-bytes",
        "codec/truncated",
        "codec/variant",
      ]),
    );
  });

  test("[SY3] sizes are checked before parsing, counts while parsing", () => {
    expect(decodeFrame(new Uint8Array(MAX_FRAME_BYTES + 1))).toEqual({ type: "reject", code: "sync/oversize" });
    const many = { type: "want", topic: idOf<never>(1), ns: Array.from({ length: MAX_ITEMS }, (_, i) => i) } as Frame;
    const encoded = encodeFrame(many);
    expect(isReject(decodeFrame(encoded))).toBe(false);
    const at = encoded.findIndex((byte, i) => byte === 0x99 && encoded[i + 1] === 2 && encoded[i + 2] === 0);
    encoded[at + 2] = 1;
    expect(decodeFrame(encoded)).toEqual({ type: "reject", code: "codec/length" });
  });
});

describe("proofs", () => {
  test("[SY6] a proof holds for its topic, on its connection, and nowhere else", async () => {
    const [topic, other] = [await keyPair<never>(3), await keyPair<never>(4)];
    const proof = await proveTopic(crypto, topic, BINDING);
    const claim = { topic: topic.id, proof };
    expect(await verifyTopicProof(crypto, claim, BINDING)).toBe(true);
    const elsewhere = [
      { ...BINDING, mailboxNonce: fill(50) },
      { ...BINDING, clientNonce: fill(50) },
      { ...BINDING, mailboxPeer: "another" as PeerId },
      { ...BINDING, clientPeer: "another" as PeerId },
      { ...BINDING, mailboxNonce: BINDING.clientNonce, clientNonce: BINDING.mailboxNonce },
      { ...BINDING, mailboxPeer: BINDING.clientPeer, clientPeer: BINDING.mailboxPeer },
    ];
    for (const binding of elsewhere) expect(await verifyTopicProof(crypto, claim, binding)).toBe(false);
    expect(await verifyTopicProof(crypto, { topic: other.id, proof }, BINDING)).toBe(false);
    const byOther = await proveTopic(crypto, { id: topic.id, seed: other.seed }, BINDING);
    expect(await verifyTopicProof(crypto, { topic: topic.id, proof: byOther }, BINDING)).toBe(false);
  });

  test("[SY6] a topic's proof is no inbox's proof, though the key be the same", async () => {
    const key = await keyPair<never>(3);
    const proof = await proveTopic(crypto, key, BINDING);
    expect(await verifyInboxProof(crypto, { inbox: key.id, proof }, BINDING)).toBe(false);
    expect(
      await verifyInboxProof(crypto, { inbox: key.id, proof: await proveInbox(crypto, key, BINDING) }, BINDING),
    ).toBe(true);
  });

  test("[SY20] a receipt holds for its ids, times and log, under its key", async () => {
    const custodyKey = await crypto.ed25519.publicKey(fill(5));
    const log = idOf<LogId>(9, 16);
    const items = [{ id: idOf<never>(8), until: 500_000 }];
    const signature = await signCustody(crypto, fill(5), { log, items });
    expect(await verifyCustody(crypto, { custodyKey, custody: { log, items }, signature })).toBe(true);
    const changed = [
      { custodyKey: await crypto.ed25519.publicKey(fill(6)), custody: { log, items } },
      { custodyKey, custody: { log: idOf<LogId>(10, 16), items } },
      { custodyKey, custody: { log, items: [{ ...items[0]!, until: 500_001 }] } },
      { custodyKey, custody: { log, items: [{ ...items[0]!, id: idOf<never>(7) }] } },
      { custodyKey, custody: { log, items: [...items, ...items] } },
    ];
    for (const one of changed) expect(await verifyCustody(crypto, { ...one, signature })).toBe(false);
  });
});
