"""A day of backlog: how fast the agent sends it, how much CPU and memory that takes, and how much it delays live packs.

    python -m bench.drain [--packs 86400] [--rate N] [--core] [--quota 0.2] [--no-verify] [--json]

A day of packs is signed with a real key and stored: one pack each second, with 50 readings. Then the agent starts
without a broker, so that its memory without work can be measured. Then the broker starts.

``--core`` ties the agent to one core. ``--quota`` gives it only this share of one core, as on a small board (needs root
and cgroup v1). Field pain 49 (docs/reliability.md) requires this measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from agent.keys import load_key
from agent.pack import BirthTable, Packer
from agent.store import Store
from agent.verify import Verifier
from agent.verify.mqtt import hang_up
from bench.rig import HERE, build_simulator, cost_of, free_port, free_ports, meterhouse, process, wait_port
from ext.ring import Ring

STREAM, POINTS, ROUND = "bench/gw/d0", 50, 100  # ROUND is the number of packs in a commit
CLOCK = {"error_ms": 1.2, "kernel_boot": "0b6f3c0e-8a5e-4c1f-9d53-0c2f8f1a7e11", "mono_ms": 1, "synced": True}
CONFIG = """[site]
id = "bench"
gateway = "gw"
timezone = "UTC"
[key]
file = "{folder}/signing.key"
[paths]
state_dir = "{folder}/state"
runtime_dir = "{folder}/run"
[pack]
every = "1 s"
[[uplink]]
name = "platform"
url = "mqtt://127.0.0.1:{broker}"
{rate}
[[line]]
name = "l0"
url = "modbus-tcp://127.0.0.1:{device}"
[[device]]
name = "d0"
line = "l0"
address = "1"
profile = "generic/float100"
points = ["x.p?", "x.p1?", "x.p2?", "x.p3?", "x.p4?"]
every = {{ fast = "1 s" }}
"""


def fill(folder: Path, packs: int) -> float:
    """Store ``packs`` packs. Each spans one second, and the last one ends now. Returns the time that this takes in
    seconds.
    """
    began = time.monotonic()
    points = [{"n": f"x.p{n}", "kind": "gauge", "pace": "fast", "period": 1, "phase": 0} for n in range(POINTS)]
    ring = Ring.create(str(folder / "ring"), 1 << 22, 1, 1, bytes(32))
    start_ms = (int(time.time()) - packs) * 1000
    packer = Packer(
        STREAM, "3f2a9c41d07be815", None, load_key(folder / "signing.key").signer("mh-pack"), start_ms, 1 << 16
    )
    packer.use(BirthTable(STREAM, {"config": None, "device": None, "points": points}))
    store = Store.open(folder / "state" / "store.db", 8 << 30, destinations=["platform"])
    batch = []
    for n in range(packs):
        tick = start_ms + n * 1000
        values = [(p, int(1e6 * math.sin(n / 60 + p)) + 2_000_000, -4, 0) for p in range(POINTS)]
        at = (tick + 31) * 1_000_000
        positions = array("Q", [ring.append_values(0, tick, at, at, values)])
        batch += packer.seal(ring, positions, tick + 1000, {**CLOCK, "mono_ms": n * 1000})
        if len(batch) >= ROUND or n == packs - 1:
            store.packs.commit(batch)
            batch = []
    store.close()
    ring.close()
    return time.monotonic() - began


class Platform:
    """A subscriber that records when each pack arrives on the topics ``readings`` and ``backfill``, and verifies all
    packs.
    """

    def __init__(self, port: int, trust: str | None) -> None:
        self.verifier = Verifier([trust]) if trust else None
        self.backlog: dict[int, float] = {}  # sequence of a backlog pack -> arrival of its first copy
        self.fresh: list[tuple[float, float]] = []  # (arrival, seconds since the end of the pack) for each live pack
        self.copies = 0  # number of further copies of backlog packs
        self.ready = threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.on_subscribe = lambda *_: self.ready.set()
        self._client.on_message = self._came
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self.ready.wait(10)

    def _came(self, client: mqtt.Client, user: object, message: mqtt.MQTTMessage) -> None:
        now, road = time.time(), message.topic.rpartition("/")[2]
        if self.verifier:
            self.verifier.feed(message.payload, message.topic)
        if not message.topic.startswith("meterhouse/v1/bench/gw/d0/"):
            return
        head = message.payload
        if road == "backfill":
            seq = int(head[head.rindex(b'"seq":') + 6 :].split(b",", 1)[0])
            self.copies += seq in self.backlog
            self.backlog.setdefault(seq, now)
        elif road == "readings":
            self.fresh.append((now, now - float(head[head.rindex(b'"to":') + 5 :].split(b",", 1)[0])))

    def close(self) -> None:
        hang_up(self._client)


@contextlib.contextmanager
def quota(share: float | None) -> Iterator[list[str]]:
    """Yield the words that must precede a command so that it gets only ``share`` of one core. None: there is no
    limit.
    """
    if share is None:
        yield []
        return
    group = Path("/sys/fs/cgroup/cpu") / f"mh-bench-{os.getpid()}"
    group.mkdir()
    (group / "cpu.cfs_period_us").write_text("20000")
    (group / "cpu.cfs_quota_us").write_text(str(int(20000 * share)))
    try:
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    finally:
        group.rmdir()


def measure(packs: int, rate: int, core: bool, share: float | None, verify: bool) -> dict[str, Any]:
    """Store the backlog, let the agent send it once, and measure."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mh-drain-")))
        (folder / "state").mkdir()
        subprocess.run(meterhouse("keys", "create", folder / "signing.key"), check=True, capture_output=True)
        shown = subprocess.run(
            meterhouse("keys", "show", folder / "signing.key", "--json"), check=True, capture_output=True
        )
        filled_s = fill(folder, packs)
        port, device = free_port(), free_ports(1)
        stack.enter_context(process([build_simulator(folder), "-b", str(device), "-n", "1", "-o", folder / "sim.json"]))
        wait_port(device)
        text = CONFIG.format(folder=folder, broker=port, device=device, rate=f"backfill_rate = {rate}" if rate else "")
        (folder / "agent.toml").write_text(text)
        argv: list[Any] = [*stack.enter_context(quota(share)), *(["taskset", "-c", "0"] if core or share else [])]
        argv += meterhouse("run", "-c", folder / "agent.toml")
        agent = stack.enter_context(process(argv, folder / "agent.log", cwd=HERE.parent))
        deadline = time.monotonic() + 60
        while "serving" not in (folder / "agent.log").read_text():
            assert time.monotonic() < deadline and agent.poll() is None, (folder / "agent.log").read_text()
            time.sleep(0.05)
        # until the agent has identified the device, sealed its first packs, and released memory that only the start
        # needed
        time.sleep(6.0)
        rest = cost_of(agent.pid)
        conf = folder / "mosquitto.conf"
        conf.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n"
        )
        stack.enter_context(process(["/usr/sbin/mosquitto", "-c", conf], folder / "mosquitto.log"))
        wait_port(port)
        platform = Platform(port, json.loads(shown.stdout)["thumbprint"] if verify else None)
        stack.callback(platform.close)
        most, began = rest.rss_mb, time.time()
        while len(platform.backlog) < packs:
            time.sleep(0.1)
            most = max(most, cost_of(agent.pid).rss_mb)
            assert agent.poll() is None and time.time() - began < 3600, (folder / "agent.log").read_text()[-2000:]
        end = cost_of(agent.pid)
        came = sorted(platform.backlog.values())
        drained_s = came[-1] - came[0]
        ages = [age for at, age in platform.fresh if came[0] <= at <= came[-1]]
        deadline = time.monotonic() + 20  # wait for packs that the agent sealed itself before the broker started
        while platform.verifier and platform.verifier.report().missing and time.monotonic() < deadline:
            time.sleep(0.5)
        report = platform.verifier.report() if platform.verifier else None
        return {
            "packs": packs,
            "rate": rate or 200,
            "filled_s": round(filled_s, 1),
            "drained_s": round(drained_s, 1),
            "packs_per_s": round(packs / drained_s, 1),
            "times_live": round(packs / drained_s),
            "cpu_us_a_pack": round((end.cpu_s - rest.cpu_s) / packs * 1e6),
            "cpu_share": round((end.cpu_s - rest.cpu_s) / drained_s, 2),
            "rss_rest_mb": round(rest.rss_mb, 1),
            "rss_most_mb": round(most, 1),
            "rss_growth_mb": round(most - rest.rss_mb, 1),
            "fresh": len(ages),
            "fresh_median_s": round(statistics.median(ages), 2) if ages else None,
            "fresh_worst_s": round(max(ages), 2) if ages else None,
            "copies": platform.copies,
            "failed": report.failed if report else None,
            "missing": report.missing if report else None,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packs", type=int, default=86_400)
    parser.add_argument("--rate", type=int, default=0, help="packs a second; 0: as it comes")
    parser.add_argument("--core", action="store_true")
    parser.add_argument("--quota", type=float)
    parser.add_argument("--no-verify", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    row = measure(options.packs, options.rate, options.core, options.quota, not options.no_verify)
    print(json.dumps(row) if options.json else "\n".join(f"{name:<16} {value}" for name, value in row.items()))


if __name__ == "__main__":
    sys.exit(main())
