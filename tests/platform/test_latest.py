"""The retained newest values: from verified packs only, a bounded number at a time, gone with their gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drivers.model import UsageError
from receiver import latest
from receiver.commands import platform
from receiver.database import connect
from receiver.keeper import Keeper
from receiver.latest import PREFIX, LatestPublisher
from receiver.publisher import Publisher
from receiver.trust import remove
from tests.kits.broker import Broker, Heard, Listener, until
from tests.kits.fleet_faults import Broken, make
from tests.platform.test_queries import stored

ROOT = Path(__file__).resolve().parents[2]


class Retained:
    """What a broker would keep; a publisher that is connected."""

    def __init__(self) -> None:
        self.topics: dict[str, dict[str, Any]] = {}
        self.sent = 0
        self.is_connected = True

    def publish(self, topic: str, body: bytes, *, retain: bool = False) -> bool:
        assert retain
        self.sent += 1
        if body:
            self.topics[topic] = json.loads(body)
        else:
            self.topics.pop(topic, None)
        return True


def step(dsn: str, retained: Retained) -> int:
    """One round of a keeper that has just started."""
    with connect(dsn) as connection:
        return LatestPublisher(retained, every_s=0).step(connection)  # type: ignore[arg-type]


def newest(b: Broken, below: int = 1 << 60) -> dict[str, Any]:
    """Of each point the last reading that was published, in packs before a sequence."""
    made: dict[str, Any] = {}
    for raw in sorted((json.loads(raw) for topic, raw in b.sent if topic == b.topic), key=lambda pack: pack["seq"]):
        base = 0.0
        for record in raw.get("e", []) if raw["seq"] < below else []:
            base = record.get("bt", base)
            pack = f"{raw['boot']}/{raw['seq']}"
            made[record["n"]] = {"pack": pack, "q": "good", "t": base, "u": record.get("u", ""), "v": record["v"]}
    return made


def test_each_device_has_the_newest_value_of_each_point_and_the_pack_that_proves_it(dsn: str) -> None:
    b, retained = make("whole", 1), Retained()
    stored(dsn, b, readings=False)
    assert step(dsn, retained) == 1
    assert retained.topics == {PREFIX + b.stream.name: {"points": newest(b), "stream": b.stream.name}}
    assert len(newest(b)) == 10
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs" / "pack.schema.json").read_text())
    validator = jsonschema.Draft202012Validator({"$defs": schema["$defs"], "$ref": "#/$defs/latest"})
    validator.validate(retained.topics[PREFIX + b.stream.name])
    assert (step(dsn, retained), retained.sent) == (0, 1), "a keeper that starts again goes on"


def test_a_broker_keeps_it_for_those_who_come_later_until_the_gateway_is_removed(dsn: str, tmp_path: Path) -> None:
    b, broker = make("whole", 1), Broker(tmp_path)
    stored(dsn, b, readings=False)
    broker.start()
    publisher = Publisher(broker.url, "test")
    try:
        keeper = Keeper(dsn, publisher, latest=True)
        topic = PREFIX + b.stream.name
        until(lambda: publisher.is_connected, what="connected")

        def kept() -> list[Heard]:
            later = Listener(broker)
            publisher.publish("meterhouse/marker", b"{}")  # what is retained comes before it
            until(lambda: [one for one in later.heard if one.topic == "meterhouse/marker"], what="the marker")
            later.close()
            return [one for one in later.heard if one.topic == topic and one.retained]

        until(lambda: [keeper.step(), *kept()][1:], what="a retained message")
        assert json.loads(kept()[0].payload)["points"] == newest(b)
        with connect(dsn) as connection:
            remove(connection, [b.gateway.name])
        until(lambda: [keeper.step(), kept()][1] == [], what="it is taken away")
    finally:
        publisher.close()
        broker.stop()


def test_nothing_that_is_false_appears(dsn: str) -> None:
    """A pack that is a reading short, a fork, a signature of a key that was revoked later, another topic."""
    for number, kind in enumerate(
        ("short", "fork", "clone", "wrong_prev", "tampered", "foreign_topic", "revoked_later")
    ):
        b, retained = make(kind, number), Retained()
        stored(dsn, b, readings=False)
        step(dsn, retained)
        with connect(dsn) as connection:
            rows = connection.execute(
                "SELECT to_hex(f.boot), f.seq FROM all_findings f JOIN streams s ON s.id = f.stream WHERE s.name = %s",
                [b.stream.name],
            ).fetchall()
        false = {(boot.rjust(16, "0"), seq) for boot, seq in rows}
        for message in retained.topics.values():
            packs = {tuple(point["pack"].split("/")) for point in message["points"].values()}
            named = {(boot, int(seq)) for boot, seq in packs} | {(boot, 0) for boot, _ in packs}
            assert not named & false, kind


def test_what_is_found_false_later_is_replaced_by_what_is_sound(dsn: str) -> None:
    b, retained = make("whole", 1), Retained()
    stored(dsn, b, readings=False)
    step(dsn, retained)
    last = max(json.loads(raw)["seq"] for topic, raw in b.sent if topic == b.topic)
    with connect(dsn) as connection:
        connection.execute(
            "INSERT INTO findings SELECT stream, seq, boot, 'chain' FROM packs WHERE seq = %s",
            [last],
        )
    step(dsn, retained)
    assert retained.topics[PREFIX + b.stream.name]["points"] == newest(b, below=last)


def test_what_is_found_false_is_replaced_also_if_the_gateway_has_been_silent(dsn: str) -> None:
    """Only the next start of the keeper replaced it, because only packs of the last ten minutes were looked at."""
    b, retained = make("whole", 1), Retained()
    stored(dsn, b, readings=False)
    running = LatestPublisher(retained, every_s=0)  # type: ignore[arg-type]
    with connect(dsn) as connection:
        running.step(connection)
        connection.execute("UPDATE boots SET changed = now() - interval '20 minutes'")
        connection.execute("INSERT INTO findings SELECT stream, seq, boot, 'chain' FROM packs WHERE seq = 12")
        running.step(connection)
    assert retained.topics[PREFIX + b.stream.name]["points"] == newest(b, below=12)


def test_a_gateway_that_is_removed_leaves_nothing_behind(dsn: str) -> None:
    first, second, retained = make("whole", 1), make("whole", 2), Retained()
    stored(dsn, first, second, readings=False)
    step(dsn, retained)
    with connect(dsn) as connection:
        remove(connection, [first.gateway.name])
    step(dsn, retained)
    assert list(retained.topics) == [PREFIX + second.stream.name]


def test_a_round_is_bounded_and_none_is_left_out(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest, "AT_ONCE", 2)
    made = [make("whole", number) for number in range(5)]
    stored(dsn, *made, readings=False)
    retained, one = Retained(), LatestPublisher(Retained(), every_s=0)  # type: ignore[arg-type]
    one._publisher = retained  # type: ignore[assignment]
    with connect(dsn) as connection:
        assert [one.step(connection) for _ in range(4)] == [2, 2, 1, 0]
    assert len(retained.topics) == 5


def test_latest_without_a_broker_is_an_error() -> None:
    with pytest.raises(UsageError, match="no broker"):
        platform.main(["keep", "--latest", "--db", "host=/nowhere"], standalone_mode=False)
