"""A loaded profile, as frozen objects, and functions that select points from it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from drivers.model import FreshnessRule, ImpossibleZeros, Limits, Point, ProfileError
from drivers.profile.vocabulary import vocabulary
from drivers.toml import show, suggestion


@dataclass(frozen=True, slots=True)
class Param:
    """A setting that the installer gives for one device, such as its number of racks. It is required or optional."""

    name: str
    default: int | str | None  # None: the installer must give a value
    low: int = 0
    high: int = 65535
    choices: tuple[str, ...] = ()
    en: str = ""
    zh: str = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """Changes to the points for certain firmware or models. They apply if all conditions are true."""

    name: str
    firmware: tuple[str, ...] = ()
    identity: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """Registers and the values they must give. The registers are: function (1 coils, 2 inputs, 3 holding, 4 input
    registers) -> address -> word.
    """

    name: str
    words: Mapping[int, Mapping[int, int]]
    expect: Mapping[str, Decimal | int | str | None]
    params: Mapping[str, int | str] = field(default_factory=dict)
    firmware: str | None = None
    identity: Mapping[str, str] = field(default_factory=dict)
    frames: Mapping[str, str] = field(default_factory=dict)  # for protocols without registers: key -> hex of the answer


@dataclass(frozen=True, slots=True)
class SecondSource:
    """An independent source with which the points were compared, and the result in English and Chinese."""

    source: str  # "": no source was found; ``en`` and ``zh`` then tell what this means for the profile
    en: str
    zh: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """The points of one device of the family. Its parameters are filled in, and its variants are applied."""

    points: tuple[Point, ...]
    variant: str  # names of the applied variants, joined by " + "; "" if none applies
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileHead:
    """The keys of a profile that are not points."""

    vendor: str
    models: tuple[str, ...]
    kind: str
    protocol: str
    source: str
    second_source: SecondSource | None  # None: the profile does not tell whether there is a second source
    evidence: str
    limits: Limits
    probe: str  # the point that is read to check whether the device answers; "": the driver chooses
    params: Mapping[str, Param]
    accuracy: str  # accuracy class, such as "0.5S"; "" if it is unknown, or differs between the models of the family
    sleeps: bool  # whether the device is silent in the dark
    caching: bool  # whether answers come from the cache of a master, so that they prove nothing about the device
    fresh: FreshnessRule | None
    impossible: tuple[ImpossibleZeros, ...]
    serial: str  # the factory setting of the device's port, such as "9600 8N1"; "" if unknown
    identity: tuple[str, ...]  # points that identify a single device, added to the usual ones
    notes: Mapping[str, str]  # notes for the installer: {"en": ..., "zh": ...}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(ProfileHead):
    """One device family. ``resolve`` returns the points of one device of the family."""

    id: str
    path: Path
    variants: tuple[Variant, ...]
    samples: tuple[Sample, ...]
    # points that identify a single device; they are checked before the device's data are accepted
    identity_points: tuple[str, ...]
    hash: str  # SHA-256 of the canonical content, base64url without padding
    _expand: Callable[[Mapping[str, int | str], frozenset[int]], tuple[tuple[Point, ...], Limits]]
    _matches: Callable[[str | None, Mapping[str, str]], frozenset[int]]
    document: Mapping[str, Any] = field(repr=False)

    @property
    def points(self) -> tuple[Point, ...]:
        """The points of a device with default parameters and unknown firmware."""
        return self.resolve().points

    def resolve(
        self,
        params: Mapping[str, int | str] | None = None,
        firmware: str | None = None,
        identity: Mapping[str, str] | None = None,
        reversed: frozenset[str] = frozenset(),
    ) -> Resolved:
        """The points of one device.

        Args:
            params: set by the installer. Parameters that are not set get the profile's defaults.
            firmware: the device's firmware text; None: it is unknown, so that no variant with a firmware condition
            applies.
            identity: texts of identity points by name (``device.model`` and so on).
            reversed: name prefixes of the points behind a reversed CT ("" means all points). The names of their import
            and export counters are exchanged. The sign of power is not changed here, but by the plan (drivers/plan/).

        Raises:
            ProfileError: a parameter is unknown, missing or outside its limits.
        """
        chosen = self._matches(firmware, identity or {})
        points, limits = self._expand(self._filled(params or {}), chosen)
        names = [v.name for i, v in enumerate(self.variants) if i in chosen]
        return Resolved(swap_reversed(points, reversed), " + ".join(names), limits)

    def each_variant(
        self, params: Mapping[str, int | str] | None = None, reversed: frozenset[str] = frozenset()
    ) -> Iterator[tuple[str, Resolved]]:
        """Yield (name, points of a device to which only this variant applies) for each variant."""
        for number, variant in enumerate(self.variants):
            points, limits = self._expand(self._filled(params or {}), frozenset({number}))
            yield variant.name, Resolved(swap_reversed(points, reversed), variant.name, limits)

    def _filled(self, given: Mapping[str, int | str]) -> dict[str, int | str]:
        where = f"profile {self.id}"
        for name in given:
            if name not in self.params:
                known = ", ".join(self.params) or "none"
                raise ProfileError(
                    f"unknown parameter {show(name)}",
                    where=where,
                    hint=suggestion(name, self.params) or f"Known: {known}",
                )
        result: dict[str, int | str] = {}
        for name, param in self.params.items():
            value = given.get(name, param.default)
            if value is None:
                raise ProfileError(f"the parameter {show(name)} is missing", where=where, hint=param.en)
            if param.choices:
                if value not in param.choices:
                    hint = f"Allowed: {', '.join(param.choices)}"
                    raise ProfileError(f"invalid value {show(value)} of parameter {name}", where=where, hint=hint)
            elif not isinstance(value, int) or isinstance(value, bool) or not param.low <= value <= param.high:
                hint = f"Write a whole number from {param.low} to {param.high}"
                raise ProfileError(f"invalid value {show(value)} of parameter {name}", where=where, hint=hint)
            result[name] = value
        return result


def select(points: Sequence[Point], globs: Sequence[str]) -> tuple[Point, ...]:
    """The points whose names match any of ``globs`` (such as ``ac.*``), in their own order. Without globs, all points.

    Raises:
        ProfileError: a glob matches no point. This is nearly always a typing error.
    """
    if not globs:
        return tuple(points)
    for glob in globs:
        if not any(fnmatch.fnmatchcase(p.name, glob) for p in points):
            hint = suggestion(glob, [p.name for p in points])
            raise ProfileError(
                f"no point matches {show(glob)}",
                where="points",
                hint=hint or "`meterhouse profiles show` lists the points of a profile",
            )
    return tuple(p for p in points if any(fnmatch.fnmatchcase(p.name, glob) for glob in globs))


def concerned(name: str, prefixes: frozenset[str]) -> bool:
    """Whether a point lies behind a reversed CT. The prefix "" matches all points. Any other prefix must end at the end
    of a word: ``grid`` does not match ``grids.x``.
    """
    return any(not p or name == p or name.startswith(p.rstrip(".") + ".") for p in prefixes)


def swap_reversed(points: tuple[Point, ...], prefixes: frozenset[str]) -> tuple[Point, ...]:
    """Exchange import and export in the names of points behind a reversed CT, because there a meter counts import as
    export.
    """
    if not prefixes:
        return points
    return tuple(replace(p, name=_swapped(p.name)) if concerned(p.name, prefixes) else p for p in points)


def _swapped(name: str) -> str:
    entry = vocabulary().find(name)
    if not entry or not entry.swap:
        return name
    own = "import" if entry.swap == "export" else "export"
    return ".".join(entry.swap if word == own else word for word in name.split("."))
