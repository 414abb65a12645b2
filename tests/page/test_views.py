"""What each view of the page shows and does, part by part, in a browser."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowloop.backends.server import changes
from flowloop.backends.store import ANYONE, Store

from ..backends.server.served import listening
from .conftest import OPEN, Browser, Visit
from .world import Recorded, Run, failed_run, paused_run

FOCUSED = "each => each === document.activeElement"

pytestmark = [pytest.mark.browser, pytest.mark.heavy]


class Gate:
    """Holds the WebSockets of a page back until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def hold(self, visit: Visit) -> None:
        await visit.page.route_web_socket("**/graphql", self._held)

    async def _held(self, socket: Any) -> None:
        await self.opened.wait()
        socket.connect_to_server()


# -- runs ---------------------------------------------------------------------------------------------------


async def test_new_runs_wait_above_and_what_changed_is_changed_where_it_is(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    first = await recorded.begin("first-fox")
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs")
        await visit.live()
        await page.get_by_role("link", name="first-fox").wait_for()
        await visit.settled()
        await recorded.begin("second-stoat")
        await recorded.begin("third-thrush")
        above = page.get_by_role("button", name="2 new above")
        await above.wait_for()
        assert await page.get_by_role("link", name="second-stoat").count() == 0
        await first.flow("Failed", "all is lost")
        await page.get_by_role("link", name="first-fox").get_by_text("all is lost").wait_for()
        await above.click()
        rows = page.get_by_role("list", name="Flow runs").get_by_role("link")
        await rows.filter(has_text="third-thrush").wait_for()
        assert [name.split("\n")[0] for name in await rows.locator(".what").all_inner_texts()] == [
            f"prices {name}" for name in ("third-thrush", "second-stoat", "first-fox")
        ]
        await above.wait_for(state="detached")


async def test_what_happens_between_the_list_and_its_feed_is_not_missed(
    browser: Browser, url: str, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_OVERLAP", 0)  # it lasts longer than a feed reaches back
    run = await recorded.begin("hasty-hare")
    gate = Gate()
    async with browser.visit() as visit:
        await gate.hold(visit)
        await visit.open(f"{url}/ui/runs")
        row = visit.page.get_by_role("link", name="hasty-hare")
        await row.get_by_text("Running").first.wait_for()
        await run.flow("Success", "while nobody heard")
        await recorded.begin("newer-newt")
        gate.opened.set()
        await row.get_by_text("while nobody heard").wait_for()


async def test_older_runs_are_read_when_they_are_asked_for(browser: Browser, url: str, recorded: Recorded) -> None:
    for number in range(53):
        await recorded.store.create_flow_run(
            ANYONE, flow_id=recorded.flow_id, flow_run_name=f"run-{number}", parameters={"n": 1}
        )
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs")
        await visit.live()
        rows = page.get_by_role("list", name="Flow runs").get_by_role("link")
        await page.get_by_role("button", name="Older runs").click()
        await rows.nth(52).wait_for()
        assert await rows.count() == 53
        assert len(set(await rows.locator(".what").all_inner_texts())) == 53
        await page.get_by_role("button", name="Older runs").wait_for(state="detached")


EMPTIED = """{
  globalThis.emptied = 0;
  const list = document.querySelector(".runs");
  new MutationObserver(() => { if (!list.childElementCount) emptied += 1; }).observe(list, { childList: true });
}"""
"""How often the list of runs was left with nothing in it."""


async def test_runs_are_found_by_flow_label_text_and_age(browser: Browser, url: str, recorded: Recorded) -> None:
    prices = recorded.flow_id
    await recorded.register("reports", parameters=[])
    await recorded.begin("ripe-raven", parameters={}, labels=["large"])
    recorded.flow_id = prices
    failed = await recorded.begin("plain-pug")
    await failed.flow("Failed", "100 % of it was_bad")
    async with browser.visit() as visit:
        page = visit.page
        names = page.get_by_role("list", name="Flow runs").locator(".what > .name")

        async def shown(*wanted: str) -> None:
            await visit.settled()
            assert sorted(await names.all_inner_texts()) == sorted(wanted)

        await visit.open(f"{url}/ui/runs")
        await shown("ripe-raven", "plain-pug")
        await page.evaluate(EMPTIED)
        await page.get_by_role("combobox", name="Flow").select_option("reports")
        await shown("ripe-raven")
        await page.get_by_role("combobox", name="Flow").select_option("all")
        await page.get_by_role("searchbox", name="Label").fill("large")
        await page.keyboard.press("Enter")
        await shown("ripe-raven")
        await page.get_by_role("searchbox", name="Label").fill("")
        for text, found in (("PUG", ["plain-pug"]), ("0 %", ["plain-pug"]), ("s_b", ["plain-pug"])):
            await page.get_by_role("searchbox", name="Text").fill(text)
            await page.keyboard.press("Enter")
            await shown(*found)
        assert await page.evaluate("emptied") == 0
        await page.get_by_role("searchbox", name="Text").fill("r_p")
        await page.keyboard.press("Enter")
        await shown()
        await page.get_by_role("link", name="Show all").click()
        await shown("ripe-raven", "plain-pug")
        await page.get_by_role("combobox", name="Since").select_option("1 h")
        await page.wait_for_url("**/runs?from=1+h")
        await shown("ripe-raven", "plain-pug")


async def test_the_runs_of_one_filter_stand_for_no_other(browser: Browser, url: str, recorded: Recorded) -> None:
    await recorded.begin("ripe-raven")
    is_refused = False
    answer = asyncio.Event()
    async with browser.visit() as visit:
        page = visit.page

        async def between(route: Any) -> None:
            if "query Runs" not in route.request.post_data or "hopeful" not in route.request.post_data:
                return await route.continue_()
            await answer.wait()
            if is_refused:
                return await route.fulfill(json={"errors": [{"message": "not today"}]})
            return await route.continue_()

        await page.route("**/graphql", between)
        await visit.open(f"{url}/ui/runs")
        runs = page.get_by_role("list", name="Flow runs", include_hidden=True)
        raven = runs.get_by_role("link", name="ripe-raven")
        await raven.wait_for()
        # until it is known what is found by another the old ones stay, and are told from it
        await page.get_by_role("searchbox", name="Text").fill("hopeful")
        await page.keyboard.press("Enter")
        await page.locator(".runs[aria-busy=true]").wait_for()
        assert await raven.count() == 1
        answer.set()
        await visit.see("No run is like that.")
        assert await raven.count() == 0
        # where it is not known none are there
        await page.get_by_role("searchbox", name="Text").fill("")
        await page.keyboard.press("Enter")
        await raven.wait_for()
        is_refused = True
        await page.get_by_role("searchbox", name="Text").fill("hopeful")
        await page.keyboard.press("Enter")
        await page.get_by_role("alert").get_by_text("The runs could not be read: not today").wait_for()
        assert await raven.count() == 0
        await page.unroute("**/graphql", between)
        await page.get_by_role("button", name="Try again").click()
        await visit.see("No run is like that.")


async def test_what_is_too_much_is_said_with_its_number_and_the_rest_is_there(
    browser: Browser, tmp_path: Path, recorded: Recorded
) -> None:
    run = await recorded.begin("large-llama")
    ids = await run.map("price", 60)
    await run.all(ids, "Failed")
    narrow = msgspec.structs.replace(OPEN, row_limit=50)
    async with (
        listening(f"sqlite:///{tmp_path / 'flowloop.db'}", narrow, synchronous="OFF") as url,
        browser.visit() as visit,
    ):
        page = visit.page
        await visit.open(f"{url}/ui/runs/{run.id}")
        problem = page.get_by_role("alert").filter(has_text="What needs attention could not be read")
        await problem.get_by_text("the query reads more than 50 rows").wait_for()
        await problem.get_by_role("button", name="Try again").wait_for()
        await page.locator(".node").first.wait_for()


# -- one run ------------------------------------------------------------------------------------------------


async def test_equal_messages_are_one_line_that_unfolds(browser: Browser, url: str, recorded: Recorded) -> None:
    run = await recorded.begin("many-moths")
    ids = await run.map("price", 12)
    await run.all(ids, "Running")
    for number, each in enumerate(ids):
        await run.task(each, "Failed", message=f"RuntimeError('bad row {number}')")
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs/{run.id}")
        attention = page.get_by_role("region", name="Needs attention")
        await visit.settled()
        await attention.get_by_role("button", name="same message: 12 task runs").click()
        await attention.get_by_role("button", name="only the first").wait_for()
        assert await attention.get_by_role("link").count() == 12
        await attention.get_by_role("button", name="only the first").click()
        await attention.get_by_role("button", name="same message: 12 task runs").wait_for()
        assert await attention.get_by_role("link").count() == 1


async def test_a_run_that_waits_opens_at_what_it_asks_and_is_answered_by_keys_alone(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    run = await paused_run(recorded)
    await recorded.store.reserve_flow_runs(ANYONE, worker_id="w", limit=0)  # somebody who would go on
    async with browser.visit() as visit:
        page = visit.page
        press = page.keyboard.press
        await visit.open(f"{url}/ui/")
        await page.wait_for_selector("[data-row]")
        await press("j")
        await press("Enter")
        await page.wait_for_url(f"**/tasks/{run.tasks['price']}/-1*")
        answer = page.get_by_role("button", name="Answer…")
        await answer.wait_for()
        for _ in range(60):
            await press("Tab")
            if await answer.evaluate(FOCUSED):
                break
        await press("Enter")
        dialog = page.get_by_role("dialog")
        await dialog.wait_for()
        assert await dialog.evaluate("each => each.contains(document.activeElement)")
        await dialog.get_by_label("decline").focus()
        await press("Space")
        await press("Tab")
        await page.keyboard.type("not this week")
        await press("Enter")
        await dialog.wait_for(state="detached")
        await page.wait_for_selector("aside .of-failed")
        told = await visit.text("aside")
        assert "not this week" in told


async def test_a_row_of_a_phone_tells_what_failed_of_a_mapped_task(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    run = await recorded.begin("tiny-tit")
    await run.task("price", "Running", "Mapped")
    ids = await run.map("price", 40)
    await run.all(ids[:30], "Running")
    await run.all(ids[:10], "Success")
    await run.all(ids[10:15], "Failed")
    await run.all(ids[15:20], "Retrying")
    async with browser.visit(390) as visit:
        await visit.open(f"{url}/ui/runs/{run.id}?tab=tasks")
        row = visit.page.locator(".row", has_text="PRICE")
        failed = row.locator(".bar .of-failed")
        await failed.wait_for()
        await visit.live()
        whole, part = await row.bounding_box(), await failed.bounding_box()
        assert whole is not None
        assert part is not None
        assert part["x"] + part["width"] <= whole["x"] + whole["width"]
        assert whole["y"] <= part["y"] <= whole["y"] + whole["height"] - part["height"]


async def test_what_is_typed_stays_while_everything_else_changes(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    run = await recorded.begin("busy-bee")
    ids = await run.map("price", 300)
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs/{run.id}")
        await visit.live()
        await page.get_by_text("More…").click()
        await page.get_by_role("button", name="Send an event…").click()
        name = page.get_by_role("dialog").get_by_label("Name")
        await name.fill("half written")
        await run.all(ids, "Running")
        await page.locator(".total .of-running", has_text="300").wait_for()
        await page.evaluate("dispatchEvent(new Event('online'))")  # a connection of its own begins anew
        await run.all(ids, "Success")
        await page.locator(".total .of-success", has_text="300").wait_for()
        assert await name.input_value() == "half written"
        assert await name.evaluate(FOCUSED)


async def test_the_way_back_leads_through_what_was_looked_at(browser: Browser, url: str, recorded: Recorded) -> None:
    run = await failed_run(recorded)
    child = f"{run.id}/tasks/{run.tasks['price']}/7"
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs?state=failed")
        await page.get_by_role("link", name="hasty-gannet").click()
        await page.wait_for_url(f"**/{child}*")
        await page.get_by_role("link", name="Logs", exact=True).click()
        await page.get_by_role("combobox", name="At least").first.select_option("ERROR")
        await page.wait_for_url("**level=ERROR*")
        pasted = page.url
        await page.go_back()
        await page.wait_for_url(f"**/{child}")
        await page.get_by_role("region", name="Needs attention").wait_for()
        await page.go_back()
        await page.wait_for_url("**/runs?state=failed")
        await page.get_by_role("button", name="failed", exact=True, pressed=True).wait_for()
    async with browser.visit() as visit:
        await visit.open(pasted)
        await visit.page.locator("aside .traceback").wait_for()
        lines = visit.page.get_by_role("region", name="Logs").get_by_role("log")
        await lines.get_by_text("bad row 7").first.wait_for()
        await visit.settled()
        assert await lines.get_by_text("looking at row 7").count() == 0


# -- logs ---------------------------------------------------------------------------------------------------


def lines(run: Run, *messages: str, level: str = "INFO") -> list[dict[str, Any]]:
    return [{"flow_run_id": run.id, "level": level, "name": "prices", "message": message} for message in messages]


async def test_a_log_is_followed_until_one_looks_back(browser: Browser, url: str, recorded: Recorded) -> None:
    run = await recorded.begin("long-lark")
    store = recorded.store
    for start in (0, 500):
        await store.write_run_logs(ANYONE, logs=lines(run, *(f"line {start + number}." for number in range(500))))
    async with browser.visit() as visit:
        page = visit.page
        log = page.get_by_role("log", name="Log lines")
        at_end = "each => each.scrollHeight - each.scrollTop - each.clientHeight < 24"
        await visit.open(f"{url}/ui/runs/{run.id}?tab=logs")
        await visit.live()
        await log.get_by_text("line 999.").wait_for()
        await visit.settled()
        assert await log.evaluate(at_end)
        assert await log.get_by_text("line 499.").count() == 0
        await log.get_by_role("button", name="Older lines").click()
        await log.get_by_text("line 0.").wait_for()
        await log.get_by_role("button", name="Older lines").wait_for(state="detached")
        await log.evaluate("each => { each.scrollTop = 0 }")
        await visit.settled()
        await store.write_run_logs(ANYONE, logs=lines(run, "one more", "and another"))
        await page.get_by_role("button", name="2 new lines").wait_for()
        assert await log.evaluate("each => each.scrollTop") == 0
        await page.keyboard.press("f")
        await page.get_by_role("button", name="2 new lines").wait_for(state="detached")
        await visit.settled()
        assert await log.evaluate(at_end)
        await store.write_run_logs(ANYONE, logs=lines(run, "seen at once"))
        await log.get_by_text("seen at once").wait_for()
        await visit.settled()
        assert await log.evaluate(at_end)
        # what is long is folded
        await store.write_run_logs(ANYONE, logs=lines(run, "x" * 5_000 + "the end", level="ERROR"))
        await page.get_by_role("button", name="show all 5 kB").wait_for()
        assert await log.get_by_text("the end").count() == 0
        await page.get_by_role("button", name="show all 5 kB").click()
        await log.get_by_text("the end").wait_for()
        await page.get_by_role("searchbox", name="Text").fill("LINE 77.")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**find=LINE*")
        await log.get_by_text("and another").wait_for(state="detached")
        await visit.settled()
        assert await log.locator(".line").count() == 1
        await page.get_by_role("combobox", name="At least").select_option("ERROR")
        await log.get_by_text("No lines like that.").wait_for()


async def test_what_is_logged_between_the_lines_and_their_feed_is_not_missed(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    run = await recorded.begin("lively-linnet")
    await recorded.store.write_run_logs(ANYONE, logs=lines(run, "before"))
    gate = Gate()
    async with browser.visit() as visit:
        await gate.hold(visit)
        await visit.open(f"{url}/ui/runs/{run.id}?tab=logs")
        log = visit.page.get_by_role("log", name="Log lines")
        await log.get_by_text("before").wait_for()
        await recorded.store.write_run_logs(ANYONE, logs=lines(run, "in between"))
        gate.opened.set()
        await log.get_by_text("in between").wait_for()


# -- what is left behind ------------------------------------------------------------------------------------


async def test_each_kind_of_artifact_is_shown_and_none_leads_astray(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    run = await recorded.begin("artful-ape")
    owner = run.task_runs["numbers"]
    await run.task("numbers", "Running", "Success")
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    for kind, data in (
        (
            "markdown",
            "# Head\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n- [ok](https://example.test/) [not](javascript:alert(1))",
        ),
        ("link", "https://example.test/report"),
        ("link", "javascript:alert(1)"),
        ("table", [{"city": "Oslo", "n": 1}, {"city": "Rome"}]),
        ("progress", {"progress": 0.4, "label": "rows"}),
        ("image", pixel),
        ("image", "https://elsewhere.test/x.png"),
        ("odd", {"nested": {"deep": ["far down", 2**63]}, "many": list(range(1_000))}),
    ):
        await recorded.store.create_task_run_artifact(ANYONE, task_run_id=owner, kind=kind, data=data)
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs/{run.id}?tab=artifacts")
        left = page.locator(".left")
        await left.get_by_role("cell", name="2", exact=True).locator("strong").wait_for()
        await left.get_by_role("cell", name="Oslo").wait_for()
        assert await left.locator("progress").get_attribute("value") == "0.4"
        await left.get_by_text("40% rows").wait_for()
        assert await left.locator("img").evaluate_all("all => all.map(each => each.getAttribute('src'))") == [pixel]
        links = await left.locator("a[target]").evaluate_all("all => all.map(each => each.href)")
        # a picture of another host is its address
        assert sorted(links) == [
            "https://elsewhere.test/x.png",
            "https://example.test/",
            "https://example.test/report",
        ]
        # what lies deep is folded, however short it is, and of what is long there is the beginning
        assert await left.get_by_text("far down").count() == 0
        await left.get_by_text('"deep": [2]').click()
        await left.get_by_text('"far down"').wait_for()
        await left.get_by_text("9223372036854775808", exact=True).wait_for()
        await left.get_by_text("49", exact=True).wait_for()
        await left.get_by_role("button", name="950 more").click()
        await left.get_by_text("99", exact=True).wait_for()
        assert await visit.nodes() < 1_500
        assert "javascript:alert(1)" in await visit.text(".left")


# -- who may, and what is limited ---------------------------------------------------------------------------


CHANGES = (
    "Cancel…",
    "Run again from failed…",
    "Run with these values…",
    "More…",
    "Run now…",
    "Answer…",
    "Run again from here…",
    "Leave it out…",
    "New limit…",
    "Change…",
    "Run",
)


async def test_who_may_only_read_has_nothing_to_press(browser: Browser, tmp_path: Path, recorded: Recorded) -> None:
    store = recorded.store
    failed, waiting = await failed_run(recorded), await paused_run(recorded)
    running = await recorded.begin("vivid-lynx")
    await store.update_task_tag_limit(ANYONE, tag="db", limit=5)
    clocks = [{"type": "CronClock", "cron": "0 6 * * *", "start_date": None, "parameter_defaults": {}}]
    nightly = await recorded.register("nightly", schedule={"clocks": clocks}, parameters=[])
    reader = (await store.create_api_key(ANYONE, name="ada", scopes=["read"]))["key"]
    locked = msgspec.structs.replace(OPEN, require_api_key=True)
    async with (
        listening(f"sqlite:///{tmp_path / 'flowloop.db'}", locked, synchronous="OFF") as url,
        browser.visit() as visit,
    ):
        visit.allowed += ["401", "WebSocket"]
        page = visit.page
        await page.goto(f"{url}/ui/runs")
        await visit.sign_in(reader)
        await page.locator("header").get_by_text("(read only)").wait_for()
        for address in (
            f"runs/{running.id}",
            f"runs/{failed.id}/tasks/{failed.tasks['price']}/7",
            f"runs/{waiting.id}/tasks/{waiting.tasks['price']}/-1",
            f"flows/{nightly}?form=run",
            "flows",
            "inbox",
            "workers",
        ):
            await visit.go(address)
            assert await page.get_by_role("heading").count() > 1, address
            offered = await page.locator("main").get_by_role("button").all_inner_texts()
            offered += await page.locator("main a.button, main summary").all_inner_texts()
            assert [each for each in offered if each.strip() in CHANGES] == [], address
        assert await page.get_by_role("heading", name="Notifications").count() == 0
        await visit.go("flows")
        assert await page.get_by_role("switch").is_disabled()


async def test_limits_are_set_and_changed(browser: Browser, url: str, recorded: Recorded) -> None:
    store = recorded.store
    async with browser.visit() as visit:
        page = visit.page
        dialog = page.get_by_role("dialog")
        await visit.open(f"{url}/ui/workers")
        await visit.see("Nothing is limited.")
        for of, name, places, more, told in (
            ("a tag of tasks", "db", "5", None, "0 of 5"),
            ("a tag of tasks: how often they begin", "api", "10", "30", "0 of 10 in 30 s"),
            ("a label of flow runs", "large", "2", None, "0 of 2"),
        ):
            await page.get_by_role("button", name="New limit…").click()
            await dialog.get_by_role("combobox", name="Of").select_option(of)
            await dialog.get_by_label("Name").fill(name)
            await dialog.get_by_label("Beginnings" if more else "Places").fill(places)
            if more:
                await dialog.get_by_label("In seconds").fill(more)
            await dialog.get_by_role("button", name="Set the limit").click()
            await dialog.wait_for(state="detached")
            await page.locator(".limit", has_text=name).get_by_text(told, exact=True).wait_for()
        entry = page.locator(".limit", has_text="db")
        await entry.get_by_role("button", name="Change…").click()
        await dialog.get_by_text("0 hold a place now").wait_for()
        await dialog.get_by_label("Places").fill("a few")
        await page.keyboard.press("Enter")
        await dialog.get_by_text("A limit is a whole number, 0 or more.").wait_for()
        await dialog.get_by_label("Places").fill("0")
        await page.keyboard.press("Enter")
        await dialog.wait_for(state="detached")
        await entry.get_by_text("0 of 0").wait_for()
        assert await entry.get_by_role("button", name="Change…").evaluate(FOCUSED)
    assert await _limits(store) == {("db", 0), ("large", 2)}


async def _limits(store: Store) -> set[tuple[str, int]]:
    from sqlalchemy import select

    from flowloop.backends.store.schema import metadata

    tags, labels = metadata.tables["task_tag_limit"].c, metadata.tables["flow_concurrency_limit"].c
    async with store.engine.connect() as connection:
        rows = [
            *await connection.execute(select(tags.tag, tags.limit)),
            *await connection.execute(select(labels.name, labels.limit)),
        ]
        return {(str(name), int(limit)) for name, limit in rows}


# -- flows, and their form ----------------------------------------------------------------------------------


async def test_a_task_that_fails_again_and_again_is_a_row_of_crosses(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    for name, failing in (("first-fox", 3), ("second-stoat", 0), ("third-thrush", 1)):
        run = await recorded.begin(name)
        await run.task("price", "Running", "Mapped")
        ids = await run.map("price", 4)
        await run.all(ids, "Running")
        await run.all(ids[:failing], "Failed")
        await run.all(ids[failing:], "Success")
        await run.flow("Failed" if failing else "Success")
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/flows/{recorded.flow_id}")
        row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="PRICE"))
        await row.wait_for()
        assert await row.get_by_role("cell").all_inner_texts() == ["✕3", "✓", "✕"]
        await visit.see("1 of the last 3 successful")
        await page.get_by_role("link", name="PRICE in first-fox: failed").click()
        await page.wait_for_url("**/tasks/**/-1*")
        await page.get_by_role("heading", name="first-fox").wait_for()


PARAMETERS: list[dict[str, Any]] = [
    {"name": "count", "required": True, "schema": {"type": "integer"}},
    {"name": "share", "default": 0.5, "schema": {"type": "number"}},
    {"name": "dry", "default": False, "schema": {"type": "boolean"}},
    {"name": "mode", "default": "fast", "schema": {"enum": ["fast", "slow"]}},
    {"name": "day", "default": None, "schema": {"type": "string", "format": "date-time"}},
    {"name": "key", "default": "", "secret": True, "schema": {"type": "string"}},
    {"name": "rows", "default": [], "schema": {"type": "array", "items": {"type": "integer"}}},
    {"name": "left", "default": 7, "schema": {"type": "integer"}},
]


async def test_a_form_has_a_field_for_each_kind_of_parameter(browser: Browser, url: str, recorded: Recorded) -> None:
    parameters = [{"type": "Parameter", "slug": each["name"], "required": False, **each} for each in PARAMETERS]
    flow_id = await recorded.register("typed", parameters=parameters)
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/flows/{flow_id}?form=run")
        form = page.get_by_role("form", name="Run typed")
        for name in ("share", "dry", "mode", "day", "key", "rows"):
            field = form.locator(".field", has=page.locator(f"label[for=p-{name}]"))
            await field.get_by_label("leave to the default").uncheck()
        for name, text in (
            ("count", "three"),
            ("share", "1.25"),
            ("day", "2031-01-01T06:00:00Z"),
            ("key", "s"),
            ("rows", "[]"),
        ):
            await page.locator(f"#p-{name}").fill(text)
        await page.locator("#p-dry").select_option("yes")
        await page.locator("#p-mode").select_option("slow")
        assert await page.locator("#p-key").get_attribute("type") == "password"
        press = form.get_by_role("button", name="Run", exact=True)
        await press.click()
        await form.get_by_role("alert").get_by_text('count is a whole number, not "three"').wait_for()
        await page.locator("#p-count").fill("0")
        await press.dblclick()  # and it is one run
        await page.wait_for_selector(".head")
        given = {
            "count": 0,
            "share": 1.25,
            "dry": True,
            "mode": "slow",
            "day": "2031-01-01T06:00:00Z",
            "key": "s",
            "rows": [],
            "left": 7,
        }
        assert [each for each in await _given(recorded.store) if each] == [given]
        # the values of a run are where another begins
        await page.get_by_role("link", name="Run with these values…").click()
        assert await page.locator("#p-share").input_value() == "1.25"
        assert await page.locator("#p-dry").input_value() == "true"
        await page.get_by_role("link", name="Flows").first.click()
        await visit.go(f"flows/{flow_id}?form=run")
        assert await page.locator("#p-count").input_value() == ""  # each opened form is empty


async def _given(store: Store) -> list[Any]:
    from sqlalchemy import select

    from flowloop.backends.store.schema import metadata

    async with store.engine.connect() as connection:
        return list((await connection.execute(select(metadata.tables["flow_run"].c.parameters))).scalars())


async def test_keys_lead_through_a_list_and_back(browser: Browser, url: str, recorded: Recorded) -> None:
    await recorded.begin("first-fox")
    await recorded.begin("second-stoat")
    async with browser.visit() as visit:
        page = visit.page
        press = page.keyboard.press
        focused = "document.activeElement.querySelector('.what')?.textContent.trim()"
        await visit.open(f"{url}/ui/runs")
        await page.get_by_role("link", name="first-fox").wait_for()
        for key, name in (("j", "second-stoat"), ("j", "first-fox"), ("j", "first-fox"), ("k", "second-stoat")):
            await press(key)
            assert (await page.evaluate(focused)).endswith(name)
        await press("Enter")
        await page.get_by_role("heading", name="second-stoat").wait_for()
        await press("Escape")
        await page.get_by_role("link", name="first-fox").wait_for()
        for key, heading in (("f", "Flows"), ("w", "Workers, limits, queue"), ("i", "Inbox"), ("r", "Runs")):
            await press("g")
            await press(key)
            await page.get_by_role("heading", name=heading, exact=True).wait_for()
        await press("/")
        await page.get_by_role("heading", name="Search").wait_for()


# -- search, and the connection -----------------------------------------------------------------------------


async def test_a_whole_id_is_gone_to_at_once(browser: Browser, url: str, recorded: Recorded) -> None:
    run = await failed_run(recorded)
    async with browser.visit() as visit:
        page = visit.page
        for given, found in (
            (run.id, f"**/runs/{run.id}**"),
            (f" {run.task_runs['total'].upper()} ", f"**/runs/{run.id}/tasks/{run.tasks['total']}/-1**"),
            (recorded.flow_id, f"**/flows/{recorded.flow_id}"),
        ):
            await visit.open(f"{url}/ui/search")
            await page.get_by_role("searchbox").fill(given)
            await page.wait_for_url(found)
        await visit.open(f"{url}/ui/search")
        await page.get_by_role("searchbox").fill(run.id[:-1])  # the beginning of one is looked for
        await page.get_by_role("link", name="hasty-gannet").wait_for()


async def test_silence_is_not_taken_for_health(browser: Browser, url: str, recorded: Recorded) -> None:
    await recorded.begin("silent-seal")
    is_silent = False
    heard = asyncio.Event()
    async with browser.visit() as visit:
        page = visit.page

        def between(socket: Any) -> None:
            server = socket.connect_to_server()

            def pass_on(message: str) -> None:
                if not is_silent:
                    socket.send(message)
                if '"pong"' in message:
                    heard.set()

            server.on_message(pass_on)

        await page.route_web_socket("**/graphql", between)
        await page.clock.install()
        await visit.open(f"{url}/ui/runs")
        await visit.live()
        await page.clock.fast_forward(15_000)  # a ping, and its answer
        await heard.wait()
        await visit.settled()
        await page.clock.fast_forward(14_000)
        assert await page.locator(".link.is-live").count() == 1
        is_silent = True
        await page.clock.fast_forward(15_000)
        await page.clock.fast_forward(10_000)
        await page.wait_for_selector(".link.is-away")
