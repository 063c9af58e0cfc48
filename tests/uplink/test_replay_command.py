"""`meterhouse replay` against a real broker, uplink and store."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli.main import outcome
from agent.uplink import Uplink
from tests.kits.delivery import BASE, PATIENCE_S, Mosquitto, StoreOutbox, destination, fresh, until
from tests.kits.fake_broker import FakeBroker, publish
from tests.kits.packs import Maker

STREAM = "park7/gw01/inv1"


@pytest.mark.parametrize("compress", ["", "zstd"])
def test_the_platform_gets_the_packs_that_it_requests(
    broker: Callable[..., Mosquitto],
    outbox: Callable[..., StoreOutbox],
    uplink: Callable[..., Uplink],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    compress: str,
) -> None:
    port = broker().port
    at, make = outbox(), Maker()
    up = uplink(at, destination(port, confirm="broker", compress=compress))
    at.commit(fresh(make, birth=True), *(fresh(make) for _ in range(39)))
    until(lambda: up.state().connected and at.pending() == 0)
    url, out = f"mqtt://127.0.0.1:{port}", tmp_path / "again.jsonl"
    assert outcome(["replay", STREAM, "--broker", url, "--first", "11", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packs"] == 30
    assert out.read_bytes().splitlines() == [p.data for p in make.made[10:]]
    assert outcome(["replay", STREAM, "--broker", url, "--first", "99"]) == 6
    assert "no pack was sealed after sequence number 40" in capsys.readouterr().out
    assert outcome(["replay", "park7/gw02/inv1", "--broker", url]) == 5
    assert "no gateway with this name is subscribed" in capsys.readouterr().err
    assert outcome(["replay", STREAM, "--broker", url, "--out", str(tmp_path / "no" / "file")]) == 2
    assert outcome(["replay", "inv1", "--broker", url]) == 2


def test_a_refusal_of_the_broker_is_reported_at_once(
    broker: Callable[..., Mosquitto], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "acl"
    rules.write_text("topic read meterhouse/#\n")
    url = f"mqtt://127.0.0.1:{broker(f'acl_file {rules}').port}"
    assert outcome(["replay", STREAM, "--broker", url]) == 5
    assert "refuses the request: Not authorized" in capsys.readouterr().err
    url = f"mqtt://127.0.0.1:{broker('allow_anonymous false').port}"
    assert outcome(["replay", STREAM, "--broker", url]) == 5
    assert "refuses: Not authorized" in capsys.readouterr().err


@pytest.mark.parametrize("hang_up", [True, False])
def test_a_broker_that_only_speaks_3_1_1(hang_up: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """It refuses level 5 with return code 1 or by a disconnect; the gateway's reply arrives in 3.1.1."""
    levels: list[int] = []

    def serve(server: socket.socket) -> None:
        while 4 not in levels:
            peer, _ = server.accept()
            with peer, contextlib.suppress(OSError):  # the client may be gone
                connect = peer.recv(4096)
                levels.append(connect[8])
                if levels[-1] == 5:
                    peer.sendall(b"" if hang_up else b"\x20\x02\x00\x01")
                    continue
                peer.sendall(b"\x20\x02\x00\x00")
                subscribe = peer.recv(4096)
                peer.sendall(b"\x90\x04" + subscribe[2:4] + b"\x01\x01")
                name = peer.recv(4096).partition(b'"id": "')[2][:16].decode()
                done = json.dumps({"id": name, "stream": STREAM, "verdict": "done"}).encode()
                peer.sendall(publish(f"{BASE}/replay/reply", done, 4, 0x30))
                while peer.recv(4096):
                    continue

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        assert outcome(["replay", STREAM, "--broker", url, "--json"]) == 0
        thread.join(PATIENCE_S)
    assert levels == [5, 4] and json.loads(capsys.readouterr().out)["packs"] == 0


def test_a_gateway_that_does_not_reply(fake: Callable[..., FakeBroker], capsys: pytest.CaptureFixture[str]) -> None:
    broker = fake()
    assert outcome(["replay", STREAM, "--broker", f"mqtt://127.0.0.1:{broker.port}", "--for", "200 ms"]) == 5
    assert "no answer from the gateway for 0.2 s" in capsys.readouterr().err


def test_a_password_in_the_url_is_refused_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """As in the configuration. It would be visible in the list of processes."""
    for command in (["replay", STREAM], ["verify"]):
        assert outcome([*command, "--broker", "mqtt://platform:s3cret@127.0.0.1:1"]) == 2
        said = "".join(capsys.readouterr())
        assert "must not contain a user name or password" in said and "s3cret" not in said and "--password-file" in said


def test_a_password_file_that_is_no_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ended in an internal error, with the request to send us the output."""
    file = tmp_path / "password"
    file.write_bytes(b"s3cret\xff\n")
    for command in (["replay", STREAM], ["verify"]):
        assert outcome([*command, "--broker", "mqtt://127.0.0.1:1", "--password-file", str(file)]) == 2
        said = capsys.readouterr().err
        assert f"--password-file {file}: the file is not text in UTF-8 (byte 7 " in said and "s3cret" not in said


class Sender(threading.Thread):
    """Accepts a subscription in MQTT 5, sends the given packets, and reads on."""

    def __init__(self, packets: Callable[[str], list[bytes]]) -> None:
        super().__init__(daemon=True)
        self._packets = packets
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"
        self.sent = 0

    def run(self) -> None:
        with self._server, contextlib.suppress(OSError):
            peer, _ = self._server.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"\x20\x03\x00\x00\x00")
                subscribe = peer.recv(4096)
                peer.sendall(b"\x90\x05" + subscribe[2:4] + b"\x00\x01\x01")
                asked = peer.recv(4096)
                for packet in self._packets(asked.partition(b'"id": "')[2][:16].decode()):
                    peer.sendall(packet)
                    self.sent += len(packet)
                while peer.recv(4096):
                    continue


def published(topic: str, payload: bytes, first: int = 0x30) -> bytes:
    return publish(topic, payload, 5, first)


def test_a_hostile_broker_cannot_harm_the_replay_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Deeply nested replies, retained and foreign messages are ignored; a packet that is too large ends the command."""
    reply = f"{BASE}/replay/reply"

    def harmless(name: str) -> list[bytes]:
        done = json.dumps({"id": name, "stream": STREAM, "verdict": "done"}).encode()
        return [
            published(reply, b"[" * 60_000),
            published(reply, b'{"id":' * 10_000),
            published(reply, b"[" + b"[]," * 20_000),
            published(reply, done, 0x31),
            published("meterhouse/v1/park7/gw01/inv2/backfill", b"x"),
            published(f"meterhouse/v1/{STREAM}/backfill", b"pack"),
            published(reply, done),
        ]

    sender = Sender(harmless)
    sender.start()
    assert outcome(["replay", STREAM, "--broker", sender.url, "--json"]) == 0
    sender.join(PATIENCE_S)
    assert json.loads(capsys.readouterr().out)["packs"] == 1
    for packet, said in ((b"\x30\xff\xff\xff\x7f" + bytes(1 << 20), "268,435,455 bytes"), (b"\x34\x09", "QoS 2")):
        sender = Sender(lambda name, packet=packet: [packet])
        sender.start()
        assert outcome(["replay", STREAM, "--broker", sender.url]) == 5
        sender.join(PATIENCE_S)
        assert said in capsys.readouterr().err


def test_the_queue_of_replies_is_bounded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.replay.MAX_REPLIES", 5)
    reply = f"{BASE}/replay/reply"

    def endless(name: str) -> list[bytes]:
        said = json.dumps({"id": name, "stream": STREAM, "verdict": "expired"}).encode()
        return [published(reply, said) for _ in range(9)]

    sender = Sender(endless)
    sender.start()
    assert outcome(["replay", STREAM, "--broker", sender.url]) == 5
    sender.join(PATIENCE_S)
    assert "the broker sent more packs than were requested" in capsys.readouterr().err
