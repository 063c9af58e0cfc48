"""A scan of all 247 Modbus units at 9600 baud, true byte times: the quick pass, then a slow pass that must miss none.

    python -m bench.scan [--quick] [--cabinet] [--json]

Five devices answer at once, as most do. Five more are what a quick pass may miss: one takes 0.7 s, one does not
answer the first two questions, one has input registers only, one breaks its first frames, one refuses register 0.

With --cabinet: a quick scan with identification of seven devices, as `meterhouse scan --quick` does it: five of shipped
families, one of which breaks every seventh frame, a sixth that takes 0.7 s, and one that no profile knows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

from agent.cli.scan import QUICK_TIMEOUT_S
from drivers.profile import find_profile, load_profile
from drivers.scan import Scan, ScanOptions
from drivers.sim.bus import Bus
from drivers.sim.device import SimDevice
from drivers.sim.display import ParkClock
from drivers.sim.families import device_from_profile
from drivers.sim.faults import parse_fault
from drivers.sim.image import Image
from drivers.sim.rtu import SerialLine

QUICK = (1, 17, 100, 200, 247)
FAMILIES = {  # unit -> family, seconds to answer
    1: ("eastron/sdm630", 0.03),
    2: ("acrel/adl400", 0.03),
    3: ("huawei/sun2000", 0.03),
    16: ("pylontech/force-h", 0.03),
    40: ("chint/dtsu666", 0.03),
    50: ("eastron/sdm120", 0.7),
}
UNKNOWN = 173
SLOW, DEAF, INPUT, BROKEN, REFUSING = 30, 60, 90, 120, 150


def device(unit: int, function: int = 3, address: int = 0, *faults: str, turnaround_s: float = 0.05) -> SimDevice:
    """One register, and the faults from the start."""
    image = Image()
    image.put_words(address, [7], function=function)
    made = SimDevice(unit, image, turnaround_s=turnaround_s)
    for fault in faults:
        made.faults.set(parse_fault(fault))
    return made


async def scan(folder: Path, slow: bool) -> tuple[float, float, list[str]]:
    """(seconds, seconds as announced, units found)."""
    bus = Bus([device(unit) for unit in QUICK], name="bench")
    if slow:
        for made in (
            device(SLOW, turnaround_s=0.7),
            device(DEAF, 3, 0, "silence*2"),
            device(INPUT, 4),
            device(BROKEN, 3, 0, "crc*2"),
            device(REFUSING, 3, 500),
        ):
            bus.add(made)
    line = SerialLine(bus, folder / f"tty{int(slow)}", baud=9600)
    await line.start()
    one = Scan(ScanOptions(line.url, settings=("9600 8N1",), slow=slow, listen_s=0, bus_is_mine=True, identify=False))
    said = one.estimate_s()
    begin = time.monotonic()
    try:
        found = await one.run()
    finally:
        await line.stop()
    return time.monotonic() - begin, said, sorted((d.address for d in found), key=int)


def cabinet() -> list[SimDevice]:
    """Seven devices as they may hang on one line."""
    clock = ParkClock(1, 1.0)
    found = []
    for unit, (name, turnaround_s) in FAMILIES.items():
        profile = load_profile(find_profile(name))
        found.append(device_from_profile(profile, unit=unit, clock=clock, seed=unit, turnaround_s=turnaround_s)[0])
    found[4].faults.set(parse_fault("crc/7"))
    unknown = Image()
    values = (232.1, 231.5, 230.9, 12.3, 12.1, 11.9, 2.8e3, 2.7e3, 2.6e3, 8.1e3, 49.98, 0.97)
    unknown.put_words(
        0x100, [word for value in values for word in struct.unpack(">HH", struct.pack(">f", value))[::-1]]
    )
    return [*found, SimDevice(UNKNOWN, unknown, turnaround_s=0.03)]


async def scan_cabinet(folder: Path) -> dict[str, Any]:
    """The times, said and taken, and what was found."""
    line = SerialLine(Bus(cabinet(), name="cabinet"), folder / "cabinet", baud=9600)
    await line.start()
    said = []
    one = Scan(ScanOptions(line.url, ("modbus", "dlt645", "cjt188"), slow=False, timeout_s=QUICK_TIMEOUT_S))
    most_s = one.estimate_s()
    begin = time.monotonic()
    try:
        found = await one.run(announce=lambda what, count, more_s: said.append(more_s))
    finally:
        await line.stop()
    return {
        "cabinet_s": round(time.monotonic() - begin, 1),
        "cabinet_announced_s": round(most_s + sum(said), 1),
        "cabinet_found": {d.address: f"{d.fits[0].profile} ({d.fits[0].how})" if d.fits else "none" for d in found},
    }


def measure(quick_only: bool) -> dict[str, Any]:
    """Both scans, one after the other."""
    with tempfile.TemporaryDirectory(prefix="mh-bench-") as folder:
        took, said, found = asyncio.run(scan(Path(folder), slow=False))
        result: dict[str, Any] = {
            "quick_pass_s": round(took, 1),
            "announced_s": round(said, 1),
            "found": len(found),
            "of": len(QUICK),
        }
        if not quick_only:
            took, said, found = asyncio.run(scan(Path(folder), slow=True))
            result |= {
                "both_passes_s": round(took, 1),
                "both_announced_s": round(said, 1),
                "both_found": len(found),
                "both_of": len(QUICK) + 5,
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the quick pass alone")
    parser.add_argument("--cabinet", action="store_true", help="seven devices with their profiles, and nothing else")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.cabinet:
        with tempfile.TemporaryDirectory(prefix="mh-bench-") as folder:
            result = asyncio.run(scan_cabinet(Path(folder)))
    else:
        result = measure(options.quick)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name.replace('_', ' '):<28} {value}")


if __name__ == "__main__":
    main()
