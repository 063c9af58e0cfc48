"""The traffic received on a line during a scan."""

from __future__ import annotations

from drivers.line import FrameTrace
from drivers.line.trace import BROKEN, RECEIVED, SENT
from drivers.model import MismatchError

_KEPT = 8192


class AnotherMaster(MismatchError):
    """Another master is active on this line. A scan would disturb it, and would mistake its answers for answers to
    probes.
    """


class TrafficTrace(FrameTrace):
    """A frame trace in memory instead of a file. A reader may remove the bytes of ``received`` that it has
    processed.
    """

    def __init__(self) -> None:
        self.received = b""
        self.total = 0
        self.answers = 0  # number of received pieces that do not repeat a request
        self.sent: set[bytes] = set()

    def put(self, direction: int, data: bytes, time_ns: int) -> None:
        if direction == SENT:
            self.sent.add(data)
            return
        if direction == BROKEN:  # a text about the received bytes, which were put here before
            return
        self.answers += direction == RECEIVED and data not in self.sent
        self.total += len(data)
        self.received = (self.received + data)[-_KEPT:]

    def trim(self) -> None:
        """Does nothing: there is no memory to release."""

    def close(self) -> None:
        """Does nothing: there is no file to close."""
