"""A broker that misbehaves on demand: it answers each PUBLISH as requested, or not at all. MQTT 5 or only 3.1.1."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

HANG_UP = -1
SILENT = None
JOIN_S = 45.0  # no thread takes this long to end


@dataclass
class Sent:
    """A PUBLISH that came in."""

    connection: int
    packet: int
    topic: str
    payload: bytes
    retain: bool


def length(size: int) -> bytes:
    """A length in the encoding of MQTT packets."""
    made = bytearray()
    while True:
        size, byte = divmod(size, 128)
        made.append(byte | (128 if size else 0))
        if not size:
            return bytes(made)


def publish(topic: str, payload: bytes, version: int, first: int = 0x32, size: int | None = None) -> bytes:
    """A PUBLISH as a broker sends it. ``size``: the length that it states; None: its real length."""
    name = topic.encode()
    body = struct.pack(">H", len(name)) + name + (struct.pack(">H", 7) if first & 6 else b"")
    body += (b"\0" if version > 4 else b"") + payload
    return bytes([first]) + length(len(body) if size is None else size) + body


@dataclass
class FakeBroker:
    """``answer(sent)``: a reason code, SILENT, or HANG_UP. ``properties``: bytes of CONNACK properties (MQTT 5).

    ``absent``: nothing listens on its port until ``listen`` is called. Meanwhile no other program gets the port.
    """

    answer: Callable[[Sent], int | None] = lambda sent: 0
    properties: bytes = b""
    only_v311: bool = False
    connack: int = 0
    suback: int = 1  # the granted QoS, or a reason code
    mute: bool = False  # accepts connections, but sends nothing
    absent: bool = False
    then: Callable[[socket.socket, int], None] = lambda sock, version: None  # called after each SUBACK
    connects: list[bytes] = field(default_factory=list)  # bodies of CONNECT
    subscribes: list[bytes] = field(default_factory=list)
    goodbyes: list[bytes] = field(default_factory=list)  # bodies of DISCONNECT
    heard: list[Sent] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    most_unanswered: int = 0

    def __post_init__(self) -> None:
        self.server = socket.socket()
        self.server.bind(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.peers: list[socket.socket] = []  # the sockets of all connections, in order
        self._threads: list[threading.Thread] = []
        if not self.absent:
            self.listen()

    def listen(self) -> None:
        """Accept connections from now on."""
        self.server.listen()
        self._threads.append(threading.Thread(target=self._accept))
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.server.accept()
            except OSError:
                return
            self.peers.append(sock)
            worker = threading.Thread(target=self._serve, args=(sock, len(self.peers)))
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
                        sock.sendall(b"\x20\x02\x00\x01")  # in MQTT 3.1.1: unacceptable protocol version
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
                    suback = body[:2] + (b"\x00" if version > 4 else b"") + bytes([self.suback])
                    sock.sendall(b"\x90" + bytes([len(suback)]) + suback)
                    self.subscribes.append(body)
                    self.then(sock, version)
                elif kind >> 4 == 12:
                    sock.sendall(b"\xd0\x00")
                elif kind >> 4 == 14:
                    self.goodbyes.append(body)
                    return

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)  # ends accept; close alone would not
        self.server.close()
        if self._threads:
            self._threads[0].join(JOIN_S)  # after this, no connection is accepted
        for sock in self.peers:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(JOIN_S)


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
