"""Rates, steps and means against unbounded integers; the clock against the system's own."""

from __future__ import annotations

import math
import time
from array import array
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ext.clock
from ext.rates import counter_deltas, counter_rates, time_weighted_mean

NORMAL, ROLLOVER, RESET, BACK_STEP, GLITCH = range(5)


def slow_rate(old: int, new: int, dt_ns: int, bits: int) -> float:
    """Unbounded integers, no masks."""
    step = (new - old) % 2**bits
    return math.nan if dt_ns <= 0 or step > (2**bits - 1) // 2 else step * 1e9 / dt_ns


@given(st.data(), st.integers(1, 64), st.lists(st.integers(-5, 10**12), max_size=6))
def test_rates_agree_with_the_reference(data: st.DataObject, bits: int, steps_ns: list[int]) -> None:
    counts = [data.draw(st.integers(0, 2**bits - 1)) for _ in range(len(steps_ns) + 1)]
    times = [sum(steps_ns[:n]) for n in range(len(counts))]
    out = array("d", [0.0] * len(steps_ns))
    counter_rates(array("Q", counts), array("q", times), bits, out)
    want = [slow_rate(counts[n], counts[n + 1], dt, bits) for n, dt in enumerate(steps_ns)]
    assert list(out) == pytest.approx(want, rel=1e-12, nan_ok=True)


def slow_step(old: int, new: int, modulus: int, max_step: int) -> tuple[int, int]:
    if new >= old:
        return (new - old, NORMAL) if new - old <= max_step else (0, GLITCH)
    if old < modulus and modulus - old + new <= max_step:
        return modulus - old + new, ROLLOVER
    return 0, RESET if new <= max_step else BACK_STEP


counts_near = (
    st.integers(0, 2**64 - 1) | st.integers(0, 50) | st.integers(2**32 - 50, 2**32 + 5) | st.integers(950, 1005)
)


@given(st.lists(counts_near, min_size=1, max_size=8), st.sampled_from([0, 1000, 2**32, 10**8]), st.integers(0, 999))
def test_steps_agree_with_the_reference(counts: list[int], modulus: int, max_step: int) -> None:
    out, kinds = array("q", [7] * (len(counts) - 1)), array("B", [7] * (len(counts) - 1))
    counter_deltas(array("Q", counts), modulus, max_step, out, kinds)
    want = [slow_step(a, b, modulus or 2**64, max_step) for a, b in pairwise(counts)]
    assert list(zip(out, kinds, strict=True)) == want


# field pains 32, 34, 35: a zero and the recovery from it, and an underflow, are never energy
@pytest.mark.parametrize(
    ("counts", "kinds"),
    [
        ([53_700, 0, 53_701], [RESET, GLITCH]),
        ([4_294_967_295 - 9, 5], [ROLLOVER]),
        ([120, 4_294_967_290, 130], [GLITCH, BACK_STEP]),
        ([120_000, 119_998, 120_001], [BACK_STEP, NORMAL]),
    ],
)
def test_what_the_field_saw(counts: list[int], kinds: list[int]) -> None:
    out, found = array("q", [0] * len(kinds)), array("B", [0] * len(kinds))
    counter_deltas(array("Q", counts), 2**32, 100, out, found)
    assert list(found) == kinds
    assert all(0 <= step <= 100 for step in out)


@given(
    st.lists(
        st.tuples(st.floats(-1e9, 1e9, allow_subnormal=False) | st.just(math.nan), st.integers(-10, 10**10)), max_size=8
    ),
    st.integers(0, 10**10),
)
def test_mean_agrees_with_the_reference(samples: list[tuple[float, int]], max_gap_ns: int) -> None:
    values, times = [v for v, _ in samples], [sum(dt for _, dt in samples[: n + 1]) for n in range(len(samples))]
    area, total, size = Fraction(0), 0, 0.0
    for n in range(len(samples) - 1):
        dt = times[n + 1] - times[n]
        if 0 < dt <= max_gap_ns and not math.isnan(values[n] + values[n + 1]):
            area += (Fraction(values[n]) + Fraction(values[n + 1])) / 2 * dt
            size = max(size, abs(values[n]), abs(values[n + 1]))
            total += dt
    got = time_weighted_mean(array("d", values), array("q", times), max_gap_ns)
    if total == 0:
        assert math.isnan(got)
    else:
        assert got == pytest.approx(float(area / total), rel=1e-12, abs=size * 1e-12 + 1e-300)


def test_refuses() -> None:
    q, t, d, b = array("Q", [1, 2]), array("q", [1, 2]), array("d", [0.0]), array("B", [0])
    for bits in (0, 65):
        with pytest.raises(ValueError, match=r"bits must be 1\.\.64"):
            counter_rates(q, t, bits, d)
    with pytest.raises(ValueError, match="want n, n and n-1 items; got 2, 2, 2"):
        counter_rates(q, t, 32, array("d", [0.0, 0.0]))
    with pytest.raises(ValueError, match="want n"):
        counter_rates(array("Q"), array("q"), 32, array("d"))
    with pytest.raises(ValueError, match="want n"):
        counter_deltas(q, 0, 1, t, b)
    for modulus, max_step in ((100, 100), (0, 2**63)):
        with pytest.raises(ValueError, match="max_step is below"):
            counter_deltas(q, modulus, max_step, array("q", [0]), b)
    with pytest.raises(ValueError, match="as many times"):
        time_weighted_mean(array("d", [1.0]), t, 1)


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
