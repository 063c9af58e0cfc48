"""Bytes written to disk per reading, which wear out an SD card (field pains 53 and 59).

    python -m bench.wear [--seconds 120] [--json]

The agent runs with devices, broker and subscriber, on a separate ext4 file system; the ring is in memory, as in /run.
``file`` is the number of bytes that the process wrote to the file system (write_bytes in /proc/PID/io). ``disk`` is the
number of bytes that the file system wrote to its block device, including its journal; this needs root. ``kept`` is the
growth of the database.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from agent.verify.mqtt import hang_up
from bench.rig import agent_config, broker, build_simulator, free_ports, meterhouse, process, wait_port

WARM_S = 30.0  # start phase, in which the compression dictionary is trained and the WAL reaches its final size


def subscribe(port: int) -> mqtt.Client:
    """Connect a subscriber to all topics, so that packs are counted as delivered."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_connect = lambda client, *_: client.subscribe("#", 1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client


def small_disk(stack: ExitStack, folder: Path) -> tuple[Path, Path | None]:
    """Return (a folder on a separate ext4 file system, the file with the kernel's counters of its block device).

    Without root, return (an ordinary folder, None).
    """
    disk = folder / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        return disk, None
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(512 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    stack.callback(subprocess.run, ["umount", disk], check=True)
    device = next(line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if f" {disk} " in line)
    return disk, Path("/sys/block") / Path(device).name / "stat"


def look(pid: int, disk: Path, counters: Path | None, run: Path) -> dict[str, float]:
    """All counters at one moment, after all written data were synced to the device."""
    subprocess.run(["sync", "-f", disk], check=True)
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    state = json.loads((run / "snapshot.json").read_text())
    return {
        "at": time.monotonic(),
        "file": float(io["write_bytes"]),
        "disk": float(counters.read_text().split()[6]) * 512 if counters else 0.0,
        "kept": float((disk / "state" / "store.db").stat().st_size),
        "readings": float(sum(device["readings"] for device in state["devices"].values())),
        "packs": float(sum(device["packs"] for device in state["devices"].values())),
    }


def measure(base: int, devices: int, every_s: int, seconds: float) -> dict[str, Any]:
    """Measure one case. The measurement begins after the start phase of the agent."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mh-bench-")))
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mh-bench-", dir="/dev/shm")))
        disk, counters = small_disk(stack, folder)
        port = stack.enter_context(broker(folder))
        stack.enter_context(
            process([build_simulator(folder), "-b", str(base), "-n", str(devices), "-o", folder / "sim.json"])
        )
        wait_port(base + devices - 1)
        subprocess.run(meterhouse("keys", "create", disk / "signing.key"), check=True, capture_output=True)
        config = agent_config(disk, base, devices, port, f"{every_s} s")
        config.write_text(config.read_text().replace(f"{disk}/run", str(run)))
        client = subscribe(port)
        stack.callback(hang_up, client)
        child = stack.enter_context(process(meterhouse("run", "-c", config), folder / "agent.log"))
        time.sleep(WARM_S)
        before = look(child.pid, disk, counters, run)
        time.sleep(seconds)
        after = look(child.pid, disk, counters, run)
    took = {name: after[name] - value for name, value in before.items()}
    each = {name: round(took[name] / took["readings"], 1) for name in ("file", "disk", "kept")}
    return {
        "devices": devices,
        "pack_s": every_s,
        "readings_per_s": round(took["readings"] / took["at"]),
        "packs_per_s": round(took["packs"] / took["at"], 1),
        **{f"{name}_bytes_per_reading": value if counters or name != "disk" else None for name, value in each.items()},
        "gib_per_day": round((took["disk"] or took["file"]) / took["at"] * 86_400 / 2**30, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    base = free_ports(40)
    cases = [(base, 1, 10), (base + 10, 1, 1), (base + 20, 10, 10), (base + 30, 10, 1)]
    with ThreadPoolExecutor(len(cases)) as pool:  # the cases run in parallel, because most of the time they wait
        rows = list(pool.map(lambda case: measure(*case, given.seconds), cases))
    if given.json:
        print(json.dumps(rows))
        return 0
    print("| devices | packs | readings/s | packs/s | to the file, bytes a reading | to the disk | kept | GiB a day |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['devices']} | {row['pack_s']} s | {row['readings_per_s']:,} | {row['packs_per_s']} |"
            f" {row['file_bytes_per_reading']} | {row['disk_bytes_per_reading']} | {row['kept_bytes_per_reading']} |"
            f" {row['gib_per_day']} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
