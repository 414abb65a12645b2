// The states of task runs in view. A row holds its newest one alone, and its times from the first attempt to the last.
import { ask } from "../api.js";
import { ATTEMPTS } from "../model/queries.js";
import { attempts } from "../model/run.js";

/** Pending, Running, and an end: with more states a task run may have been attempted again. */
const ONCE = 3;

/** The states of these task runs, by their ids. */
export async function statesOfRows(rows) {
  const found = new Map(rows.map((row) => [row.id, []]));
  const { task_run_state: states } = rows.length ? await ask(ATTEMPTS, { ids: [...found.keys()] }) : { task_run_state: [] };
  for (const state of states) found.get(state.task_run_id).push(state);
  return found;
}

/** The same rows with the attempts of those that may have several; what is known of one that did not change is not asked for again. */
export async function withAttempts(rows, known = []) {
  const before = new Map(known.map((row) => [`${row.id} ${row.version}`, row.tried]));
  const unknown = rows.filter((row) => row.version > ONCE && !before.get(`${row.id} ${row.version}`));
  const states = await statesOfRows(unknown);
  return rows.map((row) => ({ ...row, tried: states.has(row.id) ? attempts(states.get(row.id)) : before.get(`${row.id} ${row.version}`) }));
}
