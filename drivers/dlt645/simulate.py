"""Simulates DL/T 645 meters: the meter's side of the protocol, and meters that have the points of a profile. Their
values come from the simulated park.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from drivers.dlt645.device import block_of
from drivers.dlt645.frames import ALLOWED_CONTROLS, Frame, Parser
from drivers.dlt645.values import decode
from drivers.framing import build_request
from drivers.model import Kind, Point, Quality
from drivers.sim.meter_display import ZONE, MeterDisplay, bcd, check_digits, display_of, shown_by
from drivers.sim.meters import SimMeter
from drivers.sim.simulation import SimulationRequest
from drivers.sim.slots import SLOW_LINE, ParkSlot

DEMO = ParkSlot(
    "tower",
    "总表 / main meter",
    "meters",
    1,
    "dlt645/2007",
    "grid",
    {"ac": "check"},
    {"ac": "grid"},
    address="000000000161",
    baud=2400,
    every=SLOW_LINE,
    points=("ac.power.active*", "ac.energy.import", "ac.energy.export", "ac.voltage.*", "device.serial"),
)


@dataclass(slots=True)
class Dlt645Meter(SimMeter):
    """A simulated meter. ``values``: identifier (8 or 4 hex digits) -> its data as on the wire, low byte first.

    Data longer than ``most`` bytes are sent in several frames. A request for any other identifier gets the error "no
    such data".
    """

    address: str = "000000000001"
    values: dict[str, bytes] = field(default_factory=dict)
    most: int = 200
    speaks: tuple[int, ...] = (0x01, 0x02, 0x11, 0x12, 0x13)  # control codes that the meter answers
    followed: int = 0  # number of follow-on frames sent since the last read; requests of 1997 do not state it

    def hear(self, frame: bytes) -> bytes | None:
        found = Parser().feed(frame)
        if not found or found[0].is_reply:
            return None
        asked = found[0]
        if any(a not in (b, "A") for a, b in zip(asked.address, self.address, strict=True)):
            return None
        if asked.control in ALLOWED_CONTROLS and asked.control not in self.speaks:
            return None
        self.count(asked.control)
        return self._answer(asked)

    def _frame(self, control: int, data: bytes) -> bytes:
        head = bytes((0x68, *bytes.fromhex(self.address)[::-1], 0x68))
        return build_request(head, control, bytes((b + 0x33) & 0xFF for b in data), 0)

    def _answer(self, asked: Frame) -> bytes:
        if asked.control == 0x13:
            return self._frame(0x93, bytes.fromhex(self.address)[::-1])
        if asked.control not in (0x11, 0x12, 0x01, 0x02):
            return self._frame(asked.control | 0xC0, b"\x04")
        data = self.values.get(asked.identifier)
        if data is None:
            return self._frame(asked.control | 0xC0, b"\x02")
        self.followed = self.followed + 1 if asked.control in (0x12, 0x02) else 0
        number = asked.sequence or self.followed
        piece, rest = data[number * self.most : (number + 1) * self.most], data[(number + 1) * self.most :]
        tail = bytes((number,)) if asked.control == 0x12 else b""
        control = asked.control | 0x80 | (0x20 if rest else 0)
        return self._frame(control, bytes.fromhex(asked.identifier)[::-1] + piece + tail)


def simulate(wanted: SimulationRequest) -> tuple[Dlt645Meter, MeterDisplay]:
    """See ``drivers.sim.simulation.Simulate``."""
    check_digits(wanted.address, 12, "dlt645")
    display = display_of(wanted)
    display.texts["device.serial"] = display.serial.rjust(12, "0")
    meter = Dlt645Meter(name=wanted.name, baud=wanted.baud, address=wanted.address.rjust(12, "0"))
    shown_by(meter, _refresh(meter, display), wanted)
    return meter, display


def _format(di: str) -> tuple[str, int, int, bool] | None:
    """Return (unit, decimals, bytes, signed) of an identifier, as the decoder reads it. None if its value is not a
    number.
    """
    for size in (2, 3, 4):
        found = decode(di, bytes(size))
        if len(found) == 1 and found[0].quality == Quality.GOOD and isinstance(found[0].value, Decimal):
            exponent = found[0].value.as_tuple().exponent
            minus = decode(di, bytes(size - 1) + b"\x80")
            return found[0].unit, -int(exponent), size, minus[0].quality == Quality.GOOD
    return None


def _refresh(meter: Dlt645Meter, display: MeterDisplay) -> Callable[[], None]:
    formats: dict[str, tuple[Point, tuple[str, int, int, bool]]] = {}
    serials = [p.key for p in display.points if p.name == "device.serial"]
    clocks = [p.key.split("+") for p in display.points if p.clock and "+" in p.key]
    for point in display.points:
        is_number = point.kind in (Kind.GAUGE, Kind.COUNTER) and not point.clock and not {"@", "#"} & set(point.key)
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
                values[key] = bcd(value, decimals, size, signed=signed)
                if (block := block_of(key)) is not None:
                    blocks.setdefault(block[0], {})[block[1]] = values[key]
        for key, pieces in blocks.items():
            size = len(next(iter(pieces.values())))
            values[key] = b"".join(pieces.get(n, b"\xff" * size) for n in range(max(pieces) + 1))
        meter.values = values

    return refresh
