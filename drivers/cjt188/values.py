"""Decodes the answers of CJ/T 188: makes readings from identifier, meter type and payload.

Source: CJ/T 188-2004 annex A and table 5 (units); for CJ/T 188-2018 the source code of ng-gateway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from drivers.cjt188.frames import CURRENT, CURRENT_BOTH, READ, READ_ADDRESS, Frame
from drivers.encoding import bcd_digits
from drivers.model import Quality, Reading, Reason


def _units() -> dict[int, tuple[str, Decimal]]:
    """Unit code -> (unit, factor). Each listed code is followed by two codes that mean 10 and 100 times its unit."""
    firsts = {
        0x02: "Wh", 0x05: "kWh", 0x08: "MWh", 0x0B: "kJ", 0x0E: "MJ", 0x11: "GJ", 0x14: "W", 0x17: "kW", 0x1A: "MW",
        0x29: "l", 0x2C: "m3", 0x32: "l/h", 0x35: "m3/h", 0x40: "J/h", 0x43: "kJ/h", 0x46: "MJ/h", 0x49: "GJ/h",
    }  # fmt: skip
    table = {first + k: (unit, Decimal(10) ** k) for first, unit in firsts.items() for k in range(3)}
    table[0x01] = ("J", Decimal(1))
    return table


UNITS = _units()
_WATT_HOURS = frozenset(range(0x02, 0x0B))
_VOLUMES = frozenset(range(0x29, 0x2F))
_CLASSES = {
    "energy": frozenset(range(0x01, 0x14)),
    "power": frozenset((*range(0x14, 0x1D), *range(0x40, 0x4C))),
    "volume": _VOLUMES,
    "count": _VOLUMES | _WATT_HOURS,  # what a meter of another medium counts: a volume, or electricity
    "flow": frozenset(range(0x32, 0x38)),
}


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    label: str
    size: int
    decimals: int = 0
    unit: str = ""
    # How the field is decoded: "time", "status", "" (a plain number), or a key of ``_CLASSES``. With such a key, one
    # byte of the field is a unit code.
    kind: str = ""


def _q(name: str, label: str, kind: str, decimals: int = 2, size: int = 5) -> _Field:
    return _Field(name, label, size, decimals, kind=kind)


_TIME = _Field("device.time", "实时时间", 7, kind="time")
_STATUS = _Field("device.status", "状态", 2, kind="status")
_VOLUME = _q("@.volume", "当前累积流量", "volume")
_SETTLED = _q("@.volume.settlement", "结算日累积流量", "volume")
_WATER = (_VOLUME, _SETTLED, _TIME, _STATUS)
_HEAT_SETTLED = _q("@.energy.settlement", "结算日热量", "energy")
_HEAT_NOW = _q("@.energy", "当前热量", "energy")
_HEAT_VOLUME = _q("@.volume", "累积流量", "volume")
_SUPPLY, _RETURN = ("@.temperature.supply", "供水温度"), ("@.temperature.return", "回水温度")
_HEAT_2004 = (
    _HEAT_SETTLED,
    _HEAT_NOW,
    _q("@.power", "热功率", "power"),
    _q("@.flow", "流量", "flow", 4),
    _HEAT_VOLUME,
    _Field(*_SUPPLY, 3, 2, "Cel"),
    _Field(*_RETURN, 3, 2, "Cel"),
    _Field("@.runtime", "累积工作时间", 3, 0, "h"),
    _TIME,
    _STATUS,
)
_HEAT_2018 = (
    _HEAT_SETTLED,
    _HEAT_NOW,
    _q("@.power", "热功率", "power", 2, 4),
    _q("@.flow", "流量", "flow", 3, 4),
    _HEAT_VOLUME,
    _Field(*_SUPPLY, 2, 2, "Cel"),
    _Field(*_RETURN, 2, 2, "Cel"),
    _Field("@.runtime", "累积工作时间", 4, 0, "h"),
    _TIME,
    _STATUS,
)
_HEAT_COLD_2018 = (
    _HEAT_SETTLED,
    _q("cool.energy.settlement", "结算日冷量", "energy"),
    _HEAT_NOW,
    _q("cool.energy", "当前冷量", "energy"),
    _q("@.power", "热功率", "power", 2, 4),
    _q("@.flow", "瞬时流量", "flow", 4, 4),
    _HEAT_VOLUME,
    _Field(*_SUPPLY, 2, 2, "Cel"),
    _Field(*_RETURN, 2, 2, "Cel"),
    _Field("@.pressure.supply", "供水压力", 2, 2, "MPa"),
    _Field("@.pressure.return", "回水压力", 2, 2, "MPa"),
    _Field("@.runtime", "累积工作时间", 4, 0, "h"),
    _TIME,
    _STATUS,
)
_FROZEN = (
    _Field("x.freeze.time", "冻结实时时间", 7, kind="time"),
    _VOLUME,
    _q("@.flow", "瞬时流量", "flow", 4),
    _Field("@.temperature", "温度", 3, 2, "Cel"),
    _Field("@.pressure", "压力", 3, 2),
)
_PLAIN: dict[int, tuple[_Field, ...]] = {
    0x907F: (_TIME,),
    0x8102: (
        _Field("x.price.1", "价格一", 3, 2),
        _Field("x.volume.1", "用量一", 3),
        _Field("x.price.2", "价格二", 3, 2),
        _Field("x.volume.2", "用量二", 3),
        _Field("x.price.3", "价格三", 3, 2),
    ),
    0x8103: (_Field("x.settlement.day", "结算日", 1),),
    0x8104: (_Field("x.reading.day", "抄表日", 1),),
    0x8105: (
        _Field("x.purchase.number", "本次购买序号", 1),
        _Field("x.purchase", "本次购入金额", 4, 2),
        _Field("x.purchase.total", "累计购入金额", 4, 2),
        _Field("x.money.remaining", "剩余金额", 4, 2),
        _STATUS,
    ),
}


def _size(layout: tuple[_Field, ...]) -> int:
    return sum(field.size for field in layout)


LONGEST = _size(_HEAT_COLD_2018)  # bytes of the longest current data


def _layout(identifier: int, meter_type: int, size: int) -> tuple[tuple[_Field, ...], int]:
    """Return (fields, storage number) of a payload of ``size`` bytes. The fields are empty if the identifier is
    unknown.
    """
    is_heat, high, low = meter_type >> 4 == 2, identifier >> 8, identifier & 0xFF
    if identifier == CURRENT:
        if is_heat and size == _size(_WATER):  # this heat meter counts only volume
            return _WATER, 0
        return ((_HEAT_2018 if size == _size(_HEAT_2018) else _HEAT_2004) if is_heat else _WATER), 0
    if identifier == CURRENT_BOTH or identifier in _PLAIN:
        return _PLAIN.get(identifier, _HEAT_COLD_2018), 0
    history: tuple[_Field, ...] = ()
    storage = low + 1
    if high == 0xD1 and 0x20 <= low <= 0x2B:
        history, storage = ((_HEAT_SETTLED,) if is_heat else (_SETTLED,)), low - 0x1F
    elif high == 0xD2:
        cold = _q("cool.energy.settlement", "结算日冷量", "energy")
        history = (_HEAT_SETTLED, cold, _SETTLED) if is_heat else (_SETTLED,)
    elif high in (0xD3, 0xD4) and not is_heat:
        history = _FROZEN
    return history, storage if history else 0


def _scope(meter_type: int) -> str:
    """First word of the point names of a meter type."""
    if meter_type == 0x21:
        return "cool"
    return {1: "water", 2: "heat", 3: "gas"}.get(meter_type >> 4, "x.meter")


def _kind(field: _Field, scope: str) -> str:
    """The kind of a field, for a meter whose point names begin with ``scope``."""
    return "count" if scope == "x.meter" and field.kind == "volume" else field.kind


def unit_first(pieces: Sequence[tuple[bytes, str]]) -> bool:
    """Whether the unit code precedes the value in these quantities, as some makers send it.

    Each quantity is a pair (bytes, class of unit). All quantities are judged together, because a single match may be
    chance: the low byte of a value can look like a unit code.
    """
    last = [(raw[-1], kind) for raw, kind in pieces]
    first = [(raw[0], kind) for raw, kind in pieces]
    if all(code in _CLASSES[kind] for code, kind in last):
        return False
    if all(code in _CLASSES[kind] for code, kind in first):
        return True
    if all(code in UNITS for code, _ in last):
        return False
    return sum(code in _CLASSES[kind] for code, kind in first) > sum(code in _CLASSES[kind] for code, kind in last)


def _bcd(raw: bytes, decimals: int) -> tuple[Decimal | None, int]:
    if raw and raw.count(0xFF) == len(raw):
        return None, Reason.SENTINEL
    if (digits := bcd_digits(raw)) is None:
        return None, Reason.MISMATCH
    return Decimal(int(digits)).scaleb(-decimals), Quality.GOOD


def _moment(raw: bytes) -> tuple[str | None, int]:
    """Decode the bytes ss mm hh DD MM YY CC. Returns (time as ISO 8601, quality), or (None, gap reason) if the time is
    not set.
    """
    if raw.count(0xFF) == len(raw):
        return None, Reason.SENTINEL
    digits = raw[::-1].hex()
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S").isoformat(), Quality.GOOD
    except ValueError:
        return None, Reason.CLOCK


def _value(field: _Field, raw: bytes, unit_leads: bool) -> tuple[Decimal | int | str | None, str, int]:
    """(value, unit, quality) of one field."""
    if field.kind == "time":
        moment, quality = _moment(raw)
        return moment, "", quality
    if field.kind == "status":
        return int.from_bytes(raw, "little"), "", Quality.GOOD
    if not field.kind:
        value, quality = _bcd(raw, field.decimals)
        return value, field.unit, quality
    code, digits = (raw[0], raw[1:]) if unit_leads else (raw[-1], raw[:-1])
    value, quality = _bcd(digits, field.decimals)
    unit, factor = UNITS.get(code, ("", Decimal(1)))
    if value is not None and code not in _CLASSES[field.kind]:
        quality = Quality.SUSPECT  # the unit is unknown, or wrong for the quantity, such as an energy in m3
    return (None if value is None else value * factor), unit, quality


def _pieces(layout: tuple[_Field, ...], payload: bytes) -> list[tuple[_Field, bytes]]:
    """The fields that ``payload`` contains completely, each with its bytes."""
    pieces: list[tuple[_Field, bytes]] = []
    at = 0
    for field in layout:
        if at + field.size > len(payload):
            break
        pieces.append((field, payload[at : at + field.size]))
        at += field.size
    return pieces


def undecoded(frame: Frame) -> bytes:
    """The bytes of an answer after its known fields: an incomplete field, or manufacturer data."""
    if not frame.is_reply or frame.function != READ or frame.identifier is None:
        return b""
    layout, _ = _layout(frame.identifier, frame.meter_type, len(frame.payload))
    return frame.payload[sum(len(raw) for _, raw in _pieces(layout, frame.payload)) :] if layout else b""


def decode(identifier: int, meter_type: int, payload: bytes) -> tuple[Reading, ...]:
    """The readings in ``payload``, the bytes of an answer after SER. Fields that a short answer does not contain are
    left out.
    """
    layout, storage = _layout(identifier, meter_type, len(payload))
    if not layout:
        return (Reading(f"x.cjt188.{identifier:04x}", payload.hex(), raw=payload),) if payload else ()
    pieces = _pieces(layout, payload)
    scope, readings = _scope(meter_type), []
    pieces = [(replace(field, kind=_kind(field, scope)), raw) for field, raw in pieces]
    leads = unit_first([(raw, field.kind) for field, raw in pieces if field.kind in _CLASSES])
    for field, raw in pieces:
        value, unit, quality = _value(field, raw, leads)
        name = field.name.replace("@", scope)
        if name == "gas.volume.settlement":
            name = f"x.{name}"  # the vocabulary has settlement days for water and heat only
        if scope == "x.meter" and unit.endswith("Wh"):
            name = name.replace("x.meter.volume", "ac.energy.import")
        readings.append(Reading(name, value, unit, quality, raw, storage=storage, label=field.label))
    return tuple(readings)


def decode_frame(frame: Frame) -> tuple[Reading, ...]:
    """The readings of one answer. A request or an error answer gives no readings."""
    if not frame.is_reply or frame.is_error:
        return ()
    if frame.function == READ_ADDRESS:
        return (Reading("device.address.text", frame.address, raw=frame.raw[2:9], label="表地址"),)
    if frame.function != READ or frame.identifier is None:
        return ()
    return decode(frame.identifier, frame.meter_type, frame.payload)


def status_words(raw: bytes) -> dict[str, object]:
    """The bits of the status word that the standard defines: valve and battery. Makers define the other bits."""
    valve = {0: "open", 1: "closed", 3: "fault"}.get(raw[0] & 3, "unknown")
    return {"valve": valve, "battery_low": bool(raw[0] & 4)}
