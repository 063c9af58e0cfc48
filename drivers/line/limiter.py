"""Limits the connections to one host, because some dongles and gateways accept a single client only (field pain 43).

All lines to one host share a limiter. If the limit is reached, a line that has finished its turn closes its connection
for the line that has waited longest. Lines to other hosts are not affected.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary


class ConnectionHolder(Protocol):
    """A line that has a connection or waits for one. This is a Protocol class, because ``owner`` imports this
    module.
    """

    def release_if_idle(self) -> None:
        """Close the connection now if it is idle. If the line is busy, close it at the end of the line's turn."""


class ConnectionLimiter:
    """The limiter of one host. Its limit is the lowest limit of the lines that are connected or waiting.

    Each line states how many connections the host allows. The statement of a line that was closed or removed no longer
    applies.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._holders: WeakSet[ConnectionHolder] = WeakSet()
        # only holders whose line states a limit
        self._limits: WeakKeyDictionary[ConnectionHolder, int] = WeakKeyDictionary()
        self._waiting: deque[tuple[ConnectionHolder, int | None, asyncio.Future[None]]] = deque()

    @property
    def is_contended(self) -> bool:
        """Whether a line is waiting for a connection."""
        return bool(self._waiting)

    def lowest_limit(self, connections: int | None = None) -> int | None:
        """The lowest of ``connections`` and the limits of all connected lines. None: there is no limit."""
        named = (*self._limits.values(), connections)
        return min((most for most in named if most is not None), default=None)

    def set_limit(self, connection: ConnectionHolder, connections: int | None) -> None:
        """Set how many connections the host allows according to a line. Does nothing if the line is not connected."""
        if connection in self._holders:
            self._hold(connection, connections)

    async def acquire(self, connection: ConnectionHolder, connections: int | None = None) -> None:
        """Wait for a free connection. The line that has waited longest gets the next one. The caller must limit the
        wait.
        """
        if connection in self._holders:
            return
        if not self._waiting and self._has_place(connections):
            self._hold(connection, connections)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (connection, connections, turn)
        self._waiting.append(place)
        for holder in list(self._holders):
            if turn.done():
                break
            holder.release_if_idle()
        try:
            await turn
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
            # the connection may have been granted just before the cancellation: give it to the next line
            self.release(connection)
            raise

    def release(self, connection: ConnectionHolder) -> None:
        """Release the line's connection, if it has one. The line that has waited longest gets the connection."""
        self._holders.discard(connection)
        self._limits.pop(connection, None)
        while self._waiting:
            first, connections, turn = self._waiting[0]
            if not turn.done():
                if not self._has_place(connections):
                    return
                self._hold(first, connections)
                turn.set_result(None)
            self._waiting.popleft()

    def _hold(self, connection: ConnectionHolder, connections: int | None) -> None:
        self._holders.add(connection)
        if connections is None:
            self._limits.pop(connection, None)
        else:
            self._limits[connection] = connections

    def _has_place(self, connections: int | None) -> bool:
        limit = self.lowest_limit(connections)
        return limit is None or len(self._holders) < limit


_LIMITERS: WeakValueDictionary[str, ConnectionLimiter] = WeakValueDictionary()


def limiter_of(name: str) -> ConnectionLimiter:
    """The limiter of a host. All lines of this process to the host share it."""
    limiter = _LIMITERS.get(name)
    if limiter is None:
        limiter = _LIMITERS[name] = ConnectionLimiter(name)
    return limiter
