"""Whole columns added by the kernel say what the rows say that went into the pages, one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.intervals.balance import wants
from agent.intervals.calendar import Calendar
from agent.intervals.meters import MeterSums
from agent.intervals.page_format import Cell, Column, PageSchema, Row
from agent.intervals.rows import FLAW, Flag
from agent.intervals.sums import sums
from tests.kits.memory_book import MemoryBook

CUT = Calendar("Europe/Berlin")
START, END = CUT.stretch("day", 1_795_600_000_000)  # 2026-11-25
LENGTH = 900_000
STREAM = "park7/gw01/m1"
SHAPE = PageSchema(
    (
        Column("a.energy.import", "counter", "kWh", -2, "a", "load.hall", "", "consumption"),
        Column("b.energy.import", "counter", "Wh", 1, "b", "load.hall", "", "consumption"),  # same place, other counts
        Column("b.energy.import.l1", "counter", "Wh", 1, "b", "load.hall"),  # no flow: in no sum
        Column("c.power", "gauge", "kW", -1, "c", "storage", "", "charge,discharge"),
        Column("d.energy.import", "counter", "kWh", -2, "d", "load.hall", "", "consumption", "2"),
    ),
    LENGTH,
    60_000,
)
NAMES = {"counter": (("consumption", "amount"),), "gauge": (("charge", "above"), ("discharge", "below"))}
BIG = st.one_of(st.integers(0, 5), st.integers(-(10**9), 10**9), st.integers(-(1 << 60), 1 << 60))


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    flags = draw(st.sampled_from([0, 0, 0, 0, 1, 2, 3, 8, 16, 4096, 8191]))
    fields = ["amount", "lack", "above", "below", "first_value", "last_value", "first_back", "last_back"]
    found = {name: draw(BIG) for name in fields if draw(st.booleans())}
    found |= {name: abs(found[name]) for name in ("above", "below", "lack") if name in found}
    if "lack" in found:
        found["lack"] %= LENGTH + 1
    return {"flags": flags + 1} | found


@st.composite
def pages(draw: st.DrawFn) -> list[list[Row]]:
    """A day in several pages, quiet or with holes; perhaps a page of corrections."""
    numbers, quiet = range(len(SHAPE.columns)), draw(st.booleans())
    out: list[list[Row]] = [[]]
    first = draw(st.integers(0, 90))
    for n in range(first, min(96, first + draw(st.integers(1, 12)))):
        if not quiet and draw(st.integers(0, 9)) == 0:
            continue
        known = {k: draw(cells()) for k in numbers if quiet or draw(st.integers(0, 4))}
        at, turn = START + n * LENGTH, 0 if quiet else draw(st.sampled_from([0, 0, 0, 1]))
        out[-1].append(Row(at, at + LENGTH, 0, turn, 2 * n + 5, 2 * n + 7 + draw(st.integers(0, 3)), known))
        if draw(st.integers(0, 5)) == 0:
            out.append([])
    late = [row for page in out for row in page if not quiet and draw(st.integers(0, 3)) == 0]
    changed = ({k: draw(cells()) for k in numbers if draw(st.booleans())} for _ in late)
    out.append([Row(r.start_ms, r.end_ms, 1, r.turn, 3, 400, more) for r, more in zip(late, changed, strict=True)])
    return [page for page in out if page]


class Said(NamedTuple):
    """What one known cell says of one flow."""

    row: Row
    column: Column
    flow: str
    amount: int
    flags: int
    covered: int


def said(made: list[list[Row]]) -> list[Said]:
    """All that counts, in order of time: of several revisions the last one of which something is known."""
    newest: dict[tuple[int, int, int], Row] = {}
    for page in made:
        for row in page:
            for k in row.cells:
                key = row.start_ms, row.turn, k
                if key not in newest or newest[key].revision <= row.revision:
                    newest[key] = row
    out = []
    for (_, _, k), row in sorted(newest.items(), key=lambda item: item[0]):
        column, cell = SHAPE.columns[k], row.cells[k]
        for flow, name in NAMES[column.kind] if column.flow else ():
            flags = cell["flags"] - 1 | (Flag.POWER if column.kind == "gauge" else 0)
            out.append(Said(row, column, flow, cell.get(name, 0), int(flags), LENGTH - cell.get("lack", 0)))
    return out


def worth(one: Column, amount: int) -> Decimal:
    """In kWh."""
    if one.kind == "gauge":
        return (Decimal(amount).scaleb(one.exponent) / 3_600_000).quantize(Decimal("1e-6"))
    return Decimal(amount).scaleb(one.exponent - 3) / (1000 if one.unit == "Wh" else 1)


def flawed(mine: Iterable[Said]) -> list[Said]:
    return [one for one in mine if one.flags & FLAW]


def filled(made: list[list[Row]]) -> MemoryBook:
    memory = MemoryBook()
    for page in made:
        memory.add(STREAM, SHAPE, page)
    return memory


@given(pages(), st.sampled_from(["interval", "hour", "day", "all"]), st.sampled_from(["each", "whole"]))
def test_sums_of_columns_are_those_of_their_cells(made: list[list[Row]], by: str, trail: str) -> None:
    found = sums(filled(made), CUT, START, END, by, trail=trail)  # type: ignore[arg-type]
    newest = max((row.end_ms for page in made for row in page), default=START)
    truth: dict[tuple[int, str, str], list[Said]] = defaultdict(list)
    stretches = [(START, END)] if by == "all" else list(CUT.stretches(by, START, END))
    for one in said(made):
        start = next(start for start, end in stretches if start <= one.row.start_ms < end)
        truth[start, one.column.role, one.flow].append(one)
    points = {"load.hall": 3, "storage": 1}
    everywhere: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for (_, role, flow), mine in truth.items():
        for one in mine:
            everywhere[role, flow][one.column.point].append(one.row)
    for s in found:
        mine = truth.pop((s.start_ms, s.role, s.flow), [])
        due = (min(s.end_ms, newest) - s.start_ms) * points[s.role]
        covered = min(sum(one.covered for one in mine), due)
        assert s.amount == sum((worth(one.column, one.amount) for one in mine), Decimal(0))
        assert s.estimated == sum((worth(one.column, one.amount) for one in flawed(mine)), Decimal(0))
        assert s.completeness == Decimal(covered * 1_000_000 // due) / 1_000_000
        flags = 0
        for one in mine:
            flags |= one.flags
        assert s.flags == Flag(flags) | (Flag.INCOMPLETE if covered < due else Flag(0))
        rows = everywhere[s.role, s.flow]
        if trail == "each":
            rows = defaultdict(list)
            for one in mine:
                rows[one.column.point].append(one.row)
        packs = {p: (min(r.first_seq for r in some), max(r.last_seq for r in some)) for p, some in rows.items()}
        if mine:
            assert {one.point: (one.first_seq, one.last_seq) for one in s.sources} == packs
    assert not truth


@given(pages(), st.booleans())
def test_each_meter_is_the_sum_of_its_cells(made: list[list[Row]], is_fine: bool) -> None:
    stretches = list(CUT.intervals(START, END)) if is_fine else [(START, END)]
    meters = MeterSums(wants, len(stretches))
    sums(filled(made), CUT, START, END, roles=(), meters=[meters])
    for at, (start, end) in enumerate(stretches):
        truth: dict[tuple[str, str], list[Said]] = defaultdict(list)
        for one in said(made):
            if start <= one.row.start_ms < end:
                truth[one.column.point, one.flow].append(one)
        for m in meters.found(at):
            mine = truth.pop((m.key.point, m.key.flow), [])
            # an integrated power is rounded once here, and not interval by interval
            assert m.amount == worth(m.column, sum(one.amount for one in mine))
            assert m.flawed == worth(m.column, sum(one.amount for one in flawed(mine)))
            assert m.covered_ms == sum(one.covered for one in mine)
            flags = 0
            for one in mine:
                flags |= one.flags
            assert m.flags == Flag(flags)
            assert m.first_seq == min((one.row.first_seq for one in mine), default=0)
            assert m.last_seq == max((one.row.last_seq for one in mine), default=0)
            ends = (bool(one.flags & Flag.SPREAD) for one in (mine[0], mine[-1])) if mine else (False, False)
            assert m.ends_spread == tuple(ends)
        assert not truth


def test_a_page_of_a_thousand_intervals_at_the_edge_of_64_bits() -> None:
    """No sum is kept in less than it needs, and none becomes a float."""
    most = (1 << 62) - 1  # of an amount as it is kept
    rows = [
        Row(START + n * 60_000, START + (n + 1) * 60_000, 0, 0, 1, 1, {0: {"flags": 1, "amount": most}})
        for n in range(1000)
    ]
    meters = MeterSums(wants)
    fine = Calendar("Europe/Berlin", 60_000)
    (whole,) = sums(filled([rows]), fine, START, END, "day", roles=["load"], meters=[meters])
    exact = Decimal(1000 * most).scaleb(-5)
    assert whole.amount == exact == meters.found()[0].amount
    assert whole.amount == pytest.approx(Decimal("4.6e16"), rel=Decimal("0.01"))
