import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import { isIPv4 } from "node:net";
import { Failure } from "#src/runtime/failure.ts";
import type { Clock } from "#src/runtime/ports.ts";

/**
 * STUN (RFC 5389) binding responses over UDP: tells a client which address and port it is seen with, so that two peers behind
 * NATs can meet without a server that nobody chose. Nothing else of STUN: no authentication, no TURN, no change of address.
 *
 * An answer has 32 bytes (IPv4) or 44 (IPv6) for at least 20 asked, which the RFC makes unavoidable; the buckets below keep
 * a forged sender from making much of it.
 */
export type StunServer = { readonly port: number; stop(): Promise<void> };

const HEADER_BYTES = 20;
const MAGIC_COOKIE = 0x2112a442;
const BINDING_REQUEST = 0x0001;
const BINDING_SUCCESS = 0x0101;
const BINDING_ERROR = 0x0111;
const ERROR_CODE = 0x0009;
const UNKNOWN_ATTRIBUTES = 0x000a;
const XOR_MAPPED_ADDRESS = 0x0020;
/** Comprehension-required attributes a plain binding request may carry; none changes the answer. */
const HARMLESS = new Set([0x0006, 0x0008, 0x0014, 0x0015, 0x0024, 0x0025]);

/** RFC 5389 section 7.1: a request fits in any path's MTU. */
const MAX_REQUEST_BYTES = 548;
/** A client asks some three times at a start, and repeats what got lost. */
const ANSWERS_PER_SOURCE = 20;
/** Sources counted; 4,096 x about 100 bytes. When there are more within a second, all of them together share what is left. */
const MAX_SOURCES = 4096;
/** All answers within one second: a relay's clients at once, and no more than 64 kB/s towards forged senders. */
const ANSWERS_PER_SECOND = 2000;
const WINDOW_MS = 1000;
/** Unknown attributes named in an error answer, so that it stays as small as a success. */
const MAX_UNKNOWN_NAMED = 4;

export async function startStun(options: {
  readonly host: string;
  readonly port: number;
  readonly clock: Pick<Clock, "monotonic">;
}): Promise<StunServer> {
  const socket = createSocket(isIPv4(options.host) ? "udp4" : "udp6");
  const budget = new AnswerBudget(options.clock);
  socket.on("message", (request, from) => {
    if (!isBindingRequest(request) || !budget.take(from.address)) return;
    // A datagram that cannot be sent (the sender's address was forged, say) is lost like any other.
    socket.send(answer(request, from), from.port, from.address, () => {});
  });
  await bound(socket, options);
  return {
    port: socket.address().port,
    stop: () => new Promise((resolve) => socket.close(() => resolve())),
  };
}

function bound(socket: Socket, options: { readonly host: string; readonly port: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once("error", (cause) => reject(new Failure("net/cannot-listen", "STUN cannot listen", { cause })));
    socket.bind(options.port, options.host, () => {
      socket.removeAllListeners("error");
      // Errors of a UDP socket after that are those of single datagrams.
      socket.on("error", () => {});
      resolve();
    });
  });
}

/** Fixed windows of one second. */
class AnswerBudget {
  readonly #clock: Pick<Clock, "monotonic">;
  readonly #sources = new Map<string, number>();
  #total = 0;
  #windowStart: number;

  constructor(clock: Pick<Clock, "monotonic">) {
    this.#clock = clock;
    this.#windowStart = clock.monotonic();
  }

  take(source: string): boolean {
    const now = this.#clock.monotonic();
    if (now - this.#windowStart >= WINDOW_MS) {
      this.#windowStart = now;
      this.#total = 0;
      this.#sources.clear();
    }
    if (this.#total >= ANSWERS_PER_SECOND) return false;
    const used = this.#sources.get(source) ?? 0;
    if (used >= ANSWERS_PER_SOURCE) return false;
    if (this.#sources.has(source) || this.#sources.size < MAX_SOURCES) this.#sources.set(source, used + 1);
    this.#total++;
    return true;
  }
}

/** RFC 5389 section 6 and 7.3: whatever is not exactly that gets no answer. */
export function isBindingRequest(message: Buffer): boolean {
  if (message.length < HEADER_BYTES || message.length > MAX_REQUEST_BYTES || message.length % 4 !== 0) return false;
  if (message.readUInt16BE(0) !== BINDING_REQUEST || message.readUInt32BE(4) !== MAGIC_COOKIE) return false;
  if (message.readUInt16BE(2) !== message.length - HEADER_BYTES) return false;
  let offset = HEADER_BYTES;
  while (offset < message.length) offset += 4 + padded(message.readUInt16BE(offset + 2));
  return offset === message.length;
}

function padded(length: number): number {
  return (length + 3) & ~3;
}

function answer(request: Buffer, from: RemoteInfo): Buffer {
  const unknown = unknownAttributes(request);
  return unknown.length > 0 ? unknownAttributesError(request, unknown) : bindingSuccess(request, from);
}

function unknownAttributes(request: Buffer): readonly number[] {
  const unknown: number[] = [];
  for (let offset = HEADER_BYTES; offset < request.length; offset += 4 + padded(request.readUInt16BE(offset + 2))) {
    const type = request.readUInt16BE(offset);
    if (type < 0x8000 && !HARMLESS.has(type) && unknown.length < MAX_UNKNOWN_NAMED) unknown.push(type);
  }
  return unknown;
}

function header(type: number, request: Buffer, attributesLength: number): Buffer {
  const head = Buffer.alloc(HEADER_BYTES);
  head.writeUInt16BE(type, 0);
  head.writeUInt16BE(attributesLength, 2);
  request.copy(head, 4, 4, HEADER_BYTES); // magic cookie and transaction id
  return head;
}

function bindingSuccess(request: Buffer, from: RemoteInfo): Buffer {
  const address = addressBytes(from);
  const attribute = Buffer.alloc(8 + address.length);
  attribute.writeUInt16BE(XOR_MAPPED_ADDRESS, 0);
  attribute.writeUInt16BE(4 + address.length, 2);
  attribute.writeUInt8(address.length === 4 ? 1 : 2, 5);
  attribute.writeUInt16BE(from.port ^ (MAGIC_COOKIE >>> 16), 6);
  // The address is XORed with cookie | transaction id, which stand side by side in the request.
  for (let i = 0; i < address.length; i++) attribute[8 + i] = address[i]! ^ request[4 + i]!;
  return Buffer.concat([header(BINDING_SUCCESS, request, attribute.length), attribute]);
}

function unknownAttributesError(request: Buffer, unknown: readonly number[]): Buffer {
  const code = Buffer.from([0, ERROR_CODE, 0, 4, 0, 0, 4, 20]); // 420, no phrase
  const named = Buffer.alloc(4 + padded(unknown.length * 2));
  named.writeUInt16BE(UNKNOWN_ATTRIBUTES, 0);
  named.writeUInt16BE(unknown.length * 2, 2);
  for (const [index, type] of unknown.entries()) named.writeUInt16BE(type, 4 + index * 2);
  return Buffer.concat([header(BINDING_ERROR, request, code.length + named.length), code, named]);
}

function addressBytes({ address, family }: RemoteInfo): Buffer {
  if (family === "IPv4") return Buffer.from(address.split(".").map(Number));
  const [plain = ""] = address.split("%");
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(plain);
  const text = dotted
    ? `${dotted[1]}${hex16(Number(dotted[2]), Number(dotted[3]))}:${hex16(Number(dotted[4]), Number(dotted[5]))}`
    : plain;
  const [head = "", tail] = text.split("::");
  const left = head === "" ? [] : head.split(":");
  const right = tail === undefined || tail === "" ? [] : tail.split(":");
  const groups = [...left, ...Array.from({ length: 8 - left.length - right.length }, () => "0"), ...right];
  const bytes = Buffer.alloc(16);
  for (const [index, group] of groups.entries()) bytes.writeUInt16BE(Number.parseInt(group, 16), index * 2);
  return bytes;
}

function hex16(high: number, low: number): string {
  return ((high << 8) | low).toString(16);
}
