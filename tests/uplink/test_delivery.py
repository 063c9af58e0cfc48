"""Packs count as delivered only when they are acknowledged. Against a real mosquitto."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.uplink import Uplink
from agent.verify.mqtt import hang_up
from tests.kits.broker import free_port
from tests.kits.delivery import BASE, PATIENCE_S, Listener, Mosquitto, StoreOutbox, destination, fresh, old, until
from tests.kits.fake_broker import FakeBroker, Sent
from tests.kits.packs import BOOT, Maker

Broker = Callable[..., Mosquitto]
Listen = Callable[..., Listener]
Outboxes = Callable[..., StoreOutbox]
Uplinks = Callable[..., Uplink]
Fake = Callable[..., FakeBroker]


def test_packs_arrive_byte_for_byte_and_leave_the_outbox(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    """Confirmed means acknowledged by the broker, not given to a library. # field pain 50"""
    port = broker().port
    heard, at = listen(port), outbox()
    up = uplink(at, destination(port))
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
    at.commit(fresh(make))
    until(lambda: at.pending() == 0 and len(at.told) > 51)
    assert sorted(at.told) == sorted(set(at.told)) and len(at.told) == 52, "each is said once to the store"


def test_a_restart_of_the_broker_loses_and_repeats_nothing(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks, caplog: pytest.LogCaptureFixture
) -> None:
    """A reconnect does not change the store, and confirmed packs are not sent again.

    # field pain 44, field pain 46, field pain 51, field pain 60
    """
    port = free_port()
    first = broker(port=port)
    heard, at, make = listen(port), outbox(), Maker()
    up = uplink(at, destination(port))
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
    # otherwise the uplink was back before the listener, and the first packs were sent again after the others
    if not up.state().refused and "no subscriber" not in caplog.text:
        assert backfill == sorted(backfill), "oldest first"
    heard_bytes = [m.payload for m in heard.heard if m.topic.endswith(("readings", "backfill"))]
    assert sorted(heard_bytes) == sorted(p.data for p in make.made)
    kept = at.call(lambda store: store.packs.after(make.stream, 0, 99, 99))
    assert [pack.data for pack in kept] == [pack.data for pack in make.made]
    until(lambda: up.state().error is None)
    assert up.state().connects == 2


def test_packs_wait_for_a_broker_that_is_not_there_at_the_start(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    broker, at, make = fake(absent=True), outbox(), Maker()
    up = uplink(at, destination(broker.port))
    packs = [fresh(make, birth=True), fresh(make)]
    at.commit(*packs)
    until(lambda: up.state().error is not None)
    broker.listen()
    until(lambda: at.pending() == 0)
    came = [sent.payload for sent in broker.heard if sent.topic.endswith("readings")]
    assert came == [pack.data for pack in packs], "recent and never sent: live"


def test_live_packs_do_not_wait_behind_the_backlog(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    """The broker delays its answers until there is a live pack: that pack is sent next."""
    began, go_on = threading.Event(), threading.Event()

    def answer(sent: Sent) -> int:
        if sent.topic.endswith("backfill"):
            began.set()
            go_on.wait(PATIENCE_S)
        return 0

    broker, at, make = fake(answer=answer), outbox(), Maker()
    for _ in range(40):
        at.commit(old(make))
    uplink(at, destination(broker.port, in_flight=3))
    until(began.is_set)
    at.commit(fresh(make))
    go_on.set()
    until(lambda: at.pending() == 0)
    went = [json.loads(sent.payload)["seq"] for sent in broker.heard if sent.topic.endswith(("readings", "backfill"))]
    assert [seq for seq in went if seq != 41] == list(range(1, 41))
    assert went.index(41) in (1, 2, 3), "behind those that were in flight, three at most"


def test_a_pack_that_is_late_when_it_is_sealed_is_backfill(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    port, at, make = broker().port, outbox(), Maker()
    heard = listen(port)
    up = uplink(at, destination(port))
    until(lambda: up.state().connected)
    at.commit(old(make), fresh(make))
    until(lambda: len(heard.packs()) == 2)
    assert heard.seqs("inv1", "backfill") == [1] and heard.seqs("inv1", "readings") == [2]


def test_without_a_subscriber_packs_are_not_delivered(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    """One pack in a while is a probe; when there is a subscriber, all packs are sent. # field pain 50"""
    port, at, make = broker().port, outbox(), Maker()
    up = uplink(at, destination(port))
    until(lambda: up.state().connected)
    for _ in range(30):
        at.commit(fresh(make))
    until(lambda: up.state().silent_topics == 2)
    assert "no subscriber" in str(up.state().error)
    assert at.pending() == 30 and up.state().confirmed == 0
    assert up.state().refused <= 60, "each was sent at most once live and once as backfill"
    heard = listen(port)
    until(lambda: at.pending() == 0)
    until(lambda: len(set(heard.seqs())) == 30)  # a PUBACK may arrive before the listener gets the pack
    assert sorted(set(heard.seqs())) == list(range(1, 31))
    until(lambda: up.state().error is None)
    assert up.state().silent_topics == 0


def test_a_stream_without_a_subscriber_does_not_stop_the_others(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    port, at = broker().port, outbox()
    one, two = Maker("park7/gw01/inv1"), Maker("park7/gw01/inv2")
    heard = listen(port, f"{BASE}/inv1/+")
    up = uplink(at, destination(port))
    until(lambda: up.state().connected)
    for _ in range(30):
        at.commit(fresh(one), fresh(two))
    until(lambda: len(heard.seqs("inv1")) == 30)
    until(lambda: at.pending() == 30)
    assert {i.stream for i in at.call(lambda s: s.packs.pending("platform", 0, 99, 1 << 30))} == {two.stream}


def test_confirm_broker_needs_no_subscriber(broker: Broker, outbox: Outboxes, uplink: Uplinks) -> None:
    port, at, make = broker().port, outbox(), Maker()
    up = uplink(at, destination(port, confirm="broker"))
    at.commit(fresh(make), fresh(make))
    until(lambda: at.pending() == 0)
    assert up.state().confirm == "broker" and up.state().error is None


def test_a_publish_that_is_not_authorized_is_not_delivered(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks, tmp_path: Path
) -> None:
    """PUBACK 135 looks like success in paho. The packs are kept, and others are sent. # field pain 50"""
    acl = tmp_path / "acl"
    acl.write_text(f"topic read #\ntopic write {BASE}/inv1/#\ntopic write {BASE}/status\ntopic write {BASE}/keys\n")
    port, at = broker(f"acl_file {acl}").port, outbox()
    heard = listen(port)
    one, two = Maker("park7/gw01/inv1"), Maker("park7/gw01/inv2")
    up = uplink(at, destination(port))
    until(lambda: up.state().connected)
    for _ in range(10):
        at.commit(fresh(two), fresh(one))
    until(lambda: len(heard.seqs("inv1")) == 10)
    until(lambda: at.pending() == 10)
    until(lambda: up.state().error is not None)
    assert "broker does not allow this client to publish" in str(up.state().error) and "inv2" in str(up.state().hint)
    assert heard.seqs("inv2") == []


def test_two_destinations_do_not_wait_for_each_other(
    broker: Broker, fake: Fake, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    port, make = broker().port, Maker()
    heard, at = listen(port), outbox("platform", "regulator")
    up = uplink(at, destination(port))
    dead = uplink(at, destination(fake(absent=True).port, name="regulator"))
    for _ in range(20):
        at.commit(fresh(make))
    until(lambda: at.pending("platform") == 0 and len(heard.packs()) == 20)
    until(lambda: dead.state().error is not None)
    assert at.pending("regulator") == 20 and up.state().error is None


def test_packs_of_equal_times_are_different_packs(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    """Identity is the sequence, not the time. # field pain 64"""
    port, at, make = broker().port, outbox(), Maker()
    heard = listen(port)
    uplink(at, destination(port))
    same = fresh(make).to_ms
    at.commit(make.made[0], make(to_ms=same), make(to_ms=same))
    until(lambda: heard.seqs() == [1, 2, 3])
    assert len({p["to"] for p in heard.packs()}) == 1


def test_status_keys_and_births_are_retained(broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks) -> None:
    port, at = broker().port, outbox()
    makers = [Maker(f"park7/gw01/d{n}") for n in range(5)]
    at.commit(*(make(birth=True) for make in makers), *(make() for make in makers))
    up = uplink(at, destination(port, confirm="broker"), keys=b'{"counter":1,"v":1}')
    until(lambda: at.pending() == 0)
    late = listen(port)  # gets retained messages only
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


def test_a_late_birth_is_retained_too(broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks) -> None:
    """A device identified long after its stream began, or on a slow line: the pack is backfill, and a subscriber that
    joins later still finds the point table."""
    port, at, make = broker().port, outbox(), Maker()
    heard = listen(port)
    up = uplink(at, destination(port))
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


def test_births_and_keys_are_published_again_after_the_broker_lost_them(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    port, at, make = free_port(), outbox(), Maker()
    one = broker(port=port)
    at.commit(make(birth=True))
    up = uplink(at, destination(port, confirm="broker"))
    until(lambda: at.pending() == 0)
    one.stop(kill=True)
    until(lambda: not up.state().connected)
    one.start()
    until(lambda: up.state().connected)
    late = listen(port)
    until(lambda: late.last("inv1/birth") and late.last("keys") and late.last("status"))


def test_the_will_is_published_when_another_client_takes_over(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    port, at = broker().port, outbox()
    heard = listen(port)
    up = uplink(at, destination(port), retry_s=30.0)
    until(lambda: (heard.last("status") or {}).get("state") == "online")
    clone = Client(CallbackAPIVersion.VERSION2, "meterhouse-park7-gw01-platform", protocol=MQTTProtocolVersion.MQTTv5)
    clone.connect("127.0.0.1", port)
    clone.loop_start()
    until(lambda: (heard.last("status") or {}).get("state") == "offline")
    until(lambda: "another client took over" in str(up.state().error))
    assert not up.state().connected and up.state().connects == 1, "no reconnect at once"
    hang_up(clone)


def test_acks_of_the_platform_confirm_ranges(broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks) -> None:
    port, at, make = broker().port, outbox(), Maker()
    heard = listen(port)
    up = uplink(at, destination(port, confirm="platform"))
    until(lambda: up.state().connected)
    at.commit(*(fresh(make) for _ in range(6)))
    until(lambda: len(heard.packs()) == 6)
    until(lambda: up.state().confirmed == 6)
    assert at.pending() == 6, "a PUBACK is not an ack of the platform"

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
    ack(1, 2, 3)  # with the hash of 3
    ack(1, 3, 3)
    until(lambda: at.pending() == 3)
    assert [i.id for i in at.call(lambda s: s.packs.pending("platform"))] == [4, 5, 6]
    assert (heard.last("status") or {})["accepts"] == ["acks"]
    digests = [base64.urlsafe_b64encode(make.made[n - 1].hash).rstrip(b"=").decode() for n in (4, 6)]
    listed = [
        {"stream": make.stream, "boot": BOOT, "first": first, "last": last, "hash": digest}
        for first, last, digest in ((4, 4, digests[0]), (1, 6, "x" * 43), (5, 6, digests[1]))
    ]
    heard.client.publish(f"{BASE}/ack", json.dumps({"acks": listed}), 1).wait_for_publish(PATIENCE_S)
    until(lambda: at.pending() == 0)
    assert up.state().confirm == "platform" and up.state().connects == 1


# with the second limit, mosquitto accepts packets of any size, and refuses large messages in the PUBACK, with 0x95
@pytest.mark.parametrize("limit", ["max_packet_size 4000", "message_size_limit 3900"])
def test_packs_that_are_too_large_for_the_broker_do_not_stop_others(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks, limit: str
) -> None:
    port, at = broker(limit).port, outbox()
    heard = listen(port)
    small, large = Maker("park7/gw01/inv1"), Maker("park7/gw01/inv2", pad=5000)
    up = uplink(at, destination(port))
    until(lambda: up.state().connected)
    for _ in range(5):
        at.commit(fresh(large), fresh(small))
    until(lambda: len(heard.seqs("inv1")) == 5)
    until(lambda: at.pending() == 5)
    assert up.state().set_aside == 5 and up.state().connects == 1


def test_stopping_sends_live_packs_and_no_backlog(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    port, at, make = broker().port, outbox(), Maker()
    heard = listen(port)
    for _ in range(50):
        at.commit(old(make))
    up = uplink(at, destination(port, backfill_rate=1))
    until(lambda: up.state().connected)
    at.commit(*(fresh(make) for _ in range(40)))
    up.stop(PATIENCE_S)
    until(lambda: heard.seqs("inv1", "readings") == list(range(51, 91)))
    assert at.pending() > 0, "the backlog waits for the next start"
    until(lambda: (heard.last("status") or {})["state"] == "offline")


def test_packs_sealed_at_the_stop_are_sent_however_old_their_readings_are(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    """Those of a device that never answered are sealed at the stop: the backlog kept them until the next start."""
    port, at, make = broker().port, outbox(), Maker()
    heard = listen(port)
    up = uplink(at, destination(port, backfill_rate=1))
    until(lambda: up.state().connected)
    up.expect_stop()
    at.commit(*(old(make) for _ in range(20)), fresh(make))
    up.stop(PATIENCE_S)
    assert at.pending() == 0
    until(lambda: len(heard.packs()) == 21)


def test_messages_are_json_without_mqtt_5_properties(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    """As docs/asyncapi.yaml states: no content type and no compression."""
    port = broker().port
    heard, at, make = listen(port), outbox(), Maker()
    up = uplink(at, destination(port))
    until(lambda: up.state().connected)
    at.commit(fresh(make, birth=True))
    at.commit(fresh(make))
    until(lambda: len(heard.packs("readings")) == 2)
    until(lambda: {m.topic.rpartition("/")[2] for m in list(heard.heard)} >= {"status", "birth", "readings"})
    for message in heard.heard:
        assert json.loads(message.payload) and message.properties.json() == {}, message.topic
