"""Maps the points of a profile to the models of one device."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal

from drivers.model import ConfigError, DeviceSpec, Kind, Point
from drivers.sunspec.models import NUMBERS, Model, ModelOffset
from drivers.sunspec.names import UNITS
from drivers.sunspec.walk import ModelChain
from drivers.units import unit_factor

HOLDING = 3  # the function that reads all SunSpec registers
_log = logging.getLogger("meterhouse.sunspec")
_ALIASES = {"inverter": (101, 102, 103, 111, 112, 113), "meter": (201, 202, 203, 204, 211, 212, 213, 214)}
_ALTERNATIVE = re.compile(r"([a-z0-9]+(?:,[a-z0-9]+)*)(?::(\d{1,2}))?\.([A-Za-z][\w.\[\]]*)")
_KERNEL_TYPES = {"h": "i16", "H": "u16", "i": "i32", "I": "u32", "q": "i64", "Q": "u64", "f": "f32", "d": "f64"}
TYPES: Mapping[str, str] = {  # SunSpec type -> type of the decode kernel
    kind: _KERNEL_TYPES[code] for kind, (code, _) in NUMBERS.items() if kind not in ("sunssf", "ipaddr")
}

Alternative = tuple[tuple[int, ...], int, str]  # (model ids, which of several equal models (counted from 1), point)


def alternatives(key: str, where: str) -> list[Alternative]:
    """The alternatives in a key, in order of preference. Raises ConfigError."""
    found: list[Alternative] = []
    for text in key.split("|"):
        match = _ALTERNATIVE.fullmatch(text.strip())
        words = match[1].split(",") if match else []
        if match is None or not all(w.isdigit() or w in _ALIASES for w in words):
            raise ConfigError(
                f"key {key!r} is not a point of a SunSpec model",
                where=where,
                hint='Such as "103.W", "inverter.WH|701.TotWhInj", "203:2.W" or "160.module[0].DCW"',
            )
        models = tuple(m for w in words for m in (_ALIASES[w] if w in _ALIASES else (int(w),)))
        found.append((models, int(match[2] or 1), match[3]))
    return found


def find_points(device: ModelChain, spec: DeviceSpec, most: int, where: str) -> dict[int, Point]:
    """Find the points that this device has. Returns point number -> point with its register address."""
    by_id: dict[int, list[Model]] = {}
    for model in device.models:
        by_id.setdefault(model.id, []).append(model)
    found: dict[int, Point] = {}
    for number, point in enumerate(spec.points):
        for model, name in _candidates(point, by_id, where):
            place = model.places.get(name)
            if place is None or not _fits(point, place, where):
                continue
            placed = _placed(point, place, model.address)
            if placed.span[1] - placed.span[0] > most:
                _log.warning(
                    "%s: %s is not read from this model, because its scale factor is more than %d registers away",
                    where,
                    point.name,
                    most,
                )
                continue
            found[number] = placed
            break
    return found


def _candidates(point: Point, by_id: Mapping[int, list[Model]], where: str) -> Iterable[tuple[Model, str]]:
    """Yield the models that may have a point. Models that implemented it when they were found come first."""
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
    _log.warning("%s: %s: the model has the unit %r, but the profile expects %r", where, point.name, have, point.unit)
    return False


def _placed(point: Point, place: ModelOffset, address: int) -> Point:
    """The point with its register address, from its place in the model at ``address``.

    Devices send power factors as shares of 1 or as percentages, so such a point accepts both.
    """
    definition = place.point
    share = ".power.factor" in f".{point.name}" and point.kind is Kind.GAUGE
    plain = point.kind in (Kind.STATE, Kind.TEXT) or share
    factor = None if plain else unit_factor(UNITS.get(definition.unit, definition.unit), point.unit)
    return replace(
        point,
        address=address + place.offset,
        function=HOLDING,
        count=definition.size,
        type=TYPES.get(definition.type, "str"),
        scale=(factor or Decimal(1)).scaleb(place.power) * point.scale,
        scale_at=None if place.scale_at is None else address + place.scale_at,
        share=share,
        sentinels=(0,) if definition.type.startswith("acc") and point.sentinels is None else point.sentinels,
    )
