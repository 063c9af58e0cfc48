"""Sends messages to systemd, and feeds its watchdog as long as devices are polled and the database thread works.

The sealing loop feeds the watchdog, and waits for the database thread each time. If one of the two hangs, systemd
(``WatchdogSec=``) restarts the agent, and the ring keeps the readings. The watchdog is still fed if the disk is full, a
line is dead or a broker cannot be reached, because a restart would not help.
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

log = logging.getLogger("meterhouse")
FEED_S = 10.0  # the longest interval in s between two messages to the watchdog
STUCK_S = 300.0  # a poll hangs if it makes no progress for this long; each answer and each timeout is progress


def notify(message: str) -> None:
    """Send systemd a message such as ``READY=1``. Does nothing if systemd did not start the agent."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
        try:
            door.sendto(message.encode(), address)
        except OSError:
            return  # the error is ignored, because the agent works without systemd too


class Watchdog:
    """Feeds the systemd watchdog three times in the interval that systemd allows, and at least every ``FEED_S``.

    Args:
        status_line: returns the text that ``systemctl status`` shows.
        environ: environment variables. ``WATCHDOG_USEC`` is the time after which systemd restarts the agent.
    """

    def __init__(
        self,
        db_thread: DatabaseThread,
        device_manager: DeviceManager,
        status_line: Callable[[], str],
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        send: Callable[[str], None] = notify,
    ) -> None:
        self._db_thread, self._device_manager, self._status_line = db_thread, device_manager, status_line
        self._clock, self._send = clock, send
        wanted = environ.get("WATCHDOG_USEC", "")
        self.every_s = min(FEED_S, int(wanted) / 3e6) if wanted.isdigit() and int(wanted) else FEED_S
        self._next_s = 0.0
        # line -> (counters of its polls, time when they last changed)
        self._progress: dict[str, tuple[tuple[int, ...], float]] = {}
        self._logged: set[str] = set()
        self.usage: Usage | None = None  # usage of the store when the watchdog was last fed; None: it was not fed yet
        self.lost_packs = 0
        # when a new loss was last found, in seconds since the epoch; None: no loss was found
        self.lost_s: float | None = None

    async def feed(self) -> None:
        """Feed the watchdog if it is time.

        This is called at each turn of the sealing loop, and waits for the database thread.
        """
        if self._clock() < self._next_s:
            return
        self.usage, lost = await self._db_thread.call(lambda store: (store.usage(), store.lost_packs))
        if lost > self.lost_packs:
            self.lost_packs, self.lost_s = lost, time.time()
        now_s = self._clock()
        self._next_s = now_s + self.every_s
        if not self._stuck(now_s):
            self._send(f"WATCHDOG=1\nSTATUS={self._status_line()}")

    def _stuck(self, now_s: float) -> bool:
        """Return True if a poll on at least one line hangs."""
        stuck = set()
        for name, poller in self._device_manager.pollers.items():
            stats = self._device_manager.lines[name].stats
            done = (poller.turns, stats.answers, stats.timeouts, stats.broken, stats.mismatches, stats.exceptions,
                    stats.open_failures, stats.lost, sum(stats.sent.values()))  # fmt: skip
            before, since_s = self._progress.get(name, ((), now_s))
            self._progress[name] = (done, since_s if done == before and poller.busy else now_s)
            if now_s - self._progress[name][1] > STUCK_S:
                stuck.add(name)
        for name in sorted(stuck - self._logged):
            log.critical("line %s has made no progress for %.0f s; the watchdog will restart the agent", name, STUCK_S)
        self._logged = stuck
        return bool(stuck)
