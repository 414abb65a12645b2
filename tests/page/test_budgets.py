"""What the page costs with ten thousand task runs while they run, and what hostile text does."""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
import pytest

from flowloop.backends.store import ANYONE, Store
from flowloop.engine.errors import BackendRejected

from ..backends.store.world import flow_document
from .conftest import Browser, Visit
from .world import Recorded, Run

pytestmark = [pytest.mark.browser, pytest.mark.heavy]


async def wire(visit: Visit) -> dict[str, int]:
    """Return how many requests there were, what they weighed, and what of it was data: each question once."""
    asked = {(request.url, request.post_data): request for request in visit.requests}
    found = {"requests": len(asked), "bytes": 0, "data": 0}
    for request in asked.values():
        sizes = await request.sizes()
        found["bytes"] += sizes["responseBodySize"]
        if request.url.endswith("/graphql"):
            found["data"] += sizes["responseBodySize"]
    return found


async def fetching(visit: Visit) -> list[str]:
    """Return what comes over the wire from now on, as it comes: what the browser has kept does not."""
    session = await visit.page.context.new_cdp_session(visit.page)
    kept: set[str] = set()
    found: list[str] = []

    def hear(event: Any) -> None:
        if not event["response"].get("fromDiskCache") and event["requestId"] not in kept:
            found.append(event["response"]["url"])

    session.on("Network.requestServedFromCache", lambda event: kept.add(event["requestId"]))
    session.on("Network.responseReceived", hear)
    await session.send("Network.enable")
    return found


async def large_run(store: Store, children: int) -> tuple[Run, list[str]]:
    recorded = Recorded(store)
    await recorded.register()
    run = await recorded.begin("enormous-elk")
    await run.task("numbers", "Running", "Success")
    await run.task("price", "Running", "Mapped")
    ids = await run.map("price", children)
    await run.all(ids, "Running")
    await run.all(ids[: children // 2], "Success")
    await run.all(ids[children // 2 : children // 2 + 12], "Failed", "RuntimeError('bad row 9')")
    return run, ids


SHIFTS = """{
  globalThis.shifts = [];
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) {
      // Counts and the parts of a bar grow: within their line they push each other by a few points.
      for (const { node, previousRect, currentRect } of entry.sources) {
        const x = Math.abs(previousRect.x - currentRect.x), y = Math.abs(previousRect.y - currentRect.y);
        if (y > 0 || (x > 20 && !node?.parentElement?.closest(".total"))) {
          shifts.push([node?.parentElement?.outerHTML.slice(0, 200), x, y]);
        }
      }
    }
  }).observe({ type: "layout-shift" });
}"""
ROW_AT = "([x, y]) => document.elementFromPoint(x, y).closest('.row').innerText"


async def middle(visit: Visit, text: str) -> tuple[float, float]:
    """Return where a row of the table is."""
    box = await visit.page.locator(".rows .row", has_text=text).first.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


async def changed(visit: Visit, run: Run, ids: list[str], shown: str) -> float:
    """Let task runs succeed, wait until their number is shown, and return the size of the heap."""
    for start in range(0, len(ids), 500):
        await run.all(ids[start : start + 500], "Success")
    await visit.page.locator(".total .of-success", has_text=shown).wait_for()
    return await heap_of(visit)


async def heap_of(visit: Visit) -> float:
    """Return how many bytes the page keeps."""
    session = await visit.page.context.new_cdp_session(visit.page)
    await session.send("HeapProfiler.collectGarbage")
    size = (await session.send("Runtime.getHeapUsage"))["usedSize"]
    await session.detach()
    return float(size)


async def test_ten_thousand_children_cost_what_ten_do(browser: Browser, url: str, store: Store) -> None:
    run, ids = await large_run(store, 10_000)
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs/{run.id}")
        await visit.live()
        await page.wait_for_selector(".node.mapped .fill")
        await visit.settled()
        cold = await wire(visit)
        assert cold["requests"] <= 45, cold
        assert cold["bytes"] <= 110_000, cold
        assert cold["data"] <= 40_000, cold
        visit.requests.clear()
        fetched = await fetching(visit)
        await page.reload()
        await page.wait_for_selector(".node.mapped .fill")
        await visit.settled()
        warm = await wire(visit)
        assert warm["data"] <= 45_000, warm
        # the document is asked whether it is the same, and everything else that it needs is there
        assert [each for each in fetched if not each.endswith("/graphql")] == [page.url]
        # The table of all of them holds those in view, at its end too.
        await page.get_by_role("link", name="Task runs").click()
        await page.get_by_role("button", name="children of PRICE").click()
        await page.evaluate("document.querySelector('.rows').scrollTop = 1e9")
        await visit.see("[9999]")
        assert await visit.nodes() < 1_500
        where = await page.evaluate("document.querySelector('.rows').scrollTop")
        # Twenty thousand transitions are a few answers, and move nothing.
        frames: list[str] = []
        page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(frame)))
        await page.reload()
        await visit.live()
        await page.get_by_role("button", name="children of PRICE").click()
        await page.evaluate("document.querySelector('.rows').scrollTop = 1e9")
        await visit.see("[9999]")
        await visit.settled()
        mouse = await middle(visit, "[9990]")
        await page.mouse.move(*mouse)
        await page.evaluate(SHIFTS)
        frames.clear()
        visit.requests.clear()
        rest = [each for at, each in enumerate(ids) if at >= 5_012]
        early = await changed(visit, run, rest[:1_000], "6,002")
        heap = await changed(visit, run, rest[1_000:], "9,990")
        assert heap <= 1.2 * early, (early, heap)
        assert len(frames) <= 45
        assert sum(map(len, frames)) <= 20_000
        # the rows in view are read again, and no others
        asked = [request for request in visit.requests if request.url.endswith("/graphql")]
        assert sum([(await request.sizes())["responseBodySize"] for request in asked]) <= 400_000
        assert await page.evaluate("document.querySelector('.rows').scrollTop") == where
        assert "[9990]" in await page.evaluate(ROW_AT, mouse)
        assert await page.evaluate("shifts") == []
        assert await visit.nodes() < 1_500
        # Ten times as many cost the same.
        await run.map("price", 100_000)
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs/{run.id}")
        await visit.live()
        await page.wait_for_selector(".node.mapped .fill")
        await visit.settled()
        more = await wire(visit)
        assert more["requests"] <= cold["requests"]
        assert more["bytes"] <= 1.05 * cold["bytes"], (cold, more)
        await page.get_by_role("link", name="Task runs").click()
        await page.get_by_role("button", name="children of PRICE").click()
        before = await heap_of(visit)
        for part in (0.2, 0.5, 0.9, 1.0):
            await page.evaluate(
                "part => { const rows = document.querySelector('.rows'); rows.scrollTop = part * rows.scrollHeight }",
                part,
            )
            await visit.settled()
            assert await visit.nodes() < 1_500
        await visit.see("[99999]")
        assert await heap_of(visit) <= 1.2 * before


async def test_a_hundred_thousand_changes_leave_nothing_behind(browser: Browser, url: str, store: Store) -> None:
    """As many as two thousand answers tell of; a server would take longer to make them than a page to hear of them."""
    run, _ = await large_run(store, 100)
    feeds: list[tuple[Any, str]] = []
    told = 0

    def between(socket: Any) -> None:
        server = socket.connect_to_server()

        def listen(message: str) -> None:
            if "subscription RunChanges" in message:
                feeds.append((socket, msgspec.json.decode(message)["id"]))
            server.send(message)

        socket.on_message(listen)

    async with browser.visit() as visit:
        page = visit.page
        await page.route_web_socket("**/graphql", between)
        await visit.open(f"{url}/ui/runs/{run.id}?tab=tasks")
        await visit.live()
        await page.get_by_role("button", name="children of PRICE").click()
        await visit.see("[3]")
        [(socket, feed)] = feeds

        async def change(number: int) -> float:
            nonlocal told
            while told < number:
                told += 50
                states = {"Mapped": 1, "Running": 100_000 - told, "Success": told}
                task = {
                    "task_id": run.tasks["price"],
                    "states": states,
                    "start_time": None,
                    "end_time": None,
                    "again": 0,
                }
                data = {"run_changes": {"cursor": run.id, "reset": False, "run": None, "tasks": [task]}}
                message = {"id": feed, "type": "next", "payload": {"data": data}}
                socket.send(msgspec.json.encode(message).decode())
            await page.locator(".total .of-success", has_text=f"{number + 2:,}").wait_for()
            await visit.settled()
            return await heap_of(visit)

        early = await change(10_000)
        late = await change(100_000)
        assert late <= 1.2 * early, (early, late)
        assert await visit.nodes() < 1_500


async def test_of_a_long_list_what_is_near_the_view_is_kept_and_nothing_jumps(
    browser: Browser, url: str, store: Store
) -> None:
    run, ids = await large_run(store, 4_000)
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs/{run.id}?tab=tasks&state=success")
        await visit.live()
        rows = page.get_by_role("table")
        for read in range(200, 2_001, 200):
            await page.get_by_text(f"{read:,} of 2,002 read; scroll for more.").wait_for()
            await rows.evaluate("rows => { rows.scrollTop = rows.scrollHeight }")
        await page.get_by_text("2,002 of 2,002 read.").wait_for()
        height = await rows.evaluate("rows => rows.scrollHeight")
        # what was left far behind is read again, where it was
        for place, index in ((0, 0), (1_000, 999), (400, 399)):
            async with page.expect_request(lambda each: "query Found" in (each.post_data or "")):
                await rows.evaluate("(rows, place) => { rows.scrollTop = place * 34 }", place)
            await rows.get_by_text(f"[{index}]", exact=True).wait_for()
            assert await rows.evaluate("rows => rows.scrollHeight") == height
            assert await visit.nodes() < 1_500
        # a change reads what is in view anew, and moves nothing
        await visit.settled()
        mouse = await middle(visit, "[402]")
        await page.evaluate(SHIFTS)
        async with page.expect_request(lambda each: "query Found" in (each.post_data or "")):
            await run.all(ids[2_012:2_100], "Success")
        await page.get_by_text("2,002 of 2,090 read.").wait_for()
        await visit.settled()
        assert "[402]" in await page.evaluate(ROW_AT, mouse)
        assert await rows.evaluate("rows => rows.scrollTop") == 400 * 34
        assert await page.evaluate("shifts") == []


TICKS = """{
  const every = setInterval;
  globalThis.ticks = 0;
  globalThis.setInterval = (call, wait) => every(wait === 1000 ? () => { ticks += 1; call(); } : call, wait);
}"""
"""What is told of ages changes once a second: how often it did."""


async def test_an_answer_is_laid_out_twice_at_most(browser: Browser, url: str, store: Store) -> None:
    run, ids = await large_run(store, 200)
    async with browser.visit() as visit:
        page = visit.page
        await page.add_init_script(TICKS)
        answers: list[Any] = []
        page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: answers.append(frame)))
        page.on("requestfinished", lambda request: answers.append(request))
        await visit.open(f"{url}/ui/runs/{run.id}?tab=tasks")
        await visit.live()
        await page.get_by_role("button", name="children of PRICE").click()
        await visit.settled()
        session = await page.context.new_cdp_session(page)
        await session.send("Performance.enable")

        async def counted() -> dict[str, float]:
            metrics = (await session.send("Performance.getMetrics"))["metrics"]
            found = {
                each["name"]: each["value"] for each in metrics if each["name"] in ("LayoutCount", "RecalcStyleCount")
            }
            return found | {"answers": len(answers) + await page.evaluate("ticks")}

        before = await counted()
        for number in range(8):
            await run.all(ids[112 + number * 10 : 122 + number * 10], "Success")
            await page.locator(".total .of-success", has_text=f"{112 + number * 10}").wait_for()
        await visit.settled()
        after = await counted()
        more = {name: after[name] - before[name] for name in after}
        assert more["answers"] >= 8
        assert more["LayoutCount"] <= 2 * more["answers"], more
        assert more["RecalcStyleCount"] <= 2 * more["answers"], more


async def test_a_graph_of_a_thousand_tasks_is_drawn_as_far_as_it_is_in_view(
    browser: Browser, url: str, store: Store
) -> None:
    recorded = Recorded(store)
    document = flow_document("begin", *(f"step-{number}" for number in range(1_000)), "end", name="wide")
    steps = [{"slug": task["slug"]} for task in document["tasks"][1:-1]]
    begin, end = {"slug": "begin"}, {"slug": "end"}
    edges = [{"upstream_task": begin, "downstream_task": step, "key": "x"} for step in steps]
    edges += [{"upstream_task": step, "downstream_task": end, "key": None} for step in steps]
    project = await store.get_or_create_project(ANYONE, name="demo")
    flow = await store.create_flow(ANYONE, project_id=project["id"], serialized_flow=document | {"edges": edges})
    recorded.flow_id = flow["id"]
    run = await recorded.begin("wide-whale", parameters={})
    await run.task("begin", "Running", "Success")
    await run.task("step-7", "Running", "Failed")
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs/{run.id}?tab=graph")
        await visit.see("1,002 tasks and 2,000 edges: it is drawn in columns")
        group = page.locator(".node.mapped.of-failed", has_text="STEP …")
        await group.wait_for()
        await group.press("Enter")
        await page.locator(".node", has_text="STEP-7").wait_for()
        assert await visit.nodes() < 1_500
        # an arrow key leads to what was out of view
        await page.locator(".node", has_text="BEGIN").focus()
        await page.keyboard.press("ArrowRight")
        for number in range(1, 40):
            await page.locator(".node:focus", has_text=f"STEP-{number - 1}:").wait_for()
            await page.keyboard.press("ArrowDown")
        await page.locator(".node:focus", has_text="STEP-39:").wait_for()
        assert await visit.nodes() < 1_500


async def test_the_list_of_a_graph_holds_what_is_in_view(browser: Browser, url: str, store: Store) -> None:
    recorded = Recorded(store)
    names = [f"step-{number}" for number in range(160)]
    document = flow_document(*names, name="long")
    edges = [
        {"upstream_task": {"slug": one}, "downstream_task": {"slug": two}, "key": None}
        for one, two in itertools.pairwise(names)
    ]
    project = await store.get_or_create_project(ANYONE, name="demo")
    flow = await store.create_flow(ANYONE, project_id=project["id"], serialized_flow=document | {"edges": edges})
    recorded.flow_id = flow["id"]
    run = await recorded.begin("long-lynx", parameters={})
    for width in (1440, 390):
        async with browser.visit(width) as visit:
            page = visit.page
            await visit.open(f"{url}/ui/runs/{run.id}?tab=graph")
            if width > 600:
                await page.locator(".node", has_text="STEP-0").first.wait_for()
                await page.get_by_text("As a list").click()
            rows = page.get_by_role("table", name="Tasks")
            await rows.get_by_role("link", name="STEP-0").first.wait_for()
            assert await visit.nodes() < 1_500
            await rows.evaluate("rows => { rows.scrollTop = rows.scrollHeight }")
            await rows.get_by_role("link", name="STEP-159").wait_for()
            assert await visit.nodes() < 1_500


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><a href=javascript:alert(1)>x',
    "javascript:alert(1)",
    "[x](javascript:alert(1)) ![x](https://evil.example/p.png)",
    "{{7*7}} ${7*7}",
    "<svg/onload=alert(1)><style>*{display:none}</style>",
    "[x](\x01JaVaScRiPt:alert(1)) [y](data:text/html,<script>alert(1)</script>)",
    " ",
    "__proto__",
    "constructor",
    "\u202egnp.exe",
    "\x1b[31mred\x1b]8;;javascript:alert(1)\x07",
    "../../graphql?a=b&c#d",
    "🏳️‍🌈",
    "9223372036854775808",
    "NaN",
    "Infinity",
    "1e400",
    "a\x00b",
    "a" * 999_000,  # as much as there may be
]
HALF = 450_000
"""Of what a state may hold."""

VALUES = [2**63, -(2**63), 1e308, [[[[2**63]]]], {"": {" ": ["", " "]}}, "", " "]
"""Some of which are beyond the numbers of a browser."""

NO_JSON = [math.nan, math.inf, -math.inf]
"""What JSON has no number for."""


TABS = ("tasks", "timeline", "graph", "logs", "artifacts", "parameters", "history")
UNSEEN = r"""[...document.querySelectorAll("body, body *")]
  .flatMap(each => [...each.childNodes]).filter(each => each.nodeType === Node.TEXT_NODE).map(each => each.data)
  .filter(each => /[\u0000-\u0008\u001b\u202a-\u202e]/.test(each)).map(each => each.slice(0, 40))"""
"""Text that turns around what is beside it, or that nobody sees."""

WIDER = """document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("main *")]
  .filter(each => each.getBoundingClientRect().right > innerWidth)
  .map(each => each.outerHTML.slice(0, 120)).slice(0, 4)"""


async def test_hostile_text_is_text(browser: Browser, url: str, store: Store) -> None:
    recorded = Recorded(store)
    runs = []
    for number, text in enumerate(HOSTILE):
        plain = text.replace("\x1b", "")
        document: list[dict[str, Any]] = [{"name": text, "slug": "p", "type": "P", "required": False, "default": text}]
        slugs = ("numbers", "price", "total")
        tasks = [{"slug": slug, "name": plain[:300], "type": "Task", "tags": [plain[:50]]} for slug in slugs]
        await recorded.register(plain[:200] + str(number), parameters=document, tasks=tasks)
        run = await recorded.begin(text[:500], labels=[text[:200]], parameters={text: text})
        ids = await run.map("price", 2)
        await run.task("numbers", "Running")
        await run.task("numbers", "Success", message=text[:HALF], _result={"type": text[:50], "location": text[:HALF]})
        await run.task(ids[0], "Running", "Failed", message=text[:HALF], context={"traceback": text[:HALF]})
        await run.task(ids[1], "Paused", message=text[:HALF])
        await store.create_task_run_artifact(ANYONE, task_run_id=ids[0], kind="markdown", data=text)
        await store.create_task_run_artifact(ANYONE, task_run_id=ids[0], kind=text[:100], data={text[:200]: text})
        line = {"flow_run_id": run.id, "task_run_id": ids[0], "level": "ERROR", "name": text[:200], "message": text}
        await store.write_run_logs(ANYONE, logs=[line])
        await run.flow("Failed", text[:HALF])
        runs.append(run)
    await store.update_task_tag_limit(ANYONE, tag=HOSTILE[0], limit=1)
    await store.reserve_flow_runs(ANYONE, worker_id=HOSTILE[1], limit=0, labels=[HOSTILE[0]])
    host = url.partition("//")[2]
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/")
        for address in ("runs", "flows", "inbox", "workers", "search?q=a", f"flows/{recorded.flow_id}?form=run"):
            await visit.go(address)
            assert await page.evaluate(UNSEEN) == [], address
            assert await visit.nodes() < 3_000
        for number, run in enumerate(runs):
            for tab in ("overview", TABS[number % len(TABS)], "numbers"):
                is_task = tab not in ("overview", *TABS)
                await visit.go(f"runs/{run.id}/tasks/{run.tasks[tab]}/-1" if is_task else f"runs/{run.id}?tab={tab}")
                assert await page.evaluate(UNSEEN) == [], (tab, HOSTILE[number][:40])
                assert await page.evaluate(WIDER) == [], (tab, HOSTILE[number][:40])
                links = await page.evaluate(
                    "[...document.querySelectorAll('a')]"
                    ".map(each => new URL(each.getAttribute('href'), document.baseURI).protocol)"
                )
                assert set(links) <= {"http:", "https:", "mailto:"}
        assert await page.evaluate("Object.keys(Object.prototype).length") == 0
        assert await page.evaluate("document.querySelectorAll('main script, main iframe, main object').length") == 0
        assert {request.url.partition("//")[2].partition("/")[0] for request in visit.requests} == {host}
        await visit.go("runs")
        shown = await visit.text()
        assert "<script>alert(1)</script>" in shown
        assert "⟦U+202E⟧gnp.exe" in shown


async def test_hostile_values_are_what_they_are(browser: Browser, url: str, store: Store) -> None:
    recorded = Recorded(store)
    await recorded.register()
    given = {f"v{number}": value for number, value in enumerate(VALUES)}
    document = [
        {"name": name, "slug": name, "type": "P", "required": False, "default": value} for name, value in given.items()
    ]
    # what JSON cannot say is refused, or is nothing, before the page hears of it
    for value in NO_JSON:
        with pytest.raises(BackendRejected, match="JSON has no number for"):
            await store.create_flow_run(ANYONE, flow_id=recorded.flow_id, parameters={"n": value})
    await recorded.register("odd", parameters=document)
    run = await recorded.begin("odd-owl", parameters=given, context=given)
    await run.task("numbers", "Running", "Success")
    await run.task("price", "Paused", message="2^63?", context={"answer_schema": {"type": "integer"}})
    for data in (*VALUES, given, *NO_JSON):
        await store.create_task_run_artifact(ANYONE, task_run_id=run.task_runs["numbers"], kind="odd", data=data)
    line = {"flow_run_id": run.id, "level": "INFO", "name": "prices"}
    for start in range(0, 10_000, 1_000):
        lines = [{**line, "message": f"line {number} of 10,000"} for number in range(start, start + 1_000)]
        await store.write_run_logs(ANYONE, logs=lines)
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/")
        large = page.get_by_text("9223372036854775808")
        for address in (
            f"runs/{run.id}?tab=parameters",
            f"runs/{run.id}?tab=artifacts",
            f"runs/{run.id}/tasks/{run.tasks['numbers']}/-1",
            f"flows/{recorded.flow_id}?form=run",
        ):
            await visit.go(address)
            await large.first.wait_for()
            for rounded in ("9223372036854776000", "undefined", "[object"):
                assert rounded not in await visit.text(), address
        # what another run begins with is what this one was given
        await visit.go(f"flows/{recorded.flow_id}?values={run.id}")
        assert await page.locator("#p-v0").input_value() == "9223372036854775808"
        assert await page.locator("#p-v3").input_value() == "[[[[9223372036854775808]]]]"
        await page.get_by_role("button", name="Run", exact=True).click()
        await page.wait_for_url("**/runs/*")
        await page.get_by_role("link", name="Parameters").click()
        await large.first.wait_for()
        await visit.go(f"runs/{run.id}?tab=logs")
        log = page.get_by_role("log")
        await log.get_by_text("line 9999 of 10,000").wait_for()
        assert await log.locator(".line").count() == 500
        await log.get_by_role("button", name="Older lines").click()
        await log.get_by_text("line 9000 of 10,000").wait_for()
