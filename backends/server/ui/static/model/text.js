// Text of users, made fit to be read: what cannot be seen is shown, and links are found. Never HTML.

const INVISIBLE = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
const ESCAPES = /\u001b(?:\[([0-9;]*)m|\[[0-9;?]*[A-Za-ln-z]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?)/g;
const LINK = /\bhttps?:\/\/[^\s<>"'`]+[^\s<>"'`.,;:!?)\]}]/g;
const SCHEME = /^([a-z][a-z0-9+.-]*):/i;
const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

export const LONG = 2000;

/** Show control characters and what changes the direction of writing. @param {string} text */
export function visible(text) {
  return text.replace(INVISIBLE, (found) => {
    const code = found.codePointAt(0) ?? 0;
    return code < 0x20 ? String.fromCodePoint(0x2400 + code) : `⟦U+${code.toString(16).toUpperCase().padStart(4, "0")}⟧`;
  });
}

/**
 * Split text into pieces with a style and perhaps a link.
 * @param {string} text @returns {{text: string, style: string, href?: string}[]}
 */
export function pieces(text) {
  /** @type {{text: string, style: string, href?: string}[]} */
  const found = [];
  let style = "";
  let from = 0;
  for (const sequence of text.matchAll(ESCAPES)) {
    linked(text.slice(from, sequence.index), style, found);
    if (sequence[1] !== undefined) style = styled(style, sequence[1]);
    from = (sequence.index ?? 0) + sequence[0].length;
  }
  linked(text.slice(from), style, found);
  return found;
}

/** @param {string} text @param {string} style @param {{text: string, style: string, href?: string}[]} found */
function linked(text, style, found) {
  let from = 0;
  for (const link of text.matchAll(LINK)) {
    if (link.index > from) found.push({ text: visible(text.slice(from, link.index)), style });
    found.push({ text: visible(link[0]), style, href: safeLink(link[0]) ?? undefined });
    from = link.index + link[0].length;
  }
  if (from < text.length) found.push({ text: visible(text.slice(from)), style });
}

/** @param {string} style @param {string} codes */
function styled(style, codes) {
  const names = new Set(style.split(" ").filter(Boolean));
  for (const code of codes.split(";").map(Number)) {
    if (code === 0) names.clear();
    else if (code === 1) names.add("bold");
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) {
      for (const name of COLOURS) names.delete(`ansi-${name}`);
      names.add(`ansi-${COLOURS[code % 10]}`);
    } else if (code === 39) for (const name of COLOURS) names.delete(`ansi-${name}`);
  }
  return [...names].join(" ");
}

/** The address if it may be followed: of the web, of a mailbox, or relative. @param {string} href */
export function safeLink(href) {
  const plain = href.replace(/[\u0000-\u0020\u007f-\u009f]/g, "");
  const scheme = SCHEME.exec(plain)?.[1]?.toLowerCase();
  if (scheme === undefined) return plain.startsWith("//") ? null : plain;
  return ["http", "https", "mailto"].includes(scheme) ? plain : null;
}

/** Pictures come from here, or with the text itself. @param {string} href */
export function safePicture(href) {
  return /^data:image\/(png|jpeg|gif|webp);base64,/i.test(href) ? href : null;
}

/** What messages have in common that differ in numbers and quoted parts only. @param {string | null} message */
export function gist(message) {
  return (message ?? "").replace(/'[^']*'|"[^"]*"/g, "'…'").replace(/\d+/g, "#");
}

/** Where a message goes, without what lets others send there. @param {string} target */
export function destination(target) {
  return URL.canParse(target) ? new URL(target).host || target.replace(/^mailto:/, "") : target;
}

/** @param {number} size */
export function bytes(size) {
  return size < 1000 ? `${size} B` : size < 1e6 ? `${Math.round(size / 1000)} kB` : `${(size / 1e6).toFixed(1)} MB`;
}

/** @param {number} count */
export function number(count) {
  return count.toLocaleString("en");
}

/** @param {number} count @param {string} one @param {string} [many] */
export function counted(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

/** A set with one more in it, or without that one. @template T @param {Iterable<T>} some @param {T} one */
export function toggled(some, one) {
  const next = new Set(some);
  if (!next.delete(one)) next.add(one);
  return next;
}

/** What nothing else is called; the browser makes such names on safe pages alone. */
export const unique = () => crypto.randomUUID?.() ?? String(Math.random());
