"""Retention: what is old is deleted, and then the results that only it named."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import or_, select

from ...engine.errors import FlowloopError
from ...engine.serialization.states import read_result
from . import services
from .records import ANYONE, Payload
from .tx import Tx, tables

if TYPE_CHECKING:
    from .store import Store

__all__ = ["prune"]

logger = logging.getLogger(__name__)

_PRUNED_AT_ONCE = 25
_READ_AT_ONCE = 2_000
_KINDS = {"LocalResult", "S3Result", "GCSResult", "AzureResult"}

_WRITTEN = [kind.encode() for kind in sorted(_KINDS)]

_Results = dict[tuple[Any, ...], Mapping[str, Any]]
"""Documents of results, by where they lie."""


async def prune(store: Store, older_than: datetime.timedelta) -> Payload:
    """Delete what finished, or was last used, longer ago than this, and the results that nothing else names.

    Results are deleted in the places that the settings, or code of this process, name. A process that ends amid this
    leaves results behind, and no record of a result that is not there.

    Args:
        - store: where
        - older_than: for how long it is kept

    Returns:
        - Payload: how many rows of each table were deleted; what hangs on a flow run goes with it. Also the number of
          ``results``, and of ``results_left`` because they are elsewhere, or cannot be deleted.
    """
    before = store.clock.now() - older_than
    pruned, found = 0, _Results()

    def flow_runs(tx: Tx) -> int:
        ids = services.old_flow_runs(tx, before=before, limit=_PRUNED_AT_ONCE)
        found.update(_results_of(_documents(tx, ids)))
        services.delete_flow_runs(tx, ids)
        return len(ids)

    while count := await store.write(ANYONE, flow_runs):
        pruned += count
    rest = await store.write(ANYONE, lambda tx: services.prune_rest(tx, before=before))
    await store.write(ANYONE, services.forget)
    removed = await _remove(await _named_no_more(store, found))
    return {"flow_run": pruned, **rest, "results": removed, "results_left": len(found) - removed}


def _documents(tx: Tx, flow_run_ids: Sequence[str]) -> list[msgspec.Raw]:
    run, state = tables["task_run"].c, tables["task_run_state"].c
    wanted = select(state.serialized_state).join_from(
        tables["task_run_state"], tables["task_run"], run.id == state.task_run_id
    )
    named = or_(*(state.serialized_state.contains(kind, autoescape=True) for kind in sorted(_KINDS)))
    return list(tx.connection.execute(wanted.where(run.flow_run_id.in_(flow_run_ids), named)).scalars())


async def _named_no_more(store: Store, found: _Results) -> _Results:
    """Return those results that no task run names any more: a cached one is that of other runs, too."""
    last: str | None = None
    while found:
        rows = await store.read(ANYONE, partial(_next_task_runs, after=last))
        for place in _results_of(row["serialized_state"] for row in rows):
            found.pop(place, None)
        if len(rows) < _READ_AT_ONCE:
            break
        last = rows[-1]["id"]
    return found


def _next_task_runs(tx: Tx, *, after: str | None) -> Sequence[Any]:
    run = tables["task_run"].c
    page = select(run.id, run.serialized_state).order_by(run.id).limit(_READ_AT_ONCE)
    return tx.all(page if after is None else page.where(run.id > after))


def _results_of(documents: Iterable[msgspec.Raw | None]) -> _Results:
    return {
        tuple(one.get(field) for field in ("type", "bucket", "container", "dir", "location")): one
        for document in documents
        if document is not None and any(kind in bytes(document) for kind in _WRITTEN)
        for one in _named_in(msgspec.json.decode(document))
    }


def _named_in(state: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(state, Mapping):
        for result in (state.get("_result"), *(state.get("cached_inputs") or {}).values()):
            if isinstance(result, Mapping) and result.get("type") in _KINDS and result.get("location"):
                yield result
        yield from _named_in(state.get("state"))


async def _remove(found: _Results) -> int:
    removed = 0
    for document in found.values():
        result = read_result(document)
        try:
            await result.check_recorded(str(result.location))
            await result.remove(str(result.location))
        except (FlowloopError, OSError) as error:
            logger.debug("the result at %s is left: %s", result.location, error)
            continue
        removed += 1
    return removed
