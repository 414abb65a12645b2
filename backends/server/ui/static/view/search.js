// Search by a piece of an id or a name; and the tail: what happens anywhere, as it happens.
import { html } from "../html.js";
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { ask, follow } from "../api.js";
import { go, href, isId, parts, query, set, taskRunAddress } from "../model/route.js";
import { RUNS_CHANGES, SEARCH, TASK_OF } from "../model/queries.js";
import { GROUPS, look } from "../model/states.js";
import { number } from "../model/text.js";
import { Name, Problem, State, Time, useAnswer, useTitle } from "./kit.js";
import { paused } from "./shell.js";

const KINDS = new Map([["flow_run", "Flow runs"], ["flow", "Flows"], ["task_run", "Task runs"]]);

export function Search() {
  useTitle("Search");
  const text = query.value.get("q") ?? "";
  const field = useRef(null);
  useEffect(() => field.current?.focus(), []);
  const { data, error, again, loading } = useAnswer(text.trim() ? SEARCH : null, { text });
  const hits = text.trim() ? (data?.search ?? []) : [];
  const enter = (event) => {
    event.preventDefault();
    const first = document.querySelector("main [data-row]");
    if (first instanceof HTMLElement) first.focus();
  };
  return html`<h1>Search</h1>
    <form role="search" onSubmit=${enter}><label class="wide">An id or the beginning of one, or a piece of a name <input ref=${field} type="search" value=${text} onInput=${(event) => set({ q: event.currentTarget.value })} /></label></form>
    <${Problem} error=${error} again=${again} what="The search" />
    ${[...KINDS].map(([kind, words]) => {
      const found = hits.filter((hit) => hit.kind === kind);
      return found.length ? html`<section key=${kind} class="panel"><h2>${words}</h2><ul class="list">${found.map((hit) => html`<li key=${hit.id}><a class="entry" data-row href=${kind === "flow" ? href(["flows", hit.id]) : kind === "flow_run" ? href(["runs", hit.id]) : href(["go", hit.id])}>
        ${hit.state ? html`<${State} state=${hit.state} bare />` : null}<span class="what">${hit.of ? html`<span class="flow"><${Name} of=${hit.of} /></span> ` : null}<${Name} of=${hit.name} />${(hit.map_index ?? -1) >= 0 ? ` [${hit.map_index}]` : ""}</span><code class="message">${hit.id}</code><${Time} at=${hit.at} /></a></li>`)}</ul></section>` : null;
    })}
    ${text.trim() && !loading && !hits.length ? html`<p class="empty">Nothing is called that among the newest 10,000 runs and the flows, and no id begins so.</p>` : null}`;
}

/** Whatever has this id. */
export function Go() {
  const [, id] = parts.value;
  const failed = useSignal("");
  useEffect(() => {
    if (!isId(id)) return;
    ask(TASK_OF, { id }).then(async ({ task_run_by_pk: row }) => {
      if (row) return go(taskRunAddress(row.flow_run_id, row.task_id, row.map_index), { replace: true });
      const { search } = await ask(SEARCH, { text: id });
      const [hit] = search;
      if (hit) go(hit.kind === "flow" ? href(["flows", id]) : href(["runs", id]), { replace: true });
      else failed.value = "There is nothing with this id.";
    }, (error) => (failed.value = error.message));
  }, [id]);
  return html`<p class="empty">${isId(id) ? failed.value || "…" : "That is not an id."}</p>`;
}

const KEPT = 500;

export function Tail() {
  useTitle("Tail");
  const group = query.value.get("state") ?? "";
  const [lines, setLines] = useState([]);
  const held = useSignal(false);
  const missed = useSignal(0);
  useEffect(() => {
    let cursor = null;
    return follow(RUNS_CHANGES, () => ({ after: cursor }), (change) => {
      cursor = change.cursor;
      paused.value = change.paused;
      if (held.peek()) missed.value += change.flow_runs.length;
      else if (change.flow_runs.length) setLines((known) => [...change.flow_runs.slice(-KEPT).reverse(), ...known].slice(0, KEPT));
    }, () => {});
  }, []);
  const shown = group ? lines.filter((line) => look(line.state).group === group) : lines;
  return html`<h1>Tail</h1><p class="faint">The states of all flow runs, as they come; the newest ${KEPT} are kept.</p>
    <div class="tools"><button type="button" aria-pressed=${held.value ? "true" : "false"} onClick=${() => { held.value = !held.value; missed.value = 0; }}>${held.value ? `Go on (${number(missed.value)} passed)` : "Hold"}</button>
      <span class="chips" role="group" aria-label="State"><button type="button" class="chip" aria-pressed=${group ? "false" : "true"} onClick=${() => set({ state: null })}>all</button>${GROUPS.filter((each) => each !== "skipped").map((each) => html`<button key=${each} type="button" class=${`chip of-${each}`} aria-pressed=${group === each ? "true" : "false"} onClick=${() => set({ state: each })}>${each}</button>`)}</span></div>
    ${!shown.length && html`<p class="empty">Nothing has happened yet; this page waits.</p>`}
    <ol class="list" aria-label="What happened">${shown.map((line) => html`<li key=${`${line.id} ${line.version}`}><a class="entry" data-row href=${href(["runs", line.id])}><${State} state=${line.state} bare /><span class="what"><${Name} of=${line.name} /></span><span class="word"><${State} state=${line.state} /></span><span class="message">${line.message}</span><${Time} at=${line.timestamp} /></a></li>`)}</ol>`;
}
