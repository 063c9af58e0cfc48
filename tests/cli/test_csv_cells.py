"""What a spreadsheet could take for a formula is text in every CSV that we write for people."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path

import pytest

from agent.cli.common import clean
from agent.cli.export import PEOPLE, IntervalsCsv, ReadingsCsv
from agent.cli.output_files import FORMULA, safe_cell
from agent.cli.report.command import _write_csv
from agent.service.control.export import COLUMNS
from agent.service.control.protocol import Export

ATTACK = 'cmd|" /C calc"!A0'


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.open(encoding="utf-8-sig", newline="")))


@pytest.mark.parametrize("mark", FORMULA)
def test_no_text_is_a_formula(mark: str, tmp_path: Path) -> None:
    """Also by the full-width characters that an East Asian keyboard types."""
    text = mark + ATTACK
    assert safe_cell(text) == f"'{clean(text)}"
    _write_csv(tmp_path / "report.csv", ("title", "value"), [[text, "-12.5"]])
    assert rows(tmp_path / "report.csv")[1] == [f"'{clean(text)}", "-12.5"]


@pytest.mark.parametrize("mark", [mark for mark in FORMULA if mark.isprintable()])
def test_readings_and_intervals_of_an_export(mark: str, tmp_path: Path) -> None:
    text = mark + ATTACK
    stretch = {"from": 1795500900, "to": 1795500901}
    pack = {"stream": "park7/gw01/inv1", **stretch, "e": [{"bt": 1795500900, "n": "device.model", "vs": text}]}
    with ReadingsCsv(tmp_path / "readings.csv", Export(from_ms=0, to_ms=1 << 52)) as table:
        table.add("packs/inv1.packs.jsonl", [json.dumps(pack).encode()])
        table.keep()
    assert rows(tmp_path / "readings.csv")[1][3] == f"'{text}"
    cells = {**dict.fromkeys(COLUMNS, ""), "start_local": "2026-11-24T00:00:00", "end_local": "2026-11-24T00:15:00"}
    cells |= {"role": text, "amount": "-1.5", "unit": text}
    with IntervalsCsv(tmp_path / "intervals.csv", flat=False) as intervals:
        intervals.add(json.dumps([cells[column] for column in COLUMNS]).encode())
        intervals.keep()
    row = dict(zip([heading for heading, _ in PEOPLE], rows(tmp_path / "intervals.csv")[1], strict=True))
    assert (row["role"], row["unit"], row["amount"]) == (f"'{text}", f"'{text}", "-1.5")


@pytest.mark.parametrize(
    "value", ["-12.5", "+3", "1e-7", "-1.5E+20", "", "a=b", "3-4", -12.5, Decimal("-1"), None, True]
)
def test_numbers_and_other_text_stay_what_they_are(value: object) -> None:
    assert safe_cell(value) is value


def test_every_writer_of_csv_uses_it() -> None:
    """So that the next command that writes CSV does not forget."""
    agent = Path(__file__).resolve().parents[2] / "agent"
    writers = [
        path for path in agent.rglob("*.py") if "csv.writer(" in path.read_text() or "CsvDraft)" in path.read_text()
    ]
    assert {path.name for path in writers} == {"output_files.py", "export.py"}
    assert all("safe_cell(" in path.read_text() for path in writers)
