"""Meters that speak DL/T 645, M-Bus or CJ/T 188 from the device's side, and a bus that they share with Modbus devices.

A meter hears every sound frame on its bus at its own speed and answers frames for it; simultaneous answers of several
meters are overlaid. Faults are those of ``drivers.sim.faults`` that make sense for bytes: silence, late, crc, cut,
stray, echo, bytewise, stale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from drivers.cjt188 import codec as cjt188
from drivers.dlt645 import codec as dlt645
from drivers.framing import build_request
from drivers.mbus import codec as mbus
from drivers.sim.bus import Bus, SimExchange
from drivers.sim.device import SimAnswer, SimDevice, sent_with_faults
from drivers.sim.faults import ActiveFaults
from drivers.sim.framing import Framing, RtuFraming, SimRequest

READS = dlt645.ALLOWED_CONTROLS | cjt188.ALLOWED_CONTROLS | mbus.ALLOWED_CONTROLS
METER = -1  # the unit of a request that is not Modbus


@dataclass(slots=True)
class SimMeter(ABC):
    """A meter on a bus."""

    name: str = ""
    baud: int | None = None
    turnaround_s: float = 0.0
    wake: bytes = b""  # bytes that this meter sends before each answer, such as FE FE
    faults: ActiveFaults = field(default_factory=ActiveFaults)
    requests: Counter[int] = field(default_factory=Counter)  # by control code
    answered: int = 0
    last: bytes = b""  # its answer before
    before: Callable[[], None] | None = None  # called ahead of each answer: a park refreshes its values there

    def _asked(self, control: int) -> None:
        self.requests[control] += 1
        if self.before is not None:
            self.before()

    @abstractmethod
    def hear(self, frame: bytes) -> bytes | None:
        """The honest answer to a frame, None where it is not for this meter."""


@dataclass(slots=True)
class Dlt645Meter(SimMeter):
    """``values``: identifier (8 or 4 hex digits) -> its data as on the wire, low byte first.

    Data longer than ``most`` bytes goes out in several frames. Whatever is not there answers "no such data".
    """

    address: str = "000000000001"
    values: dict[str, bytes] = field(default_factory=dict)
    most: int = 200
    speaks: tuple[int, ...] = (0x01, 0x02, 0x11, 0x12, 0x13)  # to other control codes it says nothing

    def hear(self, frame: bytes) -> bytes | None:
        found = dlt645.Parser().feed(frame)
        if not found or found[0].is_reply:
            return None
        asked = found[0]
        if any(a not in (b, "A") for a, b in zip(asked.address, self.address, strict=True)):
            return None
        if asked.control in READS and asked.control not in self.speaks:
            return None
        self._asked(asked.control)
        return self._answer(asked)

    def _frame(self, control: int, data: bytes) -> bytes:
        head = bytes((0x68, *bytes.fromhex(self.address)[::-1], 0x68))
        return build_request(head, control, bytes((b + 0x33) & 0xFF for b in data), 0)

    def _answer(self, asked: dlt645.Frame) -> bytes:
        if asked.control == 0x13:
            return self._frame(0x93, bytes.fromhex(self.address)[::-1])
        if asked.control not in (0x11, 0x12, 0x01, 0x02):
            return self._frame(asked.control | 0xC0, b"\x04")
        data = self.values.get(asked.identifier)
        if data is None:
            return self._frame(asked.control | 0xC0, b"\x02")
        number = (asked.sequence or 1) if asked.control in (0x12, 0x02) else 0
        piece, rest = data[number * self.most : (number + 1) * self.most], data[(number + 1) * self.most :]
        tail = bytes((number,)) if asked.control == 0x12 else b""
        control = asked.control | 0x80 | (0x20 if rest else 0)
        return self._frame(control, bytes.fromhex(asked.identifier)[::-1] + piece + tail)


@dataclass(slots=True)
class Cjt188Meter(SimMeter):
    """``values``: identifier -> payload after SER. ``low_first``: the only order of identifiers that it knows."""

    meter_type: int = 0x20
    address: str = "00000000000001"
    values: dict[int, bytes] = field(default_factory=dict)
    low_first: bool = False

    def hear(self, frame: bytes) -> bytes | None:
        found = cjt188.Parser().feed(frame)
        if not found or found[0].is_reply or (identifier := found[0].identifier) is None:
            return None
        asked = found[0]
        if asked.meter_type not in (self.meter_type, 0xAA) or asked.low_first != self.low_first:
            return None
        if any(a not in (b, "A") for a, b in zip(asked.address, self.address, strict=True)):
            return None
        self._asked(asked.control)
        head = bytes((0x68, self.meter_type, *bytes.fromhex(self.address)[::-1]))
        payload = self.values.get(identifier)
        serial = asked.raw[13:14]
        if asked.control not in (0x01, 0x03) or payload is None:
            return build_request(head, asked.control | 0xC0, serial + b"\0\0", 0)
        return build_request(head, asked.control | 0x80, asked.raw[11:13] + serial + payload, 0)


@dataclass(slots=True)
class MbusMeter(SimMeter):
    """``telegrams``: what follows C and A (CI first), one after the other as the FCB toggles.

    ``secondary``: its eight bytes of identity, number, maker, version and medium, low byte first.
    """

    address: int = 1
    secondary: bytes = bytes(8)
    number: str = ""  # by which agent.toml names it, where that is not its address
    telegrams: tuple[bytes, ...] = ()
    selected: bool = False
    at: int = -1
    last_fcb: int = -1

    def hear(self, frame: bytes) -> bytes | None:
        found = mbus.Parser().feed(frame)
        if not found or found[0].from_device:
            return None
        asked = found[0]
        if asked.ci == 0x52:
            self.selected = _matches(asked.body[:8], self.secondary)
            if self.selected:
                self.at, self.last_fcb = -1, -1
                self._asked(asked.control)
            return b"\xe5" if self.selected else None
        mine = asked.address in (self.address, 254) or (asked.address == 253 and self.selected)
        if not mine:
            return None
        self._asked(asked.control)
        if asked.control == 0x40:
            self.at, self.last_fcb = -1, -1
            self.selected = False if asked.address == 253 else self.selected
            return b"\xe5"
        if asked.control & 0x5F != 0x5B or not self.telegrams:
            return None
        if asked.control & 0x20 != self.last_fcb:  # a toggled FCB asks for the next, the same one for the last again
            self.at = (self.at + 1) % len(self.telegrams)
        self.last_fcb = asked.control & 0x20
        body = bytes((0x08, self.address)) + self.telegrams[self.at]
        return bytes((0x68, len(body), len(body), 0x68)) + body + bytes((sum(body) & 0xFF, 0x16))


Simulated = SimDevice | SimMeter  # what faults can be set on


def _matches(mask: bytes, own: bytes) -> bool:
    """Selection of EN 13757-3: F nibbles of the number and FF bytes of the rest match anything."""
    if len(mask) != 8 or len(own) != 8:
        return False
    digits = all(m in ("f", o) for m, o in zip(mask[:4].hex(), own[:4].hex(), strict=True))
    maker = mask[4:6] in (b"\xff\xff", own[4:6])
    return digits and maker and all(m in (0xFF, o) for m, o in zip(mask[6:], own[6:], strict=True))


class MixedFraming(RtuFraming):
    """Requests of Modbus RTU and of the meters' protocols in one stream; a pause on the line ends all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._new_parsers()

    def _new_parsers(self) -> None:
        self._parsers = (dlt645.Parser(), cjt188.Parser(), mbus.Parser())

    def feed(self, chunk: bytes) -> list[SimRequest]:
        found = [SimRequest(METER, b"", 0, f.raw) for parser in self._parsers for f in parser.feed(chunk)]
        if found:  # bytes of a meter's frame do not begin a Modbus one
            self._held = b""
            return found
        return super().feed(chunk)

    def silence(self) -> None:
        super().silence()
        self._new_parsers()


class MixedBus(Bus):
    """A bus of meters and, if any, Modbus devices. Each hears only its own speed where the line can tell speeds."""

    def __init__(self, meters: Iterable[SimMeter] = (), devices: Iterable[SimDevice] = (), *, name: str = "") -> None:
        super().__init__(devices, name=name)
        self.meters = list(meters)
        self.overlaid = 0  # answers that were those of several meters at once
        self.device_baud: dict[int, int] = {}  # Modbus unit -> its own speed
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
    """The bytes on the line when several meters answer at once: a 0 of any of them, which is the current, wins."""
    frame = bytearray(b"\xff" * max(len(answer.frame) for answer in answers))
    for answer in answers:
        for n, byte in enumerate(answer.frame):
            frame[n] &= byte
    return SimAnswer(bytes(frame), min(answer.delay_s for answer in answers), answers[0].echo)


def _answer(meter: SimMeter, asked: bytes, honest: bytes) -> SimAnswer | None:
    """The bytes on the line, with the meter's faults."""
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
    return sent_with_faults(frame, hit, meter.turnaround_s, echo, meter.wake)
