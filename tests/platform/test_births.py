"""What came before the platform, or was written anew on its way: births of gateways that were there first, bridges."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner

from agent.cli.main import cli
from agent.verify import Verifier
from receiver.acks import Acknowledger
from receiver.audit import write_export
from receiver.births import BirthFetcher
from receiver.commands import platform
from receiver.converters.hj212 import unframe
from receiver.database import connect
from receiver.fleet_state import fleet_state
from receiver.keeper import Keeper, drop_months
from receiver.page.data import FleetData
from receiver.publisher import Publisher
from receiver.settle import settle_late
from receiver.store import Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker
from tests.kits.broker import Broker, until
from tests.kits.fleet_faults import Broken, Feed, make
from tests.kits.signed import START, Key, Stream, b64, checkpoint, keys, payload_hash


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """A broker that keeps these messages, and takes acks."""

    is_connected = True

    def __init__(self, **messages: bytes) -> None:
        self.messages: dict[str, bytes] = dict(messages)
        self.asked: list[str] = []
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def retained(self, topics: list[str], wait_s: float) -> dict[str, bytes]:
        self.asked += topics
        return {topic: self.messages[topic] for topic in topics if topic in self.messages}

    def publish(self, topic: str, body: bytes, *, retain: bool = False) -> bool:
        self.sent.append((topic, json.loads(body)))
        return True


def settle(worker: Worker, clock: Clock) -> None:
    """Let the worker take all that was sent, also what waits for a key or a birth that does not come."""
    for _ in range(3):
        worker.step(0)
        clock.now += 40.0


def keep(dsn: str, broker: Kept | None = None) -> None:
    """Let a keeper do all that is due."""
    keeper = Keeper(dsn, broker)  # type: ignore[arg-type]
    while keeper.step():
        pass
    keeper.close()


def without_birth(dsn: str, b: Broken) -> None:
    """All packs of a gateway but its birth, as a platform gets them that is added later."""
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid])])
    clock = Clock()
    worker = Worker(Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent[1:]]), [Store(dsn)], clock)
    settle(worker, clock)
    assert not worker.waiting and not worker.totals.refused


def verdict(dsn: str, b: Broken) -> str:
    with connect(dsn) as connection:
        (one,) = [one for one in fleet_state(connection).gateways if one.name == b.gateway.name]
    return one.verdict


@pytest.mark.broker
def test_a_platform_that_came_later_gets_the_births_that_the_broker_keeps(dsn: str, tmp_path: Path) -> None:
    """It waited for them for ever: a birth is published again only at the next start of the agent."""
    b, broker = make("whole", 1), Broker(tmp_path)
    broker.start()
    gateway = Publisher(broker.url, "gateway")
    publisher = Publisher(broker.url, "keeper")
    try:
        until(lambda: publisher.is_connected and gateway.is_connected, what="connected")
        assert gateway.publish(f"meterhouse/v1/{b.stream.name}/birth", b.sent[0][1], retain=True)
        without_birth(dsn, b)
        keeper = Keeper(dsn, publisher)
        until(lambda: [keeper.step(), verdict(dsn, b)][1] == "verified", what="verified")
        keeper.close()
    finally:
        publisher.close()
        gateway.close()
        broker.stop()
    folder = tmp_path / "evidence"
    done = CliRunner().invoke(platform, ["audit", str(folder), "--of", b.gateway.name, "--db", dsn])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(cli, ["verify", str(folder), "--trust", b.gateway.signer.kid, "--json"])
    report = json.loads(done.output)
    (stream,) = report["streams"].values()
    assert (report["verdict"], stream["readings"], stream["unchecked"]) == ("verified", 1100, 0), done.output


def test_a_birth_that_is_not_the_gateways_is_not_taken_and_not_asked_for_all_the_time(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    b, other, clock = make("whole", 1), make("whole", 2), Clock()
    without_birth(dsn, b)
    topic = f"meterhouse/v1/{b.stream.name}/birth"
    for raw in (other.sent[0][1], b.sent[0][1].replace(b'"kWh"', b'"MWh"'), b.sent[1][1], b"{", b""):
        broker = Kept()
        broker.messages[topic] = raw
        fetcher = BirthFetcher(broker, clock)
        with connect(dsn) as connection:
            assert [fetcher.step(connection), fetcher.step(connection)] == [0, 0] and broker.asked == [topic]
            clock.now += 61.0
            assert fetcher.step(connection) == 0 and broker.asked == [topic] * 2
            assert connection.execute("SELECT count(*) FROM births").fetchall() == [(0,)]
    assert all(topic in message for message in caplog.messages if "retained birth" in message)
    good = Kept()
    good.messages[topic] = b.sent[0][1]
    with connect(dsn) as connection:
        assert BirthFetcher(good, clock).step(connection) == 1
        assert BirthFetcher(good, clock).step(connection) == 0, "nothing is missing any more"


def test_packs_whose_gateway_has_no_pinned_key_wait_and_do_not_hold_up_the_others(dsn: str) -> None:
    """One such gateway stopped the settling of all packs and the fetching of all births of its database."""
    made = [make("whole", number) for number in (1, 2)]
    for b in made:
        without_birth(dsn, b)
    broker, name = Kept(), made[0].gateway.name
    with connect(dsn) as connection:
        # a worker that did not know of the change yet has stored the keys of the old thumbprint once more
        connection.execute("UPDATE pins SET thumbprint = reverse(thumbprint) WHERE gateway = %s", [name])
        broker.messages = {f"meterhouse/v1/{b.stream.name}/birth": b.sent[0][1] for b in made}
        assert BirthFetcher(broker, Clock()).step(connection) == 1
        assert settle_late(connection) == 11
        connection.execute("UPDATE pins SET thumbprint = reverse(thumbprint) WHERE gateway = %s", [name])
        assert BirthFetcher(broker, Clock()).step(connection) == 1
        connection.execute("UPDATE pins SET thumbprint = reverse(thumbprint) WHERE gateway = %s", [name])
        assert settle_late(connection) == 0
        connection.execute("UPDATE pins SET thumbprint = reverse(thumbprint) WHERE gateway = %s", [name])
        assert settle_late(connection) == 11
        assert connection.execute("SELECT count(*) FROM findings").fetchall() == [(0,)]


def test_a_pack_that_a_bridge_has_written_anew_is_acknowledged_by_what_was_signed(dsn: str) -> None:
    """One such pack ended the keeper of the whole fleet, at each of its starts."""
    made = [make("whole", number) for number in (1, 2)]
    topic, raw = made[0].sent[-1]
    turned = dict(reversed(json.loads(raw).items()))
    for again in (json.dumps(turned, separators=(",", ":")).encode(), json.dumps(json.loads(raw), indent=1).encode()):
        with connect(dsn) as connection:
            connection.execute("TRUNCATE packs, boots, acked, lots, births, point_tables")
            enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid]) for b in made])
        keys = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]) for b in made]
        worker = Worker(Feed([*keys, *made[0].sent[:-1], (topic, again), *made[1].sent]), [Store(dsn)], Clock())
        worker.step(0)
        broker = Kept()
        keep(dsn, broker)
        acks = {topic.removeprefix("meterhouse/v1/"): body for topic, body in broker.sent if topic.endswith("/ack")}
        assert {f"{b.gateway.name}/ack" for b in made} == acks.keys()
        for b in made:
            assert acks[f"{b.gateway.name}/ack"]["hash"] == b.stream.prev, "of what the gateway signed"


# a body that cannot be decompressed, one that is no JSON, and one with another reading than the signed one
DAMAGES = {
    "frame": lambda raw: b"\0",
    "text": lambda raw: zstandard.compress(raw[:-1]),
    "value": lambda raw: zstandard.compress(raw.replace(b'"v":23', b'"v":99', 1)),
}


def damage(dsn: str, b: Broken, seq: int, how: str) -> None:
    body = DAMAGES[how](b.sent[seq - 1][1])
    query = "UPDATE packs SET body = %s FROM streams WHERE id = stream AND gateway = %s AND seq = %s"
    with connect(dsn) as connection:
        assert connection.execute(query, [body, b.gateway.name, seq]).rowcount == 1


@pytest.mark.parametrize("how", ["frame", "text"])
@pytest.mark.parametrize("lists", [False, True])
def test_a_damaged_row_keeps_no_ack_from_the_other_gateways(dsn: str, how: str, lists: bool) -> None:
    """Gateways before it got the same ack every two seconds, those after it got none and sent their packs again."""
    made, broker = [make("whole", number) for number in (1, 2, 3)], Kept()
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid]) for b in made])
    sent = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]) for b in made]
    if lists:
        status = b'{"accepts":["acks"],"state":"online"}'
        sent += [(f"meterhouse/v1/{b.gateway.name}/status", status) for b in made]
    Worker(Feed([*sent, *(message for b in made for message in b.sent)]), [Store(dsn)], Clock()).step(0)
    keep(dsn)
    damage(dsn, made[1], len(made[1].sent), how)
    with connect(dsn) as connection:
        acknowledger = Acknowledger(broker)  # type: ignore[arg-type]
        assert [acknowledger.step(connection), acknowledger.step(connection)] == [2, 0]
    assert [topic for topic, _ in broker.sent] == [f"meterhouse/v1/{b.gateway.name}/ack" for b in (made[0], made[2])]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_row_is_a_finding_and_keeps_no_other_pack_from_being_settled(dsn: str, how: str) -> None:
    made, broker = [make("whole", number) for number in (1, 2)], Kept()
    for b in made:
        without_birth(dsn, b)
        broker.messages[f"meterhouse/v1/{b.stream.name}/birth"] = b.sent[0][1]
    damage(dsn, made[0], 5, how)
    with connect(dsn) as connection:
        assert BirthFetcher(broker, Clock()).step(connection) == 2
        assert settle_late(connection) == 22
        assert connection.execute("SELECT seq, code FROM findings").fetchall() == [(5, "damaged")]
        counted = connection.execute("SELECT seq FROM packs WHERE faults IS NOT NULL OR due = 0").fetchall()
        assert counted == [(5,)], "no reading of the damaged pack is counted"


def test_a_damaged_row_keeps_no_other_pack_from_being_exported(dsn: str, tmp_path: Path) -> None:
    """`audit` ended with a traceback and half a folder."""
    b, folder = make("whole", 1), tmp_path / "evidence"
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid])])
    Worker(Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent]), [Store(dsn)], Clock()).step(0)
    damage(dsn, b, 5, "frame")
    done = CliRunner().invoke(platform, ["audit", str(folder), "--of", b.gateway.name, "--db", dsn])
    assert done.exit_code == 1 and "11 packs from 1 stream" in done.stdout
    assert f"{b.stream.name}: pack 5 is damaged in the database and was not written" in done.stderr
    done = CliRunner().invoke(cli, ["verify", str(folder), "--trust", b.gateway.signer.kid, "--json"])
    assert json.loads(done.output)["packs"] == 11
    more = ["--of", b.gateway.name, "--db", dsn, "--json"]
    done = CliRunner().invoke(platform, ["audit", str(tmp_path / "again"), *more])
    assert done.exit_code == 1 and json.loads(done.output)["damaged"] == [{"seq": 5, "stream": b.stream.name}]
    damage(dsn, b, 1, "frame")
    with connect(dsn) as connection:
        written = write_export(connection, tmp_path / "later", b.gateway.name, b.stream.at_ms - 20_000)
    assert (written.damaged, written.packs > 0) == ([(b.stream.name, 1)], True), "the birth before the range"


def tick_with_a_faulty_part(stream: Stream) -> tuple[bytes, bytes]:
    """The two parts of a tick, of which the second has a reading in another unit."""
    fields = stream.fields()
    records, to = fields["e"], fields["to"]
    cut = len(records) // 2
    first = stream.pack(e=records[:cut], part=[1, 2])
    stream.at = fields["from"]
    rest = [{"bn": records[0]["bn"], "bt": records[0]["bt"], **records[cut]}, *records[cut + 1 :]]
    rest[1] = {**rest[1], "u": "furlong"}
    return first, stream.pack(e=rest, part=[2, 2], to=to)


def test_the_finding_is_at_the_faulty_part_whenever_the_birth_of_a_tick_in_parts_comes(dsn: str) -> None:
    """If the birth came late, the first part had the finding, and the sound part counted as faulty."""
    key = Key()
    stream = Stream(key=key)
    birth, (first, second) = stream.make_birth(), tick_with_a_faulty_part(stream)
    with connect(dsn) as connection:
        enrol(connection, [Enrolment("park7/gw01", [key.kid])])
    for packs in ([birth, first, second], [first, second, birth]):
        with connect(dsn) as connection:
            connection.execute("TRUNCATE packs, boots, findings, lots, births, point_tables")
        clock = Clock()
        feed = Feed([("meterhouse/v1/park7/gw01/keys", keys(key))])
        worker = Worker(feed, [Store(dsn)], clock)
        for raw in packs:
            feed.left += Feed([(stream.topic(), raw)]).left
            settle(worker, clock)
        keep(dsn)
        with connect(dsn) as connection:
            rows = connection.execute("SELECT seq, due, faults FROM packs ORDER BY seq").fetchall()
            assert connection.execute("SELECT seq, code FROM all_findings").fetchall() == [(3, "rule")]
        assert rows[1:] == [(2, 0, None), (3, 0, ["rule"])]


@pytest.mark.parametrize("faulty_first", [False, True])
def test_the_other_parts_of_a_tick_are_settled_if_one_part_breaks_a_rule(
    dsn: str, tmp_path: Path, faulty_first: bool
) -> None:
    """They waited for ever, and the page's note about them never ended."""
    key = Key()
    stream = Stream(key=key)
    birth, (first, second) = stream.make_birth(), tick_with_a_faulty_part(stream)
    sent = [birth, second, first] if faulty_first else [birth, first, second]
    messages = [(stream.topic(), raw) for raw in sent]
    verdicts = judged(dsn, tmp_path / "evidence", key, messages)
    assert verdicts[0] == verdicts[1] == verdicts[2] == "failed", verdicts
    with connect(dsn) as connection:
        (one,) = fleet_state(connection).gateways
        rows = connection.execute("SELECT seq, due, faults FROM packs ORDER BY seq").fetchall()
        found = connection.execute("SELECT seq, code FROM all_findings").fetchall()
    assert rows[1:] == [(2, 0, None), (3, 0, ["rule"])] and found == [(3, "rule")] and one.unsettled == 0


def test_a_job_that_fails_does_not_keep_the_others_from_running(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    b, broker = make("whole", 1), Kept()
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid])])
    Worker(Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent]), [Store(dsn)], Clock()).step(0)

    def broken(*_: object) -> int:
        raise ValueError("a bug")

    monkeypatch.setattr(BirthFetcher, "step", broken)
    keeper = Keeper(dsn, broker)  # type: ignore[arg-type]
    keeper.step()
    keeper.step()
    keeper.close()
    assert [topic for topic, _ in broker.sent if topic.endswith("/ack")] == [f"meterhouse/v1/{b.gateway.name}/ack"]
    assert "internal error in a job" in caplog.text
    assert Acknowledger(broker).sent == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "agreed", "verdict"),
    [
        ({}, (), "incomplete"),
        ({"retired": True}, (), "verified"),
        ({"to": START - 60}, (), "verified"),
        ({"retired": True}, ("inv1", "old"), "incomplete"),
        ({"retired": True}, ("inv1",), "verified"),
        ({"to": START - 60}, ("inv1", "old"), "verified"),
    ],
)
def test_a_stream_that_ended_before_the_platform_came_is_not_withheld(
    dsn: str, tmp_path: Path, more: dict[str, Any], agreed: tuple[str, ...], verdict: str
) -> None:
    """A device that was taken out of the configuration made its gateway `incomplete` for ever."""
    key = Key()
    stream = Stream(key=key)
    packs = stream.run(4)
    name = "park7/gw01/old"
    heads = [
        {"boot": stream.boot, "hash": stream.prev, "seq": stream.seq, "stream": stream.stream, "to": stream.at},
        {"boot": "00ff00ff00ff00ff", "hash": b64(b"x" * 32), "seq": 23, "stream": name, "to": stream.at, **more},
    ]
    with connect(dsn) as connection:
        enrol(connection, [Enrolment("park7/gw01", [key.kid], list(agreed))])
    sent = [("meterhouse/v1/park7/gw01/keys", keys(key)), *((stream.topic(), raw) for raw in packs)]
    sent.append(("meterhouse/v1/park7/gw01/checkpoint/1", checkpoint(heads, key)))
    Worker(Feed(sent), [Store(dsn)], Clock()).step(0)
    keep(dsn)
    with connect(dsn) as connection:
        (one,) = fleet_state(connection).gateways
    page = FleetData([dsn]).gateway("park7/gw01")
    assert page is not None and (one.verdict, page.state.verdict) == (verdict, verdict), one
    folder = tmp_path / "evidence"
    done = CliRunner().invoke(platform, ["audit", str(folder), "--of", "park7", "--db", dsn])
    assert done.exit_code == 0, done.output
    lists = ["--streams", f"park7/gw01={','.join(agreed)}"] if agreed else []
    done = CliRunner().invoke(cli, ["verify", str(folder), "--trust", key.kid, "--json", *lists])
    assert json.loads(done.output)["verdict"] == verdict, done.output


def judged(dsn: str, folder: Path, key: Key, sent: list[tuple[str, bytes]]) -> tuple[str, str, str, str]:
    """Verdicts of the fleet's table, of the gateway's page, of the evidence, and of what was published."""
    with connect(dsn) as connection:
        enrol(connection, [Enrolment("park7/gw01", [key.kid])])
    clock = Clock()
    worker = Worker(Feed([("meterhouse/v1/park7/gw01/keys", keys(key)), *sent]), [Store(dsn)], clock)
    settle(worker, clock)
    keep(dsn)
    with connect(dsn) as connection:
        (one,) = fleet_state(connection).gateways
    page = FleetData([dsn]).gateway("park7/gw01")
    assert page is not None and not worker.waiting
    done = CliRunner().invoke(platform, ["audit", str(folder), "--of", "park7", "--db", dsn])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(cli, ["verify", str(folder), "--trust", key.kid, "--json"])
    verifier = Verifier([key.kid])
    verifier.feed(keys(key), "meterhouse/v1/park7/gw01/keys")
    for topic, raw in sent:
        verifier.feed(raw, topic)
    return one.verdict, page.state.verdict, json.loads(done.output)["verdict"], verifier.finish().verdict.value


def head(stream: Stream, **more: Any) -> dict[str, Any]:
    return {
        "boot": stream.boot,
        "hash": stream.prev,
        "seq": stream.seq,
        "stream": stream.stream,
        "to": stream.at,
        **more,
    }


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("kind", ["skipped", "restart", "torn", "two of one number", "broken chain", "good"])
def test_what_only_several_objects_show_is_judged_as_verify_judges_it(
    dsn: str, tmp_path: Path, kind: str, shuffled: bool
) -> None:
    """Each of these was `verified`, or without a finding, in the table, and not so for a verifier of its evidence."""
    key = Key()
    stream = Stream(key=key)
    sent = [(stream.topic(), raw) for raw in stream.run(4)]
    page = "meterhouse/v1/park7/gw01/checkpoint/1"
    first = checkpoint([head(stream)], key, 1, time=stream.at)
    pages: list[tuple[str, bytes]] = []
    want = "failed"
    if kind == "skipped":
        stream.seq += 1
    elif kind == "restart":
        stream.restart("00ff00ff00ff00ff")
        stream.seq, stream.prev, stream.prev_boot, want = 0, None, None, "incomplete"
        sent.append((stream.topic(), stream.make_birth()))
    elif kind == "torn":
        pages, want = [(page, checkpoint([head(stream)], key, 1, pages=2, time=stream.at))], "incomplete"
    elif kind == "two of one number":
        pages = [(page, first), (page, checkpoint([head(stream, seq=2)], key, 1, time=stream.at))]
    elif kind == "broken chain":
        pages = [(page, first), (page, checkpoint([head(stream)], key, 2, prev=b64(b"x" * 32), time=stream.at + 1))]
    else:
        pages, want = [(page, first), (page, checkpoint([head(stream)], key, 2, prev=payload_hash(first)))], "verified"
    sent += [(stream.topic(), stream.pack(400)) for _ in range(2)]
    whole = sent + pages
    if shuffled:
        random.Random(kind).shuffle(whole)
    *tables, published = judged(dsn, tmp_path / "evidence", key, whole)
    assert tables == [want] * 3, (kind, tables)
    assert shuffled or published == want


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("kind", ["left out", "taken back"])
def test_heads_of_an_earlier_checkpoint_count_the_same_whichever_comes_first(
    dsn: str, tmp_path: Path, kind: str, shuffled: bool
) -> None:
    """A stream without packs that the later one leaves out is not owed; a head of one with packs is not taken back."""
    key = Key()
    stream = Stream(key=key)
    sent = [(stream.topic(), raw) for raw in stream.run(4)]
    page, gone = "meterhouse/v1/park7/gw01/checkpoint/1", head(stream) | {"stream": "park7/gw01/gone", "seq": 7}
    ahead = head(stream) | {"seq": 9, "hash": b64(b"x" * 32)}
    first = checkpoint([gone, head(stream)] if kind == "left out" else [ahead], key, 1, time=stream.at)
    pages = [(page, first), (page, checkpoint([head(stream)], key, 2, prev=payload_hash(first), time=stream.at + 1))]
    pages = pages[::-1] if shuffled else pages
    *tables, _ = judged(dsn, tmp_path / "evidence", key, sent + pages)
    assert tables == ["verified" if kind == "left out" else "incomplete"] * 3


def test_a_pack_that_breaks_a_rule_is_found_the_same_whenever_its_birth_comes(dsn: str) -> None:
    key = Key()
    stream = Stream(key=key)
    birth = stream.make_birth()
    records = stream.fields()["e"][:-1]  # one reading less than was due, and one in another unit
    wrong = stream.pack(e=[records[0], {**records[1], "u": "furlong"}, *records[2:]])
    with connect(dsn) as connection:
        enrol(connection, [Enrolment("park7/gw01", [key.kid])])
    found = []
    for packs in ([birth, wrong], [wrong, birth]):
        with connect(dsn) as connection:
            connection.execute("TRUNCATE packs, boots, findings, lots, births, point_tables")
        clock = Clock()
        feed = Feed([("meterhouse/v1/park7/gw01/keys", keys(key)), *((stream.topic(), raw) for raw in packs[:1])])
        worker = Worker(feed, [Store(dsn)], clock)
        for more in ([], packs[1:]):
            feed.left += Feed([(stream.topic(), raw) for raw in more]).left
            settle(worker, clock)
        keep(dsn)
        with connect(dsn) as connection:
            found.append(connection.execute("SELECT seq, code FROM all_findings ORDER BY 1, 2").fetchall())
    assert found[0] == found[1] == [(2, "rule")]


def test_a_gateway_that_signs_contradictions_without_end_fills_nothing(dsn: str) -> None:
    key = Key()
    stream = Stream(key=key)
    sent = [(stream.topic(), raw) for raw in stream.run(2)]
    page = "meterhouse/v1/park7/gw01/checkpoint/1"
    sent += [(page, checkpoint([head(stream)], key, 1, time=stream.at + n)) for n in range(60)]
    with connect(dsn) as connection:
        enrol(connection, [Enrolment("park7/gw01", [key.kid])])
    Worker(Feed([("meterhouse/v1/park7/gw01/keys", keys(key)), *sent]), [Store(dsn)], Clock()).step(0)
    with connect(dsn) as connection:
        kept = connection.execute("SELECT count(*) FROM checkpoint_twins").fetchall()[0][0]
        (one,) = fleet_state(connection).gateways
    assert 2 <= kept <= 21 and one.findings == {"checkpoint": 1} and one.verdict == "failed"


def test_the_birth_of_kept_packs_outlives_its_month(dsn: str, tmp_path: Path) -> None:
    """A gateway that runs for longer than `--keep-days` has its birth in a dropped month. The evidence of its later
    packs lacked the point table, so a verifier could not judge them, and `convert` ignored `least`.
    """
    from tests.platform.test_converters import MAP, fields, mapping

    b = make("whole", 1, 1_788_220_800_000 - 20_000)  # the month ends after 20 s
    b.stream.pack(seconds=50)  # a hole: this pack does not arrive
    b.send(*b.run(2))
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid])])
    Worker(Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent]), [Store(dsn)], Clock()).step(0)
    keep(dsn)
    with connect(dsn) as connection:
        for _ in range(2):
            drop_months(connection, (datetime.now(UTC).date() - date(2026, 9, 15)).days)
            copies = connection.execute("SELECT body FROM birth_copies").fetchall()
            assert [bytes(body) for (body,) in copies] == [b.sent[0][1]]
        assert connection.execute("SELECT count(*) FROM packs WHERE is_birth").fetchall() == [(0,)]
        written = write_export(connection, tmp_path / "evidence", b.gateway.name)
    assert written.packs == 11
    done = CliRunner().invoke(cli, ["verify", str(tmp_path / "evidence"), "--trust", b.gateway.signer.kid, "--json"])
    (stream,) = json.loads(done.output)["streams"].values()
    assert (stream["readings"], stream["unchecked"]) == (1100, 0), done.output
    file = mapping(tmp_path, MAP.format(stream=b.stream.name))
    arguments = ["convert", "hj212-2017", "--map", str(file), "--from", "2026-09-01T00:02", "--to", "2026-09-01T00:03"]
    raw = CliRunner().invoke(platform, [*arguments, "--db", dsn], catch_exceptions=False).stdout_bytes
    assert fields(unframe(raw)) == {"DataTime": "20260901080200", "w01018-Flag": "B"}, "20 of 60 readings"
