"""The whole agent under load: D simulated TCP devices of 100 floats at 1 Hz, a real broker, a verifying subscriber.

    python -m bench.agent [--devices 10,100,400] [--every 10,1] [--seconds 20] [--json]

Beside it, for comparison, a plain pymodbus + paho script that neither signs nor stores (``--plain``).
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


class Subscriber:
    """Counts what arrives, and verifies all of it."""

    def __init__(self, port: int, trust: str | None) -> None:
        self.verifier = Verifier([trust] if trust else [])
        self.plain = trust is None
        self.lock = threading.Lock()
        self.arrivals: list[tuple[float, int, float]] = []  # (when, readings, oldest latency)
        self.bytes = 0
        self.first: float | None = None
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
            if count and self.first is None:
                self.first = now
            self.arrivals.append((now, count, now - stamp))

    def readings(self, begin: float, end: float) -> int:
        with self.lock:
            return sum(n for t, n, _ in self.arrivals if begin <= t < end)

    def close(self) -> None:
        hang_up(self._client)


def measure(devices: int, every_s: int, seconds: float, plain: bool = False) -> dict[str, Any]:
    """One run. The window spans whole pack intervals."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mh-bench-")))
        mqtt_port = stack.enter_context(broker(folder))
        base = free_ports(devices)
        simulator = build_simulator(folder)
        stack.enter_context(process([simulator, "-b", str(base), "-n", str(devices), "-o", folder / "sim.json"]))
        wait_port(base + devices - 1)
        if plain:
            trust = None
            argv = [sys.executable, HERE / "plain_agent.py", str(base), str(devices), str(mqtt_port)]
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
            "devices": devices,
            "pack_s": None if plain else every_s,
            "readings_per_s": round(got / (t1 - t0)),
            "wanted_per_s": devices * POINTS,
            "cpu_s_per_million": round((c1.cpu_s - c0.cpu_s) / got * 1e6, 2) if got else None,
            "cpu_share": round((c1.cpu_s - c0.cpu_s) / (t1 - t0), 3),
            "rss_mb": round(c1.rss_mb, 1),
            "peak_mb": round(c1.peak_mb, 1),
            "first_verified_s": round(subscriber.first - began, 2),
            "latency_s": round(statistics.median(latencies), 2) if latencies else None,
            "gaps": None if plain else report.gaps,
            "failed": None if plain else report.failed,
            "store_mb": round(store / 1e6, 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--devices", default="10,100,400")
    parser.add_argument("--every", default="10,1")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--no-plain", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for devices in (int(d) for d in options.devices.split(",")):
        runs = [(int(e), False) for e in options.every.split(",")] + ([] if options.no_plain else [(0, True)])
        for every, plain in runs:
            rows.append(measure(devices, every or 1, options.seconds, plain))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(rows))
        return
    print(
        "| agent | devices | packs | readings/s | CPU-s per million | RSS MB (peak) | first verified s "
        "| latency s | gaps |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        who, packs = ("meterhouse", f"{r['pack_s']} s") if r["pack_s"] else ("plain script", "-")
        cells = (
            who,
            r["devices"],
            packs,
            f"{r['readings_per_s']:,} of {r['wanted_per_s']:,}",
            r["cpu_s_per_million"],
            f"{r['rss_mb']} ({r['peak_mb']})",
            r["first_verified_s"],
            r["latency_s"],
            "-" if r["gaps"] is None else r["gaps"],
        )
        print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
