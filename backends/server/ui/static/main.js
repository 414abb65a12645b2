// Begins here: which address shows which view.
// The order is that of the module which they become: like beside like is packed better.
import { RUNS_CHANGES } from "./model/queries.js";
import { go, href, listenToLinks, parts, query } from "./model/route.js";
import { follow, listenToFeeds, renew } from "./api.js";
import { html } from "./html.js";
import { Shell, applyTheme, introduce, listenToKeys, listenToVersions, paused, who } from "./view/shell.js";
import { render } from "./vendor/preact.js";
import { Runs } from "./view/runs.js";
import { useEffect } from "./vendor/hooks.js";
import { isZone, tick, zone } from "./model/time.js";
import { Go, Search, Tail } from "./view/search.js";
import { Run } from "./view/run.js";
import { Flows } from "./view/flows.js";
import { Inbox } from "./view/inbox.js";
import { Workers } from "./view/workers.js";

const VIEWS = new Map([["runs", Runs], ["flows", Flows], ["inbox", Inbox], ["workers", Workers], ["search", Search], ["tail", Tail], ["go", Go]]);

function Page() {
  const [first = "runs", second] = parts.value;
  // How many wait for somebody is shown everywhere.
  useEffect(() => follow(RUNS_CHANGES, {}, (change) => (paused.value = change.paused), () => {}), []);
  const View = first === "runs" && second ? Run : VIEWS.get(first);
  return html`<${Shell}>${View ? html`<${View} />` : html`<p class="empty">There is no page at this address. <a href=${href(["runs"])}>All runs</a></p>`}</${Shell}>`;
}

const asked = query.peek().get("zone") ?? "";
if (isZone(asked)) zone.value = asked;
applyTheme();
tick();
setInterval(() => document.hidden || tick(), 1000);
listenToLinks();
listenToKeys();
listenToFeeds();
listenToVersions();
setInterval(() => who.value.name && !document.hidden && renew(), 3_600_000);
introduce().catch(() => {});
if (!parts.peek().length) go(href(["runs"]) + location.search, { replace: true });
render(html`<${Page} />`, document.body);
