"""Scenarios: what was done to the agent so many times, and what the books said afterwards, as one row.

A scenario is a function ``(folder, house, rounds, seed) -> row`` under a name. The fast suite runs each of them once
and short; the soak runs them again and again: ``play("broker_outages", rounds=20, seed=1)``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kits.books import BUSY
from tests.kits.house import House

__all__ = ["BUSY", "SCENARIOS", "Row", "Scenario", "play", "scenario"]

Row = dict[str, Any]
Play = Callable[[Path, House, int, int], Row]


@dataclass(frozen=True, slots=True)
class Scenario:
    """``rounds``: how many the fast suite takes. ``about_s``: how long one round lasts.

    The soak plays ``long`` rounds, at most ``chunk`` of them on one database; ``section`` of the reliability page.
    """

    name: str
    play: Play
    rounds: int
    about_s: float
    long: int = 10
    chunk: int = 50
    section: str = "networks"


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    rounds: int = 1, about_s: float = 5.0, long: int = 10, chunk: int = 50, section: str = "networks"
) -> Callable[[Play], Play]:
    """Register a function under its own name."""

    def register(play: Play) -> Play:
        SCENARIOS[play.__name__] = Scenario(play.__name__, play, rounds, about_s, long, chunk, section)
        return play

    return register


def play(name: str, rounds: int, seed: int, folder: Path | None = None) -> Row:
    """Run a scenario in a folder of its own; what it raises passes. The row names what makes it repeatable."""
    print(f"{name}: rounds {rounds}, seed {seed}", file=sys.stderr)  # what tools print on stdout is read
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"mh-{name}-") as made, House(folder or Path(made), forked=False) as house:
        row = SCENARIOS[name].play(folder or Path(made), house, rounds, seed)
    return {"scenario": name, "rounds": rounds, "seed": seed, "seconds": round(time.monotonic() - began, 1), **row}
