"""One transaction as the operations of the store see it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    RowMapping,
    Select,
    Table,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from ...engine.clock import Clock
from ...engine.errors import BackendRejected
from .databases.base import Database
from .ids import is_id
from .records import Caller, Kind, NextEvents, StateChange
from .schema import metadata

__all__ = ["Tx", "document", "in_utc", "tables"]

tables: Mapping[str, Table] = metadata.tables


class Tx:
    """One transaction: the connection, who asks, and what time it is.

    Args:
        - connection: where the statements go
        - database: the database behind it, for the hot statements
        - caller: who asks; rows of other tenants do not exist for it
        - now: the time of everything that is written in this transaction
        - new_id: makes ids
        - next_events: tells the next dates of a schedule document, or None if nothing can
        - secret_key: what secrets are encrypted with, or an empty text
        - watched: the kinds of runs of whose `changes` somebody wants to be told
        - lease_clock: tells the time that leases are compared with; the database does if None
        - late_runs: which planned runs are run whose time came while nobody was there
    """

    def __init__(
        self,
        connection: Connection,
        database: Database,
        caller: Caller,
        now: datetime.datetime,
        new_id: Callable[[], str],
        next_events: NextEvents | None,
        secret_key: str,
        watched: Collection[Kind],
        lease_clock: Clock | None = None,
        late_runs: str = "all",
    ) -> None:
        self.connection = connection
        self.database = database
        self.caller = caller
        self.now = now
        self.new_id = new_id
        self.next_events = next_events
        self.secret_key = secret_key
        self.watched = watched
        self.late_runs = late_runs
        self.changes: list[StateChange] = []
        self.moved: dict[str, None] = {}
        """The flow runs that this transaction gives a state of their own; one that is created for its owner, of which
        nobody else has heard yet, is none of them."""
        self._lease_clock = lease_clock

    @cached_property
    def lease_now(self) -> datetime.datetime:
        """The time that leases are compared with: one for all processes, however their clocks differ."""
        return self.read_lease_clock()

    def read_lease_clock(self) -> datetime.datetime:
        """Return the time by the clock of leases at this moment: what has waited for a lock may be late."""
        return self._lease_clock.now() if self._lease_clock else self.database.clock(self.connection)

    # -- reading ---------------------------------------------------------------------------------------

    def all(self, statement: Select[*tuple[Any, ...]]) -> Sequence[RowMapping]:
        """Return every row."""
        return self.connection.execute(statement).mappings().all()

    def first(self, statement: Select[*tuple[Any, ...]]) -> RowMapping | None:
        """Return the first row, if there is one."""
        return self.connection.execute(statement.limit(1)).mappings().first()

    def scalar(self, statement: Select[*tuple[Any, ...]]) -> Any:
        """Return the first column of the first row, or None."""
        return self.connection.execute(statement).scalar()

    def mine(self, table: str) -> ColumnElement[bool]:
        """The condition that a row belongs to the caller's tenant."""
        columns = tables[table].c
        owner = columns.id if table == "tenant" else columns.tenant_id
        if self.caller.tenant_id is None:
            return owner.is_not(None)
        return owner == self.caller.tenant_id

    def row(self, table: str, row_id: object, missing: str, *, lock: bool = False) -> RowMapping:
        """Return a row by its id.

        Args:
            - table: its name; of a flow, everything but its document, which can be megabytes
            - row_id: whatever is to be an id
            - missing: what to say if the caller has no such row
            - lock: keep other transactions from changing it, or locking it too, until the end of this one

        Raises:
            - BackendRejected: with the message `missing`
        """
        found = None
        if is_id(row_id):
            columns = tables[table].c
            shown = [column for column in columns if column.name != "serialized_flow"]
            chosen = select(*shown).where(columns.id == row_id, self.mine(table))
            found = self.first(chosen.with_for_update(key_share=True) if lock else chosen)
        if found is None:
            raise BackendRejected(missing)
        return found

    # -- writing ---------------------------------------------------------------------------------------

    def run(self, statement: Executable) -> int:
        """Execute a statement, and return how many rows it changed."""
        return self.connection.execute(statement).rowcount

    def insert(self, table: str, **values: Any) -> str:
        """Insert a row, and return its new id."""
        row_id = self.new_id()
        row = {"id": row_id, "created": self.now, "updated": self.now, **values}
        # beside the statement, which SQLAlchemy keeps with all that is in it: a flow's document can be megabytes
        self.connection.execute(insert(tables[table]), row)
        return row_id

    def upsert(self, table: str) -> Any:
        """Return an insert statement that can say what to do about a conflict, as both dialects spell it."""
        dialect = sqlite if self.database.name == "sqlite" else postgresql
        return dialect.insert(tables[table])

    def put(self, table: str, key: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> str:
        """Insert the row with a unique key, or change it if it is there already, and return its id."""
        values = dict(values or {})
        row = {"id": self.new_id(), "created": self.now, "updated": self.now, **key, **values}
        claim = self.upsert(table).values(row)
        columns = tables[table].c
        claim = claim.on_conflict_do_update(index_elements=list(key), set_={"updated": self.now, **values})
        row_id: str = self.connection.execute(claim.returning(columns.id)).scalar_one()
        return row_id

    def insert_many(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows."""
        if rows:
            stamped = [{"id": self.new_id(), "created": self.now, "updated": self.now, **row} for row in rows]
            self.connection.execute(insert(tables[table]), stamped)

    def insert_rows(self, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert very many rows: values as `Database.insert_rows` takes them."""
        if rows:
            now = self.database.moment(self.now)
            stamped = [(self.new_id(), now, now, *row) for row in rows]
            self.database.insert_rows(self.connection, table, ("id", "created", "updated", *columns), stamped)

    def say_again(self, run: RowMapping) -> None:
        """Tell those who watch a flow run of the state it is in: something else about it has changed."""
        self.moved[run["id"]] = None
        if "flow_run" in self.watched:
            found = run["serialized_state"]
            text = found if isinstance(found, str) else bytes(found).decode()
            known = run["id"], run["id"], run["tenant_id"], run["version"], run["state"], run["state_message"]
            self.changes.append(StateChange("flow_run", *known, self.now, text, again=True))

    def update(self, table: str, *where: ColumnElement[bool], **values: Any) -> int:
        """Update the rows that match, and return how many did."""
        return self.run(update(tables[table]).where(*where).values(updated=self.now, **values))

    def tenant_or_default(self, tenant_id: str | None) -> str:
        """Return the tenant to write for: the one named, else the caller's, else the first, made if there is none.

        Raises:
            - BackendRejected: if the caller belongs to another tenant, or there is no such tenant
        """
        if tenant_id is None:
            tenant_id = self.caller.tenant_id
        if tenant_id is not None:
            found: str = self.row("tenant", tenant_id, "Invalid tenant ID.")["id"]
            return found
        return self.tenant_or_none() or self.put("tenant", {"slug": "default"}, {"name": "Default"})

    def tenant_or_none(self) -> str | None:
        """Return the tenant of the caller, else the first there is, if there is any."""
        if self.caller.tenant_id is not None:
            return self.caller.tenant_id
        first = self.first(select(tables["tenant"].c.id).order_by(tables["tenant"].c.id))
        return first["id"] if first is not None else None


def document(value: Any) -> str:
    """Return the JSON text of a document."""
    return msgspec.json.encode(value).decode()


def in_utc(moment: datetime.datetime) -> datetime.datetime:
    """Return a moment in UTC; a naive one is taken as UTC already."""
    return moment.replace(tzinfo=datetime.UTC) if moment.tzinfo is None else moment.astimezone(datetime.UTC)
