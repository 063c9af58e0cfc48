"""A proxy before a broker. It can stall or slow down a connection, swallow its bytes, or reset it within a packet."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time

from tests.kits.house import Field, free_port

PIECE = 65_536


class Tap:
    """A TCP proxy on its own port. It runs in the loop of the simulated field.

    Modes:
    - ``pass`` forwards all bytes.
    - ``hold`` accepts bytes, but forwards none until the mode changes (a link that stalls).
    - ``swallow`` accepts bytes, but forwards none and sends none (a black hole). When the mode changes, each connection
      with swallowed bytes is reset.
    - ``refuse`` resets each connection at once.

    ``rate``: bytes per second in each direction. ``tears``: how many connections are reset in the middle of a packet,
    after ``tear_after`` bytes.
    """

    def __init__(self, field: Field, target: int, mode: str = "pass", rate: float = 0.0, tears: int = 0) -> None:
        self.port, self.target, self.rate = free_port(), target, rate
        self.tears, self.tear_after = tears, 1500
        self.connects: list[float] = []  # monotonic seconds
        self.up_bytes = 0
        self._mode, self._field = mode, field
        self._open: dict[asyncio.StreamWriter, bool] = {}  # connection -> whether bytes of it were swallowed
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._server = field.do(self._listen())

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def mode(self) -> str:
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._field.do(self._set(mode))

    async def _set(self, mode: str) -> None:
        self._mode = mode
        for writer, swallowed in list(self._open.items()):
            if swallowed or mode == "refuse":
                tear(writer)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects.append(time.monotonic())
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self._open[writer] = False
        far: asyncio.StreamWriter | None = None
        try:
            if self._mode == "refuse":
                tear(writer)
                return
            if self._mode == "swallow":
                await self._pump(reader, writer, writer, True)
                return
            back, far = await asyncio.open_connection("127.0.0.1", self.target)
            down = asyncio.create_task(self._pump(back, writer, writer, False))
            await self._pump(reader, far, writer, True)
            await down
        except (OSError, asyncio.CancelledError):
            return
        finally:
            for end in (writer, far):
                if end is not None:
                    end.close()
            self._open.pop(writer, None)
            self._tasks.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, near: asyncio.StreamWriter, up: bool
    ) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(max(64, int(self.rate / 20)) if self.rate else PIECE):
                while self._mode == "hold":
                    await self._changed.wait()
                if self._mode == "swallow":
                    self._open[near] = True
                    continue
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
                if up and self.tears and (sent := sent + len(data)) > self.tear_after:
                    self.tears -= 1
                    to.write(data[: len(data) // 2])
                    await to.drain()
                    tear(near)
                    break
                if up:
                    self.up_bytes += len(data)
                to.write(data)
                await to.drain()
            if to.can_write_eof():
                to.write_eof()

    def close(self) -> None:
        self._field.do(self._end())

    async def _end(self) -> None:
        self._server.close()
        for writer in list(self._open):
            tear(writer)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def tear(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
