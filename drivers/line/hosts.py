"""How many connections a host bears: some dongles and gateways take one client only (field pain 43).

Lines to one host share a gate. Where it is full, a line that is done with its turn closes its connection for the one
that waits; nobody waits for ever, and lines to other hosts do not notice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary


class Guest(Protocol):
    """A line that holds a connection or wants one."""

    def give_way(self) -> None:
        """Close the connection now if nobody uses it; else it is closed at the end of the turn."""


class Host:
    """The gate of one host.

    It remembers nobody but those who are connected or wait, each with the most connections that it bears beside and
    with its own: a line that is closed or removed takes what it said of the host with it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._holders: WeakKeyDictionary[Guest, int | None] = WeakKeyDictionary()
        self._waiting: deque[tuple[Guest, int | None, asyncio.Future[None]]] = deque()

    @property
    def wanted(self) -> bool:
        """Somebody waits for a connection to be given up."""
        return bool(self._waiting)

    def cap(self, connections: int | None = None) -> int | None:
        """The lowest that those connected and one with ``connections`` name; None: as many as come."""
        named = [most for most in (*self._holders.values(), connections) if most is not None]
        return min(named, default=None)

    def limit(self, guest: Guest, connections: int | None) -> None:
        """Someone connected has learned that it bears no more than that."""
        if guest in self._holders:
            self._holders[guest] = connections

    async def enter(self, guest: Guest, connections: int | None = None) -> None:
        """Take a place, first come, first served. The caller bounds the wait."""
        if guest in self._holders:
            return
        if not self._waiting and self._has_place(connections):
            self._holders[guest] = connections
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (guest, connections, turn)
        self._waiting.append(place)
        for holder in list(self._holders):
            if turn.done():
                break
            holder.give_way()
        try:
            await turn
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
            self.leave(guest)  # the place may have been given in this very moment; and the next may fit
            raise

    def leave(self, guest: Guest) -> None:
        """Give up a place, if the guest has one: those who wait longest take it at once, so that none slips in."""
        self._holders.pop(guest, None)
        while self._waiting:
            first, connections, turn = self._waiting[0]
            if not turn.done():
                if not self._has_place(connections):
                    return
                self._holders[first] = connections
                turn.set_result(None)
            self._waiting.popleft()

    def _has_place(self, connections: int | None) -> bool:
        cap = self.cap(connections)
        return cap is None or len(self._holders) < cap


_HOSTS: WeakValueDictionary[str, Host] = WeakValueDictionary()  # a host lives as long as a line that leads there


def host_of(name: str) -> Host:
    """The gate of a host, one for all lines of this process that lead there."""
    host = _HOSTS.get(name)
    if host is None:
        host = _HOSTS[name] = Host(name)
    return host
