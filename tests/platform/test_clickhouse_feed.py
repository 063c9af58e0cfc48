"""What the feed tells ClickHouse, without its engine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from receiver import clickhouse_feed
from receiver.clickhouse import Cell, ClickHouse
from receiver.clickhouse_feed import ClickHouseFeed
from receiver.database import Connection, connect, stream_id
from receiver.keeper import drop_months
from tests.kits.fleet_faults import START_MS, Broken, make
from tests.platform.test_queries import stored, with_figure


class Told(ClickHouse):
    """A ClickHouse that only remembers what it was told, and has no rows."""

    def __init__(self) -> None:
        super().__init__("http://localhost:1/fleet")
        self.statements: list[str] = []
        self.rows: list[Sequence[Cell]] = []  # of packs
        self.losses: list[Sequence[Cell]] = []

    def execute(self, statement: str) -> str:
        self.statements.append(statement)
        return ""

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], token: str) -> int:
        made = list(rows)
        self.rows += made if table == "incoming" else []
        self.losses += made if table == "losses" else []
        return len(made)

    def news(self) -> tuple[list[str], list[Sequence[Cell]]]:
        """The deletions and the packs since the last call."""
        deletes = [statement for statement in self.statements if statement.startswith("DELETE")]
        rows, self.statements, self.rows = self.rows, [], []
        return deletes, rows


@contextmanager
def exported(dsn: str, b: Broken, told: Told) -> Iterator[tuple[Connection, ClickHouseFeed]]:
    """A database whose packs were all sent to ClickHouse, and the feed that sent them. ``told`` has no news."""
    with connect(dsn) as connection:
        connection.execute("INSERT INTO clickhouse DEFAULT VALUES")
        stored(dsn, b)
        feed = ClickHouseFeed(dsn, told)
        while feed.step():
            pass
        told.news()
        yield connection, feed
        feed.close()


def test_a_finding_about_a_whole_boot_is_one_row_and_one_deletion(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pack of the boot was a row in the transaction of the keeper, and each thousand of them a deletion. A boot of
    a year has three million packs.
    """
    monkeypatch.setattr(clickhouse_feed, "CHANGES", 5)
    b, told = make("whole", 1), Told()
    with exported(dsn, b, told) as (connection, feed):
        connection.execute("INSERT INTO findings SELECT stream, 0, boot, 'conflict' FROM boots")
        assert connection.execute("SELECT FROM changed_packs").fetchall() == []
        assert connection.execute("SELECT after, back FROM changed_boots").fetchall() == [(0, False)]
        feed.step()
        assert connection.execute("SELECT FROM changed_boots").fetchall() == []
        deletes, rows = told.news()
        where = f"stream = '{b.stream.name}' AND (boot = '{b.stream.boot}' AND seq BETWEEN 1 AND 12)"
        assert deletes == [f"DELETE FROM fleet.readings WHERE {where}"]
        assert [(row[1], row[10], row[14]) for row in rows] == [(seq, ["conflict"], "") for seq in range(1, 13)]
        connection.execute("DELETE FROM findings")
        for first, last in ((1, 5), (6, 10), (11, 12)):
            feed.step()
            deletes, rows = told.news()
            assert [row[1] for row in rows] == list(range(first, last + 1)) and not deletes
            assert all(row[14] and row[10] == [] for row in rows), "with their bodies"
        assert connection.execute("SELECT FROM changed_boots").fetchall() == []
        assert feed.failures == 0


def test_a_boot_whose_finding_goes_while_its_packs_are_sent_begins_again(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the packs that were sent with the finding would lack their readings."""
    monkeypatch.setattr(clickhouse_feed, "BOOT_CHANGES", 5)
    b, told = make("whole", 1), Told()
    with exported(dsn, b, told) as (connection, feed):
        connection.execute("INSERT INTO findings SELECT stream, 0, boot, 'conflict' FROM boots")
        feed.step()
        assert connection.execute("SELECT after FROM changed_boots").fetchall() == [(5,)]
        connection.execute("DELETE FROM findings")
        told.news()
        feed.step()
        assert [row[1] for row in told.news()[1] if row[14]] == list(range(1, 13))
        assert connection.execute("SELECT FROM changed_boots").fetchall() == []


def test_a_month_with_packs_of_a_changed_boot_is_not_dropped(dsn: str) -> None:
    """ClickHouse would keep their readings although they are not trusted any more."""
    b, told = make("whole", 1, START_MS - 100 * 86_400_000), Told()
    with exported(dsn, b, told) as (connection, feed):
        connection.execute("INSERT INTO findings SELECT stream, 0, boot, 'conflict' FROM boots")
        assert drop_months(connection, 30) == []
        feed.step()
        assert len(drop_months(connection, 30)) == 1


@pytest.mark.parametrize("change", ["DELETE FROM findings", "UPDATE packs SET asleep = 1 WHERE seq = 3"])
def test_a_month_with_changes_that_were_not_sent_is_not_dropped(dsn: str, change: str) -> None:
    """The changes were in a batch that ClickHouse did not confirm. It got the dropped packs as forks, and deleted their
    readings.
    """
    b, told = make("whole", 1, START_MS - 100 * 86_400_000), Told()
    with connect(dsn) as connection:
        connection.execute("INSERT INTO clickhouse DEFAULT VALUES")
        stored(dsn, b)
        connection.execute("INSERT INTO findings SELECT stream, 0, boot, 'conflict' FROM boots")
        feed = ClickHouseFeed(dsn, told)
        while feed.step():
            pass
        connection.execute("DELETE FROM changed_boots")
        connection.execute(change.encode())
        assert clickhouse_feed._open_batch(connection) is not None
        assert connection.execute("SELECT FROM changed_boots").fetchall() == []
        assert drop_months(connection, 30) == []
        feed.step()
        assert len(drop_months(connection, 30)) == 1
        feed.close()


def test_a_month_whose_last_packs_arrive_while_it_is_dropped_stays(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another keeper had checked them already, so they were counted and dropped. ClickHouse never got them."""
    from receiver import keeper

    b, late, told = make("whole", 1, START_MS - 100 * 86_400_000), make("whole", 2, START_MS - 100 * 86_400_000), Told()
    with exported(dsn, b, told) as (connection, feed):
        honest = keeper._copy_births
        monkeypatch.setattr(keeper, "_copy_births", lambda *names: (honest(*names), stored(dsn, late)))
        assert drop_months(connection, 30) == []
        monkeypatch.undo()
        told.news()
        feed.step()
        assert len(told.news()[1]) == 12
        assert len(drop_months(connection, 30)) == 1


def test_a_change_of_a_pack_that_was_dropped_makes_it_no_fork(dsn: str) -> None:
    """Its month may be dropped just when it changes."""
    b, told = make("whole", 1), Told()
    with exported(dsn, b, told) as (connection, feed):
        connection.execute("UPDATE packs SET asleep = 1 WHERE seq < 4")
        connection.execute("INSERT INTO findings SELECT stream, seq, boot, 'chain' FROM packs WHERE seq = 2")
        connection.execute("INSERT INTO forks SELECT stream, seq, boot, hash, from_ms, body FROM packs WHERE seq = 3")
        (name,) = connection.execute("SELECT DISTINCT tableoid::regclass::text FROM packs").fetchall()[0]
        connection.execute(f"DROP TABLE {name}".encode())
        feed.step()
        assert [(row[1], row[10]) for row in told.news()[1]] == [(2, ["chain"]), (3, ["fork"])]
        assert feed.failures == 0


def test_deletions_of_many_packs_are_short_and_those_of_figures_go_with_them(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clickhouse_feed, "RUNS", 2)
    b, told = make("whole", 1), Told()
    with_figure(b, before=6)
    with exported(dsn, b, told) as (connection, feed):
        connection.execute(
            "INSERT INTO findings SELECT stream, seq, boot, 'chain' FROM packs WHERE stream = %s AND seq NOT IN (2, 4)",
            [stream_id(f"{b.gateway.name}/_indicators")],
        )
        feed.step()
    found = [(words.split()[2], re.findall(r"BETWEEN (\d+) AND (\d+)", words)) for words in told.news()[0]]
    runs = [[("1", "1"), ("3", "3")], [("5", "8")]]
    assert found == [(f"fleet.{table}", some) for some in runs for table in ("readings", "figures")]


def test_clickhouse_is_told_of_losses_in_streams_that_were_not_agreed(dsn: str) -> None:
    """They count as missing in PostgreSQL, and did not in ClickHouse."""
    b, told, now = make("loss", 1), Told(), [0.0]
    stored(dsn, b)
    feed = ClickHouseFeed(dsn, told, clock=lambda: now[0])
    with connect(dsn) as connection:
        for change, counts in (
            ("SELECT", []),
            ("INSERT INTO agreed SELECT gateway, 'other' FROM pins", [True]),
            ("DELETE FROM agreed", [False]),
            ("INSERT INTO agreed SELECT gateway, 'other' FROM pins", [True]),
            ("DELETE FROM pins", [False]),
        ):
            connection.execute(change.encode())
            for _ in range(2):
                now[0] += 61.0
                feed.step()
            assert told.losses == [(b.stream.name, 7, 9, one) for one in counts], change
            told.losses = []
    assert feed.failures == 0
    feed.close()
