"""Mutations of a JSON value, as an attacker might send it. In each, one member is wrong or missing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

ESCAPES = "\x1b]0;owned\x07\x9b2J\u202e\nfaults: none"
WRONG: tuple[Any, ...] = (
    None, True, -1, 7, 1 << 70, 1e300, "", "x", "1e999999999", "9" * 5000, "1\n", "\n", "1.2.3", "../../x", ESCAPES,
    [], [None], ["x"], {}, {"x": 1}, {ESCAPES: ESCAPES},
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to each member. Of a list, only the first item is used."""
    members: Any = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for name, member in members:
        yield (*at, name)
        yield from places(member, (*at, name))


# The fast suite tries a ninth of the mutations: each wrong value and each member, but not all their combinations.
EVERY = pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])


def mutations(value: Any, every: int = 1) -> Iterator[tuple[str, Any]]:
    """Yield (description, mutated value) of every ``every``-th mutation."""
    return islice(_mutations(value), 0, None, every)


def _mutations(value: Any) -> Iterator[tuple[str, Any]]:
    for wrong in WRONG:
        yield f"all of it {wrong!r:.40}", wrong
    for way in places(value):
        for wrong in (*WRONG, "gone"):
            made = copy.deepcopy(value)
            inner = made
            for name in way[:-1]:
                inner = inner[name]
            if wrong == "gone":
                del inner[way[-1]]
            else:
                inner[way[-1]] = wrong
            yield f"{'.'.join(map(str, way))} {wrong!r:.40}", made
