"""Scenarios. Each does something to the agent a number of times, and returns one row with the results of the checks.

A scenario is a named function ``(folder, house, rounds, seed) -> row``. The fast suite runs each of them once, with few
rounds. The soak runs them repeatedly: ``play("broker_outages", rounds=20, seed=1)``.
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
    """``rounds``: number of rounds in the fast suite. ``about_s``: approximate duration of a round.

    The soak plays ``long`` rounds, at most ``chunk`` of them with one database. ``section``: section of the reliability
    page.
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
    """Run a scenario in its own folder, and pass its exceptions on. The row has what is needed to repeat the run."""
    print(f"{name}: rounds {rounds}, seed {seed}", file=sys.stderr)  # programs read the stdout of tools
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"mh-{name}-") as made, House(folder or Path(made), forked=False) as house:
        row = SCENARIOS[name].play(folder or Path(made), house, rounds, seed)
    return {"scenario": name, "rounds": rounds, "seed": seed, "seconds": round(time.monotonic() - began, 1), **row}
