"""The seam for other formats: a converter turns verified values of a period into another format.

A third-party package registers its ``CONVERTER`` in the entry point group ``meterhouse.converters``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from drivers.model import ConfigError, UsageError, clean_text
from drivers.registry import load_point

log = logging.getLogger("meterhouse.platform")
GROUP: Final = "meterhouse.converters"
OURS: Final = {"hj212-2017": "receiver.converters.hj212"}


@dataclass(frozen=True, slots=True)
class Series:
    """What a converter asks for: the readings of a point, or a figure that a gateway signed. One of them is empty."""

    stream: str  # <site>/<gateway>/<device>; of a figure <site>/<gateway>/_indicators
    point: str = ""
    figure: str = ""  # its id


@dataclass(slots=True)
class Amount:
    """One series in one interval. Without a value ``readings`` is 0, and ``reasons`` says why."""

    readings: int = 0  # good and doubtful ones that have a number; of a figure 1
    expected: float | None = None  # readings by the point's period; None: not known
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    last: float | None = None  # of a figure its value, as all of the above
    unit: str = ""
    qualities: Counter[str] = field(default_factory=Counter)  # of the readings that are not good
    reasons: Counter[str] = field(default_factory=Counter)  # of the device's gaps in this interval
    packs: set[tuple[str, int]] = field(default_factory=set)  # (boot, sequence) that prove it

    @property
    def share(self) -> float | None:
        """Readings of those that were expected, at most 1."""
        return None if not self.expected else min(1.0, self.readings / self.expected)


@dataclass(frozen=True, slots=True)
class Interval:
    """``amounts`` in the order of the series; a series without any data is included."""

    start: datetime  # in the conversion's time zone
    end: datetime
    amounts: tuple[Amount, ...]


class Conversion(Protocol):
    """A converter with its mapping."""

    @property
    def series(self) -> Sequence[Series]:
        """The series that it needs."""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone by which intervals are cut."""

    @property
    def length_s(self) -> int:
        """Length of an interval: a divisor of a day; 86,400: local days."""

    def write(self, intervals: Iterable[Interval]) -> Iterator[bytes]:
        """Messages in order."""


@dataclass(frozen=True, slots=True)
class Converter:
    """The descriptor that an entry point names.

    Args:
        read_map: from a mapping file that the user wrote. Raises ConfigError.
    """

    name: str
    title: str  # in a sentence
    read_map: Callable[[Path], Conversion]


def converters() -> Mapping[str, Converter]:
    """All that are installed; an invalid one of a third party is left out with a warning."""
    found = {name: _ours(name) for name in OURS}
    for name, point in _foreign().items():
        try:
            found[name] = _loaded(point)
        except ConfigError as error:
            log.warning("%s; ignored", clean_text(str(error), 300))
    return found


def find_converter(name: str) -> Converter:
    """One of them.

    Raises:
        UsageError: unknown name; the message lists the known ones.
        ConfigError: a third party's converter is invalid.
    """
    foreign = _foreign()
    if name in OURS:
        return _ours(name)
    if name in foreign:
        return _loaded(foreign[name])
    hint = f"Known: {', '.join(sorted({*OURS, *foreign}))}"
    raise UsageError(f'unknown converter "{clean_text(name, 40)}"', where="convert", hint=hint)


def _foreign() -> dict[str, EntryPoint]:
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return {point.name: point for point in points if point.name not in OURS}


def _ours(name: str) -> Converter:
    return _checked(name, import_module(OURS[name]).CONVERTER, OURS[name])


def _loaded(point: EntryPoint) -> Converter:
    return _checked(point.name, load_point(point, f"converter {point.name} ({point.value})"), point.value)


def _checked(name: str, made: object, value: str) -> Converter:
    where = f"converter {name} ({value})"
    if not isinstance(made, Converter):
        hint = "The entry point names an object of receiver/converters: Converter"
        raise ConfigError("is not a converter descriptor", where=where, hint=hint)
    if made.name != name:
        raise ConfigError(f"is called {made.name!r}, not {name!r}", where=where)
    return made
