"""An attacker, a false number, a database that is away: stated, counted, bounded, nothing verified is lost."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.main import outcome
from drivers.model import UsageError
from receiver import store as store_module
from receiver.commands import platform
from receiver.database import check_place, connect, shard_of
from receiver.fleet_state import fleet_state, whole_fleet
from receiver.keeper import Keeper, forget_strangers
from receiver.metrics import prometheus_text
from receiver.page.data import FleetView
from receiver.page.views import Choice, fleet_view
from receiver.private_postgres import PrivatePostgres
from receiver.store import RefusedMessage, Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker
from tests.kits.fleet_faults import Broken, Feed, make

AWAY = "host=/nowhere dbname=x"


def enrolled(dsn: str, *made: Broken) -> None:
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid]) for b in made])


def put(dsn: str, made: list[Broken], more: list[tuple[str, bytes]] | None = None) -> Worker:
    enrolled(dsn, *made)
    keys = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[-1]) for b in made]
    feed = Feed(keys + [message for b in made for message in b.sent] + (more or []))
    worker, keeper = Worker(feed, [Store(dsn)]), Keeper(dsn)
    while feed.left or worker.waiting:
        worker.step(0)
    while keeper.step():
        pass
    keeper.close()
    return worker


def two_shards(postgres: PrivatePostgres, dsn: str) -> tuple[str, Broken]:
    """The database as the first of two, of which the second is away; and a gateway that lies in the first."""
    with connect(dsn) as connection:
        connection.execute("DELETE FROM shard")
        check_place(connection, dsn, 0, 2)
    here = next(b for b in (make("whole", number) for number in range(20)) if shard_of(b.gateway.name, 2) == 0)
    put(dsn, [])
    enrolled(dsn, here)
    return dsn, here


def test_one_database_away_is_named_and_the_others_are_shown(
    postgres: PrivatePostgres, dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, here = two_shards(postgres, dsn)
    arguments = ["platform", "status", "--db", first, "--db", AWAY]
    for language, word in (("en", "database 2 is unreachable"), ("zh", "数据库 2 无法访问")):
        assert outcome([*arguments, "--lang", language]) == 3, "the exit code says that something is not known"
        said = capsys.readouterr().out
        assert here.gateway.name in said and word in said
    assert outcome([*arguments, "--json"]) == 3
    state = json.loads(capsys.readouterr().out)
    assert [one["place"] for one in state["away"]] == [2] and state["summary"]["gateways"] == 1
    text = prometheus_text(whole_fleet([first, AWAY]).summary())
    assert "meterhouse_platform_away 1" in text and "meterhouse_platform_gateways 1" in text
    assert outcome(["platform", "status", "--db", "host=/nowhere dbname=y", "--db", AWAY]) == 3
    assert "Check that PostgreSQL is running there" in capsys.readouterr().err, "all of them away: nothing to show"


def test_the_strangers_of_one_site_and_who_is_late(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    late, good = make("whole", 1), make("whole", 2, round(time.time() - 120) * 1000)
    put(dsn, [late, good])
    store = Store(dsn)
    store.trust_changes()
    store.put([], [], [("site00/new", b"{}"), ("site001/new", b"{}"), ("other/new", b"{}")])
    assert outcome(["platform", "status", "site00", "--db", dsn]) == 0
    said = capsys.readouterr().out
    assert "not enrolled: site00/new" in said and "other/new" not in said and "site001/new" not in said
    lines = said.splitlines()
    names = [next(n for n, line in enumerate(lines) if b.gateway.name in line) for b in (late, good)]
    assert names[0] < names[1], "who is late comes first"
    assert lines[names[0]].split()[-1] == "late" and "late" not in lines[names[1]]


def test_all_strangers_are_counted_although_the_list_of_them_is_short(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list ends at 1000, and the metric and "and N more" ended there too."""
    with connect(dsn) as connection:
        connection.execute(
            "INSERT INTO unknown_gateways (gateway, thumbprint, keys) "
            "SELECT 'site/gw' || number, 'x', '' FROM generate_series(1, 1500) number"
        )
    state = whole_fleet([dsn])
    assert (len(state.unknown), state.unknown_count) == (1000, 1500)
    assert "meterhouse_platform_unknown 1500" in prometheus_text(state.summary())
    assert fleet_view(FleetView(state, {}, [], 0.0), Choice(), "", "en")["unknown_more"] == 1480
    outcome(["platform", "status", "--db", dsn])
    assert "gateways that are neither enrolled nor listed: 1480" in capsys.readouterr().out


def test_a_keeper_says_that_its_database_is_back(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    keeper = Keeper(AWAY, clock=lambda: now[0])
    keeper.step()
    keeper.dsn, now[0] = dsn, 60.0
    for _ in range(2):
        keeper.step()
    keeper.close()
    assert [message.rpartition(": ")[2] for message in caplog.messages if "again" in message] == ["reachable again"]


def test_the_garbage_of_one_gateway_pushes_out_nobody_elses(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_REFUSED_OF_ONE", 20)
    monkeypatch.setattr(store_module, "MAX_REFUSED", 50)
    store = Store(dsn)

    def refuse(gateway: str, count: int) -> None:
        topic = f"meterhouse/v1/{gateway}/meter/readings"
        store.put([], [RefusedMessage(topic, "signature", f"no {n}", b"%d" % n) for n in range(count)], [])

    refuse("park1/quiet", 3)
    for _ in range(5):
        refuse("park1/loud", 400)
    for number in range(4):
        refuse(f"park2/gw{number}", 30)
    with connect(dsn) as connection:
        kept = dict(connection.execute("SELECT gateway, count(*) FROM refused GROUP BY 1").fetchall())
        counted = dict(connection.execute("SELECT gateway, sum(times) FROM refusals GROUP BY 1").fetchall())
        last = connection.execute("SELECT why FROM refusals WHERE gateway = 'park1/loud'").fetchone()
    store.close()
    assert kept["park1/quiet"] == 3 and sum(kept.values()) <= 50 and max(kept.values()) <= 20
    assert counted["park1/loud"] == 2000 and counted["park1/quiet"] == 3, "all are counted"
    assert last == ("no 399",)


def test_the_queue_of_strangers_is_bounded_and_who_still_publishes_stays(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_UNKNOWN", 10)
    real = make("whole", 1)
    store = Store(dsn)
    store.trust_changes()
    store.put([], [], [(real.gateway.name, real.keys[0])])
    for number in range(30):
        store.put([], [], [(f"evil/{number}a", b"{}"), (f"evil/{number}b", b"x" * 200_000)])
        store.put([], [], [(real.gateway.name, b"")])  # its packs go on coming
    store.close()
    with connect(dsn) as connection:
        names = [name for (name,) in connection.execute("SELECT gateway FROM unknown_gateways")]
        assert real.gateway.name in names and len(names) == 10
        assert not [name for name in names if name.endswith("b")], "an object too large for keys is not kept"
        connection.execute("UPDATE unknown_gateways SET seen = now() - interval '31 days' WHERE gateway LIKE 'evil%'")
        forget_strangers(connection)
        assert connection.execute("SELECT gateway FROM unknown_gateways").fetchall() == [(real.gateway.name,)]
    result = CliRunner().invoke(platform, ["enrol", "--forget", "all", "--db", dsn])
    assert result.output == "1 gateway was removed from the list of gateways that are not enrolled\n"


def test_a_false_sequence_is_a_finding_and_in_no_total(dsn: str) -> None:
    """One head, and one pack, of 2^53 - 1: both are signed, and nobody can have that many packs."""
    head, pack, whole = make("whole", 1), make("whole", 2), make("whole", 3)
    pages = [(f"meterhouse/v1/{b.gateway.name}/checkpoint/1", b.gateway.checkpoint()) for b in (whole,)]
    head.stream.seq = (1 << 53) - 1
    pages.append((f"meterhouse/v1/{head.gateway.name}/checkpoint/1", head.gateway.checkpoint()))
    pack.stream.seq = (1 << 53) - 3
    clock = {"error_ms": 1.2, "kernel_boot": pack.stream.boot, "mono_ms": 1, "synced": True}
    pack.send(pack.stream.pack(clock=clock))
    put(dsn, [head, pack, whole], pages)
    with connect(dsn) as connection:
        state = fleet_state(connection)
    findings = {one.name: one.findings for one in state.gateways}
    assert findings == {
        head.gateway.name: {"implausible": 1}, pack.gateway.name: {"chain": 1, "implausible": 1}, whole.gateway.name: {}
    }  # fmt: skip
    assert state.summary()["missing_packs"] == state.summary()["lost_packs"] == state.summary()["due_missing"] == 0


def test_a_stated_gap_of_ages_is_a_finding_and_in_no_total(dsn: str) -> None:
    """One signed pack that accounts for more readings than all gateways together will ever make."""
    ages = make("whole", 1)
    low = ages.stream.at_ms // 1000
    for number in range(12):
        gap = {"from": low + number * 10**11, "points": "*", "reason": "timeout", "to": low + (number + 1) * 10**11}
        ages.send(ages.stream.pack(to=gap["to"], e=[], gaps=[gap]))
    put(dsn, [ages, make("whole", 2)])
    with connect(dsn) as connection:
        state = fleet_state(connection)
        assert connection.execute("SELECT sum(due) < 10000 FROM days").fetchone() == (True,)
    first, second = state.gateways
    assert set(first.findings) == {"implausible"} and not second.findings
    assert state.summary()["due"] < 10_000 and state.summary()["due_missing"] == 0


def test_refused_messages_are_a_warning_with_the_last_reason(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    tampered = make("tampered", 1)
    put(dsn, [tampered])
    outcome(["platform", "status", "--db", dsn, "--since", "2020-01-01"])
    said = capsys.readouterr().out
    with connect(dsn) as connection:
        (state,) = fleet_state(connection).gateways
    assert state.refused == 1 and state.refused_codes == {"signature": 1} and state.refused_why
    assert state.refused_at is not None and not state.findings, "anybody who may publish can send it"
    assert f"refused 1 ({state.refused_why})" in " ".join(said.split()), "whole"


@pytest.mark.parametrize("error", ["53100", "25006", "XX000", "42501", "42P01"])
def test_a_database_that_cannot_take_more_loses_nothing(dsn: str, error: str) -> None:
    """A full disk, a standby after a switch, damage, a missing right, a missing table: not a fault of the message."""
    whole = make("whole", 1)
    enrolled(dsn, whole)
    now = [0.0]
    feed = Feed([(f"meterhouse/v1/{whole.gateway.name}/keys", whole.keys[0]), *whole.sent])
    with connect(dsn) as connection:
        connection.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '{error}'; END $$".encode()
        )
        connection.execute("CREATE TRIGGER t BEFORE INSERT ON lots EXECUTE FUNCTION full_disk()")
        worker = Worker(feed, [Store(dsn)], lambda: now[0])
        for _ in range(3):
            worker.step(0)
            now[0] += 60
        assert not feed.acknowledged and worker.totals.failures >= 2 and not worker.totals.refused
        connection.execute("DROP TRIGGER t ON lots")
        for _ in range(3):
            worker.step(0)
            now[0] += 60
        assert len(feed.acknowledged) == 1 + len(whole.sent) and not worker.waiting
        assert connection.execute("SELECT count(*) FROM packs").fetchone() == (len(whole.sent),)
        assert connection.execute("SELECT count(*) FROM refused").fetchone() == (0,)


def test_what_is_not_there_is_an_error_with_what_to_do(dsn: str, tmp_path: Path) -> None:
    put(dsn, [make("whole", 1)])
    for arguments, words, hint in (
        (["status", "park9/none"], 'no enrolled gateway matches "park9/none"', "status"),
        (["status", ""], 'no enrolled gateway matches ""', "status"),
        (["audit", str(tmp_path / "x"), "--of", "site00", "--from", "2026-11-02", "--to", "2026-11-01"],
         "the start 2026-11-02 is not before the end 2026-11-01", "--to"),
        (["audit", str(tmp_path / "x"), "--of", "site00", "--from", "2026-11-02", "--to", "2026-11-02"],
         "is not before", "Write one day as"),
    ):  # fmt: skip
        result = CliRunner().invoke(platform, [*arguments, "--db", dsn])
        error = result.exception
        assert isinstance(error, UsageError) and error.exit_code == 2, (arguments, result.output)
        assert words in error.what and hint in error.hint
    assert not (tmp_path / "x").exists()


def test_one_key_in_two_gateways_is_a_warning(dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kid = make("whole", 1).gateway.signer.kid
    file = tmp_path / "fleet.csv"
    for text, warned in ((f"a/1,{kid}\n", False), (f"a/2,{kid}\n", True), (f"a/2,{kid}\n", True)):
        file.write_text(text)
        assert outcome(["platform", "enrol", str(file), "--db", dsn, "--lang", "en"]) == 0
        said = capsys.readouterr().err
        assert (f"a/1, a/2 have the same key {kid}" in said) == warned
    assert outcome(["platform", "enrol", str(file), "--db", dsn, "--lang", "zh"]) == 0
    said = capsys.readouterr()
    assert "使用同一把密钥" in said.err and "1 台网关受信任" in said.out


def test_a_gateway_with_a_hole_says_why_it_is_incomplete(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its row had an empty `why`."""
    put(dsn, [make("hole", 1)])
    for language, words in (("en", "missing 2 packs"), ("zh", "缺 2 包")):
        assert outcome(["platform", "status", "--lang", language, "--db", dsn]) == 6
        (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("site00/gw00001 ")]
        assert row.rstrip().endswith(words)


def test_a_worker_says_at_its_start_what_it_reads(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    enrolled(dsn, make("whole", 1), make("whole", 2))
    monkeypatch.setattr("receiver.commands._on_stop", lambda: [15])
    with caplog.at_level(logging.INFO, "meterhouse.platform"):
        url = "mqtt://user@127.0.0.1:1?password_file=/dev/null"
        result = CliRunner().invoke(platform, ["work", "--from", url, "--name", "w1", "--db", dsn])
        assert result.exit_code == 0, result.exception
    (line, *_) = caplog.messages
    assert line.startswith("worker w1 reads from mqtt://127.0.0.1:1; database test") and "2 gateways trusted" in line
    assert "user" not in caplog.text


@pytest.mark.parametrize("command", ["work --from mqtt://", "work --from amqps://", "keep --broker mqtt://"])
def test_a_password_in_a_broker_url_is_refused_and_not_shown(
    dsn: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `verify` refuses it: it would be visible in the list of processes."""
    assert outcome(["platform", *f"{command}worker:s3cret@127.0.0.1:1".split(), "--db", dsn]) == 2
    said = "".join(capsys.readouterr())
    assert "must not contain a password" in said and "password_file" in said and "s3cret" not in said
    assert outcome(["platform", "keep", "--broker", "http://worker:s3cret@h", "--db", dsn]) == 2
    said = "".join(capsys.readouterr())
    assert "'http://' is not a broker URL" in said and "s3cret" not in said


def test_a_keeper_checks_its_broker_before_it_says_that_it_uses_it(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "meterhouse.platform"):
        result = CliRunner().invoke(platform, ["keep", "--broker", "foo", "--db", dsn])
    assert "'foo' is not a broker URL" in str(result.exception) and not caplog.messages


def test_work_and_keep_start_while_one_database_is_away(
    postgres: PrivatePostgres, dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = two_shards(postgres, dsn)
    monkeypatch.setattr("receiver.commands._on_stop", lambda: [15])
    for arguments in (["work", "--from", "mqtt://127.0.0.1:1", "--name", "w"], ["keep"]):
        caplog.clear()
        with caplog.at_level(logging.INFO, "meterhouse.platform"):
            result = CliRunner().invoke(platform, [*arguments, "--db", first, "--db", AWAY])
        assert result.exit_code == 0, result.exception
        assert any("database 2 is unreachable" in text for text in caplog.messages)
    wrong = Store(first, place=(1, 2))
    with pytest.raises(Exception, match="database number 2 of 2"):
        wrong.connection()
