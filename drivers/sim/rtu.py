"""RTU frames on a pseudo-terminal with the byte times of a real line.

A separate thread does the timing. Each byte of a burst counts as received 11 bit times after the byte before it. Each
byte is written at the time when it would be complete. The thread sleeps until shortly before that time, and then waits
in a loop without sleeping. The reason is that epoll rounds its waits to a millisecond, and a byte at 9600 baud takes
only 1.146 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import select
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Callable
from pathlib import Path

from drivers.model import LineDown
from drivers.sim.bus import BITS_A_CHARACTER, Bus, quiet_s
from drivers.sim.device import SimAnswer, garbled

SPIN_S = 0.0003
# after a longer pause within a request, a device drops the request; pauses caused by a busy host are shorter
BROKEN_S = 0.02
_BAUDS = {getattr(termios, f"B{n}"): n for n in (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200)}


class SerialLine:
    """A pty with a stable link name. The devices of ``bus`` answer as on a two-wire bus.

    A device begins to answer ``max(t3.5, turnaround)`` after the last byte of the request. A request that begins before
    an answer has ended is lost, and counted in ``collisions``. Devices ignore a request at a wrong baud rate. A master
    receives wrong bytes if its own rate is not that of the answer.
    ``realtime`` asks the kernel for SCHED_FIFO, so that byte times are exact even on a busy machine. Without the
    permission for it, the line works with the usual scheduling.
    """

    def __init__(self, bus: Bus, link: Path | str, *, baud: int = 9600, realtime: bool = False) -> None:
        self.bus, self.link, self.baud, self.realtime = bus, Path(link), baud, realtime
        self.byte_s = BITS_A_CHARACTER / baud
        self.collisions = 0
        self.wrong_baud = 0
        self.quiet_min_s = float("inf")  # shortest silence so far between an answer and the next request
        self._master = self._slave = -1
        self._wake_read = self._wake_write = -1
        self._thread: threading.Thread | None = None
        self._stopping = False
        self.unsent: deque[bytes] = deque()  # bytes from ``say`` that the thread has not sent yet

    @property
    def url(self) -> str:
        """The url of the line: ``serial:`` followed by the link's path."""
        return f"serial:{self.link}"

    @property
    def serial(self) -> str:
        """The serial setting that a master must use, in the form of agent.toml."""
        return f"{self.baud} 8N1"

    async def start(self) -> None:
        """Make the pty and its link. Raises LineDown if the path of the link is already used by another file."""
        self.open()

    def open(self) -> None:
        """The same as ``start``, for callers without an event loop."""
        if self._thread is not None:
            return
        if self.link.exists() and not self.link.is_symlink():
            raise LineDown("exists and is not a link", where=str(self.link), hint="Choose another path for --pty")
        try:
            self._master, self._slave = os.openpty()
        except OSError as error:
            raise LineDown(f"cannot open a pseudo-terminal: {error.strerror}", where=str(self.link)) from error
        tty.setraw(self._slave)  # the slave stays open, because otherwise the master reads EIO while there is no client
        speed = getattr(termios, f"B{self.baud}", None)
        if speed is not None:
            mode = termios.tcgetattr(self._slave)
            mode[4] = mode[5] = speed
            termios.tcsetattr(self._slave, termios.TCSANOW, mode)
        os.set_blocking(self._master, False)
        self._wake_read, self._wake_write = os.pipe()
        fresh = self.link.with_name(f".{self.link.name}.new")
        try:
            self.link.parent.mkdir(parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(os.ttyname(self._slave))
            fresh.replace(self.link)
        except OSError as error:
            self._close_files()
            what = f"the symbolic link to the pseudo-terminal cannot be created: {error.strerror}"
            raise LineDown(what, where=str(self.link)) from error
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"sim {self.link.name}", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Close the pty, remove the link, and end the thread."""
        thread = self._thread
        if thread is not None:
            self._ask_to_stop()
            await asyncio.to_thread(thread.join)
            self._closed()

    def close(self) -> None:
        """The same as ``stop``, for callers without an event loop."""
        if self._thread is not None:
            self._ask_to_stop()
            self._thread.join()
            self._closed()

    async def unplug(self) -> None:
        """Simulate an adapter that is pulled out: close the pty and remove the link."""
        await self.stop()

    async def plug(self) -> None:
        """Simulate an adapter that is plugged in again: open another pty with the same link name."""
        await self.start()

    def say(self, frame: bytes) -> None:
        """Send unsolicited bytes, with the byte times of a real line. While unplugged, the line loses them."""
        if self._thread is not None:
            self.unsent.append(frame)
            os.write(self._wake_write, b"s")

    def _ask_to_stop(self) -> None:
        self._stopping = True
        os.write(self._wake_write, b"x")

    def _closed(self) -> None:
        self._thread = None
        ours = os.ttyname(self._slave)
        with contextlib.suppress(OSError):
            if os.readlink(self.link) == ours:
                self.link.unlink()
        self._close_files()

    def _close_files(self) -> None:
        for fd in (self._master, self._slave, self._wake_read, self._wake_write):
            if fd >= 0:
                os.close(fd)
        self._master = self._slave = self._wake_read = self._wake_write = -1

    # the methods below run in the line's thread

    def _run(self) -> None:
        if self.realtime:
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))  # 0 stands for the calling thread
        _Turns(self, self._master, self._wake_read).run(lambda: self._stopping)

    def heard_baud(self) -> int:
        """The baud rate that the master has set. 0 if the pty cannot tell."""
        try:
            return _BAUDS.get(termios.tcgetattr(self._master)[5], 0)
        except termios.error:
            return 0


class _Turns:
    """The loop of a line's thread. It reads bytes, begins answers that are due, and writes bytes, each at its time."""

    def __init__(self, line: SerialLine, master: int, wake: int) -> None:
        self._line, self._master, self._wake = line, master, wake
        self._framing = line.bus.framing()
        # the speed that the master has set, and the time of a byte at this speed
        self._baud, self._byte_s = line.baud, line.byte_s
        self._due: list[tuple[float, int, SimAnswer]] = []  # answers that have not begun yet: (start, number, answer)
        # (time at which the byte is complete, byte) of each byte to send
        self._out: deque[tuple[float, bytes]] = deque()
        self._count = 0
        self._heard_end = 0.0  # time at which the last byte of the master is complete
        self._sent_end = 0.0  # time at which the last byte that we send is complete

    def run(self, stopping: Callable[[], bool]) -> None:
        """Run until ``stopping()`` returns True."""
        while not stopping():
            now = time.monotonic()
            self._begin(now)
            wait = self._send(now)
            if self._due:
                wait = min(wait, self._due[0][0] - time.monotonic())
            if wait <= SPIN_S:
                continue
            ready, _, _ = select.select([self._master, self._wake], [], [], min(wait - SPIN_S, 60.0))
            if self._wake in ready and os.read(self._wake, 64):
                while self._line.unsent:
                    self._schedule(time.monotonic(), SimAnswer(self._line.unsent.popleft()))
            if self._master in ready:
                try:
                    chunk = os.read(self._master, 4096)
                except BlockingIOError:
                    continue
                except OSError:
                    return
                self._hear(chunk, time.monotonic())

    def _hear(self, chunk: bytes, now: float) -> None:
        line = self._line
        if now > self._heard_end + BROKEN_S:
            self._framing.silence()
        if self._out or now < self._sent_end:
            line.collisions += 1
            self._framing.silence()
            return
        if self._sent_end:
            line.quiet_min_s = min(line.quiet_min_s, now - self._sent_end)
        baud = line.heard_baud() or line.baud
        if baud != self._baud:
            self._framing.silence()
            self._baud, self._byte_s = baud, BITS_A_CHARACTER / baud
        self._heard_end = max(now, self._heard_end) + len(chunk) * self._byte_s
        if not line.bus.listens_at(baud, line.baud):
            line.wrong_baud += 1
            return
        for request in self._framing.feed(chunk):
            answer = line.bus.answer(request, self._framing)
            if answer is None or answer.end:
                continue  # on a serial line, a connection cannot be reset or closed
            if answer.echo:
                self._write(answer.echo)  # an echo arrives while the master still sends
            if answer.frame:
                self._schedule(self._heard_end + max(answer.delay_s, quiet_s(self._baud)), answer)

    def _schedule(self, start: float, answer: SimAnswer) -> None:
        self._count += 1
        heapq.heappush(self._due, (start, self._count, answer))

    def _begin(self, now: float) -> None:
        """Schedule the bytes of all answers that begin now."""
        while self._due and self._due[0][0] <= now:
            start, _, answer = heapq.heappop(self._due)
            at = max(start, self._sent_end)
            self._line.bus.sent(answer.frame)
            byte_s = BITS_A_CHARACTER / answer.baud if answer.baud else self._byte_s
            frame = answer.frame
            if answer.baud and self._line.heard_baud() not in (0, answer.baud):
                self._line.wrong_baud += 1
                frame = garbled(frame)
            for n in range(len(frame)):
                at += byte_s + (answer.bytewise_s or 0.0)
                self._out.append((at, frame[n : n + 1]))
            self._sent_end = at

    def _send(self, now: float) -> float:
        """Write the bytes that are due. Returns the seconds until the next byte is due."""
        while self._out and self._out[0][0] <= now:
            chunk = self._out.popleft()[1]
            # on a fast line, or if the thread woke up late, several bytes are due
            while self._out and self._out[0][0] <= now:
                chunk += self._out.popleft()[1]
            self._write(chunk)
            now = time.monotonic()
        return self._out[0][0] - now if self._out else 60.0

    def _write(self, chunk: bytes) -> None:
        with contextlib.suppress(BlockingIOError):  # if nobody reads, the bytes are lost, as on a wire
            os.write(self._master, chunk)
