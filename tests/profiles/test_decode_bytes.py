"""Bytes as people have them: in any dress, with noise, of another protocol; and numbers at the end of their range."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.decode import decode
from agent.cli.decode_output import hex_bytes
from drivers.explain import BrokenInput
from drivers.framing import crc16

Json = dict[str, Any]
ANSWER = "0103045375 6E5396F0".replace(" ", "")
ELECTRIC = "6861010000000068910833333433AB8967457816"
WATER = "68104433221100337881161F9000563412002C000012002C3015222411262000FFFA16"
MBUS = "681f1f680802727856341224400107550000000313153100da023b13018b60043718021816"
TCP = "0007000000050103020001"


def run(*args: str, code: int = 0) -> Json:
    result = CliRunner().invoke(decode, [*args, "--json"])
    assert result.exit_code == code, (result.output, result.exception)
    found: Json = json.loads(result.stdout)
    return found


def rtu(*body: int) -> bytes:
    return bytes(body) + crc16(bytes(body)).to_bytes(2, "little")


# ------------------------------------------------------------------ how bytes are written


@pytest.mark.parametrize(
    "text",
    [
        "01 03 AA", "0103aa", "0x01 0x03 0xAA", "0x01,0x03,0xAA", "0x0103AA", "0X01 0X03 0XAA", "01:03:aa", "01-03-AA",
        "{0x01, 0x03, 0xAA}", "[01, 03, AA]", "01h 03h AAh", "01H,03H,AAH", "\\x01\\x03\\xaa", "b'\\x01\\x03\\xaa'",
        '"01 03 AA"', "'0103AA'", "$01 $03 $AA", "01|03|AA", "01;03;AA", "01_03_AA", "01\u300003\u00a0AA",
        "\ufeff01 03 AA", "01\u200b03\u200bAA", "01\uff0c03\uff0cAA", "1 3 AA", "0x1 0x3 0xAA", "0x1, 0x3, 0xaa\r\n",
        "01 03\tAA\n", "0103 AA", "010 3AA",
    ],
)  # fmt: skip
def test_hex_in_any_dress(text: str) -> None:
    assert hex_bytes([text]) == bytes((1, 3, 0xAA))
    assert hex_bytes(text.split(" ")) == bytes((1, 3, 0xAA))


@given(
    st.binary(min_size=1, max_size=40), st.sampled_from(["", " ", ":", ", ", "\n", " 0x", "-", "\\x"]), st.booleans()
)
def test_any_bytes_come_back(raw: bytes, between: str, upper: bool) -> None:
    text = between.join(f"{b:02X}" if upper else f"{b:02x}" for b in raw)
    assert hex_bytes([text]) == raw


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("01 03 0G", "Character 6, 'G', is not a hex digit. Write bytes as 68 61"),
        ("hello", "Character 1, 'h', is not a hex digit"),
        ("01 03 0", None),  # all stand apart: a 0 is 00
        ("01030", "Each byte has two digits, but the number of digits is 5: one digit is missing or extra"),
        ("0103 0", "Each byte has two digits, but the number of digits is 5"),
        ("6", "Each byte has two digits, but the number of digits is 1"),
        ("电表", "Character 1, '电', is not a hex digit"),
        ("٣٣", "is not a hex digit"),  # digits of another script
        ("01.03", "Character 3, '.'"),
    ],
)
def test_what_is_no_hex_is_told_with_its_place(text: str, hint: str | None) -> None:
    if hint is None:
        assert hex_bytes([text]) == bytes((1, 3, 0))
        return
    with pytest.raises(BrokenInput) as broken:
        hex_bytes([text])
    assert broken.value.error.startswith("not hex: ")
    assert hint in broken.value.hint
    for command in ("dlt645", "cjt188", "mbus", "modbus-rtu", "modbus-tcp"):
        assert hint in run(command, text, code=4)["hint"]
        people = CliRunner().invoke(decode, [command, text])
        assert (people.exit_code, people.stdout) == (4, "")
        assert hint in people.stderr


# ------------------------------------------------------------------ what to do about it


@pytest.mark.parametrize(
    ("command", "text", "hint"),
    [
        ("dlt645", WATER, "This is a valid frame of CJ/T 188: try `meterhouse decode cjt188`"),
        ("cjt188", ELECTRIC, "This is a valid frame of DL/T 645: try `meterhouse decode dlt645`"),
        ("mbus", ELECTRIC, "try `meterhouse decode dlt645`"),
        ("dlt645", MBUS, "This is a valid frame of M-Bus: try `meterhouse decode mbus`"),
        ("modbus-rtu", TCP, "This is a valid frame of Modbus TCP: try `meterhouse decode modbus-tcp`"),
        ("modbus-tcp", ANSWER, "This is a valid frame of Modbus RTU: try `meterhouse decode modbus-rtu`"),
        ("dlt645", ANSWER, "try `meterhouse decode modbus-rtu`"),
        ("dlt645", "00", "Expected 68h, six address bytes, 68h"),
        ("cjt188", "00", "Expected 68h, the meter type"),
        ("mbus", "00", "Expected 68h, the length twice"),
        ("dlt645", ELECTRIC[:-4], "Copy the complete"),
        ("cjt188", WATER[:-4], "Copy the complete"),
        ("mbus", MBUS[:-4], "Copy the complete"),
        ("modbus-rtu", ANSWER[:-4], "Copy the complete"),
        ("modbus-tcp", TCP[:-2], "Copy the complete"),
        ("dlt645", ELECTRIC[:-4] + "0016", "These bytes differ from the frame that was sent"),
        ("modbus-rtu", ANSWER[:-2] + "00", "These bytes differ from the frame that was sent"),
    ],
)
def test_a_broken_frame_comes_with_advice(command: str, text: str, hint: str) -> None:
    found = run(command, text, code=4)
    assert hint in found["hint"]
    assert found["ok"] is False and found["error"]


def test_the_place_of_a_broken_frame_behind_noise() -> None:
    found = run("dlt645", "00 11 FE FE" + ELECTRIC[:-4] + "0016", code=4)
    assert found["error"] == "frame at byte 5: the checksum is 00h, but the bytes sum to 78h"


# ------------------------------------------------------------------ Modbus


@pytest.mark.parametrize("zeros", [1, 2, 3, 8])
def test_zeros_behind_a_frame_do_not_hide_its_registers(zeros: int) -> None:
    """A CRC over a frame, its CRC and zeros is 0 again: by the CRC alone such bytes would be one odd frame."""
    found = run("modbus-rtu", ANSWER + "00" * zeros, code=4)
    assert found["error"] == f"bytes 1 to 9 are a valid frame, but there are {9 + zeros} bytes"
    assert found["hint"] == "Give only the bytes of the valid frame"


@pytest.mark.parametrize("noise", ["00", "FF", "FFFF", "55AA01"])
def test_a_sound_frame_behind_noise_is_pointed_at(noise: str) -> None:
    size = len(noise) // 2
    found = run("modbus-rtu", noise + ANSWER, code=4)
    assert found["error"].startswith("the CRC is 96f0")
    hint = f"Bytes {size + 1} to {size + 9} of these {size + 9} bytes are a valid frame: leave out the other bytes"
    assert found["hint"] == hint


@pytest.mark.parametrize("unit", [0, 248])
def test_bytes_of_a_unit_that_no_device_can_have_are_not_called_a_valid_frame(unit: int) -> None:
    found = run("modbus-rtu", "00" + rtu(unit, 3, 2, 0, 7).hex(), code=4)

    assert "valid frame" not in found["hint"]


def test_thousands_of_frames_in_a_row() -> None:
    request, answer = rtu(1, 3, 0, 0, 0, 2), bytes.fromhex(ANSWER)
    found = run("modbus-rtu", (request + answer).hex() * 1500)
    assert len(found["frames"]) == 3000
    assert [f["kind"] for f in found["frames"][:2]] == ["request", "answer"]


@given(
    st.lists(
        st.one_of(
            st.integers(1, 60).map(lambda n: rtu(1, 3, 2 * n, *range(2 * n))),
            st.tuples(st.integers(0, 255), st.integers(0, 255)).map(lambda a: rtu(17, 4, *a, 0, 9)),
            st.integers(0, 255).map(lambda e: rtu(2, 0x83, e)),
            st.integers(0, 255).map(lambda v: rtu(3, 6, 0, 1, 0, v)),
            st.binary(min_size=1, max_size=6).map(lambda b: rtu(4, 7, *b)),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_frames_in_a_row_are_told_apart(frames: list[bytes]) -> None:
    found = run("modbus-rtu", b"".join(frames).hex())
    seen = found.get("frames") or [found["frame"]]
    assert "".join(f"{f['unit']:02x}{f['pdu_hex']}{f['crc']}" for f in seen) == b"".join(frames).hex()
    if all(f[1] != 7 for f in frames):  # a frame of free length may take in what follows it
        assert len(seen) == len(frames)


def test_identification_asked_and_cut_short() -> None:
    frame = run("modbus-rtu", "01 2B 0E 01 00 70 77")["frame"]
    assert (frame["kind"], frame["read_code"], frame["object"]) == ("request", 1, 0)
    cut = rtu(1, 0x2B, 0x0E, 1, 1, 0, 0, 2, 0, 2, 0x41, 0x42, 1, 9, 0x43)
    found = run("modbus-rtu", cut.hex())
    assert found["frame"]["kind"] == "answer that ends within object 2 of 2"
    assert [r["value"] for r in found["readings"]] == ["AB"]


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("type_", "raw", "scale"),
    [
        ("u64", "FFFFFFFFFFFFFFFF", "0.5"),
        ("u64", "FFFFFFFFFFFFFFFF", "-1"),
        ("u64", "FFFFFFFFFFFFFFFF", "2.5"),
        ("i64", "7FFFFFFFFFFFFFFF", "0.0025"),
        ("i64", "8000000000000000", "3"),
        ("u32", "FFFFFFFF", "123456789.123"),
    ],
)
def test_a_large_number_times_its_scale_is_a_number(type_: str, raw: str, scale: str) -> None:
    """The kernel counts in 64 bits; "not available" would be a lie."""
    whole = int.from_bytes(bytes.fromhex(raw), "big", signed=type_[0] == "i")
    (reading,) = run("registers", "--type", type_, "--scale", scale, raw)["readings"]
    assert "quality" not in reading
    assert reading["value"] == pytest.approx(float(whole * Decimal(scale)), rel=1e-15)


@pytest.mark.parametrize("scale", ["1e400", "1e999999999", "1e-999999999", "-1e101", "inf"])
def test_a_scale_beyond_reason_is_wrong_usage(scale: str) -> None:
    result = CliRunner().invoke(decode, ["registers", "--type", "u16", "--scale", scale, "0001"])
    assert "invalid scale" in str(result.exception)


@pytest.mark.parametrize(
    ("pdu", "told"),
    [
        ("07", {"kind": "request"}),
        ("076D", {"kind": "answer", "status": 0x6D}),
        ("0800001234", {"kind": "request or answer", "subfunction": 0, "response_length": 8}),
        ("0BFFFF0108", {"kind": "answer", "status": 0xFFFF, "events": 0x108}),
        ("110301FF41", {"kind": "answer", "server_id": "01ff41"}),
        ("16000400F20025", {"kind": "request or answer", "address": 4, "and_mask": 0xF2, "or_mask": 0x25}),
        ("170003000600 0E0003 06 00FF00FF00FF", {"kind": "request", "count": 6, "write_address": 14}),
        ("170003000600 0E0003 06 00FF00FF00FF", {"written": [255, 255, 255], "response_length": 17}),
        ("170C00FE0ACD00010003000D00FF", {"kind": "answer", "registers": [0xFE, 0xACD, 1, 3, 13, 255]}),
        ("1804DE", {"kind": "request", "address": 0x4DE}),
        ("18 0006 0002 01B8 1284", {"kind": "answer", "registers": [0x1B8, 0x1284]}),
        ("18 0007 0002 01B8 1284", {"kind": "not explained further"}),
        ("64010203", {"kind": "not explained further"}),
    ],
)  # fmt: skip
def test_functions_that_meters_hardly_use(pdu: str, told: Json) -> None:
    """The examples of the Modbus Application Protocol 1.1b3, clause 6."""
    body = bytes.fromhex(pdu)
    frame = run("modbus-rtu", rtu(5, *body).hex())["frame"]
    assert {key: frame[key] for key in told} == told
    assert frame["pdu_hex"] == body.hex()


def test_hex_from_standard_input() -> None:
    result = CliRunner().invoke(decode, ["modbus-rtu", "-", "--json"], input="01 03 04\n53 75 6E 53\r\n96 F0\n")
    assert json.loads(result.stdout)["frame"]["registers"] == [0x5375, 0x6E53]
    binary = CliRunner().invoke(decode, ["modbus-rtu", "-", "--json"], input=bytes.fromhex(ANSWER))
    assert (binary.exit_code, "not hex" in json.loads(binary.stdout)["error"]) == (4, True)
    assert CliRunner().invoke(decode, ["modbus-rtu", "-"], input="").exit_code == 4


# ------------------------------------------------------------------ files


def test_a_dump_may_list_its_registers(tmp_path: Path) -> None:
    """The form of `decode sunspec`, for any profile; what could not be read is null, and no zero."""
    file = tmp_path / "dump.json"
    words = [0x4366, 0x8000, 0x4367, 0x8000, None, None]
    file.write_text(json.dumps({"function": 4, "base_address": 0, "registers": words}))
    found = run("profile", "eastron/sdm630", str(file))
    assert [(r["name"], r["value"]) for r in found["readings"]] == [("ac.voltage.l1", 230.5), ("ac.voltage.l2", 231.5)]
    image = [0x5375, 0x6E53, 103, 50, *([0xFFFF] * 50), 0xFFFF, 0]
    image[16:18] = [1234, 1]
    file.write_text(json.dumps({"base_address": 40000, "registers": image}))
    for command in (["profile", "sunspec/inverter"], ["sunspec"]):
        value = {r["name"]: r["value"] for r in run(*command, str(file))["readings"]}
        assert (value["ac.power.generation"], value["ac.voltage.l1"]) == (12340, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"registers": [1, "x"]}', "registers at 40001 is 'x'; allowed: 0 to 65535"),
        ('{"registers": [1], "base_address": -1}', "base_address must be 0 to 65535, got -1"),
        ('{"registers": [1, 2], "base_address": 65535}', "registers has the address '65536'; allowed: 0 to 65535"),
        ('{"registers": "0001"}', "registers is not an object of addresses and words"),
    ],
)
def test_a_broken_list_of_registers(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "dump.json"
    file.write_text(text)
    assert run("profile", "goodwe/dt", str(file), code=4)["error"] == told


@pytest.mark.parametrize("command", [["sunspec"], ["profile", "goodwe/dt"], ["counter"]])
def test_a_file_of_hex_is_told_where_to_go(tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / "running_data.hex"
    file.write_text("aa55f703fa" + "00" * 250 + "\n")
    found = run(*command, str(file), code=4)
    assert "is not JSON" in found["error"]
    assert "The input looks like hex: use the command of its protocol" in found["hint"]


@pytest.mark.parametrize(
    ("words", "time", "quality"),
    [
        ([0x150B, 0x1C10, 0x0501], "2021-11-28 16:05:01", None),
        ([0x150D, 0x2510, 0x0501], "2021-13-37 16:05:01", "suspect"),
        ([0xFFFF, 0xFFFF, 0xFFFF], None, "sentinel"),
    ],
)
def test_a_clock_that_shows_no_time_is_marked(tmp_path: Path, words: list[int], time: str | None, quality: str) -> None:
    file = tmp_path / "dump.json"
    file.write_text(json.dumps({"holding": {str(30100 + n): word for n, word in enumerate(words)}}))
    (reading,) = (r for r in run("profile", "goodwe/dt", str(file))["readings"] if r["name"] == "device.time")
    assert (reading["value"], reading.get("quality")) == (time, quality)
