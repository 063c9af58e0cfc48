"""Destinations that get some streams only, and packs that go compressed: through a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from agent.uplink import Uplink
from agent.uplink.messages import CONTENT_TYPE
from agent.verify.strict import inflate
from tests.kits.delivery import BASE, Listener, Mosquitto, StoreOutbox, destination, fresh, old, until
from tests.kits.fake_broker import FakeBroker
from tests.kits.packs import POINTS, Maker
from tests.uplink.test_replay import ask, replies
from tests.uplink.test_trouble import packs

Broker = Callable[..., Mosquitto]
Listen = Callable[..., Listener]
Outboxes = Callable[..., StoreOutbox]
Uplinks = Callable[..., Uplink]
Fake = Callable[..., FakeBroker]


def names(heard: Listener, *kinds: str) -> set[str]:
    return {pack["stream"].rpartition("/")[2] for pack in heard.packs(*kinds)}


def content_type(message: Any) -> str:
    return getattr(message.properties, "ContentType", "") if message.properties else ""


@pytest.mark.parametrize("live_bytes", [8 << 20, 500])
def test_each_destination_gets_its_streams(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks, live_bytes: int
) -> None:
    """Backlog, live packs and retained births alike, from memory and from the store."""
    first, second = broker().port, broker().port
    at = outbox("first", "second", asked={"first": ["inv1"], "second": ["meter-*", "_indicators"]})
    makers = [Maker(f"park7/gw01/{name}") for name in ("inv1", "meter-1", "meter-2", "_indicators", "_gateway", "x")]
    at.commit(*(old(make, birth=True) for make in makers))
    ears = listen(first), listen(second)
    ups = (
        uplink(at, destination(first, name="first", streams=("inv1",)), keys=b'{"k":1}', live_bytes=live_bytes),
        uplink(
            at,
            destination(second, name="second", streams=("meter-*", "_indicators")),
            keys=b'{"k":1}',
            live_bytes=live_bytes,
        ),
    )
    until(lambda: all(up.state().connected for up in ups))
    for _ in range(3):
        at.commit(*(fresh(make) for make in makers))
    until(lambda: at.pending("first") == 0 and at.pending("second") == 0)
    wanted = {"inv1", "_gateway"}, {"meter-1", "meter-2", "_indicators", "_gateway"}
    for heard, own in zip(ears, wanted, strict=True):
        until(lambda heard=heard, own=own: names(heard, "birth") >= own and len(heard.packs()) >= 4 * len(own))
        assert names(heard) == names(heard, "birth") == own
        assert all(heard.seqs(name, "readings") == [2, 3, 4] for name in own)
        assert heard.last("keys") == {"k": 1}
    assert [up.state().streams for up in ups] == [["inv1"], ["meter-*", "_indicators"]]
    assert all(up.state().waiting == 0 for up in ups)


def test_a_replay_of_a_stream_that_was_not_asked_for_is_refused(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    port = broker().port
    heard, at = listen(port), outbox(asked={"platform": ["inv1"]})
    makers = [Maker("park7/gw01/inv1"), Maker("park7/gw01/inv2")]
    at.commit(*(old(make, birth=True) for make in makers))
    up = uplink(at, destination(port, streams=("inv1",)))
    until(lambda: up.state().connected and at.pending() == 0)
    for name in ("inv2", "inv1"):
        ask(heard, json.dumps({"id": name, "stream": f"park7/gw01/{name}", "first": 1, "last": 5}).encode())
    until(lambda: [r for r in replies(heard, "inv1") if r["verdict"] == "done"])
    (refused,) = replies(heard, "inv2")
    assert refused["verdict"] == "refused" and "not sent to this destination" in refused["reason"], refused
    assert names(heard) == {"inv1"} and heard.seqs("inv1", "backfill") == [1, 1]


def test_packs_go_as_zstd_with_their_content_type(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    """Retained births, backlog, live and replayed packs; what comes out of a frame is the pack, byte for byte."""
    port = broker().port
    heard, at, make = listen(port), outbox(), Maker(points=POINTS)
    made = [old(make, birth=True), old(make)]
    at.commit(*made)
    up = uplink(at, destination(port, compress="zstd"))
    until(lambda: up.state().connected)
    made.append(fresh(make))
    at.commit(made[-1])
    until(lambda: at.pending() == 0 and heard.packs("birth"))
    ask(heard, id="7f", first=1, last=2)
    until(lambda: len(heard.seqs("inv1", "backfill")) == 4)
    bodies = {pack.seq: pack.data for pack in made}
    late = listen(port)
    until(lambda: late.packs("birth"))
    carried = [
        m for m in [*heard.heard, *late.heard] if m.topic.rpartition("/")[2] in ("readings", "backfill", "birth")
    ]
    for message in carried:
        plain = inflate(message.payload)
        assert plain == bodies[json.loads(plain)["seq"]] and len(message.payload) < len(plain)
        assert content_type(message) == CONTENT_TYPE
    assert {m.topic.rpartition("/")[2] for m in carried} == {"readings", "backfill", "birth"}
    assert not any(content_type(m) for m in heard.heard if m.topic.rpartition("/")[2] in ("keys", "status", "reply"))
    assert up.state().compress == "zstd" and up.state().sent_bytes < sum(map(len, bodies.values())) * 3


def test_without_content_types_packs_go_as_they_are(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    """MQTT 3.1.1 cannot say that a message is compressed; a reading is worth more than its bytes."""
    broker, at, make = fake(only_v311=True), outbox(), Maker(points=POINTS)
    up = uplink(at, destination(broker.port, compress="zstd"))
    until(lambda: up.state().connected)
    pack = fresh(make, birth=True)
    at.commit(pack)
    until(lambda: at.pending() == 0)
    assert up.state().mqtt == "3.1.1" and up.state().compress is None
    assert pack.data in [sent.payload for sent in packs(broker)]


def test_a_limit_of_the_broker_counts_for_what_is_sent(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    """A pack that is too large as it is, and fits as a frame, is delivered."""
    port = broker("max_packet_size 2000").port
    heard, at = listen(port), outbox()
    make = Maker(points=POINTS, ticks=4)
    pack = fresh(make, birth=True)
    frame = zstandard.compress(pack.data)
    assert len(frame) < 1500 and len(pack.data) > 2000
    up = uplink(at, destination(port, compress="zstd"))
    until(lambda: up.state().connected)
    at.commit(pack)
    until(lambda: at.pending() == 0)
    until(heard.seqs)
    assert heard.seqs() == [1] and up.state().set_aside == 0


@pytest.mark.parametrize("asked", [(), ("inv1",)])
def test_a_destination_that_is_away_keeps_only_its_own_backlog(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks, asked: tuple[str, ...]
) -> None:
    """Killed and back: each pack that was asked for arrives, others never do."""
    one = broker()
    at, makers = outbox(asked={"platform": asked}), [Maker("park7/gw01/inv1"), Maker("park7/gw01/inv2")]
    up = uplink(at, destination(one.port, streams=asked))
    until(lambda: up.state().connected)
    one.stop(kill=True)
    until(lambda: not up.state().connected)
    for n in range(200):
        at.commit(*(fresh(make, birth=not n) for make in makers))
    assert at.pending() == (200 if asked else 400)
    one.start()
    heard = listen(one.port)
    until(lambda: at.pending() == 0)
    own = ["inv1"] if asked else ["inv1", "inv2"]
    until(lambda: all(set(heard.seqs(name)) == {*range(1, 201)} for name in own))
    assert bool(heard.seqs("inv2")) is not bool(asked)
    assert f"{BASE}/inv2/birth" not in {m.topic for m in heard.heard} or not asked
