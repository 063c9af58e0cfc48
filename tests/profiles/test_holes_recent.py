"""A spell in which a device refuses everything takes no point away, however well it answered before."""

from __future__ import annotations

from drivers.model import Kind, Point
from drivers.plan.holes import ILLEGAL_ADDRESS, KnownHoles
from drivers.plan.timing import Block


def block(address: int, number: int) -> Block:
    return Block(function=3, address=address, count=1, points=(number,))


def points() -> list[Point]:
    return [
        Point(name=f"x.p{n}", kind=Kind.GAUGE, unit="", function=3, address=10 * n, count=1, type="u16", pace="fast")
        for n in range(3)
    ]


def test_what_is_refused_together_with_everything_else_is_not_absent() -> None:
    holes, blocks = KnownHoles(), [block(10 * n, n) for n in range(3)]
    for one in blocks:
        holes.good(one)
    for second in range(100):
        for one in blocks:
            assert not holes.refused(one, points(), ILLEGAL_ADDRESS, second)
    for one in blocks:
        holes.good(one)
    assert not holes.absent


def test_what_alone_is_refused_is_absent_at_the_second_time() -> None:
    holes, there, missing = KnownHoles(), block(0, 0), block(10, 1)
    holes.good(there)
    assert not holes.refused(missing, points(), ILLEGAL_ADDRESS, 1)
    holes.good(there)
    assert holes.refused(missing, points(), ILLEGAL_ADDRESS, 2) and holes.absent == {(3, 10, 1)}


def test_after_a_spell_what_is_really_missing_is_found() -> None:
    holes, there, missing = KnownHoles(), block(0, 0), block(10, 1)
    for second in range(5):
        holes.refused(there, points(), ILLEGAL_ADDRESS, second)
        holes.refused(missing, points(), ILLEGAL_ADDRESS, second)
    holes.good(there)
    assert holes.refused(missing, points(), ILLEGAL_ADDRESS, 9) and holes.absent == {(3, 10, 1)}
