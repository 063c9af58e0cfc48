"""Helpers for the tests of lines: simulated lines and our ends of them, devices, points."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from drivers.line import Answer, Line, LineConfig, RequestOptions, open_line
from drivers.line.port import open_port
from drivers.modbus.frames import ModbusRequest
from drivers.modbus.requests import read_request
from drivers.model import DeviceSpec, Kind, Limits, LineError, Point
from drivers.sim import device
from drivers.sim.bus import Bus
from drivers.sim.device import SimDevice
from drivers.sim.framing import Framing, SimRequest
from drivers.sim.image import Image
from drivers.sim.rtu import SerialLine
from drivers.sim.tcp import TcpLine
from tests.conftest import MadeUpTime
from tests.kits.ports import free_port, held
from tests.kits.wires import SerialWire, Wire, clock

PATIENCE_S = 30.0
TICK = 1_795_500_000_000
FAST = 1  # the bit of the fast pace


def open_files() -> set[str]:
    """Sockets and pseudo-terminals that this process holds, without those that reserve its ports."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        if int(fd) in held:
            continue
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if name.startswith(("socket:", "/dev/pts")) or "ptmx" in name:
            found.add(name)
    return found


class Field:
    """Simulated lines on wires and our ends of them, all closed after the test. Tests with it run in made-up time."""

    def __init__(self) -> None:
        self._sims: list[Wire] = []
        self._lines: list[Line] = []

    async def tcp(self, *devices: SimDevice, framing: str = "mbap", **more: object) -> Wire:
        return self._add(Wire(Bus(devices, absent=more.pop("absent", None)), len(self._sims), framing=framing, **more))  # type: ignore[arg-type]

    async def pty(self, *devices: SimDevice, baud: int = 115200) -> SerialWire:
        return self._add(SerialWire(Bus(devices), len(self._sims), baud=baud))

    def _add(self, sim: Any) -> Any:
        self._sims.append(sim)
        return sim

    def line(self, sim: Wire | str, **more: object) -> Line:
        """Our end of a line. ``more``: members of Limits, such as ``timeout_s``, or of LineConfig, such as ``echo``."""
        if isinstance(sim, str):
            found = [one for one in self._sims if one.url == sim]
            more.setdefault("opener", found[0].open_port if found else open_port)
        else:
            more["opener"] = sim.open_port
        return our_end(self._lines, sim, clock=clock, **more)

    def url(self, number: int) -> str:
        """The URL of a simulated line."""
        return self._sims[number].url

    def bus(self, number: int) -> Bus:
        """The devices of a simulated line."""
        return self._sims[number].bus

    async def close(self) -> None:
        for line in self._lines:
            await line.close()
        for sim in self._sims:
            await sim.stop()


class Ports:
    """Simulated lines on real ports and pseudo-terminals in real time, and our ends of them, all closed after the test.

    A device has half a minute to answer, because the machine may be slow. Requests that are never answered are sent
    with the options of ``hasty``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sims: list[TcpLine | SerialLine] = []
        self._lines: list[Line] = []

    async def tcp(self, *devices: SimDevice, framing: str = "mbap", **more: object) -> TcpLine:
        absent = more.pop("absent", None)
        more.setdefault("port", free_port())  # so that a line gets the same port again after a stop
        sim = TcpLine(Bus(devices, absent=absent), framing=framing, **more)  # type: ignore[arg-type]
        await sim.start()
        self._sims.append(sim)
        return sim

    async def pty(self, *devices: SimDevice, baud: int = 115200) -> SerialLine:
        sim = SerialLine(Bus(devices), self._folder / f"tty{len(self._sims)}", baud=baud)
        await sim.start()
        self._sims.append(sim)
        return sim

    def line(self, sim: TcpLine | SerialLine | str, **more: object) -> Line:
        """Our end of a line. ``more``: members of Limits, such as ``timeout_s``, or of LineConfig, such as ``echo``."""
        more.setdefault("timeout_s", PATIENCE_S)
        return our_end(self._lines, sim, **more)

    async def close(self) -> None:
        for line in self._lines:
            await line.close()
        for sim in self._sims:
            await sim.stop()


def our_end(lines: list[Line], sim: Any, **more: Any) -> Line:
    """A line to a simulated one, or to a URL; added to ``lines``."""
    limits = Limits(**{k: more.pop(k) for k in list(more) if k in Limits.__slots__})
    how = {k: more.pop(k) for k in ("clock", "trace", "opener") if k in more}
    if not isinstance(sim, str) and (serial := getattr(sim, "serial", None)):
        more.setdefault("serial", serial)
    config = LineConfig(f"l{len(lines)}", sim if isinstance(sim, str) else sim.url, limits=limits, **more)
    lines.append(open_line(config, **how))
    return lines[-1]


def hasty(line: Line) -> RequestOptions:
    """Options with a short timeout, for requests that are not answered."""
    return line.request_options(Limits(timeout_s=0.03))


def sim_device(unit: int = 1, words: Sequence[int] = range(200), **more: object) -> SimDevice:
    """A device with holding registers from 0."""
    image = Image()
    image.put_words(0, words)
    return SimDevice(unit, image, **more)  # type: ignore[arg-type]


def ask(address: int = 0, count: int = 2, unit: int = 1, function: int = 3) -> ModbusRequest:
    """A read request."""
    return read_request(unit, function, address, count, f"unit {unit}")


def words(*values: int) -> bytes:
    """Registers as bytes."""
    return b"".join(v.to_bytes(2, "big") for v in values)


def gauge(address: int, name: str = "", pace: str = "fast", **more: object) -> Point:
    """A register as a point."""
    return Point(name or f"x.p{address}", Kind.GAUGE, "W", pace, address=address, **more)  # type: ignore[arg-type]


def spec_of(points: Sequence[Point], unit: int = 1, **limits: object) -> DeviceSpec:
    """A device with these points."""
    return DeviceSpec(
        f"d{unit}", f"p/g/d{unit}", str(unit), "modbus", "test/test", tuple(points), (1000, 5000, 60000, 0, 86_400_000),
        limits=Limits(**limits),  # type: ignore[arg-type]
    )  # fmt: skip


def loop_factories(item: pytest.Item, *made_up: str) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """For ``pytest_asyncio_loop_factories``: tests that use one of these fixtures run in made-up time."""
    if set(made_up) & set(getattr(item, "fixturenames", ())):
        return {"made-up time": MadeUpTime}
    return {"real time": asyncio.new_event_loop}


async def ask_while(line: Line, request: ModbusRequest, trouble: type[LineError]) -> Answer:
    """Repeat a request while its result is ``trouble``, for half a minute at most. Returns the answer."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            (answer,) = await line.burst([request], line.request_options())
            if not isinstance(answer, trouble):
                assert isinstance(answer, Answer)
                return answer
            await asyncio.sleep(0.01)


async def came(condition: Callable[[], object], what: str) -> None:
    """Wait for a state that another thread or process brings about; half a minute at most."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  (no event of ours signals it)
            await asyncio.sleep(0.01)
    assert condition(), what


def mute_when(honest: SimDevice, silent: Callable[[int, int], bool]) -> SimDevice:
    """The same device, but it does not answer a read if ``silent(address, count)`` is true."""

    class Mute(SimDevice):
        def answer(self, request: SimRequest, framing: Framing) -> device.SimAnswer | None:
            address, count = (int.from_bytes(request.pdu[n : n + 2], "big") for n in (1, 3))
            said = SimDevice.answer(self, request, framing)
            return None if silent(address, count) else said

    return Mute(honest.unit, honest.image)
