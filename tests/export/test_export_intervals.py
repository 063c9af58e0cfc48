"""Intervals as CSV, from a store at rest and from a running agent: every number as the rows have it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from agent.intervals.gap_sums import GapRow
from agent.intervals.query import query
from agent.intervals.rows import Flag
from agent.service.control.export import COLUMNS
from agent.service.results.rebuild import new_pages
from agent.store import NewGaps, Store
from tests.kits.exports import BASE, Gateway
from tests.kits.ledger import START, Book, Packs, point, table

pytestmark = pytest.mark.process

Mh = Callable[..., tuple[int, str, str]]


def life() -> Packs:
    """Three hours of a meter with a gauge, a silence of 40 minutes in the second."""
    packs = Packs(
        table(
            point("ac.energy.import", source={"scale": "0.01"}),
            point("ac.power.active", "gauge", "kW", source={"scale": "0.1"}),
        )
    )
    level = Decimal(123_456_789)
    for minute in range(190):
        level += Decimal("0.25")
        silent = 65 <= minute < 105
        t = packs.to_ms
        packs.pack([] if silent else [(t, "ac.energy.import", level, ""), (t, "ac.power.active", minute, "")])
    return packs


def keep(store: Store, stream: str) -> Book:
    book = Book()
    book.read(life().bodies)
    fourth = sorted({row.start_ms for row in query(book, 0, 1 << 50)})[4]
    gaps = [GapRow(fourth, "timeout", 600_000, 600_000), GapRow(fourth, "crc", 1500, 0)]
    store.intervals.add(new_pages(stream, book.made, book.calendar), {}, gaps=[NewGaps(stream, gaps)])
    return book


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_row_and_every_digit(gateway: Gateway, mh: Mh, tmp_path: Path) -> None:
    gateway.seal(1)
    book = gateway.keep(lambda store: keep(store, f"{BASE}/inv1"))
    flat, people = tmp_path / "flat.csv", tmp_path / "people.csv"
    code, out, err = mh("export", "--intervals", people, "--intervals-flat", flat, "-c", gateway.config)
    assert code == 0, err
    wanted = list(query(book, 0, 1 << 50))
    assert f"{flat}: {len(wanted)} rows" in out and len(wanted) == 24
    found = rows_of(flat)
    assert tuple(found[0]) == COLUMNS
    for row, cells in zip(wanted, found, strict=True):
        assert (cells["site"], cells["gateway"], cells["device"], cells["point"]) == (
            "park7",
            "gw01",
            "inv1",
            row.point,
        )
        assert round(datetime.fromisoformat(cells["start_utc"]).timestamp() * 1000) == row.start_ms
        assert datetime.fromisoformat(cells["start_local"]) == datetime.fromisoformat(cells["start_utc"])
        assert cells["start_utc"].endswith("Z") and cells["start_local"].endswith("+08:00")
        for column, value in (("amount", row.amount), ("low", row.low), ("mean", row.mean), ("demand", row.demand)):
            assert (cells[column] == "") if value is None else (Decimal(cells[column]) == value)
            assert not set(cells[column]) & set(" ,eE"), "no separators of thousands, no exponents"
        assert int(cells["flags"]) == row.flags and Decimal(cells["completeness"]) == row.completeness
        assert (int(cells["readings"]), int(cells["revision"])) == (row.readings, row.revision)
    lacking = {cells["start_utc"]: cells["missing_ms"] for cells in found if cells["missing_ms"]}
    assert list(lacking.values()) == ["crc:1500 timeout:600000"], "of both points, once a start"
    spread = [cells for cells in found if "spread" in cells["flag_names"]]
    assert spread and all(int(cells["flags"]) & Flag.SPREAD for cells in spread)
    energy = next(cells for cells in found if cells["point"] == "ac.energy.import")
    assert (energy["first_value"], energy["unit"], energy["role"], energy["flow"]) == (
        "123456789.25", "kWh", "grid", "import",
    )  # fmt: skip


def test_what_people_get(gateway: Gateway, mh: Mh, tmp_path: Path) -> None:
    gateway.seal(1)
    gateway.keep(lambda store: keep(store, f"{BASE}/inv1"))
    path = tmp_path / "people.csv"
    stretch = ["--from", datetime.fromtimestamp(START / 1000 + 900).astimezone().isoformat(), "--stream", "inv1"]
    code, _, err = mh("export", "--intervals", path, *stretch, "-c", gateway.config)
    assert code == 0, err
    assert path.read_bytes().startswith(b"\xef\xbb\xbf"), "a spreadsheet sees that it is UTF-8"
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["from"] == "2026-11-24 14:15:00" and rows[0]["to"] == "2026-11-24 14:30:00"
    assert (rows[0]["amount"], rows[0]["unit"], rows[0]["known"]) == ("3.75", "kWh", "1")
    assert not list(tmp_path.glob(".*.new"))


def test_what_is_not_there_is_said_and_leaves_no_file(gateway: Gateway, mh: Mh, tmp_path: Path) -> None:
    gateway.seal(1)
    path = tmp_path / "x.csv"
    code, _, err = mh("export", "--intervals", path, "-c", gateway.config)
    assert code == 1 and "the database has no intervals in this time range" in err
    gateway.keep(lambda store: keep(store, f"{BASE}/inv1"))
    code, _, err = mh("export", "--intervals", path, "--stream", "inv9", "-c", gateway.config)
    assert code == 2 and "no device 'inv9'. Known: births, inv1" in err
    code, _, err = mh("export", "-c", gateway.config)
    assert code == 2 and "--csv, --intervals or --intervals-flat" in err
    assert not list(tmp_path.glob("*x.csv*"))
