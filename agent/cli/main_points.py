"""The points of a device that a person looks at first, and the counter that is on its display."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from drivers.model import Kind, Point, clean_text

MOST_SHOWN: Final = 8
SHOWN: Final[tuple[str, ...]] = (
    "device.model", "device.serial", "device.firmware", "device.state", "ac.power.generation", "ac.power.active",
    "ac.voltage.l1", "ac.current.l1", "ac.frequency", "ac.energy.generation", "ac.energy.import", "ac.energy.export",
    "battery.soc", "battery.power", "battery.voltage", "heat.power", "heat.energy", "heat.temperature.supply",
    "water.volume", "gas.volume",
)  # fmt: skip
COUNTERS: Final[tuple[str, ...]] = (
    "ac.energy.generation", "heat.energy", "water.volume", "gas.volume", "ac.energy.import", "ac.energy.total",
    "battery.energy.discharge", "dc.energy",
)  # fmt: skip


IDENTITY: Final = ("vendor", "maker", "product", "model", "serial", "number", "firmware")


def known_as(identity: Mapping[str, str]) -> str:
    """What a device says of itself, for people: its nameplate and firmware, not the words of its protocol."""
    named = {name.removeprefix("device."): clean_text(text, 60) for name, text in identity.items()}
    return ", ".join(f"{name} {named[name]}" for name in IDENTITY if name in named)


def first_points(points: Iterable[Point]) -> list[str]:
    """Names of the points to show of a device that is looked at for the first time."""
    names = [point.name for point in points]
    found: list[str] = [name for name in SHOWN if name in names]
    return (found or names)[:MOST_SHOWN]


def main_counter(points: Sequence[tuple[str, str]]) -> str:
    """The counter that a display shows first, of (name, kind) pairs; "" where there is none."""
    counters = [name for name, kind in points if kind == Kind.COUNTER]
    return next((name for name in COUNTERS if name in counters), counters[0] if counters else "")
