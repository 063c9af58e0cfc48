"""The two sides meet: what the driver puts into the ring is exactly what the park served, for every shipped family."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from pathlib import Path

from agent.config import load_config
from agent.config.profiles import line_config
from drivers.line import open_line
from drivers.line.port import PortOpener
from drivers.model import PACES
from drivers.registry import driver_class
from drivers.sim.display import ParkClock
from drivers.sim.park import DEMO, Park, make_park
from ext.ring import ANSWER, TEXT, Ring
from tests.kits.simulated import keep_journal, park_truth, writes
from tests.kits.specs import device_specs
from tests.kits.wires import clock, park_opener

ALL = (1 << len(PACES)) - 1
REGISTERS = tuple(slot for slot in DEMO if not slot.address)  # Modbus and SunSpec; tests/meters has the others


async def read_park(park: Park, opener: PortOpener, folder: Path) -> dict[str, dict[str, Decimal | str]]:
    """Every point of every device once, over the lines, through the kernels and out of the ring."""
    (folder / "agent.toml").write_text(park.agent_toml(), encoding="utf-8")
    config = load_config(folder / "agent.toml")
    lines = {entry.name: open_line(line_config(entry), clock, opener=opener) for entry in config.lines}
    ring = Ring.create(str(folder / "ring"), 1 << 20, 7, 7, bytes(32))
    found: dict[str, dict[str, Decimal | str]] = {}
    try:
        for table, (device, spec) in enumerate(zip(config.devices, device_specs(config), strict=True)):
            driver = driver_class(spec.protocol)(spec, lines[device.line], ring, table)
            start = ring.head
            result = await driver.poll(time.time_ns() // 1_000_000, ALL)
            assert result.error is None
            values = found[spec.name] = {}
            wanted = {point.name for point in spec.points}
            for record in ring.scan(start, ring.head):
                assert record.kind in (ANSWER, TEXT), "no gaps"
                if record.kind == TEXT:
                    assert record.points
                    values[spec.points[record.points[0]].name] = record.text.decode()
                for point, mantissa, exponent, quality in record.values:
                    assert quality == 0, spec.points[point].name
                    values[spec.points[point].name] = Decimal(mantissa).scaleb(exponent)
            assert values.keys() == wanted
    finally:
        for line in lines.values():
            await line.close()
        ring.close()
    return found


async def test_every_reading_is_what_was_served(made_up: None, tmp_path: Path) -> None:
    park = make_park(tmp_path, seed=4, speed=0.0, slots=REGISTERS, baud=115200)
    found, truth = await read_park(park, park_opener(park), tmp_path), park_truth(park)
    for name, device in park.devices.items():
        assert found[name] == {point: truth[name][point] for point in found[name]}, name
        assert writes(device.sim) == 0 and device.sim.requests.keys() <= {2, 3, 4}
    assert sum(len(values) for values in found.values()) > 500


async def test_a_moving_park_serves_nothing_else(made_up: None, tmp_path: Path) -> None:
    hand = ParkClock(5, 600.0, monotonic=asyncio.get_running_loop().time)
    park = make_park(tmp_path, slots=REGISTERS, baud=115200, clock=hand)
    keep_journal(park)
    opener = park_opener(park)
    found = [await read_park(park, opener, tmp_path) for _ in range(2)]
    for name, device in park.devices.items():
        journal = device.display.journal
        assert journal
        for point, served in journal.items():
            values = {value for _, value in served}
            assert all(one[name][point] in values for one in found if point in one[name]), (name, point)
    moved = [point for point in found[0]["grid"] if found[0]["grid"][point] != found[1]["grid"][point]]
    assert "ac.power.active" in moved and "ac.frequency" in moved
