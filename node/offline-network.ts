import type { PeerId } from "#protocols/base/ids.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Network } from "#src/runtime/ports.ts";

/** A network that nobody is on: for looking at what is on this disk without telling a relay that we are here. */
export function offlineNetwork(): Network {
  const unreachable = (): Promise<never> =>
    Promise.reject(new Failure("net/unreachable", "Working offline.", { retryable: true }));
  return {
    peerId: "offline" as PeerId,
    addresses: () => [],
    connect: unreachable,
    reserve: unreachable,
    disconnect: () => Promise.resolve(),
    connections: () => [],
    onConnection: () => () => {},
    openStream: unreachable,
    handle: () => {},
    gossip: {
      join: () => {},
      leave: () => {},
      reveal: () => {},
      peers: () => [],
      publish: () => Promise.resolve(0),
      onEnvelope: () => {},
    },
    stop: () => Promise.resolve(),
  };
}
