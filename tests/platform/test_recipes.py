"""Every SQL recipe of docs/platform.md gives what was counted by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from receiver.database import connect, stream_id
from tests.kits import recipes as made

PACK = "stream, seq, boot, from_ms, to_ms, hash, birth, signer, lot, is_birth, first, body, readings"
REST = "gen_random_uuid(), gen_random_uuid(), 1, 1, false, false, ''"


@pytest.fixture
def answers(dsn: str) -> dict[str, list[Any]]:
    with connect(dsn) as connection, connection.cursor() as cursor:
        fill(cursor)
        return {title: cursor.execute(sql.encode()).fetchall() for title, sql in made.recipes("PostgreSQL").items()}


def fill(cursor: Any) -> None:
    """The made rows of tests.kits.recipes."""
    names = sorted({row[0] for row in made.PACKS} | {f"{row[0]}/_indicators" for row in made.FIGURES})
    for name in names:
        gateway = name.rpartition("/")[0]
        cursor.execute("INSERT INTO streams VALUES (%s, %s, %s)", [stream_id(name), name, gateway])
        cursor.execute("INSERT INTO pins (gateway, thumbprint) VALUES (%s, 'x') ON CONFLICT DO NOTHING", [gateway])
    for name, seq, low, high, due, readings, gaps, asleep in made.PACKS:
        times = [made.MONDAY_MS + hours * 3_600_000 for hours in (low, high)]
        cursor.execute(
            f"INSERT INTO packs ({PACK}, due, gaps, asleep) VALUES (%s, %s, 1, %s, %s, {REST}, %s, %s, %s, %s)",
            [stream_id(name), seq, *times, readings, due, gaps, asleep],
        )
    cursor.execute(
        "INSERT INTO days SELECT stream, day_of(from_ms), count(*), sum(readings), sum(due), sum(gaps), sum(asleep) "
        "FROM packs GROUP BY 1, 2"
    )
    cursor.execute(
        "INSERT INTO boots (stream, boot, begun, line, seqs, from_ms, to_ms) SELECT stream, 1, true, 1, "
        "range_agg(int8range(seq, seq, '[]')), min(from_ms), max(to_ms) FROM packs GROUP BY 1"
    )
    for number, (name, point, seconds, value, unit, quality) in enumerate(made.READINGS, 100):
        key = [stream_id(name), number, made.MONDAY_MS + seconds * 1000]
        cursor.execute(
            "INSERT INTO layouts VALUES (md5(%s)::uuid, array[%s], array[%s]) ON CONFLICT DO NOTHING",
            [point + unit, point, unit],
        )
        cursor.execute(
            "INSERT INTO reading_blocks VALUES (%s, %s, 9, %s, md5(%s)::uuid, array[0], array[%s::float8], %s)",
            [*key, point + unit, value, json.dumps({"1": {"q": quality}}) if quality else None],
        )
        cursor.execute(f"INSERT INTO packs ({PACK}) VALUES (%s, %s, 9, %s, 0, {REST}, 1)", key)
    for gateway, name, period, label, low, high, value, unit, known, seq in made.FIGURES:
        times = [made.FIGURES_FROM_MS + days * made.DAY_MS for days in (low, high)]
        cursor.execute(
            "INSERT INTO figures VALUES (%s, %s, 1, 'figure', %s, %s, %s, %s, %s, %s, %s, %s, '', true, '{}')",
            [stream_id(f"{gateway}/_indicators"), seq, name, period, label, *times, value, unit, known],
        )


def test_the_page_has_the_same_recipes_for_both(dsn: str) -> None:
    titles = ["Completeness", "Days against the month", "The first reading of a day", "Mean by minute"]
    assert [*made.recipes("PostgreSQL")] == [*titles, "Carbon by site and month over a fleet"]
    assert [*made.recipes("ClickHouse")] == [*titles, "Carbon by site and month"]


def test_postgresql(answers: dict[str, list[Any]]) -> None:
    rows = iter(answers.values())
    assert [(g, str(d), int(r), int(w), float(p)) for g, d, r, w, p in next(rows)] == made.COMPLETENESS
    assert [tuple(_plain(cell) for cell in row) for row in next(rows)] == made.DEVIATIONS
    assert [(s, p, str(d), late) for s, p, d, first, late in next(rows)] == made.LATE
    assert [(at.astimezone(UTC).strftime("%H:%M"), *rest) for at, *rest in next(rows)] == made.MINUTES
    assert [tuple(_plain(cell) for cell in row) for row in next(rows)] == made.CARBON


def test_a_silent_gateway_counts_until_now(dsn: str) -> None:
    """Field pain 38: where nothing comes nothing is counted, and the day looks whole."""
    with connect(dsn) as connection, connection.cursor() as cursor:
        fill(cursor)
        query = made.recipes("PostgreSQL", "2020-11-05", "2020-11-06")["Completeness"]
        rows = cursor.execute(query.encode()).fetchall()
        assert sorted({(row[0], int(row[2]), int(row[3])) for row in rows}) == [
            ("park7/gw01", 0, 2400), ("park7/gw02", 0, 2400), ("park8/gw03", 0, 2400)
        ]  # fmt: skip
        today = datetime.now(UTC).date()
        cursor.execute("SELECT max(day) FROM missing_days")
        assert cursor.fetchall()[0][0] <= today


def _plain(cell: Any) -> Any:
    return cell if cell is None or isinstance(cell, str | int) else round(float(cell), 4)
