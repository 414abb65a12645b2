// Rows that are read page by page, each after the last row of the one before.
import { useRef, useState } from "../vendor/hooks.js";

const PAGE_SIZE = 200;
const AHEAD = 20;

/**
 * The newest rows, and older ones when they are asked for. Those of another key stay until it is answered; where it
 * cannot be, none are there.
 * @param {string} key what is asked for
 * @param {(known: any[], limit: number) => Promise<any[]>} next the newest rows, or those after what is known
 * @param {(found: any[], known: any[], shown: any[]) => any[]} joined what is found, beside what is known or shown
 */
export function useNewest(key, next, joined) {
  const [rows, setRows] = useState([]);
  const [answer, setAnswer] = useState({ of: null, more: false, error: null });
  const asked = useRef(0);
  const read = async (known, limit) => {
    const mine = (asked.current += 1);
    try {
      const found = await next(known, limit + 1);
      if (mine !== asked.current) return;
      setRows((shown) => joined(found.slice(0, limit), known, shown));
      setAnswer({ of: key, more: found.length > limit, error: null });
    } catch (error) {
      if (mine === asked.current) setAnswer((before) => ({ ...before, error }));
    }
  };
  const { of, more, error } = answer;
  const isOther = of !== key;
  return { rows: isOther && error ? [] : rows, setRows, more, error, read, isBusy: isOther && !error };
}

/**
 * What `next` finds after a row, as far as one has scrolled: the pages near what is in view are kept.
 * @param {(last: any, limit: number, known: any[]) => Promise<any[]>} next the rows after one, of which some are known
 */
export function usePages(next) {
  const [, setTurn] = useState(0);
  const [error, setError] = useState(null);
  const view = useRef([0, 0]);
  const queue = useRef(Promise.resolve());
  const pages = useRef(new Map()).current;
  // After which row each page begins, and how many are in the last one, once it is known.
  const after = useRef([null]).current;
  const rest = useRef(-1);
  const one = async (at) => {
    const rows = await next(after[at], PAGE_SIZE, pages.get(at) ?? []);
    pages.set(at, rows);
    if (rows.length < PAGE_SIZE) {
      after.length = at + 1;
      rest.current = rows.length;
    } else {
      if (at + 1 === after.length) rest.current = -1;
      after[at + 1] = rows.at(-1);
    }
    setTurn((turn) => turn + 1);
  };
  /** Read what is in view: what is not there yet, or all of it, and then no page beside it is kept. */
  const read = (anew) => {
    queue.current = queue.current.then(async () => {
      const [first, last] = view.current.map((place) => Math.floor(place / PAGE_SIZE));
      const beside = anew ? 0 : 1;
      for (const at of pages.keys()) if (at < first - beside || at > last + beside) pages.delete(at);
      for (let at = first; at <= last && at < after.length; at += 1) if (anew || !pages.has(at)) await one(at);
      setError(null);
    }).catch(setError);
  };
  return {
    error,
    count: (after.length - 1) * PAGE_SIZE + Math.max(0, rest.current),
    more: rest.current < 0,
    at: (place) => pages.get(Math.floor(place / PAGE_SIZE))?.[place % PAGE_SIZE],
    read,
    seen: (from, to) => {
      view.current = [from, to + AHEAD];
      read(false);
    },
  };
}
