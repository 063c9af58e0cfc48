"""A control server with an event loop in its own thread, and clients that misbehave."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from agent.cli.control import ControlClient
from agent.service.control import server as server_module
from agent.service.control.frames import FrameKind
from agent.service.control.peer import Caller, Right
from agent.service.control.protocol import Export, Request
from agent.service.control.server import ControlServer
from agent.service.runtime_dir import instance_lock
from drivers.model import no_progress
from tests.kits.broker import DEADLINE_S

T = TypeVar("T")
GROUP = "no-such-group-here"
ASK = Export(from_ms=0, to_ms=1)  # the tests themselves answer requests of this kind


class StubAccess:
    """Access for requests without an agent. It has only the parts of an agent that ``service`` has."""

    def __init__(self, caller: Caller, service: Any) -> None:
        self.caller, self.service = caller, service
        self.config: Any = None if service is None else service.config

    async def call(self, function: Callable[[Any], T]) -> T:
        return function(None)

    async def compute(self, function: Callable[[], T]) -> T:
        return function()


class Served:
    """A control server as an agent has it, with ``StubAccess`` instead of the agent."""

    def __init__(self, folder: Path, service: Any = None, loops: Callable[[], asyncio.AbstractEventLoop] | None = None):
        self.runtime, self.service = folder / "run", service
        self.state = folder / "state"
        self.loop = (loops or asyncio.new_event_loop)()
        self.callers: list[tuple[Caller, Right]] = []
        self.error: BaseException | None = None
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control server")

    def _access(self, caller: Caller, right: Right) -> StubAccess:
        self.callers.append((caller, right))
        return StubAccess(caller, self.service)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            with instance_lock(self.state, self.runtime):
                self.server = ControlServer(self._access, self.runtime, lambda: GROUP)
                with self.server:
                    self._task = self.loop.create_task(self.server.run())
                    self._up.set()
                    with suppress(asyncio.CancelledError):
                        self.loop.run_until_complete(self._task)
        except BaseException as error:  # noqa: BLE001 - ``__exit__`` checks it
            self.error = error
        finally:
            self._up.set()
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._up.wait(DEADLINE_S)
        assert self.error is None, self.error
        return self

    def __exit__(self, *what: object) -> None:
        self.stop()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        assert self.error is None, self.error

    def stop(self) -> None:
        with suppress(RuntimeError):  # the loop is already closed
            self.loop.call_soon_threadsafe(self._task.cancel)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the server's loop. Returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(DEADLINE_S)

    def count(self) -> int:
        """The number of open connections."""

        async def look() -> int:
            return self.server.connections

        return self.do(look())

    # --- clients

    def client(self) -> ControlClient:
        return ControlClient.connect(self.runtime)

    def ask(self, request: Request = ASK, **more: Any) -> tuple[dict[str, Any], list[bytes]]:
        parts: list[bytes] = []
        with self.client() as client:
            return client.ask(request, parts.append, more.pop("progress", no_progress), **more), parts

    def raw(self) -> socket.socket:
        """A connection on which nothing was sent."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(DEADLINE_S)
        folder = os.open(self.runtime, os.O_PATH)
        try:
            give_up = time.monotonic() + DEADLINE_S
            while True:
                try:
                    sock.connect(f"/proc/self/fd/{folder}/control")
                    return sock
                except BlockingIOError:
                    assert time.monotonic() < give_up
                    time.sleep(0.005)
        finally:
            os.close(folder)


def rest(sock: socket.socket) -> bytes:
    """All further bytes, until the other side closes the connection."""
    found = bytearray()
    with suppress(ConnectionResetError):
        while more := sock.recv(65536):
            found += more
    return bytes(found)


def outcome(sock: socket.socket) -> FrameKind:
    """The kind of the last frame that arrives before the connection ends."""
    data, last = rest(sock), None
    while data:
        size = int.from_bytes(data[1:5], "big")
        last, data = FrameKind(data[0]), data[5 + size :]
    assert last is not None
    return last


def service(**parts: Any) -> Any:
    """A stand-in for the service, with only these parts."""
    return SimpleNamespace(**{"config": None, "lines": {}, **parts})


def answered_by(monkeypatch: Any, answer: Callable[..., Any]) -> None:
    """Let this coroutine function answer every request."""
    monkeypatch.setattr(server_module, "handler", lambda request: answer)


Body = Mapping[str, Any]
