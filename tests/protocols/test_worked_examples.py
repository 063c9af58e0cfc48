"""Every worked example of reference/wire-protocols.md through `meterhouse decode`, as a technician would check it.

One row an example, in the order of the page. Examples of protocols that are not spoken here (Pylontech CAN in section
6, IEC 62056-21 in section 7) are named below with their reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.cli.decode import decode
from drivers.framing import crc16
from drivers.mbus.records import parse

Json = dict[str, Any]

# command, bytes, what must stand in the frame, [(value, unit)]
EXAMPLES: list[tuple[str, str, Json, list[tuple[Any, str]]]] = [
    ("modbus-rtu", "01 03 00 00 00 0A C5 CD", {"function": 3, "address": 0, "count": 10, "kind": "request"}, []),
    ("modbus-tcp", "00 01 00 00 00 06 01 03 00 00 00 0A", {"transaction": 1, "function": 3, "count": 10}, []),
    ("modbus-rtu", "01 03 9C 40 00 02 EB 8F", {"address": 40000, "count": 2}, []),
    ("modbus-rtu", "01 03 04 53 75 6E 53 96 F0", {"registers": [0x5375, 0x6E53]}, [(0x5375, ""), (0x6E53, "")]),
    ("modbus-rtu", "01 04 00 00 00 02 71 CB", {"function": 4, "address": 0, "count": 2}, []),
    ("modbus-rtu", "01 83 02 C0 F1", {"exception": 2, "exception_name": "illegal data address"}, []),
    ("modbus-rtu", "11 10 00 01 00 02 04 00 0A 01 02 C6 F0", {"unit": 17, "function": 16}, [(10, ""), (258, "")]),
    ("modbus-rtu", "01 2B 0E 01 00 70 77", {"function": 43, "crc_ok": True}, []),
    (
        "modbus-rtu",
        "01 2B 0E 01 01 00 00 03 00 04 41 43 4D 45 01 05 4D 54 52 2D 33 02 03 31 2E 34 E6 D1",
        {"conformity": 1, "more": False},
        [("ACME", ""), ("MTR-3", ""), ("1.4", "")],
    ),
    *(
        (f"registers --type f32 --order {order}", text, {}, [(230.5, "")])
        for order, text in (
            ("ABCD", "43 66 80 00"), ("CDAB", "80 00 43 66"), ("BADC", "66 43 00 80"), ("DCBA", "00 80 66 43"),
        )
    ),
    *(
        (f"registers --type u32 --order {order}", text, {}, [(1234567, "")])
        for order, text in (
            ("ABCD", "00 12 D6 87"), ("CDAB", "D6 87 00 12"), ("BADC", "12 00 87 D6"), ("DCBA", "87 D6 12 00"),
        )
    ),
    ("dlt645", "FE FE FE FE 68 AA AA AA AA AA AA 68 13 00 DF 16", {"function_name": "read address"}, []),
    (
        "dlt645",
        "68 61 01 00 00 00 00 68 93 06 94 34 33 33 33 33 5F 16",
        {"reported_address": "000000000161"},
        [("000000000161", "")],
    ),
    ("dlt645", "68 61 01 00 00 00 00 68 11 04 33 33 34 33 14 16", {"di": "00010000", "direction": "request"}, []),
    (
        "dlt645",
        "68 61 01 00 00 00 00 68 91 08 33 33 34 33 AB 89 67 45 78 16",
        {"address": "000000000161", "di": "00010000"},
        [(123456.78, "kWh")],
    ),
    ("dlt645", "68 61 01 00 00 00 00 68 11 04 33 34 34 35 17 16", {"di": "02010100"}, []),
    ("dlt645", "68 61 01 00 00 00 00 68 91 06 33 34 34 35 36 55 24 16", {}, [(220.3, "V")]),
    ("dlt645", "68 61 01 00 00 00 00 68 91 07 33 33 36 35 89 67 C5 50 16", {}, [(-12.3456, "kW")]),
    ("dlt645", "68 61 01 00 00 00 00 68 11 04 33 33 34 34 15 16", {"di": "01010000"}, []),
    (
        "dlt645",
        "68 61 01 00 00 00 00 68 91 0C 33 33 34 34 89 67 45 48 47 57 44 59 55 16",
        {"time": "2026-11-24T14:15"},
        [(12.3456, "kW")],
    ),
    ("dlt645", "68 61 01 00 00 00 00 68 D1 01 35 39 16", {"error": True, "error_code": 2}, []),
    ("dlt645", "68 61 01 00 00 00 00 68 11 04 33 32 34 33 13 16", {"di": "0001FF00"}, []),
    (
        "dlt645",
        "68 99 99 99 99 99 99 68 08 06 63 48 55 57 44 59 68 16",
        {"version": "2007", "data_minus33_hex": "301522241126"},
        [],
    ),
    ("dlt645", "68 61 01 00 00 00 00 68 91 08 33 33 34 33 59 33 33 33 8A 16", {}, [(0.26, "kWh")]),
    ("dlt645", "68 25 04 03 02 01 00 68 91 08 33 33 34 33 75 39 45 33 8B 16", {}, [(1206.42, "kWh")]),
    ("dlt645", "68 61 01 00 00 00 00 68 01 02 43 C3 3B 16", {"version": "1997", "di": "9010"}, []),
    ("dlt645", "68 61 01 00 00 00 00 68 81 06 43 C3 89 67 45 33 27 16", {"version": "1997"}, [(1234.56, "kWh")]),
    ("dlt645", "68 54 07 13 00 80 13 68 81 06 43 C3 34 33 33 33 2B 16", {}, [(0.01, "kWh")]),
    ("dlt645", "68 03 00 00 00 00 00 68 81 04 44 E9 33 34 EC 16", {"di": "B611"}, [(100, "V")]),
    (
        "cjt188",
        "FE FE FE 68 10 44 33 22 11 00 33 78 01 03 1F 90 00 80 16",
        {"direction": "request", "meter_type": 0x10},
        [],
    ),
    (
        "cjt188",
        "68 10 44 33 22 11 00 33 78 81 16 1F 90 00 56 34 12 00 2C 00 00 12 00 2C 30 15 22 24 11 26 20 00 FF FA 16",
        {"medium": "cold water"},
        [(1234.56, "m3"), (1200, "m3"), ("2026-11-24T22:15:30", "")],
    ),
    ("cjt188", "68 20 32 41 31 40 00 00 00 01 03 90 1F 01 20 16", {"direction": "request", "medium": "heat"}, []),
    (
        "cjt188",
        "68 20 32 41 31 40 00 00 00 81 2E 1F 90 01 00 45 23 01 05 25 00 30 01 05 41 97 00 00 17 00 15 02 00 35 54 76 98"
        " 00 2C 23 85 00 10 45 00 24 10 00 30 15 22 24 11 26 20 00 00 70 16",
        {},
        [
            (12345, "kWh"), (13000.25, "kWh"), (97.41, "kW"), (2.15, "m3/h"), (9876.54, "m3"), (85.23, "°C"),
            (45.10, "°C"), (1024, "h"), ("2026-11-24T22:15:30", ""),
        ],
    ),
    (
        "cjt188",
        "68 20 32 41 31 40 00 00 00 81 2E 90 1F 01 08 02 00 00 00 08 02 00 00 00 17 00 00 00 00 35 00 00 00 00 2C 34 10"
        " 00 00 35 25 00 66 25 00 00 00 00 53 00 12 10 07 15 20 00 00 31 16",
        {},
        [(0.02, "MWh"), (0.02, "MWh"), (0, "kW"), (0, "m3/h"), (10.34, "m3"), (25.35, "°C"), (25.66, "°C")],
    ),
    ("cjt188", "68 AA AA AA AA AA AA AA AA 03 03 81 0A 00 49 16", {"function_name": "read address"}, []),
    ("mbus", "10 40 01 41 16", {"function": "SND_NKE", "address": 1}, []),
    ("mbus", "10 5B 01 5C 16", {"function": "REQ_UD2", "control": 0x5B}, []),
    ("mbus", "10 7B 01 7C 16", {"function": "REQ_UD2", "control": 0x7B}, []),
    ("mbus", "10 7B FD 78 16", {"function": "REQ_UD2", "address": 253}, []),
    ("mbus", "68 0B 0B 68 53 FD 52 78 56 34 12 FF FF FF FF B2 16", {"ci": 0x52, "identity": "12345678"}, []),
    (
        "mbus",
        "68 42 42 68 08 00 72 45 00 94 63 AE 4C 08 04 F9 00 00 00 0C 06 19 90 01 00 0C 13 19 11 62 01 0C 3B 00 00 00 00"
        " 0C 2B 00 00 00 00 02 5A 67 01 02 5E E9 00 03 60 46 31 00 0C 78 45 00 94 63 0C FD 10 45 00 94 63 1F B6 16",
        {"identity": "63940045", "manufacturer": "SEN", "more_records_follow": True},
        [
            (19_019_000, "Wh"), (1621.119, "m3"), (0, "m3/h"), (0, "W"), (35.9, "°C"), (23.3, "°C"), (12.614, "K"),
        ],
    ),
]  # fmt: skip

# hex of the page that is no example of a decode command, and why
ELSEWHERE = {
    "53 75 6E 53": "the marker alone; it is in the answer above and at the head of every SunSpec image",
    "00 67 00 32": "model 103 and its length: test_the_sunspec_example",
    "00 00 01 00": "an identifier's bytes, within the frames above",
    "33 33 34 33": "the same with 33h added",
    "68 0B 0B 68 53 FD 52": "the front of a selection; whole below it",
    "12 02 E8 03 E8 03 C0 01": "Pylontech CAN: no CAN here, its Modbus families are pylontech/*",
    "03 14 83 FF E7 00": "Pylontech CAN, as well",
}


def run(command: str, text: str) -> Json:
    outcome = CliRunner().invoke(decode, [*command.split(), text, "--json"])
    assert outcome.exit_code == 0, outcome.output
    found: Json = json.loads(outcome.stdout)
    return found


@pytest.mark.parametrize(
    ("command", "text", "frame", "values"), EXAMPLES, ids=[f"{c} {t[:40]}" for c, t, *_ in EXAMPLES]
)
def test_the_example_decodes_as_written(command: str, text: str, frame: Json, values: list[tuple[Any, str]]) -> None:
    found = run(command, text)
    said = {**found.get("frame", {}), **{k: v for r in found["readings"] for k, v in r.items() if k == "time"}}
    assert {key: said.get(key) for key in frame} == frame
    shown = [(r["value"], r["unit"]) for r in found["readings"]]
    assert shown[: len(values)] == values
    if not values:
        assert not shown


def test_the_check_value_of_the_crc() -> None:
    assert crc16(b"123456789") == 0x4B37 and crc16(b"123456789").to_bytes(2, "little") == bytes.fromhex("37 4B")


def test_the_sunspec_example(tmp_path: Path) -> None:
    """Model 103 of length 50 at 40002: W 04D2 with factor 0001 is 12 340 W, Hz 1386 with FFFE is 49.98 Hz."""
    body = [0xFFFF] * 50
    body[12], body[13], body[14], body[15] = 0x04D2, 0x0001, 0x1386, 0xFFFE
    registers = [0x5375, 0x6E53, 0x0067, 0x0032, *body, 0xFFFF, 0]
    file = tmp_path / "image.json"
    file.write_text(json.dumps({"base_address": 40000, "registers": registers}))
    model = run("sunspec", str(file))["models"][0]
    assert (model["id"], model["length"]) == (103, 50)
    assert (model["points"]["W"], model["points"]["Hz"], model["points"]["A"]) == (12340, 49.98, None)


def test_the_accumulator_rolls_over_before_scaling(tmp_path: Path) -> None:
    """4294967200 to 150 is 246."""
    file = tmp_path / "series.json"
    series = [["2026-11-24T00:00:00Z", 4294967200], ["2026-11-24T00:15:00Z", 150]]
    file.write_text(json.dumps({"unit": "Wh", "bits": 32, "resolution": 1, "points": series}))
    (step,) = run("counter", str(file))["steps"]
    assert (step["increment"], step["kind"]) == (246, "rollover")


def test_the_minus_of_mbus_bcd() -> None:
    """F in the top nibble: 02 00 F0 as 6 digits of a temperature difference with 10^-1 K is -0.2 K."""
    (reading,) = parse(bytes.fromhex("0B 62 02 00 F0"), 4).readings
    assert (str(reading.value), reading.unit) == ("-0.2", "K")
