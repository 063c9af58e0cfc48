"""The pulse of the agent: one beat proves that lines are asked and that packs can become durable.

It is felt for where packs are sealed, and goes through the thread that commits them. Whoever hangs there has no pulse,
and systemd (``WatchdogSec=``) ends and restarts the agent; the ring keeps what was read. A full disk, a dead line or a
broker that is away are no reason to die: a restart would not help.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

from agent.service.db_thread import DatabaseThread
from agent.service.devices import DeviceManager
from agent.store import Usage


def notify(message: str) -> None:
    """Send one message such as ``READY=1``. Silent where no service manager listens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
        try:
            door.sendto(message.encode(), address)
        except OSError:
            return  # the manager went away: we run on


log = logging.getLogger("meterhouse")
BEAT_S = 10.0
STUCK_S = 300.0  # a visit moves with every answer and timeout, and none of those may take so long


class Watchdog:
    """Beats at most every ``BEAT_S``, thrice as often as systemd wants it.

    Args:
        say: what ``systemctl status`` shows.
        environ: where systemd says how long it waits (``WATCHDOG_USEC``).
    """

    def __init__(
        self,
        writer: DatabaseThread,
        fleet: DeviceManager,
        say: Callable[[], str],
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        send: Callable[[str], None] = notify,
    ) -> None:
        self._writer, self._fleet, self._say, self._clock, self._send = writer, fleet, say, clock, send
        wanted = environ.get("WATCHDOG_USEC", "")
        self.every_s = min(BEAT_S, int(wanted) / 3e6) if wanted.isdigit() and int(wanted) else BEAT_S
        self._next_s = 0.0
        self._moved: dict[str, tuple[tuple[int, ...], float]] = {}  # line -> what it did, since when it is the same
        self._told: set[str] = set()
        self.usage: Usage | None = None  # of the store, at the last beat
        self.lost_packs = 0

    async def beat(self) -> None:
        """Called at each turn of the sealing. Waits for the writer's thread."""
        if self._clock() < self._next_s:
            return
        self.usage, self.lost_packs = await self._writer.call(lambda store: (store.usage(), store.lost_packs))
        now_s = self._clock()
        self._next_s = now_s + self.every_s
        if not self._stuck(now_s):
            self._send(f"WATCHDOG=1\nSTATUS={self._say()}")

    def _stuck(self, now_s: float) -> bool:
        """Is there a line whose visit neither gets on nor ends?"""
        stuck = set()
        for name, poller in self._fleet.pollers.items():
            stats = self._fleet.lines[name].stats
            done = (poller.turns, stats.answers, stats.timeouts, stats.broken, stats.mismatches, stats.exceptions,
                    stats.open_failures, stats.lost, sum(stats.sent.values()))  # fmt: skip
            before, since_s = self._moved.get(name, ((), now_s))
            self._moved[name] = (done, since_s if done == before and poller.busy else now_s)
            if now_s - self._moved[name][1] > STUCK_S:
                stuck.add(name)
        for name in sorted(stuck - self._told):
            log.critical("line %s has hung for %.0f s; the watchdog will restart the agent", name, STUCK_S)
        self._told = stuck
        return bool(stuck)
