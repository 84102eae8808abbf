/** Who this peer is: its keys, what it tells contacts, and the sequence numbers of its events. */
import type { Infer } from "#protocols/base/codec.ts";
import type { AccountId, DeviceId } from "#protocols/base/ids.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import type { CryptoSuite, Env } from "#protocols/base/suite.ts";
import type { Profile } from "#protocols/conversation/direct.ts";
import type { Self } from "#protocols/conversation/message.ts";
import { isName } from "#protocols/content/content.ts";
import { directoryKeys, type DirectoryKeys } from "#protocols/directory/directory.ts";
import { createPrekeys } from "#protocols/handshake/handshake.ts";
import {
  accountId,
  accountSecret,
  createDevice,
  createPhrase,
  inboxKeys,
  type InboxKeys,
  rootSeedFromPhrase,
} from "#protocols/identity/identity.ts";
import type { Driver } from "#src/runtime/driver.ts";
import { Failure } from "#src/runtime/failure.ts";
import { LOCKS, prekeysTable, SELF, selfTable, sequenceTable } from "./tables.ts";

type SelfRecord = Infer<typeof selfTable.schema>;

/** Numbers reserved at once. A start writes once and skips at most this many. */
const SEQUENCE_BLOCK = 65_536;

/** The next block is reserved while this many are left: more than all steps that can be under way. */
const SEQUENCE_LOW = 32_768;

/** Makes an account and its first device in an empty store. @throws Failure `identity/exists`, `identity/bad-name`. */
export async function makeIdentity(
  driver: Driver,
  options: { readonly name: string; readonly relays: readonly string[] },
  env: Env,
): Promise<{ readonly account: AccountId; readonly device: DeviceId; readonly phrase: string }> {
  if (!isName(options.name)) {
    throw new Failure("identity/bad-name", "A name has 1 to 64 bytes, something to see, and no control characters.");
  }
  const { phrase } = createPhrase(env.random);
  const rootSeed = rootSeedFromPhrase(env.crypto, phrase);
  assert(!isReject(rootSeed), "a phrase just made is well-formed");
  const keys = await createDevice(env, rootSeed);
  const prekeys = await createPrekeys(env, keys);
  const account = await accountId(env.crypto, rootSeed);
  await driver.run([LOCKS.self, LOCKS.prekeys], async (tx) => {
    if (await tx.get(selfTable, SELF)) throw new Failure("identity/exists", "This home has an account already.");
    tx.put(selfTable, SELF, {
      account,
      rootSeed,
      accountSecret: accountSecret(env.crypto, rootSeed),
      keys,
      devices: { account, certificates: [keys.certificate], revocations: [] },
      name: options.name,
      relays: options.relays,
    });
    tx.put(prekeysTable, SELF, prekeys);
  });
  return { account, device: keys.certificate.device, phrase };
}

export class Identity {
  readonly inbox: InboxKeys;
  readonly directory: DirectoryKeys;
  readonly #driver: Driver;
  #record: SelfRecord;
  #next: number;
  #reserved: number;
  #reserving = false;

  /** @throws Failure `identity/missing` when the store holds no account. */
  static async load(driver: Driver, crypto: CryptoSuite): Promise<Identity> {
    const record = await driver.read((tx) => tx.get(selfTable, SELF));
    if (record === undefined) throw new Failure("identity/missing", "There is no account in this home yet.");
    const used = await driver.run([LOCKS.self], async (tx) => {
      const before = (await tx.get(sequenceTable, SELF)) ?? 0;
      tx.put(sequenceTable, SELF, before + SEQUENCE_BLOCK);
      return before;
    });
    const inbox = await inboxKeys(crypto, record.accountSecret);
    const directory = await directoryKeys(crypto, record.accountSecret);
    return new Identity(driver, { record, used, inbox, directory });
  }

  private constructor(
    driver: Driver,
    options: { record: SelfRecord; used: number; inbox: InboxKeys; directory: DirectoryKeys },
  ) {
    this.#driver = driver;
    this.#record = options.record;
    this.#next = options.used + 1;
    this.#reserved = options.used + SEQUENCE_BLOCK;
    this.inbox = options.inbox;
    this.directory = options.directory;
  }

  get self(): Self {
    const { account, keys, devices } = this.#record;
    return { account, keys, list: devices };
  }

  get account(): AccountId {
    return this.#record.account;
  }

  get device(): DeviceId {
    return this.#record.keys.certificate.device;
  }

  get profile(): Profile {
    const { name, relays } = this.#record;
    const { inbox, directory } = this;
    return {
      name,
      relays,
      inbox: { id: inbox.id, sealKey: inbox.sealKey },
      directory: { id: directory.id, sealKey: directory.sealKey },
    };
  }

  get relays(): readonly string[] {
    return this.#record.relays;
  }

  /** The next sequence number of this device: never given twice, also over crashes; some are skipped. */
  nextSequence(): number {
    const sequence = this.#next++;
    assert(sequence <= this.#reserved, "sequence numbers are reserved ahead of use");
    if (this.#reserved - this.#next < SEQUENCE_LOW && !this.#reserving) void this.#reserve();
    return sequence;
  }

  async #reserve(): Promise<void> {
    this.#reserving = true;
    try {
      const upTo = this.#reserved + SEQUENCE_BLOCK;
      await this.#driver.run([LOCKS.self], async (tx) => tx.put(sequenceTable, SELF, upTo));
      this.#reserved = upTo;
    } catch (error) {
      // The store has failed; whoever needs it next is told. The block is asked for again with the next number.
      if (!(error instanceof Failure)) throw error;
    } finally {
      this.#reserving = false;
    }
  }

  async setRelays(relays: readonly string[]): Promise<void> {
    this.#record = await this.#driver.run([LOCKS.self], async (tx) => {
      const record = await tx.get(selfTable, SELF);
      assert(record !== undefined, "a loaded identity is stored");
      const changed = { ...record, relays };
      tx.put(selfTable, SELF, changed);
      return changed;
    });
  }
}
