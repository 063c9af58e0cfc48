"""A broker that exceeds our limits, in MQTT 5 and in 3.1.1: it costs a connection and no memory."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from agent.uplink import Uplink, replay
from agent.uplink.mqtt import MAX_PACKET
from agent.verify import mqtt
from tests.kits.delivery import BASE, PATIENCE_S, Listener, Mosquitto, StoreOutbox, destination, fresh, until
from tests.kits.fake_broker import SILENT, FakeBroker, Sent, length, publish
from tests.kits.packs import Maker

Fake = Callable[..., FakeBroker]
Outboxes = Callable[..., StoreOutbox]
Uplinks = Callable[..., Uplink]
Broker = Callable[..., Mosquitto]
ACK, REQUEST = f"{BASE}/ack", f"{BASE}/replay/request"
MOST = 268_435_455  # the largest length of a packet


class Once:
    """An attack after the first subscription, and none later."""

    def __init__(self, attack: Callable[[socket.socket, int], None]) -> None:
        self._attack, self._done = attack, threading.Event()

    def __call__(self, sock: socket.socket, version: int) -> None:
        if not self._done.is_set():
            self._done.set()
            self._attack(sock, version)


@pytest.fixture(params=[5, 4], ids=["MQTT 5", "3.1.1"])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def attacked(
    fake: Fake, outbox: Outboxes, uplink: Uplinks, version: int
) -> Callable[..., tuple[FakeBroker, StoreOutbox, Uplink]]:
    """An uplink whose broker attacks after the first subscription."""

    def start(attack: Callable[[socket.socket, int], None], **more: Any) -> tuple[FakeBroker, StoreOutbox, Uplink]:
        broker, at = fake(only_v311=version == 4, then=Once(attack)), outbox()
        return broker, at, uplink(at, destination(broker.port), **more)

    return start


Attacked = Callable[..., tuple[FakeBroker, StoreOutbox, Uplink]]


def recovers(broker: FakeBroker, at: StoreOutbox, up: Uplink) -> None:
    """The next connection delivers."""
    make = Maker()
    until(lambda: len(broker.subscribes) > 1 and up.state().connected)
    at.commit(fresh(make), fresh(make))
    until(lambda: at.pending() == 0)
    assert up.state().error is None


def test_a_message_of_256_mib_ends_the_connection_at_its_header(attacked: Attacked, version: int) -> None:
    """Only buffers of the kernel are filled."""
    taken: list[int] = []

    def attack(sock: socket.socket, version: int) -> None:
        sock.sendall(publish(REQUEST, b"", version, size=MOST))
        with contextlib.suppress(OSError):
            while True:
                taken.append(sock.send(b"x" * 65_536))

    broker, at, up = attacked(attack)
    until(lambda: up.state().error)
    assert "268,435,455 bytes, at most 65,536 are taken" in str(up.state().error) and "retained" in str(up.state().hint)
    recovers(broker, at, up)
    assert sum(taken) < 16 << 20, "buffers of the kernel"


def test_reads_of_the_socket_are_small(attacked: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library allocates the size of a read in advance."""
    asked: list[int] = []
    connect = socket.create_connection

    class Counted(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            asked.append(size)
            return super().recv(size, flags)

    monkeypatch.setattr(
        socket, "create_connection", lambda *args, **more: Counted(fileno=connect(*args, **more).detach())
    )
    payload = b"[" * (MAX_PACKET - 200)
    _, at, up = attacked(lambda sock, version: sock.sendall(publish(REQUEST, payload, version)))
    make = Maker()
    at.commit(fresh(make))
    until(lambda: at.pending() == 0 and sum(asked) > len(payload))
    assert max(asked) == mqtt.READ and up.state().error is None, (
        "a packet within the limit is accepted, and rejected as a request"
    )


def test_one_byte_more_than_the_limit(attacked: Attacked) -> None:
    broker, at, up = attacked(lambda sock, version: sock.sendall(publish(ACK, b"", version, size=MAX_PACKET + 1)))
    until(lambda: up.state().error)
    assert "65,537 bytes" in str(up.state().error)
    recovers(broker, at, up)


def test_a_header_that_arrives_byte_by_byte(attacked: Attacked) -> None:
    def attack(sock: socket.socket, version: int) -> None:
        for byte in publish(REQUEST, b"", version, size=MOST)[:5]:
            with contextlib.suppress(OSError):
                sock.sendall(bytes([byte]))

    _, _, up = attacked(attack)
    until(lambda: up.state().error)
    assert "268,435,455 bytes" in str(up.state().error)


@pytest.mark.parametrize("first", [0x34, 0x3D, 0x36])
def test_a_message_at_qos_2_ends_the_connection(attacked: Attacked, first: int) -> None:
    """paho would keep such messages without bound until they are released."""

    def attack(sock: socket.socket, version: int) -> None:
        with contextlib.suppress(OSError):
            sock.sendall(publish(REQUEST, b"{}" * 1000, version, first) * 1000)

    broker, at, up = attacked(attack)
    until(lambda: up.state().error)
    assert "at QoS 2 on a subscription for QoS 1" in str(up.state().error)
    recovers(broker, at, up)


@pytest.mark.parametrize(("begun", "code"), [(b"\x32" + length(MOST), 0x95), (b"\x34", 0x9B)])
def test_in_mqtt_5_disconnect_has_a_reason_code(
    fake: Fake, outbox: Outboxes, uplink: Uplinks, begun: bytes, code: int
) -> None:
    # nothing else is sent: closing with unread bytes resets the connection, and DISCONNECT may be lost
    broker = fake(answer=lambda sent: SILENT, then=Once(lambda sock, version: sock.sendall(begun)))
    uplink(outbox(), destination(broker.port))
    until(lambda: broker.goodbyes)
    assert broker.goodbyes[0] == bytes([code])


def test_connect_has_the_maximum_packet_size(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    broker = fake()
    up = uplink(outbox(), destination(broker.port))
    until(lambda: up.state().connected)
    assert b"\x27" + struct.pack(">I", MAX_PACKET) in broker.connects[0][:40], "Maximum Packet Size"
    until(lambda: broker.subscribes)
    assert broker.subscribes[0][-1] == 0x21, "QoS 1, without retained messages"


def test_a_connack_of_256_mib(fake: Fake, outbox: Outboxes, uplink: Uplinks, version: int) -> None:
    """The limit holds for the first packet as well."""
    server = socket.create_server(("127.0.0.1", 0))
    with server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = server.accept()
                    with sock, contextlib.suppress(OSError):
                        sock.recv(4096)
                        sock.sendall(b"\x20" + length(MOST))
                        while sock.send(b"\0" * 65_536):
                            continue

        thread = threading.Thread(target=serve)
        thread.start()
        up = uplink(outbox(), destination(server.getsockname()[1]))
        until(lambda: up.state().error)
        assert "268,435,455 bytes" in str(up.state().error)
        up.stop(1.0)
        server.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)


def test_a_broker_that_reads_no_acknowledgements(
    fake: Fake, outbox: Outboxes, uplink: Uplinks, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our acknowledgements of its messages are not queued without bound."""
    connect = socket.create_connection

    def connect_narrowly(*args: Any, **more: Any) -> socket.socket:
        sock = connect(*args, **more)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel buffers few of them
        return sock

    def attack(sock: socket.socket, version: int) -> None:
        some = publish(REQUEST, b"{}", version) * 1000
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(some)

    monkeypatch.setattr(socket, "create_connection", connect_narrowly)
    monkeypatch.setattr(mqtt, "MAX_ANSWERS", 20)
    broker = fake(only_v311=version == 4, then=Once(attack))
    broker.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # on the other side as well
    up = uplink(outbox(), destination(broker.port))
    until(lambda: up.state().error)
    assert "reads none of our" in str(up.state().error)


def test_a_pack_in_flight_is_not_a_poison_message_where_we_closed_the_connection(
    fake: Fake, outbox: Outboxes, uplink: Uplinks, version: int
) -> None:
    """Three disconnects by the broker with a single pack in flight would quarantine it."""
    cut: list[int] = []

    def answer(sent: Sent) -> int | None:
        if not sent.topic.endswith(("readings", "backfill")) or len(cut) == 5:
            return 0
        cut.append(sent.connection)
        broker.peers[sent.connection - 1].sendall(publish(REQUEST, b"", version, size=MOST))
        return SILENT

    broker, at, make = fake(only_v311=version == 4, answer=answer), outbox(), Maker()
    up = uplink(at, destination(broker.port, in_flight=1))
    at.commit(fresh(make))
    until(lambda: at.pending() == 0)
    assert len(cut) == 5 and up.state().set_aside == 0


def test_after_three_such_connections_replay_is_disabled(
    fake: Fake, outbox: Outboxes, uplink: Uplinks, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retained request of 100 MB arrives at each subscription; packs are delivered all the same."""
    monkeypatch.setattr(replay, "DISCONNECT_S", 1e6)  # however slow the machine
    broker = fake(
        only_v311=version == 4,
        then=lambda sock, version: sock.sendall(publish(REQUEST, b"", version, size=100 << 20)),
    )
    at, make = outbox(), Maker()
    up = uplink(at, destination(broker.port))
    until(lambda: len(broker.subscribes) == 3 and up.state().connected and up.state().connects > 3)
    at.commit(fresh(make))
    until(lambda: at.pending() == 0)
    assert len(broker.subscribes) == 3


def test_retained_requests_and_acks_are_ignored(attacked: Attacked, caplog: pytest.LogCaptureFixture) -> None:
    """From a broker that ignores the subscription option, or does not support it."""
    ask = b'{"id":"7","stream":"park7/gw01/inv1","first":1,"last":9}'
    with caplog.at_level(logging.WARNING):
        broker, at, _ = attacked(lambda sock, version: sock.sendall(publish(REQUEST, ask, version, 0x33)))
        until(lambda: "ignored" in caplog.text)
    make = Maker()
    at.commit(fresh(make))
    until(lambda: at.pending() == 0)
    assert not [sent for sent in broker.heard if sent.topic.endswith("replay/reply")]
    assert "retained message on meterhouse/v1/park7/gw01/replay/request" in caplog.text


def test_a_topic_that_is_not_utf_8(attacked: Attacked, caplog: pytest.LogCaptureFixture) -> None:
    """It caused an internal error: a closed socket was closed again."""

    def attack(sock: socket.socket, version: int) -> None:
        sock.sendall(publish("ack", b"{}", version).replace(b"ack", b"\xff\xfe\xfd"))

    broker, at, up = attacked(attack)
    until(lambda: len(broker.subscribes) > 1)
    recovers(broker, at, up)
    assert "malformed MQTT" in caplog.text and "internal error" not in caplog.text


@pytest.mark.broker
@pytest.mark.parametrize("lines", [(), ("max_packet_size 20000000",)])
def test_a_real_broker_with_a_large_retained_message(
    broker: Broker, outbox: Outboxes, uplink: Uplinks, listen: Callable[..., Listener], lines: tuple[str, ...]
) -> None:
    """mosquitto respects the limit: it sends none of it, and packs are delivered."""
    port = broker(*lines).port
    there = listen(port)
    there.client.publish(REQUEST, b"x" * 10_000_000, 1, True).wait_for_publish(PATIENCE_S)
    at, make = outbox(), Maker()
    up = uplink(at, destination(port, confirm="broker"))
    at.commit(fresh(make), fresh(make))
    until(lambda: at.pending() == 0)
    there.client.publish(REQUEST, b"x" * 10_000_000, 1).wait_for_publish(PATIENCE_S)
    at.commit(fresh(make))
    until(lambda: at.pending() == 0)
    assert up.state().error is None and up.state().connects == 1


@pytest.mark.broker
def test_a_real_broker_with_a_retained_request(
    broker: Broker, outbox: Outboxes, uplink: Uplinks, listen: Callable[..., Listener]
) -> None:
    """It was served at each connection; now only a request that arrives while we are connected is."""
    port = broker().port
    there = listen(port)
    at, make = outbox(), Maker()
    at.commit(fresh(make, birth=True), *(fresh(make) for _ in range(9)))
    ask = b'{"id":"%s","stream":"park7/gw01/inv1","first":1,"last":5}'
    there.client.publish(REQUEST, ask % b"retained", 1, True).wait_for_publish(PATIENCE_S)
    up = uplink(at, destination(port, confirm="broker"))
    until(lambda: at.pending() == 0)

    def replies() -> list[bytes]:
        return [message.payload for message in list(there.heard) if message.topic.endswith("replay/reply")]

    there.client.publish(REQUEST, ask % b"now", 1).wait_for_publish(PATIENCE_S)
    until(lambda: any(b'"done"' in reply for reply in replies()))
    assert all(b'"now"' in reply for reply in replies()) and up.state().connects == 1


def test_packs_that_were_acknowledged_before_a_malformed_packet_are_confirmed(
    fake: Callable[..., FakeBroker], outbox: Callable[..., StoreOutbox], uplink: Callable[..., Uplink]
) -> None:
    """Otherwise a broker that sends one bad packet now and then gets the same packs again and again."""
    broker, at, make = fake(answer=lambda sent: SILENT), outbox(), Maker()
    up = uplink(at, destination(broker.port))
    until(lambda: up.state().connected)
    at.commit(*(fresh(make) for _ in range(5)))
    until(lambda: len(packs_of(broker)) == 5)
    heard = packs_of(broker)
    good = b"".join(struct.pack(">BBH", 0x40, 2, sent.packet) for sent in heard[:3])
    broker.peers[0].sendall(good + struct.pack(">BBH", 0x4F, 2, heard[3].packet))  # flags in a PUBACK
    until(lambda: at.pending() == 2)
    until(lambda: len(packs_of(broker)) == 7)
    assert [sent.payload for sent in packs_of(broker)[5:]] == [pack.data for pack in make.made[3:]]


def packs_of(broker: FakeBroker) -> list[Sent]:
    return [sent for sent in list(broker.heard) if sent.topic.endswith(("/readings", "/backfill"))]
