"""Intervals on their way into CSV: for programs (all columns, UTC and local) or for people (local time, words)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.cli.answers import check_row
from agent.cli.csv_cells import safe_cell
from agent.cli.exporting import CsvDraft

# What people see: heading, column of the answer.
PEOPLE = (
    ("from", "start_local"), ("to", "end_local"), ("device", "device"), ("point", "point"), ("role", "role"),
    ("flow", "flow"), ("amount", "amount"), ("unit", "unit"), ("known", "completeness"), ("remarks", "flag_names"),
    ("reading before", "first_value"), ("reading after", "last_value"), ("lowest", "low"), ("highest", "high"),
    ("mean", "mean"), ("demand", "demand"), ("of", "gauge_unit"),
)  # fmt: skip


class IntervalTable(CsvDraft):
    """One file of intervals. ``flat``: for programs."""

    def __init__(self, path: Path, flat: bool) -> None:
        from agent.service.control.export import COLUMNS

        self._columns = len(COLUMNS)
        self._places = None if flat else [COLUMNS.index(column) for _, column in PEOPLE]
        head = COLUMNS if flat else [heading for heading, _ in PEOPLE]
        # the mark tells spreadsheets that it is UTF-8; programs may stumble over it
        super().__init__(path, head, "utf-8" if flat else "utf-8-sig", "\n")

    def add(self, part: bytes) -> None:
        """Rows as ``agent.service.control.export`` sends them."""
        self.check_room()
        for line in part.split(b"\n"):
            cells = check_row(line, self._columns)
            self._writer.writerow(cells if self._places is None else _for_people(cells, self._places))
            self.rows += 1


def _for_people(cells: Sequence[Any], places: Sequence[int]) -> list[Any]:
    out = []
    for (heading, _), place in zip(PEOPLE, places, strict=True):
        cell = cells[place]
        if heading in ("from", "to"):
            cell = f"{str(cell)[:10]} {str(cell)[11:19]}"  # as spreadsheets read it; the offset is in the flat table
        out.append(safe_cell(cell))
    return out
