"""What people see of ``meterhouse decode`` for meters: lines on stdout, complaints on stderr, help that helps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.decode import decode
from drivers.registry import all_protocols

ENERGY = "6861010000000068910833333433AB8967457816"
WATER = "68104433221100337881161F9000563412002C000012002C3015222411262000FFFA16"
MBUS = "681f1f680802727856341224400107550000000313153100da023b13018b60043718021816"


@pytest.mark.parametrize(
    ("command", "text", "shown"),
    [
        ("dlt645", ENERGY, ["address=000000000161", "ac.energy.import", "123456.78 kWh", "正向有功总电能"]),
        ("cjt188", WATER, ["address=78330011223344", "water.volume", "1234.56 m3"]),
        ("mbus", MBUS, ["identity=12345678", "water.volume", "12.565 m3", "function maximum"]),
    ],
)
def test_frames_are_shown_as_lines(command: str, text: str, shown: list[str]) -> None:
    outcome = CliRunner().invoke(decode, [command, text])
    assert outcome.exit_code == 0
    assert all(words in outcome.stdout for words in shown)


def test_files_are_shown_as_lines(tmp_path: Path) -> None:
    series, image = tmp_path / "series.json", tmp_path / "image.json"
    series.write_text(json.dumps({"unit": "kWh", "digits": 5, "points": [["t0", 99999], ["t1", 12]]}))
    image.write_text(json.dumps({"registers": [0x5375, 0x6E53, 1, 66, *([0x4142] * 64), 7, 0x8000]}))
    shown = CliRunner().invoke(decode, ["counter", str(series)])
    assert shown.stdout.split() == ["t1", "13", "rollover"]
    shown = CliRunner().invoke(decode, ["sunspec", str(image)])
    assert "model 1 at 40002, 66 registers" in shown.stdout
    assert "no end model" in shown.stderr
    piped = CliRunner().invoke(decode, ["counter", "-"], input=series.read_text())
    assert piped.stdout.split() == ["t1", "13", "rollover"]


@pytest.mark.parametrize("command", ["dlt645", "cjt188", "mbus", "iec62056"])
def test_a_complaint_goes_to_stderr_with_exit_code_4(command: str) -> None:
    outcome = CliRunner().invoke(decode, [command, "00 01 02"])
    assert (outcome.exit_code, outcome.stdout) == (4, "")
    assert outcome.stderr.startswith("cannot decode: no frame")
    assert CliRunner().invoke(decode, [command]).exit_code == 2


@pytest.mark.parametrize("command", ["counter", *(one.name for p in all_protocols() for one in p.all_explainers())])
def test_each_help_has_an_example_and_its_exit_codes(command: str) -> None:
    text = CliRunner().invoke(decode, [command, "--help"]).stdout
    assert f"meterhouse decode {command}" in text
    assert "Exit codes: 0" in text
    assert "--json" in text


def test_hex_may_come_in_any_usual_dress() -> None:
    spaced = [f"0x{ENERGY[i : i + 2]}," for i in range(0, len(ENERGY), 2)]
    assert CliRunner().invoke(decode, ["dlt645", *spaced]).exit_code == 0
    assert CliRunner().invoke(decode, ["dlt645", ":".join(spaced)]).exit_code == 0


def test_text_from_a_device_is_made_safe(tmp_path: Path) -> None:
    image = tmp_path / "image.json"
    name = [0x1B5B, 0x324A, *([0] * 62)]
    image.write_text(json.dumps({"registers": [0x5375, 0x6E53, 1, 66, *name, 7, 0x8000, 0xFFFF, 0]}))
    for arguments in ([str(image)], [str(image), "--json"]):
        assert "\x1b" not in CliRunner().invoke(decode, ["sunspec", *arguments]).stdout
    body = bytes.fromhex("0800780D78061B5B32 4A4142".replace(" ", ""))
    frame = bytes((0x68, len(body), len(body), 0x68)) + body + bytes((sum(body) & 0xFF, 0x16))
    assert "\x1b" not in CliRunner().invoke(decode, ["mbus", frame.hex()]).stdout
