import { createSocket, type Socket } from "node:dgram";
import { afterEach, expect, test } from "vitest";
import { isBindingRequest, startStun } from "./stun.ts";

const stops: (() => unknown)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0)) await stop();
});

const COOKIE = [0x21, 0x12, 0xa4, 0x42];
const TRANSACTION = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

function request(attributes: readonly number[] = [], head: readonly number[] = [0, 1]): Buffer {
  return Buffer.from([...head, 0, attributes.length, ...COOKIE, ...TRANSACTION, ...attributes]);
}

async function server(host = "127.0.0.1") {
  let now = 0;
  const stun = await startStun({ host, port: 0, clock: { monotonic: () => now } });
  stops.push(() => stun.stop());
  const client: Socket = createSocket(host.includes(":") ? "udp6" : "udp4");
  await new Promise<void>((resolve) => client.bind(0, host, resolve));
  stops.push(() => new Promise<void>((resolve) => client.close(() => resolve())));
  const answers: Buffer[] = [];
  let arrived: (() => void) | undefined;
  client.on("message", (message) => {
    answers.push(message);
    arrived?.();
  });
  return {
    stun,
    client,
    answers,
    advance: (ms: number) => (now += ms),
    send: (message: Buffer) => client.send(message, stun.port, host),
    next: async (): Promise<Buffer> => {
      if (answers.length === 0) await new Promise<void>((resolve) => (arrived = resolve));
      return answers.shift()!;
    },
  };
}

test("tells an IPv4 client its address and port", async () => {
  const { client, send, next } = await server();
  send(request());
  const answer = await next();
  expect(answer.length).toBe(32);
  expect([...answer.subarray(0, 20)]).toEqual([1, 1, 0, 12, ...COOKIE, ...TRANSACTION]);
  expect([...answer.subarray(20, 26)]).toEqual([0, 0x20, 0, 8, 0, 1]);
  expect(answer.readUInt16BE(26) ^ 0x2112).toBe(client.address().port);
  expect([...answer.subarray(28)].map((byte, i) => byte ^ COOKIE[i]!)).toEqual([127, 0, 0, 1]);
});

test("tells an IPv6 client its address and port", async () => {
  const { client, send, next } = await server("::1");
  send(request());
  const answer = await next();
  expect(answer.length).toBe(44);
  expect([...answer.subarray(20, 26)]).toEqual([0, 0x20, 0, 20, 0, 2]);
  expect(answer.readUInt16BE(26) ^ 0x2112).toBe(client.address().port);
  const mask = [...COOKIE, ...TRANSACTION];
  const address = [...answer.subarray(28)].map((byte, i) => byte ^ mask[i]!);
  expect(address).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
});

// RFC 5769 section 2.1: the sample request, whose attributes are all of ICE.
test("a request of ICE is well-formed", () => {
  const sample =
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36" +
    "000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
  expect(isBindingRequest(Buffer.from(sample, "hex"))).toBe(true);
});

test("an attribute that must be understood and is not gets error 420 that names it", async () => {
  const { send, next } = await server();
  send(request([0, 3, 0, 4, 0, 0, 0, 6])); // CHANGE-REQUEST of RFC 3489: would let us answer to somebody else
  const answer = await next();
  expect([...answer.subarray(0, 4)]).toEqual([1, 0x11, 0, 16]);
  expect([...answer.subarray(20)]).toEqual([0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 2, 0, 3, 0, 0]);
});

test("an attribute that may be ignored is", async () => {
  const { send, next } = await server();
  send(request([0x80, 0x22, 0, 3, 97, 98, 99, 0]));
  expect((await next()).readUInt16BE(0)).toBe(0x0101);
});

test("rubbish gets no answer, and the server lives on", async () => {
  const { send, next, answers, advance } = await server();
  const fine = request();
  const rubbish = [
    Buffer.alloc(0),
    Buffer.from([1]),
    fine.subarray(0, 19),
    Buffer.concat([fine, Buffer.alloc(4)]), // longer than it says
    request([0, 6, 0, 200, 0, 0, 0, 0]), // an attribute that runs over the end
    request([0, 6, 0]),
    request([], [0, 0x11]), // an indication
    request([], [1, 1]), // an answer: answered, two servers would never stop
    request([], [1, 0x11]),
    request([], [0xc0, 1]),
    Buffer.from([0, 1, 0, 0, 0, 0, 0, 0, ...TRANSACTION]), // RFC 3489, without the cookie
    Buffer.alloc(1500, 0xff),
  ];
  for (const message of rubbish) expect(isBindingRequest(message)).toBe(false);
  let state = 1;
  for (let n = 0; n < 2000; n++) {
    const bytes = Buffer.alloc(n % 60);
    for (let i = 0; i < bytes.length; i++) bytes[i] = (state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) >> 16;
    rubbish.push(bytes);
  }
  for (const [n, message] of rubbish.entries()) {
    send(message);
    if (n % 50 !== 49) continue; // more at once and the socket's buffer drops some before they are looked at
    advance(1000);
    send(fine);
    expect((await next()).readUInt16BE(0)).toBe(0x0101);
  }
  expect(answers).toEqual([]);
});

test("one source gets 20 answers a second", async () => {
  const { send, next, answers, advance } = await server();
  for (let n = 0; n < 30; n++) send(request());
  for (let n = 0; n < 20; n++) await next();
  advance(1000);
  const marked = request([0x80, 0x22, 0, 0]);
  send(marked);
  await next();
  expect(answers).toEqual([]);
});

test("an answer is at most 2.2 times what was asked", async () => {
  const { send, next } = await server("::1");
  const unknown = [0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0, 11, 0, 0];
  for (const asked of [request(), request(unknown.slice(0, 4)), request(unknown)]) {
    send(asked);
    expect((await next()).length / asked.length).toBeLessThanOrEqual(2.2);
  }
});
