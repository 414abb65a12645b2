"""Recorded conversations of the real client, replayed against a server on PostgreSQL."""

from __future__ import annotations

import pytest

from ...wire.scenarios import check

# One recording of each kind of conversation: the tests in ``wire`` replay them all, on SQLite.
SCENARIOS = (
    "agent_labels",
    "child_flow_runs",
    "cli_run_watch",
    "cloud_auth",
    "cloud_kv_store",
    "cloud_secrets",
    "create_flow_run",
    "register",
    "run_cached",
    "run_mapped",
    "run_retry_long",
    "state_formats",
    "tenant_project",
    "v0150_register_and_run",
    "version_lock_task_running_elsewhere",
)


@pytest.mark.heavy
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_the_answers_are_those_of_the_recording(scenario: str, emptied_postgres_url: str) -> None:
    await check(scenario, emptied_postgres_url)
