"""The agent in a control group with a tenth of a core and 128 MB: does it have gaps, and does ``status`` answer?

    python -m bench.smallbox [--devices 20] [--core 0.1] [--memory 128] [--seconds 60]

Each device has 100 floats at 1 Hz, and a pack spans 10 s. Devices, broker and subscriber run outside of the control
group. Both versions of control groups (1 and 2) work. They need root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.agent import POINTS
from bench.rig import (
    agent_config,
    broker,
    build_simulator,
    cost_of,
    free_ports,
    meterhouse,
    process,
    runtime_folder,
    wait_port,
)
from bench.subscriber import Subscriber

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
STATUS_EVERY_S = 5.0


class Box:
    """A control group with limits. A process joins it when its PID is written to each of ``files``."""

    def __init__(self, core: float, memory_bytes: int) -> None:
        name, quota_us = f"mh-bench-{os.getpid()}", round(core * PERIOD_US)
        if (CGROUPS / "cgroup.controllers").exists():
            limits = {"cpu.max": f"{quota_us} {PERIOD_US}", "memory.max": memory_bytes, "memory.swap.max": 0}
            self._folders = {CGROUPS / name: limits}
        else:
            self._folders = {
                CGROUPS / "cpu" / name: {"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": quota_us},
                CGROUPS / "memory" / name: {"memory.limit_in_bytes": memory_bytes},
            }
        self.files = [folder / "cgroup.procs" for folder in self._folders]

    def __enter__(self) -> Box:
        for folder, limits in self._folders.items():
            folder.mkdir()
            for file, value in limits.items():
                with contextlib.suppress(FileNotFoundError):  # this file does not exist if the machine has no swap
                    (folder / file).write_text(str(value))
        return self

    def __exit__(self, *error: object) -> None:
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def inside(self, argv: list[str | Path]) -> list[str | Path]:
        """The command line that runs ``argv`` in the control group."""
        enter = 'for file in $0; do echo $$ > "$file"; done; exec "$@"'
        return ["sh", "-c", enter, " ".join(map(str, self.files)), *argv]

    def facts(self) -> dict[str, float]:
        """Number and times of throttling, and the peak of memory in MB. The ring counts as well, because it is a file
        in memory.
        """
        found: dict[str, float] = {}
        for folder in self._folders:
            with contextlib.suppress(OSError):
                for line in (folder / "cpu.stat").read_text().splitlines():
                    key, value = line.split()
                    found[key] = float(value)
            for file in ("memory.peak", "memory.max_usage_in_bytes"):
                with contextlib.suppress(OSError):
                    found["memory"] = int((folder / file).read_text()) / 1e6
        return found


@contextlib.contextmanager
def running(devices: int, box: Box) -> Iterator[tuple[subprocess.Popen[bytes], Subscriber, Path]]:
    """Run an agent in the control group. Yields (its process, a subscriber, its configuration file)."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mh-bench-")))
        runtime = stack.enter_context(runtime_folder())
        mqtt_port = stack.enter_context(broker(folder))
        base, simulator = free_ports(devices), build_simulator(folder)
        stack.enter_context(process([simulator, "-b", str(base), "-n", str(devices), "-o", folder / "sim.json"]))
        wait_port(base + devices - 1)
        config = agent_config(folder, base, devices, mqtt_port, "10 s", runtime=runtime)
        key = folder / "signing.key"
        subprocess.run(meterhouse("keys", "create", key), check=True, capture_output=True)
        shown = subprocess.run(meterhouse("keys", "show", key, "--json"), check=True, capture_output=True)
        subscriber = Subscriber(mqtt_port, json.loads(shown.stdout)["thumbprint"])
        stack.callback(subscriber.close)
        agent = stack.enter_context(process(box.inside(meterhouse("run", "-c", config)), folder / "agent.log"))
        yield agent, subscriber, config


def status_seconds(config: Path) -> float:
    """The seconds that the command ``status`` takes outside of the control group. Raises RuntimeError if it gets no
    answer.
    """
    began = time.monotonic()
    done = subprocess.run(meterhouse("status", "-c", config, "--json"), capture_output=True, timeout=60, check=False)
    # the exit code does not tell whether there was an answer: it is 1 if there are findings
    if not done.stdout.startswith(b"{"):
        raise RuntimeError(f"status: {done.stderr.decode()}")
    return time.monotonic() - began


def measure(devices: int, core: float, memory_mb: int, seconds: float) -> dict[str, Any]:
    """Measure once. Returns all figures."""
    with Box(core, memory_mb * 1_000_000) as box:
        with running(devices, box) as (agent, subscriber, config):
            began = time.time()
            while not subscriber.count and agent.poll() is None and time.time() < began + 120:
                time.sleep(0.1)
            first_s = time.time() - began
            time.sleep(15)
            t0, c0 = time.time(), cost_of(agent.pid)
            answers = []
            while (left_s := t0 + seconds - time.time()) > 0:  # the measurement lasts a whole number of pack intervals
                if left_s > 2 * STATUS_EVERY_S:
                    answers.append(status_seconds(config))
                time.sleep(max(0.0, min(STATUS_EVERY_S, t0 + seconds - time.time())))
            t1, c1 = time.time(), cost_of(agent.pid)
            facts = box.facts()
            time.sleep(12)
            subscriber.stop()
            agent.terminate()
            agent.wait(120)
            found = subscriber.finish()
        return {
            "devices": devices,
            "readings_per_s": round(found.readings(t0, t1) / (t1 - t0)),
            "wanted_per_s": devices * POINTS,
            "core": core,
            "used": round((c1.cpu_s - c0.cpu_s) / (t1 - t0), 4),
            "memory_mb": round(facts.get("memory", 0.0)),
            "rss_mb": round(c1.rss_mb, 1),
            "first_s": round(first_s, 1),
            "gaps": found.gaps,
            "failed": found.failed,
            "status_s": round(statistics.median(answers), 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--core", type=float, default=0.1)
    parser.add_argument("--memory", type=int, default=128, help="MB")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("a control group needs root")
    row = measure(options.devices, options.core, options.memory, options.seconds)
    if options.json:
        print(json.dumps(row))
        return
    print("| devices | readings/s | of a core, used | memory of the box MB (RSS) | first pack s | gaps | status s |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {row['devices']} | {row['readings_per_s']:,} of {row['wanted_per_s']:,} | {row['core']}, {row['used']} "
        f"| {row['memory_mb']} ({row['rss_mb']}) | {row['first_s']} | {row['gaps']} | {row['status_s']} |"
    )


if __name__ == "__main__":
    main()
