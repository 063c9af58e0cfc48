"""Finds the profile that fits a device: first by the device's identity, then by the plausibility of its values."""

from __future__ import annotations

import fnmatch
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from drivers.line import Line, Request
from drivers.model import (
    DEFAULT_PERIODS_MS,
    PACES,
    DeviceSpec,
    GatewayError,
    Kind,
    LineDown,
    LineLent,
    LineTimeout,
    Point,
    ProfileError,
    Quality,
    Reading,
    Reason,
)
from drivers.plausibility import order_that_fits
from drivers.profile import Profile, default_dirs, list_profiles, load_profile
from drivers.raw_registers import RegisterRange
from drivers.registry import driver_class, protocol_of
from drivers.scan.caching_line import CachingLine
from drivers.scan.register_block import find_block
from ext.ring import Ring

CHECKS = (
    "device.model", "device.model.number", "device.serial", "device.firmware", "ac.frequency", "ac.voltage.l1",
    "ac.voltage.l12", "battery.soc", "battery.voltage", "ac.power.active", "device.state",
)  # fmt: skip
MOST_POINTS, FEW_POINTS = 8, 4
# Values of "vendor" in profiles that suit any device of a protocol. For these profiles, the model that a device reports
# proves nothing. Old files have "any maker".
ANY_MANUFACTURER = frozenset({"any manufacturer", "any maker"})
TELLS = 2  # result of ``_judge`` for a value that only the right register map gives
MANY_TELLING = 3  # once this many values had the result ``TELLS``, a brief trial skips unrelated families
MANY_WEAK = 4  # this many agreeing values are as good as one value with the result ``TELLS``
MOST_SILENCES = 12  # after this many timeouts of a device, no further profile is tried on it
TO_COMPARE = 0.25  # time for the final comparison of similar profiles, as a share of the time for trying profiles
MOST_ALIKE = 4  # at most this many likely profiles are compared with each other
TIMEOUT_S = 0.5
SANE: Mapping[str, tuple[Decimal, Decimal]] = {  # unit -> range in which nearly all true values lie
    "Hz": (Decimal(0), Decimal(500)),  # wide enough for the drives of pumps and fans
    "V": (Decimal(0), Decimal(40000)),  # wide enough for battery cells
    "%": (Decimal(0), Decimal(120)),
    "Cel": (Decimal(-60), Decimal(250)),
}
TELLING: Mapping[str, tuple[Decimal, Decimal]] = {  # unit -> range in power grids; values in it speak for the profile
    "Hz": (Decimal(45), Decimal(65)),
    "V": (Decimal(20), Decimal(40000)),
}
# the same for values that do not include the ratio of a voltage transformer: no meter measures a higher voltage itself
TELLING_SECONDARY: Mapping[str, tuple[Decimal, Decimal]] = {**TELLING, "V": (Decimal(20), Decimal(1000))}
LEAST_WORDS = 4  # this many registers with the same content show that a device fills its registers with one word


@dataclass(frozen=True, slots=True)
class Fit:
    """A profile that agrees with a device. ``how`` is certain (the device reports its model), likely or possible."""

    profile: str
    variant: str
    how: str
    agreeing: int
    asked: int
    # whether at least ``MANY_TELLING`` values were read that only the right register map gives
    is_telling: bool = False


_Ranked = tuple[tuple[int, int], Fit, dict[str, str]]


@dataclass(slots=True)
class Identity:
    """The result of identifying one device. ``facts`` are its identity texts, by point name.

    The texts of function 43/14 have the names "vendor", "product" and "revision".
    """

    facts: dict[str, str] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    cut_short: bool = False  # whether profiles were left untried, after too many timeouts or for lack of time
    has_answered: bool = False  # whether the device answered anything, even with a refusal
    is_garbled: bool = False  # whether bytes were received that are not a valid frame
    answer_s: float = 0.0  # the device's usual time from request to answer
    block: RegisterRange | None = None  # if no profile fits: registers that the device answers
    reordered: tuple[str, str] | None = (
        None  # if no profile fits: (id of a profile that would fit with another byte order, this byte order)
    )


@dataclass(frozen=True, slots=True)
class Effort:
    """Limits for trying profiles on one device. ``brief``: when a profile fits, only similar profiles are still tried.

    ``timeout_s`` limits the wait for one answer. After ``most_s`` seconds, no further request begins. The last request
    may end later, in particular if it is repeated because of a broken answer.
    """

    timeout_s: float = TIMEOUT_S
    most_s: float = 15.0
    brief: bool = False
    silences: int = MOST_SILENCES


THOROUGH = Effort()


def profiles_of(protocols: Iterable[str], only: str = "", dirs: tuple[Path, ...] = ()) -> list[Profile]:
    """The profiles of these protocols in ``dirs``. If ``dirs`` is empty, those in the site's and the shipped folder.

    Broken profiles are left out; `profiles check` reports them.
    """
    dirs = dirs or default_dirs()
    wanted = set(protocols)
    loaded = [_loaded(path, dirs) for name, path in list_profiles(dirs).items() if not only or name == only]
    return [p for p in loaded if p is not None and p.protocol in wanted and p.vendor.lower() != "generic"]


def _loaded(path: Path, dirs: tuple[Path, ...]) -> Profile | None:
    try:
        return load_profile(path, dirs)
    except ProfileError:
        return None


async def identify(
    line: Line,
    address: str,
    profiles: Sequence[Profile],
    serial: str = "",
    facts: Mapping[str, str] | None = None,
    effort: Effort = THOROUGH,
    make_request: Callable[[int, int, int, int, str], Request] | None = None,
) -> Identity:
    """Try ``profiles`` on one device. The best fit comes first. No profile fits a silent device. Raises LineDown or
    LineLent.

    The profiles are tried in the given order, which matters only if ``effort`` is brief. ``make_request`` makes
    requests for registers. If it is given and no profile fits, the function also searches for registers that the device
    answers.
    """
    identity = Identity(dict(facts or {}))
    try_s = effort.most_s / (1 + TO_COMPARE)
    memory = CachingLine(line, effort.timeout_s, effort.silences, try_s, hasty=effort.brief)
    with tempfile.TemporaryDirectory(prefix="meterhouse-scan-") as folder:
        ring = Ring.create(f"{folder}/ring", 1 << 16, 0, 0, bytes(32))  # drivers need a ring; its content is not used
        trial = _Trial(address, serial, memory, ring, identity.facts)
        try:
            ranked = await trial.run(profiles, effort.brief)
            identity.cut_short = memory.is_exhausted and not (effort.brief and _settled(ranked))
            memory.allow(effort.most_s - try_s)
            await trial.larger_sister_first(ranked, {one.id: one for one in profiles})
            if not ranked and memory.has_answered and make_request is not None:
                identity.block = await find_block(memory, make_request, int(address), serial)
        finally:
            ring.close()
    identity.fits = [fit for _, fit, _ in ranked]
    identity.has_answered, identity.is_garbled = memory.has_answered, memory.is_garbled
    identity.answer_s = memory.answer_s
    if trial.reordered and not ranked:
        _, *best = max(trial.reordered)
        identity.reordered = (best[0], best[1])
    if ranked:
        identity.facts = {**ranked[0][2], **identity.facts}
    return identity


def _settled(ranked: Sequence[_Ranked]) -> str:
    """``certain`` or ``likely`` if a profile fits so well that no other profile need be tried. Otherwise ""."""
    hows = {fit.how for _, fit, _ in ranked if fit.is_telling or fit.how == "certain"}
    return next((how for how in ("certain", "likely") if how in hows), "")


class _Trial:
    """Tries profiles on one device."""

    def __init__(self, address: str, serial: str, memory: CachingLine, ring: Ring, facts: Mapping[str, str]) -> None:
        self._address, self._serial, self._memory, self._ring, self._facts = address, serial, memory, ring, facts
        self._silent: set[str] = set()  # protocols whose devices always report a model, but this one did not
        self._brief = False
        # profiles that would fit with another byte order: (number of points, profile, order)
        self.reordered: list[tuple[int, str, str]] = []

    async def run(self, profiles: Sequence[Profile], brief: bool) -> list[_Ranked]:
        """The profiles that fit, best first.

        If ``brief``, only one point of each profile is read first. If no profile fits well enough, the profiles whose
        first point is missing are tried again with two points.
        """
        ranked: list[_Ranked] = []
        self._brief = brief
        lacking = await self._round(profiles, ranked, 1 if brief else 2, brief)
        if brief and not _settled(ranked):
            await self._round(lacking, ranked, 2, brief)
        ranked.sort(key=lambda entry: entry[0], reverse=True)
        return ranked

    async def _round(
        self, profiles: Sequence[Profile], ranked: list[_Ranked], first: int, brief: bool
    ) -> list[Profile]:
        """Read the first points of each profile. If they agree with the profile, read its other points, too.

        Returns the profiles whose first points are all missing in the device.
        """
        lacking: list[Profile] = []
        for profile in profiles:
            if profile.protocol in self._silent:
                continue
            if brief and not self._may_fit_better(profile, ranked):
                continue
            try:
                found = await self._try(profile, first)
            except (LineDown, LineLent):
                raise
            except GatewayError:
                if protocol_of(profile.protocol).tells_its_model:
                    self._silent.add(profile.protocol)
                continue
            if isinstance(found, tuple):
                ranked.append(found)
            elif found:
                lacking.append(profile)
        return lacking

    def _may_fit_better(self, profile: Profile, ranked: Sequence[_Ranked]) -> bool:
        """Whether a profile may fit better than the profiles found so far.

        After a certain fit, only a profile with the same model can fit better. After a likely fit, only a profile of
        the same maker or with the same registers can.
        """
        how = _settled(ranked)
        if how == "certain":
            return _names_itself(profile, [text for _, fit, texts in ranked for text in texts.values()])
        if not how or any(fit.profile.partition("/")[0] == profile.id.partition("/")[0] for _, fit, _ in ranked):
            return True
        points = _chosen(profile, profile.resolve(least_params(profile)).points)[:2]
        return self._memory.has_all({(point.function, point.address) for point in points})

    async def _try(self, profile: Profile, first: int) -> _Ranked | bool:
        """Try a profile. Returns its fit, or True if the device lacks all first points, or False if the profile does
        not fit for another reason.
        """
        params = least_params(profile)
        points = _chosen(profile, profile.resolve(params).points)
        if not points:
            return False
        protocol = protocol_of(profile.protocol)
        begin = points[:first] if protocol.maps_registers else points
        readings = await self._read(profile, begin)
        words = [*(str(r.value) for r in readings.values() if isinstance(r.value, str)), *self._facts.values()]
        proof = _names_itself(profile, words)
        known = proof or profile.vendor in ANY_MANUFACTURER
        if not proof and any(_judge(point, readings[point.name], known) < 0 for point in begin):
            await self._try_other_order(profile, points, begin, readings)
            return False
        if not proof and _lacking(profile, begin, readings) == len(begin):
            return True  # the device lacks all first points, so the other points are not read
        readings = await self._read(profile, points)
        if not proof and protocol.maps_registers and _is_filled(readings.values()):
            return False
        texts = {n: str(r.value) for n, r in readings.items() if n.startswith("device.") and r.value is not None}
        proof = _names_itself(profile, [texts.get("device.model", ""), *self._facts.values()])
        if protocol.tells_its_model:  # any valid answer proves that this profile fits, whatever the vendor is
            proof = any(point.name == profile.probe and readings[point.name].value is not None for point in points)
        judged = [_judge(point, readings[point.name], proof or profile.vendor in ANY_MANUFACTURER) for point in points]
        plus, minus = sum(j for j in judged if j > 0), sum(1 for j in judged if j < 0)
        lacking = _lacking(profile, points, readings)
        if not proof and (minus or plus < 1 or 2 * lacking > len(points)):
            return False
        variant = profile.resolve(params, texts.get("device.firmware"), texts).variant
        strong = max(judged) >= TELLS or sum(j > 0 for j in judged) >= MANY_WEAK
        how = "certain" if proof else "likely" if plus >= 3 and strong and lacking <= 1 else "possible"
        rank = {"certain": 2, "likely": 1, "possible": 0}[how]
        is_telling = sum(j >= TELLS for j in judged) >= MANY_TELLING
        fit = Fit(profile.id, variant, how, sum(1 for j in judged if j > 0), len(points), is_telling)
        return (rank, plus - 2 * lacking), fit, {n: t for n, t in texts.items() if _is_text(t)}

    async def _try_other_order(
        self, profile: Profile, points: tuple[Point, ...], begin: Sequence[Point], readings: Mapping[str, Reading]
    ) -> None:
        """Record the profile if it would fit with another byte order. Reads all its points only if the first ones
        suggest this.
        """
        spec = _spec(profile, points, self._address, self._serial)
        order, found = order_that_fits(spec, readings)
        if self._brief or len(found) < len(begin):
            return
        all_found = order_that_fits(spec, await self._read(profile, points))
        if all_found[0] == order and len(all_found[1]) >= MANY_TELLING:
            self.reordered.append((len(all_found[1]), profile.id, order))

    async def larger_sister_first(self, ranked: list[_Ranked], profiles: Mapping[str, Profile]) -> None:
        """Choose between the best profile and larger ones that contain it.

        A likely profile is put first under two conditions: it has more registers than the best profile and includes all
        of that profile's registers, and the device has all registers of the larger profile.
        """
        likely = [one for one in ranked if one[1].how == "likely" and _maps_registers(profiles[one[1].profile])]
        if len(likely) < 2 or likely[0] is not ranked[0]:
            return
        best, known = likely[0], _registers(profiles[likely[0][1].profile])
        for entry in likely[1:MOST_ALIKE]:
            profile = profiles[entry[1].profile]
            if not known < (registers := _registers(profile)):
                continue
            points = tuple(p for p in profile.resolve(least_params(profile)).points if p.kind is not Kind.TEXT)
            try:
                lacking = _lacking(profile, points, await self._read(profile, points))
            except LineTimeout:
                break
            if not lacking and not self._memory.is_exhausted:
                best, known = entry, registers
        ranked.remove(best)
        ranked.insert(0, best)

    async def _read(self, profile: Profile, points: tuple[Point, ...]) -> Mapping[str, Reading]:
        return await read_points(self._memory.as_line(), self._ring, profile, points, self._address, self._serial)


async def read_points(
    line: Line, ring: Ring, profile: Profile, points: tuple[Point, ...], address: str, serial: str
) -> Mapping[str, Reading]:
    """Read points of a device that may fit a profile. Raises LineError if the device is silent."""
    driver = driver_class(profile.protocol)(_spec(profile, points, address, serial), line, ring, 0)
    return await driver.read_points([point.name for point in points])


def _spec(profile: Profile, points: tuple[Point, ...], address: str, serial: str) -> DeviceSpec:
    return DeviceSpec(
        name=f"{profile.protocol} {address}",
        stream="",
        address=address,
        protocol=profile.protocol,
        profile=profile.id,
        points=points,
        periods_ms=tuple(DEFAULT_PERIODS_MS[pace] for pace in PACES),
        limits=profile.limits,
        serial=serial,
    )


def _registers(profile: Profile) -> frozenset[tuple[int, int]]:
    return frozenset((point.function, point.address) for point in profile.resolve(least_params(profile)).points)


def least_params(profile: Profile) -> dict[str, int | str]:
    """The required parameters of a profile. Each has its smallest valid value, or the first of its choices."""
    return {
        name: param.choices[0] if param.choices else max(param.low, 1)
        for name, param in profile.params.items()
        if param.default is None
    }


def _chosen(profile: Profile, points: Sequence[Point]) -> tuple[Point, ...]:
    by_name = {point.name: point for point in points}
    if protocol_of(profile.protocol).one_answer:
        return tuple(points)
    names = dict.fromkeys((*profile.identity_points, profile.probe, *CHECKS))
    found = [by_name[name] for name in names if name in by_name]
    # a device such as a heat pump has neither voltage nor frequency, so its temperatures are used
    if len(found) < FEW_POINTS:
        others = [p for p in points if p not in found and p.kind is not Kind.TEXT and (p.unit in SANE or p.labels)]
        others.sort(key=lambda p: (p.optional, p.unit not in SANE))
        found += others[: MOST_POINTS - len(found)]
    return tuple((found or list(points))[:MOST_POINTS])


def _maps_registers(profile: Profile) -> bool:
    return protocol_of(profile.protocol).maps_registers


def _lacking(profile: Profile, points: Sequence[Point], readings: Mapping[str, Reading]) -> int:
    """The number of points that the device should have but lacks. A point that is answered "not available" exists.

    If a protocol has one profile for all makers, texts do not count: each maker has other texts, with other lengths.
    """
    wanted = [
        p for p in points if not p.optional and (p.kind is not Kind.TEXT or profile.vendor not in ANY_MANUFACTURER)
    ]
    return sum(readings[p.name].value is None and readings[p.name].quality != Reason.SENTINEL for p in wanted)


def _names_itself(profile: Profile, words: Iterable[str]) -> bool:
    """Whether a word that the device reports is one of the profile's models.

    A pattern that matches every word proves nothing, so it does not count.
    """
    return any(
        len(word) >= 3 and fnmatch.fnmatch(word.strip().lower(), glob.lower())
        for word in words
        for glob in profile.models
        if sum(c.isalnum() for c in glob) >= 2
    )


def _judge(point: Point, reading: Reading, proof: bool) -> int:
    """Judge a profile by one value.

    Returns 2 if only the right register map gives this value, 1 if the value agrees, 0 if it proves nothing, and -1 if
    it contradicts the profile.
    """
    value = reading.value
    if value is None:  # ``_lacking`` counts missing points: many devices lack some points of their family
        # the unit is another one, such as kWh instead of GJ
        is_other_unit = reading.quality == Reason.MISMATCH and point.kind is not Kind.TEXT
        return -1 if is_other_unit else 0
    if isinstance(value, str):
        # registers of zeros prove nothing, even if the form of the text adds letters
        return 0 if point.text and not any(reading.raw) else _judge_text(point, value, proof)
    if value == 0 or _is_all_ones(point, value):
        return 0
    if reading.quality not in (Quality.GOOD, Quality.SUSPECT):
        return -1
    known = point.labels or point.states
    if point.kind is Kind.STATE:
        return 0 if not known else 1 if int(value) in known else -1
    tells = point.unit in TELLING and not _NO_GRID.search(point.name)
    telling = TELLING_SECONDARY if point.ratio == "apply" else TELLING
    low, high = (telling if tells else SANE).get(point.unit, (value, value))
    return -1 if not low <= value <= high else 2 if tells else 1


def _is_filled(readings: Iterable[Reading]) -> bool:
    """Whether all registers that were read contain the same word. Some controllers fill unused registers in this way.
    Then the values may lie in any range, and prove nothing.
    """
    raw = b"".join(reading.raw for reading in readings)
    return len(raw) >= 2 * LEAST_WORDS and raw == raw[:2] * (len(raw) // 2)


def _is_all_ones(point: Point, value: Decimal | int) -> bool:
    """Whether each register of a value is FFFF, which servers send for a missing device. (A counter of minus one looks
    the same.)
    """
    raws = (-1, (1 << 16 * point.count) - 1)
    return value in [(raw + point.offset) * point.scale for raw in raws]


_NO_GRID = re.compile(r"cell|pump|fan|compressor|heater")


def _judge_text(point: Point, text: str, proof: bool) -> int:
    if not text.strip(" .0"):  # zeros and blanks prove nothing
        return 0
    if not _is_text(text) or (point.name == "device.model" and not proof):
        return -1
    return 2


def _is_text(text: str) -> bool:
    return text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text and any(c.isalnum() for c in text)
