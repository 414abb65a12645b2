"""Filters against a model: what SQL finds is what the rules of the language say, for filters by chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowloop.backends.server.filters import Filter
from flowloop.backends.store.schema import metadata

LOG = metadata.tables["log"]
ROWS: list[dict[str, Any]] = [
    {"message": message, "name": name} for message in ("a", "b", "c") for name in (None, "a", "b")
]

Truth = bool | None
"""What SQL makes of a condition: a comparison with a missing value is neither true nor false."""

TEXTS = st.sampled_from(["a", "b", "c", None])
COMPARISONS = {
    "_eq": lambda left, right: left == right,
    "_neq": lambda left, right: left != right,
    "_gt": lambda left, right: left > right,
    "_gte": lambda left, right: left >= right,
    "_lt": lambda left, right: left < right,
    "_lte": lambda left, right: left <= right,
}

conditions = st.dictionaries(st.sampled_from(sorted(COMPARISONS)), TEXTS, max_size=2) | st.dictionaries(
    st.sampled_from(["_in", "_nin"]), st.none() | st.lists(TEXTS, max_size=2), max_size=1
)
conditions |= st.fixed_dictionaries({"_is_null": st.none() | st.booleans()})
columns = st.dictionaries(st.sampled_from(["message", "name"]), st.none() | conditions, max_size=2)
filters = st.recursive(
    columns,
    lambda inner: (
        st.dictionaries(st.sampled_from(["_and", "_or"]), st.none() | inner | st.lists(inner, max_size=3), max_size=1)
        | st.fixed_dictionaries({"_not": st.none() | inner})
    ),
    max_leaves=6,
)


def all_of(truths: list[Truth]) -> Truth:
    return False if False in truths else None if None in truths else True


def negated(truth: Truth) -> Truth:
    return None if truth is None else not truth


def holds(where: Any, row: dict[str, Any]) -> Truth:
    """Say what a filter is for a row, by the rules: null is no condition, and an empty object is true."""
    truths: list[Truth] = []
    for name, wanted in (where or {}).items():
        if wanted is None:
            continue
        listed = wanted if isinstance(wanted, list) else [wanted]
        if name == "_and":
            truths.append(all_of([holds(item, row) for item in listed]))
        elif name == "_or":
            truths.append(negated(all_of([negated(holds(item, row)) for item in listed])))
        elif name == "_not":
            truths.append(negated(holds(wanted, row)))
        else:
            truths += [
                compared(operator, row[name], operand) for operator, operand in wanted.items() if operand is not None
            ]
    return all_of(truths)


def compared(operator: str, value: Any, operand: Any) -> Truth:
    if operator == "_is_null":
        return (value is None) is operand
    if operator in ("_in", "_nin"):
        wanted = [item for item in operand if item is not None]
        if not wanted:
            return operator == "_nin"
        return None if value is None else (value in wanted) is (operator == "_in")
    return None if value is None else COMPARISONS[operator](value, operand)


def test_sql_finds_what_the_rules_say(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/rows.db")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE TABLE log (message TEXT, name TEXT)")
            connection.execute(sa.insert(sa.table("log", sa.column("message"), sa.column("name"))), ROWS)

            @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
            @given(filters)
            def check(where: Any) -> None:
                rows = LOG.alias()
                found = Filter("sqlite").where("log", rows, where)
                statement = sa.select(rows.c.message, rows.c.name)
                statement = statement if found is None else statement.where(found)
                expected = [(row["message"], row["name"]) for row in ROWS if holds(where, row)]
                assert [tuple(row) for row in connection.execute(statement)] == expected

            check()
    finally:
        engine.dispose()
