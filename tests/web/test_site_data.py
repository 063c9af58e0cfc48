"""How rarely the page asks: a closed day once, today once a minute, however many look; and what makes it ask again."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.cli.common import NoAgent
from agent.cli.control import NoAnswer, ask_running, no_answer
from agent.config import load_config
from agent.intervals.calendar import Calendar
from agent.service.control.protocol import Request
from agent.store import Store
from agent.web import site_data
from agent.web.site_data import AT_ONCE, ERROR_S, LONG_S, OPEN_S, SiteData
from drivers.model import GatewayError, UsageError
from tests.kits.house import House, one_meter, until
from tests.kits.ledger import STREAM
from tests.kits.metered_days import MINUTE, MeteredDays, packs

TUESDAY, TODAY = date(2026, 11, 24), date(2026, 11, 25)


class Asked:
    """The agent behind ``SiteData``: answers from a store, counts questions, and has a clock."""

    def __init__(self, site: MeteredDays, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.now_s = site, 1000.0
        self.wall_ms = site.calendar.midnight(TODAY) + 12 * 60 * MINUTE
        self.requests: list[Request] = []
        self.unchanged = 0
        self.error: GatewayError | None = None
        self.epoch = ""
        monkeypatch.setattr(site_data, "_now_ms", lambda: self.wall_ms)
        self.data = SiteData(Path("/run/none"), self._ask, lambda: self.now_s)

    def _ask(self, runtime_dir: Path, request: Request, take: Callable[[bytes], object]) -> dict[str, Any]:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        import json

        done, document = asyncio.run(self.site.ask(request))
        self.unchanged += "unchanged" in done
        if self.epoch and "epoch" in done:
            done["epoch"] = self.epoch
        if self.epoch and document is not None:
            document["epoch"] = self.epoch
        if document is not None:
            take(json.dumps(document).encode())
        return done

    def kinds(self) -> list[str]:
        """The questions since the last call."""
        found, self.requests = [type(one).__name__ for one in self.requests], []
        return found


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    site = MeteredDays(tmp_path)
    site.commit(packs(site.calendar.midnight(TUESDAY), 36 * 60, [(120, 190, "timeout", "*")]))
    yield Asked(site, monkeypatch)
    site.close()


def test_a_closed_day_is_asked_once(asked: Asked) -> None:
    first = asked.data.day(TUESDAY)
    assert asked.kinds() == ["Days", "Day"] and first["closed"]
    for _ in range(50):
        asked.now_s += 3600
        assert asked.data.day(TUESDAY) == first
    assert asked.kinds() == ["Days"] * 50 and asked.unchanged == 50, "only whether something was corrected"
    first["devices"].clear()
    assert asked.data.day(TUESDAY)["devices"], "each gets its own"


def test_today_is_asked_once_a_minute_however_it_is_named(asked: Asked) -> None:
    page = asked.data.day()
    asked.kinds()
    for _ in range(20):
        assert asked.data.day()["stamp"] == asked.data.day(TODAY)["stamp"] == page["stamp"]
    assert asked.kinds() == ["Days"]
    asked.now_s += OPEN_S
    asked.data.day()
    assert asked.kinds() == ["Day"] and asked.unchanged == 1
    asked.site.commit(packs(asked.wall_ms, 40, seq=asked.site.store.packs.heads()[STREAM].seq))
    asked.now_s += OPEN_S - 1
    assert asked.data.day()["stamp"] == page["stamp"]
    asked.now_s += 1
    assert asked.data.day()["stamp"] != page["stamp"]


def test_an_open_month_is_asked_once_a_quarter_of_an_hour(asked: Asked) -> None:
    page = asked.data.report("month")
    asked.now_s += LONG_S - 1
    assert asked.data.report("month", TODAY)["stamp"] == page["stamp"]
    assert asked.kinds().count("PeriodReport") == 1
    asked.now_s += 1
    asked.data.report("month")
    assert asked.kinds().count("PeriodReport") == 1
    assert asked.data.report("day", TUESDAY)["closed"]
    asked.now_s += 10 * LONG_S
    asked.data.report("day", TUESDAY)
    assert asked.kinds().count("PeriodReport") == 1


def correct(asked: Asked, day: date) -> None:
    start = asked.site.calendar.midnight(day) + 5 * MINUTE
    insert = "INSERT INTO interval_changes (start_ms, end_ms) VALUES (?, ?)"
    asked.site.store.db.execute(insert, (start, start + 15 * MINUTE))


def test_a_corrected_day_is_asked_again_with_all_periods_that_it_lies_in(asked: Asked) -> None:
    monday = date(2026, 11, 23)
    data = asked.data
    data.day(TUESDAY), data.day(TUESDAY, "m1"), data.day(monday), data.report("day", TUESDAY), data.birth("m1", 1)
    data.report("month", date(2026, 10, 5)), data.report("year", date(2025, 5, 5)), data.report("month", TUESDAY)
    asked.kinds()
    correct(asked, TUESDAY)
    asked.now_s += OPEN_S
    data.day(monday), data.report("month", date(2026, 10, 5)), data.report("year", date(2025, 5, 5))
    data.birth("m1", 1)
    assert asked.kinds() == ["Days"], "those that it does not concern are kept"
    data.day(TUESDAY), data.day(TUESDAY, "m1"), data.report("day", TUESDAY), data.report("month", TUESDAY)
    assert asked.kinds() == ["Day", "Day", "PeriodReport", "PeriodReport"]


def test_another_configuration_drops_everything(asked: Asked) -> None:
    asked.data.day(TUESDAY)
    text = (asked.site.config.state_dir.parent / "agent.toml").read_text().replace("Roof <east>", "Roof")
    (asked.site.config.state_dir.parent / "agent.toml").write_text(text)
    asked.site.config = load_config(asked.site.config.state_dir.parent / "agent.toml")
    asked.kinds()
    asked.now_s += OPEN_S
    assert asked.data.day(TUESDAY)["devices"][0]["label"] == "Roof"
    assert asked.kinds() == ["Days", "Day"]


def test_days_that_were_seen_stay_while_no_agent_runs(asked: Asked) -> None:
    first, today = asked.data.day(TUESDAY), asked.data.day()
    asked.error = NoAgent(Path("/run/none"))
    asked.now_s += 3600
    assert asked.data.day(TUESDAY) == first and asked.data.day() == today, "as they were seen last"
    with pytest.raises(NoAgent):
        asked.data.day(TUESDAY, "m1")
    asked.error, asked.now_s = None, asked.now_s + ERROR_S
    assert asked.data.day()["day"] == "2026-11-25"


@pytest.mark.parametrize("error", [NoAgent(Path("/run/none")), GatewayError("permission denied", where="run")])
def test_days_that_were_seen_stay_after_a_restart_that_is_followed_by_a_stop(asked: Asked, error: GatewayError) -> None:
    """A restart makes another epoch: what was kept is asked again, and shown until there is an answer."""
    first, today = asked.data.day(TUESDAY), asked.data.day()
    asked.epoch, asked.now_s = "of another start", asked.now_s + OPEN_S
    asked.data.days()
    asked.kinds()
    asked.error = error
    for _ in range(20):
        assert asked.data.day(TUESDAY) == first and asked.data.day() == today
        assert asked.data.age_s(today) == OPEN_S
    asked.error, asked.now_s = None, asked.now_s + ERROR_S
    asked.kinds()
    assert asked.data.age_s(asked.data.day(TUESDAY)) == asked.data.age_s(asked.data.day()) == 0
    assert asked.kinds() == ["Day", "Day"]


def test_a_day_that_was_seen_while_it_was_today_can_be_seen_later(asked: Asked) -> None:
    today, figures = asked.data.day(), asked.data.report("day")
    asked.error = NoAgent(Path("/run/none"))
    asked.data._today = "2026-11-26"
    assert asked.data.day(TODAY) == today and asked.data.report("day", TODAY) == figures
    asked.error, asked.wall_ms, asked.now_s = None, asked.wall_ms + 24 * 60 * MINUTE, asked.now_s + OPEN_S
    assert asked.data.day()["day"] == "2026-11-26"
    asked.error = NoAgent(Path("/run/none"))
    assert asked.data.day(TODAY) == today


def test_an_error_is_not_asked_for_again_at_once(asked: Asked) -> None:
    asked.error = GatewayError("the running agent does not answer", where="run")
    for _ in range(20):
        with pytest.raises(GatewayError, match="does not answer"):
            asked.data.day()
    assert asked.kinds() == ["Day"]
    asked.now_s += ERROR_S
    with pytest.raises(GatewayError):
        asked.data.day()
    assert asked.kinds() == ["Day"]
    asked.error = None
    with pytest.raises(UsageError, match="no device 'm9'"):
        asked.data.day(TUESDAY, "m9")
    assert asked.data.day(TUESDAY, "m1")["devices"][0]["device"] == "m1", "of one question only"


def test_an_agent_that_hangs_costs_one_question_and_what_was_seen_stays(asked: Asked) -> None:
    """The others of that time get what is kept, or the error, at once; later one question finds out if it is back."""
    first, today = asked.data.day(TUESDAY), asked.data.day()
    asked.kinds()
    asked.error = no_answer(Path("/run/none"), "It hangs")
    asked.now_s += OPEN_S
    for _ in range(20):
        assert asked.data.day(TUESDAY) == first and asked.data.day() == today and asked.data.day(TODAY) == today
        with pytest.raises(NoAnswer):
            asked.data.day(TUESDAY, "m1")
        with pytest.raises(NoAnswer):
            asked.data.report("month")
    assert asked.kinds() == ["Days"] and asked.data.silence is asked.error
    asked.now_s += ERROR_S
    for _ in range(20):
        assert asked.data.day() == today
    assert len(asked.kinds()) == 1
    asked.error, asked.now_s = None, asked.now_s + ERROR_S
    assert asked.data.day(TUESDAY) == first and asked.data.silence is None, "also a page that need not ask finds out"
    assert asked.data.day(TUESDAY, "m1")["devices"]


def test_one_question_at_a_time_goes_to_an_agent_that_did_not_answer(asked: Asked) -> None:
    asked.error = no_answer(Path("/run/none"), "It hangs")
    with pytest.raises(NoAnswer):
        asked.data.days()
    asked.now_s += ERROR_S
    began, go_on = threading.Event(), threading.Event()

    def hanging(*_: object) -> dict[str, Any]:
        began.set()
        assert go_on.wait(60)
        raise no_answer(Path("/run/none"), "It hangs")

    asked.data._ask = hanging

    def ask() -> None:
        with pytest.raises(NoAnswer):
            asked.data.birth("m1")

    thread = threading.Thread(target=ask)
    thread.start()
    assert began.wait(60)
    for device in ("m2", "m3"):
        with pytest.raises(NoAnswer):  # at once, while the first waits
            asked.data.birth(device)
    go_on.set()
    thread.join(60)
    assert not asked.data._trying


def test_a_socket_that_nobody_answers_at_is_an_agent_that_hangs(tmp_path: Path, monkeypatch) -> None:
    """As of an agent that was stopped with SIGSTOP: the kernel takes the connection, and nothing comes."""
    monkeypatch.setattr(site_data, "PATIENCE_S", 0.1)
    monkeypatch.chdir(tmp_path)  # the path of a socket has 107 bytes at most
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind("control")
        silent.listen(5)
        data = SiteData(tmp_path)
        with pytest.raises(NoAnswer, match="does not answer"):
            data.day(TUESDAY)
        assert data.silence is not None


def test_many_who_ask_at_once_get_one_answer(asked: Asked) -> None:
    """At most two ask, the others take what those got; that viewers of a page are one is the page's own work."""
    began, go_on = threading.Semaphore(0), threading.Event()
    page = asked.data.days()
    canned = {**page, "change": 0, "changed": []}

    def slow(runtime_dir: Path, request: Request, take: Callable[[bytes], object]) -> dict[str, Any]:
        began.release()
        assert go_on.wait(60)
        return canned

    asked.data._ask = slow
    asked.now_s += OPEN_S
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(asked.data.days())) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert began.acquire(timeout=60)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert len(found) == 20 and all(one == found[0] for one in found)
    asks = 1
    while began.acquire(blocking=False):
        asks += 1
    assert asks <= AT_ONCE


def test_what_is_kept_is_bounded(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_data, "MOST_BYTES", 30_000)
    for day in range(1, 25):
        asked.data.day(date(2026, 11, day), "m1")
    assert asked.data._size <= 30_000 and len(asked.data._kept) < 26
    assert asked.data._size == sum(len(one.data) for one in asked.data._kept.values())
    asked.kinds()
    assert asked.data.day(TUESDAY, "m1")["closed"] and asked.kinds() == [], "the newest is there"
    monkeypatch.setattr(site_data, "LARGEST_BYTES", 100)
    for _ in range(2):
        assert asked.data.pack("m1", 1)["pack"]["seq"] == 1
    assert asked.kinds() == ["Pack", "Pack"] and asked.data._size <= 30_000


BAD: dict[str, Callable[[dict[str, Any]], object]] = {
    "no stamp": lambda page: page.pop("stamp"),
    "a share above 1": lambda page: page["site"][0].update(known=2),
    "a short row": lambda page: page["site"][0]["rows"][0].pop(),
    "a time beyond calendars": lambda page: page.update(until=1e300),
    "a gap without time": lambda page: page["devices"][0]["missing"].update(crc=[1]),
    "no list": lambda page: page.update(devices={}),
}


@pytest.mark.parametrize("how", BAD)
def test_an_answer_of_another_form_is_an_error(asked: Asked, how: str) -> None:
    import json

    good = asked._ask

    def bad(runtime_dir: Path, request: Request, take: Callable[[bytes], object]) -> dict[str, Any]:
        parts: list[bytes] = []
        done = good(runtime_dir, request, parts.append)
        page = json.loads(b"".join(parts))
        BAD[how](page)
        take(json.dumps(page).encode())
        return done

    asked.data._ask = bad
    with pytest.raises(GatewayError, match="not a valid day"):
        asked.data.day()


def test_texts_of_a_hostile_device_hold_nothing_that_a_terminal_obeys(asked: Asked) -> None:
    answer = asked._ask

    def hostile(runtime_dir: Path, request: Request, take: Callable[[bytes], object]) -> dict[str, Any]:
        parts: list[bytes] = []
        done = answer(runtime_dir, request, parts.append)
        take(b"".join(parts).replace(b"Roof <east>", rb"\u001b[2J<script>"))
        return done

    asked.data._ask = hostile
    assert asked.data.day()["devices"][0]["label"] == "\ufffd[2J<script>"


@pytest.mark.process
def test_a_running_agent_and_its_birth(tmp_path: Path) -> None:
    """Over the real socket: what its packs say of a day, the days since, on which it was stopped, and a birth."""
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here: apt-get install mosquitto")
    with House(tmp_path) as house:
        _, listener, _, agent = one_meter(tmp_path, house)
        config = load_config(agent.config)
        calendar = Calendar(config.timezone)
        store = Store.open(config.store_path)
        first = calendar.day(time.time_ns() // 1_000_000) - timedelta(days=4)
        second, begin = first + timedelta(days=1), calendar.midnight(first)
        store.packs.commit(packs(begin, 26 * 60, [(120, 190, "timeout", "*")], stream=f"{config.base}/m1"))
        store.close()
        agent.start()
        until(lambda: len(listener.numbers("m1")) > 1, what=lambda: agent.said)
        data = SiteData(agent.runtime, ask_running)  # however busy this machine is
        until(lambda: answer_now(data, second)["closed"], what=lambda: agent.said)
        page = data.day(first, "m1")
        (m1,) = page["devices"]
        assert m1["configured"] and m1["profile"] == "test/tally" and m1["gaps_from"] == 0
        assert m1["missing"] == {"timeout": [70 * MINUTE] * 2}
        assert m1["points"][0]["total"] == 1440 and len(m1["points"][0]["rows"]) == 96
        (after,) = answer_now(data, second)["devices"]
        assert after["missing"]["stopped"] == [22 * 60 * MINUTE] * 2, "of the day after, from 02:00 on"
        assert data.report("day", first)["devices"][0]["missing"] == m1["missing"]
        assert str(second) in data.days()["days"]
        born = data.birth("m1")
        assert born["pack"]["table"]["device"]["profile"] == "test/tally"
        assert born["hash"] in {pack.get("birth") for pack in listener.packs("m1")}
        assert snippet(agent.runtime, first).splitlines()[0] == f"{first} ac.energy.import 1440 kWh"
        pack = next(pack for pack in listener.packs("m1") if "table" not in pack)
        assert data.pack("m1", pack["seq"])["pack"] == pack
        agent.kill()
        assert data.day(first, "m1") == page, "kept"
        with pytest.raises(NoAgent):
            data.day()


def snippet(runtime: Path, day: date) -> str:
    """What the program of docs/control.md prints of a day."""
    page = (Path(__file__).parents[2] / "docs" / "control.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for text, here in (("/run/meterhouse/control", "control"), ('day=""', f'day="{day}"')):
        assert code.count(text) == 1
        code = code.replace(text, here)
    # in that folder: the path of a socket has 107 bytes at most
    done = subprocess.run([sys.executable, "-c", code], cwd=runtime, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer_now(data: SiteData, day: date) -> Any:
    """A day as the agent knows it now, whatever was kept."""
    return SiteData(data._runtime_dir, ask_running).day(day, "m1")
