"""The names of Prefect 1: where each is found here, and what to use in place of those that are not."""

from __future__ import annotations

import importlib

__all__ = ["MODULES", "WAYS_OUT", "way_out"]


def _all(prefix: str, module: str, *names: str) -> dict[str, str]:
    """Return the places of names that a module has; of all that it exports if none are given."""
    return {name: f"{module}:{name}" for name in names or importlib.import_module(module, "flowloop").__all__}


_OWN = ".compat.prefect1"
_CORE = {
    "Flow": f"{_OWN}.objects:Flow",
    "Parameter": ".engine:Parameter",
    "Task": ".engine:Task",
    "Edge": ".engine:Edge",
}
_CONTROL = {
    "case": ".engine:case",
    "ifelse": f"{_OWN}.objects:ifelse",
    "merge": ".engine:merge",
    "switch": ".engine:switch",
    "FilterTask": f"{_OWN}.objects:FilterTask",
}
_RESULTS = {
    f"{name}Result": f"{_OWN}.stores:{name}Result"
    for name in ("Azure", "Constant", "GCS", "Local", "Prefect", "S3", "Secret")
}
_RESULT = {
    "NoResult": ".engine.result:NoResult",
    "Result": f"{_OWN}.stores:Result",
    "ResultNotImplementedError": ".engine.result:ResultNotImplementedError",
}
_RUNNERS = {"FlowRunner": f"{_OWN}.objects:FlowRunner", "TaskRunner": f"{_OWN}.objects:TaskRunner"}
_CLOUD = {
    "CloudFlowRunner": f"{_OWN}.objects:CloudFlowRunner",
    "CloudTaskRunner": f"{_OWN}.objects:CloudTaskRunner",
}
_EXECUTORS = {
    name: f"{_OWN}.objects:{name}" for name in ("DaskExecutor", "Executor", "LocalDaskExecutor", "LocalExecutor")
}
_OPERATORS = ("Add", "And", "Div", "Equal", "FloorDiv", "GetAttr", "GetItem", "GreaterThan", "GreaterThanOrEqual",
              "LessThan", "LessThanOrEqual", "Mod", "Mul", "Not", "NotEqual", "Or", "Pow", "Sub")  # fmt: skip
_EDGES = _all("", ".engine", "flatten", "mapped", "unmapped")
_TASKS = {
    **_all("", ".engine", "apply_map", "defaults_from_attrs", "pause_task", "tags", "task"),
}
_SECRETS = {
    "EnvVarSecret": ".engine:EnvVarSecret",
    "PrefectSecret": f"{_OWN}.objects:PrefectSecret",
    "SecretBase": ".engine:Secret",
}
_FLOW_RUNS = {
    "create_flow_run": ".tasks.flow_runs:create_flow_run",
    "wait_for_flow_run": ".tasks.flow_runs:wait_for_flow_run",
}
_KEY_VALUES = {name: f"{_OWN}.client:{name}" for name in ("delete_key", "get_key_value", "list_keys", "set_key_value")}
_ARTIFACTS = {name: f"{_OWN}.client:{name}" for name in ("create_link_artifact", "create_markdown_artifact")}
_NOTIFY = {
    "callback_factory": f"{_OWN}.objects:callback_factory",
    "slack_notifier": f"{_OWN}.objects:slack_notifier",
}
_NESTED = "CompoundKey DotDict as_nested_dict dict_to_flatdict flatdict_to_dict flatten_seq merge_dicts"
_SQLITE = {name: f"{_OWN}.library:{name}" for name in ("SQLiteQuery", "SQLiteScript")}
_FILES = {name: f"{_OWN}.library:{name}" for name in ("Copy", "Glob", "Move", "Remove")}
_TEMPLATES = {"StringFormatter": f"{_OWN}.library:StringFormatter"}
_RUN_CONFIGS = "DockerRun ECSRun KubernetesRun LocalRun RunConfig UniversalRun VertexRun"
_STORAGES = "Azure Bitbucket CodeCommit Docker GCS Git GitHub GitLab Local Module S3 Webhook"
_DOCUMENTS = {"prefect.run_configs": _RUN_CONFIGS.split(), "prefect.storage": _STORAGES.split()}

MODULES: dict[str, dict[str, str]] = {
    "prefect": {
        **{name: place for name, place in _CORE.items() if name != "Edge"},
        **_EDGES,
        **_all("", ".engine", "apply_map", "resource_manager", "tags", "task"),
        "case": ".engine:case",
        "context": ".engine:context",
        "config": f"{_OWN}.configuration:config",
        "Client": f"{_OWN}.client:Client",
        "__version__": f"{_OWN}.configuration:PREFECT_VERSION",
    },
    "prefect.core": _CORE,
    "prefect.core.task": {"Task": ".engine:Task"},
    "prefect.core.flow": {"Flow": f"{_OWN}.objects:Flow"},
    "prefect.core.edge": {"Edge": ".engine:Edge"},
    "prefect.core.parameter": _all("", ".engine", "DateTimeParameter", "Parameter")
    | {"no_default": ".engine.parameter:no_default"},
    "prefect.engine": _RUNNERS,
    "prefect.engine.state": _all("", ".engine.state"),
    "prefect.engine.signals": _all("", ".engine.signals"),
    "prefect.engine.result": {**_RESULT, **_RESULTS},
    "prefect.engine.result.base": _RESULT,
    "prefect.engine.results": _RESULTS,
    "prefect.engine.serializers": _all("", ".engine.serializers"),
    "prefect.engine.cache_validators": _all("", ".engine.cache_validators"),
    "prefect.engine.runner": {
        "ENDRUN": ".engine.signals:ENDRUN",
        "Runner": ".engine.runner:Runner",
        "call_state_handlers": ".engine.runner:call_state_handlers",
    },
    "prefect.engine.flow_runner": {"FlowRunner": _RUNNERS["FlowRunner"]},
    "prefect.engine.task_runner": {"TaskRunner": _RUNNERS["TaskRunner"]},
    "prefect.engine.cloud": _CLOUD,
    "prefect.engine.cloud.flow_runner": {"CloudFlowRunner": _CLOUD["CloudFlowRunner"]},
    "prefect.engine.cloud.task_runner": {"CloudTaskRunner": _CLOUD["CloudTaskRunner"]},
    **{
        f"{module}{part}": {name: _EXECUTORS[name] for name in names}
        for module in ("prefect.engine.executors", "prefect.executors")
        for part, names in {
            "": tuple(_EXECUTORS),
            ".base": ("Executor",),
            ".dask": ("DaskExecutor", "LocalDaskExecutor"),
            ".local": ("LocalExecutor",),
        }.items()
    },
    **{
        f"prefect.engine.results.{name.removesuffix('Result').lower()}_result": {name: place}
        for name, place in _RESULTS.items()
    },
    "prefect.triggers": _all("", ".engine.triggers"),
    "prefect.schedules": _all("", ".engine.schedules"),
    "prefect.schedules.schedules": _all("", ".engine.schedules"),
    "prefect.schedules.clocks": _all("", ".engine.schedules.clocks"),
    "prefect.schedules.filters": _all("", ".engine.schedules.filters"),
    "prefect.schedules.adjustments": _all("", ".engine.schedules.adjustments"),
    "prefect.tasks": {},
    "prefect.tasks.core": {},
    "prefect.tasks.core.constants": {"Constant": ".engine.operators:Constant"},
    "prefect.tasks.core.collections": _all("", ".engine.operators", "Dict", "List", "Set", "Tuple"),
    "prefect.tasks.core.operators": _all("", ".engine.operators", *_OPERATORS),
    "prefect.tasks.core.function": {"FunctionTask": ".engine:FunctionTask"},
    "prefect.tasks.core.resource_manager": _all("", ".engine", "ResourceManager", "resource_manager"),
    "prefect.tasks.control_flow": _CONTROL,
    "prefect.tasks.control_flow.case": {"case": ".engine:case"},
    "prefect.tasks.control_flow.conditional": {
        **{name: place for name, place in _CONTROL.items() if name in ("ifelse", "merge", "switch")},
        "CompareValue": ".engine.control:CompareValue",
        "Merge": ".engine.control:Merge",
    },
    "prefect.tasks.control_flow.filter": {"FilterTask": _CONTROL["FilterTask"]},
    "prefect.tasks.secrets": _SECRETS,
    "prefect.tasks.secrets.base": {name: _SECRETS[name] for name in ("PrefectSecret", "SecretBase")},
    "prefect.tasks.secrets.env_var": {"EnvVarSecret": _SECRETS["EnvVarSecret"]},
    "prefect.tasks.shell": {"ShellTask": ".tasks.shell:ShellTask"},
    "prefect.tasks.database": _SQLITE,
    "prefect.tasks.database.sqlite": _SQLITE,
    "prefect.tasks.files": _FILES,
    "prefect.tasks.files.operations": _FILES,
    "prefect.tasks.templates": _TEMPLATES,
    "prefect.tasks.templates.strings": _TEMPLATES,
    "prefect.tasks.prefect": _FLOW_RUNS,
    "prefect.tasks.prefect.flow_run": _FLOW_RUNS,
    "prefect.tasks.notifications": {name: f"{_OWN}.objects:{name}" for name in ("EmailTask", "SlackTask")},
    "prefect.tasks.notifications.email_task": {"EmailTask": f"{_OWN}.objects:EmailTask"},
    "prefect.tasks.notifications.slack_task": {"SlackTask": f"{_OWN}.objects:SlackTask"},
    "prefect.client": {"Client": f"{_OWN}.client:Client", "Secret": f"{_OWN}.objects:ClientSecret"},
    "prefect.client.client": {"Client": f"{_OWN}.client:Client"},
    "prefect.client.secrets": {"Secret": f"{_OWN}.objects:ClientSecret"},
    "prefect.configuration": {"config": f"{_OWN}.configuration:config"},
    "prefect.backend": {**_KEY_VALUES, **_ARTIFACTS},
    "prefect.backend.kv_store": _KEY_VALUES,
    "prefect.backend.artifacts": _ARTIFACTS,
    "prefect.artifacts": {
        "create_link": f"{_OWN}.client:create_link_artifact",
        "create_markdown": f"{_OWN}.client:create_markdown_artifact",
    },
    "prefect.exceptions": {
        "PrefectException": ".engine.errors:FlowloopError",
        "PrefectSignal": ".engine.signals:PrefectSignal",
        "AuthorizationError": ".engine.errors:BackendRejected",
        "ClientError": ".engine.errors:BackendError",
        "ObjectNotFoundError": ".engine.errors:BackendRejected",
        "TaskTimeoutSignal": ".engine.signals:TaskTimeoutSignal",
        "VersionLockMismatchSignal": ".engine.signals:VersionLockMismatchSignal",
    },
    "prefect.utilities": {},
    "prefect.utilities.tasks": _TASKS,
    "prefect.utilities.edges": {**_EDGES, "EdgeAnnotation": ".engine.edge:EdgeAnnotation"},
    "prefect.utilities.context": {"Context": ".engine.context:Context", "context": ".engine:context"},
    "prefect.utilities.logging": {"get_logger": f"{_OWN}.helpers:get_logger"},
    "prefect.utilities.debug": {name: f"{_OWN}.helpers:{name}" for name in ("is_serializable", "raise_on_exception")},
    "prefect.utilities.collections": {name: f"{_OWN}.helpers:{name}" for name in _NESTED.split()},
    "prefect.utilities.configuration": {"set_temporary_config": f"{_OWN}.configuration:set_temporary_config"},
    "prefect.utilities.notifications": _NOTIFY,
    "prefect.utilities.notifications.notifications": _NOTIFY,
    **{module: {name: f"{_OWN}.documents:{name}" for name in names} for module, names in _DOCUMENTS.items()},
    **{
        f"{module}.{place}": {name: f"{_OWN}.documents:{name}" for name in names}
        for module, names in _DOCUMENTS.items()
        for place in ("base", "docker", "ecs", "gcs", "git", "github", "kubernetes", "local", "module", "s3")
    },
}
"""Each module of Prefect that resolves, with its names: ``module:attribute``, as it is imported from `flowloop`."""

WAYS_OUT = {
    "prefect.agent": "a `flowloop worker` runs what is ready, or your application itself (flowloop.Recovery)",
    "prefect.cli": "the command is `flowloop`: see `flowloop --help`",
    "prefect.api": "there are no plugins: import what you need",
    "prefect.plugins": "there are no plugins: import what you need",
    "prefect.models": "there are no plugins: import what you need",
    "prefect.serialization": "flow.serialize() and Flow.deserialize() have the documents",
    "prefect.backend.TaskRunView": "await backend.get_flow_run_history(flow_run_id)",
    "prefect.backend.FlowRunView": "await backend.get_flow_run_history(flow_run_id)",
    "prefect.backend.FlowView": "await backend.list_flows()",
    "prefect.backend.TenantView": "the server's queries: `tenant`",
    "prefect.backend": "what a backend knows is asked of it: `async with flowloop.connect(url) as backend`",
    "prefect.tasks.prefect.StartFlowRun": "create_flow_run and wait_for_flow_run, one task each",
    "prefect.tasks.prefect.get_task_run_result": "hand the value on through a result store, or a target",
    "prefect.tasks.prefect.RenameFlowRun": "flow.run(flow_run_name=…), or flow_run_name in the context",
    "prefect.tasks.database": "flowloop.tasks.sql_query, or the driver in a task of your own",
    "prefect.tasks.postgres": "flowloop.tasks.sql_query, or the driver in a task of your own",
    "prefect.tasks.mysql": "flowloop.tasks.sql_query, or the driver in a task of your own",
    "prefect.tasks.snowflake": "flowloop.tasks.sql_query, or the driver in a task of your own",
    "prefect.tasks.files": "pathlib and shutil in a task of your own",
    "prefect.tasks.aws": "boto3 in a task of your own; for results flowloop.engine.results.S3Result",
    "prefect.tasks.gcp": "Google's client in a task of your own; for results flowloop.engine.results.GCSResult",
    "prefect.tasks.azure": "Azure's client in a task of your own; for results flowloop.engine.results.AzureResult",
    "prefect.tasks.dbt": "flowloop.tasks.shell with the command dbt",
    "prefect.tasks.docker": "the docker client in a task of your own, or flowloop.tasks.shell",
    "prefect.tasks.kubernetes": "the kubernetes client in a task of your own",
    "prefect.tasks.great_expectations": "its own API in a task of your own",
    "prefect.tasks.templates": "str.format, or Jinja, in a task of your own",
    "prefect.tasks": "the client of that service in a task of your own: three lines",
    "prefect.utilities.graphql": "the gql package, or backend calls",
    "prefect.utilities.aws": "boto3",
    "prefect.utilities.gcp": "Google's client",
    "prefect.utilities.git": "the git command, with flowloop.tasks.shell",
    "prefect.utilities.notifications.gmail_notifier": "a state handler that calls flowloop.tasks.mail",
    "prefect.utilities.notifications": "flowloop.tasks.slack_notifier, or a state handler of your own",
    "prefect.utilities.executors": "asyncio's and anyio's timeouts; flowloop.engine.executors for where bodies run",
    "prefect.utilities.collections": "plain dicts, types.SimpleNamespace, itertools.chain",
    "prefect.utilities": "the standard library",
    "prefect.environments": "run_config documents, and workers",
    "prefect.engine.result_handlers": "results: flowloop.engine.results",
    "prefect.engine.cloud.utilities": "nothing: flowloop.engine.cloud reads the run by itself",
    "prefect.triggers": "a function of {edge: state} that returns True or raises a signal",
    "prefect.config": "arguments, or flowloop.Settings",
    "prefect.storage": "a worker is given the files it runs",
    "prefect.run_configs": "what runs a flow is the worker's choice",
}
"""What to use in place of a name, or of all below it; the longest beginning counts."""


def way_out(name: str) -> str | None:
    """Return what to use in place of a name of Prefect; None if nothing is known of it."""
    *above, last = name.split(".")
    packages = [".".join(above[:end]) for end in range(len(above), 0, -1)]
    # a module's name is also that of the packages above it, which hand it on
    for place in [*(f"{package}.{last}" for package in packages), *packages]:
        if place in WAYS_OUT:
            return WAYS_OUT[place]
    return None
