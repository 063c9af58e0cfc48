"""ClickHouse gets what PostgreSQL has committed: all of it, once, whatever is killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("chdb", reason="chdb-core, ClickHouse's engine as a library, is not installed: make soak does it")

from drivers.model import UsageError
from receiver.clickhouse import ClickHouse, ClickHouseError
from receiver.clickhouse_feed import FIGURE_COLUMNS, PACK_COLUMNS, ClickHouseFeed
from receiver.database import connect, stream_id
from receiver.keeper import Keeper, drop_months
from tests.kits import recipes
from tests.kits.clickhouse_front import ROOT, Front, asked, in_clickhouse, in_postgres
from tests.kits.fleet_faults import KINDS, START_MS, make
from tests.platform.test_queries import stored, with_figure
from tests.platform.test_recipes import fill

pytestmark = pytest.mark.slow


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    made = Front(tmp_path / "engine")
    made.start()
    yield made
    made.kill()


def feed(dsn: str, front: Front) -> int:
    """All that waits."""
    one, packs = ClickHouseFeed(dsn, ClickHouse(front.url)), 0
    while sent := one.step():
        packs += sent
    assert one.failures == 0
    one.close()
    return packs


def count(front: Front, what: str = "fleet.readings") -> int:
    return int(asked(front, f"SELECT count() FROM {what}")[0][0])


def test_every_kind_of_stream_comes_over_as_the_view_has_it(dsn: str, front: Front) -> None:
    stored(dsn, *(make(kind, number) for number, kind in enumerate(sorted(KINDS))))
    feed(dsn, front)
    expected = in_postgres(dsn)
    assert in_clickhouse(front) == expected
    assert len(expected) > 15_000
    with connect(dsn) as connection:
        query = "SELECT stream, day::text, due::text, readings::text, gaps::text FROM completeness ORDER BY 1, 2"
        days = [list(row) for row in connection.execute(query)]
        assert connection.execute("SELECT packs FROM clickhouse_waiting").fetchall() == [(0,)]
    assert asked(front, "SELECT stream, day, due, readings, gaps FROM fleet.completeness ORDER BY 1, 2") == days
    assert feed(dsn, front) == 0, "nothing goes twice"


def test_a_hole_and_a_stated_gap_are_visible_there(dsn: str, front: Front) -> None:
    stored(dsn, make("hole", 1), make("gap", 2))
    feed(dsn, front)
    holes = asked(front, 'SELECT first, last, dateDiff(\'second\', "from", "to") FROM fleet.holes')
    assert [(int(last) - int(first) + 1, int(seconds)) for first, last, seconds in holes] == [(2, 20)]
    assert asked(front, "SELECT sum(gaps), sum(reasons['timeout']) FROM fleet.packs") == [["100", "100"]]


def test_a_lost_answer_doubles_nothing(dsn: str, front: Front) -> None:
    stored(dsn, make("whole", 1))
    ClickHouse(front.url).make_tables()
    front.post("/hold")
    one = ClickHouseFeed(dsn, ClickHouse(front.url), clock=iter(range(0, 10_000, 1000)).__next__)
    assert (one.step(), one.failures) == (0, 1)
    assert count(front) == 1100, "it was inserted, and nobody knows"
    assert one.step() > 0
    one.close()
    assert (count(front), in_clickhouse(front)) == (1100, in_postgres(dsn))


def test_kill_9_of_the_keeper_between_insert_and_note_and_of_the_engine(dsn: str, front: Front) -> None:
    stored(dsn, make("whole", 1), make("short", 2), make("restart", 3))
    expected = in_postgres(dsn)
    ClickHouse(front.url).make_tables()
    for round_ in range(3):
        front.post("/hold")  # the insert is done, its answer never comes
        keeper = _keeper(dsn, front)
        _until(lambda: count(front) >= len(expected))
        os.kill(keeper.pid, signal.SIGKILL)
        keeper.wait()
        if round_ == 1:
            front.kill()
            front.start()
    keeper = _keeper(dsn, front)
    with connect(dsn) as connection:
        waits = (
            "SELECT count(*) FROM lots WHERE batch IS NULL OR batch IN (SELECT batch FROM batches WHERE sent IS NULL)"
        )
        _until(lambda: connection.execute(waits.encode()).fetchall() == [(0,)])
    keeper.terminate()
    assert keeper.wait(30) == 0
    assert in_clickhouse(front) == expected


def test_away_for_an_hour_everything_waits_and_postgresql_drops_nothing(dsn: str, front: Front) -> None:
    feed(dsn, front)  # told once: from now on all goes there
    stored(dsn, make("whole", 1))
    now = [0.0]
    front.kill()
    one = ClickHouseFeed(dsn, ClickHouse(front.url), clock=lambda: now[0])
    while now[0] < 3600:
        assert one.step() == 0
        now[0] += 30.0
    assert one.failures >= 100
    with connect(dsn) as connection:
        assert connection.execute("SELECT packs FROM clickhouse_waiting").fetchall()[0][0] > 10
        connection.execute("SELECT make_partition('2020-01-01')")
        connection.execute("CREATE TEMP TABLE moved AS SELECT * FROM packs")
        connection.execute(
            "UPDATE moved SET from_ms = 1577836800000 + seq, to_ms = 1577836800000 + seq, seq = seq + 1000"
        )
        connection.execute("INSERT INTO packs SELECT * FROM moved")
        assert drop_months(connection, 365) == []
        front.start()
        now[0] += 60.0
        assert one.step() > 0
        assert drop_months(connection, 365) == ["packs_2020_01"]
    one.close()
    assert count(front, "fleet.packs") > 10


def test_revoked_later_is_withdrawn_and_says_so(dsn: str, front: Front) -> None:
    b = make("whole", 1)
    stored(dsn, b)
    feed(dsn, front)
    assert count(front) == 1100
    with connect(dsn) as connection:
        signer = connection.execute("SELECT max(signer) FROM packs").fetchall()[0][0]
        last = json.dumps({str(signer): {b.stream.name: 5}})
        connection.execute("UPDATE gateways SET revoked = %s::jsonb, cut = false", [last])
    keeper = Keeper(dsn)
    keeper.step()
    feed(dsn, front)
    assert in_clickhouse(front) == in_postgres(dsn)
    assert 0 < count(front) < 1100
    states = asked(front, "SELECT seq > 5, faults, count() FROM fleet.packs GROUP BY 1, 2 ORDER BY 1")
    assert [row[:2] for row in states] == [["0", "[]"], ["1", "['revoked']"]]


def test_a_finding_that_comes_and_goes_takes_the_readings_and_brings_them_back(dsn: str, front: Front) -> None:
    """As of a replaced box whose first pack arrives late: until then, its other packs look like those of a clone."""
    b = make("whole", 1)
    with_figure(b)
    stored(dsn, b)
    feed(dsn, front)
    before = in_clickhouse(front)
    with connect(dsn) as connection:
        for name, seq in ((b.stream.name, 4), (b.stream.name, 0), (f"{b.gateway.name}/_indicators", 2)):
            key = [stream_id(name), *connection.execute("SELECT boot FROM packs LIMIT 1").fetchall()[0], seq]
            connection.execute("INSERT INTO findings (stream, boot, seq, code) VALUES (%s, %s, %s, 'conflict')", key)
            feed(dsn, front)
            assert in_clickhouse(front) == in_postgres(dsn)
            assert len(in_clickhouse(front)) < len(before)
            assert count(front, "fleet.figures") == (name == b.stream.name)
            assert asked(front, "SELECT sum(readings) FROM fleet.completeness") == [[str(len(before))]], (
                "it is a sum of packs"
            )
            connection.execute("DELETE FROM findings")
            front.post("/hold")
            one = ClickHouseFeed(dsn, ClickHouse(front.url), clock=iter(range(0, 10_000, 1000)).__next__)
            assert (one.step(), one.failures) == (0, 1)
            one.step()  # its answer was lost, so it is sent again
            one.close()
            assert in_clickhouse(front) == before
            assert asked(front, "SELECT DISTINCT faults FROM fleet.packs") == [["[]"]]
            assert asked(front, "SELECT versions FROM fleet.latest_figures") == [["1"]]
        connection.execute("INSERT INTO findings (stream, boot, seq, code) VALUES (%s, %s, %s, 'conflict')", key)
        connection.execute("DELETE FROM findings")
        feed(dsn, front)
    assert in_clickhouse(front) == before, "it was gone before it was sent"


def test_streams_that_are_retired_or_were_not_agreed_are_not_missing(dsn: str, front: Front) -> None:
    """They counted as missing for ever, although they do not in PostgreSQL."""
    b = make("hole", 1)
    stored(dsn, b)
    now = [0.0]
    one = ClickHouseFeed(dsn, ClickHouse(front.url), clock=lambda: now[0])
    name = b.gateway.name
    steps = (  # (change, its values, how many of these count: the hole, the time since the newest pack)
        ("", [], 2),
        ("UPDATE checkpoint_heads SET retired = true", [], 1),
        ("INSERT INTO agreed VALUES (%s, 'other')", [name], 0),
        ("DELETE FROM agreed", [], 1),
        ("UPDATE checkpoint_heads SET retired = false", [], 2),
        ("DELETE FROM pins", [], 0),
        ("INSERT INTO pins (gateway, thumbprint) VALUES (%s, 'x')", [name], 2),
    )
    with connect(dsn) as connection:
        row = connection.execute("SELECT due, to_ms - from_ms FROM packs WHERE seq = 8").fetchall()[0]
        hole = 20_000 * row[0] / row[1]
        for number, (query, values, parts) in enumerate(steps):
            if query:
                connection.execute(query.encode(), values)
            now[0] += 61.0
            while one.step():
                pass
            due = float(asked(front, "SELECT ifNull(sum(due), 0) FROM fleet.missing_days")[0][0])
            assert (due > 0) + (due > 2 * hole) == parts, query
            if number == 3:  # a keeper that starts again knows what it has told
                one.close()
                one = ClickHouseFeed(dsn, ClickHouse(front.url), clock=lambda: now[0])
    one.close()


def test_a_declared_loss_counts_also_in_a_stream_that_was_not_agreed(dsn: str, front: Front) -> None:
    """It counted in PostgreSQL only. A hole of which a part was declared counts in neither."""
    made = [make("loss", 1), make("loss_of_a_part", 2)]
    stored(dsn, *made)
    query = "SELECT s.name, m.due::text FROM missing_days m JOIN streams s ON s.id = m.stream"
    with connect(dsn) as connection:
        connection.execute("INSERT INTO agreed SELECT gateway, 'other' FROM pins")
        feed(dsn, front)
        expected = [list(row) for row in connection.execute(query)]
    assert [name for name, _ in expected] == [made[0].stream.name]
    assert asked(front, "SELECT stream, due FROM fleet.missing_days") == expected


def test_what_it_refuses_is_said_once_and_sent_later(dsn: str, front: Front, caplog: pytest.LogCaptureFixture) -> None:
    stored(dsn, make("whole", 1))
    front.post("/refuse", "Code: 241. DB::Exception: Memory limit exceeded")
    now = [0.0]
    one = ClickHouseFeed(dsn, ClickHouse(front.url), clock=lambda: now[0])
    for _ in range(5):
        assert one.step() == 0
        now[0] += 60.0
    assert [record.message for record in caplog.records if "Memory limit" in record.message] == [
        caplog.records[0].message
    ]
    front.post("/refuse")
    assert one.step() > 0
    one.close()
    assert count(front) == 1100


def test_figures_come_over_as_they_were_signed_also_those_that_were_signed_again(dsn: str, front: Front) -> None:
    with connect(dsn) as connection, connection.cursor() as cursor:
        fill(cursor)
        cursor.execute("DELETE FROM packs WHERE boot = 9")
        cursor.execute(
            "INSERT INTO packs (stream, seq, boot, from_ms, to_ms, hash, birth, signer, lot, is_birth, first, body, "
            "readings, due) SELECT stream, seq, boot, 0, 0, gen_random_uuid(), gen_random_uuid(), 1, 1, false, false, "
            "''::bytea, 0, 0 FROM figures ON CONFLICT DO NOTHING"
        )
        cursor.execute("INSERT INTO lots OVERRIDING SYSTEM VALUE VALUES (1, 100, now(), now())")
        query = (
            "SELECT s.gateway, f.id, f.period, f.label, (f.from_ms / 1000)::text, coalesce(f.v::text, ''), f.u, "
            "f.seq::text, f.result::text FROM figures f JOIN streams s ON s.id = f.stream"
        )
        expected = sorted(list(row) for row in cursor.execute(query.encode()))
    feed(dsn, front)
    query = 'SELECT gateway, id, period, label, toUnixTimestamp("from"), exact, unit, seq, result FROM fleet.figures'
    assert sorted(asked(front, query)) == expected
    assert len(expected) == len(recipes.FIGURES)


def test_the_newest_figure_of_a_replaced_box_is_its_own(dsn: str, front: Front) -> None:
    """Its sequences begin at 1 again. The view had the figures of the old box, which had the higher sequences."""
    b = make("whole", 1)
    with_figure(b, "5", before=20)
    with_figure(b, "6", "bbbbbbbbbbbbbbbb", START_MS + 86_400_000)
    stored(dsn, b)
    with connect(dsn) as connection:
        assert connection.execute("SELECT v, seq, versions FROM latest_figures").fetchall() == [(6, 2, 2)]
    feed(dsn, front)
    assert asked(front, "SELECT value, seq, versions FROM fleet.latest_figures") == [["6", "2", "2"]]
    names = [name for (name,) in asked(front, "SELECT name FROM system.columns WHERE table = 'figures'")]
    found = asked(front, "SELECT name FROM system.columns WHERE table = 'latest_figures' ORDER BY position")
    assert [name for (name,) in found] == ["site", *names, "versions"]


def test_the_recipes_of_the_page_give_what_was_counted_by_hand(front: Front) -> None:
    target = ClickHouse(front.url)
    target.make_tables()
    stored_at, epoch = 1_604_500_000, recipes.MONDAY_MS
    packs = [
        (name, seq, "b", epoch + low * 3_600_000, epoch + high * 3_600_000, due, readings, gaps, asleep, {}, [], 1,
         stored_at, 1, "")
        for name, seq, low, high, due, readings, gaps, asleep in recipes.PACKS
    ]  # fmt: skip
    target.insert("incoming", PACK_COLUMNS, packs, "a")
    columns = ("stream", "point", "at", "value", "unit", "quality", "stored")
    readings = [(*row[:2], epoch / 1000 + row[2], *row[3:], stored_at) for row in recipes.READINGS]
    target.insert("readings", columns, readings, "b")
    figures = []
    for gateway, name, period, label, low, high, value, unit, known, seq in recipes.FIGURES:
        times = [(recipes.FIGURES_FROM_MS + day * recipes.DAY_MS) / 1000 for day in (low, high)]
        rest = (value, "", unit, known, "", True, seq, "b", stored_at, "{}")
        figures.append((gateway, "figure", name, period, label, *times, *rest))
    target.insert("figures", FIGURE_COLUMNS, figures, "c")
    made = [asked(front, sql.replace("meterhouse.", "fleet.")) for sql in recipes.recipes("ClickHouse").values()]
    completeness, deviations, late, minutes, carbon = [[list(map(_plain, row)) for row in rows] for rows in made]
    assert [tuple(row) for row in completeness] == recipes.COMPLETENESS
    assert [tuple(row) for row in deviations] == recipes.DEVIATIONS
    assert [(row[0], row[1], row[2], row[4]) for row in late] == recipes.LATE
    assert [(row[0][11:16], *row[1:5]) for row in minutes] == recipes.MINUTES
    assert [row[5] for row in minutes] == [3, 1], "all of them came late"
    assert [tuple(row) for row in carbon] == recipes.CARBON


def _plain(cell: str) -> str | float | None:
    try:
        return None if cell == "\\N" else float(cell)
    except ValueError:
        return cell


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("clickhouse://x", "is not a ClickHouse"),
        ("http://x:99999", "is not a ClickHouse"),
        ("http://x/a-b", "database"),
        ("http://u@x/?password_file=/nowhere", "No such file"),
        ("http://x/?compress=1", "unknown option"),
    ],
)
def test_a_wrong_address(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ClickHouse(url)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(ClickHouseError, match="refused"):
        ClickHouse("http://127.0.0.1:9").execute("SELECT 1")


def _keeper(dsn: str, front: Front) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "agent.cli.main", "platform", "keep", "--db", dsn, "--clickhouse", front.url]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)


def _until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not done():
        assert time.monotonic() < until
        time.sleep(0.1)
