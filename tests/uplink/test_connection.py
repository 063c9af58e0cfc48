"""How a connection uses the kernel: many messages and answers at once, in whatever pieces the answers arrive."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.uplink.messages import OutgoingMessage
from agent.uplink.mqtt import V5, V311, MqttConnection, _BufferedClient, _content
from agent.uplink.queues import WakePipe
from agent.verify.mqtt import BoundedClient
from drivers.model import BrokerError
from tests.kits.delivery import destination, until
from tests.kits.fake_broker import SILENT, FakeBroker

MESSAGES = 20
DATA_SEGS_OUT = 156  # offset of tcpi_data_segs_out in struct tcp_info (linux/tcp.h)

Connect = Callable[[FakeBroker], MqttConnection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """``connect(broker)`` makes a connection, which ends with the test."""
    made: list[MqttConnection] = []
    pipe = WakePipe()

    def start(broker: FakeBroker) -> MqttConnection:
        will = OutgoingMessage("t/status", b"offline")
        made.append(MqttConnection(destination(broker.port), "gw01", V5, will, pipe.fd, pipe.drain, {}))
        made[-1].connect(lambda: False)
        return made[-1]

    yield start
    for one in made:
        one.drop()
    pipe.close()


def socket_of(connection: MqttConnection) -> socket.socket:
    found = connection._client.socket()
    assert isinstance(found, socket.socket)
    return found


def answer(broker: FakeBroker, connection: MqttConnection, data: bytes) -> None:
    """Let the broker send ``data``, wait until all of it can be received, and process it."""
    sock = socket_of(connection)
    broker.peers[0].sendall(data)
    until(lambda: struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0"))[0] == len(data))
    connection.poll(0)


def puback(packet: int) -> bytes:
    return struct.pack(">BBH", 0x40, 2, packet)


def publish_all(connection: MqttConnection) -> list[int]:
    with connection.together():
        return [connection.publish(OutgoingMessage("t/readings", b"%d" % n)) for n in range(MESSAGES)]


def test_messages_that_are_sent_together_leave_in_one_segment(
    fake: Callable[..., FakeBroker], connect: Connect
) -> None:
    """Each segment of its own would wake the broker, and the broker's answer this thread."""
    broker = fake(answer=lambda sent: SILENT)
    connection = connect(broker)
    sock = socket_of(connection)

    def segments() -> int:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        return int(struct.unpack_from("I", info, DATA_SEGS_OUT)[0])

    before = segments()
    publish_all(connection)
    until(lambda: len(broker.heard) == MESSAGES)
    assert [sent.payload for sent in broker.heard] == [b"%d" % n for n in range(MESSAGES)]
    assert segments() == before + 1
    connection.publish(OutgoingMessage("t/readings", b"alone"))
    until(lambda: len(broker.heard) == MESSAGES + 1)  # and none is held back afterwards


def test_many_answers_are_received_at_once(
    fake: Callable[..., FakeBroker], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = fake(answer=lambda sent: SILENT)
    connection = connect(broker)
    packets = publish_all(connection)
    until(lambda: len(broker.heard) == MESSAGES)
    answers = b"".join(puback(packet) for packet in packets)
    receive, calls = BoundedClient._receive, list[int]()

    def counted(client: BoundedClient, most: int) -> bytes:
        calls.append(most)
        return receive(client, most)

    monkeypatch.setattr(BoundedClient, "_receive", counted)
    answer(broker, connection, answers)
    assert connection.pubacks == [(packet, 0) for packet in packets]
    assert len(calls) <= 2, "once for all of them, and once to learn that there is no more"


def test_each_answer_counts_once(fake: Callable[..., FakeBroker], connect: Connect) -> None:
    """An answer that nobody waits for, or that comes again, is ignored. Any code from 0x80 on is a refusal."""
    broker = fake(answer=lambda sent: SILENT)
    connection = connect(broker)
    plain, accepted, refused, too_large, unknown = publish_all(connection)[:5]
    until(lambda: len(broker.heard) == MESSAGES)
    reasons = (
        struct.pack(">BBHB", 0x40, 3, accepted, 0x10),
        struct.pack(">BBHBB", 0x40, 4, refused, 0x87, 0),
        struct.pack(">BBHB", 0x40, 3, too_large, 0x95),  # not a code of a PUBACK, but mosquitto sends it
        struct.pack(">BBHB", 0x40, 3, unknown, 0xFE),
    )
    answer(broker, connection, b"".join((puback(60_000), puback(plain), *reasons, puback(plain), puback(refused))))
    assert connection.pubacks == [(plain, 0), (accepted, 0x10), (refused, 0x87), (too_large, 0x95), (unknown, 0xFE)]


@pytest.mark.parametrize(
    "data",
    [
        "70 02 {id}",  # PUBCOMP, which belongs to QoS 2
        "4f 02 {id}",  # flags
        "40 05 {id} 00 00 00",  # a byte behind the properties
        "40 04 {id} 00 80",  # the length of the properties goes on
        "40 03 {id} 01",  # no success that the standard knows
        "40 03 {id} 7f",
        "40 06 {id} 00 02 01 00",  # a property that a PUBACK cannot have
        "40 06 {id} 87 02 7f 00",  # an unknown property
        "40 00",
        "40 01 00",
    ],
)
def test_no_malformed_answer_confirms_a_pack(fake: Callable[..., FakeBroker], connect: Connect, data: str) -> None:
    broker = fake(answer=lambda sent: SILENT)
    connection = connect(broker)
    packet = publish_all(connection)[0]
    until(lambda: len(broker.heard) == MESSAGES)
    with pytest.raises(BrokerError, match="malformed MQTT"):
        answer(broker, connection, bytes.fromhex(data.format(id=f"{packet:04x}")))
    assert connection.pubacks == [] and not connection.alive


@pytest.mark.parametrize("packet", [b"\xd0\0", puback(60_000)], ids=["PINGRESP", "PUBACK"])
def test_a_flood_of_answers_leaves_turns_to_send(
    fake: Callable[..., FakeBroker], connect: Connect, monkeypatch: pytest.MonkeyPatch, packet: bytes
) -> None:
    """Each turn receives once. What is left is received in the next turns, without waiting."""
    flood = packet * 3_000
    monkeypatch.setattr("agent.uplink.mqtt.READ", len(flood) // 3)
    broker = fake(answer=lambda sent: SILENT)
    connection = connect(broker)
    packets = publish_all(connection)
    until(lambda: len(broker.heard) == MESSAGES)
    answer(broker, connection, flood + b"".join(puback(packet) for packet in packets))
    assert connection.pubacks == []
    turns = 1
    while not connection.pubacks:
        connection.poll(3600)  # it would wait an hour if it waited
        turns += 1
    assert connection.pubacks == [(packet, 0) for packet in packets] and 3 <= turns <= 5


@pytest.mark.parametrize("size", [1, 3, 7])
def test_answers_in_pieces(fake: Callable[..., FakeBroker], connect: Connect, size: int) -> None:
    broker = fake(answer=lambda sent: SILENT)
    connection = connect(broker)
    packets = publish_all(connection)
    until(lambda: len(broker.heard) == MESSAGES)
    answers = b"".join(puback(packet) for packet in packets)
    for at in range(0, len(answers), size):
        piece = answers[at : at + size]
        answer(broker, connection, piece)
        assert len(connection.pubacks) == (at + len(piece)) // 4
    assert connection.pubacks == [(packet, 0) for packet in packets]


def test_answers_before_the_end_of_the_connection_count(fake: Callable[..., FakeBroker], connect: Connect) -> None:
    """The broker's DISCONNECT comes in the same bytes as the last answers."""
    broker = fake(answer=lambda sent: SILENT)
    connection = connect(broker)
    packets = publish_all(connection)
    until(lambda: len(broker.heard) == MESSAGES)
    last = b"".join(puback(packet) for packet in packets) + b"\xe0\x01\x8b"
    answer(broker, connection, last)
    assert connection.pubacks == [(packet, 0) for packet in packets]
    assert (connection.alive, connection.closed_by_broker, connection.reason) == (False, True, 0x8B)


SIZES = (0, 1, 100, 127, 128, 16_370, 16_400, 2_097_000, 2_097_200)  # the length of the packet takes 1 to 4 bytes


@pytest.mark.parametrize("protocol", [V5, V311])
def test_messages_have_the_bytes_that_paho_gives_them(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packets of the agent are compared with those of paho's own ``publish``."""
    made: list[bytes] = []
    monkeypatch.setattr(Client, "_packet_queue", lambda client, command, packet, *more: made.append(bytes(packet)))
    topic = "meterhouse/v1/Wärmenetz/gw/readings"
    for size, retain, kind in product(SIZES, (False, True), ("", "application/json+zstd")):
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if kind and protocol == V5:
            properties.ContentType = kind
        ours = _BufferedClient(protocol, 1 << 20, "", [])
        paho = Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        with socket.socket() as sock:
            ours._sock = paho._sock = sock
            ours.add(topic.encode(), bytes(size), retain, _content(kind) if protocol == V5 else b"")
            ours.flush()
            paho.publish(topic, bytes(size), 1, retain, properties)
            ours._sock = paho._sock = None
        assert made.pop() == made.pop(), f"{size} bytes, retain {retain}, {kind}"


def test_a_packet_id_in_use_is_not_used_again(fake: Callable[..., FakeBroker], connect: Connect) -> None:
    """After 65,535 messages the ids begin again, and one of the first may still wait for its PUBACK."""
    broker = fake(answer=lambda sent: SILENT)
    connection = connect(broker)
    packets = publish_all(connection)
    until(lambda: len(broker.heard) == MESSAGES)
    answer(broker, connection, b"".join(puback(packet) for packet in packets if packet != packets[1]))
    connection._client._last_mid = 65_534
    again = publish_all(connection)
    assert again[:4] == [65_535, 1, 3, 4] and packets[1] == 2
    until(lambda: len(broker.heard) == 2 * MESSAGES)


def test_many_bytes_are_sent_in_parts(
    fake: Callable[..., FakeBroker], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages wait for each other only up to a limit, so that memory does not hold all of them twice."""
    broker = fake(answer=lambda sent: SILENT)
    connection = connect(broker)
    sent: list[int] = []
    queue = Client._packet_queue

    def counted(client: Client, command: int, packet: bytes, *more: Any) -> Any:
        sent.append(len(packet))
        return queue(client, command, packet, *more)

    monkeypatch.setattr(Client, "_packet_queue", counted)
    with connection.together():
        for _ in range(10):
            connection.publish(OutgoingMessage("t/readings", bytes(30_000)))
    until(lambda: len(broker.heard) == 10)
    assert len(sent) == 4 and max(sent) < 91_000
    connection.drop()
    assert connection.publish(OutgoingMessage("t/readings", b"")) == 0


def test_with_mqtt_3_1_1_an_answer_has_no_reason(fake: Callable[..., FakeBroker]) -> None:
    broker, pipe = fake(answer=lambda sent: SILENT), WakePipe()
    will = OutgoingMessage("t/status", b"offline")
    connection = MqttConnection(destination(broker.port), "gw01", V311, will, pipe.fd, pipe.drain, {})
    try:
        connection.connect(lambda: False)
        plain, reasoned = publish_all(connection)[:2]
        until(lambda: len(broker.heard) == MESSAGES)
        with pytest.raises(BrokerError, match="malformed MQTT"):
            answer(broker, connection, puback(plain) + struct.pack(">BBHB", 0x40, 3, reasoned, 0))
        assert connection.pubacks == [(plain, 0)]
    finally:
        connection.drop()
        pipe.close()
