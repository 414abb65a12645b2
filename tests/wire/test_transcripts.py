"""Every recorded conversation of the real client, replayed over HTTP: the answers are those of the recording."""

from __future__ import annotations

from pathlib import Path

import pytest

from .scenarios import INDEX, check


@pytest.mark.parametrize("scenario", sorted(INDEX))
async def test_the_answers_are_those_of_the_recording(scenario: str, tmp_path: Path) -> None:
    await check(scenario, f"sqlite:///{tmp_path}/flowloop.db")
