"""Simulated lines on socket pairs in the test's event loop. They need no port and no thread, and time may be made up.

A pair passes on at once what is written. So with ``MadeUpTime`` nothing depends on how busy the machine is. Real ports
and pseudo-terminals have their own tests.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable

from drivers.line import LineConfig, SerialSetting
from drivers.line.config import Target
from drivers.line.port import Port, PortOpener
from drivers.sim.bus import Bus
from drivers.sim.device import SimAnswer, garbled
from drivers.sim.park import Park
from drivers.sim.rtu import SerialLine
from drivers.sim.tcp import TcpLine


def mono_ns() -> int:
    """The time of the running loop as a monotonic clock."""
    return round(asyncio.get_running_loop().time() * 1e9)


def clock() -> tuple[int, int]:
    """(UTC ns, monotonic ns) for lines: the machine's date, the loop's time."""
    return time.time_ns(), mono_ns()


class WirePort(Port):
    """Our end of a pair."""

    def __init__(self, where: str, sock: socket.socket, setting: SerialSetting | None, wire: Wire) -> None:
        super().__init__(where, sock.fileno(), self._read, self._write)
        self._sock, self.setting, self._wire = sock, setting, wire

    def _read(self, size: int) -> bytes:
        heard, wire = self._sock.recv(size), self._wire
        if self.setting and wire.answer_baud not in (0, self.setting.baud):
            wire.wrong_baud += 1
            return garbled(heard)
        return heard

    def _write(self, frame: bytes) -> int:
        wire = self._wire
        wire.answer_baud, wire.asked_baud = 0, self.setting.baud if self.setting else 0
        if self.setting and wire.baud and not wire.bus.listens_at(self.setting.baud, wire.baud):
            wire.wrong_baud += 1
            return len(frame)
        return self._sock.send(frame)

    def apply(self, setting: SerialSetting) -> None:
        self.setting = setting
        self._wire.applied.append((mono_ns(), setting))

    def close(self) -> None:
        self._sock.close()
        self.fd = -1


class Wire(TcpLine):
    """A simulated line that can be reached only by its ``open_port``, which ``open_line`` gets as ``opener``."""

    absent = errno.ECONNREFUSED  # the error when it is opened while it is unplugged

    def __init__(self, bus: Bus, number: int, **more: object) -> None:
        super().__init__(bus, port=1 + number, **more)  # type: ignore[arg-type]
        bus.mono_ns = mono_ns
        self.is_plugged = True
        self.says: Callable[[], bytes] = bytes  # returns unrequested bytes; called every ``says_every_s`` seconds
        self.says_every_s = 0.0
        self.wrong_baud = 0  # requests and answers at a speed that the other side does not understand
        self.answer_baud = 0  # speed of the current answer, if it has its own
        self.asked_baud = 0  # speed of the last request, if our end has a speed
        self.applied: list[tuple[int, SerialSetting]] = []  # (monotonic ns, setting) of each switch of our end

    async def start(self) -> None:
        self.is_plugged = True

    async def stop(self) -> None:
        self.is_plugged = False
        await super().stop()

    async def open_port(self, config: LineConfig, target: Target, setting: SerialSetting | None) -> Port:
        if not self.is_plugged:
            raise OSError(self.absent, os.strerror(self.absent))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        await self.serve(theirs)
        if self.says_every_s:
            self._chatter()
        return WirePort(f"line {config.name}", ours, setting, self)

    def asked_at(self) -> int:
        return self.asked_baud or super().asked_at()

    def deliver_at(self, answer: SimAnswer, asked: int, after: Callable[[float, bytes], None]) -> None:
        asyncio.get_running_loop().call_later(0.001, setattr, self, "answer_baud", answer.baud)  # an echo comes before
        super().deliver_at(answer, asked, after)

    def _chatter(self) -> None:
        self.say(self.says())
        if self.clients:
            asyncio.get_running_loop().call_later(self.says_every_s, self._chatter)


class SerialWire(Wire):
    """The same as a serial line. An answer takes its byte times, and all of it arrives at their end."""

    absent = errno.ENOENT

    def __init__(self, bus: Bus, number: int, *, baud: int = 115200) -> None:
        super().__init__(bus, number, framing="rtu", baud=baud)

    @property
    def url(self) -> str:
        return f"serial:/dev/wire{self.port}"

    @property
    def serial(self) -> str:
        """The setting that a master needs, as in agent.toml."""
        return f"{self.baud} 8N1"


def park_opener(park: Park) -> PortOpener:
    """Make an opener for the lines of a park that was not started. Each line is on its own wire."""
    wires: dict[str, Wire] = {}
    for number, line in enumerate(park.lines.values()):
        if isinstance(line, SerialLine):
            wires[line.url] = SerialWire(line.bus, number, baud=line.baud)
        elif isinstance(line, TcpLine):
            line.port = 1 + number  # so that its address is valid
            wires[line.url] = Wire(line.bus, number)

    async def open_port(config: LineConfig, target: Target, setting: SerialSetting | None) -> Port:
        return await wires[config.url].open_port(config, target, setting)

    return open_port
