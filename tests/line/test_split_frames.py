"""Answers that a gateway cuts, joins and delays at any byte: each is found for its own request, and none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.cjt188.simulate import Cjt188Meter
from drivers.dlt645.simulate import Dlt645Meter
from drivers.framing import crc16
from drivers.line import Answer, LineConfig, Request, open_line
from drivers.line.bytelink import ByteLink
from drivers.line.config import RequestOptions
from drivers.line.port import Port
from drivers.line.stats import LineStats
from drivers.mbus.simulate import MbusMeter
from drivers.modbus.mbap import MbapLink
from drivers.modbus.requests import identification_request
from drivers.model import DeviceException, DeviceSpec, FrameError, LineError
from drivers.registry import all_protocols, driver_class, protocol_of
from drivers.sim.meters import SimMeter
from ext.ring import Ring
from tests.kits.lines import Field, ask
from tests.kits.meters import bcd, points_of
from tests.kits.readouts import E350, MT382, PAFAL
from tests.kits.wires import clock

PAUSE_S = 0.15  # longer than the silence between frames at any speed


def rtu(unit: int, *pdu: int) -> bytes:
    body = bytes((unit, *pdu))
    return body + crc16(body).to_bytes(2, "little")


def last_exchange(protocol: str, address: str, profile: str, point: str, meter: SimMeter) -> tuple[Request, bytes]:
    """(request, bytes of the answer) with which the driver reads a point of a simulated meter."""
    line = open_line(LineConfig("bus", "serial:/dev/null"))
    spec = DeviceSpec("m1", "p/g/m1", address, protocol, profile, points_of(profile, (point,)), (1000,) * 5)
    seen: list[tuple[Request, bytes]] = []

    async def exchange(request: Request, options: RequestOptions) -> Answer:
        answer = meter.hear(request.frame.lstrip(b"\xfe"))
        assert answer is not None
        seen.append((request, answer))
        payload = request.find(answer, True)
        assert isinstance(payload, bytes)
        return Answer(payload, 0, 0, False)

    line.exchange = exchange  # type: ignore[method-assign, assignment]
    device = driver_class(protocol)(spec, line, cast(Ring, None), 0)
    with contextlib.suppress(StopIteration):
        device.read_points([point]).send(None)  # type: ignore[attr-defined]
    return seen[-1]


@dataclass
class Case:
    """A request, its answer, and frames that may come before the answer."""

    name: str
    request: Request
    answer: bytes
    payload: bytes | int  # int: the code of a refusal
    foreign: bytes  # a late answer of another device


def meter_case(protocol: str, profile: str, point: str, addresses: Sequence[str], meters: Sequence[SimMeter]) -> Case:
    (request, answer), (_, foreign) = (
        last_exchange(protocol, address, profile, point, meter)
        for address, meter in zip(addresses, meters, strict=True)
    )
    payload = request.find(answer, True)
    assert isinstance(payload, bytes)
    return Case(protocol, request, answer, payload, foreign)


def cases() -> list[Case]:
    foreign = rtu(7, 3, 8, *range(8))
    voltages = {"02010100": bcd("2305")}
    made = [
        Case("registers", ask(0x0400, 2), rtu(1, 3, 4, 1, 3, 4, 9), bytes((1, 3, 4, 9)), foreign),
        Case("long", ask(0, 60), rtu(1, 3, 120, *range(120)), bytes(range(120)), foreign),
        Case("refusal", ask(0, 2), rtu(1, 0x83, 2), 2, foreign),
        Case("43", identification_request(1, 0, "m1"), rtu(1, 43, 14, 1, 1, 0, 0, 1, 0, 2, 65, 66),
             bytes((14, 1, 1, 0, 0, 1, 0, 2, 65, 66)), foreign),
    ]  # fmt: skip
    dlt = [Dlt645Meter(address=f"{n:012}", values=dict(voltages)) for n in (161, 162)]
    made.append(meter_case("dlt645", "dlt645/2007", "ac.voltage.l1", ("161", "162"), dlt))
    water = bcd("00123456") + b"\x2c" + bcd("00100000") + b"\x2c" + bcd("20261108123000") + b"\0\0"
    cjt = [Cjt188Meter(meter_type=0x10, address=f"{n:014}", values={0x901F: water}) for n in (11, 12)]
    made.append(meter_case("cjt188", "cjt188/water", "water.volume", [one.address for one in cjt], cjt))
    telegram = b"\x72" + bcd("12345678") + b"\x2d\x2c\x0b\x04\x05\0\0\0" + bytes.fromhex("0C06") + bcd("00123456")
    mbus = [MbusMeter(address=n, secondary=telegram[1:9], telegrams=(telegram,)) for n in (5, 6)]
    made.append(meter_case("mbus", "mbus/heat", "heat.energy", ("5", "6"), mbus))
    return made


CASES = cases()


def streams(case: Case) -> dict[str, bytes]:
    """What may arrive before and with the answer."""
    return {
        "answer": case.answer,
        "late, answer": case.foreign + case.answer,
        "late, late, answer": case.foreign * 2 + case.answer,
        "echo, answer": case.request.frame + case.answer,
        "echo, late, answer": case.request.frame + case.foreign + case.answer,
        "noise, answer": b"\x00\xff\x01\x03" + case.answer,
        "part of an answer, answer": case.answer[:3] + case.answer,
    }


def code(verdict: object) -> object:
    return verdict.code if isinstance(verdict, DeviceException) else verdict


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_answer_is_found_with_its_last_byte_and_never_before(case: Case) -> None:
    for name, stream in streams(case).items():
        for at in range(len(stream)):
            assert case.request.find(stream[:at], False) is None, (name, at)
        assert code(case.request.find(stream, False)) == case.payload, name
        assert code(case.request.find(stream + case.foreign, False)) == case.payload, name


class PairPort(Port):
    """One end of a pair of sockets; the test has the other."""

    def __init__(self) -> None:
        self.sock, self.other = socket.socketpair()
        self.sock.setblocking(False)
        super().__init__("gateway", self.sock.fileno(), self.sock.recv, self.sock.send)

    def close(self) -> None:
        self.sock.close()
        self.other.close()


Say = Callable[[bytes], None]


async def exchanged(
    request: Request, play: Callable[[Say], Awaitable[None]], timeout_s: float = 1.0, **more: bool
) -> tuple[Answer | LineError, float]:
    """(answer or error of a request, seconds until it came), while ``play`` says what arrives."""
    port, lost = PairPort(), list[LineError]()
    link = ByteLink(port, clock, LineStats(0), None, lambda _, error: lost.append(error), **more)  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    begin, results = loop.time(), list[Answer | LineError]()
    asked = asyncio.ensure_future(link.run([request], results, RequestOptions(timeout_s=timeout_s)))
    try:
        await play(lambda data: None if port.sock.fileno() < 0 else (port.other.send(data), None)[1])
        trouble = await asked
        assert not lost
        return trouble or results[0], loop.time() - begin
    finally:
        link.close()


def in_pieces(pieces: Sequence[bytes], pause_s: float) -> Callable[[Say], Awaitable[None]]:
    async def play(say: Say) -> None:
        for number, piece in enumerate(pieces):
            await asyncio.sleep(pause_s if number else 0.01)
            if piece:
                say(piece)

    return play


def right(verdict: Answer | LineError, case: Case) -> bool:
    return code(verdict.payload if isinstance(verdict, Answer) else verdict) == case.payload


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_gateway_may_pause_at_every_byte_of_every_stream(case: Case, field: Field) -> None:
    """A pause within a frame that is longer than the silence between frames does not end the frame."""
    for name, stream in streams(case).items():
        for at in range(1, len(stream)):
            verdict, took_s = await exchanged(case.request, in_pieces([stream[:at], stream[at:]], PAUSE_S))
            assert right(verdict, case), (name, at, verdict)
            assert not isinstance(verdict, Answer) or not verdict.suspect, (name, at)
            assert took_s == pytest.approx(0.01 + PAUSE_S), (name, at)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_gateway_may_pause_after_every_byte(case: Case, field: Field) -> None:
    for name, stream in streams(case).items():
        pieces = [stream[n : n + 1] for n in range(len(stream))]
        verdict, _ = await exchanged(case.request, in_pieces(pieces, PAUSE_S), timeout_s=60.0)
        assert right(verdict, case), (name, verdict)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_an_answer_that_is_arriving_at_the_deadline_is_waited_for(case: Case, field: Field) -> None:
    for at in range(3, len(case.answer)):
        pieces = in_pieces([b"", case.answer[:at], case.answer[at:]], 0.08)
        verdict, _ = await exchanged(case.request, pieces, timeout_s=0.1)
        assert right(verdict, case), (at, verdict)


async def test_a_broken_answer_still_ends_the_wait_early(field: Field) -> None:
    case = CASES[1]
    broken = case.answer[:-2] + b"\0\0"
    for stream in (broken, case.foreign + broken, case.request.frame + broken, bytes(range(0x80, 0x100))):
        verdict, took_s = await exchanged(case.request, in_pieces([stream], 0), timeout_s=5.0)
        assert isinstance(verdict, FrameError) and took_s < 0.5
    verdict, took_s = await exchanged(CASES[0].request, in_pieces([CASES[0].foreign], 0), timeout_s=5.0)
    assert took_s >= 5.0, "the answer to our request may still come after the late answer of another device"


async def test_without_an_echo_no_byte_of_the_answer_is_taken_for_it(field: Field) -> None:
    """The line is set to remove the echo, but the adapter sends none. The answer begins as the request does."""
    for case in CASES[:3]:
        for at in range(1, len(case.answer)):
            play = in_pieces([case.answer[:at], case.answer[at:]], 0.01)
            verdict, _ = await exchanged(case.request, play, echo=True)
            assert right(verdict, case), (case.name, at, verdict)
        stream = case.request.frame + case.answer
        for at in range(1, len(stream)):
            verdict, _ = await exchanged(case.request, in_pieces([stream[:at], stream[at:]], 0.01), echo=True)
            assert right(verdict, case), (case.name, at, verdict)


async def test_modbus_tcp_answers_may_be_cut_and_joined_at_every_byte(field: Field) -> None:
    """A late answer with an older transaction id before ours, and any cut."""

    def mbap(tid: int, *pdu: int) -> bytes:
        return tid.to_bytes(2) + b"\0\0" + (1 + len(pdu)).to_bytes(2) + bytes((1, *pdu))

    for late in (b"", mbap(9, 3, 4, 9, 9, 9, 9), mbap(9, 0x83, 2), mbap(8, 3, 2, 1, 1) * 2):
        stream = late + mbap(1, 3, 4, 1, 3, 4, 9) + mbap(7, 3, 4, 8, 8, 8, 8)
        for at in range(1, len(stream)):
            port, results = PairPort(), list[Answer | LineError]()
            link = MbapLink(port, clock, LineStats(0), None, lambda *_: None)
            done = link.run([ask(0, 2)], results, RequestOptions(timeout_s=1.0))
            port.other.send(stream[:at])
            await asyncio.sleep(PAUSE_S)
            port.other.send(stream[at:])
            assert await done is None
            assert [one.payload for one in results if isinstance(one, Answer)] == [bytes((1, 3, 4, 9))]
            link.close()


FRAMES = {case.name: [case.answer, case.foreign, case.request.frame.lstrip(b"\xfe")] for case in CASES[4:]}
FRAMES["iec62056"] = [E350, PAFAL, MT382]


def test_every_protocol_with_frames_of_its_own_is_here() -> None:
    assert set(FRAMES) == {one.name for one in all_protocols() if one.new_parser() is not None}


@pytest.mark.parametrize("protocol", sorted(FRAMES))
def test_one_two_and_three_frames_cut_at_every_byte_are_the_same_frames(protocol: str) -> None:
    for first, second, third in product([*FRAMES[protocol], b""], repeat=3):
        frames = [frame for frame in (first, second, third) if frame]
        stream = b"".join(frames)
        for at in range(len(stream)):
            parser = protocol_of(protocol).new_parser()
            assert parser is not None
            found = [frame.raw for piece in (stream[:at], stream[at:]) for frame in parser.feed(piece)]
            assert found == frames, (at, stream)


@given(st.data())
def test_frames_among_noise_do_not_depend_on_the_pieces_in_which_they_arrive(data: st.DataObject) -> None:
    protocol = data.draw(st.sampled_from(sorted(FRAMES)))
    noise = st.binary(max_size=12).map(lambda raw: raw.translate(None, b"\x10\x68\xe5\xa2/"))
    frames = data.draw(st.lists(st.sampled_from(FRAMES[protocol]), min_size=1, max_size=4))
    stream = b"".join(part for frame in frames for part in (data.draw(noise), frame))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=40)))
    parser = protocol_of(protocol).new_parser()
    assert parser is not None
    pieces = [stream[begin:end] for begin, end in pairwise([0, *cuts, len(stream)])]
    assert [frame.raw for piece in pieces for frame in parser.feed(piece)] == frames
