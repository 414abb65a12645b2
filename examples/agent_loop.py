"""An agent: a model chooses tools, the tools are tried again when they fail, and a person approves what is final.

The model here is a few lines of Python, so that the example needs no key: put a call of yours into `think`. Each round
is recorded, and a process that dies goes on with the round it was in::

    flowloop run examples/agent_loop.py
    flowloop approve RUN
    flowloop worker examples/agent_loop.py
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from flowloop import Flow, Parameter, context, pause_task, task
from flowloop.engine.signals import LOOP

Message = dict[str, Any]
failed_once: set[str] = set()


async def search(what: str) -> str:
    """Find the price of something. The first request of a process fails, as requests do."""
    if what not in failed_once:
        failed_once.add(what)
        raise ConnectionError("the search is away")
    return {"tea": "3 kr.", "jam": "4 kr."}[what]


async def add(*numbers: int) -> str:
    """Add numbers."""
    return str(sum(numbers))


TOOLS: dict[str, Callable[..., Awaitable[str]]] = {"search": search, "add": add}


async def think(messages: list[Message]) -> Message:
    """Choose what to do next, from all that was said: the part of the model."""
    known = [message["content"] for message in messages if message["role"] == "tool"]
    if len(known) < 2:
        return {"role": "model", "tool": "search", "arguments": [("tea", "jam")[len(known)]]}
    if len(known) == 2:
        return {"role": "model", "tool": "add", "arguments": [int(price.split()[0]) for price in known]}
    return {"role": "model", "content": f"Together they cost {known[-1]} kr."}


@task(max_retries=5, retry_delay=0, retry_on=ConnectionError)
async def converse(question: str) -> str:
    """Think and act in turn. A failed tool is tried again in its round: what was said before is kept."""
    messages: list[Message] = context.get("task_loop_result") or [{"role": "user", "content": question}]
    thought = await think(messages)
    if "tool" not in thought:
        return str(thought["content"])
    found = await TOOLS[thought["tool"]](*thought["arguments"])
    context.artifact.markdown(f"{thought['tool']}{tuple(thought['arguments'])}: {found}")
    raise LOOP(result=[*messages, thought, {"role": "tool", "content": found}])


@task
async def approved(answer: str) -> str:
    """Wait until somebody has read the answer."""
    pause_task(answer)
    return answer


@task
async def send(answer: str) -> str:
    """Send it."""
    return f"sent: {answer}"


with Flow("agent") as flow:
    answered = converse(Parameter("question", default="What do tea and jam cost?", type=str))
    sent = send(approved(answered))
