// JSON as it was typed: whole numbers beyond what a browser can count keep their digits.

/** A value that is sent as it was typed: JSON.stringify would round it. */
export class Typed {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
  }
}

/** The value of JSON that was typed: as it was typed if a browser would round it. @param {string} text @returns {unknown} */
export function readJson(text) {
  const value = JSON.parse(text);
  return /\d{16}/.test(text) ? new Typed(text) : value;
}

/** JSON with the numbers in it that were kept as they were typed. @param {unknown} value @returns {string} */
export function encode(value) {
  if (value instanceof Typed) return value.text;
  if (Array.isArray(value)) return `[${value.map(encode).join(", ")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value ?? null);
  const entries = Object.entries(value).filter(([, each]) => each !== undefined);
  return `{${entries.map(([name, each]) => `${JSON.stringify(name)}: ${encode(each)}`).join(", ")}}`;
}
