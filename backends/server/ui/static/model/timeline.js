// The timeline of a run as numbers: where time falls on the axis, and what a lane shows in each part of it.
import { isFinished, look } from "./states.js";
import { milliseconds } from "./time.js";

/** @typedef {{at: number, running: number, ended: [string, number][]}} Bin */

/**
 * What runs, and what ended, in each bin of a task.
 * @param {{started: [number, number][], stopped: [number, number][], ended: [number, string, number][]}} task @param {number} bins
 * @returns {Bin[]}
 */
export function density(task, bins) {
  const change = new Array(bins + 1).fill(0);
  const begun = new Array(bins).fill(0);
  let running = 0;
  for (const [at, count] of task.started) {
    if (at < 0) running += count;
    else {
      change[at] += count;
      begun[at] += count;
    }
  }
  for (const [at, count] of task.stopped) {
    if (at < 0) running -= count;
    else change[at + 1] -= count;
  }
  /** @type {[string, number][][]} */
  const ended = Array.from({ length: bins }, () => []);
  for (const [at, state, count] of task.ended) if (at >= 0) ended[at].push([state, count]);
  return ended.map((each, at) => {
    running += change[at];
    return { at, running: Math.max(0, running), ended: each };
  });
}

/**
 * Where nothing runs for long: such parts are drawn as a break.
 * @param {Bin[][]} lanes @param {number} bins @param {number} [least] how many bins in a row make a break
 * @returns {[number, number][]} the first bin of each, and the first after it
 */
export function waits(lanes, bins, least = Math.max(4, Math.round(bins / 12))) {
  /** @type {[number, number][]} */
  const found = [];
  let from = -1;
  for (let at = 0; at <= bins; at += 1) {
    const quiet = at < bins && lanes.every((lane) => !lane[at].running && !lane[at].ended.length);
    if (quiet && from < 0) from = at;
    if (!quiet && from >= 0) {
      if (at - from >= least && from > 0 && at < bins) found.push([from, at]);
      from = -1;
    }
  }
  return found;
}

/**
 * The axis: from a bin to a place between 0 and 1, with breaks folded to a narrow gap each.
 * @param {number} bins @param {[number, number][]} breaks
 */
export function axis(bins, breaks, gap = 0.03) {
  const folded = breaks.reduce((sum, [from, to]) => sum + to - from, 0);
  const width = (1 - gap * breaks.length) / Math.max(1, bins - folded);
  /** @param {number} bin */
  return (bin) => {
    let place = bin * width;
    for (const [from, to] of breaks) {
      if (bin >= to) place += gap - (to - from) * width;
      else if (bin > from) place += ((bin - from) / (to - from)) * gap - (bin - from) * width;
    }
    return place;
  };
}

/** Times that are round, to be written below the axis. @param {number} from @param {number} to @param {number} [most] */
export function ticks(from, to, most = 6) {
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 108e5, 216e5, 432e5, 864e5, 1728e5, 6048e5];
  const step = steps.find((each) => (to - from) / each <= most) ?? 6048e5;
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) found.push(at);
  return found;
}

/**
 * A lane of one task run: what it was from when to when. Once it has ended it is nothing, until it begins again.
 * @param {{state: string, timestamp: string}[]} states in their order @param {number} now
 * @returns {{state: string, group: string, kind: "runs" | "waits" | "ends", from: number, to: number}[]}
 */
export function spans(states, now) {
  return states.map(({ state, timestamp }, at) => {
    const from = milliseconds(timestamp) ?? now;
    const next = states[at + 1];
    const { group } = look(state);
    if (isFinished(state)) return { state, group, kind: "ends", from, to: from };
    return { state, group, kind: group === "running" ? "runs" : "waits", from, to: Math.max(from, next ? (milliseconds(next.timestamp) ?? now) : now) };
  });
}

/**
 * Within how many seconds a part of what is counted was done: a bound of the bins, or null for what is longer than all.
 * @param {{up_to: number | null, count: number}[]} bins the short ones first @param {number} part
 */
export function within(bins, part) {
  const all = bins.reduce((sum, each) => sum + each.count, 0);
  let sum = 0;
  return bins.find((each) => (sum += each.count) >= part * all)?.up_to ?? null;
}

/** What a task run was at a moment. @param {{state: string, timestamp: string}[]} states @param {number} moment */
export function stateAt(states, moment) {
  return states.findLast((each) => (milliseconds(each.timestamp) ?? 0) <= moment)?.state ?? "not begun";
}
