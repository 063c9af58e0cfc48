"""What people ask the tables: readings, completeness, figures, evidence; nothing late or missing is flattened."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from agent.cli.main import outcome
from agent.verify import Verifier, read_paths
from receiver.audit import write_export
from receiver.bodies import Bodies
from receiver.commands import platform
from receiver.database import boot_number, check_place, connect, create_tables, shard_of, statement, stream_id
from receiver.fleet import MadeStream
from receiver.fleet_state import fleet_state
from receiver.keeper import Keeper
from receiver.page.data import FleetData
from receiver.private_postgres import PrivatePostgres
from receiver.store import Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker
from tests.kits.fleet_faults import KINDS, START_MS, Broken, Feed, make

DAY_MS = 86_400_000


def stored(dsn: str, *made: Broken, readings: bool = True) -> None:
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid]) for b in made])
    keys = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[-1]) for b in made]
    pages = [(f"meterhouse/v1/{b.gateway.name}/checkpoint/1", b.gateway.checkpoint()) for b in made]
    feed = Feed(keys + [message for b in made for message in b.sent] + pages)
    worker, keeper = Worker(feed, [Store(dsn, readings=readings)]), Keeper(dsn)
    while feed.left or worker.waiting:
        worker.step(0)
    while keeper.step():
        pass


def test_every_verified_reading_is_a_row_of_the_view_and_no_other(dsn: str) -> None:
    whole, short = make("whole", 1), make("short", 2)
    stored(dsn, whole, short)
    expected = set()
    for _, raw in whole.sent:
        base = 0.0
        for record in json.loads(raw).get("e", []):
            base = record.get("bt", base)
            expected.add((record["n"], round(base * 1000), record["v"], record.get("u", "")))
    with connect(dsn) as connection:
        rows = connection.execute(
            "SELECT point, round(extract(epoch FROM at) * 1000), value, unit FROM readings WHERE stream = %s",
            [whole.stream.name],
        ).fetchall()
        faulty = connection.execute("SELECT count(*) FROM readings WHERE stream = %s", [short.stream.name]).fetchone()
    assert {(point, int(at), value, unit) for point, at, value, unit in rows} == expected
    assert len(rows) == len(expected) == 1100
    assert faulty == (800,), "the pack that is a reading short is not among them"


def test_readings_of_a_clone_are_no_rows_of_the_view(dsn: str) -> None:
    """The finding of a clone has the sequence 0: the whole boot. The view had all readings of that boot."""
    b = make("clone", 1)
    stored(dsn, b)
    with connect(dsn) as connection:
        (boot,) = connection.execute("SELECT boot FROM findings WHERE seq = 0 AND code = 'conflict'").fetchall()[0]
        clone, others = connection.execute(
            "SELECT sum(readings) FILTER (WHERE boot = %s), sum(readings) FILTER (WHERE boot <> %s) FROM packs p "
            "WHERE NOT EXISTS (SELECT FROM findings f WHERE f.stream = p.stream AND f.seq = p.seq AND f.boot = p.boot)",
            [boot, boot],
        ).fetchall()[0]
        assert clone > 0 and connection.execute("SELECT count(*) FROM readings").fetchall() == [(others,)]


def with_figure(b: Broken, value: str = "5", boot: str = "", start_ms: int = START_MS, before: int = 0) -> None:
    """Let the gateway also sign a figure, in the second pack of its stream ``_indicators``, or after more packs."""
    name = f"{b.gateway.name}/_indicators"
    stream = MadeStream(name, b.gateway.signer, boot or b.stream.boot, random.Random(3), start_ms)
    day = START_MS // DAY_MS * DAY_MS // 1000
    period = {"from": day - 86_400, "kind": "day", "label": "2026-11-23", "to": day}
    result = {"completeness": "1", "id": "plain/x", "kind": "figure", "period": period, "u": "t", "v": value}
    packs = [stream.pack() for _ in range(before + 1)]
    b.sent += [(f"meterhouse/v1/{name}/readings", raw) for raw in (*packs, stream.pack(results=[result]))]


@pytest.mark.parametrize("seq", [0, 2])
@pytest.mark.parametrize("is_fault", [True, False])
def test_a_figure_of_a_pack_that_gets_a_finding_is_not_the_newest(dsn: str, seq: int, is_fault: bool) -> None:
    """Its key was revoked, and `convert` still wrote the figure. A figure stays if its pack was dropped for its age."""
    b = make("whole", 1)
    with_figure(b)
    stored(dsn, b)
    key = [stream_id(f"{b.gateway.name}/_indicators")]
    with connect(dsn) as connection:
        assert connection.execute("SELECT v, seq, versions FROM latest_figures").fetchall() == [(5, 2, 1)]
        if is_fault:
            connection.execute("UPDATE packs SET faults = '{revoked}' WHERE stream = %s AND seq >= %s", [*key, seq])
        else:
            query = "INSERT INTO findings SELECT DISTINCT stream, %s, boot, 'conflict' FROM packs WHERE stream = %s"
            connection.execute(query, [seq, *key])
        assert connection.execute("SELECT v FROM latest_figures").fetchall() == []
        connection.execute("DELETE FROM findings")
        connection.execute("DELETE FROM packs")
        assert connection.execute("SELECT v FROM latest_figures").fetchall() == [(5,)]


@pytest.mark.parametrize("kind", ["fork", "wrong_prev", "clone"])
def test_packs_with_a_finding_go_to_clickhouse_without_their_readings(dsn: str, kind: str) -> None:
    """Most findings are not in the row of the pack. ClickHouse got the readings, and was not told of later findings."""
    b = make(kind, 1)
    with connect(dsn) as connection:
        connection.execute("INSERT INTO clickhouse DEFAULT VALUES")
        stored(dsn, b)
        lots = [lot for (lot,) in connection.execute("SELECT lot FROM lots")]
        rows = connection.execute(statement("clickhouse_packs"), [lots]).fetchall()
        verified = connection.execute("SELECT DISTINCT seq FROM readings ORDER BY 1").fetchall()
        assert sorted(row[1] for row in rows if row[13] is not None) == [seq for (seq,) in verified]
        assert all(row[10] for row in rows if row[6] and row[13] is None)
        connection.execute("DELETE FROM changed_packs")
        kept = connection.execute("SELECT seq, boot FROM packs WHERE seq < 4 ORDER BY seq").fetchall()
        noted = "DELETE FROM changed_packs RETURNING seq, boot, back"
        noted_boots = "DELETE FROM changed_boots RETURNING 0, boot, back"
        for seq, boot, query in ((3, kept[2][1], noted), (0, kept[0][1], noted_boots)):
            key = [*connection.execute("SELECT min(id) FROM streams").fetchall()[0], seq, boot]
            connection.execute("INSERT INTO findings VALUES (%s, %s, %s, 'x')", key)
            assert (seq, boot, False) in connection.execute(query).fetchall()
            connection.execute("DELETE FROM findings WHERE code = 'x'")
            assert connection.execute(query).fetchall() == [(seq, boot, True)]


def test_clickhouse_is_told_which_streams_cannot_be_missing(dsn: str) -> None:
    """Retired streams and those that were not agreed counted as missing in ClickHouse for ever."""
    b = make("whole", 1)
    stored(dsn, b)
    changes = (
        ("SELECT", []),
        ("UPDATE checkpoint_heads SET retired = true", [(True, False)]),
        ("INSERT INTO agreed SELECT gateway, 'other' FROM pins", [(False, False)]),
        ("DELETE FROM agreed", [(True, False)]),
        ("DELETE FROM pins", [(False, False)]),
    )
    with connect(dsn) as connection:
        for change, states in changes:
            connection.execute(change.encode())
            rows = connection.execute(statement("clickhouse_streams")).fetchall()
            assert rows == [(b.stream.name, *state) for state in states], change


def test_what_cannot_be_written_is_named(dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was an internal error that asked to send us the output."""
    from tests.platform.test_converters import MAP

    b = make("whole", 1)
    stored(dsn, b, readings=False)
    (tmp_path / "pw").write_text("100000\n")
    file = tmp_path / "map.toml"
    file.write_text(MAP.format(stream=b.stream.name))
    day = ["--from", "2026-11-24T06:15", "--to", "2026-11-24T06:17"]
    for arguments, place in (
        (["enrol", "--export", "/nope/x.csv"], "/nope/x.csv"),
        (["convert", "hj212-2017", "--map", str(file), *day, "--into", "/none/x"], "/none/x"),
        (["audit", "/proc/x", "--of", b.gateway.name], "/proc/x"),
        (["audit", f"{file}/x", "--of", b.gateway.name], f"{file}/x"),
    ):
        assert outcome(["platform", *arguments, "--db", dsn]) == 1
        assert capsys.readouterr().err.startswith(f"error: {place}: cannot write the file ("), arguments


def test_completeness_by_day_counts_stated_gaps(dsn: str) -> None:
    """Field pain 38: a mean over what happens to be there; here what was due is in the same row."""
    stored(dsn, make("gap", 1))
    with connect(dsn) as connection:
        rows = connection.execute("SELECT due, readings, gaps, share FROM completeness").fetchall()
        reasons = connection.execute("SELECT reason, readings FROM gap_days").fetchall()
    assert [(int(due), int(got), int(gaps)) for due, got, gaps, _ in rows] == [(700, 600, 100)]
    assert float(rows[0][3]) == round(600 / 700, 6)
    assert reasons == [("timeout", 100)]


def test_a_hole_counts_for_each_day_in_which_packs_are_missing(dsn: str) -> None:
    """All readings due in a hole of five days counted on its first day, and for `status` of a later day on none."""
    b = make("whole", 1, START_MS // DAY_MS * DAY_MS)
    b.run(1)
    b.stream.at_ms += 5 * DAY_MS
    b.send(*b.run(2))
    stored(dsn, b)
    with connect(dsn) as connection:
        begun, ended = connection.execute(
            "SELECT min(h.to_ms), max(h.from_ms) FROM packs h WHERE h.seq IN (12, 14)"
        ).fetchall()[0]
        first = datetime.fromtimestamp(START_MS / 1000, UTC).date()
        midnights = [START_MS // DAY_MS * DAY_MS + number * DAY_MS for number in range(6)]
        lengths = [max(0, min(ended, low + DAY_MS) - max(begun, low)) / 1000 for low in midnights]
        assert lengths[1:5] == [86_400] * 4
        for since in (0, 3, 6):
            day = first + timedelta(days=since)
            rows = connection.execute(statement("fleet_days"), {"since": day, "streams": None}).fetchall()
            made = {row[1]: row[3] - row[4] for row in rows}
            expected = {first + timedelta(days=n): 10 * lengths[n] for n in range(since, 6)}
            assert made == expected
            assert fleet_state(connection, None, str(day)).gateways[0].due_missing == sum(expected.values())


def replaced(b: Broken) -> MadeStream:
    """A long history, whose second boot has a birth of its own; then a new box begins the stream anew, a day later."""
    b.send(*b.run(30))
    old, b.stream.boot, b.stream.birth = b.stream.boot, "aaaaaaaaaaaaaaaa", None
    b.send(b.stream.pack(prev_boot=old), *b.run(3))
    made = MadeStream(b.stream.name, b.gateway.signer, "bbbbbbbbbbbbbbbb", random.Random(5), START_MS + DAY_MS)
    b.send(*(made.pack() for _ in range(12)))
    return made


def test_evidence_of_a_replaced_box_has_the_birth_of_its_own_packs(dsn: str, tmp_path: Path) -> None:
    """The birth with the highest sequence is one of the old box. Without theirs, the packs could not be judged."""
    b = make("whole", 1)
    replaced(b)
    stored(dsn, b)
    verifier = Verifier([b.gateway.signer.kid])
    with connect(dsn) as connection:
        written = write_export(connection, tmp_path / "x", b.gateway.name, START_MS + DAY_MS + 40_000)
    read_paths(verifier, [tmp_path / "x"])
    assert written.packs == 8
    assert not [reason for reason in verifier.finish().reasons if "birth" in reason]


def test_the_newest_pack_is_found_without_reading_the_other_months(dsn: str) -> None:
    """The page of a stream read all packs of the stream in all months in which its newest boot has no packs."""
    birth, begun = "00000000-0000-0000-0000-000000000001", 1_767_225_600_000
    months = [(boot, begun + (boot - 1) * 31 * DAY_MS, (boot - 1) * 2000 + 1) for boot in (1, 2, 3)]
    with connect(dsn) as connection:
        connection.execute("INSERT INTO point_tables VALUES (%s, '{}')", [birth])
        connection.execute("INSERT INTO births VALUES (%s, 1, %s)", [birth, birth])
        for boot, from_ms, first in months:
            connection.execute("SELECT make_partition(make_date(2026, %s, 1))", [boot])
            connection.execute(
                "INSERT INTO packs (stream, seq, boot, from_ms, to_ms, hash, birth, signer, lot, readings, is_birth, "
                "first, body) SELECT 1, %(first)s + n, %(boot)s, %(from)s + n * 10000, %(from)s + (n + 1) * 10000, "
                "gen_random_uuid(), %(birth)s, 0, 1, 1, false, false, convert_to(repeat('x', 400), 'UTF8') "
                "FROM generate_series(0::bigint, 1999) AS n",
                {"boot": boot, "from": from_ms, "first": first, "birth": birth},
            )
        connection.execute(
            "INSERT INTO boots SELECT 1, boot, NULL, true, 1, range_agg(int8range(seq, seq, '[]')), min(from_ms), "
            "max(to_ms) FROM packs GROUP BY boot"
        )
        connection.execute("VACUUM ANALYZE packs, boots")
        query = statement("newest_pack")
        assert connection.execute(query, {"stream": 1}).fetchall()[0][1] == months[2][1] + 19_990_000
        explain = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query
        plan = connection.execute(explain, {"stream": 1}).fetchall()[0][0][0]["Plan"]
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 50
        # the birth of the newest boot has not arrived yet
        connection.execute("UPDATE packs SET birth = gen_random_uuid() WHERE boot = 3")
        assert connection.execute(query, {"stream": 1}).fetchall()[0][1] == months[1][1] + 19_990_000


def test_the_newest_pack_and_the_newest_figure_of_a_replaced_box_are_its_own(dsn: str) -> None:
    """Its sequences begin at 1 again: the page opened on the last day of the old box, which had the higher ones."""
    b = make("whole", 1)
    made = replaced(b)
    b.stream.boot = "aaaaaaaaaaaaaaaa"
    with_figure(b, "5", before=20)
    with_figure(b, "6", boot=made.boot, start_ms=START_MS + DAY_MS)
    stored(dsn, b)
    data = FleetData([dsn])
    known = data.stream_days(b.stream.name)
    data.close()
    assert known and known[2] == made.at_ms
    with connect(dsn) as connection:
        rows = connection.execute("SELECT v, seq, versions FROM latest_figures").fetchall()
        assert rows == [(6, 2, 2)]
        assert connection.execute("SELECT from_ms FROM packs WHERE to_ms = %s", [made.at_ms]).fetchall() == [
            (connection.execute(statement("newest_pack"), {"stream": stream_id(b.stream.name)}).fetchall()[0][1],)
        ]


def test_an_old_pack_that_is_sent_again_is_no_activity_of_its_boot(dsn: str) -> None:
    """The clock of an old boot was fast. A repeated pack of it made this boot the newest until the next new pack, and
    its gateway did not count as late.
    """
    b = make("anew", 1)
    stored(dsn, b)
    query = "SELECT boot, least(to_ms, extract(epoch FROM changed) * 1000) AS active FROM boots ORDER BY active"
    with connect(dsn) as connection:
        connection.execute("UPDATE boots SET to_ms = to_ms * 2, changed = now() - interval '3 days'")
        old = "UPDATE boots SET changed = changed - interval '1 day' WHERE boot = %s"
        assert connection.execute(old, [boot_number(json.loads(b.sent[0][1])["boot"])]).rowcount == 1
        before = connection.execute(query).fetchall()
        Worker(Feed(b.sent[:2]), [Store(dsn)]).step(0)
        assert connection.execute(query).fetchall() == before
        assert connection.execute("SELECT boot FROM boots WHERE again IS NOT NULL").fetchall() == [before[0][:1]]


def test_evidence_comes_out_as_it_was_published_and_the_verifier_says_the_same(dsn: str, tmp_path: Path) -> None:
    kinds = sorted(KINDS)
    made = [make(kind, number) for number, kind in enumerate(kinds)]
    stored(dsn, *made, readings=False)
    with connect(dsn) as connection:
        states = {one.name: one for one in fleet_state(connection).gateways}
        for b in made:
            folder = tmp_path / b.kind
            written = write_export(connection, folder, b.gateway.name)
            assert written.packs >= 6
            lines = {line for file in folder.rglob("packs.jsonl") for line in file.read_bytes().splitlines()}
            published = {raw for topic, raw in b.sent if topic == b.topic}
            assert lines <= published
            verifier = Verifier([b.gateway.signer.kid])
            read_paths(verifier, [folder])
            report = verifier.finish()
            state = states[b.gateway.name]
            false = bool(state.findings)  # what was refused is no evidence and does not come out
            assert (report.verdict.value == "failed") == false, (b.kind, report.reasons, state)


@pytest.mark.parametrize("place", [0, 1])
def test_a_site_that_lies_in_one_of_two_databases_is_exported(
    postgres: PrivatePostgres, dsn: str, tmp_path: Path, place: int
) -> None:
    """The name of a gateway decides its database, so a site of few gateways need not be in all of them."""
    name = f"second{place}"
    with psycopg.connect(postgres.dsn, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
    both = [dsn, postgres.dsn.replace("dbname=postgres", f"dbname={name}")]
    create_tables(both[1])
    for number, one in enumerate(both):
        with connect(one) as connection:
            connection.execute("DELETE FROM shard")
            check_place(connection, one, number, 2)
    b = next(b for b in (make("whole", number) for number in range(20)) if shard_of(b.gateway.name, 2) == place)
    stored(both[place], b, readings=False)
    folder = tmp_path / "evidence"
    arguments = ["audit", str(folder), "--db", both[0], "--db", both[1], "--of"]
    result = CliRunner().invoke(platform, [*arguments, "nowhere"])
    assert "no stream matches" in str(result.exception) and not folder.exists()
    result = CliRunner().invoke(platform, [*arguments, b.gateway.name.partition("/")[0]])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "12 packs from 1 stream of 1 gateway" in result.output
    assert [part.name for part in folder.iterdir()] == [f"shard{place}"]


def test_a_folder_that_exists_and_a_site_that_does_not(dsn: str, tmp_path: Path) -> None:
    stored(dsn, make("whole", 1))
    for arguments, words in (
        (["audit", str(tmp_path), "--of", "site00", "--db", dsn], "already exists"),
        (["audit", str(tmp_path / "x"), "--of", "nowhere", "--db", dsn], "no stream matches"),
        (["audit", str(tmp_path / "x"), "--of", "site00", "--from", "tomorrow", "--db", dsn], "not a time"),
        (["status", "--since", "yesterday", "--db", dsn], "is not a day"),
        (["work", "--from", "http://x", "--db", dsn], "unknown scheme"),
        (["work", "--from", "mqtt:", "--db", dsn], "is not a host"),
        (["keep", "--broker", "x", "--db", dsn], "is not a broker"),
        (["init", "--db", "host=/nowhere dbname=x"], "Check that PostgreSQL is running there"),
        (["init", "--db", "host=/nowhere frobnicate=1"], "frobnicate"),
    ):
        result = CliRunner().invoke(platform, arguments)
        assert words in str(result.exception), (arguments, result.output, result.exception)


def test_status_says_who_is_late_what_is_missing_and_exits_6(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    stored(dsn, make("whole", 1), make("hole", 2), make("clone", 3))
    result = CliRunner().invoke(platform, ["status", "--since", "2020-01-01", "--db", dsn, "--json"])
    assert result.exit_code == 6, result.output
    state = json.loads(result.output)
    assert [(one["verdict"], one["missing"]) for one in state["gateways"]] == [
        ("verified", 0), ("incomplete", 2), ("failed", 0)
    ]  # fmt: skip
    assert state["summary"]["late"] == 3 or state["summary"]["late"] == 0
    for language, word in (("en", "incomplete"), ("zh", "不完整")):
        assert outcome(["platform", "status", "--since", "2020-01-01", "--db", dsn, "--lang", language]) == 6
        assert word in capsys.readouterr().out


def test_enrolment_round_trip(dsn: str, tmp_path: Path) -> None:
    b = make("whole", 1)
    file, out = tmp_path / "fleet.csv", tmp_path / "out.csv"
    file.write_text(f"gateway,thumbprint,streams\n{b.gateway.name},{b.gateway.signer.kid},meter _gateway\n")
    for arguments in (["enrol", str(file)], ["enrol", "--export", str(out)]):
        result = CliRunner().invoke(platform, [*arguments, "--db", dsn])
        assert result.exit_code == 0, result.output
    assert out.read_text().splitlines()[1] == f"{b.gateway.name},{b.gateway.signer.kid},_gateway meter"
    gone = CliRunner().invoke(platform, ["enrol", "--remove", b.gateway.name, "--db", dsn])
    assert "1 gateway is no longer trusted" in gone.output


def test_second_init_changes_nothing_and_tables_of_another_version_are_refused(dsn: str) -> None:
    assert "nothing to do" in CliRunner().invoke(platform, ["init", "--db", dsn]).output
    with connect(dsn) as connection:
        connection.execute("UPDATE schema_version SET number = 99")
    for command in (["init"], ["status"]):
        result = CliRunner().invoke(platform, [*command, "--db", dsn])
        assert "have version 99, but this program needs version 1" in str(result.exception), command


def test_readings_are_of_packs_without_a_finding_and_blocks_of_the_pack_that_stays(dsn: str) -> None:
    """Of two packs with one identity the row was of one and the readings were of the other; and what does not follow,
    which a verifier refuses, was among the verified readings."""
    stored(dsn, *(make(kind, number) for number, kind in enumerate(sorted(KINDS))))
    with connect(dsn) as connection:
        bodies = Bodies(connection)
        rows = connection.execute(
            "SELECT p.body, b.v, EXISTS "
            "(SELECT FROM findings f WHERE (f.stream, f.boot) = (p.stream, p.boot) AND f.seq IN (0, p.seq)) "
            "FROM packs p LEFT JOIN reading_blocks b USING (stream, seq, boot, from_ms) WHERE p.faults IS NULL"
        ).fetchall()
        kept = []
        for body, values, is_found in rows:
            pack = json.loads(bodies.read(bytes(body)))
            assert [record["v"] for record in pack.get("e", [])] == (values or [])
            kept += [] if is_found else [pack]
        assert len(rows) > len(kept) + 3, "of forks, clones and broken chains"
        seen = connection.execute("SELECT stream, seq, point, value FROM readings").fetchall()
    expected = sorted((p["stream"], p["seq"], r["n"], r["v"]) for p in kept for r in p.get("e", []))
    assert sorted(seen) == expected
