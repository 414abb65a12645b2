// The task runs of a run: a row for each task, with its children below it where it is mapped. Rows in view are read, no others.
import { html } from "../html.js";
import { useEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { ask } from "../api.js";
import { go, query, set, taskRunAddress } from "../model/route.js";
import { LONGEST } from "../model/queries.js";
import { GROUPS, byGroup, statesOf, worst } from "../model/states.js";
import { inOrder } from "../model/graph.js";
import { before, containing, statesOfTask, sum, total } from "../model/run.js";
import { counted, number, toggled } from "../model/text.js";
import { Bar, Button, Chips, Choice, Counts, Find, Name, Problem, State, Time, Took, useThrottled } from "./kit.js";
import { childrenOf, parentsOf, readRows, withAttempts } from "./attempts.js";
import { usePages } from "./pages.js";
import { Rows } from "./table.js";

const CHILDREN_AT_ONCE = 100;
const COLUMNS = ["state", "task run", "message", "began", "took", ""];

export function TaskRuns(props) {
  const group = query.value.get("state") ?? "";
  const text = query.value.get("message") ?? "";
  const order = query.value.get("order") ?? "";
  const { run, counts } = props;
  const sums = useMemo(() => new Map(byGroup(total(counts.values())).map((each) => [each.group, each.count])), [props.stamp]);
  // What was there stays there, with none in it: nothing else comes under the mouse.
  const shown = useRef(new Set()).current;
  for (const [each, count] of sums) if (count) shown.add(each);
  const goTo = (event) => {
    event.preventDefault();
    const [task, index] = event.currentTarget.elements;
    const found = run.flow.tasks.find((each) => each.id === task.value);
    if (found) go(taskRunAddress(run.id, found.id, index.value === "" ? -1 : Number(index.value), "tasks"));
  };
  return html`<div class="tools">
      <form onSubmit=${goTo}><label>Go to <select>${run.flow.tasks.map((each) => html`<option key=${each.id} value=${each.id}>${each.name}</option>`)}</select></label> <label class="hidden" for="go-index">Index</label><input id="go-index" type="number" min="0" placeholder="index" /> <button type="submit" class="small">Go</button></form>
      <${Find} label="Message" name="message" />
      <${Choice} label="Order" name="order" all="by task" options=${[["start", "began last"], ["duration", "took longest"]]} />
      <${Chips} groups=${GROUPS.filter((each) => shown.has(each) || each === group)} chosen=${group ? [group] : []} press=${(state) => set({ state })} of=${sums} all />
    </div>
    ${GROUPS.includes(group) || text || order ? html`<${Found} key=${`${group} ${order} ${text}`} ...${props} group=${group} text=${text} order=${order} all=${group ? (sums.get(group) ?? 0) : sum(sums.values())} />` : html`<${Tree} ...${props} />`}`;
}

function Tree({ run, counts, task, index, stamp }) {
  const opened = useSignal(new Set());
  // A child that is chosen, by whatever way, is shown among its siblings.
  useEffect(() => {
    if (index >= 0) opened.value = new Set([...opened.peek(), task]);
  }, [task, index]);
  const ordered = useMemo(() => inOrder(run.flow.tasks, run.flow.edges), [run.flow.id]);
  const cache = useRef(new Map()).current;
  const [, setTurn] = useState(0);
  const [error, setError] = useState(null);
  const view = useRef({ from: 0, to: 0 });
  // What is wrong comes first; among equals the order of the flow stays.
  const lanes = useMemo(() => {
    const found = ordered.map((each) => ({ task: each, states: statesOfTask(counts, each.id), at: 0, count: 0 }));
    const bad = (lane) => Math.min(3, GROUPS.indexOf(worst(lane.states)));
    found.sort((a, b) => bad(a) - bad(b));
    let at = 0;
    for (const lane of found) {
      lane.at = at;
      lane.count = opened.value.has(lane.task.id) ? children(lane) : 0;
      at += 1 + lane.count;
    }
    return found;
  }, [ordered, stamp, opened.value]);
  const count = lanes.length ? lanes.at(-1).at + 1 + lanes.at(-1).count : 0;
  const at = (place) => {
    const lane = lanes.findLast((each) => each.at <= place);
    const child = place - lane.at - 1;
    return { lane, child, key: keyOf(lane.task.id, child) };
  };
  const read = async (anew) => {
    const parents = new Set();
    const pages = new Map();
    for (let place = view.current.from; place < Math.min(view.current.to, count); place += 1) {
      const { lane, child, key } = at(place);
      if (cache.has(key) && !anew) continue;
      if (child < 0) parents.add(lane.task.id);
      else pages.set(key, { task: lane.task.id, from: child - (child % CHILDREN_AT_ONCE) });
    }
    const keep = async (keys, rows) => {
      const known = keys.flatMap((key) => [...(cache.get(key)?.values() ?? [])]);
      const read = await withAttempts(await rows, known);
      for (const key of keys) cache.set(key, new Map());
      for (const row of read) cache.get(keyOf(row.task_id, row.map_index)).set(row.map_index, row);
    };
    try {
      await Promise.all([
        keep([...parents].map((id) => keyOf(id, -1)), parentsOf(run.id, [...parents])),
        ...[...pages].map(([key, { task, from }]) => keep([key], childrenOf(run.id, task, from, CHILDREN_AT_ONCE))),
      ]);
      while (cache.size > 60) cache.delete(cache.keys().next().value);
      if (parents.size || pages.size) setTurn((turn) => turn + 1);
      setError(null);
    } catch (problem) {
      setError(problem);
    }
  };
  useThrottled(() => read(true), stamp, 1000);
  useEffect(() => {
    read(false);
  }, [opened.value]);
  const toggle = (event, id) => {
    event.preventDefault();
    event.stopPropagation();
    opened.value = toggled(opened.value, id);
  };
  const selected = task ? lanes.find((lane) => lane.task.id === task) : undefined;
  const chosen = selected ? selected.at + (index !== undefined && index >= 0 && selected.count ? index + 1 : 0) : undefined;
  return html`<${Problem} error=${error} again=${() => read(true)} what="The task runs" />
    <${Rows} label="Task runs" count=${count} columns=${COLUMNS} at=${chosen} seen=${(from, to) => { view.current = { from, to }; read(false); }} row=${(place) => {
      const { lane, child, key } = at(place);
      const row = cache.get(key)?.get(child);
      if (child >= 0) return html`<${Row} run=${run} task=${lane.task} index=${child} row=${row} selected=${lane.task.id === task && child === index} child />`;
      const isMapped = lane.task.mapped || children(lane) > 0;
      return html`<${Row} run=${run} task=${lane.task} index=${-1} row=${row} states=${isMapped ? lane.states : null} selected=${lane.task.id === task && index === -1}
        fold=${isMapped && children(lane) > 0 && html`<${Button} class="fold" aria-expanded=${opened.value.has(lane.task.id)} aria-label=${`children of ${lane.task.name}`} onClick=${(event) => toggle(event, lane.task.id)}>${opened.value.has(lane.task.id) ? "▾" : "▸"}<//>`} />`;
    }} />
    <p class="faint">${counted(lanes.length, "task")}, ${counted(sum([...counts.values()].map((each) => sum((Object.values(each.states))))), "task run")}. Unfold a mapped task to see its children.</p>`;
}

/** In which page of its task a run is: what is no child is one by itself. */
const keyOf = (task, index) => `${task} ${Math.floor(index / CHILDREN_AT_ONCE)}`;

/** How many children a task has: all its runs but the parent. */
function children(lane) {
  return Math.max(0, sum(lane.states.map(([, count]) => count)) - 1);
}

/** The next page in each order; those that have not begun have no start, those that go on no duration. */
const byTask = (where, last, limit) => readRows({ ...where, ...(last && { _or: [{ task_id: { _gt: last.task_id } }, { task_id: { _eq: last.task_id }, map_index: { _gt: last.map_index } }] }) }, [{ task_id: "asc" }, { map_index: "asc" }], limit);
const PAGES = new Map([
  ["start", (where, last, limit) => readRows({ ...where, start_time: { _is_null: false }, ...(last && before("start_time", last)) }, [{ start_time: "desc" }, { id: "desc" }], limit)],
  ["duration", async (where, last, limit) => {
    const { longest_task_runs: longest } = await ask(LONGEST, { run: where.flow_run_id._eq, where, after: last?.id ?? null, limit });
    const ids = longest.map((each) => each.task_run_id);
    const rows = new Map((await readRows({ id: { _in: ids } }, null, limit)).map((row) => [row.id, row]));
    return ids.map((id) => rows.get(id)).filter(Boolean);
  }],
]);

/** The task runs of a group of states, or in another order. */
function Found({ run, tasks, task, index, stamp, group, text, order, all }) {
  const where = { flow_run_id: { _eq: run.id }, ...(group && { state: { _in: statesOf(group) } }), ...(text && { state_message: containing(text) }) };
  const pages = usePages(async (last, limit, known) => withAttempts(await (PAGES.get(order) ?? byTask)(where, last, limit), known));
  const { count, more } = pages;
  useThrottled(() => pages.read(true), stamp, 2000);
  return html`<${Problem} error=${pages.error} again=${() => pages.read(true)} what="The task runs" />
    <${Rows} label=${group ? `Task runs that are ${group}` : "Task runs"} count=${count} columns=${COLUMNS} seen=${pages.seen} row=${(place) => {
      const row = pages.at(place);
      return row ? html`<${Row} run=${run} task=${tasks.get(row.task_id)} index=${row.map_index} row=${row} selected=${row.task_id === task && row.map_index === index} />` : html`<span role="cell">…</span>`;
    }} />
    <p class="faint">${text || order ? `${number(count)} ${text ? "like that" : `of ${number(all)}`}${more ? ", and more: scroll" : ""}.` : `${number(Math.min(count, all))} of ${number(all)} read${more ? "; scroll for more" : ""}.`}</p>`;
}

function Row({ run, task, index, row, states, selected, child, fold }) {
  const index_ = index >= 0 ? html` <span class="index">[${index}]</span>` : null;
  return html`<span role="cell"><${State} state=${row?.state ?? (states?.length ? null : "Pending")} bare=${!row} /></span>
    <span role="cell" class=${child ? "what child" : "what"}>${fold}<a data-row class="stretched" href=${taskRunAddress(run.id, task?.id ?? "", index)} aria-current=${selected}><${Name} of=${task?.name} />${index_}</a>${states && html` <span class="faint">▤ ${number(children({ task, states }))}</span>`}</span>
    <span role="cell" class="message">${states?.length ? html`<${Bar} counts=${states} /> <${Counts} counts=${states} />` : row?.state_message}</span>
    <span role="cell"><${Time} at=${row?.start_time} /></span>
    <span role="cell">${row && html`<${Took} run=${row} tried=${row.tried} />`}</span>
    <span role="cell" class="faint">${row?.tried?.length > 1 && !states ? html`<span title="attempts">↻ ${row.tried.length}</span>` : ""}</span>`;
}
