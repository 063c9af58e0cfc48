"""The seam for other formats: a converter turns verified values of a period into somebody else's bytes.

A package of its own names its ``CONVERTER`` in the entry point group ``meterhouse.converters``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from drivers.model import ConfigError, UsageError, clean_text

GROUP: Final = "meterhouse.converters"
OURS: Final = {"hj212-2017": "receiver.converters.hj212"}


@dataclass(frozen=True, slots=True)
class Series:
    """What a converter asks for: the readings of a point, or a figure that a gateway signed. One of both is empty."""

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
    """``amounts`` in the order of the series; a series of which nothing is here is in it as well."""

    start: datetime  # in the conversion's time zone
    end: datetime
    amounts: tuple[Amount, ...]


class Conversion(Protocol):
    """A converter with its mapping."""

    @property
    def series(self) -> Sequence[Series]:
        """What it needs."""

    @property
    def zone(self) -> ZoneInfo:
        """Intervals are cut by this clock."""

    @property
    def length_s(self) -> int:
        """Of an interval: a divisor of a day; 86,400: local days."""

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
    """All that are installed. Raises ConfigError where a third party's is none."""
    found = {name: _checked(name, import_module(module).CONVERTER, module) for name, module in OURS.items()}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name in OURS:
            continue
        try:
            made = point.load()
        except (ImportError, AttributeError) as error:
            where = f"converter {point.name} ({point.value})"
            raise ConfigError(f"cannot be loaded: {error}", where=where, hint="Is its package complete?") from error
        found[point.name] = _checked(point.name, made, point.value)
    return found


def find_converter(name: str) -> Converter:
    """Raises UsageError with the names that there are."""
    found = converters()
    if name not in found:
        hint = f"There are {', '.join(sorted(found))}"
        raise UsageError(f'unknown converter "{clean_text(name, 40)}"', where="convert", hint=hint)
    return found[name]


def _checked(name: str, made: object, value: str) -> Converter:
    where = f"converter {name} ({value})"
    if not isinstance(made, Converter):
        hint = "The entry point names an object of receiver/converters: Converter"
        raise ConfigError("is not the descriptor of a converter", where=where, hint=hint)
    if made.name != name:
        raise ConfigError(f"is called {made.name!r}, not {name!r}", where=where)
    return made
