"""MBAP frames over TCP, and RTU bytes over raw TCP. One port serves any number of unit ids and connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Literal, cast

from drivers.model import LineDown
from drivers.registry import own_schemes
from drivers.sim.bus import BITS_A_CHARACTER, Bus, quiet_s
from drivers.sim.device import SimAnswer
from drivers.sim.framing import Framing, MbapFraming

SCHEMES = {"mbap": own_schemes()[0].name, "rtu": "tcp"}


class _Connection(asyncio.Protocol):
    """One client. Answers with a delay are scheduled, so a late answer does not delay the others."""

    def __init__(self, line: TcpLine) -> None:
        self._line = line
        self._framing: Framing = MbapFraming() if line.framing == "mbap" else line.bus.framing()
        self._transport: asyncio.Transport | None = None
        self._timers: set[asyncio.TimerHandle] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        line = self._line
        if line.max_clients is not None and len(line.clients) >= line.max_clients:
            line.refused += 1
            self._transport.abort()
            return
        line.accepted += 1
        line.clients.add(self)
        line.idle.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self._line.clients.discard(self)
        if not self._line.clients:
            self._line.idle.set()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        for request in self._framing.feed(data):
            answer = self._line.bus.answer(request, self._framing)
            if answer is not None and self._transport is not None:
                self._deliver(answer, len(request.frame))

    def _deliver(self, answer: SimAnswer, asked: int) -> None:
        if answer.end:
            self.end(reset=answer.end == "reset")
            return
        if answer.echo:
            self.write(answer.echo)
        if answer.baud and self._line.baud is not None:
            self._line.deliver_at(answer, asked, self._after)
            return
        delay = self._line.reserve(answer.delay_s, asked, len(answer.frame))
        if answer.bytewise_s is not None:
            for n in range(len(answer.frame)):
                self._after(delay + n * answer.bytewise_s, answer.frame[n : n + 1])
        elif delay > 0:
            self._after(delay, answer.frame)
        else:
            self.write(answer.frame)

    def _after(self, delay_s: float, chunk: bytes) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            self.write(chunk)

        timer = asyncio.get_running_loop().call_later(delay_s, fire)
        self._timers.add(timer)

    def write(self, chunk: bytes) -> None:
        """Send bytes without delay."""
        if chunk and self._transport is not None:
            self._line.bus.sent(chunk)
            self._transport.write(chunk)

    def end(self, *, reset: bool) -> None:
        """Close the connection, or reset it, so that the peer gets ECONNRESET."""
        if self._transport is None:
            return
        if reset:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()


class TcpLine:
    """A listening port. ``framing``: "mbap" for MBAP frames, "rtu" for raw bytes as a serial server passes them.

    With ``baud`` the line is a gateway to a bus. Only one exchange runs at a time, and it takes as long as its bytes
    need on the bus.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        framing: Literal["mbap", "rtu"] = "mbap",
        baud: int | None = None,
        max_clients: int | None = None,
    ) -> None:
        self.bus, self.host, self.port, self.framing, self.baud = bus, host, port, framing, baud
        self.max_clients = max_clients
        self.clients: set[_Connection] = set()
        self.idle = asyncio.Event()  # set while no client is connected
        self.accepted = 0
        self.refused = 0
        self._server: asyncio.Server | None = None
        self._bus_free = 0.0

    @property
    def url(self) -> str:
        """The url of the line, as in the agent's configuration. If the port is 0, ``start`` replaces it with the real
        port.
        """
        return f"{SCHEMES[self.framing]}://{self.host}:{self.port}"

    def reserve(self, delay_s: float, asked: int, answered: int) -> float:
        """Reserve the bus behind a gateway for one exchange. Returns the seconds until the answer of this exchange is
        complete.
        """
        if self.baud is None:
            return delay_s
        now = asyncio.get_running_loop().time()
        start, quiet = max(now, self._bus_free), quiet_s(self.baud)
        # RTU adds 3 bytes to a PDU, and MBAP adds 7, both to the request and to the answer
        wire = asked + answered - (8 if self.framing == "mbap" else 0)
        done = start + wire * BITS_A_CHARACTER / self.baud + max(delay_s, quiet)
        self._bus_free = done + quiet
        return done - now

    def deliver_at(self, answer: SimAnswer, asked: int, after: Callable[[float, bytes], None]) -> None:
        """Schedule each byte of an answer for the time at which it is complete, at the speed of the answer."""
        byte_s = BITS_A_CHARACTER / answer.baud
        begin = asked * BITS_A_CHARACTER / self.asked_at() + max(answer.delay_s, quiet_s(answer.baud))
        for n in range(len(answer.frame)):
            after(begin + (n + 1) * byte_s, answer.frame[n : n + 1])

    def asked_at(self) -> int:
        """The speed at which requests are sent on the bus, in baud."""
        return self.baud or BITS_A_CHARACTER

    async def start(self) -> None:
        """Start to listen. Raises LineDown if the port is already used."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: _Connection(self), self.host, self.port, backlog=512)
        except OSError as error:
            raise LineDown(
                error.strerror or str(error), where=f"{self.host}:{self.port}", hint="Port 0 selects any free port"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def serve(self, sock: socket.socket) -> None:
        """Serve one more client, which uses the other end of a connected stream socket. The socket may be of any
        family.
        """
        await asyncio.get_running_loop().connect_accepted_socket(lambda: _Connection(self), sock)

    async def stop(self) -> None:
        """Close the port and all connections."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for client in list(self.clients):
            client.end(reset=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                if self.clients:
                    await self.idle.wait()
                if server is not None:
                    await server.wait_closed()

    def say(self, frame: bytes) -> None:
        """Send a frame to all clients without a request."""
        for client in self.clients:
            client.write(frame)

    async def unplug(self) -> None:
        """Stop listening and reset all connections. The port number is kept."""
        await self.stop()

    async def plug(self) -> None:
        """Listen on the same port again."""
        if self._server is None:
            await self.start()
