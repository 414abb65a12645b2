"""A few tasks that many flows need: a shell, HTTP, SQL, e-mail, flow runs of other flows.

Each is some lines around one library. For anything else write a task of your own.
"""

from __future__ import annotations

from .flow_runs import create_flow_run, wait_for_flow_run
from .http import http_request
from .mail import send_mail
from .notify import post_to_slack, slack_notifier
from .shell import ShellTask, shell
from .sql import sql_query

__all__ = [
    "ShellTask",
    "create_flow_run",
    "http_request",
    "post_to_slack",
    "send_mail",
    "shell",
    "slack_notifier",
    "sql_query",
    "wait_for_flow_run",
]
