"""Simulates M-Bus meters: the meter's side of the protocol, and meters that have the points of a profile.

Their values come from the simulated park.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drivers.mbus.link import Parser
from drivers.sim.meter_display import MeterDisplay, check_digits, display_of, shown_by
from drivers.sim.meters import SimMeter
from drivers.sim.simulation import SimulationRequest
from drivers.sim.slots import HEAT, ParkSlot

DEMO = ParkSlot(
    "heat-hall",
    "厂房热量表 / heat meter of the halls",
    "meters",
    2,
    "mbus/heat",
    "heat",
    {"heat": "check"},
    address="5",
    baud=2400,
    every={"slow": "10 s"},
    points=HEAT,
)

# point -> DIF and VIF, unit, decimals
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
# kind of profile -> medium; a kind that is not listed here has the medium heat
_MEDIA = {"water": 7, "gas": 3, "meter": 2}


@dataclass(slots=True)
class MbusMeter(SimMeter):
    """A simulated meter.

    Args:
        telegrams: the bytes of each telegram after C and A, from CI on. Each toggle of the FCB requests the next
        telegram.
        secondary: the eight bytes of the secondary address: number, maker, version and medium, low byte first.
    """

    address: int = 1
    secondary: bytes = bytes(8)
    number: str = ""  # the secondary address in the form of agent.toml; "" if agent.toml uses the primary address
    telegrams: tuple[bytes, ...] = ()
    selected: bool = False
    at: int = -1
    last_fcb: int = -1

    def hear(self, frame: bytes) -> bytes | None:
        found = Parser().feed(frame)
        if not found or found[0].from_device:
            return None
        asked = found[0]
        if asked.ci == 0x52:
            self.selected = _matches(asked.body[:8], self.secondary)
            if self.selected:
                self.at, self.last_fcb = -1, -1
                self.count(asked.control)
            return b"\xe5" if self.selected else None
        mine = asked.address in (self.address, 254) or (asked.address == 253 and self.selected)
        if not mine:
            return None
        self.count(asked.control)
        if asked.control == 0x40:
            self.at, self.last_fcb = -1, -1
            self.selected = False if asked.address == 253 else self.selected
            return b"\xe5"
        if asked.control & 0x5F != 0x5B or not self.telegrams:
            return None
        if asked.control & 0x20 != self.last_fcb:  # if the FCB has not changed, the meter sends its last telegram again
            self.at = (self.at + 1) % len(self.telegrams)
        self.last_fcb = asked.control & 0x20
        body = bytes((0x08, self.address)) + self.telegrams[self.at]
        return bytes((0x68, len(body), len(body), 0x68)) + body + bytes((sum(body) & 0xFF, 0x16))


def _matches(mask: bytes, own: bytes) -> bool:
    """Whether a selection (EN 13757-3) matches the meter's own address.

    A digit F in the number, or a byte FF in the other fields, matches anything.
    """
    if len(mask) != 8 or len(own) != 8:
        return False
    digits = all(m in ("f", o) for m, o in zip(mask[:4].hex(), own[:4].hex(), strict=True))
    maker = mask[4:6] in (b"\xff\xff", own[4:6])
    return digits and maker and all(m in (0xFF, o) for m, o in zip(mask[6:], own[6:], strict=True))


def simulate(wanted: SimulationRequest) -> tuple[MbusMeter, MeterDisplay]:
    """See ``drivers.sim.simulation.Simulate``. The address is a primary address, or the 8 digits of the meter's
    number.
    """
    address = wanted.address
    is_number = len(address) == 8  # whether the meter is read by its secondary address
    check_digits(address, 8 if is_number else 3, "mbus", ". Or write the 8 digits of the meter's serial number")
    display = display_of(wanted)
    serial = display.texts["device.serial"] = address if is_number else display.serial
    secondary = bytes.fromhex(serial)[::-1] + b"\xa8\x55" + bytes((1, _MEDIA.get(wanted.profile.kind, 4)))
    meter = MbusMeter(name=wanted.name, baud=wanted.baud, address=0 if is_number else int(address), secondary=secondary)
    meter.number = address if is_number else ""
    shown_by(meter, _refresh(meter, display), wanted)
    return meter, display


def _refresh(meter: MbusMeter, display: MeterDisplay) -> Callable[[], None]:
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
