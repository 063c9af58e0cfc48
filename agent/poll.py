"""The poll scheduler. It polls the devices of a line, earliest deadline first, and limits the time for dead devices.

Each line has one ``LinePoller``. The poller owns no transport and knows no protocol. It calls ``poll`` and ``probe`` of
the drivers, which write records into the ring. It passes on the ring positions of these records.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from agent.clock import SteadyClock, TickTimer, WakeableSleep
from agent.line_silence import DEAD_AFTER_FAILURES, LineSilence, NotAsked
from drivers.backoff import Backoff
from drivers.freshness import Freshness
from drivers.model import (
    PACES,
    FrameError,
    FreshnessRule,
    GatewayTimeout,
    LineDown,
    LineError,
    LineLent,
    LineTimeout,
    MismatchError,
    Reason,
)
from ext.ring import Ring

if TYPE_CHECKING:
    from drivers.protocol import Driver

log = logging.getLogger("meterhouse.poll")
ONCE = PACES.index("once")
# A device counts as dead if it has not answered for DEAD_AFTER_MS and for DEAD_AFTER_PERIODS times its shortest period.
DEAD_AFTER_MS = 10_000
DEAD_AFTER_PERIODS = 3
FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
DEAD_SHARE = 0.1  # all dead devices of a line together may take this share of the line's time
SILENCE_SHARE = 0.05  # if no device of a line answers, the pause between two tries is this share of the silent time
# The timeout of a short try is SHORT_TRY_S or, if this is longer, ANSWER_TIMES the usual answer time of the device.
SHORT_TRY_S = 0.3
ANSWER_TIMES = 2
FULL_TRY_EVERY = 4  # every fourth try uses the full timeout, in case the device has become slow
MAX_WAIT_ROUNDS = 4  # the deadline of a slow pace is at most this many of the shortest periods after its tick
AWAY_MS = 10_000  # after this long without an answer, the meter may have been exchanged
IDENTIFY_EVERY_MS = 86_400_000  # the identity is read at least once in this time, even if the device always answers
# If the line was reopened, or the driver doubts a counter, another device may answer now. The identity is then checked.
# A check takes time from readings, so the pauses between such checks grow from the first to the second of these values.
DOUBT_FIRST_S, DOUBT_MOST_S = 60.0, 3600.0
HEARTBEAT_RETRY_MS = 200  # pause between reads of a heartbeat, until its value changes for the first time
CATCH_UP_MS = 60_000  # ticks that are missed within this time after a lease of the line get the gap reason ``lent``
FIRST_CONTACT_MS = 30_000  # a new device can wait this long for its first visit; this time does not become a gap


# a function with the arguments: number of the point table, ring positions, True if the device answered
Record = Callable[[int, list[int], bool], None]
Identify = Callable[[int], Awaitable[None]]  # a function with the argument: tick in ms


class Availability(Enum):
    """Whether a device answers."""

    # not identified yet, or the line was down; in both cases the next visit must read the identity first
    UNKNOWN = "unknown"
    ALIVE = "alive"
    DEAD = "dead"


class DevicePoll:
    """The schedule of one device (due and pending points), and whether the device answers.

    Args:
        record: called with the ring positions that a poll has written.
        identify: called before the readings of the device are accepted. It reads the identity, can exchange ``driver``,
            and raises LineError if the device does not answer. None: the device is only probed.
    """

    def __init__(
        self, driver: Driver, ring: Ring, start_ms: int, record: Record, identify: Identify | None = None
    ) -> None:
        self.ring, self._record, self.identify = ring, record, identify or self._probe
        self.has_recorded = False
        # moves the start of the device's stream to a tick; returns False if it is too late for that
        self.begin_at: Callable[[int], bool] = lambda tick_ms: False
        self.availability = Availability.UNKNOWN
        self.failures = 0
        self._garbled = 0  # number of failures in which bytes arrived, but no valid answer
        self.probe_at = 0.0  # time of the event loop when a device that is not alive is tried next
        self._backoff = Backoff(FIRST_BACKOFF_S, MAX_BACKOFF_S)
        self.last_answer_ms = 0
        # time of the first answer after the last long silence; 0: the device has not answered yet
        self.answering_since_ms = 0
        self.added_ms = start_ms
        self._skipped_ms = 0  # time by which the clock was set since the last answer: it did not pass
        self.is_silent = False  # True: its last request was not answered, so the next try is one short request
        self.answer_s = 0.0  # the longest recent time from a request to its answer, including the time on the wire
        self._tries = 0  # consecutive tries of the silent device
        self.tried_at = 0.0  # loop time of the last try
        # True: another device that became silent at the same time answers again, so this device is tried soon
        self.is_called = False
        self.line_silence = LineSilence()  # the poller replaces it with the object that all devices of the line share
        self.not_asked = NotAsked()
        self.last_error = ""
        self._may_sleep = True  # False after an invalid answer, because a device that sleeps sends no bytes
        self.line_down = False  # True: the last visit failed because the line could not be opened, or broke
        self.gateway_answers = False  # True: the gateway between line and device answers, but the device does not
        self._logged_dead = False  # True: the log already states that the device does not respond
        self.overloads = 0
        self.working: int = 0  # tick of the current poll in UTC ms; 0: no poll
        self.turn = 0  # the value of ``LinePoller.turns`` at the last poll of this device
        self.paused = False  # True: no poll of a new tick begins
        self._settled: asyncio.Future[None] | None = None
        self.driver = driver
        self.opened: Callable[[], int] = lambda: 0  # returns how often the line has been opened
        self.answers: Callable[[], int] = lambda: 0  # returns how many answers the line has had so far
        self._visit = (0, 0)  # last progress of the current visit: time in ms, and the value of ``answers`` then
        # at the last identification: how often the line had been opened, and how often the driver had doubted a counter
        self._hints = (0, 0)
        self._doubt_backoff = Backoff(DOUBT_FIRST_S, DOUBT_MOST_S)
        self._doubt_ms = 0  # before this tick, hints that another device answers are ignored
        self.freshness: Freshness | None = None  # not None if the device is read through a caching master
        self.align(start_ms)

    def step(self, old_ms: int, new_ms: int) -> None:
        """Begin the schedule again after the clock was set. The duration of a silence is not changed by this."""
        silent_ms = self.silent_ms(old_ms)
        self.align(new_ms)
        self._skipped_ms = 0
        self._skipped_ms = self.silent_ms(new_ms) - silent_ms

    def silent_ms(self, now_ms: int) -> int:
        """Return the time that has passed since the last answer; without an answer, since polling began."""
        return now_ms - (self.last_answer_ms or self.added_ms) - self._skipped_ms

    def align(self, start_ms: int) -> None:
        """Begin the schedule at ``start_ms``. Nothing is pending; points of pace ``once`` are due at the first tick."""
        self.periods = self._wanted_periods()
        self.pending = [0] * len(PACES)
        self.identified_ms = 0  # tick at which the identity was last read; 0: it was never read
        self.asked_ms = 0  # the newest tick that was polled; older ticks may still be pending
        self.next = [self._first_tick(period, start_ms) for period in self.periods]
        if self.periods[ONCE]:
            others = [n for n, p in zip(self.next, self.periods, strict=True) if p and p < self.periods[ONCE]]
            self.next[ONCE] = min(others, default=start_ms)
        self._periods_changed()
        self.first_ms = self.next_ms
        self.added_ms, self.last_answer_ms = min(self.added_ms, start_ms), min(self.last_answer_ms, start_ms)
        self._doubt_ms = 0

    def _periods_changed(self) -> None:
        """Recompute what depends on the periods, the next ticks and the driver's points."""
        self._used = [(pace, period) for pace, period in enumerate(self.periods) if period]
        shortest_ms = min((period for _, period in self._used), default=0)
        self._max_urgency_ms = MAX_WAIT_ROUNDS * (shortest_ms or 1000)
        # after this time without an answer, in ms, the device counts as dead
        self.dead_after_ms = max(DEAD_AFTER_MS, DEAD_AFTER_PERIODS * shortest_ms)
        self._next_ms = -1  # the earliest tick in ``next``; -1: ``next`` has changed, and this must be computed again
        self._points: dict[int, array[int]] = {}

    def begin_again(self, now_ms: int) -> bool:
        """If the first answer of the device comes several ticks after its start, begin its schedule at the newest tick.

        Returns True if the schedule began again. With thousands of devices, the agent needs a while to reach the last
        device, and this time must not become a gap. If a device does not answer, all ticks from its start on are due.
        """
        fastest = min((period for period in self.periods if period), default=0)
        newest_ms = self._first_tick(fastest, now_ms + 1 - fastest)
        if self.has_recorded or newest_ms <= self.first_ms or not self.begin_at(newest_ms):
            return False
        self.align(newest_ms)
        self.advance(newest_ms)
        return True

    def take(self, tick: int, paces: int) -> None:
        """Record that the points of a tick are being polled now. ``paces``: bit mask of their paces."""
        for pace, _ in self._used:
            if paces >> pace & 1:
                self.pending[pace] = 0
        self.working = tick
        self.asked_ms = max(self.asked_ms, tick)

    def awaits_first_record(self, now_ms: int) -> bool:
        """True if the device's first tick is past, and the device still waits for its first visit (30 s at most)."""
        return not self.has_recorded and 0 < self.first_ms <= now_ms < self.first_ms + FIRST_CONTACT_MS

    def _wanted_periods(self) -> list[int]:
        """Return the period of each pace in ms; 0: no point of the driver has this pace."""
        spec = self.driver.spec
        used = {PACES.index(point.pace) for point in spec.points}
        return [period if pace in used else 0 for pace, period in enumerate(spec.periods_ms)]

    def _first_tick(self, period: int, at_ms: int) -> int:
        """Return the first tick of a period at or after a time; 0 if the period is 0."""
        phase = self.driver.spec.phase_ms
        return -((phase - at_ms) // period) * period + phase if period else 0

    def driver_changed(self) -> None:
        """Adapt the schedule to a new driver with other points.

        The pending points of paces whose period is unchanged stay pending.
        """
        now = max(self.working, self.first_ms)
        for pace, wanted in enumerate(self._wanted_periods()):
            if wanted != self.periods[pace]:
                self.periods[pace] = wanted
                self.pending[pace] = 0
                self.next[pace] = self._first_tick(wanted, now + 1)
        self._periods_changed()

    def exchange(self, driver: Driver, cut_ms: int) -> None:
        """Continue with the driver of a new configuration from ``cut_ms`` on. The device must be paused and idle."""
        before = self.driver.spec
        self.driver = driver
        for pace, wanted in enumerate(self._wanted_periods()):
            if wanted != self.periods[pace] or driver.spec.phase_ms != before.phase_ms:
                self.periods[pace] = wanted
                self.next[pace] = self._first_tick(wanted, cut_ms)
        self._periods_changed()
        self.availability, self.failures, self._garbled, self.probe_at = Availability.UNKNOWN, 0, 0, 0.0
        self.is_silent, self.answer_s, self._tries = False, 0.0, 0
        self.is_called = False
        self._backoff.reset()

    def use_ring(self, ring: Ring, table: int) -> None:
        """Write into another ring from now on, under table number ``table``. The device must be paused and idle."""
        self.ring = ring
        self.driver.use_ring(ring, table)

    @property
    def idle(self) -> bool:
        """True if nothing is pending and no poll is running."""
        return not self.working and not any(self.pending)

    async def pause(self) -> None:
        """Begin no new tick, and wait until all pending points are polled.

        Then the device can be changed without a gap.
        """
        self.paused = True
        while not self.idle:
            self._settled = asyncio.get_running_loop().create_future()
            await self._settled

    def resume(self) -> None:
        """Continue after ``pause``. Ticks that became due during the pause are polled now."""
        self.paused, self._settled = False, None

    def visit_ended(self) -> None:
        """Call this at the end of each poll. Wakes ``pause`` if the device is idle now."""
        self.working = 0
        if self._settled is not None and self.idle and not self._settled.done():
            self._settled.set_result(None)

    @property
    def next_ms(self) -> int:
        """The next tick that is not pending yet, in UTC ms; 0 if the device has no periods."""
        if self._next_ms < 0:
            self._next_ms = min([self.next[pace] for pace, _ in self._used], default=0)
        return self._next_ms

    @property
    def settled_ms(self) -> int:
        """The time in UTC ms before which the ring has an answer or a gap for every tick."""
        if self.idle:
            return self.next_ms or 1 << 62
        held = [tick for tick in self.pending if tick]
        if self.working:
            held.append(self.working)
        return min(held)

    def advance(self, now_ms: int, reason: Reason = Reason.OVERLOAD) -> list[int]:
        """Make the ticks up to ``now_ms`` pending. Points that are still pending from an earlier tick become gaps.

        Returns the ring positions of these gaps. ``reason`` is their reason; but if the line was silent, ``overload``
        is replaced by the reason for the silence. While the device waits for its first visit (30 s at most), points
        stay pending and do not become gaps.
        """
        late: list[int] = []
        waits = self.awaits_first_record(now_ms)
        self._next_ms = -1
        for pace, period in self._used:
            while self.next[pace] <= now_ms:
                if self.pending[pace]:
                    if waits:
                        break
                    late.append(self._late_gap(pace, reason))
                self.pending[pace] = self.next[pace]
                step = period if pace != ONCE else period - self.next[pace] % period
                self.next[pace] += step
        return late

    def give_up_before(self, tick_ms: int) -> None:
        """Turn the pending points of ticks before ``tick_ms`` into gaps of the current table.

        Call this before the device gets a table that begins at ``tick_ms``. Readings of older ticks would belong to
        no pack of that table.
        """
        late = [pace for pace, tick in enumerate(self.pending) if 0 < tick < tick_ms]
        if late:
            self.record([self._late_gap(pace, Reason.OVERLOAD) for pace in late], False)
        for pace in late:
            self.pending[pace] = 0

    def _late_gap(self, pace: int, reason: Reason) -> int:
        """Write a gap for the pending points of a pace. Returns its ring position."""
        tick = self.pending[pace]
        if reason is Reason.OVERLOAD:
            reason = self.line_silence.reason_for(tick, self.next[pace])
            self.overloads += reason is Reason.OVERLOAD
        return self.gap(tick, 1 << pace, reason)

    def deadline(self) -> tuple[int, int, int]:
        """Return (deadline in ms, tick, bit mask of paces) of the most urgent pending tick; zeros if none is pending.

        A deadline is one period after the tick, but at most ``MAX_WAIT_ROUNDS`` periods of the fastest pace after it.
        Without this limit, an overloaded line would never poll its slow paces.
        """
        if not any(self.pending):
            return 0, 0, 0
        best = tick = paces = 0
        for pace, period in self._used:
            if pending := self.pending[pace]:
                urgent = pending + min(period, self._max_urgency_ms)
                if not best or urgent < best:
                    best, tick = urgent, pending
        for pace, _ in self._used:
            if self.pending[pace] == tick:
                paces |= 1 << pace
        return best, tick, paces

    def needs_identification(self, tick_ms: int) -> bool:
        """Return True if the identity must be read before readings count.

        The identity is read after an absence, once a day, and if another device may answer (see ``DOUBT_FIRST_S``).
        """
        away = self.failures and tick_ms - self.last_answer_ms >= AWAY_MS
        hinted = tick_ms >= self._doubt_ms and self._current_hints() != self._hints
        return bool(away) or hinted or tick_ms - self.identified_ms >= IDENTIFY_EVERY_MS

    def _current_hints(self) -> tuple[int, int]:
        return self.opened(), getattr(self.driver, "doubts", 0)  # drivers of third parties may have no ``doubts``

    def mark_identified(self, tick_ms: int) -> None:
        """Record that the identity was read at this tick."""
        if (hints := self._current_hints()) != self._hints and self.identified_ms:
            if tick_ms - self.identified_ms > 2000 * DOUBT_MOST_S:
                self._doubt_backoff.reset()
            self._doubt_ms = tick_ms + int(self._doubt_backoff.next_s() * 1000)
        self._hints, self.identified_ms = hints, tick_ms

    async def _probe(self, tick_ms: int) -> None:
        await self.driver.probe()

    async def try_again(self) -> None:
        """Send one request to a silent device. Raises LineError.

        Most tries have a short timeout, because the other devices of the line must wait until the try ends.
        """
        self._tries += 1
        probe_within = getattr(self.driver, "probe_within", None)  # drivers of third parties may not have this method
        if probe_within is None:
            await self.driver.probe()
            return
        usual_s = max(self.answer_s, self.driver.spec.limits.turnaround_s or 0.0)
        is_short = self._tries % FULL_TRY_EVERY != 0
        await probe_within(max(SHORT_TRY_S, ANSWER_TIMES * usual_s) if is_short else math.inf)

    def answered_in(self, seconds: float, requests: int) -> None:
        """Record the duration, in seconds, of a visit in which all ``requests`` were answered."""
        self.answer_s = max(seconds / requests, 0.9 * self.answer_s)

    def record(self, positions: list[int], answered: bool) -> None:
        """Pass on the ring positions that a poll has written."""
        self.has_recorded = True
        self._record(self.driver.table, positions, answered)

    def gap(self, tick_ms: int, paces: int, reason: Reason) -> int:
        """Write a gap for the points of ``paces`` (a bit mask) at a tick into the ring.

        Returns the gap's ring position.
        """
        points = self._due(paces)
        if self._may_sleep:
            reason = self.driver.spec.silence(reason, tick_ms)
        self.note_not_asked(tick_ms, paces, reason)
        return self.ring.append_gap(
            self.driver.table, reason, tick_ms, time.time_ns(), time.monotonic_ns(), memoryview(points)
        )

    def note_not_asked(self, tick_ms: int, paces: int, reason: Reason) -> None:
        """Count the points of a tick in ``not_asked`` if ``reason`` is ``absent``. For other reasons, do nothing."""
        if reason is Reason.ABSENT:
            self.not_asked.add(tick_ms, len(self._due(paces)))

    def _due(self, paces: int) -> array[int]:
        points = self._points.get(paces)
        if points is None:
            points = array("H", (n for n, p in enumerate(self.driver.spec.points) if paces >> PACES.index(p.pace) & 1))
            self._points[paces] = points
        return points

    @property
    def answers_now(self) -> bool:
        """True if the device is alive and answered its last request."""
        return self.availability is Availability.ALIVE and not self.is_silent

    def call(self) -> None:
        """Arrange that the device is tried at its next tick with a short request, as if it had just become silent."""
        self.is_called, self._tries, self.probe_at = True, 1, 0.0
        self._backoff.reset()

    @property
    def is_backing_off(self) -> bool:
        """True if the device is dead, or has been tried again since it became silent.

        These devices share a small part of the line's time.
        """
        return self.availability is Availability.DEAD or self._tries > 0

    def is_asleep(self, utc_ms: int) -> bool:
        """Return True if the device is silent because it sleeps in the dark, according to its profile.

        An inverter powers its dongle, so the dongle sleeps too.
        """
        silent = self.availability is Availability.DEAD or (
            self.availability is Availability.UNKNOWN and bool(self.last_error)
        )
        silent = self._may_sleep and (silent or self._has_died(utc_ms))
        return silent and self.driver.spec.silence(Reason.TIMEOUT, utc_ms) is Reason.ASLEEP

    def is_overdue(self, now_ms: int) -> bool:
        """True if the device has been silent for at least ``dead_after_ms``."""
        return now_ms - max(self.last_answer_ms, self.added_ms) >= self.dead_after_ms

    @property
    def is_garbled(self) -> bool:
        """True if, in most of the failures since the last answer, bytes arrived but no valid answer."""
        return 2 * self._garbled > self.failures

    def _has_died(self, now_ms: int) -> bool:
        return self.failures >= DEAD_AFTER_FAILURES and self.is_overdue(now_ms)

    def life(self, now_ms: int) -> str:
        """Return ``alive``, ``dead`` or ``asleep`` for `status`; ``unknown`` until one of these is certain."""
        if self.is_asleep(now_ms):
            return "asleep"
        if self.availability is Availability.ALIVE:
            is_dead = self._has_died(now_ms) or self._hangs(now_ms) or self._is_in_silence(now_ms)
            return "dead" if is_dead else "alive"
        was_tried = self.availability is Availability.DEAD or self.last_error
        return "dead" if was_tried and self.is_overdue(now_ms) else "unknown"

    def _is_in_silence(self, now_ms: int) -> bool:
        """True if no device of the line has answered for ``dead_after_ms``.

        This is needed because the device itself may not have been polled while the line waited for other devices.
        """
        return self.is_overdue(now_ms) and self.line_silence.lasts_ms(now_ms) >= self.dead_after_ms

    def _hangs(self, now_ms: int) -> bool:
        """True if the current visit has had no answer for ``dead_after_ms``.

        This is needed because one request to a device behind a dongle can take half a minute.
        """
        if not self.working:
            self._visit = (0, 0)
        elif not self._visit[0] or self._visit[1] != self.answers():
            self._visit = (now_ms, self.answers())
        return bool(self._visit[0]) and now_ms - self._visit[0] >= self.dead_after_ms

    def mark_failed(self, now: float, error: LineError | None, tick_ms: int = 0) -> None:
        """Record a poll without any answer, and decide whether the device is dead.

        ``now``: time of the event loop in s.
        """
        self.last_error = str(error) if error else "no answer"
        self.gateway_answers = isinstance(error, GatewayTimeout)
        self.line_down = isinstance(error, LineDown)
        self._may_sleep = self.driver.spec.may_sleep_by(error)
        if self.line_down:  # the device may be fine, and a new try is cheap, so there is no backoff
            self.availability = Availability.UNKNOWN
            return
        self.failures += 1
        self._garbled += isinstance(error, FrameError | MismatchError)
        self.is_silent = self.is_silent or isinstance(error, LineTimeout)
        if self.availability is not Availability.ALIVE or self._has_died(tick_ms):
            self.availability = Availability.DEAD
            if not self._logged_dead:
                self._logged_dead = True
                if self.is_asleep(tick_ms):
                    log.info("%s does not respond: it is asleep in the dark", self.driver.spec.name)
                else:
                    text = "%s is not responding and is polled less often until it answers: %s"
                    log.warning(text, self.driver.spec.name, self.last_error)
        if self.availability is Availability.DEAD or self._tries:
            self.probe_at = now + self._backoff.next_s()

    def mark_alive(self, now_ms: int) -> None:
        """Record an answer of the device."""
        if self._logged_dead:
            self._logged_dead = False
            since = f" again after {self.silent_ms(now_ms) / 1000:.0f} s" if self.last_answer_ms else ""
            log.info("%s responds%s", self.driver.spec.name, since)
        if not self.last_answer_ms or (
            self.is_overdue(now_ms) and (self.failures or self.availability is not Availability.ALIVE)
        ):
            self.answering_since_ms = now_ms
        self.availability = Availability.ALIVE
        self.failures = self._garbled = 0
        self.is_silent, self._tries, self.probe_at = False, 0, 0.0
        self.is_called, self._may_sleep = False, True
        self._backoff.reset()
        self.last_answer_ms, self._skipped_ms = now_ms, 0
        self.last_error, self.line_down = "", False


class LinePoller:
    """Polls the devices of one line, the most urgent device first.

    Args:
        timer: wakes this poller at its ticks, together with the pollers of other lines. None: a timer of its own.
    """

    def __init__(self, devices: Sequence[DevicePoll], clock: SteadyClock, timer: TickTimer | None = None) -> None:
        self._clock, self._timer = clock, timer or TickTimer(clock)
        self._silence = LineSilence()
        self._take_up(devices)
        self.stopping = False  # True: ``run`` ends after the current poll
        self._dead_until = 0.0  # until this loop time, no silent device is tried
        self._wake_ms = 0
        self._turn = 0
        self._lent_ms = 0  # time at which the line was last found lent; 0: all devices were polled again since then
        self._after_lease: set[DevicePoll] = set()  # devices that were not polled since the last lease
        self._rest = WakeableSleep()

    @property
    def turns(self) -> int:
        """The number of polls so far."""
        return self._turn

    def serve(self, devices: Sequence[DevicePoll]) -> None:
        """Poll these devices from now on. Devices that are no longer in the list must be idle."""
        self._take_up(devices)
        self.wake()

    def _take_up(self, devices: Sequence[DevicePoll]) -> None:
        self._devices = tuple(devices)
        for device in self._devices:
            device.line_silence = self._silence

    def wake(self) -> None:
        """Look for due points now. Call this after the schedule of a device has changed."""
        self._wake_ms = 0
        self._rest.wake()

    @property
    def busy(self) -> bool:
        """True during a poll."""
        return any(device.working for device in self._devices)

    async def run(self) -> None:
        """Poll until cancelled, or until ``stopping`` is set and the current poll has ended."""
        clock = asyncio.get_running_loop().time
        while not self.stopping:
            devices = self._devices
            now_ms = self._clock.now_ms()
            if now_ms >= self._wake_ms:
                is_behind = 0 < now_ms - self._lent_ms < CATCH_UP_MS
                why = Reason.LENT if is_behind else Reason.OVERLOAD
                for device in devices:
                    if 0 < device.next_ms <= now_ms and not device.paused and (late := device.advance(now_ms, why)):
                        device.record(late, False)
                self._wake_ms = min([ms for device in devices if (ms := device.next_ms)], default=0)
            chosen: DevicePoll | None = None
            best = tick = paces = 0
            for device in devices:
                at, t, p = device.deadline()
                # if deadlines are equal, choose the device that has waited longest; else the last device could starve
                if at and (chosen is None or at < best or (at == best and device.turn < chosen.turn)):
                    chosen, best, tick, paces = device, at, t, p
            if chosen is None:
                # the lease no longer has an effect if all devices were polled again
                if self._lent_ms and not self._after_lease.intersection(devices):
                    self._lent_ms = 0
                await self._rest.until(self._wake_ms or now_ms + 1000, self._timer)
                continue
            self._turn += 1
            chosen.turn = self._turn
            self._after_lease.discard(chosen)
            chosen.take(tick, paces)
            try:
                await self._poll(chosen, tick, paces, clock)
            finally:
                chosen.visit_ended()

    def _answered(self, device: DevicePoll) -> None:
        """Record an answer. If the device has recovered, also try the devices that became silent at the same time."""
        if device.is_backing_off and not device.is_called:
            for other in self._devices:
                apart_ms = abs(other.last_answer_ms - device.last_answer_ms)
                if (
                    other is not device
                    and other.is_backing_off
                    and apart_ms < max(device.dead_after_ms, other.dead_after_ms)
                ):
                    other.call()
        self._silence.visits = 0
        device.mark_alive(self._clock.now_ms())

    def _may_try(self, device: DevicePoll, now: float) -> bool:
        """True if the device may be tried now.

        Of several silent devices, the one with the oldest last try comes first.
        """
        if device.is_called or not (device.is_backing_off or now < device.probe_at):
            return True
        nobody_answers = self._nobody_answers()
        if now < self._dead_until or (now < device.probe_at and not nobody_answers):
            return False
        return not any(
            other.tried_at < device.tried_at and any(other.pending) and other.is_backing_off
            for other in self._devices
            if other is not device and (nobody_answers or now >= other.probe_at)
        )

    def _nobody_answers(self) -> bool:
        """Return True if all devices are silent.

        In this case a try takes no time from a device that answers, and the first answer shows that the line works
        again.
        """
        return not any(device.answers_now for device in self._devices)

    def _rest_s(self, spent_s: float) -> float:
        """Return the pause, in s, until the next try of a silent device, after a try that took ``spent_s``."""
        if any(device.answers_now for device in self._devices):
            return spent_s * (1 / DEAD_SHARE - 1)
        silent_s = self._silence.lasts_ms(self._clock.now_ms()) / 1000
        return max(spent_s, min(SILENCE_SHARE * silent_s, MAX_BACKOFF_S / len(self._devices)))

    def _failed(self, device: DevicePoll, now: float, error: LineError, tick: int) -> None:
        """Record a visit without any answer. If the line was lent, the device's state does not change."""
        if isinstance(error, LineLent):
            self._after_lease.update(self._devices)
            self._lent_ms = self._clock.now_ms()
        else:
            device.mark_failed(now, error, tick)

    async def _poll(self, device: DevicePoll, tick: int, paces: int, clock: Callable[[], float]) -> None:
        must_identify = (
            device.availability is not Availability.ALIVE or paces >> ONCE & 1 or device.needs_identification(tick)
        )
        if must_identify or device.is_silent:
            reached = await self._reach(device, tick, paces, bool(must_identify), clock)
            if reached is None:
                return
            tick, paces = reached
        if device.driver.spec.fresh is not None and not await self._source_is_fresh(device, tick, paces, clock):
            return
        began = clock()
        result = await device.driver.poll(tick, paces)
        device.record(result.positions, result.answered > 0)
        if result.error is not None:
            now_ms = self._clock.now_ms()
            self._silence.waited(now_ms - round((clock() - began) * 1000), now_ms, result.error)
        if result.answered:
            self._answered(device)
            if result.answered == result.asked:
                device.answered_in(clock() - began, result.asked)
        elif result.error is not None:
            device.note_not_asked(tick, paces, device.driver.spec.reason_of(result.error, tick))
            self._failed(device, clock(), result.error, tick)

    async def _reach(
        self, device: DevicePoll, tick: int, paces: int, must_identify: bool, clock: Callable[[], float]
    ) -> tuple[int, int] | None:
        """Try a silent device, and read its identity if needed.

        Returns the tick and paces to poll. Returns None, and writes a gap, if the device did not answer or must not be
        tried now.
        """
        began, began_ms = clock(), self._clock.now_ms()
        if not self._may_try(device, began):
            device.record([device.gap(tick, paces, Reason.ABSENT)], False)
            return None
        device.tried_at = began
        try:
            if device.is_silent:
                await device.try_again()
            if must_identify:
                await device.identify(tick)
        except LineError as error:
            now = clock()
            self._failed(device, now, error, tick)
            device.record([device.gap(tick, paces, error.reason)], False)
            self._silence.waited(began_ms, self._clock.now_ms(), error)
            device.is_called = False
            if not isinstance(error, LineLent):
                self._dead_until = now + self._rest_s(now - began)
            return None
        self._answered(device)
        if device.begin_again(self._clock.now_ms()):
            _, tick, paces = device.deadline()
            device.take(tick, paces)
            self._wake_ms = 0
        if must_identify:
            device.mark_identified(tick)
            if device.periods[ONCE]:
                paces |= 1 << ONCE  # points of the pace ``once`` are read again with each identity check
        return tick, paces

    async def _source_is_fresh(self, device: DevicePoll, tick: int, paces: int, clock: Callable[[], float]) -> bool:
        """Return whether the source behind a caching master is alive. If it is not, write a gap.

        Called before each poll of a device whose profile has a rule for this.
        """
        rule = device.driver.spec.fresh
        assert rule is not None
        judge = device.freshness
        if is_first := judge is None or judge.rule != rule:
            judge = device.freshness = Freshness(rule)
        assert judge is not None
        stale_s, is_fresh, began_ms = judge.stale_s, False, self._clock.now_ms()
        try:
            reading = (await device.driver.read_points([rule.point]))[rule.point]
            while not (is_fresh := judge.judge(reading, clock())) and is_first and self._may_read_again(device, rule):
                await asyncio.sleep(HEARTBEAT_RETRY_MS / 1000)
                reading = (await device.driver.read_points([rule.point]))[rule.point]
        except LineError as error:
            self._failed(device, clock(), error, tick)
            device.record([device.gap(tick, paces, error.reason)], False)
            self._silence.waited(began_ms, self._clock.now_ms(), error)
            return False
        self._answered(device)
        if is_fresh:
            if stale_s is not None:
                log.info(
                    "%s: source recovered, its readings are fresh again (stale for %.0f s)",
                    device.driver.spec.name,
                    clock() - stale_s,
                )
            return True
        device.last_error = judge.why(reading)
        if stale_s is None:
            log.warning("%s: readings ignored as stale: %s", device.driver.spec.name, device.last_error)
        device.record([device.gap(tick, paces, Reason.STALE_SOURCE)], False)
        return False

    def _may_read_again(self, device: DevicePoll, rule: FreshnessRule) -> bool:
        """True if there is time to wait for the first change of a heartbeat, because no other device needs the line.

        At first the agent has not seen the heartbeat change, so it cannot tell whether the source is alive.
        """
        others_wait = any(any(other.pending) for other in self._devices if other is not device)
        has_time = self._clock.now_ms() + 2 * HEARTBEAT_RETRY_MS < self._wake_ms
        return rule.changes_within_s is not None and has_time and not others_wait and not self.stopping
