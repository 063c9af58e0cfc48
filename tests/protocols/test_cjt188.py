"""CJ/T 188: worked examples, recorded cases, both identifier orders, unit before value, builders that only read."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.cjt188 import frames as cjt188_frames
from drivers.cjt188 import values as cjt188_values
from drivers.model import Quality, Reason, UsageError
from tests.kits.codecs import cjt188
from tests.kits.meter_cases import decode, flat_memory, values
from tests.kits.recorded import recorded

WATER_REPLY = "68 10 44 33 22 11 00 33 78 81 16 1F 90 00 56 34 12 00 2C 00 00 12 00 2C 30 15 22 24 11 26 20 00 FF FA 16"
HEAT_REPLY = (
    "68 20 32 41 31 40 00 00 00 81 2E 1F 90 01 00 45 23 01 05 25 00 30 01 05 41 97 00 00 17 00 15 02 00 35 "
    "54 76 98 00 2C 23 85 00 10 45 00 24 10 00 30 15 22 24 11 26 20 00 00 70 16"
)
HEAT_FIELD = (
    "68 20 32 41 31 40 00 00 00 81 2E 90 1F 01 08 02 00 00 00 08 02 00 00 00 17 00 00 00 00 35 00 00 00 00 "
    "2C 34 10 00 00 35 25 00 66 25 00 00 00 00 53 00 12 10 07 15 20 00 00 31 16"
)


def reply(payload: bytes, *, meter_type: int = 0x10, di: int = 0x901F, control: int = 0x81, head: bytes = b"") -> bytes:
    """A meter's answer, for tests: the project itself builds requests only."""
    data = head or di.to_bytes(2, "big") + b"\x00"
    body = bytes((0x68, meter_type, 1, 2, 3, 4, 5, 6, 7, control, len(data) + len(payload))) + data + payload
    return body + bytes((sum(body) & 0xFF, 0x16))


def shown(found: dict[str, Any]) -> list[tuple[str, Any, str]]:
    return [(r["name"], r["value"], r["unit"]) for r in found["readings"]]


def test_worked_water_reply() -> None:
    _, found = decode("cjt188", WATER_REPLY)
    assert found["frame"]["address"] == "78330011223344"
    assert shown(found) == [
        ("water.volume", 1234.56, "m3"),
        ("water.volume.settlement", 1200, "m3"),
        ("device.time", "2026-11-24T22:15:30", ""),
        ("device.status", 0xFF00, ""),
    ]


def test_worked_heat_reply() -> None:
    _, found = decode("cjt188", HEAT_REPLY)
    assert shown(found)[:8] == [
        ("heat.energy.settlement", 12345, "kWh"),
        ("heat.energy", 13000.25, "kWh"),
        ("heat.power", 97.41, "kW"),
        ("heat.flow", 2.15, "m3/h"),
        ("heat.volume", 9876.54, "m3"),
        ("heat.temperature.supply", 85.23, "°C"),
        ("heat.temperature.return", 45.1, "°C"),
        ("heat.runtime", 1024, "h"),
    ]


def test_worked_heat_reply_with_the_unit_before_the_value() -> None:
    _, found = decode("cjt188", HEAT_FIELD)
    assert shown(found)[:8] == [
        ("heat.energy.settlement", 0.02, "MWh"),
        ("heat.energy", 0.02, "MWh"),
        ("heat.power", 0, "kW"),
        ("heat.flow", 0, "m3/h"),
        ("heat.volume", 10.34, "m3"),
        ("heat.temperature.supply", 25.35, "°C"),
        ("heat.temperature.return", 25.66, "°C"),
        ("heat.runtime", 0, "h"),
    ]
    assert found["readings"][8]["value"] == "2015-07-10T12:00:53"


def test_worked_requests_are_built_as_written() -> None:
    water = cjt188.build_read(0x10, "78330011223344", low_first=True)
    assert water == bytes.fromhex("FEFEFE 6810443322110033780103 1F9000 80 16")
    heat = cjt188.build_read(0x20, "00000040314132", serial=1, wake=0)
    assert heat == bytes.fromhex("6820324131400000000103 901F01 20 16")
    assert cjt188_frames.build_read_address(wake=0) == bytes.fromhex("68AAAAAAAAAAAAAAAA0303 810A00 49 16")


def test_the_tutorial_frame_with_the_wrong_checksum_is_refused() -> None:
    """A water reply printed in many tutorials ends in checksum 08; its bytes sum to 13."""
    code, found = decode("cjt188", WATER_REPLY.replace("FA 16", "08 16"))
    assert code == 4
    assert found["error"] == "the checksum is 08h, but the bytes sum to FAh"


NOT_COMPARED = {"frame", "fields"}
POINTS = {
    "current_volume": "water.volume",
    "settlement_volume": "water.volume.settlement",
    "settlement_heat": "heat.energy.settlement",
    "current_heat": "heat.energy",
    "power": "heat.power",
    "flow": "heat.flow",
    "volume": "heat.volume",
    "supply_temp_C": "heat.temperature.supply",
    "return_temp_C": "heat.temperature.return",
    "hours": "heat.runtime",
    "time": "device.time",
}


def compare_fields(found: dict[str, Any], fields: dict[str, Any]) -> None:
    readings = {r["name"]: r for r in found["readings"]}
    for key, expected in fields.items():
        if key in POINTS and isinstance(expected, dict):
            mine = readings[POINTS[key]]
            assert (mine["value"], mine["unit"], mine["raw"]) == (
                expected["value"],
                expected["unit"],
                expected["raw_hex"],
            )
        elif key in POINTS:
            assert readings[POINTS[key]]["value"] == expected
    if "status_hex" in fields:
        assert readings["device.status"]["raw"] == fields["status_hex"]
    if fields.get("time_valid") is False:
        assert readings["device.time"]["value"] is None


@pytest.mark.parametrize("case", recorded("cjt188", "cjt188-frame"))
def test_recorded_frames_come_out_as_their_manifest_says(case: dict[str, Any]) -> None:
    code, found = decode("cjt188", case["input"]["hex"])
    expected = case["expected"]
    assert code == (0 if expected["frame"] == "ok" else 4)
    for key in expected.keys() - NOT_COMPARED:
        assert found["frame"].get(key) == expected[key], key
    if code == 0 and "fields" in expected:
        compare_fields(found, expected["fields"])
    for key, value in case.get("stated_in_source", {}).items():
        assert found["frame"][key] == value


@pytest.mark.parametrize("case", recorded("cjt188", "cjt188-payload"))
def test_recorded_payloads_come_out_as_their_manifest_says(case: dict[str, Any]) -> None:
    given_ = case["input"]
    frame = reply(bytes.fromhex(given_["payload_hex"]), meter_type=given_["meter_type"], di=int(given_["di"], 16))
    _, found = decode("cjt188", frame.hex())
    readings = {r["name"]: r for r in found["readings"]}
    for key, value in case["expected"].items():
        if key in POINTS:
            assert readings[POINTS[key]]["value"] == value
    assert readings["device.status"]["raw"] == case["expected"]["status_hex"]


# ------------------------------------------------------------------ what siblings of the cases look like


@pytest.mark.parametrize(
    ("code", "unit", "value"),
    [
        (0x01, "J", 12.34), (0x02, "Wh", 12.34), (0x03, "Wh", 123.4), (0x04, "Wh", 1234), (0x05, "kWh", 12.34),
        (0x06, "kWh", 123.4), (0x08, "MWh", 12.34), (0x0A, "MWh", 1234), (0x0B, "kJ", 12.34), (0x0E, "MJ", 12.34),
        (0x10, "MJ", 1234), (0x11, "GJ", 12.34), (0x13, "GJ", 1234), (0x29, "l", 12.34), (0x2C, "m3", 12.34),
        (0x2D, "m3", 123.4), (0x2E, "m3", 1234),
    ],
)  # fmt: skip
def test_every_unit_of_a_quantity(code: int, unit: str, value: float) -> None:
    (found,) = cjt188_values.decode(0x901F, 0x20, bytes((0x34, 0x12, 0, 0, code)))
    assert (found.unit, float(found.value or 0)) == (unit, value)


@pytest.mark.parametrize("code", [0x14, 0x17, 0x1A, 0x32, 0x35, 0x40, 0x43, 0x46, 0x49, 0x4B])
def test_power_and_flow_units_are_known(code: int) -> None:
    assert code in cjt188_values.UNITS


def test_an_unknown_unit_makes_a_number_suspect_and_never_guesses() -> None:
    (found,) = cjt188_values.decode(0x901F, 0x10, bytes.fromhex("34120000EE"))
    assert (found.value, found.unit, found.quality) == (Decimal("12.34"), "", Quality.SUSPECT)


def test_absent_digits_and_clocks_are_no_reading() -> None:
    """# field pain 31"""
    payload = bytes.fromhex("FFFFFFFF2C 0A0000002C 00000000000000 0000")
    found = cjt188_values.decode(0x901F, 0x10, payload)
    assert [(r.value, r.quality) for r in found[:3]] == [
        (None, Reason.SENTINEL),
        (None, Reason.MISMATCH),
        (None, Reason.CLOCK),
    ]


@pytest.mark.parametrize("wire", ["901F", "1F90"])
def test_both_identifier_orders_are_read(wire: str) -> None:
    frame = reply(bytes.fromhex("785634122C"), head=bytes.fromhex(wire) + b"\x07")
    _, found = decode("cjt188", frame.hex())
    assert (found["frame"]["di"], found["frame"]["di_wire_hex"], found["frame"]["ser"]) == ("901F", wire, 7)
    assert values(found) == [123456.78]


@pytest.mark.parametrize(
    ("di", "meter_type", "payload", "name", "value", "storage"),
    [
        (0xD120, 0x10, "010000002C", "water.volume.settlement", 0.01, 1),
        (0xD12B, 0x20, "0100000005", "heat.energy.settlement", 0.01, 12),
        (0xD201, 0x10, "010000002C", "water.volume.settlement", 0.01, 2),
        (0x901F, 0x30, "010000002C", "gas.volume", 0.01, 0),
        (0x901F, 0x21, "0100000005", "cool.energy.settlement", 0.01, 0),
        (0x901F, 0x40, "0100000005", "ac.energy.import", 0.01, 0),
        (0x8103, 0x10, "25", "x.settlement.day", 25, 0),
        (0x907F, 0x10, "30152224112620", "device.time", "2026-11-24T22:15:30", 0),
        (0xE001, 0x10, "0102", "x.cjt188.e001", "0102", 0),
    ],
)
def test_other_identifiers_and_meter_types(
    di: int, meter_type: int, payload: str, name: str, value: Any, storage: int
) -> None:
    found = cjt188_values.decode(di, meter_type, bytes.fromhex(payload))[0]
    plain = float(found.value) if isinstance(found.value, Decimal) else found.value
    assert (found.name, plain, found.storage) == (name, value, storage)


@pytest.mark.parametrize(
    ("meter_type", "quantity", "name", "quality"),
    [
        (0x40, "3412000005", "ac.energy.import", Quality.GOOD),
        (0x40, "0534120000", "ac.energy.import", Quality.GOOD),  # the unit before the value
        (0x40, "341200002C", "x.meter.volume", Quality.GOOD),
        (0x40, "341200000E", "x.meter.volume", Quality.SUSPECT),  # MJ
        (0x10, "3412000005", "water.volume", Quality.SUSPECT),
    ],
)
def test_a_meter_of_another_medium_may_count_electricity(
    meter_type: int, quantity: str, name: str, quality: Quality
) -> None:
    """Its energy was named as such, but always suspect, because the field is that of a volume."""
    found = cjt188_values.decode(0x901F, meter_type, bytes.fromhex(2 * quantity + "FF" * 7 + "0000"))[0]
    assert (found.name, found.value, found.quality) == (name, Decimal("12.34"), quality)


def test_heat_and_cold_of_2018() -> None:
    payload = bytes.fromhex(
        "0100000005 0200000005 0300000005 0400000005 341200 17 563412 35 010000002C"
        "2385 1045 3412 1212 24100000 30152224112620 0000".replace(" ", "")
    )
    assert len(payload) == cjt188_values.LONGEST, "the deadline of a request must allow for it"
    found = {r.name: r.value for r in cjt188_values.decode(0x911F, 0x22, payload)}
    assert found["cool.energy"] == Decimal("0.04")
    assert found["heat.power"] == Decimal("12.34")
    assert found["heat.flow"] == Decimal("12.3456")
    assert found["heat.temperature.supply"] == Decimal("85.23")
    assert found["heat.pressure.return"] == Decimal("12.12")
    assert found["heat.runtime"] == 1024


def test_error_and_address_answers() -> None:
    error = reply(b"", control=0xC1, head=bytes.fromhex("07 0400".replace(" ", "")))
    code, found = decode("cjt188", error.hex())
    assert (code, found["frame"]["error"], found["frame"]["ser"], found["readings"]) == (0, True, 7, [])
    assert found["frame"]["status_hex"] == "0400"
    address = reply(b"", control=0x83, di=0x810A)
    _, found = decode("cjt188", address.hex())
    assert values(found) == ["07060504030201"]


def test_several_frames_and_a_cut_one() -> None:
    good = bytes.fromhex(WATER_REPLY)
    _, found = decode("cjt188", (good + b"\xfe\xfe" + good + good[:20]).hex())
    assert len(found["frames"]) == 2
    code, found = decode("cjt188", good[:20].hex())
    assert (code, found["error"]) == (4, "the frame is cut short: it announces 22 data bytes, but has 9")
    assert found["frame"]["address"] == "78330011223344"
    assert decode("cjt188", good[:8].hex())[1]["error"] == "the frame is cut short inside its header"


# ------------------------------------------------------------------ the parser on a bad line

NOISE = st.lists(st.sampled_from([0x68, 0x10, 0x16, 0xFE, 0x00, 0x81, 0x03]), max_size=14).map(bytes)
FRAMES = st.builds(
    reply, st.binary(max_size=22), meter_type=st.sampled_from([0x10, 0x20, 0x49]), control=st.sampled_from([0x81, 0xC1])
)
STREAMS = st.lists(st.one_of(FRAMES, NOISE, FRAMES.map(lambda f: f[:-3])), max_size=6).map(b"".join)


def slow_reference(stream: bytes) -> list[bytes]:
    """The rule itself, byte by byte."""
    found, taken = [], 0
    for end in range(1, len(stream) + 1):
        for start in range(max(taken, end - 268), end - 12):
            piece = stream[start:end]
            framed = piece[0] == 0x68 and (0x10 <= piece[1] < 0x50 or piece[1] == 0xAA) and len(piece) == 13 + piece[10]
            if framed and piece[-1] == 0x16 and sum(piece[:-2]) & 0xFF == piece[-2]:
                found.append(piece)
                taken = end
                break
    return found


@given(STREAMS, st.data())
def test_pieces_do_not_matter_and_the_slow_reference_agrees(stream: bytes, data: st.DataObject) -> None:
    parser, found, left = cjt188.Parser(), [], stream
    while left:
        cut = data.draw(st.integers(1, len(left)))
        found += parser.feed(left[:cut])
        left = left[cut:]
    assert [f.raw for f in found] == slow_reference(stream)


def shake(count: int, seed: int) -> None:
    rng = random.Random(seed)
    parser = cjt188.Parser()
    for _ in range(count):
        di = rng.choice([0x901F, 0x911F, 0xD120, 0xD200, 0xD300, 0x8102, 0x8105, rng.randrange(65536)])
        frame = bytearray(
            reply(
                rng.randbytes(rng.randrange(60)),
                meter_type=rng.randrange(0x10, 0x50),
                di=di,
                control=rng.randrange(256),
            )
        )
        if rng.random() < 0.5:
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        for found in parser.feed(bytes(frame)):
            for r in cjt188.decode_frame(found):
                assert (r.value is None) == (r.quality >= 128)
    assert len(parser._buffer) <= parser.longest


def test_mutated_frames_never_raise() -> None:
    shake(3_000, seed=188)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_mutated_frames_never_raise() -> None:
    shake(1_000, seed=1)  # what is loaded once is loaded now
    with flat_memory():
        shake(1_000_000, seed=2018)


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_complain(stream: bytes) -> None:
    decode("cjt188", stream.hex() or "00")


@given(st.lists(st.tuples(st.binary(min_size=5, max_size=5), st.sampled_from(["energy", "power", "volume", "flow"]))))
def test_where_the_unit_stands_is_decided_for_any_bytes(pieces: list[tuple[bytes, str]]) -> None:
    assert cjt188_values.unit_first(pieces) in (True, False)


# ------------------------------------------------------------------ read-only


def test_only_reading_control_codes_can_be_built() -> None:
    """Promise 1."""
    assert {0x01, 0x03} == cjt188.ALLOWED_CONTROLS
    from drivers.cjt188 import frames

    for control in set(range(256)) - cjt188.ALLOWED_CONTROLS:
        with pytest.raises(UsageError):
            frames.build_frame(0x10, "1", control, b"", 0)


@given(
    st.sampled_from([0x10, 0x20, 0x49, 0xAA]),
    st.text("0123456789A", min_size=14, max_size=14),
    st.sampled_from([0x901F, 0xD120, 0x911F]),
    st.booleans(),
    st.integers(0, 255),
)
def test_built_requests_parse_back(meter_type: int, address: str, di: int, low_first: bool, serial: int) -> None:
    built = cjt188.build_read(meter_type, address, di, serial=serial, low_first=low_first)
    (frame,) = cjt188.Parser().feed(built)
    assert (frame.meter_type, frame.address, frame.identifier) == (meter_type, address, di)
    assert (frame.serial, frame.low_first, frame.is_reply) == (serial, low_first, False)


def test_a_wrong_address_is_refused() -> None:
    with pytest.raises(UsageError, match="not a meter address"):
        cjt188.build_read(0x10, "123456789012345")


def test_a_long_stream_in_pieces_loses_no_frame() -> None:
    stream = bytes.fromhex("FEFEFE" + WATER_REPLY.replace(" ", "")) * 4_000
    parser = cjt188.Parser()
    assert sum(len(parser.feed(stream[at : at + 240])) for at in range(0, len(stream), 240)) == 4_000


def test_the_frozen_data_of_a_water_meter_are_read_field_by_field() -> None:
    payload = "00000001122620" + "563412002C" + "4523010035" + "002500" + "120300"

    found = cjt188_values.decode(0xD301, 0x10, bytes.fromhex(payload))

    assert [(one.name, one.value, one.unit) for one in found] == [
        ("x.freeze.time", "2026-12-01T00:00:00", ""),
        ("water.volume", Decimal("1234.56"), "m3"),
        ("water.flow", Decimal("1.2345"), "m3/h"),
        ("water.temperature", Decimal("25.00"), "Cel"),
        ("water.pressure", Decimal("3.12"), ""),
    ]
