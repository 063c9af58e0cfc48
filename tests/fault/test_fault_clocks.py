"""The wall clock steps, the process is stopped, the cores are busy: times stay true, and nothing is hidden."""

from __future__ import annotations

import pytest

from tests.kits.faketime import LIBRARIES
from tests.kits.faults.rows import BUSY, Row


@pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (apt: faketime)")
@pytest.mark.plays("clock_steps")
def test_the_clock_steps_by_a_year(row: Row) -> None:
    """Forward and back: a pack ends at each step and the event covers the seam; nothing is read twice or lost."""
    # field pain 62 and 63: the grid realigns at once, and no reading's time is touched afterwards
    assert row["code"] == 0 and row["steps"] and not row["steps_unsaid"]
    assert row["longest_pack_s"] < 1800, "no pack spans a step, of an hour at least"
    assert set(row["gaps"]) <= BUSY | {"clock"}
    assert row["most_log_lines"] < 30, "a year of ticks is not a year of log lines"


@pytest.mark.plays("pauses_of_the_process")
def test_a_process_that_was_stopped_for_a_while(row: Row) -> None:
    """The ticks that passed are gap ``overload``, no reading carries a time at which nobody read."""
    # field pain 62: no burst of late polls, no ticks made up afterwards
    assert row["code"] == 0
    assert set(row["gaps"]) <= BUSY and row["overloads"] >= 1


@pytest.mark.plays("busy_cores")
def test_busy_cores_drop_nothing_silently(row: Row) -> None:
    """What others keep us from reading is stated; most of it is read all the same."""
    assert row["code"] == 0
    assert set(row["gaps"]) <= BUSY
