// One task run beside its run: its states, its attempts, what it logged in each, what it left behind.
import { html } from "../html.js";
import { useMemo } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { query, set } from "../model/route.js";
import { TASK_RUN } from "../model/queries.js";
import { isFinished } from "../model/states.js";
import { attempts } from "../model/run.js";
import { duration, iso, milliseconds, now } from "../model/time.js";
import { SteerTask } from "./steer.js";
import { Button, CopyLink, Entry, Facts, Fold, List, State, Time, Took, Traceback, What, Words, useAnswer, useThrottled } from "./kit.js";
import { Artifact } from "./markdown.js";
import { Lines } from "./logs.js";
import { Answer, Inputs } from "./answer.js";
import { may, useKeys } from "./shell.js";

export function TaskRun({ run, tasks, task, index, counts, close }) {
  const { data, problem, again } = useAnswer(TASK_RUN, { run: run.id, task, index }, "The task run");
  const own = JSON.stringify(counts.get(task)?.states ?? null);
  const row = data?.task_run?.[0];
  useThrottled(again, row && isFinished(row.state) && isFinished(run.state) ? "" : own, 1000);
  const definition = tasks.get(task);
  const heading = html`<h2 id="selected"><${What} name=${definition?.name ?? "task run"} index=${index} /></h2>`;
  return html`<aside class="panel selected" aria-labelledby="selected">
    <div class="title">${heading}<a class="button small" href=${close}>Close</a></div>
    ${problem}
    ${definition && may("run") && html`<${SteerTask} run=${run} definition=${definition} index=${index} state=${row?.state ?? "Pending"} held=${Boolean(row?.serialized_state?.context?.held)} again=${again} />`}
    ${data && !row && html`<p class="empty">It has not begun${definition?.mapped && index >= 0 ? ": this child is made when what it is mapped over is known" : ""}.</p>`}
    ${row && html`<${Inside} run=${run} row=${row} definition=${definition} again=${again} />`}
  </aside>`;
}

function Inside({ run, row, definition, again }) {
  const tried = useMemo(() => attempts(row.states), [row.states]);
  const asked = Number(query.value.get("attempt"));
  const chosen = tried.find((each) => each.number === asked) ?? null;
  const pick = (by) => {
    if (tried.length < 2) return;
    const at = chosen ? chosen.number : tried.length;
    set({ attempt: String(Math.min(tried.length, Math.max(1, at + by))) });
  };
  useKeys({ "[": () => pick(-1), "]": () => pick(1) });
  const answering = useSignal(false);
  const traceback = row.serialized_state?.context?.traceback;
  const result = row.serialized_state?._result;
  const window = chosen ? { from: iso(chosen.from - 1), to: iso((chosen.to ?? now.peek()) + 50) } : null;
  return html`<p class="facts"><span class="big"><${State} state=${row.state} /></span> <${Time} at=${row.start_time} /> <${Took} run=${row} tried=${tried} />
      ${tried.length > 1 && html`<span>attempt ${tried.length}${definition?.max_retries ? ` of ${definition.max_retries + 1}` : ""}</span>`}
      <${CopyLink} id=${row.id} /></p>
    ${row.state_message && html`<p class="said"><${Words} text=${row.state_message} /></p>`}
    ${row.state === "Paused" && !row.serialized_state?.context?.held && may("answer") && html`<p><${Button} class="primary" onClick=${() => (answering.value = true)}>Answer…<//></p>`}
    ${answering.value && html`<${Answer} rows=${[{ ...row, task: definition, flow_run: run }]} close=${() => { answering.value = false; again(); }} />`}
    ${traceback && html`<${Fold} title="Traceback" open><${Traceback} text=${traceback} /><//>`}
    <h3>States</h3>
    <ol class="states">${row.states.map((state, at) => html`<li key=${state.id} title=${state.message}><span class="faint">${state.version}</span> <${State} state=${state.state} /> <${Time} at=${state.timestamp} />${state.start_time && row.states[at + 1] && html` <span class="faint">waited ${duration((milliseconds(row.states[at + 1].timestamp) ?? 0) - (milliseconds(state.timestamp) ?? 0))}</span>`}</li>`)}</ol>
    ${tried.length > 1 && html`<div class="chips" role="group" aria-label="Attempt"><${Button} class="chip" aria-pressed=${!chosen} onClick=${() => set({ attempt: null })}>all<//>${tried.map((each) => html`<${Button} key=${each.number} class="chip" aria-pressed=${chosen?.number === each.number} onClick=${() => set({ attempt: String(each.number) })}>${each.number} <${State} state=${each.state} bare /> ${each.to ? duration(each.to - each.from) : "…"}<//>`)}</div>`}
    <h3>Log${chosen ? ` of attempt ${chosen.number}` : ""}</h3>
    <${Lines} run=${run.id} taskRun=${row.id} window=${window} live=${!isFinished(row.state)} tall=${false} />
    <${Fold} title="Inputs"><${Inputs} row=${row} /><//>
    <h3>Result</h3>
    <p>${result?.location ? html`<code>${result.location}</code> <span class="faint">${String(result.type ?? "")}</span>` : html`<span class="faint">not stored anywhere</span>`}</p>
    ${row.children.length > 0 && html`<h3>Flow runs that it started</h3><${List} of=${row.children} row=${(child) => html`<${Entry} run=${child} />`} />`}
    ${row.artifacts.map((each) => html`<section key=${each.id}><h3>Artifact: ${each.kind}</h3><${Artifact} kind=${each.kind} data=${each.data} /></section>`)}
    <${Fold} title="More"><${Facts} rows=${[["id", html`<code>${row.id}</code>`], ["task", html`<code>${definition?.slug}</code>`], ["trigger", definition?.trigger ?? "–"], ["tags", (definition?.tags ?? []).join(", ") || "–"], ["cache key", row.cache_key ?? "–"], ["heartbeat", html`<${Time} at=${row.heartbeat} />`]]} /><//>`;
}
