from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from drivers.sim.meter_display import MeterDisplay, check_digits, display_of, shown_by
from drivers.sim.meters import SimMeter
from drivers.sim.simulation import SimulationRequest
from meterhouse_snail.device import UNITS
from meterhouse_snail.frames import Parser, build


@dataclass(slots=True)
class SnailMeter(SimMeter):
    address: str = "0001"
    values: dict[str, str] = field(default_factory=dict)

    def hear(self, frame: bytes) -> bytes | None:
        found = Parser().feed(frame)
        if not found or found[0].is_answer or found[0].address not in (self.address, "AAAA"):
            return None
        self.count(0x51)
        return build(self.address, "A", ";".join(f"{name}={text}" for name, text in self.values.items()))


def simulate(wanted: SimulationRequest) -> tuple[SnailMeter, MeterDisplay]:
    check_digits(wanted.address, 4, "snail")
    display = display_of(wanted)
    display.texts |= {"device.model": "GARDEN-1", "device.serial": display.serial}
    meter = SnailMeter(name=wanted.name, baud=wanted.baud, address=wanted.address.rjust(4, "0"))
    shown_by(meter, _refresh(meter, display), wanted)
    return meter, display


def _refresh(meter: SnailMeter, display: MeterDisplay) -> Callable[[], None]:
    def refresh() -> None:
        values = {"M": "GARDEN-1", "SN": display.serial}
        for point in display.points:
            if point.key in UNITS and (value := display.number(point.name, UNITS[point.key], 1)) is not None:
                values[point.key] = str(value)
        meter.values = values

    return refresh
