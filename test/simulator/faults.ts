/** What goes wrong, how often, and for how long: a schedule drawn from the seed, one stream of chance for each kind. */
import { CALM, FAIR, type Weather } from "./link.ts";
import { Dice } from "./random.ts";
import { COMMIT_FAULTS, type CommitFault } from "./store.ts";
import type { Machine, World } from "./world.ts";

export const FAULTS = [
  "loss",
  "duplication",
  "reordering",
  "delay",
  "partition",
  "one-way-partition",
  "cut",
  "crash",
  "relay-crash",
  "suspend",
  "clock-jump",
  ...COMMIT_FAULTS,
] as const;
export type Fault = (typeof FAULTS)[number];

const SECOND_US = 1_000_000;
const MINUTE_US = 60 * SECOND_US;
const YEAR_MS = 365 * 24 * 3_600_000;

/** Mean times an hour in the whole world; each kind that is on comes at least once. */
const PER_HOUR: Record<Fault, number> = {
  loss: 6,
  duplication: 6,
  reordering: 6,
  delay: 6,
  partition: 6,
  "one-way-partition": 4,
  cut: 12,
  crash: 8,
  "relay-crash": 2,
  suspend: 4,
  "clock-jump": 3,
  "crash-before-commit": 3,
  "crash-during-commit": 6,
  "crash-after-commit": 4,
  "commit-failed": 3,
  "commit-unknown": 4,
  "disk-full": 2,
};

/** Weather while an episode of this kind lasts. */
const EPISODES: Partial<Record<Fault, Partial<Weather>>> = {
  loss: { loss: 0.3 },
  duplication: { duplication: 0.3 },
  reordering: { reordering: 0.3 },
  delay: { delayUs: 3 * SECOND_US },
};

export class FaultSchedule {
  readonly #world: World;
  readonly #kinds: readonly Fault[];
  readonly #seed: number;
  #over = false;
  #partitions = 0;

  constructor(world: World, options: { readonly seed: number; readonly kinds: readonly Fault[] }) {
    this.#world = world;
    this.#seed = options.seed;
    this.#kinds = options.kinds;
  }

  /** Plans everything that will go wrong within `forUs`. */
  begin(forUs: number): void {
    const { scheduler, internet } = this.#world;
    internet.setWeather(this.#usual());
    for (const kind of this.#kinds) {
      const dice = new Dice(this.#seed, `fault/${kind}`);
      const meanUs = (60 * MINUTE_US) / PER_HOUR[kind];
      // The first at any time, so that a short run has it too; the rest as chance has it.
      for (let atUs = dice.between(0, forUs); atUs < forUs; atUs += dice.wait(meanUs)) {
        scheduler.after(atUs, `fault/${kind}`, undefined, () => {
          if (!this.#over) this.#perform(kind, dice);
        });
      }
    }
  }

  /** Everything is well again: partitions healed, sleepers woken, clocks set, disks with room. What is down comes up soon. */
  end(): void {
    this.#over = true;
    const { internet, machines } = this.#world;
    for (let i = 1; i <= this.#partitions; i++) internet.unblock(`partition-${i}`);
    internet.setWeather(CALM);
    for (const machine of machines) {
      internet.setWeather(undefined, machine.name);
      machine.disk.heal();
      machine.clock.offsetMs = 0;
      this.#world.wake(machine.process);
    }
  }

  /** A trace of everything that is on. */
  #usual(): Weather {
    const on = (kind: Fault): number => (this.#kinds.includes(kind) ? 1 : 0);
    return {
      loss: FAIR.loss * on("loss"),
      duplication: FAIR.duplication * on("duplication"),
      reordering: FAIR.reordering * on("reordering"),
      delayUs: 0,
    };
  }

  #perform(kind: Fault, dice: Dice): void {
    const { peers, relays, internet } = this.#world;
    const forUs = dice.spread(2 * SECOND_US, 5 * MINUTE_US);
    const victim: Machine<unknown> = dice.pick(peers);
    const episode = EPISODES[kind];
    if (episode !== undefined) {
      const where = dice.chance(0.5) ? victim.name : "";
      return this.#weather(where, { ...this.#usual(), ...episode }, dice.spread(MINUTE_US, 20 * MINUTE_US));
    }
    if (isCommitFault(kind)) return dice.pick([...peers, ...relays]).disk.arm(kind);
    const crash = { silent: dice.chance(0.3), downForUs: dice.spread(50_000, 5 * MINUTE_US) };
    switch (kind) {
      case "partition":
      case "one-way-partition":
        return this.#part(kind, dice, forUs);
      case "cut":
        internet.cut();
        return;
      case "crash":
        if (victim.process.alive) this.#world.hit(kind);
        return this.#world.crash(victim, crash);
      case "relay-crash":
        for (const relay of relays.slice(0, 1)) {
          if (relay.process.alive) this.#world.hit(kind);
          this.#world.crash(relay, crash);
        }
        return;
      case "suspend":
        if (victim.process.alive && !victim.process.asleep) this.#world.hit(kind);
        return this.#world.suspend(victim, forUs);
      case "clock-jump":
        return this.#setClock(victim, dice, forUs);
      default:
        throw new Error(`no such fault: ${kind}`);
    }
  }

  #weather(host: string, weather: Weather, forUs: number): void {
    const { internet, scheduler } = this.#world;
    internet.setWeather(weather, host);
    scheduler.after(forUs, "fault/weather-clears", undefined, () => {
      if (this.#over) return;
      internet.setWeather(host === "" ? this.#usual() : undefined, host);
    });
  }

  /** Two sides that do not hear each other; or of which only one hears the other. */
  #part(kind: "partition" | "one-way-partition", dice: Dice, forUs: number): void {
    const { internet, machines, scheduler } = this.#world;
    const names = machines.map(({ name }) => name);
    const inside = names.filter(() => dice.chance(0.5));
    if (inside.length === 0 || inside.length === names.length) inside.splice(0, Infinity, dice.pick(names));
    const outside = names.filter((name) => !inside.includes(name));
    const reason = `partition-${++this.#partitions}`;
    this.#world.hit(kind);
    for (const a of inside) {
      for (const b of outside) {
        internet.block(a, b, reason);
        if (kind === "partition") internet.block(b, a, reason);
      }
    }
    scheduler.after(forUs, "fault/heals", undefined, () => internet.unblock(reason));
  }

  /** Wrong by a minute to a year, forward or back, and right again later. */
  #setClock(machine: Machine<unknown>, dice: Dice, forUs: number): void {
    this.#world.hit("clock-jump");
    machine.clock.offsetMs = Math.round(dice.spread(60_000, YEAR_MS) * (dice.chance(0.5) ? 1 : -1));
    this.#world.scheduler.after(forUs, "fault/clock-set", undefined, () => {
      machine.clock.offsetMs = 0;
    });
  }
}

function isCommitFault(kind: Fault): kind is CommitFault {
  return (COMMIT_FAULTS as readonly string[]).includes(kind);
}
