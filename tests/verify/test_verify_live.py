"""The verifier on a real broker: retained objects, late joining, redelivery, a broker that goes away."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.verify import live as live_module
from agent.verify.live import Live, LiveError, MessageQueue
from agent.verify.mqtt import hang_up
from agent.verify.report_text import as_text
from tests.kits.delivery import PATIENCE_S, until
from tests.kits.fake_broker import FakeBroker
from tests.kits.signed import Key, Stream, checkpoint, keys
from tests.verify.corpus import CASES, find_cases
from tests.verify.corpus_pages import head

find_cases()
pytestmark = pytest.mark.broker
BASE = "meterhouse/v1/park7/gw01/"


class Publisher:
    """The gateway's side, as thin as it can be."""

    def __init__(self, port: int) -> None:
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def send(self, topic: str, raw: bytes, retain: bool = False, kind: str = "") -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if kind:
            properties.ContentType = kind
        self._client.publish(topic, raw, 1, retain, properties).wait_for_publish(PATIENCE_S)

    def close(self) -> None:
        hang_up(self._client)


def wait_for(live: Live, want: Callable[[tuple[int, int, int]], bool]) -> None:
    until(lambda: want(live.counts()), "the verifier does not get there")


@pytest.fixture
def publisher(broker: Any) -> Any:
    with closing(Publisher(broker.port)) as made:
        yield made


@pytest.fixture(scope="module")
def shared_publisher(shared_broker: Any) -> Any:
    with closing(Publisher(shared_broker.port)) as made:
        yield made


def test_a_stream_is_verified_as_it_comes(broker: Any, publisher: Publisher) -> None:
    """Keys and birth are retained and come first, what was before the start is not missing."""
    key, stream = Key(), Stream()
    publisher.send(BASE + "keys", keys(key), retain=True)
    publisher.send(stream.topic("birth"), stream.make_birth(), retain=True)
    publisher.send(BASE + "status", b'{"online":true}', retain=True)
    stream.pack()
    live = Live(broker.url, [key.kid], site="park7", gateway="gw01")
    live.start()
    packs = [stream.pack() for _ in range(5)]
    for raw in packs:
        publisher.send(stream.topic(), raw)
    publisher.send(stream.topic("backfill"), packs[1])
    publisher.send(BASE + "inv2/readings", packs[0])
    wait_for(live, lambda c: c[0] == 5 and c[2] == 1)
    report = live.stop()
    s = report.streams[stream.stream]
    assert (report.packs, report.redelivered, report.missing, s.first_seq) == (5, 1, 0, 3)
    assert report.failures == {"topic": 1} and report.first_bad and report.first_bad.where == BASE + "inv2/readings"


def test_an_error_of_the_callers_own_function_is_raised_and_stops_no_verification(
    broker: Any, publisher: Publisher
) -> None:
    """The thread ended unseen, and the verdict stayed `verified` over packs that nobody looked at."""
    key, stream = Key(), Stream()
    calls: list[str] = []

    def full(topic: str, raw: bytes) -> None:
        calls.append(topic)
        raise OSError("the disk is full")

    publisher.send(BASE + "keys", keys(key), retain=True)
    live = Live(broker.url, [key.kid], site="park7", gateway="gw01", on_verified=full)
    live.start()
    for raw in stream.run(4):
        publisher.send(stream.topic(), raw)
    wait_for(live, lambda c: c[0] == 4)
    with pytest.raises(OSError, match="the disk is full"):
        live.report()
    with pytest.raises(OSError, match="the disk is full"):
        live.stop()
    assert len(calls) == 4


def test_frames_are_judged_by_their_bytes_whatever_content_type_they_have(broker: Any, publisher: Publisher) -> None:
    """It is not signed. An unknown one is counted and stated; plain JSON that calls itself a frame is JSON."""
    key, stream = Key(), Stream()
    live = Live(broker.url, [key.kid], streams=["inv1", "meter-*"])
    live.start()
    publisher.send(BASE + "keys", keys(key), retain=True)
    kinds = (
        "application/json+zstd",
        "",
        "Application/JSON; charset=utf-8",
        "text/plain",
        "\u202e",
        *map(str, range(30)),
    )
    packs = stream.run(len(kinds))
    for n, (raw, kind) in enumerate(zip(packs, kinds, strict=True)):
        publisher.send(stream.topic(), zstandard.compress(raw) if n % 3 == 0 else raw, kind=kind)
    wait_for(live, lambda c: c[0] == len(packs))
    publisher.send(stream.topic(), zstandard.compress(bytes(9 << 20)), kind="application/json+zstd")
    wait_for(live, lambda c: c[2] == 1)
    report = live.stop()
    assert report.verified == len(packs) and report.failures == {"size": 1}
    assert sum(report.content_types.values()) == len(kinds) - 3 and report.content_types["text/plain"] == 1
    assert len(report.content_types) <= 21 and report.content_types["others"] > 1
    assert "1 messages came with the content type 'text/plain'" in as_text(report)


def test_an_agreed_stream_without_a_trace_is_found_once_a_checkpoint_is_here(broker: Any, publisher: Publisher) -> None:
    """Before, it may just not have come; and of others nothing is expected."""
    key, stream, other = Key(), Stream(), Stream("inv3")
    live = Live(broker.url, [key.kid], streams=["inv1", "park7/gw01=inv2"])
    live.start()
    publisher.send(BASE + "keys", keys(key), retain=True)
    for raw in stream.run(3):
        publisher.send(stream.topic(), raw)
    wait_for(live, lambda c: c[0] == 3)
    assert live.report().ok, live.report().reasons
    other.run(4)
    publisher.send(BASE + "checkpoint/1", checkpoint([head(stream), head(other)], key), retain=True)
    until(lambda: live.report().unknown)
    report = live.stop()
    assert report.unknown == ["park7/gw01/inv2"] and report.verdict.value == "incomplete"
    assert not report.streams[other.stream].asked and not report.withheld


def test_two_gateways_are_kept_apart_and_one_can_be_chosen(shared_broker: Any, shared_publisher: Publisher) -> None:
    mine, other = Stream(), Stream(gateway="park7/gw02", key=Key(2))
    live = Live(shared_broker.url, [Key(1).kid], site="park7", gateway="gw01")
    live.start()
    shared_publisher.send("meterhouse/v1/park7/gw02/keys", keys(Key(2), gateway="park7/gw02"))
    shared_publisher.send(other.topic(), other.make_birth())
    shared_publisher.send(BASE + "keys", keys(Key(1)))
    shared_publisher.send(mine.topic(), mine.make_birth())
    wait_for(live, lambda c: c[0] == 1)
    report = live.stop()
    assert report.ok and list(report.streams) == [mine.stream]


def test_a_broker_that_goes_away_and_comes_back(broker: Any) -> None:
    """field pain 60: what a broker dropped shows at the subscriber as missing, until backfill brings it."""
    key, stream = Key(), Stream()
    packs = stream.run(6)
    live = Live(broker.url, [key.kid])
    live.start()
    with closing(Publisher(broker.port)) as before:
        before.send(BASE + "keys", keys(key))
        before.send(stream.topic(), packs[0])
        wait_for(live, lambda c: c[0] == 1)
    broker.stop()
    broker.start()
    until(lambda: live.connections == 2)
    with closing(Publisher(broker.port)) as after:

        def comes_back() -> bool:
            """The subscription is in place once something published comes back."""
            after.send(stream.topic(), packs[5])
            return live.counts()[0] == 2

        until(comes_back)
        assert live.report().missing == 4
        assert live.report().verdict.value == "incomplete"
        for raw in packs[1:5]:
            after.send(stream.topic("backfill"), raw)
        wait_for(live, lambda c: c[0] == 6)
    assert live.stop().ok


def test_a_refusal_is_over_once_the_broker_takes_the_subscription_again() -> None:
    """Whoever asks then is told nothing; a broker may refuse everybody just after its start."""
    with closing(FakeBroker()) as broker:
        live = Live(f"mqtt://127.0.0.1:{broker.port}")
        live.start()
        assert live.refusal is None
        broker.connack = 0x87
        broker.peers[0].shutdown(socket.SHUT_RDWR)
        until(lambda: live.refusal and "Not authorized" in str(live.refusal))
        broker.connack = 0
        until(lambda: live.refusal is None)
        assert live.connections == 2
        live.stop()


def test_the_verdict_names_what_was_acknowledged_but_never_arrived(
    shared_broker: Any, shared_publisher: Publisher
) -> None:
    """field pains 50 and 51: a broker's acknowledgement proves nothing, the sequence does; copies are known as such."""
    key, stream = Key(), Stream()
    live = Live(shared_broker.url, [key.kid])
    live.start()
    shared_publisher.send(BASE + "keys", keys(key))
    packs = stream.run(4)
    for raw in (packs[0], packs[1], packs[3], packs[3], packs[1]):
        shared_publisher.send(stream.topic(), raw)
    wait_for(live, lambda c: c[0] == 3)
    shared_publisher.send(stream.topic(), b"end")
    wait_for(live, lambda c: c[2] == 1)
    report = live.stop()
    hole = report.streams[stream.stream].missing[0]
    assert (hole.first, hole.last, hole.readings, report.redelivered) == (3, 3, 4, 2)


def test_what_waits_is_bounded_in_bytes_and_a_stop_frees_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large packs that come faster than they are verified stay with the broker."""
    monkeypatch.setattr(live_module, "WAITING_BYTES", 1000)
    mail, came = MessageQueue(), list[int]()

    def fill() -> None:
        for n in range(10):
            mail.put(bytes(400), str(n))
            came.append(n)

    filler = threading.Thread(target=fill)
    filler.start()
    for n in range(3):
        assert mail.take() == (bytes(400), str(n))
    assert len(came) <= 6, "three taken, three that fill it"
    mail.close()
    filler.join(PATIENCE_S)
    rest = [item for item in iter(mail.take, None)]
    assert not filler.is_alive() and 0 <= len(rest) <= 3


def test_no_broker_is_told_in_time() -> None:
    with socket.socket() as quiet:  # its port is taken, and nobody listens on it
        quiet.bind(("127.0.0.1", 0))
        with pytest.raises(LiveError, match="refused"):
            Live(f"mqtt://127.0.0.1:{quiet.getsockname()[1]}").start()


@pytest.mark.parametrize("url", ["http://x", "127.0.0.1:1883", "mqtt://"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(LiveError, match="broker URL") as refusal:
        Live(url)
    assert "mqtt://host:1883" in refusal.value.hint


def test_a_password_is_asked_for(make_broker: Callable[..., Any], tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(passwords), "auditor", "right"], check=True, capture_output=True
    )
    passwords.chmod(0o600)
    broker = make_broker("allow_anonymous false", f"password_file {passwords}")
    with pytest.raises(LiveError, match=r"refuses: Not authorized") as refusal:
        Live(broker.url).start()
    assert "password" in refusal.value.hint
    live = Live(broker.url, username="auditor", password="right")
    live.start()
    assert live.stop().packs == 0


class OldBroker(threading.Thread):
    """Speaks MQTT 3.1.1 only: refuses level 5 with return code 1 or by hanging up, else sends what it was given."""

    def __init__(self, server: socket.socket, messages: list[tuple[str, bytes]], hang_up: bool) -> None:
        super().__init__(daemon=True)
        self._server, self._messages, self._hang_up = server, messages, hang_up
        self.levels: list[int] = []

    def run(self) -> None:
        while len(self.levels) < 2:
            peer, _ = self._server.accept()
            with peer:
                level = peer.recv(4096)[8]
                self.levels.append(level)
                if level == 4:
                    self._serve(peer)
                elif not self._hang_up:
                    peer.sendall(b"\x20\x02\x00\x01")

    def _serve(self, peer: socket.socket) -> None:
        peer.sendall(b"\x20\x02\x00\x00")
        subscribe = peer.recv(4096)
        peer.sendall(b"\x90\x03" + subscribe[2:4] + b"\x00")
        for topic, raw in self._messages:
            body = len(topic).to_bytes(2, "big") + topic.encode() + raw
            length = bytes([len(body) % 128 | 128, len(body) // 128])
            peer.sendall(b"\x30" + length + body)
        while peer.recv(4096):
            continue


@pytest.mark.parametrize("hang_up", [False, True])
def test_a_broker_of_3_1_1_only(hang_up: bool) -> None:
    key, stream = Key(), Stream()
    messages = [(BASE + "keys", keys(key)), (stream.topic(), stream.make_birth())]
    with socket.create_server(("127.0.0.1", 0)) as server:
        old = OldBroker(server, messages, hang_up)
        old.start()
        live = Live(f"mqtt://127.0.0.1:{server.getsockname()[1]}", [key.kid])
        live.start()
        wait_for(live, lambda c: c[0] == 1)
        assert live.stop().ok
        old.join(PATIENCE_S)
    assert old.levels == [5, 4]


def test_a_broker_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(LiveError, match=r"no answer within 0.3 s"):
            Live(f"mqtt://127.0.0.1:{port}").start(timeout_s=0.3)


def make_certificates(folder: Path) -> None:
    """A CA and a certificate for 127.0.0.1 by it, as strict default contexts want them."""
    now = datetime.now(UTC)
    made: dict[str, ec.EllipticCurvePrivateKey] = {}
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    for name in ("ca", "server"):
        key = made[name] = ec.generate_private_key(ec.SECP256R1())
        is_ca = name == "ca"
        subject = ca_name if is_ca else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        usage = dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        )
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(made["ca"].public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, **usage), critical=True
            )
        )
        if not is_ca:
            names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
        (folder / f"{name}.pem").write_bytes(built.sign(made["ca"], SHA256()).public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.key").write_bytes(private)


def test_tls_with_the_named_ca_and_with_none(make_broker: Callable[..., Any], tmp_path: Path) -> None:
    make_certificates(tmp_path)
    files = {"cafile": "ca.pem", "certfile": "server.pem", "keyfile": "server.key"}
    broker = make_broker(*(f"{option} {tmp_path / name}" for option, name in files.items()))
    url = broker.url.replace("mqtt://", "mqtts://")
    live = Live(url, ca_file=tmp_path / "ca.pem")
    live.start()
    assert live.connections == 1 and live.stop().packs == 0
    with pytest.raises(LiveError, match=r"certificate verify failed|CERTIFICATE_VERIFY_FAILED"):
        Live(url).start()
    with pytest.raises(LiveError, match="closes the connection") as refusal:
        Live(broker.url).start()
    assert "TLS" in refusal.value.hint


NEGATIVES = [  # as the files of the corpus get them, through a broker
    "altered_byte", "swapped_kid", "other_key_same_kid", "alg_hs256", "duplicate_member", "wrong_typ", "truncated",
    "reordered", "broken_chain", "cross_topic", "cross_gateway", "foreign_keys", "forked_records", "old_keys",
    "old_checkpoint", "huge_number", "huge_integer", "zip_bomb", "damaged_zstd", "rollback", "fork", "revoked_key",
]  # fmt: skip


@pytest.mark.parametrize("name", NEGATIVES)
def test_the_corpus_through_a_broker(name: str, shared_broker: Any, shared_publisher: Publisher) -> None:
    """The same verdict for the same reason as for files; what is retained comes as it was retained last."""
    case = CASES[name]()
    live = Live(shared_broker.url, case.trust)
    live.start()
    for topic, raw in case.objects:
        shared_publisher.send(topic or "", raw)
    until(lambda: live.taken == len(case.objects))
    report = live.stop()
    told = [*report.reasons, *(fault.reason for fault in report.faults)]
    assert (report.verdict.value, report.failures, report.packs) == (case.verdict, case.failures, case.packs), told
    assert any(case.reason in text for text in told) or not case.reason, told
    if case.failures:
        assert report.first_bad and report.first_bad.where.startswith("meterhouse/v1/park7/")


def test_a_loop_that_ends_between_a_look_at_it_and_the_join() -> None:
    """Hanging up ends paho's thread, which takes itself out of the client at any moment: no traceback comes of it."""

    class Racing(mqtt.Client):
        """Its thread is there for the first look of ``loop_stop`` only."""

        looks = 0

        @property
        def _thread(self) -> threading.Thread | None:
            self.looks += 1
            return threading.main_thread() if self.looks == 1 else None

        @_thread.setter
        def _thread(self, thread: threading.Thread | None) -> None:
            pass

        def loop_stop(self) -> MQTTErrorCode:
            self.looks = 0
            return super().loop_stop()

    racing = Racing(CallbackAPIVersion.VERSION2)
    hang_up(racing)
    assert racing.looks == 3, "it looked, compared, and found nothing to join"
    with pytest.raises(AttributeError):
        racing.loop_stop()
