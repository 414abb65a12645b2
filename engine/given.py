"""What a flow run is given, held to the documents of its flow's parameters: for who has not got the flow itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .errors import BackendRejected

__all__ = ["check_given", "check_names", "from_text"]

_KINDS: dict[str, tuple[type, ...]] = {
    "array": (list, tuple),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}


def check_given(documents: Iterable[Mapping[str, Any]], given: Mapping[str, Any]) -> None:
    """Refuse values that no parameter of a flow takes.

    A parameter of which no type is recorded, as Prefect 1 records none, takes whatever it is given.

    Args:
        - documents: of the parameters of the flow
        - given: values by the names of parameters

    Raises:
        - BackendRejected: for a name that no parameter has, and for a value of the wrong type
    """
    known = check_names(documents, given)
    for name, value in given.items():
        if (problem := _problem(value, known[name])) is not None:
            raise BackendRejected(f"parameter {_cut(name)!r}: {problem}")


def check_names(documents: Iterable[Mapping[str, Any]], given: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Refuse names that no parameter of a flow has.

    Args:
        - documents: of the parameters of the flow
        - given: the names

    Returns:
        - dict[str, Mapping[str, Any]]: the documents, by name

    Raises:
        - BackendRejected: for a name that no parameter has
    """
    known = {document["name"]: document for document in documents}
    for name in given:
        if name not in known:
            names = ", ".join(map(_cut, sorted(known))) or "none"
            raise BackendRejected(f"the flow has no parameter {_cut(name)!r}; it has: {names}")
    return known


def from_text(document: Mapping[str, Any] | None, text: str) -> Any:
    """Return the value that a text from a command line means: the text itself, where its parameter is one, else JSON.

    Args:
        - document: of its parameter; None if it is not known
        - text: what was written
    """
    if document is not None and document.get("schema") and _problem(text, document) is None:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _problem(value: Any, document: Mapping[str, Any]) -> str | None:
    schema = document.get("schema")
    if not schema or (value is None and not document.get("required") and document.get("default") is None):
        return None
    return _mismatch(value, schema, schema.get("$defs", {}))


def _mismatch(value: Any, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str | None:
    """Return why a value is not what a JSON schema says, or None; what is not understood of the schema says nothing."""
    if "$ref" in schema:
        schema = definitions.get(schema["$ref"].rpartition("/")[2], {})
    if "anyOf" in schema:
        problems = [_mismatch(value, one, definitions) for one in schema["anyOf"]]
        return None if None in problems else problems[0]
    if "enum" in schema and not any(type(one) is type(value) and one == value for one in schema["enum"]):
        return f"{_shown(value)} is none of {', '.join(map(_shown, schema['enum']))}"
    kind = schema.get("type")
    if kind in _KINDS and not _is(value, kind, schema):
        return f"{_shown(value)} is not {'an' if kind[0] in 'aio' else 'a'} {kind}"
    if isinstance(value, (list, tuple)):
        least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
        if not least <= len(value) <= most:
            return f"{_shown(value)} has not {least if len(value) < least else most} items"
    for part, inner in _parts(value, schema):
        if (problem := _mismatch(part, inner, definitions)) is not None:
            return problem
    missing = [name for name in schema.get("required", ()) if isinstance(value, dict) and name not in value]
    return f"{_shown(value)} has no {missing[0]!r}" if missing else None


def _is(value: Any, kind: str, schema: Mapping[str, Any]) -> bool:
    if kind == "string" and schema.get("format") == "decimal":
        return isinstance(value, (str, int, float)) and not isinstance(value, bool)
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _KINDS[kind])


def _parts(value: Any, schema: Mapping[str, Any]) -> Iterable[tuple[Any, Mapping[str, Any]]]:
    """Return what a value is made of, each with its schema where that has one."""
    if isinstance(value, (list, tuple)):
        first = schema.get("prefixItems", ())
        pairs = [*zip(value, first, strict=False), *((item, schema.get("items")) for item in value[len(first) :])]
    elif isinstance(value, dict):
        named, others = schema.get("properties", {}), schema.get("additionalProperties")
        pairs = [(item, named.get(name, others)) for name, item in value.items()]
    else:
        pairs = []
    return [(part, inner) for part, inner in pairs if isinstance(inner, dict)]


def _shown(value: Any) -> str:
    return _cut(msgspec.json.encode(value).decode())


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"
