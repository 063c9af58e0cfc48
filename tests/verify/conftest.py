"""A real broker for the verifier's tests."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """mosquitto on a port of its own; can be stopped and started again."""

    def __init__(self, folder: Path, extra: str = "allow_anonymous true\n") -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\n{extra}user root\nmax_inflight_messages 100\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["mosquitto", "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        self.stop()
        raise RuntimeError("mosquitto did not start")

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(5)
            self._process = None


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here")
    made: list[Broker] = []

    def make(**options: str) -> Broker:
        made.append(Broker(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    return make_broker()


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
        thread.join(5)
