"""Completeness of six devices on a bus while a seventh device is silent, at 9600 baud with real byte times.

    python -m bench.silent [--minutes 2] [--json]

The devices are of shipped families: meters, a battery and an inverter. The inverter is the device that falls silent.
All devices are read every 6 s, their slow points every 20 s. This takes about 60 % of the line's time.

Completeness is the share of the due readings that were read. It is given for each minute, beginning with the first one.
The time that the silent device takes on the line is measured, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.clock import SteadyClock
from agent.poll import DevicePoll, LinePoller
from drivers.line import LineConfig, open_line
from drivers.modbus.device import ModbusDevice
from drivers.model import DeviceSpec, Reason
from drivers.profile import find_profile, load_profile
from drivers.sim.bus import Bus
from drivers.sim.display import ParkClock
from drivers.sim.families import device_from_profile
from drivers.sim.rtu import SerialLine
from ext.ring import ANSWER, GAP, Ring

BUS = {
    1: "eastron/sdm630",
    2: "acrel/adl400",
    3: "huawei/sun2000",
    16: "pylontech/force-h",
    40: "chint/dtsu666",
    50: "eastron/sdm120",
    173: "eastron/sdm72v2",
}
SILENT = 3
PERIODS_MS = (6_000, 6_000, 20_000, 60_000, 86_400_000)
# gaps with these reasons do not count as missing, because the device did answer
CACHED = {Reason.SENTINEL, Reason.EXCEPTION}


class Timed(ModbusDevice):
    """A device that adds up the time that its visits and probes take on the line."""

    spent_s = 0.0

    async def ask(self, queries: Any) -> Any:  # type: ignore[override]
        begin = time.monotonic()
        try:
            return await super().ask(queries)
        finally:
            self.spent_s += time.monotonic() - begin

    async def probe(self) -> None:
        begin = time.monotonic()
        try:
            await super().probe()
        finally:
            self.spent_s += time.monotonic() - begin


def counted(ring: Ring, start: int) -> tuple[Counter[int], Counter[int]]:
    """Return (number of readings by unit, number of missing readings by unit)."""
    came, missing = Counter[int](), Counter[int]()
    for record in ring.scan(start, ring.head):
        if record.kind == ANSWER:
            came[record.table] += len(record.values)
        elif record.kind == GAP and record.aux not in CACHED:
            missing[record.table] += len(record.points or ())
    return came, missing


async def minutes(folder: Path, count: int) -> list[dict[str, float]]:
    """Run one minute with all devices, then ``count`` minutes with a silent one. Returns one row per minute."""
    clock = ParkClock(1, 1.0)
    profiles = {unit: load_profile(find_profile(name)) for unit, name in BUS.items()}
    made = {
        unit: device_from_profile(profile, unit=unit, clock=clock, seed=unit, turnaround_s=0.03)[0]
        for unit, profile in profiles.items()
    }
    sim = SerialLine(Bus(made.values(), name="bench"), folder / "line", baud=9600)
    await sim.start()
    ring = Ring.create(str(folder / "ring"), 1 << 24, 1, 1, bytes(32))
    line = open_line(LineConfig("bench", sim.url, "9600 8N1"))
    steady = SteadyClock()
    drivers: dict[int, Timed] = {}
    for unit, profile in profiles.items():
        found = profile.resolve({})
        points = tuple(p for p in found.points if not p.is_object)
        limits = replace(found.limits.on_line("serial"), connect_delay_s=0.0)
        name, where = f"m{unit}", f"b/g/m{unit}"
        spec = DeviceSpec(name, where, str(unit), "modbus", profile.id, points, PERIODS_MS, limits, probe=profile.probe)
        drivers[unit] = Timed(spec, line, ring, unit)
    polls = [DevicePoll(driver, ring, steady.now_ms(), lambda *_: None) for driver in drivers.values()]
    poller = asyncio.ensure_future(LinePoller(polls, steady).run())
    # a start phase that is not measured: it reads the points that are read only once, and learns which registers exist
    await asyncio.sleep(20)
    said: list[dict[str, float]] = []
    for minute in range(count + 1):
        if minute == 1:
            made[SILENT].faults.set("silence")
        start, busy, spent = ring.head, line.stats.busy_ns, drivers[SILENT].spent_s
        await asyncio.sleep(60)
        came, missing = counted(ring, start)
        shares = [came[unit] / ((came[unit] + missing[unit]) or 1) for unit in BUS if unit != SILENT]
        said.append(
            {
                "worst_of_the_others": round(min(shares), 3),
                "line_busy": round((line.stats.busy_ns - busy) / 60e9, 2),
                "asked_the_silent_one_s": round(drivers[SILENT].spent_s - spent, 2),
            }
        )
    poller.cancel()
    await asyncio.gather(poller, return_exceptions=True)
    await line.close()
    await sim.stop()
    ring.close()
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mh-bench-") as folder:
        said = asyncio.run(minutes(Path(folder), options.minutes))
    if options.json:
        print(json.dumps(said))
    else:
        print("| minute | worst completeness of the others | line busy | spent on the silent one |")
        print("|---|---|---|---|")
        for n, one in enumerate(said):
            name = f"{n} after it fell silent" if n else "before"
            print(f"| {name} | {one['worst_of_the_others']:.3f} | {one['line_busy']:.0%} | "
                  f"{one['asked_the_silent_one_s']:.1f} s |")  # fmt: skip
    return int(any(one["worst_of_the_others"] < 0.9 for one in said))


if __name__ == "__main__":
    raise SystemExit(main())
