"""Points of a profile onto the models of one device, and these onto the fewest reads."""

from __future__ import annotations

import logging
import re
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from drivers.modbus.registers import Read
from drivers.modbus.requests import read_request
from drivers.model import ConfigError, DeviceSpec, Kind, Point, Quality
from drivers.plan import Block, LineTiming, TextSlot, add_point
from drivers.profile import concerned
from drivers.sunspec.models import NUMBERS, Model, ModelOffset
from drivers.sunspec.names import UNITS
from drivers.sunspec.walk import ModelChain
from drivers.units import unit_factor
from ext.decode import Plan

HOLDING = 3  # the function that reads all of it
_log = logging.getLogger("meterhouse.sunspec")
_ALIASES = {"inverter": (101, 102, 103, 111, 112, 113), "meter": (201, 202, 203, 204, 211, 212, 213, 214)}
_ALTERNATIVE = re.compile(r"([a-z0-9]+(?:,[a-z0-9]+)*)(?::(\d{1,2}))?\.([A-Za-z][\w.\[\]]*)")
_KERNEL_TYPES = {"h": "i16", "H": "u16", "i": "i32", "I": "u32", "q": "i64", "Q": "u64", "f": "f32", "d": "f64"}
TYPES: Mapping[str, str] = {  # SunSpec type -> the kernel's
    kind: _KERNEL_TYPES[code] for kind, (code, _) in NUMBERS.items() if kind not in ("sunssf", "ipaddr")
}

Alternative = tuple[tuple[int, ...], int, str]  # models, which of several equal ones from 1, point


def alternatives(key: str, where: str) -> list[Alternative]:
    """The alternatives that a key names, in order of preference. Raises ConfigError."""
    found: list[Alternative] = []
    for text in key.split("|"):
        match = _ALTERNATIVE.fullmatch(text.strip())
        words = match[1].split(",") if match else []
        if match is None or not all(w.isdigit() or w in _ALIASES for w in words):
            raise ConfigError(
                f"key {key!r} names no point of a SunSpec model",
                where=where,
                hint='Such as "103.W", "inverter.WH|701.TotWhInj", "203:2.W" or "160.module[0].DCW"',
            )
        models = tuple(m for w in words for m in (_ALIASES[w] if w in _ALIASES else (int(w),)))
        found.append((models, int(match[2] or 1), match[3]))
    return found


@dataclass(frozen=True, slots=True)
class RegisterLocation:
    """Where a device has a point: addresses of holding registers."""

    point: int  # number in the spec
    address: int
    place: ModelOffset
    scale_at: int | None  # address of its scale factor

    @property
    def begin(self) -> int:
        return self.address if self.scale_at is None else min(self.address, self.scale_at)

    @property
    def end(self) -> int:
        own = self.address + self.place.point.size
        return own if self.scale_at is None else max(own, self.scale_at + 1)


def find_locations(device: ModelChain, spec: DeviceSpec, most: int, where: str) -> dict[int, RegisterLocation]:
    """Point number -> location, for the points that this device has."""
    by_id: dict[int, list[Model]] = {}
    for model in device.models:
        by_id.setdefault(model.id, []).append(model)
    locations: dict[int, RegisterLocation] = {}
    for number, point in enumerate(spec.points):
        for model, name in _candidates(point, by_id, where):
            place = model.places.get(name)
            if place is None or not _fits(point, place, where):
                continue
            scale_at = None if place.scale_at is None else model.address + place.scale_at
            location = RegisterLocation(number, model.address + place.offset, place, scale_at)
            if location.end - location.begin > most:
                _log.warning("%s: the scale factor of %s is more than %d registers away", where, point.name, most)
                continue
            locations[number] = location
            break
    return locations


def _candidates(point: Point, by_id: Mapping[int, list[Model]], where: str) -> Iterable[tuple[Model, str]]:
    """Models that may give a point: those that implement it (when they were found) before those that do not now."""
    later: list[tuple[Model, str]] = []
    for models, nth, name in alternatives(point.key, where):
        for id in models:
            if len(by_id.get(id, ())) >= nth:
                model = by_id[id][nth - 1]
                found = model.points.get(name)
                if found is not None and found.raw is not None:
                    yield model, name
                else:
                    later.append((model, name))
    yield from later


def _fits(point: Point, place: ModelOffset, where: str) -> bool:
    is_text = place.point.type == "string"
    if is_text or point.kind is Kind.TEXT:
        return is_text and point.kind is Kind.TEXT
    if place.point.type not in TYPES or struct.calcsize(NUMBERS[place.point.type][0]) != 2 * place.point.size:
        return False
    have = UNITS.get(place.point.unit, place.point.unit)
    if point.kind is Kind.STATE or unit_factor(have, point.unit) is not None:
        return True
    _log.warning("%s: %s: the model gives %r, the profile expects %r", where, point.name, have, point.unit)
    return False


def build_reads(
    locations: Sequence[RegisterLocation], spec: DeviceSpec, most: int, timing: LineTiming, where: str
) -> list[Read]:
    """The reads that cover ``locations``: what lies between two is read over where that is cheaper than asking twice.

    All of it lies within the chain of models, which a device must answer throughout.
    """
    groups: list[tuple[int, int, list[RegisterLocation]]] = []
    for location in sorted(locations, key=lambda s: (s.begin, s.end)):
        if groups:
            begin, end, members = groups[-1]
            joint = max(end, location.end) - begin
            apart = timing.cost_ns(2 * (end - begin)) + timing.cost_ns(2 * (location.end - location.begin))
            if joint <= most and (location.begin < end or timing.cost_ns(2 * joint) <= apart):
                groups[-1] = begin, max(end, location.end), [*members, location]
                continue
        groups.append((location.begin, location.end, [location]))
    return [_compiled(begin, end, members, spec, where) for begin, end, members in groups]


def _compiled(begin: int, end: int, members: list[RegisterLocation], spec: DeviceSpec, where: str) -> Read:
    plan, factors, counters = (Plan(2 * (end - begin)) for _ in range(3))
    block = Block(HOLDING, begin, end - begin, tuple(location.point for location in members))
    texts: list[TextSlot] = []
    for location in members:
        point = spec.points[location.point]
        if point.kind is Kind.TEXT:
            texts.append(TextSlot(location.point, 2 * (location.address - begin), 2 * location.place.point.size))
            continue
        power_at = -1 if location.scale_at is None else 2 * (location.scale_at - begin)
        wanted = [factors if is_factor(point) else plan, *([counters] if point.kind is Kind.COUNTER else ())]
        for one in wanted:
            add_point(one, location.point, _placed(point, location), block, spec, power_at)
    return Read(
        block,
        read_request(int(spec.address), HOLDING, begin, end - begin, where),
        plan if plan.points else None,
        counters if counters.points else None,
        tuple(texts),
        memoryview(array("H", block.points)),
        factors=factors if factors.points else None,
    )


def is_factor(point: Point) -> bool:
    """Whether a point is a power factor."""
    return ".power.factor" in f".{point.name}" and point.kind is Kind.GAUGE


def share_of(number: int, mantissa: int, exponent: int, quality: int, spec: DeviceSpec) -> tuple[Decimal, int]:
    """(a power factor as a share of 1, its quality): devices send shares and percents, whatever the unit says."""
    point = spec.points[number]
    value = Decimal(mantissa).scaleb(exponent)
    if abs(value) > 1:
        value /= 100
    if (point.low is not None and value < point.low) or (point.high is not None and value > point.high):
        quality = Quality.RANGE
    return (-value if point.flips and concerned(point.name, spec.reversed) else value), quality


def _placed(point: Point, location: RegisterLocation) -> Point:
    """A point where this device has it, as the map of another device would say it."""
    definition = location.place.point
    plain = point.kind is Kind.STATE or is_factor(point)
    factor = None if plain else unit_factor(UNITS.get(definition.unit, definition.unit), point.unit)
    placed = replace(
        point,
        address=location.address,
        type=TYPES[definition.type],
        scale=(factor or Decimal(1)).scaleb(location.place.power) * point.scale,
        sentinels=(0,) if definition.type.startswith("acc") and point.sentinels is None else point.sentinels,
    )
    return replace(placed, low=None, high=None, flips=False) if is_factor(point) else placed
