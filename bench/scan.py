"""A scan of all 247 Modbus units at 9600 baud with real byte times: a quick scan, then one with a slow pass.

    python -m bench.scan [--quick] [--cabinet] [--json]

Five devices answer quickly, as most devices do. A quick scan may miss five more, but the scan with a slow pass must
find all ten:

- one answers after 0.7 s;
- one ignores the first two requests;
- one has only input registers;
- one breaks its first frames;
- one refuses register 0.

``--cabinet`` is a quick scan that also identifies seven devices, like `meterhouse scan --quick`. Six of them are of
shipped families. One of the six breaks every seventh frame, and another one answers after 0.7 s. The seventh device
fits no profile.
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
FAMILIES = {  # unit -> (family, turnaround in seconds)
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
    """A device with one register. Its ``faults`` are active from the first request on."""
    image = Image()
    image.put_words(address, [7], function=function)
    made = SimDevice(unit, image, turnaround_s=turnaround_s)
    for fault in faults:
        made.faults.set(parse_fault(fault))
    return made


async def scan(folder: Path, slow: bool) -> tuple[float, float, list[str]]:
    """Scan once. Returns (seconds that it took, seconds that it announced, units found)."""
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
    """Seven devices that share one line, as in a real cabinet."""
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
    """Scan and identify the seven devices. Returns the announced time, the actual time and the devices found."""
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
    """Run the quick scan. Then run the scan with a slow pass, unless ``quick_only``."""
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
    parser.add_argument("--quick", action="store_true", help="only the quick scan")
    parser.add_argument("--cabinet", action="store_true", help="only the scan of seven devices with identification")
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
