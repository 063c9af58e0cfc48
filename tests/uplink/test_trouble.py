"""Brokers that refuse, hang, lie and hang up; errors that a technician can act on; memory that stays bounded."""

from __future__ import annotations

import json
import logging
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.uplink import Uplink
from agent.uplink.uplink import backlog_rate
from agent.verify.mqtt import hang_up
from tests.kits.delivery import PATIENCE_S, Desk, Listener, Mosquitto, Password, To, fresh, until
from tests.kits.fake_broker import HANG_UP, SILENT, FakeBroker, Sent
from tests.kits.packs import Maker

Fake = Callable[..., FakeBroker]
Desks = Callable[..., Desk]
Uplinks = Callable[..., Uplink]
Broker = Callable[..., Mosquitto]
AGES_S = 10_000.0  # a wait that no test sees the end of


def packs(broker: FakeBroker) -> list[Sent]:
    return [s for s in list(broker.heard) if s.topic.endswith(("/readings", "/backfill"))]


def test_falls_back_to_3_1_1_only_when_the_broker_says_so(fake: Fake, desk: Desks, uplink: Uplinks) -> None:
    broker, at, make = fake(only_v311=True), desk(), Maker()
    up = uplink(at, To(broker.port))
    at.commit(fresh(make), fresh(make))
    until(lambda: at.pending() == 0)
    assert broker.versions == [5, 4]
    state = up.state()
    assert (state.mqtt, state.confirm, state.error) == ("3.1.1", "broker", None)
    assert [s.payload for s in packs(broker)] == [p.data for p in make.made]


@pytest.mark.parametrize(
    ("connack", "what"),
    [
        (0x86, "user name or password is wrong"),
        (0x87, "does not authorise us"),
        (0x8A, "has banned us"),
        (0x85, "refuses the client id"),
        (0x97, "quota"),
        (0x83, "code 0x83"),
    ],
)
def test_a_refusal_is_said_in_words_and_is_no_reason_to_fall_back(
    fake: Fake, desk: Desks, uplink: Uplinks, connack: int, what: str
) -> None:
    broker = fake(connack=connack)
    up = uplink(desk(), To(broker.port))
    until(lambda: up.state().error)
    assert what in str(up.state().error) and up.state().hint
    until(lambda: len(broker.versions) >= 2)
    assert set(broker.versions) == {5}


def test_a_black_hole_is_noticed_and_left(fake: Fake, desk: Desks, uplink: Uplinks) -> None:
    """A broker that takes everything and answers nothing holds a window, not the packs. # field pain 55"""
    deaf = {"is": False}
    broker = fake(answer=lambda sent: SILENT if deaf["is"] else 0)
    at, make = desk(), Maker()
    up = uplink(at, To(broker.port, in_flight=10), ack_timeout_s=0.3)
    until(lambda: up.state().connected)
    deaf["is"] = True
    for _ in range(50):
        at.commit(fresh(make))
    until(lambda: up.state().error)
    assert "acknowledged nothing" in str(up.state().error)
    assert broker.most_unanswered <= 10, "the window holds"
    deaf["is"] = False
    until(lambda: at.pending() == 0)
    assert {s.payload for s in packs(broker)} == {p.data for p in make.made}


def test_the_brokers_receive_maximum_is_honoured(fake: Fake, desk: Desks, uplink: Uplinks) -> None:
    broker = fake(answer=lambda sent: SILENT, properties=b"\x21\x00\x03")
    at, make = desk(), Maker()
    uplink(at, To(broker.port, in_flight=20), ack_timeout_s=0.2)
    at.commit(*(fresh(make) for _ in range(20)))
    until(lambda: broker.most_unanswered == 3)
    until(lambda: len(broker.versions) > 1)
    assert broker.most_unanswered == 3


def resident() -> int:
    """Bytes of ours that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_memory_is_bounded_whatever_the_broker_does(fake: Fake, desk: Desks, uplink: Uplinks) -> None:
    """24 MB of packs for a broker that answers one in a while: what does not fit is read back. # field pain 46"""
    gate = threading.Semaphore(0)

    def answer(sent: Sent) -> int:
        if sent.topic.endswith("readings"):
            gate.acquire(timeout=PATIENCE_S)
        return 0

    broker = fake(answer=answer)
    at, make = desk(), Maker(pad=60_000)
    up = uplink(at, To(broker.port, in_flight=4), fresh_bytes=1 << 20)
    until(lambda: up.state().connected)
    before = resident()
    for _ in range(50):
        at.commit(*(fresh(make) for _ in range(8)))
        del make.made[:]
        assert up.state().waiting * 60_000 < 4 << 20
    assert resident() - before < 10_000_000, "24 MB were offered"
    gate.release(1000)
    until(lambda: at.pending() == 0)
    assert len({s.payload for s in packs(broker)}) == 400
    assert all(s.topic.endswith("readings") for s in packs(broker)), "all of it was young enough to be fresh"


def test_a_pack_that_makes_the_broker_hang_up_is_set_aside(fake: Fake, desk: Desks, uplink: Uplinks) -> None:
    """One bad pack must not stand in the way of all others for ever. # field pain 57"""
    bad: set[bytes] = set()
    broker = fake(answer=lambda sent: HANG_UP if sent.payload in bad else 0)
    at, make = desk(), Maker()
    bad.add(fresh(make).data)
    up = uplink(at, To(broker.port))
    at.commit(*make.made, *(fresh(make) for _ in range(20)))
    until(lambda: at.pending() == 1)
    assert up.state().set_aside == 1
    assert {s.payload for s in packs(broker)} - bad == {p.data for p in make.made[1:]}
    assert len([s for s in packs(broker) if s.payload in bad]) <= 5
    until(lambda: up.state().connected)


@pytest.mark.parametrize("code", [0x97, 0x80, 0x83])
def test_a_quota_pauses_and_ends(fake: Fake, desk: Desks, uplink: Uplinks, code: int) -> None:
    left = {"no": 3}

    def answer(sent: Sent) -> int:
        if sent.topic.endswith(("readings", "backfill")) and left["no"]:
            left["no"] -= 1
            return code
        return 0

    broker, at, make = fake(answer=answer), desk(), Maker()
    up = uplink(at, To(broker.port, in_flight=3))
    at.commit(*(fresh(make) for _ in range(10)))
    until(lambda: at.pending() == 0)
    assert up.state().refused == 3
    until(lambda: up.state().error is None)


def test_credentials_and_files_that_are_wrong_are_named(
    broker: Broker, desk: Desks, uplink: Uplinks, tmp_path: Path
) -> None:
    passwords = tmp_path / "passwd"
    passwords.write_text("gw:$7$101$0000000000000000$" + "A" * 86 + "==\n")
    passwords.chmod(0o600)
    port = broker("allow_anonymous false", f"password_file {passwords}").port
    at = desk()
    up = uplink(at, To(port, username="gw", password=Password(b"wrong\n")))
    until(lambda: up.state().error)
    # mosquitto says "not authorised" for a wrong password
    assert "authorise" in str(up.state().error) or "password" in str(up.state().error)
    other = uplink(at, To(port, tls=True, ca_file=tmp_path / "none.pem"))
    until(lambda: other.state().error)
    assert "TLS files cannot be used" in str(other.state().error) and "PEM" in str(other.state().hint)


def listen_and(act: Callable[[socket.socket], None]) -> tuple[int, Callable[[], None]]:
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            with sock:
                act(sock)

    thread = threading.Thread(target=run)
    thread.start()

    def close() -> None:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(PATIENCE_S)

    return server.getsockname()[1], close


def test_an_address_that_is_wrong_is_explained(fake: Fake, desk: Desks, uplink: Uplinks, broker: Broker) -> None:
    at = desk()

    def error_of(to: To) -> str:
        up = uplink(at, to)
        until(lambda: up.state().error)
        found = f"{up.state().error} | {up.state().hint}"
        up.stop(PATIENCE_S)
        return found

    assert "nothing listens there | Is" in error_of(To(fake(absent=True).port))
    found = error_of(To(1883, host="no-such-host.invalid"))
    assert "machine has this name" in found or "name service" in found
    found = error_of(To(broker().port, tls=True))
    assert "no TLS is spoken there" in found or "TLS on one side only" in found
    port, close = listen_and(lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    assert error_of(To(port))
    close()


def ended(up: Uplink) -> bool:
    """Has its thread come to its end?"""
    return not any(thread.name == f"uplink {up.name}" for thread in threading.enumerate())


def test_stopping_is_bounded_when_the_broker_hangs(fake: Fake, desk: Desks, uplink: Uplinks) -> None:
    broker, at, make = fake(answer=lambda sent: SILENT), desk(), Maker()
    up = uplink(at, To(broker.port), ack_timeout_s=AGES_S)
    until(lambda: up.state().connected)
    at.commit(*(fresh(make) for _ in range(5)))
    up.stop(1.1)
    until(lambda: ended(up))
    assert at.pending() == 5


def test_stopping_does_not_wait_for_the_next_attempt(fake: Fake, desk: Desks, uplink: Uplinks) -> None:
    up = uplink(desk(), To(fake(connack=0x88).port), retry_s=AGES_S)
    until(lambda: up.state().error)
    up.stop(PATIENCE_S)
    assert ended(up)


def test_stopping_does_not_wait_for_the_brokers_first_word(fake: Fake, desk: Desks, uplink: Uplinks) -> None:
    broker = fake(mute=True)
    up = uplink(desk(), To(broker.port), connect_s=AGES_S)
    until(lambda: broker.peers)
    up.stop(PATIENCE_S)
    assert ended(up)


def test_a_listener_that_never_answers_is_given_up(fake: Fake, desk: Desks, uplink: Uplinks) -> None:
    broker = fake(mute=True)
    up = uplink(desk(), To(broker.port), connect_s=0.2)
    until(lambda: up.state().error)
    assert "does not answer as an MQTT broker" in str(up.state().error) and "port" in str(up.state().hint)
    until(lambda: len(broker.peers) > 1, "it is tried again")


def test_a_bug_does_not_end_the_thread(fake: Fake, desk: Desks, uplink: Uplinks) -> None:
    broker, at, make = fake(), desk(), Maker()
    up = uplink(at, To(broker.port), retry_s=0.01)
    until(lambda: up.state().connected)
    working, at.confirm = at.confirm, lambda *args: 1 / 0  # type: ignore[method-assign]
    at.commit(fresh(make))
    until(lambda: "internal error" in str(up.state().error))
    at.confirm = working  # type: ignore[method-assign]
    until(lambda: at.pending() == 0)
    until(lambda: up.state().connected)


def test_a_flood_of_acks_costs_a_line_a_minute(
    broker: Broker, listen: Callable[..., Listener], desk: Desks, uplink: Uplinks, caplog: pytest.LogCaptureFixture
) -> None:
    """A platform that confirms what is not ours, as fast as it can: fresh packs go on, and nothing piles up."""
    port, at, make = broker().port, desk(), Maker()
    up = uplink(at, To(port, confirm="platform"))
    until(lambda: up.state().connected)
    listen(port)
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", port)
    client.loop_start()
    with caplog.at_level(logging.WARNING, "meterhouse.uplink"):
        for n in range(1000):
            ack = {"stream": "park7/gw01/inv1", "boot": f"{n:016x}", "first": 1, "last": n + 1, "hash": "A" * 43}
            info = client.publish("meterhouse/v1/park7/gw01/ack", json.dumps(ack), 1)
            if n % 50 == 0:
                at.commit(fresh(make))
        info.wait_for_publish(PATIENCE_S)
        until(lambda: up.state().confirmed == 20, "fresh packs go on")
    hang_up(client)
    lines = [r.getMessage() for r in caplog.records if "ack" in r.getMessage()]
    assert len(lines) == 1, lines
    assert at.pending() == 20, "and nothing is confirmed"


@pytest.mark.parametrize(("configured", "live", "rate"), [(0, 0.2, 200.0), (0, 40.0, 1000.0), (30, 40.0, 30.0)])
def test_the_backlog_leaves_faster_than_it_comes(configured: int, live: float, rate: float) -> None:
    """At least twenty times as fast, however many devices there are, unless somebody asked for less."""
    assert backlog_rate(configured, live) == rate
