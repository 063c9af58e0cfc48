"""SunSpec models: converts registers to named and scaled values.

The definitions of the models are those of the SunSpec Alliance, in the package pysunspec2 (``sunspec2/models/json``).
The definition of a model is read when this model is first found. Source: SunSpec Device Information Model Specification
1.2, clauses 4 and 5.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from drivers.model import ProfileError

END_MODEL = 0xFFFF
Value = Decimal | int | str | None


@dataclass(frozen=True, slots=True)
class PointDef:
    """The definition of one point. ``size`` is in registers."""

    name: str
    type: str
    size: int
    scale: str | int | None = None  # name of the point that contains the scale factor, or the factor itself
    unit: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class GroupDef:
    """The definition of a group of points and inner groups. ``count`` tells how often the group exists.

    None: it exists once. 0: it is repeated until the model ends. A text: this point contains the number of groups.
    """

    name: str
    points: tuple[PointDef, ...]
    groups: tuple[GroupDef, ...] = ()
    count: int | str | None = None


class PointValue(NamedTuple):
    """The value of a point. ``raw`` is the value on the wire, or None if the point is not implemented.

    ``value`` is ``raw`` multiplied by the point's scale.
    """

    raw: Value
    value: Value
    unit: str = ""
    definition: PointDef | None = None


class ModelOffset(NamedTuple):
    """The place of one point, so that it can be read repeatedly. Offsets count registers from the model's id."""

    offset: int
    point: PointDef
    power: int  # fixed scale factor from the definition; 0: there is none
    scale_at: int | None  # offset of the register with the device's scale factor; None: there is none


@dataclass(slots=True)
class Model:
    """One model of a device. ``address`` is the address of the model's id.

    ``length`` does not include the registers of id and length.
    """

    id: int
    address: int
    length: int
    points: dict[str, PointValue] = field(default_factory=dict)  # values by name, such as ``W`` or ``module[0].DCW``
    places: dict[str, ModelOffset] = field(default_factory=dict)  # by name; without the points that are scale factors
    known: bool = True
    truncated: bool = False  # whether registers at the end of the model are missing


def _read_group(raw: Mapping[str, object]) -> GroupDef:
    points = raw.get("points") or ()
    groups = raw.get("groups") or ()
    assert isinstance(points, Sequence) and isinstance(groups, Sequence)
    count = raw.get("count")
    return GroupDef(
        name=str(raw["name"]),
        points=tuple(
            PointDef(
                name=str(p["name"]),
                type=str(p["type"]),
                size=int(p["size"]),
                scale=p.get("sf"),
                unit=str(p.get("units") or ""),
                label=str(p.get("label") or ""),
            )
            for p in points
        ),
        groups=tuple(_read_group(g) for g in groups),
        count=count if isinstance(count, int | str) else None,
    )


@lru_cache(1)
def _folder() -> Path:
    package = find_spec("sunspec2")
    if package is None or not package.submodule_search_locations:
        raise ProfileError(
            "the SunSpec model definitions are not installed", where="SunSpec", hint="Run `pip install pysunspec2`"
        )
    return Path(package.submodule_search_locations[0]) / "models" / "json"


@lru_cache(64)
def definition(model_id: int) -> GroupDef | None:
    """The definition of a model. None if the Alliance has not defined it.

    Raises:
        ProfileError: the package with the definitions is missing or damaged.
    """
    path = _folder() / f"model_{model_id}.json"
    if not path.is_file():
        return None
    try:
        return _read_group(json.loads(path.read_text("utf-8"))["group"])
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ProfileError(f"the model definition is damaged: {error}", where=str(path)) from error


# ------------------------------------------------------------------ values


def _integer(code: str, absent: float) -> Callable[[bytes], Value]:
    def read(raw: bytes) -> Value:
        (number,) = struct.unpack(">" + code, raw)
        return None if number == absent else int(number)

    return read


def _real(code: str, digits: Sequence[int]) -> Callable[[bytes], Value]:
    """A reader of floats. It returns the shortest decimal that identifies the float. Any NaN or infinity is "not
    implemented".
    """

    def read(raw: bytes) -> Value:
        (number,) = struct.unpack(">" + code, raw)
        if not math.isfinite(number):
            return None
        for n in digits:
            text = f"{number:.{n}g}"
            if struct.pack(">" + code, float(text)) == raw:
                break
        return Decimal(text)

    return read


def _string(raw: bytes) -> Value:
    if not raw[0]:
        return None
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _ipv6(raw: bytes) -> Value:
    return ":".join(raw[i : i + 4].hex().upper() for i in range(0, 16, 4)) if any(raw) else None


def _eui48(raw: bytes) -> Value:
    if not any(raw) or raw[2:] == b"\xff" * 6:
        return None
    return raw[2:].hex(":").upper()


# SunSpec type -> (its code for ``struct``, the raw value that means "not implemented")
NUMBERS: Mapping[str, tuple[str, int | float]] = {
    **dict.fromkeys(("int16", "sunssf"), ("h", -0x8000)),
    **dict.fromkeys(("uint16", "enum16", "bitfield16", "count"), ("H", 0xFFFF)),
    "acc16": ("H", 0),
    "int32": ("i", -0x80000000),
    **dict.fromkeys(("uint32", "enum32", "bitfield32"), ("I", 0xFFFFFFFF)),
    **dict.fromkeys(("acc32", "ipaddr"), ("I", 0)),
    "int64": ("q", -0x8000000000000000),
    **dict.fromkeys(("uint64", "bitfield64"), ("Q", 0xFFFFFFFFFFFFFFFF)),
    "acc64": ("Q", 0),
    "float32": ("f", math.nan),
    "float64": ("d", math.nan),
}
_DIGITS = {"f": range(6, 10), "d": range(15, 18)}
# type -> (number of its registers, function that reads it)
_READERS: dict[str, tuple[int, Callable[[bytes], Value]]] = {
    kind: (struct.calcsize(code) // 2, _real(code, _DIGITS[code]) if code in _DIGITS else _integer(code, absent))
    for kind, (code, absent) in NUMBERS.items()
} | {"ipv6addr": (8, _ipv6), "eui48": (4, _eui48)}


def _nothing(raw: bytes) -> Value:
    return None


@lru_cache(256)
def reader_of(kind: str, size: int) -> Callable[[bytes], Value]:
    """The function that reads a value of a type with ``size`` registers. It returns None for "not implemented".

    For an unknown type or a wrong size, the function always returns None.
    """
    if kind == "string":
        return _string
    expected, read = _READERS.get(kind, (size, _nothing))
    return read if size == expected else _nothing


_POWERS = {n: Decimal(1).scaleb(n) for n in range(-10, 11)}


class _Full(Exception):
    """The next point lies beyond the end of the model. This is normal: older devices send shorter variants of a
    model.
    """


@dataclass(slots=True)
class _Scope:
    """The raw values and offsets of the points in the group that is being read. ``outer`` is the scope of the outer
    group.
    """

    raws: dict[str, Value]
    offsets: dict[str, int]
    outer: _Scope | None

    def around(self, name: str) -> _Scope | None:
        """The scope of the innermost group that has this point. None if no group has it."""
        scope: _Scope | None = self
        while scope is not None and name not in scope.offsets:
            scope = scope.outer
        return scope

    def find(self, name: str) -> Value:
        scope = self.around(name)
        return None if scope is None else scope.raws[name]


class _Reader:
    """Reads the points of one model from its bytes, as its definition describes them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.points: dict[str, PointValue] = {}
        self.places: dict[str, ModelOffset] = {}

    def group(self, group: GroupDef, prefix: str, outer: _Scope | None) -> None:
        scope = _Scope({}, {}, outer)
        data, at, size = self.data, self.at, len(self.data)
        fitting: list[PointDef] = []
        for point in group.points:
            end = at + 2 * point.size
            if end > size:
                break
            scope.raws[point.name] = reader_of(point.type, point.size)(data[at:end])
            scope.offsets[point.name] = at // 2
            fitting.append(point)
            at = end
        self.at = at
        for point in fitting:  # in a second pass, because a scale factor may come after the values that need it
            if point.type == "pad":
                continue
            name, raw = prefix + point.name, scope.raws[point.name]
            value = raw if point.scale is None else scaled(raw, point.scale, scope)
            self.points[name] = PointValue(raw, value, point.unit, point)
            place = _place(point, scope.offsets[point.name], scope)
            if place is not None and point.type != "sunssf":
                self.places[name] = place
        if len(fitting) < len(group.points):
            raise _Full
        for inner in group.groups:
            for name in self._instances(inner, scope):
                before = self.at
                self.group(inner, f"{prefix}{name}.", scope)
                if self.at == before:
                    raise _Full

    def _instances(self, group: GroupDef, scope: _Scope) -> Iterator[str]:
        """Yield the names of a group's instances: ``Crv[0]`` and so on. A group that exists once has its bare name."""
        if group.count is None:
            yield group.name
            return
        count = scope.find(group.count) if isinstance(group.count, str) else group.count or None
        if count is None and isinstance(group.count, str):
            return
        number = 0
        while self.at < len(self.data) and (count is None or number < int(count)):
            yield f"{group.name}[{number}]"
            number += 1


def _place(point: PointDef, offset: int, scope: _Scope) -> ModelOffset | None:
    if point.scale is None or isinstance(point.scale, int):
        return ModelOffset(offset, point, point.scale or 0, None)
    around = scope.around(point.scale)
    if around is not None:
        return ModelOffset(offset, point, 0, around.offsets[point.scale])
    return ModelOffset(offset, point, int(point.scale), None) if point.scale.lstrip("-").isdigit() else None


def scaled(raw: Value, scale: str | int | None, scope: _Scope) -> Value:
    """``raw`` times 10**(scale factor). None if the factor is not implemented, or is not between -10 and 10."""
    if raw is None or scale is None or isinstance(raw, str):
        return raw
    factor = scale if isinstance(scale, int) else scope.find(scale)
    if factor is None and isinstance(scale, str) and scale.lstrip("-").isdigit():
        factor = int(scale)
    if not isinstance(factor, int):
        return None
    power = _POWERS.get(factor)
    return None if power is None else raw * power


def decode_model(address: int, registers: Sequence[int]) -> Model:
    """Decode a model from its registers, which begin with id and length. Points whose registers are missing are left
    out.

    Raises:
        ProfileError: see ``definition``.
    """
    model = Model(registers[0], address, registers[1])
    model.truncated = len(registers) < 2 + model.length
    reader = _read(model.id, registers)
    model.known = reader is not None
    if reader is not None:
        model.points, model.places = reader.points, reader.places
    return model


def whole_registers(registers: Sequence[int]) -> int:
    """The number of leading registers that form whole points. The next read begins after them.

    If the registers of a value came in two reads, they might belong to different moments (field pain 38).
    """
    wanted = min(len(registers), 2 + registers[1])
    reader = _read(registers[0], registers)
    if reader is None or wanted == 2 + registers[1]:
        return wanted
    return reader.at // 2


def _read(model_id: int, registers: Sequence[int]) -> _Reader | None:
    """Make a reader and read all given registers of the model. None for an unknown model."""
    found = definition(model_id)
    if found is None:
        return None
    size = min(len(registers), 2 + registers[1])
    reader = _Reader(struct.pack(f">{size}H", *registers[:size]))
    with contextlib.suppress(_Full):
        reader.group(found, "", None)
    return reader
