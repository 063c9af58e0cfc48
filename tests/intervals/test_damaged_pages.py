"""Pages of intervals that the disk has changed are made again from the packs; nothing stands still or is guessed."""

from __future__ import annotations

import logging
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agent.intervals.query import query
from agent.service.results.interval_builder import fold
from tests.intervals.test_cut_off import END, Gateway
from tests.kits.made_parks import HARMLESS, make

Conn = sqlite3.Connection


def one_bit(conn: Conn, rng: random.Random) -> None:
    number, body = rng.choice(conn.execute("SELECT id, body FROM interval_pages").fetchall())
    at = rng.randrange(len(body))
    changed = body[:at] + bytes([body[at] ^ 1 << rng.randrange(8)]) + body[at + 1 :]
    conn.execute("UPDATE interval_pages SET body = ? WHERE id = ?", (changed, number))


def cut_short(conn: Conn, rng: random.Random) -> None:
    conn.execute("UPDATE interval_pages SET body = substr(body, 1, 7) WHERE id % 3 = 0")


def as_text(conn: Conn, rng: random.Random) -> None:
    """A bit of the record's header makes a text of a blob: SQLite finds nothing wrong with it."""
    conn.execute("UPDATE interval_pages SET body = CAST(body AS TEXT) WHERE id = (SELECT min(id) FROM interval_pages)")


def all_pages(conn: Conn, rng: random.Random) -> None:
    conn.execute("UPDATE interval_pages SET body = x'00'")


def of_an_older_version(conn: Conn, rng: random.Random) -> None:
    """They have no checksum: what cannot be decoded is found."""
    conn.execute("UPDATE interval_pages SET crc = NULL, body = substr(body, 1, 7)")


def the_shape(conn: Conn, rng: random.Random) -> None:
    conn.execute("UPDATE interval_shapes SET body = replace(body, 'energy', 'enerGy')")


def no_shape(conn: Conn, rng: random.Random) -> None:
    conn.execute("DELETE FROM interval_shapes WHERE id = (SELECT min(id) FROM interval_shapes)")


def state_as_text(conn: Conn, rng: random.Random) -> None:
    conn.execute("UPDATE interval_states SET body = CAST(body AS TEXT)")


def state_as_other_text(conn: Conn, rng: random.Random) -> None:
    conn.execute("UPDATE interval_states SET body = 'readable'")
    all_pages(conn, rng)


def a_gap(conn: Conn, rng: random.Random) -> None:
    conn.execute("UPDATE interval_gaps SET ms = ms + 1 WHERE start_ms = (SELECT min(start_ms) FROM interval_gaps)")


def gap_of_another_time(conn: Conn, rng: random.Random) -> None:
    conn.execute("UPDATE interval_gaps SET start_ms = start_ms + 1 WHERE start_ms % 7 < 3")


def gaps_as_text(conn: Conn, rng: random.Random) -> None:
    conn.execute("UPDATE interval_gaps SET whole_ms = 'many', reason = CAST(reason AS BLOB)")


DAMAGE: dict[str, Callable[[Conn, random.Random], None]] = {
    f.__name__: f
    for f in (
        one_bit, cut_short, as_text, all_pages, of_an_older_version, the_shape, no_shape, state_as_text,
        state_as_other_text, a_gap, gap_of_another_time, gaps_as_text,
    )
}  # fmt: skip


def settle(gateway: Gateway) -> None:
    """As the agent's task does it, until nothing is left."""
    for _ in range(10):
        list(query(gateway.store.intervals, 0, END))  # a report, a figure: whoever reads
        gateway.gaps()
        if not gateway.store.intervals.damaged_pages:
            return
        gateway.builder.rebuild_damaged(gateway.store)
        gateway.follow()
    raise AssertionError("damaged pages stay")


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_pages_are_made_again(tmp_path: Path, how: str, folded: bool, caplog: pytest.LogCaptureFixture) -> None:
    park = make(31, 60, HARMLESS, 60)
    once, cut = Gateway(tmp_path / "once", park), Gateway(tmp_path / "cut", park)
    once.commit(park.packs)
    cut.commit(park.packs[:-5])
    if folded:
        cut.store.intervals.merge_days(END, park.calendar.day, fold, 1000)
    cut.builder.save(cut.store)
    cut.close()
    with closing(sqlite3.connect(cut.path)) as conn, conn:
        DAMAGE[how](conn, random.Random(how))
    cut = Gateway(tmp_path / "cut", park)
    cut.commit(park.packs[-5:])
    settle(cut)
    cut.close()
    cut = Gateway(tmp_path / "cut", park)  # and it stays so
    settle(cut)
    assert cut.rows() == once.rows() and cut.sums() == once.sums() and cut.gaps() == once.gaps()
    healed = how in {"state_as_text", "as_text", "the_shape"}  # the same bytes, or those of the next page with it
    assert ("damaged" in caplog.text) == (not healed)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
    once.close()
    cut.close()


def test_a_kill_between_loses_nothing(tmp_path: Path) -> None:
    """What is dropped and what is to be made again is one step."""
    park = make(32, 60, HARMLESS, 60)
    once, cut = Gateway(tmp_path / "once", park), Gateway(tmp_path / "cut", park)
    once.commit(park.packs)
    cut.commit(park.packs)
    cut.builder.save(cut.store)
    cut.close()
    with closing(sqlite3.connect(cut.path)) as conn, conn:
        conn.execute("UPDATE interval_pages SET body = x'02'")
    cut = Gateway(tmp_path / "cut", park)
    assert not list(query(cut.store.intervals, 0, END))
    cut.builder.rebuild_damaged(cut.store)
    cut.close()  # killed
    cut = Gateway(tmp_path / "cut", park)
    settle(cut)
    assert cut.rows() == once.rows()
    once.close()
    cut.close()
