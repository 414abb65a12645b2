// The address is the view: its path says what is shown, its query how.
import { computed, signal } from "../vendor/signals.js";
import { browserZone, zone } from "./time.js";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Where the page lives: all addresses are relative to it. */
export const base = () => new URL(document.baseURI);

const address = signal(current());

function current() {
  const here = new URL(location.href);
  const path = here.pathname.startsWith(base().pathname) ? here.pathname.slice(base().pathname.length) : "";
  return { path, query: here.search };
}

/** The parts of the path, decoded. */
export const parts = computed(() => address.value.path.split("/").filter(Boolean).map(decoded));

/** The query, to be read. */
export const query = computed(() => new URLSearchParams(address.value.query));

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @param {string | null | undefined} text */
export function isId(text) {
  return UUID.test(text ?? "");
}

/**
 * An address within the page.
 * @param {(string | number)[]} path @param {Record<string, string | null | undefined>} [given]
 */
export function href(path, given = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(given)) if (value) search.set(name, value);
  if (zone.peek() !== browserZone) search.set("zone", zone.peek());
  return whole(path.map((part) => encodeURIComponent(part)).join("/"), search);
}

/** @param {string} path @param {URLSearchParams} search */
const whole = (path, search) => (path || "./") + (search.size ? `?${search}` : "");

/**
 * The address of a task run, beside the part of its run that is shown.
 * @param {string} run @param {string} task @param {string | number} index @param {string | null} [tab]
 */
export function taskRunAddress(run, task, index, tab) {
  return href(["runs", run, "tasks", task, index], { tab: tab ?? query.value.get("tab") });
}

/** @param {string} where an address relative to the page @param {{replace?: boolean}} [how] */
export function go(where, { replace = false } = {}) {
  const target = new URL(where, document.baseURI);
  if (replace) history.replaceState(history.state, "", target);
  else history.pushState(null, "", target);
  address.value = current();
}

/** Change some of the query, and leave the rest. @param {Record<string, string | null | undefined>} given */
export function set(given) {
  const search = new URLSearchParams(address.value.query);
  for (const [name, value] of Object.entries(given)) {
    if (value) search.set(name, value);
    else search.delete(name);
  }
  go(whole(address.value.path, search), { replace: true });
}

/** Follow the links of the page without loading it anew. */
export function listenToLinks() {
  addEventListener("popstate", () => (address.value = current()));
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const target = new URL(link.getAttribute("href") ?? "", document.baseURI);
    if (link.hasAttribute("target") || link.hasAttribute("download") || target.origin !== location.origin) return;
    if (!target.pathname.startsWith(base().pathname)) return;
    event.preventDefault();
    go(target.href);
    document.querySelector("main")?.focus({ preventScroll: false });
  });
}
