"""Chooses the points of a device that a person wants to see first, and the counter that its display shows."""

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

MAIN_VALUES: Final = 2
# if the name of a point has one of these words, it is never a main value
FIXED: Final = frozenset({"rated", "max", "min", "limit", "reactive", "apparent", "factor", "cell"})
NOT_MEASURED: Final = ("device.", "control.")


IDENTITY: Final = ("vendor", "maker", "product", "model", "serial", "number", "firmware")
_CHINESE: Final = {"maker": "厂家", "product": "产品", "number": "编号", "medium": "介质", "version": "版本"}


def known_as(identity: Mapping[str, str], language: str = "") -> str:
    """Return a text with nameplate and firmware from a device's identity, without protocol details."""
    named = {name.removeprefix("device."): text for name, text in identity.items()}
    return identity_words({name: named[name] for name in IDENTITY if name in named}, language)


def identity_words(identity: Mapping[str, str], language: str = "") -> str:
    """Return the whole identity of a device as one line, such as ``vendor Acme, serial 17``.

    ``language`` "" means the language of the command.
    """
    from agent.cli.common import speaks_chinese
    from agent.cli.console_tables import point_title

    chinese = language == "zh" if language else speaks_chinese()

    parts = []
    for name, text in identity.items():
        short = name.removeprefix("device.")
        title = point_title(f"device.{short}") or _CHINESE.get(short, "") if chinese else ""
        parts.append(f"{title or short} {clean_text(text, 60)}")
    return ("，" if chinese else ", ").join(parts)


def first_points(points: Iterable[Point]) -> list[str]:
    """Return the names of the points to show when a device is read for the first time."""
    names = [point.name for point in points]
    found: list[str] = [name for name in SHOWN if name in names]
    return (found or names)[:MOST_SHOWN]


def main_values(points: Iterable[tuple[str, str, bool]]) -> list[str]:
    """Return the names of up to two points that best describe a device now. ``points`` are (name, kind, is missing).

    They are chosen in this order: a battery's state of charge, a power, an energy or volume counter, other gauges,
    other counters. Nameplate values are never chosen. For an inverter with a battery, the inverter's power comes first.
    """
    points = list(points)
    is_inverter = any(name.startswith("ac.power") for name, _, _ in points)

    def family(name: str, kind: str) -> int:
        words = name.split(".")
        if kind == Kind.COUNTER:
            return 2 if {"energy", "volume"} & set(words) and not {"reactive", "apparent"} & set(words) else 4
        if name == "battery.soc":
            return 1 if is_inverter else 0
        return (0 if is_inverter else 1) if "power" in words else 3

    ranked: dict[int, list[tuple[bool, bool, int, int]]] = {}
    found = [
        (name, kind, missing)
        for name, kind, missing in points
        if kind in (Kind.GAUGE, Kind.COUNTER) and not name.startswith(NOT_MEASURED) and not FIXED & set(name.split("."))
    ]
    for at, (name, kind, missing) in enumerate(found):
        rank = (missing, name.startswith(("dc.", "battery.") if is_inverter else "dc."), name.count("."), at)
        ranked.setdefault(family(name, kind), []).append(rank)
    best = [found[min(ranked[one])[-1]][0] for one in sorted(ranked)]
    return best[:MAIN_VALUES]


def main_counter(points: Sequence[tuple[str, str]]) -> str:
    """Return the counter that a display shows first; "" if there is none. ``points`` are (name, kind)."""
    counters = [name for name, kind in points if kind == Kind.COUNTER]
    return next((name for name in COUNTERS if name in counters), counters[0] if counters else "")
