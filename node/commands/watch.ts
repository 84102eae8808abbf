import type { PeerEvent } from "#src/peer/face.ts";
import { Failure } from "#src/runtime/failure.ts";
import { ACCOUNT, command } from "../command.ts";
import { aborted } from "../interruption.ts";
import { printable, short } from "../output.ts";
import { type Session, withPeer } from "../session.ts";

export const spec = command({
  name: "watch",
  summary: "Show what happens, as it happens",
  args: [],
  options: ACCOUNT,
  notes: [
    "Runs until Ctrl-C or SIGTERM. Says `watching` on stderr when from now on it misses nothing.",
    "--json prints one object an event; `type` says which: message, message-state, contact, conversation, typing, path,",
    "relay, warning.",
  ],
  async run(input) {
    const { output, signal } = input;
    const show = (event: PeerEvent): void => output.print(event, () => describe(event));
    try {
      await withPeer(input, { catchUp: false }, (session) =>
        follow(session, show, signal, () => output.note("watching")),
      );
    } catch (error) {
      // Being asked to stop is how this ends well.
      if (!signal.aborted) throw error;
    }
  },
});

async function follow(
  { peer, daemon }: Session,
  show: (event: PeerEvent) => void,
  signal: AbortSignal,
  begun: () => void,
): Promise<void> {
  if (daemon === undefined) {
    const stop = peer.watch(show);
    begun();
    await aborted(signal);
    stop();
    return;
  }
  const { ended } = await daemon.watchStream(show, signal);
  begun();
  await ended;
  if (!signal.aborted) throw new Failure("api/unreachable", "The daemon has ended.");
}

function describe(event: PeerEvent): string {
  switch (event.type) {
    case "message":
      return `${short(event.message.conversation)}  ${short(event.message.author)}: ${printable(event.message.text)}`;
    case "message-state":
      return `${short(event.conversation)}  message ${short(event.id)} is ${event.state}`;
    case "contact":
      return `contact ${printable(event.contact.nickname ?? event.contact.name)} is ${event.contact.state}`;
    case "conversation":
      return `${short(event.conversation.conversation)}  ${printable(event.conversation.title)}: ${event.conversation.unread} unread`;
    case "typing":
      return `${short(event.conversation)}  ${short(event.account)} is typing`;
    case "path":
      return `${short(event.conversation)}  connected: ${event.path}`;
    case "relay":
      return `relay ${printable(event.address)}: ${event.state}`;
    case "warning":
      return `warning: ${printable(event.message)} (${event.code})`;
  }
}
