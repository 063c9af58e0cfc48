"""The interval kernel against a slow truth: unbounded fractions, one straight line after the other."""

from __future__ import annotations

from array import array
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.rates import CounterKernel, gather
from ext.ring import Ring

LENGTH = 900_000
START = 1_795_500_000_000 // LENGTH * LENGTH
MAX_GAP = 300_000


def bounds(count: int) -> array[int]:
    return array("q", [START + n * LENGTH for n in range(count + 1)])


def feed(tally: CounterKernel, readings: list[tuple[int, int]], slot: int = 0, pack: int = 1) -> list[int]:
    n = len(readings)
    times, values = array("q", [t for t, _ in readings]), array("q", [v for _, v in readings])
    return tally.feed(array("H", [slot]) * n, times, values, array("I", [pack]) * n, array("I", [0]) * n)


def new_tally(intervals: int, kind: int = 1, **more: int) -> CounterKernel:
    tally = CounterKernel(1)
    tally.configure(0, kind, 1, 0, MAX_GAP, **more)
    tally.bounds(bounds(intervals))
    return tally


@st.composite
def growths(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Readings of a counter that only grows, close together and far apart, some right on a boundary."""
    time = START + draw(st.integers(0, 2 * LENGTH))
    value = draw(st.sampled_from([0, 7, 10**6, 8 * 10**15]))
    found = [(time, value)]
    for _ in range(draw(st.integers(1, 40))):
        step = draw(st.sampled_from([1, 37, 1000, 59_999, 60_000, 300_000, 300_001, 2_000_000, 0]))
        time = time // LENGTH * LENGTH + LENGTH if step == 0 else time + step + draw(st.integers(0, 999))
        value += draw(st.sampled_from([0, 1, 1, 3, 10, 977, 10**6]))
        found.append((time, value))
    return found


def reference(readings: list[tuple[int, int]], start: int, end: int) -> tuple[Fraction, int, int]:
    """(growth in [start, end), ms covered, of these in long steps)."""
    growth, covered, spread = Fraction(0), 0, 0
    for (t0, v0), (t1, v1) in pairwise(readings):
        low, high = max(t0, start), min(t1, end)
        if low < high:
            growth += Fraction((v1 - v0) * (high - low), t1 - t0)
            covered += high - low
            spread += high - low if t1 - t0 > MAX_GAP else 0
    return growth, covered, spread


@given(growths())
def test_cutting_neither_makes_nor_loses_anything(readings: list[tuple[int, int]]) -> None:
    """# field pains 32, 35: amounts are exact to a thousandth of a count, and add up to the growth of the counter."""
    tally = new_tally(120)
    for time, value in readings:
        level = tally.level(0)
        tally.accept(0, time, value, value - level[2] if level else 0, 1)
    cells = [*tally.take(), tally.open(0)]
    assert sum(cell[4] for cell in cells if cell) == 1000 * (readings[-1][1] - readings[0][1])
    for cell in cells:
        assert cell is not None
        growth, covered, spread = reference(readings, cell[1], cell[2])
        assert abs(cell[4] - 1000 * growth) < 2
        assert (cell[5], cell[6]) == (covered, spread)
        assert bool(cell[3] & 1) == (spread > 0)
        inside = [r for r in readings if cell[1] <= r[0] < cell[2]]
        assert cell[7] == len(inside)
        before = [r for r in readings if r[0] <= cell[1]] or inside
        after = [r for r in readings if r[0] >= cell[2]] or inside
        assert cell[8] == (1, *(before[-1] if before is not inside else inside[0]))
        assert cell[9] == (1, *(after[0] if after is not inside else inside[-1]))
    assert [c[1] for c in cells if c] == [s for s in bounds(120) if cells[0][1] <= s <= readings[-1][0]]


@given(growths(), st.data())
def test_feeding_in_pieces_and_over_a_restart_is_the_same(readings: list[tuple[int, int]], data: st.DataObject) -> None:
    once, pieces = new_tally(120), new_tally(120)
    for tally in (once, pieces):
        tally.accept(0, *readings[0], 0, 1)
    rest = readings[1:]
    taken_once = _all_in(once, rest)
    cut = data.draw(st.integers(0, len(rest)))
    taken = _all_in(pieces, rest[:cut])
    second = new_tally(120)
    second.restore(0, pieces.state(0))
    taken += _all_in(second, rest[cut:])
    assert taken == taken_once
    assert second.open(0) == once.open(0)


def _all_in(tally: CounterKernel, readings: list[tuple[int, int]]) -> list[object]:
    """Feed, and accept what is given back as growth."""
    for time, value in readings:
        level = tally.level(0)
        assert level is not None
        if feed(tally, [(time, value)]):
            tally.hold(0, False)
            tally.accept(0, time, value, value - level[2], 1)
    return list(tally.take())


@given(st.lists(st.tuples(st.integers(1, 400_000), st.integers(-(10**9), 10**9)), min_size=1, max_size=40))
def test_areas_of_a_gauge(steps: list[tuple[int, int]]) -> None:
    """Trapezoids, above and below zero apart; nothing across a gap."""
    tally = new_tally(60, kind=2)
    readings, time = [], START
    for dt, value in steps:
        time += dt
        readings.append((time, value))
    assert feed(tally, readings) == []
    cells = [*tally.take(), tally.open(0)]
    net = sum(cell[12] - cell[13] for cell in cells if cell)
    exact = sum((v0 + v1) * (t1 - t0) for (t0, v0), (t1, v1) in pairwise(readings) if t1 - t0 <= MAX_GAP)
    crossings = sum(1 for (_, v0), (_, v1) in pairwise(readings) if v0 * v1 < 0)
    assert abs(net - 1000 * exact) <= crossings * 1000 * 2 * 10**9  # a crossing is put to a whole millisecond
    assert all(cell[12] >= 0 and cell[13] >= 0 for cell in cells if cell)
    inside = [v for t, v in readings if cells[0] and cells[0][1] <= t < cells[0][2]]
    assert cells[0] is not None and (cells[0][10], cells[0][11]) == (min(inside), max(inside))


@given(st.lists(st.integers(0, 300), min_size=40, max_size=80), st.sampled_from([(900_000, 60_000), (300_000, 60_000)]))
def test_demand_of_sliding_and_standing_windows(growth: list[int], window: tuple[int, int]) -> None:
    """The highest growth over a period, by positions a slip apart: slow by looking at every window."""
    period, slip = window
    tally = new_tally(60, period_ms=period, slip_ms=slip)
    readings = [(START + 30_000, 5)]
    for step in growth:
        readings.append((readings[-1][0] + 60_000, readings[-1][1] + step))
    for (t, v), (_, before) in zip(readings, [readings[0], *readings], strict=False):
        tally.accept(0, t, v, v - before, 1)
    cells = [*tally.take(), tally.open(0)]
    for cell in cells:
        assert cell is not None
        found: dict[str, list[Fraction]] = {"slides": [], "stands": []}
        for end in range(START, cell[2] + 1, slip):
            whole = readings[0][0] < end - period + slip and end <= readings[-1][0] and end - period >= readings[0][0]
            if cell[1] < end and whole:
                value = reference(readings, end - period, end)[0]
                found["slides"].append(value)
                if end % period == 0:
                    found["stands"].append(value)
        for place, name in ((14, "slides"), (15, "stands")):
            if found[name]:
                assert cell[place] is not None and abs(cell[place] - 1000 * max(found[name])) < 2
            else:
                assert cell[place] is None
        if cell[14] is not None and cell[15] is not None:
            assert cell[15] <= cell[14]  # a window that stands is one of those that slide


def test_what_is_no_plain_growth_comes_back_and_holds_its_slot() -> None:
    tally = new_tally(10)
    assert feed(tally, [(START, 100), (START + 1, 101)]) == [0, 1]  # nobody has said what the first one is
    tally.hold(0, False)
    tally.accept(0, START, 100, 0, 1)
    assert feed(tally, [(START + 60_000, 105), (START + 120_000, 0), (START + 180_000, 106)]) == [1, 2]
    tally.hold(0, False)
    assert feed(tally, [(START + 180_000, 106), (START + 240_000, 101), (START + 300_000, 107)]) == []
    cell = tally.open(0)
    assert cell is not None and cell[4] == 7000 and cell[3] & 256  # a wobble of five counts: the level stayed


def test_a_step_of_the_clock_moves_the_last_reading_along() -> None:
    """# field pains H: what the clock does is never energy."""
    tally = new_tally(40)
    tally.accept(0, START + 60_000, 100, 0, 1)
    assert feed(tally, [(START + 120_000, 110)]) == []
    tally.step(3_600_000)
    done = tally.take()
    assert len(done) == 1 and done[0][4] == 10_000 and done[0][3] & 1024
    assert feed(tally, [(START + 3_780_000, 120)]) == []
    cell = tally.open(0)
    assert cell is not None and cell[4] == 10_000 and cell[5] == 60_000


def test_bad_arguments_are_refused() -> None:
    tally = new_tally(4)
    with pytest.raises(IndexError):
        tally.configure(1, 1)
    with pytest.raises(ValueError):
        tally.configure(0, 3)
    with pytest.raises(ValueError, match="steps"):
        tally.configure(0, 1, 1, 0, 1000, 900_000, 7_000)
    with pytest.raises(ValueError, match="grow"):
        tally.bounds(array("q", [2, 1]))
    with pytest.raises(ValueError):
        tally.accept(0, START - 1, 0, 0, 1)
    with pytest.raises(ValueError):
        tally.restore(0, b"short")
    with pytest.raises(IndexError):
        feed(tally, [(START, 1)], slot=9)
    tally.accept(0, START, 1, 0, 1)
    with pytest.raises(ValueError, match="stands"):
        tally.bounds(array("q", [START + LENGTH, START + 2 * LENGTH]))


def test_gather_takes_what_a_pack_would_hold(one_ring: Ring) -> None:
    """Ticks inside only, due ones only, one reading a tick, half to even, nothing that is a gap."""
    at = []
    for tick, values in (
        (1000, [(0, 12345, -2, 0), (1, 5, 3, 1), (2, 9, 0, 0)]),
        (1000, [(0, 99999, -2, 0)]),
        (1500, [(0, 7, 0, 0)]),
        (2000, [(0, 25, -3, 0), (1, 0, 0, 128)]),
        (3000, [(0, 35, -3, 0)]),
        (4000, [(0, 1, 0, 0)]),
    ):
        at.append(one_ring.append_values(3, tick, (tick + 7) * 1_000_000, 0, values))
    wanted = memoryview(array("q", [-2, 1000, 0, 0, 0, 0])).cast("B").cast("q", (2, 3))
    slots, times, values_, qualities, lost = gather(
        one_ring, array("Q", at), array("i", [0, 1, -1]), wanted, 1000, 4000
    )
    assert list(slots) == [0, 1, 0, 0]
    assert list(times) == [1007, 1007, 2007, 3007]
    assert list(values_) == [12345, 5000, 2, 4]
    assert (qualities, lost) == (bytes([0, 1, 0, 0]), 0)
    with pytest.raises(ValueError, match="not committed"):
        gather(one_ring, array("Q", [1 << 40]), array("i", [0]), wanted, 0, 1)
    with pytest.raises(IndexError):
        gather(one_ring, array("Q", at), array("i", [7]), wanted, 0, 1)
    for width in (2, 4):
        other = memoryview(array("q", [0] * width)).cast("B").cast("q", (1, width))
        with pytest.raises(ValueError, match="want exponent, period and phase"):
            gather(one_ring, array("Q", at), array("i", [0]), other, 0, 1)
