"""The owner of a line. It opens the port when it is first needed, sends one request at a time, and reopens it after
faults.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from drivers.backoff import Backoff
from drivers.line.bytelink import ByteLink
from drivers.line.config import LineConfig, RequestOptions, request_options, target
from drivers.line.limiter import limiter_of
from drivers.line.port import OPEN_TIMEOUT_S, Port, PortOpener, down, open_port
from drivers.line.request import Answer, Request
from drivers.line.stats import LineStats
from drivers.line.trace import BROKEN, FrameTrace
from drivers.model import (
    NO_LIMITS,
    DeviceException,
    FrameError,
    Limits,
    LineDown,
    LineError,
    LineLent,
    LineTimeout,
    MismatchError,
)
from drivers.registry import find_scheme, own_schemes
from drivers.serial_setting import SerialSetting

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# After this many consecutive timeouts without a single byte, the connection is reopened: the device may have been
# restarted.
SILENT_BEFORE_REOPEN = 3
FOREIGN_BEFORE_WARNING = 5  # number of unsolicited frames before a warning; a few of them may be noise
BUSY_PAUSES_S = (0.05, 0.1, 0.2, 0.4)
_log = logging.getLogger("meterhouse.line")


class LineLease:
    """A line that is lent to another program. The lease ends when ``end`` is called or the line is closed; then
    ``over`` is set.
    """

    def __init__(self, holder: str, at_end: Callable[[], None]) -> None:
        self.holder, self._at_end = holder, at_end
        self.over = asyncio.Event()

    def end(self) -> None:
        """Take the line back from the other program. A second call has no effect."""
        if not self.over.is_set():
            self.over.set()
            self._at_end()


class Link(Protocol):
    """An open port, and the methods that send requests over it. ``run`` must not be called again before the previous
    call has ended.
    """

    port: Port
    silent: int  # number of consecutive timeouts in which not a single byte was received

    def run(
        self, requests: Sequence[Request], results: list[Answer | LineError], options: RequestOptions
    ) -> Awaitable[LineError | None]:
        """Send ``requests`` from index ``len(results)`` on, and append the answers to ``results``. Stops at the first
        error and returns it; None: there was no error.
        """

    def abandon(self) -> None:
        """Forget the request of a cancelled caller. If its answer still arrives, the answer is dropped."""

    def close(self) -> None:
        """Close the port. If a caller waits for an answer, it gets a LineDown."""


class Line:
    """One serial port or one connection, with the queue of its users.

    The port is not opened before the first request. The user who has waited longest gets the next turn.
    """

    def __init__(
        self,
        config: LineConfig,
        clock: Callable[[], tuple[int, int]],
        trace: FrameTrace | None = None,
        opener: PortOpener = open_port,
    ) -> None:
        self.config, self.name = config, config.name
        self.target = target(config)
        self.carries_bytes = self.target.carries_bytes
        self.where = config.where
        # Number of requests in one burst. On a line without framing of its own, a burst has one request, so that each
        # answer is returned as it arrives.
        self.burst_size = 1 if self.carries_bytes else 16
        self.stats = LineStats(since_ns=clock()[1])
        self.clock, self._trace, self._opener = clock, trace, opener
        self._setting = SerialSetting.parse(config.serial, self.where) if self.target.scheme == "serial" else None
        self._options = self._applied = request_options(config)
        self._turn = asyncio.Lock()
        self._limiter = None if self.target.scheme == "serial" else limiter_of(self.target.host.lower())
        self._connect_delay_s = config.limits.connect_delay_s or 0.0
        self._connections = config.limits.connections
        self._link: Link | None = None
        self._proven = False  # whether this connection has delivered an answer, which proves that it worked
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._retry_at = 0.0
        self._why_down: LineError | None = None
        self._lease: LineLease | None = None
        self._foreign_told = FOREIGN_BEFORE_WARNING
        self._closed = False  # whether ``close`` was called after the latest request was made

    @property
    def lent(self) -> str:
        """The program that holds the line at the moment. "" if the line is not lent."""
        return self._lease.holder if self._lease is not None else ""

    @property
    def can_switch(self) -> bool:
        """Whether we can change the speed of the bus. If the bus is behind a serial server or gateway, we cannot."""
        return self._setting is not None

    @property
    def is_open(self) -> bool:
        """Whether the port is open at the moment."""
        return self._link is not None

    def request_options(self, limits: Limits = NO_LIMITS, serial: str = "") -> RequestOptions:
        """The options for a device with these limits and this serial setting of its own. Raises ConfigError."""
        return request_options(self.config, limits, serial)

    def apply_options(self, options: RequestOptions) -> None:
        """Apply the options that concern the whole connection. They stay in effect as long as the line exists.

        The line keeps the longest delay after connecting that any device needs, and the lowest number of connections
        that any device's host allows. Call this for each device before the line is opened. Sending a request applies
        its options, too.
        """
        self._applied = options
        self._connect_delay_s = max(self._connect_delay_s, options.connect_delay_s)
        limits = [most for most in (self._connections, options.connections) if most is not None]
        self._connections = min(limits, default=None)
        if self._limiter is not None:
            self._limiter.set_limit(self, self._connections)

    async def lend(self, holder: str) -> LineLease:
        """Finish the current request, close the port and leave it to ``holder``.

        Until the lease ends, every request fails with LineLent. Raises LineLent if another program already holds the
        line, LineDown if the line was closed in the meantime.
        """
        if self._lease is not None:
            raise LineLent(f"the line is lent to {self._lease.holder}", where=self.where)
        lease = self._lease = LineLease(holder, self._take_back)  # from now on no new request is sent
        try:
            async with self._turn:
                self._drop()
            if lease.over.is_set():
                what = "the line could not be borrowed, because the agent closed it in the meantime"
                raise LineDown(what, where=self.where, hint="Try again")
        except BaseException:
            if self._lease is lease:
                self._lease = None
            raise
        _log.info("%s: lent to %s", self.where, holder)
        return lease

    def _take_back(self) -> None:
        self._lease = None
        _log.info("%s: lease ended", self.where)

    async def exchange(self, request: Request, options: RequestOptions | None = None) -> Answer:
        """Send one request and return its answer. Raises any LineError, including LineDown and LineLent."""
        (answer,) = await self.burst((request,), options or self._options)
        if isinstance(answer, LineError):
            raise answer
        return answer

    async def burst(self, requests: Sequence[Request], options: RequestOptions) -> list[Answer | LineError]:
        """Send the requests one by one. Returns their results in order: an answer, or an error for a refusal or broken
        answer.

        After a LineTimeout, LineDown or LineLent the remaining requests are not sent. The list then ends with this
        error and is shorter than ``requests``. Never raises LineError.
        """
        results: list[Answer | LineError] = []
        self._closed = False
        await self._turn.acquire()
        begin_ns = self.clock()[1]
        if options is not self._applied:
            self.apply_options(options)
        link = self._link
        try:
            if link is None or self._lease is not None:
                link = await self._ready()
            trouble = await link.run(requests, results, options)
            if trouble is None:
                self._prove()
                sound = len(results)
            else:
                await self._retry(trouble, requests, results, options)
                sound = sum(isinstance(result, Answer) for result in results)
            self.stats.answers += sound
            self.stats.of_device(requests[0].where).sound += sound
            if self.target.scheme == "tcp" and not self.stats.answers and self.stats.lost:
                self._doubt_scheme(results)
        except LineError as error:  # the line could not be opened, or is lent
            results.append(error)
        finally:
            if self._link is not None:
                self._link.abandon()
            if self.stats.foreign >= self._foreign_told:
                self._tell_foreign()
            self._end_of_turn()
            self.stats.busy_ns += self.clock()[1] - begin_ns
            self._turn.release()
        return results

    async def listen(self, seconds: float) -> None:
        """Open the port and only receive for ``seconds``. Received bytes go to the trace. Raises LineDown or
        LineLent.
        """
        self._closed = False
        async with self._turn:
            try:
                await self._ready()
                await asyncio.sleep(seconds)
            finally:
                self._end_of_turn()

    def trim(self) -> None:
        """Release memory that the trace does not use."""
        if self._trace is not None:
            self._trace.trim()

    async def close(self) -> None:
        """Close the port and the trace, and end a lease. Requests that are under way or wait for their turn fail with
        LineDown; they do not open the port again. A later request opens it again.
        """
        self._closed = True
        if self._lease is not None:
            self._lease.end()
        self._drop()
        if self._trace is not None:
            self._trace.close()
            self._trace = None

    async def _retry(
        self,
        trouble: LineError,
        requests: Sequence[Request],
        results: list[Answer | LineError],
        options: RequestOptions,
    ) -> None:
        """Handle an error, then continue with the remaining requests.

        If a device is busy, its request is sent again after a pause. Broken answers and timeouts are retried. When no
        retry is left, the error becomes the result of the request. If that error is a timeout, or if the line is down
        or lent, the remaining requests are not sent.
        """
        at, tries = -1, 0
        reopened = False
        while True:
            if len(results) != at:
                at, tries = len(results), 0
            tries += 1
            self._count(trouble, requests[0].where)
            again = False
            if isinstance(trouble, DeviceException):
                self._prove()
                if trouble.busy and tries <= len(BUSY_PAUSES_S):
                    await asyncio.sleep(BUSY_PAUSES_S[tries - 1])
                    again = True
            elif isinstance(trouble, FrameError | MismatchError):
                again = self._link is not None and tries <= max(options.retries, 1)
            elif isinstance(trouble, LineTimeout):
                self._suspect_silence()
                again = tries <= options.retries
            elif isinstance(trouble, LineDown) and self._proven and not reopened:
                # the device may have closed an idle connection just when we sent the request
                again = reopened = True
                self._proven = False
            if not again:
                results.append(trouble)
                if isinstance(trouble, LineTimeout | LineDown | LineLent) or len(results) == len(requests):
                    return
            link = await self._ready()
            next_trouble = await link.run(requests, results, options)
            if next_trouble is None:
                self._prove()
                return
            trouble = next_trouble

    def _prove(self) -> None:
        """Called when a device has answered: the connection works, so the pauses of an earlier outage are over."""
        if not self._proven:
            self._proven = True
            self._backoff.reset()

    def _count(self, trouble: LineError, asked: str) -> None:
        """Count an error for the line and for one device. ``asked`` is the ``Request.where`` of the device."""
        stats, device = self.stats, self.stats.of_device(asked)
        if isinstance(trouble, LineTimeout):
            stats.timeouts += 1
        elif isinstance(trouble, DeviceException):
            stats.exceptions += 1
            device.sound += 1
        elif isinstance(trouble, MismatchError):
            stats.mismatches += 1
            device.mismatches += 1
        elif isinstance(trouble, FrameError):
            stats.broken += 1
            device.broken += 1
        if self._trace is not None and isinstance(trouble, MismatchError | FrameError):
            self._trace.put(BROKEN, trouble.what.encode(), self.clock()[0])

    def _suspect_silence(self) -> None:
        """Close a connection on which no device answers, so that the next request opens a new one.

        If no device has ever answered on it, the new connection begins with the next address of the host name. A UDP
        connection opens without any answer, and a TCP connection may lead to another host.
        """
        if self._link is not None and self._link.silent >= SILENT_BEFORE_REOPEN and self.target.scheme != "serial":
            if not self._proven:
                self.target = replace(self.target, first=self.target.first + 1)
            self._drop()

    async def _ready(self) -> Link:
        """Return the open link. Opens the port if necessary. Raises LineLent or LineDown.

        During the pause after a failure, and after ``close``, the port is not opened: LineDown is raised at once.
        """
        self._raise_if_closed()
        if self._lease is not None:
            raise LineLent(f"the line is lent to {self._lease.holder}", where=self.where)
        if self._link is not None:
            return self._link
        loop = asyncio.get_running_loop()
        if loop.time() < self._retry_at and self._why_down is not None:
            raise LineDown(self._why_down.what, where=self._why_down.where, hint=self._why_down.hint)
        port = await self._open()
        if self._closed:
            port.close()
            self._release_connection()
            self._raise_if_closed()
        if port.failed_addresses:  # reopen at the address that works: each other one may cost seconds
            self.target = replace(self.target, first=self.target.first + port.failed_addresses)
        self.stats.opened += 1
        self.stats.notes.update(port.notes)
        self._proven = False
        if (scheme := find_scheme(self.target.scheme)) is not None:
            self._link = scheme.link_class()(port, self.clock, self.stats, self._trace, self._lost)
        else:
            char_s = self._setting.char_s if self._setting else 11 / self.config.bus_baud if self.config.bus_baud else 0
            self._link = ByteLink(
                port, self.clock, self.stats, self._trace, self._lost, char_s=char_s, echo=self.config.echo
            )
        if self._why_down is not None:
            _log.info("%s: reopened", self.where)
            self._why_down = None
        if self._connect_delay_s:
            await asyncio.sleep(self._connect_delay_s)
            if self._link is None:
                raise self._why_down or LineDown("the line was closed during its connect delay", where=self.where)
        return self._link

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise LineDown("closed", where=self.where)

    async def _open(self) -> Port:
        """Open the port. Waits until the host's connection limit allows it. Raises LineDown."""
        what = f"no connection within {OPEN_TIMEOUT_S:g} s"
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                if self._limiter is not None:
                    waiting, what = what, f"other lines use all connections that {self._limiter.name} allows"
                    await self._limiter.acquire(self, self._connections)
                    what = waiting
                return await self._opener(self.config, self.target, self._setting)
        except TimeoutError:
            raise self._failed(down(self.where, None, what)) from None
        except OSError as error:
            what = f"cannot open {self.config.url}" if self.name else "cannot open"
            raise self._failed(down(self.where, error, what)) from error
        except asyncio.CancelledError:
            self._release_connection()
            raise

    def release_if_idle(self) -> None:
        """Called when another line waits for a connection to this host. Closes the connection of this line if it is
        idle.
        """
        if not self._turn.locked():
            self._drop()

    def _end_of_turn(self) -> None:
        """Close the connection if another line to this host waits for one. It is reopened for the next turn of this
        line.
        """
        if self._limiter is not None and self._limiter.is_contended and self._link is not None:
            self._drop()

    def _tell_foreign(self) -> None:
        """Warn about unsolicited frames: once, and again whenever their number has grown tenfold."""
        self._foreign_told = self.stats.foreign * 10
        _log.warning(
            "%s: %d unsolicited frames. Is there a second master, or noise?",
            self.where,
            self.stats.foreign,
        )

    def _failed(self, error: LineDown) -> LineDown:
        self._release_connection()
        self.stats.open_failures += 1
        self._rest(error)
        return error

    def _doubt_scheme(self, results: list[Answer | LineError]) -> None:
        """Add a hint to a LineDown in the last result: the other end may have closed the connection because the scheme
        is wrong.
        """
        last = results[-1]
        if isinstance(last, LineDown):
            hints = [scheme.hint for scheme in own_schemes()]
            results[-1] = LineDown(last.what, where=last.where, hint=". ".join(filter(None, (*hints, last.hint))))

    def _lost(self, link: Link, error: LineError) -> None:
        """Called by a link whose port broke."""
        if link is not self._link:
            return
        self.stats.lost += 1
        self._drop()
        if self._proven:  # many devices close idle connections: reopen at once, and log only if reopening fails
            self._retry_at, self._why_down = 0.0, None
        else:  # the connection broke before it was used: treat this as a failure to open
            self._rest(error)

    def _rest(self, error: LineError) -> None:
        """Pause the line after a failure. Each pause is longer than the previous pause."""
        if self._why_down is None:
            _log.warning("%s", error)
        self._why_down = error
        self._retry_at = asyncio.get_running_loop().time() + self._backoff.next_s()

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._release_connection()

    def _release_connection(self) -> None:
        if self._limiter is not None:
            self._limiter.release(self)


LineFactory = Callable[..., Line]  # a function with the arguments of ``open_line``


def open_line(
    config: LineConfig,
    clock: Callable[[], tuple[int, int]] | None = None,
    *,
    trace: FrameTrace | None = None,
    opener: PortOpener = open_port,
) -> Line:
    """Make the line of ``config``. Does not open its port.

    Args:
        clock: returns (UTC ns, monotonic ns); None: the clock of the operating system.
        trace: receives the line's frames; it is closed with the line.
        opener: opens the line's port; a simulation with simulated time passes its own function.

    Raises:
        ConfigError: an invalid address or setting.
    """
    if clock is None:
        from ext.clock import now

        clock = now
    return Line(config, clock, trace, opener)
