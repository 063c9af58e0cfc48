"""The whole agent under load: simulated TCP devices with 100 floats at 1 Hz, a real broker, a verifying subscriber.

    python -m bench.agent [--devices 10,100,400] [--every 10,1] [--seconds 20] [--repeat 1] [--json]
    python -m bench.agent --floor     # 100, 400, 1600 and 3000 devices, medians of three, about 25 minutes

For comparison, a plain pymodbus + paho script is measured too. It neither signs nor stores. ``--no-plain`` leaves this
measurement out.

``--floor`` also measures a minimal C program, ``src/floor_agent.c`` with libmodbus and libmosquitto (Debian:
libmodbus-dev libmosquitto-dev pkg-config). It sends the same messages as the plain script. Its CPU time with 100
devices is the unit in which all CPU times of the run are expressed. The unit is not measured with more devices, because
libmodbus waits with select(), which allows only 1,024 sockets.

CPU and memory are read from /proc for the agent's process only. A latency is the time from the read time in the pack
until the subscriber has received the pack. So it includes the wait for the end of the pack, up to one pack interval.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.rig import (
    HERE,
    agent_config,
    broker,
    build_simulator,
    compile_c,
    cost_of,
    free_ports,
    meterhouse,
    process,
    ring_mb,
    runtime_folder,
    wait_port,
)
from bench.subscriber import Subscriber

POINTS = 100
AGENT, PLAIN, FLOOR = "meterhouse", "plain script", "floor in C"
FLOOR_DEVICES = 100


def build_floor(folder: Path) -> Path:
    """Compile the minimal C program."""
    packages = "gcc pkg-config libmodbus-dev libmosquitto-dev"
    return compile_c(folder / "floor_agent", packages, libraries=("libmodbus", "libmosquitto"))


def measure(devices: int, every_s: int, seconds: float, who: str = AGENT) -> dict[str, Any]:
    """Measure one program once. ``who`` is ``AGENT``, ``PLAIN`` or ``FLOOR``. The measurement lasts a whole number of
    pack intervals.
    """
    plain = who != AGENT
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mh-bench-")))
        mqtt_port = stack.enter_context(broker(folder))
        base = free_ports(devices)
        simulator = build_simulator(folder)
        stack.enter_context(process([simulator, "-b", str(base), "-n", str(devices), "-o", folder / "sim.json"]))
        wait_port(base + devices - 1)
        if plain:
            trust = None
            program = [build_floor(folder)] if who == FLOOR else [sys.executable, "-m", "bench.plain_agent"]
            argv = [*program, str(base), str(devices), str(mqtt_port)]
        else:
            runtime = stack.enter_context(runtime_folder())
            config = agent_config(folder, base, devices, mqtt_port, f"{every_s} s", runtime=runtime)
            subprocess.run(meterhouse("keys", "create", folder / "signing.key"), check=True, capture_output=True)
            shown = subprocess.run(
                meterhouse("keys", "show", folder / "signing.key", "--json"), check=True, capture_output=True
            )
            trust = json.loads(shown.stdout)["thumbprint"]
            argv = meterhouse("run", "-c", config)
        subscriber = Subscriber(mqtt_port, trust)
        stack.callback(subscriber.close)
        began = time.time()
        agent = stack.enter_context(process(argv, folder / "agent.log", cwd=HERE.parent))
        settle = max(10.0, 2.0 * every_s)  # with thousands of devices, the first packs take seconds
        time.sleep(settle)
        window = max(seconds, 2.0 * every_s) // every_s * every_s
        moments = []
        for pause in (0.0, window):
            time.sleep(pause)
            if agent.poll() is not None:
                raise RuntimeError(f"{who} ended:\n" + (folder / "agent.log").read_text()[-3000:])
            moments.append((time.time(), cost_of(agent.pid)))
        (t0, c0), (t1, c1) = moments
        ring = 0.0 if plain else ring_mb(runtime)
        store = sum(p.stat().st_size for p in (folder / "state").glob("*")) if not plain else 0
        time.sleep(1.0)
        subscriber.stop()
        agent.terminate()  # without the agent, the subscriber has the whole CPU to verify the remaining messages
        agent.wait(120)
        found = subscriber.finish()
    if not found.seen:
        raise RuntimeError(f"{who}: nothing arrived that can be verified")
    got = found.readings(t0, t1)
    latencies = [one.latency_s for one in found.arrivals if one.readings and t0 <= one.at < t1]
    return {
        "who": who,
        "devices": devices,
        "pack_s": None if plain else every_s,
        "readings_per_s": round(got / (t1 - t0)),
        "wanted_per_s": devices * POINTS,
        "cpu_s_per_million": round((c1.cpu_s - c0.cpu_s) / got * 1e6, 2) if got else None,
        "cpu_share": round((c1.cpu_s - c0.cpu_s) / (t1 - t0), 3),
        "rss_mb": round(c1.rss_mb, 1),
        "peak_mb": round(c1.peak_mb, 1),
        "ring_mb": None if plain else round(ring, 1),
        "first_verified_s": round(min(found.seen.values()) - began, 2),
        "all_verified_s": round(max(found.seen.values()) - began, 2) if len(found.seen) >= devices else None,
        "latency_s": round(statistics.median(latencies), 2) if latencies else None,
        "gaps": None if plain else found.gaps,
        "failed": None if plain else found.failed,
        "store_mb": round(store / 1e6, 2),
    }


def median_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the median CPU time. Its numbers of gaps, failures and readings are replaced by the worst of all
    runs.
    """
    ordered = sorted(runs, key=lambda run: run["cpu_s_per_million"])
    row = dict(ordered[len(ordered) // 2])
    row["readings_per_s"] = min(run["readings_per_s"] for run in runs)
    for name in ("gaps", "failed"):
        row[name] = None if row[name] is None else max(run[name] for run in runs)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Make a Markdown table. If the minimal C program was measured too, one column has each CPU time as a multiple of
    its time.
    """
    unit = next((row["cpu_s_per_million"] for row in rows if row["who"] == FLOOR), None)
    columns = {
        "agent": lambda r: r["who"],
        "devices": lambda r: r["devices"],
        "pack interval": lambda r: "-" if r["pack_s"] is None else f"{r['pack_s']} s",
        "readings/s (delivered of due)": lambda r: f"{r['readings_per_s']:,} of {r['wanted_per_s']:,}",
        "CPU-s per million readings": lambda r: r["cpu_s_per_million"],
        "times the floor": lambda r: f"{r['cpu_s_per_million'] / unit:.2f}",
        "RSS MB (peak)": lambda r: f"{r['rss_mb']} ({r['peak_mb']})",
        "first verified s": lambda r: r["first_verified_s"],
        "all seen s": lambda r: r["all_verified_s"],
        "latency s": lambda r: r["latency_s"],
        "gaps": lambda r: "-" if r["gaps"] is None else r["gaps"],
    }
    if unit is None:
        del columns["times the floor"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join(lines + ["| " + " | ".join(str(cell(row)) for cell in columns.values()) + " |" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--devices", help="sizes, default 10,100,400; with --floor 100,400,1600,3000")
    parser.add_argument("--every", default="10,1")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--repeat", type=int, help="runs of each row, default 1; with --floor 3")
    parser.add_argument("--no-plain", action="store_true")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = [int(d) for d in (options.devices or ("100,400,1600,3000" if options.floor else "10,100,400")).split(",")]
    wanted = [(FLOOR_DEVICES, 1, FLOOR)] if options.floor else []
    for devices in sizes:
        wanted += [(devices, int(every), AGENT) for every in options.every.split(",")]
        wanted += [] if options.no_plain or options.floor else [(devices, 1, PLAIN)]
    runs: dict[tuple[int, int, str], list[dict[str, Any]]] = {each: [] for each in wanted}
    # measure all rows once in each round, so that a machine that becomes slower affects all rows alike
    for _ in range(options.repeat or (3 if options.floor else 1)):
        for devices, every, who in wanted:
            row = measure(devices, every, options.seconds, who)
            print(json.dumps(row), file=sys.stderr, flush=True)
            runs[devices, every, who].append(row)
    rows = [median_of(of_one) for of_one in runs.values()]
    print(json.dumps(rows) if options.json else table(rows))


if __name__ == "__main__":
    main()
