"""A broker that misbehaves on demand: answers each PUBLISH as told, or not at all. MQTT 5 or only 3.1.1."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

HANG_UP = -1
SILENT = None


@dataclass
class Sent:
    """A PUBLISH that came in."""

    connection: int
    packet: int
    topic: str
    payload: bytes
    retain: bool


@dataclass
class FakeBroker:
    """``answer(sent)``: a reason code, SILENT, or HANG_UP. ``properties``: bytes of CONNACK properties (MQTT 5)."""

    answer: Callable[[Sent], int | None] = lambda sent: 0
    properties: bytes = b""
    only_v311: bool = False
    connack: int = 0
    mute: bool = False  # accepts connections and says nothing
    then: Callable[[socket.socket, int], None] = lambda sock, version: None  # called after each SUBACK
    connects: list[bytes] = field(default_factory=list)  # bodies of CONNECT
    subscribes: list[bytes] = field(default_factory=list)
    goodbyes: list[bytes] = field(default_factory=list)  # bodies of DISCONNECT
    heard: list[Sent] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    most_unanswered: int = 0

    def __post_init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            self._open.append(sock)
            worker = threading.Thread(target=self._serve, args=(sock, len(self._open)))
            self._threads.append(worker)
            worker.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, EOFError), sock, sock.makefile("rb") as stream:
            unanswered = 0
            version = 0
            while True:
                kind, body = _packet(stream)
                if self.mute:
                    continue
                if kind >> 4 == 1:
                    version = body[6]
                    self.versions.append(version)
                    self.connects.append(body)
                    if self.only_v311 and version > 4:
                        sock.sendall(b"\x20\x02\x00\x01")  # as 3.1.1 says: unacceptable protocol version
                        return
                    tail = bytes([len(self.properties)]) + self.properties if version > 4 else b""
                    sock.sendall(bytes([0x20, 2 + len(tail), 0, self.connack]) + tail)
                    if self.connack:
                        return
                elif kind >> 4 == 3:
                    (length,) = struct.unpack(">H", body[:2])
                    topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
                    (packet,) = struct.unpack(">H", rest[:2])
                    payload = rest[3 + rest[2] :] if version > 4 else rest[2:]
                    sent = Sent(number, packet, topic, payload, bool(kind & 1))
                    self.heard.append(sent)
                    code = self.answer(sent)
                    if code == HANG_UP:
                        return
                    if code is None:
                        unanswered += 1
                        self.most_unanswered = max(self.most_unanswered, unanswered)
                        continue
                    body = struct.pack(">H", packet) + (bytes([code]) if version > 4 and code else b"")
                    sock.sendall(bytes([0x40, len(body)]) + body)
                elif kind >> 4 == 8:
                    suback = body[:2] + (b"\x00\x01" if version > 4 else b"\x01")
                    sock.sendall(b"\x90" + bytes([len(suback)]) + suback)
                    self.subscribes.append(body)
                    self.then(sock, version)
                elif kind >> 4 == 12:
                    sock.sendall(b"\xd0\x00")
                elif kind >> 4 == 14:
                    self.goodbyes.append(body)
                    return

    def close(self) -> None:
        self._server.close()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
            pass
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)


def _packet(stream: object) -> tuple[int, bytes]:
    def read(count: int) -> bytes:
        found: bytes = stream.read(count)  # type: ignore[attr-defined]
        if len(found) < count:
            raise EOFError
        return found

    kind, length, shift = read(1)[0], 0, 0
    while True:
        byte = read(1)[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return kind, read(length)
