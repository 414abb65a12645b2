// What all views are made of: questions with an answer, states, times, bars, dialogs.
import { html } from "../html.js";
import { useEffect, useLayoutEffect, useRef, useState } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { ask, link, locked } from "../api.js";
import { byGroup, inWords, isBusy, isFinished, look, shapeOf } from "../model/states.js";
import { ran, sum } from "../model/run.js";
import { clock, duration, full, iso, milliseconds, now, relative } from "../model/time.js";
import { href, query, set } from "../model/route.js";
import { Typed, encode } from "../model/json.js";
import { LONG, bytes, number, pieces, visible } from "../model/text.js";

/** From this depth a value is folded. */
const DEEP = 2;
const MOST_ENTRIES = 50;

/** The answer to a question, asked again when its variables change; what was answered before stays until then. `what` is named by the problem. */
export function useAnswer(text, variables, what) {
  const [state, setState] = useState({ data: (null), error: (null), loading: true, of: "" });
  const [turn, setTurn] = useState(0);
  const key = JSON.stringify([text, variables]);
  const asked = useRef(0);
  // what could not be asked is asked as soon as it can be
  const isLocked = locked.value;
  const isAway = state.error?.code === "AWAY" && link.value.mode === "away";
  useEffect(() => {
    if (text === null || isLocked || isAway) return;
    const mine = (asked.current += 1);
    setState((before) => ({ ...before, loading: true }));
    ask(text, variables).then(
      (data) => mine === asked.current && setState({ data, error: null, loading: false, of: key }),
      (error) => mine === asked.current && setState((before) => ({ ...before, error, loading: false })),
    );
  }, [key, turn, isLocked, isAway]);
  const again = () => setTurn((before) => before + 1);
  return { ...state, again, problem: html`<${Problem} error=${state.error} again=${again} what=${what} />` };
}

export function useTitle(title) {
  useEffect(() => {
    document.title = `${visible(title)} · flowloop`;
  }, [title]);
}

export function Problem({ error, again, what }) {
  if (!error) return null;
  return html`<p class="problem" role="alert">
    ${what} could not be read: ${error.message} <${Button} onClick=${again}>Try again<//>
  </p>`;
}

export function State({ state, bare }) {
  const { symbol, group } = look(state);
  return html`<span class=${`state of-${group}`}><span class="symbol" aria-hidden="true">${symbol}</span>${bare ? html`<span class="hidden">${state ?? "Pending"}</span>` : html` ${state ?? "Pending"}`}</span>`;
}

export function Time({ at, ago }) {
  const moment = typeof at === "number" ? at : milliseconds(at);
  if (moment === null || moment === undefined) return html`<span class="faint">–</span>`;
  return html`<time datetime=${iso(moment)} title=${`${full(moment)}\n${iso(moment)}`}>${ago ? relative(moment) : clock(moment)}</time>`;
}

/** How long a run has taken, in all its attempts if these are known: it goes on counting while it runs. */
export function Took({ run, tried }) {
  const said = (span, goesOn) => html`<span class="number">${span === null ? "" : duration(span)}${goesOn ? " …" : ""}</span>`;
  if (tried?.length > 1) return said(ran(tried, now.value), tried.at(-1).to === null);
  const from = milliseconds(run.start_time);
  const over = isFinished(run.state) ? milliseconds(run.end_time) : isBusy(run.state) ? now.value : null;
  // what is mapped has no end of its own, and what waits to begin again does not run
  return from === null || over === null ? said(null) : said(over - from, !isFinished(run.state));
}

/** A bar of how many are in each group of states. */
export function Bar({ counts, wide }) {
  const groups = byGroup(counts);
  const all = sum(groups.map((each) => each.count));
  if (!all) return null;
  const words = inWords(groups);
  return html`<span class=${wide ? "bar wide" : "bar"} role="img" aria-label=${words} title=${words}>
    ${[...groups].reverse().map((each) => html`<span key=${each.group} class=${`part of-${each.group}`} style=${{ flexGrow: each.count }}></span>`)}
  </span>`;
}

export function Counts({ counts }) {
  const groups = byGroup(counts);
  return html`<span class="counts">${groups.map(({ group, count }) => html`<span key=${group} class=${`state of-${group}`} title=${group}><span class="number">${number(count)}</span> <span aria-hidden="true">${shapeOf(group)}</span><span class="hidden">${group}</span></span>`)}</span>`;
}

/** Text of users: as text, folded if it is long, with links and the colours of a terminal. */
export function Words({ text, limit = LONG }) {
  const open = useSignal(false);
  if (!text) return null;
  const isLong = text.length > limit;
  const shown = isLong && !open.value ? text.slice(0, limit) : text;
  return html`${pieces(shown).map((piece) => piece.href
    ? html`<a href=${piece.href} target="_blank" rel="noopener noreferrer" class=${piece.style || null}>${piece.text}</a>`
    : piece.style ? html`<span class=${piece.style}>${piece.text}</span>` : piece.text)}
  ${isLong && html`<${Small} onClick=${() => (open.value = !open.value)}>${open.value ? "show less" : `… show all ${bytes(text.length)}`}<//>`}`;
}

/** A name, with what cannot be seen made visible. */
export function Name({ of }) {
  return html`<span class="name" dir="auto">${of?.trim() ? of : "(no name)"}</span>`;
}

/** A value, of which what lies deep is folded, and of a long list the beginning is there. */
export function Json({ value }) {
  return html`<pre class="json" tabindex="0"><${Value} value=${value} /></pre>`;
}

function Value({ value, name = "", depth = 0 }) {
  const most = useSignal(MOST_ENTRIES);
  const isList = Array.isArray(value);
  const entries = value instanceof Typed || typeof value === "string" ? [] : Object.entries(value ?? {});
  if (!entries.length) return html`<div><${Words} text=${name + encode(value)} /></div>`;
  return html`<${Fold} open=${depth < DEEP} title=${name + (isList ? `[${entries.length}]` : `{${entries.length}}`)}>
    ${entries.slice(0, most.value).map(([key, each]) => html`<${Value} key=${key} name=${isList ? "" : `${JSON.stringify(key)}: `} value=${each} depth=${depth + 1} />`)}
    ${entries.length > most.value && html`<${Small} onClick=${() => (most.value += MOST_ENTRIES)}>${number(entries.length - most.value)} more<//>`}<//>`;
}

/** Copies a text; where the browser has no clipboard for this page, or keeps it, the text is there to be copied by hand. */
export function Copy({ text, label }) {
  const done = useSignal(false);
  const isRefused = useSignal(false);
  const field = useRef(null);
  useLayoutEffect(() => field.current?.select(), [isRefused.value]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      done.value = true;
      setTimeout(() => (done.value = false), 1500);
    } catch {
      isRefused.value = true;
    }
  };
  return html`<${Small} onClick=${copy} disabled=${text === null}><span aria-live="polite">${done.value ? "copied" : label}</span><//>${isRefused.value && html`<input ref=${field} readonly value=${text} aria-label="To be copied by hand" />`}`;
}

/** Copies an address that leads to what has this id. */
export function CopyLink({ id }) {
  return html`<${Copy} text=${new URL(href(["go", id]), document.baseURI).href} label="copy link" />`;
}

/** What is asked of who takes a run up. */
export function Labels({ of }) {
  return (of ?? []).map((label) => html`<span class="label" key=${label}>${label}</span>`);
}

/** What a list says while there is nothing in it. */
export function Empty({ of, children }) {
  return of && !of.length ? html`<p class="empty">${children}</p>` : null;
}

/** A list with a line for each of the rows; `children` say what it says while there are none. */
export function List({ of, row, children }) {
  return html`${children && html`<${Empty} of=${of}>${children}<//>`}<ul class="list">${(of ?? []).map((each) => html`<li key=${each.id ?? each.name}>${row(each)}</li>`)}</ul>`;
}

/** A part of a view, with its heading. */
export function Panel({ title, children }) {
  return html`<section class="panel"><h2>${title}</h2>${children}</section>`;
}

/** Where an error was raised. */
export function Traceback({ text }) {
  return html`<pre class="traceback" tabindex="0"><${Words} text=${text} limit=${12000} /></pre>`;
}

/** What something is called: of which flow, and which child. */
export function What({ flow, name, index = -1 }) {
  return html`<span class="what">${flow && html`<span class="flow"><${Name} of=${flow} /></span> `}<${Name} of=${name} />${index >= 0 && html` <span class="index">[${index}]</span>`}</span>`;
}

/** A line of a list, that leads somewhere: to a flow run, if nowhere else is said. */
export function Entry({ run, to = href(["runs", run.id]), state = run?.state, flow = run?.flow?.name, name = run?.name, index, word, message, current, children }) {
  return html`<a class="entry" data-row href=${to} aria-current=${current}>
    ${state !== undefined && html`<${State} state=${state} bare />`}<${What} flow=${flow} name=${name} index=${index} />
    ${word && html`<span class=${`word of-${look(state).group}`} aria-hidden="true">${state}</span>`}${message !== undefined && html`<span class="message">${message}</span>`}${children}</a>`;
}

/** A choice among groups of states: of one, or of several. */
export function Chips({ groups, chosen, press, of, all }) {
  const chip = (group, words, isChosen, to) => html`<${Button} key=${group} class=${`chip of-${group}`} aria-pressed=${isChosen} onClick=${() => press(to)}>${words}<//>`;
  return html`<span class="chips" role="group" aria-label="State">${all && chip("all", "all", !chosen.length, null)}
    ${groups.map((group) => chip(group, of ? html`${group} <span class="number">${number(of.get(group) ?? 0)}</span>` : group, chosen.includes(group), group))}</span>`;
}

/** A line to be typed into, that is kept in a signal. */
export function Field({ label, of, hint, ...more }) {
  return html`<label>${label} ${hint && html`<small class="faint">${hint}</small> `}<input type="text" value=${of.value} onInput=${(event) => (of.value = event.currentTarget.value)} ...${more} /></label>`;
}

/** A choice, kept in the address where nothing else is done with it. */
export function Choice({ label, name, value = query.value.get(name) ?? "", change = (chosen) => set({ [name]: chosen }), all, options }) {
  return html`<label>${label} <select value=${value} onChange=${(event) => change(event.currentTarget.value)}>
    ${all && html`<option value="">${all}</option>`}${options.map((each) => {
      const [id, words = id] = [each].flat();
      return html`<option key=${id} value=${id}>${words}</option>`;
    })}</select></label>`;
}

/** A piece of text to look for, kept in the address. */
export function Find({ label, name, ...more }) {
  return html`<label>${label} <input type="search" size="14" value=${query.value.get(name) ?? ""} onChange=${(event) => set({ [name]: event.currentTarget.value })} ...${more} /></label>`;
}

/** A button that sends no form. */
export function Button({ children, ...more }) {
  return html`<button type="button" ...${more}>${children}</button>`;
}

export function Small(props) {
  return html`<${Button} class="small" ...${props} />`;
}

/** What is there only while it is open. */
export function Fold({ title, open, children, ...more }) {
  const isOpen = useSignal(open);
  return html`<details open=${isOpen.value} onToggle=${(event) => (isOpen.value = event.currentTarget.open)} ...${more}><summary>${title}</summary>${isOpen.value && children}</details>`;
}

/** A table of facts. */
export function Facts({ head, rows }) {
  return html`<table class="facts">${head && html`<thead><tr>${head.map((name, at) => html`<th scope="col" key=${at}>${name}</th>`)}</tr></thead>`}
    <tbody>${rows.map((cells, at) => html`<tr key=${at}>${cells.map((cell, place) => (head || place ? html`<td key=${place}>${cell}</td>` : html`<th scope="row" key=${place}>${cell}</th>`))}</tr>`)}</tbody></table>`;
}

/** What is done when somebody asks for it, once at a time, and why it was refused. */
export function useDoing(act) {
  const busy = useSignal(false);
  const problem = useSignal("");
  const start = async (event) => {
    event.preventDefault();
    if (busy.value) return;
    busy.value = true;
    problem.value = "";
    try {
      await act();
    } catch (error) {
      problem.value = error.message;
    }
    busy.value = false;
  };
  return { start, busy: busy.value, refusal: problem.value && html`<p class="problem" role="alert">${problem.value}</p>` };
}

/** A question that has to be answered before something is changed. What is busy keeps the focus, which what is disabled would lose. */
export function Dialog({ title, action, close, run, children, danger }) {
  const dialog = useRef(null);
  const { start, busy, refusal } = useDoing(async () => {
    await run();
    close();
  });
  useEffect(() => {
    const from = document.activeElement;
    dialog.current?.showModal();
    return () => from instanceof HTMLElement && from.isConnected && from.focus();
  }, []);
  return html`<dialog ref=${dialog} aria-labelledby="question" onCancel=${close} onClose=${close}>
    <form onSubmit=${start}>
      <h2 id="question">${title}</h2>
      ${children}
      ${refusal}
      <div class="buttons">
        <${Button} onClick=${close}>Leave it<//>
        <button type="submit" class=${danger ? "danger" : "primary"} aria-disabled=${busy}>${action}</button>
      </div>
    </form>
  </dialog>`;
}

/** Call something with an element when its size changes. */
export function useSize(box, call) {
  useEffect(() => {
    const element = box.current;
    const observer = new ResizeObserver(() => call(element));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
}

/** Call something when a value changes, at most so often. */
export function useThrottled(call, value, every = 1000) {
  const last = useRef(0);
  const first = useRef(true);
  const current = useRef(call);
  current.current = call;
  useEffect(() => {
    if (first.current) {
      first.current = false;
      return;
    }
    const wait = Math.max(0, last.current + every - Date.now());
    const timer = setTimeout(() => {
      last.current = Date.now();
      current.current();
    }, wait);
    return () => clearTimeout(timer);
  }, [value]);
}
