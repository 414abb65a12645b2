// The one binding of htm to Preact. Text from users always goes in as a child or an attribute, never as HTML.
import htm from "./vendor/htm.js";
import { h } from "./vendor/preact.js";

export const html = htm.bind(h);
