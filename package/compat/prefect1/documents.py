"""Run configurations and storages: documents that travel with a registered flow, for whoever runs it.

A `flowloop worker` runs the files that it is given, in its own environment: of these it honours the labels. Agents of
Prefect 1 read them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .configuration import PREFECT_VERSION

__all__: list[str] = []


class RunConfig(dict[str, Any]):
    """A run configuration: a document, and its fields as attributes."""

    def __init__(self, *, env: Any = None, labels: Iterable[str] | None = None, **fields: Any) -> None:
        given = {name: value for name, value in fields.items() if value is not None}
        super().__init__(
            {"type": type(self).__name__, "env": env, "labels": sorted(labels or ()), **given}
            | {"__version__": PREFECT_VERSION}
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name}") from None

    @property
    def labels(self) -> set[str]:
        """Return the labels."""
        return set(self["labels"])

    def serialize(self) -> dict[str, Any]:
        """Return the document."""
        return dict(self)


class Storage(RunConfig):
    """Where a flow is kept: a document."""

    def __init__(self, *places: Any, **fields: Any) -> None:
        if places:
            fields["place"] = places[0]
        super().__init__(**fields)
        del self["env"], self["labels"]

    def add_flow(self, flow: Any) -> str:
        """Do nothing: a worker is given the files that it runs."""
        return str(flow.name)


def _kind(name: str, base: type) -> Callable[..., Any]:
    return type(name, (base,), {"__module__": __name__, "__doc__": f"{name}: a document, for whoever runs the flow."})


for _name in ("DockerRun", "ECSRun", "KubernetesRun", "LocalRun", "UniversalRun", "VertexRun"):
    globals()[_name] = _kind(_name, RunConfig)
for _name in ("Azure", "Bitbucket", "CodeCommit", "Docker", "GCS", "Git", "GitHub", "GitLab", "Local", "Module", "S3",
              "Webhook"):  # fmt: skip
    globals()[_name] = _kind(_name, Storage)
