// What the reader has chosen, kept by the browser where it is allowed to; else it is forgotten with the page.

/** @param {string} name */
export function kept(name) {
  try {
    return localStorage.getItem(`flowloop.${name}`);
  } catch {
    return null;
  }
}

/** @param {string} name @param {string} value */
export function keep(name, value) {
  try {
    localStorage.setItem(`flowloop.${name}`, value);
  } catch {
    // it is forgotten with the page
  }
}
