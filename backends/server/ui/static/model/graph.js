// The graph of a flow: laid out once for each version of it; states only change how its nodes look.

export const NODE = { width: 190, height: 54 };
const LARGEST = 400;
const MOST_EDGES = 1200;

/** @typedef {{id: string, name: string, mapped: boolean}} Task */
/** @typedef {{upstream_task_id: string, downstream_task_id: string, mapped: boolean, key: string | null}} Edge */
/** @typedef {{width: number, height: number, nodes: Map<string, {x: number, y: number}>, edges: {from: string, to: string, path: string, mapped: boolean}[]}} Layout */

/** Whether a graph can be drawn so that it can be read. @param {Task[]} tasks @param {Edge[]} edges */
export function isDrawable(tasks, edges) {
  return tasks.length <= LARGEST && edges.length <= MOST_EDGES;
}

/** @param {any} dagre @param {Task[]} tasks @param {Edge[]} edges @returns {Layout} */
export function layOut(dagre, tasks, edges) {
  const graph = new dagre.Graph();
  graph.setGraph({ rankdir: "LR", nodesep: 18, ranksep: 48, marginx: 8, marginy: 8 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const task of tasks) graph.setNode(task.id, { ...NODE });
  const joined = new Map();
  for (const edge of edges) joined.set(`${edge.upstream_task_id} ${edge.downstream_task_id}`, edge);
  for (const edge of joined.values()) graph.setEdge(edge.upstream_task_id, edge.downstream_task_id);
  dagre.default.layout(graph);
  const nodes = new Map(tasks.map((task) => [task.id, { x: graph.node(task.id).x - NODE.width / 2, y: graph.node(task.id).y - NODE.height / 2 }]));
  const lines = [...joined.values()].map((edge) => ({
    from: edge.upstream_task_id,
    to: edge.downstream_task_id,
    mapped: edge.mapped,
    path: curve(graph.edge(edge.upstream_task_id, edge.downstream_task_id).points),
  }));
  const { width, height } = graph.graph();
  return { width, height, nodes, edges: lines };
}

/** @param {{x: number, y: number}[]} points */
function curve(points) {
  const [first, ...rest] = points;
  let path = `M${round(first.x)} ${round(first.y)}`;
  for (let at = 0; at < rest.length - 1; at += 1) {
    const [here, next] = [rest[at], rest[at + 1]];
    const last = at === rest.length - 2;
    const end = last ? next : { x: (here.x + next.x) / 2, y: (here.y + next.y) / 2 };
    path += ` Q${round(here.x)} ${round(here.y)} ${round(end.x)} ${round(end.y)}`;
  }
  if (rest.length === 1) path += ` L${round(rest[0].x)} ${round(rest[0].y)}`;
  return path;
}

/** @param {number} value */
const round = (value) => Math.round(value * 10) / 10;

/** The tasks in an order in which each comes after those before it. @param {Task[]} tasks @param {Edge[]} edges @returns {Task[]} */
export function inOrder(tasks, edges) {
  const waiting = new Map(tasks.map((task) => [task.id, 0]));
  /** @type {Map<string, string[]>} */
  const after = new Map();
  for (const edge of edges) {
    waiting.set(edge.downstream_task_id, (waiting.get(edge.downstream_task_id) ?? 0) + 1);
    after.set(edge.upstream_task_id, [...(after.get(edge.upstream_task_id) ?? []), edge.downstream_task_id]);
  }
  const byId = new Map(tasks.map((task) => [task.id, task]));
  const ready = tasks.filter((task) => !waiting.get(task.id));
  /** @type {Task[]} */
  const found = [];
  while (ready.length) {
    const task = /** @type {Task} */ (ready.shift());
    found.push(task);
    for (const next of after.get(task.id) ?? []) {
      waiting.set(next, (waiting.get(next) ?? 1) - 1);
      const then = byId.get(next);
      if (then && !waiting.get(next)) ready.push(then);
    }
  }
  return found.length === tasks.length ? found : tasks;
}
