// A list of rows of one height, of which only those in view are there.
import { html } from "../html.js";
import { useEffect, useRef } from "../vendor/hooks.js";
import { useSignal } from "../vendor/signals.js";
import { useSize } from "./kit.js";

const ROW = 34;
const BESIDE = 6;

export function Rows({ count, label, row, seen, columns, at }) {
  const box = useRef(null);
  const top = useSignal(0);
  const height = useSignal(400);
  useSize(box, (element) => (height.value = element.clientHeight));
  useEffect(() => {
    if (at === undefined || at < 0 || !box.current) return;
    const wanted = at * ROW;
    if (wanted < box.current.scrollTop || wanted > box.current.scrollTop + box.current.clientHeight - 2 * ROW) box.current.scrollTop = Math.max(0, wanted - 3 * ROW);
  }, [at]);
  const from = Math.max(0, Math.floor(top.value / ROW) - BESIDE);
  const to = Math.min(count, Math.ceil((top.value + height.value) / ROW) + BESIDE);
  useEffect(() => seen?.(from, to), [from, to, count]);
  const shown = [];
  for (let place = from; place < to; place += 1) {
    shown.push(html`<div key=${place} class="row" role="row" aria-rowindex=${place + 2} style=${{ top: `${place * ROW}px` }}>${row(place)}</div>`);
  }
  return html`<div class="rows" ref=${box} tabindex="0" role="table" aria-label=${label} aria-rowcount=${count + 1} onScroll=${(event) => (top.value = event.currentTarget.scrollTop)}>
    <div class="row head" role="row" aria-rowindex="1">${columns.map((name) => html`<span role="columnheader" key=${name}>${name}</span>`)}</div>
    <div class="inside" role="rowgroup" style=${{ height: `${count * ROW}px` }}>${shown}</div>
  </div>`;
}
