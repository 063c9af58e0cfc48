"""Simulated meters with their own frames, and a bus that they share with register devices.

A meter receives every valid frame that is sent on its bus at its own speed, and answers the frames that are addressed
to it. If several meters answer at once, their answers overlap. Of the faults in ``drivers.sim.faults``, meters support
those that apply to any bytes: silence, late, crc, cut, stray, echo, bytewise, stale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from drivers.framing import FrameScanner
from drivers.registry import all_protocols
from drivers.sim.bus import Bus, SimExchange
from drivers.sim.device import SimAnswer, SimDevice, sent_with_faults
from drivers.sim.faults import ActiveFaults
from drivers.sim.framing import Framing, RtuFraming, SimRequest

METER = -1  # used in place of a unit number: the request is a frame of a meter's protocol


@dataclass(slots=True)
class SimMeter(ABC):
    """A meter on a bus."""

    name: str = ""
    baud: int | None = None
    character: str = "8E1"  # the meter's bits, parity and stop bits
    turnaround_s: float = 0.0
    answer_baud: int = 0  # speed of the answer that ``hear`` has just returned; 0: the speed of the request
    wake: bytes = b""  # bytes that this meter sends before each answer, such as FE FE
    faults: ActiveFaults = field(default_factory=ActiveFaults)
    requests: Counter[int] = field(default_factory=Counter)  # number of received requests by control code
    answered: int = 0
    last: bytes = b""  # the meter's previous answer
    before: Callable[[], None] | None = None  # called before each answer; in a park it updates the meter's values

    def count(self, control: int) -> None:
        self.requests[control] += 1
        if self.before is not None:
            self.before()

    @abstractmethod
    def hear(self, frame: bytes) -> bytes | None:
        """The correct answer to a frame. None if the frame is not for this meter."""


Simulated = SimDevice | SimMeter  # everything that can have faults: a register device or a meter


class MixedFraming(RtuFraming):
    """Finds requests to units, and frames of all other protocols, in one stream. A pause on the line drops unfinished
    ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self._new_parsers()

    def _new_parsers(self) -> None:
        parsers = (protocol.new_request_parser() for protocol in all_protocols())
        self._parsers: list[FrameScanner[Any]] = [parser for parser in parsers if parser is not None]

    def feed(self, chunk: bytes) -> list[SimRequest]:
        found = [SimRequest(METER, b"", 0, f.raw) for parser in self._parsers for f in parser.feed(chunk)]
        if found:  # these bytes were a meter's frame, so they do not begin a request to a unit
            self._held = b""
            return found
        return super().feed(chunk)

    def silence(self) -> None:
        super().silence()
        self._new_parsers()


class MixedBus(Bus):
    """A bus with meters, and optionally with register devices.

    If the line knows the speed of a request, only devices and meters with this speed, or without a speed of their own,
    receive the request.
    """

    def __init__(self, meters: Iterable[SimMeter] = (), devices: Iterable[SimDevice] = (), *, name: str = "") -> None:
        super().__init__(devices, name=name)
        self.meters = list(meters)
        self.overlaid = 0  # how often several meters have answered at once
        self.device_baud: dict[int, int] = {}  # unit -> the device's own speed in baud
        self._heard_baud = 0

    def framing(self) -> Framing:
        return MixedFraming()

    def listens_at(self, baud: int, line_baud: int) -> bool:
        self._heard_baud = baud
        known = {m.baud or line_baud for m in self.meters}
        known |= {self.device_baud.get(unit, line_baud) for unit in self.devices}
        return baud in known

    def answer(self, request: SimRequest, framing: Framing) -> SimAnswer | None:
        if request.unit != METER:
            own = self.device_baud.get(request.unit)
            if self._heard_baud and own and own != self._heard_baud:
                return None
            return super().answer(request, framing)
        self.trace.append(SimExchange(self.mono_ns(), False, request.frame))
        answers: list[SimAnswer] = []
        is_addressed = False
        for meter in self.meters:
            if self._heard_baud and meter.baud and meter.baud != self._heard_baud:
                continue
            honest = meter.hear(request.frame)
            if honest is not None:
                is_addressed = True
                answer = _answer(meter, request.frame, honest)
                if answer is not None:
                    answers.append(answer)
        if not is_addressed:
            self.strangers += 1
        if len(answers) > 1:
            self.overlaid += 1
            return overlay(answers)
        return answers[0] if answers else None


def overlay(answers: Sequence[SimAnswer]) -> SimAnswer:
    """The bytes on the line when several meters answer at once. A bit is 0 if any meter sends 0, because then a current
    flows.
    """
    frame = bytearray(b"\xff" * max(len(answer.frame) for answer in answers))
    for answer in answers:
        for n, byte in enumerate(answer.frame):
            frame[n] &= byte
    first = answers[0]
    return SimAnswer(bytes(frame), min(answer.delay_s for answer in answers), first.echo, baud=first.baud)


def _answer(meter: SimMeter, asked: bytes, honest: bytes) -> SimAnswer | None:
    """The answer that the meter puts on the line after its faults were applied. None: the meter is silent."""
    hit = meter.faults.take() if meter.faults else {}
    echo = asked if "echo" in hit else b""
    if "silence" in hit:
        return SimAnswer(echo=echo) if echo else None
    frame = honest
    meter.answered += 1
    if "stale" in hit and meter.last:
        frame = meter.last
    meter.last = frame
    if "crc" in hit:
        frame = frame[:-2] + bytes((frame[-2] ^ 0x5A, frame[-1])) if len(frame) > 1 else b"\xe4"
    answer = sent_with_faults(frame, hit, meter.turnaround_s, echo, meter.wake)
    answer.baud = meter.answer_baud
    return answer
