// Who works, what is limited, and why something has not begun.
import { html } from "../html.js";
import { useEffect, useState } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { ask } from "../api.js";
import { href } from "../model/route.js";
import { FLOW_LIMIT, NOTIFICATIONS, RATE_LIMIT, TAG_LIMIT, WORK } from "../model/queries.js";
import { counted, number, destination } from "../model/text.js";
import { duration } from "../model/time.js";
import { Button, Choice, Dialog, Entry, Field, Labels, List, Name, Panel, Small, Time, useAnswer, useTitle } from "./kit.js";
import { may } from "./shell.js";

const EVERY = 3000;

/** Where a worker is, as machine and process: what follows tells it from all that were there before. @param {string} name */
const place = (name) => name.split("/")[0];

export function Workers() {
  useTitle("Workers");
  const { data, problem, again } = useAnswer(WORK, {}, "The workers");
  useEffect(() => {
    const timer = setInterval(() => document.hidden || again(), EVERY);
    return () => clearInterval(timer);
  }, []);
  const [asks, setAsks] = useState(null);
  const queue = data?.queue;
  return html`<h1>Workers, limits, queue</h1>
    ${problem}
    <${Panel} title="Queue">
      ${queue && html`<p>${number(queue.ready)} ready, ${number(queue.later)} later</p>
      <${List} of=${queue.flow_runs} row=${(run) => html`<${Entry} to=${href(["runs", run.flow_run_id])} state=${run.state} flow=${run.flow_name} name=${run.name} message=${run.because}><span>due <${Time} at=${run.since} ago /></span><//>`} />`}<//>
    <${Panel} title="Workers">
      <${List} of=${data?.workers} row=${(worker) => html`<p class="facts"><span class=${worker.alive ? "state of-success" : "state of-failed"}><span aria-hidden="true">${worker.alive ? "●" : "○"}</span> ${worker.alive ? "alive" : "gone"}</span>
        <b title=${worker.name}><${Name} of=${place(worker.name)} /></b> <span>seen <${Time} at=${worker.seen} ago /></span> <span class="number">${counted(worker.running, "run")}${worker.running >= worker.concurrency ? ", full" : ""}</span>
        <span class="faint">${worker.flow_names ? worker.flow_names.join(", ") : "any flow"}</span><${Labels} of=${worker.labels} /></p>
        ${worker.flow_runs.length > 0 && html`<p class="faint">${worker.alive ? "runs" : "held"} ${worker.flow_runs.slice(0, 20).map((run) => html`<a key=${run.id} href=${href(["runs", run.id])}><${Name} of=${run.name} /></a> `)}</p>`}`}>No worker has asked for work yet: <code>flowloop worker FILE</code> starts one.<//>
      ${(data?.agent ?? []).length > 0 && html`<h3>Agents</h3><${List} of=${data.agent} row=${(agent) => html`<p class="facts"><${Name} of=${agent.name} /> <span>asked <${Time} at=${agent.last_queried} ago /></span> <${Labels} of=${agent.labels} /></p>`} />`}<//>
    <section class="panel"><div class="title"><h2>Limits</h2>${may("admin") && html`<${Button} onClick=${() => setAsks({ kind: "task", name: "", limit: 1, used: 0 })}>New limit…<//>`}</div>
      <${List} of=${data?.limits} row=${(limit) => html`<p class="facts limit"><span class="faint">${LIMITED[limit.kind]}</span> <b><${Name} of=${limit.name} /></b>
        <meter min="0" max=${Math.max(1, limit.limit)} value=${limit.used} aria-label=${`${limit.used} of ${limit.limit} ${limit.period ? "begun" : "places taken"}`}></meter> <span class="number">${limit.used} of ${limit.limit}${limit.period ? ` in ${duration(limit.period * 1000)}` : ""}</span>
        ${may("admin") && html`<${Small} onClick=${() => setAsks(limit)}>Change…<//>`}</p>`}>Nothing is limited.<//></section>
    ${may("admin") && html`<${Notifications} />`}
    ${asks && html`<${Limit} limit=${asks} close=${() => { setAsks(null); again(); }} />`}`;
}

function Notifications() {
  const { data, problem } = useAnswer(NOTIFICATIONS, {}, "The notifications");
  return html`<${Panel} title="Notifications">${problem}
    <${List} of=${data?.notifications} row=${(rule) => html`<p class="facts"><b><${Name} of=${rule.name} /></b>
      <span>on ${rule.events.join(", ")}${rule.after ? ` after ${duration(rule.after * 1000)}` : ""}</span>
      <span class="faint">of ${rule.flow ? html`<${Name} of=${rule.flow} />` : "any flow"}</span> <span>${rule.kind}: <${Name} of=${destination(rule.target)} /></span></p>`}>Nobody is told of anything yet: <code>flowloop notify add</code> sets a rule.<//><//>`;
}

const LIMITED = { task: "tag", rate: "rate", flow: "label" };

function Limit({ limit, close }) {
  const places = useSignal(String(limit.limit));
  const period = useSignal(String(limit.period ?? 60));
  const name = useSignal(limit.name);
  const kind = useSignal(limit.kind);
  const run = async () => {
    const wanted = Number(places.value);
    if (!Number.isInteger(wanted) || wanted < 0 || !places.value.trim()) throw new Error("A limit is a whole number, 0 or more.");
    const [change, of] = { rate: [RATE_LIMIT, { tag: name.value, period: Number(period.value) }], task: [TAG_LIMIT, { tag: name.value }], flow: [FLOW_LIMIT, { name: name.value }] }[kind.value];
    await ask(change, { input: { limit: wanted, ...of } });
  };
  return html`<${Dialog} title=${limit.id ? `Change the limit ${limit.name}` : "New limit"} action="Set the limit" close=${close} run=${run}>
    ${!limit.id && html`<${Choice} label="Of" value=${kind.value} change=${(chosen) => (kind.value = chosen)} options=${[["task", "a tag of tasks"], ["rate", "a tag of tasks: how often they begin"], ["flow", "a label of flow runs"]]} />
    <${Field} label="Name" of=${name} required />`}
    <${Field} label=${kind.value === "rate" ? "Beginnings" : "Places"} of=${places} inputmode="numeric" />
    ${kind.value === "rate" && html`<${Field} label="In seconds" of=${period} inputmode="decimal" />`}
    ${limit.id && kind.value !== "rate" && html`<p>${limit.used} hold a place now; with fewer places nobody is stopped, and nobody new begins until some are free.</p>`}
  <//>`;
}
