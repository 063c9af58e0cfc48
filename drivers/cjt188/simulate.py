"""Simulates CJ/T 188 meters: the meter's side of the protocol, and meters that have the points of a profile. Their
values come from the simulated park.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from drivers.cjt188.frames import CURRENT, Parser
from drivers.framing import build_request
from drivers.sim.meter_display import MeterDisplay, bcd, check_digits, display_of, shown_by
from drivers.sim.meters import SimMeter
from drivers.sim.simulation import SimulationRequest
from drivers.sim.slots import HEAT, ParkSlot

DEMO = ParkSlot(
    "heat-office",
    "办公楼热量表 / heat meter of the offices",
    "meters",
    3,
    "cjt188/heat",
    "heat",
    {"heat": "check"},
    address="22223333444455",
    baud=2400,
    every={"slow": "10 s"},
    points=HEAT,
)

# the fields of a payload: (point, unit code, unit, decimals, size in bytes)
Layout = tuple[tuple[str, int | None, str, int, int], ...]
_HEAT_FIELDS: Layout = (
    ("heat.energy.settlement", 0x05, "kWh", 2, 4),
    ("heat.energy", 0x05, "kWh", 2, 4),
    ("heat.power", 0x17, "kW", 2, 4),
    ("heat.flow", 0x35, "m3/h", 4, 4),
    ("heat.volume", 0x2C, "m3", 2, 4),
    ("heat.temperature.supply", None, "Cel", 2, 3),
    ("heat.temperature.return", None, "Cel", 2, 3),
    ("heat.runtime", None, "h", 0, 3),
)
_WATER_FIELDS: Layout = (("water.volume", 0x2C, "m3", 2, 4), ("water.volume.settlement", 0x2C, "m3", 2, 4))
_GAS_FIELDS: Layout = (("gas.volume", 0x2C, "m3", 2, 4), ("x.gas.volume.settlement", 0x2C, "m3", 2, 4))
# kind of the profile -> (meter type, layout); a kind that is not listed here is simulated as a heat meter
_LAYOUTS: Mapping[str, tuple[int, Layout]] = {
    "water": (0x10, _WATER_FIELDS),
    "gas": (0x30, _GAS_FIELDS),
}
_NO_TIME_AND_GOOD = b"\xff" * 7 + b"\x00\x00"


@dataclass(slots=True)
class Cjt188Meter(SimMeter):
    """A simulated meter. ``values``: identifier -> payload after SER.

    ``low_first``: the only byte order of the identifier that the meter accepts.
    """

    meter_type: int = 0x20
    address: str = "00000000000001"
    values: dict[int, bytes] = field(default_factory=dict)
    low_first: bool = False

    def hear(self, frame: bytes) -> bytes | None:
        found = Parser().feed(frame)
        if not found or found[0].is_reply or (identifier := found[0].identifier) is None:
            return None
        asked = found[0]
        if asked.meter_type not in (self.meter_type, 0xAA) or asked.low_first != self.low_first:
            return None
        if any(a not in (b, "A") for a, b in zip(asked.address, self.address, strict=True)):
            return None
        self.count(asked.control)
        head = bytes((0x68, self.meter_type, *bytes.fromhex(self.address)[::-1]))
        payload = self.values.get(identifier)
        serial = asked.raw[13:14]
        if asked.control not in (0x01, 0x03) or payload is None:
            return build_request(head, asked.control | 0xC0, serial + b"\0\0", 0)
        return build_request(head, asked.control | 0x80, asked.raw[11:13] + serial + payload, 0)


def simulate(wanted: SimulationRequest) -> tuple[Cjt188Meter, MeterDisplay]:
    """See ``drivers.sim.simulation.Simulate``."""
    check_digits(wanted.address, 14, "cjt188")
    display = display_of(wanted)
    meter_type, layout = _LAYOUTS.get(wanted.profile.kind, (0x20, _HEAT_FIELDS))
    meter = Cjt188Meter(
        name=wanted.name, baud=wanted.baud, meter_type=meter_type, address=wanted.address.rjust(14, "0")
    )
    shown_by(meter, _refresh(meter, display, layout), wanted)
    return meter, display


def _refresh(meter: Cjt188Meter, display: MeterDisplay, fields: Layout) -> Callable[[], None]:
    def refresh() -> None:
        payload = b""
        with display.clock.hold():
            for name, code, unit, decimals, size in fields:
                value = display.number(name, unit, decimals)
                payload += b"\xff" * size if value is None else bcd(value, decimals, size)
                payload += b"" if code is None else bytes((code,))
        meter.values = {CURRENT: payload + _NO_TIME_AND_GOOD}

    return refresh
