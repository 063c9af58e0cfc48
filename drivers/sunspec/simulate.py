"""Simulates a SunSpec device that shows its part of a park: the points of its profile, laid out in models.

It uses the models with integers and scale factors: 103 and 160 for an inverter, 203 for a meter, 802 for a storage.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial

from drivers.model import Kind, Point, UsageError
from drivers.profile import Profile, Resolved
from drivers.sim.display import Display, ParkClock
from drivers.sim.facts import FactLookup
from drivers.sim.families import register_device
from drivers.sim.slots import SLOW_LINE, ParkSlot
from drivers.sunspec.models import END_MODEL, NUMBERS, GroupDef, ModelOffset, PointDef, decode_model, definition
from drivers.sunspec.names import UNITS
from drivers.sunspec.plan import TYPES, alternatives
from drivers.sunspec.walk import MARKER
from drivers.units import unit_factor

DEMO = ParkSlot(
    "inv3",
    "门卫屋顶 / gatehouse roof",
    "meters",
    3,
    "sunspec/inverter",
    "pv3",
    {"ac": "generation.pv"},
    texts={"device.vendor": "Acme", "device.model": "Sun 12", "device.firmware": "1.4"},
    every={"fast": "10 s", **SLOW_LINE},
    points=("ac.*", "dc.power", "dc.mppt.1.*", "dc.mppt.2.*", "device.state", "device.model", "device.firmware"),
)

Raw = int | float | str
BASE = 40000
MODELS: Mapping[str, tuple[int, ...]] = {"inverter": (1, 103, 160), "meter": (1, 203), "storage": (1, 802)}
_POWERS = {"A": -1, "V": -1, "Hz": -2, "": -3, "%": -1, "Cel": -1, "Wh": 0}  # unit -> scale factor
# above this rated power, powers are sent in steps of 10 W, because in W they would not fit in 16 bits
LARGE_W = 30_000.0


def _display(
    profile: Profile, found: Resolved, role: str, clock: ParkClock, seed: int, texts: Mapping[str, str]
) -> Display:
    """A display whose image is the device's chain of models. Points whose quantity the park lacks are "not
    implemented".
    """
    book = FactLookup(role, clock.physics)
    wanted = _wanted(profile, lambda name: book.get(name) is not None)
    words, at = list(MARKER), BASE + len(MARKER)
    shown: list[Point] = []
    for model in _models(profile):
        mine = {name: point for (of, name), point in wanted.items() if of == model}
        values = _initial(model, mine, _power_of_watts(role, clock))
        registers = model_registers(model, values)
        places = decode_model(at, registers).places
        shown += [_placed(point, places[name], at, values) for name, point in mine.items()]
        words += registers
        at += len(registers)
    words += [END_MODEL, 0]
    ordered = {point.name: n for n, point in enumerate(profile.points)}
    shown.sort(key=lambda point: ordered[point.name])
    display = Display(clock, tuple(shown), role, seed=seed, texts=texts)
    display.image.put_words(BASE, words)
    for point in shown:
        if point.kind is Kind.TEXT:
            display.image.set(point, display.texts[point.name])
    display.write_all()
    return display


simulate = partial(register_device, make_display=_display)


def _models(profile: Profile) -> tuple[int, ...]:
    if profile.kind not in MODELS:
        raise UsageError(
            f"the simulator has no SunSpec models for a {profile.kind}",
            where=profile.id,
            hint=f"Choose one of {', '.join(MODELS)}",
        )
    return MODELS[profile.kind]


def _wanted(profile: Profile, knows: Callable[[str], bool]) -> dict[tuple[int, str], Point]:
    """Return (model, point of the model) -> point of the profile."""
    found: dict[tuple[int, str], Point] = {}
    mine = _models(profile)
    for point in profile.points:
        if point.kind in (Kind.GAUGE, Kind.COUNTER) and not knows(point.name):
            continue
        for models, nth, name in alternatives(point.key, f"{profile.id}: {point.name}"):
            model = next((m for m in models if m in mine), None)
            if model is not None and nth == 1 and _defined(model, name) is not None:
                found[model, name] = point
                break
    return found


def _defined(model: int, name: str) -> PointDef | None:
    group = definition(model)
    inner, _, last = name.rpartition(".")
    if group is not None and inner:
        group = next((g for g in group.groups if g.name == inner.partition("[")[0]), None)
    return next((p for p in _points(group) if p.name == last), None)


def _points(group: GroupDef | None) -> Iterable[PointDef]:
    return group.points if group is not None else ()


def _power_of_watts(role: str, clock: ParkClock) -> int:
    plant = clock.physics.plant
    rated = plant.pv_w[int(role[2:] or 1) - 1] if role.startswith("pv") else LARGE_W + 1
    return 1 if rated > LARGE_W else 0


def _initial(model: int, mine: Mapping[str, Point], watts: int) -> dict[str, Raw]:
    """Initial raw values, so that every point in ``mine`` is implemented. They include the scale factors, which never
    change.
    """
    values: dict[str, Raw] = {}
    groups = {name.partition(".")[0] for name in mine if "." in name}
    if groups:
        values["N"] = len(groups)
    for name in mine:
        point = _defined(model, name)
        assert point is not None  # ``_wanted`` has already checked this
        values[name] = "" if point.type == "string" else 1
        if isinstance(point.scale, str) and not point.scale.lstrip("-").isdigit():
            unit = UNITS.get(point.unit, point.unit)
            power = watts if unit in ("W", "VA", "var") else -3 if name.startswith("Cell") else _POWERS.get(unit, 0)
            values[point.scale] = min(int(values.get(point.scale, power)), power)
    return values


def _placed(point: Point, place: ModelOffset, at: int, values: Mapping[str, Raw]) -> Point:
    """The point of the profile with the register address that it has in this device."""
    address = at + place.offset
    if place.point.type == "string":
        return replace(point, function=3, address=address, type="str", count=place.point.size)
    scale = place.point.scale
    power = int(values.get(scale, 0)) if isinstance(scale, str) else place.power
    unit = UNITS.get(place.point.unit, place.point.unit)
    factor = unit_factor(unit, point.unit) if point.kind is not Kind.STATE else None
    return replace(
        point,
        function=3,
        address=address,
        type=TYPES[place.point.type],
        count=place.point.size,
        order="ABCDEFGH"[: 2 * place.point.size],
        scale=Decimal(1).scaleb(power) * (factor or 1),
    )


def model_registers(model_id: int, values: Mapping[str, Raw]) -> list[int]:
    """The registers of a model. ``values``: name (``W``, ``module[1].DCW``) -> raw value. All other points are "not
    implemented".

    ``values`` also determines how many instances a repeating group has.
    """
    found = definition(model_id)
    if found is None:
        raise UsageError(f"there is no SunSpec model {model_id}", where="simulator")
    left = dict(values)
    raw = b"".join(_group_bytes(found, "", left))
    if left:
        raise UsageError(f"model {model_id} has no point {', '.join(left)}", where="simulator")
    words = list(struct.unpack(f">{len(raw) // 2}H", raw))
    words[0], words[1] = model_id, len(words) - 2
    return words


def _group_bytes(group: GroupDef, prefix: str, values: dict[str, Raw]) -> list[bytes]:
    pieces = [_point_bytes(point, values.pop(prefix + point.name, None)) for point in group.points]
    for inner in group.groups:
        if inner.count is None:
            pieces += _group_bytes(inner, f"{prefix}{inner.name}.", values)
            continue
        number = 0
        while any(name.startswith(f"{prefix}{inner.name}[{number}].") for name in values):
            pieces += _group_bytes(inner, f"{prefix}{inner.name}[{number}].", values)
            number += 1
    return pieces


def _point_bytes(point: PointDef, value: Raw | None) -> bytes:
    size = 2 * point.size
    if point.type == "string":
        return str(value or "").encode("utf-8")[:size].ljust(size, b"\0")
    code, absent = ("H", 0xFFFF) if point.type == "pad" else NUMBERS.get(point.type, ("", 0))
    if not code or struct.calcsize(code) != size:
        return bytes(size)
    return struct.pack(f">{code}", absent if value is None else value)
