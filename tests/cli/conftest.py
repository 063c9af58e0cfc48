"""Commands in this process, devices on loopback, and what a running agent leaves in its runtime directory."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import outcome
from drivers.sim.bus import Bus
from drivers.sim.device import SimDevice
from drivers.sim.faults import parse_fault
from drivers.sim.image import Image
from drivers.sim.tcp import TcpLine
from ext.ring import Ring
from tests.kits.ports import free_port

HERE = Path(__file__).parent
WORDS = {0: [0, 15000], 2: [2301], 3: [5001], 4: [0, 4242], 6: [0, 4343], 10: [512], 20: [0x3220, 0x2020]}


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def mh(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run a command line here; a traceback in what it says is a failure of any test."""

    def run(*args: str | Path) -> Said:
        capsys.readouterr()
        code = outcome([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Said(code, out, err)

    return run


class Served:
    """A simulated Modbus TCP device, unit 1, with its loop in a thread of its own."""

    def __init__(self, framing: str = "mbap") -> None:
        self.image = Image()
        for address, words in WORDS.items():
            self.image.put_words(address, words)
        self.device = SimDevice(1, self.image)
        self.line = TcpLine(Bus([self.device]), port=free_port(), framing=framing)  # type: ignore[arg-type]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sim device")
        self._up = threading.Event()
        self._thread.start()
        assert self._up.wait(60)

    def _run(self) -> None:
        self._loop.run_until_complete(self.line.start())
        self._loop.call_soon(self._up.set)
        self._loop.run_forever()
        self._loop.run_until_complete(self.line.stop())
        self._loop.close()

    @property
    def url(self) -> str:
        return self.line.url

    def fault(self, text: str) -> None:
        self.device.faults.set(parse_fault(text))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.stop()


@pytest.fixture
def box() -> Path:
    """A small profile with a state, a text, a range and a variant."""
    return HERE / "profiles/test/box.toml"


CONFIG = """[site]
id = "park7"
gateway = "gw01"
timezone = "Asia/Shanghai"

[paths]
profiles_dir = "profiles"
state_dir = "state"
runtime_dir = "run"

[pack]
every = "1 s"

[[line]]
name = "roof"
url = "{url}"

[[device]]
name = "inv1"
line = "roof"
address = "1"
profile = "test/box"
"""


@pytest.fixture
def park(tmp_path: Path) -> Callable[..., Path]:
    """Writes an agent.toml with its profiles; returns its path."""

    def write(url: str = "modbus-tcp://127.0.0.1:1", more: str = "") -> Path:
        if not (tmp_path / "profiles").exists():
            shutil.copytree(HERE / "profiles", tmp_path / "profiles")
        path = tmp_path / "agent.toml"
        path.write_text(CONFIG.format(url=url) + more)
        return path

    return write


POINTS = [("ac.power.active", "W", "gauge"), ("ac.energy.import", "kWh", "counter"), ("device.firmware", "", "text")]
BOOT = "3f2a9c41d07be815"


class Traces:
    """What an agent leaves in its runtime directory, written here by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.ring = Ring.create(str(folder / f"ring.{BOOT}"), 1 << 18, 7, int(BOOT, 16), bytes(32))
        self.facts: dict[str, Any] = {
            "site": "park7",
            "gateway": "gw01",
            "boot": BOOT,
            "pid": os.getpid(),
            "ring": f"ring.{BOOT}",
            "version": "0.1.0",
            "started": time.time() - 100,
            "running_for": 100.0,
            "devices": {
                "inv1": {"line": "roof", "life": "alive", "last_answer": time.time(), "error": None, "readings": 10},
                "inv2": {"line": "roof", "life": "alive", "last_answer": time.time(), "error": None, "readings": 10},
            },
            "lines": {"roof": {"url": "modbus-tcp://127.0.0.1:1", "open": True, "lent": None, "busy_share": 0.12}},
            "uplinks": {"platform": {"connected": True}},
            "store": {"trouble": None, "path": "/x"},
            "tables": {
                "1": {"stream": "park7/gw01/_gateway", "points": []},
                "2": {"stream": "park7/gw01/inv1", "points": [{"n": n, "u": u, "kind": k} for n, u, k in POINTS]},
                "3": {"stream": "park7/gw01/inv2", "points": 2},
            },
        }
        self.write()

    def write(self, **facts: Any) -> None:
        self.facts |= {"time": time.time(), **facts}
        new = self.folder / "snapshot.new"
        new.write_text(json.dumps(self.facts))
        new.replace(self.folder / "snapshot.json")

    def values(self, table: int, *values: tuple[int, int, int, int], ago_s: float = 0.0) -> None:
        now = time.time_ns() - int(ago_s * 1e9)
        self.ring.append_values(table, now // 1_000_000, now, 1, list(values))

    def gap(self, table: int, reason: int) -> None:
        now = time.time_ns()
        self.ring.append_gap(table, reason, now // 1_000_000, now, 1)

    def text(self, table: int, point: int, text: bytes) -> None:
        now = time.time_ns()
        self.ring.append_text(table, point, 0, now // 1_000_000, now, 1, text)


@pytest.fixture
def traces(tmp_path: Path) -> Iterator[Traces]:
    traces = Traces(tmp_path / "run")
    yield traces
    traces.ring.close()
