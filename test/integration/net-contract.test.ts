import { networkContract } from "#test/contracts/network.contract.ts";
import { realWorld } from "./net-world.ts";

networkContract("libp2p over TCP", realWorld);
