"""Packs leave, are acknowledged, and only then count as delivered. Against the real mosquitto."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.uplink import Uplink
from agent.verify.mqtt import hang_up
from tests.kits.broker import free_port
from tests.kits.delivery import BASE, PATIENCE_S, Desk, Listener, Mosquitto, To, fresh, old, until
from tests.kits.fake_broker import FakeBroker, Sent
from tests.kits.packs import BOOT, Maker

Broker = Callable[..., Mosquitto]
Listen = Callable[..., Listener]
Desks = Callable[..., Desk]
Uplinks = Callable[..., Uplink]
Fake = Callable[..., FakeBroker]


def test_packs_arrive_as_the_identical_bytes_and_leave_the_outbox(
    broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks
) -> None:
    """Confirmed means acknowledged by the broker, not handed to a library. # field pain 50"""
    port = broker().port
    heard, at = listen(port), desk()
    up = uplink(at, To(port))
    until(lambda: up.state().connected)
    make = Maker()
    at.commit(fresh(make, birth=True))
    for _ in range(50):
        at.commit(fresh(make))
    until(lambda: len(heard.packs("readings")) == 51)
    assert [m.payload for m in heard.heard if m.topic == f"{BASE}/inv1/readings"] == [p.data for p in make.made]
    assert not heard.packs("backfill")
    until(lambda: at.pending() == 0)
    state = up.state()
    assert (state.connected, state.mqtt, state.confirm, state.error) == (True, "5", "subscriber", None)
    assert state.confirmed == 51 and state.refused == 0


def test_a_broker_that_stops_and_starts_again_costs_nothing(
    broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks
) -> None:
    """The store is not touched by a reconnect, and what was confirmed is not sent again.

    # field pain 44, field pain 46, field pain 51, field pain 60
    """
    port = free_port()
    first = broker(port=port)
    heard, at, make = listen(port), desk(), Maker()
    up = uplink(at, To(port))
    for _ in range(10):
        at.commit(fresh(make))
    until(lambda: len(heard.packs()) == 10)
    until(lambda: at.pending() == 0)
    first.stop(kill=True)
    until(lambda: not up.state().connected)
    for _ in range(40):
        at.commit(old(make))
    until(lambda: "nothing listens" in str(up.state().error))
    assert at.pending() == 40
    first.start()
    until(lambda: len(heard.packs()) >= 50)
    until(lambda: at.pending() == 0)
    at.commit(fresh(make))
    until(lambda: len(heard.packs()) == 51)
    assert heard.seqs("inv1", "readings") == [*range(1, 11), 51]
    backfill = heard.seqs("inv1", "backfill")
    assert sorted(backfill) == list(range(11, 51)), "each once"
    if not up.state().refused:  # else the broker was back before the listener: what it refused then comes later
        assert backfill == sorted(backfill), "oldest first"
    heard_bytes = [m.payload for m in heard.heard if m.topic.endswith(("readings", "backfill"))]
    assert sorted(heard_bytes) == sorted(p.data for p in make.made)
    kept = at.call(lambda store: store.packs.after(make.stream, 0, 99, 99))
    assert [pack.data for pack in kept] == [pack.data for pack in make.made]
    until(lambda: up.state().error is None)
    assert up.state().connects == 2


def test_a_start_without_a_broker_waits_for_it(fake: Fake, desk: Desks, uplink: Uplinks) -> None:
    broker, at, make = fake(absent=True), desk(), Maker()
    up = uplink(at, To(broker.port))
    packs = [fresh(make, birth=True), fresh(make)]
    at.commit(*packs)
    until(lambda: up.state().error is not None)
    broker.listen()
    until(lambda: at.pending() == 0)
    came = [sent.payload for sent in broker.heard if sent.topic.endswith("readings")]
    assert came == [pack.data for pack in packs], "sealed a moment ago and never tried: fresh"


def test_fresh_packs_do_not_wait_behind_the_backlog(fake: Fake, desk: Desks, uplink: Uplinks) -> None:
    """The broker holds its answers back until there is a fresh pack: that one is the next to go."""
    began, go_on = threading.Event(), threading.Event()

    def answer(sent: Sent) -> int:
        if sent.topic.endswith("backfill"):
            began.set()
            go_on.wait(PATIENCE_S)
        return 0

    broker, at, make = fake(answer=answer), desk(), Maker()
    for _ in range(40):
        at.commit(old(make))
    uplink(at, To(broker.port, in_flight=3))
    until(began.is_set)
    at.commit(fresh(make))
    go_on.set()
    until(lambda: at.pending() == 0)
    went = [json.loads(sent.payload)["seq"] for sent in broker.heard if sent.topic.endswith(("readings", "backfill"))]
    assert [seq for seq in went if seq != 41] == list(range(1, 41))
    assert went.index(41) in (1, 2, 3), "behind the three that were on their way, or as many as were by then"


def test_a_pack_sealed_late_goes_by_backfill(broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks) -> None:
    port, at, make = broker().port, desk(), Maker()
    heard = listen(port)
    up = uplink(at, To(port))
    until(lambda: up.state().connected)
    at.commit(old(make), fresh(make))
    until(lambda: len(heard.packs()) == 2)
    assert heard.seqs("inv1", "backfill") == [1] and heard.seqs("inv1", "readings") == [2]


def test_nobody_there_is_no_delivery(broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks) -> None:
    """One pack in a while asks whether somebody is there; then everything goes. # field pain 50"""
    port, at, make = broker().port, desk(), Maker()
    up = uplink(at, To(port))
    until(lambda: up.state().connected)
    for _ in range(30):
        at.commit(fresh(make))
    until(lambda: up.state().silent_topics == 2)
    assert "nobody subscribes" in str(up.state().error)
    assert at.pending() == 30 and up.state().confirmed == 0
    assert up.state().refused <= 60, "each was tried at most once on each of its two roads"
    heard = listen(port)
    until(lambda: at.pending() == 0)
    until(lambda: len(set(heard.seqs())) == 30)  # an acknowledgement may overtake what it is about
    assert sorted(set(heard.seqs())) == list(range(1, 31))
    until(lambda: up.state().error is None)
    assert up.state().silent_topics == 0


def test_a_stream_that_nobody_reads_does_not_stop_the_others(
    broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks
) -> None:
    port, at = broker().port, desk()
    one, two = Maker("park7/gw01/inv1"), Maker("park7/gw01/inv2")
    heard = listen(port, f"{BASE}/inv1/+")
    up = uplink(at, To(port))
    until(lambda: up.state().connected)
    for _ in range(30):
        at.commit(fresh(one), fresh(two))
    until(lambda: len(heard.seqs("inv1")) == 30)
    until(lambda: at.pending() == 30)
    assert {i.stream for i in at.call(lambda s: s.packs.pending("platform", 0, 99, 1 << 30))} == {two.stream}


def test_broker_mode_takes_the_brokers_word(broker: Broker, desk: Desks, uplink: Uplinks) -> None:
    port, at, make = broker().port, desk(), Maker()
    up = uplink(at, To(port, confirm="broker"))
    at.commit(fresh(make), fresh(make))
    until(lambda: at.pending() == 0)
    assert up.state().confirm == "broker" and up.state().error is None


def test_a_denied_publish_is_not_a_delivered_one(
    broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks, tmp_path: Path
) -> None:
    """PUBACK 135 looks like success to paho; the packs stay and the others go. # field pain 50"""
    acl = tmp_path / "acl"
    acl.write_text(f"topic read #\ntopic write {BASE}/inv1/#\ntopic write {BASE}/status\ntopic write {BASE}/keys\n")
    port, at = broker(f"acl_file {acl}").port, desk()
    heard = listen(port)
    one, two = Maker("park7/gw01/inv1"), Maker("park7/gw01/inv2")
    up = uplink(at, To(port))
    until(lambda: up.state().connected)
    for _ in range(10):
        at.commit(fresh(two), fresh(one))
    until(lambda: len(heard.seqs("inv1")) == 10)
    until(lambda: at.pending() == 10)
    until(lambda: up.state().error is not None)
    assert "does not let us publish" in str(up.state().error) and "inv2" in str(up.state().hint)
    assert heard.seqs("inv2") == []


def test_two_destinations_do_not_wait_for_each_other(
    broker: Broker, fake: Fake, listen: Listen, desk: Desks, uplink: Uplinks
) -> None:
    port, make = broker().port, Maker()
    heard, at = listen(port), desk("platform", "regulator")
    up = uplink(at, To(port))
    dead = uplink(at, To(fake(absent=True).port, name="regulator"))
    for _ in range(20):
        at.commit(fresh(make))
    until(lambda: at.pending("platform") == 0 and len(heard.packs()) == 20)
    until(lambda: dead.state().error is not None)
    assert at.pending("regulator") == 20 and up.state().error is None


def test_equal_times_are_two_packs(broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks) -> None:
    """Identity is the sequence, not the time. # field pain 64"""
    port, at, make = broker().port, desk(), Maker()
    heard = listen(port)
    uplink(at, To(port))
    same = fresh(make).to_ms
    at.commit(make.made[0], make(to_ms=same), make(to_ms=same))
    until(lambda: heard.seqs() == [1, 2, 3])
    assert len({p["to"] for p in heard.packs()}) == 1


def test_status_keys_and_births_are_retained(broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks) -> None:
    port, at = broker().port, desk()
    makers = [Maker(f"park7/gw01/d{n}") for n in range(5)]
    at.commit(*(make(birth=True) for make in makers), *(make() for make in makers))
    up = uplink(at, To(port, confirm="broker"), keys=b'{"counter":1,"v":1}')
    until(lambda: at.pending() == 0)
    late = listen(port)  # sees only what is retained
    until(lambda: len(late.heard) == 7)
    assert all(m.retain for m in late.heard)
    assert late.last("keys") == {"counter": 1, "v": 1}
    assert (late.last("status") or {})["state"] == "online"
    for make in makers:
        name = make.stream.rpartition("/")[2]
        assert [m.payload for m in late.heard if m.topic == f"{BASE}/{name}/birth"] == [make.made[0].data]
    at.commit(newer := fresh(makers[0], birth=True))
    until(lambda: (late.last("d0/birth") or {}).get("seq") == newer.seq)
    up.stop(2.0)
    until(lambda: (late.last("status") or {})["state"] == "offline")
    assert up.state().connected is False


def test_a_birth_that_is_late_when_it_is_sealed_is_retained_too(
    broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks
) -> None:
    """A device that is met long after its stream began, or by a slow line: the pack goes by backfill, and whoever joins
    later still finds the table of what he gets."""
    port, at, make = broker().port, desk(), Maker()
    heard = listen(port)
    up = uplink(at, To(port))
    until(lambda: up.state().connected)
    late = old(make, birth=True)
    at.commit(late, old(make))
    until(lambda: heard.seqs() == [1, 2] and at.pending() == 0)
    assert {m.topic.rpartition("/")[2] for m in heard.heard if m.payload == late.data} == {"backfill", "birth"}
    at.commit(newer := old(make, birth=True))
    until(lambda: heard.seqs() == [1, 2, 3] and (heard.last("inv1/birth") or {}).get("seq") == 3)
    joined = listen(port)
    until(lambda: joined.last("inv1/birth") is not None)
    assert [m.payload for m in joined.heard if m.topic == f"{BASE}/inv1/birth"] == [newer.data]


def test_births_and_keys_come_again_after_the_broker_forgot_them(
    broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks
) -> None:
    port, at, make = free_port(), desk(), Maker()
    one = broker(port=port)
    at.commit(make(birth=True))
    up = uplink(at, To(port, confirm="broker"))
    until(lambda: at.pending() == 0)
    one.stop(kill=True)
    until(lambda: not up.state().connected)
    one.start()
    until(lambda: up.state().connected)
    late = listen(port)
    until(lambda: late.last("inv1/birth") and late.last("keys") and late.last("status"))


def test_a_connection_that_is_cut_leaves_the_will(broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks) -> None:
    port, at = broker().port, desk()
    heard = listen(port)
    up = uplink(at, To(port), retry_s=30.0)
    until(lambda: (heard.last("status") or {}).get("state") == "online")
    clone = Client(CallbackAPIVersion.VERSION2, "meterhouse-park7-gw01-platform", protocol=MQTTProtocolVersion.MQTTv5)
    clone.connect("127.0.0.1", port)
    clone.loop_start()
    until(lambda: (heard.last("status") or {}).get("state") == "offline")
    until(lambda: "another client took over" in str(up.state().error))
    assert not up.state().connected and up.state().connects == 1, "and we do not fight"
    hang_up(clone)


def test_a_platform_acknowledges_ranges(broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks) -> None:
    port, at, make = broker().port, desk(), Maker()
    heard = listen(port)
    up = uplink(at, To(port, confirm="platform"))
    until(lambda: up.state().connected)
    at.commit(*(fresh(make) for _ in range(6)))
    until(lambda: len(heard.packs()) == 6)
    until(lambda: up.state().confirmed == 6)
    assert at.pending() == 6, "the broker's word is not the platform's"

    def ack(begin: int, end: int, of: int, **more: object) -> None:
        digest = base64.urlsafe_b64encode(make.made[of - 1].hash).rstrip(b"=").decode()
        body = {"stream": make.stream, "boot": BOOT, "first": begin, "last": end, "hash": digest, **more}
        heard.client.publish(f"{BASE}/ack", json.dumps(body), 1).wait_for_publish(PATIENCE_S)

    ack(1, 3, 3, hash="x" * 43)
    ack(1, 3, 3, boot="0" * 16)
    ack(1, 3, 3, stream="park8/gw01/inv1")
    ack(1, 3, 3, first="1")
    ack(1, 2**60, 3)
    heard.client.publish(f"{BASE}/ack", b"[" * 3000, 1).wait_for_publish(PATIENCE_S)
    heard.client.publish(f"{BASE}/ack", b"\xff" * 100_000, 1).wait_for_publish(PATIENCE_S)
    ack(1, 2, 3)  # the hash is that of 3
    ack(1, 3, 3)
    until(lambda: at.pending() == 3)
    assert [i.id for i in at.call(lambda s: s.packs.pending("platform"))] == [4, 5, 6]
    ack(4, 6, 6)
    until(lambda: at.pending() == 0)
    assert up.state().confirm == "platform" and up.state().connects == 1


def test_packs_that_are_too_large_for_the_broker_stop_nobody(
    broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks
) -> None:
    port, at = broker("max_packet_size 4000").port, desk()
    heard = listen(port)
    small, large = Maker("park7/gw01/inv1"), Maker("park7/gw01/inv2", pad=5000)
    up = uplink(at, To(port))
    until(lambda: up.state().connected)
    for _ in range(5):
        at.commit(fresh(large), fresh(small))
    until(lambda: len(heard.seqs("inv1")) == 5)
    until(lambda: at.pending() == 5)
    assert up.state().set_aside == 5 and up.state().connects == 1


def test_stopping_sends_what_is_fresh_and_no_backlog(
    broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks
) -> None:
    port, at, make = broker().port, desk(), Maker()
    heard = listen(port)
    for _ in range(50):
        at.commit(old(make))
    up = uplink(at, To(port, backfill_rate=1))
    until(lambda: up.state().connected)
    at.commit(*(fresh(make) for _ in range(40)))
    up.stop(PATIENCE_S)
    until(lambda: heard.seqs("inv1", "readings") == list(range(51, 91)))
    assert at.pending() > 0, "the backlog waits for the next start"
    until(lambda: (heard.last("status") or {})["state"] == "offline")


def test_messages_are_plain_json_without_any_property(
    broker: Broker, listen: Listen, desk: Desks, uplink: Uplinks
) -> None:
    """docs/asyncapi.yaml promises no content type and no compression: route by topic."""
    port = broker().port
    heard, at, make = listen(port), desk(), Maker()
    up = uplink(at, To(port))
    until(lambda: up.state().connected)
    at.commit(fresh(make, birth=True))
    at.commit(fresh(make))
    until(lambda: len(heard.packs("readings")) == 2)
    until(lambda: {m.topic.rpartition("/")[2] for m in list(heard.heard)} >= {"status", "birth", "readings"})
    for message in heard.heard:
        assert json.loads(message.payload) and message.properties.json() == {}, message.topic
