"""The modules of the page as one: in the order in which they begin, without what is there for readers.

No expression is changed. The modules share one scope: a name that two of them have at their top is refused. Names are
made short, each the same wherever it stands, so that no scope needs to be known: two that differed differ still.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, product

__all__ = ["bundled", "joined", "lean", "lean_style", "short"]

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

_OPEN = frozenset("{([,=&|?:;")
_CLOSED = frozenset(")]},;.?:=&|")
_APART = re.compile(r"[\w$/]{2}|\+\+|--")
_PIECES = ("template", "markup", "query")
_ASKED = re.compile(r"(^\}|\$\{$)|\s*([{}()\[\]:,])\s*|\s+")
_QUERY = re.compile(r"`(?:query|mutation|subscription) ")
_BREAK = re.compile(r"(?<=>)\s*\n\s*|\s*\n\s*(?=<)|\s*(\n)\s*")
_ENDS_OF_TAGS = re.compile("([<>])")
_QUOTED = re.compile(r'(?<==)"([\w-]+)"(?=\s|$)')
_STYLE = re.compile(r'("[^"]*")|/\*.*?\*/\s*|[\s;]*(\})\s*|\s*([{;,>])\s*|(:)\s+|(?<![\w.])0(\.\d)|\s+', re.DOTALL)


_FIXED = frozenset(
    "arguments as async await break case catch class const continue debugger default delete do else enum export"  # noqa: SIM905
    " extends false finally for from function get if import in instanceof let new null of return set static super"
    " switch this throw true try typeof undefined var void while with yield".split()
)
"""Words that mean something by themselves, always or in some places."""

_LETTERS = "etnasorliucdmfphwgkbvyxqjz"
_LETTERS += _LETTERS.upper()
"""Those that stand in a module most often, first: names of these are packed best."""

_AT_THE_TOP_ALONE = "_"
"""The shortest name there is, for what is named most often."""

_USUAL = 30
"""How many names are short in the same way everywhere; each statement needs letters for others besides."""

_BEGINS = frozenset(("async", "class", "const", "for", "function", "if", "let"))
"""With these a statement begins, where the one before it has ended with a brace."""


def bundled(modules: Mapping[str, str], first: str) -> str:
    """Join modules to one with short names.

    Args:
        - modules: their sources by name
        - first: the name of the one that imports the others

    Returns:
        - str: one module; what is imported from where no source is given stays imported
    """
    return short(joined(modules, first))


def joined(modules: Mapping[str, str], first: str) -> str:
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

    Markup is the exception: htm takes no notice of the blanks around a line break, so that these go as well, and a word
    that is the value of an attribute needs no quotes. Of the questions in the language of the API one blank is as good
    as many.
    """
    sent: list[str] = []
    in_tags: list[bool] = []
    before = blank = ""
    for kind, text in _tokens(source):
        if kind == "blank":
            blank = text
            continue
        if text == "}" and before == ";":
            sent.pop()  # a brace ends a statement as well
        elif blank and before:
            sent.append(_between(before[-1], blank, text[0]))
        if kind == "markup":
            if text[0] == "`":
                in_tags.append(False)
            text, in_tags[-1] = _unquoted(_BREAK.sub(lambda found: found[1] or "", text), in_tags[-1])
            if text[-1] == "`":
                in_tags.pop()
        elif kind == "query":
            text = _ASKED.sub(lambda found: found[0] if found[1] else found[2] or " ", text)
        sent.append(text)
        before, blank = text, ""
    return "".join(sent)


def _unquoted(piece: str, in_tag: bool) -> tuple[str, bool]:
    """Return a piece of markup without needless quotes, and whether it ends within a tag, as it may begin."""
    parts = _ENDS_OF_TAGS.split(piece)
    for at, part in enumerate(parts):
        if part in ("<", ">"):
            in_tag = part == "<"
        elif in_tag:
            parts[at] = _QUOTED.sub(r"\1", part)
    return "".join(parts), in_tag


def short(source: str) -> str:
    """Give what a module declares short names, the often used ones the shortest; properties keep theirs.

    A name that is declared at the top is the same wherever it stands, and no other name is like it. The others are the
    same throughout one statement of the top, and the most usual of them in all statements: what is alike is packed
    better. So what differed differs still, and no scope need be known, if within one statement no name is declared
    that elsewhere in it is one of the browser's.
    """
    tokens = [*_tokens(source)]
    words = _Words([token for token in tokens if token[0] != "blank"])
    taken = {text for kind, text in tokens if kind == "word"} | _FIXED
    placed = [*words.placed()]
    declared = {(at, text) for at, text in words.declared() if text not in _FIXED}
    top = {text for at, text in declared if at is None}
    often = Counter((None if text in top else at, text) for at, text, place in placed if place != "property")
    own: dict[int | None, list[str]] = {}
    everywhere: Counter[str] = Counter()
    for (at, text), number in often.most_common():
        if (at, text) in declared:
            own.setdefault(at, []).append(text)
            everywhere[text] += number if at is not None else 0
    letters = (each for each in _LETTERS if each not in taken)
    usual = dict(zip((text for text, _ in everywhere.most_common(_USUAL)), letters, strict=False))
    names: dict[tuple[int | None, str], str] = {}
    for at, texts in own.items():
        known = {text: usual[text] for text in texts if at is not None and text in usual}
        unused = (each for each in _names() if each not in taken and each not in known.values())
        free = (each for each in unused if (each in _AT_THE_TOP_ALONE or len(each) == 2) == (at is None))
        names |= {(at, text): known.get(text) or next(free) for text in texts}
    renamed = ((text, names.get((None if text in top else at, text), text), place) for at, text, place in placed)
    return "".join(_written(*next(renamed)) if kind == "word" else text for kind, text in tokens)


def _written(text: str, name: str, place: str) -> str:
    if place == "property" or name == text:
        return text
    return {"plain": "", "both": f"{text}:", "import": f"{text} as "}[place] + name


def _names() -> Iterator[str]:
    yield from _AT_THE_TOP_ALONE
    for length in count(1):
        for letters in product(_LETTERS, repeat=length):
            yield "".join(letters)


class _Words:
    """Which words of a module are names of properties, which are declared, and which are both at once."""

    def __init__(self, tokens: Sequence[tuple[str, str]]) -> None:
        self._tokens = [("sign", ";"), ("sign", ";"), *tokens, ("sign", ";"), ("sign", ";")]
        self._ends: dict[int, int] = {}
        self._inside: list[str] = []
        self._statements: list[int] = []
        statement = 0
        open_: list[tuple[int, str]] = []
        for at, (kind, text) in enumerate(self._tokens):
            is_piece = kind in _PIECES
            before = self._tokens[at - 1][1]
            if not open_ and text != "else" and (before == ";" or (before == "}" and text in _BEGINS)):
                statement += 1
            if text in (")", "]", "}") or (is_piece and text[0] == "}"):
                self._ends[open_.pop()[0]] = at
            self._inside.append(open_[-1][1] if open_ else "top")
            self._statements.append(statement)
            if text in ("(", "[") or (is_piece and text[-1] == "{"):
                open_.append((at, text))
            elif text == "{":
                open_.append((at, self._brace(at)))

    def placed(self) -> Iterator[tuple[int, str, str]]:
        """Yield of each word the statement of the top, itself, and where it stands."""
        for at, (kind, text) in enumerate(self._tokens):
            if kind == "word":
                yield self._statements[at], text, self._place(at)

    def declared(self) -> Iterator[tuple[int | None, str]]:
        """Yield each name that is declared, and the statement that it is within, or None for the top itself."""
        for at, is_top in self._declared():
            yield None if is_top else self._statements[at], self._tokens[at][1]

    def _place(self, at: int) -> str:
        before, text, after = (self._tokens[at + by][1] for by in (-1, 0, 1))
        if text[0].isdigit() or before == "#" or (before == "." and self._tokens[at - 2][1] != "."):
            return "property"
        inside = self._inside[at]
        if inside in ("class", "object") and after == "(" and before in ("async", "get", "set", "static"):
            return "property"
        if inside == "class":
            return "property" if before in "{};" else "plain"
        if inside in ("object", "import") and before in "{,":
            if after in (":", "(", "as"):
                return "property"
            return "import" if inside == "import" else "both"
        return "plain"

    def _brace(self, at: int) -> str:
        """Tell what a brace begins."""
        kind, before = self._tokens[at - 1]
        if kind == "word":
            if before in ("catch", "do", "else", "finally", "try"):
                return "block"
            if before == "import":
                return "import"
            return "object" if before in _WANTS_A_VALUE or before in ("const", "let") else "class"
        if before == ":":
            at -= 2
            while self._tokens[at][1] not in "?,;({}":
                if self._inside[at] != "object" and self._tokens[at][1] in ("case", "default"):
                    return "block"
                at -= 1
            return "object"
        is_arrow = self._tokens[at - 2][1] + before == "=>"
        return "block" if kind == "sign" and (before in ");{}" or is_arrow) else "object"

    def _declared(self) -> Iterator[tuple[int, bool]]:
        """Yield where something is declared, and whether that is at the top."""
        for at, (kind, text) in enumerate(self._tokens[:-2]):
            after = self._tokens[at + 1][1]
            if kind == "word" and text in ("const", "let", "function", "class", "as") and after != "(":
                is_top = self._inside[at] in ("top", "import")
                yield from ((each, is_top) for each in self._bound(at + 1, self._ends.get(at + 1, at + 1) + 1))
            elif kind == "word" and after + self._tokens[at + 2][1] == "=>":
                yield at, False
            elif text == "{" and self._tokens[at - 1][1] == "import":
                yield from ((each, True) for each in range(at, self._ends[at]) if self._place(each) == "import")
            elif text == "(":
                end, called = self._ends[at], self._tokens[at - 1][1]
                is_arrow = self._tokens[end + 1][1] + self._tokens[end + 2][1] == "=>"
                if is_arrow or called in ("function", "catch") or self._tokens[at - 2][1] == "function":
                    yield from ((each, False) for each in self._bound(at + 1, end))

    def _bound(self, at: int, end: int) -> Iterator[int]:
        """Yield where a pattern, or several of them, have the names that they bind."""
        while at < end:
            kind, text = self._tokens[at]
            after = self._ends.get(at, at) + 1
            if text == "=":  # a default
                while at < end and self._tokens[at][1] != ",":
                    at = self._ends.get(at, at) + 1
                continue
            if self._tokens[after][1] != ":":
                if kind == "word":
                    yield at
                elif at in self._ends:
                    yield from self._bound(at + 1, after - 1)
            at = after


def lean_style(source: str) -> str:
    """Leave out comments and blanks of a style sheet that separate nothing."""
    return _STYLE.sub(
        lambda found: next(filter(None, found.groups()), " " if found[0].isspace() else ""), source
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
                is_query = _QUERY.match(source, at)
                kind = "markup" if last[1] == "html" else "query" if is_query else "template"
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
