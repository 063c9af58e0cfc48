"""The gateway's page of an agent with many points: time of the first view, and the cost of twenty viewers.

    python -m bench.page [--devices 20] [--viewers 20] [--seconds 30] [--json]

Each device has 100 floats at 1 Hz. A viewer fetches the first page every two seconds, as the page's script does; one of
the viewers fetches the page of a device. CPU and memory are read from /proc. For the page's process, shared memory is
not counted, because it is the ring.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.rig import (
    agent_config,
    broker,
    build_simulator,
    cost_of,
    free_port,
    free_ports,
    meterhouse,
    process,
    wait_port,
)

REFRESH_S = 2.0


def fetch(line: http.client.HTTPConnection, path: str, **headers: str) -> bytes:
    """Fetch a page. Returns the body as it was sent; it may be compressed."""
    line.request("GET", path, headers={"accept-encoding": "gzip", **headers})
    answer = line.getresponse()
    body = answer.read()
    assert answer.status == 200, (path, answer.status)
    return body


def first_view(port: int) -> tuple[float, int]:
    """Fetch the first page and its static files over one connection. Returns (seconds, bytes)."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    began = time.perf_counter()
    line.request("GET", "/")
    page = line.getresponse().read()
    size = len(page)
    for path in re.findall(r'(?:href|src)="(/static/[^"]+)"', page.decode()):
        size += len(fetch(line, path))
    return time.perf_counter() - began, size


def view(port: int, until: float, offset: float, path: str, ages: list[float]) -> None:
    """Fetch a page every ``REFRESH_S`` seconds until the time ``until`` (monotonic).

    If ``ages`` is not empty, the ages of the values that the page shows are added to it.
    """
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    time.sleep(offset)
    while time.monotonic() < until:
        line.request("GET", path, headers={"x-refresh": "1", "accept-encoding": "" if ages else "gzip"})
        page = line.getresponse().read()
        if ages:
            found = re.findall(rb'<td class="n">([0-9.]+) s</td>', page)
            ages += [float(age) for age in found]
        time.sleep(REFRESH_S)


def unshared_mb(pid: int) -> float:
    """Resident memory of a process in MiB. Memory that it shares with other processes does not count."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = {name: int(size) for name, size in re.findall(r"^(VmRSS|RssShmem):\s+(\d+)", status, re.MULTILINE)}
    return (kib["VmRSS"] - kib["RssShmem"]) / 1024


def measure(devices: int, viewers: int, seconds: float) -> dict[str, Any]:
    """Measure once. Returns all figures."""
    with tempfile.TemporaryDirectory(prefix="bench-page-") as name, ExitStack() as stack:
        folder = Path(name)
        base = free_ports(devices)
        mqtt_port = stack.enter_context(broker(folder))
        stack.enter_context(process([build_simulator(folder), "-b", str(base), "-n", str(devices)], folder / "sim.log"))
        wait_port(base + devices - 1)
        config = agent_config(folder, base, devices, mqtt_port, "10 s")
        subprocess.run(
            [*map(str, meterhouse("keys", "create", folder / "signing.key"))], check=True, capture_output=True
        )
        agent = stack.enter_context(process(meterhouse("run", "-c", config), folder / "agent.log"))
        while not (folder / "run/snapshot.json").exists():
            time.sleep(0.1)
        time.sleep(20)
        before = cost_of(agent.pid).cpu_s
        time.sleep(seconds)
        alone = (cost_of(agent.pid).cpu_s - before) / seconds
        port = free_port()
        page = stack.enter_context(
            process(meterhouse("web", "-c", config, "--listen", f"127.0.0.1:{port}"), folder / "page.log")
        )
        wait_port(port, 60)
        idle_mb = unshared_mb(page.pid)
        first_s, first_bytes = first_view(port)
        again_s, _ = first_view(port)
        time.sleep(5)
        ages, until = [0.0], time.monotonic() + seconds
        threads = [
            threading.Thread(target=view, args=(port, until, n * REFRESH_S / viewers, "/", []))
            for n in range(viewers - 1)
        ]
        threads.append(threading.Thread(target=view, args=(port, until, 0, "/device/d0", ages)))
        page_cpu, agent_cpu, began = cost_of(page.pid).cpu_s, cost_of(agent.pid).cpu_s, time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - began
        return {
            "readings_per_s": devices * 100,
            "first_view_s": round(first_s, 3),
            "second_view_s": round(again_s, 3),
            "first_view_kb": round(first_bytes / 1000, 1),
            "idle_mb": round(idle_mb, 1),
            "viewers": viewers,
            "page_cpu": round((cost_of(page.pid).cpu_s - page_cpu) / took, 4),
            "page_mb": round(unshared_mb(page.pid), 1),
            "oldest_value_s": max(ages),
            "agent_cpu_alone": round(alone, 4),
            "agent_cpu_with_viewers": round((cost_of(agent.pid).cpu_s - agent_cpu) / took, 4),
        }


def main() -> None:
    """Measure, then print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.devices, given.viewers, given.seconds)
    if given.json:
        print(json.dumps(found))
        return
    print("| what | value |\n|---|---|")
    for name, value in found.items():
        print(f"| {name.replace('_', ' ')} | {value} |")


if __name__ == "__main__":
    main()
