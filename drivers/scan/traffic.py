"""Traffic on a line: late answers are attributed by their address, other masters are noticed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drivers.dlt645 import codec as dlt645
from drivers.line import FrameTrace, crc_ok
from drivers.line.trace import SENT
from drivers.mbus import codec as mbus
from drivers.model import MismatchError

NOISE_BYTES = 3  # fewer bytes than this without a sound frame may be a spike on the wire
_KEPT = 8192
_MOST_SAID = 8


class AnotherMaster(MismatchError):
    """Another master is active on this line; a scan would disturb it, and take its answers for ours."""


class BusTraffic(NamedTuple):
    """A valid Modbus frame on the line."""

    unit: int
    function: int  # without the exception bit
    is_request: bool
    code: int  # of an exception, else 0
    raw: bytes


class TrafficTrace(FrameTrace):
    """A frame trace in memory instead of a file."""

    def __init__(self, is_mbap: bool = False) -> None:
        self._is_mbap = is_mbap
        self.received = b""
        self.total = 0
        self.sent: set[bytes] = set()

    def put(self, direction: int, data: bytes, time_ns: int) -> None:
        if direction == SENT:
            self.sent.add(data)
            return
        self.total += len(data)
        self.received = (self.received + data)[-_KEPT:]

    def trim(self) -> None:
        """Nothing to give back."""

    def close(self) -> None:
        """Nothing to close."""

    def take(self) -> list[BusTraffic]:
        """The valid Modbus frames since the last call that we did not send; a possible beginning of one is kept."""
        if self._is_mbap:
            found, self.received = list(_mbap(self.received)), b""
            return found
        found, end = [], 0
        for at, frame in _rtu(self.received):
            end = at + len(frame.raw)
            if frame.raw not in self.sent:
                found.append(frame)
        self.received = self.received[max(end, len(self.received) - 260) :]
        return found


def _mbap(data: bytes) -> Iterator[BusTraffic]:
    """Complete frames one after the other, as the line passes them on."""
    while len(data) >= 9:
        size = 6 + int.from_bytes(data[4:6], "big")
        frame, data = data[:size], data[size:]
        yield BusTraffic(frame[6], frame[7] & 0x7F, False, frame[8] if frame[7] & 0x80 else 0, frame)


def _rtu(data: bytes) -> Iterator[tuple[int, BusTraffic]]:
    at = 0
    while at + 5 <= len(data):
        unit, function = data[at], data[at + 1]
        sizes: list[tuple[int, bool]] = []
        if 1 <= unit <= 247 and function & 0x80 and function & 0x7F in (1, 2, 3, 4, 5, 6, 15, 16, 43):
            sizes = [(5, False)]
        elif 1 <= unit <= 247 and function in (1, 2, 3, 4):
            sizes = [(5 + data[at + 2], False), (8, True)]
        elif unit <= 247 and function in (5, 6, 15, 16):
            sizes = [(8, True)]
        for size, is_request in sizes:
            raw = data[at : at + size]
            if len(raw) == size and crc_ok(raw):
                yield at, BusTraffic(unit, function & 0x7F, is_request, raw[2] if function & 0x80 else 0, raw)
                at += size
                break
        else:
            at += 1


def describe(data: bytes) -> str:
    """A guess at the origin of bytes on a line, for a person; "" if they may be a spike."""
    words: list[str] = []
    for _, frame in _rtu(data):
        kind = "a request to" if frame.is_request else "an answer of"
        words.append(f"{kind} Modbus unit {frame.unit}, function {frame.function}")
    for meter in dlt645.Parser().feed(data):
        words.append(f"DL/T 645 {'from' if meter.is_reply else 'to'} {meter.address}")
    for telegram in mbus.Parser().feed(data):
        if telegram.kind == "long":
            words.append(f"M-Bus {'from' if telegram.from_device else 'to'} {telegram.address}")
    if words:
        texts = list(dict.fromkeys(words))
        return "; ".join(texts[:_MOST_SAID]) + ("; ..." if len(texts) > _MOST_SAID else "")
    if len(data) < NOISE_BYTES:
        return ""
    return f"{len(data)} bytes that are not a frame at this setting: {data[:12].hex(' ').upper()}"
