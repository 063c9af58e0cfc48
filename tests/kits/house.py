"""A running agent as a process, and the devices around it, which record their answers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from agent.store import Store
from drivers.sim.bus import Bus, SimLine
from drivers.sim.device import SimDevice
from drivers.sim.image import Image
from drivers.sim.rtu import SerialLine
from drivers.sim.tcp import TcpLine
from tests.kits.broker import DEADLINE_S, Broker, Heard, Listener, Name, free_port, patience, until, whole
from tests.kits.forked import SERVER, Forked

T = TypeVar("T")
PROGRAM = ("-m", "agent.cli.main")
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
__all__ = [
    "DEADLINE_S",
    "Broker",
    "Heard",
    "Listener",
    "Name",
    "free_port",
    "patience",
    "until",
    "whole",
]  # re-exported for the scenarios
SITE = "park7/gw01"
SECONDLY = '{ fast = "1 s", normal = "1 s", slow = "5 s" }'  # for tests that allow no missed tick on a busy machine


def blocked_port() -> tuple[int, list[socket.socket]]:
    """A port that neither accepts nor refuses connections, because its queue is full; and the sockets that fill it."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    held = [server]
    for _ in range(3):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(server.getsockname())
        held.append(client)
    return server.getsockname()[1], held


class Meter:
    """A simulated device that numbers its answers: each number is served once, by one device, at one time."""

    def __init__(self, unit: int, first: int = 0, firmware: str = "2") -> None:
        self.unit, self.count, self.first = unit, first or unit * 1_000_000, first or unit * 1_000_000
        self.served: dict[int, int] = {}  # number -> UTC ns
        self.image = Image()
        self.image.put_words(0, [0] * 102)
        self.image.put_words(4, [2301, 1])
        self.firmware(firmware)
        self.sim = SimDevice(unit, self.image, before=self._count)

    def firmware(self, text: str) -> None:
        raw = text.ljust(4).encode()
        self.image.put_words(100, [int.from_bytes(raw[n : n + 2], "big") for n in (0, 2)])

    def fault(self, text: str) -> None:
        self.sim.faults.set(text)

    def well(self) -> None:
        self.sim.faults.clear()

    def _count(self, function: int, address: int, count: int) -> None:
        if address == 0:
            self.count += 1
            self.served[self.count] = time.time_ns()
            self.image.put_words(0, [self.count >> 16, self.count & 0xFFFF])
            self.image.put_words(6, [self.count >> 16, self.count & 0xFFFF])


class Field:
    """Simulated lines, served by an event loop in its own thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="field")
        self._lines: list[SimLine] = []
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S * patience())

    def tcp(self, *meters: Meter, port: int = 0, absent: int | None = None) -> TcpLine:
        line = TcpLine(Bus([meter.sim for meter in meters], absent=absent), port=port or free_port())
        return self._open(line)

    def serial(self, link: Path, *meters: Meter, baud: int = 38400) -> SerialLine:
        return self._open(SerialLine(Bus([meter.sim for meter in meters]), link, baud=baud))

    def _open(self, line: T) -> T:
        self.do(line.start())  # type: ignore[attr-defined]
        self._lines.append(line)  # type: ignore[arg-type]
        return line

    def stop(self) -> None:
        for line in self._lines:
            self.do(line.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()


CONFIG = """[site]
id = "park7"
gateway = "gw01"
timezone = "Asia/Shanghai"

[paths]
profiles_dir = "profiles"
state_dir = "{state}"
runtime_dir = "run"

[pack]
every = "1 s"

{more}
"""


@dataclass
class Agent:
    """``meterhouse run`` as a process, with the folder that it lives in.

    Args:
        lines: name -> simulated line, or the URL of a line that is not simulated.
        devices: device name -> (line name, unit).
    """

    folder: Path
    broker: Broker | None
    lines: Mapping[str, SimLine | str]
    devices: Mapping[str, tuple[str, int]]
    every: str = '{ fast = "500 ms", normal = "1 s", slow = "5 s" }'
    more: str = ""
    line_more: Mapping[str, str] = field(default_factory=dict)  # line name -> further keys
    uplink: str = "backfill_rate = 200"
    state: str = "state"
    env: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = PROGRAM  # arguments of the interpreter
    forked: bool = True  # True: fork it from a process that has imported it; False: start it as a service
    before: tuple[str, ...] = ()  # a command that runs it, such as ip netns exec
    process: subprocess.Popen[bytes] | Forked | None = None
    starts: int = 0
    kid: str = ""

    def __post_init__(self) -> None:
        from agent.keys import create_key

        self.folder.mkdir(exist_ok=True)
        shutil.copytree(HERE / "profiles", self.folder / "profiles", dirs_exist_ok=True)
        state = self.folder / self.state
        state.mkdir(parents=True, exist_ok=True)
        if not (state / "signing.key").exists():
            self.kid = create_key(state / "signing.key", int(time.time())).kid
        self.configure()

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def runtime(self) -> Path:
        return self.folder / "run"

    def configure(self) -> None:
        """Write agent.toml from the current fields."""
        text = CONFIG.format(state=self.state, more=self.more)
        if self.broker:
            text += f'[[uplink]]\nname = "platform"\nurl = "{self.broker.url}"\n{self.uplink}\n'
        for name, line in self.lines.items():
            text += f'\n[[line]]\nname = "{name}"\nurl = "{line if isinstance(line, str) else line.url}"\n'
            if isinstance(line, SerialLine):
                text += f'serial = "{line.serial}"\n'
            text += self.line_more.get(name, "") + "\n"
        for name, (line_name, unit) in self.devices.items():
            text += f'\n[[device]]\nname = "{name}"\nline = "{line_name}"\naddress = "{unit}"\n'
            text += f'profile = "test/tally"\nevery = {self.every}\n'
        self.config.write_text(text)

    # --- life

    def start(self, serving: bool = True, seconds: float = 20.0) -> None:
        """Start the process; ``serving``: wait until it says that it serves its lines."""
        self.starts += 1
        env = {key: value for key, value in os.environ.items() if not key.endswith("_DIRECTORY")} | self.env
        with self.log.open("ab") as log:
            if not self.forked or self.before or self.program != PROGRAM or "LD_PRELOAD" in env:
                self.process = subprocess.Popen(
                    [*self.before, sys.executable, *self.program, "run", "-c", str(self.config)],
                    cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
            else:
                self.process = SERVER.start(["run", "-c", str(self.config)], env, log.fileno())
        if serving:
            until(lambda: "serving" in self.said or self.process.poll() is not None, seconds, lambda: self.said)  # type: ignore[union-attr]
            assert self.process.poll() is None, self.said

    @property
    def log(self) -> Path:
        """The log file of the newest start."""
        return self.folder / f"agent.{self.starts}.log"

    @property
    def said(self) -> str:
        return self.log.read_text()

    def send(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)

    def wait(self, seconds: float = 20.0) -> int:
        """Wait for the end of the process. Returns its exit code. Fails if its log has a traceback."""
        assert self.process
        code = self.process.wait(max(seconds, DEADLINE_S) * patience())
        self.process = None
        assert "Traceback" not in self.said, self.said
        return code

    def stop(self, seconds: float = 20.0) -> int:
        self.send(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        """Kill the process if it still runs, as after a test that failed halfway."""
        if self.process:
            self.process.kill()
            self.process.wait(DEADLINE_S)
            self.process = None

    # --- what it leaves behind

    def sealed(self) -> tuple[set[Name], set[Name]]:
        """Return (all packs in the store, those that a destination has yet to confirm). The agent must not run.

        Reads a copy of the store, because opening the store itself would leave a trace in it.
        """
        names: set[Name] = set()
        owed: set[Name] = set()
        with tempfile.TemporaryDirectory() as copy:
            for path in (self.folder / self.state).glob("store.db*"):
                if path.suffix in (".db", ".db-wal"):
                    shutil.copy(path, copy)
            uplinks = tomllib.loads(self.config.read_text()).get("uplink", ())
            store = Store.open(Path(copy) / "store.db", 16 << 20, destinations=[uplink["name"] for uplink in uplinks])
            try:
                for stream, head in store.packs.heads().items():
                    after = 0
                    while page := store.packs.after(stream, after, head.seq):
                        names |= {(pack.stream, pack.boot, pack.seq) for pack in page}
                        after = page[-1].seq
                for destination in store.packs.destinations:
                    last = 0
                    while items := store.packs.pending(destination, last):
                        packs = [json.loads(item.data) for item in items]
                        owed |= {(pack["stream"], pack["boot"], pack["seq"]) for pack in packs}
                        last = items[-1].id
                return names, owed
            finally:
                store.close()

    def bodies(self) -> dict[Name, bytes]:
        """The bytes of all packs in the store. The agent must not run."""
        with tempfile.TemporaryDirectory() as copy:
            for path in (self.folder / self.state).glob("store.db*"):
                if path.suffix in (".db", ".db-wal"):
                    shutil.copy(path, copy)
            store = Store.open(Path(copy) / "store.db", 16 << 20, destinations=["platform"])
            try:
                found: dict[Name, bytes] = {}
                for stream, head in store.packs.heads().items():
                    after = 0
                    while page := store.packs.after(stream, after, head.seq):
                        found |= {(pack.stream, pack.boot, pack.seq): pack.data for pack in page}
                        after = page[-1].seq
                return found
            finally:
                store.close()

    @property
    def rings(self) -> list[Path]:
        return sorted(self.runtime.glob("ring.*"))

    def snapshot(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.runtime / "snapshot.json").read_text())
        return found

    def life(self, device: str) -> str:
        """The state of a device in the snapshot: alive, dead or unknown; "" if there is no snapshot."""
        try:
            return str(self.snapshot()["devices"][device]["life"])
        except FileNotFoundError:
            return ""


class House:
    """Everything that a scenario needs. Ends all of it in order, even after a failure."""

    def __init__(self, folder: Path, forked: bool = True) -> None:
        self.folder, self._forked = folder, forked
        self.field = Field()
        self._ends: list[Callable[[], object]] = [self.field.stop]

    def broker(self, *lines: str, start: bool = True) -> Broker:
        broker = Broker(self.folder, *lines)
        self._ends.append(broker.stop)
        if start:
            broker.start()
        return broker

    def listen(self, broker: Broker, connected_s: float = 10.0, login: tuple[str, str] | None = None) -> Listener:
        listener = Listener(broker, connected_s, login)
        self._ends.append(listener.close)
        return listener

    def agent(
        self,
        broker: Broker | None,
        lines: Mapping[str, SimLine | str],
        devices: Mapping[str, tuple[str, int]],
        **more: Any,
    ) -> Agent:
        agent = Agent(self.folder, broker, lines, devices, **{"forked": self._forked} | more)
        self._ends.append(agent.close)
        return agent

    def at_end(self, end: Callable[[], object]) -> None:
        self._ends.append(end)

    def __enter__(self) -> House:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in reversed(self._ends):
            end()


def one_meter(folder: Path, house: House, **more: Any) -> tuple[Broker, Listener, Meter, Agent]:
    """The smallest arrangement: a broker with a listener, one TCP device, the agent not yet started."""
    broker = house.broker()
    listener = house.listen(broker)
    meter = Meter(1)
    agent = house.agent(broker, {"roof": house.field.tcp(meter)}, {"m1": ("roof", 1)}, **more)
    return broker, listener, meter, agent


def come_home(agent: Agent, *ears: Listener, already: Set[Name] = frozenset()) -> int:
    """Stop the agent. Returns its exit code when all sealed packs have arrived at each listener.

    On a busy machine, the agent may not have sent all packs before it stops. Another start sends them.

    Args:
        already: packs that have arrived before, and need not arrive at these listeners.
    """

    def here(packs: Set[Name]) -> bool:
        return all(packs - already <= ear.names() for ear in ears)

    code = agent.stop()
    sealed, owed = agent.sealed()
    starts = 0
    while owed:
        starts += 1
        assert starts < 20, f"each start leaves packs behind: {agent.said}"
        agent.start()
        until(lambda owed=owed: here(owed), what=lambda: agent.said)  # type: ignore[misc]
        code = agent.stop() or code
        sealed, owed = agent.sealed()
    until(lambda: here(sealed), what=lambda: agent.said)
    return code


def devices_on(line: str, meters: Sequence[Meter]) -> dict[str, tuple[str, int]]:
    """The devices m1, m2, ... of a line, as ``Agent.devices`` has them."""
    return {f"m{meter.unit}": (line, meter.unit) for meter in meters}
