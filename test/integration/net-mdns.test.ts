import { createSocket } from "node:dgram";
import { afterEach, expect, test } from "vitest";
import type { Network } from "#src/runtime/ports.ts";
import { peer, until } from "./net-world.ts";

const stops: (() => Promise<void>)[] = [];
afterEach(async () => {
  await Promise.all(stops.splice(0).map((stop) => stop()));
});

/** Whether a multicast datagram of this machine comes back to it; in a container with nothing but loopback it does not. */
async function multicastWorks(): Promise<boolean> {
  const socket = createSocket({ type: "udp4", reuseAddr: true });
  const works = await new Promise<boolean>((resolve) => {
    socket.on("error", () => resolve(false));
    socket.on("message", () => resolve(true));
    socket.bind(0, () => {
      try {
        socket.addMembership("224.0.0.251");
        socket.send("ping", socket.address().port, "224.0.0.251", (error) => error && resolve(false));
      } catch {
        resolve(false); // no interface has multicast
      }
    });
    setTimeout(() => resolve(false), 1000);
  });
  socket.close();
  return works;
}
const multicast = await multicastWorks();

async function onTheLan(found: string[]): Promise<Network> {
  const network = await peer({ listen: ["/ip4/0.0.0.0/tcp/0"], mdns: { onFound: (address) => found.push(address) } });
  stops.push(() => network.stop());
  return network;
}

test.runIf(multicast)(
  "peers on one network that want it find each other's addresses, and are not dialled for it",
  async () => {
    const foundByA: string[] = [];
    const a = await onTheLan(foundByA);
    const b = await onTheLan([]);
    await until(() => foundByA.some((address) => address.endsWith(`/p2p/${b.peerId}`)));
    expect(a.connections()).toEqual([]);
    const addresses = foundByA.filter((address) => address.endsWith(b.peerId));
    for (const address of addresses) expect(b.addresses()).toContain(address);
    expect(await a.connect(addresses[0]!)).toBe(b.peerId);
  },
);

test.runIf(multicast)("nobody is announced who did not ask for it", async () => {
  const found: string[] = [];
  await onTheLan(found);
  const quiet = await peer({ listen: ["/ip4/0.0.0.0/tcp/0"] });
  stops.push(() => quiet.stop());
  const loud = await onTheLan([]);
  await until(() => found.some((address) => address.endsWith(loud.peerId)));
  expect(found.some((address) => address.endsWith(quiet.peerId))).toBe(false);
});
