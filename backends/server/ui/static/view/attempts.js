// Task runs in view, and their states. A row holds the newest one alone, and the times from the first attempt to the last.
import { useEffect, useState } from "../vendor/hooks.js";
import { ask } from "../api.js";
import { ATTEMPTS, FOUND, ROWS, RUN_ATTEMPTS } from "../model/queries.js";
import { attempts } from "../model/run.js";

/** Pending, Running, and an end: with more states a run may have been attempted again. */
const ONCE = 3;

/** Task runs like that. */
export const readRows = async (where, order, limit) => (await ask(FOUND, { where, order, limit })).task_run;

/** The runs of these tasks that are no children, and some children of a task. */
export const parentsOf = async (run, tasks) => (tasks.length ? readRows({ flow_run_id: { _eq: run }, task_id: { _in: tasks }, map_index: { _eq: -1 } }, null, tasks.length) : []);
export const childrenOf = async (run, task, from, limit) => (await ask(ROWS, { run, task, from, limit })).task_run;

/** The states of these runs, by their ids. */
export async function statesOfRows(rows, of = "task_run") {
  const found = new Map(rows.map((row) => [row.id, []]));
  const runs = [...found.keys()];
  const answer = runs.length ? await (of === "task_run" ? ask(ATTEMPTS, { ids: runs }) : ask(RUN_ATTEMPTS, { runs })) : {};
  for (const state of answer[`${of}_state`] ?? []) found.get(state[`${of}_id`]).push(state);
  return found;
}

/** The same rows with the attempts of those that may have several; what is known of one that did not change is not asked for again. */
export async function withAttempts(rows, known = [], of = "task_run") {
  const before = new Map(known.map((row) => [`${row.id} ${row.version}`, row.tried]));
  const unknown = rows.filter((row) => row.version > ONCE && !before.get(`${row.id} ${row.version}`));
  const states = await statesOfRows(unknown, of);
  return rows.map((row) => ({ ...row, tried: states.has(row.id) ? attempts(states.get(row.id)) : before.get(`${row.id} ${row.version}`) }));
}

/** The attempts of flow runs, by their ids. */
export function useTried(runs) {
  const [known, setKnown] = useState([]);
  useEffect(() => {
    let wanted = true;
    withAttempts(runs, known, "flow_run").then((found) => wanted && setKnown(found), () => {});
    return () => {
      wanted = false;
    };
  }, [runs.map((run) => `${run.id} ${run.version}`).join()]);
  return new Map(known.map((run) => [run.id, run.tried]));
}
