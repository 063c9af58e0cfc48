"""Short and odd series of a counter: what each step was, and not one count that did not flow."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.intervals.series import Series, Step, is_all_ones, is_nearly_full

ONES = (1 << 32) - 1
NEVER = (
    0,
    ONES,
    (1 << 64) - 1,
    -1,
    None,
)  # what no true reading of a history is, but where it began anew or passed an end
KINDS = {"n": "normal", "o": "rollover", "r": "reset", "b": "back_step", "g": "glitch", "s": "swap"}


def judged(values: list[Any], resolution: str = "0.1", bits: int = 0, digits: int = 0) -> list[Step]:
    modulus = ((1 << bits) if bits else 10**digits) * Decimal(resolution) if bits or digits else None
    return Series([None if v is None else Decimal(str(v)) for v in values], Decimal(resolution), modulus).steps()


@pytest.mark.parametrize(
    ("name", "values", "kinds", "total", "options"),
    [
        # field pain 35: below zero, read as unsigned; what follows is the new day
        ("underflow, then the daily reset", [12.3, 429496729.4, 0.0, 0.2], "grn", "0.2", {}),
        ("underflow of 16 bits", [12.3, 6553.4, 0.0], "gr", "0", {}),
        ("all ones, then the daily reset", [12.3, 429496729.5, 0.0], "gr", "0", {}),
        # field pains 31, 33: all ones of any width, as a float rounds them, first, last, twice, alone
        ("all ones twice at the start", [429496729.5, 429496729.5, 5000.1, 5000.2], "ggn", "0.1", {}),
        ("all ones of 48 bits alone", [281474976710655], "g", "0", {"resolution": "1", "bits": 48}),
        ("all ones of 24 bits at the end", [100, 16777215], "g", "0", {"resolution": "1"}),
        ("lowest signed number read unsigned", [100, 2147483648], "g", "0", {"resolution": "1"}),
        ("all ones rounded to a float", [53700.0, 429496729.6], "g", "0", {}),
        ("all ones of 64 bits in a double", [53700.0, "1844674407370955300", 0, 53700.2], "ggn", "0.2", {}),
        ("all nines at the end", [100.25, 999999.99], "g", "0", {"resolution": "0.01"}),
        ("all nines at the start", [999999.99, 100.25, 100.26], "gn", "0.01", {"resolution": "0.01", "digits": 8}),
        ("all ones beyond themselves", [4294999999, 4294967295, 4295000000], "gn", "1", {"resolution": "1"}),
        ("beyond its own end", [500, 123456, 501], "gn", "1", {"resolution": "1", "digits": 5}),
        # field pains 32, 34: a zero is no reading; two that are none follow each other
        ("zero at the start, two readings", [0, 53700.2], "g", "0", {}),
        ("zeros at the start", [0, 0, 53700.2, 53700.3], "ngn", "0.1", {}),
        ("zero and all ones", [12345.6, 0, 429496729.5, 12345.7], "ggn", "0.1", {}),
        ("all ones and zero", [12345.6, 429496729.5, 0, 12345.7], "ggn", "0.1", {}),
        ("below zero and zero", [12345.6, -1, 0, 12345.7], "ggn", "0.1", {}),
        ("a zero while it grew by a twentieth", [607.7, 634.7, 0, 671.1, 690.2], "ngnn", "82.5", {}),
        ("a zero of a small counter", [0.35, 0, 0.355], "gn", "0.005", {"resolution": "0.001"}),
        ("two spikes, the second lower", [314.7, 5979.7, 2832.5, 315.1], "ggn", "0.4", {}),
        ("back from zero a little lower", [53700.0, 0, 53699.0, 53699.1], "rgn", "0.1", {}),
        ("a counter at rest at zero", [0, 0, 15.1, 0, 0], "ngnn", "0", {}),
        ("a new counter", [0, 0.1, 0.3], "nn", "0.3", {}),
        ("daily counters", [12.4, 0, 4.2, 9.9, 0, 5.1], "rnnrn", "15", {}),
        # ends
        ("all ones is the last count of 32 bits", [ONES, 0, 3], "on", "4", {"resolution": "1", "bits": 32}),
        ("and of 16 bits", [65535, 40], "o", "41", {"resolution": "1", "bits": 16}),
        ("nobody said six digits", [999990, 5, 12], "on", "22", {"resolution": "1"}),
        ("nobody said seven digits, and slow", [99994.94, 0, 0.05, 0.08], "rnn", "0.08", {"resolution": "0.01"}),
        ("nobody said 64 bits", ["18446744073709551610", 5], "o", "11", {"resolution": "1"}),
        ("nobody said the width, and zero", [9999.5, 0], "r", "0", {}),
        ("64 bits pass their end", ["18446744073709551610", 5], "o", "11", {"resolution": "1", "bits": 64}),
        ("64 bits, and a jump to 32 ones", ["18446744073709551610", ONES], "g", "0", {"resolution": "1", "bits": 64}),
        ("signed, to its lowest", [2147483640, -2147483645, -2147483640], "on", "16", {"resolution": "1"}),
        ("digits of tens", [999990, 10], "o", "20", {"resolution": "10", "digits": 5}),
        # other meters
        ("another meter, higher, two readings after", [120, 121, 122, 53700, 53701], "nnsn", "3", {"resolution": "1"}),
        ("from nothing to anywhere", [3.2, 53700.0, 53700.1], "sn", "0.1", {}),
        ("another meter beyond half", [50.1, 50.2, 7000.1, 7000.2, 7000.3, 7000.4], "nsnnn", "0.4", {"digits": 5}),
        ("another meter after a zero", [10.1, 10.2, 10.3, 0, 10.4, 10.5, 9000.1, 9000.2], "nngnnsn", "0.5", {}),
        ("a small counter begins anew", [0.8, 0.1, 0.3, 0.5], "rnn", "0.4", {}),
        ("a wobble near zero", [0.2, 0.1, 0.2], "bn", "0", {}),
        ("nothing at all", [None], "g", "0", {}),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)  # fmt: skip
def test_short_series(name: str, values: list[Any], kinds: str, total: str, options: dict[str, Any]) -> None:
    """# field pains 31 to 35"""
    steps = judged(values, **options)
    assert [s.kind for s in steps] == [KINDS[k] for k in kinds], name
    assert sum((s.increment for s in steps), Decimal(0)) == Decimal(total), name


def test_a_year_of_quarter_hours_with_its_nights() -> None:
    """Each of 365 nights ends in zeros or all ones; the cost grows with the length, not with its square."""
    truth = [1000 + 3 * n for n in range(35_040)]
    for odd in (0, ONES):
        steps = judged([odd if n % 96 in range(1, 40) else v for n, v in enumerate(truth)], "1", bits=32)
        assert sum(s.increment for s in steps) == truth[-1] - truth[0]


@pytest.mark.parametrize(("raw", "full"), [(65535, True), (65519, False), (1 << 16, True), ((1 << 16) + 1, False)])
def test_nearly_full_is_narrow_for_narrow_registers(raw: int, full: bool) -> None:
    assert is_nearly_full(Decimal(raw)) is full


@dataclass
class History:
    """What flowed, in counts, and what was read of it."""

    truth: list[int]
    read: list[int | None]
    good: list[int]  # places where that is the counter's own number
    lost: int
    events: int
    digits: int
    bits: int


@st.composite
def histories(draw: st.DrawFn) -> History:
    """One or two odd readings in a row, at the start, in between, at the end; a reset, another meter or an end."""
    bits, digits = draw(st.sampled_from([(32, 0), (48, 0), (64, 0), (0, 8), (0, 0)]))
    modulus = (1 << bits if bits else 10**digits) if bits or digits else 0
    ends = modulus > 0 and draw(st.booleans())
    start = modulus - draw(st.integers(1, 900)) if ends else draw(st.integers(60_000, 900_000))
    truth = [start]
    for step in draw(st.lists(st.integers(20, 60), min_size=24, max_size=50)):
        truth.append(truth[-1] + step)
    shown = [v % modulus if modulus else v for v in truth]
    lost = events = 0
    if not ends and (anew := draw(st.sampled_from(["", "reset", "lower", "higher"]))):
        at = draw(st.integers(8, len(truth) - 8))
        level = {"reset": draw(st.integers(0, 9)), "lower": shown[at] // 2, "higher": shown[at] + 3_000_000}[anew]
        lost, events = truth[at] - truth[at - 1], 1
        shown = shown[:at] + [level + v - truth[at] for v in truth[at:]]
    assume(not any(is_all_ones(Decimal(v)) for v in shown))  # a true one of these next to a false one: nobody can tell
    read: list[int | None] = list(shown)
    odd = st.sampled_from(NEVER)
    at = draw(st.integers(0, 5))
    while at < len(truth) and not ends:
        around = shown[max(0, at - 4) : at + 6]
        if all(0 < b - a < 100 for a, b in pairwise(around)) and min(around) > 3000:
            for n in range(at, min(at + draw(st.integers(1, 2)), len(truth))):
                read[n] = draw(odd)
                events += 1
        at += draw(st.integers(9, 12))
    good = [n for n, v in enumerate(read) if v == shown[n]]
    return History(truth, read, good, lost, events, digits, bits)


@given(histories())
def test_against_what_flowed(history: History) -> None:
    """# field pains 31 to 35: no phantom energy; lost is what flowed around a reset or beyond the readings."""
    steps = judged(history.read, "1", bits=history.bits, digits=history.digits)
    total = sum(int(s.increment) for s in steps)
    known = history.truth[history.good[-1]] - history.truth[history.good[0]]
    assert total <= known + history.events, "phantom energy"
    assert total >= known - history.lost - history.events, "lost, though it could be known"
    assert all(s.increment == 0 for s in steps if s.kind not in ("normal", "rollover"))
