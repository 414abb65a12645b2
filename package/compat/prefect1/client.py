"""What old files ask of the API: a client without ``await``, key-values, artifacts."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from ...engine.backend import Backend, connect
from ...engine.cloud import register_flow
from ...engine.context import context
from ...engine.errors import FlowloopError
from ...engine.flow import Flow
from ...engine.settings import Settings
from ...engine.state import State
from .names import way_out
from .objects import wait_for

__all__ = [
    "Client",
    "create_link_artifact",
    "create_markdown_artifact",
    "delete_key",
    "get_key_value",
    "list_keys",
    "set_key_value",
]

T = TypeVar("T")


class Client:
    """The client of Prefect 1, as far as flows call it: each call opens the backend of the settings, and waits.

    Args:
        - api_server: the backend's URL; that of the settings if None
        - api_key: the key for it
        - options: what else Prefect's client takes, to no effect
    """

    def __init__(self, api_server: str | None = None, api_key: str | None = None, **options: Any) -> None:
        settings = Settings.from_env()
        changes = {"backend_url": api_server, "api_key": api_key}
        given = {name: value for name, value in changes.items() if value is not None}
        self.settings = msgspec.structs.replace(settings, **given)

    @property
    def api_server(self) -> str:
        """The backend's URL."""
        return str(self.settings.backend_url)

    def graphql(self, query: Any, variables: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Send a document to a server, and return the answer: ``answer["data"]``.

        Raises:
            - FlowloopError: where the backend is no server, or does not understand
        """
        import httpx

        if not self.api_server.startswith("http"):
            raise FlowloopError(
                "Client.graphql asks a server: set FLOWLOOP_BACKEND_URL to the URL of one (`flowloop server`)"
            )
        headers = {"Authorization": f"Bearer {self.settings.api_key}"} if self.settings.api_key else {}
        answer = httpx.post(
            f"{self.api_server.rstrip('/')}/graphql",
            json={"query": query, "variables": dict(variables or {})},
            headers=headers,
            timeout=60,
        )
        answer.raise_for_status()
        found = answer.json()
        if found.get("errors"):
            raise FlowloopError("; ".join(str(error.get("message")) for error in found["errors"]))
        return found

    def create_flow_run(
        self,
        flow_id: str,
        context: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        scheduled_start_time: datetime.datetime | None = None,
        idempotency_key: str | None = None,
        run_name: str | None = None,
        labels: Iterable[str] | None = None,
        run_config: Any = None,
    ) -> str:
        """Create a flow run of a registered flow, and return its id."""
        return self._ask(
            lambda backend: backend.create_flow_run(
                flow_id,
                parameters=parameters,
                context=context,
                scheduled_start_time=scheduled_start_time,
                idempotency_key=idempotency_key,
                name=run_name,
                labels=None if labels is None else list(labels),
                run_config=run_config,
            )
        )

    def get_flow_run_state(self, flow_run_id: str) -> State:
        """Return the state of a flow run."""
        return self._ask(lambda backend: backend.get_flow_run_state(flow_run_id))

    def get_flow_run_info(self, flow_run_id: str) -> Any:
        """Return a flow run and its task runs."""
        return self._ask(lambda backend: backend.get_flow_run_info(flow_run_id))

    def cancel_flow_run(self, flow_run_id: str) -> bool:
        """Ask for a flow run to be cancelled."""
        self._ask(lambda backend: backend.cancel_flow_run(flow_run_id))
        return True

    def register(self, flow: Flow, project_name: str | None = None, **options: Any) -> str:
        """Register a flow, and return its id."""
        settings = (
            self.settings if project_name is None else msgspec.structs.replace(self.settings, project=project_name)
        )

        async def register(backend: Backend) -> str:
            return (await register_flow(flow, backend, settings=settings)).id

        return self._ask(register)

    def set_secret(self, name: str, value: Any) -> None:
        """Store a secret on a server."""
        document = "mutation ($input: set_secret_input!) { set_secret(input: $input) { success } }"
        self.graphql(document, {"input": {"name": name, "value": value}})

    def create_project(self, project_name: str, project_description: str | None = None) -> str:
        """Create a project on a server, and return its id."""
        document = "mutation ($input: create_project_input!) { create_project(input: $input) { id } }"
        answer = self.graphql(document, {"input": {"name": project_name, "description": project_description}})
        return str(answer["data"]["create_project"]["id"])

    def _ask(self, question: Callable[[Backend], Coroutine[Any, Any, T]]) -> T:
        if not self.api_server:
            raise FlowloopError("a Client needs a backend: set FLOWLOOP_BACKEND_URL, or Client(api_server=…)")

        async def ask() -> T:
            async with connect(self.api_server, settings=self.settings) as backend:
                return await question(backend)

        return wait_for(ask(), "Client")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise FlowloopError(
            f"Client.{name} is not in flowloop: {way_out('prefect.backend')}; any operation of a server by "
            "Client().graphql(…)"
        )


# -- key-values, which a server keeps ----------------------------------------------------------------


def set_key_value(key: str, value: Any) -> str:
    """Set a value that a server keeps under a key, and return its id."""
    document = "mutation ($input: set_key_value_input!) { set_key_value(input: $input) { id } }"
    return str(Client().graphql(document, {"input": {"key": key, "value": value}})["data"]["set_key_value"]["id"])


def _rows(where: Mapping[str, Any]) -> list[dict[str, Any]]:
    document = "query ($where: key_value_bool_exp) { key_value(where: $where, order_by: {key: asc}) { id key value } }"
    return list(Client().graphql(document, {"where": where})["data"]["key_value"])


def get_key_value(key: str) -> Any:
    """Return the value of a key.

    Raises:
        - ValueError: if there is none
    """
    found = _rows({"key": {"_eq": key}})
    if not found:
        raise ValueError(f"there is no value for the key {key!r}")
    return found[0]["value"]


def delete_key(key: str) -> bool:
    """Delete a key.

    Raises:
        - ValueError: if there is none
    """
    found = _rows({"key": {"_eq": key}})
    if not found:
        raise ValueError(f"there is no value for the key {key!r}")
    document = "mutation ($input: delete_key_value_input!) { delete_key_value(input: $input) { success } }"
    return bool(
        Client().graphql(document, {"input": {"key_value_id": found[0]["id"]}})["data"]["delete_key_value"]["success"]
    )


def list_keys() -> list[str]:
    """Return all keys."""
    return [row["key"] for row in _rows({})]


# -- artifacts ---------------------------------------------------------------------------------------


def create_link_artifact(link: str) -> None:
    """Leave a link with the task run."""
    context.artifact.link(link)


def create_markdown_artifact(markdown: str) -> None:
    """Leave a text in Markdown with the task run."""
    context.artifact.markdown(markdown)
