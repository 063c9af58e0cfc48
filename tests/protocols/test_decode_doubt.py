"""What a frame does not prove is marked: a block without its beginning, units that do not fit, registers not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.cli.decode import decode as group
from drivers.dlt645 import frames as dlt645_frames
from tests.kits.codecs import dlt645
from tests.kits.meter_cases import decode, values


def electric(identifier: str, payload: str, control: int, tail: str = "") -> bytes:
    """An answer of a DL/T 645 meter; ``payload`` low byte first."""
    data = bytes.fromhex(identifier)[::-1] + bytes.fromhex(payload + tail)
    body = bytes((0x68, 0x61, 1, 0, 0, 0, 0, 0x68, control, len(data))) + bytes((b + 0x33) & 0xFF for b in data)
    return body + bytes((sum(body) & 0xFF, 0x16))


def thermal(meter_type: int, payload: str) -> str:
    data = bytes.fromhex("901F00" + payload)
    body = bytes((0x68, meter_type, 1, 2, 3, 4, 5, 6, 7, 0x81, len(data))) + data
    return (body + bytes((sum(body) & 0xFF, 0x16))).hex()


def telegram(records: str) -> str:
    body = bytes.fromhex("0805 72 78563412 2D2C 01 07 55 00 0000" + records)
    return (bytes((0x68, len(body), len(body), 0x68)) + body + bytes((sum(body) & 0xFF, 0x16))).hex()


def test_a_frame_that_breaks_off_says_what_it_is_as_far_as_it_goes() -> None:
    whole = electric("00010000", "78563412", 0x91)
    for size in range(10, len(whole)):
        code, found = decode("dlt645", "fefe" + whole[:size].hex())
        frame = found["frame"]
        assert code == 4 and "readings" not in found
        assert (frame["address"], frame["control"], frame["length"]) == ("000000000161", 0x91, 8)
        assert (frame["preamble_fe"], frame["direction"], frame["checksum_ok"]) == (2, "reply", False)
        assert frame.get("di") == ("00010000" if size >= 14 else None)
        assert frame["data_minus33_hex"] == "0000010078563412"[: 2 * min(size - 10, 8)]
    water = bytes.fromhex(thermal(0x10, "785634122C 000000002C 00000000000000 0000"))
    for size in range(11, len(water)):
        code, found = decode("cjt188", water[:size].hex())
        frame = found["frame"]
        assert code == 4 and "readings" not in found
        assert (frame["medium"], frame["address"], frame["length"]) == ("cold water", "07060504030201", 22)
        assert (frame.get("di"), frame["checksum_ok"]) == ("901F" if size >= 14 else None, False)


def test_a_broken_telegram_says_what_its_frame_is() -> None:
    whole = bytes.fromhex(telegram("0C13 34120000"))
    for size in range(7, len(whole)):
        code, found = decode("mbus", whole[:size].hex())
        frame = found["frame"]
        assert code == 4 and "readings" not in found
        assert (frame["kind"], frame["function"], frame["direction"]) == ("long", "RSP_UD", "reply")
        assert (frame["address"], frame["ci"], frame["length_in_frame"]) == (5, 0x72, len(whole) - 6)
        assert frame["checksum_ok"] is False and "checksum_in_frame" not in frame
    _, found = decode("mbus", (whole[:-2] + bytes((whole[-2] ^ 1, 0x16))).hex())
    frame = found["frame"]
    assert (frame["checksum_in_frame"] ^ 1, frame["checksum_ok"]) == (frame["checksum_computed"], False)


FIRST = electric("0001FF00", "34120000 01000000 02", 0xB1)
SECOND = electric("0001FF00", "000000 03000000", 0xB2, "01")
THIRD = electric("0001FF00", "04000000", 0x92, "02")


def shown(found: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(r["name"].removeprefix("ac.energy.import"), r["value"]) for r in found["readings"]]


def test_a_block_in_several_frames_is_one_answer_also_in_a_transcript() -> None:
    """Values may be cut by the border of two frames; what was asked stands in between in a copied log."""
    ask = dlt645.build_read("000000000161", "0001FF00")
    again = [dlt645_frames.build_read_next("000000000161", "0001FF00", n) for n in (1, 2)]
    for stream in (FIRST + SECOND + THIRD, ask + FIRST + again[0] + SECOND + again[1] + THIRD):
        code, found = decode("dlt645", stream.hex())
        assert code == 0 and "warnings" not in found
        assert [name for name, _ in shown(found)] == ["", *(f".tariff.{n}" for n in range(1, 5))]
        assert values(found) == [12.34, 0.01, 0.02, 0.03, 0.04]
        assert all("quality" not in r for r in found["readings"])


def test_a_follow_on_frame_alone_is_not_taken_for_the_beginning_of_its_block() -> None:
    _, found = decode("dlt645", THIRD.hex())
    assert [r["quality"] for r in found["readings"]] == ["suspect"]
    assert found["warnings"] == [
        "follow-on frame 2 without the preceding frames: it is unknown which values of 0001FF00 this frame contains"
    ]


def test_a_block_with_a_frame_missing_is_not_put_together() -> None:
    _, found = decode("dlt645", (FIRST + THIRD).hex())
    assert [r.get("quality") for r in found["readings"]] == [None, None, "mismatch", "suspect"]
    assert found["warnings"][0] == "the meter has more data for 0001FF00: the follow-on frames are missing"
    assert len(found["warnings"]) == 2
    _, found = decode("dlt645", FIRST.hex())
    assert found["warnings"] == ["the meter has more data for 0001FF00: the follow-on frames are missing"]


def test_two_readings_in_a_row_stay_two() -> None:
    voltage = electric("02010100", "0322", 0x91)
    _, found = decode("dlt645", (voltage + FIRST + SECOND + THIRD + voltage).hex())
    assert values(found) == [220.3, 12.34, 0.01, 0.02, 0.03, 0.04, 220.3]


def test_the_block_of_status_words() -> None:
    _, found = decode("dlt645", electric("040005FF", "0100 0200 0000 0000 0000 0000 0780", 0x91).hex())
    assert [(r["name"], r["value"]) for r in found["readings"]][::6] == [
        ("device.status.1", 1),
        ("device.status.7", 0x8007),
    ]
    assert len(found["readings"]) == 7


def test_an_energy_in_cubic_metres_is_a_number_and_suspect() -> None:
    """Type 2F with a water meter's unit codes: the unit is said as sent, and nobody should count on it."""
    _, found = decode("cjt188", thermal(0x20, "785634122C 785634122C 000000002C"))
    assert [(r["name"], r["unit"], r["quality"]) for r in found["readings"]] == [
        ("heat.energy.settlement", "m3", "suspect"),
        ("heat.energy", "m3", "suspect"),
        ("heat.power", "m3", "suspect"),
    ]


def test_a_heat_meter_that_answers_as_a_water_meter() -> None:
    _, found = decode("cjt188", thermal(0x20, "34120000 2C 34120000 2C 30152224112620 0000"))
    assert [(r["name"], r["value"], r.get("quality")) for r in found["readings"]] == [
        ("heat.volume", 12.34, None),
        ("heat.volume.settlement", 12.34, None),
        ("device.time", "2026-11-24T22:15:30", None),
        ("device.status", 0, None),
    ]


@pytest.mark.parametrize(
    ("payload", "rest"),
    [
        ("34120000 2C 34120000 2C 30152224112620 0000", None),
        ("34120000 2C 34120000 2C 30152224112620 0000 DEADBEEF", "deadbeef"),
        ("34120000 2C 3412", "3412"),
        ("3412", "3412"),
    ],
)
def test_what_no_field_covers_is_shown_as_it_came(payload: str, rest: str | None) -> None:
    _, found = decode("cjt188", thermal(0x10, payload))
    assert found["frame"].get("undecoded") == rest


@pytest.mark.parametrize("record", ["0493 3D 0A000000", "0493 FC0F 0A000000", "0493 BD74 0A000000"])
def test_gallons_are_not_shown_as_cubic_metres(record: str) -> None:
    """VIFE 3Dh: the VIF does not tell the unit any more, and editions differ on which it is."""
    _, found = decode("mbus", telegram(record))
    (reading,) = found["readings"]
    assert (reading["unit"], reading["quality"]) == ("", "suspect")
    assert reading["name"].startswith("x.mbus.volume.non-metric")


def test_records_before_one_that_breaks_off_are_shown() -> None:
    text = telegram("0C13 34120000 0D06F9")
    code, found = decode("mbus", text)
    assert (code, values(found)) == (4, [1.234])
    assert found["error"] == "byte 8 of the record: LVAR F9h is reserved"
    people = CliRunner().invoke(group, ["mbus", text])
    assert people.exit_code == 4
    assert "1.234 m3" in people.stdout
    assert "LVAR F9h is reserved. The frame itself is valid" in people.stderr


def test_a_wireless_maker_without_letters_is_a_maker() -> None:
    """Some makers' two bytes are no three letters; a length that fits, or checksums, tell such a frame all the same."""
    body = bytes.fromhex("44 0477 78563412 01 07 7A 2A000000 0C13 34120000")
    code, found = decode("mbus", (bytes((len(body),)) + body).hex())
    assert (code, found["frame"]["identity"], values(found)) == (0, "12345678", [1.234])


def sunspec(tmp_path: Path, content: Any, encoding: str = "utf-8") -> tuple[int, dict[str, Any]]:
    file = tmp_path / "image.json"
    file.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode(encoding))
    return decode("sunspec", str(file))


INVERTER = [0x5375, 0x6E53, 103, 50, *([0xFFFF] * 50), 0xFFFF, 0]
INVERTER[16:18] = [1234, 1]  # W and its factor


def test_registers_that_a_dump_has_not_are_no_zeros(tmp_path: Path) -> None:
    holding = {str(40000 + n): word for n, word in enumerate(INVERTER) if not 30 <= n < 35}
    code, found = sunspec(tmp_path, {"holding": holding})
    points = found["models"][0]["points"]
    assert (code, points["W"]) == (0, 12340)
    assert "DCV" not in points and found["models"][0]["truncated"]
    assert found["models"][1]["id"] == 0xFFFF
    assert found["warnings"] == ["model 103 at 40002: only 26 of 50 registers could be read"]
    unread = [None if 30 <= n < 35 else word for n, word in enumerate(INVERTER)]
    assert sunspec(tmp_path, {"base_address": 40000, "registers": unread})[1]["models"] == found["models"]


def test_half_a_value_before_a_hole_is_none(tmp_path: Path) -> None:
    image = [*INVERTER]
    image[26:28] = [1, 2]  # WH, of two registers
    holding = {str(40000 + n): word for n, word in enumerate(image) if n < 27}
    assert "WH" not in sunspec(tmp_path, {"holding": holding})[1]["models"][0]["points"]


@pytest.mark.parametrize(
    ("holding", "words"),
    [
        ({"x": 1}, "holding has the address 'x'; allowed: 0 to 65535"),
        ({"-5": 1}, "holding has the address '-5'; allowed: 0 to 65535"),
        ({"5": "1"}, "holding at 5 is '1'; allowed: 0 to 65535"),
        ({"5": 70000}, "holding at 5 is 70000; allowed: 0 to 65535"),
        ({}, "SunSpec: no SunSpec marker"),
    ],
)
def test_a_broken_dump_says_where(tmp_path: Path, holding: dict[str, Any], words: str) -> None:
    code, found = sunspec(tmp_path, {"holding": holding})
    assert code == 4
    assert found["error"].startswith(words)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_files_of_any_editor_are_read(tmp_path: Path, encoding: str) -> None:
    """Notepad puts a mark before UTF-8, a redirection of PowerShell writes UTF-16."""
    code, found = sunspec(tmp_path, {"base_address": 40000, "registers": INVERTER}, encoding)
    assert (code, found["models"][0]["points"]["W"]) == (0, 12340)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, "\ud800", "{", '{"registers": [' + "9" * 5000 + "]}"]
)
def test_no_file_is_a_fault_of_ours(tmp_path: Path, text: str) -> None:
    file = tmp_path / "image.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    code, found = decode("sunspec", str(file))
    assert code == 4
    assert "JSON" in found["error"]


def test_a_long_text_of_a_device_is_shown_whole(tmp_path: Path) -> None:
    """Model 64411 has texts of 150 registers."""
    image = [0x5375, 0x6E53, 64411, 180, *([0] * 180), 0xFFFF, 0]
    image[2 + 31 : 2 + 181] = [0x4142] * 150  # VHarA
    _, found = sunspec(tmp_path, {"registers": image})
    assert found["models"][0]["points"]["VHarA"] == "AB" * 150
