"""DL/T 645: worked examples, recorded cases, the push parser under noise, builders that only read."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.dlt645 import frames as dlt645_frames
from drivers.model import Quality, Reason, UsageError
from tests.kits.codecs import dlt645
from tests.kits.meter_cases import decode, flat_memory, values
from tests.kits.recorded import recorded

METER = "000000000161"
ENERGY = "68 61 01 00 00 00 00 68 91 08 33 33 34 33 AB 89 67 45 78 16"


def reply(identifier: str, payload: bytes, *, control: int = 0x91, address: str = METER, tail: bytes = b"") -> bytes:
    """A meter's answer, for tests: the project itself builds requests only."""
    data = bytes.fromhex(identifier)[::-1] + payload + tail
    body = bytes((0x68, *bytes.fromhex(address)[::-1], 0x68, control, len(data)))
    body += bytes((b + 0x33) & 0xFF for b in data)
    return body + bytes((sum(body) & 0xFF, 0x16))


WORKED = [  # reference/wire-protocols.md section 3: hex, identifier, [(value, unit)]
    (ENERGY, "00010000", [(123456.78, "kWh")]),
    ("68 61 01 00 00 00 00 68 91 06 33 34 34 35 36 55 24 16", "02010100", [(220.3, "V")]),
    ("68 61 01 00 00 00 00 68 91 07 33 33 36 35 89 67 C5 50 16", "02030000", [(-12.3456, "kW")]),
    ("68 61 01 00 00 00 00 68 91 0C 33 33 34 34 89 67 45 48 47 57 44 59 55 16", "01010000", [(12.3456, "kW")]),
    ("68 61 01 00 00 00 00 68 91 08 33 33 34 33 59 33 33 33 8A 16", "00010000", [(0.26, "kWh")]),
    ("68 25 04 03 02 01 00 68 91 08 33 33 34 33 75 39 45 33 8B 16", "00010000", [(1206.42, "kWh")]),
    ("68 61 01 00 00 00 00 68 81 06 43 C3 89 67 45 33 27 16", "9010", [(1234.56, "kWh")]),
    ("68 54 07 13 00 80 13 68 81 06 43 C3 34 33 33 33 2B 16", "9010", [(0.01, "kWh")]),
    ("68 03 00 00 00 00 00 68 81 04 44 E9 33 34 EC 16", "B611", [(100, "V")]),
]


@pytest.mark.parametrize(("text", "identifier", "expected"), WORKED)
def test_worked_examples_decode_as_written(text: str, identifier: str, expected: list[tuple[float, str]]) -> None:
    _, found = decode("dlt645", text)
    assert found["frame"]["di"] == identifier
    assert [(r["value"], r["unit"]) for r in found["readings"]] == expected


def test_the_demand_carries_the_meters_own_time() -> None:
    _, found = decode("dlt645", WORKED[3][0])
    assert found["readings"][0]["time"] == "2026-11-24T14:15"


def test_worked_requests_are_built_as_written() -> None:
    assert dlt645.build_read_address() == bytes.fromhex("FEFEFEFE 68AAAAAAAAAAAA68 1300 DF16")
    assert dlt645.build_read(METER, "00010000", wake=0) == bytes.fromhex("68610100000000 68 1104 33333433 1416")
    assert dlt645.build_read(METER, "02010100", wake=0) == bytes.fromhex("68610100000000 68 1104 33343435 1716")
    assert dlt645.build_read(METER, "01010000", wake=0) == bytes.fromhex("68610100000000 68 1104 33333434 1516")
    assert dlt645.build_read(METER, "0001FF00", wake=0) == bytes.fromhex("68610100000000 68 1104 33323433 1316")
    assert dlt645.build_read(METER, "9010", wake=0) == bytes.fromhex("68610100000000 68 0102 43C3 3B16")


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("FE FE FE FE 68 AA AA AA AA AA AA 68 13 00 DF 16", "address", "AAAAAAAAAAAA"),
        ("68 61 01 00 00 00 00 68 93 06 94 34 33 33 33 33 5F 16", "reported_address", METER),
        ("68 61 01 00 00 00 00 68 D1 01 35 39 16", "error_code", 2),
        ("68 61 01 00 00 00 00 68 D1 01 35 39 16", "error_text", "no such data"),
        ("68 99 99 99 99 99 99 68 08 06 63 48 55 57 44 59 68 16", "address", "999999999999"),
    ],
)
def test_worked_frames_without_values(text: str, key: str, value: object) -> None:
    code, found = decode("dlt645", text)
    assert (code, found["frame"][key]) == (0, value)


# manifest keys that say how the recording was judged, not what the frame holds
NOT_COMPARED = {"frame", "name", "format", "unit", "value", "values", "frames", "payload_hex_low_first", "version"}


def compare_frame(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for key in expected.keys() - NOT_COMPARED - {"trailing"}:
        assert found.get(key) == expected[key], key
    if "version" in expected:
        assert expected["version"].startswith(found["version"])


@pytest.mark.parametrize("case", recorded("dlt645", "dlt645-frame"))
def test_recorded_frames_come_out_as_their_manifest_says(case: dict[str, Any]) -> None:
    code, found = decode("dlt645", case["input"]["hex"])
    expected = case["expected"]
    assert code == (4 if expected["frame"] == "bad checksum" else 0)
    if expected["frame"] == "several":
        for mine, theirs in zip(found["frames"], expected["frames"], strict=True):
            compare_frame(mine, theirs)
        return
    compare_frame(found["frame"], expected)
    if code:
        assert "readings" not in found, "a broken frame gives no numbers"
        return
    assert found["frame"]["trailing"] == expected["trailing"]
    if "value" in expected:
        assert values(found) == [expected["value"]]
        assert found["readings"][0]["unit"] == expected["unit"]
    if "values" in expected:
        assert values(found) == pytest.approx(expected["values"])


# ------------------------------------------------------------------ values by the standard's tables

TABLE = [  # identifier, payload low byte first, [(name, value)]
    ("00000000", "78563492", [("ac.energy.total", -123456.78)]),  # combined energy is signed
    ("00010000", "78563492", [("ac.energy.import", 923456.78)]),  # forward energy is not: 8xxxxx.xx is a reading
    ("0001FF00", "0100000002000000", [("ac.energy.import", 0.01), ("ac.energy.import.tariff.1", 0.02)]),
    ("0001FF00", "0100000002000000AA", [("ac.energy.import", 0.01), ("ac.energy.import.tariff.1", 0.02)]),
    ("00020301", "99000000", [("ac.energy.export.tariff.3", 0.99)]),
    ("00150000", "99000000", [("ac.energy.import.l1", 0.99)]),
    ("00320000", "99000000", [("x.ac.energy.apparent.export.l2", 0.99)]),
    ("00070000", "01000000", [("ac.energy.reactive.quadrant.3", 0.01)]),
    ("02020100", "010080", [("ac.current.l1", -0.001)]),
    ("0201FF00", "032200000000", [("ac.voltage.l1", 220.3), ("ac.voltage.l2", 0), ("ac.voltage.l3", 0)]),
    ("0201FF00", "0322FFFFFFFF", [("ac.voltage.l1", 220.3), ("ac.voltage.l2", None), ("ac.voltage.l3", None)]),
    (
        "0203FF00",
        "010000020000030000040080",
        [
            ("ac.power.active", 0.0001),
            ("ac.power.active.l1", 0.0002),
            ("ac.power.active.l2", 0.0003),
            ("ac.power.active.l3", -0.0004),
        ],
    ),
    ("02060000", "0090", [("ac.power.factor", -1)]),
    ("02070100", "0512", [("ac.angle.l1", 120.5)]),
    ("020A0205", "3412", [("ac.harmonic.5.voltage.l2", 12.34)]),
    ("020B01FF", "01000200", [("ac.harmonic.1.current.l1", 0.01), ("ac.harmonic.2.current.l1", 0.02)]),
    ("020C0100", "0038", [("ac.voltage.l12", 380)]),
    ("02800002", "9849", [("ac.frequency", 49.98)]),
    ("02800007", "0582", [("device.temperature", -20.5)]),
    ("0280000A", "78563412", [("x.device.runtime.battery", 12345678)]),
    ("03110000", "050000", [("x.count.power_off", 5)]),
    ("04000101", "02241126", [("x.device.date", "2026-11-24")]),
    ("04000102", "301522", [("device.time", "22:15:30")]),
    ("0400010C", "30152202241126", [("device.time", "2026-11-24T22:15:30")]),
    ("04000401", "610100000000", [("device.address.text", METER)]),
    ("04000407", "53302E31", [("x.class.active", "1.0S")]),
    ("04000501", "0180", [("device.status.1", 0x8001)]),
    ("04000409", "006400", [("x.constant.active", 6400)]),
    ("05060001", "0000241126", [("x.freeze.time", "2026-11-24T00:00")]),
    ("05060101", "0100000002000000", [("ac.energy.import", 0.01), ("ac.energy.import.tariff.1", 0.02)]),
    ("05060901", "5634123022241126", [("ac.demand.import.max", 12.3456)]),
    ("05060A01", "5634123022241126", [("ac.demand.export.max", 12.3456)]),
    ("04AB0001", "1234", [("x.dlt645.04ab0001", "3412")]),
    ("9011", "01000000", [("ac.energy.import.tariff.1", 0.01)]),
    ("9410", "01000000", [("ac.energy.import", 0.01)]),
    ("901F", "0100000002000000AA", [("ac.energy.import", 0.01), ("ac.energy.import.tariff.1", 0.02)]),
    ("9130", "01000000", [("ac.energy.reactive.quadrant.1", 0.01)]),
    ("A010", "563412", [("ac.demand.import.max", 12.3456)]),
    ("B010", "15142411", [("x.demand.import.max.time", "--11-24T14:15")]),
    ("B622", "0005", [("ac.current.l2", 5)]),
    ("B630", "563412", [("ac.power.active", 12.3456)]),
    ("B640", "3412", [("ac.power.reactive", 12.34)]),
    ("B61F", "200221022202", [("ac.voltage.l1", 220), ("ac.voltage.l2", 221), ("ac.voltage.l3", 222)]),
    ("C010", "02241126", [("x.device.date", "2026-11-24")]),
]


@pytest.mark.parametrize(("identifier", "payload", "expected"), TABLE)
def test_values_by_the_tables_of_the_standard(identifier: str, payload: str, expected: list[tuple[str, Any]]) -> None:
    found = dlt645.decode(identifier, bytes.fromhex(payload))
    shown = [(r.name, float(r.value) if isinstance(r.value, Decimal) else r.value) for r in found]
    assert shown == expected
    assert all((r.value is None) == (r.quality >= 128) for r in found)


def test_absent_and_impossible_digits_are_no_reading() -> None:
    """# field pain 31: never a zero, never a number out of filler."""
    (absent,) = dlt645.decode("00010000", b"\xff\xff\xff\xff")
    (invalid,) = dlt645.decode("00010000", b"\x00\x00\x0e\x00")
    (short,) = dlt645.decode("00010000", b"\x00\x00\x00")
    assert (absent.value, absent.quality) == (None, Reason.SENTINEL)
    assert (invalid.value, invalid.quality) == (None, Reason.MISMATCH)
    assert (short.value, short.quality) == (None, Reason.MISMATCH)
    for size in (1, 4, 7, 9):  # a demand without its time, found by a million mutated frames
        assert [r.value for r in dlt645.decode("01010000", bytes(size))] == [None]


def test_a_freeze_and_a_settlement_day_say_which_one() -> None:
    assert [r.storage for r in dlt645.decode("00010003", b"\0\0\0\0")] == [3]
    assert [r.storage for r in dlt645.decode("000100FF", b"\0\0\0\0" * 3)] == [0, 1, 2]
    assert [r.storage for r in dlt645.decode("05060102", b"\0\0\0\0")] == [2]
    assert [r.storage for r in dlt645.decode("9810", b"\0\0\0\0")] == [2]


def test_follow_on_frames_are_one_answer() -> None:
    first = reply("0001FF00", bytes.fromhex("0100000002000000"), control=0xB1)
    then = reply("0001FF00", bytes.fromhex("03000000"), control=0x92, tail=b"\x01")
    _, found = decode("dlt645", (first + then).hex())
    assert values(found) == [0.01, 0.02, 0.03]
    assert [f["more_frames"] for f in found["frames"]] == [True, False]
    lost = reply("0001FF00", bytes.fromhex("03000000"), control=0x92, tail=b"\x02")
    with pytest.raises(dlt645.FrameError, match="the follow-on frame has number 2, expected 1"):
        dlt645.join(dlt645.Parser().feed(first + lost))


def test_writes_of_others_and_security_frames_are_explained_without_values() -> None:
    write = reply("04000103", bytes.fromhex("02000000 78563412 15"), control=0x14)
    code, found = decode("dlt645", write.hex())
    assert (code, found["frame"]["function_name"], found["frame"]["di"]) == (0, "write", "04000103")
    assert found["readings"] == []
    _, found = decode("dlt645", reply("070000FF", bytes(20), control=0x03).hex())
    assert (found["frame"]["version"], found["frame"]["di"]) == ("2007", "070000FF")
    _, found = decode("dlt645", reply("9010", bytes(4), control=0x83).hex())
    assert (found["frame"]["version"], values(found)) == ("1997", [0])


# ------------------------------------------------------------------ the parser on a bad line


@pytest.mark.parametrize("noise", ["", "FE", "FEFEFEFEFE", "68", "68FEFEFE", "00FF68", "681016", "E5", "68" * 9])
def test_noise_before_and_after_a_frame_is_borne(noise: str) -> None:
    """# field pains 13, 23: stray 68h and FEh before the frame, surplus bytes behind it."""
    parser = dlt645.Parser()
    junk, frame = bytes.fromhex(noise), bytes.fromhex(ENERGY)
    found = [f for piece in (junk, frame[:5], frame[5:], junk, frame) for f in parser.feed(piece)]
    assert [f.raw for f in found] == [frame, frame]


def test_a_stray_start_does_not_hold_back_the_frame_behind_it() -> None:
    """A false start that announces 255 bytes must not make the good answer time out."""
    fake = bytes.fromhex("68 000000000000 68 91 FF")
    parser = dlt645.Parser()
    assert [f.identifier for f in parser.feed(fake + bytes.fromhex(ENERGY))] == ["00010000"]


def test_broken_frames_say_what_is_wrong() -> None:
    good = bytes.fromhex(ENERGY)
    for bad, words in (
        (good[:-2] + b"\x00\x16", "the checksum is 00h, but the bytes sum to 78h"),
        (good[:-1] + b"\x17", "stop byte is 17h"),
        (good[:-4], "the frame is cut short: it announces 8 data bytes, but has 6"),
        (good[:6], "the frame is cut short inside its header"),
        (b"\x01\x02\x03", "no frame"),
        (b"", "no frame"),
    ):
        code, found = decode("dlt645", bad.hex() or " ")
        assert code == 4
        assert words in found["error"]
    assert decode("dlt645", "xyz")[1]["error"].startswith("not hex")


def slow_reference(stream: bytes) -> list[bytes]:
    """The rule itself, byte by byte: the first frame that is complete wins, of two the one that began first."""
    found, taken = [], 0
    for end in range(1, len(stream) + 1):
        for start in range(max(taken, end - 267), end - 11):
            piece = stream[start:end]
            framed = piece[0] == piece[7] == 0x68 and len(piece) == 12 + piece[9] and piece[-1] == 0x16
            if framed and sum(piece[:-2]) & 0xFF == piece[-2]:
                found.append(piece)
                taken = end
                break
    return found


FRAMES = st.builds(
    reply,
    st.sampled_from(["00010000", "0201FF00", "68686868"]),
    st.binary(max_size=12),
    control=st.sampled_from([0x91, 0xB1, 0xD1, 0x68]),
    address=st.sampled_from([METER, "686868686868", "160000001668"]),
)
NOISE = st.lists(st.sampled_from([0x68, 0x16, 0xFE, 0x00, 0x91, 0x0A]), max_size=14).map(bytes)
STREAMS = st.lists(st.one_of(FRAMES, NOISE, FRAMES.map(lambda f: f[:-3])), max_size=6).map(b"".join)


@given(STREAMS, st.data())
def test_pieces_do_not_matter_and_the_slow_reference_agrees(stream: bytes, data: st.DataObject) -> None:
    parser, found, left = dlt645.Parser(), [], stream
    while left:
        cut = data.draw(st.integers(1, len(left)))
        found += parser.feed(left[:cut])
        left = left[cut:]
    assert [f.raw for f in found] == slow_reference(stream)
    assert all(stream[f.offset : f.offset + len(f.raw)] == f.raw for f in found)


def shake(count: int, seed: int) -> None:
    """Random and mutated frames through parser and decoder: nothing raises, memory stays flat."""
    import random

    rng = random.Random(seed)
    parser = dlt645.Parser()
    identifiers = [w[1] for w in WORKED] + [t[0] for t in TABLE]
    for _ in range(count):
        frame = bytearray(
            reply(rng.choice(identifiers)[-8:], rng.randbytes(rng.randrange(30)), control=rng.randrange(256))
        )
        if rng.random() < 0.5:
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        for found in parser.feed(bytes(frame)):
            for r in dlt645.decode_frame(found):
                assert (r.value is None) == (r.quality >= 128)
    assert len(parser._buffer) <= parser.longest


def test_mutated_frames_never_raise() -> None:
    shake(3_000, seed=645)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_mutated_frames_never_raise() -> None:
    shake(1_000, seed=1)  # what is loaded once is loaded now
    with flat_memory():
        shake(1_000_000, seed=2007)


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_complain(stream: bytes) -> None:
    decode("dlt645", stream.hex() or "00")


@given(
    st.sampled_from(
        sorted(
            [
                "00010000",
                "0001FF00",
                "01010000",
                "02800002",
                "9010",
                "B630",
                "04000501",
                "0400010C",
                "05060101",
                "05060901",
            ]
        )
    ),
    st.binary(),
)
def test_any_payload_decodes(identifier: str, payload: bytes) -> None:
    for r in dlt645.decode(identifier, payload):
        assert (r.value is None) == (r.quality != Quality.GOOD)


# ------------------------------------------------------------------ read-only


def test_only_reading_control_codes_can_be_built() -> None:
    """Promise 1: 11h, 12h, 13h; 1997: 01h, 02h, 03h; nothing else leaves this module."""
    assert {0x11, 0x12, 0x13, 0x01, 0x02, 0x03} == dlt645.ALLOWED_CONTROLS
    from drivers.dlt645 import frames

    for control in set(range(256)) - dlt645.ALLOWED_CONTROLS:
        with pytest.raises(UsageError):
            frames.build_frame(METER, control, b"", 0)


@given(
    st.text("0123456789A", min_size=12, max_size=12),
    st.sampled_from(["00010000", "0201FF00", "9010", "C010"]),
    st.integers(0, 4),
)
def test_built_requests_parse_back(address: str, identifier: str, wake: int) -> None:
    (frame,) = dlt645.Parser().feed(dlt645.build_read(address, identifier, wake=wake))
    assert (frame.address, frame.identifier, frame.is_reply) == (address, identifier, False)
    assert frame.control in dlt645.ALLOWED_CONTROLS
    (after,) = dlt645.Parser().feed(dlt645_frames.build_read_next(address, identifier, 3))
    assert after.identifier == identifier
    assert after.sequence == (3 if len(identifier) == 8 else None)


@pytest.mark.parametrize("address", ["", "1234567890123", "12F4"])
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="not a meter address"):
        dlt645.build_read(address, "00010000")


def test_a_long_stream_in_pieces_loses_no_frame() -> None:
    stream = bytes.fromhex("FEFEFEFE" + ENERGY.replace(" ", "")) * 4_000
    parser = dlt645.Parser()
    assert sum(len(parser.feed(stream[at : at + 240])) for at in range(0, len(stream), 240)) == 4_000
