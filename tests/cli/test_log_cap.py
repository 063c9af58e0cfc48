"""The log stays small whatever repeats, and nothing that was left out goes uncounted."""

from __future__ import annotations

import logging
import random

import pytest

from agent.cli.logs import ALL_BURST, ALL_EVERY_S, MOST_KINDS, ONE_BURST, LogCap


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("meterhouse", logging.WARNING, "", 0, text, args, None)


def test_a_line_that_repeats_is_counted() -> None:
    """A device that comes and goes every ten seconds for a day costs 150 lines, and they add up."""
    clock = Time()
    cap = LogCap(clock)
    shown = []
    for n in range(8640):
        clock.now += 10
        line = record("%s: silent (%d)", "m1", n)
        if cap.filter(line):
            shown.append(line.getMessage())
    assert 140 <= len(shown) <= 160
    left_out = sum(int(text.split("(")[-1].split()[0]) for text in shown if "more of these" in text)
    assert len(shown) + left_out >= 8640 - 60
    assert cap.filter(record("%s: silent (%d)", "m2", 1)), "another device is another matter"


def test_whatever_comes_the_day_is_bounded() -> None:
    clock, rng = Time(), random.Random(1)
    cap = LogCap(clock)
    shown = 0
    for _ in range(20_000):
        clock.now += 8_640 / 20_000  # a tenth of a day
        shown += cap.filter(record(f"a text of its own {rng.random()}"))
    assert shown <= ALL_BURST + 4_320


@pytest.mark.parametrize(("others", "is_remembered"), [(MOST_KINDS - 1, True), (MOST_KINDS, False)])
def test_what_is_remembered_is_bounded(others: int, is_remembered: bool) -> None:
    """A kind that has had its lines has another as soon as so many other kinds have made the cap forget it."""
    clock = Time()
    cap = LogCap(clock)
    assert [cap.filter(record("again and again")) for _ in range(ONE_BURST + 1)] == [True] * ONE_BURST + [False]
    for n in range(others):
        cap.filter(record(f"another {n}"))
    clock.now += 3 * ALL_EVERY_S  # there is room for a line, though not yet for one more of that kind
    assert cap.filter(record("again and again")) is not is_remembered
