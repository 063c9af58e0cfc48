"""Pages taken apart and added up by the kernel, against plain lists of Python's own numbers."""

from __future__ import annotations

from array import array
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.columns import FAR, Runs, Sums, restore, restore_window

LOW, HIGH = -(1 << 63), (1 << 63) - 1
ANY = st.one_of(
    st.integers(-3, 3),
    st.integers(-40_000, 40_000),
    st.sampled_from([LOW, LOW + 1, HIGH, FAR - 1, FAR, -FAR, 1 - FAR]),
    st.integers(LOW, HIGH),
)
CODES = "bhiq"


def wrapped(n: int) -> int:
    """As 64 bits hold it."""
    return (n - LOW) % (1 << 64) + LOW


def q(values: list[int]) -> array[int]:
    return array("q", values)


# --- runs


def run_of(values: list[int]) -> tuple[int, bytes]:
    """As a page keeps it, told in bits."""
    if not any(values):
        return 0, b""
    code = next(
        c for c in range(1, 5) if all(-(1 << 8 * (1 << c - 1) - 1) <= v < 1 << 8 * (1 << c - 1) - 1 for v in values)
    )
    size = 1 << code - 1
    return code, bytes((v >> 8 * k) & 255 for k in range(size) for v in values)


def body_of(runs: list[list[int]], head: bytes = b"") -> bytes:
    kept = [run_of(values) for values in runs]
    return head + bytes(code for code, _ in kept) + b"".join(raw for _, raw in kept)


WIDTHS = (st.just(0), *(st.integers(-(1 << n), (1 << n) - 1) for n in (7, 15, 31, 63)), ANY)
TABLES = st.integers(0, 40).flatmap(
    lambda rows: st.tuples(
        st.just(rows),
        st.lists(st.one_of([st.lists(width, min_size=rows, max_size=rows) for width in WIDTHS]), max_size=8),
    )
)


@given(TABLES, st.binary(max_size=9))
def test_runs_come_out_as_they_went_in(made: tuple[int, list[list[int]]], head: bytes) -> None:
    rows, table = made
    runs = Runs(body_of(table, head), len(head), rows, len(table))
    for number, values in enumerate(table):
        assert runs.get(number) == q(values)
        assert runs.get(number, True) == q([wrapped(n) for n in accumulate(values)])
        assert runs.get(number) == q(values)  # what was given is the caller's own
    for number in (-1, len(table)):
        with pytest.raises(IndexError):
            runs.get(number)


@given(st.integers(1, 30).flatmap(lambda n: st.lists(st.integers(-(1 << 40), 1 << 40), min_size=n, max_size=n)))
def test_differences_are_undone(levels: list[int]) -> None:
    kept = [levels[0], *(b - a for a, b in pairwise(levels))]
    assert Runs(body_of([kept]), 0, len(levels), 1).get(0, True) == q(levels)


@given(TABLES, st.data())
def test_a_body_that_does_not_fit_is_refused(made: tuple[int, list[list[int]]], data: st.DataObject) -> None:
    rows, table = made
    body = body_of(table)
    if body:
        cut = data.draw(st.integers(0, len(body) - 1))
        with pytest.raises(ValueError):
            Runs(body[:cut], 0, rows, len(table))
    with pytest.raises(ValueError):
        Runs(body + b"\0", 0, rows, len(table))
    codes = bytearray(body)
    if table:
        codes[data.draw(st.integers(0, len(table) - 1))] = data.draw(st.integers(5, 255))
        with pytest.raises(ValueError, match="width"):
            Runs(bytes(codes), 0, rows, len(table))


@pytest.mark.parametrize(
    "wrong", [(-1, 1, 1), (0, -1, 1), (0, 65_536, 1), (0, 1, -1), (2, 1, 1), (1, 1, 1), (0, 1, 1 << 62)]
)
def test_sizes_that_cannot_be_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError):
        Runs(b"\0", *wrong)
    runs = Runs(b"\0", 0, 3, 1)
    with pytest.raises(ValueError):
        runs.__init__(b"\0", *wrong)  # type: ignore[misc]
    assert runs.get(0) == q([0, 0, 0])  # nothing was changed


# --- columns made whole


def restored(known: list[int], amount: list[int], first: list[int], last: list[int]) -> None:
    """Row by row, as a page is described."""
    is_counter, level = any(amount), None
    for n, there in enumerate(known):
        if not there:
            last[n] = 0
            continue
        first[n] = wrapped(first[n] + (last[n] if level is None else level))
        before = first[n] if level is None else level
        level = last[n]
        if is_counter:
            growth = level - before
            amount[n] = wrapped((amount[n] >> 1) + (1000 * growth if abs(growth) < FAR else 0))


@given(st.lists(st.tuples(st.one_of(st.just(1), st.integers(0, 2), ANY), ANY, ANY, ANY), max_size=30), st.booleans())
def test_columns_are_made_whole_as_row_by_row(cells: list[tuple[int, int, int, int]], is_counter: bool) -> None:
    four = [list(values) for values in zip(*cells, strict=True)] or [[], [], [], []]
    if not is_counter:
        four[1] = [0] * len(cells)
    found = [q(values) for values in four]
    restore(*found)
    restored(*four)
    assert found == [q(values) for values in four]


@given(st.lists(st.tuples(ANY, ANY), max_size=30))
def test_demands_are_made_whole_as_row_by_row(cells: list[tuple[int, int]]) -> None:
    kept, amount = q([k for k, _ in cells]), q([a for _, a in cells])
    restore_window(kept, amount)
    assert kept == q([wrapped((k >> 1) + a) if k else 0 for k, a in cells])
    assert amount == q([a for _, a in cells])


def test_columns_of_different_lengths_are_refused() -> None:
    for n in range(1, 4):
        four = [q([1, 1]) for _ in range(4)]
        four[n] = q([1, 1, 1])
        with pytest.raises(ValueError, match="2 rows"):
            restore(*four)
        assert four[3][:2] == q([1, 1])
    with pytest.raises(ValueError, match="2 rows"):
        restore_window(q([1, 1]), q([1]))


# --- sums

FLAW = 1 | 2 | 8
COLUMN = st.lists(st.tuples(st.one_of(st.integers(0, 17), ANY), ANY, ANY, ANY), min_size=1, max_size=20)


@given(
    st.integers(1, 5), st.lists(st.tuples(COLUMN, st.booleans(), st.sampled_from([0, 2, 2048]), st.data()), max_size=5)
)
def test_sums_are_those_of_plain_numbers(
    count: int, columns: list[tuple[list[tuple[int, int, int, int]], bool, int, st.DataObject]]
) -> None:
    sums = Sums(count, FLAW)
    truth: list[tuple[int, int, int, int] | None] = [None] * count
    for cells, in_places, also, data in columns:
        known, amount, length, lack = (list(values) for values in zip(*cells, strict=True))
        rows = data.draw(st.lists(st.integers(0, len(cells) - 1), unique=True).map(sorted))
        places = [data.draw(st.integers(0, count - 1)) if in_places else 0 for _ in rows]
        taken = sums.add(
            array("i", rows),
            array("i", places) if in_places else None,
            q(known), q(amount), q(length), q(lack),
            also,
        )  # fmt: skip
        assert taken == sum(known[n] != 0 for n in rows)
        for n, at in zip(rows, places, strict=True):
            if known[n]:
                flags = wrapped(known[n] - 1) | also
                was = truth[at] or (0, 0, 0, 0)
                flawed = amount[n] if flags & FLAW else 0
                truth[at] = (
                    was[0] + amount[n], was[1] + flawed, was[2] + length[n] - lack[n], was[3] | flags,
                )  # fmt: skip
    assert [sums.get(at) for at in range(count)] == truth
    assert sums.get() == truth[0]


def test_sums_pass_64_bits() -> None:
    sums, n = Sums(1, FLAW), 1000
    rows = array("i", range(n))
    for value in (HIGH, LOW, LOW, LOW):
        sums.add(rows, None, q([2]) * n, q([value]) * n, q([HIGH]) * n, q([LOW]) * n)
    whole = n * (HIGH + 3 * LOW)
    assert sums.get() == (whole, whole, 4 * n * (HIGH - LOW), 1)


def test_what_does_not_fit_adds_nothing() -> None:
    sums, two = Sums(2, FLAW), q([1, 1])
    for rows, places in (([0, 2], [0, 1]), ([-1], [0]), ([0, 1], [0, 2]), ([0, 1], [0, -1]), ([0, 2], None)):
        with pytest.raises(IndexError):
            sums.add(array("i", rows), None if places is None else array("i", places), two, two, two, two)
    with pytest.raises(ValueError, match="places"):
        sums.add(array("i", [0, 1]), array("i", [0]), two, two, two, two)
    for n in range(1, 4):
        four = [two] * 4
        four[n] = q([1])
        with pytest.raises(ValueError, match="2 rows"):
            sums.add(array("i", [0]), None, *four)
    with pytest.raises(ValueError):
        sums.add(array("q", [0]), None, two, two, two, two)  # type: ignore[arg-type]  # another width
    assert sums.get(0) is None and sums.get(1) is None
    assert sums.add(array("i"), array("i"), two, two, two, two) == 0
    assert sums.add(array("i"), None, q([]), q([]), q([]), q([])) == 0
    for at in (-1, 2):
        with pytest.raises(IndexError):
            sums.get(at)
    for count in (0, -1):
        with pytest.raises(ValueError):
            Sums(count, FLAW)
