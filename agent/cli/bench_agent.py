"""Measures how many devices this machine can read. For this, the agent reads 20 simulated devices for half a minute."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from agent.config import RingConfig, file_system_bytes, plan_ring
from agent.config.ring_size import HEAD_SLOTS, MEMORY_SHARE, ReadingRate, memory_bytes
from agent.keys import create_key
from drivers.model import GatewayError
from drivers.registry import DEFAULT, protocol_of

DEVICES, POINTS = 20, 100
PACK_MS = 10_000
SETTLE_S, WINDOW_S, START_S = 12.0, 20.0, 60.0
CORE = 0.5  # share of a core that the agent may use
DELIVERY = 1.15  # delivery is not measured here, so the CPU time is multiplied by this; see bench/RESULTS.md
REQUESTS = 2  # requests per poll of a device, whose 200 registers do not fit into one answer


@dataclass(frozen=True, slots=True)
class Capacity:
    """The number of devices that a machine can read. A device has 100 points, read each second; a pack covers 10 s."""

    core_per_device: float  # measured share of one core that one device takes, without delivery
    by_processor: int  # number of devices that half a core can read
    by_memory: int  # number of devices that fit into the memory that the systemd unit allows

    @property
    def devices(self) -> int:
        """The smaller of ``by_processor`` and ``by_memory``, rounded down to two significant digits."""
        most = min(self.by_processor, self.by_memory)
        step = int(10 ** max(0, len(str(most)) - 2))
        return most // step * step

    def __str__(self) -> str:
        limit = "the processor" if self.by_processor <= self.by_memory else "the memory"
        return (
            f"this machine can read about {self.devices:,} devices of {POINTS} points at 1 Hz with packs of 10 s, "
            f"using half a core; the limiting resource is {limit}"
        )


class _Meters(threading.Thread):
    """Simulated devices on one loopback port. They answer each read with one of 16 prepared sets of floats."""

    def __init__(self) -> None:
        super().__init__(name="meters", daemon=True)
        self.port = 0
        self._ready = threading.Event()
        self._sets = [struct.pack(f">{POINTS}f", *(random.uniform(1, 500) for _ in range(POINTS))) for _ in range(16)]
        self._asked = 0

    def __enter__(self) -> _Meters:
        self.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self.join()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                asked = await reader.readexactly(12)
                _, _, _, unit, function, address, count = struct.unpack(">HHHBBHH", asked)
                self._asked += 1
                values = self._sets[self._asked // 2 % len(self._sets)]
                payload = values[2 * address : 2 * (address + count)]
                head = asked[:4] + struct.pack(">HBBB", 3 + len(payload), unit, function, len(payload))
                writer.write(head + payload)
        writer.close()


def measure_capacity(folder: Path) -> Capacity:
    """Run the agent in ``folder``, and calculate the capacity from its CPU time.

    Raises GatewayError if it does not run.
    """
    with _Meters() as meters, _agent(folder, meters.port) as child:
        time.sleep(SETTLE_S)
        began, used = time.monotonic(), _cpu_s(child.pid)
        time.sleep(WINDOW_S)
        if child.poll() is not None:
            raise GatewayError("the agent ended", where=str(folder / "agent.log"), hint=_tail(folder / "agent.log"))
        share = (_cpu_s(child.pid) - used) / (time.monotonic() - began)
    return capacity_of(max(share, 0.001) / DEVICES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def capacity_of(core_per_device: float, machine_bytes: int, runtime_bytes: int | None = None) -> Capacity:
    """Return the number of devices that a machine can read, calculated from the CPU time of one device.

    Args:
        core_per_device: share of a core that one device needs, without delivery.
        machine_bytes: memory of the machine.
        runtime_bytes: size of the file system of the runtime directory; None means the size of /run on this machine.
    """
    runtime_bytes = file_system_bytes(Path("/run")) if runtime_bytes is None else runtime_bytes
    low, high = 0, 1_000_000
    while low < high:
        devices = (low + high + 1) // 2
        rate = ReadingRate(devices * POINTS, devices * (POINTS + HEAD_SLOTS * REQUESTS))
        plan = plan_ring(RingConfig(), rate, PACK_MS, runtime_bytes)
        if memory_bytes(devices, plan) <= machine_bytes * MEMORY_SHARE:
            low = devices
        else:
            high = devices - 1
    return Capacity(core_per_device, int(CORE / (core_per_device * DELIVERY)), low)


@contextlib.contextmanager
def _agent(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    create_key(folder / "signing.key", int(time.time()))
    config = folder / "agent.toml"
    parts = [
        '[site]\nid = "bench"\ngateway = "gw"\ntimezone = "UTC"\n[key]\nfile = "signing.key"\n'
        '[paths]\nstate_dir = "state"\nruntime_dir = "run"\n[pack]\nevery = "10 s"\n'
    ]
    scheme = protocol_of(DEFAULT).line_schemes[0].name
    parts += [
        f'[[line]]\nname = "l{n}"\nurl = "{scheme}://127.0.0.1:{port}"\n'
        f'[[device]]\nname = "d{n}"\nline = "l{n}"\naddress = "{n}"\nprofile = "generic/float100"\nevery = "1 s"\n'
        for n in range(1, DEVICES + 1)
    ]
    config.write_text("\n".join(parts))
    with (folder / "agent.log").open("wb") as log:
        argv = [sys.executable, "-m", "agent.cli.main", "run", "-c", str(config)]
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_S
        while not (folder / "run" / "snapshot.json").exists():
            if child.poll() is not None or time.monotonic() > deadline:
                where = folder / "agent.log"
                raise GatewayError("the agent did not start", where=str(where), hint=_tail(where))
            time.sleep(0.05)
        yield child
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _cpu_s(pid: int) -> float:
    """Return the CPU time of all threads of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace").strip().rpartition("\n")[2][-300:]
