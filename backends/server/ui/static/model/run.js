// One flow run: counts of its tasks, attempts of a task run, what is alike among what failed.
import { tally } from "./states.js";
import { milliseconds } from "./time.js";
import { gist } from "./text.js";

/** @typedef {{task_id: string, states: Record<string, number>, start_time: string | null, end_time: string | null, again: number}} Counts */
/** @typedef {{version: number, state: string, message: string | null, timestamp: string, start_time?: string | null}} State */
/** @typedef {{number: number, from: number, to: number | null, state: string, message: string | null}} Attempt */

/** Take in changed counts. @param {Map<string, Counts>} known @param {Counts[]} changed */
export function merged(known, changed) {
  if (!changed.length) return known;
  const next = new Map(known);
  for (const each of changed) next.set(each.task_id, each);
  return next;
}

/** How many runs of a task are in each state. @param {Map<string, Counts>} counts @param {string} task its id */
export function statesOfTask(counts, task) {
  return Object.entries(counts.get(task)?.states ?? {});
}

/** The states of all tasks together; a mapped parent is not one of its children. @param {Iterable<Counts>} counts @returns {Map<string, number>} */
export function total(counts) {
  return tally([...counts].flatMap((task) => Object.entries(task.states)));
}

/** @param {Iterable<number>} numbers */
export function sum(numbers) {
  let all = 0;
  for (const number of numbers) all += number;
  return all;
}

/** How many are in states like that. @param {Iterable<[string, number]>} counts @param {(state: string) => boolean} are */
export function many(counts, are) {
  return sum([...counts].map(([state, count]) => (are(state) ? count : 0)));
}

/** The attempts of a task run: from each Running to the state after it. @param {State[]} states @returns {Attempt[]} */
export function attempts(states) {
  /** @type {Attempt[]} */
  const found = [];
  for (const state of states) {
    const at = milliseconds(state.timestamp) ?? 0;
    const open = found.at(-1);
    if (state.state === "Running") {
      if (open && open.to === null) open.to = at;
      found.push({ number: found.length + 1, from: at, to: null, state: "Running", message: null });
    } else if (open && open.to === null) {
      Object.assign(open, { to: at, state: state.state, message: state.message });
    }
  }
  return found;
}

/** What is alike, together: the first of each kind, and how many. @template {{task_id: string, state: string, state_message: string | null}} T @param {T[]} rows @returns {{first: T, rows: T[]}[]} */
export function alike(rows) {
  const groups = Map.groupBy(rows, (row) => JSON.stringify([row.task_id, row.state, gist(row.state_message)]));
  return [...groups.values()].map((rows) => ({ first: rows[0], rows }));
}

/** For how long it has run: without what it waited in between, or was over before a restart. @param {Attempt[]} tried @param {number} now */
export function ran(tried, now) {
  return sum(tried.map((each) => Math.max(0, (each.to ?? now) - each.from)));
}

/** How long a run took that has ended; of several attempts, without what was between them. @param {{start_time: string | null, end_time: string | null}} run @param {Attempt[]} [tried] */
export function took(run, tried = []) {
  const end = milliseconds(run.end_time) ?? 0;
  return tried.length > 1 ? ran(tried, end) : Math.max(0, end - (milliseconds(run.start_time) ?? 0));
}

/** The columns of a condition on the place after a row, newest first. @param {string} column @param {{id: string} & Record<string, any>} row */
export function before(column, row) {
  return { _or: [{ [column]: { _lt: row[column] } }, { [column]: { _eq: row[column] }, id: { _lt: row.id } }] };
}

/** The condition that a text holds another, however it is written. @param {string} text */
export function containing(text) {
  return { _ilike: `%${text.replace(/[%_\\]/g, "\\$&")}%` };
}
