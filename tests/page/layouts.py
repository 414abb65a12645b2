"""Where the parts of each view are, as kept beside the tests: pictures would differ by the fonts of a machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).with_name("layouts")

LOOK = r"""() => {
  const boxes = `header, main, footer, nav, aside, section, form, figure, canvas, .drawing, .rows, .lines, table,
    main ol, main ul`;
  const controls = "h1, h2, h3, summary, select, input, textarea, button:not(.column), .button";
  const textOf = (element) => element.ariaLabel ?? (
    element.matches("section, aside") ? element.querySelector("h2, h3")?.firstChild?.textContent
    : element.matches(boxes) ? ""
    : element.labels ? element.labels[0]?.firstChild?.textContent ?? element.textContent
    : element.textContent);
  return [...document.querySelectorAll(`${boxes}, ${controls}`)]
    .filter((each) => each.checkVisibility() && !each.closest(".hidden"))
    .map((each) => {
      const { x, y, width, height } = each.getBoundingClientRect();
      const isBox = each.matches(boxes) && !each.closest("header nav");
      const box = [x, y + scrollY, width, height].map(Math.round);
      return [each.localName, (textOf(each) ?? "").trim(), isBox ? box : null];
    });
}"""

COLOURS = """() => {
  const style = getComputedStyle(document.documentElement);
  const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]);
  const root = rules.find((rule) => rule.selectorText === ":root").style;
  const names = [...root].filter((name) => name.startsWith("--"));
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(name)]));
}"""

_NUMBERS = re.compile(r"[\d.,:]*\d( (ms|s|min|h))?( \d+ (s|min))?")


class Part(NamedTuple):
    """A part of a view: what it is, what it is called, and where it is, unless its text alone decides that."""

    kind: str
    name: str
    box: Sequence[int] | None


def parts(looked: Sequence[Any]) -> list[Part]:
    """Return what was looked at, with one sign for each number and time."""
    return [Part(kind, _NUMBERS.sub("#", name)[:40], box) for kind, name, box in looked]


def differences(kept: Sequence[Part], found: Sequence[Part], width: int) -> list[str]:
    """Return what is elsewhere, or something else, than was kept.

    Across, the layout decides where a box is, and nearly nothing is let pass. Down, the fonts of a machine do as well.
    """
    was, now = [[f"{each.kind} {each.name!r}" for each in some] for some in (kept, found)]
    if was != now:
        gone, new = [each for each in was if each not in now], [each for each in now if each not in was]
        return [f"{len(was)} parts are {len(now)}, or in another order: without {gone}, with {new}"]
    told = []
    for name, before, after in zip(was, kept, found, strict=True):
        for at, side in enumerate(("left", "top", "width", "height") if before.box and after.box else ()):
            one, two = before.box[at], after.box[at]  # type: ignore[index]
            near = max(16, width / 50) if side in ("left", "width") else 40 + max(one, two) / 4
            if abs(one - two) > near:
                told.append(f"{name}: {side} was {one}, is {two}")
    return told


def read(width: int) -> Mapping[str, Any]:
    """Return the kept layouts of a width: the parts by view, and the colours by theme."""
    kept = json.loads((FOLDER / f"{width}.json").read_text())
    return {
        "views": {view: [Part(*each) for each in some] for view, some in kept["views"].items()},
        "colours": kept["colours"],
    }


def keep(width: int, views: Mapping[str, Sequence[Part]], colours: Mapping[str, Any]) -> None:
    """Keep layouts, a line for each part."""
    FOLDER.mkdir(exist_ok=True)
    lines = [
        f"{json.dumps(view)}: [\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in some) + "\n]"
        for view, some in views.items()
    ]
    whole = f'{{"colours": {json.dumps(colours, indent=1)},\n"views": {{\n' + ",\n".join(lines) + "\n}}\n"
    (FOLDER / f"{width}.json").write_text(whole)
