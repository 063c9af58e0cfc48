"""The readings of the last ten minutes: bounded, and nothing that is not a fault looks like one."""

from __future__ import annotations

from typing import Any

import pytest

from agent.service.recent_readings import BUCKETS, RecentReadings
from drivers.line.stats import LineStats
from drivers.model import Reason

S, MIN = 1000, 60_000
T0 = 1_795_500_000_000


def fed(seconds: int, tally: dict[int, int], start_s: int = 0, pack_s: int = 10, period_ms: int = S) -> RecentReadings:
    """Sealed every ten seconds, each pack with this tally."""
    found = RecentReadings(T0)
    for at in range(start_s, start_s + seconds, pack_s):
        found.add(T0 + at * S, T0 + (at + pack_s) * S, tally, period_ms)
    return found


def facts(found: RecentReadings, at_s: float, period_ms: int = S, silent: dict[int, int] | None = None) -> Any:
    return found.facts(T0 + int(at_s * S), period_ms, silent or {}, T0 + int(at_s * S) - 5 * S)


def test_ten_minutes_are_counted_and_older_ones_forgotten() -> None:
    found = fed(3600, {0: 9, Reason.TIMEOUT: 1})
    now = facts(found, 3600)
    assert 600 <= now["to"] - now["from"] <= 631 and now["to"] == (T0 + 3600 * S) / 1000
    assert now["complete"] == 0.9 and now["settled"] and now["missing"] == {"timeout": now["due"] // 10}
    assert len(found._buckets) <= BUCKETS + 1, "however long it runs"
    assert facts(found, 3600 + 595)["due"] < now["due"], "what is not sealed yet does not hold up time"


def test_one_missing_reading_of_very_many_is_not_rounded_away() -> None:
    """The snapshot has four decimals, and 1.0 means that nothing is missing."""
    found = RecentReadings(T0)
    found.add(T0, T0 + 600 * S, {0: 59_999, Reason.CRC: 1}, S)
    now = facts(found, 600)
    assert now["complete"] == 0.9999 and now["missing"] == {"crc": 1}


def test_the_first_minute_counts_only_until_something_later_is_known() -> None:
    """At a start all paces are due at once: a line that is busy for half its time is late with the first round."""
    found = fed(60, {0: 2, Reason.OVERLOAD: 8})
    early = facts(found, 60)
    assert early["complete"] == 0.2 and not early["settled"]
    for at in range(60, 90, 10):
        found.add(T0 + at * S, T0 + (at + 10) * S, {0: 10}, S)
    later = facts(found, 90)
    assert later["complete"] == 1.0 and later["settled"] and later["from"] == (T0 + 60 * S) / 1000


@pytest.mark.parametrize("period_ms", [S, 5 * S, 60 * S, 15 * MIN])
def test_one_lost_poll_is_never_less_than_nine_tenths_once_it_counts(period_ms: int) -> None:
    """# field pain 70: a device that is polled every 15 minutes, and one lost round"""
    found, lost = RecentReadings(T0), 40
    for n in range(1, 100):
        at = T0 + n * period_ms
        found.add(at - period_ms, at, {Reason.TIMEOUT if n == lost else 0: 1}, period_ms)
        now = found.facts(at, period_ms, {}, at)
        assert now is not None
        assert not now["settled"] or now["complete"] >= 0.9, n
        assert now["settled"] or n < 10 + 60 * S / period_ms + 2
    assert len(found._buckets) <= BUCKETS + 1


def test_since_when_a_device_has_had_no_value() -> None:
    """Each answer was FFFF, and ten good minutes before hid it for ten minutes more."""
    found = fed(600, {0: 10})
    assert facts(found, 600)["valueless_since"] is None
    for at in range(600, 720, 10):
        found.add(T0 + at * S, T0 + (at + 10) * S, {Reason.SENTINEL: 10} if at % 20 else {}, S)
    gone = facts(found, 720)
    assert T0 / 1000 + 600 <= gone["valueless_since"] <= T0 / 1000 + 640 and gone["complete"] > 0.85
    found.add(T0 + 720 * S, T0 + 730 * S, {0: 1, Reason.SENTINEL: 9}, S)
    assert facts(found, 730)["valueless_since"] is None


def test_excused_are_nights_lent_lines_and_the_time_without_an_agent() -> None:
    found = fed(600, {0: 4, Reason.ASLEEP: 2, Reason.LENT: 2, Reason.STOPPED: 1, Reason.CLOCK: 1})
    assert facts(found, 600)["complete"] == 1.0 and facts(found, 600)["due"] == 10 * 54
    assert facts(fed(600, {Reason.ASLEEP: 5}), 600)["complete"] is None


def test_marked_values_are_readings() -> None:
    now = facts(fed(600, {0: 5, 1: 3, 2: 2}), 600)
    assert (now["complete"], now["marked"]) == (1.0, {"suspect": 162, "range": 108})


def test_a_silent_stream_that_is_sealed_rarely_is_counted_meanwhile() -> None:
    found = fed(600, {0: 10})
    now = facts(found, 800, silent={Reason.ABSENT: 2000})
    assert 0.1 < now["complete"] < 0.9 and now["missing"] == {"absent": 2000} and now["to"] == (T0 + 800 * S) / 1000
    assert facts(found, 1400, silent={Reason.ABSENT: 6000})["complete"] == 0, "the good ones are too old by then"
    assert facts(RecentReadings(T0), 30, silent={Reason.ABSENT: 30})["complete"] == 0
    assert facts(RecentReadings(T0), 30) is None


def test_packs_that_are_longer_than_the_window() -> None:
    """``[pack] every = "15 min"``: the newest pack stays, however old."""
    found = fed(3600, {0: 900}, pack_s=900)
    now = facts(found, 3600 + 880)
    assert now["due"] == 900 and now["to"] - now["from"] == 900


@pytest.mark.parametrize("step_s", [-31_536_000, -3600, 3600, 31_536_000])
def test_a_clock_that_is_set_starts_the_count_anew_or_goes_on(step_s: int) -> None:
    found = fed(600, {0: 10})
    for at in range(600 + step_s, 4200 + step_s, 10):
        found.add(T0 + at * S, T0 + (at + 10) * S, {0: 8, Reason.CRC: 2}, S)
    now = facts(found, 4200 + step_s)
    assert now["complete"] == 0.8 and now["settled"] and now["due"] < 640
    assert len(found._buckets) <= BUCKETS + 1


# --- the load of a line


def test_the_load_is_that_of_the_last_ten_minutes() -> None:
    """It was that of the whole run: after a month nobody could see that a line had become too busy."""
    stats, ns = LineStats(since_ns=5 * 10**9), 10**9
    assert stats.busy_share(5 * ns) == 0
    for second in range(5, 3600):
        stats.busy_ns += ns // 10
        assert stats.busy_share(second * ns + ns) == pytest.approx(0.1)
    for second in range(3600, 4300):
        stats.busy_ns += ns
        share = stats.busy_share(second * ns + ns)
    assert share == pytest.approx(1.0) and len(stats._marks) <= 22
