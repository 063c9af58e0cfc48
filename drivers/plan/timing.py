"""One read of a device, and its cost on a line in nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

from drivers.model import NO_LIMITS, Limits
from drivers.serial_setting import SerialSetting, silence_ns

REQUEST = 8  # length of a request on a serial line in bytes: address, function, start, count, CRC
ANSWER = 5  # length of the answer in bytes, without the registers: address, function, byte count, CRC
_MBAP = 7 + 1 + 4 + 7 + 2  # bytes of a request with an MBAP header and of its answer, without the registers
_ETHERNET = 2 * 66  # length of the headers of two TCP segments in bytes, one in each direction
_NETWORK_NS_PER_BYTE = 80  # 100 Mbit/s


@dataclass(frozen=True, slots=True)
class Block:
    """One read. ``points`` are indexes into the sequence that was planned, in order of address."""

    function: int
    address: int
    count: int  # number of registers, or of coils for functions 1 and 2
    points: tuple[int, ...]

    @property
    def payload(self) -> int:
        """The number of bytes that registers or coils take in the answer."""
        return self.count * 2 if self.function >= 3 else (self.count + 7) // 8


@dataclass(frozen=True, slots=True)
class LineTiming:
    """The parts of a request's time. The planner minimizes their sum, ``cost_ns``.

    If the line is a TCP gateway, a request needs the time of its bytes on the network plus the time of its bytes on the
    bus.
    """

    byte_ns: int  # time of one byte on the serial bus; 0: there is no bus
    quiet_ns: int  # silence before a request: t3.5, or longer if the device needs a longer silence
    turnaround_ns: int  # time from the end of a request to the start of the answer
    network: bool = False

    @staticmethod
    def serial(setting: str, limits: Limits = NO_LIMITS, turnaround_s: float = 0.005) -> LineTiming:
        """The timing of a serial line with a setting such as "9600 8N1". Raises ConfigError if it is invalid."""
        serial = SerialSetting.parse(setting, "plan")
        turnaround = limits.turnaround_s if limits.turnaround_s is not None else turnaround_s
        quiet = max(silence_ns(serial.baud), round((limits.quiet_s or 0) * 1e9))
        return LineTiming(round(serial.char_bits * 1e9 / serial.baud), quiet, round(turnaround * 1e9))

    @staticmethod
    def tcp(bus_baud: int | None = None, limits: Limits = NO_LIMITS, turnaround_s: float = 0.002) -> LineTiming:
        """The timing of a network line. ``bus_baud``: speed of the serial bus behind a gateway; None: there is no such
        bus.
        """
        turnaround = round((limits.turnaround_s if limits.turnaround_s is not None else turnaround_s) * 1e9)
        quiet = round((limits.quiet_s or 0) * 1e9)
        if not bus_baud:
            return LineTiming(0, quiet, turnaround, network=True)
        return LineTiming(round(10 * 1e9 / bus_baud), max(quiet, silence_ns(bus_baud)), turnaround, network=True)

    def cost_ns(self, payload: int) -> int:
        """The time of one request whose answer has ``payload`` bytes of registers."""
        total = self.quiet_ns + self.turnaround_ns + (REQUEST + ANSWER + payload) * self.byte_ns
        if self.network:
            total += (_MBAP + _ETHERNET + payload) * _NETWORK_NS_PER_BYTE
        return total
