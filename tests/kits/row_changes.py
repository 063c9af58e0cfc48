"""Random changes of single values in a database file, as a failing disk or a person with an editor makes them."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

KINDS = ("bit", "value", "type", "null", "swap", "delete", "duplicate")
Row = dict[str, Any]


class Change(NamedTuple):
    """A change: ``what`` says it in words."""

    table: str
    column: str
    kind: str
    what: str


def key_of(conn: sqlite3.Connection, table: str) -> list[str]:
    """Return the columns that identify a row."""
    facts = conn.execute(f'PRAGMA table_info("{table}")').fetchall()
    return [name for _, name, *_, place in sorted(facts, key=lambda fact: fact[5]) if place]


def flipped(value: Any, dice: random.Random) -> Any:
    """Return the value with another bit."""
    if isinstance(value, int):
        return value ^ 1 << dice.randrange(max(value.bit_length(), 8))
    if isinstance(value, float):
        return value + 1
    raw = bytearray(value.encode() if isinstance(value, str) else value)
    raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(7 if isinstance(value, str) else 8)
    return raw.decode("utf-8", "replace") if isinstance(value, str) else bytes(raw)


def other(value: Any, dice: random.Random) -> Any:
    """Return another value of the same type."""
    if isinstance(value, int):
        return dice.choice([0, -1, 1, value + 1, value - 1, dice.getrandbits(20), dice.getrandbits(62)])
    if isinstance(value, str):
        return dice.choice([value[:-1], value + "x", value.upper()])
    return dice.randbytes(len(value)) if isinstance(value, bytes) else value


def of_another_type(value: Any) -> Any:
    if isinstance(value, int):
        return f"x{value}"
    if isinstance(value, str):
        return value.encode()
    return value.hex() if isinstance(value, bytes) else str(value)


def change_one(path: Path, dice: random.Random, columns: Sequence[tuple[str, str]] = ()) -> Change:
    """Change one value in the file, or a row. ``columns``: (table, column) that may be changed; empty: any."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.row_factory = sqlite3.Row
        places = list(columns) or places_of(conn)
        while True:
            table, column = dice.choice(places)
            rows: list[Row] = [dict(row) for row in conn.execute(f'SELECT * FROM "{table}"')]
            if not rows:
                continue
            row, kind = dice.choice(rows), dice.choice(KINDS)
            try:
                what = _apply(conn, dice, table, column, kind, row, rows)
            except (sqlite3.IntegrityError, OverflowError):
                continue  # SQLite refuses this value there
            if what:
                return Change(table, column, kind, f"{kind} in {table}.{column}: {what}")


def places_of(conn: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return (table, column) of all tables with rows."""
    names = conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    return [
        (table, fact[1])
        for (table,) in map(tuple, names)
        if not table.startswith(("sqlite_", "_")) and conn.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
        for fact in conn.execute(f'PRAGMA table_info("{table}")')
    ]


def _apply(
    conn: sqlite3.Connection, dice: random.Random, table: str, column: str, kind: str, row: Row, rows: Sequence[Row]
) -> str:
    key, value = key_of(conn, table), row[column]
    where, at = " AND ".join(f'"{name}" IS ?' for name in key), [row[name] for name in key]
    if kind == "delete":
        conn.execute(f'DELETE FROM "{table}" WHERE {where}', at)
        return f"row {at}"
    if kind == "duplicate":
        copy = {**row, key[-1]: other(row[key[-1]], dice)}
        marks = ", ".join("?" * len(copy))
        conn.execute(f'INSERT INTO "{table}" VALUES ({marks})', list(copy.values()))
        return f"row {at} as {[copy[name] for name in key]}"
    if kind == "swap":
        second = dice.choice(rows)
        if second[column] == value or column in key:
            return ""
        conn.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE {where}', [second[column], *at])
        conn.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE {where}', [value, *(second[name] for name in key)])
        return f"rows {at} and {[second[name] for name in key]}"
    new = _new_value(dice, kind, 0 if value is None else value)
    if new == value and type(new) is type(value):
        return ""
    conn.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE {where}', [new, *at])
    return f"row {at}, {_shown(row[column])} -> {_shown(new)}"


def _new_value(dice: random.Random, kind: str, value: Any) -> Any:
    if kind == "null":
        return None
    if kind == "type":
        return of_another_type(value)
    return other(value, dice) if kind == "value" or not (isinstance(value, int) or value) else flipped(value, dice)


def _shown(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) and len(value) > 8 else repr(value)
