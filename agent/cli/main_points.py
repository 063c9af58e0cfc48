"""The points of a device that a person looks at first, and the counter that is on its display."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from drivers.model import Kind, Point

MOST_SHOWN: Final = 8
SHOWN: Final[tuple[str, ...]] = (
    "device.model", "device.serial", "device.firmware", "device.state", "ac.power.generation", "ac.power.active",
    "ac.voltage.l1", "ac.current.l1", "ac.frequency", "ac.energy.generation", "ac.energy.import", "ac.energy.export",
    "battery.soc", "battery.power", "battery.voltage", "heat.power", "heat.energy", "heat.temperature.supply",
    "water.volume", "gas.volume",
)  # fmt: skip
COUNTERS: Final[tuple[str, ...]] = (
    "ac.energy.generation", "ac.energy.import", "heat.energy", "water.volume", "gas.volume", "ac.energy.total",
    "battery.energy.discharge", "dc.energy",
)  # fmt: skip


def first_points(points: Iterable[Point]) -> list[str]:
    """Names of the points to show of a device that is looked at for the first time."""
    names = [point.name for point in points]
    found: list[str] = [name for name in SHOWN if name in names]
    return (found or names)[:MOST_SHOWN]


def main_counter(points: Sequence[tuple[str, str]]) -> str:
    """The counter that a display shows first, of (name, kind) pairs; "" where there is none."""
    counters = [name for name, kind in points if kind == Kind.COUNTER]
    return next((name for name in COUNTERS if name in counters), counters[0] if counters else "")
