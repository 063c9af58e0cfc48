"""Queries of simulated devices and parks for tests, and changes of their registers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from drivers.iec62056.simulate import SELECTED, SIGNED_ON
from drivers.sim.bus import quiet_s
from drivers.sim.device import SimDevice
from drivers.sim.image import Image
from drivers.sim.park import Park
from drivers.sim.rtu import SerialLine
from drivers.sunspec.models import END_MODEL
from drivers.sunspec.simulate import Raw, model_registers
from drivers.sunspec.walk import MARKER
from tests.kits.codecs import cjt188, dlt645, mbus

MODBUS_WRITES = (5, 6, 15, 16, 21, 22, 23)
IEC_READS = frozenset((SIGNED_ON, SELECTED))
METER_READS = dlt645.ALLOWED_CONTROLS | cjt188.ALLOWED_CONTROLS | mbus.ALLOWED_CONTROLS | IEC_READS


def writes(sim: Any) -> int:
    """The number of requests to a simulated device or meter that were not reads. With an agent, it must be 0."""
    if isinstance(sim, SimDevice):
        return sum(sim.requests[function] for function in MODBUS_WRITES)
    return sum(count for control, count in sim.requests.items() if control not in METER_READS)


def punch(image: Image, address: int, count: int = 1, *, function: int = 3, code: int = 2) -> None:
    """Make a hole: reads that touch it answer exception ``code``."""
    image._table(function).codes[address : address + count] = bytes([code]) * count


def sunspec_image(models: Sequence[tuple[int, Mapping[str, Raw]] | Sequence[int]], base: int = 40000) -> Image:
    """Holding registers of a device with these models, in order. A plain list of words is copied as it is."""
    words = list(MARKER)
    for model in models:
        if len(model) == 2 and isinstance(model[1], Mapping):
            words += model_registers(model[0], model[1])
        else:
            words += model  # type: ignore[arg-type]
    image = Image()
    image.put_words(base, [*words, END_MODEL, 0])
    return image


def exchange_s(line: SerialLine, asked: int, answered: int, turnaround_s: float = 0.0) -> float:
    """The duration of one exchange on a line: both frames, the device's turnaround, the quiet time after it."""
    return (asked + answered) * line.byte_s + max(turnaround_s, quiet_s(line.baud)) + quiet_s(line.baud)


def park_truth(park: Park) -> dict[str, dict[str, Decimal | int | str]]:
    """The values that a reader must find at each device, by point, all at one instant.

    The park's own powers (W), state of charge (0..1) and clock (s) are under ``_park``.
    """
    with park.clock.hold() as physics:
        result = {name: device.display.values() for name, device in park.devices.items()}
        result |= {name: meter.display.values() for name, meter in park.meters.items()}
        whole = {
            "pv": sum(physics.pv_w),
            "load": physics.load_w,
            "battery": physics.battery_w,
            "grid": physics.grid_w,
            "heat": physics.heat_w,
            "soc": physics.soc,
            "clock": physics.t_s,
        }
    result["_park"] = {name: Decimal(repr(value)) for name, value in whole.items()}
    return result


def keep_journal(park: Park) -> None:
    """Record served values from now on: ``devices[name].display.journal[point]`` lists (UTC ns, value)."""
    for device in park.devices.values():
        device.display.keep_journal()
