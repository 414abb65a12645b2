"""Commands of the shell."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..engine.cancellation import undisturbed
from ..engine.context import context
from ..engine.signals import FAIL
from ..engine.task import Task, defaults_from_attrs, task

__all__ = ["ShellTask", "shell"]

_GRACE = 10.0


async def _output(command: str, env: Mapping[str, str] | None, program: str) -> list[str]:
    started: list[asyncio.subprocess.Process] = []

    async def start() -> None:
        process = await asyncio.create_subprocess_exec(
            program,
            "-c",
            command,
            env={**os.environ, **(env or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=os.name == "posix",
        )
        started.append(process)

    try:
        await undisturbed(start(), _GRACE)  # cancelled half-way, asyncio would end the shell, and not what it has begun
        (process,) = started
        written, _ = await process.communicate()
    finally:
        for process in started:
            if process.returncode is None:
                _end(process)
                await process.wait()
    lines = written.decode(errors="replace").splitlines()
    if process.returncode:
        said = f": {lines[-1]}" if lines else ""
        raise FAIL(f"the command ended with exit code {process.returncode}{said}", result=lines)
    return lines


def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        if os.name == "posix":
            import signal

            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


@task(name="shell")
async def shell(command: str, env: Mapping[str, str] | None = None, program: str = "bash") -> str:
    """Run a command, and return all that it prints; cancelling the task kills it, with all that it started.

    Args:
        - command: the command
        - env: variables that it has besides those of this process
        - program: the shell

    Raises:
        - FAIL: if it ends with another exit code than 0
    """
    return "\n".join(await _output(command, env, program))


class ShellTask(Task[..., Any]):
    """Runs commands, as the task of this name of Prefect 1 does: its result is the last line that is printed.

    Args:
        - command: the command, where a call gives none
        - env: variables that it has besides those of this process
        - helper_script: what is run before it in the same shell
        - shell: the shell
        - return_all: whether all lines are the result, as a list
        - log_stderr: nothing: what a failed command prints is always in its error
        - stream_output: whether the lines go to the log of the run
        - kwargs: as for `Task`
    """

    def __init__(
        self,
        command: str | None = None,
        env: Mapping[str, str] | None = None,
        helper_script: str | None = None,
        shell: str = "bash",
        return_all: bool = False,
        log_stderr: bool = False,
        stream_output: bool | int | str = False,
        **kwargs: Any,
    ) -> None:
        self.command = command
        self.env = env
        self.helper_script = helper_script
        self.shell = shell
        self.return_all = return_all
        self.log_stderr = log_stderr
        self.stream_output = stream_output
        super().__init__(**kwargs)

    @defaults_from_attrs("command", "env", "helper_script")
    async def run(
        self, command: str | None = None, env: Mapping[str, str] | None = None, helper_script: str | None = None
    ) -> Any:
        """Run the command.

        Raises:
            - FAIL: if it ends with another exit code than 0
            - TypeError: if there is no command
        """
        if command is None:
            raise TypeError("a ShellTask needs a command, when it is made or when it is called")
        lines = await _output("\n".join(filter(None, [helper_script, command])), env, self.shell)
        if self.stream_output:
            for line in lines:
                context.logger.info(line)
        if self.return_all:
            return lines
        return lines[-1] if lines else ""
