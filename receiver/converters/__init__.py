"""The interface of converters. A converter writes verified values of a period in another format.

A third-party package can add one: it registers a ``Converter`` in the entry point group ``meterhouse.converters``.
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
    """A series that a converter needs. It is either a point, whose readings are used, or a figure that a gateway
    signed.
    """

    stream: str  # the stream: <site>/<gateway>/<device> for a point, <site>/<gateway>/_indicators for a figure
    point: str = ""  # "" for a figure
    figure: str = ""  # id of the figure; "" for a point


@dataclass(slots=True)
class Amount:
    """One series in one interval. If there is no value, ``readings`` is 0, and ``reasons`` tells why.

    For a figure, ``mean``, ``low``, ``high`` and ``last`` are all equal to its value.
    """

    readings: int = 0  # number of numeric readings, good or doubtful; 1 for a figure
    expected: float | None = None  # number of readings in the interval according to the point's period; None: unknown
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    last: float | None = None
    unit: str = ""
    # quality -> number of readings with this quality; good readings are left out
    qualities: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  # gap reason -> number of missing readings
    packs: set[tuple[str, int]] = field(default_factory=set)  # the packs that contain the readings, as (boot, sequence)

    @property
    def share(self) -> float | None:
        """The share of the expected readings that exist, at most 1. None if the expected number is not known."""
        return None if not self.expected else min(1.0, self.readings / self.expected)


@dataclass(frozen=True, slots=True)
class Interval:
    """One interval. It has one amount for each series, even for one without data, in the order of the series."""

    start: datetime  # in the conversion's time zone
    end: datetime
    amounts: tuple[Amount, ...]


class Conversion(Protocol):
    """A converter together with its mapping."""

    @property
    def series(self) -> Sequence[Series]:
        """The series that the converter needs."""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone whose local time the intervals follow."""

    @property
    def length_s(self) -> int:
        """The length of an interval in seconds, which divides 86,400. The length 86,400 means local days."""

    def write(self, intervals: Iterable[Interval]) -> Iterator[bytes]:
        """Yield the messages for these intervals, in order."""


@dataclass(frozen=True, slots=True)
class Converter:
    """The descriptor of a converter. An entry point names it.

    Args:
        read_map: makes the conversion from a mapping file that the user has written. Raises ConfigError.
    """

    name: str
    title: str  # description for the list of formats
    read_map: Callable[[Path], Conversion]


def converters() -> Mapping[str, Converter]:
    """All installed converters by name. An invalid converter of a third party is left out, with a warning."""
    found = {name: _ours(name) for name in OURS}
    for name, point in _foreign().items():
        try:
            found[name] = _loaded(point)
        except ConfigError as error:
            log.warning("%s. This converter is ignored", clean_text(str(error), 300))
    return found


def find_converter(name: str) -> Converter:
    """The converter with this name.

    Raises:
        UsageError: the name is unknown; the error lists the known names.
        ConfigError: the converter comes from a third party and is invalid.
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
        hint = "The entry point must name a receiver.converters.Converter"
        raise ConfigError("is not a converter descriptor", where=where, hint=hint)
    if made.name != name:
        raise ConfigError(f"is called {made.name!r}, not {name!r}", where=where)
    return made
