// What can be asked of a flow run, or of one of its task runs: each is a recorded directive, and asks before it is one.
import { html } from "../html.js";
import { useMemo } from "../vendor/hooks.js";
import { signal, useSignal } from "../vendor/signals.js";
import { ask } from "../api.js";
import { DIRECT } from "../model/queries.js";
import { isFinished } from "../model/states.js";
import { json, limits } from "../model/steer.js";
import { Dialog, Field, Small } from "./kit.js";

const BEGINS = ["Pending", "Scheduled", "Queued", "Retrying", "Paused"];

/** What a task run can be asked, in its state. */
function ofTask(run, state, held) {
  if (isFinished(run.state)) return ["restart"];
  if (state === "Paused" && held) return ["release", "skip", "set_result"];
  return BEGINS.includes(state) ? [...(state === "Paused" ? [] : ["hold"]), "skip", "set_result"] : [];
}

/** What a flow run can be asked besides being cancelled and run again. */
function ofRun(run) {
  if (isFinished(run.state) || run.state === "Cancelling") return [];
  const begun = Boolean(run.start_time);
  return [...(run.state === "Paused" ? ["resume", "reject"] : []), "set_limits", "event", "hold", "release", ...(begun ? [] : ["set_parameter"])];
}

const WORDS = {
  restart: (name) => ({ title: `Run again from ${name}?`, action: "Run again from here", says: "It and everything after it would run again; what came before keeps its results." }),
  skip: (name) => ({ title: `Leave out ${name}?`, action: "Leave it out", says: "It would be Skipped, and so would what follows it, unless that says otherwise." }),
  set_result: (name) => ({ button: "Set its result…", title: `Give ${name} a result?`, action: "Set the result", says: "It would be Success with this value, and its body would not run.", fields: { value: "Result, as JSON" }, given: (typed) => ({ value: json(typed.value) }) }),
  hold: (name) => ({ title: `Hold ${name}?`, action: "Hold it", says: "It would not begin until it is released; the rest of the run goes on." }),
  release: (name) => ({ title: `Release ${name}?`, action: "Release it", says: "It would begin in its turn." }),
};

const OF_RUN = {
  resume: (name) => ({ title: `Let ${name} go on?`, action: "Let it go on", says: "Whoever can run it takes it up." }),
  reject: (name) => ({ title: `Reject ${name}?`, action: "Reject it", says: "The run would fail." }),
  set_limits: (name) => ({ button: "Set limits…", title: `Set limits for ${name}?`, action: "Set the limits", says: "What is left empty stays as it is; none ends a limit.", fields: { concurrency: "Task runs at once", tags: "With a tag at once, as db=2", rate: "How many begin, as 10/1s", timeout: "How long it may take, as 2h" }, optional: true, given: (typed) => ({ value: limits(typed) }) }),
  event: (name) => ({ button: "Send an event…", title: `Send an event to ${name}?`, action: "Send it", says: "A task that waits for an event of this name goes on with the value.", fields: { name: "Name", value: "Value, as JSON" }, optional: "value", given: (typed) => ({ task: typed.name, value: typed.value.trim() ? json(typed.value) : null }) }),
  hold: (name) => ({ button: "Hold a tag…", title: `Hold task runs of ${name}?`, action: "Hold them", says: "What has not begun of the tasks with this tag waits until it is released.", fields: { tag: "Tag" }, given: (typed) => ({ tag: typed.tag }) }),
  release: (name) => ({ button: "Release a tag…", title: `Release task runs of ${name}?`, action: "Release them", says: "What is held of the tasks with this tag begins in its turn.", fields: { tag: "Tag" }, given: (typed) => ({ tag: typed.tag }) }),
  set_parameter: (name) => ({ button: "Set a parameter…", title: `Set a parameter of ${name}?`, action: "Set it", says: "The run, which has not begun, begins with this value.", fields: { name: "Name", value: "Value, as JSON" }, given: (typed) => ({ task: typed.name, value: json(typed.value) }) }),
};

/** Buttons for one task run. */
export function SteerTask({ run, definition, index, state, held, again }) {
  const name = `${definition.name}${index >= 0 ? `[${index}]` : ""}`;
  return html`<${Buttons} run=${run} kinds=${ofTask(run, state, held)} words=${WORDS} name=${name} of=${{ task: definition.slug, map_index: index }} again=${again} />`;
}

/** Buttons for a flow run as a whole. */
export function SteerRun({ run, again }) {
  const kinds = ofRun(run);
  if (!kinds.length) return null;
  return html`<details class="more"><summary>More…</summary><${Buttons} run=${run} kinds=${kinds} words=${OF_RUN} name=${run.name} of=${{}} again=${again} /></details>`;
}

function Buttons({ run, kinds, words, name, of, again }) {
  const asks = useSignal("");
  if (!kinds.length) return null;
  return html`<p class="buttons">${kinds.map((kind) => html`<${Small} key=${kind} onClick=${() => (asks.value = kind)}>${words[kind](name).button ?? `${words[kind](name).action}…`}<//>`)}</p>
    ${asks.value && html`<${Question} key=${asks.value} run=${run} kind=${asks.value} words=${words[asks.value](name)} of=${of} close=${() => (asks.value = "")} again=${again} />`}`;
}

function Question({ run, kind, words, of, close, again }) {
  const fields = Object.entries(words.fields ?? {});
  const typed = useMemo(() => fields.map(([name]) => ({ name, text: signal("") })), []);
  const note = useSignal("");
  const send = async () => {
    const given = words.given ? words.given(Object.fromEntries(typed.map((each) => [each.name, each.text.value]))) : {};
    await ask(DIRECT, { input: { flow_run_id: run.id, kind, note: note.value || null, ...of, ...given } });
    again();
  };
  return html`<${Dialog} title=${words.title} action=${words.action} close=${close} run=${send}>
    <p>${words.says}</p>
    ${fields.map(([name, label], at) => html`<${Field} key=${name} label=${label} of=${typed[at].text} required=${words.optional !== true && words.optional !== name} />`)}
    <${Field} label="Note" of=${note} /><//>`;
}
