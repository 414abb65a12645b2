"""The modules of the page as one: in the order in which they begin, without what is there for readers.

Nothing is renamed and no expression is changed, so that a fault that a browser shows can be found by its names. The
modules share one scope: a name that two of them have at their top is refused.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

__all__ = ["bundled", "lean", "lean_style"]

_IMPORT = re.compile(r'^import (?:\{ ([^}]+) \}|(\w+)) from "([^"]+)";\n', re.MULTILINE)
_LAZY = re.compile(r'\bimport\("([^"]+)"\)')
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const)\b)", re.MULTILINE)
_AT_THE_TOP = re.compile(r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", re.MULTILINE)

_TOKEN = re.compile(
    r"""(?P<blank>(?:\s|//[^\n]*|/\*.*?\*/)+)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<word>[\w$]+)
    |(?P<sign>.)""",
    re.DOTALL | re.VERBOSE,
)
_PATTERN = re.compile(r"/(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/\w*")
_PIECE = re.compile(r"[`}](?:[^`\\$]|\\.|\$(?!\{))*(?:`|\$\{)", re.DOTALL)
"""Of a template: what stands between its ends and its expressions."""

_WANTS_A_VALUE = frozenset(
    "return typeof case in of void delete do else instanceof new throw yield await".split()  # noqa: SIM905 -- so it reads
)
"""After these words a slash begins a pattern; after all others it divides."""

_OPEN = frozenset("{([,=&|?:")
_CLOSED = frozenset(")]},;.?:=&|")
_APART = re.compile(r"[\w$/]{2}|\+\+|--")
_BREAK = re.compile(r"(?<=>)\s*\n\s*|\s*\n\s*(?=<)|\s*(\n)\s*")
_STYLE = re.compile(r'("[^"]*")|/\*.*?\*/|\s*([{};,])\s*|(:)\s+|\s+', re.DOTALL)


def bundled(modules: Mapping[str, str], first: str) -> str:
    """Join modules to one.

    Args:
        - modules: their sources by name
        - first: the name of the one that imports the others

    Returns:
        - str: one module; what is imported from where no source is given stays imported
    """
    bodies: dict[str, str] = {}
    others: dict[str, dict[str, None]] = {}
    owners: dict[str, str] = {}

    def add(name: str) -> None:
        bodies[name] = ""
        here, source = posixpath.dirname(name), modules[name]
        for names, whole, where in _IMPORT.findall(source):
            target = posixpath.normpath(posixpath.join(here, where))
            if target not in modules:
                others.setdefault(target, {}).update(
                    dict.fromkeys([f"default as {whole}"] if whole else names.split(", "))
                )
            elif target not in bodies:
                add(target)
        for found in _AT_THE_TOP.findall(source):
            if owners.setdefault(found, name) != name:
                raise ValueError(f"{owners[found]} and {name} both have a {found}: name one of them otherwise.")
        body = _LAZY.sub(lambda lazy: f'import("./{posixpath.normpath(posixpath.join(here, lazy[1]))}")', source)
        del bodies[name]  # what it imports goes before it
        bodies[name] = lean(_EXPORT.sub("", _IMPORT.sub("", body))).strip()

    add(first)
    head = [f'import{{{",".join(names)}}}from"./{where}";' for where, names in others.items()]
    return "\n".join([*head, *bodies.values(), ""])


def lean(source: str) -> str:
    """Leave out comments, and blanks that separate nothing. Strings, patterns and templates stay as they are.

    Markup is the exception: htm takes no notice of the blanks around a line break, so that these go as well.
    """
    sent: list[str] = []
    before = blank = ""
    for kind, text in _tokens(source):
        if kind == "blank":
            blank = text
            continue
        if blank and before:
            sent.append(_between(before[-1], blank, text[0]))
        sent.append(_BREAK.sub(lambda found: found[1] or "", text) if kind == "markup" else text)
        before, blank = text, ""
    return "".join(sent)


def lean_style(source: str) -> str:
    """Leave out comments and blanks of a style sheet that separate nothing."""
    return _STYLE.sub(
        lambda found: found[1] or found[2] or found[3] or (" " if found[0].isspace() else ""), source
    ).strip()


def _between(before: str, blank: str, after: str) -> str:
    if "\n" in blank and before not in _OPEN and after not in _CLOSED:
        return "\n"  # it may end a statement
    return " " if _APART.fullmatch(before + after) else ""


def _tokens(source: str) -> Iterator[tuple[str, str]]:
    """Split a module: what is a blank, a word, a sign, a string, a pattern, a piece of a template, or one of markup."""
    at, braces, last = 0, 0, ("sign", ";")
    outer: list[tuple[str, int]] = []  # the templates that are open, and the braces that were open around each
    while found := _TOKEN.match(source, at):
        kind, text = str(found.lastgroup), found[0]
        if text == "/" and not _is_value(*last):
            kind, found = "pattern", _PATTERN.match(source, at)
        elif text == "`" or (text == "}" and outer and not braces):
            if text == "`":
                kind = "markup" if last[1] == "html" else "template"
            else:
                kind, braces = outer.pop()
            found = _PIECE.match(source, at)
            if found and found[0].endswith("{"):
                outer.append((kind, braces))
                braces = 0
        elif text in ("{", "}"):
            braces += 1 if text == "{" else -1
        if not found:
            line = source.count("\n", 0, at) + 1
            raise ValueError(f"Line {line}: what begins here has no end.")
        if kind != "blank":
            last = kind, found[0]
        yield kind, found[0]
        at = found.end()


def _is_value(kind: str, text: str) -> bool:
    if kind == "word":
        return text not in _WANTS_A_VALUE
    return kind in ("string", "pattern") or text[-1] in ")]}`"
