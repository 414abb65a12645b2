// The bundle makes code from text in two places, which the policy of the page forbids. It need not.
"use strict";

// It assigns to this name, and makes code that does where the name is not declared.
globalThis.regeneratorRuntime = undefined;

// It asks for the global object by `new Function("return this")`.
{
  const made = globalThis.Function;
  globalThis.Function = function (...text) {
    return text.length === 1 && text[0] === "return this" ? () => globalThis : made(...text);
  };
  globalThis.Function.prototype = made.prototype;
}
