"""The server of the control socket. The kernel identifies clients. Frames have a maximum size; waits have deadlines.

The socket is in the runtime directory, with mode 0660. It exists only while the agent holds the lock of this directory.
Answers are sent in pieces, as fast as the client reads them. So large answers and slow clients need little memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agent.config import Config
from agent.service.control.frames import (
    HEADER,
    MAX_REQUEST,
    SOCKET,
    FrameKind,
    ProtocolError,
    encode_error,
    encode_facts,
    frame,
    header,
    parse_header,
)
from agent.service.control.peer import AccessRules, Caller, NotAllowed, Peer, Right, gid_of, login_of, peer_of
from agent.store import Store
from drivers.model import GatewayError, clean_text
from drivers.rate_limit import RateLimitedLog

if TYPE_CHECKING:
    from agent.service.control.protocol import Access, Handler, Request

T = TypeVar("T")
log = logging.getLogger("meterhouse")
MODE: Final = 0o660
BACKLOG: Final = 64  # number of connections that the kernel queues until the loop accepts them
# KEPT of the MAX_CONNECTIONS are reserved for root and the agent's user. MAX_OF_USER does not limit these two.
MAX_CONNECTIONS, MAX_OF_USER, KEPT = 16, 4, 4
REQUEST_S: Final = 5.0  # after a client has connected, its complete request must arrive within this time
SEND_S: Final = 60.0  # a client that reads nothing for this long is considered dead
PROGRESS_S: Final = 1.0  # interval between two PROGRESS frames, in s
NAMES_S: Final = 2.0  # the lookup of a user and group in a directory service may take at most this long
_REQUESTS: Final = frozenset({FrameKind.REQUEST})


class ClientGone(Exception):
    """The client has closed the connection, or is considered dead."""


class ConnectionLimits:
    """Limits the number of connections, in total and per user. Used only in the loop."""

    def __init__(self) -> None:
        self._own = 0  # number of connections of root and the agent's user
        self._of_user: Counter[int] = Counter()  # uid -> number of connections, for the other users

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return self._own + self._of_user.total()

    def refusal(self, uid: int, privileged: bool) -> str:
        """Return why a new connection of this user is refused; "" if it is accepted."""
        others = self._of_user.total()
        if self.connections >= MAX_CONNECTIONS:
            return f"all {MAX_CONNECTIONS} connections are in use"
        if privileged:
            return ""
        if self._of_user[uid] >= MAX_OF_USER:
            return f"this user has {MAX_OF_USER} open connections"
        if others >= MAX_CONNECTIONS - KEPT:
            return (
                f"{others} user connections are open; the remaining connections are reserved for root and the agent's "
                "user"
            )
        return ""

    def enter(self, uid: int, privileged: bool) -> None:
        """Count a new connection."""
        if privileged:
            self._own += 1
        else:
            self._of_user[uid] += 1

    def leave(self, uid: int, privileged: bool) -> None:
        """Count a closed connection."""
        if privileged:
            self._own -= 1
        else:
            self._of_user[uid] -= 1
            if not self._of_user[uid]:
                del self._of_user[uid]


class ControlServer:
    """Accepts connections and serves their requests. Used only in the loop.

    Args:
        access: creates the ``Access`` object for a request.
        folder: the runtime directory, which this process has locked.
        group: returns the group whose members may make changes. It is called for each request, because a reload may
            change the group.
    """

    def __init__(self, access: Callable[[Caller, Right], Access], folder: Path, group: Callable[[], str]) -> None:
        self._access, self._folder, self._group = access, folder, group
        self._limits = ConnectionLimits()
        self._naming: asyncio.Future[tuple[str, int | None]] | None = None
        self._listener: socket.socket | None = None
        self._folder_fd = -1
        self._rules: AccessRules
        self._complaints = RateLimitedLog()

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        return self._limits.connections

    def open(self) -> None:
        """Start to listen. Clients can connect, but are not served until ``run`` is called.

        Errors are only logged, because the agent also works without a socket.
        """
        try:
            self._folder_fd = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._listener = _listen(self._folder_fd)
            door = os.stat(SOCKET, dir_fd=self._folder_fd, follow_symlinks=False)
        except OSError as error:
            log.error("control socket not available: %s: %s", self._folder / SOCKET, error.strerror)
            self.close()
            return
        self._rules = AccessRules(door.st_gid)

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._listener is not None:
            self._listener.close()
            with contextlib.suppress(OSError):
                os.unlink(SOCKET, dir_fd=self._folder_fd)
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
        self._listener, self._folder_fd = None, -1

    def __enter__(self) -> ControlServer:
        self.open()
        return self

    def __exit__(self, *what: object) -> None:
        self.close()

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._listener is None:
            return
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    try:
                        sock, _ = await loop.sock_accept(self._listener)
                    # no file descriptors are left, or the client has already closed the connection
                    except OSError as error:
                        self._complain(f"cannot accept a connection: {error.strerror}")
                        await asyncio.sleep(1)
                        continue
                    self._admit(sock, group)
                    await asyncio.sleep(0)  # accept at most one connection in each turn of the loop
        finally:
            self.close()  # tools that find no socket wait until the stopping agent has closed the database

    def _admit(self, sock: socket.socket, group: asyncio.TaskGroup) -> None:
        try:
            peer = peer_of(sock)
        except OSError:
            sock.close()
            return
        privileged = peer.uid in self._rules.own
        if full := self._limits.refusal(peer.uid, privileged):
            self._complain(f"{full}; connection of uid {peer.uid} refused")
            _send_failed(
                sock, GatewayError("too many connections", where="control", hint=f"{full}. Try again in a minute")
            )
            sock.close()
            return
        self._limits.enter(peer.uid, privileged)
        group.create_task(self._serve(sock, peer, privileged))

    async def _serve(self, sock: socket.socket, peer: Peer, privileged: bool) -> None:
        connection = ControlConnection(sock)
        try:
            await self._answer(connection, peer)
        except ClientGone as error:
            if str(error):
                self._complain(f"uid {peer.uid}: {error}")
        except ProtocolError as error:
            self._complain(f"uid {peer.uid}: {error.where}: {error.what}")
            connection.fail(error)
        except GatewayError as error:
            connection.fail(error)
        except asyncio.CancelledError:
            hint = "Repeat the command: without an agent, the command opens the database itself"
            connection.fail(GatewayError("the agent was stopped", where="agent", hint=hint))
            raise
        except Exception as error:
            log.exception("a request on the control socket failed")
            what = f"internal error: {type(error).__name__}: {error}"
            connection.fail(GatewayError(what, where="agent", hint="See the agent's log"))
        finally:
            sock.close()
            self._limits.leave(peer.uid, privileged)

    async def _answer(self, connection: ControlConnection, peer: Peer) -> None:
        # in a thread, because the first request imports a module, which takes time
        request, kind = await asyncio.to_thread(_decoded, await connection.request())
        login, gid = await self._look_up(peer.uid)
        caller = Caller(peer.uid, login)
        try:
            self._rules.check(peer, caller, request.right, self._group(), gid)
        except NotAllowed:
            log.warning("control: %s", f"{kind} refused to {caller}")
            raise
        log.info("control: %s", f"{kind} for {caller}")
        # in a thread, because it may import a module, which takes time
        answer = await asyncio.to_thread(handler, request)
        await connection.deliver(answer(self._access(caller, request.right), request, connection))

    async def _look_up(self, uid: int) -> tuple[str, int | None]:
        """Return the caller's login, and the id of the group that may make changes. After a timeout, return ("", None).

        There is one lookup at a time, so that a directory service that hangs blocks only one thread.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + NAMES_S
        while self._naming is not None and not self._naming.done():
            if loop.time() >= give_up:
                return "", None
            await asyncio.wait({self._naming}, timeout=give_up - loop.time())
        group = self._group()
        naming = self._naming = loop.run_in_executor(None, lambda: (login_of(uid), gid_of(group)))
        await asyncio.wait({naming}, timeout=NAMES_S)
        return naming.result() if naming.done() else ("", None)

    def _complain(self, what: str) -> None:
        self._complaints.log(log.warning, "control: %s", clean_text(what, 200))


class ControlConnection:
    """A connection of a client. It receives a request and sends the answer. Handlers get it as their ``Reply``."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._loop = sock, asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._broken = False  # True: only a part of a frame was sent
        self._silent = False  # True: send no more PROGRESS frames
        self._progress = (0, 0)

    async def request(self) -> bytes:
        """Receive the payload of the request.

        Raises ProtocolError, or ClientGone if the request is not complete in time.
        """
        try:
            async with asyncio.timeout(REQUEST_S):
                _, size = parse_header(await self._exactly(HEADER.size), _REQUESTS, MAX_REQUEST)
                return await self._exactly(size)
        except TimeoutError:
            raise ClientGone(f"the client sent no complete request within {REQUEST_S:g} s") from None

    async def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                more = await self._loop.sock_recv(self._sock, size - len(data))
            except OSError as error:
                raise ClientGone from error
            if not more:
                raise ClientGone
            data += more
            await asyncio.sleep(0)  # other clients must be served too if the bytes of this client arrive one by one
        return bytes(data)

    async def deliver(self, answer: Awaitable[Mapping[str, Any]]) -> None:
        """Wait for the result of a handler, and send it. Send PROGRESS frames meanwhile.

        Raises:
            ClientGone: the client has closed the connection or is dead. The handler is cancelled then.
        """
        work = asyncio.ensure_future(answer)
        more = asyncio.ensure_future(self._loop.sock_recv(self._sock, 1))  # completes when the client leaves
        try:
            while not work.done():
                await asyncio.wait({work, more}, timeout=PROGRESS_S, return_when=asyncio.FIRST_COMPLETED)
                if more.done():
                    if more.exception() is None and more.result():
                        raise ProtocolError("the client sent more than one request in a connection", where="control")
                    raise ClientGone
                if not work.done():
                    await self._beat()
            await self._send(FrameKind.DONE, encode_facts(work.result()))
        finally:
            for one in (work, more):
                one.cancel()
            await asyncio.gather(work, more, return_exceptions=True)

    async def _beat(self) -> None:
        if not self._silent and not self._sending.locked():
            done, total = self._progress
            await self._send(FrameKind.PROGRESS, encode_facts({"done": done, "total": total}))

    # --- Reply

    async def part(self, data: bytes) -> None:
        await self._send(FrameKind.PART, data)

    def progress(self, done: int, total: int) -> None:
        self._progress = (done, total)

    def rest(self) -> None:
        self._silent = True

    async def _send(self, kind: FrameKind, payload: bytes) -> None:
        """Send a frame, and wait until the client has read enough of it. Raises ClientGone."""
        async with self._sending:
            self._broken = True
            try:
                async with asyncio.timeout(SEND_S):
                    await self._loop.sock_sendall(self._sock, header(kind, len(payload)))
                    await self._loop.sock_sendall(self._sock, payload)
            except TimeoutError:
                raise ClientGone(f"the client read nothing for {SEND_S:g} s") from None
            except OSError as error:
                raise ClientGone from error
            self._broken = False

    def fail(self, error: GatewayError) -> None:
        """Send an error. Does nothing if only a part of the last frame was sent."""
        if not self._broken:
            _send_failed(self._sock, error)


class ReadThrottle:
    """Limits the work for all read-only requests together to half of the time, so that other work is not delayed.

    One slice of work runs at a time, followed by a pause that is as long as the slice. So sealing waits for at most one
    slice, even if there are many requests. There are two throttles: one for the database thread, and one for other
    threads.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Wait until it is the turn of ``work``, run it, and pause."""
        async with self._lock:
            began = time.monotonic()
            result = await work()
            await asyncio.sleep(time.monotonic() - began)
            return result


class RunningAccess:
    """The ``Access`` of a request in a running agent.

    Args:
        service: an ``agent.service.app.Service``.
        slices: throttle for ``call``. None: the calls are short, so they are not throttled.
        sums: throttle for ``compute``, whose threads compete with the loop for the interpreter.
    """

    def __init__(self, service: Any, caller: Caller, slices: ReadThrottle | None, sums: ReadThrottle) -> None:
        self.service, self.caller, self._slices, self._sums = service, caller, slices, sums
        self.config: Config = service.config

    async def call(self, function: Callable[[Store], T]) -> T:
        """Run a function in the database thread, see ``Access.call``. It goes through the queue of this thread."""

        async def work() -> T:
            found: T = await self.service.db_thread.call(function)
            return found

        return await (work() if self._slices is None else self._slices.run(work))

    async def compute(self, function: Callable[[], T]) -> T:
        """Run a function in another thread, see ``Access.compute``. Waits for the turn of this request."""

        async def work() -> T:
            running = asyncio.ensure_future(asyncio.to_thread(function))
            try:
                return await asyncio.shield(running)
            # the client has left, but the thread still works for it: the next request must wait for this work
            except asyncio.CancelledError:
                await asyncio.wait({running})
                raise

        return await self._sums.run(work)


def handler(request: Request) -> Handler:
    """Return the function that serves a request. Imports its module if needed."""
    found: Handler = import_module(request.module).answer
    return found


def _decoded(payload: bytes) -> tuple[Request, str]:
    """Decode a payload. Returns the request and the name of its kind. Raises ProtocolError."""
    from agent.service.control.protocol import decode_request, kind_of

    request = decode_request(payload)
    return request, kind_of(request)


def _send_failed(sock: socket.socket, error: GatewayError) -> None:
    """Send a FAILED frame without waiting. Errors are ignored, because the connection will be closed anyway."""
    with contextlib.suppress(OSError):
        sock.send(frame(FrameKind.FAILED, encode_error(error)), socket.MSG_DONTWAIT)


def _listen(folder_fd: int) -> socket.socket:
    """Create a listening socket in the locked runtime directory. Removes an old socket. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(SOCKET, dir_fd=folder_fd).st_mode):
            raise IsADirectoryError(21, "is a directory; remove it")
        os.unlink(SOCKET, dir_fd=folder_fd)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        door.setblocking(False)
        os.fchmod(door.fileno(), MODE)  # set this before bind, so that the socket never allows more
        # the name is short, because the length of a socket path is limited
        door.bind(f"/proc/self/fd/{folder_fd}/{SOCKET}")
        os.chmod(SOCKET, MODE, dir_fd=folder_fd)  # set this after bind, because the umask may have removed rights
        door.listen(BACKLOG)
    except BaseException:
        door.close()
        raise
    return door
