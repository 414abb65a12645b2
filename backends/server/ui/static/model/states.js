// States: each has a word, a shape and a group; the group has the colour.
import { number } from "./text.js";

/** @typedef {{symbol: string, group: string}} Look */

export const FAILED = ["Failed", "TriggerFailed", "TimedOut", "ValidationFailed"];

/** @type {[string, string, string[]][]} */
const SHAPES = [
  ["failed", "✕", FAILED],
  ["paused", "‖", ["Paused"]],
  ["retrying", "↻", ["Retrying"]],
  ["running", "◐", ["Running"]],
  ["running", "↻", ["Looped"]],
  ["cancelled", "⊘", ["Cancelling", "Cancelled"]],
  ["pending", "○", ["Submitted", "Queued", "Resume", "Scheduled", "Pending"]],
  ["skipped", "–", ["Skipped"]],
  ["success", "✓", ["Success", "Finished"]],
  ["success", "▤", ["Mapped"]],
  ["success", "⚡", ["Cached"]],
];

/** @type {Map<string, Look>} */
const LOOKS = new Map(SHAPES.flatMap(([group, symbol, names]) => names.map((name) => [name, { symbol, group }])));

/** The groups, what is wrong first. */
export const GROUPS = [...new Set(SHAPES.map(([group]) => group))];

export const WANTED = [...FAILED, "Paused", "Retrying"];
const OVER = new Set([...FAILED, "Success", "Mapped", "Cached", "Finished", "Skipped", "Cancelled"]);

/** @param {string | null | undefined} state @returns {Look} */
export function look(state) {
  return LOOKS.get(state ?? "Pending") ?? { symbol: "•", group: "pending" };
}

/** @param {string | null | undefined} state */
export function isFinished(state) {
  return OVER.has(state ?? "");
}

/** Whether somebody works on it now. @param {string | null | undefined} state */
export function isBusy(state) {
  return look(state).group === "running" || state === "Cancelling";
}

/** The states of a group. @param {string} group */
export function statesOf(group) {
  return [...LOOKS].filter(([, each]) => each.group === group).map(([name]) => name);
}

/** The sum for each key. @param {Iterable<[string, number]>} counts @returns {Map<string, number>} */
export function tally(counts) {
  const sums = new Map();
  for (const [key, count] of counts) sums.set(key, (sums.get(key) ?? 0) + count);
  return sums;
}

/**
 * How many of each group, in the order of GROUPS; those without any are left out.
 * @param {Iterable<[string, number]>} counts @returns {{group: string, count: number}[]}
 */
export function byGroup(counts) {
  const sums = tally([...counts].map(([state, count]) => [look(state).group, count]));
  return GROUPS.map((group) => ({ group, count: sums.get(group) ?? 0 })).filter((each) => each.count);
}

/** How many of each group, in words. @param {{group: string, count: number}[]} groups */
export function inWords(groups) {
  return groups.map((each) => `${number(each.count)} ${each.group}`).join(", ");
}

/** The group that says most of several. @param {Iterable<[string, number]>} counts */
export function worst(counts) {
  const found = byGroup(counts);
  return found.length ? found[0].group : "pending";
}

/** The shape of a group. @param {string} group */
export function shapeOf(group) {
  return SHAPES.find(([of]) => of === group)?.[1] ?? "○";
}
