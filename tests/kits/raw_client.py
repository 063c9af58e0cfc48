"""A Modbus client that shows every byte: no retries, no checks, no library."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
import time
from pathlib import Path

from drivers.framing import crc16
from drivers.sim.tcp import TcpLine

PATIENCE_S = 30.0  # longest wait for an expected answer


def rtu(unit: int, function: int, address: int, count: int) -> bytes:
    """An RTU read request."""
    body = struct.pack(">BBHH", unit, function, address, count)
    return body + crc16(body).to_bytes(2, "little")


def mbap(tag: int, unit: int, function: int, address: int, count: int) -> bytes:
    """A Modbus TCP read request."""
    return struct.pack(">HHHBBHH", tag, 0, 6, unit, function, address, count)


def rtu_answer(unit: int, pdu: bytes) -> bytes:
    """The frame that an honest RTU device sends."""
    return bytes([unit]) + pdu + crc16(bytes([unit]) + pdu).to_bytes(2, "little")


class TcpClient:
    """A connection to a Modbus TCP device."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> TcpClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def wired(cls, line: TcpLine) -> TcpClient:
        """Connect to a line by a socket pair, so that the line need not listen."""
        ours, theirs = socket.socketpair()
        await line.serve(theirs)
        return cls(*await asyncio.open_connection(sock=ours))

    async def ask(self, request: bytes, size: int, seconds: float = PATIENCE_S) -> bytes:
        """Send a request. Returns ``size`` bytes, or fewer if the deadline passes or the connection ends."""
        self.writer.write(request)
        return await self.read(size, seconds)

    async def read(self, size: int, seconds: float = PATIENCE_S) -> bytes:
        got = b""
        try:
            async with asyncio.timeout(seconds):
                while len(got) < size and (chunk := await self.reader.read(size - len(got))):
                    got += chunk
        except TimeoutError:
            pass
        return got

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class PtyClient:
    """A serial master on a pty. It blocks: use it in a separate thread if an event loop runs."""

    def __init__(self, link: Path) -> None:
        self.fd = os.open(link, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self.arrivals: list[tuple[float, int]] = []  # (monotonic time, number of bytes that arrived)

    def ask(self, request: bytes, size: int, seconds: float = PATIENCE_S) -> bytes:
        """Send a request. Returns ``size`` bytes, or fewer if the deadline passes or the line is gone."""
        self.arrivals = []
        os.write(self.fd, request)
        return self.read(size, seconds)

    def read(self, size: int, seconds: float = PATIENCE_S) -> bytes:
        got, deadline = b"", time.monotonic() + seconds
        while len(got) < size:
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            try:
                chunk = os.read(self.fd, size - len(got))
            except OSError:
                break
            if not chunk:
                break
            self.arrivals.append((time.monotonic(), len(chunk)))
            got += chunk
        return got

    def close(self) -> None:
        os.close(self.fd)
