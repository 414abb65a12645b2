// The timeline, drawn on a canvas: a lane for each task, what runs in each part of the time, and where something ended.
import { html } from "../html.js";
import { useEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { go, query, set, taskRunAddress } from "../model/route.js";
import { DURATIONS, TIMELINE } from "../model/queries.js";
import { inOrder } from "../model/graph.js";
import { byGroup, isFinished } from "../model/states.js";
import { axis, density, spans, stateAt, ticks, waits, within } from "../model/timeline.js";
import { clock, duration, interval, iso, milliseconds, now, precise, zone } from "../model/time.js";
import { attempts, statesOfTask, sum } from "../model/run.js";
import { counted, number, visible } from "../model/text.js";
import { childrenOf, parentsOf, statesOfRows } from "./attempts.js";
import { Counts, Facts, Fold, Small, useAnswer, useSize, useThrottled } from "./kit.js";

const LANE = 26;
const AXIS = 24;
const LABEL = 150;
const MOST = 60;
const BINS = 300;

export function Timeline({ run, counts, task, stamp, small }) {
  const zoom = interval(query.value.get("zoom"));
  const span = zoom ? { from: zoom[0], to: zoom[1] } : {};
  const { data, problem, again } = useAnswer(run.start_time || counts.size ? TIMELINE : null, { run: run.id, bins: BINS, ...span }, "The timeline");
  useThrottled(again, isFinished(run.state) ? `${stamp}${run.version}` : `${stamp}${Math.floor(now.value / 5000)}`, 1500);
  const fold = query.value.get("waits") !== "shown";
  const timeline = data?.run_timeline;
  const ordered = useMemo(() => inOrder(run.flow.tasks, run.flow.edges), [run.flow.id]);
  const drawn = useMemo(() => {
    if (!timeline) return null;
    const known = new Map(timeline.tasks.map((each) => [each.task_id, each]));
    const lanes = ordered.filter((each) => known.has(each.id)).map((each) => ({ task: each, bins: density((known.get(each.id)), timeline.bins) }));
    const breaks = fold ? waits(lanes.map((lane) => lane.bins), timeline.bins) : [];
    const from = milliseconds(timeline.from) ?? 0;
    const to = milliseconds(timeline.to) ?? 1;
    return { lanes, breaks, place: axis(timeline.bins, breaks), from, to, bins: timeline.bins };
  }, [timeline, ordered, fold]);
  const opened = task && query.value.get("open") !== "no" ? task : null;
  const most = small ? 12 : MOST;
  const isAlone = (id) => sum(statesOfTask(counts, id).map(([, count]) => count)) === 1;
  const alone = (drawn?.lanes ?? []).slice(0, most).map((lane) => lane.task.id).filter(isAlone);
  const rows = useRows(run.id, alone, small || isAlone(opened) ? null : opened, stamp);
  if (!run.start_time && !drawn?.lanes.length) return html`<section class="panel"><h2>Timeline</h2><p class="empty">Nothing has begun yet.</p></section>`;
  return html`<section class="panel timeline" aria-labelledby="timeline">
    <div class="title"><h2 id="timeline">Timeline ${drawn && html`<small class="faint">${duration(drawn.to - drawn.from)}</small>`}</h2>
      <span class="tools">${zoom && html`<${Small} onClick=${() => set({ zoom: null })}>The whole run<//>`}
        <label><input type="checkbox" checked=${fold} onChange=${() => set({ waits: fold ? "shown" : null })} /> fold waits</label></span></div>
    ${problem}
    ${drawn && html`<${Drawing} key=${zone.value} run=${run} drawn=${drawn} rows=${rows} most=${most} />`}
    ${drawn && !small && html`<${Fold} title="As a table"><${AsTable} run=${run} lanes=${drawn.lanes} counts=${counts} stamp=${stamp} /><//>`}
  </section>`;
}

/** What the drawing says, and how long the task runs took. */
function AsTable({ run, lanes, counts, stamp }) {
  const { data, problem, again } = useAnswer(DURATIONS, { run: run.id }, "How long they took");
  useThrottled(again, stamp, 2000);
  const at = (text) => (text ? precise(Date.parse(text)) : "–");
  return html`${problem}
    <${Facts} head=${["task", "began", "ended", "half of them took", "all of them took", "task runs", "with more than one attempt"]} rows=${lanes.map(({ task: { id, name } }) => {
      const known = counts.get(id);
      const bins = (data?.run_summary.durations ?? []).filter((each) => each.task_id === id);
      const took = (part) => (bins.length ? (within(bins, part) === null ? "longer" : `≤ ${duration(within(bins, part) * 1000)}`) : "–");
      return [html`<a href=${taskRunAddress(run.id, id, -1)}>${name}</a>`, at(known?.start_time), at(known?.end_time), took(0.5), took(1), html`<${Counts} counts=${statesOfTask(counts, id)} />`, number(known?.again ?? 0)];
    })} />`;
}

/** The task runs in view with the states they went through: those of these tasks, and the first children of another. */
function useRows(run, alone, mapped, stamp) {
  const [found, setFound] = useState([]);
  const asked = [...alone, mapped].join();
  const read = async () => {
    try {
      const rows = (await Promise.all([parentsOf(run, alone), mapped ? childrenOf(run, mapped, 0, 40) : []])).flat();
      const states = await statesOfRows(rows);
      setFound(rows.map((row) => ({ row, states: states.get(row.id) })));
    } catch {
      setFound([]); // the lanes show what runs in each part of the time
    }
  };
  useEffect(() => {
    read();
  }, [asked]);
  useThrottled(read, stamp, 2000);
  return found;
}

function Drawing({ run, drawn, rows, most }) {
  const box = useRef(null);
  const canvas = useRef(null);
  const [width, setWidth] = useState(600);
  const words = useSignal("");
  const drag = useRef(null);
  const theme = useTheme();
  const lanes = [];
  for (const lane of drawn.lanes.slice(0, most)) {
    const of = rows.filter((each) => each.row.task_id === lane.task.id);
    lanes.push({ ...lane, peak: Math.max(1, ...lane.bins.map((bin) => bin.running)), states: of.find((each) => each.row.map_index < 0)?.states });
    for (const { row, states } of of) if (row.map_index >= 0) lanes.push({ task: lane.task, row, states });
  }
  const height = AXIS + lanes.length * LANE;
  const left = width < 500 ? 90 : LABEL;
  const inner = width - left - 8;
  const pointOf = (bin) => left + inner * Math.min(1, Math.max(0, drawn.place(bin)));
  const x = (moment) => pointOf(((moment - drawn.from) / (drawn.to - drawn.from)) * drawn.bins);
  useSize(box, (element) => setWidth(Math.max(280, element.clientWidth)));
  useEffect(() => {
    const frame = requestAnimationFrame(() => canvas.current && draw(canvas.current));
    return () => cancelAnimationFrame(frame);
  });

  function draw(element) {
    const scale = devicePixelRatio || 1;
    if (element.width !== Math.round(width * scale) || element.height !== Math.round(height * scale)) {
      element.width = Math.round(width * scale);
      element.height = Math.round(height * scale);
      element.style.setProperty("width", `${width}px`);
      element.style.setProperty("height", `${height}px`);
    }
    const pen = (element.getContext("2d"));
    const colour = (name) => theme.getPropertyValue(`--${name}`).trim();
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const breaks = drawn.breaks.map(([from, to]) => (pointOf(from) + pointOf(to)) / 2);
    let free = left;
    for (const moment of ticks(drawn.from, drawn.to, inner / 60)) {
      const at = x(moment);
      const words = drawn.to - drawn.from < 10_000 ? precise(moment).slice(3) : clock(moment);
      const end = at + 3 + pen.measureText(words).width;
      if (at < free || end > width || breaks.some((each) => at - 10 < each && each < end + 10)) continue;
      free = end + 30;
      pen.fillStyle = colour("line");
      pen.fillRect(Math.round(at), AXIS - 6, 1, height);
      pen.fillStyle = colour("faint");
      pen.fillText(words, at + 3, 10);
    }
    lanes.forEach((lane, number) => {
      const top = AXIS + number * LANE;
      pen.fillStyle = colour("line");
      pen.fillRect(0, top + LANE - 1, width, 1);
      pen.fillStyle = colour(lane.row ? "faint" : "text");
      clipped(pen, lane.row ? `[${lane.row.map_index}]` : visible(lane.task.name), lane.row ? 18 : 4, top + LANE / 2, left - 12);
      if (lane.states) attemptsOf(pen, lane.states, top, colour);
      else bins(pen, lane, top, colour);
    });
    pen.fillStyle = colour("faint");
    for (const middle of breaks) {
      pen.fillText("⋯", middle - 6, 10);
      for (let dash = AXIS - 4; dash < height; dash += 5) pen.fillRect(Math.round(middle), dash, 1, 2);
    }
  }

  function bins(pen, lane, top, colour) {
    for (const bin of lane.bins) {
      const [from, to] = [pointOf(bin.at), pointOf(bin.at + 1)];
      if (bin.running) {
        const tall = Math.max(3, ((LANE - 10) * bin.running) / lane.peak);
        pen.fillStyle = colour("running");
        pen.fillRect(from, top + LANE - 8 - tall, Math.max(1, to - from + 0.4), tall);
      }
      const groups = byGroup(bin.ended);
      const all = sum(groups.map((each) => each.count));
      let at = from;
      for (const each of groups) {
        const wide = Math.max(each.group === "success" ? 1 : 2.5, ((to - from) * each.count) / all);
        pen.fillStyle = colour(each.group);
        pen.fillRect(at, top + LANE - 7, wide, 5);
        at += wide;
      }
    }
  }

  function attemptsOf(pen, states, top, colour) {
    for (const { group, kind, ...span } of spans(states, Math.min(now.peek(), drawn.to))) {
      const [from, to] = [x(span.from), x(span.to)];
      pen.fillStyle = colour(group);
      if (kind === "runs") pen.fillRect(from, top + 7, Math.max(1.5, to - from), LANE - 14);
      else if (kind === "ends") pen.fillRect(from, top + 5, 3, LANE - 10);
      else pen.fillRect(from, top + LANE / 2 - 1, Math.max(1, to - from), 2);
    }
  }

  const laneAt = (event) => lanes[Math.floor((event.offsetY - AXIS) / LANE)];
  const binAt = (offset) => Math.max(0, drawn.lanes[0]?.bins.findLastIndex((bin) => pointOf(bin.at) <= offset) ?? 0);
  const momentAt = (bin) => drawn.from + ((drawn.to - drawn.from) * bin) / drawn.bins;
  const hover = (event) => {
    const lane = laneAt(event);
    if (!lane || event.offsetX < left) return (words.value = "");
    const bin = binAt(event.offsetX);
    const name = `${lane.task.name}${lane.row ? `[${lane.row.map_index}]` : ""}`;
    if (lane.states) return (words.value = `${name} at ${precise(momentAt(bin))}: ${stateAt(lane.states, momentAt(bin + 1))}, ${counted(attempts(lane.states).length, "attempt")}`);
    const { running, ended } = (lane.bins)[bin];
    words.value = `${name} at ${precise(momentAt(bin))}: ${number(running)} running${ended.map(([state, count]) => `, ${number(count)} ${state}`).join("")}`;
  };
  const release = (event) => {
    const from = drag.current;
    drag.current = null;
    if (from === null) return;
    if (Math.abs(event.offsetX - from) > 8) {
      const [a, b] = [from, event.offsetX].sort((one, two) => one - two).map(binAt);
      return set({ zoom: `${iso(momentAt(a))}~${iso(momentAt(b + 1))}` });
    }
    const lane = laneAt(event);
    if (lane) go(taskRunAddress(run.id, lane.task.id, lane.row ? lane.row.map_index : -1));
  };
  return html`<div class="canvas" ref=${box}><canvas ref=${canvas} role="img" aria-label=${`Timeline of ${drawn.lanes.length} tasks over ${duration(drawn.to - drawn.from)}; the table says the same`}
      onMouseMove=${hover} onMouseLeave=${() => (words.value = "")} onMouseDown=${(event) => (drag.current = event.offsetX)} onMouseUp=${release}></canvas></div>
    <p class="status faint" aria-live="polite">${words.value || html`▇ running · ─ waiting · ▂ ended · drag to zoom, press a lane to open it`}</p>
    ${drawn.lanes.length > most && html`<p class="faint">The first ${most} of ${number(drawn.lanes.length)} tasks.</p>`}`;
}

function clipped(pen, text, x, y, width) {
  pen.save();
  pen.beginPath();
  pen.rect(0, y - 10, width, 20);
  pen.clip();
  pen.fillText(text, x, y);
  pen.restore();
}

/** The colours of the page, again when they change. */
function useTheme() {
  const [, setTurn] = useState(0);
  useEffect(() => {
    const observer = new MutationObserver(() => setTurn((before) => before + 1));
    observer.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    return () => observer.disconnect();
  }, []);
  return getComputedStyle(document.documentElement);
}
