// The one place that talks to the server: questions, and feeds that live as long as somebody looks.
import { batch, signal } from "./vendor/signals.js";
import { encode, readJson } from "./model/json.js";
import { ahead, hearClock } from "./model/time.js";

const BACKOFF = [500, 1000, 2000, 4000, 8000, 16_000, 30_000];
const PING = 15_000;
const PATIENCE = 10_000;
const HIDDEN = 60_000;
const SILENT = 20_000;
const POLL = 2_000;
const JSON_TYPE = { "Content-Type": "application/json" };

/** The time by the clock of the server. */
const moment = () => Date.now() + ahead.peek();

/** How changes arrive: "connecting", "live", "stream", "polling" or "away"; since when, when it is tried again, and why. */
export const link = signal({ mode: "connecting", since: moment(), again: 0, why: "" });

/** Whether the server wants an API key that it was not given. */
export const locked = signal(false);

/** The digest of this page where the server has another one. */
export const outdated = signal("");

/** What the server refused, in its words. */
export class Refusal extends Error {
  /** @param {string} message @param {string} code */
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/** @param {string} path */
const url = (path) => new URL(path, document.baseURI);

/** @param {string} text @param {Record<string, unknown>} variables @param {string} type of the answer @param {AbortSignal} [signal] */
function send(text, variables, type, signal) {
  return fetch(url("../graphql"), { method: "POST", signal, headers: { ...JSON_TYPE, Accept: type }, body: encode({ query: text, variables }) });
}

/**
 * Ask a question, or change something.
 * @param {string} text @param {Record<string, unknown>} [variables] @returns {Promise<any>}
 */
export async function ask(text, variables = {}) {
  let response;
  try {
    response = await send(text, variables, "application/json");
  } catch {
    throw new Refusal("The server cannot be reached.", "AWAY");
  }
  hearClock(response.headers.get("date"));
  let answer;
  try {
    const body = await response.text();
    answer = /\d{16}/.test(body) ? readJson(body) : JSON.parse(body);
  } catch {
    throw new Refusal(`The server answered with status ${response.status}.`, "AWAY");
  }
  if (answer.errors) throw refused(answer.errors[0]);
  return answer.data;
}

/** @param {{message: string, extensions?: {code?: string}}} error */
function refused(error) {
  const code = error.extensions?.code ?? "";
  if (code === "UNAUTHENTICATED") locked.value = true;
  return new Refusal(error.message, code);
}

/** Where the cookie of a session is sent. */
const mount = () => url("..").pathname;

/** @param {string} [key] */
function session(key) {
  return fetch(url("session"), { method: "POST", headers: JSON_TYPE, body: JSON.stringify({ key, path: mount() }) });
}

/** @param {string} key */
export async function signIn(key) {
  const response = await session(key);
  if (!response.ok) throw new Refusal((await response.json()).errors[0].message, String(response.status));
  locked.value = false;
  reconnect();
}

/** Have the session live on while somebody looks. */
export async function renew() {
  await session().catch(() => {});
}

export async function signOut() {
  await fetch(url(`session?path=${encodeURIComponent(mount())}`), { method: "DELETE" });
  locked.value = true;
  disconnect();
}

// -- feeds --------------------------------------------------------------------------------------------------

/** @typedef {{id: string, text: string, variables: Record<string, unknown>, next: (data: any) => void, poll: () => void, isRefused?: boolean, stop?: () => void}} Feed */

/** @type {Map<string, Feed>} */
const feeds = new Map();
/** @type {WebSocket | null} */
let socket = null;
let ready = false;
let failures = 0;
let streamFailures = 0;
let counter = 0;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let hiding;
/** @type {ReturnType<typeof setInterval> | undefined} */
let polling;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let overdue;

/**
 * Be told of changes until the returned function is called; after a return, of those that were missed.
 * @param {string} text @param {Record<string, unknown>} variables
 * @param {(data: any) => void} next @param {() => void} poll what to do now and then where nothing can be told
 */
export function follow(text, variables, next, poll) {
  const feed = { id: String(++counter), text, variables: { after: null, ...variables }, next, poll };
  feeds.set(feed.id, feed);
  if (link.peek().mode === "stream") stream(feed);
  else if (socket === null) connect();
  else if (ready) subscribe(feed);
  return () => {
    const known = feeds.get(feed.id);
    feeds.delete(feed.id);
    known?.stop?.();
    if (ready) tell({ type: "complete", id: feed.id });
  };
}

/** @param {string} mode @param {{again?: number, why?: string}} [more] */
function become(mode, { again = 0, why = "" } = {}) {
  const before = link.peek();
  link.value = { mode, since: before.mode === mode ? before.since : moment(), again, why };
}

function connect() {
  clearTimeout(timer);
  if (!feeds.size || document.hidden || socket || locked.peek()) return;
  if (failures >= 2 && streamFailures < 2 && !everLive) return streamAll();
  const target = url("../graphql");
  target.protocol = target.protocol === "https:" ? "wss:" : "ws:";
  const opened = (socket = new WebSocket(target, "graphql-transport-ws"));
  opened.onopen = () => opened.send(JSON.stringify({ type: "connection_init" }));
  opened.onmessage = (event) => hear(JSON.parse(event.data));
  opened.onclose = (event) => socket === opened && lost(event.code);
}

let everLive = false;

/** See whether the server serves this page, or a newer one. */
export async function compare() {
  const own = /\/-\/([0-9a-f]+)\//.exec(import.meta.url)?.[1];
  const answer = await fetch(url("./")).catch(() => null);
  const tag = answer?.headers.get("etag");
  if (own && tag && !tag.includes(own)) outdated.value = own;
}

/** @param {any} message */
function hear(message) {
  if (message.type === "connection_ack") {
    if (everLive) compare();
    become("live");
    ready = everLive = true;
    failures = streamFailures = 0;
    stopPolling();
    ping();
    for (const feed of feeds.values()) subscribe(feed);
  } else if (message.type === "pong") {
    clearTimeout(overdue);
  } else if (message.type === "next") {
    deliver(feeds.get(message.id), message.payload);
  } else if (message.type === "error" && message.payload?.[0]) {
    refused(message.payload[0]);
  }
}

/** @param {Feed | undefined} feed @param {any} answer */
function deliver(feed, answer) {
  if (!feed) return;
  const [error] = answer.errors ?? [];
  const [change] = Object.values(answer.data ?? {});
  if (change) feed.variables.after = change.cursor;
  if (!error) {
    feed.isRefused = false;
    if (ready && polling && ![...feeds.values()].some((each) => each.isRefused)) {
      stopPolling();
      become("live");
    }
    return change && batch(() => feed.next(change));
  }
  refused(error);
  if (/too many subscriptions/i.test(error.message)) {
    feed.isRefused = true;
    startPolling(error.message);
  }
}

/** @param {Feed} feed */
function subscribe(feed) {
  tell({ type: "subscribe", id: feed.id, payload: { query: feed.text, variables: feed.variables } });
}

/** @param {unknown} message */
function tell(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function ping() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    tell({ type: "ping" });
    overdue = setTimeout(() => socket?.close(), PATIENCE);
    ping();
  }, PING);
}

/** @param {number} code */
function lost(code) {
  clearTimeout(timer);
  clearTimeout(overdue);
  socket = null;
  ready = false;
  if (code === 4403) locked.value = true;
  if (!feeds.size || document.hidden || locked.peek()) return;
  const wait = failures === 0 && everLive ? 50 : BACKOFF[Math.min(failures, BACKOFF.length - 1)] * (0.75 + Math.random() / 2);
  failures += 1;
  retry(wait);
}

/** @param {number} wait */
function retry(wait) {
  if (link.peek().mode !== "polling") become("away", { again: moment() + wait });
  timer = setTimeout(connect, wait);
}

function disconnect() {
  clearTimeout(timer);
  clearTimeout(overdue);
  stopPolling();
  const closing = socket;
  socket = null;
  ready = false;
  closing?.close();
  for (const feed of feeds.values()) feed.stop?.();
}

/** Try again at once. */
export function reconnect() {
  disconnect();
  failures = 0;
  connect();
}

// -- where a proxy drops WebSockets ----------------------------------------------------------------------------

function streamAll() {
  for (const feed of feeds.values()) stream(feed);
}

/** @param {Feed} feed */
async function stream(feed) {
  const control = new AbortController();
  feed.stop = () => control.abort();
  let silence = setTimeout(() => control.abort("silent"), SILENT);
  try {
    const response = await send(feed.text, feed.variables, "text/event-stream", control.signal);
    if (!response.ok || !response.body) throw new Error(String(response.status));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      clearTimeout(silence);
      silence = setTimeout(() => control.abort("silent"), SILENT);
      stopPolling();
      if (link.peek().mode !== "stream") become("stream");
      const events = (rest + value).split("\n\n");
      rest = events.pop() ?? "";
      for (const event of events) {
        const data = event.split("\n").find((line) => line.startsWith("data: "));
        if (data && event.startsWith("event: next")) deliver(feed, JSON.parse(data.slice(6)));
      }
    }
  } catch {
    if (!feeds.has(feed.id)) return;
    // what holds a stream back will do so again
    streamFailures += control.signal.reason === "silent" ? 2 : 1;
  } finally {
    clearTimeout(silence);
  }
  if (!feeds.has(feed.id) || document.hidden || locked.peek()) return;
  if (streamFailures >= 2) return startPolling();
  retry(1000);
}

function startPolling(why = "") {
  become("polling", { why });
  polling ??= setInterval(() => {
    const refused = [...feeds.values()].filter((feed) => !socket || feed.isRefused);
    for (const feed of refused) feed.poll();
    if (Math.random() > 0.1) return;
    if (!socket) connect();
    else for (const feed of refused) subscribe(feed);
  }, POLL);
}

function stopPolling() {
  clearInterval(polling);
  polling = undefined;
}

export function listenToFeeds() {
  addEventListener("online", reconnect);
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(disconnect, HIDDEN);
    else if (!socket) reconnect();
  });
}
