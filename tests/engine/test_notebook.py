"""What a notebook shows, and the progress of a run in a terminal and in a pipe."""

from __future__ import annotations

import io
import struct
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flowloop.engine import Flow, FlowRunner, task
from flowloop.engine.errors import FlowloopError
from flowloop.engine.progress import shown_progress
from flowloop.engine.result import Result
from flowloop.engine.state import State, Success
from flowloop.engine.watch import Progress


@task(name="<script>")
def row(n: int) -> int:
    if n == 1:
        raise ValueError("<b>no</b>")
    return n


def flow_of(*numbers: int) -> tuple[Flow, Any]:
    with Flow("<i>shown</i>") as flow:
        rows = row.map(list(numbers))
    return flow, rows


class Balanced(HTMLParser):
    """Fails where an element is not closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)


async def test_what_a_notebook_shows_is_whole_and_escaped() -> None:
    flow, rows = flow_of(0, 1)
    state = await FlowRunner(flow).run()
    for shown in (flow, state, state[rows], state[rows, 1], state[rows, 0]._result, flow.visualize(state)):
        text = shown._repr_html_()
        assert not {"script", "i", "b"} & (Balanced(text).seen - {"b"}), text
        assert "<script>" not in text
    table = state._repr_html_()
    assert "1 Success, 1 Failed" in table
    assert Path(__file__).name in table  # of the traceback
    assert "background:#97ffff;color:#000" in table, "white on a bright Mapped cannot be read"
    assert "background:#28a745;color:#fff" in table
    assert "50%" in Progress(4, 2, {"Success": 2})._repr_html_()
    assert len(Result("x" * 10_000)._repr_html_()) < 1000


async def test_a_timeline_has_a_bar_for_each_run_in_the_order_they_began(tmp_path: Path) -> None:
    flow, _ = flow_of(0, 1, 2)
    state = await FlowRunner(flow).run()
    picture = ElementTree.fromstring(state.timeline(str(tmp_path / "run.svg")))
    assert (tmp_path / "run.svg").read_text() == state.timeline() == state.timeline().svg
    titles = [title.text or "" for title in picture.iter("{http://www.w3.org/2000/svg}title")][1:]
    assert [title.split(",")[0] for title in titles] == [
        "Constant[list]-1 Success",
        "<script>-1[0] Success",
        "<script>-1[1] Failed",
        "<script>-1[2] Success",
    ]
    moments = [text.text or "" for text in picture.iter("{http://www.w3.org/2000/svg}text") if text.get("y") == "14"]
    assert 3 <= len(moments) <= 7
    assert moments[0] == "0 s"
    assert f"{float(moments[1].removesuffix(' s')):e}".startswith(("1.000000e", "2.000000e", "5.000000e"))
    for nothing in (Success("done"), Success(result={})):
        with pytest.raises(FlowloopError, match="no timeline"):
            nothing.timeline()
    with pytest.raises(FlowloopError, match=r"as SVG or PNG: .* not 'run\.gif'"):
        state.timeline("run.gif")


async def test_a_picture_as_png_has_twice_its_size_and_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, _ = flow_of(0, 1)
    state = await FlowRunner(flow).run()
    drawn = state.timeline(str(tmp_path / "run.png"))
    written = (tmp_path / "run.png").read_bytes()
    assert written[:8] == b"\x89PNG\r\n\x1a\n"
    size = [float(ElementTree.fromstring(drawn).attrib[name]) for name in ("width", "height")]
    assert list(struct.unpack(">II", written[16:24])) == [2 * round(each) for each in size]
    assert flow.visualize(state).png.startswith(written[:8])
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(FlowloopError, match=r"pip install 'flowloop\[png\]'; SVG needs none"):
        state.timeline(str(tmp_path / "other.png"))
    assert not (tmp_path / "other.png").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "pipe"])
async def test_progress_is_a_bar_in_a_terminal_and_one_line_in_a_pipe(stream: io.StringIO) -> None:
    flow, _ = flow_of(0, 1)
    runner = FlowRunner(flow)
    async with shown_progress(runner.progress, stream):
        await runner.run()
    written = stream.getvalue()
    assert written.endswith("4 of 4 task runs, 1 Failed, 1 Mapped, 2 Success\n")
    assert ("[##############################]" in written) == stream.isatty()
    assert written.count("\n") == 1


async def test_a_run_shows_its_progress_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    flow, _ = flow_of(0)
    state: State = await flow.run(progress=True)
    assert state.is_successful()
    assert capsys.readouterr().err == "3 of 3 task runs, 1 Mapped, 2 Success\n"
