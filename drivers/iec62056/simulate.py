"""Simulates IEC 62056-21 meters: the meter's side of the protocol, and meters that have the points of a profile. Their
values come from the simulated park.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from drivers.framing import REJECT, FrameScanner
from drivers.iec62056.codes import parse_code
from drivers.iec62056.frames import ANY, BAUDS, ETX, SELECT, SIGN_ON, STX, block_check
from drivers.model import Kind, Point
from drivers.sim.meter_display import ZONE, MeterDisplay, display_of, shown_by
from drivers.sim.meters import SimMeter
from drivers.sim.simulation import SimulationRequest

READOUT, SIGNED_ON, SELECTED = "0", 0x2F, 0x30
PROGRAMMING = 0x01  # the number under which requests for programming mode are counted; tests check that there are none
_MODEL = re.compile(r"[^0-9A-Za-z .-]")
_LONGEST = 40  # length of the longest request, in bytes
_FORMATS = {  # unit of a point -> (number of digits before the decimal point, number of decimals)
    "kWh": (6, 3), "kvarh": (6, 3), "kVAh": (6, 3), "Wh": (9, 0), "MWh": (6, 3), "GJ": (6, 3), "m3": (6, 3),
    "kW": (2, 3), "kvar": (2, 3), "kVA": (2, 3), "W": (5, 0), "V": (3, 1), "A": (3, 2), "Hz": (2, 2), "": (1, 2),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """A sign-on or an option select, as sent."""

    raw: bytes
    offset: int = 0


class RequestParser(FrameScanner[Request]):
    """Push parser of the messages that masters send."""

    starts = re.compile(rb"[/\x06]")
    longest = _LONGEST

    def frame_end(self, buffer: bytearray, start: int, size: int) -> int:
        end = buffer.find(b"\n", start, start + self.longest) + 1
        if not end:
            return size + 1 if size - start < self.longest else REJECT
        message = bytes(buffer[start:end])
        return end if SIGN_ON.fullmatch(message) or SELECT.fullmatch(message) else REJECT

    def build(self, raw: bytes, offset: int) -> Request:
        return Request(raw, offset)


@dataclass(slots=True)
class Iec62056Meter(SimMeter):
    """A simulated meter. ``lines``: its data sets as sent, such as ``1.8.0(000123.456*kWh)``.

    ``speed`` is the character Z of the speed that the meter offers. In mode C the meter accepts a select of this speed
    or of 300 baud.
    """

    character: str = "7E1"
    address: str = ""
    maker: str = "SIM"
    model: str = "METER"
    speed: str = "5"
    switches: bool = True  # whether the meter switches from the speed of the sign-on to the selected speed
    lines: list[str] = field(default_factory=list)
    # speed of the data after a switch; 0: the speed that the meter offers. Other values simulate a faulty meter
    data_baud: int = 0
    selected: str = ""  # the character Z of the latest option select
    signed_on: bool = False

    def hear(self, frame: bytes) -> bytes | None:
        self.answer_baud = 0
        if (asked := SIGN_ON.fullmatch(frame)) is not None:
            wanted = asked[1].decode("ascii")
            self.signed_on = not wanted or wanted.lstrip("0") == self.address.lstrip("0")
            if not self.signed_on:
                return None
            self.count(SIGNED_ON)
            identification = f"/{self.maker}{self.speed}{self.model}\r\n".encode("latin-1")
            self.answer_baud = self.baud or 0
            return identification if self.speed in "0123456789" else identification + self.data()
        if not self.signed_on or (chosen := SELECT.fullmatch(frame)) is None:
            return None
        self.signed_on = False
        speed, option = (chr(one[0]) for one in chosen.groups())
        self.count(SELECTED if option == READOUT else PROGRAMMING)
        self.selected = speed
        if option != READOUT or speed not in ("0", self.speed) or int(speed) >= len(BAUDS):
            return None
        fast = self.data_baud or BAUDS[int(speed)]
        is_fast = self.switches and speed == self.speed and speed != "0"
        self.answer_baud = fast if is_fast else self.baud or 0
        return self.data()

    def data(self) -> bytes:
        """The data message."""
        checked = "".join(f"{line}\r\n" for line in self.lines).encode("latin-1") + b"!\r\n" + bytes((ETX,))
        return bytes((STX,)) + checked + bytes((block_check(checked),))


def simulate(wanted: SimulationRequest) -> tuple[Iec62056Meter, MeterDisplay]:
    """See ``drivers.sim.simulation.Simulate``. If the address is ``*``, the meter's serial number becomes its
    address.
    """
    profile, address = wanted.profile, wanted.address
    display = display_of(wanted)
    own = display.serial if address == ANY else address
    meter = Iec62056Meter(name=wanted.name, baud=wanted.baud, address=own, model=_MODEL.sub("", profile.models[0])[:16])
    shown = {
        "device.serial": display.serial,
        "device.address.text": own,
        "device.vendor": meter.maker,
        "device.model": meter.model,
        "device.firmware": "1.0",
        **(wanted.texts or {}),
    }
    display.texts.update({point.name: shown[point.name] for point in profile.points if point.name in shown})
    shown_by(meter, lambda: _refresh(meter, display), wanted)
    return meter, display


def _refresh(meter: Iec62056Meter, display: MeterDisplay) -> None:
    now = datetime.now(ZoneInfo(ZONE)) + timedelta(seconds=display.ahead_s)
    with display.clock.hold():
        lines = [line for point in display.points for line in _lines(point, display, now)]
    meter.lines = list(dict.fromkeys(lines))


def _lines(point: Point, display: MeterDisplay, now: datetime) -> list[str]:
    """The data sets that contain the value of a point."""
    date, _, time = point.key.partition("+")
    if time:
        return [f"{date}({now:%y%m%d})", f"{time}({now:%H%M%S})"]
    shown = display.texts.get(point.name) or ("00000000" if point.kind is Kind.STATE else _number(point, display))
    return [f"{point.key}({shown})"] if shown and parse_code(point.key) is not None else []


def _number(point: Point, display: MeterDisplay) -> str:
    """The value of a point with its unit. "" if the park does not have the quantity."""
    if point.unit not in _FORMATS or point.kind is Kind.TEXT:
        return ""
    digits, decimals = _FORMATS[point.unit]
    value = display.number(point.name, point.unit, decimals)
    return "" if value is None else _fixed(value, digits, decimals) + (f"*{point.unit}" if point.unit else "")


def _fixed(value: Decimal, digits: int, decimals: int) -> str:
    width = digits + decimals + bool(decimals)
    return ("-" if value < 0 else "") + f"{abs(value):0{width}.{decimals}f}"
