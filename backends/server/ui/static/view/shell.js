// The frame around every view: where one can go, whether it is live, the zone, the theme, who is signed in.
import { html } from "../html.js";
import { useEffect, useLayoutEffect, useRef } from "../vendor/hooks.js";
import { effect, signal } from "../vendor/signals.js";
import { ask, link, locked, outdated, reconnect, signIn, signOut } from "../api.js";
import { keep, kept } from "../model/kept.js";
import { go, href, parts, set } from "../model/route.js";
import { browserZone, chooseZone, clock, duration, now, zone, zones } from "../model/time.js";
import { WHO } from "../model/queries.js";
import { Button, Choice, Facts, Small, useDoing } from "./kit.js";

/** What the key allows, and its name. */
export const who = signal({ name: (null), scopes: (["read"]), version: "" });

/** How many task runs wait for somebody. */
export const paused = signal(0);

export const may = (scope) => who.value.scopes.includes(scope);

export async function introduce() {
  const { auth_info: info, api } = await ask(WHO);
  who.value = { name: info.key_name, scopes: info.scopes, version: api.flowloop };
}

const theme = signal(kept("theme") ?? "auto");

const darkness = matchMedia("(prefers-color-scheme: dark)");

export function applyTheme() {
  document.documentElement.dataset.theme = theme.value === "auto" ? (darkness.matches ? "dark" : "light") : theme.value;
}

darkness.addEventListener("change", applyTheme);

function nextTheme() {
  theme.value = { auto: "light", light: "dark", dark: "auto" }[theme.value] ?? "auto";
  keep("theme", theme.value);
  applyTheme();
}

const PLACES = [
  ["runs", "Runs"],
  ["flows", "Flows"],
  ["inbox", "Inbox"],
  ["workers", "Workers"],
  ["tail", "Tail"],
];

export function Shell({ children }) {
  const here = parts.value[0] ?? "runs";
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.querySelector("main")?.focus(); }}>Skip to the content</a>
    <header>
      <a class="brand" href=${href(["runs"])}>flowloop</a>
      <nav aria-label="Views">${PLACES.map(([id, label]) => html`<a key=${id} href=${href([id])} aria-current=${here === id ? "page" : null}>${label}${id === "inbox" && paused.value > 0 && html` <span class="badge of-paused"><span aria-hidden="true">‖ </span>${paused.value}<span class="hidden"> waiting</span></span>`}</a>`)}</nav>
      <${Button} class="search" onClick=${() => go(href(["search"]))}>Search <kbd>/</kbd><//>
      <${Link} />
      <${Zone} />
      <${Button} class="plain" onClick=${nextTheme} title="Change the theme">${{ auto: "◐", light: "☀", dark: "☾" }[theme.value]}<span class="hidden">Theme: ${theme.value}</span><//>
      <${Who} />
    </header>
    ${outdated.value && html`<p class="notice" role="status">A new version of this page is there. <${Small} onClick=${() => location.reload()}>Reload<//></p>`}
    <main id="main" tabindex="-1">${locked.value && html`<${SignIn} />`}<div inert=${locked.value}>${children}</div></main>
    <footer>flowloop ${who.value.version} · <a href="../graphql" target="_self">GraphiQL</a> · <${Button} class="linklike" onClick=${() => (help.value = true)}>Keys<//></footer>
    ${help.value && html`<${Help} />`}`;
}

/** What would be lost with the page: what is open or being written, and what nobody can read again. */
const KEEPS = "dialog[open], form.form, .sign-in, [aria-label='What happened'] li";

/** Take another version of the page by itself where nothing is lost by it: until somebody touches a view its address says all of it. */
export function listenToVersions() {
  let touched = false;
  let shown = "";
  for (const kind of ["keydown", "pointerdown", "wheel"]) addEventListener(kind, () => (touched = true), { capture: true, passive: true });
  const take = () => {
    // once: it would go on for ever where two versions are served
    if (touched || history.state === outdated.peek() || document.querySelector(KEEPS)) return;
    history.replaceState(outdated.peek(), "");
    location.reload();
  };
  effect(() => {
    const view = parts.value.slice(0, 2).join("/");
    if (view !== shown) touched = false;
    shown = view;
    if (outdated.value) setTimeout(take); // when the view is there
  });
}

function Link() {
  const { mode, since, again, why } = link.value;
  const words = {
    connecting: "connecting",
    live: "live",
    stream: "live (stream)",
    polling: `live (polling)${why && `: ${why}`}`,
    away: `away since ${clock(since)}`,
  }[mode];
  const wait = mode === "away" && again > now.value ? `, trying again in ${duration(again - now.value)}` : "";
  return html`<span class=${`link is-${mode}`} role="status"><span aria-hidden="true">●</span> ${words}${wait}${mode === "away" && html` <${Small} onClick=${reconnect}>now<//>`}</span>`;
}

function Zone() {
  const change = (name) => {
    chooseZone(name);
    set({ zone: zone.value === browserZone ? null : zone.value });
  };
  return html`<span class="zone"><${Choice} label=${html`<span class="hidden">Time zone</span>`} value=${zone.value} change=${change} options=${zones()} /></span>`;
}

function Who() {
  const { name, scopes } = who.value;
  if (!name) return scopes.includes("write") ? null : html`<span class="faint">read only</span>`;
  return html`<span class="who">key: <b>${name}</b>${scopes.includes("answer") ? "" : " (read only)"} <${Small} onClick=${signOut}>Sign out<//></span>`;
}

function SignIn() {
  const field = useRef(null);
  useEffect(() => field.current?.focus(), []);
  const { start, refusal } = useDoing(async () => {
    const isFirst = !who.peek().name;
    await signIn(field.current?.value ?? "");
    await introduce();
    if (isFirst) location.reload(); // nothing could be read before
  });
  return html`<form class="panel sign-in" onSubmit=${start} aria-labelledby="sign-in">
    <h1 id="sign-in">Sign in</h1>
    <p>This server asks for an API key: <code>flowloop db create-key NAME</code> makes one.</p>
    <label>API key <input ref=${field} type="password" name="key" autocomplete="current-password" required /></label> <button type="submit" class="primary">Sign in</button>
    ${refusal}
  </form>`;
}

// -- keys ---------------------------------------------------------------------------------------------------

const help = signal(false);

const KEYS = [
  ["/", "search"],
  ["g r, g f, g i, g w, g t", "go to runs, flows, inbox, workers, tail"],
  ["j, k or ↓ ↑", "next, previous row"],
  ["Enter", "open"],
  ["n, p", "next, previous failed task run"],
  ["l, t", "logs, task runs of the run"],
  ["[ ]", "attempt before, attempt after"],
  ["f", "follow the log"],
  ["space", "hold the tail, and let it go on"],
  ["?", "this list"],
  ["Esc", "back"],
];

function Help() {
  const dialog = useRef(null);
  useEffect(() => dialog.current?.showModal(), []);
  return html`<dialog ref=${dialog} aria-labelledby="keys" onClose=${() => (help.value = false)}>
    <h2 id="keys">Keys</h2>
    <${Facts} rows=${KEYS.map(([key, what]) => [html`<kbd>${key}</kbd>`, what])} />
    <div class="buttons"><${Button} onClick=${() => dialog.current?.close()}>Close<//></div>
  </dialog>`;
}

let chord = false;

/** What keys do: those of every view, and of what is shown. */
const taken = new Set([{ current: new Map([
  ["g", () => (chord = true)],
  ["/", () => go(href(["search"]))],
  ["?", () => (help.value = true)],
  ["Escape", () => history.back()],
  ["j", () => step(1)],
  ["k", () => step(-1)],
]) }]);

export function listenToKeys() {
  addEventListener("keydown", (event) => {
    const target = event.target instanceof HTMLElement ? event.target : null;
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (/^Arrow(Down|Up)$/.test(event.key) && target?.closest("[data-row], [type=search]")) {
      event.preventDefault();
      return step(event.key === "ArrowDown" ? 1 : -1);
    }
    if (target?.closest("input, select, textarea")) {
      if (event.key === "Escape") target.blur();
      return;
    }
    if (event.key === " " && target?.closest("button, summary, a")) return;
    const place = chord && PLACES.find(([id]) => id[0] === event.key);
    chord = false;
    const call = place ? () => go(href([place[0]])) : [...taken].map((keys) => keys.current.get(event.key)).find(Boolean);
    if (!call) return;
    event.preventDefault();
    call();
  });
}

/** Move to the next row that can be opened. */
export function step(by) {
  const rows = [...document.querySelectorAll("main [data-row]")].filter((row) => row instanceof HTMLElement && row.offsetParent !== null);
  const at = rows.indexOf(document.activeElement);
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by))];
  if (next instanceof HTMLElement) next.focus();
}

/** Have a view answer keys while it is shown. */
export function useKeys(keys) {
  const own = useRef(null);
  own.current = new Map(Object.entries(keys));
  useLayoutEffect(() => {
    taken.add(own);
    return () => void taken.delete(own);
  }, []);
}

