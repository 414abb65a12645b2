"""Task bodies as jobs of Kubernetes."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ..errors import ExecutorError
from ..result import Result
from .jobs import JobRefusedError, JobService, JobsExecutor, Phase, Seen, Specification
from .place import Needs

__all__ = ["KubernetesExecutor"]

_LABEL = "flowloop-job"
"""The label of the jobs, and of their pods."""

_CONFLICT, _NOT_FOUND = 409, 404


class KubernetesExecutor(JobsExecutor):
    """Runs each body, sync or async, as a job of Kubernetes: one pod, from an image that has flowloop.

    A body runs once, or it is visibly `Lost`. One that times out or is cancelled has its job deleted: its pod gets
    SIGTERM, which stops the body, and after the grace SIGKILL. Whoever goes on with a flow run finds its jobs by name.

    Args:
        - image: the image, with flowloop of the same version on the same Python
        - store: where requests and answers lie; see `JobsExecutor`
        - namespace: where the jobs are
        - template: what else the jobs say, laid over the manifest: ``{"spec": {"template": {"spec": {...}}}}``; lists
            of containers are joined by the names of these, flowloop's own is called ``body``
        - context, config_file: which cluster of the kubeconfig file; where there is neither, the cluster that this
            process runs in, or else the kubeconfig's own choice
        - ttl: seconds after which Kubernetes removes a job that is over and that nobody has removed
        - window: how many jobs there are at once; the other bodies wait here

    Raises:
        - ExecutorError: if the client of Kubernetes is not installed, or finds no cluster

    Example:

        ```python
        KubernetesExecutor("registry.example/flows:7", S3Result("team-flows"), namespace="flows")
        ```
    """

    def __init__(
        self,
        image: str,
        store: Result,
        *,
        namespace: str = "default",
        template: Mapping[str, Any] | None = None,
        context: str | None = None,
        config_file: str | None = None,
        ttl: int = 3600,
        window: int = 100,
    ) -> None:
        super().__init__(store, window)
        self.image = image
        self.namespace = namespace
        self.template = dict(template or {})
        self.context = context
        self.config_file = config_file
        self.ttl = ttl

    @asynccontextmanager
    async def service(self) -> AsyncIterator[JobService]:
        """Open a client."""
        try:
            client: Any = importlib.import_module("kubernetes_asyncio.client")
            config: Any = importlib.import_module("kubernetes_asyncio.config")
        except ImportError:
            raise ExecutorError("a KubernetesExecutor needs its client: pip install 'flowloop[kubernetes]'") from None
        settings = client.Configuration()
        try:
            if self.context is None and self.config_file is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)
            else:
                await config.load_kube_config(self.config_file, self.context, settings)
        except config.ConfigException as error:
            raise ExecutorError(f"a KubernetesExecutor finds no cluster: {error}") from error
        async with client.ApiClient(settings) as api:
            yield _Kubernetes(self, client, api)


class _Kubernetes(JobService):
    """The jobs of a namespace."""

    def __init__(self, executor: KubernetesExecutor, client: Any, api: Any) -> None:
        self._executor = executor
        self._namespace = executor.namespace
        self._refused: type[Exception] = client.ApiException
        self._jobs = client.BatchV1Api(api)
        self._pods = client.CoreV1Api(api)
        self._known: set[str] = set()
        """The jobs that are there, as far as this client knows."""

    async def check(self) -> list[str]:
        """Ask for the jobs."""
        try:
            await self._jobs.list_namespaced_job(self._namespace, limit=1)
        except Exception as error:
            return [f"Kubernetes does not show the jobs of the namespace {self._namespace!r}: {_why(error)}"]
        return []

    async def launch(self, wanted: Specification) -> None:
        """Create a job; see `JobService.launch`."""
        try:
            await self._jobs.create_namespaced_job(self._namespace, manifest(self._executor, wanted))
        except self._refused as error:
            if getattr(error, "status", None) != _CONFLICT:
                raise JobRefusedError(f"Kubernetes refuses its job: {_why(error)}") from error
        self._known.add(wanted.name)

    async def watch(self) -> AsyncGenerator[Seen]:
        """Tell of all jobs with the label; see `JobService.watch`."""
        watch: Any = importlib.import_module("kubernetes_asyncio.watch")
        before = set(self._known)
        listed = await self._jobs.list_namespaced_job(self._namespace, label_selector=_LABEL)
        for job in listed.items:
            yield await self._seen(job)
        for name in before - {job.metadata.name for job in listed.items}:
            yield self._gone(name)
        version = listed.metadata.resource_version
        async with watch.Watch().stream(
            self._jobs.list_namespaced_job, self._namespace, label_selector=_LABEL, resource_version=version
        ) as events:
            async for event in events:
                if event["type"] == "DELETED":
                    yield self._gone(event["object"].metadata.name)
                elif event["type"] != "BOOKMARK":
                    yield await self._seen(event["object"])

    def _gone(self, name: str) -> Seen:
        self._known.discard(name)
        return Seen(name, Phase.GONE, "it was deleted")

    async def _seen(self, job: Any) -> Seen:
        name, status = job.metadata.name, job.status
        for condition in (status and status.conditions) or ():
            if condition.status == "True" and condition.type == "Complete":
                return Seen(name, Phase.SUCCEEDED)
            if condition.status == "True" and condition.type == "Failed":
                return Seen(
                    name, Phase.FAILED, await self._failure(name) or condition.message or condition.reason or ""
                )
        return Seen(name, Phase.RUNS if status and status.ready else Phase.WAITS)

    async def _failure(self, name: str) -> str:
        """Return how the last pod of a job ended."""
        try:
            pod = await self._pod(name)
        except self._refused:
            return ""
        for container in (pod and pod.status.container_statuses) or ():
            ended = container.state and container.state.terminated
            if ended:
                return f"{ended.reason or 'Error'}, exit code {ended.exit_code}"
        return str((pod and (pod.status.message or pod.status.reason)) or "")

    async def _pod(self, name: str) -> Any:
        found = await self._pods.list_namespaced_pod(self._namespace, label_selector=f"{_LABEL}={name}")
        return max(found.items, key=lambda pod: str(pod.metadata.creation_timestamp), default=None)

    async def lines(self, name: str) -> AsyncGenerator[str]:
        """Follow the log of the pod of a job; see `JobService.lines`."""
        pod = await self._pod(name)
        if pod is None:
            return
        answer = await self._pods.read_namespaced_pod_log(
            pod.metadata.name, self._namespace, container="body", follow=True, _preload_content=False
        )
        rest = b""
        try:
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "replace")
            if rest:
                yield rest.decode("utf-8", "replace")
        finally:
            answer.release()

    async def terminate(self, name: str) -> None:
        """Delete a job with its pods; it is gone when they are."""
        await self._delete(name, "Foreground")

    async def remove(self, name: str) -> None:
        """Delete a job; see `JobService.remove`."""
        if name in self._known:
            await self._delete(name, "Background")
            self._known.discard(name)

    async def _delete(self, name: str, policy: str) -> None:
        try:
            await self._jobs.delete_namespaced_job(name, self._namespace, propagation_policy=policy)
        except self._refused as error:
            if getattr(error, "status", None) != _NOT_FOUND:
                raise


def manifest(executor: KubernetesExecutor, wanted: Specification) -> dict[str, Any]:
    """Return the job that Kubernetes is to run."""
    labels = {_LABEL: wanted.name, "app.kubernetes.io/managed-by": "flowloop"}
    container = {
        "name": "body",
        "image": executor.image,
        "command": ["python", "-m", "flowloop.engine.executors._job_worker"],
        "env": [{"name": name, "value": value} for name, value in wanted.environment.items()],
        "resources": _resources(wanted.job.needs),
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": max(1, math.ceil(wanted.job.grace)),
        "containers": [container],
    }
    made = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": wanted.name,
            "labels": labels,
            "annotations": {"flowloop/task": wanted.job.name, "flowloop/job": wanted.job.id},
        },
        "spec": {
            "backoffLimit": 6 if wanted.job.needs.may_rerun else 0,
            "ttlSecondsAfterFinished": executor.ttl,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    own = wanted.job.needs.options.get("kubernetes", {})
    found: dict[str, Any] = _over(_over(made, executor.template), own)
    return found


def _resources(needs: Needs) -> dict[str, Any]:
    wanted: dict[str, str] = {name: f"{amount:g}" for name, amount in needs.resources.items()}
    if needs.gpus is not None:
        wanted["nvidia.com/gpu"] = f"{needs.gpus:g}"
    if needs.cpus is not None:
        wanted["cpu"] = f"{needs.cpus:g}"
    if needs.memory is not None:
        wanted["memory"] = str(needs.memory)
    if not wanted:
        return {}
    limits = {name: amount for name, amount in wanted.items() if name != "cpu"}
    return {"requests": wanted, "limits": limits}


def _over(below: Any, above: Any) -> Any:
    """Lay one manifest over another: mappings are joined, and lists of what has names by these; the rest replaces."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{key: _over(below[key], value) if key in below else value for key, value in above.items()}}
    if isinstance(below, list) and isinstance(above, list) and all("name" in one for one in [*below, *above]):
        found = {one["name"]: one for one in below}
        for one in above:
            found[one["name"]] = _over(found[one["name"]], one) if one["name"] in found else one
        return list(found.values())
    return above


def _why(error: Exception) -> str:
    """Return what the server said."""
    try:
        said: str = json.loads(getattr(error, "body", None) or "{}")["message"]
    except (ValueError, KeyError, TypeError):
        return str(getattr(error, "reason", None) or error)
    return said
