"""The classes and functions that behave as those of Prefect 1 where flowloop's own would not: without ``await``."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ...engine import cloud, executors, flow_runner, task_runner
from ...engine.context import context
from ...engine.control import switch
from ...engine.errors import FlowDefinitionError, FlowloopError
from ...engine.flow import Flow as OwnFlow
from ...engine.flow_loop import run_flow, run_sync
from ...engine.masking import hide
from ...engine.secrets import Secret
from ...engine.serializers import PickleSerializer
from ...engine.settings import Settings
from ...engine.state import Scheduled, State
from ...engine.task import Task, task
from ...engine.triggers import all_finished
from ...tasks.mail import send_mail
from ...tasks.notify import WEBHOOK, post_to_slack, webhook_url
from ...tasks.notify import slack_notifier as own_slack_notifier
from .configuration import checkpointing, config

__all__: list[str] = []

T = TypeVar("T")

Executor = executors.Executor


def wait_for(coroutine: Coroutine[Any, Any, T], what: str) -> T:
    """Run a coroutine to its end, and return its answer: what old files call without ``await``."""
    return run_sync(coroutine, instead=f"await …: {what} of Prefect 1 waits, and nothing on a running loop may")


def waits(method: Callable[..., Coroutine[Any, Any, T]], what: str) -> Callable[..., Any]:
    """Let a method be called without ``await``: it waits, except on a running event loop, where it is awaited."""

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        coroutine = method(self, *args, **kwargs)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return wait_for(coroutine, what)
        return coroutine  # flowloop itself calls it

    return called


# -- flows and runners -------------------------------------------------------------------------------


class Flow(OwnFlow):
    """A flow whose `run` waits for the end, as old files call it."""

    def run(  # type: ignore[override]
        self,
        parameters: Mapping[str, Any] | None = None,
        run_on_schedule: bool | None = None,
        runner_cls: type[Any] | None = None,
        **kwargs: Any,
    ) -> State:
        """Run the flow to its end, and return its final state.

        Raises:
            - FlowloopError: inside a running event loop, where ``await flow.run_async()`` is what to write
        """
        coroutine = self.run_async(parameters, run_on_schedule, runner_cls, **kwargs)
        return run_sync(coroutine, instead="await flow.run_async(...)")

    def run_sync(self, parameters: Mapping[str, Any] | None = None, **kwargs: Any) -> State:
        """Do the same as `run`."""
        return self.run(parameters, **kwargs)

    async def run_async(
        self,
        parameters: Mapping[str, Any] | None = None,
        run_on_schedule: bool | None = None,
        runner_cls: type[Any] | None = None,
        **kwargs: Any,
    ) -> State:
        """Run the flow on this event loop."""
        if not (self.schedule if run_on_schedule is None else run_on_schedule):
            kwargs.setdefault("state", Scheduled())  # what old state handlers are told that a run comes from
        given = {"checkpointing": context.get("checkpointing", checkpointing()), **(kwargs.pop("context", None) or {})}
        return await run_flow(self, dict(parameters or {}), run_on_schedule, runner_cls, context=given, **kwargs)

    def register(self, project_name: str | None = None, labels: Iterable[str] | None = None, **options: Any) -> str:
        """Register the flow in a project of the backend that the settings name, and return its id.

        Args:
            - project_name: the project
            - labels: those of its run configuration
            - options: what else Prefect takes, to no effect: nothing is built, and nothing uploaded
        """
        from .client import Client

        if labels is not None:
            self.run_config = {**(self.run_config or {"type": "UniversalRun"}), "labels": sorted(labels)}
        return Client().register(self, project_name)

    def serialize(self, build: bool = False) -> dict[str, Any]:
        """Return the document of the flow; there is nothing to build."""
        return super().serialize()

    def serialized_hash(self, build: bool = False) -> str:
        """Return a hash of the document, which changes when the flow does."""
        return hashlib.sha256(msgspec.json.encode(self.serialize(), order="sorted")).hexdigest()

    def save(self, fpath: str | None = None) -> str:
        """Write the flow to a file, by cloudpickle, and return the path.

        Args:
            - fpath: the file; one named after the flow, in the folder ``flows`` of flowloop's home, if None
        """
        path = Path(fpath) if fpath else Path(Settings.from_env().home, "flows", f"{_as_file_name(self.name)}.prefect")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PickleSerializer().serialize(self))
        return str(path)

    @staticmethod
    def load(fpath: str) -> Any:
        """Return the flow of a file that `save` wrote, or of this name where `save` writes; it is unpickled."""
        path = Path(fpath)
        if not path.exists():
            path = Path(Settings.from_env().home, "flows", f"{_as_file_name(fpath)}.prefect")
        return PickleSerializer().deserialize(path.read_bytes())

    def run_agent(self, *args: Any, **kwargs: Any) -> None:
        """Raise an error: there are no agents."""
        raise FlowloopError("flow.run_agent is not in flowloop: start `flowloop worker FILE`")


def _as_file_name(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).strip("-")


def _is_step(name: str, owner: type) -> bool:
    return any(inspect.iscoroutinefunction(vars(base).get(name)) for base in owner.__mro__[1:])


def _await_steps(owner: type) -> None:
    """Let the synchronous methods of a class be awaited where those that they override are coroutines.

    Raises:
        - FlowDefinitionError: for one that calls the one it overrides, whose answer it would have to await
    """
    for name, method in list(vars(owner).items()):
        if not inspect.isfunction(method) or inspect.iscoroutinefunction(method) or not _is_step(name, owner):
            continue
        if "super" in method.__code__.co_names:
            raise FlowDefinitionError(
                f"{owner.__name__}.{name} is a plain function that calls super(), whose answer has to be awaited: "
                f"write `async def {name}(…)`, and `await super().{name}(…)`"
            )
        setattr(owner, name, _awaited(method))


def _awaited(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def awaited(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **kwargs)

    return awaited


class TaskRunner(task_runner.TaskRunner):
    """Runs a task; a step that a subclass overrides may be a plain function, if it does not call ``super()``."""

    run = waits(task_runner.TaskRunner.run, "TaskRunner.run")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _await_steps(cls)


class CloudTaskRunner(cloud.CloudTaskRunner):
    """Runs a task of a recorded run; as `TaskRunner`."""

    run = waits(cloud.CloudTaskRunner.run, "CloudTaskRunner.run")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _await_steps(cls)


class FlowRunner(flow_runner.FlowRunner):
    """Runs a flow; `run` waits for the end, except on a running event loop, where it is awaited."""

    run = waits(flow_runner.FlowRunner.run, "FlowRunner.run")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _await_steps(cls)


class CloudFlowRunner(cloud.CloudFlowRunner):
    """Runs a flow and records it; as `FlowRunner`."""

    run = waits(cloud.CloudFlowRunner.run, "CloudFlowRunner.run")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _await_steps(cls)


# -- executors ---------------------------------------------------------------------------------------


def LocalExecutor(**options: Any) -> Any:  # noqa: N802
    """Return where bodies run in this process: coroutines on the loop, others in threads."""
    return executors.LocalExecutor()


def LocalDaskExecutor(scheduler: str = "threads", num_workers: int | None = None, **options: Any) -> Any:  # noqa: N802
    """Return threads or processes of this machine: Dask's own local schedulers are not needed for that.

    Args:
        - scheduler: ``"threads"``, ``"processes"`` or ``"synchronous"``
        - num_workers: how many
        - options: what else Prefect takes, to no effect
    """
    if scheduler in ("processes", "multiprocessing"):
        return executors.ProcessExecutor(num_workers)
    if scheduler in ("sync", "synchronous", "single-threaded"):
        num_workers = 1
    return executors.LocalExecutor() if num_workers is None else executors.LocalExecutor(threads=num_workers)


def DaskExecutor(address: str | None = None, **options: Any) -> Any:  # noqa: N802
    """Return a Dask cluster, as `flowloop.engine.executors.DaskExecutor` takes it."""
    known = {"adapt_kwargs", "client_kwargs", "cluster_class", "cluster_kwargs"}
    return executors.DaskExecutor(address, **{name: value for name, value in options.items() if name in known})


# -- tasks -------------------------------------------------------------------------------------------


@task(name="as_bool")
def _as_bool(value: Any) -> bool:
    return bool(value)


def ifelse(condition: Any, true_task: Any, false_task: Any, mapped: bool = False) -> None:
    """Run one of two tasks, and skip the other one.

    Args:
        - condition: a task
        - true_task: what runs if its result is true; None for nothing
        - false_task: what runs if it is not; None for nothing
        - mapped: whether to choose for each element of the condition's result
    """
    cases = {True: true_task, False: false_task}
    chosen: Any = _as_bool.map(condition) if mapped else _as_bool(condition)
    switch(chosen, {value: one for value, one in cases.items() if one is not None}, mapped=mapped)


class FilterTask(Task[..., Any]):
    """Leaves out of a list what a function says; None and errors if nothing is said.

    Args:
        - filter_func: returns whether to keep a value
        - log_func: makes a line for the log of what is left out
        - kwargs: as for `Task`
    """

    def __init__(
        self,
        filter_func: Callable[[Any], bool] | None = None,
        log_func: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("skip_on_upstream_skip", False)
        kwargs.setdefault("trigger", all_finished)
        self.filter_func = filter_func or (lambda value: not isinstance(value, (Exception, type(None))))
        self.log_func = log_func
        super().__init__(**kwargs)

    def run(self, task_results: Sequence[Any]) -> list[Any]:
        """Return what is kept."""
        kept: list[Any] = []
        left_out: list[Any] = []
        for value in task_results:
            (kept if self.filter_func(value) else left_out).append(value)
        if self.log_func is not None:
            for value in left_out:
                self.logger.info(self.log_func(value))
        return kept


def _secret(name: str) -> Any:
    given = context.get("secrets") or {}
    if name in given:
        return hide(_of_json(given[name]))
    local = config.context.secrets
    if name in local:
        return hide(_of_json(local[name]))
    found = os.environ.get(f"FLOWLOOP_SECRET__{name}")
    return None if found is None else hide(found)


def _of_json(secret: Any) -> Any:
    """Return what a text says in JSON; what is none, as it is."""
    try:
        return json.loads(secret)
    except (TypeError, ValueError):
        return secret


class PrefectSecret(Secret):
    """A secret: in the context, in ``PREFECT__CONTEXT__SECRETS__NAME``, or in ``FLOWLOOP_SECRET__NAME``.

    One of the first two may be JSON, and then is what that says.
    """

    async def run(self, name: str | None = None) -> Any:
        """Return the secret.

        Raises:
            - FlowloopError: if it is nowhere
        """
        name = self._named(name)
        found = _secret(name)
        return await super().run(name) if found is None else found


class ClientSecret:
    """A secret that is asked for inside a body: ``Secret("name").get()``.

    Args:
        - name: its name
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def get(self) -> Any:
        """Return the secret.

        Raises:
            - ValueError: if it is nowhere
        """
        found = _secret(self.name)
        if found is None:
            raise ValueError(
                f"secret {self.name!r} was not found: put it under 'secrets' in the run context, or into the "
                f"environment variable FLOWLOOP_SECRET__{self.name}"
            )
        return found

    def exists(self) -> bool:
        """Tell whether there is such a secret."""
        return _secret(self.name) is not None


def SlackTask(message: str | None = None, webhook_secret: str = WEBHOOK, **kwargs: Any) -> Any:  # noqa: N802
    """Return a task that posts a message to Slack."""
    kwargs.setdefault("name", "SlackTask")

    async def run(message: str | None = message, webhook_secret: str = webhook_secret) -> None:
        await post_to_slack.run(message or "", webhook_url(webhook_secret))

    return task(run, **kwargs)


def EmailTask(  # noqa: N802
    subject: str | None = None,
    msg: str | None = None,
    email_to: str | None = None,
    email_from: str = "notifications@localhost",
    smtp_server: str = "localhost",
    smtp_port: int = 465,
    smtp_type: str = "SSL",
    **kwargs: Any,
) -> Any:
    """Return a task that sends an e-mail; the secrets EMAIL_USERNAME and EMAIL_PASSWORD log in, where there are any.

    Raises:
        - FlowloopError: for TLS from the first byte on, which `flowloop.tasks.send_mail` does not speak
    """
    if smtp_type == "SSL":
        raise FlowloopError("EmailTask: smtp_type='SSL' is not in flowloop: take 'STARTTLS', or smtplib in a task")
    kwargs.setdefault("name", "EmailTask")

    def run(subject: str | None = subject, msg: str | None = msg, email_to: str | None = email_to) -> None:
        user = ClientSecret("EMAIL_USERNAME")
        login = {"user": user.get(), "password": ClientSecret("EMAIL_PASSWORD").get()} if user.exists() else {}
        send_mail.run(
            email_to or "", subject or "", msg or "", sender=email_from, host=smtp_server, port=smtp_port,
            tls=smtp_type == "STARTTLS", **login,
        )  # fmt: skip

    return task(run, **kwargs)


# -- helpers -----------------------------------------------------------------------------------------


def slack_notifier(tracked_obj: Any = None, old_state: Any = None, new_state: Any = None, **options: Any) -> Any:
    """Post a state to Slack: as a state handler, or, without a state, made into one with its options."""
    handler = own_slack_notifier(
        only_states=options.get("only_states") or (),
        ignore_states=options.get("ignore_states") or (),
        webhook_secret=options.get("webhook_secret") or WEBHOOK,
    )
    return handler if new_state is None else handler(tracked_obj, old_state, new_state)


def callback_factory(
    function: Callable[[Any, State], Any], check: Callable[[State], bool]
) -> Callable[[Any, State, State], State]:
    """Return a state handler that calls a function with each new state that passes a check."""

    def handler(tracked: Any, old: State, new: State) -> State:
        if check(new):
            function(tracked, new)
        return new

    return handler
