"""The whole agent under load: D simulated TCP devices of 100 floats at 1 Hz, a real broker, a verifying subscriber.

    python -m bench.agent [--devices 10,100,400] [--every 10,1] [--seconds 20] [--repeat 1] [--json]
    python -m bench.agent --floor     # 100, 400, 1600 and 3000 devices, medians of three, about 25 minutes

Beside it, for comparison, a plain pymodbus + paho script that neither signs nor stores (left out by ``--no-plain``).
``--floor`` measures everything in units of the least that a C program can do (``src/floor_agent.c``, libmodbus and
libmosquitto, 100 devices, same run; Debian: libmodbus-dev libmosquitto-dev pkg-config). It sends as little as the plain
script does. Its unit serves all sizes, because libmodbus waits with select(), which ends at 1,024 sockets.
CPU and memory are read from /proc for the agent's process alone. A latency is from the read time in the pack to the
moment the verified pack is in the subscriber's hands, so it contains up to one pack interval of waiting by design.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from agent.verify import Verifier
from agent.verify.mqtt import hang_up
from agent.verify.verifier import Outcome
from bench.rig import HERE, agent_config, broker, build_simulator, cost_of, free_ports, meterhouse, process, wait_port

POINTS = 100
AGENT, PLAIN, FLOOR = "meterhouse", "plain script", "floor in C"
FLOOR_DEVICES = 100


class Subscriber:
    """Counts what arrives, and verifies all of it."""

    def __init__(self, port: int, trust: str | None) -> None:
        self.verifier = Verifier([trust] if trust else [])
        self.plain = trust is None
        self.lock = threading.Lock()
        self.arrivals: list[tuple[float, int, float]] = []  # (when, readings, oldest latency)
        self.bytes = 0
        self.first: float | None = None
        self.seen: dict[str, float] = {}  # topic: when it brought readings first
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = self._message
        self._client.on_connect = lambda c, *_: c.subscribe("#", 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _message(self, client: mqtt.Client, user: Any, message: mqtt.MQTTMessage) -> None:
        now = time.time()
        if self.plain:
            body = json.loads(message.payload)
            count, stamp = len(body["values"]), body["ts"] / 1000
        else:
            if self.verifier.feed(message.payload, message.topic) is not Outcome.VERIFIED or message.retain:
                return
            records = json.loads(message.payload).get("e", [])
            count, stamp = len(records), records[0]["bt"] if records else now
        with self.lock:
            self.bytes += len(message.payload)
            if count:
                self.first = self.first or now
                self.seen.setdefault(message.topic, now)
            self.arrivals.append((now, count, now - stamp))

    def readings(self, begin: float, end: float) -> int:
        with self.lock:
            return sum(n for t, n, _ in self.arrivals if begin <= t < end)

    def all_seen(self, devices: int, began: float) -> float | None:
        """Seconds until each of so many devices had sent readings; None if one has not yet. A device has one topic."""
        with self.lock:
            return round(max(self.seen.values()) - began, 2) if len(self.seen) >= devices else None

    def close(self) -> None:
        hang_up(self._client)


def build_floor(folder: Path) -> Path:
    """Compile the C program that is the unit. Raises CalledProcessError where its libraries are missing."""
    libraries = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libmodbus", "libmosquitto"], check=True, capture_output=True, text=True
    )
    binary = folder / "floor_agent"
    source = HERE / "src" / "floor_agent.c"
    subprocess.run(["cc", "-O2", "-o", binary, source, *libraries.stdout.split()], check=True)
    return binary


def measure(devices: int, every_s: int, seconds: float, who: str = AGENT) -> dict[str, Any]:
    """One run of one of ``AGENT``, ``PLAIN`` and ``FLOOR``. The window spans whole pack intervals."""
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
            program = [build_floor(folder)] if who == FLOOR else [sys.executable, HERE / "plain_agent.py"]
            argv = [*program, str(base), str(devices), str(mqtt_port)]
        else:
            config = agent_config(folder, base, devices, mqtt_port, f"{every_s} s")
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
        deadline = began + 30
        while subscriber.first is None and time.time() < deadline and agent.poll() is None:
            time.sleep(0.01)
        if subscriber.first is None:
            raise RuntimeError("nothing arrived:\n" + (folder / "agent.log").read_text()[-3000:])
        settle = max(6.0, 1.5 * every_s)
        time.sleep(settle)
        window = max(seconds, 2.0 * every_s) // every_s * every_s
        t0, c0 = time.time(), cost_of(agent.pid)
        time.sleep(window)
        t1, c1 = time.time(), cost_of(agent.pid)
        time.sleep(1.0)
        got = subscriber.readings(t0, t1)
        latencies = [lat for t, n, lat in subscriber.arrivals if n and t0 <= t < t1]
        store = sum(p.stat().st_size for p in (folder / "state").glob("*")) if not plain else 0
        report = subscriber.verifier.report()
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
            "first_verified_s": round(subscriber.first - began, 2),
            "all_verified_s": round(max(subscriber.seen.values()) - began, 2)
            if len(subscriber.seen) == devices
            else None,
            "latency_s": round(statistics.median(latencies), 2) if latencies else None,
            "gaps": None if plain else report.gaps,
            "failed": None if plain else report.failed,
            "store_mb": round(store / 1e6, 2),
        }


def median_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median run by CPU, with the worst count of gaps, of failures and of readings of all runs."""
    ordered = sorted(runs, key=lambda run: run["cpu_s_per_million"])
    row = dict(ordered[len(ordered) // 2])
    row["readings_per_s"] = min(run["readings_per_s"] for run in runs)
    for name in ("gaps", "failed"):
        row[name] = None if row[name] is None else max(run[name] for run in runs)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; with a column in units of the floor where it was measured."""
    unit = next((row["cpu_s_per_million"] for row in rows if row["who"] == FLOOR), None)
    columns = {
        "agent": lambda r: r["who"],
        "devices": lambda r: r["devices"],
        "packs": lambda r: "-" if r["pack_s"] is None else f"{r['pack_s']} s",
        "readings/s": lambda r: f"{r['readings_per_s']:,} of {r['wanted_per_s']:,}",
        "CPU-s per million": lambda r: r["cpu_s_per_million"],
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
    # whole rounds, so that a machine that grows slower meets all rows alike
    for _ in range(options.repeat or (3 if options.floor else 1)):
        for devices, every, who in wanted:
            row = measure(devices, every, options.seconds, who)
            print(json.dumps(row), file=sys.stderr, flush=True)
            runs[devices, every, who].append(row)
    rows = [median_of(of_one) for of_one in runs.values()]
    print(json.dumps(rows) if options.json else table(rows))


if __name__ == "__main__":
    main()
