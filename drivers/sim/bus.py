"""The common parts of all simulated lines: devices by unit id, silence for other units, counters, and a trace of
frames.
"""

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
    """t3.5 in seconds, as in ``drivers.serial_setting``: the time of 3.5 characters, or a fixed time above 19200
    baud.
    """
    return 0.00175 if baud > 19200 else 3.5 * BITS_A_CHARACTER / baud


class SimExchange(NamedTuple):
    """One frame on the bus. ``mono_ns``: for a request, the time when it was complete; for an answer, the time when it
    began.
    """

    mono_ns: int
    sent: bool  # True: an answer of a device; False: a request
    frame: bytes


class Bus:
    """Devices that share one line. For other units the line is silent, or answers with exception ``absent`` like a TCP
    gateway.
    """

    def __init__(
        self,
        devices: Iterable[SimDevice] = (),
        *,
        name: str = "",
        absent: int | None = None,
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name = name
        self.mono_ns = mono_ns  # the clock that gives the times in the trace
        self.devices: dict[int, SimDevice] = {}
        self.absent = absent
        self.strangers = 0  # number of requests to units that are not on this line
        self.trace: deque[SimExchange] = deque(maxlen=2000)
        for device in devices:
            self.add(device)

    def add(self, device: SimDevice) -> None:
        """Put a device on the line. Raises UsageError if another device has its unit id."""
        if device.unit in self.devices:
            raise UsageError(
                f"a device with unit id {device.unit} is already on this line", where=f"simulated line {self.name}"
            )
        self.devices[device.unit] = device

    def remove(self, unit: int) -> SimDevice:
        """Take a device off the line."""
        return self.devices.pop(unit)

    def framing(self) -> Framing:
        """Make an object that finds requests among bytes. Each connection needs its own."""
        return RtuFraming()

    def listens_at(self, baud: int, line_baud: int) -> bool:
        """Whether any device on this line understands this speed. Called before bytes at this speed are processed."""
        return baud == line_baud

    def answer(self, request: SimRequest, framing: Framing) -> SimAnswer | None:
        """The bytes that appear on the line after a request. None: there is silence."""
        self.trace.append(SimExchange(self.mono_ns(), False, request.frame))
        device = self.devices.get(request.unit)
        if device is not None and request.pdu:
            return device.answer(request, framing)
        self.strangers += 1
        if self.absent is None or not request.pdu or request.unit == 0:
            return None
        return SimAnswer(framing.wrap(request.unit, bytes((request.pdu[0] | 0x80, self.absent)), request.tag))

    def sent(self, frame: bytes) -> None:
        """Record in the trace that an answer begins."""
        self.trace.append(SimExchange(self.mono_ns(), True, frame))


class SimLine(Protocol):
    """A simulated line of any transport."""

    bus: Bus

    @property
    def url(self) -> str:
        """The url of the line, as in the agent's configuration."""

    async def start(self) -> None:
        """Open the line. Returns when the line can be used."""

    async def stop(self) -> None:
        """Close the line. Nothing is left running."""

    async def unplug(self) -> None:
        """Simulate an unplugged line: remove the port or stop listening. Existing connections break."""

    async def plug(self) -> None:
        """Bring the port back under the same name."""

    def say(self, frame: bytes) -> None:
        """Send unsolicited bytes, such as the broadcast of a display panel."""
