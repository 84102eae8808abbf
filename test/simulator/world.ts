/**
 * A small world: machines with a disk, a crystal and a place on the network, and the programs that run on them. What runs is
 * given by start functions; the world starts, kills, restarts and suspends it.
 */
import { assert } from "#protocols/base/reject.ts";
import type { CryptoSuite } from "#protocols/base/suite.ts";
import type { PeerId } from "#protocols/base/ids.ts";
import type { Peer } from "#src/peer/face.ts";
import { Failure } from "#src/runtime/failure.ts";
import type { Clock, Network, Random, StoreHost } from "#src/runtime/ports.ts";

import { clockPort, MachineClock } from "./clock.ts";
import { Internet } from "./internet.ts";
import { NonceLedger } from "./ledger.ts";
import { newPeerId } from "./network.ts";
import { byteStream, Dice } from "./random.ts";
import { type Process, Scheduler } from "./scheduler.ts";
import { type CommitFault, Disk } from "./store.ts";
import { Trace } from "./trace.ts";

/** What a program is given. */
export type Environment = {
  readonly name: string;
  readonly host: StoreHost;
  readonly network: Network;
  readonly clock: Clock;
  readonly random: Random;
  readonly crypto: CryptoSuite;
  readonly relays: readonly string[];
  /** The first start of this machine that came to an end: there may be nothing on its disk. */
  readonly first: boolean;
};

/** The part of the face that the workload and the checkers use. */
export type SimPeer = Pick<
  Peer,
  "account" | "status" | "createInvite" | "connect" | "contacts" | "accept" | "send" | "messages" | "markRead" | "watch"
>;

export type StartPeer = (environment: Environment) => Promise<SimPeer>;
/** A relay has no face: what it does shows at the peers. */
export type StartRelay = (environment: Environment) => Promise<unknown>;

/** A supervisor starts a program again after this, when its start failed or it was killed without a plan. */
const RESTART_AFTER_US = 5_000_000;
/** Starts that fail in a row; a disk stays full for minutes at most. */
const MAX_FAILED_STARTS = 100;
/** A quartz is off by up to this many parts in a million. */
const MAX_DRIFT_PPM = 100;

export class Machine<Face> {
  process: Process;
  /** Undefined while the program starts or is down. */
  face: Face | undefined;
  /** Starts that came to an end. */
  started = 0;
  failedStarts = 0;
  readonly name: string;
  readonly disk: Disk;
  readonly clock: MachineClock;
  readonly random: Random;
  readonly start: (environment: Environment) => Promise<Face>;
  readonly relay: boolean;
  readonly dialable: boolean;
  /** Relays keep their key. */
  readonly peerId: PeerId | undefined;

  constructor(options: {
    node: number;
    name: string;
    disk: Disk;
    clock: MachineClock;
    random: Random;
    start: (environment: Environment) => Promise<Face>;
    relay: boolean;
    dialable: boolean;
  }) {
    this.name = options.name;
    this.disk = options.disk;
    this.clock = options.clock;
    this.random = options.random;
    this.start = options.start;
    this.relay = options.relay;
    this.dialable = options.dialable;
    this.peerId = options.relay ? newPeerId(options.random) : undefined;
    this.process = {
      node: options.node,
      name: options.name,
      incarnation: 0,
      alive: false,
      asleep: false,
      deferred: [],
    };
  }

  get address(): string {
    assert(this.peerId !== undefined, "only relays have a fixed address");
    return `/sim/${this.name}/p2p/${this.peerId}`;
  }
}

export type WorldOptions = {
  readonly seed: number;
  readonly crypto: CryptoSuite;
  readonly peers: readonly { readonly name: string; readonly start: StartPeer; readonly dialable?: boolean }[];
  readonly relays: readonly { readonly name: string; readonly start: StartRelay }[];
};

export class World {
  readonly trace = new Trace();
  readonly scheduler = new Scheduler(this.trace);
  readonly ledger = new NonceLedger();
  readonly internet: Internet;
  readonly peers: readonly Machine<SimPeer>[];
  readonly relays: readonly Machine<unknown>[];
  readonly hits = new Map<string, number>();
  /** Rules of the world that a program broke, as opposed to promises that checkers found broken. */
  readonly violations: string[] = [];
  readonly #crypto: CryptoSuite;
  readonly #seed: number;
  readonly #onStarted: ((machine: Machine<SimPeer>, face: SimPeer) => void)[] = [];

  constructor(options: WorldOptions) {
    this.#seed = options.seed;
    this.#crypto = options.crypto;
    this.internet = new Internet(this.scheduler, options.seed);
    this.relays = options.relays.map(({ name, start }, i) => {
      return this.#machine({ node: options.peers.length + i, name, start, relay: true, dialable: true });
    });
    this.peers = options.peers.map(({ name, start, dialable = false }, node) => {
      return this.#machine({ node, name, start, relay: false, dialable });
    });
  }

  get machines(): readonly Machine<unknown>[] {
    return [...this.peers, ...this.relays];
  }

  hit(fault: string): void {
    this.hits.set(fault, (this.hits.get(fault) ?? 0) + 1);
  }

  /** Called with each face, restarts included, in the event in which its start ended. */
  onStarted(listener: (machine: Machine<SimPeer>, face: SimPeer) => void): void {
    this.#onStarted.push(listener);
  }

  /** Switches all machines on; relays a moment before the rest. */
  boot(): void {
    for (const relay of this.relays) this.scheduler.after(0, "boot", undefined, () => this.restart(relay));
    for (const peer of this.peers) this.scheduler.after(1_000_000, "boot", undefined, () => this.restart(peer));
  }

  /** Ends the program now: no more of its code runs, what its disk had not synced may be gone. */
  crash(machine: Machine<unknown>, options: { readonly silent: boolean; readonly downForUs: number }): void {
    if (!machine.process.alive) return;
    this.#end(machine, options.silent ? "silent" : "closed");
    this.scheduler.after(options.downForUs, "restart", undefined, () => this.restart(machine));
  }

  /** Starts the program unless it runs. */
  restart(machine: Machine<unknown>): void {
    if (machine.process.alive) return;
    const last = machine.process;
    const process: Process = { ...last, incarnation: last.incarnation + 1, alive: true, asleep: false, deferred: [] };
    machine.process = process;
    const { node, name } = process;
    const network = this.internet.attach({
      process,
      host: name,
      random: machine.random,
      dialable: machine.dialable,
      relay: machine.relay,
      ...(machine.peerId === undefined ? {} : { peerId: machine.peerId }),
    });
    const random: Random = (length) => {
      this.scheduler.enter(process);
      this.trace.note(this.scheduler.nowUs, "random", node, length);
      return machine.random(length);
    };
    const environment: Environment = {
      name,
      host: machine.disk.host(process),
      network,
      clock: clockPort(this.scheduler, process, machine.clock),
      random,
      crypto: this.ledger.watch(this.#crypto, name),
      relays: this.relays.map((relay) => relay.address),
      first: machine.started === 0,
    };
    this.scheduler.after(0, "start", process, () => {
      machine.start(environment).then(
        (face) => this.#started(machine, face),
        (error: unknown) => this.#startFailed(machine, process, error),
      );
    });
  }

  /** Lid closed: nothing happens on the machine for a while, the rest of the world goes on. */
  suspend(machine: Machine<unknown>, forUs: number): void {
    const { process } = machine;
    if (!process.alive || process.asleep) return;
    process.asleep = true;
    this.internet.fellAsleep(process);
    this.scheduler.after(forUs, "wake", undefined, () => this.wake(process));
  }

  wake(process: Process): void {
    if (!process.alive || !process.asleep) return;
    this.scheduler.wake(process);
    this.internet.flush();
  }

  /** Whether a user could do something with it now. */
  usable<Face>(machine: Machine<Face>): Face | undefined {
    return machine.process.alive && !machine.process.asleep ? machine.face : undefined;
  }

  /** Asks a face in an event of its own and runs the world until it answers. @returns Undefined when it does not in time. */
  async ask<T>(
    machine: Machine<SimPeer>,
    question: (face: SimPeer) => Promise<T>,
    withinUs = 60_000_000,
  ): Promise<T | undefined> {
    let answer: Promise<T> | undefined;
    let settled = false;
    this.scheduler.after(0, "ask", machine.process, () => {
      const face = this.usable(machine);
      if (face === undefined) return;
      answer = question(face);
      const end = (): void => {
        settled = true;
      };
      answer.then(end, end);
    });
    await this.scheduler.run(this.scheduler.nowUs + withinUs, () => settled);
    return settled ? answer : undefined;
  }

  #machine<Face>(options: {
    node: number;
    name: string;
    start: (environment: Environment) => Promise<Face>;
    relay: boolean;
    dialable: boolean;
  }): Machine<Face> {
    const { name } = options;
    const dice = new Dice(this.#seed, `machine/${name}`);
    const clock = new MachineClock(dice.between(-MAX_DRIFT_PPM, MAX_DRIFT_PPM));
    const disk: Disk = new Disk({
      scheduler: this.scheduler,
      dice: new Dice(this.#seed, `disk/${name}`),
      fullForUs: () => dice.spread(1_000_000, 120_000_000),
      crash: () => this.crash(machine, { silent: dice.chance(0.5), downForUs: dice.spread(100_000, 60_000_000) }),
      onFault: (fault: CommitFault) => this.hit(fault),
    });
    const machine = new Machine<Face>({ ...options, disk, clock, random: byteStream(this.#seed, name) });
    return machine;
  }

  #started(machine: Machine<unknown>, face: unknown): void {
    machine.face = face;
    machine.started++;
    machine.failedStarts = 0;
    const peer = this.peers.find((candidate) => candidate === machine);
    if (peer?.face !== undefined) for (const listener of this.#onStarted) listener(peer, peer.face);
  }

  /** A start may fail as the world may (a full disk); then the supervisor tries again. Anything else is a bug. */
  #startFailed(machine: Machine<unknown>, process: Process, error: unknown): void {
    machine.failedStarts++;
    this.hit("failed-start");
    if (!(error instanceof Failure)) {
      this.violations.push(`${machine.name} did not start: ${String(error)}`);
    } else if (machine.failedStarts > MAX_FAILED_STARTS) {
      this.violations.push(`${machine.name} did not start ${MAX_FAILED_STARTS} times in a row: ${error.code}`);
      return;
    }
    if (process.alive) this.#end(machine, "closed");
    this.scheduler.after(RESTART_AFTER_US, "restart", undefined, () => this.restart(machine));
  }

  #end(machine: Machine<unknown>, how: "closed" | "silent"): void {
    const { process } = machine;
    process.alive = false;
    process.deferred.length = 0;
    machine.face = undefined;
    machine.disk.processDied(process);
    this.internet.detach(process, how);
  }
}
