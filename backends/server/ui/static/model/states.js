// States: each has a word, a shape and a group; the group has the colour.

/** @typedef {{symbol: string, group: string}} Look */

/** @type {Map<string, Look>} */
const LOOKS = new Map(
  Object.entries({
    Failed: { symbol: "✕", group: "failed" },
    TriggerFailed: { symbol: "✕", group: "failed" },
    TimedOut: { symbol: "✕", group: "failed" },
    ValidationFailed: { symbol: "✕", group: "failed" },
    Paused: { symbol: "‖", group: "paused" },
    Retrying: { symbol: "↻", group: "retrying" },
    Looped: { symbol: "↻", group: "running" },
    Running: { symbol: "◐", group: "running" },
    Cancelling: { symbol: "⊘", group: "cancelled" },
    Submitted: { symbol: "○", group: "pending" },
    Queued: { symbol: "○", group: "pending" },
    Resume: { symbol: "○", group: "pending" },
    Scheduled: { symbol: "○", group: "pending" },
    Pending: { symbol: "○", group: "pending" },
    Success: { symbol: "✓", group: "success" },
    Mapped: { symbol: "▤", group: "success" },
    Cached: { symbol: "⚡", group: "success" },
    Finished: { symbol: "✓", group: "success" },
    Skipped: { symbol: "–", group: "skipped" },
    Cancelled: { symbol: "⊘", group: "cancelled" },
  }),
);

/** The groups, what is wrong first. */
export const GROUPS = ["failed", "paused", "retrying", "running", "cancelled", "pending", "skipped", "success"];

const RANK = new Map(GROUPS.map((group, rank) => [group, rank]));

export const FAILED = ["Failed", "TriggerFailed", "TimedOut", "ValidationFailed"];
export const WANTED = [...FAILED, "Paused", "Retrying"];
export const FINISHED = [...FAILED, "Success", "Mapped", "Cached", "Finished", "Skipped", "Cancelled"];
const OVER = new Set(FINISHED);

/** @param {string | null | undefined} state @returns {Look} */
export function look(state) {
  return LOOKS.get(state ?? "Pending") ?? { symbol: "•", group: "pending" };
}

/** @param {string | null | undefined} state */
export function isFinished(state) {
  return OVER.has(state ?? "");
}

/** The states of a group. @param {string} group */
export function statesOf(group) {
  return [...LOOKS].filter(([, each]) => each.group === group).map(([name]) => name);
}

/**
 * How many of each group, in the order of GROUPS; those without any are left out.
 * @param {Iterable<[string, number]>} counts @returns {{group: string, count: number}[]}
 */
export function byGroup(counts) {
  const sums = new Map();
  for (const [state, count] of counts) {
    const { group } = look(state);
    sums.set(group, (sums.get(group) ?? 0) + count);
  }
  return GROUPS.filter((group) => sums.get(group)).map((group) => ({ group, count: sums.get(group) }));
}

/** The group that says most of several. @param {Iterable<[string, number]>} counts */
export function worst(counts) {
  const found = byGroup(counts);
  return found.length ? found[0].group : "pending";
}

/** @param {string} group */
export function rank(group) {
  return RANK.get(group) ?? GROUPS.length;
}
