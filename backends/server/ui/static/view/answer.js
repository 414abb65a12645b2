// The answer to what waits for a person: approve or decline, with a note and a value.
import { html } from "../html.js";
import { useSignal } from "../vendor/signals.js";
import { ask } from "../api.js";
import { ANSWER } from "../model/queries.js";
import { inputs, readField } from "../model/form.js";
import { Dialog, Field, Words } from "./kit.js";
import { who } from "./shell.js";

export function Answer({ row, close, told }) {
  const schema = row.serialized_state?.context?.answer_schema ?? null;
  const approve = useSignal(true);
  const note = useSignal("");
  const value = useSignal("");
  const key = useSignal(crypto.randomUUID?.() ?? String(Math.random())).peek();
  const [input] = inputs([{ name: "value", required: false, schema }], {});
  const run = async () => {
    let given = null;
    if (approve.value && value.value.trim()) {
      const found = readField(input, value.value);
      if (found.problem) throw new Error(found.problem);
      given = found.value;
    }
    const { answer_task_run: answer } = await ask(ANSWER, { input: { task_run_id: row.id, version: row.version, approve: approve.value, note: note.value || null, value: given, idempotency_key: key } });
    told?.(approve.value ? "approved" : "declined");
    if (answer.picked_up_by === "nobody") throw new Error("Recorded. Nobody will go on with this run: no live worker can take it.");
  };
  return html`<${Dialog} title=${`Answer ${row.task?.name ?? "the task run"}`} action=${approve.value ? "Approve" : "Decline"} danger=${!approve.value} close=${close} run=${run}>
    <p class="said"><${Words} text=${row.state_message} /></p>
    <fieldset><legend>Answer</legend>
      <label><input type="radio" name="answer" checked=${approve.value} onChange=${() => (approve.value = true)} /> approve</label>
      <label><input type="radio" name="answer" checked=${!approve.value} onChange=${() => (approve.value = false)} /> decline</label></fieldset>
    <${Field} label="Note" of=${note} />
    ${approve.value && html`<${Field} label="Value" of=${value} hint=${`${input.hint}; may stay empty`} />`}
    ${who.value.name && html`<p class="faint">Recorded as the answer of ${who.value.name}.</p>`}
  <//>`;
}
