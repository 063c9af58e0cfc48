"""Other threads ring; the uplink's thread, which waits for the network, hears it."""

from __future__ import annotations

import contextlib
import os
import select
import threading


class Bell:
    """A pipe that is readable after somebody rang. ``ring`` is for any thread, the rest for the one that waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.fd, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._rung = False

    def ring(self) -> None:
        """Wake the one that waits; never blocks."""
        if self._rung:
            return
        with self._lock:
            self._rung = True
            if self._write >= 0:
                try:
                    os.write(self._write, b"\0")
                except BlockingIOError:
                    return  # full of wake-ups: enough

    def heard(self) -> None:
        """Empty the pipe."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 65_536)
        self._rung = False  # after reading, or a ring in between is read and all later ones are taken for rung already

    def wait(self, seconds: float) -> None:
        """Until somebody rings, or for so long."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        if poll.poll(seconds * 1000):
            self.heard()

    def close(self) -> None:
        """Nobody waits any more; ringing stays allowed."""
        with self._lock:
            for fd in (self.fd, self._write):
                if fd >= 0:
                    os.close(fd)
            self.fd = self._write = -1
