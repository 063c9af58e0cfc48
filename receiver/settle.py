"""Completeness of packs that could not be settled alone: their birth came later, or they are parts of one tick."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb

from agent.verify.pack import Pack
from agent.verify.point_table import Completeness, PointTable
from agent.verify.readings import check_units
from receiver.bodies import Bodies, reread
from receiver.chains import SETTLE_LOCK
from receiver.database import Connection, statement
from receiver.judge import points_hash

AT_ONCE: Final = 200  # packs, or ticks in parts, of one transaction

_WHOLE: Final = """
SELECT p.stream, p.seq, p.boot, p.from_ms, p.signer, p.body, t.value FROM packs p
JOIN births b ON b.hash = p.birth JOIN point_tables t ON t.hash = b.points
WHERE p.due IS NULL AND p.part IS NULL ORDER BY p.stream, p.boot, p.from_ms LIMIT %s FOR UPDATE OF p SKIP LOCKED"""
_TICKS: Final = """
SELECT p.stream, p.boot, p.seq - p.part AS base, t.value FROM packs p
JOIN births b ON b.hash = p.birth JOIN point_tables t ON t.hash = b.points
WHERE p.due IS NULL AND p.part IS NOT NULL GROUP BY p.stream, p.boot, p.seq - p.part, p.from_ms, p.parts, t.value
HAVING count(*) = p.parts LIMIT %s"""
_PARTS: Final = """
SELECT stream, seq, boot, from_ms, signer, body, faults FROM packs
WHERE stream = %s AND boot = %s AND seq - part = %s AND due IS NULL AND part IS NOT NULL ORDER BY seq FOR UPDATE"""
_SETTLED: Final = """
UPDATE packs SET due = %s, gaps = %s, asleep = %s, reasons = %s, faults = %s
WHERE stream = %s AND seq = %s AND boot = %s AND from_ms = %s"""
_AGAIN: Final = """
CREATE TEMP TABLE new ON COMMIT DROP AS
SELECT p.stream, p.seq, p.boot, p.from_ms, p.readings, p.due, p.gaps, p.asleep, p.reasons, p.faults
FROM packs p JOIN settled s USING (stream, seq, boot, from_ms)
WHERE EXISTS (SELECT FROM lots l WHERE l.lot = p.lot AND l.checked IS NOT NULL)"""


def settle_late(connection: Connection) -> int:
    """Settle some of what waits. Returns how many packs were settled."""
    tables: dict[bytes, PointTable] = {}
    bodies = Bodies(connection)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SETTLE_LOCK])
        rows = cursor.execute(_WHOLE, [AT_ONCE]).fetchall()
        done = [_settle([row[:6]], _table(tables, row[6]), bodies, cursor) for row in rows]
        ticks = cursor.execute(_TICKS, [AT_ONCE]).fetchall()
        for stream, boot, base, value in ticks:
            parts = cursor.execute(_PARTS, [stream, boot, base]).fetchall()
            if parts:
                done.append(_settle([row[:6] for row in parts], _table(tables, value), bodies, cursor))
        settled = [key for keys in done for key in keys]
        if settled:
            _count(cursor, settled)
    return len(settled)


def _table(tables: dict[bytes, PointTable], value: dict[str, Any]) -> PointTable:
    key = points_hash(value)
    if key not in tables:
        tables[key] = PointTable(value)
    return tables[key]


def _settle(
    rows: list[tuple[Any, ...]], table: PointTable, bodies: Bodies, cursor: psycopg.Cursor[Any]
) -> list[tuple[int, int, int, int]]:
    """One pack, or all parts of a tick: the sum stands at the first of them."""
    packs = [reread(bodies.read(bytes(row[5])), row[4]) for row in rows]
    balance, fault = _balance(packs, table)
    for place, row in enumerate(rows):
        own = balance if place == 0 and fault is None else Completeness()
        cursor.execute(
            _SETTLED,
            [own.due, sum(own.gaps.values()), own.gaps.get("asleep", 0), Jsonb(own.gaps) if own.gaps else None,
             [fault] if fault else None, row[0], row[1], row[2], row[3]],
        )  # fmt: skip
    if fault:
        cursor.execute(
            "INSERT INTO findings (stream, seq, boot, code) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [*rows[0][:3], fault],
        )
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def _balance(packs: list[Pack], table: PointTable) -> tuple[Completeness, str | None]:
    if any(check_units(pack.records.pairs, table) for pack in packs):
        return Completeness(), "rule"
    counts: Counter[str] = Counter()
    for pack in packs:
        counts.update(pack.records.names)
    link = packs[0].link
    gaps = tuple(gap for pack in packs for gap in pack.gaps)
    balance = table.balance(counts, gaps, link.from_ms, link.to_ms)
    return balance, "due" if balance.faults else None


def _count(cursor: psycopg.Cursor[Any], settled: list[tuple[int, int, int, int]]) -> None:
    """Add them to the sums by day, unless the check of their lot is still to come and does it."""
    cursor.execute("CREATE TEMP TABLE settled (stream bigint, seq bigint, boot bigint, from_ms bigint) ON COMMIT DROP")
    cursor.executemany("INSERT INTO settled VALUES (%s, %s, %s, %s)", settled)
    cursor.execute(_AGAIN)
    cursor.execute(statement("days"))
    cursor.execute(statement("gap_days"))
