"""``ext.shape``: the same cut as by hand, and a number is a number."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.verify.quick import plain_fit
from ext.shape import fit

BETWEEN = b'},{"n":"'
USUAL = re.compile(rb"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE]-[0-9]+)?")
NAMES = st.binary(max_size=12).filter(lambda name: b"}" not in name)
WORDS = st.sampled_from([
    *("0", "-0", "1.5", "-12.250", "1e-7", "1E-07", "9" * 15, "9" * 16, "1e5", "1e+5", "01", "1.", ".5", "-", "", "+1"),
    *("NaN", "true", "1e", "1e-", "1.e-1", "0.0e-999", "0" * 400, '"1"', "1}", "1,2", "1\0", "\0"),
    *("1" + "0" * 5000 + ".1", "0." + "0" * 5000, '1},{"n":"a'),
])  # fmt: skip
TEXTS = st.one_of(WORDS, st.floats(-1e14, 1e14).map(repr), st.integers(-(10**16), 10**16).map(str), st.text(max_size=5))


@st.composite
def cuts(draw: st.DrawFn) -> tuple[bytes, int, int, tuple[bytes, ...], tuple[int, ...]]:
    """What is cut, and a shape that fits it more or less."""
    pieces: list[bytes] = []
    odd: list[int] = []
    found: list[bytes] = []
    for n in range(draw(st.integers(1, 8))):
        if draw(st.booleans()):
            odd.append(n)
            found.append(draw(st.binary(max_size=20)))
        else:
            pieces.append(draw(NAMES))
            found.append(pieces[-1] + draw(TEXTS).encode())
    assume(pieces)  # as every shape has them
    inner = BETWEEN.join(found)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(inner)))
        inner = inner[:at] + draw(st.binary(max_size=3)) + inner[at + draw(st.integers(0, 3)) :]
    head, tail = draw(st.binary(max_size=5)), draw(st.binary(max_size=5))
    return head + inner + tail, len(head), len(head) + len(inner), tuple(pieces), tuple(odd)


@given(cuts())
def test_it_cuts_as_by_hand(cut: tuple[bytes, int, int, tuple[bytes, ...], tuple[int, ...]]) -> None:
    """What fits here fits by hand, with the same left; what fits by hand alone has unusual numbers."""
    raw, start, end, pieces, odd = cut
    mine, slow = fit(raw, start, end, pieces, odd), plain_fit(raw, start, end, pieces, odd)
    if mine is not None:
        assert mine == slow
        inner = raw[start:end].split(BETWEEN)
        plain = [piece for n, piece in enumerate(inner) if n not in odd]
        for piece, begin in zip(plain, pieces, strict=True):
            assert piece.startswith(begin) and USUAL.fullmatch(piece[len(begin) :])
            assert abs(json.loads(piece[len(begin) :])) < 10**15
    elif slow is not None:
        plain = [piece for n, piece in enumerate(raw[start:end].split(BETWEEN)) if n not in odd]
        numbers = [piece[len(begin) :] for piece, begin in zip(plain, pieces, strict=True)]
        assert not all(map(USUAL.fullmatch, numbers))


@pytest.mark.parametrize("end", range(8))
def test_it_reads_nothing_behind_the_end(end: int) -> None:
    """The end is the end, also in the middle of a number, of a name, or of what stands between two."""
    raw = b"ab1.5e-7"
    for pieces, odd in (((b"ab",), ()), ((), (0,)), ((b"ab1.5e-75",), ()), ((b"a", b"b"), ())):
        assert fit(raw[:end], 0, end, pieces, odd) == fit(raw, 0, end, pieces, odd)
    between = b"7" + BETWEEN
    assert fit(between, 0, end + 1, (b"",), ()) == ([] if end == 0 else None)
    assert fit(between, 0, end + 1, (), (0,)) == [between[: end + 1]]


def test_what_it_does_not_take() -> None:
    for start, end in ((-1, 2), (2, 1), (0, 4), (4, 4)):
        with pytest.raises(IndexError, match="of 3 bytes"):
            fit(b"abc", start, end, (b"a",), ())
    with pytest.raises(TypeError, match="piece 0 is no bytes"):
        fit(b"abc", 0, 3, ("abc",), ())  # type: ignore[arg-type]
    assert fit(b"a1", 0, 2, (), ()) is None
    assert fit(b"a1", 0, 2, (b"a",), (7,)) is None, "a shape with a place that is not there"
    assert fit(b"a1", 0, 2, (b"a", b"b"), ()) is None
