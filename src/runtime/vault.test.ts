import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { concat, utf8 } from "#protocols/base/bytes.ts";
import { bytes, encode, literal, optional, struct, uint } from "#protocols/base/codec.ts";
import { SUITE, seededRandom, UNLOCK } from "#test/contracts/driver-rig.ts";
import { MemoryDisk } from "./memory-store.ts";
import type { Store } from "./ports.ts";
import { DEFAULT_COST, HEADER_KEY, LARGEST_COST, type Unlock, Vault, VALUE_OVERHEAD_BYTES } from "./vault.ts";

const random = seededRandom("vault");
const PASSPHRASE = { passphrase: "correct horse" };

async function freshStore(): Promise<Store> {
  return new MemoryDisk().attach().open();
}

function open(store: Store, unlock: Unlock): Promise<Vault> {
  return Vault.open({ store, unlock, random, crypto: SUITE });
}

async function failure(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => "opened",
    (error: { readonly code?: unknown }) => error.code,
  );
}

describe("unlocking", () => {
  test("a passphrase opens what it made, typed on any keyboard; another one does not", async () => {
    const store = await freshStore();
    const made = await open(store, { passphrase: "caf\u00e9 horse" });
    const name = made.storeKey(1, "x", 17);
    const sealed = await made.seal(name, 1, utf8("value"));
    made.close();
    expect(await failure(open(store, { passphrase: "cafe horse" }))).toBe("vault/wrong-passphrase");
    expect(await failure(open(store, { passphrase: "" }))).toBe("vault/wrong-passphrase");
    expect(await failure(open(store, UNLOCK))).toBe("vault/needs-passphrase");
    const again = await open(store, { passphrase: "cafe\u0301 horse" });
    expect(again.storeKey(1, "x", 17)).toEqual(name);
    expect(await again.open(name, sealed)).toEqual({ version: 1, plaintext: utf8("value") });
  });

  test("a platform key opens what it made; another key and a passphrase do not", async () => {
    const store = await freshStore();
    (await open(store, UNLOCK)).close();
    expect(await failure(open(store, { platformKey: new Uint8Array(32) }))).toBe("vault/wrong-passphrase");
    expect(await failure(open(store, PASSPHRASE))).toBe("vault/needs-platform-key");
    expect(await failure(open(store, UNLOCK))).toBe("opened");
  });

  test("RT20: a damaged header is told from a wrong passphrase, whichever byte it is", async () => {
    const store = await freshStore();
    (await open(store, UNLOCK)).close();
    const header = (await store.get(HEADER_KEY))!;
    for (let i = 0; i < header.length; i++) {
      const damaged = header.slice();
      damaged[i]! ^= 1 << (i % 8);
      await store.commit([{ type: "put", key: HEADER_KEY, value: damaged }]);
      expect(await failure(open(store, UNLOCK))).toBe("vault/damaged");
    }
    for (const cut of [0, 1, header.length - 1]) {
      await store.commit([{ type: "put", key: HEADER_KEY, value: header.slice(0, cut) }]);
      expect(await failure(open(store, UNLOCK))).toBe("vault/damaged");
    }
  });

  test("RT20: records without a header are damage: no new key is made over them", async () => {
    const store = await freshStore();
    await store.commit([{ type: "put", key: Uint8Array.of(7, 7), value: new Uint8Array(40) }]);
    expect(await failure(open(store, UNLOCK))).toBe("vault/damaged");
    expect(await store.get(HEADER_KEY)).toBeUndefined();
  });

  test("RT19: weaker and absurd parameters are refused before any work, though the header is whole", async () => {
    const cost = struct({ memoryKiB: uint(), iterations: uint(), parallelism: uint() });
    const wrappingSchema = struct({ version: literal(1), salt: bytes(16), cost: optional(cost) });
    const schema = struct({ wrapping: wrappingSchema, wrappedKey: bytes(48), check: bytes(8) });
    const store = await freshStore();
    const forge = async (change: Partial<typeof DEFAULT_COST>): Promise<void> => {
      const wrapping = { version: 1 as const, salt: random(16), cost: { ...DEFAULT_COST, ...change } };
      const wrappedKey = random(48);
      const check = SUITE.sha256(concat(encode(wrappingSchema, wrapping), wrappedKey)).slice(0, 8);
      const value = encode(schema, { wrapping, wrappedKey, check });
      await store.commit([{ type: "put", key: HEADER_KEY, value }]);
    };
    const refused: Partial<typeof DEFAULT_COST>[] = [
      { memoryKiB: DEFAULT_COST.memoryKiB - 1 },
      { memoryKiB: 8 },
      { iterations: DEFAULT_COST.iterations - 1 },
      { iterations: 0 },
      { parallelism: 0 },
      { memoryKiB: LARGEST_COST.memoryKiB + 1 },
      { memoryKiB: Number.MAX_SAFE_INTEGER },
      { iterations: LARGEST_COST.iterations + 1 },
      { parallelism: LARGEST_COST.parallelism + 1 },
    ];
    for (const change of refused) {
      await forge(change);
      expect([change, await failure(open(store, PASSPHRASE))]).toEqual([change, "vault/refused-parameters"]);
    }
    await forge({});
    expect(await failure(open(store, PASSPHRASE))).toBe("vault/wrong-passphrase");
  });

  test("RT21: rewrapping keeps the data key, needs the current key, and leaves the old one useless", async () => {
    const store = await freshStore();
    const vault = await open(store, UNLOCK);
    const key = vault.storeKey(1, "x", 17);
    const sealed = await vault.seal(key, 1, utf8("kept"));
    const other = { platformKey: new Uint8Array(32).fill(9) };
    expect(await failure(vault.rewrap(random, other, other))).toBe("vault/wrong-passphrase");
    const { operation, accept } = await vault.rewrap(random, UNLOCK, other);
    await store.commit([operation]);
    accept();
    expect(await vault.belongsTo(store)).toBe(true);
    expect(await failure(open(store, UNLOCK))).toBe("vault/wrong-passphrase");
    const again = await open(store, other);
    expect((await again.open(key, sealed)).plaintext).toEqual(utf8("kept"));
  });

  test("RT21: a rewrapping whose commit nobody knows the outcome of still belongs", async () => {
    const store = await freshStore();
    const vault = await open(store, UNLOCK);
    const other = { platformKey: new Uint8Array(32).fill(9) };
    const { operation } = await vault.rewrap(random, UNLOCK, other);
    expect(await vault.belongsTo(store)).toBe(true);
    await store.commit([operation]);
    expect(await vault.belongsTo(store)).toBe(true);
    expect(await failure(vault.rewrap(random, UNLOCK, other))).toBe("vault/wrong-passphrase");
    expect(await vault.belongsTo(await freshStore())).toBe(false);
  });
});

describe("values", () => {
  test("RT17: open only in their place, under their version, unchanged", async () => {
    const vault = await open(await freshStore(), UNLOCK);
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 300 }),
        fc.integer({ min: 1, max: 255 }),
        fc.nat(),
        async (plaintext, version, at) => {
          const key = vault.storeKey(1, "here", 17);
          const sealed = await vault.seal(key, version, plaintext);
          expect(sealed).toHaveLength(plaintext.length + VALUE_OVERHEAD_BYTES);
          expect(await vault.open(key, sealed)).toEqual({ version, plaintext });
          const damaged = sealed.slice();
          damaged[at % sealed.length]! ^= 1 + (at % 255);
          expect(await failure(vault.open(key, damaged))).toBe("store/damaged-record");
          expect(await failure(vault.open(key, sealed.slice(0, at % sealed.length)))).toBe("store/damaged-record");
          for (const elsewhere of [vault.storeKey(1, "there", 17), vault.storeKey(2, "here", 17)]) {
            expect(await failure(vault.open(elsewhere, sealed))).toBe("store/damaged-record");
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  test("RT17: of earlier starts open in a later one, however many there were", async () => {
    const store = await freshStore();
    const written: Uint8Array[] = [];
    let key = new Uint8Array(0);
    for (let start = 0; start < 300; start++) {
      const vault = await open(store, UNLOCK);
      key = new Uint8Array(vault.storeKey(1, "x", 17));
      written.push(await vault.seal(key, 1, Uint8Array.of(start & 0xff)));
      vault.close();
    }
    const vault = await open(store, UNLOCK);
    for (const [start, sealed] of written.entries()) {
      expect((await vault.open(key, sealed)).plaintext).toEqual(Uint8Array.of(start & 0xff));
    }
  });

  test("RT16: no key and nonce encrypt twice, over starts and copies of the store", async () => {
    const pairs = new Set<string>();
    const chacha = SUITE.chacha20poly1305;
    const crypto = {
      ...SUITE,
      chacha20poly1305: {
        ...chacha,
        seal: (input: Parameters<typeof chacha.seal>[0]) => {
          const pair = `${input.key.join()}|${input.nonce.join()}`;
          expect(pairs.has(pair)).toBe(false);
          pairs.add(pair);
          return chacha.seal(input);
        },
      },
    };
    const store = await freshStore();
    const options = { store, unlock: UNLOCK, random, crypto };
    const first = await Vault.open(options);
    const copies = [first, await Vault.open(options), await Vault.open(options)];
    await Promise.all(
      copies.flatMap((vault) =>
        Array.from({ length: 300 }, () => vault.seal(vault.storeKey(1, "x", 17), 1, utf8("same"))),
      ),
    );
    expect(pairs.size).toBe(901);
  });

  test("RT18: store keys differ by table and text, and say nothing of either", async () => {
    const vault = await open(await freshStore(), UNLOCK);
    const stranger = await open(await freshStore(), UNLOCK);
    const keys = [1, 2].flatMap((number) => ["alice", "bob", ""].map((text) => vault.storeKey(number, text, 17)));
    expect(new Set(keys.map((key) => key.join())).size).toBe(6);
    expect(keys.map((key) => key[0])).toEqual([1, 1, 1, 2, 2, 2]);
    expect(vault.storeKey(1, "alice", 9)).toHaveLength(9);
    expect(stranger.storeKey(1, "alice", 17)).not.toEqual(keys[0]);
  });

  test("RT12: a closed vault neither opens nor seals, and its keys are zero", async () => {
    const keys: Uint8Array[] = [];
    const kept = (key: Uint8Array): Uint8Array => (keys.push(key), key);
    const vault = await Vault.open({
      store: await freshStore(),
      unlock: UNLOCK,
      // The data key and the start's salt; the salt is no secret.
      random: (length) => (length === 32 ? kept(random(length)) : random(length)),
      crypto: { ...SUITE, hkdf: (options) => kept(SUITE.hkdf(options)) },
    });
    const key = vault.storeKey(1, "x", 17);
    const sealed = await vault.seal(key, 1, utf8("x"));
    vault.close();
    await expect(vault.seal(key, 1, utf8("x"))).rejects.toThrow("vault is open");
    await expect(vault.open(key, sealed)).rejects.toThrow("vault is open");
    expect(() => vault.storeKey(1, "y", 17)).toThrow("vault is open");
    expect(keys).toHaveLength(4);
    expect(keys.every((key) => key.every((byte) => byte === 0))).toBe(true);
  });
});
