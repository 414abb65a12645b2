// The list of flow runs: newest first, filters in the address, what is planned apart.
import { html } from "../html.js";
import { useEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { ask, follow } from "../api.js";
import { href, query, set } from "../model/route.js";
import { FLOW_NAMES, RUNS, RUNS_CHANGES, RUN_COUNTS, SUMMARY, UPCOMING } from "../model/queries.js";
import { GROUPS, isFinished, look, statesOf } from "../model/states.js";
import { before, containing, sum, total } from "../model/run.js";
import { counted, toggled } from "../model/text.js";
import { clock, interval, iso, now, zone } from "../model/time.js";
import { Bar, Button, Chips, Choice, Empty, Entry, Find, Fold, List, Problem, Time, Took, useAnswer, useTitle } from "./kit.js";
import { useNewest } from "./pages.js";
import { useTried } from "./attempts.js";
import { paused } from "./shell.js";

const RUNS_AT_ONCE = 50;
const SPANS = new Map([["1 h", 3_600e3], ["24 h", 86_400e3], ["7 d", 7 * 86_400e3], ["30 d", 30 * 86_400e3]]);

/** When this minute began: what is asked for is the same for so long. */
const minute = () => Math.floor(now.peek() / 60e3) * 60e3;

/** What begins later is upcoming, and is shown apart. */
const soon = () => iso(minute() + 60e3);

/** The filter that the address asks for. */
function filter(given) {
  const all = [];
  const groups = (given.get("state") ?? "").split(",").filter((group) => GROUPS.includes(group));
  // What is planned for later has not happened: it is shown apart.
  if (groups.length) all.push({ state: { _in: groups.flatMap(statesOf) } });
  else all.push({ _or: [{ state: { _neq: "Scheduled" } }, { scheduled_start_time: { _lte: soon() } }] });
  if (!given.get("parts")) all.push({ parent_task_run_id: { _is_null: true } });
  const flow = given.get("flow");
  if (flow) all.push({ flow: { name: { _eq: flow } } });
  const text = given.get("text");
  if (text) all.push({ _or: [{ name: containing(text) }, { state_message: containing(text) }] });
  const label = given.get("label");
  if (label) all.push({ labels: { _contains: [label] } });
  const from = given.get("from");
  if (from && SPANS.has(from)) all.push({ created: { _gte: iso(minute() - SPANS.get(from)) } });
  const between = interval(given.get("between"));
  if (between) all.push({ created: { _gte: between[0], _lt: between[1] } });
  return all;
}

export function Runs() {
  useTitle("Runs");
  const given = query.value;
  const key = given.toString();
  const where = useMemo(() => filter(given), [key]);
  const [counts, setCounts] = useState(new Map());
  const above = useSignal(new Set());
  const { rows, setRows, more, error, read, isBusy } = useNewest(
    key,
    async (known, limit) => (await ask(RUNS, { where: { _and: known.length ? [...where, before("created", known.at(-1))] : where }, limit })).flow_run,
    (found, known, shown) => {
      if (!known.length) above.value = new Set();
      // what changed meanwhile has been told already
      return [...known, ...found.map((run) => shown.find((each) => each.id === run.id && each.version > run.version) ?? run)];
    },
  );
  const anew = () => read([], isBusy ? RUNS_AT_ONCE : Math.max(RUNS_AT_ONCE, rows.length));
  useEffect(() => {
    anew();
  }, [key]);

  // What changes is changed where it is; what is new waits above, so that nothing moves under the mouse. What happened
  // between what was read and the first that is told is read once more.
  const latest = useRef(null);
  latest.current = { given, anew };
  useEffect(() => {
    let isFirst = true;
    return follow(RUNS_CHANGES, {}, (change) => {
      const { given, anew } = latest.current;
      paused.value = change.paused;
      if (isFirst || change.reset) {
        isFirst = false;
        return anew();
      }
      const changed = new Map(change.flow_runs.map((run) => [run.id, run]));
      setRows((shown) => {
        const known = new Set(shown.map((run) => run.id));
        const fresh = [...changed.values()].filter((run) => !known.has(run.id) && run.version <= 2 && (given.get("parts") || !run.parent_task_run_id)).map((run) => run.id);
        if (fresh.length) above.value = new Set([...above.peek(), ...fresh]);
        if (![...changed.keys()].some((id) => known.has(id))) return shown;
        return shown.map((run) => {
          const newer = changed.get(run.id);
          if (!newer || newer.version <= run.version) return run;
          return {
            ...run,
            state: newer.state,
            state_message: newer.message,
            version: newer.version,
            start_time: run.start_time ?? (newer.state === "Running" ? newer.timestamp : null),
            end_time: isFinished(newer.state) ? newer.timestamp : run.end_time,
          };
        });
      });
    }, () => latest.current.anew());
  }, []);

  const tried = useTried(rows);

  // The bars of what did not simply succeed, the first ones of them.
  const wanted = rows.filter((run) => !["success", "pending"].includes(look(run.state).group)).slice(0, 20);
  const askedFor = useRef(new Map()).current;
  const versions = wanted.map((run) => `${run.id} ${run.version}`).join();
  useEffect(() => {
    for (const { id, version } of wanted) {
      if (askedFor.get(id) === version) continue;
      askedFor.set(id, version);
      ask(SUMMARY, { run: id }).then(
        (data) => setCounts((known) => new Map(known).set(id, total(data.run_summary.tasks))),
        () => askedFor.delete(id),
      );
    }
  }, [versions]);

  return html`<h1>Runs</h1>
    <${Filters} given=${given} />
    <${Histogram} given=${given} where=${where} />
    <${Problem} error=${error} again=${anew} what="The runs" />
    <p class="above" aria-live="polite">${above.value.size > 0 && html`<${Button} onClick=${anew}>⟳ ${above.value.size} new above<//>`}</p>
    <${Empty} of=${!isBusy && !error && rows}>No run is like that. ${key ? html`<a href=${href(["runs"])}>Show all</a>` : html`<code>flowloop run FILE</code> makes one.`}<//>
    <ol class="list runs" aria-label="Flow runs" aria-busy=${isBusy}>${rows.map((run) => html`<li key=${run.id}>
      <${Entry} run=${run} word message=${run.state_message}>
        <${Time} at=${run.start_time ?? run.created} />
        <${Took} run=${run} tried=${tried.get(run.id)} />
        ${counts.has(run.id) ? html`<${Bar} counts=${counts.get(run.id)} />` : html`<span class="bar none"></span>`}
      <//></li>`)}</ol>
    ${more && html`<p><${Button} onClick=${() => read(rows, RUNS_AT_ONCE)} disabled=${isBusy}>Older runs<//></p>`}
    <${Fold} title=${html`<h2>Upcoming</h2>`} class="panel"><${Upcoming} /><//>`;
}

function Filters({ given }) {
  const flows = useAnswer(FLOW_NAMES);
  const groups = (given.get("state") ?? "").split(",").filter(Boolean);
  const between = interval(given.get("between"));
  return html`<form class="filters" role="search" aria-label="Filter the runs" onSubmit=${(event) => event.preventDefault()}>
    <${Chips} groups=${GROUPS.filter((group) => group !== "skipped")} chosen=${groups} press=${(group) => set({ state: [...toggled(groups, group)].join() })} />
    <${Choice} label="Flow" name="flow" all="all" options=${(flows.data?.flow ?? []).map((flow) => flow.name)} />
    <${Choice} label="Since" name="from" change=${(from) => set({ from, between: null })} all="ever" options=${[...SPANS.keys()]} />
    <${Find} label="Label" name="label" size="8" />
    <${Find} label="Text" name="text" placeholder="name, message" />
    <label><input type="checkbox" checked=${Boolean(given.get("parts"))} onChange=${() => set({ parts: given.get("parts") ? null : "shown" })} /> also runs inside others</label>
    ${between && html`<${Button} onClick=${() => set({ between: null })}>only ${between.map((at) => clock(Date.parse(at))).join(" – ")} ×<//>`}
  </form>`;
}

/** Runs by the hour, what failed in front. */
function Histogram({ given, where }) {
  const span = SPANS.get(given.get("from") ?? "") ?? 86_400e3;
  const every = span <= 3_600e3 ? "minute" : span <= 2 * 86_400e3 ? "hour" : "day";
  const width = { minute: 60e3, hour: 3_600e3, day: 86_400e3 }[every];
  const hour = Math.floor(now.peek() / width) * width;
  const from = iso(hour - Math.min(span, 30 * 86_400e3) + width);
  const rest = where.filter((each) => !each.created);
  const { data, problem } = useAnswer(RUN_COUNTS, { from, every, where: { _and: rest } }, "How many there were");
  const bins = useMemo(() => {
    const found = new Map();
    for (let at = Date.parse(from); at <= hour; at += width) found.set(at, new Map());
    for (const row of data?.flow_run_counts ?? []) {
      const at = Math.floor(Date.parse(row.at) / width) * width;
      found.get(at)?.set(row.key, row.count);
    }
    return [...found];
  }, [data, from]);
  const drag = useRef(null);
  const most = Math.max(1, ...bins.map(([, counts]) => sum(counts.values())));
  if (!data?.flow_run_counts?.length) return problem;
  return html`<figure class="histogram"><div class="columns" key=${zone.value}>${bins.map(([at, counts]) => {
    const all = sum(counts.values());
    const label = `${clock(at)}: ${counted(all, "run")}${[...counts].map(([state, count]) => `, ${count} ${state}`).join("")}`;
    const only = (from, to) => set({ between: `${iso(Math.min(from, to))}~${iso(Math.max(from, to) + width)}` });
    return html`<${Button} key=${at} class="column" title=${label} aria-label=${label} disabled=${!all} onClick=${() => only(at, at)}
      onPointerDown=${() => (drag.current = at)} onPointerUp=${() => drag.current !== null && drag.current !== at && only(drag.current, at)}>
      <span class="fill" style=${{ height: `${(100 * all) / most}%` }}><${Bar} counts=${[...counts]} /></span><//>`;
  })}</div><figcaption>Runs by the ${every}, ${most} at most; press a column, or drag over several, to see their runs.</figcaption></figure>`;
}

function Upcoming() {
  const { data, problem } = useAnswer(UPCOMING, { now: soon() }, "What is planned");
  return html`${problem}
    <${List} of=${data?.flow_run} row=${(run) => html`<${Entry} run=${run} state="Scheduled">
      <${Time} at=${run.scheduled_start_time} /> <span class="faint"><${Time} at=${run.scheduled_start_time} ago /></span><//>`}>Nothing is planned.<//>`;
}

