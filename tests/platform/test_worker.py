"""A worker acknowledges what is committed and nothing else, whatever dies, and nothing stops it."""

from __future__ import annotations

import copy
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent.cli.main import outcome
from agent.keys.key_records import Revocation, new_root
from agent.verify import KeyRing, Refusal, check, check_keys
from receiver.acks import Acknowledger
from receiver.audit import write_export
from receiver.database import connect, create_tables, month_of, show_dsn, statement
from receiver.fleet import make_fleet
from receiver.fleet_state import fleet_state
from receiver.fleet_table import why
from receiver.keeper import Keeper
from receiver.private_postgres import PrivatePostgres
from receiver.replays import ask_again
from receiver.settle import ring_of
from receiver.sources import Message
from receiver.store import Store
from receiver.trust import Enrolment, enrol, read_csv, remove
from receiver.worker import Worker
from tests.kits.broker import Broker, until
from tests.kits.fleet_faults import START_MS, Broken, Feed, has_subscriber, make, publish_all, signer_of
from tests.kits.mutations import places
from tests.kits.signed import POINTS, Key, Stream, keys, sign, table

# what must stay the same when packs move to the partition of their month
_KEPT = ("packs", "reading_blocks", "forks", "days", "boots", "findings", "lots", "changed_packs")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def count(dsn: str, query: str) -> int:
    with connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])


def enrolled(dsn: str, *names: tuple[str, str]) -> None:
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(gateway, [thumbprint]) for gateway, thumbprint in names])


def checked(dsn: str, *made: Broken) -> None:
    """Enrol the gateways, store their packs, and let the keeper check them."""
    for b in made:
        enrolled(dsn, b.gateway.pin)
        Worker(Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent]), [Store(dsn)], Clock()).step(0)
    keeper = Keeper(dsn)
    while keeper.step():
        pass
    keeper.close()


def test_nothing_is_acknowledged_while_the_database_is_away(tmp_path: Path) -> None:
    """`immediate` stop, as a power cut, in the middle: after its return every pack is there once."""
    folder = Path("/tmp") / f"mh-{tmp_path.name}-{random.randrange(1 << 30)}"
    server = PrivatePostgres(folder)
    server.start()
    try:
        create_tables(server.dsn)
        made = [make("whole", number) for number in range(10)]
        enrolled(server.dsn, *(b.gateway.pin for b in made))
        keys = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]) for b in made]
        sent = [message for b in made for message in b.sent]
        feed, clock = Feed(keys + sent[:60]), Clock()
        worker = Worker(feed, [Store(server.dsn)], clock)
        worker.step(0)
        assert len(feed.acknowledged) == 70
        server.stop("immediate")
        feed.left += Feed(sent[60:]).left
        for message in feed.left:
            message.token += 1000
        for _ in range(5):
            worker.step(0)
            clock.now += 100.0
        assert len(feed.acknowledged) == 70, "nothing of what was not committed"
        assert worker.totals.failures >= 1
        server.start()
        for _ in range(3):
            clock.now += 100.0
            worker.step(0)
        assert len(feed.acknowledged) == 70 + 60
        assert count(server.dsn, "SELECT count(*) FROM packs") == 120
        keeper = Keeper(server.dsn)
        while keeper.step():
            pass
        assert count(server.dsn, "SELECT count(*) FROM all_findings") == 0
        keeper.close()
    finally:
        server.stop()
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def test_an_outage_names_its_database_and_its_end(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that was started in the outage never said when it was over, and a keeper not which database it was."""
    b = make("whole", 1)
    enrolled(dsn, b.gateway.pin)
    Worker(Feed(b.sent), [Store(dsn)], Clock(), away=[0]).step(0)
    assert caplog.messages == ["database 1: reachable again"]
    keeper, name = Keeper(dsn), show_dsn(dsn)
    keeper.step()
    caplog.clear()
    with connect(dsn) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    keeper.step()
    keeper.close()
    (text,) = caplog.messages
    assert text.startswith(f"{name}: ") and text.count(name) == 1 and "Retrying in" in text


def test_a_gateway_that_nobody_enrolled_waits_in_the_queue_and_is_known_once_it_is(dsn: str) -> None:
    b = make("whole", 1)
    feed, clock = Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent]), Clock()
    worker = Worker(feed, [Store(dsn)], clock)
    worker.step(0)
    assert worker.totals.unknown == 13
    assert count(dsn, "SELECT count(*) FROM packs") == 0
    with connect(dsn) as connection:
        waiting = connection.execute("SELECT gateway, thumbprint FROM unknown_gateways").fetchall()
        assert waiting == [b.gateway.pin]
        assert enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid])]) == [b.gateway.name]
    feed.left = Feed(b.sent).left  # it sends again what nobody acknowledged
    worker.step(0)
    assert count(dsn, "SELECT count(*) FROM packs") == 12
    with connect(dsn) as connection:
        assert remove(connection, [b.gateway.name]) == 1
    feed.left = Feed(b.sent).left
    worker.step(0)
    assert worker.totals.unknown == 13 + 12


def test_the_time_of_an_outage_does_not_count_as_waiting_for_a_key(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs that came before their key and before an outage were refused when the database was back, for good."""
    b = make("whole", 1)
    enrolled(dsn, b.gateway.pin)
    feed, clock, store = Feed(b.sent), Clock(), Store(dsn)
    worker = Worker(feed, [store], clock)
    worker.step(0)
    with monkeypatch.context() as away:
        away.setattr(store, "trust_changes", lambda: (_ for _ in ()).throw(psycopg.OperationalError("gone")))
        for _ in range(5):
            clock.now += 20.0  # it tries again after 15 s at most
            worker.step(0)
    clock.now += 20.0
    worker.step(0)
    assert not worker.totals.refused and worker.waiting == 12
    feed.left = Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0])]).left
    for _ in range(2):
        worker.step(0)
    assert count(dsn, "SELECT count(*) FROM packs") == 12 and not worker.totals.refused


def test_a_gateway_whose_birth_never_comes_is_incomplete(dsn: str) -> None:
    """Nobody knows what was due in its packs, as `meterhouse verify` says."""
    b = make("whole", 1)
    enrolled(dsn, b.gateway.pin)
    feed, clock = Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent[1:]]), Clock()
    worker, keeper = Worker(feed, [Store(dsn)], clock), Keeper(dsn)
    for _ in range(3):
        worker.step(0)
        clock.now += 100.0
    while keeper.step():
        pass
    with connect(dsn) as connection:
        connection.execute("UPDATE lots SET stored = now() - interval '2 minutes'")
        (state,) = fleet_state(connection, b.gateway.name).gateways
        assert (state.verdict, state.unsettled, state.completeness) == ("incomplete", 11, None)
        assert "packs that wait for their birth pack, or for the rest of a split pack: 11" in why(state)


def test_packs_that_wait_for_their_birth_do_not_ask_about_the_keeper(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status` asked whether `keep` was running although it was, and of one site counted the packs of all."""
    made = [make("whole", 1), make("whole", 21)]  # of two sites
    enrolled(dsn, *(b.gateway.pin for b in made))
    sent = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]) for b in made]
    clock = Clock()
    for messages in (sent + made[0].sent[1:], made[1].sent):
        worker = Worker(Feed(messages), [Store(dsn)], clock)
        for _ in range(3):
            worker.step(0)
            clock.now += 100.0
    with connect(dsn) as connection:
        connection.execute("UPDATE lots SET stored = now() - interval '2 minutes'")
    waiting = "packs that wait for their birth pack, or for the rest of a split pack: 11"
    batches = "batches that are not checked yet: 1. Is `meterhouse platform keep` running?"
    for keeps in (False, True):
        for like, expected in (([], True), (["site00"], True), (["site01/gw00021"], False)):
            outcome(["platform", "status", *like, "--db", dsn])
            said = capsys.readouterr().out
            assert (waiting in said) == expected and ("Is `meterhouse platform keep` running?" in said) != keeps, (
                keeps,
                like,
                said,
            )
            assert keeps or not like or batches in said.splitlines(), said
        keeper = Keeper(dsn)
        while keeper.step():
            pass
        keeper.close()


def test_states_and_texts_do_not_fill_what_is_missing(dsn: str) -> None:
    """They are readings, and never due: 360 readings of 200 due, 40 of those in gaps, are 80 %."""
    b = make("whole", 1)
    enrolled(dsn, b.gateway.pin)
    worker = Worker(Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent]), [Store(dsn)], Clock())
    worker.step(0)
    keeper = Keeper(dsn)
    while keeper.step():
        pass
    with connect(dsn) as connection:
        connection.execute("UPDATE days SET readings = 360, due = 200, gaps = 40")
        state = fleet_state(connection, b.gateway.name)
        assert state.gateways[0].completeness == 0.8 and state.summary()["received"] == 160
        rows = connection.execute(statement("fleet_days"), {"since": "1970-01-01", "streams": None}).fetchall()
        assert [(readings, due) for _, _, readings, due, _ in rows] == [(160.0, 200.0)]


def test_another_key_than_the_enrolled_one_stays_unknown(dsn: str) -> None:
    b, other = make("whole", 1), make("whole", 2)
    enrolled(dsn, (b.gateway.name, other.gateway.signer.kid))
    worker = Worker(Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent]), [Store(dsn)], Clock())
    worker.step(0)
    assert count(dsn, "SELECT count(*) FROM packs") == 0
    assert count(dsn, "SELECT count(*) FROM unknown_gateways") == 1


@pytest.mark.parametrize("why", ["the old key was revoked", "the box was replaced"])
def test_a_thumbprint_that_replaces_the_old_one_is_taken_with_its_keys(dsn: str, why: str) -> None:
    """The stored keys of the old thumbprint made the platform refuse every message, even the keys of the new one."""
    old = make("revoked_later", 1)
    enrolled(dsn, old.gateway.pin)
    topic = f"meterhouse/v1/{old.gateway.name}/keys"
    feed, clock = Feed([(topic, old.keys[0]), *old.sent]), Clock()
    worker = Worker(feed, [Store(dsn)], clock)
    worker.step(0)
    assert count(dsn, "SELECT count(*) FROM packs") == 9
    signer = signer_of(f"new/{old.gateway.name}")
    # a box that was replaced makes its keys object anew, so its counter is not above the counter of the stored one
    new_keys = old.late_keys[0] if why == "the old key was revoked" else replace(old.gateway, signer=signer).keys()
    with connect(dsn) as connection:
        remove(connection, [old.gateway.name])
    enrolled(dsn, (old.gateway.name, signer.kid))
    old.stream.signer, old.stream.birth, old.stream.boot = signer, None, "feedfeedfeedfeed"
    sent = [(old.topic, raw) for raw in old.run(4)]
    feed.left = Feed([(topic, new_keys), *sent[:2]]).left
    worker.step(0)
    assert not worker.totals.refused and not worker.waiting
    assert count(dsn, "SELECT count(*) FROM packs") == 11
    again = Worker(Feed(sent[2:]), [Store(dsn)], clock)
    again.step(0)
    assert not again.waiting, "another worker finds the keys in the database"
    assert count(dsn, "SELECT count(*) FROM packs") == 13


def test_the_keys_of_a_replacement_box_wait_until_they_are_enrolled(dsn: str) -> None:
    """They were refused and forgotten, so `enrol` of the new thumbprint did not find them, and every later pack was
    refused until the gateway connected again.
    """
    b, other = make("whole", 1), make("whole", 2)
    enrolled(dsn, b.gateway.pin)
    topic, signer = f"meterhouse/v1/{b.gateway.name}/keys", signer_of("a replacement box")
    new_keys = replace(b.gateway, signer=signer).keys()
    feed = Feed([(topic, b.keys[0]), *b.sent, (topic, new_keys), (topic, b"{}"), (topic, other.keys[0])])
    worker = Worker(feed, [Store(dsn)], Clock())
    worker.step(0)
    feed.left = Feed([(topic, b.keys[0])]).left  # the old box connects again
    worker.step(0)
    assert dict(worker.totals.refused) == {"shape": 1, "topic": 1}
    with connect(dsn) as connection:
        waiting = connection.execute("SELECT gateway, thumbprint FROM unknown_gateways").fetchall()
        assert waiting == [(b.gateway.name, signer.kid)]
        assert enrol(connection, [Enrolment(b.gateway.name, [signer.kid])]) == [b.gateway.name], "counted once"
    b.stream.signer, b.stream.birth, b.stream.boot = signer, None, "feedfeedfeedfeed"
    feed.left = Feed([(b.topic, raw) for raw in b.run(3)]).left
    worker.step(0)
    assert not worker.waiting and count(dsn, "SELECT count(*) FROM packs") == 15
    assert count(dsn, "SELECT count(*) FROM unknown_gateways") == 0


def test_the_keys_of_a_replacement_box_wait_for_as_long_as_it_publishes(dsn: str) -> None:
    """They were forgotten after 30 days, because only its keys counted as messages, but not its refused packs."""
    from receiver.keeper import forget_strangers

    b, clock = make("whole", 1), Clock()
    enrolled(dsn, b.gateway.pin)
    topic, signer = f"meterhouse/v1/{b.gateway.name}/keys", signer_of("a replacement box")
    feed = Feed([(topic, b.keys[0]), *b.sent, (topic, replace(b.gateway, signer=signer).keys())])
    worker = Worker(feed, [Store(dsn)], clock)
    worker.step(0)
    b.stream.signer, b.stream.birth, b.stream.boot = signer, None, "feedfeedfeedfeed"
    with connect(dsn) as connection:
        for left in (1, 0):
            connection.execute("UPDATE unknown_gateways SET seen = now() - interval '40 days'")
            feed.left = Feed([(b.topic, raw) for raw in b.run(left)]).left
            for _ in range(2):
                worker.step(0)
                clock.now += 31.0
            assert worker.totals.refused["kid"] == 1
            forget_strangers(connection)
            assert connection.execute("SELECT count(*) FROM unknown_gateways").fetchall() == [(left,)]


def test_packs_of_a_box_that_is_enrolled_just_when_they_are_refused_are_stored(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were refused, and `enrol` and the worker could wait for each other."""
    b, clock = make("whole", 1), Clock()
    enrolled(dsn, b.gateway.pin)
    topic, signer = f"meterhouse/v1/{b.gateway.name}/keys", signer_of("a replacement box")
    feed = Feed([(topic, b.keys[0]), *b.sent, (topic, replace(b.gateway, signer=signer).keys())])
    worker = Worker(feed, [Store(dsn)], clock)
    worker.step(0)
    b.stream.signer, b.stream.birth, b.stream.boot = signer, None, "feedfeedfeedfeed"
    feed.left = Feed([(b.topic, raw) for raw in b.run(3)]).left
    worker.step(0)
    clock.now += 31.0
    honest = Store._dropped

    def slow(*anything: Any) -> Any:
        monkeypatch.setattr(Store, "_dropped", honest)
        with connect(dsn) as connection:
            enrol(connection, [Enrolment(b.gateway.name, [signer.kid])])
        return honest(*anything)

    monkeypatch.setattr(Store, "_dropped", slow)
    for _ in range(3):
        worker.step(0)
    assert not worker.totals.refused
    assert count(dsn, "SELECT count(*) FROM packs") == 15


def test_the_revocations_of_a_waiting_chain_count_when_it_is_enrolled_beside_the_old_one(dsn: str) -> None:
    """`enrol` looked at the waiting keys alone, where the place of the revoked key is not known. Published again, they
    were not newer, so stored packs of the lost key stayed without a finding for ever.
    """
    b = make("whole", 1)
    old, new = b.gateway.signer, signer_of("a new key")
    root = new_root(new, b.gateway.name, old.kid, [Revocation(old.kid, {b.stream.name: 5})])
    topic = f"meterhouse/v1/{b.gateway.name}/keys"
    enrolled(dsn, b.gateway.pin)
    Worker(Feed([(topic, b.keys[0]), *b.sent]), [Store(dsn)], Clock()).step(0)
    with connect(dsn) as connection:
        remove(connection, [b.gateway.name])
        Worker(Feed([(topic, root)]), [Store(dsn)], Clock()).step(0)
        enrol(connection, [Enrolment(b.gateway.name, [old.kid, new.kid])])
        for state in ("enrolled", "published again"):
            keeper = Keeper(dsn)
            while keeper.step():
                pass
            keeper.close()
            found = connection.execute("SELECT seq FROM all_findings WHERE code = 'revoked' ORDER BY 1").fetchall()
            assert [seq for (seq,) in found] == list(range(6, 13)), state
            # as an earlier version left it
            connection.execute("UPDATE gateways SET revoked = NULL")
            connection.execute("DELETE FROM findings")
            connection.execute("UPDATE packs SET faults = NULL")
            Worker(Feed([(topic, root)]), [Store(dsn)], Clock()).step(0)
        connection.execute("UPDATE gateways SET cut = true")
        Worker(Feed([(topic, root)]), [Store(dsn)], Clock()).step(0)
        assert connection.execute("SELECT cut FROM gateways").fetchall() == [(True,)], "nothing new"


@pytest.mark.parametrize("newer_first", [False, True])
def test_a_second_trusted_chain_is_stored_although_its_counter_begins_anew(
    dsn: str, tmp_path: Path, newer_first: bool
) -> None:
    """A box was replaced, and the old thumbprint stays trusted for its packs that still arrive. Only the worker that
    saw the new keys knew them, because the counter of the stored ones was not lower.
    """
    old = make("revoked_later", 1)
    signer = signer_of(f"box/{old.gateway.name}")
    enrolled(dsn, old.gateway.pin, (old.gateway.name, signer.kid))
    topic = f"meterhouse/v1/{old.gateway.name}/keys"
    chains = [old.late_keys[0], replace(old.gateway, signer=signer).keys()]
    before, clock = [(old.topic, raw) for _, raw in old.sent], Clock()
    old.stream.signer, old.stream.birth, old.stream.boot = signer, None, "feedfeedfeedfeed"
    after = [(old.topic, raw) for raw in old.run(4)]
    for chain in reversed(chains) if newer_first else chains:
        Worker(Feed([(topic, chain)]), [Store(dsn)], clock).step(0)
    worker = Worker(Feed([*after, *before[:2]]), [Store(dsn)], clock)
    worker.step(0)
    assert not worker.waiting and not worker.totals.refused
    assert count(dsn, "SELECT count(*) FROM packs") == 6
    assert count(dsn, "SELECT count(*) FROM other_keys") == 1
    with connect(dsn) as connection:
        ring = ring_of(connection, old.gateway.name)
        assert {old.gateway.signer.kid, signer.kid} <= ring.keys.keys() and ring.revoked
        write_export(connection, tmp_path / "export", old.gateway.name)
        assert sorted(path.name for path in tmp_path.rglob("keys*")) == ["keys.json", "keys2.json"]
        remove(connection, [old.gateway.name])
    enrolled(dsn, (old.gateway.name, signer.kid))
    assert count(dsn, "SELECT count(*) FROM other_keys") == 0
    with connect(dsn) as connection:
        assert list(ring_of(connection, old.gateway.name).keys) == [signer.kid]


def test_the_same_thumbprint_again_keeps_the_stored_keys(dsn: str) -> None:
    """The gateway publishes its keys again only when it connects again."""
    b = make("whole", 1)
    enrolled(dsn, b.gateway.pin)
    Worker(Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0])]), [Store(dsn)], Clock()).step(0)
    with connect(dsn) as connection:
        remove(connection, [b.gateway.name])
    enrolled(dsn, b.gateway.pin)
    Worker(Feed(b.sent), [Store(dsn)], Clock()).step(0)
    assert count(dsn, "SELECT count(*) FROM packs") == 12


def test_garbage_and_hostile_messages_are_refused_counted_and_bounded(dsn: str) -> None:
    b = make("whole", 1)
    enrolled(dsn, b.gateway.pin)
    rng = random.Random(3)
    garbage: list[tuple[str, bytes]] = []
    for number in range(300):
        raw = bytearray(rng.choice(b.sent)[1])
        for _ in range(rng.randrange(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        garbage.append((b.topic, bytes(raw)))
        garbage.append((b.topic, rng.randbytes(rng.randrange(200))))
        garbage.append(
            (f"meterhouse/v1/{b.gateway.name}/{rng.choice(['keys', 'checkpoint/1', 'status'])}", b"[" * number)
        )
    garbage += [(topic, b"{}") for topic in ("", "meterhouse/v1//x/keys", "meterhouse/v1/a/b/c/d/e", "x/" + "y" * 500)]
    garbage += [(b.topic, b"\x28\xb5\x2f\xfd" + rng.randbytes(50)), (b.topic, b"{" * 200_000), (b.topic, b"\x00" * 100)]
    mixed = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent, *garbage]
    feed, clock = Feed(mixed), Clock()
    worker = Worker(feed, [Store(dsn)], clock)
    for _ in range(20):
        worker.step(0)
        clock.now += 40.0
    assert len(feed.acknowledged) == len(mixed), "a poison message never stops a worker"
    assert worker.totals.refused["internal"] == 0
    assert count(dsn, "SELECT count(*) FROM packs WHERE faults IS NULL AND due IS NOT NULL") == 12
    assert sum(worker.totals.refused.values()) >= 600


def test_one_message_that_cannot_be_stored_is_refused_alone(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours in storing must not come again for ever: it stopped all workers."""
    b, other = make("whole", 1), make("whole", 2)
    enrolled(dsn, b.gateway.pin, other.gateway.pin)
    store = Store(dsn)
    honest = Store._row

    def broken(self: Store, one: Any, lot: int) -> Any:
        if one.checked.stream == b.stream.name and one.checked.link.seq == 5:
            raise ValueError("a fault of ours")
        return honest(self, one, lot)

    monkeypatch.setattr(Store, "_row", broken)
    keys = [(f"meterhouse/v1/{one.gateway.name}/keys", one.keys[0]) for one in (b, other)]
    feed = Feed(keys + b.sent + other.sent)
    worker = Worker(feed, [store], Clock())
    worker.step(0)
    assert len(feed.acknowledged) == len(keys + b.sent + other.sent)
    assert worker.totals.refused == {"internal": 1}
    assert count(dsn, "SELECT count(*) FROM packs") == 23


def test_what_strangers_and_enrolled_gateways_may_write_stops_nobody(dsn: str) -> None:
    """Zero characters, depth, half characters and huge numbers, signed and not: each stopped every worker once."""
    b = make("whole", 1)
    enrolled(dsn, b.gateway.pin)
    b.stream.name = f"{b.gateway.name}/_indicators"
    period = {"from": 1_795_500_900, "kind": "day", "label": "2026\0-11-24", "to": 1_795_587_300}
    results = [
        {
            "id": "plain/x",
            "kind": "figure",
            "note": "a\0b",
            "period": period,
            "u": "k\0Wh",
            "v": "1.5",
            "verdict": "m\0et",
        },
        {"id": "plain/y", "kind": "figure", "period": {**period, "from": 1e300}, "v": "9" * 60},
        {"id": "z\0", "kind": "\0", "period": {**period, "kind": 7}, "v": "1" * 400},
    ]
    b.stream.birth, b.stream.seq, b.stream.prev = None, 0, None
    signed = [(f"meterhouse/v1/{b.stream.name}/readings", b.stream.pack(results=results))]
    stranger = "meterhouse/v1/new/gw"
    hostile = [
        (f"{stranger}/status", b'{"state":"online","version":"\\u0000","v":1}'),
        (f"meterhouse/v1/{b.gateway.name}/status", b'{"state":"online","version":"\\u0000\\ud800","v":1}'),
        (f"{stranger}/keys", b"[" * 200_000),
        (f"{stranger}/keys", b'{"records":[{"kid":"\\u0000\\ud800"}]}'),
        (f"{stranger}/keys", b'{"records":' + b"[" * 5_000),
        ("meterhouse/v1/a\0b/c/keys", b"{}"), ("meterhouse/v1/<b>/x/status", b"{}"),
    ]  # fmt: skip
    keys = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0])]
    feed, clock = Feed(keys + hostile + signed), Clock()
    worker = Worker(feed, [Store(dsn)], clock)
    for _ in range(3):
        worker.step(0)
        clock.now += 40.0
    assert len(feed.acknowledged) == len(keys + hostile + signed)
    assert worker.totals.refused["internal"] == 0 and worker.totals.failures == 0
    assert not worker.totals.refused
    assert count(dsn, "SELECT count(*) FROM figures") >= 1


def zeros(value: Any) -> Iterator[Any]:
    """The same object with a NUL in one text after the other, and in the names of its members."""
    for way in places(value):
        made = copy.deepcopy(value)
        inner = made
        for name in way[:-1]:
            inner = inner[name]
        if isinstance(inner[way[-1]], str):
            inner[way[-1]] = f"\0{inner[way[-1]]}\\u0000\0"
            yield made
        elif isinstance(inner[way[-1]], dict):
            inner[way[-1]]["\0"] = "\\"
            yield made


@pytest.mark.parametrize("declared", [True, False])
def test_a_zero_in_any_text_of_a_signed_pack_is_judged_as_verify_judges_it(dsn: str, declared: bool) -> None:
    """PostgreSQL stores none; what a gateway signs may hold one."""
    key = Key()
    stream = Stream(gateway="zero/gw1", key=key, points=POINTS if declared else ())
    enrolled(dsn, ("zero/gw1", key.kid))
    birth = stream.fields(0, table=table(stream.points), birth=None, e=None)
    sent = [[sign(fields, key)] for fields in zeros(birth)]
    born = stream.seal(birth)
    stream.points = POINTS
    pack = stream.fields(gaps=[{"from": stream.at, "points": "*", "reason": "crc", "to": stream.at}])
    pack["e"][0] |= {"q": "old", "x": "7"}
    pack["e"].append({"n": "text", "vs": "a", "u": "b"})
    sent += [[born, sign(fields, key)] for fields in zeros(pack)]
    ring = KeyRing("zero/gw1", [key.kid])
    announced = ("meterhouse/v1/zero/gw1/keys", keys(key, gateway="zero/gw1"))
    assert check_keys(announced[1], announced[0], ring) is True
    for packs in sent:
        with connect(dsn) as connection:
            connection.execute("TRUNCATE packs, births, point_tables, forks, layouts, reading_blocks")
        worker = Worker(Feed([announced, *((stream.topic(), raw) for raw in packs)]), [Store(dsn)], Clock())
        worker.step(0)
        judged = check(packs[-1], stream.topic(), ring, {}.get)
        refused = {judged.code: 1} if isinstance(judged, Refusal) else {}
        assert (dict(worker.totals.refused), worker.waiting) == (refused, 0), packs[-1]
        assert count(dsn, "SELECT count(*) FROM packs") == len(packs) - len(refused)


def test_a_gateway_without_its_birth_does_not_hold_up_the_others(dsn: str) -> None:
    b = make("whole", 1)
    enrolled(dsn, b.gateway.pin)
    b.run(1)
    packs = [(b.topic, raw) for raw in b.run(400)]
    worker = Worker(Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *packs]), [Store(dsn)], Clock())
    worker.step(0)
    assert worker.waiting == 100
    assert count(dsn, "SELECT count(*) FROM packs WHERE due IS NULL") == 300


def test_what_was_dropped_is_not_counted_again(dsn: str) -> None:
    """A replayed pack of a month that was dropped made a bad day look better."""
    from receiver.keeper import drop_months

    b = make("whole", 1, START_MS - 100 * 86_400_000)
    enrolled(dsn, b.gateway.pin)
    sent = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent]
    for _ in range(2):
        worker, keeper = Worker(Feed(sent), [Store(dsn)], Clock()), Keeper(dsn)
        worker.step(0)
        while keeper.step():
            pass
        with connect(dsn) as connection:
            drop_months(connection, 30)
    assert count(dsn, "SELECT sum(packs) FROM days") == 12
    assert count(dsn, "SELECT count(*) FROM packs") == 0


@pytest.mark.parametrize("begun_ms", [START_MS - 95 * 86_400_000, 5_000_000])
def test_old_packs_that_come_for_the_first_time_are_stored_although_a_month_was_dropped(
    dsn: str, begun_ms: int
) -> None:
    """A gateway was offline for longer than `--keep-days`, or its clock begins in 1970: the broker got its acks, and no
    pack was stored, refused or acknowledged.
    """
    from receiver.keeper import drop_months
    from tests.platform.test_births import Kept

    old, late = make("whole", 1, START_MS - 100 * 86_400_000), make("whole", 2, begun_ms)
    enrolled(dsn, old.gateway.pin, late.gateway.pin)
    store = Store(dsn)
    for b in (old, late):
        keys = (f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0])
        worker, keeper = Worker(Feed([keys, *b.sent]), [store], Clock()), Keeper(dsn)
        worker.step(0)
        with connect(dsn) as connection:
            assert drop_months(connection, 30) == [], "a pack that is not counted yet is not dropped"
            while keeper.step():
                pass
            assert worker.totals.packs == 12 and count(dsn, "SELECT count(*) FROM packs") == 12
            if b is old:
                assert drop_months(connection, 30)
    broker = Kept()
    with connect(dsn) as connection:
        acknowledger = Acknowledger(broker)  # type: ignore[arg-type]
        assert acknowledger.step(connection) == 1
        (ack,) = (body for topic, body in broker.sent if topic == f"meterhouse/v1/{late.gateway.name}/ack")
        assert (ack["first"], ack["last"], ack["hash"]) == (1, 12, late.stream.prev)
        again = Worker(Feed(late.sent), [store], Clock())
        again.step(0)
        assert again.totals.again == 12
        drop_months(connection, 30)
        assert count(dsn, "SELECT count(*) FROM packs_other") == (12 if begun_ms == 5_000_000 else 0)
        assert count(dsn, "SELECT count(*) FROM packs") == (12 if begun_ms == 5_000_000 else 0)
    assert count(dsn, "SELECT sum(packs) FROM days") == 24


def test_a_month_that_is_dropped_again_and_again_fills_no_table(dsn: str) -> None:
    """The worker reads the table `dropped` for each batch, and got a row of it every hour."""
    from receiver.keeper import drop_months

    with connect(dsn) as connection:
        for months in (["2021-03-01", "2021-05-01"], ["2021-03-01"], ["2021-05-01"], ["2021-06-01"]):
            for month in months:
                connection.execute("SELECT make_partition(%s::date)", [month])
            assert len(drop_months(connection, 30)) == len(months)
        found = [ms for (ms,) in connection.execute("SELECT before_ms FROM dropped ORDER BY 1 DESC")]
    assert found[0] == 1_625_097_600_000 and len(found) <= 3


def test_a_month_that_a_long_export_uses_is_dropped_later(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers wait behind the keeper while it waits for the export."""
    from receiver import keeper

    monkeypatch.setattr(keeper, "LOCK_MS", 50)
    with connect(dsn) as connection, connect(dsn) as export:
        connection.execute("SELECT make_partition('2021-03-01')")
        connection.execute("SET statement_timeout = '20s'")
        with export.transaction():
            export.execute("SELECT count(*) FROM packs")
            assert keeper.drop_months(connection, 30) == []
        assert keeper.drop_months(connection, 30) == ["packs_2021_03"]


def test_late_packs_are_stored_while_a_long_query_reads_the_packs(dsn: str) -> None:
    """The worker that made the partition of their month waited for the query, such as `audit`, and all other workers
    waited behind it.
    """
    from receiver.keeper import drop_months, drop_others

    late, now = make("fork", 1, START_MS - 100 * 86_400_000), make("whole", 2)
    enrolled(dsn, late.gateway.pin, now.gateway.pin)
    bounded = f"{dsn} options='-c statement_timeout=20s'"
    with connect(dsn) as connection, connect(dsn) as export:
        connection.execute("INSERT INTO clickhouse DEFAULT VALUES")
        connection.execute("SELECT make_partition(%s)", [month_of(START_MS)])
        keeper = Keeper(bounded)
        keeper.step()
        with export.transaction():
            export.execute("SELECT count(*) FROM packs")
            stores = [Store(bounded, readings=True) for _ in range(2)]
            keys = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]) for b in (late, now)]
            workers = [
                Worker(Feed([*keys, *late.sent[:7], *now.sent]), [stores[0]], Clock()),
                Worker(Feed([*keys, *late.sent[6:]]), [stores[1]], Clock()),
            ]
            for worker in workers:
                worker.step(0)
                assert not worker.totals.failures and not worker.totals.refused
            while keeper.step():
                pass
            assert count(dsn, "SELECT count(*) FROM packs_other") == 11
            assert drop_months(connection, 60) == [] and drop_others(connection, 60) == 0
            assert not keeper.failures
        before = [connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2, 3").fetchall() for name in _KEPT]
        assert count(dsn, "SELECT sum(packs) FROM days") == 23
        assert count(dsn, "SELECT count(*) FROM forks") == 1
        connection.execute("UPDATE waiting_months SET tried = tried - interval '6 minutes'")
        keeper.close()
        keeper = Keeper(dsn)
        keeper.step()
        keeper.close()
        assert count(dsn, "SELECT count(*) FROM packs_other") == count(dsn, "SELECT count(*) FROM waiting_months") == 0
        assert count(dsn, "SELECT count(*) FROM reading_blocks_other") == 0
        after = [connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2, 3").fetchall() for name in _KEPT]
        assert after == before
        again = Worker(Feed(late.sent), [stores[0]], Clock())
        again.step(0)
        assert again.totals.again == len(late.sent) and not again.totals.refused
        connection.execute("DELETE FROM clickhouse")
        keeper = Keeper(dsn)
        while keeper.step():
            pass
        keeper.close()
        assert f"packs_{month_of(START_MS - 100 * 86_400_000):%Y_%m}" in drop_months(connection, 60)


def test_a_month_that_cannot_be_made_is_not_tried_again_at_once(
    dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All workers wait during each try. Of many workers, only the first tries, and later the keeper does so every five
    minutes.
    """
    from receiver import keeper

    monkeypatch.setattr(keeper, "LOCK_MS", 50)

    def tried() -> dict[str, Any]:
        with connect(dsn) as other:
            return dict(other.execute("SELECT month::text, tried FROM waiting_months").fetchall())

    later = "UPDATE waiting_months SET tried = tried - interval '6 minutes'"
    with connect(dsn) as connection, connect(dsn) as export:
        connection.execute("SET statement_timeout = '20s'")
        with export.transaction():
            export.execute("SELECT count(*) FROM packs")
            connection.execute("SELECT make_partition('2021-03-01')")
            first = tried()["2021-03-01"]
            assert first is not None
            for month in ("2021-03-01", "2021-04-01"):
                connection.execute("SELECT make_partition(%s::date)", [month])
            keeper.make_waiting_months(connection)
            assert tried() == {"2021-03-01": first, "2021-04-01": None} and not caplog.messages
            connection.execute(later)
            connection.execute("SELECT make_partition('2021-03-01')")
            assert tried()["2021-03-01"] < first, "the keeper waits longer than a worker, so it tries"
            keeper.make_waiting_months(connection)
            assert tried()["2021-03-01"] > first and tried()["2021-04-01"] is None
            assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
        (text,) = caplog.messages
        assert text.startswith("table packs_2021_03 is not made yet")
        connection.execute(later)
        # a keeper was killed after the first of its two steps
        connection.execute("SELECT make_partitions('2021-04-01', '{reading_blocks}', 5000)")
        assert len(tried()) == 2
        keeper.make_waiting_months(connection)
        assert tried() == {}
        for table in ("packs", "reading_blocks"):
            assert count(dsn, f"SELECT count(*) FROM pg_inherits WHERE inhparent = '{table}'::regclass") == 3


@pytest.mark.parametrize("prepare", [False, True])
def test_what_waits_while_packs_move_to_their_month_misses_none(dsn: str, prepare: bool) -> None:
    """A query that waited for `packs_other` alone would not know the partition. A worker would refuse a pack, because
    it does not belong in `packs_other` any more.
    """
    b = make("whole", 1, START_MS - 100 * 86_400_000)
    enrolled(dsn, b.gateway.pin)
    month = month_of(START_MS - 100 * 86_400_000)
    keys = (f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0])
    with connect(dsn) as connection, connect(dsn) as reader:
        connection.execute("INSERT INTO waiting_months VALUES (%s, now() - interval '6 minutes')", [month])
        store = Store(dsn, readings=True)
        Worker(Feed([keys, *b.sent[:11]]), [store], Clock()).step(0)
        assert count(dsn, "SELECT count(*) FROM packs_other") == 11
        last, found = Worker(Feed(b.sent[11:]), [store], Clock()), list[int]()

        def read() -> int:
            return int(reader.execute("SELECT count(*) FROM packs", prepare=prepare).fetchall()[0][0])

        assert read() == 11
        threads = [
            threading.Thread(target=lambda: last.step(0)),
            threading.Thread(target=lambda: found.append(read())),
        ]
        with connection.transaction():
            query = "SELECT make_partitions(%s, '{packs,reading_blocks}', 5000)"
            assert connection.execute(query, [month]).fetchone() == (True,)
            for thread in threads:
                thread.start()
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            until(lambda: count(dsn, waiting) == 2)
        for thread in threads:
            thread.join(20)
        assert found in ([11], [12])
        assert last.totals.packs == 1 and not last.totals.refused


def test_a_dropped_pack_that_is_sent_again_is_acknowledged_again(dsn: str) -> None:
    """Its ack was lost while the gateway was offline. The gateway sent it for ever, and got no ack."""
    from receiver.keeper import drop_months
    from tests.platform.test_births import Kept

    b, broker = make("whole", 1, START_MS - 100 * 86_400_000), Kept()
    enrolled(dsn, b.gateway.pin)
    for sent in ([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent], b.sent[10:]):
        Worker(Feed(sent), [Store(dsn)], Clock()).step(0)
        keeper = Keeper(dsn)
        while keeper.step():
            pass
        with connect(dsn) as connection:
            drop_months(connection, 30)
    with connect(dsn) as connection:
        acknowledger = Acknowledger(broker)  # type: ignore[arg-type]
        assert [acknowledger.step(connection), acknowledger.step(connection)] == [2, 0]
    acks = [(body["first"], body["last"]) for _, body in broker.sent]
    assert acks == [(11, 11), (12, 12)] and broker.sent[-1][1]["hash"] == b.stream.prev
    assert count(dsn, "SELECT count(*) FROM packs") == 0


@pytest.mark.parametrize("kind", ["fork", "fork_of_another_time"])
def test_the_twin_of_an_old_pack_that_is_still_stored_is_kept_as_a_fork(dsn: str, kind: str) -> None:
    """A later month was dropped, and this one waits for ClickHouse: the twin was acknowledged and not kept."""
    b = make(kind, 1, START_MS - 200 * 86_400_000)
    enrolled(dsn, b.gateway.pin)
    store = Store(dsn)
    keys = (f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0])
    for sent in ([keys, *b.sent[:7]], b.sent[6:8]):
        Worker(Feed(sent), [store], Clock()).step(0)
        keeper = Keeper(dsn)
        while keeper.step():
            pass
        keeper.close()
        with connect(dsn) as connection:
            connection.execute("INSERT INTO dropped VALUES (%s)", [START_MS])
    assert count(dsn, "SELECT count(*) FROM forks") == 1
    assert count(dsn, "SELECT seq FROM findings WHERE code = 'fork'") == 7
    assert count(dsn, "SELECT count(*) FROM acks_due") == 0
    assert count(dsn, "SELECT sum(packs) FROM days") == 7


def test_acks_that_no_keeper_can_send_fill_no_table(dsn: str) -> None:
    """Without `--broker`, each dropped pack that was sent again had a row in the table for ever."""
    from receiver.keeper import drop_months, forget_strangers

    b = make("whole", 1, START_MS - 100 * 86_400_000)
    checked(dsn, b)
    with connect(dsn) as connection:
        drop_months(connection, 30)
        Worker(Feed(b.sent), [Store(dsn)], Clock()).step(0)
        connection.execute("UPDATE acks_due SET at = now() - interval '31 days' WHERE seq <= 10")
        forget_strangers(connection)
        assert connection.execute("SELECT seq FROM acks_due ORDER BY seq").fetchall() == [(11,), (12,)]


@pytest.mark.parametrize("exported", [False, True])
def test_a_lot_is_forgotten_with_the_last_of_its_packs(dsn: str, exported: bool) -> None:
    """Lots and batches were kept for ever, while their packs are dropped month by month."""
    from receiver.keeper import LotForgetter, drop_months

    with connect(dsn) as connection:
        if exported:
            connection.execute("INSERT INTO clickhouse DEFAULT VALUES")
        now_ms = round(time.time()) * 1000
        checked(dsn, *(make("whole", n, now_ms - days * 86_400_000) for n, days in enumerate((100, 100, 1), 1)))
        lots = [lot for (lot,) in connection.execute("SELECT lot FROM lots ORDER BY lot")]
        first, last = lots[0], lots[-1]
        if exported:
            batch = connection.execute("INSERT INTO batches (sent) VALUES (now()) RETURNING batch").fetchall()[0][0]
            connection.execute("UPDATE lots SET batch = %s WHERE lot < %s", [batch, last])
        connection.execute("DELETE FROM changed_packs")
        assert LotForgetter().step(connection) == 0, "nothing was dropped yet"
        assert drop_months(connection, 30)
        assert LotForgetter().step(connection) == 0, "late lots wait for the next month"
        connection.execute("UPDATE lots SET stored = now() - interval '120 days'")
        connection.execute("UPDATE batches SET sent = now() - interval '120 days' WHERE sent IS NOT NULL")
        if exported:
            connection.execute(
                "INSERT INTO changed_packs (stream, seq, boot, from_ms, lot) VALUES (1, 1, 1, 1, %s)", [first]
            )
            assert LotForgetter().step(connection) == len(lots) - 2, "ClickHouse needs the first lot for a changed pack"
            assert count(dsn, "SELECT count(*) FROM batches") == 1
            connection.execute("DELETE FROM changed_packs")
        LotForgetter().step(connection)
        assert connection.execute("SELECT lot FROM lots").fetchall() == [(last,)]
        assert count(dsn, "SELECT count(*) FROM batches") == 0
        assert count(dsn, "SELECT count(*) FROM packs") == 12


def test_lots_that_stay_do_not_keep_the_lots_after_them_from_being_forgotten(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packs of a gateway whose clock is years ahead stay, and each search began with their lots."""
    from receiver import keeper

    monkeypatch.setattr(keeper, "LOTS_AT_ONCE", 2)
    monkeypatch.setattr(keeper, "ROUNDS", 1)
    with connect(dsn) as connection:
        connection.execute(
            "INSERT INTO lots (packs, stored, checked) SELECT 1, '2021-01-01', now() FROM generate_series(1, 5)"
        )
        connection.execute(
            "INSERT INTO packs (stream, seq, boot, from_ms, to_ms, hash, birth, signer, lot, readings, is_birth, "
            "first, body) SELECT 1, n, 1, 4102444800000, 0, gen_random_uuid(), gen_random_uuid(), 0, n, 1, false, "
            "false, '' FROM generate_series(1::bigint, 4) AS n"
        )
        connection.execute("INSERT INTO dropped VALUES (1625097600000)")
        forgetter = keeper.LotForgetter()
        assert [forgetter.step(connection) for _ in range(3)] == [0, 0, 1]
        assert keeper.drop_others(connection, 30) == 0, "their month comes one day"
        connection.execute("DELETE FROM packs WHERE seq = 1")
        assert [forgetter.step(connection) for _ in range(2)] == [0, 1]


@pytest.mark.parametrize("exported", [False, True])
def test_packs_of_a_clock_that_says_1970_are_dropped_when_they_have_been_stored_for_long(
    dsn: str, exported: bool
) -> None:
    """They were kept for ever, and so were their lots."""
    from receiver.keeper import LotForgetter, drop_others

    b = make("whole", 1, 5_000_000)
    enrolled(dsn, b.gateway.pin)
    sent = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent]
    with connect(dsn) as connection:
        if exported:
            connection.execute("INSERT INTO clickhouse DEFAULT VALUES")
        batch = connection.execute("INSERT INTO batches (sent) VALUES (now()) RETURNING batch").fetchall()[0][0]
        for days, is_sent in ((29, True), (31, not exported), (31, True)):
            Worker(Feed(sent), [Store(dsn, readings=True)], Clock()).step(0)
            keeper = Keeper(dsn)
            while keeper.step():
                pass
            keeper.close()
            connection.execute("DELETE FROM dropped")
            connection.execute("INSERT INTO dropped SELECT extract(epoch FROM now()) * 1000")
            old = "UPDATE lots SET stored = now() - make_interval(days => %s), batch = %s"
            connection.execute(old, [days, batch if is_sent else None])
            connection.execute("DELETE FROM changed_packs")
            drop_others(connection, 30)
            packs = 0 if days == 31 and is_sent else 12
            assert count(dsn, "SELECT count(*) FROM packs") == packs
            assert count(dsn, "SELECT count(*) FROM reading_blocks") == max(0, packs - 1), "a birth has no readings"
            assert count(dsn, "SELECT count(*) FROM changed_packs") == 0
        LotForgetter().step(connection)
        assert connection.execute("SELECT FROM lots").fetchall() == []
        births = connection.execute("SELECT count(*) FROM birth_copies").fetchall()
        assert births == connection.execute("SELECT count(*) FROM births").fetchall() == [(1,)]
    assert count(dsn, "SELECT sum(packs) FROM days") == 12
    assert count(dsn, "SELECT count(*) FROM acks_due") == (0 if exported else 12)


def test_the_search_for_lots_to_forget_does_not_read_all_packs(dsn: str) -> None:
    from receiver.keeper import _FORGET_LOTS

    with connect(dsn) as connection:
        for month in range(1, 7):
            connection.execute("SELECT make_partition(make_date(2026, %s, 1))", [month])
        connection.execute("INSERT INTO lots (packs, checked) SELECT 1, now() FROM generate_series(1, 20000)")
        connection.execute(
            "INSERT INTO packs (stream, seq, boot, from_ms, to_ms, hash, birth, signer, lot, readings, is_birth, "
            "first, body) SELECT 1, n, 1, 1767225600000 + n * 700000, 0, gen_random_uuid(), gen_random_uuid(), 0, n, "
            "1, false, false, convert_to(repeat('x', 100), 'UTF8') FROM generate_series(1::bigint, 20000) AS n"
        )
        connection.execute("ANALYZE packs, lots")
        plan = connection.execute("EXPLAIN " + _FORGET_LOTS, [0, 10_000]).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "Index Cond: (lot = l.lot)" in text and "p.lot = l.lot" not in text, text


@pytest.mark.broker
def test_a_session_that_another_takes_over_comes_back(dsn: str, tmp_path: Path) -> None:
    from urllib.parse import urlsplit

    from receiver.sources.mqtt import MqttSource

    broker = Broker(tmp_path)
    broker.start()
    try:
        first, second = MqttSource(urlsplit(broker.url), "w1"), MqttSource(urlsplit(broker.url), "w1")
        until(lambda: first.take(1, 0.05) is not None and not first.problem(), what=first.problem)
        until(lambda: second.take(1, 0.05) is not None and not second.problem(), what=second.problem)
        until(lambda: first.take(1, 0.05) is not None and "name" in first.problem(), what=first.problem)
        second.close()
        until(lambda: first.take(1, 0.05) is not None and not first.problem(), what=first.problem)
        first.close()
    finally:
        broker.stop()


def test_databases_in_another_order_are_refused(postgres: PrivatePostgres, dsn: str) -> None:
    from click.testing import CliRunner

    from receiver.commands import platform

    runner = CliRunner()
    assert runner.invoke(platform, ["status", "--db", dsn]).exit_code == 0
    other = postgres.dsn
    create_tables(other)
    result = runner.invoke(platform, ["status", "--db", dsn, "--db", other])
    assert "created as database number 1 of 1" in str(result.exception)


def test_a_role_without_rights_is_told_so(
    postgres: PrivatePostgres, dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`init` ended with an internal error; `status` and `keep` asked for `init` though the tables were there."""
    b = make("whole", 1)
    file = tmp_path / "fleet.csv"
    file.write_text(",".join(b.gateway.pin) + "\n")
    role = f"guest{tmp_path.name.replace('-', '_')}"[:60]
    guest = dsn.replace("user=postgres", f"user={role}")
    assert guest != dsn
    enrolled(dsn, b.gateway.pin)
    assert outcome(["platform", "status", "--db", dsn]) == 6
    capsys.readouterr()
    with connect(dsn) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN".encode())
        for grant, commands, words in (
            ("", ["init"], "database"),
            ("", ["status", "keep"], "schema meterhouse"),
            ("GRANT USAGE ON SCHEMA meterhouse TO", ["status", "keep"], "table schema_version"),
            ("GRANT SELECT ON meterhouse.schema_version TO", ["status"], "table shard"),
            ("GRANT SELECT ON ALL TABLES IN SCHEMA meterhouse TO", [f"enrol {file}"], "table trust_changes"),
        ):
            if grant:
                connection.execute(f"{grant} {role}".encode())
            for command in commands:
                assert outcome(["platform", *command.split(), "--db", guest]) == 3, command
                said = capsys.readouterr().err
                assert (
                    f'the role "{role}" may not use this database: permission denied for {words}' in said
                    and "Grant the role" in said
                ), (command, said)
        assert outcome(["platform", "status", "--db", guest]) == 6, "a role that may read is enough"


def test_a_row_of_ten_thousand_refusals_is_all_that_is_kept(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import receiver.store

    monkeypatch.setattr(receiver.store, "MAX_REFUSED", 100)
    b = make("whole", 1)
    enrolled(dsn, b.gateway.pin)
    feed = Feed([(b.topic, b"{%d" % number) for number in range(700)])
    worker = Worker(feed, [Store(dsn)], Clock())
    worker.step(0)
    worker.step(0)
    assert worker.totals.refused == {"json": 700} or sum(worker.totals.refused.values()) == 700
    assert count(dsn, "SELECT count(*) FROM refused") <= 200


@pytest.mark.broker
def test_a_worker_that_is_killed_loses_nothing_and_doubles_nothing(dsn: str, tmp_path: Path) -> None:
    """kill -9 while packs flow: the broker's session hands what was not acknowledged to the worker's next life."""
    broker = Broker(tmp_path)
    broker.start()
    try:
        made = [make("whole", number) for number in range(20)]
        enrolled(dsn, *(b.gateway.pin for b in made))
        process = _start(dsn, broker.url)
        until(lambda: has_subscriber(broker.port, "meterhouse/v1/no/body/status"), what="the worker's subscription")
        publish_all(broker.port, [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]) for b in made], retain=True)
        sent = [message for b in made for message in b.sent]
        publish_all(broker.port, sent[:100])
        process.send_signal(signal.SIGKILL)
        process.wait()
        publish_all(broker.port, sent[100:])
        process = _start(dsn, broker.url)
        until(
            lambda: count(dsn, "SELECT count(*) FROM packs") == len(sent),
            what=lambda: count(dsn, "SELECT count(*) FROM packs"),
        )
        process.terminate()
        assert process.wait(60) == 0
        keeper = Keeper(dsn)
        while keeper.step():
            pass
        assert count(dsn, "SELECT count(*) FROM all_findings") == 0
        assert count(dsn, "SELECT count(*) FROM holes") == 0
        keeper.close()
    finally:
        broker.stop()


def _start(dsn: str, url: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "agent.cli.main", "platform", "work", "--from", url, "--db", dsn, "--name", "w1"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_pack_that_comes_again_after_its_ack_is_acknowledged_again(dsn: str) -> None:
    """A broker forgot the ack of a stream that has ended: its gateway sent the packs for ever."""
    b = make("whole", 1)
    enrolled(dsn, b.gateway.pin)
    Worker(Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent]), [Store(dsn)], Clock()).step(0)
    with connect(dsn) as connection:
        note = "INSERT INTO acked SELECT stream, boot, 1, 12, now() - make_interval(secs => %s) FROM boots"
        keeper = Keeper(dsn)
        while keeper.step():
            pass
        for age_s, told in ((1, 1), (60, 0)):  # it may still be on its way; it was lost
            connection.execute("DELETE FROM acked")
            connection.execute(note, [age_s])
            Worker(Feed(b.sent[3:5]), [Store(dsn)], Clock()).step(0)
            assert count(dsn, "SELECT count(*) FROM acked") == told
        keeper.close()


def test_an_old_range_is_acknowledged_after_an_outage_and_when_its_packs_come_again(dsn: str) -> None:
    """Boots that had not changed for two days got no ack any more: the ack was lost while the gateway was off, or the
    keeper's broker was away for longer.
    """
    from tests.platform.test_births import Kept

    b, broker = make("whole", 1), Kept()
    enrolled(dsn, b.gateway.pin)
    Worker(Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent]), [Store(dsn)], Clock()).step(0)
    keeper, acknowledger = Keeper(dsn), Acknowledger(broker)  # type: ignore[arg-type]
    while keeper.step():
        pass
    keeper.close()
    with connect(dsn) as connection:
        assert [acknowledger.step(connection), acknowledger.step(connection)] == [1, 0]
        for outage in ("off", "broker"):
            old = "UPDATE boots SET changed = now() - interval '3 days', again = again - interval '3 days'"
            connection.execute(old)
            connection.execute("UPDATE acked SET at = now() - interval '3 days'")
            if outage == "off":
                Worker(Feed(b.sent[:2]), [Store(dsn)], Clock()).step(0)
            else:
                connection.execute("DELETE FROM acked")
                assert acknowledger.step(connection) == 0, "boots of any age are searched only after an outage"
                broker.is_connected = False
                assert acknowledger.step(connection) == 0
                broker.is_connected = True
            assert [acknowledger.step(connection), acknowledger.step(connection)] == [1, 0], outage


def test_a_hole_whose_end_changes_is_not_requested_all_the_time(dsn: str) -> None:
    """Its request was repeated every minute, and the other holes of the gateway were never requested."""
    from tests.platform.test_births import Kept

    (gateway,) = make_fleet(1, 2, START_MS)
    enrolled(dsn, gateway.pin)
    packs = [
        [(f"meterhouse/v1/{stream.name}/readings", stream.pack()) for _ in range(20)] for stream in gateway.streams
    ]

    def store(*sent: tuple[str, bytes]) -> None:
        Worker(Feed(list(sent)), [Store(dsn)], Clock()).step(0)
        keeper = Keeper(dsn)
        while keeper.step():
            pass
        keeper.close()

    def requests() -> list[tuple[str, int, int]]:
        broker = Kept()
        for _ in range(4):
            ask_again(connection, broker)  # type: ignore[arg-type]
        return [(body["stream"], body["first"], body["last"]) for _, body in broker.sent]

    first, second = (stream.name for stream in gateway.streams)
    with connect(dsn) as connection:
        keys = (f"meterhouse/v1/{gateway.name}/keys", gateway.keys())
        store(keys, *packs[0][:3], *packs[0][9:], *packs[1][:10], *packs[1][12:])
        assert requests() == [(first, 4, 9), (second, 11, 12)]
        store(*packs[0][6:9])
        assert requests() == []
        for hours, expected in ((1, True), (1, False), (2, True), (3, False), (4, True)):
            connection.execute("UPDATE replays SET asked = now() - make_interval(hours => %s, mins => 1)", [hours])
            assert requests() == ([(first, 4, 6), (second, 11, 12)] if expected else []), hours


def test_a_hole_that_was_requested_thousands_of_times_keeps_no_hole_from_being_requested(dsn: str) -> None:
    """An earlier version repeated the request of a hole every minute if its end changed. The sum of these requests made
    the search for holes fail for the whole database.
    """
    from tests.platform.test_births import Kept

    b = make("hole", 1)
    checked(dsn, b)
    with connect(dsn) as connection:
        assert ask_again(connection, Kept()) == 1  # type: ignore[arg-type]
        connection.execute(
            "INSERT INTO replays (stream, first, last, id) "
            "SELECT stream, first, last + n, '' FROM replays, generate_series(1, 5000) AS n"
        )
        for hours, expected in ((23, 0), (25, 1)):
            connection.execute("UPDATE replays SET asked = now() - make_interval(hours => %s)", [hours])
            assert ask_again(connection, Kept()) == expected  # type: ignore[arg-type]


def test_a_removed_gateway_gets_no_requests(dsn: str) -> None:
    """Its keys stay stored, and the keeper took this for trust."""
    from tests.platform.test_births import Kept

    b = make("hole", 1)
    checked(dsn, b)
    with connect(dsn) as connection:
        remove(connection, [b.gateway.name])
        assert ask_again(connection, Kept()) == 0  # type: ignore[arg-type]
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid])])
        assert ask_again(connection, Kept()) == 1  # type: ignore[arg-type]


def test_keys_that_arrive_while_their_gateway_is_enrolled_are_taken(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue shows them once: they went to the unknown, and every pack after them was refused."""
    b = make("whole", 1)
    honest = Store.pins

    def slow(self: Store, gateway: str) -> list[str]:
        found = honest(self, gateway)
        if not found:
            enrolled(dsn, b.gateway.pin)  # in this moment
        return found

    monkeypatch.setattr(Store, "pins", slow)
    feed, clock = Feed([(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0])]), Clock()
    worker = Worker(feed, [Store(dsn)], clock)
    worker.step(0)
    assert not feed.acknowledged
    feed.left += [Message(topic, raw, 100 + number) for number, (topic, raw) in enumerate(b.sent)]
    for _ in range(3):
        worker.step(0)
        clock.now += 6.0
    assert count(dsn, "SELECT count(*) FROM packs") == 12
    assert not worker.totals.refused and len(feed.acknowledged) == 13


def test_keys_that_arrive_while_the_stored_ones_are_deleted_are_stored(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`enrol` deleted the gateway's row just when the worker had found it. The keys were acknowledged and not stored,
    so packs were refused until the gateway connected again.
    """
    b = make("whole", 1)
    enrolled(dsn, b.gateway.pin)
    sent = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0])]
    Worker(Feed(sent), [Store(dsn)], Clock()).step(0)
    honest = psycopg.Cursor.execute

    def slow(self: Any, query: Any, *more: Any, **options: Any) -> Any:
        if isinstance(query, str) and query.startswith("SELECT keys, counter, revoked"):
            monkeypatch.setattr(psycopg.Cursor, "execute", honest)
            with connect(dsn) as connection:
                connection.execute("DELETE FROM gateways")
        return honest(self, query, *more, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", slow)
    feed = Feed(sent)
    worker = Worker(feed, [Store(dsn)], Clock())
    worker.step(0)
    assert not feed.acknowledged
    worker.step(0)
    assert len(feed.acknowledged) == 1
    assert count(dsn, "SELECT count(*) FROM gateways") == 1


def test_a_csv_with_mistakes_names_each_line(tmp_path: Path) -> None:
    from drivers.model import ConfigError

    file = tmp_path / "fleet.csv"
    file.write_text("gateway,thumbprint\npark7,abc\npark7/gw01,short\npark7/gw01," + "A" * 43 + ",inv1 b/d\n\n")
    with pytest.raises(ConfigError) as error:
        read_csv(file)
    lines = [f"{one}" for one in error.value.complaints]
    assert [line.split(": ")[0].rpartition(":")[2] for line in lines] == ["2", "3", "4"]
    for header in ("gateway,thumbprint,name", "gateway,thumbprint,streams,note"):  # "Main hall" was two agreed streams
        file.write_text(f"# fleet\n{header}\npark7/gw01," + "A" * 43 + ",Main hall\n")
        with pytest.raises(ConfigError, match=f'fleet.csv:2: the header is "{header}". Expected gateway,thumbprint or'):
            read_csv(file)
    for name in ("主厅", "Hall(1)", "-x"):
        file.write_text("park7/gw01," + "A" * 43 + f",{name}\n")
        with pytest.raises(ConfigError, match=r"fleet\.csv:1: stream "):
            read_csv(file)
    file.write_text("\ufeffgateway,thumbprint,streams\r\npark7/gw01," + "A" * 43 + ",inv1 _indicators\r\n")
    assert read_csv(file)[0].streams == ["inv1", "_indicators"]
