"""Brokers that refuse, hang or disconnect; errors that a technician can act on; memory that stays bounded."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.settings import UplinkConfig
from agent.uplink import Uplink, errors
from agent.uplink.messages import OutgoingMessage
from agent.uplink.mqtt import V5, V311, MqttConnection
from agent.uplink.queues import WakePipe
from agent.uplink.uplink import backlog_rate
from agent.verify.mqtt import hang_up
from tests.kits.delivery import BASE, PATIENCE_S, Listener, Mosquitto, StoreOutbox, destination, fresh, password, until
from tests.kits.fake_broker import HANG_UP, SILENT, FakeBroker, Sent
from tests.kits.packs import Maker

Fake = Callable[..., FakeBroker]
Outboxes = Callable[..., StoreOutbox]
Uplinks = Callable[..., Uplink]
Broker = Callable[..., Mosquitto]
NEVER_S = 10_000.0  # longer than any test


def packs(broker: FakeBroker) -> list[Sent]:
    return [s for s in list(broker.heard) if s.topic.endswith(("/readings", "/backfill"))]


def test_falls_back_to_3_1_1_only_when_the_broker_says_so(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    broker, at, make = fake(only_v311=True), outbox(), Maker()
    up = uplink(at, destination(broker.port))
    at.commit(fresh(make), fresh(make))
    until(lambda: at.pending() == 0)
    assert broker.versions == [5, 4]
    state = up.state()
    assert (state.mqtt, state.confirm, state.error) == ("3.1.1", "broker", None)
    assert [s.payload for s in packs(broker)] == [p.data for p in make.made]


@pytest.mark.parametrize(
    ("connack", "what"),
    [
        (0x86, "wrong user name or password"),
        (0x87, "not authorized"),
        (0x8A, "has banned this client"),
        (0x85, "rejected the client id"),
        (0x97, "quota"),
        (0x83, "code 0x83"),
    ],
)
def test_a_refused_connection_is_explained_and_does_not_fall_back_to_3_1_1(
    fake: Fake, outbox: Outboxes, uplink: Uplinks, connack: int, what: str
) -> None:
    broker = fake(connack=connack)
    up = uplink(outbox(), destination(broker.port))
    until(lambda: up.state().error)
    assert what in str(up.state().error) and up.state().hint
    until(lambda: len(broker.versions) >= 2)
    assert set(broker.versions) == {5}


def test_a_broker_that_acknowledges_nothing_is_disconnected(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    """Only the window of packs in flight waits for it; the packs stay in the store. # field pain 55"""
    deaf = {"is": False}
    broker = fake(answer=lambda sent: SILENT if deaf["is"] else 0)
    at, make = outbox(), Maker()
    up = uplink(at, destination(broker.port, in_flight=10), ack_timeout_s=0.3)
    until(lambda: up.state().connected)
    deaf["is"] = True
    for _ in range(50):
        at.commit(fresh(make))
    until(lambda: up.state().error)
    assert "no acknowledgement" in str(up.state().error)
    assert broker.most_unanswered <= 10, "the window holds"
    deaf["is"] = False
    until(lambda: at.pending() == 0)
    assert {s.payload for s in packs(broker)} == {p.data for p in make.made}


def test_bytes_that_the_kernel_has_not_taken_yet_count_as_sent(fake: Fake) -> None:
    """They did not, so a slow link that still sent the rest of a large pack was dropped for a missing answer.

    The watchdog compares this number with the bytes that have arrived.
    """
    reads, size, small = threading.Event(), 4 << 20, 64 << 10
    broker = fake(answer=lambda sent: 0 if reads.wait(PATIENCE_S) else HANG_UP)
    broker.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, small)  # connections inherit it
    pipe, will = WakePipe(), OutgoingMessage("t/status", b"offline")
    connection = MqttConnection(destination(broker.port), "gw01", V5, will, pipe.fd, pipe.drain, {})
    try:
        connection.connect(lambda: False)
        if not connection.bytes_received():
            pytest.skip("this system does not report the bytes that have arrived")
        connection._client.socket().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, small)  # type: ignore[union-attr]
        connection.publish(OutgoingMessage("t/status", b"online"))  # the broker reads nothing after this
        until(lambda: broker.heard)
        connection.publish(OutgoingMessage("t/readings", bytes(size)))
        # while the kernel's numbers are read, bytes may leave its queue, but not more than it holds
        assert connection.bytes_sent() > size - 4 * small
        reads.set()
        until(lambda: connection.poll(0.01) or len(connection.pubacks) == 2)
        assert connection.bytes_sent() == connection.bytes_received() > size
    finally:
        reads.set()
        connection.drop()
        pipe.close()


def test_the_brokers_receive_maximum_is_honoured(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    broker = fake(answer=lambda sent: SILENT, properties=b"\x21\x00\x03")
    at, make = outbox(), Maker()
    uplink(at, destination(broker.port, in_flight=20), ack_timeout_s=0.2)
    at.commit(*(fresh(make) for _ in range(20)))
    until(lambda: broker.most_unanswered == 3)
    until(lambda: len(broker.versions) > 1)
    assert broker.most_unanswered == 3


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_memory_is_bounded_whatever_the_broker_does(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    """24 MB of packs for a slow broker: packs that do not fit are read back from the store. # field pain 46"""
    gate = threading.Semaphore(0)

    def answer(sent: Sent) -> int:
        if sent.topic.endswith("readings"):
            gate.acquire(timeout=PATIENCE_S)
        return 0

    broker = fake(answer=answer)
    at, make = outbox(), Maker(pad=60_000)
    up = uplink(at, destination(broker.port, in_flight=4), live_bytes=1 << 20)
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
    assert all(s.topic.endswith("readings") for s in packs(broker)), "all of them were recent enough to be live"


def test_a_pack_that_makes_the_broker_disconnect_is_quarantined(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    """One bad pack must not block all others. # field pain 57"""
    bad: set[bytes] = set()
    broker = fake(answer=lambda sent: HANG_UP if sent.payload in bad else 0)
    at, make = outbox(), Maker()
    bad.add(fresh(make).data)
    up = uplink(at, destination(broker.port))
    at.commit(*make.made, *(fresh(make) for _ in range(20)))
    until(lambda: at.pending() == 1)
    assert up.state().set_aside == 1
    assert {s.payload for s in packs(broker)} - bad == {p.data for p in make.made[1:]}
    assert len([s for s in packs(broker) if s.payload in bad]) <= 5
    until(lambda: up.state().connected)


def test_mosquitto_that_disconnects_at_large_packs_gets_all_others_and_status_names_the_topic(
    broker: Broker, listen: Callable[..., Listener], outbox: Outboxes, uplink: Uplinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With MQTT 3.1.1, mosquitto closes the connection at a packet above its limit, and tells no reason."""
    monkeypatch.setattr("agent.uplink.uplink.V5", V311)
    port = broker("max_packet_size 3000").port
    heard, at = listen(port, v5=False), outbox()
    large, small = Maker("park7/gw01/inv1", pad=5000), Maker("park7/gw01/inv2")
    up = uplink(at, destination(port))

    for _ in range(10):
        at.commit(fresh(large), fresh(small))

    until(lambda: set(heard.seqs("inv2")) == set(range(1, 11)), "the other stream")
    until(lambda: "disconnects" in str((state := up.state()).error) and f"{BASE}/inv1/" in str(state.hint))
    until(lambda: up.state().set_aside)
    assert not heard.seqs("inv1") and at.pending() == 10


def test_the_log_reports_a_recovery_while_a_pack_is_quarantined(
    fake: Fake, outbox: Outboxes, uplink: Uplinks, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The episode never ended, so the log showed only the first of all later outages and no recovery."""
    monkeypatch.setattr(errors, "CLEAR_S", 0.0)
    bad: set[bytes] = set()
    broker = fake(answer=lambda sent: errors.BAD_FORMAT if sent.payload in bad else 0)
    at, make = outbox(), Maker()
    pack = fresh(make)
    bad.add(pack.data)
    up = uplink(at, destination(broker.port))
    with caplog.at_level(logging.INFO, "meterhouse.uplink"):
        at.commit(pack)
        until(lambda: up.retain("wake", b"{}") or "recovered" in caplog.text)
    state = up.state()
    assert (state.set_aside, state.error) == (1, "broker rejected the payload format of a pack"), (
        "status still reports it"
    )


def test_the_state_changes_when_a_connection_with_a_fault_ends(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    """While the broker could not be reached, ``since`` was still the time of the last connection.

    The log then gave that connection's age as the length of the outage.
    """
    broker = fake(answer=lambda sent: errors.NO_SUBSCRIBERS if sent.topic.endswith("/readings") else 0)
    at, make = outbox(), Maker()
    up = uplink(at, destination(broker.port))
    until(lambda: up.state().connected)
    at.commit(fresh(make))
    until(lambda: up.state().error)
    broker.server.shutdown(socket.SHUT_RDWR)  # no further connection
    ends = time.time()
    broker.peers[0].shutdown(socket.SHUT_RDWR)
    until(lambda: not up.state().connected)
    assert ends <= up.state().since <= time.time()


def test_a_refused_subscription_to_acks_is_a_fault_as_long_as_the_connection_lasts(
    fake: Fake, outbox: Outboxes, uplink: Uplinks
) -> None:
    """The state was without fault, and only a line in the log told why no pack was ever confirmed."""
    broker, at, make = fake(suback=0x87), outbox(), Maker()
    up = uplink(at, destination(broker.port, confirm="platform"))
    until(lambda: up.state().error)
    at.commit(fresh(make))
    until(lambda: up.state().confirmed)
    assert f"subscribe to {BASE}/ack" in str(up.state().error), "an accepted pack does not end the fault"
    broker.suback = 1
    broker.peers[0].shutdown(socket.SHUT_RDWR)
    until(lambda: up.state().connects == 2 and up.state().error is None)


def test_a_retained_message_that_is_too_large_for_the_broker_is_a_fault(
    fake: Fake, outbox: Outboxes, uplink: Uplinks, caplog: pytest.LogCaptureFixture
) -> None:
    """It was left out without a word, and verifiers waited for the keys."""
    broker, at, make = fake(properties=b"\x27" + (2000).to_bytes(4)), outbox(), Maker()
    what, topic = "retained message too large for the broker", f"{BASE}/keys"
    with caplog.at_level(logging.WARNING, "meterhouse.uplink"):
        up = uplink(at, destination(broker.port), keys=bytes(2001))
        at.commit(fresh(make))
        until(lambda: at.pending() == 0 and up.state().error)
    assert up.state().error == what and topic in str(up.state().hint)
    assert what in caplog.text and topic in caplog.text
    assert topic not in {sent.topic for sent in broker.heard}
    up.retain("keys", b"{}")
    until(lambda: up.state().error is None)
    assert b"{}" in [sent.payload for sent in broker.heard if sent.topic == topic]


@pytest.mark.parametrize("code", [0x97, 0x80, 0x83])
def test_a_quota_pauses_everything_until_the_broker_accepts_a_pack(
    fake: Fake, outbox: Outboxes, uplink: Uplinks, code: int
) -> None:
    left = {"no": 3}

    def answer(sent: Sent) -> int:
        if sent.topic.endswith(("readings", "backfill")) and left["no"]:
            left["no"] -= 1
            return code
        return 0

    broker, at, make = fake(answer=answer), outbox(), Maker()
    up = uplink(at, destination(broker.port, in_flight=3))
    at.commit(*(fresh(make) for _ in range(10)))
    until(lambda: at.pending() == 0)
    assert up.state().refused == 3
    until(lambda: up.state().error is None)


def test_wrong_credentials_and_files_are_named(
    broker: Broker, outbox: Outboxes, uplink: Uplinks, tmp_path: Path
) -> None:
    passwords = tmp_path / "passwd"
    passwords.write_text("gw:$7$101$0000000000000000$" + "A" * 86 + "==\n")
    passwords.chmod(0o600)
    port = broker("allow_anonymous false", f"password_file {passwords}").port
    at = outbox()
    up = uplink(at, destination(port, username="gw", password=password(tmp_path, "wrong\n")))
    until(lambda: up.state().error)
    # mosquitto answers "not authorized" to a wrong password
    assert "not authorized" in str(up.state().error) or "password" in str(up.state().error)
    other = uplink(at, destination(port, tls=True, ca_file=tmp_path / "none.pem"))
    until(lambda: other.state().error)
    assert "cannot load the TLS files" in str(other.state().error) and "PEM" in str(other.state().hint)


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


def test_a_wrong_address_is_explained(fake: Fake, outbox: Outboxes, uplink: Uplinks, broker: Broker) -> None:
    at = outbox()

    def error_of(to: UplinkConfig) -> str:
        up = uplink(at, to)
        until(lambda: up.state().error)
        found = f"{up.state().error} | {up.state().hint}"
        up.stop(PATIENCE_S)
        return found

    assert "nothing listens on this port | Is" in error_of(destination(fake(absent=True).port))
    found = error_of(destination(1883, host="no-such-host.invalid"))
    assert "host name not found" in found or "DNS server" in found
    found = error_of(destination(broker().port, tls=True))
    assert "does not use TLS" in found or "does only one side use TLS" in found
    port, close = listen_and(lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    assert error_of(destination(port))
    close()


def ended(up: Uplink) -> bool:
    """Has its thread ended?"""
    return not any(thread.name == f"uplink {up.name}" for thread in threading.enumerate())


@pytest.mark.parametrize("deadline_s", [1.1, 3.0])
def test_stopping_is_bounded_when_the_broker_hangs(
    fake: Fake, outbox: Outboxes, uplink: Uplinks, deadline_s: float
) -> None:
    broker, at, make = fake(answer=lambda sent: SILENT), outbox(), Maker()
    up = uplink(at, destination(broker.port), ack_timeout_s=NEVER_S)
    until(lambda: up.state().connected)
    at.commit(*(fresh(make) for _ in range(5)))
    up.stop(deadline_s)
    until(lambda: ended(up))
    assert at.pending() == 5


def pipes() -> int:
    """How many ends of pipes are open."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
    return found


def test_an_uplink_that_ends_after_its_deadline_leaves_no_descriptors(
    outbox: Outboxes, uplink: Uplinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload that replaces a destination whose network hangs does this again and again."""
    at, before, begun, hold = outbox(), pipes(), threading.Event(), threading.Event()

    def hang(up: Uplink) -> None:
        begun.set()
        hold.wait(PATIENCE_S)

    monkeypatch.setattr(Uplink, "_connect_and_serve", hang)
    up = uplink(at, destination(1883))
    assert begun.wait(PATIENCE_S)
    up.stop(0.0)
    late = not ended(up)
    hold.set()
    until(lambda: ended(up))
    assert late and pipes() == before


def test_a_destination_that_was_prepared_in_vain_has_ended_however_slow_the_machine(
    outbox: Outboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine its thread was still there after a rejected reload, and its pipe for ever."""
    real, hold, before = threading.Thread.join, threading.Event(), pipes()

    def slow(up: Uplink) -> None:
        hold.wait(PATIENCE_S)  # only who waits without a limit sees its end

    def join(thread: threading.Thread, timeout: float | None = None) -> None:
        if timeout is None:
            hold.set()
        real(thread, timeout)

    up = Uplink(destination(1883), site="park7", gateway="gw01", outbox=outbox(), keys=b'{"v":1}', version="0.1",
                pack_every_ms=1000)  # fmt: skip
    monkeypatch.setattr(up, "_thread", threading.Thread(target=lambda: (slow(up), up._run()), name=f"uplink {up.name}"))
    monkeypatch.setattr(threading.Thread, "join", join)
    up.prepare()
    up.stop(0.0)
    there = not ended(up)
    hold.set()
    until(lambda: ended(up))
    assert not there and pipes() == before


def test_stopping_does_not_wait_for_the_next_attempt(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    up = uplink(outbox(), destination(fake(connack=0x88).port), retry_s=NEVER_S)
    until(lambda: up.state().error)
    up.stop(PATIENCE_S)
    assert ended(up)


def test_stopping_does_not_wait_for_connack(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    broker = fake(mute=True)
    up = uplink(outbox(), destination(broker.port), connect_s=NEVER_S)
    until(lambda: broker.peers)
    up.stop(PATIENCE_S)
    assert ended(up)


def test_a_server_that_sends_no_connack_is_disconnected(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    broker = fake(mute=True)
    up = uplink(outbox(), destination(broker.port), connect_s=0.2)
    until(lambda: up.state().error)
    assert "no MQTT broker answers" in str(up.state().error) and "port" in str(up.state().hint)
    until(lambda: len(broker.peers) > 1, "the agent retries")


def test_an_internal_error_does_not_end_the_thread(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    broker, at, make = fake(), outbox(), Maker()
    up = uplink(at, destination(broker.port), retry_s=0.01)
    until(lambda: up.state().connected)
    working, at.confirm = at.confirm, lambda *args: 1 / 0  # type: ignore[method-assign]
    at.commit(fresh(make))
    until(lambda: "internal error" in str(up.state().error))
    at.confirm = working  # type: ignore[method-assign]
    until(lambda: at.pending() == 0)
    until(lambda: up.state().connected)


def test_a_flood_of_wrong_acks_is_logged_once_a_minute(
    broker: Broker, listen: Callable[..., Listener], outbox: Outboxes, uplink: Uplinks, caplog: pytest.LogCaptureFixture
) -> None:
    """A platform that sends wrong acks as fast as it can: live packs continue, and nothing accumulates."""
    port, at, make = broker().port, outbox(), Maker()
    up = uplink(at, destination(port, confirm="platform"))
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
        until(lambda: up.state().confirmed == 20, "live packs continue")
    hang_up(client)
    lines = [r.getMessage() for r in caplog.records if "ack" in r.getMessage()]
    assert len(lines) == 1, lines
    assert at.pending() == 20, "nothing is confirmed"


@pytest.mark.parametrize(("configured", "live", "rate"), [(0, 0.2, 200.0), (0, 40.0, 1000.0), (30, 40.0, 30.0)])
def test_the_backlog_rate_is_at_least_25_times_the_live_rate(configured: int, live: float, rate: float) -> None:
    """However many devices there are, unless another rate is configured."""
    assert backlog_rate(configured, live) == rate
