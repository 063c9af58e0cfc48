"""The park as a meter with its own frames shows it. Values are rounded as on the wire, and updated on each read."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP, Decimal

from drivers.model import Point, UsageError
from drivers.sim.display import ParkClock
from drivers.sim.facts import FactLookup, in_unit
from drivers.sim.meters import SimMeter
from drivers.sim.simulation import SimulationRequest
from drivers.units import unit_factor

ROLES = {"meter": "grid"}  # kind of a profile -> the part of the park that its meters show; other kinds show the heat
ServedValue = Decimal | int | str
ZONE = "Asia/Shanghai"  # time zone of the clocks of simulated meters and of the demo park's configuration


def bcd(value: Decimal, decimals: int, size: int, *, signed: bool = False) -> bytes:
    """Encode BCD in ``size`` bytes, low byte first. A minus sets the highest bit."""
    digits = int(abs(value).scaleb(decimals)) % 10 ** (2 * size)
    raw = bytearray(bytes.fromhex(f"{digits:0{2 * size}d}")[::-1])
    if signed and value < 0:
        raw[-1] |= 0x80
    return bytes(raw)


def check_digits(address: str, most: int, protocol: str, more: str = "") -> None:
    """Raise UsageError unless the address has at most ``most`` digits. ``more`` describes other forms that are
    allowed.
    """
    if not (address.isascii() and address.isdecimal() and len(address) <= most):
        what = f"{address!r} is not an address of a {protocol} meter"
        raise UsageError(what, where="simulated meter", hint=f"Write up to {most} digits" + more)


class MeterDisplay:
    """The point values of one meter. They follow the park: ``values`` returns the values that a reader must read
    now.
    """

    def __init__(self, clock: ParkClock, points: tuple[Point, ...], role: str, texts: Mapping[str, str]) -> None:
        self.clock, self.points, self.role, self.texts = clock, points, role, dict(texts)
        self._book = FactLookup(role, clock.physics)
        self.decimals: dict[str, tuple[str, int]] = {}  # point -> (unit, number of decimals) on the wire
        self.serial = ""  # the serial number of the meter, in digits
        self.ahead_s = 0.0  # by how many seconds the meter's clock is ahead

    def number(self, name: str, unit: str, decimals: int) -> Decimal | None:
        """A value of the park in ``unit``, rounded to ``decimals`` as on the wire. None if the park does not have
        it.
        """
        with self.clock.hold():
            fact = self._book.get(name)
            medium, _, quantity = name.partition(".")
            # the park has neither water nor gas, so the values of the heat circuit are shown
            if fact is None and medium in ("water", "gas"):
                fact = self._book.get(f"heat.{quantity}")
        if fact is None:
            return None
        self.decimals[name] = unit, decimals
        step = Decimal(1).scaleb(-decimals)
        return Decimal(repr(in_unit(fact, unit))).quantize(step, ROUND_HALF_UP)

    def values(self) -> dict[str, ServedValue]:
        """The present values: numbers in the units of the points, and texts."""
        found: dict[str, ServedValue] = dict(self.texts)
        for point in self.points:
            if point.name in self.decimals:
                unit, decimals = self.decimals[point.name]
                value = self.number(point.name, unit, decimals)
                factor = unit_factor(unit, point.unit)
                if value is not None and factor is not None:
                    found[point.name] = value * factor
        return found


def display_of(wanted: SimulationRequest) -> MeterDisplay:
    """Make the display for a meter of this profile. ``seed`` determines its serial number."""
    profile, clock = wanted.profile, wanted.clock or ParkClock(wanted.seed, 0.0)
    display = MeterDisplay(clock, profile.points, wanted.role or ROLES.get(profile.kind, "heat"), {})
    display.serial = f"{random.Random(wanted.seed).randrange(10**8):08d}"
    return display


def shown_by(meter: SimMeter, refresh: Callable[[], None], wanted: SimulationRequest) -> None:
    """Let a meter call ``refresh`` before each answer. ``refresh`` updates the meter's values."""
    meter.turnaround_s = wanted.turnaround_of_device_s
    refresh()
    meter.before = refresh
