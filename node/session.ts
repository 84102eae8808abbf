/** What a command talks to: the daemon of its home when one runs, else the account itself, opened for as long as it takes. */
import type { ConversationId, EventId } from "#protocols/base/ids.ts";
import type { DeliveryState, Peer } from "#src/peer/face.ts";
import { Failure } from "#src/runtime/failure.ts";
import { connectDaemon, type DaemonPeer } from "./api-client.ts";
import type { ACCOUNT, Input } from "./command.ts";
import { type Home, homeAt, mustHaveAccount, readApiFile } from "./home.ts";

/** A daemon that is starting holds the store before it answers, and another command ends by itself: look again so long. */
const LOCKED_PATIENCE_MS = 5_000;
const LOCKED_RETRY_MS = 100;
/** Without a daemon: how long we wait for relays to open and to hand over what came meanwhile. */
const CATCH_UP_MS = 5_000;
/** No event for so long after every relay is open (or given up): we have what there is. */
const QUIET_MS = 400;
/** Without a daemon: how long a message may take to reach somebody before the command ends. It stays in the outbox. */
const DELIVERY_MS = 5_000;

export type Session = {
  readonly peer: Peer;
  /** The daemon behind `peer`, if there is one. */
  readonly daemon: DaemonPeer | undefined;
};

type AccountInput = Pick<Input<typeof ACCOUNT, readonly string[]>, "values" | "signal">;

/**
 * Runs `use` with the peer of this home.
 * @param options.catchUp Without a daemon, first fetch what waits at the relays.
 * @throws Failure `home/none`, `store/locked`, `interrupted`, and what `use` throws.
 */
export async function withPeer<T>(
  input: AccountInput,
  options: { readonly catchUp: boolean },
  use: (session: Session) => Promise<T>,
): Promise<T> {
  const home = homeAt(input.values.home);
  mustHaveAccount(home);
  const { session, close } = await open(home, input);
  const interrupted = Promise.withResolvers<never>();
  const onAbort = (): void => interrupted.reject(input.signal.reason as Failure);
  input.signal.addEventListener("abort", onAbort, { once: true });
  if (input.signal.aborted) onAbort();
  try {
    const work = async (): Promise<T> => {
      if (session.daemon === undefined && options.catchUp && input.values.offline !== true)
        await caughtUp(session.peer);
      return use(session);
    };
    return await Promise.race([work(), interrupted.promise]);
  } finally {
    input.signal.removeEventListener("abort", onAbort);
    await close();
  }
}

async function open(home: Home, input: AccountInput): Promise<{ session: Session; close: () => Promise<void> }> {
  const { daemon, opened } = await daemonOr(home, input.signal, async () => {
    // Loaded only now: with a daemon, a command needs neither the protocols nor the network.
    const { openAccount } = await import("./machine.ts");
    return openAccount(home, {
      passphraseFile: input.values["passphrase-file"],
      listen: [],
      offline: input.values.offline === true,
    });
  });
  const peer = daemon ?? opened;
  return { session: { peer, daemon }, close: () => peer.close() };
}

type DaemonOr<T> =
  | { readonly daemon: DaemonPeer; readonly opened?: never }
  | { readonly daemon?: never; readonly opened: T };

/** The daemon of `home` if there is one, else what `open` gives, which is tried again while somebody else has the store. */
export async function daemonOr<T>(home: Home, signal: AbortSignal, open: () => Promise<T>): Promise<DaemonOr<T>> {
  const deadline = performance.now() + LOCKED_PATIENCE_MS;
  for (;;) {
    const api = await readApiFile(home);
    const daemon = api === undefined ? undefined : await connectDaemon(api);
    if (daemon !== undefined) return { daemon };
    try {
      return { opened: await open() };
    } catch (error) {
      const locked = error instanceof Failure && error.code === "store/locked";
      if (!locked || performance.now() > deadline || signal.aborted) throw error;
      await pause(LOCKED_RETRY_MS);
    }
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}

/** Waits until every relay is open or given up and nothing has happened for a moment, but not for ever. */
async function caughtUp(peer: Peer): Promise<void> {
  const done = Promise.withResolvers<void>();
  let quiet: NodeJS.Timeout | undefined;
  const look = async (): Promise<void> => {
    const { relays } = await peer.status();
    clearTimeout(quiet);
    if (relays.every((relay) => relay.state !== "connecting"))
      quiet = setTimeout(done.resolve, relays.length === 0 ? 0 : QUIET_MS);
  };
  const stop = peer.watch(() => void look().catch(done.reject));
  const late = setTimeout(done.resolve, CATCH_UP_MS);
  try {
    await look();
    await done.promise;
  } finally {
    stop();
    clearTimeout(late);
    clearTimeout(quiet);
  }
}

/**
 * Sends, and without a daemon stays until somebody holds it: when this process ends, nobody else will deliver it.
 * @returns The state when we stopped waiting.
 */
export async function sendAndDeliver(
  { peer, daemon }: Session,
  message: { readonly conversation: ConversationId; readonly text: string; readonly replyTo?: EventId },
  options: { readonly wait: boolean },
): Promise<{ readonly id: EventId; readonly state: DeliveryState }> {
  const { conversation, ...content } = message;
  const states = new Map<EventId, DeliveryState>();
  const changed = Promise.withResolvers<void>();
  let sent: EventId | undefined;
  const stop =
    daemon === undefined && options.wait
      ? peer.watch((event) => {
          if (event.type !== "message-state" || event.state === "queued") return;
          states.set(event.id, event.state);
          if (event.id === sent) changed.resolve();
        })
      : undefined;
  try {
    const { id, state } = await peer.send(conversation, content);
    sent = id;
    if (stop === undefined || state !== "queued") return { id, state };
    if (!states.has(id)) {
      const late = setTimeout(changed.resolve, DELIVERY_MS);
      await changed.promise;
      clearTimeout(late);
    }
    return { id, state: states.get(id) ?? state };
  } finally {
    stop?.();
  }
}

/**
 * What a person calls a conversation: its id, a unique beginning of it, or its title.
 * @throws Failure `conversation/unknown`, `conversation/ambiguous`.
 */
export async function findConversation(peer: Peer, text: string): Promise<ConversationId> {
  if (/^[0-9a-f]{64}$/.test(text)) return text as ConversationId;
  const all = await peer.conversations();
  const byId = /^[0-9a-f]{4,}$/.test(text) ? all.filter(({ conversation }) => conversation.startsWith(text)) : [];
  const found = byId.length > 0 ? byId : all.filter(({ title }) => title === text);
  if (found.length > 1)
    throw new Failure("conversation/ambiguous", "Several conversations are called that: use the id.");
  if (found.length === 0)
    throw new Failure("conversation/unknown", "There is no such conversation: skein conversations");
  return found[0]!.conversation;
}
