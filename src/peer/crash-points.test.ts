/**
 * Two peers talk through a mailbox while one's store fails at chosen commits, in every way a store can: DESIGN section 12 must
 * hold after each. The peers, the mailbox and the driver are what ships; the disk, the network and time are the simulator's.
 */
import { describe, expect, test } from "vitest";

import { Failure } from "#src/runtime/failure.ts";
import type { Store, StoreHost, StoreOperation } from "#src/runtime/ports.ts";
import { Checkers, told } from "#test/simulator/checkers.ts";
import { Dice } from "#test/simulator/random.ts";
import { shippingProgram } from "#test/simulator/shipping.ts";
import { COMMIT_FAULTS, type CommitFault } from "#test/simulator/store.ts";
import { Workload } from "#test/simulator/workload.ts";
import { type Environment, type Machine, type SimPeer, World } from "#test/simulator/world.ts";

const LONG = process.env["SKEIN_LONG"] === "1";
/** Each world has one point while the two meet, the others while they talk: 200 in all, 1,000 in long. */
const WORLDS = LONG ? 100 : 20;
const POINTS_PER_WORLD = 10;

const SECOND_US = 1_000_000;
/** A point is at one of so many commits from its beginning. Meeting takes about twenty of either side. */
const MEETING_COMMITS = 24;
const TALK_COMMITS = 8;
/** Messages sent in one moment: the first goes to the disk alone, the others share the next commit. */
const BURST = 8;
/** Puts that make sure a commit has three steps or more: a step with one event has ten, each further one three of its own. */
const GROUP_PUTS = 16;
/** Talks until the planned commit came. */
const MAX_TALKS = 60;
/** Virtual time for everything to arrive; what is in custody is offered anew after ten minutes. */
const SETTLE_US = 90 * 60 * SECOND_US;
const LOOK_US = 5 * SECOND_US;

/**
 * Which commit fails, and how: the n-th of all, of those that several steps share, or of those that delete something (a receipt
 * that settles rows of the outbox).
 */
type Point = { readonly fault: CommitFault; readonly commit: number; readonly among: "all" | "shared" | "settling" };

/** Counts one machine's commits over all its lives, and arms its disk at the one that was planned. */
class Plan {
  #point: Point | undefined;
  #seen = 0;
  #arm: (fault: CommitFault) => void = () => {};

  attach(machine: Machine<SimPeer>): void {
    this.#arm = (fault) => machine.disk.arm(fault);
  }

  set(point: Point): void {
    this.#point = point;
    this.#seen = 0;
  }

  get pending(): boolean {
    return this.#point !== undefined;
  }

  host(inner: StoreHost): StoreHost {
    return { open: async () => this.#store(await inner.open()) };
  }

  #store(inner: Store): Store {
    return {
      get: (key) => inner.get(key),
      commit: (operations) => {
        this.#count(operations);
        return inner.commit(operations);
      },
      entries: (range) => inner.entries(range),
      compact: (range) => inner.compact(range),
      close: () => inner.close(),
    };
  }

  #count(operations: readonly StoreOperation[]): void {
    const point = this.#point;
    if (point === undefined || !isAmong(point, operations)) return;
    if (++this.#seen < point.commit) return;
    this.#point = undefined;
    this.#arm(point.fault);
  }
}

function isAmong({ among }: Point, operations: readonly StoreOperation[]): boolean {
  const puts = operations.filter(({ type }) => type === "put").length;
  return among === "all" || (among === "shared" ? puts >= GROUP_PUTS : puts < operations.length);
}

/** One world: alice's disk fails, bob's does not. */
class Stage {
  readonly world: World;
  readonly workload: Workload;
  readonly checkers: Checkers;
  readonly plan = new Plan();
  readonly alice: Machine<SimPeer>;
  readonly bob: Machine<SimPeer>;
  readonly #dice: Dice;

  constructor(seed: number) {
    const { startPeer, startRelay, crypto } = shippingProgram();
    const planned = (environment: Environment) => startPeer({ ...environment, host: this.plan.host(environment.host) });
    this.world = new World({
      seed,
      crypto,
      peers: [
        { name: "alice", start: planned, dialable: seed % 2 === 0 },
        { name: "bob", start: startPeer },
      ],
      relays: [{ name: "relay", start: startRelay }],
    });
    [this.alice, this.bob] = this.world.peers as [Machine<SimPeer>, Machine<SimPeer>];
    this.plan.attach(this.alice);
    this.workload = new Workload(this.world, seed);
    this.checkers = new Checkers(this.world, this.workload);
    this.#dice = new Dice(seed, "crash-points");
  }

  async pass(us: number): Promise<void> {
    await this.world.scheduler.run(this.world.scheduler.nowUs + us);
  }

  async meet(point: Point): Promise<void> {
    this.plan.set(point);
    this.world.boot();
    this.workload.begin(0, 0);
    for (let waited = 0; !this.workload.allMet && waited < SETTLE_US; waited += LOOK_US) await this.pass(LOOK_US);
    // A point beyond the last commit of the meeting comes while they talk.
    for (let talks = 0; this.plan.pending && talks < MAX_TALKS; talks++) await this.talk();
    await this.talkAgain();
  }

  /** With whoever was down up again. */
  async talkAgain(): Promise<void> {
    for (let waited = 0; this.world.usable(this.alice) === undefined && waited < SETTLE_US; waited += LOOK_US) {
      await this.pass(LOOK_US);
    }
    await this.talk();
  }

  /** Both say something in one moment, alice in a burst; then time enough for most of it to arrive. */
  async talk(): Promise<void> {
    this.#say(0, this.plan.pending ? BURST : 1 + this.#dice.below(BURST));
    this.#say(1, this.#dice.below(BURST));
    await this.pass(this.#dice.between(SECOND_US / 2, 4 * SECOND_US));
  }

  #say(from: 0 | 1, count: number): void {
    const { world, workload } = this;
    const machine = [this.alice, this.bob][from]!;
    world.scheduler.after(this.#dice.between(0, 20_000), "talk", undefined, () => {
      const face = world.usable(machine);
      const conversation = workload.pairs[0]!.conversations.get(from);
      if (face === undefined || conversation === undefined) return;
      for (let i = 0; i < count; i++) {
        const text = `${workload.sent.length} ${"x".repeat(this.#dice.below(400))}`;
        const sent: Workload["sent"][number] = {
          from,
          to: 1 - from,
          conversation,
          text,
          calledAtUs: world.scheduler.nowUs,
        };
        workload.sent.push(sent);
        face.send(conversation, { text }).then(({ id }) => {
          sent.id = id;
          sent.acknowledgedAtUs = world.scheduler.nowUs;
        }, refused);
      }
      if (this.#dice.chance(0.3)) void read(face, conversation).catch(refused);
    });

    function refused(error: unknown): void {
      if (!(error instanceof Failure)) world.violations.push(`a face threw what is no Failure: ${String(error)}`);
    }
  }

  async talkTo(point: Point): Promise<void> {
    this.plan.set(point);
    for (let talks = 0; this.plan.pending && talks < MAX_TALKS; talks++) await this.talk();
    expect(this.plan.pending, `the planned commit came: ${JSON.stringify(point)}`).toBe(false);
    // A store that failed is opened anew by the driver; half of the time the process ends on top of that.
    if (this.#dice.chance(0.5)) this.world.crash(this.alice, { silent: this.#dice.chance(0.5), downForUs: SECOND_US });
    await this.talkAgain();
  }

  /** @returns What does not hold once everything has had its time. */
  async settle(): Promise<string[]> {
    const { world, checkers } = this;
    await checkers.sample();
    for (let waited = 0; waited < SETTLE_US && !(await checkers.settled()); waited += LOOK_US) await this.pass(LOOK_US);
    return [...world.violations, ...told(await checkers.verdicts())];
  }
}

async function read(face: SimPeer, conversation: Parameters<SimPeer["messages"]>[0]): Promise<void> {
  const newest = (await face.messages(conversation, { limit: 1 })).at(-1);
  if (newest !== undefined && newest.author !== face.account) await face.markRead(conversation, newest.id);
}

/** Every fault in turn; at which commit, chance says. */
function points(seed: number): Point[] {
  const dice = new Dice(seed, "points");
  return Array.from({ length: POINTS_PER_WORLD }, (_, i) => {
    const fault = COMMIT_FAULTS[(seed * POINTS_PER_WORLD + i) % COMMIT_FAULTS.length]!;
    if (i === 0) return { fault, among: "all", commit: 1 + dice.below(MEETING_COMMITS) };
    const among = dice.pick(["all", "all", "shared", "settling"] as const);
    return { fault, among, commit: 1 + dice.below(among === "all" ? TALK_COMMITS : 2) };
  });
}

const total = {
  points: 0,
  acknowledged: 0,
  unacknowledged: 0,
  seals: 0,
  torn: 0,
  lost: 0,
  lives: 0,
  shared: 0,
  settling: 0,
};
const hits = new Map<string, number>();

describe(`${WORLDS * POINTS_PER_WORLD} crash points`, () => {
  test.each(Array.from({ length: WORLDS }, (_, i) => i + 1))(
    "seed %i: nothing acknowledged is lost, nothing is shown twice, no key and nonce is used twice",
    async (seed) => {
      const unhandled: string[] = [];
      const note = (error: unknown): void => {
        unhandled.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
      };
      process.on("unhandledRejection", note);
      const stage = new Stage(seed);
      try {
        for (const [i, point] of points(seed).entries()) {
          if (i === 0) await stage.meet(point);
          else await stage.talkTo(point);
          expect({ i, point, violations: await stage.settle() }).toEqual({ i, point, violations: [] });
          total.points++;
          if (point.among !== "all") total[point.among]++;
        }
      } finally {
        process.off("unhandledRejection", note);
      }
      expect(unhandled).toEqual([]);
      const { ledger } = stage.world;
      expect(ledger.forgotten).toBe(0);
      total.seals += ledger.seals;
      total.acknowledged += stage.workload.acknowledged.length;
      total.unacknowledged += stage.workload.sent.length - stage.workload.acknowledged.length;
      total.torn += stage.alice.disk.tornOff;
      total.lost += stage.alice.disk.lost;
      total.lives += stage.alice.started;
      for (const [fault, count] of stage.world.hits) hits.set(fault, (hits.get(fault) ?? 0) + count);
    },
    LONG ? 600_000 : 60_000,
  );

  test("the points were what they claim to be", () => {
    expect(total.points).toBe(WORLDS * POINTS_PER_WORLD);
    for (const fault of COMMIT_FAULTS)
      expect(hits.get(fault)).toBeGreaterThanOrEqual(Math.floor(total.points / COMMIT_FAULTS.length));
    // Of commits in flight at a crash some were kept and some were lost; some sends were never acknowledged.
    expect(total.lost).toBeGreaterThan(0);
    expect(total.torn).toBeGreaterThan(total.lost);
    expect(total.unacknowledged).toBeGreaterThan(0);
    expect(total.acknowledged).toBeGreaterThan(total.points);
    expect(total.shared).toBeGreaterThan(total.points / 10);
    expect(total.settling).toBeGreaterThan(total.points / 10);
    expect(total.lives).toBeGreaterThan(total.points / 2);
  });
});

test("what came in with a commit whose outcome nobody knew is told, once, to whoever watches", async () => {
  let told = 0;
  for (let seed = 1; seed <= 6; seed++) {
    const stage = new Stage(seed);
    const { world, workload, alice, bob } = stage;
    const announced: string[] = [];
    world.onStarted((machine, face) => {
      if (machine === alice) face.watch((event) => void (event.type === "message" && announced.push(event.message.id)));
    });
    world.boot();
    workload.begin(0, 0);
    while (!workload.allMet) await stage.pass(LOOK_US);
    const conversation = workload.pairs[0]!.conversations.get(0)!;
    await stage.pass(60 * SECOND_US);
    for (let i = 0; i < 5; i++) {
      alice.disk.arm("commit-unknown");
      await world.ask(bob, (face) => face.send(conversation, { text: `${i}` }));
      await stage.pass(25 * 60 * SECOND_US);
    }
    const shown = await world.ask(alice, (face) => face.messages(conversation));
    expect(shown?.map(({ text }) => text)).toEqual(["0", "1", "2", "3", "4"]);
    expect(announced.toSorted()).toEqual(shown?.map(({ id }) => id).toSorted());
    expect(world.hits.get("commit-unknown")).toBe(5);
    told += announced.length;
  }
  expect(told).toBe(30);
}, 60_000);
