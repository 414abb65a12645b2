// Markdown as a tree of plain objects: headings, lists, tables, code, quotes, emphasis, links. There is no way to HTML.
import { safeLink, safePicture } from "./text.js";

/** @typedef {{type: string, text?: string, href?: string | null, level?: number, ordered?: boolean, children?: Node[], rows?: Node[][][]}} Node */

/** @param {string} source @returns {Node[]} */
export function parse(source) {
  const lines = source.replace(/\r\n?/g, "\n").split("\n");
  /** @type {Node[]} */
  const found = [];
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    const fence = /^\s{0,3}(```+|~~~+)/.exec(line);
    const heading = /^\s{0,3}(#{1,6})\s+(.*?)\s*#*$/.exec(line);
    if (!line.trim()) at += 1;
    else if (fence) {
      const code = [];
      for (at += 1; at < lines.length && !lines[at].trimStart().startsWith(fence[1]); at += 1) code.push(lines[at]);
      at += 1;
      found.push({ type: "code", text: code.join("\n") });
    } else if (heading) {
      found.push({ type: "heading", level: heading[1].length, children: inline(heading[2]) });
      at += 1;
    } else if (/^\s{0,3}([-*_])\s*(\1\s*){2,}$/.test(line)) {
      found.push({ type: "rule" });
      at += 1;
    } else if (/^\s{0,3}>/.test(line)) {
      const quoted = [];
      for (; at < lines.length && /^\s{0,3}>/.test(lines[at]); at += 1) quoted.push(lines[at].replace(/^\s{0,3}> ?/, ""));
      found.push({ type: "quote", children: parse(quoted.join("\n")) });
    } else if (line.includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[at + 1] ?? "")) {
      const rows = [cells(line)];
      for (at += 2; at < lines.length && lines[at].includes("|"); at += 1) rows.push(cells(lines[at]));
      found.push({ type: "table", rows });
    } else if (item(line)) {
      const ordered = /^\s*\d/.test(line);
      /** @type {Node[]} */
      const children = [];
      for (; at < lines.length && item(lines[at]); at += 1) children.push({ type: "item", children: inline(item(lines[at])?.[1] ?? "") });
      found.push({ type: "list", ordered, children });
    } else {
      const text = [];
      for (; at < lines.length && lines[at].trim() && !/^\s{0,3}(#{1,6}\s|>|```|~~~)/.test(lines[at]) && !item(lines[at]); at += 1) text.push(lines[at]);
      if (!text.length) text.push(lines[at++]);
      found.push({ type: "paragraph", children: inline(text.join("\n")) });
    }
  }
  return found;
}

/** @param {string} line */
function item(line) {
  return /^\s*(?:[-*+]|\d{1,9}[.)])\s+(.*)$/.exec(line);
}

/** @param {string} line */
function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => inline(cell.trim()));
}

const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|(!?)\[([^\]]*)\]\(\s*<?([^\s>)]*)>?[^)]*\)|(\*\*|__)(?=\S)([\s\S]*?\S)\6|(\*|_)(?=\S)([\s\S]*?\S)\8|<(https?:[^\s>]+)>/;

/** @param {string} text @returns {Node[]} */
export function inline(text) {
  /** @type {Node[]} */
  const found = [];
  for (;;) {
    const match = INLINE.exec(text);
    if (!match) break;
    if (match.index) found.push({ type: "text", text: text.slice(0, match.index) });
    const [whole, tick, code, picture, label, target, strong, bold, emphasis, italic, bare] = match;
    if (tick) found.push({ type: "inline-code", text: code });
    else if (picture) {
      const href = safePicture(target);
      found.push(href ? { type: "picture", href, text: label } : { type: "text", text: whole });
    } else if (target !== undefined) {
      const href = safeLink(target);
      found.push(href ? { type: "link", href, children: inline(label) } : { type: "text", text: whole });
    } else if (strong) found.push({ type: "strong", children: inline(bold) });
    else if (emphasis) found.push({ type: "emphasis", children: inline(italic) });
    else found.push({ type: "link", href: safeLink(bare), children: [{ type: "text", text: bare }] });
    text = text.slice(match.index + whole.length);
  }
  if (text) found.push({ type: "text", text });
  return found;
}
