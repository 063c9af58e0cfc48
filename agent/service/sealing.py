"""The seal scheduler: seals each stream right after its first readings, and then at every pack boundary."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import ext.clock
from agent.clock import SteadyClock, WakeableSleep, kernel_boot
from agent.pack import seconds
from agent.poll import DevicePoll
from agent.service.db_thread import DatabaseThread
from agent.service.seal_jobs import SealJob, Stream
from drivers.model import Reason
from ext.ring import Ring

log = logging.getLogger("meterhouse")
# one call seals at most this many first packs, because identity checks wait for the database thread meanwhile
FIRST_STREAMS = 100
JOBS_AT_ONCE = 250  # packs of 10 s of 250 devices with 100 points at 1 Hz have about 7 MB
FIRST_SEAL_S = 1.5  # at the start, the first packs wait at most this long for the first readings
# the longest time between two turns of ``run``; it also applies if packs are sealed only every 15 minutes
TURN_MS = 5_000
BURST_MS = 250  # at a boundary, sealing waits at most this long for the answers of the tick at the boundary
# Interval of the checks for these answers. The first check is this long after the boundary, because the polls have
# begun by then.
LOOK_MS = 10
ALL_SETTLED = 1 << 62
LAST_EVENTS = 3  # a stop seals again at most this many times, because the packs just sealed can lead to new events
# interval in s of the checks for first packs, and for streams to seal ahead while half of the ring is unsealed
AHEAD_S = 0.25
AHEAD_STEP = 16  # a record wakes the scheduler again when another sixteenth of the ring is written
RETRY_S = 5.0  # if the store cannot commit, sealing ahead is tried again after this time


def pack_clock() -> dict[str, Any]:
    """Return the ``clock`` object for a pack that is made now."""
    state = ext.clock.state()
    return {
        "error_ms": None if state.error_us is None else state.error_us / 1000,
        "kernel_boot": kernel_boot(),
        "mono_ms": time.monotonic_ns() // 1_000_000,
        "synced": state.synced,
    }


class SealScheduler:
    """Decides when to seal streams, and applies the results to them. Used only in the loop."""

    def __init__(self, db_thread: DatabaseThread, clock: SteadyClock, every_ms: int) -> None:
        self._db_thread, self._clock = db_thread, clock
        self.every_ms = every_ms  # the pack interval in ms; a change takes effect at the next boundary
        self._lock = asyncio.Lock()
        self._gateway: Stream | None = None
        self._polls: dict[str, DevicePoll] = {}
        self._unsealed_first: dict[str, None] = {}  # names of the streams that have no pack of this run yet
        self.streams: dict[str, Stream] = {}
        self.removed: list[tuple[Stream, int]] = []  # (stream, end): this stream must still be sealed up to this end
        self.on_turn: Callable[[], Awaitable[None]] = _noop  # called and awaited at each turn of ``run``
        self.trouble: str | None = None  # the reason why nothing can be sealed now; None: sealing works
        self.key_trouble: str | None = None  # the same text if the reason is that the key cannot sign
        self._gap_reason = Reason.STOPPED  # gap reason for readings that are overwritten while sealing is paused
        # (ring, position): all records of this ring before this position are sealed
        self._unsealed: tuple[Ring, int] | None = None
        self._wake_at = 0  # a record at or after this ring position wakes ``run``, because half of the ring is unsealed
        self._rest = WakeableSleep()
        # True: half of the ring holds less than a pack interval. When it is unsealed, all streams are sealed, because a
        # burst of visits may need the whole ring.
        self.seals_early = False
        self._ahead_s = 0.0  # after a failure: loop time of the next try to seal ahead

    def open(self, gateway: Stream) -> None:
        """Begin with the stream ``gateway``, which receives the events of the gateway itself."""
        self._gateway = gateway
        self.streams[gateway.name] = gateway

    def add(self, stream: Stream, poll: DevicePoll) -> None:
        """Seal this stream from now on. ``poll`` states up to which time its ticks are settled."""
        self.streams[stream.name] = stream
        self._polls[stream.name] = poll
        self._unsealed_first[stream.name] = None

    def record(self, stream: Stream, number: int, positions: Sequence[int], answered: bool) -> None:
        """Add ring positions to a stream, see ``Stream.record``. Wake ``run`` if half of the ring is unsealed."""
        stream.record(number, positions, answered)
        if positions and positions[-1] >= self._wake_at and not self.trouble:
            self._rest.wake()

    def ring_changed(self) -> None:
        """Look at the ring again at the next record, because the streams begin to write into another ring."""
        self._wake_at = 0

    def remove(self, stream: Stream, end_ms: int) -> None:
        """End a stream. The next sealing seals it up to ``end_ms`` and then forgets it."""
        del self.streams[stream.name], self._polls[stream.name]
        self._unsealed_first.pop(stream.name, None)
        self.removed.append((stream, end_ms))

    def rings(self) -> set[Ring]:
        """Return the rings that have unsealed records, or to which a stream still writes."""
        streams = [*self.streams.values(), *(stream for stream, _ in self.removed)]
        return {version.ring for stream in streams for version in stream.table_versions}

    def add_event(self, stream: Stream, event: Mapping[str, Any]) -> None:
        """Add an event to the next pack of a stream, and to the ring, so that the event survives a kill."""
        now_ms, version = self._clock.now_ms(), stream.table_version
        event = {"t": seconds(now_ms), **event}
        version.ring.append_event(version.number, now_ms * 1_000_000, time.monotonic_ns(), json.dumps(event).encode())
        stream.events.append((now_ms, event))

    def gateway_event(self, event: Mapping[str, Any]) -> None:
        """Add an event to the gateway's own stream."""
        if self._gateway is not None:
            self.add_event(self._gateway, event)

    def loss_pending(self, names: Collection[str]) -> None:
        """Seal these streams at the next boundary even if they are silent, because they must state a loss."""
        for name in names:
            if name in self.streams:
                self.streams[name].news = True

    @property
    def first_packs_wait(self) -> bool:
        """Whether a device has answered, but its first pack of this run is still to be sealed."""
        return not self.trouble and bool(self._ready_first())

    def set_trouble(self, text: str | None, gap_reason: Reason = Reason.DISK) -> None:
        """Record why sealing is impossible: the store cannot commit, or (gap reason ``stopped``) the key cannot sign.

        ``text`` None: sealing is possible again.
        """
        if text and not self.trouble:
            log.error("sealing paused: %s", text)
        elif self.trouble and not text:
            log.warning("sealing resumed")
        self.trouble, self._gap_reason = text, gap_reason if text else Reason.STOPPED
        self.key_trouble = text if gap_reason is Reason.STOPPED else None

    async def run(self) -> None:
        """Seal until cancelled."""
        await self._seal_first_round()
        done_ms = waited_ms = self._clock.now_ms() // self.every_ms * self.every_ms
        while True:
            every = self.every_ms
            boundary = (self._clock.now_ms() - LOOK_MS) // every * every
            if boundary != waited_ms:
                await self.wait_for_burst(min(BURST_MS, every // 4) / 1000)
                waited_ms = boundary
            done_ms = min(done_ms, boundary)  # the clock may have been set back
            if self.removed:
                await self._flush_removed()
            leaving = {
                stream.name for stream, _ in self.removed
            }  # a device that was removed and added again must wait until its old stream is sealed
            waiting = [
                s for s in self.streams.values()
                if s.sealed_ms < boundary and s.due(boundary) and s.name not in leaving
            ]  # fmt: skip
            ready = [s for s in waiting if self._settled_ms(s) >= boundary]
            if ready:
                await self.seal(boundary, ready)
            await self.on_turn()
            if len(ready) < len(waiting):
                await self._wait(min(0.25, every / 4000))
                continue
            done_ms = boundary
            # limited below, because it is very long if the clock was just set back
            wait_ms = done_ms + every + LOOK_MS - self._clock.now_ms()
            await self._wait(max(10, min(wait_ms, every, TURN_MS)) / 1000)

    async def _wait(self, seconds: float) -> None:
        """Wait. Meanwhile seal the first packs of devices, and the streams that need space in the ring."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        # uvloop rounds a sleep to ms: without the lower limit, the last half millisecond would be spent in this loop
        while (left := end - loop.time()) > 0.0005:
            await self._rest.sleep(min(left, AHEAD_S) if self._unsealed_first or self._half_is_unsealed() else left)
            await self._seal_first()
            await self.seal_ahead()

    async def _seal_first(self) -> None:
        """Seal the first packs of devices that have answered since the last check."""
        for _ in range(0, len(self._unsealed_first), FIRST_STREAMS):
            ready = self._ready_first()
            if not ready or self.trouble or not await self.seal(self._clock.now_ms(), ready):
                return

    async def seal_ahead(self) -> None:
        """Seal streams whose oldest unsealed record is half a ring old, without waiting for the pack boundary.

        If the ring is small for the pack interval (``seals_early``), seal all streams at this moment.

        So a stalled store can catch up before the ring is full. A ring that is small for the pack interval loses no
        reading. The gap reasons of a silent stream are also sealed before they are overwritten.
        """
        loop = asyncio.get_running_loop()
        if self.trouble and loop.time() < self._ahead_s:
            return
        leaving = {stream.name for stream, _ in self.removed}
        behind = [s for s in self._half_a_ring_back() if self._settled_ms(s) > s.sealed_ms and s.name not in leaving]
        if behind and not await self.seal(self._clock.now_ms(), behind):
            self._ahead_s = loop.time() + RETRY_S

    def _half_is_unsealed(self) -> bool:
        """Return whether records half a ring back may be unsealed. True if it is not known yet."""
        if self._gateway is None:
            return False
        ring = self._gateway.table_version.ring
        if self._unsealed is None or self._unsealed[0] is not ring:
            return True
        return ring.head - self._unsealed[1] >= ring.slots // 2

    def _half_a_ring_back(self) -> list[Stream]:
        if self._gateway is None or not self._half_is_unsealed():
            return []
        ring = self._gateway.table_version.ring
        half, head = ring.slots // 2, ring.head
        oldest = {s.name: position for s in self.streams.values() if (position := s.oldest(ring)) is not None}
        first = min(oldest.values(), default=head)
        self._unsealed, self._wake_at = (ring, first), max(first + half, head + ring.slots // AHEAD_STEP)
        least = 0 if self.seals_early and head - first >= half else half
        return [self.streams[name] for name, position in oldest.items() if head - position >= least]

    def paused(self) -> asyncio.Lock:
        """Return a lock. While it is held (``async with``), sealing is paused, and readings wait in the ring."""
        return self._lock

    async def cut(self, old_ms: int, new_ms: int) -> bool:
        """Seal all streams up to the old time after a clock step. Their next packs begin at the new time.

        Returns False if the store could not commit. All streams then continue at the old time, and the caller tries
        again. The step is committed for all streams or for none, because a stream must not be sealed up to the old time
        twice.
        """
        await self._flush_removed()
        async with self._lock:
            streams = list(self.streams.values())
            if not await self._carry_out([s.job(max(old_ms, s.sealed_ms), Reason.CLOCK) for s in streams]):
                return False
            jobs = [s.job(s.sealed_ms, Reason.CLOCK) for s in streams]
            for job in jobs:
                job.step_ms = new_ms
            return await self._carry_out(jobs, whole=True)

    async def close(self) -> bool:
        """Seal everything at the end of the run. Returns True if no record stays unsealed."""
        if self._gateway is None:
            return False
        self.add_event(self._gateway, {"event": "stop"})
        now_ms, streams = self._clock.now_ms() + 1, list(self.streams.values())
        done = await self._flush_removed() and await self.seal(now_ms, streams, ended=True)
        for _ in range(LAST_EVENTS):
            found = [stream for stream in streams if stream.events]
            if not done or not found:
                break
            # these events were found in the intervals of the last packs; the state of the intervals is stored, so the
            # next start would not find the events again
            done = await self.seal(self._clock.now_ms() + 1, found, ended=True)
        if not done:
            why = self.trouble or "the store could not commit"
            log.error(
                "readings remain unsealed in the ring (%s): the next start will seal them, a reboot before that loses "
                "them",
                why,
            )
        return done

    async def _seal_first_round(self) -> None:
        """Seal each stream right after its first readings, for ``FIRST_SEAL_S`` at most.

        If all streams are ready at the same time, one call seals them. Otherwise there are a few calls per second.
        """
        loop = asyncio.get_running_loop()
        end, next_s = loop.time() + FIRST_SEAL_S, loop.time() + AHEAD_S
        without_polls = [stream for name, stream in self.streams.items() if name not in self._polls]
        while self._unsealed_first and loop.time() < end:
            ready = self._ready_first(patient=True)
            if ready and (len(ready) in (FIRST_STREAMS, len(self._unsealed_first)) or loop.time() >= next_s):
                await self.seal(self._clock.now_ms(), [*without_polls, *ready])
                without_polls, next_s = [], loop.time() + AHEAD_S
            else:
                await asyncio.sleep(0.02)
        await self.seal(self._clock.now_ms(), [*without_polls, *self._ready_first()])

    def _ready_first(self, patient: bool = False) -> list[Stream]:
        """Return the streams that have no pack of this run yet and can be sealed now.

        Their first tick is settled, or is not due yet.

        Args:
            patient: leave out the streams whose first tick is not due yet.
        """
        now_ms, ready = self._clock.now_ms(), []
        leaving = {stream.name for stream, _ in self.removed}
        for name in list(self._unsealed_first):
            stream, poll = self.streams[name], self._polls[name]
            if stream.start_ms is None:
                del self._unsealed_first[name]
            elif name in leaving or poll.awaits_first_record(now_ms):
                continue  # ``seal`` would skip a stream that still waits for its first record
            elif not patient or poll.settled_ms > poll.first_ms:
                ready.append(stream)
                if len(ready) == FIRST_STREAMS:
                    break
        return ready

    async def wait_for_burst(self, longest_s: float) -> None:
        """Wait until the current polls have ended, at most ``longest_s``. Sealing at the same time would delay both."""
        loop = asyncio.get_running_loop()
        end = loop.time() + longest_s
        busy = [poll for poll in self._polls.values() if not poll.idle]
        while busy and loop.time() < end:
            await asyncio.sleep(LOOK_MS / 1000)
            busy = [poll for poll in busy if not poll.idle]

    def _settled_ms(self, stream: Stream) -> int:
        poll = self._polls.get(stream.name)
        return poll.settled_ms if poll else ALL_SETTLED

    def _asked_ms(self, stream: Stream) -> int:
        """Return a time in UTC ms that is later than all polled ticks and all events of the stream."""
        poll = self._polls.get(stream.name)
        return max(poll.settled_ms, poll.asked_ms + 1) if poll and not stream.events else ALL_SETTLED

    async def seal(self, to_ms: int, streams: Sequence[Stream], ended: bool = False) -> bool:
        """Seal and commit these streams, each up to its last settled tick. Returns False if the store could not commit.

        ``ended``: polling has stopped, so all records must be sealed. On an overloaded line, an older tick may still be
        pending although newer ticks are answered. Such pending ticks become gaps.
        """
        async with self._lock:
            to_ms = min(to_ms, self._clock.now_ms() + 1)  # the clock may have been set back meanwhile
            unknown, now_ms = self._gap_reason, self._clock.now_ms()
            jobs = []
            for stream in streams:
                poll = None if ended or stream.start_ms is None else self._polls.get(stream.name)
                if poll is not None and poll.awaits_first_record(now_ms):
                    continue  # the first pack may still begin at a later tick, see ``DevicePoll.begin_again``
                end = min(to_ms, self._asked_ms(stream) if ended else self._settled_ms(stream))
                if end >= stream.sealed_ms or stream.start_ms is not None:
                    jobs.append(stream.job(end, unknown))
            return await self._carry_out(jobs)

    async def _flush_removed(self) -> bool:
        """Seal removed streams for the last time.

        Returns False if the store could not commit; the next turn then tries again.
        """
        async with self._lock:
            for stream, end_ms in list(self.removed):
                if not await self._carry_out([stream.job(max(end_ms, stream.sealed_ms))]):
                    return False
                self.removed.remove((stream, end_ms))
        return True

    async def _carry_out(self, jobs: Sequence[SealJob], whole: bool = False) -> bool:
        """Run jobs and apply their results to the streams. Returns True if all jobs are committed.

        The jobs run in groups, so that the packs of thousands of devices are never in memory at the same time.
        ``whole``: all jobs are one group.

        If cancelled, this still applies the results of the current group before it raises CancelledError, because the
        database thread runs these jobs in any case.
        """
        done, cancelled, most = 0, False, len(jobs) if whole else JOBS_AT_ONCE
        while done < len(jobs) and not cancelled:
            group = jobs[done : done + most]
            work = asyncio.ensure_future(self._db_thread.seal(group, whole))
            cancelled = await _to_its_end(work)
            count = work.result()
            for job in group[:count]:
                job.stream.done(job)
                job.forget_packs()
            done += count
            if count < len(group):
                break
        for job in jobs[done:]:
            job.stream.sealing = False
            job.stream.drop_overwritten()
        if jobs and done == len(jobs):
            self.set_trouble(None)
        if cancelled:
            raise asyncio.CancelledError
        return done == len(jobs)


async def _to_its_end(work: asyncio.Future[Any]) -> bool:
    """Wait until ``work`` is done, even if this task is cancelled. Returns True if it was cancelled."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:  # noqa: BLE001 - the caller gets it from the future
            pass
    return cancelled


async def _noop() -> None:
    """The default of ``on_turn``: does nothing."""
