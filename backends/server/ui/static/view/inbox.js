// What waits for a person: approve or decline, with a note and a value.
import { html } from "../html.js";
import { useState } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { ask } from "../api.js";
import { ANSWER, INBOX, PROBLEMS } from "../model/queries.js";
import { Typed, encode, inputs, read } from "../model/form.js";
import { milliseconds, now, duration } from "../model/time.js";
import { Dialog, Name, Problem, State, Text, Time, useAnswer, useThrottled, useTitle } from "./kit.js";
import { may, paused } from "./shell.js";
import { taskRunAddress } from "./run.js";

export function Inbox() {
  useTitle("Inbox");
  const { data, error, again } = useAnswer(INBOX);
  const problems = useAnswer(PROBLEMS);
  useThrottled(again, paused.value, 1000);
  const [answering, setAnswering] = useState(null);
  const rows = data?.task_run ?? [];
  return html`<h1>Inbox</h1>
    <${Problem} error=${error} again=${again} what="What waits" />
    ${data && !rows.length ? html`<p class="empty">Nothing waits for anybody.</p>` : null}
    <ul class="list inbox" aria-label="Task runs that wait">${rows.map((row) => html`<li key=${row.id} class="panel">
      <p class="facts"><${State} state="Paused" /> <a data-row href=${taskRunAddress(row.flow_run.id, row.task.id, row.map_index)}><${Name} of=${row.task.name} />${row.map_index >= 0 ? ` [${row.map_index}]` : ""}</a>
        <span class="faint"><${Name} of=${row.flow_run.flow.name} /> / <${Name} of=${row.flow_run.name} /></span>
        <span class="number">waits ${duration(now.value - (milliseconds(row.state_timestamp) ?? now.value))}</span></p>
      <p class="said"><${Text} text=${row.state_message} /></p>
      ${(row.flow_run.labels ?? []).length ? html`<p class="faint">goes on where there is ${row.flow_run.labels.join(", ")}</p>` : null}
      ${may("answer") ? html`<p class="buttons"><button type="button" class="primary" onClick=${() => setAnswering(row)}>Answer…</button></p>` : null}
    </li>`)}</ul>
    ${answering && html`<${Answer} row=${answering} close=${() => { setAnswering(null); again(); }} />`}
    <section class="panel"><h2>Newest failures</h2>
      <${Problem} error=${problems.error} again=${problems.again} what="The failures" />
      ${problems.data && !problems.data.task_run.length ? html`<p class="empty">Nothing has failed.</p>` : null}
      <ul class="list">${(problems.data?.task_run ?? []).map((row) => html`<li key=${row.id}><a class="entry" data-row href=${taskRunAddress(row.flow_run.id, row.task.id, row.map_index)}>
        <${State} state=${row.state} bare /><span class="what"><span class="flow"><${Name} of=${row.flow_run.flow.name} /></span> <${Name} of=${row.task.name} />${row.map_index >= 0 ? ` [${row.map_index}]` : ""}</span>
        <span class="message">${row.state_message}</span><${Time} at=${row.state_timestamp} /></a></li>`)}</ul></section>`;
}

export function Answer({ row, close }) {
  const schema = row.serialized_state?.context?.answer_schema ?? null;
  const approve = useSignal(true);
  const note = useSignal("");
  const value = useSignal("");
  const done = useSignal("");
  const key = useSignal(crypto.randomUUID?.() ?? String(Math.random())).peek();
  const [input] = inputs([{ name: "value", required: false, schema }], {});
  const run = async () => {
    let given = null;
    if (approve.value && value.value.trim()) {
      const found = read(input, value.value);
      if (found.problem) throw new Error(found.problem);
      given = found.value instanceof Typed ? JSON.parse(encode({ v: found.value })).v : found.value;
    }
    const { answer_task_run: answer } = await ask(ANSWER, { input: { task_run_id: row.id, version: row.version, approve: approve.value, note: note.value || null, value: given, idempotency_key: key } });
    done.value = answer.picked_up_by === "nobody" ? "Recorded. Nobody will go on with this run: no live worker can take it." : "";
    if (done.value) throw new Error(done.value);
  };
  return html`<${Dialog} title=${`Answer ${row.task?.name ?? "the task run"}`} action=${approve.value ? "Approve" : "Decline"} danger=${!approve.value} close=${close} run=${run}>
    <p class="said"><${Text} text=${row.state_message} /></p>
    <fieldset><legend>Answer</legend>
      <label><input type="radio" name="answer" checked=${approve.value} onChange=${() => (approve.value = true)} /> approve</label>
      <label><input type="radio" name="answer" checked=${!approve.value} onChange=${() => (approve.value = false)} /> decline</label></fieldset>
    <label>Note <input type="text" value=${note.value} onInput=${(event) => (note.value = event.currentTarget.value)} /></label>
    ${approve.value && html`<label>Value <small class="faint">${input.hint}; may stay empty</small> <input type="text" value=${value.value} onInput=${(event) => (value.value = event.currentTarget.value)} /></label>`}
  </${Dialog}>`;
}
