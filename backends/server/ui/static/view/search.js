// Search by a piece of an id or a name; and the tail: what happens anywhere, as it happens.
import { html } from "../html.js";
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { ask, follow } from "../api.js";
import { go, href, isId, parts, query, set, taskRunAddress } from "../model/route.js";
import { NAMES, RUNS_CHANGES, RUN_LOGS, SEARCH, TASK_OF } from "../model/queries.js";
import { GROUPS, look } from "../model/states.js";
import { number } from "../model/text.js";
import { now } from "../model/time.js";
import { Button, Chips, Choice, Empty, Entry, List, Panel, Small, Time, useAnswer, useTitle } from "./kit.js";
import { LEVELS, Line, atLeast } from "./logs.js";
import { paused, step, useKeys } from "./shell.js";

const KINDS = new Map([["flow_run", "Flow runs"], ["flow", "Flows"], ["task_run", "Task runs"]]);

export function Search() {
  useTitle("Search");
  const text = query.value.get("q") ?? "";
  const field = useRef(null);
  useEffect(() => field.current?.focus(), []);
  const { data, problem, loading } = useAnswer(text.trim() ? SEARCH : null, { text }, "The search");
  const hits = text.trim() ? (data?.search ?? []) : [];
  const enter = (event) => {
    event.preventDefault();
    step(1);
  };
  const find = (given) => {
    const id = given.trim().toLowerCase();
    if (isId(id)) go(href(["go", id]), { replace: true });
    else set({ q: given });
  };
  return html`<h1>Search</h1>
    <form role="search" onSubmit=${enter}><label class="wide">An id or the beginning of one, or a piece of a name <input ref=${field} type="search" value=${text} onInput=${(event) => find(event.currentTarget.value)} /></label></form>
    ${problem}
    ${[...KINDS].map(([kind, words]) => {
      const found = hits.filter((hit) => hit.kind === kind);
      return found.length ? html`<${Panel} key=${kind} title=${words}><${List} of=${found} row=${(hit) => html`<${Entry} to=${href([{ flow: "flows", flow_run: "runs" }[kind] ?? "go", hit.id])} state=${hit.state ?? undefined} flow=${hit.of} name=${hit.name} index=${hit.map_index ?? -1} message=${html`<code>${hit.id}</code>`}><${Time} at=${hit.at} /><//>`} /><//>` : null;
    })}
    ${text.trim() && !loading && !hits.length && html`<p class="empty">Nothing is called that among the newest 10,000 runs and the flows, and no id begins so.</p>`}`;
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
const SECONDS = 5;

export function Tail() {
  useTitle("Tail");
  const given = query.value;
  const group = given.get("state") ?? "";
  const flow = given.get("flow") ?? "";
  const level = given.get("level") ?? "";
  const run = isId(given.get("run")) ? given.get("run") : null;
  const [names, setNames] = useState(new Map());
  const [lines, setLines] = useState([]);
  const held = useSignal(false);
  const missed = useSignal(0);
  // When each came, of those of the last seconds.
  const came = useRef([]);
  const late = () => came.current.filter((at) => at > now.value - SECONDS * 1000);
  const take = (fresh) => {
    came.current = [...late(), ...fresh.map(() => now.value)];
    if (held.peek()) missed.value += fresh.length;
    else if (fresh.length) setLines((known) => [...fresh.slice(-KEPT).reverse(), ...known].slice(0, KEPT));
  };
  useEffect(() => follow(RUNS_CHANGES, {}, (change) => {
    paused.value = change.paused;
    take(change.flow_runs);
  }, () => {}), []);
  useEffect(() => {
    if (run) return follow(RUN_LOGS, { run, taskRun: null, levels: atLeast(level) }, (change) => take(change.lines), () => {});
  }, [run, level]);
  const unknown = [...new Set(lines.map((line) => line.flow_id))].filter((id) => id && !names.has(id));
  useEffect(() => {
    if (unknown.length) ask(NAMES, { ids: unknown }).then((data) => setNames((known) => new Map([...known, ...data.flow.map((each) => [each.id, each.name])])), () => {});
  }, [unknown.join()]);
  const rate = late().length / SECONDS;
  const hold = () => {
    held.value = !held.value;
    missed.value = 0;
  };
  useKeys({ " ": hold });
  const shown = lines.filter((line) => line.level || ((!group || look(line.state).group === group) && (!flow || names.get(line.flow_id) === flow)));
  return html`<h1>Tail</h1><p class="faint">The states of all flow runs, and what one of them logs, as they come; the newest ${KEPT} are kept.</p>
    <div class="tools"><${Button} aria-pressed=${held.value} onClick=${hold}>${held.value ? `Go on (${number(missed.value)} passed)` : "Hold"}<//> <span class="number faint">${rate > 0 && `${number(Math.ceil(rate))} a second`}</span>
      <${Choice} label="Flow" name="flow" all="any" options=${[...new Set([flow, ...names.values()])].filter(Boolean).sort()} />
      ${run && html`<${Choice} label="Log at least" name="level" all="everything" options=${LEVELS.slice(1)} /> <${Small} onClick=${() => set({ run: null })}>Without the log<//>`}
      <${Chips} groups=${GROUPS.filter((each) => each !== "skipped")} chosen=${group ? [group] : []} press=${(state) => set({ state })} all /></div>
    <${Empty} of=${shown}>Nothing has happened yet; this page waits.<//>
    <ol class="list" aria-label="What happened">${shown.map((line) => line.level ? html`<li key=${line.id} class="lines wrapped"><${Line} line=${line} /></li>` : html`<li key=${`${line.id} ${line.version}`}><${Entry} run=${line} word flow=${names.get(line.flow_id)} message=${line.message}><${Time} at=${line.timestamp} /><//>
      ${run !== line.id && html`<${Small} onClick=${() => set({ run: line.id })}>Its log<//>`}</li>`)}</ol>`;
}
