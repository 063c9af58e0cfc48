"""Which profile fits a device: its identity first, then the plausibility of its values."""

from __future__ import annotations

import fnmatch
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

from drivers.line import Line
from drivers.model import (
    DEFAULT_PERIODS_MS,
    PACES,
    DeviceSpec,
    GatewayError,
    Kind,
    Limits,
    LineDown,
    LineLent,
    LineTimeout,
    Point,
    ProfileError,
    Quality,
    Reading,
    Reason,
)
from drivers.profile import Profile, default_dirs, list_profiles, load_profile
from drivers.registry import driver_class
from drivers.scan.caching_line import CachingLine
from ext.ring import Ring

CHECKS = (
    "device.model", "device.model.number", "device.serial", "device.firmware", "ac.frequency", "ac.voltage.l1",
    "ac.voltage.l12", "battery.soc", "battery.voltage", "ac.power.active", "device.state",
)  # fmt: skip
MOST_POINTS, FEW_POINTS = 8, 4
ANY_MAKER = "any maker"  # a profile of a protocol, not of a family: the device's model proves nothing
MANY_WEAK = 4  # this many plausible values are as good as one that only the right map gives
MOST_SILENCES = 12  # questions without an answer before the others are not asked
MOST_S, MOST_PATIENT_S = 15.0, 60.0  # of asking one device
MOST_ALIKE = 4  # likely profiles that are compared with each other
TIMEOUT_S = 0.5
SANE: Mapping[str, tuple[Decimal, Decimal]] = {  # unit -> where a true value will nearly always lie
    "Hz": (Decimal(0), Decimal(500)),  # of pumps and fans
    "V": (Decimal(0), Decimal(40000)),  # of cells, too
    "%": (Decimal(0), Decimal(120)),
    "Cel": (Decimal(-60), Decimal(250)),
}
MEDIA: Mapping[str, frozenset[int]] = {  # EN 13757-3: kind of a profile -> media of its meters
    "heat": frozenset((0x04, 0x0A, 0x0B, 0x0C, 0x0D)),
    "water": frozenset((0x06, 0x07, 0x15, 0x16, 0x17)),
    "gas": frozenset((0x03,)),
    "meter": frozenset((0x02,)),
}
TELLING: Mapping[str, tuple[Decimal, Decimal]] = {  # of the grid: a value in it says something about the map
    "Hz": (Decimal(45), Decimal(65)),
    "V": (Decimal(20), Decimal(40000)),
}


@dataclass(frozen=True, slots=True)
class Fit:
    """A profile that agrees with a device. ``how``: certain (the device says so), likely or possible."""

    profile: str
    variant: str
    how: str
    agreeing: int
    asked: int


_Ranked = tuple[tuple[int, int], Fit, dict[str, str]]


@dataclass(slots=True)
class Identity:
    """The identity that a device reports, by point name or, for function 43/14, "vendor", "product", "revision"."""

    facts: dict[str, str] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    cut_short: bool = False  # it was silent too often: not all profiles were tried


def profiles_of(protocols: Iterable[str], only: str = "", dirs: tuple[Path, ...] = ()) -> list[Profile]:
    """The profiles of these protocols in ``dirs`` (the shipped and the site's, if empty); broken ones are left out.

    `profiles check` reports those.
    """
    dirs = dirs or default_dirs()
    wanted, listed = set(protocols), list_profiles(dirs)
    state = tuple(map(_changed_ns, listed.values()))
    loaded = [_loaded(path, dirs, state) for name, path in listed.items() if not only or name == only]
    return [p for p in loaded if p is not None and p.protocol in wanted and p.vendor.lower() != "generic"]


@lru_cache(maxsize=256)
def _loaded(path: Path, dirs: tuple[Path, ...], state: tuple[int, ...]) -> Profile | None:
    """A profile, None if it is broken; a scan tries all of them with each device that it finds.

    ``state``: of all files, as a profile may extend others.
    """
    try:
        return load_profile(path, dirs)
    except ProfileError:
        return None


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # a link that leads nowhere; loading it will tell
        return 0


async def identify(
    line: Line,
    address: str,
    profiles: Sequence[Profile],
    serial: str = "",
    facts: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Identity:
    """Try ``profiles`` on one device, best first. Raises LineDown or LineLent; else a silent device fits nothing."""
    identity = Identity(dict(facts or {}))
    most_s = MOST_S if timeout_s <= TIMEOUT_S else MOST_PATIENT_S
    memory = CachingLine(line, timeout_s, MOST_SILENCES, most_s)
    ranked: list[_Ranked] = []
    no_sunspec = False
    with tempfile.TemporaryDirectory(prefix="meterhouse-scan-") as folder:
        ring = Ring.create(f"{folder}/ring", 1 << 16, 0, 0, bytes(32))  # drivers want one; nothing is kept
        try:
            for profile in profiles:
                if profile.protocol == "sunspec" and no_sunspec:
                    continue
                try:
                    found = await _try(profile, address, serial, memory, ring, identity.facts)
                except (LineDown, LineLent):
                    raise
                except GatewayError:
                    no_sunspec |= profile.protocol == "sunspec"
                    continue
                if found is not None:
                    ranked.append(found)
            ranked.sort(key=lambda entry: entry[0], reverse=True)
            identity.cut_short = memory.is_exhausted
            memory = CachingLine(line, timeout_s, MOST_SILENCES, most_s)
            await _larger_sister_first(ranked, {one.id: one for one in profiles}, memory, address, serial, ring)
        finally:
            ring.close()
    identity.fits = [fit for _, fit, _ in ranked]
    if ranked:
        identity.facts = {**ranked[0][2], **identity.facts}
    return identity


async def _larger_sister_first(
    ranked: list[_Ranked],
    profiles: Mapping[str, Profile],
    memory: CachingLine,
    address: str,
    serial: str,
    ring: Ring,
) -> None:
    """A family whose map contains another's is the better guess if the device has all of it."""
    likely = [entry for entry in ranked if entry[1].how == "likely" and profiles[entry[1].profile].protocol == "modbus"]
    if len(likely) < 2 or likely[0] is not ranked[0]:
        return
    best, known = likely[0], _registers(profiles[likely[0][1].profile])
    for entry in likely[1:MOST_ALIKE]:
        profile = profiles[entry[1].profile]
        if not known < (registers := _registers(profile)):
            continue
        points = tuple(p for p in profile.resolve(_least(profile)).points if p.kind is not Kind.TEXT)
        try:
            lacking = _lacking(points, await _read(profile, points, address, serial, memory, ring))
        except LineTimeout:
            break
        if not lacking and not memory.is_exhausted:
            best, known = entry, registers
    ranked.remove(best)
    ranked.insert(0, best)


def _registers(profile: Profile) -> frozenset[tuple[int, int]]:
    return frozenset((point.function, point.address) for point in profile.resolve(_least(profile)).points)


async def _try(
    profile: Profile, address: str, serial: str, memory: CachingLine, ring: Ring, facts: Mapping[str, str]
) -> _Ranked | None:
    params = _least(profile)
    points = _chosen(profile, profile.resolve(params).points)
    if not points or (profile.protocol == "mbus" and not _is_medium(profile.kind, facts)):
        return None
    first = points[:2] if profile.protocol == "modbus" else points
    readings = await _read(profile, first, address, serial, memory, ring)
    proof = _names_itself(
        profile, [*(str(r.value) for r in readings.values() if isinstance(r.value, str)), *facts.values()]
    )
    known = proof or profile.vendor == ANY_MAKER
    against = any(_judge(point, readings[point.name], known) < 0 for point in first)
    if not proof and (against or _lacking(first, readings) == len(first)):
        return None  # the others need not be asked
    readings = await _read(profile, points, address, serial, memory, ring)
    texts = {n: str(r.value) for n, r in readings.items() if n.startswith("device.") and r.value is not None}
    proof = _names_itself(profile, [texts.get("device.model", ""), *facts.values()])
    if profile.protocol == "sunspec":  # of any vendor: it says itself which models it has
        proof = any(point.name == profile.probe and readings[point.name].value is not None for point in points)
    judged = [_judge(point, readings[point.name], proof or profile.vendor == ANY_MAKER) for point in points]
    plus, minus = sum(j for j in judged if j > 0), sum(1 for j in judged if j < 0)
    lacking = _lacking(points, readings)
    if not proof and (minus or plus < 1 or 2 * lacking > len(points)):
        return None
    variant = profile.resolve(params, texts.get("device.firmware"), texts).variant
    strong = max(judged) >= 2 or sum(j > 0 for j in judged) >= MANY_WEAK
    how = "certain" if proof else "likely" if plus >= 3 and strong and lacking <= 1 else "possible"
    rank = {"certain": 2, "likely": 1, "possible": 0}[how]
    fit = Fit(profile.id, variant, how, sum(1 for j in judged if j > 0), len(points))
    return (rank, plus - 2 * lacking), fit, {n: t for n, t in texts.items() if _is_text(t)}


def _least(profile: Profile) -> dict[str, int | str]:
    """The parameters that an installer must give, with the smallest valid values."""
    return {
        name: param.choices[0] if param.choices else max(param.low, 1)
        for name, param in profile.params.items()
        if param.default is None
    }


def _chosen(profile: Profile, points: Sequence[Point]) -> tuple[Point, ...]:
    by_name = {point.name: point for point in points}
    if profile.protocol in ("mbus", "cjt188"):  # one answer brings all
        return tuple(points)
    names = dict.fromkeys((*profile.identity_points, profile.probe, *CHECKS))
    found = [by_name[name] for name in names if name in by_name]
    if len(found) < FEW_POINTS:  # a heat pump knows neither voltage nor frequency: its temperatures must tell
        others = [p for p in points if p not in found and p.kind is not Kind.TEXT and (p.unit in SANE or p.labels)]
        others.sort(key=lambda p: (p.optional, p.unit not in SANE))
        found += others[: MOST_POINTS - len(found)]
    return tuple((found or list(points))[:MOST_POINTS])


async def _read(
    profile: Profile, points: tuple[Point, ...], address: str, serial: str, memory: CachingLine, ring: Ring
) -> Mapping[str, Reading]:
    limits = profile.limits.over(Limits())
    spec = DeviceSpec(
        name=f"{profile.protocol} {address}",
        stream="",
        address=address,
        protocol=profile.protocol,
        profile=profile.id,
        points=points,
        periods_ms=tuple(DEFAULT_PERIODS_MS[pace] for pace in PACES),
        limits=limits,
        serial=serial,
    )
    driver = driver_class(profile.protocol)(spec, memory.as_line(), ring, 0)
    return await driver.read_points([point.name for point in points])


def _is_medium(kind: str, facts: Mapping[str, str]) -> bool:
    """Whether the medium that an M-Bus telegram named is that of the profile."""
    named = facts.get("medium", "")
    return not named.isdecimal() or kind not in MEDIA or int(named) in MEDIA[kind]


def _lacking(points: Sequence[Point], readings: Mapping[str, Reading]) -> int:
    """How many points the device should have and lacks. A point that is "not available" is there."""
    return sum(
        readings[p.name].value is None and readings[p.name].quality != Reason.SENTINEL and not p.optional
        for p in points
    )


def _names_itself(profile: Profile, words: Iterable[str]) -> bool:
    """Whether a word of the device is one of the profile's models. A pattern that fits every word proves nothing."""
    return any(
        len(word) >= 3 and fnmatch.fnmatch(word.strip().lower(), glob.lower())
        for word in words
        for glob in profile.models
        if sum(c.isalnum() for c in glob) >= 2
    )


def _judge(point: Point, reading: Reading, proof: bool) -> int:
    """2: a value that only the right map gives, 1: agrees, 0: no evidence, -1: contradicts the profile."""
    value = reading.value
    if value is None:  # missing points are counted apart: many devices lack some points of their family
        return -1 if reading.quality == Reason.MISMATCH else 0  # a unit of another kind: kWh where GJ is wanted
    if isinstance(value, str):
        return _judge_text(point, value, proof)
    if value == 0:
        return 0
    if reading.quality not in (Quality.GOOD, Quality.SUSPECT):
        return -1
    known = point.labels or point.states
    if point.kind is Kind.STATE:
        return 0 if not known else 1 if int(value) in known else -1
    tells = point.unit in TELLING and not _NO_GRID.search(point.name)
    low, high = (TELLING if tells else SANE).get(point.unit, (value, value))
    return -1 if not low <= value <= high else 2 if tells else 1


_NO_GRID = re.compile(r"cell|pump|fan|compressor|heater")


def _judge_text(point: Point, text: str, proof: bool) -> int:
    if not text.strip():
        return 0
    if not _is_text(text) or (point.name == "device.model" and not proof):
        return -1
    return 2


def _is_text(text: str) -> bool:
    return text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text and any(c.isalnum() for c in text)
