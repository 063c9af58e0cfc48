"""The clock kernel against the system's own clocks."""

from __future__ import annotations

import time

import ext.clock


def test_now_is_both_clocks_at_once() -> None:
    before = time.time_ns(), time.monotonic_ns()
    utc, mono = ext.clock.now()
    after = time.time_ns(), time.monotonic_ns()
    assert before[1] <= mono <= after[1]
    assert before[0] <= utc <= after[0] or after[0] < before[0], "unless the clock was stepped just now"


def test_the_state_of_the_clock_is_known_or_said_to_be_unknown() -> None:
    state = ext.clock.state()
    assert state.synced in (True, False, None)
    assert (state.error_us is None) == (state.synced is None)
    assert state.error_us is None or state.error_us >= 0
