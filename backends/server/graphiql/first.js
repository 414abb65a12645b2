// The bundle assigns to this name, and would fall back to making code from text, which the policy of the page forbids.
globalThis.regeneratorRuntime = undefined;
