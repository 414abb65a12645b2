// Holds a server against what the standard clients of GraphQL expect: one line of JSON for each check.
import { serverAudits } from "graphql-http";
import { createClient as createSseClient } from "graphql-sse";
import { createClient as createWsClient } from "graphql-ws";
import WebSocket from "ws";

const url = process.argv[2];
const socketUrl = url.replace(/^http/, "ws");
const PROTOCOL = "graphql-transport-ws";
const HELLO = "{ hello }";
const NOBODY = "00000000-0000-0000-0000-000000000000";
const WATCH = "subscription { runs_changes(every: 0.1) { __typename } }";

const say = (name, why) => console.log(JSON.stringify({ name, why: why ?? null }));

function expect(found, wanted) {
  const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${a} instead of ${b}`);
}

async function check(name, audit) {
  try {
    await audit();
    say(name);
  } catch (error) {
    say(name, String(error?.message ?? JSON.stringify(error)));
  }
}

// -- graphql-http -------------------------------------------------------------------------------------

for (const audit of serverAudits({ url, fetchFn: fetch })) {
  const { status, reason } = await audit.fn();
  say(`http ${audit.id}: ${audit.name}`, status === "ok" ? null : (reason ?? status));
}

// -- graphql-ws: its client ----------------------------------------------------------------------------

async function all(client, query) {
  const found = [];
  for await (const answer of client.iterate({ query })) found.push(answer);
  return found;
}

async function first(client, query) {
  for await (const answer of client.iterate({ query })) return answer;
}

async function withClient(work) {
  const closed = [];
  const client = createWsClient({ url: socketUrl, webSocketImpl: WebSocket, retryAttempts: 0, lazy: false });
  client.on("closed", (event) => closed.push(event.code));
  try {
    await work(client, closed);
  } finally {
    await client.dispose();
  }
}

await check("ws: a query is answered once, and completes", () =>
  withClient(async (client) => expect(await all(client, HELLO), [{ data: { hello: "👋" } }])));

await check("ws: a mutation is executed", () =>
  withClient(async (client) => {
    const [answer] = await all(client, `mutation { delete_project(input: {project_id: "${NOBODY}"}) { success } }`);
    expect(Object.keys(answer.data), ["delete_project"]);
  }));

await check("ws: a subscription is told at once, and ends when it is let go", () =>
  withClient(async (client, closed) => {
    expect((await first(client, WATCH)).data.runs_changes.__typename, "runs_change");
    expect(await all(client, HELLO), [{ data: { hello: "👋" } }]);
    expect(closed, []);
  }));

await check("ws: many subscriptions share a socket", () =>
  withClient(async (client) => {
    const answers = await Promise.all(Array.from({ length: 20 }, () => first(client, WATCH)));
    expect(new Set(answers.map((answer) => answer.data.runs_changes.__typename)).size, 1);
  }));

for (const [what, query] of [["cannot be parsed", "{ hello"], ["does not fit", "{ nothing }"]])
  await check(`ws: of a document that ${what} the errors are told, and the socket stays`, () =>
    withClient(async (client, closed) => {
      const told = await all(client, query).catch((errors) => errors);
      expect([Array.isArray(told), typeof told[0].message], [true, "string"]);
      expect(await all(client, HELLO), [{ data: { hello: "👋" } }]);
      expect(closed, []);
    }));

// -- graphql-ws: its protocol, to the letter -----------------------------------------------------------

function talk(messages, until, protocol = PROTOCOL) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(socketUrl, protocol);
    const heard = [];
    const late = setTimeout(() => reject(new Error(`nothing more after ${JSON.stringify(heard)}`)), 20_000);
    const done = (what) => {
      clearTimeout(late);
      socket.terminate();
      resolve(what);
    };
    socket.on("open", () => {
      for (const message of messages) socket.send(typeof message === "string" ? message : JSON.stringify(message));
    });
    socket.on("message", (data) => {
      heard.push(JSON.parse(data));
      if (until?.(heard)) done(heard);
    });
    socket.on("close", (code) => done(code));
    socket.on("error", reject);
  });
}

const INIT = { type: "connection_init" };
const subscribe = (id, query) => ({ id, type: "subscribe", payload: { query } });
const types = (heard) => heard.map((message) => message.type);

for (const [what, code, messages, protocol] of [
  ["another protocol is asked for", 4406, [], "graphql-ws-of-old"],
  ["what is no JSON comes", 4400, ["{"]],
  ["what is no message comes", 4400, [{ type: "nothing" }]],
  ["a message is no object", 4400, ["[]"]],
  ["an operation comes before the greeting", 4401, [subscribe("1", HELLO)]],
  ["the greeting comes twice", 4429, [INIT, INIT]],
  ["an operation has no query", 4400, [INIT, { id: "1", type: "subscribe", payload: {} }]],
  ["an operation has no id", 4400, [INIT, { type: "subscribe", payload: { query: HELLO } }]],
  ["two operations have one id", 4409, [INIT, subscribe("1", WATCH), subscribe("1", WATCH)]],
])
  await check(`ws: the socket is closed with ${code} when ${what}`, async () =>
    expect(await talk(messages, null, protocol), code));

await check("ws: the greeting is answered", async () =>
  expect(types(await talk([INIT], (heard) => heard.length === 1)), ["connection_ack"]));

await check("ws: a ping is answered, before the greeting too", async () => {
  const heard = await talk([{ type: "ping" }, INIT, { type: "ping" }], (all) => all.length === 3);
  expect(types(heard), ["pong", "connection_ack", "pong"]);
});

await check("ws: a pong that nobody asked for is taken", async () =>
  expect(types(await talk([{ type: "pong" }, INIT, { type: "pong" }, { type: "ping" }], (all) => all.length === 2)),
    ["connection_ack", "pong"]));

await check("ws: an id is free again after its operation", async () => {
  const begun = [INIT, subscribe("1", HELLO)];
  expect(types(await talk(begun, (heard) => heard.length === 3)), ["connection_ack", "next", "complete"]);
  const again = [...begun.slice(0, 1), subscribe("1", WATCH), { id: "1", type: "complete" }, subscribe("1", HELLO)];
  const heard = await talk(again, (all) => all.at(-1).type === "complete");
  expect(heard.at(-2).payload, { data: { hello: "👋" } });
});

await check("ws: the end of what has ended, or never was, is taken", async () => {
  const heard = await talk([INIT, { id: "x", type: "complete" }, subscribe("1", HELLO)], (all) => all.length === 3);
  expect(types(heard), ["connection_ack", "next", "complete"]);
});

await check("ws: an operation that does not fit is told so with error alone", async () =>
  expect(types(await talk([INIT, subscribe("1", "{ nothing }")], (heard) => heard.length === 2)),
    ["connection_ack", "error"]));

// -- graphql-sse ---------------------------------------------------------------------------------------

async function withStream(work, options = {}) {
  const client = createSseClient({ url, retryAttempts: 0, ...options });
  try {
    await work(client);
  } finally {
    client.dispose();
  }
}

await check("sse: a query is answered once, and completes", () =>
  withStream(async (client) => expect(await all(client, HELLO), [{ data: { hello: "👋" } }])));

await check("sse: a subscription is told at once, and ends when it is let go", () =>
  withStream(async (client) =>
    expect((await first(client, WATCH)).data.runs_changes.__typename, "runs_change")));

await check("sse: many subscriptions go on beside each other", () =>
  withStream(async (client) => {
    const answers = await Promise.all(Array.from({ length: 20 }, () => first(client, WATCH)));
    expect(answers.length, 20);
  }));

for (const [what, query] of [["cannot be parsed", "{ hello"], ["does not fit", "{ nothing }"]])
  await check(`sse: of a document that ${what} the errors are told`, () =>
    withStream(async (client) => {
      const told = await all(client, query).catch((error) => error);
      const errors = told instanceof Error ? (await told.response?.json())?.errors : told[0]?.errors;
      expect(typeof errors?.[0]?.message, "string");
    }));

await check("sse: the stream is one of events, and is not kept by anybody between", async () => {
  const stop = new AbortController();
  const answer = await fetch(url, {
    method: "POST",
    headers: { Accept: "text/event-stream", "Content-Type": "application/json" },
    body: JSON.stringify({ query: WATCH }),
    signal: stop.signal,
  });
  expect([answer.status, answer.headers.get("content-type").split(";")[0]], [200, "text/event-stream"]);
  expect(/no-cache|no-store/.test(answer.headers.get("cache-control")), true);
  stop.abort();
});

await check("sse: many operations share one connection", () =>
  withStream(async (client) => expect(await all(client, HELLO), [{ data: { hello: "👋" } }]),
    { singleConnection: true }));

process.exit(0);
