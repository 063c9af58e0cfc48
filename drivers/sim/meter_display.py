"""A meter of DL/T 645, M-Bus or CJ/T 188 that shows its part of a park, encoded when it is asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo

from drivers.dlt645.device import block_of
from drivers.dlt645.values import decode
from drivers.model import Kind, Point, Quality, UsageError
from drivers.profile import Profile
from drivers.sim.display import ParkClock
from drivers.sim.facts import FactLookup, in_unit
from drivers.sim.meters import Cjt188Meter, Dlt645Meter, MbusMeter
from drivers.units import unit_factor

ServedValue = Decimal | int | str
ZONE = "Asia/Shanghai"  # of the clocks of simulated meters, and of the park's configuration
# M-Bus: point -> (DIF and VIF, unit, decimals); CJ/T 188 likewise: unit code, unit, decimals, bytes of the value
_RECORDS = {
    "heat.energy": ("0403", "Wh", 0),
    "heat.power": ("042B", "W", 0),
    "heat.volume": ("0413", "m3", 3),
    "water.volume": ("0413", "m3", 3),
    "gas.volume": ("0413", "m3", 3),
    "ac.energy.import": ("0403", "Wh", 0),
    "ac.power.active": ("042B", "W", 0),
    "heat.flow": ("043B", "m3/h", 3),
    "water.flow": ("043B", "m3/h", 3),
    "heat.temperature.supply": ("0259", "Cel", 2),
    "heat.temperature.return": ("025D", "Cel", 2),
}
_HEAT_FIELDS: tuple[tuple[str, int | None, str, int, int], ...] = (
    ("heat.energy.settlement", 0x05, "kWh", 2, 4),
    ("heat.energy", 0x05, "kWh", 2, 4),
    ("heat.power", 0x17, "kW", 2, 4),
    ("heat.flow", 0x35, "m3/h", 4, 4),
    ("heat.volume", 0x2C, "m3", 2, 4),
    ("heat.temperature.supply", None, "Cel", 2, 3),
    ("heat.temperature.return", None, "Cel", 2, 3),
    ("heat.runtime", None, "h", 0, 3),
)
_WATER_FIELDS = (("water.volume", 0x2C, "m3", 2, 4), ("water.volume.settlement", 0x2C, "m3", 2, 4))
_GAS_FIELDS = (("gas.volume", 0x2C, "m3", 2, 4), ("x.gas.volume.settlement", 0x2C, "m3", 2, 4))
_CJT188 = {"water": (0x10, _WATER_FIELDS), "gas": (0x30, _GAS_FIELDS)}  # kind -> meter type, layout; else heat
_MEDIA = {"water": 7, "gas": 3, "meter": 2}  # M-Bus; else heat
_ADDRESSES = {"dlt645": 12, "mbus": 3, "cjt188": 14}  # most digits
_NO_TIME_AND_GOOD = b"\xff" * 7 + b"\x00\x00"


def _bcd(value: Decimal, decimals: int, size: int, *, signed: bool = False) -> bytes:
    digits = int(abs(value).scaleb(decimals)) % 10 ** (2 * size)
    raw = bytearray(bytes.fromhex(f"{digits:0{2 * size}d}")[::-1])
    if signed and value < 0:
        raw[-1] |= 0x80
    return bytes(raw)


class MeterDisplay:
    """The point values of one meter as the park moves; ``values`` is what a reader must find now."""

    def __init__(self, clock: ParkClock, points: tuple[Point, ...], role: str, texts: Mapping[str, str]) -> None:
        self.clock, self.points, self.role, self.texts = clock, points, role, dict(texts)
        self._book = FactLookup(role, clock.physics)
        self.decimals: dict[str, tuple[str, int]] = {}  # point -> unit and decimals on the wire
        self.ahead_s = 0.0  # how far the meter's clock is off

    def number(self, name: str, unit: str, decimals: int) -> Decimal | None:
        """A fact as the wire rounds it, in the unit of the wire; None where the park knows nothing of it."""
        with self.clock.hold():
            fact = self._book.get(name)
            medium, _, quantity = name.partition(".")
            if fact is None and medium in ("water", "gas"):  # all that runs in the park runs through its heat circuit
                fact = self._book.get(f"heat.{quantity}")
        if fact is None:
            return None
        self.decimals[name] = unit, decimals
        step = Decimal(1).scaleb(-decimals)
        return Decimal(repr(in_unit(fact, unit))).quantize(step, ROUND_HALF_UP)

    def values(self) -> dict[str, ServedValue]:
        """Numbers in the units of the points, and texts."""
        found: dict[str, ServedValue] = dict(self.texts)
        for point in self.points:
            if point.name in self.decimals:
                unit, decimals = self.decimals[point.name]
                value = self.number(point.name, unit, decimals)
                factor = unit_factor(unit, point.unit)
                if value is not None and factor is not None:
                    found[point.name] = value * factor
        return found


def meter_from_profile(
    profile: Profile,
    *,
    address: str,
    name: str = "",
    role: str = "",
    clock: ParkClock | None = None,
    baud: int | None = None,
    seed: int = 1,
    turnaround_s: float | None = None,
) -> tuple[Dlt645Meter | MbusMeter | Cjt188Meter, MeterDisplay]:
    """A meter of this family at this address; for M-Bus a primary one, or 8 digits. Raises UsageError for others."""
    digits = _ADDRESSES.get(profile.protocol, 0)
    is_number = profile.protocol == "mbus" and len(address) == 8  # asked by secondary address
    if digits and not (address.isascii() and address.isdecimal() and (len(address) <= digits or is_number)):
        raise UsageError(f"{address!r} is not an address of a {profile.protocol} meter", where="simulated meter",
                         hint=f"Up to {digits} digits{', or the 8 of its number' * (digits == 3)}")  # fmt: skip
    clock = clock or ParkClock(seed, 0.0)
    role = role or {"meter": "grid"}.get(profile.kind, "heat")
    serial = f"{random.Random(seed).randrange(10**8):08d}"
    points = profile.points
    display = MeterDisplay(clock, points, role, {})
    meter: Dlt645Meter | MbusMeter | Cjt188Meter
    refresh: Callable[[], None]
    if profile.protocol == "dlt645":
        display.texts["device.serial"] = serial.rjust(12, "0")
        meter = Dlt645Meter(name=name, baud=baud, address=address.rjust(12, "0"))
        refresh = _dlt645(meter, display)
    elif profile.protocol == "mbus":
        display.texts["device.serial"] = serial = address if is_number else serial
        medium = _MEDIA.get(profile.kind, 4)
        secondary = bytes.fromhex(serial)[::-1] + b"\xa8\x55" + bytes((1, medium))
        meter = MbusMeter(name=name, baud=baud, address=0 if is_number else int(address), secondary=secondary)
        meter.number = address if is_number else ""
        refresh = _mbus(meter, display)
    elif profile.protocol == "cjt188":
        kind, fields = _CJT188.get(profile.kind, (0x20, _HEAT_FIELDS))
        meter = Cjt188Meter(name=name, baud=baud, meter_type=kind, address=address.rjust(14, "0"))
        refresh = _cjt188(meter, display, fields)
    else:
        raise UsageError(
            f"{profile.id} speaks {profile.protocol}", where="simulated meter", hint="dlt645, mbus, cjt188"
        )
    meter.turnaround_s = (profile.limits.turnaround_s or 0.0) if turnaround_s is None else turnaround_s
    refresh()
    meter.before = refresh
    return meter, display


def _format(di: str) -> tuple[str, int, int, bool] | None:
    """(unit, decimals, bytes, signed) of a number's identifier, as the decoder understands it."""
    for size in (2, 3, 4):
        found = decode(di, bytes(size))
        if len(found) == 1 and found[0].quality == Quality.GOOD and isinstance(found[0].value, Decimal):
            exponent = found[0].value.as_tuple().exponent
            minus = decode(di, bytes(size - 1) + b"\x80")
            return found[0].unit, -int(exponent), size, minus[0].quality == Quality.GOOD
    return None


def _dlt645(meter: Dlt645Meter, display: MeterDisplay) -> Callable[[], None]:
    formats: dict[str, tuple[Point, tuple[str, int, int, bool]]] = {}
    serials = [p.key for p in display.points if p.name == "device.serial"]
    clocks = [p.key.split("+") for p in display.points if p.clock and "+" in p.key]
    for point in display.points:
        is_number = point.kind in (Kind.GAUGE, Kind.COUNTER) and not point.clock and "@" not in point.key
        shape = _format(point.key) if is_number else None
        if shape is not None:
            formats[point.key] = point, shape

    def refresh() -> None:
        values: dict[str, bytes] = {key: bytes.fromhex(display.texts["device.serial"])[::-1] for key in serials}
        now = datetime.now(ZoneInfo(ZONE)) + timedelta(seconds=display.ahead_s)
        for day, time in clocks:
            values[day] = bytes.fromhex(f"{now:%y%m%d}0{now.isoweekday() % 7}")[::-1]
            values[time] = bytes.fromhex(f"{now:%H%M%S}")[::-1]
        blocks: dict[str, dict[int, bytes]] = {}
        with display.clock.hold():
            for key, (point, (unit, decimals, size, signed)) in formats.items():
                value = display.number(point.name, unit, decimals)
                if value is None:
                    continue
                values[key] = _bcd(value, decimals, size, signed=signed)
                if (block := block_of(key)) is not None:
                    blocks.setdefault(block[0], {})[block[1]] = values[key]
        for key, pieces in blocks.items():
            size = len(next(iter(pieces.values())))
            values[key] = b"".join(pieces.get(n, b"\xff" * size) for n in range(max(pieces) + 1))
        meter.values = values

    return refresh


def _mbus(meter: MbusMeter, display: MeterDisplay) -> Callable[[], None]:
    wanted = [(p.name, *_RECORDS[p.name]) for p in display.points if p.name in _RECORDS]

    def refresh() -> None:
        records = b""
        with display.clock.hold():
            for name, head, unit, decimals in wanted:
                value = display.number(name, unit, decimals)
                if value is not None:
                    size = 2 if head.startswith("02") else 4
                    records += bytes.fromhex(head) + int(value.scaleb(decimals)).to_bytes(size, "little", signed=True)
        meter.telegrams = (b"\x72" + meter.secondary + bytes((meter.answered & 0xFF, 0, 0, 0)) + records,)

    return refresh


def _cjt188(
    meter: Cjt188Meter, display: MeterDisplay, fields: tuple[tuple[str, int | None, str, int, int], ...]
) -> Callable[[], None]:
    def refresh() -> None:
        payload = b""
        with display.clock.hold():
            for name, code, unit, decimals, size in fields:
                value = display.number(name, unit, decimals)
                payload += b"\xff" * size if value is None else _bcd(value, decimals, size)
                payload += b"" if code is None else bytes((code,))
        meter.values = {0x901F: payload + _NO_TIME_AND_GOOD}

    return refresh
