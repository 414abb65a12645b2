// The graph of a flow: laid out once for each version of it; states only change how its nodes look.

export const NODE = { width: 190, height: 54 };
const LARGEST = 400;
const LARGEST_IN_COLUMNS = 3000;
const MOST_EDGES = 1200;

/** @typedef {{id: string, name: string, mapped: boolean}} Task */
/** @typedef {{upstream_task_id: string, downstream_task_id: string, mapped: boolean, key: string | null}} Edge */
/** @typedef {{width: number, height: number, nodes: Map<string, {x: number, y: number}>, edges: {from: string, to: string, path: string, mapped: boolean}[]}} Layout */

/** How a graph can be drawn so that it can be read: as a whole, in columns, or not at all. @param {Task[]} tasks @param {Edge[]} edges @returns {"whole" | "columns" | null} */
export function drawn(tasks, edges) {
  if (tasks.length <= LARGEST && edges.length <= MOST_EDGES) return "whole";
  return tasks.length <= LARGEST_IN_COLUMNS && edges.length <= 10 * MOST_EDGES ? "columns" : null;
}

/** What names that differ in their number alone have in common. @param {string} name */
const stem = (name) => name.replace(/[\W_]*\d+\W*$/, "") || name;

/**
 * A column for each depth; tasks of one that are called alike have one node together until it is opened.
 * @param {Task[]} tasks @param {Edge[]} edges @param {Set<string>} opened the ids of such nodes
 * @returns {Layout & {tasks: (Task & {of?: Task[]})[]}}
 */
export function inColumns(tasks, edges, opened) {
  const depth = new Map(tasks.map((task) => [task.id, 0]));
  /** @type {Map<string, string[]>} */
  const after = new Map(tasks.map((task) => [task.id, []]));
  for (const edge of edges) after.get(edge.upstream_task_id)?.push(edge.downstream_task_id);
  /** @type {Map<string, Task[]>} */
  const alike = new Map();
  for (const task of inOrder(tasks, edges)) {
    const own = depth.get(task.id) ?? 0;
    for (const next of after.get(task.id) ?? []) depth.set(next, Math.max(depth.get(next) ?? 0, own + 1));
    const key = `${own} ${stem(task.name)}`;
    alike.set(key, [...(alike.get(key) ?? []), task]);
  }
  const found = { width: 0, height: 0, nodes: new Map(), edges: /** @type {Layout["edges"]} */ ([]), tasks: /** @type {(Task & {of?: Task[]})[]} */ ([]) };
  const home = new Map();
  /** @type {Map<number, number>} */
  const filled = new Map();
  for (const [key, group] of alike) {
    const column = depth.get(group[0].id) ?? 0;
    const isFolded = group.length > 3 && !opened.has(key);
    for (const task of group) home.set(task.id, isFolded ? key : task.id);
    for (const node of isFolded ? [{ id: key, name: `${stem(group[0].name)} …`, mapped: true, of: group }] : group) {
      const row = filled.get(column) ?? 0;
      filled.set(column, row + 1);
      const place = { x: 8 + column * (NODE.width + 48), y: 8 + row * (NODE.height + 18) };
      found.nodes.set(node.id, place);
      found.tasks.push(node);
      found.width = Math.max(found.width, place.x + NODE.width + 12);
      found.height = Math.max(found.height, place.y + NODE.height + 12);
    }
  }
  for (const edge of new Map(edges.map((each) => [`${home.get(each.upstream_task_id)}\n${home.get(each.downstream_task_id)}`, each])).values()) {
    const [from, to] = [home.get(edge.upstream_task_id), home.get(edge.downstream_task_id)];
    const [start, end] = [found.nodes.get(from), found.nodes.get(to)];
    const points = [{ x: start.x + NODE.width, y: start.y + NODE.height / 2 }, { x: end.x, y: end.y + NODE.height / 2 }];
    found.edges.push({ from, to, mapped: edge.mapped, path: curve(points) });
  }
  return found;
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
