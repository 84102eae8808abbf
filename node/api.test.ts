import { request, type RequestOptions } from "node:http";
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { webCryptoSuite } from "#protocols/base/webcrypto.ts";
import type { ConversationId, EventId } from "#protocols/base/ids.ts";
import type { Peer, PeerEvent } from "#src/peer/face.ts";
import { createIdentity, startPeer } from "#src/peer/start.ts";
import { Failure } from "#src/runtime/failure.ts";
import { MemoryDisk } from "#src/runtime/memory-store.ts";
import { systemClock, systemRandom } from "#src/runtime/node.ts";
import { type Api, proofOf, ROUTES, serveApi } from "./api.ts";
import { connectDaemon, type DaemonPeer } from "./api-client.ts";
import { offlineNetwork } from "./offline-network.ts";
import openapi from "./openapi.json" with { type: "json" };

/** A peer nobody may reach: what is refused here never gets as far as asking it anything. */
const unreachable = new Proxy({} as Peer, {
  get: (_, name) => () => {
    throw new Error(`the peer was asked to ${String(name)}`);
  },
});

let api: Api;
const mistakes: unknown[] = [];
beforeAll(async () => {
  api = await serveApi(unreachable, { onMistake: (error) => mistakes.push(error) });
});
afterAll(async () => {
  await api.close();
  expect(mistakes).toEqual([]);
});

type Answer = { status: number; code: string | undefined; body: unknown };

function ask(path: string, options: RequestOptions & { body?: string | Buffer } = {}): Promise<Answer> {
  const { body, ...rest } = options;
  return new Promise((done, fail) => {
    const asked = request({ host: "127.0.0.1", port: api.port, path, ...rest }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      response.on("end", () => {
        const value = JSON.parse(text) as { error?: { code: string } };
        done({ status: response.statusCode!, code: value.error?.code, body: value });
      });
    });
    asked.on("error", fail);
    asked.end(body);
  });
}

const authorised = (): { authorization: string } => ({ authorization: `Bearer ${api.token}` });

const ajv = new Ajv2020({ strict: true, strictRequired: false });
ajv.addVocabulary(["components"]);
ajv.addSchema({ $id: "api", components: openapi.components }, "api", undefined, false);

/** That `value` is what openapi.json says. */
function expectShape(schema: keyof typeof openapi.components.schemas, value: unknown): void {
  ajv.validate({ $ref: `api#/components/schemas/${schema}` }, value);
  expect(ajv.errorsText()).toBe("No errors");
}

describe("the local API refuses", () => {
  test.each([
    ["no token", {}],
    ["a wrong token", { authorization: `Bearer ${"00".repeat(32)}` }],
    ["a part of the token", () => ({ authorization: `Bearer ${api.token.slice(0, 63)}` })],
    ["a token with something behind it", () => ({ authorization: `Bearer ${api.token}0` })],
    ["another scheme", () => ({ authorization: `Basic ${api.token}` })],
    ["an empty token", { authorization: "Bearer " }],
  ])("%s", async (_, headers) => {
    const given = typeof headers === "function" ? headers() : headers;
    expect(await ask("/v1/status", { headers: given })).toMatchObject({ status: 401, code: "api/unauthorised" });
    expect(await ask("/v1/watch", { headers: given })).toMatchObject({ status: 401, code: "api/unauthorised" });
  });

  test.each(["evil.example", "127.0.0.1", "localhost:1", "[::1]:80"])("Host %j, right token or not", async (host) => {
    const answer = await ask("/v1/status", { headers: { ...authorised(), host } });
    expect(answer).toMatchObject({ status: 403, code: "api/forbidden" });
  });

  test.each(["https://evil.example", "null", "http://127.0.0.1"])("a web page: Origin %j", async (origin) => {
    expect(await ask("/v1/status", { headers: { ...authorised(), origin } })).toMatchObject({ status: 403 });
  });

  test("a body above the limit, before it is read whole", async () => {
    const body = Buffer.alloc(300 * 1024, " ");
    const headers = { ...authorised(), "content-type": "application/json" };
    expect(await ask("/v1/connect", { method: "POST", headers, body })).toMatchObject({ status: 413 });
  });

  test("a body that is not JSON, or does not say so", async () => {
    const headers = { ...authorised(), "content-type": "application/json" };
    expect(await ask("/v1/connect", { method: "POST", headers, body: "{" })).toMatchObject({ status: 400 });
    const plain = { ...authorised(), "content-type": "text/plain" };
    expect(await ask("/v1/connect", { method: "POST", headers: plain, body: "{}" })).toMatchObject({ status: 415 });
  });

  test.each([
    ["POST", "/v1/connect", {}],
    ["POST", "/v1/connect", { link: 5 }],
    ["POST", "/v1/connect", { link: "x", waitMs: 1e9 }],
    ["POST", "/v1/invites", { uses: 0 }],
    ["POST", "/v1/invites", { uses: 1.5 }],
    ["POST", "/v1/contacts/abc/accept", {}],
    ["POST", `/v1/contacts/${"A".repeat(64)}/accept`, {}],
    ["POST", `/v1/conversations/${"0".repeat(64)}/messages`, { text: 1 }],
    ["POST", `/v1/conversations/${"0".repeat(64)}/messages`, { text: "x", replyTo: "y" }],
    ["GET", `/v1/conversations/${"0".repeat(64)}/messages?limit=x`, undefined],
    ["GET", `/v1/conversations/${"0".repeat(64)}/messages?limit=-1`, undefined],
  ])("%s %s %j: another shape", async (method, path, body) => {
    const headers = { ...authorised(), "content-type": "application/json" };
    const answer = await ask(path, { method, headers, ...(body !== undefined && { body: JSON.stringify(body) }) });
    expect(answer).toMatchObject({ status: 400, code: "api/bad-request" });
  });

  test.each([
    ["GET", "/"],
    ["GET", "/v2/status"],
    ["GET", "/v1/nothing"],
    ["DELETE", "/v1/status"],
    ["GET", "/v1/contacts/x/y/z"],
    ["GET", "//evil/v1/status"],
  ])("%s %s: nothing there", async (method, path) => {
    expect(await ask(path, { method, headers: authorised() })).toMatchObject({ status: 404 });
  });
});

describe("openapi.json", () => {
  /** Not questions of the peer. */
  const BESIDE = ["get /openapi.json", "get /v1/proof", "get /v1/watch"];

  test("describes every route and no other", () => {
    const described = Object.entries(openapi.paths).flatMap(([path, methods]) =>
      Object.keys(methods).map((method) => `${method} ${path.replaceAll(/\{\w+\}/g, "*")}`),
    );
    const routes = ROUTES.map(({ method, path }) => `${method.toLowerCase()} /v1/${path}`);
    expect(described.toSorted()).toEqual([...routes, ...BESIDE].toSorted());
  });

  test("is served, to whom Host and Origin allow", async () => {
    expect(await ask("/openapi.json")).toMatchObject({ status: 200, body: openapi });
    expect(await ask("/openapi.json", { headers: { origin: "null" } })).toMatchObject({ status: 403 });
  });

  test("has a form for what is refused", async () => {
    expectShape("Error", (await ask("/v1/status")).body);
  });
});

describe("who listens on the port of api.json", () => {
  test("proves that it wrote the token, without being told it", async () => {
    const nonce = "12".repeat(32);
    expect((await ask(`/v1/proof?nonce=${nonce}`)).body).toEqual({ proof: proofOf(api.token, nonce) });
    expect(await ask("/v1/proof?nonce=1")).toMatchObject({ status: 400 });
  });

  test("is no daemon of ours when the proof is wrong, and is told nothing", async () => {
    expect(await connectDaemon({ port: api.port, token: "00".repeat(32), pid: 1 })).toBeUndefined();
  });

  test("is nobody when the daemon has died", async () => {
    const other = await serveApi(unreachable, { onMistake: (error) => mistakes.push(error) });
    await other.close();
    expect(await connectDaemon({ port: other.port, token: other.token, pid: 1 })).toBeUndefined();
  });
});

describe("the peer over the API answers as the peer itself", () => {
  let peer: Peer;
  let served: Api;
  let remote: DaemonPeer;
  const nobody = "0".repeat(64) as ConversationId;

  /** A peer with a disk of its own and no network. */
  async function lonely(name: string): Promise<Peer> {
    const disk = new MemoryDisk();
    const home = {
      unlock: { platformKey: systemRandom(32) },
      clock: systemClock,
      random: systemRandom,
      crypto: webCryptoSuite(globalThis.crypto.subtle),
    };
    await createIdentity({ ...home, host: disk.attach(), name, relays: [] });
    return startPeer({ ...home, host: disk.attach(), network: offlineNetwork() });
  }

  beforeAll(async () => {
    peer = await lonely("Ada");
    served = await serveApi(peer, { onMistake: (error) => mistakes.push(error) });
    remote = (await connectDaemon({ port: served.port, token: served.token, pid: 1 }))!;
  });
  afterAll(async () => {
    await remote.close();
    await served.close();
    await peer.close();
  });

  test("questions", async () => {
    expect([remote.account, remote.device]).toEqual([peer.account, peer.device]);
    expect(await remote.status()).toEqual(await peer.status());
    expectShape("Status", await remote.status());
    expect(await remote.contacts()).toEqual([]);
    expect(await remote.conversations()).toEqual([]);
  });

  test("an invite made by one is read by the other", async () => {
    const { link } = await remote.createInvite({ uses: 2, expiresInMs: 60_000 });
    expect(await remote.readInvite(link)).toEqual(await peer.readInvite(link));
  });

  test.each([
    ["connect", (one: Peer) => one.connect("rubbish")],
    ["readInvite", (one: Peer) => one.readInvite("rubbish")],
    ["send", (one: Peer) => one.send(nobody, { text: "x" })],
    ["send", (one: Peer) => one.send(nobody, { text: "x", replyTo: nobody as string as EventId })],
    ["messages", (one: Peer) => one.messages(nobody, { limit: 3, before: nobody as string as EventId })],
    ["markRead", (one: Peer) => one.markRead(nobody, nobody as string as EventId)],
    ["typing", (one: Peer) => one.typing(nobody)],
    ["accept", (one: Peer) => one.accept(peer.account)],
    ["decline", (one: Peer) => one.decline(peer.account)],
    ["withdraw", (one: Peer) => one.withdraw(peer.account)],
    ["addRelay", (one: Peer) => one.addRelay("rubbish")],
    ["removeRelay", (one: Peer) => one.removeRelay("/ip4/127.0.0.1/tcp/1/p2p/x")],
  ])("what %s refuses it refuses with the same code", async (_, ask) => {
    const codes = await Promise.all(
      [peer, remote].map((one) =>
        ask(one).then(
          () => "done",
          (error: unknown) => (error instanceof Failure ? [error.code, error.message, error.retryable] : error),
        ),
      ),
    );
    expect(codes[1]).toEqual(codes[0]);
  });

  test("events arrive as they were told, and stop when asked", async () => {
    const [told, heard]: PeerEvent[][] = [[], []];
    const stopTold = peer.watch((event) => told!.push(event));
    const stop = new AbortController();
    const asked = Promise.withResolvers<void>();
    const { ended } = await remote.watchStream((event) => {
      heard!.push(event);
      if (event.type === "contact") asked.resolve();
    }, stop.signal);
    const bo = await lonely("Bo");
    const { link } = await bo.createInvite();
    expect(await remote.connect(link)).toMatchObject({ account: bo.account, name: "Bo", state: "requested" });
    await asked.promise;
    expect(heard).toEqual(told!.slice(0, heard!.length));
    for (const event of heard!) expectShape("PeerEvent", event);
    for (const contact of await remote.contacts()) expectShape("Contact", contact);
    for (const conversation of await remote.conversations()) expectShape("Conversation", conversation);
    stop.abort();
    await ended;
    stopTold();
    await bo.close();
  });

  test("a watcher learns that the daemon has ended", async () => {
    const short = await serveApi(peer, { onMistake: (error) => mistakes.push(error) });
    const client = (await connectDaemon({ port: short.port, token: short.token, pid: 1 }))!;
    const { ended } = await client.watchStream(() => {}, new AbortController().signal);
    await short.close();
    await ended;
    await expect(client.status()).rejects.toMatchObject({ code: "api/unreachable" });
  });
});
