"""Questions of several steps on one turn of a line, at speeds of their own: sign-on at 300 baud, data at 9600."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from drivers.line import Answer, Line, SerialSetting, StepRequest
from drivers.line.trace import RECEIVED, FrameTrace, read_trace
from drivers.model import FrameError, Limits, LineDown, LineError, LineTimeout
from drivers.sim.bus import Bus
from drivers.sim.device import SimAnswer
from drivers.sim.framing import Framing, SimRequest
from drivers.sim.rtu import SerialLine
from tests.kits.lines import Field, our_end
from tests.kits.wires import SerialWire, mono_ns

HELLO, GO = b"hello\n", b"go\n"
SLOW, FAST = SerialSetting(300, 7, "E", 1), SerialSetting(9600, 7, "E", 1)
LETTER = bytes(range(0x20, 0x7F)) * 30  # 2850 bytes


class Lines:
    """Requests end in a line feed."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> list[SimRequest]:
        *whole, self._held = (self._held + chunk).split(b"\n")
        return [SimRequest(-1, b"", 0, line + b"\n") for line in whole]

    def silence(self) -> None:
        self._held = b""

    def wrap(self, unit: int, pdu: bytes, tag: int) -> bytes:
        return pdu

    def damage(self, frame: bytes) -> bytes:
        return frame


class Greeter(Bus):
    """Greets at 300 baud and says the rest at another; Modbus units share its line at 9600."""

    def __init__(
        self, *devices: object, answer: bytes = LETTER + b"\n", baud: int = 9600, pause_s: float = 0.0
    ) -> None:
        super().__init__(devices)  # type: ignore[arg-type]
        self.said, self.baud, self.echo = answer, baud, False
        self.heard: list[bytes] = []
        self.heard_ns: list[int] = []

    def framing(self) -> Framing:
        return Lines()

    def listens_at(self, baud: int, line_baud: int) -> bool:
        return baud == 300

    def answer(self, request: SimRequest, framing: Framing) -> SimAnswer | None:
        self.heard.append(request.frame)
        self.heard_ns.append(self.mono_ns())
        echo = request.frame if self.echo else b""
        if request.frame == HELLO:
            return SimAnswer(b"at 9600\n", 0.2, echo, baud=300)
        return SimAnswer(self.said, 0.2, echo, baud=self.baud) if request.frame == GO else None


class UpToLineFeed(StepRequest):
    """An answer that ends in a line feed, whose length nobody knows ahead."""

    def __init__(self, frame: bytes, next_step: StepRequest | None = None, **more: object) -> None:
        more = {"gap_s": 1.5, "most_bytes": 8192, **more}
        super().__init__(frame, frame[0] if frame else 0, "greeter", "greeter", **more)  # type: ignore[arg-type]
        self._next = next_step

    def find(self, received: bytes, final: bool) -> bytes | LineError | None:
        end = received.find(b"\n")
        if end >= 0:
            return received[: end + 1]
        return FrameError("no line feed", where=self.where) if final and received else None

    def then(self, payload: bytes) -> StepRequest | None:
        return self._next


def question(**more: object) -> UpToLineFeed:
    return UpToLineFeed(HELLO, UpToLineFeed(GO, quiet_s=0.2, **{"answer_setting": FAST, **more}))


def wire_to(field: Field, bus: Bus) -> SerialWire:
    return field._add(SerialWire(bus, 0, baud=9600))  # type: ignore[no-any-return]


async def asked(line: Line, request: StepRequest, timeout_s: float = 1.5) -> Answer | LineError:
    (answer,) = await line.burst([request], line.request_options(Limits(timeout_s=timeout_s), str(SLOW)))
    return answer


async def test_an_answer_comes_at_its_own_speed_and_the_next_question_at_the_first(field: Field) -> None:
    bus = Greeter()
    sim = wire_to(field, bus)
    line = field.line(sim)
    for _ in range(2):
        answer = await asked(line, question())
        assert isinstance(answer, Answer) and answer.payload == LETTER + b"\n" and not answer.suspect
    assert [setting.baud for _, setting in sim.applied] == [300, 9600, 300, 9600]
    assert bus.heard == [HELLO, GO] * 2 and sim.wrong_baud == 0
    assert line.stats.answers == 2 and line.stats.sent == {HELLO[0]: 2, GO[0]: 2}


async def test_the_line_switches_when_the_last_bit_has_left_and_not_before(field: Field) -> None:
    bus = Greeter()
    sim = wire_to(field, bus)
    await asked(field.line(sim), question())
    switched_ns = [at for at, setting in sim.applied if setting == FAST]
    assert switched_ns[0] - bus.heard_ns[1] == pytest.approx(len(GO) * SLOW.char_s * 1e9, rel=1e-6)


async def test_a_step_waits_its_own_silence(field: Field) -> None:
    bus = Greeter()
    sim = wire_to(field, bus)
    await asked(field.line(sim), question())
    greeted_ns, went_ns = bus.heard_ns
    assert went_ns - greeted_ns >= (0.2 + 0.2) * 1e9, "turnaround of the greeting, and the silence before the next step"


async def test_an_answer_of_minutes_is_waited_for(field: Field) -> None:
    """2850 bytes at 300 baud take 104 s; the time-out is that to the first of them."""
    long = await asked(field.line(wire_to(field, Greeter(baud=300))), question(answer_setting=None))
    assert isinstance(long, Answer) and len(long.payload) == len(LETTER) + 1


async def test_a_time_out_below_what_the_protocol_grants_does_not_apply(field: Field) -> None:
    line = field.line(wire_to(field, Greeter(answer=b"there\n")))
    for least_s, kind in ((0.0, LineTimeout), (1.5, Answer)):
        first = UpToLineFeed(HELLO, UpToLineFeed(GO, least_s=least_s, answer_setting=FAST), least_s=least_s)
        assert isinstance(await asked(line, first, timeout_s=0.1), kind)


async def test_a_silence_within_an_answer_ends_it(field: Field) -> None:
    bus = Greeter(answer=b"half of it")
    began = mono_ns()
    answer = await asked(field.line(wire_to(field, bus)), question())
    assert isinstance(answer, FrameError)
    assert mono_ns() - began < 20e9, "two tries, each ended by its gap"


async def test_no_answer_is_longer_than_it_may_be(field: Field) -> None:
    """No wait without an end: what never stops is given up after the bytes that an answer can have."""
    bus = Greeter(answer=LETTER * 5)
    began = mono_ns()
    answer = await asked(field.line(wire_to(field, bus)), question(most_bytes=1000))
    assert isinstance(answer, FrameError)
    assert mono_ns() - began < 60e9


async def test_silence_costs_its_timeout_and_the_line_goes_back(field: Field) -> None:
    bus = Greeter(answer=b"")
    sim = wire_to(field, bus)
    line = field.line(sim)
    assert isinstance(await asked(line, question()), LineTimeout)
    bus.said = b"there\n"
    answer = await asked(line, question())
    assert isinstance(answer, Answer) and answer.payload == b"there\n"
    assert [setting.baud for _, setting in sim.applied] == [300, 9600, 300, 9600]


async def test_a_wrong_speed_is_heard_as_noise(field: Field) -> None:
    sim = wire_to(field, Greeter(baud=4800))
    assert isinstance(await asked(field.line(sim), question()), FrameError | LineTimeout)
    assert sim.wrong_baud > 0


@pytest.mark.parametrize("echo", [True, False])
async def test_the_echo_of_an_optical_head_is_not_an_answer(field: Field, echo: bool) -> None:
    """field pains 20, 22. Without ``echo = true`` the parser has to skip it; here that of the line does."""
    bus = Greeter()
    bus.echo = echo
    answer = await asked(field.line(wire_to(field, bus), echo=echo), question())
    assert isinstance(answer, Answer) and answer.payload == LETTER + b"\n"


async def test_a_serial_server_cannot_switch_and_says_so(field: Field) -> None:
    line = field.line(await field.tcp(framing="rtu"))
    assert not line.can_switch
    bus = field.bus(0)
    bus.framing = Lines  # type: ignore[method-assign]
    bus.answer = lambda request, framing: SimAnswer(b"at 300\n")  # type: ignore[method-assign]
    (answer,) = await line.burst([question()], line.request_options())
    assert isinstance(answer, LineDown) and "cannot switch to the serial setting 9600 7E1" in str(answer)
    (answer,) = await line.burst([question(answer_setting=None)], line.request_options())
    assert isinstance(answer, Answer) and answer.payload == b"at 300\n"


async def test_who_asks_at_once_waits_for_the_end_of_a_question(field: Field) -> None:
    """Nobody gets between the steps of another."""
    bus = Greeter()
    sim = wire_to(field, bus)
    line = field.line(sim)
    answers = await asyncio.gather(*(asked(line, question()) for _ in range(4)))
    assert all(isinstance(answer, Answer) for answer in answers)
    assert bus.heard == [HELLO, GO] * 4


async def test_a_long_answer_is_a_few_frames_of_the_trace(field: Field, tmp_path: Path) -> None:
    trace = FrameTrace(tmp_path / "frames", 100)
    line = field.line(wire_to(field, Greeter()), trace=trace)
    await asked(line, question())
    received = [seen.data for seen in read_trace(tmp_path / "frames") if seen.direction == RECEIVED]
    assert b"".join(received) == b"at 9600\n" + LETTER + b"\n" and len(received) <= 13


async def test_on_a_pseudo_terminal_in_real_time(tmp_path: Path) -> None:
    """Byte times of 300 and 9600 baud, the port really switched: what comes at another speed would be garbled."""
    bus = Greeter(answer=b"a readout\n")
    sim = SerialLine(bus, tmp_path / "tty", baud=300)
    await sim.start()
    lines: list[Line] = []
    line = our_end(lines, sim)
    try:
        for _ in range(2):
            answer = await asked(line, question(), timeout_s=30.0)
            assert isinstance(answer, Answer) and answer.payload == b"a readout\n"
        assert sim.wrong_baud == 0 and bus.heard == [HELLO, GO] * 2
    finally:
        await line.close()
        await sim.stop()
