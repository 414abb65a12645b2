// The graph of the flow, with a node for each task: a mapped one holds the counts of its children, never the children.
import { html } from "../html.js";
import { useEffect, useMemo, useState } from "../vendor/hooks.js";
import { compare } from "../api.js";
import { href, taskRunAddress } from "../model/route.js";
import { NODE, drawn, inColumns, inOrder, layOut } from "../model/graph.js";
import { byGroup, inWords, look, shapeOf, worst } from "../model/states.js";
import { statesOfTask, sum, total } from "../model/run.js";
import { counted, number } from "../model/text.js";
import { Bar, Counts, Fold, Name, Problem } from "./kit.js";
import { Rows } from "./table.js";

/** Of more tasks only those in view are there. */
const ALL_THERE = 100;

export function Graph({ run, counts, task }) {
  const { tasks, edges, id } = run.flow;
  const how = drawn(tasks, edges);
  const [whole, setWhole] = useState(null);
  const [opened, setOpened] = useState(new Set());
  const [view, setView] = useState({ x: 0, y: 0 });
  const [problem, setProblem] = useState(null);
  useEffect(() => {
    if (how !== "whole" || !tasks.length) return;
    let wanted = true;
    import("../vendor/dagre.js").then((dagre) => wanted && setWhole({ ...layOut(dagre, tasks, edges), tasks }), (error) => {
      setProblem(error);
      compare(); // a newer server has not this version of it
    });
    return () => {
      wanted = false;
    };
  }, [id]);
  const layout = useMemo(() => (how === "columns" ? inColumns(tasks, edges, opened) : whole), [id, whole, opened]);
  const ordered = useMemo(() => (how === "whole" ? inOrder(tasks, edges) : []), [id]);
  if (!tasks.length) return null;
  const isSmall = tasks.length <= ALL_THERE;
  const inView = ({ x, y }) => isSmall || (Math.abs(x - view.x - innerWidth / 2) < innerWidth / 2 + NODE.width && y > view.y - NODE.height && y < view.y + innerHeight * 0.7);
  return html`<section class="panel graph" aria-labelledby="graph">
    <h2 id="graph">Graph <small class="faint">${counted(tasks.length, "task")}</small></h2>
    ${how !== "whole" && html`<p class="faint">The graph has ${counted(tasks.length, "task")} and ${counted(edges.length, "edge")}: ${how ? "it is drawn in columns, tasks that are called alike together" : "it is too large to be drawn"}. <a href=${href(["runs", run.id], { tab: "tasks" })}>All tasks as a list</a></p>`}
    <${Problem} error=${problem} again=${() => location.reload()} what="What draws the graph" />
    ${layout && html`<div class="drawing" tabindex="0" role="group" aria-label="Graph of the flow; the list of tasks says the same" onScroll=${!isSmall && ((event) => setView({ x: event.currentTarget.scrollLeft, y: event.currentTarget.scrollTop }))}>
      <svg width=${layout.width} height=${layout.height} viewBox=${`0 0 ${layout.width} ${layout.height}`} onKeyDown=${(event) => walk(event, layout)}>
        ${[false, true].map((mapped) => html`<path key=${mapped} class=${mapped ? "edge mapped" : "edge"} d=${layout.edges.filter((edge) => !edge.mapped === !mapped).map((edge) => edge.path).join("")} />`)}
        ${layout.tasks.filter((each) => inView(layout.nodes.get(each.id))).map((each) => {
          const states = each.of ? [...total(each.of.map((one) => counts.get(one.id)).filter(Boolean))] : statesOfTask(counts, each.id);
          return html`<${TaskNode} key=${each.id} run=${run} task=${each} ...${layout.nodes.get(each.id)} states=${states} again=${counts.get(each.id)?.again} selected=${each.id === task} open=${each.of && (() => setOpened(new Set([...opened, each.id])))} />`;
        })}
      </svg></div>`}
    ${how === "whole" && html`<${Fold} key=${problem} title="As a list" class="as-list" open=${problem || matchMedia("(max-width: 600px)").matches}>
      <${Rows} label="Tasks" count=${ordered.length} columns=${["task", "task runs"]} row=${(at) => html`<span role="cell"><a data-row class="stretched" href=${taskRunAddress(run.id, ordered[at].id, -1)}><${Name} of=${ordered[at].name} /></a>${ordered[at].mapped ? " ▤" : ""}</span>
        <span role="cell"><${Bar} counts=${statesOfTask(counts, ordered[at].id)} /> <${Counts} counts=${statesOfTask(counts, ordered[at].id)} /></span>`} /><//>`}
  </section>`;
}

function TaskNode({ run, task, x, y, states, again, selected, open }) {
  const all = sum(states.map(([, count]) => count));
  const children = task.of ? task.of.length : Math.max(0, all - 1);
  const isMapped = task.mapped || children > 0;
  const group = states.length ? worst(states) : "pending";
  const only = states.length === 1 && all === 1 ? states[0][0] : null;
  const groups = byGroup(states);
  const words = isMapped ? inWords(groups) : (only ?? "Pending");
  let left = 10;
  const width = NODE.width - 20;
  const parts = [...groups].reverse().map((each) => {
    const part = { group: each.group, x: left, width: (width * each.count) / Math.max(1, all) };
    left += part.width;
    return part;
  });
  const symbol = only ? look(only).symbol : shapeOf(group);
  const press = open && ((event) => { event.preventDefault(); open(); });
  return html`<a href=${open ? href(["runs", run.id], { tab: "tasks" }) : taskRunAddress(run.id, task.id, -1)} onClick=${press} data-task=${task.id} class=${`node of-${group}${selected ? " selected" : ""}${isMapped ? " mapped" : ""}`} transform=${`translate(${x} ${y})`} aria-label=${`${task.name}: ${words}`}>
    <title>${task.name}: ${words}</title>
    ${isMapped && html`<rect class="behind" x="4" y="4" width=${NODE.width} height=${NODE.height} rx="7" />`}
    <rect class="box" width=${NODE.width} height=${NODE.height} rx="7" />
    <text class="shape" x="10" y="22">${symbol}</text>
    <foreignObject x="28" y="5" width=${NODE.width - 34} height="24"><div class="node-name" dir="auto">${task.name}</div></foreignObject>
    ${isMapped && children > 0 ? html`${parts.map((part) => html`<rect key=${part.group} class=${`fill of-${part.group}`} x=${part.x} y="31" width=${part.width} height="6" />`)}
      <text class="small-text" x="10" y="48">${number(children)}${again ? ` · ${number(again)} ↻` : ""}</text>` : html`<text class="small-text" x="10" y="44">${words}${again ? " ↻" : ""}</text>`}
  </a>`;
}

/** Follow an edge with an arrow key. */
function walk(event, layout) {
  const at = event.target instanceof Element ? event.target.closest("[data-task]")?.getAttribute("data-task") : null;
  if (!at) return;
  const own = layout.nodes.get(at);
  const next = (() => {
    if (event.key === "ArrowRight") return layout.edges.filter((edge) => edge.from === at).map((edge) => edge.to);
    if (event.key === "ArrowLeft") return layout.edges.filter((edge) => edge.to === at).map((edge) => edge.from);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const way = event.key === "ArrowDown" ? 1 : -1;
      return [...layout.nodes].filter(([, place]) => own && Math.abs(place.x - own.x) < NODE.width && (place.y - own.y) * way > 0).sort(([, a], [, b]) => (a.y - b.y) * way).map(([id]) => id);
    }
    return [];
  })();
  if (!next.length) return;
  event.preventDefault();
  const focus = () => {
    const element = document.querySelector(`.graph [data-task="${CSS.escape(next[0])}"]`);
    if (element instanceof SVGElement) element.focus();
  };
  const place = layout.nodes.get(next[0]);
  const box = event.currentTarget.parentElement;
  if (Math.abs(place.x - own.x) > NODE.width || Math.abs(place.y - own.y) > NODE.height) box.scrollTo(place.x - box.clientWidth / 2, place.y - box.clientHeight / 2);
  setTimeout(focus, 50); // what comes into view is drawn first
}

