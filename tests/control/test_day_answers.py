"""A day by intervals over the control socket: each quarter by hand, what is missing and why, how long it is valid."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.cli.stopped_agent import StoppedAccess
from agent.config import load_config
from agent.intervals import page_format
from agent.intervals.gap_sums import GapRow
from agent.service.control import period as period_module
from agent.service.control.protocol import Birth, Day, Days, Pack, PeriodReport
from agent.store import NewGaps, Repair
from drivers.model import GatewayError, UsageError
from tests.kits import metered_days
from tests.kits.ledger import STREAM
from tests.kits.metered_days import MINUTE, MeteredDays, packs

QUARTER = 15 * MINUTE
TUESDAY = date(2026, 11, 24)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[MeteredDays]:
    """A day and a half; from 02:00 to 03:10 nothing answered, from 03:10 to 03:20 one point lacked."""
    made = MeteredDays(tmp_path)
    gaps = [(120, 190, "timeout", "*"), (190, 200, "exception", "ac.energy.import.l1")]
    made.commit(packs(made.calendar.midnight(TUESDAY), 36 * 60, gaps))
    yield made
    made.close()


def noon(site: MeteredDays) -> int:
    return site.calendar.midnight(date(2026, 11, 25)) + 12 * 60 * MINUTE


def ask(site: MeteredDays, request: Any) -> tuple[dict[str, Any], Any]:
    return asyncio.run(site.ask(request))


def day_of(site: MeteredDays, day: str = "2026-11-24", **more: Any) -> dict[str, Any]:
    return ask(site, Day(now_ms=noon(site), day=day, **more))[1]  # type: ignore[no-any-return]


def test_a_device_by_quarters(site: MeteredDays) -> None:
    page = day_of(site, streams=["m1"])
    assert page["closed"] and page["from"] + 86_400 == page["to"] == page["until"] and len(page["starts"]) == 96
    (m1,) = page["devices"]
    assert (m1["device"], m1["label"], m1["profile"], m1["configured"]) == ("m1", "Roof <east>", "test/tally", True)
    points = {one["n"]: one for one in m1["points"]}
    assert list(points) == ["ac.energy.import", "ac.power.active", "ac.energy.import.l1"], "the main one first"
    counter = points["ac.energy.import"]
    assert (counter["flow"], counter["role"], counter["u"], counter["mean_u"]) == ("import", "grid", "kWh", "kW")
    assert counter["total"] == 1440 and counter["known"] == 1
    start, end, energy, mean, low, high, known, flags, first, last = counter["rows"][0]
    assert (start, end) == (page["from"], page["from"] + 900)
    assert (energy, mean, low, high, known, flags) == (15, 60, None, None, 1, [])
    assert 1 < first < last, "the packs that hold its readings"
    spread = [row for row in counter["rows"] if "spread" in row[7]]
    silent = {page["from"] + second for second in range(2 * 3600, 3 * 3600 + 600, 900)}
    assert {row[0] for row in spread} >= silent, "the total of the silence is known, its place in time is not"
    assert points["ac.energy.import.l1"]["rows"][0][2] == 0.9
    gauge = points["ac.power.active"]
    assert gauge["u"] == "" and gauge["total"] is None and gauge["mean_u"] == "kW" and gauge["rows"][0][3:6] == [60] * 3
    assert m1["left_out"] == [] and [one["n"] for one in m1["energy"]] == ["ac.energy.import"]


def test_what_is_missing_and_why(site: MeteredDays) -> None:
    (m1,) = day_of(site, streams=["m1"])["devices"]
    begin = site.calendar.midnight(TUESDAY) // 1000
    full = [[begin + 7200 + n * 900, "timeout", QUARTER, QUARTER] for n in range(4)]
    rest = [
        [begin + 10_800, "exception", 5 * MINUTE, 0],
        [begin + 10_800, "timeout", 10 * MINUTE, 10 * MINUTE],
        [begin + 11_700, "exception", 5 * MINUTE, 0],
    ]
    assert m1["gaps"] == full + rest
    assert m1["missing"] == {"timeout": [70 * MINUTE, 70 * MINUTE], "exception": [10 * MINUTE, 0]}
    assert m1["gaps_from"] == 0, "from the first interval on"
    page = day_of(site)
    (same,) = page["devices"]
    assert page["gaps"] == [[start, reason, 1, ms, whole] for start, reason, ms, whole in m1["gaps"]]
    (grid,) = page["site"]
    both = [["exception", 5 * MINUTE, 0], ["timeout", 10 * MINUTE, 10 * MINUTE]]
    assert grid["gaps"][-2:] == [[begin + 10_800, "m1", 1, both], [begin + 11_700, "m1", 1, [rest[2][1:]]]]
    assert same["missing"] == m1["missing"] and "gaps" not in same and "points" not in same
    report = ask(site, PeriodReport(now_ms=noon(site), day="2026-11-24", period="month"))[1]
    (in_month,) = report["devices"]
    assert in_month == {"device": "m1", "label": "Roof <east>", "missing": m1["missing"], "gaps_from": 0}


def test_the_site_is_the_sum_of_its_devices(site: MeteredDays) -> None:
    page = day_of(site)
    (grid,) = page["site"]
    assert (grid["role"], grid["flow"], grid["u"], grid["mean_u"]) == ("grid", "import", "kWh", "kW")
    assert grid["total"] == 1440 and grid["known"] == 1 and len(grid["rows"]) == 96
    assert grid["rows"][0] == [page["from"], 15, 60, 1, 0, []]
    assert [row[4] for row in grid["rows"][8:12]] == [1] * 4, "all of it is estimated"
    (m1,) = page["devices"]
    assert [(one["n"], one["total"], one["known"]) for one in m1["energy"]] == [("ac.energy.import", 1440, 1)]


def test_a_missing_device_does_not_scale_the_power_of_its_role_up(tmp_path: Path) -> None:
    """Two thirds of a role are known: its mean power is what they counted, on the page as in the report."""
    site = MeteredDays(tmp_path)
    start = site.calendar.midnight(TUESDAY)
    site.commit(packs(start, 24 * 60))
    for name, gaps in (("m2", []), ("ghost", [(0, 24 * 60, "timeout", "*")])):
        stream = STREAM.replace("m1", name)
        site.builder.add_streams([stream])
        site.commit(packs(start, 24 * 60, gaps, stream=stream))
    page = day_of(site)
    (grid,) = page["site"]
    at, energy, mean, known, _, flags = grid["rows"][40]
    assert (energy, mean, flags) == (30, 120, ["incomplete"]), "60 kW each"
    assert known == 0.666666
    assert grid["gaps"][40] == [at, "ghost", 1, [["timeout", QUARTER, QUARTER]]] and len(grid["gaps"]) >= 95
    curve = ask(site, PeriodReport(now_ms=noon(site), day="2026-11-24", period="day"))[1]["curve"]
    assert [str(row[2]) for row in grid["rows"]] == curve["series"][0]["v"] and curve["slots"][40] == at
    single = day_of(site, streams=["m2"], points=["ac.energy.import"])["devices"][0]["points"][0]
    assert single["rows"][40][2:4] == [15, 60]
    site.close()


@pytest.mark.parametrize(("first", "mean"), [(14, None), (1, 0)], ids=["next to nothing is known", "most is known"])
def test_the_last_minute_before_a_quarter_is_no_zero(tmp_path: Path, first: int, mean: float | None) -> None:
    """A counter that had one minute to step says nothing about a quarter of an hour."""
    site = MeteredDays(tmp_path)
    midnight = site.calendar.midnight(TUESDAY)
    made = packs(midnight, 30, [(0, first, "timeout", "*")])
    for n, one in enumerate(made):
        body = json.loads(one.data)
        for reading in body.get("e", ()):
            if reading["n"] == "ac.energy.import" and reading["v"] <= 1016:
                reading["v"] = 1000
        made[n] = replace(one, data=json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    site.commit(made)
    row = day_of(site)["site"][0]["rows"][0]
    assert row[2] == mean and 0 < row[3] < 1 and row[5] == ["incomplete"]
    curve = ask(site, PeriodReport(now_ms=noon(site), day="2026-11-24", period="day"))[1]["curve"]
    assert curve["series"][0]["v"][0] == ("" if mean is None else "0")
    site.close()


def test_today_is_open_and_ends_where_it_is_known(site: MeteredDays) -> None:
    page = day_of(site, "", streams=["m1"])
    assert page["day"] == "2026-11-25" and not page["closed"]
    assert page["from"] < page["until"] <= noon(site) // 1000 < page["to"]
    rows = page["devices"][0]["points"][0]["rows"]
    assert rows[-1][1] == page["until"] and len(page["starts"]) == 96
    later = day_of(site, "2026-12-01", streams=["m1"])
    assert not later["closed"] and later["until"] == later["from"] and later["devices"][0]["points"] == []
    before = day_of(site, "2025-01-01")
    assert before["closed"] and before["site"] == before["devices"][0]["energy"] == []


@pytest.mark.parametrize(("day", "quarters"), [("2026-03-29", 92), ("2026-10-25", 100)])
def test_a_day_on_which_the_clock_is_changed(tmp_path: Path, day: str, quarters: int) -> None:
    site = MeteredDays(tmp_path, "Europe/Berlin")
    start = site.calendar.midnight(date.fromisoformat(day))
    site.commit(packs(start, quarters * 15 + 60, [(100, 160, "crc", "*")]))
    end = start + quarters * QUARTER
    page = ask(site, Day(now_ms=end + 60 * MINUTE, day=day, streams=["m1"]))[1]
    rows = page["devices"][0]["points"][0]["rows"]
    assert page["closed"] and len(page["starts"]) == len(rows) == quarters
    assert page["starts"] == [row[0] for row in rows] == list(range(start // 1000, end // 1000, 900))
    assert sum(row[2] for row in rows) == quarters * 15
    assert sum(gap[2] for gap in page["devices"][0]["gaps"]) == 60 * MINUTE
    site.close()


def test_days_that_exist(tmp_path: Path) -> None:
    site = MeteredDays(tmp_path)
    now = noon(site)
    assert ask(site, Days(now_ms=now))[0]["days"] == []
    first = packs(site.calendar.midnight(date(2026, 9, 30)), 30 * 60)
    site.commit(first)
    site.commit(packs(site.calendar.midnight(TUESDAY), 30 * 60, seq=len(first)))
    found = ask(site, Days(now_ms=now))[0]
    # where the clock jumped over two months, the days between have rows that say that nothing is known
    assert (found["first"], found["last"], found["today"]) == ("2026-09-30", "2026-11-25", "2026-11-25")
    assert found["days"] == sorted(set(found["days"])) and found["timezone"] == "Asia/Shanghai"
    site.store.db.execute("DELETE FROM interval_pages WHERE from_ms BETWEEN ? AND ?", (
        site.calendar.midnight(date(2026, 10, 5)), site.calendar.midnight(date(2026, 11, 20)) - 1,
    ))  # fmt: skip
    days = ask(site, Days(now_ms=now))[0]["days"]
    assert "2026-10-04" in days and "2026-11-20" in days and not [d for d in days if "2026-10-05" <= d < "2026-11-20"]
    site.close()


# --- how long an answer is valid


def test_nothing_is_added_up_for_a_client_that_has_it(site: MeteredDays, monkeypatch: pytest.MonkeyPatch) -> None:
    for request in (Day, PeriodReport):
        more = {"period": "month"} if request is PeriodReport else {}
        page = ask(site, request(now_ms=noon(site), day="2026-11-24", **more))[1]
        again = request(now_ms=noon(site) + MINUTE, day="2026-11-24", unless=page["stamp"], **more)
        with monkeypatch.context() as patch:
            patch.setattr(site.store.intervals, "interval_pages", None)
            if request is PeriodReport:
                patch.undo()  # it looks where the newest interval ends
            done, document = ask(site, again)
        assert done["unchanged"] and done["stamp"] == page["stamp"] and document is None
        site.commit(packs(noon(site), 40, seq=site.store.packs.heads()[STREAM].seq))
        done, document = ask(site, again)
        assert "unchanged" not in done and document["stamp"] != page["stamp"]
    days, _ = ask(site, Days(now_ms=noon(site)))
    assert ask(site, Days(now_ms=noon(site), unless=days["stamp"]))[0]["unchanged"]


def test_a_correction_names_its_day(site: MeteredDays) -> None:
    before = day_of(site)
    assert before["changed"] == []
    start = site.calendar.midnight(TUESDAY) + QUARTER
    other = site.calendar.midnight(date(2026, 11, 20))
    changes = [(start, start + QUARTER), (start + QUARTER, start + 2 * QUARTER), (other, other + QUARTER)]
    site.store.db.executemany("INSERT INTO interval_changes (start_ms, end_ms) VALUES (?, ?)", changes)
    after = day_of(site, "", after_change=before["change"])
    assert after["changed"] == ["2026-11-20", "2026-11-24"] and after["change"] == before["change"] + 3
    assert day_of(site, "", after_change=after["change"])["changed"] == []
    assert day_of(site, "", after_change=after["change"] + 1)["changed"] is None, "another database"
    site.store.db.execute("DELETE FROM interval_changes WHERE id <= ?", (before["change"] + 1,))
    assert day_of(site, "", after_change=before["change"])["changed"] is None, "one of them is not kept any more"


def test_after_many_corrections_all_days_are_asked_again(site: MeteredDays, monkeypatch: pytest.MonkeyPatch) -> None:
    change = day_of(site)["change"]
    monkeypatch.setattr(period_module, "MOST_CHANGES", 5)
    site.store.db.executemany("INSERT INTO interval_changes (start_ms, end_ms) VALUES (?, ?)", [(0, 1)] * 6)
    assert day_of(site, after_change=change)["changed"] is None


def test_a_day_is_open_while_something_of_it_may_come(site: MeteredDays) -> None:
    assert day_of(site)["closed"]
    with site.store.db.transaction():
        site.store.intervals._keep_repairs([Repair(STREAM, 1, site.calendar.midnight(TUESDAY) + 1)])
    assert not day_of(site)["closed"], "it is being compared with packs"
    with site.store.db.transaction():
        site.store.intervals._keep_repairs([Repair(STREAM, 1, site.calendar.midnight(TUESDAY))])
    assert day_of(site)["closed"], "only older days are"
    site.store.intervals.add([], {}, gaps=[NewGaps(STREAM, [GapRow(site.calendar.midnight(TUESDAY), "crc", 1, 1)])])
    site.store.db.execute("UPDATE interval_gaps SET ms = 7 WHERE reason = 'crc'")
    assert day_of(site, streams=["m1"])["devices"][0]["missing"].keys() == {"timeout", "exception"}
    assert not day_of(site)["closed"], "what is damaged is made again"


def test_a_device_whose_intervals_are_late_keeps_the_day_open(tmp_path: Path) -> None:
    site = MeteredDays(tmp_path)
    site.commit(packs(site.calendar.midnight(TUESDAY), 23 * 60))
    assert not day_of(site)["closed"]
    site.close()


def test_a_report_knows_the_roles_of_devices_that_have_sealed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = '[[device]]\nname = "m2"\nline = "roof"\naddress = "2"\nprofile = "test/tally"\n'
    monkeypatch.setattr(metered_days, "CONFIG", metered_days.CONFIG + second + 'roles = {{ ac = "generation.pv" }}\n')
    site = MeteredDays(tmp_path)
    site.commit(packs(site.calendar.midnight(TUESDAY), 24 * 60))
    figures = ask(site, PeriodReport(now_ms=noon(site), day="2026-11-24", period="day"))[1]["figures"]
    (generation,) = [one for one in figures if one["id"] == "plain/generation"]
    assert generation["missing"] == ["generation.*.energy"] and not {"v", "unmetered"} & generation.keys()
    site.close()


# --- bounds


def test_what_is_not_there_is_said(site: MeteredDays) -> None:
    with pytest.raises(UsageError, match="no device 'm9'"):
        day_of(site, streams=["m9"])
    with pytest.raises(UsageError, match="invalid date"):
        day_of(site, "yesterday")
    with pytest.raises(UsageError, match="no report for 1800"):
        day_of(site, "1800-01-01")
    with pytest.raises(UsageError, match="no device"):
        ask(site, Birth(stream="m9"))


def test_a_device_with_many_points_comes_with_its_main_ones(site: MeteredDays, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.service.control import pages as day_module

    monkeypatch.setattr(day_module, "MOST_POINTS", 1)
    (m1,) = day_of(site, streams=["m1"])["devices"]
    assert [one["n"] for one in m1["points"]] == ["ac.energy.import"]
    assert m1["left_out"] == ["ac.power.active", "ac.energy.import.l1"]
    (m1,) = day_of(site, streams=["m1"], points=["ac.power.active"])["devices"]
    assert [one["n"] for one in m1["points"]] == ["ac.power.active"]
    assert m1["left_out"] == ["ac.energy.import", "ac.energy.import.l1"]


@pytest.mark.parametrize(
    "request_",
    [
        Day(now_ms=0, day="2026-11-24"),
        Day(now_ms=0, day="2026-11-24", streams=["m1"]),
        PeriodReport(now_ms=0, day="2026-11-24", period="day"),
    ],
    ids=["site", "device", "report"],
)
def test_nothing_is_added_up_in_the_database_thread(
    site: MeteredDays, request_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealing waits while that thread works for a question: it only fetches."""
    inside, decoded = False, 0
    call, decode = StoppedAccess.call, page_format.DecodedPage.__init__

    async def watched(access: StoppedAccess, function: Any) -> Any:
        nonlocal inside
        inside = True
        try:
            return await call(access, function)
        finally:
            inside = False

    def outside(page: Any, stored: Any) -> None:
        nonlocal decoded
        assert not inside
        decoded += 1
        decode(page, stored)

    monkeypatch.setattr(StoppedAccess, "call", watched)
    monkeypatch.setattr(page_format.DecodedPage, "__init__", outside)
    assert ask(site, msgspec.structs.replace(request_, now_ms=noon(site)))[1]["closed"]
    assert decoded


# --- births


def test_a_birth_byte_for_byte(site: MeteredDays) -> None:
    head = site.store.packs.heads()[STREAM].seq
    site.commit(packs(noon(site), 20, seq=head))
    done, first = ask(site, Birth(stream="m1", seq=5))
    assert first["seq"] == 1 and first["table"]["points"][0]["n"] == "ac.energy.import" and len(done["hash"]) == 43
    assert ask(site, Birth(stream="m1", seq=head + 1))[1]["seq"] == head + 1, "a birth is in effect at itself"
    assert ask(site, Birth(stream="m1"))[1]["seq"] == head + 1
    done, pack = ask(site, Pack(stream="m1", seq=7))
    assert pack["seq"] == 7 and pack["e"] and len(done["hash"]) == 43
    assert ask(site, Pack(stream="m1", seq=head + 1))[1]["table"], "a birth is a pack"
    with pytest.raises(GatewayError, match="not sealed yet"):
        ask(site, Pack(stream="m1", seq=10**6))
    site.store.db.execute("DELETE FROM packs WHERE seq = 1")
    with pytest.raises(GatewayError, match="the store has no birth pack with this time"):
        ask(site, Birth(stream="m1", seq=5))


@pytest.mark.parametrize("first_minute", [None, 0, -15], ids=["nothing", "after the newest interval", "in it"])
def test_a_report_counts_no_device_as_nothing_that_was_added_a_moment_ago(
    site: MeteredDays, tmp_path: Path, first_minute: int | None
) -> None:
    """Its role is missing until it has sealed something, not 0; a day that was over before it came stays as it is."""
    with (tmp_path / "agent.toml").open("a") as file:
        file.write('[[device]]\nname = "m2"\nline = "roof"\naddress = "2"\nprofile = "test/tally"\n')
        file.write('roles = { "ac" = "generation.pv" }\n[indicators]\nplan = "plan.toml"\n')
    (tmp_path / "plan.toml").write_text('schema = 1\nsets = ["plain"]\n')
    site.config = load_config(tmp_path / "agent.toml")
    if first_minute is not None:
        sun = json.loads(json.dumps(metered_days.DOCUMENT).replace("energy.import", "energy.generation"))
        sun["device"]["roles"] = {"ac": "generation.pv"}
        stream = STREAM.replace("m1", "m2")
        site.store.packs.commit(packs(noon(site) + first_minute * MINUTE, 0, stream=stream, table=sun))

    def consumption(day: str) -> dict[str, Any]:
        report = ask(site, PeriodReport(now_ms=noon(site), day=day, period="day"))[1]
        return next(one for one in report["figures"] if one["id"] == "plain/consumption")

    assert consumption("2026-11-24")["v"] == "1440"
    today = consumption("2026-11-25")
    assert "v" not in today and today["missing"] == ["generation.*.energy"] and today["completeness"] == "0"
