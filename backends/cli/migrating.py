"""The command that looks at files written for another engine."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["migrate"]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def migrate(files: tuple[Path, ...]) -> None:
    """Say what files for Prefect 1 use of it.

    Line by line, and how that is written here. Nothing is run and nothing is changed. Most files run as they are under
    `python -m flowloop.compat.prefect1 FILE`.
    """
    from ...compat.prefect1.report import lines

    for path in files:
        for line in lines(path):
            click.echo(line)
