"""A cabinet of devices that the software of others simulates, on lines with real byte times.

- Bus A (9600 8N1) has six devices by pymodbus and one by uModbus.
- Bus B (2400 8E1) has a DL/T 645 meter by dlt645 from PyPI.
- A serial server (RTU bytes over TCP) is by pymodbus.
- An inverter on Modbus TCP is by pyModbusTCP. It answers any unit.

The values of known families come from our simulator; the protocol, its framing and its timing do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pty
import select
import struct
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drivers.profile import load_profile
from drivers.sim.families import device_from_profile
from drivers.sim.image import Image

PROFILES = Path(__file__).resolve().parent.parent.parent / "firmware_profiles"
SPACE = 0x10000
QUIET_S = 0.004  # a frame ends after this silence
METER_ADDRESS = "785634210000"
KX96 = {"ac.voltage.l1": 231.8, "ac.voltage.l2": 232.4, "ac.voltage.l3": 230.9, "ac.frequency": 50.02}
KX96_FLOATS = 0x0100  # address of the values of ``KX96``, in this order, as floats in CDAB
KX96_ENERGY = 0x0200  # u32, low word first, in 0.01 kWh
KX96_COUNT = 7_654_321


def registers(profile: str, seed: int = 7) -> Image:
    """The registers of a shipped family as the simulator shows them at one moment.

    ``seed`` determines the serial number.
    """
    device, display = device_from_profile(load_profile(PROFILES / f"{profile}.toml"), seed=seed)
    for function in device.image.functions:
        display.refresh(function, 0, SPACE)
    return device.image


@dataclass
class Tap:
    """A slave's port on the bus. ``units``: the units whose requests it gets; if empty, it gets all requests."""

    fd: int
    units: frozenset[int]
    spoil: Callable[[bytes], bytes | None] = lambda frame: frame  # changes an answer; None: no answer
    delay_s: Mapping[int, float] = field(default_factory=dict)  # by unit


class SerialBus:
    """One RS-485 bus in a thread. Bytes take their real time. Requests at another speed reach no device."""

    def __init__(self, link: Path, baud: int, bits: int = 10) -> None:
        self.link, self._byte_s, self._speed = link, bits / baud, getattr(termios, f"B{baud}")
        self._fds: list[int] = []
        self._agent, self._theirs = self._pair()
        link.symlink_to(os.ttyname(self._theirs))
        self.taps: list[Tap] = []
        self.muted: set[int] = set()
        self.requests = 0
        self._wake, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, name=f"bus {link.name}")

    def _pair(self) -> tuple[int, int]:
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        self._fds += [ours, theirs]
        return ours, theirs

    def tap(self, units: Iterable[int] = (), **more: Any) -> str:
        """Add a port for another slave. Returns its path."""
        ours, theirs = self._pair()
        self.taps.append(Tap(ours, frozenset(units), **more))
        return os.ttyname(theirs)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        os.write(self._stop, b"x")
        self._thread.join(60)
        for fd in (*self._fds, self._wake, self._stop):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.link.unlink(missing_ok=True)

    def _run(self) -> None:
        by_fd = {tap.fd: tap for tap in self.taps}
        while True:
            ready, _, _ = select.select([self._agent, self._wake, *by_fd], [], [])
            if self._wake in ready:
                return
            for fd in ready:
                frame = self._take(fd)
                if fd == self._agent:
                    self._ask(frame)
                else:
                    self._answer(by_fd[fd], frame)

    def _take(self, fd: int) -> bytes:
        found = b""
        while select.select([fd], [], [], QUIET_S)[0]:
            found += os.read(fd, 4096)
        return found

    def _ask(self, frame: bytes) -> None:
        if not frame or termios.tcgetattr(self._theirs)[5] != self._speed:
            return
        self.requests += 1
        time.sleep(len(frame) * self._byte_s)
        for tap in self.taps:
            if not tap.units or (frame[0] in tap.units and frame[0] not in self.muted):
                os.write(tap.fd, frame)

    def _answer(self, tap: Tap, frame: bytes) -> None:
        time.sleep(tap.delay_s.get(frame[0], 0.0) + len(frame) * self._byte_s)
        if (told := tap.spoil(frame)) is not None:
            os.write(self._agent, told)


def crc_errors(unit: int, every: int) -> Callable[[bytes], bytes]:
    """Make a ``spoil`` that flips a bit in every ``every``-th answer of a unit."""
    answers = 0

    def spoil(frame: bytes) -> bytes:
        nonlocal answers
        answers += frame[0] == unit
        if frame[0] != unit or answers % every:
            return frame
        return frame[:-1] + bytes([frame[-1] ^ 0x10])

    return spoil


# --- the software of others


def kx96() -> Image:
    """A meter that no profile knows: floats and a counter with the low word first."""
    image = Image()
    for n, value in enumerate(KX96.values()):
        high, low = struct.unpack(">HH", struct.pack(">f", value))
        image.put_words(KX96_FLOATS + 2 * n, [low, high])
    image.put_words(KX96_ENERGY, [KX96_COUNT & 0xFFFF, KX96_COUNT >> 16])
    return image


def runs(image: Image, function: int) -> list[tuple[int, list[int]]]:
    """The runs of existing registers, as (address, words)."""
    if function not in image.functions:
        return []
    found: list[tuple[int, list[int]]] = []
    for address in (a for a in range(SPACE) if image.exists(function, a)):
        if not found or address != found[-1][0] + len(found[-1][1]):
            found.append((address, []))
        found[-1][1].extend(image.words(address, function=function))
    return found


class PymodbusServers:
    """Servers of pymodbus, in an event loop in their own thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._servers: list[Any] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="pymodbus")
        self._thread.start()

    def _devices(self, images: Mapping[int, Image]) -> Any:
        from pymodbus.simulator import DataType, SimData, SimDevice

        made = []
        for unit, image in images.items():
            tables: list[list[Any]] = [[SimData(0, values=False, datatype=DataType.BITS)] for _ in range(2)]
            for function in (3, 4):
                blocks = [SimData(at, values=words, datatype=DataType.REGISTERS) for at, words in runs(image, function)]
                tables.append(blocks or [SimData(0, values=0, datatype=DataType.REGISTERS)])
            made.append(SimDevice(unit, simdata=tuple(tables)))
        return made

    def serial(self, port: str, baud: int, images: Mapping[int, Image]) -> None:
        from pymodbus import FramerType
        from pymodbus.server import ModbusSerialServer

        self._serve(lambda: ModbusSerialServer(self._devices(images), framer=FramerType.RTU, port=port, baudrate=baud))

    def rtu_over_tcp(self, port: int, images: Mapping[int, Image]) -> None:
        from pymodbus import FramerType
        from pymodbus.server import ModbusTcpServer

        self._serve(
            lambda: ModbusTcpServer(
                self._devices(images), framer=FramerType.RTU, address=("127.0.0.1", port), ignore_missing_devices=True
            )
        )

    def _serve(self, make: Callable[[], Any]) -> None:
        async def begin() -> None:
            server = make()
            await server.serve_forever(background=True)
            self._servers.append(server)

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result(60)

    def stop(self) -> None:
        async def end() -> None:
            for server in self._servers:
                await server.shutdown()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()


class UmodbusSlave:
    """uModbus on a serial port, in a thread."""

    def __init__(self, port: str, baud: int, unit: int, image: Image) -> None:
        import serial
        from umodbus.server.serial import get_server
        from umodbus.server.serial.rtu import RTUServer

        self._port = serial.Serial(port, baud, timeout=0.05)
        self._server = get_server(RTUServer, self._port)
        self._port.timeout = 0.05
        for function in (3, 4):
            for start, words in runs(image, function):
                values = dict(enumerate(words, start))

                @self._server.route(slave_ids=[unit], function_codes=[function], addresses=list(values))
                def value(slave_id: int, function_code: int, address: int, found: dict[int, int] = values) -> int:
                    return found[address]

        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="uModbus")
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            with contextlib.suppress(ValueError, struct.error):  # silence, or half a frame
                self._server.serve_once()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join(60)
        self._port.close()


class Dlt645Meter:
    """The DL/T 645 meter of the package dlt645, on a serial port."""

    def __init__(self, port: str, address: str) -> None:
        from dlt645 import MeterServerService

        self._service = MeterServerService.new_rtu_server(port, 8, 1, 2400, "E", 5.0)
        self._service.set_address(address)
        for number, value in ((0x00000000, 1234.56), (0x00010000, 1300.12), (0x00020000, 65.56)):
            self._service.set_00(number, value)
        for number, value in ((0x02010100, 231.4), (0x02010200, 230.8), (0x02010300, 232.1), (0x02800002, 50.01)):
            self._service.set_02(number, value)
        assert self._service.start()

    def stop(self) -> None:
        self._service.stop()


class TcpInverter:
    """An inverter by pyModbusTCP. It answers any unit."""

    def __init__(self, port: int, image: Image) -> None:
        from pyModbusTCP.server import DataBank, ModbusServer

        bank = DataBank()
        for start, words in runs(image, 3):
            bank.set_holding_registers(start, words)
        self._server = ModbusServer(host="127.0.0.1", port=port, no_block=True, data_bank=bank)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()


class Cabinet:
    """The whole cabinet. Its serial ports are in one folder."""

    def __init__(self, folder: Path, rtu_port: int, tcp_port: int) -> None:
        for name in ("pymodbus.logging", "pymodbus", "umodbus", "dlt645"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.bus_a, self.bus_b = SerialBus(folder / "ttyA", 9600), SerialBus(folder / "ttyB", 2400, 11)
        self.url_a, self.url_b = f"serial:{self.bus_a.link}", f"serial:{self.bus_b.link}"
        self.url_server, self.url_tcp = f"tcp://127.0.0.1:{rtu_port}", f"modbus-tcp://127.0.0.1:{tcp_port}"
        images = {
            1: registers("eastron/sdm630"),
            3: registers("huawei/sun2000"),
            16: registers("pylontech/force-h"),
            40: registers("chint/dtsu666"),
            50: registers("eastron/sdm120"),
            173: kx96(),
        }
        many = self.bus_a.tap(images, spoil=crc_errors(40, 7), delay_s={50: 0.7})
        one = self.bus_a.tap([2])
        meter = self.bus_b.tap()
        self.bus_a.start()
        self.bus_b.start()
        self._pymodbus = PymodbusServers()
        self._pymodbus.serial(many, 9600, images)
        behind = {1: registers("eastron/sdm120"), 2: registers("eastron/sdm72v2"), 5: kx96()}
        self._pymodbus.rtu_over_tcp(rtu_port, behind)
        self._slave = UmodbusSlave(one, 9600, 2, registers("acrel/adl400"))
        self._meter = Dlt645Meter(meter, METER_ADDRESS)
        self._inverter = TcpInverter(tcp_port, registers("huawei/sun2000", seed=8))

    def stop(self) -> None:
        for part in (self._inverter, self._meter, self._slave, self._pymodbus, self.bus_a, self.bus_b):
            part.stop()
