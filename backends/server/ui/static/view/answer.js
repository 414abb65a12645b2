// What waits for a person: who would go on, what it is about, and the answer, with a note and a value.
import { html } from "../html.js";
import { useSignal } from "../vendor/signals.js";
import { ask } from "../api.js";
import { taskRunAddress } from "../model/route.js";
import { ANSWER, GOING_ON, INPUTS } from "../model/queries.js";
import { inputs, readField, secrets } from "../model/form.js";
import { encode } from "../model/json.js";
import { counted, unique } from "../model/text.js";
import { Dialog, Facts, Field, What, Words, useAnswer } from "./kit.js";
import { who } from "./shell.js";

const schemaOf = (row) => row.serialized_state?.context?.answer_schema ?? null;

/** What is the same of questions that one answer may be given to. */
export const questionOf = (row) => JSON.stringify([row.task?.id, schemaOf(row)]);

/** Why nobody would go on with these flow runs, by their ids: those that somebody can take are not among them. */
export function useNobody(ids) {
  const runs = [...new Set(ids)].sort();
  const { data } = useAnswer(runs.length ? GOING_ON : null, { runs });
  return new Map((data?.going_on ?? []).filter((each) => each.picked_up_by === "nobody").map((each) => [each.flow_run_id, each.because]));
}

export function Nobody({ because }) {
  return because ? html`<p class="problem">⚠ Nobody will go on with this run: ${because}.</p>` : null;
}

/** What a task run was given. */
export function Inputs({ row }) {
  const { data, problem } = useAnswer(INPUTS, { id: row.id }, "The inputs");
  const found = data?.task_run_by_pk;
  const parameters = found?.flow_run.parameters ?? {};
  const secret = secrets(found?.flow_run.flow);
  return html`${problem}
    ${found && html`<${Facts} rows=${found.task.upstream_edges.map(({ key, mapped, upstream_task: from }) => [key ?? "after", html`<a href=${taskRunAddress(found.flow_run.id, from.id, mapped ? row.map_index : -1)}><${What} name=${from.name} index=${mapped ? row.map_index : -1} /></a>${Object.hasOwn(parameters, from.name) && !secret.has(from.name) && html` = <code><${Words} text=${encode(parameters[from.name])} limit=${200} /></code>`}`])} />`}`;
}

/** The same answer to all of these task runs. */
export function Answer({ rows, close, told }) {
  const [first] = rows;
  const many = rows.length > 1 ? ` ${rows.length}` : "";
  const approve = useSignal(true);
  const note = useSignal("");
  const value = useSignal("");
  const key = useSignal(unique()).peek();
  const nobody = useNobody(rows.map((row) => row.flow_run.id));
  const [input] = inputs([{ name: "value", required: false, schema: schemaOf(first) }], {});
  const run = async () => {
    let given = null;
    if (approve.value && value.value.trim()) {
      const found = readField(input, value.value);
      if (found.problem) throw new Error(found.problem);
      given = found.value;
    }
    const problems = [];
    for (const row of rows) {
      try {
        const { answer_task_run: answer } = await ask(ANSWER, { input: { task_run_id: row.id, version: row.version, approve: approve.value, note: note.value || null, value: given, idempotency_key: `${key} ${row.id}` } });
        told?.(row, approve.value ? "approved" : "declined");
        if (answer.picked_up_by === "nobody") problems.push("Recorded. Nobody will go on with this run: no live worker can take it.");
      } catch (problem) {
        problems.push(problem.message);
      }
    }
    if (problems.length) throw new Error([...new Set(problems)].join(" "));
  };
  return html`<${Dialog} title=${rows.length > 1 ? `Answer ${counted(rows.length, "task run")} of ${first.task?.name}` : `Answer ${first.task?.name ?? "the task run"}`} action=${(approve.value ? "Approve" : "Decline") + many} danger=${!approve.value} close=${close} run=${run}>
    ${rows.slice(0, 10).map((row) => html`<p class="said" key=${row.id}>${many && html`<${What} name=${row.flow_run.name} index=${row.map_index} /> `}<${Words} text=${row.state_message} /></p>`)}
    ${rows.length > 10 && html`<p class="faint">and ${rows.length - 10} others</p>`}
    <${Nobody} because=${[...new Set(nobody.values())].join("; ")} />
    <fieldset><legend>Answer</legend>
      <label><input type="radio" name="answer" checked=${approve.value} onChange=${() => (approve.value = true)} /> approve</label>
      <label><input type="radio" name="answer" checked=${!approve.value} onChange=${() => (approve.value = false)} /> decline</label></fieldset>
    <${Field} label="Note" of=${note} />
    ${approve.value && html`<${Field} label="Value" of=${value} hint=${`${input.hint}; may stay empty`} />`}
    ${who.value.name && html`<p class="faint">Recorded as the answer of ${who.value.name}.</p>`}
  <//>`;
}
