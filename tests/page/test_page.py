"""The page in a browser: what a person does with it, and that it has nothing to complain of while they do."""

from __future__ import annotations

import datetime
import os
import re
import shlex
from pathlib import Path
from typing import Any

import anyio
import pytest

from flowloop.backends.server import ServerSettings
from flowloop.backends.store import ANYONE, Store
from flowloop.engine.serialization import decode_state

from ..backends.server.served import QUIET, listening
from ..backends.store.world import ManualClock
from ..commands import ROOT
from . import layouts
from .axe import axe_source
from .conftest import Browser
from .world import Recorded, Run, failed_run, paused_run

PICTURES = Path(os.environ["FLOWLOOP_PICTURES"]) if os.environ.get("FLOWLOOP_PICTURES") else None
"""Where to leave pictures of all views, to be looked at."""

KEEP_LAYOUTS = bool(os.environ.get("FLOWLOOP_KEEP_LAYOUTS"))
"""Whether the layouts of all views are to be kept as they are now."""

WCAG = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"]

AXE = """rules => axe.run(document, {runOnly: rules}).then(found => found.violations.map(each =>
    [each.id, each.nodes.map(node => node.html).slice(0, 3)]))"""

CLOCKS = [{"type": "CronClock", "cron": "0 6 * * *", "start_date": None, "parameter_defaults": {}}]

pytestmark = [pytest.mark.browser, pytest.mark.heavy]


async def test_from_a_failed_run_to_its_log_and_again(browser: Browser, url: str, recorded: Recorded) -> None:
    run = await failed_run(recorded)
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/")
        await visit.live()
        await page.wait_for_url(f"{url}/ui/runs")
        await page.get_by_role("link", name="hasty-gannet").click()
        # It opens where it hurts: the first child that failed is chosen, and its log is there.
        await page.wait_for_selector("aside .traceback")
        await page.wait_for_url(f"{url}/ui/runs/{run.id}/tasks/{run.tasks['price']}/7")
        selected = await visit.text("aside")
        assert "RuntimeError: bad row 7" in selected
        await visit.see("bad row 7, see")
        assert (
            await page.get_by_role("link", name="https://example.test/7").get_attribute("rel") == "noopener noreferrer"
        )
        assert await page.locator("aside .markdown strong").inner_text() == "bad"
        for word in ("Retrying", "attempt 3"):
            assert word in await visit.text("aside")
        await page.locator("aside").get_by_text("Inputs").click()
        await page.locator("aside").get_by_role("cell").get_by_role("link", name="NUMBERS [7]").wait_for()
        await page.get_by_role("button", name=re.compile("^2 ")).click()
        await page.wait_for_url("**attempt=2*")
        await page.get_by_role("button", name="Run again from failed…").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_text("2 task runs that did not succeed would run again").wait_for()
        await dialog.get_by_role("button", name="Run again").click()
        await page.wait_for_selector(".head .big .of-pending")
        [document] = await recorded.store.get_flow_run_states(ANYONE, flow_run_ids=[run.id])
        assert decode_state(bytes(document)).is_scheduled()


async def test_a_run_is_cancelled_by_keys_alone(browser: Browser, url: str, recorded: Recorded) -> None:
    run = await recorded.begin("vivid-lynx")
    await run.task("numbers", "Running")
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/")
        await page.wait_for_selector("[data-row]")
        await page.keyboard.press("j")
        assert await page.evaluate("document.activeElement.textContent.includes('vivid-lynx')")
        await page.keyboard.press("Enter")
        button = page.get_by_role("button", name="Cancel…")
        await button.focus()
        await page.keyboard.press("Enter")
        await visit.see("would be cancelled")
        await page.keyboard.press("Escape")
        await page.wait_for_selector("dialog", state="detached")
        await page.wait_for_function("document.activeElement.textContent === 'Cancel…'")
        await page.keyboard.press("Enter")
        await page.get_by_role("button", name="Cancel the run").focus()
        await page.keyboard.press("Enter")
        await visit.see("Cancelling")
        await page.keyboard.press("g")
        await page.keyboard.press("i")
        await visit.see("Nothing waits for anybody.")


async def test_what_failed_is_read_by_keys_alone(browser: Browser, url: str, recorded: Recorded) -> None:
    run = await failed_run(recorded)
    price, total = run.tasks["price"], run.tasks["total"]
    async with browser.visit() as visit:
        page = visit.page
        press = page.keyboard.press
        await visit.open(f"{url}/ui/")
        await press("/")
        await page.wait_for_function("document.activeElement.type === 'search'")
        await page.keyboard.type("gannet")
        await page.get_by_role("link", name="hasty-gannet").wait_for()
        await press("ArrowDown")
        await press("Enter")
        await page.wait_for_url(f"**/{run.id}/tasks/{price}/7*")  # it opens at what failed first
        await visit.see("RuntimeError: bad row 7")
        await press("[")
        await page.wait_for_url("**attempt=2*")
        await press("[")
        await page.wait_for_url("**attempt=1*")
        await press("]")
        await page.wait_for_url("**attempt=2*")
        await press("n")
        await page.wait_for_url(f"**/tasks/{total}/-1*")
        await press("p")
        await page.wait_for_url(f"**/tasks/{price}/7*")
        await press("l")
        await page.wait_for_url("**tab=logs*")
        # each line of the whole log tells whose it is, and leads there
        of = page.get_by_role("log", name="Log lines").first.get_by_role("link", name="PRICE [7]")
        await of.first.wait_for()
        await press("t")
        await page.wait_for_url("**tab=tasks*")
        await page.get_by_label("Message").fill("bad ROW")
        await page.get_by_label("Message").press("Enter")
        await page.wait_for_url("**message=bad*")
        await visit.see("1 like that.")
        await page.get_by_role("combobox", name="Order").select_option("took longest")
        await visit.see("1 like that.")
        await page.get_by_role("searchbox", name="Message").fill("")
        await press("Enter")
        # of all the children it took longest to fail three times
        children = page.get_by_role("table").locator(".index")
        await children.nth(5).wait_for()
        assert await children.first.inner_text() == "[7]"
        await page.get_by_role("combobox", name="Order").select_option("began last")
        await page.get_by_text("32 of 33.").wait_for()
        await page.get_by_role("searchbox", name="Message").focus()
        await press("Escape")  # out of the field
        await visit.settled()
        times = "[...document.querySelectorAll('main time')].map(each => [each.dateTime, each.textContent])"
        before = await page.evaluate(times)
        await page.get_by_label("Time zone").select_option("Asia/Tokyo")
        await visit.settled()
        after = await page.evaluate(times)
        assert [moment for moment, _ in before] == [moment for moment, _ in after]
        assert all(shown != told for (_, shown), (_, told) in zip(before, after, strict=True))
        await press("g")
        await page.get_by_label("Time zone").blur()
        await press("?")
        await page.get_by_role("heading", name="Keys").wait_for()
        await press("Escape")
        await page.get_by_role("heading", name="Keys").wait_for(state="detached")
        await press("g")
        await press("t")
        await page.get_by_role("heading", name="Tail").wait_for()
        # the zone goes along, so that whoever is sent an address sees the same
        await page.wait_for_url(f"{url}/ui/tail?zone=Asia%2FTokyo")
        await press(" ")
        await page.get_by_role("button", name="Go on (0 passed)").wait_for()
        await press(" ")
        await page.get_by_role("button", name="Hold").wait_for()
    async with browser.visit(390) as visit:
        await visit.open(f"{url}/ui/runs/{run.id}?zone=Asia%2FTokyo")
        assert await visit.page.get_by_label("Time zone").input_value() == "Asia/Tokyo"
        # where there is no room for the graph there is the list
        await visit.page.locator(".as-list .row a").first.wait_for()
        assert not await visit.page.locator(".drawing").is_visible()


async def test_what_waits_is_answered(browser: Browser, url: str, recorded: Recorded) -> None:
    run = await paused_run(recorded)
    async with browser.visit() as visit:
        page = visit.page
        await visit.hold(5_000)
        await visit.open(f"{url}/ui/inbox")
        await visit.see("3 prices are above the limit")
        await page.wait_for_selector("nav .badge")
        # who would go on is told before, and what it is about
        await visit.see("Nobody will go on with this run: there is no live worker.")
        await page.get_by_text("Inputs and log").click()
        await page.get_by_role("log").get_by_text("three are above 0.9").wait_for()
        await page.get_by_role("cell").get_by_role("link", name="NUMBERS").wait_for()
        await page.get_by_role("button", name="Answer…").click()
        await page.get_by_label("Note").fill("fine for this week")
        await page.get_by_label("Value").fill("0.95")
        await page.get_by_role("button", name="Approve").click()
        # No worker is there: it is said, and what was recorded stays recorded.
        await visit.see("Recorded. Nobody will go on with this run")
        (row,) = [row for row in await _rows(recorded.store, run.id) if row["id"] == run.task_runs["price"]]
        assert row["state"] == "Resume"
        assert row["state_message"] == "Resumed: fine for this week"
        await page.get_by_role("button", name="Leave it").click()
        # it stays for a moment, with what became of it, and cannot be answered twice
        await page.locator(".answered", has_text="approved").wait_for()
        assert await page.get_by_role("button", name="Answer…").count() == 0
        await visit.settled()
        await visit.let_go()
        await visit.see("Nothing waits for anybody.")


async def test_the_same_question_is_answered_several_times_at_once(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    runs = [await paused_run(recorded, name) for name in ("calm-crab", "keen-koala", "wise-wolf")]
    other = await recorded.begin("odd-owl")
    await other.task("total", "Paused", message="publish?")
    store = recorded.store
    await store.reserve_flow_runs(ANYONE, worker_id="w", limit=0)
    async with browser.visit() as visit:
        page = visit.page
        await visit.hold(5_000)
        await visit.open(f"{url}/ui/inbox")
        for name in ("calm-crab", "wise-wolf"):
            await page.get_by_role("checkbox", name=f"Choose PRICE of {name}").check()
        assert await page.get_by_role("checkbox", name="Choose TOTAL of odd-owl").is_disabled()
        # one of them is answered by somebody else meanwhile
        await runs[0].task("price", "Resume")
        await page.get_by_role("button", name="Answer 2 chosen…").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_text("wise-wolf").wait_for()
        await dialog.get_by_label("decline").check()
        await dialog.get_by_role("button", name="Decline 2").click()
        await dialog.get_by_text("is Resume (version 3)").wait_for()
        states = [(await _rows(store, run.id)) for run in runs]
        price = [
            next(row["state"] for row in rows if row["id"] == run.task_runs["price"])
            for run, rows in zip(runs, states, strict=True)
        ]
        assert price == ["Resume", "Paused", "Failed"]
        await dialog.get_by_role("button", name="Leave it").click()
        await page.locator(".answered", has_text="declined").wait_for()


async def test_what_people_may_ask_of_a_run_is_asked_by_buttons(browser: Browser, url: str, recorded: Recorded) -> None:
    run = await recorded.begin("humble-hare")
    store = recorded.store
    async with browser.visit() as visit:
        page = visit.page
        dialog = page.get_by_role("dialog")
        await visit.open(f"{url}/ui/runs/{run.id}")
        await page.get_by_text("More…").click()
        await page.get_by_role("button", name="Set limits…").click()
        await dialog.get_by_label("Task runs at once").fill("many")
        await dialog.get_by_role("button", name="Set the limits").click()
        await dialog.get_by_text("A limit is a whole number, or none, not many.").wait_for()
        assert await dialog.get_by_role("button", name="Set the limits").evaluate(FOCUSED)
        await dialog.get_by_label("Task runs at once").fill("5")
        await dialog.get_by_label("With a tag at once").fill("db=2")
        await dialog.get_by_role("button", name="Set the limits").click()
        await dialog.wait_for(state="detached")
        await page.get_by_role("button", name="Send an event…").click()
        await dialog.get_by_label("Name").fill("approved")
        await dialog.get_by_label("Value").fill('{"by": 12345678901234567890}')
        await dialog.get_by_role("button", name="Send it").click()
        await dialog.wait_for(state="detached")
        await visit.go(f"runs/{run.id}/tasks/{run.tasks['total']}/-1")
        await page.get_by_role("button", name="Hold it…").click()
        await dialog.get_by_role("button", name="Hold it").click()
        await page.get_by_role("button", name="Release it…").click()
        await dialog.get_by_label("Note").fill("all is well")
        await dialog.get_by_role("button", name="Release it").click()
        await page.get_by_role("button", name="Hold it…").wait_for()
        asked = await store.list_directives(ANYONE, flow_run_id=run.id)
        assert [(each["kind"], each["task"], each["value"], each["note"]) for each in asked] == [
            ("set_limits", None, {"concurrency": 5, "tags": {"db": 2}}, None),
            ("event", "approved", {"by": 12345678901234567890}, None),
            ("hold", "total", None, None),
            ("release", "total", None, "all is well"),
        ]


async def test_a_flow_inside_another_is_found_from_it_and_leads_back(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    outer = await recorded.begin("outer-owl")
    await outer.task("price", "Running")
    inner = await outer.part("price")
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs")
        await page.get_by_role("link", name="outer-owl").wait_for()
        assert await page.get_by_role("link", name=inner["name"]).count() == 0
        await page.get_by_label("also runs inside others").check()
        await page.get_by_role("link", name=inner["name"]).click()
        # What goes on with another run is steered there.
        await page.get_by_role("link", name="outer-owl / PRICE").wait_for()
        assert await page.get_by_role("button", name="Cancel…").count() == 0
        await page.get_by_role("link", name="outer-owl / PRICE").click()
        await page.get_by_role("link", name="Overview").click()
        await page.get_by_role("heading", name="Flow runs inside").wait_for()
        await page.locator("section", has_text="Flow runs inside").get_by_role("link", name=inner["name"]).click()
        await page.wait_for_url(f"{url}/ui/runs/{inner['id']}")


async def test_one_task_is_left_out_and_another_is_where_it_begins_again(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    run = await recorded.begin("steady-stork")
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs/{run.id}/tasks/{run.tasks['total']}/-1")
        await page.get_by_role("button", name="Leave it out…").click()
        await page.get_by_label("Note").fill("not today")
        await page.get_by_role("dialog").get_by_role("button", name="Leave it out").click()
        await page.wait_for_selector("aside .of-skipped")
        await run.task("numbers", "Running", "Success")
        await run.flow("Success", "done")
        await page.get_by_role("button", name="Run again from here…").click()
        await page.get_by_role("dialog").get_by_role("button", name="Run again from here").click()
        await page.wait_for_selector(".head .big .of-pending")
        await page.get_by_role("link", name="History").click()
        await visit.see("What people asked for")
        asked = await visit.text("main")
        assert "not today" in asked
        assert "restart" in asked


async def _rows(store: Store, flow_run_id: str) -> list[dict[str, Any]]:
    from sqlalchemy import select

    from flowloop.backends.store.schema import metadata

    run = metadata.tables["task_run"].c
    async with store.engine.connect() as connection:
        wanted = select(run.id, run.state, run.state_message).where(run.flow_run_id == flow_run_id)
        return [dict(row) for row in (await connection.execute(wanted)).mappings()]


async def test_a_run_changes_while_it_is_looked_at(browser: Browser, url: str, recorded: Recorded) -> None:
    run = await recorded.begin("quick-otter")
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs/{run.id}")
        await visit.live()
        await run.task("numbers", "Running", "Success")
        await page.wait_for_selector(".node.of-success")
        ids = await run.map("price", 50)
        await run.all(ids, "Running")
        await page.locator(".total .of-running", has_text="50").wait_for()
        await run.all(ids, "Success")
        await run.flow("Success", "all is well")
        await visit.see("all is well")
        await page.wait_for_selector(".head .big .of-success")


async def test_what_was_restarted_shows_its_attempts_and_what_was_paused_has_one(
    browser: Browser, url: str, recorded: Recorded, tmp_path: Path
) -> None:
    clock = ManualClock()
    async with Store(f"sqlite:///{tmp_path / 'flowloop.db'}", synchronous="OFF", clock=clock) as recorded.store:
        run = await recorded.begin("twice-told-tern")
        for slug, kinds in (
            ("numbers", ("Running", "Failed", "Pending", "Running", "Success")),
            ("total", ("Paused", "Resume", "Running", "Success")),
        ):
            for kind in kinds:
                clock.move(seconds=10)
                await run.task(slug, kind)
        await run.flow("Success", "done")
        again = await recorded.begin("again-auk")
        for kind, seconds in (("Failed", 90), ("Scheduled", 120), ("Running", 0), ("Success", 5)):
            clock.move(seconds=seconds)
            await again.flow(kind)
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs/{run.id}?tab=timeline&waits=shown")
        await page.locator(".total").get_by_text("1 with more than one attempt").wait_for()
        await visit.settled()
        await page.get_by_text("As a table").click()
        row = page.locator("tr", has=page.get_by_role("link", name="NUMBERS"))
        await row.get_by_text("≤ 50 s").first.wait_for()
        canvas = page.locator("canvas")
        box = await canvas.bounding_box()
        assert box is not None
        said: list[list[str]] = []
        for y in (37, 63):  # the middle of the first lane, and of the second
            told: list[str] = []
            for part in range(18):  # twice in each ten seconds
                await canvas.hover(position={"x": 150 + (part + 0.5) * (box["width"] - 158) / 18, "y": y})
                words = (await page.inner_text(".status")).partition(" at ")
                told.append(words[0] + words[2].partition(": ")[2])
            said.append(list(dict.fromkeys(told)))
        assert said == [
            [f"NUMBERS{state}, 2 attempts" for state in ("Pending", "Running", "Failed", "Success")],
            [f"TOTAL{state}, 1 attempt" for state in ("Pending", "Paused", "Resume", "Running")],
        ]
        await visit.go(f"runs/{run.id}?tab=tasks")
        await page.locator(".row", has_text="NUMBERS").get_by_text("↻ 2").wait_for()
        assert await page.get_by_text("↻").count() == 1
        # a flow run that began twice took as long as it ran
        for address in ("runs", "flows"):
            await visit.go(address)
            await page.get_by_text("1 min 35 s").wait_for()


async def test_a_flow_is_run_with_the_values_of_a_form(browser: Browser, url: str, recorded: Recorded) -> None:
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/flows")
        await page.get_by_role("link", name="Run now…").click()
        await page.get_by_label("n *").fill("12345678901234567890")
        await page.get_by_label("Time zone").select_option("Asia/Tokyo")
        await page.get_by_label("When").fill("2031-01-01T06:00")
        await page.get_by_role("button", name="Run", exact=True).click()
        await page.wait_for_selector(".head")
        run_id = page.url.rpartition("/")[2].partition("?")[0]
        await page.get_by_role("link", name="Parameters").click()
        await page.wait_for_selector(".json")
        (parameters,) = [row for row in await _parameters(recorded.store) if row["id"] == run_id]
        assert parameters["parameters"] == {"n": 12345678901234567890}
        assert parameters["scheduled_start_time"] == datetime.datetime(2030, 12, 31, 21, tzinfo=datetime.UTC)


async def test_a_schedule_is_turned_on_and_off(browser: Browser, url: str, recorded: Recorded) -> None:
    nightly = await recorded.register("nightly", schedule={"clocks": CLOCKS}, parameters=[])
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/flows")
        entry = page.get_by_role("listitem").filter(has=page.get_by_role("link", name="nightly"))
        switch = entry.get_by_role("switch")
        await entry.get_by_text("schedule on").wait_for()
        await entry.get_by_text("cron 0 6 * * *").wait_for()
        assert await switch.is_checked()
        await visit.settled()
        assert await entry.locator("time").count() == 2  # the next date, and in how long
        await switch.click()
        await entry.get_by_text("schedule off").wait_for()
        assert not await switch.is_checked()
        assert not await _is_scheduled(recorded.store, nightly)
        assert await _planned(recorded.store, nightly) == 0
        # the same without a mouse, and from the page of the flow
        await visit.go(f"flows/{nightly}")
        switch = page.get_by_role("switch")
        await switch.focus()
        await page.keyboard.press("Space")
        await page.get_by_text("schedule on").wait_for()
        await visit.settled()
        assert await page.locator("main time").count() == 6  # the next five dates, and in how long the first of them
        assert await _is_scheduled(recorded.store, nightly)
        assert await _planned(recorded.store, nightly) > 0
        assert await switch.evaluate(FOCUSED)
        await page.keyboard.press("Space")
        await page.get_by_text("schedule off").wait_for()
        assert not await _is_scheduled(recorded.store, nightly)
        # what the server refuses is said beside the switch, which stays as it was
        monthly = await recorded.register(
            "monthly",
            schedule={"clocks": CLOCKS},
            parameters=[{"name": "n", "type": "Parameter", "required": True, "slug": "n", "default": None}],
        )
        await page.get_by_role("link", name="Flows").first.click()
        await page.reload()
        entry = page.get_by_role("listitem").filter(has=page.get_by_role("link", name="monthly"))
        await entry.get_by_role("switch").click()
        await entry.get_by_role("alert").get_by_text("Can not schedule a flow that has required parameters.").wait_for()
        await entry.get_by_text("schedule off").wait_for()
        assert not await entry.get_by_role("switch").is_checked()
        assert not await _is_scheduled(recorded.store, monthly)


async def _is_scheduled(store: Store, flow_id: str) -> bool:
    from sqlalchemy import select

    from flowloop.backends.store.schema import metadata

    flow = metadata.tables["flow"].c
    async with store.engine.connect() as connection:
        return bool((await connection.execute(select(flow.is_schedule_active).where(flow.id == flow_id))).scalar_one())


async def _planned(store: Store, flow_id: str) -> int:
    from sqlalchemy import func, select

    from flowloop.backends.store.schema import metadata

    run = metadata.tables["flow_run"].c
    async with store.engine.connect() as connection:
        planned = select(func.count()).where(run.flow_id == flow_id, run.auto_scheduled.is_(True))
        return int((await connection.execute(planned)).scalar_one())


FOCUSED = "each => each === document.activeElement"
CLIPBOARD = "navigator.clipboard.readText()"


async def test_what_is_copied_is_on_the_clipboard(browser: Browser, url: str, recorded: Recorded) -> None:
    run = await failed_run(recorded)
    async with browser.visit(permissions=["clipboard-read", "clipboard-write"]) as visit:
        page = visit.page
        await visit.hold(1_500)
        await visit.open(f"{url}/ui/runs/{run.id}?tab=history")
        await page.get_by_role("button", name="copy id").click()
        await page.get_by_role("button", name="copied").wait_for()
        assert await page.evaluate(CLIPBOARD) == run.id
        await visit.go(f"runs/{run.id}/tasks/{run.tasks['price']}/7")
        # what wants attention has links of its own
        await page.get_by_role("region", name="Needs attention").get_by_role("button", name="copy link").first.click()
        await page.get_by_role("region", name="Needs attention").get_by_role("button", name="copied").wait_for()
        assert await page.evaluate(CLIPBOARD) == f"{url}/ui/go/{await _child(recorded.store, run, 7)}"
        await page.locator("aside").get_by_role("button", name="copy link").focus()
        await page.keyboard.press("Enter")
        await page.locator("aside").get_by_role("button", name="copied").wait_for()
        await page.goto(await page.evaluate(CLIPBOARD))
        await page.wait_for_url(f"**/runs/{run.id}/tasks/{run.tasks['price']}/7*")
        await visit.go(f"flows/{recorded.flow_id}?form=run")
        copy = page.get_by_role("button", name="copy as a command")
        assert await copy.is_disabled()  # the flow has to be given a number
        await page.get_by_label("n *").fill('"it\'s"')
        await page.get_by_label("Name two random words").fill("rm -rf /; hasty")
        await page.get_by_label("Labels").fill("gpu, large")
        await copy.click()
        await page.get_by_role("button", name="copied").wait_for()
        words = shlex.split(await page.evaluate(CLIPBOARD))
        assert words[:3] == ["flowloop", "create", "prices"]
        assert words[3:] == ["-p", 'n="it\'s"', "--name", "rm -rf /; hasty", "--label", "gpu", "--label", "large"]


async def _child(store: Store, run: Run, index: int) -> str:
    (row,) = await store.get_or_create_task_runs(
        ANYONE, flow_run_id=run.id, task_id=run.tasks["price"], map_indices=[index]
    )
    return str(row["id"])


@pytest.mark.parametrize("how", ["it is refused", "there is none"])
async def test_what_cannot_be_copied_is_there_to_be_copied_by_hand(
    browser: Browser, url: str, recorded: Recorded, how: str
) -> None:
    run = await recorded.begin("quiet-quail")
    async with browser.visit() as visit:
        page = visit.page
        if how == "there is none":  # as on a page that came over plain HTTP
            await page.add_init_script("delete Navigator.prototype.clipboard")
        else:
            await page.context.grant_permissions(["geolocation"])  # and no other
        await visit.open(f"{url}/ui/runs/{run.id}")
        await page.get_by_role("button", name="copy id").click()
        field = page.get_by_label("To be copied by hand")
        assert await field.input_value() == run.id
        assert await page.get_by_role("button", name="copied").count() == 0
        chosen = "each => each.value.slice(each.selectionStart, each.selectionEnd)"
        assert await field.evaluate(chosen) == run.id
        assert await field.evaluate(FOCUSED)


async def _parameters(store: Store) -> list[dict[str, Any]]:
    from sqlalchemy import select

    from flowloop.backends.store.schema import metadata

    run = metadata.tables["flow_run"].c
    async with store.engine.connect() as connection:
        return [
            dict(row)
            for row in (await connection.execute(select(run.id, run.parameters, run.scheduled_start_time))).mappings()
        ]


async def test_a_key_is_asked_for_and_forgotten(browser: Browser, tmp_path: Path, store: Store) -> None:
    recorded = Recorded(store)
    await recorded.register()
    await recorded.begin("hidden-heron")
    reader = (await store.create_api_key(ANYONE, name="ada", scopes=["read"]))["key"]
    locked = ServerSettings(require_api_key=True, poll_seconds=0.1, key_cache_seconds=0, **QUIET)
    database = f"sqlite:///{tmp_path / 'flowloop.db'}"
    async with listening(database, locked, synchronous="OFF") as url, browser.visit() as visit:
        visit.allowed += ["401", "WebSocket"]
        page = visit.page
        await page.goto(f"{url}/ui/runs")
        await page.get_by_label("API key").wait_for()
        await page.evaluate(axe_source())
        assert await page.evaluate(AXE, WCAG) == []
        await page.get_by_label("API key").fill("wrong")
        await page.get_by_role("button", name="Sign in").click()
        await visit.see("There is no such API key")
        await visit.sign_in(reader)
        await visit.see("hidden-heron")
        await visit.live()
        await page.locator("header").get_by_text("ada", exact=True).wait_for()
        (cookie,) = await page.context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("flowloop_session", True, "Strict")
        assert cookie["value"] != reader
        await page.get_by_role("link", name="hidden-heron").click()
        await page.wait_for_selector(".head")
        assert await page.get_by_role("button", name="Cancel…").count() == 0  # it may only read
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("API key").wait_for()
        assert await page.context.cookies() == []


async def test_no_name_that_our_modules_share_hides_one_of_the_browser(browser: Browser, url: str) -> None:
    async with browser.visit() as visit:
        await visit.page.goto(f"{url}/ui/")
        known = await visit.page.evaluate("Object.getOwnPropertyNames(window)")
    written = (ROOT / "backends" / "server" / "ui" / "static").rglob("*.js")
    ours = [path.read_text() for path in written if path.parent.name != "vendor"]
    names = re.findall(r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", "\n".join(ours), re.MULTILINE)
    assert names
    assert set(names).isdisjoint(known)


async def test_runs_of_some_time_are_chosen_by_dragging_over_it(browser: Browser, url: str, recorded: Recorded) -> None:
    clock = ManualClock()
    store = recorded.store
    clock.time = store.clock.now() - datetime.timedelta(hours=6)
    async with Store(str(store.url), synchronous="OFF", clock=clock) as recorded.store:
        for name in ("first-fox", "second-stoat", "third-thrush"):
            await recorded.begin(name)
            clock.move(hours=2)
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs")
        columns = page.locator(".column:not(:disabled)")
        await columns.nth(2).wait_for()
        await columns.nth(0).hover()
        await page.mouse.down()
        await columns.nth(1).hover()
        await page.mouse.up()
        await page.get_by_role("link", name="third-thrush").wait_for(state="detached")
        for name in ("first-fox", "second-stoat"):
            await page.get_by_role("link", name=name).wait_for()
        await page.get_by_role("button", name="×").click()
        await page.get_by_role("link", name="third-thrush").wait_for()


async def test_the_tail_tells_what_a_flow_does_and_what_one_of_its_runs_logs(
    browser: Browser, url: str, recorded: Recorded
) -> None:
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/tail")
        await visit.live()
        run = await recorded.begin("loud-lark")
        await recorded.register("other")
        await recorded.begin("dull-dodo")
        await page.get_by_role("link", name="dull-dodo").first.wait_for()
        await page.get_by_role("combobox", name="Flow").select_option("prices")
        await page.get_by_role("link", name="dull-dodo").first.wait_for(state="detached")
        await page.get_by_role("button", name="Its log").first.click()
        await page.wait_for_url(f"**run={run.id}*")
        await page.get_by_role("combobox", name="Log at least").select_option("WARNING")
        await page.wait_for_url("**level=WARNING*")
        line = {"flow_run_id": run.id, "name": "prices"}
        lines = [line | {"level": level, "message": f"{level} of a row" + 300 * "-"} for level in ("INFO", "ERROR")]
        for _ in range(500):  # what was written before it is followed is not told
            await recorded.store.write_run_logs(ANYONE, logs=lines)
            await visit.settled()
            if await page.get_by_text("ERROR of a row").count():
                break
        await page.get_by_text("ERROR of a row").first.wait_for()
        assert await page.get_by_text("INFO of a row").count() == 0
        fits = "[...document.querySelectorAll('li.lines')].every(each => each.scrollWidth <= each.clientWidth)"
        assert await page.evaluate(fits)
        await page.get_by_role("button", name="Without the log").click()
        await page.get_by_role("button", name="Its log").first.wait_for()


async def test_the_tail_tells_how_fast_it_goes_while_it_does(browser: Browser, url: str, recorded: Recorded) -> None:
    async with browser.visit() as visit:
        page = visit.page
        await page.clock.install()
        await visit.open(f"{url}/ui/tail")
        await visit.live()
        for number in range(12):
            await recorded.begin(f"run-{number}")
        await page.get_by_role("link", name="run-11").first.wait_for()
        await page.locator(".tools").get_by_text("a second").wait_for()
        await page.clock.fast_forward(7_000)
        await page.locator(".tools").get_by_text("a second").wait_for(state="detached")


async def test_what_is_pressed_now_and_then(browser: Browser, url: str, recorded: Recorded) -> None:
    store = recorded.store
    run = await failed_run(recorded)
    begins = store.clock.now() + datetime.timedelta(days=1)
    fields = {"flow_id": recorded.flow_id, "scheduled_start_time": begins, "parameters": {"n": 1}}
    await store.create_flow_run(ANYONE, flow_run_name="later-lemur", **fields)
    older = recorded.flow_id
    await recorded.register()
    async with browser.visit() as visit:
        page = visit.page
        await visit.open(f"{url}/ui/runs")
        for theme in ("light", "dark", "auto"):
            await page.get_by_role("button", name="Theme").click()
            await page.get_by_role("button", name=f"Theme: {theme}").wait_for()
            shown = "light" if theme == "auto" else theme
            await page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=shown)
        await page.get_by_text("Upcoming").click()
        await page.get_by_role("link", name="later-lemur").wait_for()
        await page.get_by_role("button", name="paused").click()
        await visit.see("No run is like that.")
        await page.get_by_role("button", name="failed").click()
        await page.get_by_role("link", name="hasty-gannet").wait_for()
        assert page.url == f"{url}/ui/runs?state=paused%2Cfailed"
        await page.get_by_role("link", name="hasty-gannet").click()
        await page.get_by_role("link", name="Artifacts").click()
        await page.locator(".left .markdown strong").wait_for()
        await page.get_by_role("link", name="Logs", exact=True).click()
        async with page.expect_download() as saved:
            await page.locator(".left").get_by_role("button", name="Save").click()
        saved_as = anyio.Path(await (await saved.value).path())
        assert "ERROR prices: bad row 7" in await saved_as.read_text()
        await page.get_by_role("link", name="Task runs").click()
        await page.get_by_label("Go to").select_option("PRICE")
        await page.get_by_label("Index").fill("3")
        await page.get_by_role("button", name="Go", exact=True).click()
        await page.wait_for_url(f"**/tasks/{run.tasks['price']}/3?tab=tasks")
        await page.locator(".row", has_text="[3]").locator("[aria-current='true']").wait_for()
        await page.get_by_role("link", name="Timeline").click()
        await page.locator("canvas").wait_for()
        await visit.settled()
        canvas = await page.locator("canvas").bounding_box()
        assert canvas is not None
        await page.mouse.move(canvas["x"] + 250, canvas["y"] + 60)
        await page.mouse.down()
        await page.mouse.move(canvas["x"] + 400, canvas["y"] + 60)
        await page.mouse.up()
        await page.wait_for_url("**zoom=**")
        await page.get_by_role("button", name="The whole run").click()
        await page.get_by_role("button", name="The whole run").wait_for(state="detached")
        await visit.go(f"go/{run.id}")
        await page.wait_for_url(f"**/runs/{run.id}**")
        await visit.go(f"go/{run.task_runs['total']}")
        await page.wait_for_url(f"**/tasks/{run.tasks['total']}/-1**")
        await visit.go(f"flows/{older}")
        await visit.see("version 1")
        await visit.see("0 of the last 1 successful")


async def test_no_address_breaks_the_page(browser: Browser, url: str, recorded: Recorded) -> None:
    run = await failed_run(recorded)
    task, nobody = run.tasks["price"], "00000000-0000-4000-8000-000000000000"
    async with browser.visit() as visit:
        await visit.open(f"{url}/ui/")
        for address in (
            "nonsense/../..",
            "%E0%A4%A",
            "__proto__",
            "constructor",
            "runs?between=yesterday~tomorrow&state=odd,failed&from=1e400&label=%00",
            "runs?between=~",
            "runs?between=yesterday",
            "runs?text=%25%5C_%27%22",
            "runs/constructor",
            f"runs/{nobody}",
            f"runs/{nobody}/tasks/{nobody}/0",
            f"runs/{run.id}?tab=__proto__",
            f"runs/{run.id}?tab=tasks&state=constructor&message=%25",
            f"runs/{run.id}?tab=tasks&order=constructor",
            f"runs/{run.id}?tab=timeline&zoom=yesterday~tomorrow",
            f"runs/{run.id}?tab=timeline&zoom=2026-01-01~tomorrow",
            f"runs/{run.id}?tab=logs&level=LOUD&find=%5C",
            f"runs/{run.id}/tasks/{task}/seven",
            f"runs/{run.id}/tasks/{task}/9999?attempt=-3",
            f"runs/{run.id}/tasks/{task}/7?attempt=1e400",
            f"runs/{run.id}/tasks/{nobody}/0",
            f"flows/{nobody}",
            "flows/x?form=run&values=x",
            f"flows/{recorded.flow_id}?values={nobody}",
            "go/x",
            f"go/{nobody}",
            "search?q=%27%22%25%5C",
            "tail?state=odd",
        ):
            await visit.go(address)
            assert "undefined" not in await visit.text(), address
            assert await visit.page.locator("header .brand").count() == 1, address
            assert visit.problems == [], address
        await visit.page.goto(f"{url}/ui/runs?zone=Mars%2FOlympus")
        await visit.page.wait_for_selector("main h1")
        assert await visit.page.get_by_label("Time zone").input_value() == "Europe/Berlin"


async def test_graphiql_shows(browser: Browser, url: str) -> None:
    async with browser.visit() as visit:
        await visit.page.goto(f"{url}/graphql")
        await visit.page.wait_for_selector(".graphiql-container")


PRESSED = {"answer": "Answer…", "limit": "New limit…", "keys": "Keys"}
"""What opens the views that are dialogs."""


def addresses(run: Run, flow_id: str, nightly: str) -> dict[str, str]:
    child = f"runs/{run.id}/tasks/{run.tasks['price']}/7"
    return {
        "runs": "runs",
        "run": f"runs/{run.id}",
        "tasks": f"runs/{run.id}?tab=tasks",
        "timeline": f"runs/{run.id}?tab=timeline",
        "graph": f"runs/{run.id}?tab=graph",
        "logs": f"runs/{run.id}?tab=logs",
        "artifacts": f"runs/{run.id}?tab=artifacts",
        "parameters": f"runs/{run.id}?tab=parameters",
        "history": f"runs/{run.id}?tab=history",
        "child": child,
        "flows": "flows",
        "flow": f"flows/{nightly}",
        "form": f"flows/{flow_id}?form=run",
        "inbox": "inbox",
        "answer": "inbox",
        "workers": "workers",
        "limit": "workers",
        "keys": "workers",
        "search": "search?q=price",
        "tail": "tail",
    }


@pytest.mark.parametrize("width", [390, 1440])
async def test_each_view_can_be_read_by_everybody(browser: Browser, url: str, recorded: Recorded, width: int) -> None:
    run = await failed_run(recorded)
    await paused_run(recorded)
    prices, nightly = recorded.flow_id, await recorded.register("nightly", schedule={"clocks": CLOCKS}, parameters=[])
    await recorded.store.update_task_tag_limit(ANYONE, tag="db", limit=5)
    await recorded.store.update_task_rate_limit(ANYONE, tag="api", limit=10, period=60.0)
    await recorded.store.reserve_flow_runs(ANYONE, worker_id="etl-1", limit=0, labels=["gpu"])
    rule = {"kind": "slack", "target": "https://slack.test/services/T0", "events": ["Failed", "late"], "after": 600.0}
    await recorded.store.set_notification(ANYONE, name="failures", **rule)
    found: dict[str, Any] = {}
    views: dict[str, list[layouts.Part]] = {}
    colours: dict[str, Any] = {}
    async with browser.visit(width) as visit:
        page = visit.page
        await visit.open(f"{url}/ui/")
        await page.evaluate(axe_source())
        for view, address in addresses(run, prices, nightly).items():
            await visit.go(address)
            if view in PRESSED:
                await page.get_by_role("button", name=PRESSED[view]).click()
                await page.get_by_role("dialog").wait_for()
                await visit.settled()
            assert "[null]" not in await visit.text(), view
            if view == "workers":
                shown = await visit.text()
                assert re.search(r"failures\s+on Failed, late after 10 min.*\s+of any flow\s+slack: slack\.test", shown)
                assert "T0" not in shown
                assert re.search(r"etl-1\s+seen .*\s+0 runs, full", shown)
                assert re.search(r"tag\s+db\s+0 of 5\s", shown)
                assert re.search(r"rate\s+api\s+0 of 10 in 1 min", shown)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, view
            assert await visit.nodes() < 1_500, view
            views[view] = layouts.parts(await page.evaluate(layouts.LOOK))
            for theme in ("light", "dark"):
                await page.emulate_media(color_scheme=theme)
                await visit.settled()
                colours[theme] = await page.evaluate(layouts.COLOURS)
                if PICTURES:
                    await page.screenshot(path=str(PICTURES / f"{view}-{width}-{theme}.png"))
                # the themes differ in colours alone
                rules = ["color-contrast", "link-in-text-block"] if theme == "dark" else WCAG
                findings = await page.evaluate(AXE, rules)
                if findings:
                    found[f"{view} {theme}"] = findings
            if view in PRESSED:
                await page.keyboard.press("Escape")
                await page.get_by_role("dialog").wait_for(state="detached")
    assert found == {}
    if KEEP_LAYOUTS:
        layouts.keep(width, views, colours)
    kept = layouts.read(width)
    assert colours == kept["colours"]
    changed = {view: layouts.differences(kept["views"].get(view, []), parts, width) for view, parts in views.items()}
    assert {view: told for view, told in changed.items() if told} == {}, "Was that meant? Then keep it: make layouts"
