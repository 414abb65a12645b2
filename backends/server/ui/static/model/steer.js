// What people ask of a flow run or of one of its task runs: from what was typed to the value of a directive.

import { readJson } from "./json.js";

const UNITS = new Map([["s", 1], ["m", 60], ["h", 3600], ["d", 86_400]]);

/** A value as people type it. @param {string} text @returns {unknown} */
export function json(text) {
  try {
    return readJson(text);
  } catch {
    throw new Error('A value is JSON: 3, "text", [1, 2], {"a": 1}, true, null.');
  }
}

/** A length of time in seconds. @param {string} text */
export function seconds(text) {
  const found = /^(\d+)\s*([smhd])$/.exec(text.trim());
  if (!found) throw new Error(`A length of time is a number and one of s, m, h and d, as in 2h, not ${text}.`);
  return Number(found[1]) * (UNITS.get(found[2]) ?? 1);
}

/** A number of places, or null where there is to be no limit. @param {string} text */
export function places(text) {
  if (text.trim() === "none") return null;
  if (!/^\d+$/.test(text.trim())) throw new Error(`A limit is a whole number, or none, not ${text}.`);
  return Number(text);
}

/**
 * Other limits for a flow run: what is left empty stays as it is, and "none" ends a limit.
 * @param {{concurrency: string, tags: string, rate: string, timeout: string}} typed @returns {Record<string, unknown>}
 */
export function limits(typed) {
  /** @type {Record<string, unknown>} */
  const asked = {};
  if (typed.concurrency.trim()) asked.concurrency = places(typed.concurrency);
  if (typed.tags.trim()) asked.tags = Object.fromEntries(typed.tags.trim().split(/[\s,]+/).map(tagged));
  if (typed.rate.trim()) asked.rate = rate(typed.rate.trim());
  if (typed.timeout.trim()) asked.timeout = typed.timeout.trim() === "none" ? null : seconds(typed.timeout);
  if (!Object.keys(asked).length) throw new Error("Name at least one limit.");
  return asked;
}

/** @param {string} text @returns {[string, number | null]} */
function tagged(text) {
  const at = text.lastIndexOf("=");
  if (at < 1) throw new Error(`The limit of a tag is written as db=2, not as ${text}.`);
  return [text.slice(0, at), places(text.slice(at + 1))];
}

/** @param {string} text */
function rate(text) {
  if (text === "none") return null;
  const [count, period] = text.split("/");
  if (period === undefined) throw new Error(`A rate is written as 10/1s, not as ${text}.`);
  return { count: places(count), period: seconds(period) };
}
