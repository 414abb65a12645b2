// Begins here: which address shows which view.
import { html } from "./html.js";
import { render } from "./vendor/preact.js";
import { useEffect } from "./vendor/hooks.js";
import { signal } from "./vendor/signals.js";
import { follow, listen as listenToFeeds, renew } from "./api.js";
import { go, href, listen as listenToLinks, parts } from "./model/route.js";
import { RUNS_CHANGES } from "./model/queries.js";
import { tick } from "./model/time.js";
import { Shell, applyTheme, introduce, listen as listenToKeys, paused, who } from "./view/shell.js";

const SOON = 2000;

/** The views: each is read when it is first shown. */
const VIEWS = new Map([
  ["runs", () => import("./view/runs.js").then((view) => view.Runs)],
  ["run", () => import("./view/run.js").then((view) => view.Run)],
  ["flows", () => import("./view/flows.js").then((view) => view.Flows)],
  ["inbox", () => import("./view/inbox.js").then((view) => view.Inbox)],
  ["workers", () => import("./view/workers.js").then((view) => view.Workers)],
  ["search", () => import("./view/search.js").then((view) => view.Search)],
  ["tail", () => import("./view/search.js").then((view) => view.Tail)],
  ["go", () => import("./view/search.js").then((view) => view.Go)],
]);

const read = signal(new Map());
const missing = signal("");

function load(name) {
  if (!VIEWS.has(name) || read.peek().has(name)) return;
  VIEWS.get(name)().then(
    (view) => (read.value = new Map([...read.peek(), [name, view]])),
    () => (missing.value = name),
  );
}

function Page() {
  const [first = "runs"] = parts.value;
  const name = first === "runs" && parts.value.length > 1 ? "run" : first;
  useEffect(() => load(name), [name]);
  // How many wait for somebody is shown everywhere.
  useEffect(() => follow(RUNS_CHANGES, () => ({ after: null }), (change) => (paused.value = change.paused), () => {}), []);
  const View = read.value.get(name);
  return html`<${Shell}>${View ? html`<${View} />` : html`<${Without} name=${name} />`}</${Shell}>`;
}

/** What is shown while there is no view. */
function Without({ name }) {
  if (!VIEWS.has(name)) return html`<p class="empty">There is no page at this address. <a href=${href(["runs"])}>All runs</a></p>`;
  if (missing.value !== name) return html`<p class="faint" aria-busy="true">…</p>`;
  // A module that could not be read once is not asked for again: the page has to be.
  return html`<p class="problem" role="alert">This part of the page could not be read. <button type="button" onClick=${() => location.reload()}>Reload</button></p>`;
}

applyTheme();
tick();
setInterval(() => document.hidden || tick(), 1000);
listenToLinks();
listenToKeys();
listenToFeeds();
setInterval(() => who.value.name && !document.hidden && renew(), 3_600_000);
introduce().catch(() => {});
if (!parts.peek().length) go(href(["runs"]) + location.search, { replace: true });
render(html`<${Page} />`, document.body);
// Whoever goes to another view later does not wait for it, not even while the server is away.
setTimeout(() => [...VIEWS.keys()].forEach(load), SOON);
