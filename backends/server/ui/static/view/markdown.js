// Artifacts: Markdown from its tree, links, tables, JSON. No text becomes HTML on the way.
import { html } from "../html.js";
import { h } from "../vendor/preact.js";
import { encode } from "../model/json.js";
import { parse } from "../model/markdown.js";
import { safeLink, safePicture } from "../model/text.js";
import { Facts, Json } from "./kit.js";

export function Artifact({ kind, data }) {
  const text = typeof data === "string" ? data : (data?.markdown ?? data?.text ?? null);
  if (kind === "markdown" && typeof text === "string") return html`<div class="markdown">${parse(text).map(shown)}</div>`;
  if (kind === "link") {
    const target = typeof data === "string" ? data : (data?.link ?? "");
    const href = typeof target === "string" ? safeLink(target) : null;
    return href ? html`<p><a href=${href} target="_blank" rel="noopener noreferrer">${String(data?.text ?? target)}</a></p>` : html`<p>${String(target)}</p>`;
  }
  if (kind === "progress" && typeof data?.progress === "number") {
    return html`<p><progress value=${data.progress} max="1"></progress> ${Math.round(data.progress * 100)}% ${String(data.label ?? "")}</p>`;
  }
  if (kind === "image" && typeof data === "string" && safePicture(data)) return html`<img src=${data} alt="artifact" />`;
  if (Array.isArray(data) && data.length && data.every((row) => row && typeof row === "object" && !Array.isArray(row))) return html`<${Table} rows=${data.slice(0, 200)} />`;
  return html`<${Json} value=${data} />`;
}

function Table({ rows }) {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))].slice(0, 30);
  const cell = (row, name) => (Object.hasOwn(row, name) ? (typeof row[name] === "string" ? row[name] : encode(row[name])) : "");
  return html`<div class="scroll" tabindex="0"><${Facts} head=${columns} rows=${rows.map((row) => columns.map((name) => cell(row, name)))} /></div>`;
}

const ELEMENTS = new Map([["paragraph", "p"], ["quote", "blockquote"], ["rule", "hr"], ["item", "li"], ["strong", "strong"], ["emphasis", "em"]]);

function shown(node, at) {
  const inside = node.children?.map(shown);
  const element = ELEMENTS.get(node.type);
  if (element) return h(element, { key: at }, inside);
  switch (node.type) {
    case "text":
      return node.text ?? "";
    case "heading":
      return h(`h${Math.min(6, (node.level ?? 1) + 2)}`, { key: at }, inside);
    case "code":
      return html`<pre key=${at} tabindex="0"><code>${node.text ?? ""}</code></pre>`;
    case "inline-code":
      return html`<code key=${at}>${node.text ?? ""}</code>`;
    case "list":
      return h(node.ordered ? "ol" : "ul", { key: at }, inside);
    case "link":
      return node.href ? html`<a key=${at} href=${node.href} target="_blank" rel="noopener noreferrer">${inside}</a>` : inside;
    case "picture":
      return html`<img key=${at} src=${node.href} alt=${node.text} />`;
    case "table":
      return html`<div key=${at} class="scroll" tabindex="0"><${Facts} head=${node.rows[0].map((cell) => cell.map(shown))} rows=${node.rows.slice(1).map((row) => row.map((cell) => cell.map(shown)))} /></div>`;
    default:
      return null;
  }
}
