// The form of a flow's parameters: from what is recorded of them to fields, and from what was typed to values.
import { Typed, encode, readJson } from "./json.js";

/** @typedef {{name: string, required: boolean, kind: string, options?: unknown[], hint: string, initial: string, default: unknown, nullable: boolean, secret: boolean, schema: any}} Input */

/** @param {any[]} parameters as the flow document holds them @param {Record<string, unknown>} defaults of the flow group @returns {Input[]} */
export function inputs(parameters, defaults) {
  return parameters.map((parameter) => {
    const { schema, nullable } = narrowed(parameter.schema);
    const has = Object.hasOwn(defaults, parameter.name);
    const value = has ? defaults[parameter.name] : parameter.default;
    const kind = kindOf(schema);
    return {
      name: parameter.name,
      required: Boolean(parameter.required) && !has,
      kind,
      options: schema?.enum,
      hint: hint(schema, kind),
      initial: value === undefined || (value === null && !nullable) ? "" : written(value, kind),
      default: value,
      nullable,
      secret: Boolean(parameter.secret),
      schema,
    };
  });
}

/** Which parameters of a flow are not to be seen. @param {{parameters?: {name: string, secret?: boolean}[]}} [flow] */
export function secrets(flow) {
  return new Set((flow?.parameters ?? []).filter((each) => each.secret).map((each) => each.name));
}

/** @param {any} schema */
function narrowed(schema) {
  if (schema?.$ref && schema.$defs) schema = { ...schema.$defs[schema.$ref.split("/").pop()], $defs: schema.$defs };
  const some = schema?.anyOf;
  if (Array.isArray(some) && some.some((each) => each.type === "null")) {
    const rest = some.filter((each) => each.type !== "null");
    return { schema: rest.length === 1 ? rest[0] : null, nullable: true };
  }
  return { schema: schema ?? null, nullable: false };
}

/** @param {any} schema */
function kindOf(schema) {
  if (Array.isArray(schema?.enum)) return "choice";
  if (schema?.type === "boolean") return "boolean";
  if (schema?.type === "integer" || schema?.type === "number") return schema.type;
  if (schema?.type === "string") return schema.format === "date-time" ? "moment" : "text";
  return "json";
}

/** @param {any} schema @param {string} kind */
function hint(schema, kind) {
  const words = { integer: "a whole number", number: "a number", text: "text", moment: "ISO 8601, as 2026-12-01T06:00:00Z", boolean: "yes or no", choice: "one of the choices" };
  if (kind !== "json") return words[/** @type {keyof typeof words} */ (kind)];
  if (schema?.type === "array") return `JSON: a list${schema.items?.type ? ` of ${schema.items.type}s` : ""}`;
  return schema?.type === "object" ? "JSON: an object" : "JSON: 3, \"text\", [1, 2], {\"a\": 1}, true, null";
}

/** @param {unknown} value @param {string} kind */
function written(value, kind) {
  if (value === null) return kind === "json" ? "null" : "";
  if (kind === "text" || kind === "moment") return typeof value === "string" ? value : encode(value);
  return kind === "json" ? encode(value) : String(value);
}

/**
 * The value of what was typed, or why it is none. What is left to the default is not sent at all.
 * @param {Input} input @param {string} text @returns {{value?: unknown, problem?: string}}
 */
export function readField(input, text) {
  const plain = text.trim();
  switch (input.kind) {
    case "text":
      return { value: text };
    case "moment":
      return Number.isNaN(Date.parse(plain)) ? { problem: `${input.name} is a time: ${input.hint}` } : { value: plain };
    case "choice":
      return { value: (input.options ?? []).find((option) => String(option) === text) };
    case "boolean":
      return { value: plain === "true" };
    case "integer":
      if (!/^[+-]?\d+$/.test(plain)) return { problem: `${input.name} is a whole number, not ${JSON.stringify(text)}` };
      return Number.isSafeInteger(Number(plain)) ? { value: Number(plain) } : { value: new Typed(plain.replace(/^(-?)\+?0*(?=\d)/, "$1")) };
    case "number": {
      const value = Number(plain);
      return plain && Number.isFinite(value) ? { value } : { problem: `${input.name} is a number, not ${JSON.stringify(text)}` };
    }
    default:
      try {
        return { value: readJson(plain) };
      } catch {
        return { problem: `${input.name} is ${input.hint}` };
      }
  }
}

/** A word of a command line. @param {string} text */
const word = (text) => (/^[\w.:=@/+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/**
 * The command that creates the same flow run.
 * @param {string} flow its name @param {Input[]} fields
 * @param {{parameters: Record<string, unknown>, flow_run_name: string | null, labels: string[] | null, scheduled_start_time: string | null}} asked
 */
export function command(flow, fields, asked) {
  const written = fields.filter((field) => Object.hasOwn(asked.parameters, field.name)).map(({ name, kind }) => {
    const value = asked.parameters[name];
    return ["-p", `${name}=${typeof value === "string" && kind !== "json" ? value : encode(value)}`];
  });
  const options = [["--name", asked.flow_run_name], ...(asked.labels ?? []).map((label) => ["--label", label]), ["--at", asked.scheduled_start_time]];
  const given = options.filter(([, value]) => value);
  return ["flowloop", "create", flow, ...[...written, ...given].flat()].map((each) => word(String(each))).join(" ");
}
