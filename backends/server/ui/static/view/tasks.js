// The task runs of a run: a row for each task, with its children below it where it is mapped. Rows in view are read, no others.
import { html } from "../html.js";
import { useEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { ask } from "../api.js";
import { go, query, set, taskRunAddress } from "../model/route.js";
import { FOUND, LONGEST, ROWS } from "../model/queries.js";
import { GROUPS, byGroup, statesOf, worst } from "../model/states.js";
import { inOrder } from "../model/graph.js";
import { before, containing, lastOf, sum, total } from "../model/run.js";
import { counted, number } from "../model/text.js";
import { Bar, Button, Chips, Choice, Counts, Find, Name, Problem, State, Time, Took, useThrottled } from "./kit.js";
import { withAttempts } from "./attempts.js";
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
  const cache = useRef(new Map());
  const [, setTurn] = useState(0);
  const [error, setError] = useState(null);
  const view = useRef({ from: 0, to: 0 });
  // What is wrong comes first; among equals the order of the flow stays.
  const lanes = useMemo(() => {
    const found = ordered.map((each) => ({ task: each, states: Object.entries(counts.get(each.id)?.states ?? {}), at: 0, count: 0 }));
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
  const laneAt = (place) => lanes[lastOf(lanes.length, (at) => lanes[at].at <= place)];
  const read = async (anew) => {
    const wanted = new Map();
    for (let place = view.current.from; place < Math.min(view.current.to, count); place += 1) {
      const lane = laneAt(place);
      const child = place - lane.at - 1;
      const page = child < 0 ? -1 : Math.floor(child / CHILDREN_AT_ONCE);
      if (anew || !cache.current.has(`${lane.task.id} ${page}`)) wanted.set(`${lane.task.id} ${page}`, { task: lane.task.id, page });
    }
    try {
      const parents = [...wanted.values()].filter((each) => each.page < 0).map((each) => each.task);
      const reads = [...wanted].filter(([, each]) => each.page >= 0).map(async ([key, each]) => {
        const { task_run: rows } = await ask(ROWS, { run: run.id, task: each.task, from: each.page * CHILDREN_AT_ONCE, limit: CHILDREN_AT_ONCE });
        const read = await withAttempts(rows, [...(cache.current.get(key)?.values() ?? [])]);
        cache.current.set(key, new Map(read.map((row) => [row.map_index, row])));
      });
      if (parents.length) reads.push((async () => {
        const where = { flow_run_id: { _eq: run.id }, task_id: { _in: parents }, map_index: { _eq: -1 } };
        const { task_run: rows } = await ask(FOUND, { where, limit: parents.length });
        const read = await withAttempts(rows, parents.flatMap((id) => [...(cache.current.get(`${id} -1`)?.values() ?? [])]));
        for (const id of parents) cache.current.set(`${id} -1`, new Map());
        for (const row of read) cache.current.set(`${row.task_id} -1`, new Map([[-1, row]]));
      })());
      await Promise.all(reads);
      while (cache.current.size > 60) cache.current.delete(cache.current.keys().next().value);
      if (reads.length) setTurn((turn) => turn + 1);
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
    const next = new Set(opened.value);
    if (!next.delete(id)) next.add(id);
    opened.value = next;
  };
  const selected = task ? lanes.find((lane) => lane.task.id === task) : undefined;
  const at = selected ? selected.at + (index !== undefined && index >= 0 && selected.count ? index + 1 : 0) : undefined;
  return html`<${Problem} error=${error} again=${() => read(true)} what="The task runs" />
    <${Rows} label="Task runs" count=${count} columns=${COLUMNS} at=${at} seen=${(from, to) => { view.current = { from, to }; read(false); }} row=${(place) => {
      const lane = laneAt(place);
      const child = place - lane.at - 1;
      const page = cache.current.get(`${lane.task.id} ${child < 0 ? -1 : Math.floor(child / CHILDREN_AT_ONCE)}`);
      const row = page?.get(child);
      if (child >= 0) return html`<${Row} run=${run} task=${lane.task} index=${child} row=${row} selected=${lane.task.id === task && child === index} child />`;
      const isMapped = lane.task.mapped || children(lane) > 0;
      return html`<${Row} run=${run} task=${lane.task} index=${-1} row=${row} states=${isMapped ? lane.states : null} selected=${lane.task.id === task && index === -1}
        fold=${isMapped && children(lane) > 0 && html`<${Button} class="fold" aria-expanded=${opened.value.has(lane.task.id)} aria-label=${`children of ${lane.task.name}`} onClick=${(event) => toggle(event, lane.task.id)}>${opened.value.has(lane.task.id) ? "▾" : "▸"}<//>`} />`;
    }} />
    <p class="faint">${counted(lanes.length, "task")}, ${counted(sum([...counts.values()].map((each) => sum((Object.values(each.states))))), "task run")}. Unfold a mapped task to see its children.</p>`;
}

/** How many children a task has: all its runs but the parent. */
function children(lane) {
  return Math.max(0, sum(lane.states.map(([, count]) => count)) - 1);
}

const page = async (where, order, limit) => (await ask(FOUND, { where, order, limit })).task_run;

/** The next page in each order; those that have not begun have no start, those that go on no duration. */
const byTask = (where, last, limit) => page({ ...where, ...(last && { _or: [{ task_id: { _gt: last.task_id } }, { task_id: { _eq: last.task_id }, map_index: { _gt: last.map_index } }] }) }, [{ task_id: "asc" }, { map_index: "asc" }], limit);
const PAGES = new Map([
  ["start", (where, last, limit) => page({ ...where, start_time: { _is_null: false }, ...(last && before("start_time", last)) }, [{ start_time: "desc" }, { id: "desc" }], limit)],
  ["duration", async (where, last, limit) => {
    const { longest_task_runs: found } = await ask(LONGEST, { run: where.flow_run_id._eq, where, after: last?.id ?? null, limit });
    const ids = found.map((each) => each.task_run_id);
    const rows = new Map((await page({ id: { _in: ids } }, null, limit)).map((row) => [row.id, row]));
    return ids.map((id) => rows.get(id)).filter(Boolean);
  }],
]);

/** The task runs of a group of states, or in another order, read as far as one has scrolled. */
function Found({ run, tasks, task, index, stamp, group, text, order, all }) {
  const [rows, setRows] = useState([]);
  const [more, setMore] = useState(false);
  const [error, setError] = useState(null);
  const busy = useRef(false);
  const read = async (known, limit) => {
    if (busy.current) return;
    busy.current = true;
    const last = known.at(-1);
    const where = { flow_run_id: { _eq: run.id }, ...(group && { state: { _in: statesOf(group) } }), ...(text && { state_message: containing(text) }) };
    try {
      const found = await (PAGES.get(order) ?? byTask)(where, last, limit);
      setRows([...known, ...(await withAttempts(found, rows))]);
      setMore(found.length === limit);
      setError(null);
    } catch (problem) {
      setError(problem);
    } finally {
      busy.current = false;
    }
  };
  useEffect(() => {
    read([], 200);
  }, []);
  useThrottled(() => read([], Math.min(1000, Math.max(200, rows.length))), stamp, 2000);
  return html`<${Problem} error=${error} again=${() => read([], 200)} what="The task runs" />
    <${Rows} label=${group ? `Task runs that are ${group}` : "Task runs"} count=${rows.length} columns=${COLUMNS} seen=${(_, to) => { if (to >= rows.length - 20 && more) read(rows, 200); }} row=${(place) => {
      const row = rows[place];
      return html`<${Row} run=${run} task=${tasks.get(row.task_id)} index=${row.map_index} row=${row} selected=${row.task_id === task && row.map_index === index} />`;
    }} />
    <p class="faint">${text || order ? `${number(rows.length)} ${text ? "like that" : `of ${number(all)}`}${more ? ", and more: scroll" : ""}.` : `${number(Math.min(rows.length, all))} of ${number(all)} read${more ? "; scroll for more" : ""}.`}</p>`;
}

function Row({ run, task, index, row, states, selected, child = false, fold = null }) {
  const index_ = index >= 0 ? html` <span class="index">[${index}]</span>` : null;
  return html`<span role="cell"><${State} state=${row?.state ?? (states?.length ? null : "Pending")} bare=${!row} /></span>
    <span role="cell" class=${child ? "what child" : "what"}>${fold}<a data-row class="stretched" href=${taskRunAddress(run.id, task?.id ?? "", index)} aria-current=${selected}><${Name} of=${task?.name} />${index_}</a>${states && html` <span class="faint">▤ ${number(children({ task, states }))}</span>`}</span>
    <span role="cell" class="message">${states?.length ? html`<${Bar} counts=${states} /> <${Counts} counts=${states} />` : row?.state_message}</span>
    <span role="cell"><${Time} at=${row?.start_time} /></span>
    <span role="cell">${row && html`<${Took} run=${row} tried=${row.tried} />`}</span>
    <span role="cell" class="faint">${row?.tried?.length > 1 && !states ? html`<span title="attempts">↻ ${row.tried.length}</span>` : ""}</span>`;
}
