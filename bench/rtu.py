"""A 9600-baud RTU line with five meters: how much of the line's capacity the poller uses.

    python -m bench.rtu [--seconds 20] [--json]

The simulated line has real byte times (11 bits per character) and a turnaround of 5 ms; t3.5 is 4.01 ms. The efficiency
is a quotient. Its numerator is the least time that the answered requests need on the line (requests, turnarounds,
answers, silences). Its denominator is the time that has passed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from agent.clock import SteadyClock
from agent.poll import DevicePoll, LinePoller
from drivers.line import LineConfig, open_line
from drivers.modbus.device import ModbusDevice
from drivers.model import DeviceSpec, Limits, Point
from drivers.profile import find_profile, load_profile
from drivers.sim.bus import Bus
from drivers.sim.display import ParkClock
from drivers.sim.families import device_from_profile
from drivers.sim.rtu import SerialLine
from ext.ring import ANSWER, Ring
from tests.kits.simulated import exchange_s

TURNAROUND_S = 0.005


async def rates(folder: Path, seconds: float, dead: bool) -> tuple[Counter[int], int, float, float]:
    """Run the poller. Returns (number of answered visits by unit, readings, seconds, least line time of the answered
    requests in seconds).
    """
    profile = load_profile(find_profile("eastron/sdm630"))
    clock = ParkClock(1, 1.0)
    made = [
        device_from_profile(profile, unit=unit, name=f"m{unit}", clock=clock, seed=unit, turnaround_s=TURNAROUND_S)[0]
        for unit in range(1, 6)
    ]
    sim = SerialLine(Bus(made, name="bench"), folder / f"line{int(dead)}", baud=9600)
    await sim.start()
    ring = Ring.create(str(folder / f"ring{int(dead)}"), 1 << 24, 1, 1, bytes(32))
    line = open_line(LineConfig("bench", sim.url, "9600 8N1", limits=Limits(timeout_s=0.3)))
    clock, answered = SteadyClock(), Counter[int]()
    points: tuple[Point, ...] = tuple(p for p in profile.points if p.pace == "fast")
    polls, per_visit = [], {}
    least = 0.0
    counting = False

    def record(table: int, positions: list[int], came: bool) -> None:
        nonlocal least
        if not counting or not came:
            return
        answered[table] += 1
        least += per_visit[table]

    for unit in range(1, 6):
        spec = DeviceSpec(
            f"m{unit}", f"b/g/m{unit}", str(unit), "modbus", profile.id, points, (100, 0, 0, 0, 0), profile.limits
        )
        polls.append(DevicePoll(ModbusDevice(spec, line, ring, unit), ring, clock.now_ms(), record))

    for poll in polls:
        visit_plan = poll.driver.visit_plan(1)  # type: ignore[attr-defined]
        per_visit[poll.driver.table] = sum(
            exchange_s(sim, 8, 5 + 2 * read.block.count, TURNAROUND_S) for read in visit_plan.queries
        )
    poller = asyncio.ensure_future(LinePoller(polls, clock).run())
    if dead:
        made[2].faults.set("silence")
    await asyncio.sleep(6.0)  # after this time, the poller treats the silent device as dead
    start, counting, began = ring.head, True, time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    readings = sum(len(record.values) for record in ring.scan(start, ring.head) if record.kind == ANSWER)
    poller.cancel()
    await asyncio.gather(poller, return_exceptions=True)
    await line.close()
    await sim.stop()
    ring.close()
    return answered, readings, took, least


def measure(seconds: float) -> dict[str, Any]:
    """Measure with five healthy meters, then with one of them dead."""
    with tempfile.TemporaryDirectory(prefix="mh-bench-") as folder:
        healthy = asyncio.run(rates(Path(folder), seconds, dead=False))
        dead = asyncio.run(rates(Path(folder), seconds, dead=True))
    return {
        "readings_per_s": round(healthy[1] / healthy[2], 1),
        "efficiency": round(healthy[3] / healthy[2], 3),
        "kept_beside_a_dead_one": round(
            min((dead[0][u] / dead[2]) / (healthy[0][u] / healthy[2]) for u in (1, 2, 4, 5)), 3
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.seconds)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name.replace('_', ' '):<28} {value}")


if __name__ == "__main__":
    main()
