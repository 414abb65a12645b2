"""Bringing a database that an earlier flowloop wrote to the tables of this one.

A change of the tables is a change of `schema` and a new file in ``versions``, numbered one higher, and
`database.HEAD` names it. A test holds the tables of `schema` against those that the migrations make.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

from ..databases.base import prepare, version_of

__all__ = ["upgrade"]


async def upgrade(url: str) -> tuple[str | None, str | None]:
    """Bring a database to the tables of this flowloop; a fresh one is made.

    Args:
        - url: as for `Store`

    Returns:
        - tuple: the version before (None if there were no tables) and the version now

    Raises:
        - FlowloopError: if the database cannot be used, or a newer flowloop wrote it
    """
    from ..store import open_database

    versions: list[str | None] = []

    def migrate(connection: Connection, shown: str) -> None:
        versions.append(version_of(connection))
        if versions[0] is None:
            prepare(connection, shown)
        else:
            apply_migrations(connection)
            prepare(connection, shown)
        versions.append(version_of(connection))

    database = open_database(url)
    await database.open(migrate)
    await database.close()
    return versions[0], versions[1]


def apply_migrations(connection: Connection, revision: str = "head") -> None:
    """Apply the migrations that a database has not seen, up to a revision, in its transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
