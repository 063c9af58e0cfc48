"""The common parts of all simulated lines: devices by unit id, silence for other units, counts and a frame trace."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from drivers.model import UsageError
from drivers.sim.device import SimAnswer, SimDevice
from drivers.sim.framing import Framing, RtuFraming, SimRequest

BITS_A_CHARACTER = 11


def quiet_s(baud: int) -> float:
    """t3.5 in seconds, as in ``drivers.serial_setting``: 3.5 characters, or a fixed time above 19200 baud."""
    return 0.00175 if baud > 19200 else 3.5 * BITS_A_CHARACTER / baud


class SimExchange(NamedTuple):
    """One frame on the bus; ``mono_ns``: when it was complete (request) or began (answer)."""

    mono_ns: int
    sent: bool  # by a device
    frame: bytes


class Bus:
    """Devices that share one line. An unused unit is silent, or answers ``absent`` as a TCP gateway does."""

    def __init__(
        self,
        devices: Iterable[SimDevice] = (),
        *,
        name: str = "",
        absent: int | None = None,
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name = name
        self.mono_ns = mono_ns  # the clock of the trace
        self.devices: dict[int, SimDevice] = {}
        self.absent = absent
        self.strangers = 0  # number of requests to units that do not exist
        self.trace: deque[SimExchange] = deque(maxlen=2000)
        for device in devices:
            self.add(device)

    def add(self, device: SimDevice) -> None:
        """Put a device on the line. Raises UsageError if its unit id is taken."""
        if device.unit in self.devices:
            raise UsageError(f"unit {device.unit} already exists", where=f"simulated line {self.name}")
        self.devices[device.unit] = device

    def remove(self, unit: int) -> SimDevice:
        """Take a device off the line."""
        return self.devices.pop(unit)

    def framing(self) -> Framing:
        """A new object that finds requests among bytes; each connection needs one."""
        return RtuFraming()

    def listens_at(self, baud: int, line_baud: int) -> bool:
        """Whether any device here understands this speed. Called before bytes at this speed are processed."""
        return baud == line_baud

    def answer(self, request: SimRequest, framing: Framing) -> SimAnswer | None:
        """The bytes on the line after a request; None: silence."""
        self.trace.append(SimExchange(self.mono_ns(), False, request.frame))
        device = self.devices.get(request.unit)
        if device is not None and request.pdu:
            return device.answer(request, framing)
        self.strangers += 1
        if self.absent is None or not request.pdu or request.unit == 0:
            return None
        return SimAnswer(framing.wrap(request.unit, bytes((request.pdu[0] | 0x80, self.absent)), request.tag))

    def sent(self, frame: bytes) -> None:
        """Note in the trace that an answer begins."""
        self.trace.append(SimExchange(self.mono_ns(), True, frame))


class SimLine(Protocol):
    """A simulated line of any transport."""

    bus: Bus

    @property
    def url(self) -> str:
        """The url of the line, as in the agent's configuration."""

    async def start(self) -> None:
        """Open the line; returns when it is usable."""

    async def stop(self) -> None:
        """Close everything; nothing is left running."""

    async def unplug(self) -> None:
        """Remove the port or stop listening; connections break."""

    async def plug(self) -> None:
        """Bring the port back under the same name."""

    def say(self, frame: bytes) -> None:
        """Send unsolicited bytes, such as a panel's own broadcast."""
