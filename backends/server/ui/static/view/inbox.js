// What waits for a person, and what failed last.
import { html } from "../html.js";
import { useState } from "../vendor/hooks.js";
import { taskRunAddress } from "../model/route.js";
import { INBOX, PROBLEMS } from "../model/queries.js";
import { toggled } from "../model/text.js";
import { milliseconds, now, duration } from "../model/time.js";
import { Button, Empty, Entry, Fold, List, Name, Panel, State, Time, What, Words, useAnswer, useThrottled, useTitle } from "./kit.js";
import { Answer, Inputs, Nobody, questionOf, useNobody } from "./answer.js";
import { Lines } from "./logs.js";
import { may, paused } from "./shell.js";

const STAYS = 5000;

export function Inbox() {
  useTitle("Inbox");
  const { data, problem, again } = useAnswer(INBOX, {}, "What waits");
  const problems = useAnswer(PROBLEMS, {}, "The failures");
  useThrottled(again, paused.value, 1000);
  const [answering, setAnswering] = useState(null);
  const [chosen, setChosen] = useState(new Set());
  const [answered, setAnswered] = useState([]);
  const rows = [...(data?.task_run ?? [])];
  for (const each of answered) if (!rows.some((row) => row.id === each.id)) rows.unshift(each);
  // What was answered stays a while, so that nothing else comes under the mouse at once.
  const told = (row, outcome) => {
    const gone = { ...row, outcome };
    setAnswered((before) => [gone, ...before]);
    setTimeout(() => setAnswered((before) => before.filter((each) => each !== gone)), STAYS);
  };
  const outcomeOf = (row) => answered.find((each) => each.id === row.id)?.outcome;
  const nobody = useNobody(rows.map((row) => row.flow_run.id));
  const together = rows.filter((row) => chosen.has(row.id) && !outcomeOf(row));
  const choose = (row) => setChosen((before) => toggled(before, row.id));
  return html`<h1>Inbox</h1>
    ${problem}
    <${Empty} of=${data && rows}>Nothing waits for anybody.<//>
    ${together.length > 0 && html`<p class="buttons"><${Button} class="primary" onClick=${() => setAnswering(together)}>Answer ${together.length} chosen…<//></p>`}
    <ul class="list inbox" aria-label="Task runs that wait">${rows.map((row) => html`<li key=${row.id} class=${outcomeOf(row) ? "panel answered" : "panel"}>
      <p class="facts">${may("answer") && !outcomeOf(row) && rows.length > 1 && html`<input type="checkbox" aria-label=${`Choose ${row.task.name} of ${row.flow_run.name}`} checked=${chosen.has(row.id)} disabled=${together.length > 0 && questionOf(row) !== questionOf(together[0])} onChange=${() => choose(row)} />`}<${State} state="Paused" /> <a data-row href=${taskRunAddress(row.flow_run.id, row.task.id, row.map_index)}><${What} name=${row.task.name} index=${row.map_index} /></a>
        <span class="faint"><${Name} of=${row.flow_run.flow.name} /> / <${Name} of=${row.flow_run.name} /></span>
        <span class="number">waits ${duration(now.value - (milliseconds(row.state_timestamp) ?? now.value))}</span></p>
      <p class="said"><${Words} text=${row.state_message} /></p>
      ${(row.flow_run.labels ?? []).length > 0 && html`<p class="faint">goes on where there is ${row.flow_run.labels.join(", ")}</p>`}
      ${outcomeOf(row) ? null : html`<${Nobody} because=${nobody.get(row.flow_run.id)} /><${Fold} title="Inputs and log"><${Inputs} row=${row} /><${Lines} run=${row.flow_run.id} taskRun=${row.id} live tall=${false} /><//>`}
      ${outcomeOf(row) ? html`<p role="status">${outcomeOf(row)}</p>` : may("answer") ? html`<p class="buttons"><${Button} class="primary" onClick=${() => setAnswering([row])}>Answer…<//></p>` : null}
    </li>`)}</ul>
    ${answering && html`<${Answer} rows=${answering} told=${told} close=${() => { setAnswering(null); again(); }} />`}
    <${Panel} title="Newest failures">
      ${problems.problem}
      <${List} of=${problems.data?.task_run} row=${(row) => html`<${Entry} to=${taskRunAddress(row.flow_run.id, row.task.id, row.map_index)} state=${row.state} flow=${row.flow_run.flow.name} name=${row.task.name} index=${row.map_index} message=${row.state_message}><${Time} at=${row.state_timestamp} /><//>`}>Nothing has failed.<//><//>`;
}
