"""Pages give back what was put in, however odd, and refuse what is damaged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.intervals.page_format import FIELDS, PageReader, Row, encode, merged

WIDE = st.one_of(st.integers(0, 3), st.integers(-300, 300), st.integers(-(1 << 53), 1 << 53))
LESS = st.one_of(st.integers(0, 3), st.integers(-300, 300), st.integers(-(1 << 60), 1 << 60))


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[Row], int]:
    columns = draw(st.integers(0, 3))
    found, start = [], draw(st.integers(0, 1 << 41))
    for _ in range(draw(st.integers(1, 12))):
        cells = {}
        for number in range(columns):
            if draw(st.booleans()):
                cell = {name: draw(WIDE if "value" in name else LESS) for name in FIELDS if draw(st.booleans())}
                cells[number] = {"flags": draw(st.integers(1, 8192))} | {n: v for n, v in cell.items() if n != "flags"}
        found.append(Row(start, start + 900_000, draw(st.integers(0, 2)), draw(st.integers(0, 1)), 5, 9, cells))
        start += 900_000 * draw(st.integers(1, 3))
    return found, columns


def plain(found: list[Row]) -> list[Row]:
    """Without what is 0 anyway."""
    return [
        Row(r.start_ms, r.end_ms, r.revision, r.turn, r.first_seq, r.last_seq,
            {n: {k: v for k, v in cell.items() if v} for n, cell in r.cells.items()})
        for r in found
    ]  # fmt: skip


@given(rows(), st.booleans())
def test_what_goes_in_comes_out(made: tuple[list[Row], int], compress: bool) -> None:
    found, columns = made
    page = PageReader(encode(found, columns, compress))
    assert page.take_apart() == plain(found)


@given(rows(), st.booleans())
def test_the_beginning_of_a_page_is_what_stood_there_before_the_rest_came(
    made: tuple[list[Row], int], compress: bool
) -> None:
    found, columns = made
    body = encode(found, columns, compress)
    for first in range(len(found) + 2):
        page = PageReader(body, first)
        assert page.rows == min(first, len(found)) and page.take_apart() == plain(found[:first])


@given(rows())
def test_a_folded_day_says_the_same(made: tuple[list[Row], int]) -> None:
    found, columns = made
    singles = [encode([row], columns) for row in found]
    assert merged(singles) == sorted(plain(found), key=lambda row: (row.start_ms, row.turn, row.revision))


@given(rows(), st.data())
def test_damage_is_an_error_and_never_a_number(made: tuple[list[Row], int], data: st.DataObject) -> None:
    body = bytearray(encode(*made, compress=True))
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(ValueError):
        PageReader(bytes(body[:cut]))
