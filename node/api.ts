/**
 * The local API: the peer's face over HTTP on the loopback, for the commands of this home and for programs its owner trusts
 * with the token of api.json.
 *
 * Who else may knock: any program of this machine, and through its browser any web page. So, in this order, before a body is
 * read: Host must be ours (a page whose name was rebound to 127.0.0.1 sends its own name), there must be no Origin (a browser
 * sends one), and the bearer token must be right. Bodies are bounded and must say that they are JSON.
 */
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import * as v from "valibot";
import type { AccountId, ConversationId, EventId } from "#protocols/base/ids.ts";
import type { Peer } from "#src/peer/face.ts";
import { Failure } from "#src/runtime/failure.ts";

/** The longest message is far below; more is a mistake or an attack. */
const MAX_BODY_BYTES = 256 * 1024;
/** Terminals, bots and scripts of one person. */
const MAX_CONNECTIONS = 64;
/** What may wait for a watcher that does not read. Beyond it the watcher is cut off and asks for the messages it missed. */
const MAX_UNREAD_BYTES = 1024 * 1024;
/** A local client sends its request at once. */
const REQUEST_TIMEOUT_MS = 10_000;

const hex32 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, "wants 64 hexadecimal digits"));
/** Brands what the pattern has checked. */
const idOf = <T extends string>() =>
  v.pipe(
    hex32,
    v.transform((text) => text as T),
  );
const accountId = idOf<AccountId>();
const conversationId = idOf<ConversationId>();
const eventId = idOf<EventId>();
const count = v.pipe(v.number(), v.integer(), v.minValue(1));
const inText = v.pipe(v.string(), v.transform(Number), count);

type Request = {
  readonly peer: Peer;
  readonly path: readonly string[];
  readonly query: object;
  readonly body: unknown;
};
type Route = {
  readonly method: "GET" | "POST" | "DELETE";
  /** Segments after /v1; `*` takes one. */
  readonly path: string;
  run(request: Request): Promise<unknown>;
};

/** @throws Failure `api/bad-request` */
function check<T>(schema: v.GenericSchema<unknown, T>, value: unknown): T {
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const where = issue.path?.map((item) => String(item.key)).join(".") ?? "";
  throw new Failure("api/bad-request", `${where === "" ? "the request" : where}: ${issue.message}`);
}

const link = v.object({ link: v.string() });
const address = v.object({ address: v.string() });

/** One route a question of `Peer`, named alike, described in openapi.json. `watch` is a stream and stands in `answer`. */
export const ROUTES: readonly Route[] = [
  { method: "GET", path: "status", run: ({ peer }) => peer.status() },
  {
    method: "POST",
    path: "invites",
    run: ({ peer, body }) =>
      peer.createInvite(check(v.object({ uses: v.exactOptional(count), expiresInMs: v.exactOptional(count) }), body)),
  },
  { method: "POST", path: "invites/read", run: ({ peer, body }) => peer.readInvite(check(link, body).link) },
  {
    method: "POST",
    path: "connect",
    run: ({ peer, body }) => {
      const { link: text, ...options } = check(
        v.object({ link: v.string(), waitMs: v.exactOptional(v.pipe(v.number(), v.minValue(0), v.maxValue(60_000))) }),
        body,
      );
      return peer.connect(text, options);
    },
  },
  { method: "GET", path: "contacts", run: ({ peer }) => peer.contacts() },
  { method: "POST", path: "contacts/*/accept", run: ({ peer, path }) => peer.accept(check(accountId, path[1])) },
  { method: "POST", path: "contacts/*/decline", run: ({ peer, path }) => peer.decline(check(accountId, path[1])) },
  { method: "POST", path: "contacts/*/withdraw", run: ({ peer, path }) => peer.withdraw(check(accountId, path[1])) },
  { method: "GET", path: "conversations", run: ({ peer }) => peer.conversations() },
  {
    method: "POST",
    path: "conversations/*/messages",
    run: ({ peer, path, body }) =>
      peer.send(
        check(conversationId, path[1]),
        check(v.object({ text: v.string(), replyTo: v.exactOptional(eventId) }), body),
      ),
  },
  {
    method: "GET",
    path: "conversations/*/messages",
    run: ({ peer, path, query }) =>
      peer.messages(
        check(conversationId, path[1]),
        check(v.object({ limit: v.exactOptional(inText), before: v.exactOptional(eventId) }), query),
      ),
  },
  {
    method: "POST",
    path: "conversations/*/read",
    run: ({ peer, path, body }) =>
      peer.markRead(check(conversationId, path[1]), check(v.object({ upTo: eventId }), body).upTo),
  },
  {
    method: "POST",
    path: "conversations/*/typing",
    run: ({ peer, path }) => peer.typing(check(conversationId, path[1])),
  },
  { method: "POST", path: "relays", run: ({ peer, body }) => peer.addRelay(check(address, body).address) },
  { method: "DELETE", path: "relays", run: ({ peer, body }) => peer.removeRelay(check(address, body).address) },
];

/** HTTP status of the codes that are about the request; every other failure is 409: understood, and not now. */
const STATUS: Readonly<Record<string, number>> = {
  "api/bad-request": 400,
  "api/unauthorised": 401,
  "api/forbidden": 403,
  "api/not-found": 404,
  "api/too-large": 413,
  "api/not-json": 415,
  "api/internal": 500,
};

/** Answers a nonce so that a client knows this is the daemon that wrote the token, before it says anything private. */
export function proofOf(token: string, nonce: string): string {
  return createHmac("sha256", Buffer.from(token, "hex")).update(`skein/api/1/${nonce}`).digest("hex");
}

/** In a time that does not depend on how much of `given` is right. */
function sameSecret(given: string, expected: string): boolean {
  const hash = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(hash(given), hash(expected));
}

/** @throws Failure `api/too-large`, `api/not-json`, `api/bad-request`. */
async function readBody(request: IncomingMessage): Promise<unknown> {
  if (request.method === "GET") return undefined;
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw new Failure("api/too-large", `The body is larger than ${MAX_BODY_BYTES} bytes.`);
    chunks.push(chunk);
  }
  if (size === 0) return {};
  if (!/^application\/json(;|$)/.test(request.headers["content-type"] ?? "")) {
    throw new Failure("api/not-json", "The body must be application/json.");
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch (cause) {
    throw new Failure("api/bad-request", "The body is not JSON.", { cause });
  }
}

function matches(pattern: string, path: readonly string[]): boolean {
  const parts = pattern.split("/");
  return parts.length === path.length && parts.every((part, i) => part === "*" || part === path[i]);
}

export type Api = { readonly url: string; readonly port: number; readonly token: string; close(): Promise<void> };

/** Serves `peer` on a free port of 127.0.0.1. @param onMistake Told of exceptions that are no Failure: mistakes of ours. */
export async function serveApi(peer: Peer, options: { readonly onMistake: (error: unknown) => void }): Promise<Api> {
  const token = randomBytes(32).toString("hex");
  const server = createServer({ requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS });
  server.maxConnections = MAX_CONNECTIONS;
  let hosts: readonly string[] = [];

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    if (!hosts.includes(request.headers.host ?? ""))
      throw new Failure("api/forbidden", "This is not the host you meant.");
    if (request.headers.origin !== undefined) throw new Failure("api/forbidden", "Web pages may not ask.");
    // Put together and not resolved against a base: "//somewhere/v1/status" is no way of writing ours.
    const url = URL.parse(`http://127.0.0.1${request.url ?? ""}`);
    const [version, ...path] = url?.pathname.split("/").slice(1) ?? [];
    if (request.method === "GET" && url?.pathname === "/openapi.json") {
      const { default: description } = await import("./openapi.json", { with: { type: "json" } });
      send(response, 200, description);
      return;
    }
    if (url === null || version !== "v1") throw new Failure("api/not-found", "The API begins at /v1.");
    const query = Object.fromEntries(url.searchParams);
    if (request.method === "GET" && matches("proof", path)) {
      send(response, 200, { proof: proofOf(token, check(v.object({ nonce: hex32 }), query).nonce) });
      return;
    }
    const [, bearer] = /^Bearer (\S{1,200})$/.exec(request.headers.authorization ?? "") ?? [];
    if (bearer === undefined || !sameSecret(bearer, token)) {
      throw new Failure("api/unauthorised", "The token of api.json is missing or wrong.");
    }
    if (request.method === "GET" && matches("watch", path)) {
      stream(peer, response);
      return;
    }
    const route = ROUTES.find((one) => one.method === request.method && matches(one.path, path));
    if (route === undefined) throw new Failure("api/not-found", "There is nothing here.");
    send(response, 200, (await route.run({ peer, path, query, body: await readBody(request) })) ?? null);
  };

  server.on("request", (request, response) => {
    answer(request, response).catch((error: unknown) => {
      if (!(error instanceof Failure)) options.onMistake(error);
      const failure =
        error instanceof Failure ? error : new Failure("api/internal", "Something went wrong inside Skein.");
      // A body nobody read would be taken for the next request.
      if (!request.complete) response.setHeader("connection", "close");
      const { code, message, retryable } = failure;
      send(response, STATUS[code] ?? 409, { error: { code, message, retryable } });
    });
  });

  await listen(server);
  const { port } = server.address() as AddressInfo;
  hosts = [`127.0.0.1:${port}`, `localhost:${port}`];
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    token,
    close: () =>
      new Promise((done) => {
        server.close(() => done());
        server.closeAllConnections();
      }),
  };
}

function listen(server: Server): Promise<void> {
  return new Promise((done, fail) => {
    server.once("error", (cause) => fail(new Failure("api/no-port", "No port on the loopback is free.", { cause })));
    server.listen({ host: "127.0.0.1", port: 0, exclusive: true }, done);
  });
}

function send(response: ServerResponse, status: number, value: unknown): void {
  if (response.destroyed) return;
  const body = JSON.stringify(value);
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" });
  response.end(body);
}

/** Events as lines of JSON until the client goes. The header tells it that from now on it misses nothing. */
function stream(peer: Peer, response: ServerResponse): void {
  const stop = peer.watch((event) => {
    if (response.writableLength > MAX_UNREAD_BYTES) response.destroy();
    else response.write(`${JSON.stringify(event)}\n`);
  });
  response.on("close", stop);
  response.writeHead(200, { "content-type": "application/x-ndjson", "cache-control": "no-store" });
  response.flushHeaders();
}
