// The one binding of htm to Preact. Text from users always goes in as a child or an attribute, never as HTML; of a child,
// wherever it stands, what cannot be seen is shown.
import htm from "./vendor/htm.js";
import { h, options } from "./vendor/preact.js";
import { visible } from "./model/text.js";

const others = options.vnode;
options.vnode = (/** @type {any} */ vnode) => {
  if (typeof vnode.props === "string") vnode.props = visible(vnode.props); // it is a piece of text
  others?.(vnode);
};

export const html = htm.bind(h);
