// Time as people read it: in the zone they chose, with how long ago, by the clock of the server.
import { signal } from "../vendor/signals.js";
import { keep, kept } from "./kept.js";

export const browserZone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

/** The name of the zone that moments are shown in. */
export const zone = signal(kept("zone") ?? browserZone);

/** Milliseconds by which the clock of the server is ahead of the browser's. */
export const ahead = signal(0);

/** The time now, by the clock of the server; it ticks once a second while somebody looks. */
export const now = signal(Date.now());

/** @param {string} name */
export function isZone(name) {
  try {
    new Intl.DateTimeFormat("en", { timeZone: name });
    return true;
  } catch {
    return false;
  }
}

/** The zones to choose from, the browser's and UTC first. */
export function zones() {
  return [...new Set([browserZone, "UTC", ...Intl.supportedValuesOf("timeZone")])];
}

/** @param {string} name */
export function chooseZone(name) {
  zone.value = isZone(name) ? name : browserZone;
  keep("zone", zone.value);
}

/** Take in the clock of the server. @param {string | null} date the Date header of an answer */
export function hearClock(date) {
  const heard = date ? Date.parse(date) : NaN;
  // The header has whole seconds: half a one is the best guess at the rest.
  if (!Number.isNaN(heard) && Math.abs(heard + 500 - Date.now() - ahead.value) > 1500) ahead.value = heard + 500 - Date.now();
}

export function tick() {
  now.value = Date.now() + ahead.value;
}

/** @type {Map<string, Intl.DateTimeFormat>} */
const formats = new Map();

/** In the way of Sweden, which is that of ISO 8601. @param {string} name @param {Intl.DateTimeFormatOptions} options */
function format(name, options) {
  const key = `${name} ${zone.value}`;
  let found = formats.get(key);
  if (!found) formats.set(key, (found = new Intl.DateTimeFormat("sv", { timeZone: zone.value, ...options })));
  return found;
}

/** @param {string | null | undefined} text @returns {number | null} */
export function milliseconds(text) {
  const moment = text ? Date.parse(text) : NaN;
  return Number.isNaN(moment) ? null : moment;
}

/** As the server reads a moment. @param {number} moment */
export function iso(moment) {
  return new Date(moment).toISOString();
}

/** The two moments of an address, as they are written there; null if they are none. @param {string | null} text */
export function interval(text) {
  const ends = (text ?? "").split("~");
  return ends.length === 2 && ends.every((each) => milliseconds(each) !== null) ? ends : null;
}

/** The time of day, with the date if it is another day. @param {number} moment */
export function clock(moment) {
  return day(moment) === day(now.peek()) ? ofDay(moment) : `${day(moment)} ${ofDay(moment)}`;
}

/** @param {number} moment */
function ofDay(moment) {
  return format("time", { timeStyle: "medium" }).format(moment);
}

/** @param {number} moment */
export function day(moment) {
  return format("day", {}).format(moment);
}

/** The moment when the clocks of a zone show a time. @param {string} name @param {string} text as 2026-12-01T06:00 */
export function momentIn(name, text) {
  const wanted = Date.parse(`${text}Z`);
  const shown = new Intl.DateTimeFormat("sv", { timeZone: name, dateStyle: "short", timeStyle: "medium" });
  let moment = wanted;
  // where clocks are put forward or back the first guess may be on the other side of it
  for (let turn = 0; turn < 2; turn += 1) moment += wanted - Date.parse(`${shown.format(moment).replace(" ", "T")}Z`);
  return moment;
}

/** In full, with milliseconds and the zone. @param {number} moment */
export function full(moment) {
  const offset = format("offset", { timeZoneName: "longOffset" }).formatToParts(moment);
  const name = offset.find((part) => part.type === "timeZoneName")?.value ?? "";
  return `${day(moment)} ${precise(moment)} ${zone.value} (${name.replace("GMT", "UTC").replace("\u2212", "-")})`;
}

/** The time of day with milliseconds, as beside a line of a log. @param {number} moment */
export function precise(moment) {
  return `${ofDay(moment)}.${String(Math.floor(moment) % 1000).padStart(3, "0")}`;
}

/** How long, in two units at most. @param {number} ms */
export function duration(ms) {
  if (ms < 0) return "0 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return inUnits(seconds, 60, "min", "s");
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? inUnits(minutes, 60, "h", "min") : inUnits(hours, 24, "d", "h");
}

/** @param {number} count of the small unit @param {number} size of the large one @param {string} large @param {string} small */
function inUnits(count, size, large, small) {
  return `${Math.floor(count / size)} ${large}${count % size ? ` ${count % size} ${small}` : ""}`;
}

/** @param {number} moment */
export function relative(moment) {
  const gone = now.value - moment;
  if (Math.abs(gone) < 1000) return "now";
  return gone > 0 ? `${duration(Math.floor(gone / 1000) * 1000)} ago` : `in ${duration(Math.ceil(-gone / 1000) * 1000)}`;
}
