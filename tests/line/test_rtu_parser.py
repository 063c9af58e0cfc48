"""RTU answers found among noise, against a slow reference and pymodbus; MBAP answers judged."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU

from drivers.framing import crc16, crc_ok
from drivers.modbus.frames import READ_FUNCTIONS, ModbusRequest
from drivers.modbus.requests import identification_request, read_request
from drivers.model import DeviceException, FrameError, LineError, LineTimeout, MismatchError
from tests.kits.lines import ask

FRAMER = FramerRTU(DecodePDU(False))  # the oracle; its constructor also fills its CRC table
FRAMER.crc16_table[:] = FRAMER.generate_crc16_table()


def wrap(unit: int, pdu: bytes) -> bytes:
    """A frame with the CRC of pymodbus."""
    return FRAMER.encode(pdu, unit, 0)


def sound(frame: bytes) -> bool:
    return FRAMER.compute_CRC(frame[:-2]) == int.from_bytes(frame[-2:], "big")


def slow_truth(unit: int, function: int, size: int, heard: bytes) -> bytes | int | None:
    """The first sound frame that answers the question: its payload, or its exception code. One place at a time."""
    at = 0
    while at < len(heard):
        rest = heard[at:]
        if len(rest) >= 5 and rest[0] == unit and rest[1] == function | 0x80 and sound(rest[:5]):
            return rest[2]
        if len(rest) >= 3 and rest[0] <= 247 and rest[1] in (1, 2, 3, 4):
            frame = rest[: 5 + rest[2]]
            if len(frame) == 5 + rest[2] and sound(frame):
                if frame[0] == unit and frame[1] == function and frame[2] == size:
                    return frame[3:-2]
                at += len(frame)  # somebody else's, or an answer to another question: skipped as a whole
                continue
        at += 1
    return None


def shown(verdict: bytes | LineError | None) -> bytes | int | None:
    """Our verdict in the words of the reference."""
    if isinstance(verdict, DeviceException):
        return verdict.code
    if isinstance(verdict, LineTimeout):
        return 10 if "0Ah" in verdict.what else 11
    return verdict if isinstance(verdict, bytes) else None


@st.composite
def conversations(draw: st.DrawFn) -> tuple[int, int, int, bytes]:
    """A question, and what is heard after it: noise, frames of others, late ones, broken ones, the answer or none."""
    unit, function = draw(st.integers(1, 247)), draw(st.sampled_from((1, 2, 3, 4)))
    size = 2 * draw(st.integers(1, 8))
    good = wrap(unit, bytes((function, size)) + draw(st.binary(min_size=size, max_size=size)))
    other = draw(st.integers(1, 247))
    short = draw(st.binary(max_size=12))
    pieces = [
        good,
        wrap(unit, bytes((function | 0x80, draw(st.sampled_from((1, 2, 3, 4, 6, 10, 11)))))),
        wrap(other, bytes((draw(st.sampled_from((1, 2, 3, 4))), len(short))) + short),
        wrap(unit, bytes((function, len(short))) + short),
        good[: draw(st.integers(0, len(good)))],
        bytes((unit,)),
        bytes((unit, function, size)),
        draw(st.binary(max_size=6)),
        good[:-1] + bytes((good[-1] ^ 0x55,)),
    ]
    return unit, function, size, b"".join(draw(st.lists(st.sampled_from(pieces), max_size=5)))


def question(unit: int, function: int, size: int) -> ModbusRequest:
    count = size // 2 if function >= 3 else size * 8
    return read_request(unit, function, 0, count, "test")


@given(conversations())
def test_the_first_sound_answer_is_found_whatever_is_around_it(heard: tuple[int, int, int, bytes]) -> None:
    unit, function, size, data = heard
    assert shown(question(unit, function, size).find(data, True)) == slow_truth(unit, function, size, data)


@given(conversations(), st.lists(st.integers(1, 7), max_size=30))
def test_the_result_does_not_depend_on_how_the_bytes_are_cut(
    heard: tuple[int, int, int, bytes], cuts: list[int]
) -> None:
    unit, function, size, data = heard
    request, at = question(unit, function, size), 0
    verdict: bytes | LineError | None = None
    for cut in [*cuts, len(data)]:
        at = min(at + cut, len(data))
        if (verdict := request.find(data[:at], False)) is not None:
            break
    if verdict is None:
        verdict = request.find(data, True)
    assert shown(verdict) == slow_truth(unit, function, size, data)


@given(st.integers(1, 247), st.sampled_from((3, 4)), st.binary(min_size=2, max_size=250))
@example(1, 3, b"\x00\x00")
def test_a_clean_answer_is_what_pymodbus_reads(unit: int, function: int, payload: bytes) -> None:
    payload = payload[: len(payload) // 2 * 2]
    frame = wrap(unit, bytes((function, len(payload))) + payload)
    used, pdu = FRAMER.handleFrame(frame, unit, 0)
    found = question(unit, function, len(payload)).find(frame, False)
    assert used == len(frame) and pdu is not None
    assert found == b"".join(word.to_bytes(2, "big") for word in pdu.registers)


@pytest.mark.parametrize("stray", [b"\x00", b"\xff", b"\x00\xff"])
def test_one_stray_byte_does_not_cost_the_answer_of_any_unit(stray: bytes) -> None:
    """pymodbus 3.16 loses the answer after one stray byte for more than half of the addresses."""
    lost = 0
    for unit in range(1, 248):
        frame = wrap(unit, bytes((3, 4, 1, 2, 3, 4)))
        assert ask(unit=unit).find(stray + frame, False) == bytes((1, 2, 3, 4))
        lost += FRAMER.handleFrame(stray + frame, unit, 0)[1] is None
    assert lost > 100


@given(st.binary(min_size=2, max_size=260))
def test_the_crc_is_that_of_pymodbus(message: bytes) -> None:
    crc = crc16(message).to_bytes(2, "little")
    assert crc == FRAMER.compute_CRC(message).to_bytes(2, "big")
    assert crc_ok(message + crc)
    assert not crc_ok(message + bytes((crc[0] ^ 1, crc[1])))


def test_a_short_answer_is_no_success() -> None:
    """pymodbus takes one register for four."""
    verdict = ask(count=4).find(wrap(1, bytes((3, 2, 0, 1))), True)
    assert isinstance(verdict, MismatchError) and "2 data bytes" in str(verdict) and "expected 8" in str(verdict)


def test_an_answer_within_a_frame_of_somebody_else_is_not_ours() -> None:
    """field pain 13: sound frames of others are skipped as a whole, whatever they carry."""
    good = wrap(1, bytes((3, 4, 1, 2, 3, 4)))
    assert isinstance(ask().find(wrap(9, bytes((3, len(good))) + good), True), FrameError)
    assert ask().find(wrap(9, bytes((3, len(good))) + good) + good, True) == bytes((1, 2, 3, 4))


def test_what_is_wrong_is_said() -> None:
    good = wrap(1, bytes((3, 4, 1, 2, 3, 4)))
    assert ask().find(b"", True) is None  # silence
    assert isinstance(ask().find(good[:-1] + b"\x00", True), FrameError)
    assert isinstance(ask(unit=2).find(good, True), FrameError)
    refused = ask().find(bytes.fromhex("018302C0F1"), True)
    assert isinstance(refused, DeviceException) and refused.code == 2 and "illegal data address" in str(refused)
    assert isinstance(ask().find(wrap(1, b"\x83\x0b"), True), LineTimeout)  # a gateway's word for silence


def test_requests_are_those_of_the_standard() -> None:
    assert ask(0, 10).frame == bytes.fromhex("01 03 00 00 00 0A C5 CD")
    assert ask(40000, 2).frame == bytes.fromhex("01 03 9C 40 00 02 EB 8F")
    assert ask(0, 2, function=4).frame == bytes.fromhex("01 04 00 00 00 02 71 CB")
    assert b"\x00\x01" + ask(0, 10).tail == bytes.fromhex("00 01 00 00 00 06 01 03 00 00 00 0A")
    assert identification_request(1, 0, "t").frame == bytes.fromhex("01 2B 0E 01 00 70 77")


def test_identification_answers_are_measured_by_their_objects() -> None:
    answer = bytes.fromhex("01 2B 0E 01 01 00 00 03 00 04 41 43 4D 45 01 05 4D 54 52 2D 33 02 03 31 2E 34 E6 D1")
    request = identification_request(1, 0, "t")
    for end in range(len(answer)):
        assert request.find(b"\x00" + answer[:end], False) is None
    assert request.find(b"\x00" + answer, False) == answer[2:-2]
    assert request.judge(answer[1:-2]) == answer[2:-2]
    assert isinstance(request.judge(answer[1:-3]), MismatchError)


def test_no_frame_that_writes_can_be_made() -> None:
    """Promise 1: reads only. There is one door for Modbus frames, and it is shut for all else."""
    for function in set(range(256)) - READ_FUNCTIONS.keys():
        with pytest.raises(ValueError, match="is not a read function"):
            ModbusRequest(1, bytes((function, 0, 0, 0, 1)), 2, "test")
        with pytest.raises(ValueError, match="cannot read"):
            read_request(1, function, 0, 1, "test")


def test_the_other_services_of_function_43_are_shut_too() -> None:
    with pytest.raises(ValueError, match="is not a read function"):
        ModbusRequest(1, b"\x2b\x0d\x00\x00", 0, "test")  # 43/13 is CANopen, which can write


@given(st.binary(max_size=20), st.integers(0, 255))
def test_an_answer_over_tcp_is_taken_only_if_all_of_it_fits(pdu: bytes, unit: int) -> None:
    request = ask(count=3)
    verdict = request.judge_from(unit, pdu)
    if unit == 1 and pdu[:2] == b"\x03\x06" and len(pdu) == 8:
        assert verdict == pdu[2:]
    elif unit == 1 and pdu[:1] == b"\x83" and len(pdu) >= 2:
        assert isinstance(verdict, DeviceException | LineTimeout)
    else:
        assert isinstance(verdict, MismatchError)


def shake(count: int, seed: int) -> None:
    """Random and mutated answers: bytes, nothing, or a LineError; never anything else, whatever was heard."""
    rng = random.Random(seed)
    for _ in range(count):
        unit, function, size = rng.randrange(1, 248), rng.choice((1, 2, 3, 4, 43)), 2 * rng.randrange(1, 20)
        asked = identification_request(unit, 0, "t") if function == 43 else question(unit, function, size)
        body = bytes((unit, function | (0x80 if rng.random() < 0.2 else 0), size)) + rng.randbytes(size)
        if function == 43:
            body = bytes((unit, 43, 14, 1, 1, 0, 0, 2)) + b"".join(
                bytes((n, size)) + rng.randbytes(size) for n in range(2)
            )
        frame = bytearray(body + crc16(body).to_bytes(2, "little"))
        for _ in range(rng.randrange(4)):
            if rng.random() < 0.5:
                frame[rng.randrange(len(frame))] = rng.randrange(256)
            else:
                frame[rng.randrange(len(frame)) :] = rng.randbytes(rng.randrange(1, 6))
        heard = rng.randbytes(rng.randrange(4)) + bytes(frame)
        for final in (False, True):
            found = asked.find(heard, final)
            assert found is None or isinstance(found, bytes | LineError)
        assert isinstance(asked.judge_from(frame[0], bytes(frame[1:-2])), bytes | LineError)


def test_mutated_answers_never_raise() -> None:
    shake(2_000, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_mutated_answers_never_raise() -> None:
    def resident_mib() -> float:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    shake(1_000, seed=1)
    before = resident_mib()
    shake(1_000_000, seed=485)
    assert resident_mib() - before < 8
