/** Invites of our own: making them, and telling our mailboxes which capabilities may deposit. */
import { toHex } from "#protocols/base/bytes.ts";
import { assert, isReject } from "#protocols/base/reject.ts";
import { encodeInvite, MAX_INVITE_LIFETIME_MS, MAX_USES } from "#protocols/conversation/invite.ts";
import { makeGrant, type CapabilityGrant } from "#protocols/envelope/envelope.ts";
import { dropInvite, encodeBundle, makeBundle } from "#protocols/handshake/handshake.ts";
import { Failure } from "#src/runtime/failure.ts";
import { invitesTable, LOCKS, MAX_OPEN_INVITES, prekeysTable, SELF } from "./tables.ts";
import { stepEnv, type World } from "./world.ts";

const DEFAULT_LIFETIME_MS = 7 * 24 * 3_600_000;

/** A grant is for its invite's uses and some more: mailboxes count redeemers, we count people, and surplus must reach us. */
const SURPLUS_USES = 4;

export class Invites {
  readonly #world: World;

  constructor(world: World) {
    this.#world = world;
  }

  /** @throws Failure `invite/too-many`, `invite/bad-options`. */
  async create(options: {
    readonly uses?: number;
    readonly expiresInMs?: number;
  }): Promise<{ readonly link: string; readonly grant: CapabilityGrant }> {
    const uses = options.uses ?? 1;
    const lifetime = options.expiresInMs ?? DEFAULT_LIFETIME_MS;
    if (
      !Number.isInteger(uses) ||
      uses < 1 ||
      uses > MAX_USES ||
      !(lifetime > 0 && lifetime <= MAX_INVITE_LIFETIME_MS)
    ) {
      throw new Failure("invite/bad-options", `An invite has 1 to ${MAX_USES} uses and lives at most 30 days.`);
    }
    const { driver, identity, crypto } = this.#world;
    const env = stepEnv(this.#world);
    const inviteId = env.random(16);
    const capability = env.random(32);
    const expiresAt = env.now + Math.round(lifetime);
    const bundle = await driver.run([LOCKS.invites, LOCKS.prekeys], async (tx) => {
      const known = (await tx.get(invitesTable, SELF)) ?? [];
      const open = known.filter((invite) => invite.expiresAt > env.now);
      if (open.length >= MAX_OPEN_INVITES)
        throw new Failure("invite/too-many", "There are too many open invites; let some expire first.");
      let prekeys = await tx.get(prekeysTable, SELF);
      assert(prekeys !== undefined, "an identity has prekeys");
      for (const gone of known) if (!open.includes(gone)) prekeys = dropInvite(prekeys, toHex(gone.inviteId));
      const made = await makeBundle(
        prekeys,
        { purpose: { invite: toHex(inviteId), expiresAt }, oneTime: uses === 1 },
        env,
      );
      if (isReject(made))
        throw new Failure("invite/too-many", "There are too many open invites; let some expire first.");
      tx.put(prekeysTable, SELF, made.store);
      tx.put(invitesTable, SELF, [...open, { inviteId, capability, uses, usedBy: [], expiresAt }]);
      return made.bundle;
    });
    const { profile, self } = identity;
    const link = await encodeInvite(crypto, self.keys, {
      version: 1,
      account: self.account,
      name: profile.name,
      list: self.list,
      inviteId,
      bundle: encodeBundle(bundle),
      inbox: identity.inbox.id,
      inboxSealKey: identity.inbox.sealKey,
      capability,
      relays: profile.relays,
      uses,
      expiresAt,
    });
    return { link, grant: await this.#grant({ capability, uses, expiresAt }) };
  }

  async #grant(invite: {
    readonly capability: Uint8Array;
    readonly uses: number;
    readonly expiresAt: number;
  }): Promise<CapabilityGrant> {
    const { crypto, identity } = this.#world;
    const capability = await crypto.ed25519.publicKey(invite.capability);
    const uses = Math.min(MAX_USES, invite.uses + (invite.uses > 1 ? SURPLUS_USES : 0));
    return makeGrant(crypto, identity.inbox, { capability, uses, expiresAt: invite.expiresAt });
  }

  /** For a mailbox we have just reached: it may never have heard of them, or have lost them. */
  async grants(): Promise<readonly CapabilityGrant[]> {
    const known = (await this.#world.driver.read((tx) => tx.get(invitesTable, SELF))) ?? [];
    const open = known.filter((invite) => invite.expiresAt > this.#world.now());
    return Promise.all(open.map((invite) => this.#grant(invite)));
  }
}
