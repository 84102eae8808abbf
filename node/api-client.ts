/** The peer of a running daemon: the same face, over the local API. */
import { randomBytes } from "node:crypto";
import { Agent, type IncomingMessage, request as httpRequest } from "node:http";
import type { AccountId, DeviceId } from "#protocols/base/ids.ts";
import type { Peer, PeerEvent, Status } from "#src/peer/face.ts";
import { Failure } from "#src/runtime/failure.ts";
import { proofOf } from "./api.ts";
import type { ApiFile } from "./home.ts";

/** A daemon that answers at all answers the first question at once; only `connect` waits for somebody else. */
const HELLO_TIMEOUT_MS = 2_000;
/** Above what the daemon itself waits for (20 s for the other side of an invite, 60 at most). */
const CALL_TIMEOUT_MS = 75_000;
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

type Call = { readonly method: "GET" | "POST" | "DELETE"; readonly path: string; readonly body?: unknown };

export type DaemonPeer = Peer & {
  /** `watch` that says when it has begun, and when the daemon has ended it. */
  watchStream(listener: (event: PeerEvent) => void, signal: AbortSignal): Promise<{ readonly ended: Promise<void> }>;
};

/** @returns The daemon's peer, or undefined when nobody, or somebody else, listens there: the file is a dead daemon's. */
export async function connectDaemon(api: ApiFile): Promise<DaemonPeer | undefined> {
  const agent = new Agent({ keepAlive: true, maxSockets: 4 });

  const open = (call: Call, timeoutMs: number, authorised: boolean): Promise<IncomingMessage> =>
    new Promise((done, fail) => {
      const body = call.body === undefined ? undefined : JSON.stringify(call.body);
      const request = httpRequest(
        {
          host: "127.0.0.1",
          port: api.port,
          path: `/v1/${call.path}`,
          method: call.method,
          agent,
          headers: {
            ...(authorised && { authorization: `Bearer ${api.token}` }),
            ...(body !== undefined && {
              "content-type": "application/json",
              "content-length": Buffer.byteLength(body),
            }),
          },
          ...(timeoutMs > 0 && { signal: AbortSignal.timeout(timeoutMs) }),
        },
        done,
      );
      request.on("error", (cause) => fail(new Failure("api/unreachable", "The daemon does not answer.", { cause })));
      request.end(body);
    });

  const ask = async <T>(call: Call, timeoutMs = CALL_TIMEOUT_MS, authorised = true): Promise<T> => {
    const response = await open(call, timeoutMs, authorised);
    const value = await readJson(response);
    if (response.statusCode === 200) return value as T;
    const { error } = value as { error: { code: string; message: string; retryable: boolean } };
    throw new Failure(error.code, error.message, { retryable: error.retryable });
  };

  const nonce = randomBytes(32).toString("hex");
  try {
    const { proof } = await ask<{ proof: string }>(
      { method: "GET", path: `proof?nonce=${nonce}` },
      HELLO_TIMEOUT_MS,
      false,
    );
    if (proof !== proofOf(api.token, nonce)) return undefined;
  } catch (error) {
    // Nobody there, or a program that is not Skein: to the caller the same, there is no daemon.
    if (error instanceof Failure) return undefined;
    throw error;
  }

  const { account, device } = await ask<Status>({ method: "GET", path: "status" });
  const watchStream: DaemonPeer["watchStream"] = async (listener, signal) => {
    const response = await open({ method: "GET", path: "watch" }, 0, true);
    signal.addEventListener("abort", () => response.destroy(), { once: true });
    if (signal.aborted) response.destroy();
    return { ended: follow(response, listener) };
  };
  return {
    ...peerOver(ask, { account, device }),
    watch(listener) {
      const stop = new AbortController();
      void watchStream(listener, stop.signal);
      return () => stop.abort();
    },
    watchStream,
    close() {
      agent.destroy();
      return Promise.resolve();
    },
  };
}

function peerOver(
  ask: <T>(call: Call) => Promise<T>,
  ids: { readonly account: AccountId; readonly device: DeviceId },
): Omit<Peer, "watch" | "close"> {
  const get = <T>(path: string): Promise<T> => ask<T>({ method: "GET", path });
  const post = <T>(path: string, body: unknown = {}): Promise<T> => ask<T>({ method: "POST", path, body });
  return {
    ...ids,
    status: () => get("status"),
    createInvite: (options) => post("invites", options),
    readInvite: (link) => post("invites/read", { link }),
    connect: (link, options) => post("connect", { link, ...options }),
    contacts: () => get("contacts"),
    accept: (account) => post(`contacts/${account}/accept`),
    decline: (account) => post(`contacts/${account}/decline`),
    withdraw: (account) => post(`contacts/${account}/withdraw`),
    conversations: () => get("conversations"),
    send: (conversation, message) => post(`conversations/${conversation}/messages`, message),
    messages(conversation, options = {}) {
      const query = new URLSearchParams(Object.entries(options).map(([name, value]) => [name, String(value)]));
      return get(`conversations/${conversation}/messages?${query.toString()}`);
    },
    markRead: (conversation, upTo) => post(`conversations/${conversation}/read`, { upTo }),
    typing: (conversation) => post(`conversations/${conversation}/typing`),
    addRelay: (address) => post("relays", { address }),
    removeRelay: (address) => ask({ method: "DELETE", path: "relays", body: { address } }),
  };
}

async function readJson(response: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > MAX_ANSWER_BYTES) throw new Error("answer too large");
      chunks.push(chunk);
    }
    return JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch (cause) {
    throw new Failure("api/unreachable", "The daemon's answer broke off.", { cause });
  }
}

/** Hands on events until the stream ends. */
async function follow(response: IncomingMessage, listener: (event: PeerEvent) => void): Promise<void> {
  let unfinished = "";
  response.setEncoding("utf8");
  const chunks = (response as AsyncIterable<string>)[Symbol.asyncIterator]();
  for (;;) {
    // Ended by the daemon, cut off by its death or by us: to the watcher the same. A listener that throws is another matter.
    const next = await chunks.next().catch(() => undefined);
    if (next === undefined || next.done === true) return;
    const lines = (unfinished + next.value).split("\n");
    // A daemon that is killed may leave half a line, which is no event.
    unfinished = lines.pop()!;
    for (const line of lines) listener(JSON.parse(line) as PeerEvent);
  }
}
