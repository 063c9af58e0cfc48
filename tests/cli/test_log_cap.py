"""The log stays small whatever repeats, and nothing that was left out goes uncounted."""

from __future__ import annotations

import logging
import random

from agent.cli.logs import ALL_BURST, MOST_KINDS, LogCap


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
    for _ in range(200_000):
        clock.now += 86_400 / 200_000
        shown += cap.filter(record(f"a text of its own {rng.random()}"))
    assert shown <= ALL_BURST + 43_200 and len(cap._kinds) <= MOST_KINDS
