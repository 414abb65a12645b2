// The states of runs in view. A row holds its newest one alone, and its times from the first attempt to the last.
import { useEffect, useState } from "../vendor/hooks.js";
import { ask } from "../api.js";
import { ATTEMPTS, RUN_ATTEMPTS } from "../model/queries.js";
import { attempts } from "../model/run.js";

/** Pending, Running, and an end: with more states a run may have been attempted again. */
const ONCE = 3;

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
