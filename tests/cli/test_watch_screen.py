"""The full screen of `watch` at 80x24: its pages, an agent that ends and starts, and the terminal it leaves behind."""

from __future__ import annotations

import ast
import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.cli.findings import find
from agent.cli.watch.app import WatchApp
from agent.cli.watch.live_view import LiveView
from agent.cli.watch.pages import Column, Page, Pages
from agent.cli.watch.row_list import RowList, cut, fitted
from agent.cli.watch.trends import Trends
from drivers.model import GatewayError, Reason
from ext.ring import Ring
from tests.cli.conftest import POINTS, Traces
from tests.kits.broker import DEADLINE_S, patience
from tests.kits.mutations import ESCAPES, EVERY, mutations

ROOT = Path(__file__).parents[2]


class Screen:
    """The app under test, and what it shows."""

    def __init__(self, app: WatchApp, pilot: Any) -> None:
        self.app, self.pilot = app, pilot

    @property
    def rows(self) -> list[str]:
        """The lines of the list, heading first."""
        rows = self.app.query_one(RowList)
        return [rows.render_line(y).text.rstrip() for y in range(rows.size.height)]

    def line(self, name: str) -> str:
        """Head, pages, detail or keys."""
        return str(self.app.query_one(f"#{name}").render())

    @property
    def text(self) -> str:
        return "\n".join([self.line("head"), self.line("pages"), *self.rows, self.line("detail"), self.line("keys")])

    async def until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S * patience()
        while not holds():
            assert time.monotonic() < deadline, self.text
            await self.pilot.pause(0.01)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)


@asynccontextmanager
async def screen(
    folder: Path, language: str = "en", size: tuple[int, int] = (80, 24), **more: Any
) -> AsyncIterator[Screen]:
    app = WatchApp(folder, language=language, every_s=0.1, **more)
    async with app.run_test(size=size) as pilot:
        yield Screen(app, pilot)


def park(traces: Traces, devices: int, points: int) -> None:
    """Devices in an order that is not that of their names or tables."""
    names = [f"inv{n}" for n in range(devices, 0, -1)]
    device = traces.facts["devices"]["inv1"]
    tables = {
        str(10 + n): {
            "stream": f"park7/gw01/inv{n}",
            "points": [
                {"n": f"ac.power.active.l{p}" if p < 4 else f"x.p{p}", "u": "W", "kind": "gauge"}
                for p in range(1, points + 1)
            ],
        }
        for n in range(1, devices + 1)
    }  # fmt: skip
    traces.write(devices={name: device | {"last_answer": time.time()} for name in names}, tables=tables)


async def test_devices_in_the_order_of_the_file_and_their_values(traces: Traces) -> None:
    park(traces, 30, 5)
    for n in range(1, 31):
        traces.values(10 + n, *((p, n * 100 + p, -1, 0) for p in range(5)))
    async with screen(traces.folder) as seen:
        await seen.until(lambda: "30 of 30 devices answer" in seen.line("head"))
        assert [row.split()[0] for row in seen.rows[1:4]] == ["inv30", "inv29", "inv28"]
        assert len(seen.text.splitlines()) == 24 and max(map(len, seen.text.splitlines())) <= 80
        await seen.press("end")
        assert seen.rows[-1].startswith("inv1 ") and "30/30" in seen.line("keys")
        await seen.press("pageup", "home", "down", "enter")
        assert "Values › inv29" in seen.line("pages")
        assert [row.split()[:3] for row in seen.rows[1:6]] == [
            ["ac.power.active.l1", "290.0", "W"], ["ac.power.active.l2", "290.1", "W"],
            ["ac.power.active.l3", "290.2", "W"], ["x.p4", "290.3", "W"], ["x.p5", "290.4", "W"],
        ]  # fmt: skip
        assert seen.line("detail").startswith("inv29/ac.power.active.l1  Active power")
        await seen.press("escape")
        assert seen.rows[0].startswith("device") and seen.rows[1].startswith("inv30")


async def test_a_full_runtime_directory_is_not_called_an_agent_that_hangs(
    traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status` advised to make room, and this screen to restart the agent."""
    full = shutil.disk_usage(traces.folder)._replace(free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: full)
    old = traces.facts | {"time": time.time() - 60}
    (traces.folder / "snapshot.json").write_text(json.dumps(old))
    async with screen(traces.folder, size=(120, 24)) as seen:
        await seen.press("5")
        await seen.until(lambda: "the runtime directory is full" in seen.text)
        assert "it hangs" not in seen.text


@pytest.mark.parametrize(
    ("number", "exponent", "shown"), [(123, 1, "1230"), (0, -7, "0.0000000"), (5, -8, "0.00000005")]
)
async def test_the_line_of_a_value_has_all_digits_and_no_exponent(
    traces: Traces, number: int, exponent: int, shown: str
) -> None:
    """A point with scale 10 showed 1.23E+3."""
    traces.values(2, (1, number, exponent, 0))
    async with screen(traces.folder) as seen:
        await seen.press("2", "slash", *"inv1 import", "enter")
        await seen.until(lambda: f"  {shown} kWh  counter" in seen.line("detail"))


async def test_search_narrows_with_each_letter_and_is_kept_for_its_page(traces: Traces) -> None:
    park(traces, 30, 5)
    traces.values(17, (0, 1, 0, 0))
    async with screen(traces.folder) as seen:
        await seen.until(lambda: "30 of 30" in seen.line("head"))
        await seen.press("2", "slash", *"inv7 l1")
        await seen.until(lambda: [row.split()[0] for row in seen.rows[1:] if row] == ["inv7"])
        await seen.press("enter")
        assert '1/1  "inv7 l1"' in seen.line("keys")
        await seen.press("1")
        assert "1/30" in seen.line("keys"), "another page has a search of its own"
        await seen.press("2", "escape")
        assert "1/150" in seen.line("keys")
        await seen.press("slash", *"no such point")
        await seen.until(lambda: seen.rows[1] == "nothing matches; Esc shows all")
        await seen.press("escape")
        assert "1/150" in seen.line("keys")


async def test_labels_are_shown_and_searched_as_the_technician_wrote_them(traces: Traces) -> None:
    park(traces, 3, 5)
    labels = {"inv1": "roof, east / 屋顶东", "inv2": "inv2", "gone": "x", "inv3": "hall\x1b[2J / 车间"}
    async with screen(traces.folder, labels=labels) as seen:
        await seen.until(lambda: "3 of 3" in seen.line("head"))
        shown = [row.split("alive")[0].strip() for row in seen.rows[1:4]]
        assert shown == ["inv3 hall\ufffd[2J", "inv2", "inv1 roof, east"]
        await seen.press("slash", *"屋顶东", "enter")
        assert [row.split()[0] for row in seen.rows[1:] if row] == ["inv1"], "in either language"
        await seen.press("escape", "slash", *"east", "enter")
        assert [row.split()[0] for row in seen.rows[1:] if row] == ["inv1"]
        await seen.press("2", "slash", *"hall l1", "enter")
        assert [row.split()[:2] for row in seen.rows[1:] if row] == [["inv3", "ac.power.active.l1"]]
    async with screen(traces.folder, "zh", labels=labels) as seen:
        await seen.press("slash", *"屋顶", "enter")
        await seen.until(lambda: [row.split()[:2] for row in seen.rows[1:] if row] == [["inv1", "屋顶东"]])


@pytest.mark.parametrize(
    ("zone", "title", "clock"),
    [("Asia/Shanghai", "(Asia/Shanghai)", "00:30:00.123"), ("", "(time of this machine)", "")],
)
async def test_frames_have_the_time_of_the_site(traces: Traces, zone: str, title: str, clock: str) -> None:
    from drivers.line.trace import FrameTrace

    trace = FrameTrace(traces.folder / "frames.roof", 50)
    trace.put(0, b"\1\3", 1_764_001_800_123_000_000)  # 2025-11-24 16:30 UTC
    trace.close()
    async with screen(traces.folder, timezone=zone) as seen:
        await seen.press("3")
        await seen.until(lambda: seen.rows[1].startswith("roof"))
        await seen.press("enter")
        await seen.until(lambda: seen.rows[0].endswith("-> 01 03"))
        assert title in seen.line("pages") and seen.rows[0].startswith(clock)


async def test_only_what_is_in_trouble(traces: Traces) -> None:
    park(traces, 30, 5)
    devices = traces.facts["devices"]
    devices["inv4"] = devices["inv4"] | {"life": "dead", "error": "no answer within 2 s\x1b[2J"}
    traces.write(devices=devices)
    traces.gap(14, Reason.TIMEOUT)
    async with screen(traces.folder) as seen:
        await seen.until(lambda: "29 of 30 devices answer" in seen.line("head"))
        await seen.press("t")
        assert [row.split()[:2] for row in seen.rows[1:] if row] == [["inv4", "silent"]]
        assert "no answer within 2 s" in seen.line("detail") and "\x1b" not in seen.text
        await seen.press("2")
        await seen.until(lambda: "1/5" in seen.line("keys"))
        assert all("timeout" in row for row in seen.rows[1:6])
        await seen.press("5", "t")
        await seen.until(lambda: seen.rows[0].startswith("error: device inv4 "))
        assert "  what to do: Check its power" in "\n".join(seen.rows)


async def test_chinese_names_take_two_columns_and_the_rows_stay_straight(traces: Traces) -> None:
    from rich.cells import cell_len

    park(traces, 3, 5)
    for n in (1, 2, 3):
        traces.values(10 + n, (0, 15, -1, 0), (1, 123456, -1, 0))
    traces.gap(11, Reason.CRC)
    async with screen(traces.folder, "zh") as seen:
        await seen.until(lambda: "3 台设备，3 台应答" in seen.line("head"))
        await seen.press("2")
        await seen.until(lambda: "L1相有功功率" in seen.rows[1])
        assert seen.rows[0].split() == ["设备", "测点", "数值", "单位", "趋势", "质量", "距今", "标识"]
        at = {cell_len(row[: row.index(" W ")]) for row in seen.rows[1:6] + seen.rows[11:13]}
        assert len(at) == 1, "the units stand below one another"
        assert "应答校验错误" in seen.rows[11]
        assert "瞬时量" in seen.line("detail") and "gauge" not in seen.line("detail")
        await seen.press("slash", *"有功 inv1")
        await seen.until(lambda: "1/3" in seen.text or len([row for row in seen.rows[1:] if row]) == 3)
        assert all("inv1" in row for row in seen.rows[1:4])


async def test_lines_and_destinations_with_their_load_errors_and_drain(
    traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.cli.watch.app.STALE_S", 1e9)
    now = time.time()
    line = traces.facts["lines"]["roof"] | {"sent": {"3": 100}, "answers": 90}
    uplink = {"connected": True, "subscriber": True, "refused": 0, "confirm": "qos1"}

    def write(at: float, timeouts: int, waiting: int) -> None:
        traces.write(
            lines={"roof": line | {"timeouts": timeouts, "busy_share": 0.4}},
            uplinks={"platform": uplink | {"waiting": waiting, "confirmed": 1000 - waiting}},
            time=at,
        )

    write(now - 40, 2, 600)
    async with screen(traces.folder) as seen:
        await seen.press("3")
        await seen.until(lambda: "40 %" in seen.rows[1])
        write(now - 20, 5, 300)
        await seen.until(lambda: seen.rows[1].split()[:9] == ["roof", "open", "40", "%", "▄▄", "100", "5", "3", "5"])
        assert seen.rows[1].endswith("5 timeouts")
        await seen.press("4")
        await seen.until(lambda: "300" in seen.rows[1])
        assert seen.rows[1].split()[:7] == ["platform", "connected", "yes", "300", "█▅", "20", "s"]
        write(now, 5, 900)
        await seen.until(lambda: "growing" in seen.rows[1])


async def test_an_agent_that_hangs_has_no_states_of_now(traces: Traces) -> None:
    """Its last ones say nothing of what its devices do."""
    recent = {"from": 1.0, "to": 2.0, "settled": True, "complete": 1.0, "missing": {}, "marked": {}}
    devices = {"inv1": {"line": "roof", "life": "alive", "last_answer": time.time(), "recent": recent}}
    traces.write(devices=devices, uplinks={"platform": {"connected": True, "waiting": 4}})
    async with screen(traces.folder) as seen:
        await seen.until(lambda: "100 %" in seen.rows[1])
        traces.write(time=time.time() - 3000)
        await seen.until(lambda: seen.rows[1].split()[:3] == ["inv1", "unknown", "-"])
        assert "no status from the agent" in seen.line("head")
        await seen.press("3")
        await seen.until(lambda: seen.rows[1].split()[:3] == ["roof", "unknown", "-"])
        await seen.press("4")
        await seen.until(lambda: seen.rows[1].split()[:4] == ["platform", "unknown", "?", "4"])


async def test_labels_are_read_again_after_a_reload(traces: Traces) -> None:
    labels = {"inv1": "old roof"}
    traces.write(config={"loaded": 1.0})
    async with screen(traces.folder, labels=dict(labels), read_labels=lambda: dict(labels)) as seen:
        await seen.until(lambda: "inv1 old roof" in seen.rows[1])
        labels["inv1"] = "new roof"
        traces.write(config={"loaded": 2.0})
        await seen.until(lambda: "inv1 new roof" in seen.rows[1])


async def test_who_confirms_is_told_in_chinese(traces: Traces) -> None:
    uplink = {"connected": True, "subscriber": True, "waiting": 0, "confirmed": 7, "confirm": "subscriber"}
    traces.write(uplinks={"platform": uplink})
    async with screen(traces.folder, "zh", size=(140, 30)) as seen:
        await seen.press("4")
        await seen.until(lambda: seen.rows[1].startswith("platform"))
        assert seen.rows[1].split()[-1] == "接收方"


async def test_it_waits_for_an_agent_and_says_so(traces: Traces) -> None:
    (traces.folder / "snapshot.json").unlink()
    async with screen(traces.folder) as seen:
        await seen.until(lambda: f"no agent is running in {traces.folder}"[:60] in seen.line("head"))
        await seen.press("2", "slash", "a", "escape", "down", "enter", "t", "t", "question_mark", "escape", "1")
        traces.write()
        await seen.until(lambda: seen.rows[1].startswith("inv1"))
        assert "2 of 2 devices answer" in seen.line("head")


async def test_the_agent_ends_and_another_one_starts(traces: Traces) -> None:
    traces.values(2, (0, 15, -1, 0))
    async with screen(traces.folder) as seen:
        await seen.press("2")
        await seen.until(lambda: "1.5  W" in seen.rows[1])
        snapshot = traces.folder / "snapshot.json"
        snapshot.unlink()
        await seen.until(lambda: "the agent has ended" in seen.line("head"))
        assert "1.5  W" in seen.rows[1], "what was seen stays"
        fresh = Ring.create(str(traces.folder / "ring.b"), 1 << 18, 8, 9, bytes(32))
        traces.write(ring="ring.b", boot="b" * 16)
        await seen.until(lambda: "2 of 2 devices answer" in seen.line("head") and "1.5" not in seen.rows[1])
        fresh.append_values(2, 1, time.time_ns(), 1, [(0, 42, 0, 0)])
        await seen.until(lambda: "42  W" in seen.rows[1])
        fresh.close()


async def test_an_agent_that_was_killed_leaves_its_files(traces: Traces) -> None:
    async with screen(traces.folder) as seen:
        await seen.until(lambda: "2 of 2 devices answer" in seen.line("head"))
        pid = traces.facts["pid"]
        traces.write(pid=2**22 + 1)
        await seen.until(lambda: "the agent has ended" in seen.line("head"))
        traces.write(pid=pid)
        await seen.until(lambda: "2 of 2 devices answer" in seen.line("head"))


async def test_a_reload_with_a_larger_ring_forgets_no_value_and_drops_removed_devices(traces: Traces) -> None:
    traces.text(2, 2, b"V1.7")
    traces.values(3, (0, 7, 0, 0))
    async with screen(traces.folder) as seen:
        await seen.press("2")
        await seen.until(lambda: "V1.7" in seen.text and len([row for row in seen.rows[1:] if row]) == 6)
        fresh = Ring.create(str(traces.folder / "ring.c"), 1 << 18, 8, 9, bytes(32))
        tables = traces.facts["tables"] | {
            "9": {"stream": "park7/gw01/new", "points": [{"n": n, "u": u, "kind": k} for n, u, k in POINTS]}
        }
        device = traces.facts["devices"]["inv1"]
        traces.write(ring="ring.c", devices={"new": device, "inv1": device}, tables=tables)
        fresh.append_values(9, 1, time.time_ns(), 1, [(0, 5, 0, 0)])
        await seen.until(lambda: "5  W" in seen.rows[1])
        shown = [row.split()[0] for row in seen.rows[1:] if row]
        assert shown == ["new"] * 3 + ["inv1"] * 3, "in the order of the new file, and inv2 is gone"
        assert "V1.7" in seen.text, "read once, long ago: not in the new ring"
        fresh.close()


async def test_frames_of_a_line_follow_the_wire(traces: Traces) -> None:
    from drivers.line.trace import FrameTrace

    async with screen(traces.folder) as seen:
        await seen.press("3")
        await seen.until(lambda: seen.rows[1].startswith("roof"))
        await seen.press("enter")
        assert "3 Lines › roof" in seen.line("pages") and "has no frames yet" in seen.rows[0]
        trace = FrameTrace(traces.folder / "frames.roof", 50)
        for n in range(30):
            trace.put(0, bytes([1, 3, n]), 1_764_033_000_123_000_000 + n * 1_000_000_000)
        await seen.until(lambda: seen.rows[-1].endswith("-> 01 03 1D"))
        trace.put(1, b"\x07", 1_764_033_100_000_000_000)
        await seen.until(lambda: seen.rows[-1].endswith("<- 07"))
        await seen.press("escape")
        assert seen.rows[0].startswith("line ")
        trace.close()


async def test_of_ten_thousand_points_only_the_rows_on_the_screen_are_made(traces: Traces) -> None:
    park(traces, 100, 100)
    async with screen(traces.folder) as seen:
        await seen.until(lambda: "100 of 100" in seen.line("head"))
        await seen.press("2", "end")
        assert "10000/10000" in seen.line("keys") and seen.rows[-1].split()[:2] == ["inv1", "x.p100"]
        rows = seen.app.query_one(RowList)
        made: list[int] = []
        page = rows.page
        rows.show("values  ", Page(page.columns, page.count, lambda at: made.append(at) or page.row(at)), "")
        assert len(made) <= 2 * 24


@pytest.mark.parametrize("size", [(1, 1), (5, 2), (20, 5), (40, 8), (300, 100)])
async def test_no_size_breaks_it(traces: Traces, size: tuple[int, int]) -> None:
    park(traces, 30, 5)
    traces.values(17, (0, 1, 0, 0))
    async with screen(traces.folder, "zh", size=size) as seen:
        await seen.until(lambda: seen.app.view is not None)
        for keys in ("2", "end", "3", "enter", "4", "5", "question_mark", "question_mark", "1", "down"):
            await seen.press(keys)
        await seen.pilot.resize_terminal(80, 24)
        await seen.until(lambda: len(seen.rows) == 20 and any(row.startswith("inv29") for row in seen.rows))


async def test_a_wrong_snapshot_is_told_on_the_screen(traces: Traces) -> None:
    async with screen(traces.folder) as seen:
        await seen.until(lambda: "2 of 2" in seen.line("head"))
        good = (traces.folder / "snapshot.json").read_text()
        (traces.folder / "snapshot.json").write_text("[]")
        await seen.until(lambda: "this is not a snapshot of an agent" in seen.line("head"))
        (traces.folder / "snapshot.json").write_text(good)
        await seen.until(lambda: "2 of 2" in seen.line("head"))


async def test_a_fault_of_ours_leaves_the_screen_with_one_error(
    traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = WatchApp(traces.folder, every_s=0.02)
    monkeypatch.setattr(app, "_head", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(DEADLINE_S * patience()):
            async with app.run_test(size=(80, 24)) as pilot:
                while app.fault is None:
                    await pilot.pause(0.01)
            raise app.fault


@EVERY
def test_each_wrong_member_of_a_snapshot_is_refused_or_harmless(traces: Traces, every: int) -> None:
    """An agent that was taken over writes it: no fault of ours, and nothing that a terminal would obey."""
    device = traces.facts["devices"]["inv1"]
    device |= {
        "profile": "a/b", "variant": "v", "error": ESCAPES, "swapped": None,
        "recent": {"from": 1.0, "to": 2.0, "settled": True, "due": 9, "readings": 8, "complete": 0.9,
                   "missing": {"crc": 1}, "marked": {"suspect": 2}},
    }  # fmt: skip
    traces.facts["lines"]["roof"] |= {"sent": {"3": 5}, "answers": 4, "timeouts": 1, "notes": ["n"], "lent": ESCAPES}
    traces.facts["uplinks"]["platform"] |= {
        "subscriber": False, "waiting": 3, "confirmed": 1, "refused": 2, "error": ESCAPES, "hint": "h", "confirm": "c",
        "backfilling": True, "url": "u",
    }  # fmt: skip
    traces.values(2, (0, 15, -1, 0))
    seen = 0
    for n, (what, wrong) in enumerate(mutations(traces.facts | {"time": time.time()}, every)):
        (traces.folder / "snapshot.json").write_text(json.dumps(wrong))
        try:
            view = LiveView(traces.folder, [], [], keeps_history=True)
        except GatewayError:
            continue
        try:
            view.catch_up()
            trends, pages, now = Trends(), Pages(("en", "zh")[n % 2]), time.time()
            trends.add(view.snapshot)
            made = [
                pages.devices(view, now), pages.values(view, time.time_ns()), pages.lines(view, trends),
                pages.destinations(view, trends), pages.findings(view, find(view.snapshot, now, True), now, 80),
            ]  # fmt: skip
            texts = [cell.text for page in made for at in range(page.count) for cell in page.row(at)]
            texts += [page.detail(at) for page in made for at in range(page.count)]
        finally:
            view.close()
        assert not set("\x1b\x07\x9b\u202e") & set("".join(texts)), what
        seen += 1
    assert seen > 50 // every


@pytest.mark.parametrize(("lang", "age"), [("en", "10 min"), ("zh", "10分钟")])
def test_ages_are_in_the_language_of_the_screen(traces: Traces, lang: str, age: str) -> None:
    traces.values(2, (0, 15, -1, 0))
    view, now = LiveView(traces.folder, [], [], keeps_history=True), time.time() + 600
    try:
        view.catch_up()
        pages = Pages(lang)
        devices, values = pages.devices(view, now), pages.values(view, int(now * 1e9))
        for page in (devices, values):
            texts = {cell.text for at in range(page.count) for cell in page.row(at)}
            assert age in texts, texts
    finally:
        view.close()


def test_nothing_but_the_screen_imports_textual() -> None:
    """It costs 30 MB, and the agent and small machines do without."""
    found = set()
    texts = {path: path.read_text() for path in [*ROOT.glob("agent/**/*.py"), *ROOT.glob("drivers/**/*.py")]}
    for path in [path for path, text in texts.items() if "textual" in text]:
        for node in ast.walk(ast.parse(texts[path])):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [one.name for one in getattr(node, "names", ()) if isinstance(node, ast.Import)]
            )
            if any(name.partition(".")[0] == "textual" for name in names):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == {"agent/cli/watch/app.py", "agent/cli/watch/row_list.py"}


# --- parts


def test_a_cut_text_halves_no_character() -> None:
    from rich.cells import cell_len

    assert [cut("有功功率", width) for width in (8, 7, 6, 5, 3, 2, 1)] == [
        "有功功率", "有功功…", "有功…", "有功…", "有…", "…", " ",
    ]  # fmt: skip
    assert all(cell_len(cut("A相有功功率 kW", width)) <= width for width in range(1, 20))


def test_what_is_dropped_first_and_cut_last() -> None:
    columns = [Column("a", shrinks=True), Column("b"), Column("c", drop=1), Column("d", drop=2)]
    assert fitted(columns, [20, 5, 5, 5], 80) == [20, 5, 5, 5]
    assert fitted(columns, [20, 5, 5, 5], 40) == [19, 5, 5, 5]
    assert fitted(columns, [20, 5, 5, 5], 30) == [16, 5, 5, 0]
    assert fitted(columns, [20, 5, 5, 5], 20) == [13, 5, 0, 0]
    assert fitted(columns, [20, 5, 5, 5], 5) == [6, 5, 0, 0]


def test_when_an_outbox_is_empty() -> None:
    def snapshot(at: float, waiting: int, boot: str = "a") -> dict[str, Any]:
        return {"time": at, "boot": boot, "uplinks": {"p": {"waiting": waiting}}, "lines": {"l": {"broken": waiting}}}

    trends = Trends()
    trends.add(snapshot(0, 1000))
    assert trends.drain_s("p") is None and trends.errors("l") == 0
    trends.add(snapshot(10, 900))
    assert trends.drain_s("p") == pytest.approx(90)
    trends.add(snapshot(100, 1800))
    trends.add(snapshot(110, 1900))
    assert trends.drain_s("p") == float("inf") and trends.errors("l") == 100, "of the last minute"
    trends.add(snapshot(120, 5, boot="b"))
    trends.add(snapshot(130, 5, boot="b"))
    assert trends.drain_s("p") is None and trends.errors("l") == 0 and trends.drain_s("q") is None


async def test_an_invalid_file_is_a_finding_until_the_agent_has_read_it(traces: Traces) -> None:
    traces.write(config={"complaints": [], "loaded": 0.5})
    async with screen(traces.folder, on_disk=["agent.toml:3: this line has a key without a value"]) as seen:
        await seen.press("5")
        await seen.until(lambda: "agent.toml:3" in seen.text)
        traces.write(config={"complaints": [], "loaded": 1.0})
        await seen.until(lambda: "agent.toml:3" not in seen.text)
