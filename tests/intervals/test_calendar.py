"""Cutting local time: days of 23 and 25 hours, midnights that do not exist, lengths that do not divide a change."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.intervals.calendar import Calendar

ZONES = ["Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC",
         "America/Sao_Paulo", "Africa/Casablanca"]  # fmt: skip


def ms(text: str, zone: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24), ("2026-01-01", 24)]
)
def test_days_of_23_and_25_hours(day: str, hours: int) -> None:
    calendar = Calendar("Europe/Berlin", 900_000)
    bounds = calendar.bounds_of_day(date.fromisoformat(day))
    assert len(bounds) == 4 * hours + 1
    assert {b - a for a, b in pairwise(bounds)} == {900_000}
    assert bounds[0] == ms(f"{day}T00:00", "Europe/Berlin")


def test_a_day_in_china_is_96_intervals_that_begin_at_local_midnight() -> None:
    calendar = Calendar("Asia/Shanghai")
    assert list(calendar.bounds_of_day(date(2026, 11, 25)))[:2] == [1795536000000, 1795536900000]
    assert datetime.fromtimestamp(1795536000, UTC).hour == 16


def test_a_midnight_that_does_not_exist() -> None:
    """In 2018 the clocks of Sao Paulo went from 23:59:59 to 01:00:00."""
    calendar = Calendar("America/Sao_Paulo")
    day = date(2018, 11, 4)
    assert calendar.local(calendar.midnight(day)).isoformat() == "2018-11-04T01:00:00-02:00"
    assert len(calendar.bounds_of_day(day)) == 92 + 1


def test_offsets_before_and_after_the_last_change() -> None:
    berlin, spring = Calendar("Europe/Berlin"), ms("2026-03-29T01:00", "UTC")
    hour = 3_600_000
    for low, high in ((spring - 30 * hour, spring + 60 * hour), (spring - 1, spring), (spring - 9000 * hour, spring)):
        assert berlin.offsets_ms(low, high) == (hour, spring, 2 * hour)
    assert berlin.offsets_ms(spring, spring + 90 * hour) == (2 * hour, spring, 2 * hour)


def test_lengths_that_do_not_divide_the_change() -> None:
    """Boundaries stay where the wall clock says; one interval is shorter or longer."""
    spring = [b - a for a, b in pairwise(Calendar("Europe/Berlin", 6 * 3_600_000).bounds_of_day(date(2026, 3, 29)))]
    assert [d / 3_600_000 for d in spring] == [5, 6, 6, 6]
    autumn = [b - a for a, b in pairwise(Calendar("Europe/Berlin", 6 * 3_600_000).bounds_of_day(date(2026, 10, 25)))]
    assert [d / 3_600_000 for d in autumn] == [7, 6, 6, 6]
    half = [b - a for a, b in pairwise(Calendar("Australia/Lord_Howe", 3_600_000).bounds_of_day(date(2026, 4, 5)))]
    assert sum(half) == 24.5 * 3_600_000 and set(half) == {3_600_000, 5_400_000}


@given(st.sampled_from(ZONES), st.sampled_from([300_000, 900_000, 3_600_000, 86_400_000]), st.integers(0, 2 * 10**12))
def test_every_instant_lies_in_one_interval(zone: str, length: int, at: int) -> None:
    calendar = Calendar(zone, length)
    start, end = calendar.stretch("interval", at)
    assert start <= at < end
    assert calendar.stretch("interval", end - 1) == (start, end)
    assert calendar.stretch("interval", end)[0] == end
    wall = calendar.local(start)
    midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    since = wall.replace(tzinfo=None) - midnight.replace(tzinfo=None)
    first = start == calendar.midnight(wall.date())
    assert first or since % timedelta(milliseconds=length) == timedelta(0)


@given(st.sampled_from(ZONES), st.integers(10**12, 2 * 10**12), st.integers(0, 10 * 86_400_000))
def test_intervals_join_without_a_hole(zone: str, at: int, span: int) -> None:
    calendar = Calendar(zone)
    found = list(calendar.intervals(at, at + span))
    assert all(a[1] == b[0] for a, b in pairwise(found))
    if span:
        assert found[0][0] <= at < found[0][1]
        assert found[-1][0] < at + span <= found[-1][1]


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ("hour", "2026-10-25T14:00", "2026-10-25T15:00"),
        ("day", "2026-10-25T00:00", "2026-10-26T00:00"),
        ("month", "2026-10-01T00:00", "2026-11-01T00:00"),
        ("year", "2026-01-01T00:00", "2027-01-01T00:00"),
    ],
)
def test_calendar_stretches(period: str, start: str, end: str) -> None:
    calendar = Calendar("Europe/Berlin")
    at = ms("2026-10-25T14:17", "Europe/Berlin")
    assert calendar.stretch(period, at) == (ms(start, "Europe/Berlin"), ms(end, "Europe/Berlin"))


def test_months_follow_each_other() -> None:
    calendar = Calendar("Asia/Shanghai")
    start, end = ms("2026-01-15T00:00", "Asia/Shanghai"), ms("2027-01-15T00:00", "Asia/Shanghai")
    months = list(calendar.stretches("month", start, end))
    assert len(months) == 13 and all(a[1] == b[0] for a, b in pairwise(months))


def test_words_that_are_none() -> None:
    with pytest.raises(ValueError, match="divide a day"):
        Calendar("UTC", 7 * 60_000)
    with pytest.raises(ValueError, match="a period is"):
        Calendar("UTC").stretch("week", 0)
