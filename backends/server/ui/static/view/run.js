// One flow run: what is wrong first, then its graph, its timeline, its task runs, its log.
import { html } from "../html.js";
import { useEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { ask, follow } from "../api.js";
import { go, href, isId, parts, query, taskRunAddress } from "../model/route.js";
import { Artifact } from "./markdown.js";
import { ARTIFACTS, ATTENTION, CANCEL, HEAD, PARTS, QUEUE, RESTART, RUN_CHANGES, SUMMARY } from "../model/queries.js";
import { WANTED, FAILED, isFinished, look } from "../model/states.js";
import { alike, attempts, many, merged, sum, total } from "../model/run.js";
import { secrets } from "../model/form.js";
import { duration, milliseconds, now } from "../model/time.js";
import { counted, number } from "../model/text.js";
import { Bar, Button, Copy, CopyLink, Counts, Dialog, Empty, Entry, Facts, Json, Labels, List, Name, Panel, Small, State, Time, Took, Traceback, What, Words, useAnswer, useThrottled, useTitle } from "./kit.js";
import { useTried } from "./attempts.js";
import { Logs } from "./logs.js";
import { Timeline } from "./timeline.js";
import { TaskRuns } from "./tasks.js";
import { Graph } from "./graph.js";
import { may, useKeys } from "./shell.js";
import { TaskRun } from "./taskrun.js";
import { SteerRun } from "./steer.js";

const TABS = ["overview", "tasks", "timeline", "graph", "logs", "artifacts", "parameters", "history"];

export function Run() {
  const [, id, , task, index] = parts.value;
  return isId(id) ? html`<${Loaded} key=${id} id=${id} task=${task} index=${index} />` : html`<p class="empty">There is no run with the id ${id}.</p>`;
}

function Loaded({ id, task, index }) {
  const { data, loading, problem, again } = useAnswer(HEAD, { run: id }, "The run");
  const [counts, setCounts] = useState(new Map());
  const version = useSignal(0);
  useEffect(() => {
    return follow(RUN_CHANGES, { run: id }, (change) => {
      setCounts((known) => merged(known, change.tasks));
      if (change.run) version.value = change.run.version;
    }, () => {
      ask(SUMMARY, { run: id }).then(({ run_summary: summary }) => {
        setCounts((known) => merged(known, summary.tasks));
        version.value = summary.version;
      }, () => {});
    });
  }, [id]);
  const run = data?.flow_run_by_pk;
  useThrottled(again, version.value > (run?.version ?? 0) ? version.value : run?.version, 300);
  useTitle(run ? `${run.flow.name} / ${run.name}` : "Run");
  if (!run) {
    if (data) return html`<p class="empty">There is no run with the id ${id}: it was deleted, or belongs to somebody else. <a href=${href(["runs"])}>All runs</a></p>`;
    return html`${problem}${loading && html`<p class="faint" aria-busy="true">…</p>`}`;
  }
  return html`<${View} run=${run} counts=${counts} problem=${problem} again=${again} task=${task} index=${index} />`;
}

function View({ run, counts, problem, again, task, index }) {
  const tab = TABS.includes(query.value.get("tab") ?? "") ? (query.value.get("tab")) : "overview";
  const tasks = useMemo(() => new Map(run.flow.tasks.map((each) => [each.id, each])), [run.flow.id]);
  const stamp = useMemo(() => JSON.stringify([...counts].map(([key, each]) => [key, each.states])), [counts]);
  const attention = useAnswer(ATTENTION, { run: run.id, states: WANTED }, "What needs attention");
  useThrottled(attention.again, stamp, 1000);
  const rows = attention.data?.task_run ?? [];
  const sums = total(counts.values());

  // A run that failed opens at what failed first; an address that names a task run is left alone.
  const opened = useRef(false);
  useEffect(() => {
    if (opened.current || !attention.data) return;
    opened.current = true;
    const first = [...rows].reverse().find((row) => FAILED.includes(row.state) && row.state !== "TriggerFailed") ?? rows.find((row) => row.state === "Paused");
    const isWide = matchMedia("(min-width: 900px)").matches;
    if (first && !task && isWide && tab === "overview" && (look(run.state).group === "failed" || first.state === "Paused")) go(taskRunAddress(run.id, first.task_id, first.map_index), { replace: true });
  }, [attention.data]);

  const failed = rows.filter((row) => FAILED.includes(row.state));
  const move = (by) => {
    const at = failed.findIndex((row) => row.task_id === task && String(row.map_index) === index);
    const next = failed[(at + by + failed.length) % failed.length];
    if (next) go(taskRunAddress(run.id, next.task_id, next.map_index));
  };
  const address = (to) => (task ? taskRunAddress(run.id, task, Number(index), to) : href(["runs", run.id], { tab: to === "overview" ? null : to }));
  useKeys({ n: () => move(1), p: () => move(-1), l: () => go(address("logs")), t: () => go(address("tasks")) });

  const label = (id) => (id === "tasks" ? html`Task runs <span class="faint">${number(sum(sums.values()))}</span>` : id[0].toUpperCase() + id.slice(1));
  const isChosen = isId(task) && /^-?\d+$/.test(index ?? "");
  const shared = { run, counts, tasks, task, index: index === undefined ? undefined : Number(index), stamp };
  return html`<div class=${isChosen ? "run has-selection" : "run"}>
    <${Head} run=${run} counts=${counts} sums=${sums} again=${again} />
    ${problem}
    <nav class="tabs" aria-label="Parts of the run">${TABS.map((id) => html`<a key=${id} href=${address(id)} aria-current=${id === tab ? "page" : null}>${label(id)}</a>`)}</nav>
    <div class="split">
      <div class="left">
        ${tab === "overview" && html`${attention.problem}<${Attention} rows=${rows} ...${shared} total=${many(sums, (state) => WANTED.includes(state))} />
          <${Parts} run=${run} tasks=${tasks} stamp=${stamp} />
          <${Graph} ...${shared} />
          <${Timeline} ...${shared} small />`}
        ${tab === "tasks" && html`<${TaskRuns} ...${shared} />`}
        ${tab === "graph" && html`<${Graph} ...${shared} />`}
        ${tab === "timeline" && html`<${Timeline} ...${shared} />`}
        ${tab === "logs" && html`<${Logs} run=${run} tasks=${tasks} />`}
        ${tab === "artifacts" && html`<${Artifacts} ...${shared} />`}
        ${tab === "parameters" && html`<${Parameters} run=${run} />`}
        ${tab === "history" && html`<${States} run=${run} />`}
      </div>
      ${task && !isChosen && html`<p class="empty">There is no task run at this address.</p>`}
      ${isChosen && html`<${TaskRun} key=${`${task} ${index}`} ...${shared} close=${href(["runs", run.id], { tab: query.value.get("tab") })} />`}
    </div>
  </div>`;
}

function Head({ run, counts, sums, again }) {
  const asks = useSignal("");
  const repeated = sum([...counts.values()].map((each) => each.again));
  const open = many(sums, (state) => !isFinished(state));
  const done = sum(sums.values()) - open;
  const wrong = many(sums, (state) => !["success", "skipped"].includes(look(state).group));
  const over = isFinished(run.state);
  const parent = run.parent_task_run;
  // A part goes on with the run around it: what is to be asked is asked of that one.
  const steered = may("run") && !(parent && !isFinished(parent.flow_run.state));
  const questions = {
    cancel: { title: `Cancel ${run.name}?`, action: "Cancel the run", danger: true, change: CANCEL, says: `${counted(done, "task run is", "task runs are")} finished, ${number(open)} would be cancelled.` },
    restart: { title: `Run ${run.name} again?`, action: "Run again", change: RESTART, says: `${counted(wrong, "task run", "task runs")} that did not succeed would run again; ${number(done - wrong)} keep their results.` },
  };
  const question = questions[asks.value];
  const answered = async () => {
    await ask(question.change, { input: { flow_run_id: run.id } });
    again();
  };
  return html`<div class="head">
    <nav class="crumbs" aria-label="Where this is"><a href=${href(["runs"])}>Runs</a> / <a href=${href(["runs"], { flow: run.flow.name })}><${Name} of=${run.flow.name} /></a> /</nav>
    <div class="title"><h1><${Name} of=${run.name} /></h1>
      <span class="buttons">
        ${steered && !over && run.state !== "Cancelling" && html`<${Button} class="danger" onClick=${() => (asks.value = "cancel")}>Cancel…<//>`}
        ${steered && over && html`<${Button} onClick=${() => (asks.value = "restart")} disabled=${!wrong}>Run again from failed…<//>`}
        ${may("run") && html`<a class="button" href=${href(["flows", run.flow.id], { values: run.id })}>Run with these values…</a>`}
      </span></div>
    ${steered && html`<${SteerRun} run=${run} again=${again} />`}
    <p class="facts"><span class="big"><${State} state=${run.state} /></span>
      ${run.state === "Cancelling" && html`<span class="number">for ${duration(now.value - (milliseconds(run.state_timestamp) ?? now.value))}</span>`}
      <span><${Time} at=${run.start_time ?? run.scheduled_start_time} />${run.end_time && over && html` → <${Time} at=${run.end_time} />`}</span>
      <${Took} run=${run} tried=${attempts([...run.states].reverse())} />
      <span class="faint">flow version ${run.flow.version} · ${run.auto_scheduled ? "by its schedule" : "by hand or by a program"}${run.times_resurrected ? ` · resurrected ${counted(run.times_resurrected, "time")}` : ""}</span>
      <${Labels} of=${run.labels?.filter((label) => !label.startsWith("agentless-"))} />
      ${parent && html`<span>part of <a href=${taskRunAddress(parent.flow_run.id, parent.task?.id ?? "", parent.map_index)}><${Name} of=${parent.flow_run.name} /> / <${Name} of=${parent.task?.name} /></a></span>`}
      <${Copy} text=${run.id} label="copy id" />
    </p>
    ${run.state_message && html`<p class="said"><${Words} text=${run.state_message} /></p>`}
    ${run.state === "Scheduled" && !parent && html`<${Because} run=${run} />`}
    <div class="total"><${Bar} counts=${[...sums]} wide /><${Counts} counts=${[...sums]} />${repeated > 0 && html` <span class="faint">· ${number(repeated)} with more than one attempt</span>`}</div>
    ${question && html`<${Dialog} ...${question} close=${() => (asks.value = "")} run=${answered}><p>${question.says}</p><//>`}
  </div>`;
}

/** Why a run whose time has come has not begun. */
function Because({ run }) {
  const due = (milliseconds(run.scheduled_start_time) ?? 0) <= now.value;
  const { data, again } = useAnswer(due ? QUEUE : null);
  useThrottled(again, Math.floor(now.value / 10_000), 5000);
  const found = data?.queue.flow_runs.find((each) => each.flow_run_id === run.id);
  return found ? html`<p class="faint">It has not begun: ${found.because}.</p>` : null;
}

/** The flow runs that task runs of this one are. */
function Parts({ run, tasks, stamp }) {
  const { data, problem, again } = useAnswer(PARTS, { run: run.id }, "The flow runs inside");
  useThrottled(again, stamp, 2000);
  const parts = data?.flow_run ?? [];
  const tried = useTried(parts);
  if (!parts.length) return problem;
  return html`<section class="panel" aria-labelledby="parts"><h2 id="parts">Flow runs inside</h2>
    <${List} of=${parts} row=${(part) => html`<${Entry} run=${part} flow=${null} name=${tasks.get(part.parent_task_run.task_id)?.name} index=${part.parent_task_run.map_index} message=${part.state_message}>
      <${What} flow=${part.flow.name} name=${part.name} /><${Took} run=${part} tried=${tried.get(part.id)} /><//>`} />
    ${parts.length === 50 && html`<p class="faint">The first 50; the others are behind their task runs.</p>`}</section>`;
}

function Attention({ rows, run, tasks, task, index, total: all }) {
  if (!rows.length) return null;
  // The cause comes before what it stopped.
  const order = (row) => ["failed", "paused", "retrying"].indexOf(look(row.state).group) + (row.state === "TriggerFailed" ? 0.5 : 0);
  const groups = alike([...rows].sort((a, b) => order(a) - order(b)));
  return html`<section class="panel attention" aria-labelledby="attention">
    <h2 id="attention">Needs attention <${Counts} counts=${rows.map((row) => [row.state, 1])} /></h2>
    ${all > rows.length && html`<p class="faint">The newest ${number(rows.length)} of ${number(all)}; <a href=${href(["runs", run.id], { tab: "tasks", state: "failed" })}>all of them</a></p>`}
    <ul class="list">${groups.map((group) => html`<${Alike} key=${group.first.id} group=${group} run=${run} tasks=${tasks} task=${task} index=${index} />`)}</ul>
  </section>`;
}

function Alike({ group, run, tasks, task, index }) {
  const open = useSignal(false);
  const shown = open.value ? group.rows : [group.first];
  return html`<li>${shown.map((row) => html`<div class="title" key=${row.id}><${Entry} to=${taskRunAddress(run.id, row.task_id, row.map_index)} state=${row.state} name=${tasks.get(row.task_id)?.name} index=${row.map_index} message=${row.state_message} current=${row.task_id === task && row.map_index === index}>
      <${Time} at=${row.state_timestamp} /><//><${CopyLink} id=${row.id} /></div>`)}
    ${group.rows.length > 1 && html`<${Small} aria-expanded=${open.value} onClick=${() => (open.value = !open.value)}>${open.value ? "only the first" : `same message: ${counted(group.rows.length, "task run")}`}<//>`}
  </li>`;
}

function Artifacts({ run, tasks }) {
  const { data, problem } = useAnswer(ARTIFACTS, { run: run.id }, "The artifacts");
  return html`${problem}
    <${Empty} of=${data?.task_run_artifact}>This run has left no artifacts.<//>
    ${(data?.task_run_artifact ?? []).map((each) => html`<section key=${each.id} class="panel">
      <h2>${each.kind} <small class="faint">of <a href=${taskRunAddress(run.id, each.task_run.task_id, each.task_run.map_index)}><${What} name=${tasks.get(each.task_run.task_id)?.name} index=${each.task_run.map_index} /></a>, <${Time} at=${each.created} /></small></h2>
      <${Artifact} kind=${each.kind} data=${each.data} /></section>`)}`;
}

function Parameters({ run }) {
  const names = Object.keys(run.parameters ?? {});
  const secret = secrets(run.flow);
  return html`<${Panel} title="Parameters">
    <${Empty} of=${names}>This run has no parameters.<//>
    <${Facts} rows=${names.map((name) => [html`<${Name} of=${name} />`, secret.has(name) ? html`<span class="faint">hidden</span>` : html`<${Json} value=${run.parameters[name]} />`])} /><//>
    <${Panel} title="Context"><${Json} value=${run.context} /><//>`;
}

function States({ run }) {
  const traceback = run.serialized_state?.context?.traceback;
  return html`<${Panel} title="States of the flow run">
    <${Facts} head=${["#", "state", "at", "message"]} rows=${run.states.map((state) => [state.version, html`<${State} state=${state.state} />`, html`<${Time} at=${state.timestamp} />`, html`<${Words} text=${state.message} />`])} /><//>
    ${run.directives.length > 0 && html`<${Panel} title="What people asked for">
      <${Facts} head=${["what", "of", "by", "at", "note", "done"]} rows=${run.directives.map((each) => [each.kind, each.task ? html`<${What} name=${each.task} index=${each.map_index} />` : "the run", each.author ?? "–", html`<${Time} at=${each.created} />`, html`<${Words} text=${each.note} />`, html`<${Time} at=${each.obeyed} />`])} /><//>`}
    ${traceback && html`<${Panel} title="Traceback"><${Traceback} text=${traceback} /><//>`}`;
}
