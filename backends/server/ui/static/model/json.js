// JSON as it was typed: whole numbers beyond what a browser can count keep their digits.

/** A value that is sent as it was typed: JSON.stringify would round it. */
export class Typed {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
  }
}

/** @param {string} _ @param {unknown} value @param {{source: string}} [found] */
const asWritten = (_, value, found) => (found && typeof value === "number" && Math.abs(value) > Number.MAX_SAFE_INTEGER ? new Typed(found.source) : value);

/** The value of JSON, with numbers that a browser would round as they are written. @param {string} text */
export function readJson(text) {
  return JSON.parse(text, asWritten);
}

/** JSON with the numbers in it that were kept as they were typed. @param {unknown} value @returns {string} */
export function encode(value) {
  if (value instanceof Typed) return value.text;
  if (Array.isArray(value)) return `[${value.map(encode).join(", ")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value ?? null);
  const entries = Object.entries(value).filter(([, each]) => each !== undefined);
  return `{${entries.map(([name, each]) => `${JSON.stringify(name)}: ${encode(each)}`).join(", ")}}`;
}
