// Flows: how their last runs went, when the next is due, and a form to run one now.
import { html } from "../html.js";
import { useEffect, useMemo, useState } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { ask } from "../api.js";
import { go, href, isId, parts, query, taskRunAddress } from "../model/route.js";
import { FLOWS, HEAD, LAST_RUNS, NEXT_DATES, ONE_FLOW, SCHEDULE_OFF, SCHEDULE_ON, START, SUMMARY } from "../model/queries.js";
import { command, inputs, readField } from "../model/form.js";
import { encode } from "../model/json.js";
import { isFinished, look, shapeOf, worst } from "../model/states.js";
import { many, took } from "../model/run.js";
import { duration, iso, momentIn, zone } from "../model/time.js";
import { counted, number, unique } from "../model/text.js";
import { Copy, Name, Panel, State, Words, Time, useAnswer, useDoing, useTitle } from "./kit.js";
import { useTried } from "./attempts.js";
import { may } from "./shell.js";

export function Flows() {
  const [, id] = parts.value;
  return id ? html`<${One} key=${id} id=${id} />` : html`<${All} />`;
}

/** A version of a flow, the newest one or another. */
function One({ id }) {
  const { data, problem, again } = useAnswer(isId(id) ? ONE_FLOW : null, { id }, "The flow");
  const flow = data?.flow_by_pk;
  useTitle(flow?.name ?? "Flow");
  if (flow) return html`<${Flow} flow=${flow} again=${again} />`;
  return html`${problem}${(data || !isId(id)) && html`<p class="empty">There is no such flow. <a href=${href(["flows"])}>All flows</a></p>`}`;
}

function All() {
  useTitle("Flows");
  const { data, problem, again } = useAnswer(FLOWS, {}, "The flows");
  const flows = useMemo(() => [...(data?.flow ?? [])].sort((a, b) => a.name.localeCompare(b.name)), [data]);
  return html`<h1>Flows</h1>
    ${problem}
    ${data && !flows.length && html`<p class="empty">No flow is registered. <code>flowloop run FILE</code> registers one and runs it.</p>`}
    <ul class="list flows" aria-label="Flows">${flows.map((flow) => html`<li key=${flow.id} class="panel"><${Summary} flow=${flow} again=${again} /></li>`)}</ul>`;
}

function Summary({ flow, again, whole }) {
  const { data, problem } = useAnswer(LAST_RUNS, { flow: flow.id }, "The last runs");
  const runs = data?.flow_run ?? [];
  const over = runs.filter((run) => isFinished(run.state));
  const good = over.filter((run) => look(run.state).group === "success").length;
  const tried = useTried(runs);
  const all = runs.map((run) => took(run, tried.get(run.id)));
  const spans = all.filter((span, at) => span > 0 && isFinished(runs[at].state)).sort((a, b) => a - b);
  return html`<div class="title"><h2><a data-row href=${href(["flows", flow.id])}><${Name} of=${flow.name} /></a> <small class="faint">version ${flow.version}</small></h2>
      <span class="buttons">${may("run") && html`<a class="button" href=${href(["flows", flow.id], { form: "run" })}>Run now…</a>`}</span></div>
    ${problem}<p class="facts"><${Sparks} runs=${runs} spans=${all} />
      ${over.length ? html`<span>${good} of the last ${over.length} successful</span>` : html`<span class="faint">no runs yet</span>`}
      ${spans.length > 0 && html`<span class="faint">median ${duration(spans[Math.floor(spans.length / 2)])}</span>`}</p>
    <${Schedule} flow=${flow} again=${again} whole=${whole} />`;
}

/** The last runs as bars: tall ones took long. */
function Sparks({ runs, spans }) {
  const most = Math.max(1, ...spans);
  return html`<span class="sparks">${[...runs].reverse().map((run, at) => html`<a key=${run.id} href=${href(["runs", run.id])} title=${`${run.name}: ${run.state}`} aria-label=${`${run.name}: ${run.state}`}><span class=${`of-${look(run.state).group}`} style=${{ height: `${6 + (18 * spans[runs.length - 1 - at]) / most}px` }}></span></a>`)}</span>`;
}

function Schedule({ flow, again, whole }) {
  const schedule = flow.flow_group?.schedule ?? flow.schedule;
  const { start, busy, refusal } = useDoing(async () => {
    await ask(flow.is_schedule_active ? SCHEDULE_OFF : SCHEDULE_ON, { input: { flow_id: flow.id } });
    again();
  });
  const { data, error } = useAnswer(schedule ? NEXT_DATES : null, { schedule });
  if (!schedule) return html`<p class="faint">no schedule</p>`;
  const next = data?.preview_schedule ?? [];
  return html`<p class="facts"><label class="switch"><input type="checkbox" role="switch" checked=${flow.is_schedule_active} aria-busy=${busy} disabled=${!may("run")} onChange=${start} /> schedule ${flow.is_schedule_active ? "on" : "off"}</label>
    <span class="faint">${(schedule.clocks ?? []).map(clockWords).join(" and ")}</span>
    ${next.length ? html`<span>next <${Time} at=${next[0]} /> <span class="faint">(<${Time} at=${next[0]} ago />)</span>${whole && next.slice(1).map((at) => html`, <${Time} at=${at} />`)}</span>` : error ? html`<span class="problem">${error.message}</span>` : html`<span class="faint">no more dates</span>`}</p>${refusal}`;
}

function clockWords(clock) {
  const zone = clock.start_date?.tz ?? clock.timezone ?? "";
  if (clock.cron) return `cron ${clock.cron}${zone ? ` ${zone}` : ""}`;
  const seconds = typeof clock.interval === "number" ? clock.interval / 1e6 : 0;
  if (seconds) return `every ${duration(seconds * 1000)}`;
  return String(clock.type ?? "dates");
}

function Flow({ flow, again }) {
  const wanted = query.value.get("form") === "run" || query.value.get("values");
  return html`<nav class="crumbs" aria-label="Where this is"><a href=${href(["flows"])}>Flows</a> /</nav>
    <h1 class="hidden">Flow ${flow.name}</h1>
    <section class="panel"><${Summary} flow=${flow} again=${again} whole />
      ${(flow.description || flow.flow_group?.description) && html`<p><${Words} text=${flow.flow_group?.description || flow.description} /></p>`}</section>
    ${wanted && may("run") && html`<${Form} flow=${flow} />`}
    <${Grid} flow=${flow} />
    <p><a href=${href(["runs"], { flow: flow.name })}>All runs of this flow</a></p>`;
}

/** Tasks by runs: a task that fails again and again is a row of crosses. */
function Grid({ flow }) {
  const { data } = useAnswer(LAST_RUNS, { flow: flow.id });
  const [grid, setGrid] = useState(null);
  const runs = [...(data?.flow_run ?? [])].reverse();
  useEffect(() => {
    if (!runs.length) return;
    Promise.all([ask(HEAD, { run: runs[runs.length - 1].id }), ...runs.map((run) => ask(SUMMARY, { run: run.id }))]).then(
      ([head, ...answers]) =>
        setGrid({ cells: answers.map((answer) => new Map(answer.run_summary.tasks.map((task) => [task.task_id, task.states]))), tasks: head.flow_run_by_pk.flow.tasks }),
      () => {},
    );
  }, [data]);
  if (!grid) return null;
  return html`<${Panel} title=${html`Tasks in the last ${counted(runs.length, "run")}`}><div class="scroll" tabindex="0"><table class="grid"><thead><tr><th scope="col">task</th>
      ${runs.map((run) => html`<th scope="col" key=${run.id}><a href=${href(["runs", run.id])} aria-label=${run.name}><${State} state=${run.state} bare /></a></th>`)}</tr></thead>
    <tbody>${grid.tasks.map((task) => html`<tr key=${task.id}><th scope="row"><${Name} of=${task.name} />${task.mapped ? " ▤" : ""}</th>
      ${runs.map((run, at) => {
        const states = (Object.entries(grid.cells[at].get(task.id) ?? {}));
        const bad = many(states, (state) => look(state).group === "failed");
        const group = states.length ? worst(states) : "pending";
        return html`<td key=${run.id}><a class=${`of-${group}`} href=${taskRunAddress(run.id, task.id, -1)} aria-label=${`${task.name} in ${run.name}: ${group}`}>${shapeOf(group)}${bad > 1 ? number(bad) : ""}</a></td>`;
      })}</tr>`)}</tbody></table></div><//>`;
}

function Form({ flow }) {
  const source = query.value.get("values");
  const from = useAnswer(isId(source) ? HEAD : null, { run: source });
  const defaults = flow.flow_group?.default_parameters ?? {};
  const fields = useMemo(() => inputs(flow.parameters ?? [], { ...defaults, ...(from.data?.flow_run_by_pk?.parameters ?? {}) }), [flow.id, from.data]);
  const [typed, setTyped] = useState(new Map());
  const [name, when, labels] = [useSignal(""), useSignal(""), useSignal("")];
  // One key for each opened form, so that pressing twice starts one run.
  const key = useMemo(unique, []);
  const { start, busy, refusal } = useDoing(async () => {
    const answer = await ask(START, { input: { flow_id: flow.id, idempotency_key: key, ...input() } });
    go(href(["runs", answer.create_flow_run.id]));
  });
  if (source && from.loading) return html`<p class="faint" aria-busy="true">…</p>`;
  const copied = Boolean(source);
  const isSet = (field) => (typed.has(field.name) ? typed.get(field.name) !== null : field.required || copied);
  const textOf = (field) => typed.get(field.name) ?? field.initial;
  const type = (field, text) => setTyped((before) => new Map(before).set(field, text));
  const input = () => {
    const found = Object.create(null);
    for (const field of fields) {
      if (!isSet(field)) continue;
      const { value, problem: wrong } = readField(field, textOf(field));
      if (wrong) throw new Error(wrong);
      found[field.name] = value;
    }
    return { flow_run_name: name.value || null, labels: labels.value.trim() ? labels.value.split(/[\s,]+/).filter(Boolean) : null, scheduled_start_time: when.value ? iso(momentIn(zone.peek(), when.value)) : null, parameters: found };
  };
  const asCommand = () => {
    try {
      return command(flow.name, fields, input());
    } catch {
      return null; // not everything that was typed can be read yet
    }
  };
  return html`<form class="panel form" onSubmit=${start} aria-labelledby="run-now" autocomplete="off">
    <h2 id="run-now">Run ${flow.name}</h2>
    ${fields.map((field) => html`<div class="field" key=${field.name}>
      <label for=${`p-${field.name}`}><${Name} of=${field.name} />${field.required ? " *" : ""} <small class="faint">${field.hint}</small></label>
      ${isSet(field) ? html`<${Input} field=${field} value=${textOf(field)} change=${(text) => type(field.name, text)} />` : html`<span class="faint default">default: ${field.secret ? "hidden" : html`<code>${encode(field.default)}</code>`}</span>`}
      ${field.required ? null : html`<label class="switch"><input type="checkbox" checked=${!isSet(field)} onChange=${() => type(field.name, isSet(field) ? null : field.initial)} /> leave to the default</label>`}
    </div>`)}
    ${!fields.length && html`<p class="faint">This flow has no parameters.</p>`}
    ${[{ label: "Name", hint: "two random words if empty", of: name }, { label: "When", hint: `now if empty, else in ${zone.value}`, of: when, type: "datetime-local" }, { label: "Labels", hint: "those of the flow if empty", of: labels }].map(({ label, hint, of, type = "text" }) => html`<div class="field" key=${label}>
      <label for=${label}>${label} <small class="faint">${hint}</small></label><input id=${label} type=${type} value=${of.value} onInput=${(event) => (of.value = event.currentTarget.value)} /></div>`)}
    ${refusal}
    <div class="buttons"><button type="submit" class="primary" aria-disabled=${busy}>Run</button> <a class="button" href=${href(["flows", flow.id])}>Leave it</a> <${Copy} text=${asCommand()} label="copy as a command" /></div>
  </form>`;
}

function Input({ field, value, change }) {
  const shared = { id: `p-${field.name}`, value, onInput: (event) => change(event.currentTarget.value) };
  if (field.kind === "boolean") return html`<select ...${shared}><option value="true">yes</option><option value="false">no</option></select>`;
  if (field.kind === "choice") return html`<select ...${shared}>${field.options.map((option) => html`<option key=${String(option)} value=${String(option)}>${String(option)}</option>`)}</select>`;
  if (field.kind === "json") return html`<textarea ...${shared} rows=${Math.min(8, 1 + value.split("\n").length)} spellcheck=${false}></textarea>`;
  return html`<input ...${shared} type=${field.secret ? "password" : "text"} inputmode=${field.kind === "integer" ? "numeric" : field.kind === "number" ? "decimal" : null} />`;
}

