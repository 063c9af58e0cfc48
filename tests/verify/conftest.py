"""A real broker for the verifier's tests."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kits.broker import free_port
from tests.kits.delivery import PATIENCE_S, Mosquitto


class Broker(Mosquitto):
    """A broker and its address."""

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"


def needs_mosquitto() -> None:
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here: apt-get install mosquitto")


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """``make_broker(*config lines)`` starts one."""
    needs_mosquitto()
    made: list[Broker] = []

    def make(*lines: str) -> Broker:
        made.append(Broker(tmp_path, free_port(), *lines))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    return make_broker()


@pytest.fixture(scope="module")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """For tests that retain nothing on it."""
    needs_mosquitto()
    made = Broker(tmp_path_factory.mktemp("broker"), free_port())
    made.start()
    yield made
    made.stop()


@pytest.fixture
def unruly() -> Iterator[Callable[[int, bytes], str]]:
    """``unruly(version, packet)``: url of a broker that sends it once after a subscription; by MQTT 5, or 4: 3.1.1."""
    servers: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(server: socket.socket, version: int, packets: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = server.accept()
                with peer, contextlib.suppress(OSError):
                    level = peer.recv(4096)[8]
                    if level > version:
                        peer.sendall(b"\x20\x02\x00\x01")
                        continue
                    peer.sendall(b"\x20\x03\x00\x00\x00" if level == 5 else b"\x20\x02\x00\x00")
                    asked = peer.recv(4096)
                    peer.sendall(
                        b"\x90" + (b"\x04" if level == 5 else b"\x03") + asked[2:4] + b"\x00\x01"[level == 4 :]
                    )
                    if packets:
                        peer.sendall(packets.pop())
                    while peer.recv(4096):
                        continue

    def start(version: int, packet: bytes) -> str:
        servers.append(socket.create_server(("127.0.0.1", 0)))
        threads.append(threading.Thread(target=serve, args=(servers[-1], version, [packet]), daemon=True))
        threads[-1].start()
        return f"mqtt://127.0.0.1:{servers[-1].getsockname()[1]}"

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    for thread in threads:
        thread.join(PATIENCE_S)
