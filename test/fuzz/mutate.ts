/**
 * Hostile inputs from good ones, for every decoder's tests: the same seed gives the same inputs on every machine. A
 * decoder that is given them must reject or read a value whose encoding is the very same bytes; never throw, never hang.
 */

/** Longest pure-random input and longest growth of one mutation, bytes. Longer adds time and finds nothing new. */
const MAX_GROWTH = 64;
const MAX_RANDOM_LENGTH = 256;

/** Bytes that mean something in CBOR or at the edges of integers. */
const TELLING = [
  0x00, 0x01, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1f, 0x20, 0x3b, 0x40, 0x57, 0x58, 0x5b, 0x5f, 0x60, 0x78, 0x7b,
  0x7f, 0x80, 0x81, 0x82, 0x98, 0x9b, 0x9f, 0xa0, 0xbf, 0xc0, 0xd8, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfb, 0xfe,
  0xff,
] as const;

/** Length fields that lie: CBOR heads and big-endian integers around the limits. */
const LYING_LENGTHS: readonly (readonly number[])[] = [
  [0x18, 0x17],
  [0x58, 0x00],
  [0x59, 0xff, 0xff],
  [0x5a, 0xff, 0xff, 0xff, 0xff],
  [0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0x5b, 0x00, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00],
  [0x7a, 0x7f, 0xff, 0xff, 0xff],
  [0x9a, 0xff, 0xff, 0xff, 0xff],
  [0x9b, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00],
  [0x1b, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01],
  [0xff, 0xff, 0xff, 0xff],
  [0x7f, 0xff, 0xff, 0xff],
  [0x80, 0x00, 0x00, 0x00],
];

type Dice = { below(limit: number): number; bytes(length: number): Uint8Array };

/** mulberry32: 32 bits of state are plenty to shuffle bytes. */
function dice(seed: number): Dice {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  return {
    below: (limit) => next() % limit,
    bytes: (length) => Uint8Array.from({ length }, () => next() & 0xff),
  };
}

function joined(...parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

/** Two cut points in order. */
function range(input: Uint8Array, roll: Dice): [from: number, to: number] {
  const a = roll.below(input.length + 1);
  const b = roll.below(input.length + 1);
  return a < b ? [a, b] : [b, a];
}

type Mutation = (input: Uint8Array, roll: Dice, other: Uint8Array) => Uint8Array;

const flipBits: Mutation = (input, roll) => {
  const changed = input.slice();
  for (let n = roll.below(4); n >= 0 && changed.length > 0; n--) {
    const at = roll.below(changed.length);
    changed[at] = changed[at]! ^ (1 << roll.below(8));
  }
  return changed;
};

const tellingByte: Mutation = (input, roll) => {
  const changed = input.slice();
  if (changed.length > 0) changed[roll.below(changed.length)] = TELLING[roll.below(TELLING.length)]!;
  return changed;
};

/** One up or down: the cheapest way to a length that does not fit. */
const nudge: Mutation = (input, roll) => {
  const changed = input.slice();
  if (changed.length === 0) return changed;
  // Heads stand near the front more often than chance would look there.
  const at = roll.below(2) === 0 ? roll.below(Math.min(8, changed.length)) : roll.below(changed.length);
  changed[at] = (changed[at]! + (roll.below(2) === 0 ? 1 : 255)) & 0xff;
  return changed;
};

const truncate: Mutation = (input, roll) => input.slice(0, roll.below(input.length + 1));
const behead: Mutation = (input, roll) => input.slice(roll.below(input.length + 1));
const extend: Mutation = (input, roll) => joined(input, roll.bytes(1 + roll.below(MAX_GROWTH)));

const remove: Mutation = (input, roll) => {
  const [from, to] = range(input, roll);
  return joined(input.subarray(0, from), input.subarray(to));
};

const repeat: Mutation = (input, roll) => {
  const [from, to] = range(input, roll);
  const piece = input.subarray(from, Math.min(to, from + MAX_GROWTH));
  return joined(input.subarray(0, to), piece, input.subarray(to));
};

const insert: Mutation = (input, roll) => {
  const at = roll.below(input.length + 1);
  return joined(input.subarray(0, at), roll.bytes(1 + roll.below(8)), input.subarray(at));
};

const splice: Mutation = (input, roll, other) =>
  joined(input.subarray(0, roll.below(input.length + 1)), other.subarray(roll.below(other.length + 1)));

const swap: Mutation = (input, roll) => {
  const [from, to] = range(input, roll);
  const middle = from + roll.below(to - from + 1);
  return joined(input.subarray(0, from), input.subarray(middle, to), input.subarray(from, middle), input.subarray(to));
};

const lyingLength: Mutation = (input, roll) => {
  const at = roll.below(input.length + 1);
  const length = Uint8Array.from(LYING_LENGTHS[roll.below(LYING_LENGTHS.length)]!);
  const over = roll.below(2) === 0 ? length.length : 1;
  return joined(input.subarray(0, at), length, input.subarray(Math.min(input.length, at + over)));
};

const overwrite: Mutation = (input, roll) => {
  const changed = input.slice();
  const [from, to] = range(input, roll);
  changed.set(roll.bytes(to - from), from);
  return changed;
};

const nest: Mutation = (input, roll) =>
  joined(new Uint8Array(1 + roll.below(MAX_GROWTH)).fill([0x81, 0x82, 0x9f, 0xa1, 0xc6][roll.below(5)]!), input);

const random: Mutation = (_input, roll) => roll.bytes(roll.below(MAX_RANDOM_LENGTH));

const MUTATIONS: readonly Mutation[] = [
  flipBits,
  flipBits,
  tellingByte,
  tellingByte,
  nudge,
  nudge,
  truncate,
  behead,
  extend,
  remove,
  repeat,
  insert,
  splice,
  swap,
  lyingLength,
  lyingLength,
  overwrite,
  nest,
  random,
];

/**
 * @param seedBytes - Good encodings; the more shapes, the deeper the mutants get. Empty ones are fine.
 * @param count - How many to yield.
 * @param seed - Same seed, same mutants. A mutant can by chance equal a good encoding.
 */
export function* mutations(seedBytes: readonly Uint8Array[], count: number, seed: number): Generator<Uint8Array> {
  const roll = dice(seed);
  const sources = seedBytes.length > 0 ? seedBytes : [new Uint8Array(0)];
  for (let i = 0; i < count; i++) {
    let input = sources[roll.below(sources.length)]!;
    const other = sources[roll.below(sources.length)]!;
    // Mostly one change, so that the rest still parses; sometimes up to four.
    const rounds = roll.below(3) === 0 ? 2 + roll.below(3) : 1;
    for (let round = 0; round < rounds; round++) input = MUTATIONS[roll.below(MUTATIONS.length)]!(input, roll, other);
    yield input;
  }
}
