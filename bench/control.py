"""The control socket of a running agent under valid requests, random frames and many connections.

    python -m bench.control [--frames 100000] [--days 40] [--json]

The agent has some weeks of a park in its store and polls two simulated devices. A task in its event loop measures how
long the loop was blocked (``bench/watched_agent.py``). It measures both the wall clock and the CPU time of the loop's
thread, because the wall clock also includes other work of the machine. Memory is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from agent.service.control.protocol import Export, Keys, Lease, PeriodReport, encode_request
from bench.rig import HERE, build_simulator, cost_of, free_ports, meterhouse, process, wait_port
from bench.timelapse import Timelapse

FLOODERS = 4
LINE = """
[[line]]
name = "bench-{n}"
url = "modbus-tcp://127.0.0.1:{port}"

[[device]]
name = "bench-{n}"
line = "bench-{n}"
address = "1"
profile = "site/media"
every = {{ fast = "1 s", normal = "1 s", slow = "1 s" }}
"""


# --- clients


def connect(folder: Path) -> socket.socket:
    """Connect to the control socket. Waits while the kernel's queue of connections is full."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    give_up = time.monotonic() + 30
    while True:
        try:
            sock.connect(str(folder / "control"))
            return sock
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.001)


def drain(sock: socket.socket) -> None:
    with suppress(OSError):
        while sock.recv(65536):
            pass


def mutated(choose: random.Random, data: bytes) -> bytes:
    """A copy of ``data`` with random damage: some bytes are changed, removed, repeated or inserted."""
    out = bytearray(data)
    for _ in range(choose.randrange(1, 4)):
        at, what = choose.randrange(len(out) + 1), choose.randrange(4)
        if what == 0 and at < len(out):
            out[at] = choose.randrange(256)
        elif what == 1:
            del out[at : at + choose.randrange(8)]
        elif what == 2:
            out[at:at] = out[at : at + choose.randrange(60)]
        else:
            out[at:at] = choose.randbytes(choose.randrange(4))
    return bytes(out)


def flood(folder: Path, count: int, seed: int) -> None:
    """Send ``count`` random and mutated frames, each over a new connection."""
    choose = random.Random(seed)
    day = 86_400_000
    good = [encode_request(one) for one in (
        Export(from_ms=day, to_ms=2 * day, streams=["x"]), PeriodReport(period="day", now_ms=day, day="1990-01-01"),
        Keys(kid="k" * 43), Lease(line="x", purpose="read"),
    )]  # fmt: skip
    deep = [b"\x01\0\0\xea\x60" + text * 60_000 for text in (b"[", b" ")]
    for _ in range(count):
        kind = choose.random()
        data = choose.randbytes(choose.randrange(400)) if kind < 0.2 else mutated(choose, choose.choice(good))
        data = choose.choice(deep) if kind > 0.98 else data
        with connect(folder) as sock:
            with suppress(OSError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            drain(sock)


# --- measuring


class Watched:
    """A running agent that is measured in several phases."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder, self.pid, self.rows = folder, pid, list[dict[str, Any]]()

    @contextmanager
    def phase(self, what: str) -> Iterator[dict[str, Any]]:
        """Measure the agent while the ``with`` block runs, and add a row to ``rows``. The block may add members to the
        row.
        """
        row: dict[str, Any] = {"what": what}
        time.sleep(0.6)
        began, before = time.time(), cost_of(self.pid)
        yield row
        ended, after = time.time(), cost_of(self.pid)
        time.sleep(0.6)
        seen = [json.loads(line) for line in (self.folder / "loop.jsonl").read_text().splitlines()]
        seen = [one for one in seen if began <= one["at"] - 0.25 and one["at"] <= ended + 0.5]
        row |= {
            "seconds": round(ended - began, 1),
            "held_ms": round(max((one["wall_ms"] for one in seen), default=0.0), 1),
            "held_cpu_ms": round(max((one["cpu_ms"] for one in seen), default=0.0), 1),
            "cpu_share": round((after.cpu_s - before.cpu_s) / max(ended - began, 0.001), 3),
            "rss_mb": round(after.rss_mb, 1),
            "grown_mb": round(after.rss_mb - before.rss_mb, 1),
        }
        self.rows.append(row)

    def tool(self, *words: object) -> None:
        subprocess.run(
            meterhouse(*words, "-c", self.folder / "agent.toml"), check=True, capture_output=True, cwd=HERE.parent
        )


def lived(folder: Path, days: int) -> None:
    """Make a state directory that contains ``days`` days of a simulated park, up to yesterday."""
    last = datetime.now(UTC).date()
    park = Timelapse(folder, last - timedelta(days=days), every_s=600)
    for _ in park.until(last):
        pass
    park.close()


def measure(frames: int, days: int) -> list[dict[str, Any]]:
    """Run all phases, one after the other. Returns one row for each phase."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mh-bench-")))
        lived(folder, days)
        base = free_ports(2)
        simulator = build_simulator(folder)
        stack.enter_context(process([simulator, "-b", str(base), "-n", "2", "-o", folder / "sim.json"]))
        wait_port(base + 1)
        with (folder / "agent.toml").open("a") as config:
            config.write("".join(LINE.format(n=n, port=base + n) for n in range(2)))
        argv = [sys.executable, "-m", "bench.watched_agent", folder / "loop.jsonl", "run", "-c", folder / "agent.toml"]
        agent = stack.enter_context(process(argv, folder / "agent.log", cwd=HERE.parent))
        run = folder / "run"
        until(lambda: (run / "control").exists() and (run / "snapshot.json").exists(), agent, folder)
        time.sleep(15)
        watched = Watched(folder, agent.pid)
        with watched.phase("idle"):
            time.sleep(10)
        with watched.phase("export of everything") as row:
            watched.tool("export", folder / "out")
            row["mb"] = round(
                sum(path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file()) / 1e6, 1
            )
        month = (date.today() - timedelta(days=20)).strftime("%Y-%m")
        with watched.phase("report of a month"):
            watched.tool("report", month, "--json")
        with watched.phase("intervals as CSV"):
            watched.tool("export", "--intervals-flat", folder / "intervals.csv")
        with watched.phase(f"{frames:,} random and mutated frames, {FLOODERS} at a time"):
            words = [sys.executable, "-m", "bench.control", "--flood", str(run), str(frames // FLOODERS)]
            floods = [subprocess.Popen([*words, str(seed)], cwd=HERE.parent) for seed in range(FLOODERS)]
            if any(flood.wait() for flood in floods):
                raise RuntimeError("a flood failed")
        with watched.phase("200 connections at once, twenty times"):
            for _ in range(20):
                with ExitStack() as crowd:
                    for _ in range(200):
                        crowd.enter_context(connect(run))
        with watched.phase("16 half-open, then 16 that read nothing of an export"), ExitStack() as crowd:
            for said in (b"\x01\0", encode_request(Export(from_ms=0, to_ms=1 << 52))):
                for _ in range(16):
                    sock = crowd.enter_context(connect(run))
                    with suppress(OSError):
                        sock.sendall(said)
                time.sleep(8)
        with watched.phase("idle again"):
            time.sleep(10)
        said = (folder / "agent.log").read_text()
        if "Traceback" in said or agent.poll() is not None:
            raise RuntimeError(said[-3000:])
        watched.rows[-1]["log_lines"] = len(said.splitlines())
        return watched.rows


def until(condition: Callable[[], bool], agent: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if agent.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((folder / "agent.log").read_text()[-3000:])
        time.sleep(0.05)


def main() -> None:
    if sys.argv[1:2] == ["--flood"]:
        flood(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.frames, options.days)
    if options.json:
        print(json.dumps(rows))
        return
    print("| what | seconds | loop held, ms | of its CPU, ms | CPU of a core | RSS MB (grown) |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        what = row["what"] + (f" ({row['mb']} MB)" if "mb" in row else "")
        print(f"| {what} | {row['seconds']} | {row['held_ms']} | {row['held_cpu_ms']} | {row['cpu_share']} | "
              f"{row['rss_mb']} ({row['grown_mb']:+}) |")  # fmt: skip
    print(f"\nLines in the agent's log after all of it: {rows[-1]['log_lines']}")


if __name__ == "__main__":
    main()
