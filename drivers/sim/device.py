"""One simulated device with registers: its image, its faults, and its answers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from drivers.plan.holes import ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ILLEGAL_VALUE
from drivers.sim.faults import ActiveFaults, InjectedFault
from drivers.sim.framing import Framing, SimRequest
from drivers.sim.image import Image


@dataclass(slots=True)
class SimAnswer:
    """The response of a line to one request: the bytes, and how they are sent."""

    frame: bytes = b""
    delay_s: float = 0.0  # time from the last byte of the request to the first byte of the answer
    echo: bytes = b""  # bytes that are sent at once, before the delay
    bytewise_s: float | None = None  # pause between two bytes; None: the bytes are sent in one piece
    end: str = ""  # "reset" or "close": instead of an answer, the connection ends in this way
    baud: int = 0  # speed of the answer, which is then sent byte by byte; 0: the speed of the request


@dataclass(slots=True)
class SimDevice:
    """A device with a unit id. Write requests are refused with exception 1.

    ``before`` is called with function, address and count before each read; in a park it updates the registers.
    ``objects`` are the texts of function 43/14 by object id. ``requests`` is the number of requests by function code.
    """

    unit: int
    image: Image
    name: str = ""
    turnaround_s: float = 0.0
    max_words: int = 125  # longest read in registers; the device answers a longer one with the exception ``over_code``
    over_code: int = ILLEGAL_ADDRESS
    objects: Mapping[int, bytes] = field(default_factory=dict)
    before: Callable[[int, int, int], None] | None = None
    restart: Callable[[], None] | None = None  # sets the counters to zero; called at a reboot
    asleep: Callable[[], bool] | None = None  # the device does not answer while this function returns True
    faults: ActiveFaults = field(default_factory=ActiveFaults)
    requests: Counter[int] = field(default_factory=Counter)
    answered: int = 0
    monotonic: Callable[[], float] = time.monotonic
    _silent_until: float = 0.0
    _last_pdu: bytes = b""

    def __post_init__(self) -> None:
        self.faults.on_reboot = self.reboot

    def reboot(self, silent_s: float = 0.0) -> None:
        """Simulate a power cycle. The device is silent for ``silent_s``, and its counters then start from zero."""
        self._silent_until = self.monotonic() + silent_s
        if self.restart is not None:
            self.restart()

    def pdu(self, request: bytes, *, frozen: bool = False) -> bytes:
        """The correct answer to a request PDU. With ``frozen``, the registers are not updated before they are read."""
        function = request[0]
        if function in (1, 2, 3, 4):
            if len(request) != 5:
                return bytes((function | 0x80, ILLEGAL_VALUE))
            address, count = request[1] << 8 | request[2], request[3] << 8 | request[4]
            if self.before is not None and not frozen:
                self.before(function, address, count)
            payload = self.image.read(function, address, count)
            if not isinstance(payload, int) and function in (3, 4) and count > self.max_words:
                payload = self.over_code
            if isinstance(payload, int):
                return bytes((function | 0x80, payload))
            return bytes((function, len(payload))) + payload
        if function == 43 and len(request) == 4 and request[1] == 14 and self.objects:
            return self._identification(request)
        return bytes((function | 0x80, ILLEGAL_FUNCTION))

    def _identification(self, request: bytes) -> bytes:
        """Answer function 43/14 (Application Protocol 1.1b3, 6.21): the objects that fit, and whether more objects
        follow.
        """
        code, first = request[2], request[3]
        if code == 4:
            ids = [first] if first in self.objects else []
        else:
            last = {1: 0x02, 2: 0x7F, 3: 0xFF}.get(code, -1)
            ids = [n for n in sorted(self.objects) if first <= n <= last]
        if not ids:
            return bytes((43 | 0x80, ILLEGAL_VALUE if code not in (1, 2, 3, 4) else ILLEGAL_ADDRESS))
        listed, count, more, following = b"", 0, 0, 0
        for n in ids:
            text = self.objects[n]
            if len(listed) + 2 + len(text) > 240:
                more, following = 0xFF, n
                break
            listed += bytes((n, len(text))) + text
            count += 1
        return bytes((43, 14, code, 0x83, more, following, count)) + listed

    def answer(self, request: SimRequest, framing: Framing) -> SimAnswer | None:
        """The answer to a request, after the faults were applied. None: the device is silent."""
        self.requests[request.pdu[0]] += 1
        if self._silent_until and self.monotonic() < self._silent_until:
            return None
        if self.asleep is not None and self.asleep():
            return None
        if not self.faults:
            pdu = self._last_pdu = self.pdu(request.pdu)
            self.answered += 1
            return SimAnswer(framing.wrap(request.unit, pdu, request.tag), self.turnaround_s)
        return self._faulty(request, framing, self.faults.take())

    def _faulty(self, request: SimRequest, framing: Framing, hit: dict[str, InjectedFault]) -> SimAnswer | None:
        for end in ("reset", "close"):
            if end in hit:
                return SimAnswer(end=end)
        echo = request.frame if "echo" in hit else b""
        if "silence" in hit:
            return SimAnswer(echo=echo) if echo else None
        pdu = _wrong_pdu(request.pdu, self.pdu(request.pdu, frozen="freeze" in hit), hit)
        before, self._last_pdu = self._last_pdu, pdu
        if "spill" in hit and before[1:] == bytes([ILLEGAL_ADDRESS]) and not pdu[0] & 0x80:
            pdu = pdu[:2] + pdu[4:] + pdu[2:4]
        if "stale" in hit and before:
            pdu = self._last_pdu = before
        unit = request.unit
        if "unit" in hit:
            unit = hit["unit"].number if hit["unit"].number >= 0 else (unit + 1) & 0xFF
        tag = (request.tag + hit["tag"].number) & 0xFFFF if "tag" in hit else request.tag
        frame = framing.wrap(unit, pdu, tag)
        if "crc" in hit:
            frame = framing.damage(frame)
        self.answered += 1
        return sent_with_faults(frame, hit, self.turnaround_s, echo)


def garbled(frame: bytes) -> bytes:
    """A frame as it is received at another speed: the same number of bytes, but all of them wrong."""
    return bytes(byte ^ 0x55 | 0x80 for byte in frame)


def sent_with_faults(
    frame: bytes, hit: Mapping[str, InjectedFault], turnaround_s: float, echo: bytes, wake: bytes = b""
) -> SimAnswer:
    """Apply the faults that change how the bytes of a frame are sent."""
    if "cut" in hit:
        frame = frame[: hit["cut"].number]
    stray = hit["stray"].stray if "stray" in hit else b""
    late_s = hit["late"].seconds if "late" in hit else 0.0
    pause_s = hit["bytewise"].seconds if "bytewise" in hit else None
    return SimAnswer(stray + wake + frame, turnaround_s + late_s, echo, pause_s)


def _wrong_pdu(asked: bytes, honest: bytes, hit: dict[str, InjectedFault]) -> bytes:
    """The PDU of the answer, after the faults that change its content were applied."""
    for kind in ("exception", "gateway", "busy"):
        if kind in hit:
            return bytes((asked[0] | 0x80, hit[kind].number))
    if honest[0] & 0x80:
        return honest
    for kind, filler in (("blank", b"\xff"), ("zero", b"\x00")):
        if kind in hit:
            honest = honest[:2] + filler * (len(honest) - 2)
    if "short" in hit and honest[0] in (3, 4):
        kept = honest[2 : 2 + 2 * hit["short"].number]
        honest = bytes((honest[0], len(kept))) + kept
    return honest
