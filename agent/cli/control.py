"""Sends requests to the agent over its control socket, or to its database if the agent does not run.

In both cases, requests and answers have the same frames. Answers are not trusted: the listener must be the owner of
the runtime directory, each frame and each wait is limited, and names in an answer are checked where they are used.
"""

from __future__ import annotations

import math
import os
import socket
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.cli.common import NoAgent
from agent.service.control.frames import (
    HEADER,
    MAX_ANSWER,
    SOCKET,
    FrameKind,
    decode_error,
    decode_facts,
    parse_header,
)
from agent.service.control.peer import peer_of
from drivers.model import GatewayError, ProgressCallback, no_progress

if TYPE_CHECKING:
    from agent.config import Config
    from agent.service.control.protocol import Request

# longest wait for the first frame; a starting agent first seals the readings that are left in the ring
PICK_UP_S: Final = 15.0
SILENCE_S: Final = 30.0  # longest wait for each further frame; a working agent reports progress every second or two
ANSWER_S: Final = 3600.0  # longest wait for a whole answer, even while progress reports arrive
EXPORT_S: Final = 24 * 3600.0  # longest wait for a whole export, because many packs may be written to a slow USB stick
CONNECT_S: Final = 5.0
SEND_S: Final = 10.0
MAX_TOTAL: Final = 64 << 20  # limit of an answer that is kept in memory, in bytes

Take = Callable[[bytes], object]


class NoAnswer(GatewayError):
    """The agent accepted the connection, but did not answer."""


def discard(data: bytes) -> None:
    """Ignore a part of an answer. This is the default of ``take``, for requests whose answers have no parts."""


def ask(
    config: Config,
    request: Request,
    take: Take = discard,
    progress: ProgressCallback = no_progress,
    pick_up_s: float = PICK_UP_S,
) -> dict[str, Any]:
    """Return the result of a request to a running agent, or to the database of a stopped agent.

    Args:
        take: called with each part of the answer, in order.
        progress: called with (done, total) now and then.
        pick_up_s: longest wait for the first frame, or for an agent that is starting or stopping.

    Raises:
        GatewayError: the answer is an error, or there is no answer, no database or no permission.
    """
    from agent.cli.stopped_agent import AgentRunning, ask_database

    give_up = time.monotonic() + pick_up_s
    while True:
        try:
            with ControlClient.connect(config.runtime_dir) as client:
                return client.ask(request, take, progress, pick_up_s)
        except NoAgent:
            pass
        try:
            return ask_database(config, request, take, progress)
        except AgentRunning as error:  # an agent runs, but does not listen, because it is starting or stopping
            if time.monotonic() > give_up:
                raise no_answer(config.runtime_dir, "The agent is starting or stopping, or it hangs") from error
            time.sleep(0.1)


def ask_running(
    runtime_dir: Path,
    request: Request,
    take: Take = discard,
    progress: ProgressCallback = no_progress,
    pick_up_s: float = PICK_UP_S,
    silence_s: float = SILENCE_S,
) -> dict[str, Any]:
    """Return the result of a request to a running agent, as ``ask`` does. Raises NoAgent if no agent runs."""
    with ControlClient.connect(runtime_dir) as client:
        return client.ask(request, take, progress, pick_up_s, silence_s)


class ControlClient:
    """One request over a connected socket. ``close`` ends the request at any time."""

    def __init__(self, sock: socket.socket, where: Path) -> None:
        self._sock, self._where, self._give_up = sock, where, math.inf

    @classmethod
    def connect(cls, runtime_dir: Path) -> ControlClient:
        """Connect to the agent of a runtime directory.

        Raises:
            NoAgent: no process listens there.
            GatewayError: this user may not connect, or the listener is not the directory's owner.
        """
        where = runtime_dir / SOCKET
        try:
            folder = os.open(runtime_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NoAgent(runtime_dir) from None
        except OSError as error:
            raise _forbidden(where, error) from error
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if not stat.S_ISSOCK(os.stat(SOCKET, dir_fd=folder, follow_symlinks=False).st_mode):
                raise GatewayError("is not a socket", where=str(where), hint="Check who created this file")
            # this path is used because it is short: the path of a socket can have at most 108 bytes
            _connect(sock, f"/proc/self/fd/{folder}/{SOCKET}")
            owner, listener = os.fstat(folder).st_uid, peer_of(sock).uid
            if listener not in (owner, os.geteuid()):
                what = f"user {listener} opened this socket, but the socket's folder belongs to user {owner}"
                raise GatewayError(
                    what, where=str(where), hint="The program behind the socket is not the agent, so nothing was sent"
                )
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            sock.close()
            raise NoAgent(runtime_dir) from None
        except OSError as error:
            sock.close()
            raise _forbidden(where, error) from error
        except BaseException:
            sock.close()
            raise
        finally:
            os.close(folder)
        return cls(sock, where)

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *what: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The agent then cancels the request."""
        self._sock.close()

    @property
    def sock(self) -> socket.socket:
        """The socket. A caller can wait until the agent closes it, together with other events."""
        return self._sock

    def ask(
        self,
        request: Request,
        take: Take,
        progress: ProgressCallback,
        pick_up_s: float = PICK_UP_S,
        silence_s: float = SILENCE_S,
    ) -> dict[str, Any]:
        """Send the request and receive the whole answer. Raises GatewayError, also for an incomplete answer."""
        from agent.service.control.protocol import RangeRequest

        self.give_up_after(EXPORT_S if isinstance(request, RangeRequest) else ANSWER_S)
        self.send(request)
        limit_s = pick_up_s
        while True:
            kind, payload = self.receive(limit_s)
            limit_s = silence_s
            if kind is FrameKind.PART:
                take(payload)
            elif kind is FrameKind.PROGRESS:
                facts = decode_facts(payload)
                progress(_count(facts, "done"), _count(facts, "total"))
            elif kind is FrameKind.DONE:
                return decode_facts(payload)
            else:
                raise decode_error(payload)

    def send(self, request: Request) -> None:
        """Send the request. If the agent closes the connection early, its answer has the reason."""
        from agent.service.control.protocol import encode_request

        self._sock.settimeout(SEND_S)
        try:
            self._sock.sendall(encode_request(request))
        except TimeoutError:
            raise no_answer(self._where.parent, "The agent hangs. See `meterhouse status`") from None
        except OSError:  # the agent closed the connection; its answer, which is read next, has the reason
            return

    def give_up_after(self, seconds: float) -> None:
        """Set the deadline for the whole answer to ``seconds`` from now."""
        self._give_up = time.monotonic() + seconds

    def receive(self, limit_s: float) -> tuple[FrameKind, bytes]:
        """Return the next whole frame of the answer. Raises GatewayError if no frame arrives in time."""
        give_up = min(time.monotonic() + limit_s, self._give_up)
        kinds = frozenset(FrameKind) - {FrameKind.REQUEST}
        kind, size = parse_header(self._exactly(HEADER.size, give_up), kinds, MAX_ANSWER)
        return kind, self._exactly(size, give_up)

    def _exactly(self, size: int, give_up: float) -> bytes:
        data = bytearray(size)
        view, have = memoryview(data), 0
        while have < size:
            try:
                left = give_up - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._sock.settimeout(left)
                more = self._sock.recv_into(view[have:])
            except TimeoutError:
                raise no_answer(
                    self._where.parent, "The agent is starting, is busy or hangs. See `meterhouse status`"
                ) from None
            except OSError:
                more = 0
            if not more:
                raise no_answer(self._where.parent, "The agent was stopped, or it closed the connection. Try again")
            have += more
        return bytes(data)


class AnswerBuffer:
    """Collects the parts of an answer in memory, up to ``limit`` bytes."""

    def __init__(self, limit: int = MAX_TOTAL) -> None:
        self._parts: list[bytes] = []
        self._left = limit

    def take(self, data: bytes) -> None:
        """Append a part of the answer. Raises GatewayError if the answer exceeds the limit."""
        self._left -= len(data)
        if self._left < 0:
            raise GatewayError(
                "the agent's answer is too large",
                where="control",
                hint="Check which program listens on the agent's socket",
            )
        self._parts.append(data)

    @property
    def whole(self) -> bytes:
        return b"".join(self._parts)


def _connect(sock: socket.socket, path: str) -> None:
    """Connect. Retries while the queue of waiting clients is full. Raises OSError."""
    give_up = time.monotonic() + CONNECT_S
    sock.settimeout(CONNECT_S)
    while True:
        try:
            return sock.connect(path)
        except BlockingIOError:  # the kernel's queue of waiting clients is full
            if time.monotonic() > give_up:
                raise TimeoutError(110, "too many clients are waiting") from None
            time.sleep(0.02)


def _count(facts: Mapping[str, Any], name: str) -> int:
    found = facts.get(name)
    return found if type(found) is int and 0 <= found < 1 << 53 else 0


def no_answer(runtime_dir: Path, hint: str) -> NoAnswer:
    """Return the error for an agent that does not answer."""
    return NoAnswer("the running agent does not answer", where=str(runtime_dir), hint=hint)


def _forbidden(where: Path, error: OSError) -> GatewayError:
    hint = "The user must be in the group meterhouse: `sudo adduser USER meterhouse`, then log in again"
    return GatewayError(f"cannot connect to the agent: {error.strerror or error}", where=str(where), hint=hint)
