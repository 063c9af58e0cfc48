"""The judge of a caching master's sign of life, in made-up time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.freshness import Freshness
from drivers.model import FreshnessRule, Quality, Reading, Reason

BEAT = FreshnessRule("device.heartbeat", changes_within_s=60.0)
LINK = FreshnessRule("device.link", equals=1)


def said(value: int | None, quality: int = Quality.GOOD) -> Reading:
    return Reading("x", value, quality=quality)


def test_a_heartbeat_must_be_seen_to_move() -> None:
    judge = Freshness(BEAT)
    assert not judge.judge(said(5), 0), "nobody knows yet how long it has stood there"
    assert not judge.judge(said(5), 1) and "not yet changed" in judge.why(said(5))
    assert judge.judge(said(6), 2) and judge.stale_s is None
    assert judge.judge(said(6), 62)
    assert not judge.judge(said(6), 62.1) and "more than 60 s" in judge.why(said(6))
    assert judge.stale_s == 62.1
    assert not judge.judge(None, 63) and not judge.judge(said(None, Reason.EXCEPTION), 64)
    assert "cannot be read" in judge.why(None)
    assert judge.judge(said(5), 200), "it moved while nobody looked"


def test_a_link_has_one_good_value() -> None:
    judge = Freshness(LINK)
    assert judge.judge(said(1), 0) and judge.judge(said(1), 1e6)
    for value in (0, 2, None):
        assert not judge.judge(said(value), 1e6 + 1)
    assert "device.link is 0, 1 would" in judge.why(said(0))


@pytest.mark.parametrize("quality", [Quality.RANGE, Reason.SENTINEL])
def test_a_value_that_is_none_proves_nothing(quality: int) -> None:
    assert not Freshness(LINK).judge(said(1, quality), 0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), max_size=40))
def test_agrees_with_the_rule_in_words(steps: list[tuple[int, int]]) -> None:
    """Fresh is what changed within the time, where a change is one value after another."""
    judge, now, seen = Freshness(BEAT), 0, []
    for value, wait in steps:
        now += wait
        seen.append((now, value))
        moves = [t for (_, a), (t, b) in pairwise(seen) if a != b]
        assert judge.judge(said(value), now) == bool(moves and now - moves[-1] <= 60)
