"""Deadlines of requests: one timer for many lines, and none too early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from drivers.line.deadlines import STEP_S, Deadlines, deadlines_of


class Timers:
    """The timers of a loop on a made-up clock."""

    def __init__(self) -> None:
        self.now, self.made = 100.0, list[tuple[float, Callable[[int], None], int]]()

    def call_at(self, when: float, call: Callable[[int], None], end: int) -> None:
        self.made.append((when, call, end))

    def run_until(self, now: float) -> None:
        self.now = now
        due = [timer for timer in self.made if timer[0] <= now]
        self.made = [timer for timer in self.made if timer not in due]
        for _, call, end in due:
            call(end)


def test_a_thousand_lines_of_one_tick_need_one_timer() -> None:
    timers, passed = Timers(), list[int]()
    deadlines = Deadlines(timers)  # type: ignore[arg-type]
    checks = [lambda n=n: passed.append(n) for n in range(1000)]  # type: ignore[misc]
    for n, check in enumerate(checks):
        deadlines.add(101.0 + n * 1e-6, check)
        deadlines.add(101.001 + n * 1e-6, check)  # the second request of the visit
    assert len(timers.made) == 1
    timers.run_until(101.0)
    assert not passed, "none is called before its deadline"
    timers.run_until(101.001 + 1e-3 + STEP_S)
    assert sorted(passed) == list(range(1000)) and not timers.made
    deadlines.add(102.0, checks[0])  # after that, everything is as at the beginning
    assert len(timers.made) == 1


def test_no_deadline_is_early_or_more_than_a_step_late() -> None:
    timers, late = Timers(), list[float]()
    deadlines = Deadlines(timers)  # type: ignore[arg-type]
    for n in range(2000):
        at = 100 + n * 0.0007
        deadlines.add(at, lambda at=at: late.append(timers.now - at))  # type: ignore[misc]
    for when in sorted({timer[0] for timer in timers.made}):
        timers.run_until(when)
    assert len(late) == 2000 and min(late) >= 0 and max(late) <= STEP_S + 1e-9


async def test_each_loop_has_deadlines_of_its_own() -> None:
    loop = asyncio.get_running_loop()
    assert deadlines_of(loop) is deadlines_of(loop)
    done = loop.create_future()
    deadlines_of(loop).add(loop.time() + 0.001, lambda: done.set_result(None))
    await asyncio.wait_for(done, 10)
