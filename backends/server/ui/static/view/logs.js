// Log lines: the newest first to arrive, older ones on demand, followed until the reader scrolls up.
import { html } from "../html.js";
import { useEffect, useLayoutEffect, useRef, useState } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { ask, follow } from "../api.js";
import { query, taskRunAddress } from "../model/route.js";
import { LINES, RUN_LOGS } from "../model/queries.js";
import { isFinished } from "../model/states.js";
import { before, containing } from "../model/run.js";
import { full, milliseconds, precise, zone } from "../model/time.js";
import { counted } from "../model/text.js";
import { Button, Choice, Find, Problem, Small, What, Words } from "./kit.js";
import { readRows } from "./attempts.js";
import { useNewest } from "./pages.js";
import { useKeys } from "./shell.js";

export const LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
const LINES_AT_ONCE = 500;
const LINES_KEPT = 3000;

/** The levels of what is at least as grave; null for all. */
export function atLeast(level) {
  const least = LEVELS.indexOf(level);
  return least > 0 ? LEVELS.slice(least) : null;
}

export function Logs({ run, tasks }) {
  return html`<section class="panel" aria-label="Logs"><${Lines} run=${run.id} tasks=${tasks} live=${!isFinished(run.state)} tall /></section>`;
}

/** Of which task runs lines are, by their ids: each is asked for once. */
function useTaskRuns(ids) {
  const [known, setKnown] = useState(new Map());
  const unknown = [...new Set(ids)].filter((id) => id && !known.has(id));
  useEffect(() => {
    if (!unknown.length) return;
    readRows({ id: { _in: unknown } }, null, unknown.length).then(
      (rows) => setKnown((before) => new Map([...before, ...unknown.map((id) => [id, null]), ...rows.map((row) => [row.id, row])])),
      () => {},
    );
  }, [unknown.join()]);
  return known;
}

/** Which of these lines are not among those. */
function unknownIn(known, lines) {
  const ids = new Set(known.map((line) => line.id));
  return lines.filter((line) => !ids.has(line.id));
}

/** The lines of a run, where `tasks` are given with the names of these, or of one task run. */
export function Lines({ run, tasks, taskRun, window, live, tall }) {
  const level = query.value.get("level") ?? "";
  const text = query.value.get("find") ?? "";
  const levels = atLeast(level);
  const wrap = useSignal(true);
  const following = useSignal(true);
  const unseen = useSignal(0);
  const box = useRef(null);
  const key = JSON.stringify([run, taskRun, window, level, text]);

  const fed = useRef([]);
  const { rows: lines, setRows: setLines, more: older, error, read, isBusy } = useNewest(
    key,
    async (known, limit) => {
      /** @type {Record<string, unknown>[]} */
      const where = [taskRun ? { task_run_id: { _eq: taskRun } } : { flow_run_id: { _eq: run } }];
      if (levels) where.push({ level: { _in: levels } });
      if (text) where.push({ message: containing(text) });
      if (window) where.push({ timestamp: { _gte: window.from, _lte: window.to } });
      if (known.length) where.push(before("timestamp", known[0]));
      return (await ask(LINES, { where: { _and: where }, limit })).log;
    },
    // what was told meanwhile comes after what was read
    (found, known, shown) => [...found.reverse(), ...(known.length ? shown : unknownIn(found, fed.current))],
  );
  const more = (known) => read(known, LINES_AT_ONCE);
  useEffect(() => {
    fed.current = [];
    more([]);
    if (!live || window || text) return;
    return follow(RUN_LOGS, { run, taskRun: taskRun ?? null, levels }, (change) => {
      if (!change.lines.length) return more([]); // the first answer: what was written before it is not told
      fed.current = [...fed.current, ...change.lines].slice(-LINES_AT_ONCE);
      setLines((known) => {
        const fresh = unknownIn(known.slice(-LINES_AT_ONCE), change.lines);
        if (!following.peek()) unseen.value += fresh.length;
        return [...known, ...fresh].slice(-LINES_KEPT);
      });
    }, () => more([]));
  }, [key, live]);
  useLayoutEffect(() => {
    if (following.peek() && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);
  const taskRuns = useTaskRuns(tasks ? lines.map((line) => line.task_run_id) : []);
  const resume = () => {
    following.value = true;
    unseen.value = 0;
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  };
  useKeys({ f: resume });
  const scrolled = (event) => {
    const { scrollTop, scrollHeight, clientHeight } = event.currentTarget;
    const atEnd = scrollHeight - scrollTop - clientHeight < 24;
    if (atEnd) unseen.value = 0;
    following.value = atEnd;
  };
  const download = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.map((line) => `${line.timestamp} ${line.level} ${line.name ?? ""}: ${line.message ?? ""}`).join("\n")], { type: "text/plain" }));
    link.download = `${taskRun ?? run}.log`;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  return html`<div class="tools">
      <${Choice} label="At least" name="level" all="everything" options=${LEVELS.slice(1)} />
      <${Find} label="Text" name="find" />
      <label><input type="checkbox" checked=${wrap.value} onChange=${() => (wrap.value = !wrap.value)} /> wrap</label>
      <${Small} onClick=${download} disabled=${!lines.length}>Save<//>
      ${unseen.value > 0 && html`<${Button} class="small primary" onClick=${resume}>${counted(unseen.value, "new line")} ↓<//>`}
    </div>
    <${Problem} error=${error} again=${() => more(lines)} what="The log" />
    <div class=${`lines ${tall ? "tall" : ""} ${wrap.value ? "wrapped" : ""}`} ref=${box} onScroll=${scrolled} tabindex="0" role="log" aria-label="Log lines" aria-live="off" aria-busy=${isBusy}>
      ${older && html`<${Small} onClick=${() => more(lines)}>Older lines<//>`}
      ${!isBusy && !error && !lines.length && html`<p class="empty">No lines${level || text || window ? " like that" : ""}.</p>`}
      ${lines.map((line) => html`<${Line} key=${line.id} line=${line} of=${taskRuns.get(line.task_run_id)} tasks=${tasks} zone=${zone.value} />`)}
    </div>`;
}

export function Line({ line, of, tasks }) {
  const at = milliseconds(line.timestamp) ?? 0;
  return html`<div class=${`line is-${line.level}`}><time datetime=${line.timestamp} title=${full(at)}>${precise(at)}</time> <span class="level">${line.level}</span> <span class="logger">${line.name ?? ""}</span> ${of && html`<a href=${taskRunAddress(of.flow_run_id, of.task_id, of.map_index)}><${What} name=${tasks.get(of.task_id)?.name} index=${of.map_index} /></a> `}<span class="text"><${Words} text=${line.message} /></span></div>`;
}
