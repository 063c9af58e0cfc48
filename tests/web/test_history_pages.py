"""Days, figures and where values come from: real answers of a store, and hostile ones."""

from __future__ import annotations

import asyncio
import html
import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from agent.cli.common import NoAgent, show_unit
from agent.cli.control import no_answer
from agent.cli.findings import Silence
from agent.cli.report.labels import duration, share
from agent.cli.report.labels import number as plain
from agent.config import PageConfig, WebConfig
from agent.service.control.protocol import Day
from agent.web.day_view import number, site_day, why_nothing
from agent.web.figures_view import figures
from agent.web.labels import fact_name
from agent.web.routes import make_app
from agent.web.site_data import ERROR_S, SiteData
from agent.web.source_view import pack_view, source
from tests.kits.ledger import STREAM
from tests.kits.metered_days import MINUTE, MeteredDays, packs
from tests.web.test_live_pages import MARKUP, is_harmless

HAN = re.compile("[\u4e00-\u9fff]")
TUESDAY = date(2026, 11, 24)


class Park:
    """A store whose questions are answered in a thread of its own, as an agent answers them."""

    def __init__(self, folder: Path) -> None:
        self._made: MeteredDays | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._pool = ThreadPoolExecutor(1)
        self._pool.submit(int).result()  # its thread lives as long as the park, not as long as a test
        self._loop.call_soon_threadsafe(self._loop.set_default_executor, self._pool)
        self.asked: list[str] = []
        self.now_s = 0.0  # of the page's clock
        self.hangs: Callable[[], dict[str, Any]] | None = None
        self.spoil: Callable[[Any], Any] = lambda document: document
        self._do(self._make(folder))

    async def _make(self, folder: Path) -> None:
        self._made = MeteredDays(folder)
        gaps = [(120, 190, "timeout", "*"), (190, 200, "exception", "ac.energy.import.l1")]
        start = self._made.calendar.midnight(TUESDAY)
        self._made.commit(packs(start, 36 * 60, gaps))
        self.noon_ms = start + 36 * 60 * MINUTE

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    def ask(self, _folder: Path, request: Any, take: Callable[[bytes], object], *_: Any) -> dict[str, Any]:
        import msgspec

        assert self._made is not None
        self.asked.append(type(request).__name__)
        if self.hangs is not None:
            return self.hangs()
        if hasattr(request, "now_ms"):
            request = msgspec.structs.replace(request, now_ms=self.noon_ms)
        done, document = self._do(self._made.ask(request))
        if document is not None:
            take(json.dumps(self.spoil(document)).encode())
        return done

    def close(self) -> None:
        async def end() -> None:
            assert self._made is not None
            self._made.close()

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._pool.shutdown()
        self._loop.close()


@pytest.fixture(scope="module")
def park(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Park]:
    park = Park(tmp_path_factory.mktemp("park") / "made")
    yield park
    park.close()


@pytest.fixture
def viewer(park, traces, tmp_path: Path) -> Iterator[TestClient]:
    park.asked.clear()
    park.spoil = lambda document: document
    traces.write(devices={"m1": {"line": "roof", "life": "alive"}})
    config = PageConfig(WebConfig(), "Asia/Shanghai", tmp_path / "run")
    park.now_s = 0.0
    app = make_app(config, SiteData(tmp_path / "run", park.ask, lambda: park.now_s))
    with TestClient(app, "http://127.0.0.1:8080", follow_redirects=False) as browser:
        yield browser


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))


def test_a_day_of_the_site(viewer) -> None:
    page = viewer.get("/day?date=2026-11-24").text
    assert "first start" not in page, "it began at midnight"
    assert "Grid, imported" in page and "1 440 kWh" in text_of(page) and page.count("<tr data-t=") == 96
    assert 'href="/day?date=2026-11-24&amp;device=m1"' in page and "Roof &lt;east&gt;" in page
    assert 'href="/day?date=2026-11-25"' in page, "the day after"
    assert 'data-g="timeout:900000:900000"' in page and "m1: no answer in time 15 min" in page, "what the role lacks"
    words = text_of(page)
    line = "devices with missing readings: m1 no answer in time 1.17 h; the device refuses 10 min"
    assert line in words, "under the curve"
    assert "no answer in time 1.17 h" in words and "the device refuses 10 min" in words
    assert "网购电量" in viewer.get("/day?date=2026-11-24&lang=zh").text


def test_a_day_of_a_device_has_gaps_by_reason_and_the_packs_of_each_value(viewer) -> None:
    page = viewer.get("/day?date=2026-11-24&device=m1").text
    rows = re.findall(r'<tr data-t="(\d+)" data-e="(\d+)"([^>]*)>(.*?)</tr>', page, re.DOTALL)
    counter = rows[:96]
    assert page.count("<figure") == 2, "the counter and the power, each once"
    assert text_of(counter[0][3]).split() == [
        "00:00–00:15",
        "15",
        "60",
        "100",
        "%",
        *text_of(counter[0][3]).split()[5:],
    ]
    silent = [row for row in rows if "timeout:900000:900000" in row[2]]
    assert silent and "no answer in time 15 min" in text_of(silent[0][3])
    assert 'data-g="exception:300000:0 timeout:600000:600000"' in page, "two reasons in one interval"
    assert "spread over time" in page and 'data-d="1"' in page
    assert re.search(r'<a href="/pack/m1/\d+">\d+</a>', counter[0][3])
    assert 'class="swatch r-timeout"' in page and "ac.energy.import.l1" in page


def test_one_of_many_devices_of_a_role_is_named_where_it_is_missing(tmp_path: Path) -> None:
    """A mean of four would show a quarter of a gap, of nobody."""
    site = MeteredDays(tmp_path)
    start = site.calendar.midnight(TUESDAY)
    hour = {"m1": [], "m2": [(60, 120, "timeout", "*")], "m3": [(90, 120, "crc", "*"), (200, 201, "crc", "*")],
            "m4": [(0, 1, "crc", "*")], "m5": [(0, 1, "crc", "*")]}  # fmt: skip
    for name, gaps in hour.items():
        stream = STREAM.replace("m1", name)
        site.builder.add_streams([stream])
        site.commit(packs(start, 24 * 60, gaps, stream=stream))
    (_, answer) = asyncio.run(site.ask(Day(now_ms=start + 40 * 60 * MINUTE, day="2026-11-24")))
    site.close()
    (grid,) = site_day(answer, "en", {}, {"m1": Silence(start / 1000, False)})["series"]
    gaps = {row.at: (row.gaps, row.missing) for row in grid.rows if row.gaps}
    assert gaps["01:00–01:15"] == ("timeout:900000:900000", "m2: no answer in time 15 min")
    assert gaps["01:30–01:45"] == ("timeout:900000:900000", "m2: no answer in time 15 min; and 1 more")
    assert gaps["03:15–03:30"] == ("crc:60000:60000", "m3: broken answers 1 min")
    assert set(gaps) == {"00:00–00:15", "01:00–01:15", "01:15–01:30", "01:30–01:45", "01:45–02:00", "03:15–03:30"}
    names = [(name, why) for name, _, why in grid.lacking]
    since = "no usable answer since the agent's start or reload at 2026-11-24 00:00:00"
    assert names == [("m1", since), ("m2", "no answer in time 1 h"),
                     ("m3", "broken answers 31 min")] and grid.more_lacking == 2  # fmt: skip
    zeros = [role | {"role": name, "total": 0.0} for role in answer["site"] for name in ("generation.pv", "grid")]
    park = site_day(answer | {"site": zeros}, "en", {}, {})
    assert len(park["series"]) == 2 and park["series"][0].rows, "a day of zeros is known"
    park = site_day(answer | {"site": [*answer["site"], *zeros]}, "en", {}, {})
    assert [one.total for one in park["series"]] == [grid.total], "beside others they are left out"
    older = site_day(answer | {"site": [{k: v for k, v in answer["site"][0].items() if k != "gaps"}]}, "en", {}, {})
    assert not any(row.gaps for row in older["series"][0].rows), "an agent of before an upgrade"


@pytest.mark.parametrize(("answered", "language", "words"), [
    (False, "en", "no usable answer since the agent's start or reload at 2026-11-25 10:30:00"),
    (False, "zh", "自采集程序 2026-11-25 10:30:00 启动或重载起无有效应答"),
    (True, "en", "no usable answer since 2026-11-25 10:30:00"),
    (True, "zh", "自 2026-11-25 10:30:00 起无有效应答"),
])  # fmt: skip
def test_a_device_that_does_not_answer_says_so_and_since_when(
    viewer, park, traces, monkeypatch, answered: bool, language: str, words: str
) -> None:
    """m1 has gaps without a reason yet, m2 has sealed nothing: on Days (under the curve, too), and in Figures."""
    monkeypatch.setattr("agent.web.live.FRESH_S", 0.0)
    since = park.noon_ms / 1000 - 5400
    silent = {"line": "roof", "life": "dead", "added": since, "last_answer": None}
    if answered:
        silent |= {"added": since - 86_400, "last_answer": since}
    traces.write(devices={"m1": silent, "m2": silent})
    for path, count in (("/day", 3), ("/day?device=m1", 1), ("/day?device=m2", 1), ("/figures?period=day", 1),
                        ("/figures?period=month", 1)):  # fmt: skip
        page = text_of(viewer.get(path, params={"lang": language} | dict(re.findall(r"(\w+)=(\w+)", path))).text)
        assert page.count(words) == count, path
    for path in ("/day?date=2026-11-24", "/figures?period=day&date=2026-11-24"):
        assert words not in viewer.get(f"{path}&lang={language}").text, "the day before"
    traces.write(devices={"m1": silent | {"life": "alive", "last_answer": park.noon_ms / 1000}})
    for path in ("/day", "/day?device=m1", "/figures?period=day"):
        assert words not in viewer.get(path).text, "it answered"
    assert viewer.get("/day?device=m2").status_code == 404


def test_what_a_silent_device_has_not_sealed_yet_is_missing_up_to_now(viewer, park, traces, monkeypatch) -> None:
    monkeypatch.setattr("agent.web.live.FRESH_S", 0.0)
    noon = park.noon_ms // 1000
    silent = {"line": "roof", "life": "dead", "added": noon - 86_400, "last_answer": noon - 2}
    traces.write(devices={"m1": silent}, time=noon + 40 * 60)
    wanted = [(noon, "timeout:900000:900000"), (noon + 900, "timeout:900000:900000"),
              (noon + 1800, "timeout:600000:600000")]  # fmt: skip
    for path, charts, words in (("/day", 1, "m1: no answer in time 10 min"), ("/day?device=m1", 2, "10 min")):
        page = viewer.get(path).text
        rows = re.findall(r'<tr data-t="(\d+)" data-e="\d+" data-g="([^"]+)">(.*?)</tr>', page)
        found = [(int(start), gaps) for start, gaps, _ in rows if int(start) >= noon]
        assert found == wanted * charts and words in text_of(rows[-1][2]), path
        if "device" in path:  # nobody knows yet what of the interval that goes on was read before it fell silent
            assert "0 %" in text_of(rows[-2][2]) and "0 %" not in text_of(rows[-1][2])
        assert 'class="swatch r-timeout"' in page
    assert "no answer in time 40 min" in text_of(viewer.get("/day?device=m1").text)
    recent = {"from": 1.0, "to": 2.0, "settled": True, "complete": 0.1, "missing": {"absent": 7, "timeout": 2}}
    recent["marked"] = {}
    traces.write(devices={"m1": silent | {"last_answer": noon + 600, "recent": recent}}, time=noon + 900)
    for path in ("/day", "/day?device=m1"):
        assert f'data-t="{noon}" data-e="{noon + 900}" data-g="absent:300000:300000"' in viewer.get(path).text, path
    traces.write(devices={"m1": silent | {"life": "alive"}}, time=noon + 900)
    assert f'data-t="{noon}"' not in viewer.get("/day").text


@pytest.mark.parametrize("ms", [900_000, 600_000])
def test_a_day_on_which_a_device_was_never_read_has_its_gaps(viewer, park, traces, monkeypatch, ms: int) -> None:
    monkeypatch.setattr("agent.web.live.FRESH_S", 0.0)
    noon = park.noon_ms // 1000

    def unread(document: Any) -> Any:
        for one in document.get("devices", ()):
            one |= {"points": [], "left_out": [], "gaps": [[noon - 900, "timeout", ms, ms]]}
        return document

    park.spoil = unread
    page = viewer.get("/day?device=m1").text
    assert page.count("<figure") == 1 and "Missing readings by reason" in page and "Nothing is known" not in page
    assert f'data-t="{noon - 900}" data-e="{noon}" data-g="timeout:{ms}:{ms}"' in page
    # of an interval that goes on nobody knows yet what was read before the device fell silent
    assert ("0 % of the time so far known" in page) == (ms == 900_000)


def test_the_first_day_says_that_there_was_no_gateway_before(viewer, park) -> None:
    def began_late(document: Any) -> Any:
        for one in document.get("devices", ()):
            one["gaps_from"] = document["from"] + 9 * 3600 + 900
        return document

    park.spoil = began_late
    site, zh, device = (
        viewer.get(f"/day?date=2026-11-24{more}").text for more in ("", "&lang=zh", "&device=m1&lang=en")
    )
    assert "No data before 09:15: this gateway was first started then." in site
    assert "09:15 之前：本网关尚未首次启动。" in zh
    assert "this gateway first read this device then" in device and "reasons of gaps were not recorded" not in device
    later = viewer.get("/day?device=m1").text
    assert "No data" not in later and "reasons of gaps were not recorded" in later, "an upgrade, on the second day"


@pytest.mark.parametrize("more", ["", "&device=m1&point=ac.power.active"], ids=["site", "device"])
def test_a_gateway_that_is_new_says_so_too(viewer, park, more: str) -> None:
    """Its reasons are recorded from the first interval on."""

    def began_late(document: Any) -> Any:
        devices = document.get("devices", ())
        for device in devices:
            device["gaps_from"] = 0
        for one in [*(document.get("site") or ()), *(p for device in devices for p in device.get("points", ()))]:
            one["rows"] = [row for row in one["rows"] if row[0] >= document["from"] + 10 * 3600]
        return document

    park.spoil = began_late
    assert "No data before 10:00: this gateway" in viewer.get(f"/day?date=2026-11-24{more}").text


def test_a_point_without_a_curve_is_said_to_have_none(viewer) -> None:
    page = text_of(viewer.get("/day?device=m1&point=ac.nope").text)
    assert "There is no curve of ac.nope for this day." in page and "Active energy imported" in page


def test_a_chosen_point_is_shown_alone(viewer) -> None:
    page = viewer.get("/day?date=2026-11-24&device=m1&point=ac.power.active").text
    assert page.count("<figure") == 1 and "highest" in page and page.count("<tr data-t=") >= 90
    assert viewer.get("/day?date=2026-11-24&device=m1&point=none").status_code == 200


@pytest.mark.parametrize("point", ["", "&point=battery.power"])
def test_a_power_without_a_counter_has_a_chart_for_each_direction(viewer, park, point: str) -> None:
    """It has two amounts. Before, the default page showed only the first, and the page of the point only the last."""

    def storage(document: Any) -> Any:
        for device in document.get("devices", ()):
            power = next(one for one in device["points"] if one["kind"] == "gauge")
            power |= {"n": "battery.power", "role": "storage", "u": "kWh"}
            both = [power | {"flow": "charge", "total": 31.5}, power | {"flow": "discharge", "total": 29.25}]
            device["points"] = [one for one in device["points"] if one is not power] + both
        return document

    park.spoil = storage
    page = viewer.get(f"/day?device=m1{point}")
    shown = text_of(page.text)
    for flow, total in (("charged", "31.5"), ("discharged", "29.25")):
        assert re.search(rf"battery\.power [^0-9]*\({flow}\) total {total} kWh", shown), shown
        assert f'">battery.power ({flow})</caption>' in page.text
    assert "battery.power</a>" not in page.text, "no link to what the page shows"
    assert page.text.count("<figure") == (2 if point else 3)


def test_closed_days_are_asked_once_and_today_seldom(viewer, park) -> None:
    for _ in range(20):
        assert viewer.get("/day?date=2026-11-24").status_code == 200
        assert viewer.get("/day").status_code == 200
        assert viewer.get("/figures").status_code == 200
    assert park.asked.count("Day") == 2 and park.asked.count("PeriodReport") == 1 and park.asked.count("Days") == 1
    park.now_s += 60
    assert viewer.get("/day?date=2026-11-24").status_code == viewer.get("/day").status_code == 200
    assert park.asked.count("Day") == 3, "a closed day never again"


def test_an_agent_that_hangs_leaves_the_days_that_were_seen_marked_as_old(viewer, park, monkeypatch) -> None:
    seen = ("/day?date=2026-11-24", "/day", "/figures?period=day&date=2026-11-24")
    for path in seen:
        assert "does not answer" not in viewer.get(path).text

    def silent(*_: object) -> dict[str, Any]:
        raise no_answer(Path("run"), "It hangs")

    monkeypatch.setattr(park, "hangs", silent)
    park.now_s += 100
    for path in seen:
        page = viewer.get(path)
        assert page.status_code == 200 and "The agent does not answer. Its last answer is shown" in page.text, path
        assert re.search(r"it may be old\. As of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, 100 s before", text_of(page.text)), (
            path
        )
    assert "采集程序没有应答" in viewer.get("/day?lang=zh").text
    for path in (
        "/day?date=2026-11-24&device=m1",
        "/figures?period=year&date=2026-11-24",
        "/device/m1/x",
        "/pack/m1/1",
    ):
        page = viewer.get(path, params={"lang": "en"} if "?" not in path else None)
        assert page.status_code == 503, path
    assert "does not answer" not in viewer.get("/").text, "this page asks nothing"
    monkeypatch.setattr(park, "hangs", None)
    park.now_s += ERROR_S
    for path in seen:
        assert "没有应答" not in viewer.get(path).text and viewer.get(path).status_code == 200


def test_after_a_stop_days_that_were_seen_say_how_old_they_are(viewer, park, traces, monkeypatch) -> None:
    monkeypatch.setattr("agent.web.live.FRESH_S", 0.0)
    seen = ("/day?date=2026-11-24", "/day", "/day?date=2026-11-25", "/figures?period=day")
    for path, is_open in zip(seen, (False, True, True, True), strict=True):
        assert bool(re.search(r"As of [\d-]+ [\d:]+, 0\.0 s before", viewer.get(path).text)) == is_open, path

    def gone(*_: object) -> dict[str, Any]:
        raise NoAgent(Path("run"))

    monkeypatch.setattr(park, "hangs", gone)
    (traces.folder / "snapshot.json").unlink()
    park.now_s += 300
    for path in seen:
        page = viewer.get(path)
        assert page.status_code == 200 and "The agent is not running." in page.text, path
        assert "5 min before" in page.text, path
    assert "载入前 5 分钟）" in viewer.get("/day?lang=zh").text


def test_a_device_silent_when_the_agent_stopped_keeps_its_gap(viewer, park, traces, monkeypatch) -> None:
    monkeypatch.setattr("agent.web.live.FRESH_S", 0.0)
    noon = park.noon_ms // 1000
    silent = {"line": "roof", "life": "dead", "added": noon - 86_400, "last_answer": noon}
    traces.write(devices={"m1": silent}, time=noon + 900)
    paths = ("/day", "/day?device=m1")
    band, words = f'data-t="{noon}" data-e="{noon + 900}" data-g="timeout:900000:900000"', "no usable answer since"
    for path in paths:
        assert band in (page := viewer.get(path).text) and words in page, path

    def gone(*_: object) -> dict[str, Any]:
        raise NoAgent(Path("run"))

    monkeypatch.setattr(park, "hangs", gone)
    (traces.folder / "snapshot.json").unlink()

    for path in paths:
        page = viewer.get(path).text
        assert "The agent is not running." in page and band in page and words in page, path


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_database_that_was_set_aside_is_named_where_its_data_is_missing(
    viewer, park, traces, monkeypatch, language: str
) -> None:
    monkeypatch.setattr("agent.web.live.FRESH_S", 0.0)
    file = "/var/lib/meterhouse/store.db.damaged-20261124T020304Z"
    at = datetime(2026, 11, 24, 2, 3, 4, tzinfo=UTC).timestamp()
    traces.write(store={"path": "/x", "damaged": {"file": file, "at": at}})
    for path in ("/day?date=2026-11-20", "/day?date=2026-11-24", "/figures?date=2026-11-20", "/figures?period=year",
                 "/pack/m1/99999"):  # fmt: skip
        page = viewer.get(f"{path}{'&' if '?' in path else '?'}lang={language}").text
        assert re.search(rf'<p class="finding bad">[^<]*2026-11-24 10:03:04.*{file}', page), path
        assert "No intervals are stored yet" not in page and "The first day with intervals" not in page

    page = viewer.get(f"/day?date=2026-11-25&lang={language}").text
    assert file not in page, "nothing of this day is in that file"
    traces.write(store={"path": "/x", "damaged": None})
    assert file not in viewer.get(f"/day?date=2026-11-20&lang={language}").text


def test_a_viewer_does_not_wait_for_ever_for_an_agent_that_is_working(viewer, park, monkeypatch) -> None:
    """It reports that it works, so the question goes on; its answer is there for who looks again."""
    monkeypatch.setattr("agent.web.routes.LONGEST_S", 0.1)
    go_on, ended = threading.Event(), threading.Event()

    def working() -> dict[str, Any]:
        assert go_on.wait(60)
        ended.set()
        raise no_answer(Path("run"), "It hangs")

    park.hangs = working
    try:
        page = viewer.get("/pack/m1/1")
        assert page.status_code == 503 and "does not answer" in page.text and not ended.is_set()
    finally:
        go_on.set()
        assert ended.wait(60)
        park.hangs = None


@pytest.mark.parametrize(
    ("paths", "kind"),
    [(("/device/inv1/ac.power.active",), "Birth"), (("/day", "/day?date=2026-11-25"), "Day"),
     (("/figures", "/figures?period=day&date=2026-11-25"), "PeriodReport")],
    ids=["source", "day", "figures"],
)  # fmt: skip
def test_many_viewers_of_a_question_wait_in_one_thread(tmp_path: Path, traces, paths: tuple[str, ...], kind) -> None:
    """Today is one question, whether or not the address names it."""
    go_on, asked = threading.Event(), []
    days = {"first": "2026-11-24", "last": "2026-11-24", "days": ["2026-11-24"], "today": "2026-11-25",
            "timezone": "Asia/Shanghai", "closed": False, "stamp": "s", "epoch": "e", "change": 0,
            "changed": []}  # fmt: skip

    def hanging(_folder: Path, request: object, *_: object) -> dict[str, Any]:
        if type(request).__name__ == "Days":
            return days
        asked.append(type(request).__name__)
        assert go_on.wait(60)
        raise no_answer(Path("run"), "It hangs")

    data = SiteData(tmp_path / "run", hanging)
    app = make_app(PageConfig(WebConfig(), "Asia/Shanghai", tmp_path / "run"), data)

    async def status(path: str) -> int:
        found = []

        async def send(message: Any) -> None:
            found.append(message)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        path, _, query = path.partition("?")
        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "root_path": "", "scheme": "http", "headers": [(b"host", b"127.0.0.1:8080")], "server": ("127.0.0.1", 8080),
        }  # fmt: skip
        await app(scope, receive, send)
        return int(found[0]["status"])

    async def look() -> list[int]:
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        begun: asyncio.Queue[Any] = asyncio.Queue()
        life = asyncio.create_task(app({"type": "lifespan", "state": {}}, events.get, begun.put))
        events.put_nowait({"type": "lifespan.startup"})
        assert (await begun.get())["type"] == "lifespan.startup.complete"
        viewers = [asyncio.create_task(status(path)) for _ in range(25) for path in paths]
        assert await status("/") == 200, "live pages do not wait for it"
        go_on.set()
        found = await asyncio.gather(*viewers)
        events.put_nowait({"type": "lifespan.shutdown"})
        await life
        return found

    assert asyncio.run(look()) == [503] * 25 * len(paths) and asked == [kind]


@pytest.mark.parametrize(
    "query", ["date=2026-02-30", "date=x", "date=9999-01-01", "device=none", "date=0001-01-01", "date=2026-11-24x"]
)
def test_days_that_are_none(viewer, query: str) -> None:
    page = viewer.get(f"/day?{query}")
    assert page.status_code == 404
    if query != "device=none":
        text = query.removeprefix("date=")
        assert f"{text} is not a date. Expected a day such as" in page.text
        figures_page = viewer.get(f"/figures?{query}&lang=zh")
        assert figures_page.status_code == 404 and f"{text} 不是日期" in figures_page.text


def test_a_day_without_data_says_why(viewer, park, monkeypatch) -> None:
    for path, why, warum in (
        ("/day?date=1990-01-01", "The first day with intervals is 2026-11-2", "最早有数据的一天是 2026-11-2"),
        ("/day?date=2190-01-01", "This day has not begun.", "该日尚未开始"),
        ("/figures?date=1990-01-01", "The first day with intervals is 2026-11-2", "最早有数据的一天是"),
    ):
        assert f"is known of this {'day' if 'day?' in path else 'period'}. {why}" in text_of(
            viewer.get(f"{path}&lang=en").text
        )
        assert warum in viewer.get(f"{path}&lang=zh").text
    assert why_nothing(date(2026, 11, 25), ["2026-11-24"], "2026-11-25", "en").startswith("Today's first interval")
    assert why_nothing(date(2026, 11, 25), [], "2026-11-25", "en").startswith("No intervals are stored yet")
    assert why_nothing(date(2026, 11, 24), ["2026-11-23"], "2026-11-25", "en") == ""


def test_nobody_makes_the_agent_add_up_what_cannot_be_there(viewer, park) -> None:
    for query in ("day?date=1990-01-01", "day?date=2190-01-01&device=m1"):
        page = viewer.get(f"/{query}")
        assert page.status_code == 200 and "Nothing is known of this day." in page.text
        assert "date=2026-11-2" in page.text, "the way to a day that is known"
    assert "该日无数据" in viewer.get("/day?date=1990-01-01&lang=zh").text
    assert viewer.get("/day?date=1990-01-01&device=none").status_code == 404
    for query in ("period=year&date=2025-06-01", "period=month&date=2026-10-31", "period=day&date=2026-11-23",
                  "period=month&date=2099-01-01"):  # fmt: skip
        assert viewer.get(f"/figures?{query}").status_code == 200
    assert set(park.asked) <= {"Days"}
    page = viewer.get("/figures?period=month&date=2026-11-01").text
    assert 'rel="prev"' not in page and 'rel="next"' not in page


@pytest.mark.parametrize(
    ("period", "day", "title", "way", "to"),
    [("day", "2026-11-23", "Figures of 2026-11-23", "next", "2026-11-24"),
     ("month", "2030-02-01", "Figures of 2030-02", "prev", "2026-11-25"),
     ("year", "2025-02-01", "Figures of 2025", "next", "2026-11-24")],
)  # fmt: skip
def test_a_period_without_data_is_said_to_be_unknown(viewer, period, day, title, way, to) -> None:
    """As in the report; a page that is not there is something else."""
    query, link = f"period={period}&date={day}", f'rel="{way}" href="/figures?period={period}&amp;date={to}"'
    page = viewer.get(f"/figures?{query}")
    assert page.status_code == 200 and "Nothing is known of this period." in page.text and title in page.text
    assert link in page.text and "no such page" not in page.text
    assert "该时段无数据。" in viewer.get(f"/figures?{query}&lang=zh").text


@pytest.mark.parametrize("period", ["day", "month", "year"])
def test_figures(viewer, period: str) -> None:
    page = viewer.get(f"/figures?period={period}&date=2026-11-24")
    assert page.status_code == 200 and "Electricity consumed" in page.text and "known" in page.text
    words = text_of(page.text)
    assert "Grid, imported metered" in words and re.search(r'href="/pack/m1/\d+"', page.text)
    assert "用电量" in viewer.get(f"/figures?period={period}&date=2026-11-24&lang=zh").text
    if period == "day":
        assert "Devices with missing readings" in words
    assert viewer.get("/figures?period=week").status_code == 404
    assert viewer.get("/figures?date=nonsense").status_code == 404


@pytest.mark.parametrize("period", ["day", "month", "year"])
def test_amounts_of_a_thousand_and_more_in_the_balance_are_whole_numbers(viewer, park, period: str) -> None:
    compared = {"own": "345152", "others": "344000", "residual": "1152", "allowed": "4000"}
    node = {"n": "gate\x1b/ac", "against": "children", "u": "kWh", "verdict": "within", **compared}
    flows = [{"n": "grid.import", "v": "2150791"}]
    balance = {
        "u": "kWh", "given": "2150791", "residual": "1152", "allowed": "40846", "verdict": "within", "trend": [],
        "counts": {"within": 1200}, "inputs": flows, "outputs": flows, "nodes": [node], "unknown": ["gate\x1b/ac"],
    }  # fmt: skip
    park.spoil = lambda page: page | {"balance": balance} if "sets" in page else page

    pages = [viewer.get(f"/figures?period={period}&date=2026-11-25&lang={lang}").text for lang in ("en", "zh")]

    for page in pages:
        assert "2\u2009150\u2009791 kWh" in page and "345\u2009152 kWh" in page
        assert page.count("\ufffd") == 2, "only the name of the meter has a character that nobody may see"
        assert "gate\ufffd/ac" in page


def test_a_share_says_of_what_it_is(viewer) -> None:
    """Today is known of the time so far; the known share is of time, the estimated one of the amount."""
    over, today = (text_of(viewer.get(f"/day{query}").text) for query in ("?date=2026-11-24", ""))
    assert "so far" not in over and re.search(r"[\d.]+ % of the time so far known", today)
    assert "missing data (of the device with the most)" in over, "the band under the curves of the site"
    assert "Active energy imported 1 440 kWh" in over, "which counter of the device"
    page = viewer.get("/figures?period=day&date=2026-11-24")
    assert re.search(r"[\d.]+ % of the time known", text_of(page.text))
    assert "of the time so far known" in text_of(viewer.get("/figures?period=day").text)
    assert "的时间完整率" in viewer.get("/figures?period=day&lang=zh").text


def test_the_trace_can_be_read_like_the_other_charts(viewer) -> None:
    page = viewer.get("/figures?period=day&date=2026-11-24").text
    (stacked,) = re.findall(r'<figure class="stacked"[^>]*>', page)
    assert 'data-unit="kWh"' in stacked and 'tabindex="0"' in stacked and "aria-hidden" not in stacked
    assert 'role="img"' in stacked and "arrow keys" in stacked and f'{stacked}</figure>\n<output class="reader"' in page


def test_a_period_that_is_to_come_is_not_known_until_it_begins() -> None:
    trace = {"consumption": "0", "incomplete": 0, "hours": [], "issued": []}
    page = {
        "timezone": "UTC", "sets": [], "figures": [], "trace": trace, "excluded": [],
        "period": {"label": "2030", "from": 1_893_456_000, "to": 1_924_992_000, "until": 1_893_456_000},
    }  # fmt: skip
    assert figures(page, "year", "en", {})["until"] == "this period begins at 2030-01-01 00:00"


def test_units_are_as_people_write_them() -> None:
    assert [show_unit(one) for one in ("m3", "m3/tCO2", "Nm3/h", "W/m2", "deg", "Cel", "kWh", "")] == [
        "m³", "m³/tCO₂", "Nm³/h", "W/m²", "°", "°C", "kWh", ""
    ]  # fmt: skip


def figure(known: str, verdict: str) -> dict[str, Any]:
    return {
        "completeness": known, "estimated": "0", "factors": [], "formula": {"hash": "x"}, "inputs": [], "id": "s/x",
        "official": False, "u": "%", "verdict": verdict, "title": {"en": "Share"}, "note": {}, "gate": "", "v": "91",
        "monitoring": False, "lacking": [], "trend": [], "drags": [], "threshold": {"at_least": "90"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("known", "verdict", "kind", "text"),
    [("1", "met", "good", "met"), ("0.9", "not met", "bad", "not met"),
     ("0.899", "met", "warn", "only 89.9 % of the period known"),
     ("0.007", "not met", "warn", "only 0.7 % of the period known"), ("1", "no threshold", "plain", ""),
     ("0", "no data", "plain", "no data")],
)  # fmt: skip
def test_no_verdict_stands_on_a_part_of_the_data(known: str, verdict: str, kind: str, text: str) -> None:
    trace = {"consumption": "0", "incomplete": 0, "hours": [], "issued": []}
    page = {
        "timezone": "UTC", "sets": [{"id": "s", "title": {"en": "Set"}, "source": ""}],
        "figures": [figure(known, verdict)],
        "trace": trace, "excluded": [], "period": {"label": "2026", "from": 0, "to": 86_400, "until": 86_400},
    }  # fmt: skip
    (group,) = figures(page, "day", "en", {})["groups"]
    card = group["cards"][0]
    assert card["kind"] == kind and text in card["verdict"]


def test_a_residual_that_no_park_has_gets_a_word() -> None:
    """An impossible residual tells of a wrong meter: a share of 2,428 % would tell nobody anything."""
    balance = {
        "u": "kWh", "given": "10", "trend": [], "counts": {"beyond": 1}, "verdict": "beyond", "residual": "242.8",
        "allowed": "0.1", "inputs": [], "outputs": [], "nodes": [],
    }  # fmt: skip
    trace = {"consumption": "0", "incomplete": 0, "hours": [], "issued": []}
    page = {
        "timezone": "UTC", "sets": [], "figures": [], "trace": trace, "excluded": [], "balance": balance,
        "period": {"label": "2026", "from": 0, "to": 86_400, "until": 86_400},
    }  # fmt: skip
    for language in ("en", "zh"):
        found = figures(page, "day", language, {})["balance"]
        assert found["odd"] and "%" not in found["text"]


def test_a_value_leads_to_register_profile_and_pack(viewer, traces) -> None:
    page = viewer.get("/device/m1/ac.energy.import").text
    words = text_of(page)
    assert "sequence 1" in words and re.search("hash [A-Za-z0-9_-]{43}", words) and 'href="/pack/m1/1"' in page
    assert viewer.get("/device/m1/none").status_code == 404
    pack = viewer.get("/pack/m1/5").text
    assert "Pack 5 of m1" in pack and "ac.energy.import" in pack and 'href="/pack/m1/4"' in pack
    gone = viewer.get("/pack/m1/900000")
    assert gone.status_code == 503 and "pack 900000 is not in the store" in gone.text
    assert viewer.get("/pack/m1/0").status_code == viewer.get("/pack/m1/x").status_code == 404
    assert viewer.get(f"/pack/m1/{1 << 60}").status_code == 404


def test_where_a_value_comes_from_has_names_in_both_languages() -> None:
    """All members of a birth table, as its schema lists them."""
    schema = json.loads((Path(__file__).parents[2] / "docs/pack.schema.json").read_text())["$defs"]

    def members(name: str, front: str = "") -> Iterator[str]:
        for key, one in schema[name]["properties"].items():
            yield front + key
            if (inner := one.get("properties")) is not None:
                yield from (f"{front}{key}.{more}" for more in inner)

    names = [*members("point"), *members("source", "source."), *members("device")]
    assert len(names) > 40
    for name in names:
        assert HAN.search(fact_name(name, "zh")) and not HAN.search(fact_name(name, "en")), name
        assert not re.search(r"[._]", fact_name(name, "en")), name
    table = {
        "points": [{"n": "x", "kind": "gauge", "period": 1, "ratio": "apply", "labels": {"0": "aus"},
                    "source": {"key": "0.1", "clock": "local"}}],
        "device": {"identity": {"hardware": "B", "unheard": "C"}, "roles": {"ac": "generation.pv"},
                   "ratio": {"ct": "1", "pt": "2"}, "new": {"member": 1}},
    }  # fmt: skip
    view = source({"pack": {"table": table, "seq": 1}, "hash": "h"}, "x", "zh")
    shown = dict([*view["register"], *view["device"]])
    assert shown["角色 ac"] == "光伏 (generation.pv)" and shown["数值含义 0"] == "aus"
    assert (
        shown["电流互感器变比"] == "1" and shown["设备时钟"] == "当地时间" and shown["互感器变比"] == "由采集程序折算"
    )
    assert shown["new.member"] == "1" and shown["身份信息 unheard"] == "C", "what we do not know keeps its name"


def test_hostile_answers_are_text(viewer, park) -> None:
    """The agent's user may be compromised: what it says is shown, never obeyed."""

    def marked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: marked(one) for key, one in value.items()}
        if isinstance(value, list):
            return [marked(one) for one in value]
        keep = isinstance(value, str) and re.fullmatch(
            r"[\d.-]*|20\d\d.*|Asia/Shanghai|[0-9a-f]{16}|day|metered|.*kWh.*", value
        )
        return MARKUP if isinstance(value, str) and not keep else value

    park.spoil = marked
    for path in (
        "/day?date=2026-11-24",
        "/day?date=2026-11-24&device=m1",
        "/device/m1/" + "x",
        "/pack/m1/3",
        "/figures",
    ):
        answer = viewer.get(path)
        assert answer.status_code in (200, 404, 503), path
        assert is_harmless(answer.text) and "<img" not in answer.text, path


def test_an_answer_of_the_wrong_form_is_a_sentence(viewer, park) -> None:
    for wrong in ([], {}, {"x": 1}, "x", None, 7):
        park.spoil = lambda _document, wrong=wrong: wrong
        park.now_s += 100  # what was kept for a minute is asked again
        for path in ("/day?date=2026-11-24", "/figures?date=2026-11-24", "/pack/m1/7"):
            answer = viewer.get(path)
            assert answer.status_code in (200, 503) and "internal error" not in answer.text, (path, wrong)


NAN = math.nan


@pytest.mark.parametrize(
    ("value", "shown"),
    [(99_999.4, "99\u2009999"), (99_999.5, "100\u2009000"), (99_999.96, "100\u2009000"), (-99_999.6, "-100\u2009000")],
)
def test_a_number_just_below_a_power_of_ten_is_rounded_like_its_neighbours(value: float, shown: str) -> None:
    """99,999.6 was shown with six digits and without a space."""
    assert number(value) == shown


def test_numbers_have_sensible_digits() -> None:
    shown = [
        number(v) for v in (None, 0, 1, 12.3456789, 1234.5, 123456.7, 1e9, -0.00012345, 1e-9, -0.0, 1e-7, math.nan)
    ]
    assert shown == [
        "–",
        "0",
        "1",
        "12.346",
        "1\u2009234.5",
        "123\u2009457",
        "1\u2009000\u2009000\u2009000",
        "-0.00012345",
        "0",
        "0",
        "0",
        "–",
    ]
    assert [share(v) for v in (0, 0.0001, 0.5, 0.9996, 1)] == ["0 %", "< 0.1 %", "50 %", "99.9 %", "100 %"]
    assert [share(v) for v in ("", "0.0001", "0.99999", "1.0")] == ["–", "< 0.1 %", "99.9 %", "100 %"]
    assert [plain(v) for v in ("-0.0", "1E-7", "123456789.123", "-1E+3")] == [
        "0", "0.0000001", "123\u2009456\u2009789", "-1\u2009000"
    ]  # fmt: skip
    assert [duration(ms, "en") for ms in (500, 12_000, 900_000, 9_000_000)] == ["500 ms", "12 s", "15 min", "2.5 h"]


def test_a_pack_shows_every_digit_that_was_signed() -> None:
    records = [
        {"n": "a", "bt": 1.8e9, "v": 12251.78, "u": "kWh"},
        {"n": "b", "v": 0.1 + 0.2, "x": "0.30000000000000004"},
    ]
    view = pack_view({"hash": "h", "pack": {"e": records}}, "UTC", "en")
    assert [row[2] for row in view["rows"]] == ["12251.78", "0.30000000000000004"]
