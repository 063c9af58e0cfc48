"""A scan of all 247 Modbus units at 9600 baud, true byte times: the quick pass, then a slow pass that must miss none.

    python -m bench.scan [--quick] [--json]

Five devices answer at once, as most do. Five more are what a quick pass may miss: one takes 0.7 s, one does not
answer the first two questions, one has input registers only, one breaks its first frames, one refuses register 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from drivers.scan import Scan, ScanOptions
from drivers.sim.bus import Bus
from drivers.sim.device import SimDevice
from drivers.sim.faults import parse_fault
from drivers.sim.image import Image
from drivers.sim.rtu import SerialLine

QUICK = (1, 17, 100, 200, 247)
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
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.quick)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name.replace('_', ' '):<28} {value}")


if __name__ == "__main__":
    main()
