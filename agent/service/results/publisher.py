"""The result publisher: calls the interval builder after commits, closes intervals, and publishes their results.

It runs in the loop. An interval of the site is closed when all devices have written their intervals. It is closed at
the latest 20 minutes and four pack intervals after its end, because a dead device must not hold back the site's
figures. After a start, this time begins when all packs are read, because the first readings complete earlier intervals.

Results are sealed as packs of the stream ``_indicators``. Their ``from`` and ``to`` are interval boundaries. The head
of the stream is written in the same transaction as the pack, and records which intervals are published. So each
interval is published exactly once, even if the agent restarts. At the very first start, results begin after the
interval in which the devices are reached for the first time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from importlib import import_module
from typing import Any, Protocol, TypeVar

import ext.clock
from agent.clock import SteadyClock, sleep_to_multiple
from agent.config import Config
from agent.intervals.calendar import Calendar
from agent.intervals.tracked_points import Rule
from agent.pack import BirthTable, Packer, seconds
from agent.poll import FIRST_CONTACT_MS
from agent.service.db_thread import DatabaseThread
from agent.service.results.interval_builder import IntervalBuilder
from agent.service.seal_jobs import loss_event
from agent.service.sealing import SealScheduler, pack_clock
from agent.store import Store
from drivers.model import GatewayError
from ext.ring import Ring

log = logging.getLogger("meterhouse.intervals")
# an interval waits this many ms for late streams, because a silent stream is sealed only every 15 minutes
LATE_MS = 1_200_000
# the wait is this many pack intervals longer, because the third pack after a start may change earlier intervals
LATE_PACKS = 4
# if an earlier run began to wait for the first results less than this long ago, this run continues that wait
WAITED_MS = 86_400_000
LOOK_S = 5.0
AFTER_FIRST_S = 0.25  # interval of the checks for first packs that wait
SLICES_S = 0.05  # pause between two slices of catching up; packs can be sealed in it
TIDY_EVERY_S = 60.0
AT_ONCE = 96  # one call publishes at most this many intervals after a long downtime

T = TypeVar("T")
Results = Sequence[Mapping[str, Any]]


class ResultProducer(Protocol):
    """Makes the results of closed intervals. It is called once for each interval, in order, in the database thread."""

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> Results:
        """Return the results as objects, as in docs/pack-format.md.

        After a GatewayError, the publisher calls again later.
        """

    def prepare(self, store: Store, start_ms: int) -> bool:
        """Prepare the interval that begins at ``start_ms``: one slice of the work in each call.

        Returns True if there is more to do.
        """


class ResultPublisher:
    """Publishes results. The service owns it, and sets ``producers`` before it calls ``open``.

    Args:
        packer_of: gets a name and a time in UTC ms, and returns the packer of the stream. A stored stream is continued.
            A new stream begins at this time.
    """

    def __init__(
        self,
        config: Config,
        db_thread: DatabaseThread,
        sealing: SealScheduler,
        clock: SteadyClock,
        packer_of: Callable[[str, int], Packer],
    ) -> None:
        self._config, self._db_thread, self._sealing, self._clock = config, db_thread, sealing, clock
        self._packer_of = packer_of
        self._loop = asyncio.get_running_loop()
        self.producers: list[ResultProducer] = []
        self.builder = self._make(config)
        self.packer: Packer | None = None
        # a pack of results must name a ring too, although it contains none of the ring's records
        self.ring: Ring | None = None
        self.closed_ms = 0  # end of the newest published interval in UTC ms
        self._failed = ""
        # monotonic time at which all packs had been read; None: some packs are not read yet
        self._followed_s: float | None = None

    def _make(self, config: Config) -> IntervalBuilder:
        entry = config.interval
        calendar = Calendar(config.timezone, entry.length_ms)
        rule = Rule(entry.max_gap_ms, entry.demand_period_ms, entry.demand_slip_ms)
        return IntervalBuilder(calendar, rule, config.store.keep_intervals_s * 1000, self._post_event)

    def _post_event(self, stream: str, event: dict[str, Any]) -> None:
        """Add an event to a stream. This is called in the database thread."""
        self._loop.call_soon_threadsafe(self._add_event, stream, event)

    def _add_event(self, stream: str, event: dict[str, Any]) -> None:
        if stream in self._sealing.streams:
            self._sealing.add_event(self._sealing.streams[stream], event)

    # --- life

    async def open(self, ring: Ring, table: BirthTable) -> None:
        """Start to publish. ``table``: the point table of the stream of results."""
        self.ring = ring
        from_ms = self.builder.calendar.floor(self._clock.now_ms())
        if self.producers:
            begin_ms = await self._db_thread.call(lambda store: store.intervals.results_begin(from_ms))
            if 0 < from_ms - begin_ms < WAITED_MS:  # an earlier run waited for a meter, and has made no results yet
                from_ms = begin_ms
        self.packer = self._packer_of(table.stream, from_ms)
        self.packer.use(table)
        self.closed_ms = self.builder.published_ms = self.packer.from_ms
        await self._db_thread.call(self._follow_streams)
        self._db_thread.on_committed = self.builder.committed

    def _follow_streams(self, store: Store) -> None:
        wanted = {f"{self._config.base}/{device.name}" for device in self._config.devices}
        self.builder.add_streams(stream for stream in store.packs.heads() if stream in wanted)
        self.builder.repair.open(store)
        store.intervals.announced_change()

    def prepare(self, config: Config) -> IntervalBuilder | None:
        """Create a new interval builder for a reload. Returns None if the store settings do not change."""
        return None if self._config.store == config.store else self._make(config)

    async def reload(
        self,
        config: Config,
        table: BirthTable,
        builder: IntervalBuilder | None,
        producers: Sequence[ResultProducer],
    ) -> None:
        """Apply a new configuration.

        ``table``: the point table of the results. ``builder``: the result of ``prepare``.
        """
        await self._db_thread.call(lambda store: self._take(store, config, table, builder, producers))

    def _take(
        self,
        store: Store,
        config: Config,
        table: BirthTable,
        builder: IntervalBuilder | None,
        producers: Sequence[ResultProducer],
    ) -> None:
        # all in one call of the database thread, so that no results are sealed under the birth of another plan
        self._config, self.producers = config, list(producers)
        if builder is not None:
            before, self.builder = self.builder, builder
            builder.published_ms, self._followed_s = self.closed_ms, None
            self._db_thread.on_committed = builder.committed
            try:
                before.save(store)
                self._follow_streams(store)
            except GatewayError as error:  # the next start makes the missing intervals from packs
                log.warning(
                    "the state of the intervals was not saved, the next start computes it from packs: %s", error
                )
        if self.packer is not None and not table.same_as(self.packer.table):
            self.packer.use(table)

    async def run(self) -> None:
        """Read packs that were not read yet, publish results, and tidy up, until cancelled."""
        tidy_s = time.monotonic()
        while True:
            if self._sealing.first_packs_wait:  # at the start, sealing needs all of the database thread's time
                await asyncio.sleep(AFTER_FIRST_S)
                continue
            try:
                busy = await self._db_thread.call(self._advance)
                if self.builder.repair.left:
                    busy = await self._db_thread.call(self.builder.repair.step) or busy
                if time.monotonic() - tidy_s > TIDY_EVERY_S:
                    tidy_s = time.monotonic()
                    await self._db_thread.call(self._tidy)
                self._failed = ""
            except GatewayError as error:  # for example, the disk is full, which sealing reports too; nothing is lost
                if str(error) != self._failed:
                    log.warning("computing intervals is postponed: %s", error)
                self._failed, busy = str(error), False
            if busy:
                await asyncio.sleep(SLICES_S)
            else:
                await sleep_to_multiple(LOOK_S)

    def _advance(self, store: Store) -> bool:
        """Read packs for one slice. If all are read, prepare the next interval, or publish what is closed.

        Returns True if more is left to do.
        """
        if self.builder.catch_up(store):
            return True
        self._followed_s = self._followed_s or time.monotonic()
        if self._prepare(store):
            return True
        self._close(store)
        return False

    def _prepare(self, store: Store) -> bool:
        if self.builder.repair.left:
            return False  # wait, because the repair may still change the sums
        return self.packer is not None and any(
            producer.prepare(store, self.packer.from_ms) for producer in self.producers
        )

    def _tidy(self, store: Store) -> None:
        trusted = ext.clock.state().synced is not False
        self.builder.tidy(store, self._clock.now_ms() if trusted else 0)

    async def close(self) -> None:
        """Store the state of every counter. This is called after the last commit of the run."""
        if self.packer is not None:
            await self._db_thread.call(self.builder.save)

    def facts(self) -> dict[str, Any]:
        """Return facts for the status. Empty members are left out.

        ``reading``: the number of streams whose packs are still being read. ``repair``: the progress of the comparison
        with packs. ``stopped``: the devices without intervals because of a bug. ``waits``: the error that delays all
        results.
        """
        found: dict[str, Any] = {"reading": self.builder.reading, "repair": self.builder.repair.facts()}
        found["stopped"] = [stream.rpartition("/")[2] for stream in self.builder.stopped]
        found["waits"] = self._failed
        return {name: what for name, what in found.items() if what}

    # --- results

    def _close(self, store: Store) -> None:
        """Seal the results of closed intervals."""
        packer, ring = self.packer, self.ring
        if packer is None or ring is None or not self.producers:
            return
        calendar, start, now_ms = self.builder.calendar, packer.from_ms, self._clock.now_ms()
        lost = self._db_thread.losses_of(packer.stream)
        if not lost and calendar.stretch("interval", start)[1] > now_ms:
            return
        streams = [f"{self._config.base}/{device.name}" for device in self._config.devices]
        settled_ms = self.builder.closed_ms(streams)
        late_ms = LATE_MS + LATE_PACKS * self._config.pack.every_ms
        waited_ms = (time.monotonic() - (self._followed_s or time.monotonic())) * 1000
        made: list[tuple[int, Results]] = []
        while len(made) < AT_ONCE:
            end = calendar.stretch("interval", start)[1]
            if end > settled_ms and (now_ms < end + late_ms or waited_ms < late_ms):
                break
            if end > now_ms:  # the clock was set back, so this interval has not ended yet
                break
            if packer.is_new and not made and _begins_later(store, streams, end):  # skip it
                packer.begin_at(end)
                start = end
                continue
            try:
                made.append((end, [result for producer in self.producers for result in producer(store, start, end)]))
            except GatewayError:
                if not made:
                    raise
                break
            start = end
        # the intervals of damaged pages must be rebuilt first
        if (not made and not lost) or store.intervals.damaged_pages:
            return
        corrections, last = corrected_figures(store, calendar, packer.from_ms)
        mark = packer.savepoint()
        try:
            events = [*(loss_event(note) for note in lost), *corrections]
            self._db_thread.commit_packs(store, packer.results(ring, pack_clock(), made, events), lost)
        except BaseException:
            packer.restore(mark)
            raise
        self.closed_ms = self.builder.published_ms = start
        # announced after the commit, so that a kill in between only repeats the event
        store.intervals.announce_changes(last)


def _begins_later(store: Store, streams: Sequence[str], end_ms: int) -> bool:
    """Return True if a device was first reached just after the interval that ends at ``end_ms``.

    In the results of this interval, the device would count as 0.
    """
    heads = store.packs.heads()
    firsts = (store.packs.first_pack(stream)[1] for stream in streams if stream in heads)
    return any(end_ms <= first_ms < end_ms + FIRST_CONTACT_MS for first_ms in firsts)


def corrected_figures(store: Store, calendar: Calendar, published_ms: int) -> tuple[list[dict[str, Any]], int]:
    """Make events about corrected intervals in past days, whose figures are already signed.

    Consecutive days share one event. Also returns the number of the newest change, for ``announce_changes``.
    """
    last = store.intervals.announced_change()
    days: dict[date, tuple[int, int]] = {}
    today_ms = calendar.stretch("day", published_ms)[0]
    for number, start, end in store.intervals.interval_changes(last):
        last = number
        if start < today_ms:
            day = calendar.day(start)
            first, until = days.get(day, (start, end))
            days[day] = min(first, start), max(until, end)
    runs: list[list[int]] = []
    before: date | None = None
    for day in sorted(days):
        if before is not None and day - before == timedelta(days=1):
            runs[-1][1] = days[day][1]
        else:
            runs.append(list(days[day]))
        before = day
    event = {"event": "figures_corrected", "t": seconds(published_ms)}
    return [event | {"from": seconds(start), "to": seconds(end)} for start, end in runs], last


def make_producers(config: Config) -> list[ResultProducer]:
    """Create the producers, in the order of their results.

    A site's own plan is resolved immediately, so that its errors are reported with the others.
    """
    module = "agent.service.results.site"
    figures = LazyProducer(module, "IndicatorResults", config, "figures")
    if config.indicators.plan is not None:
        figures.load()
    known = LazyProducer(module, "KnownPacks", config, "records of known packs")
    return [figures, known, LazyProducer(module, "BalanceResults", config, "balances")]


class LazyProducer:
    """A producer whose module is imported when the first interval closes, so that it needs no memory before.

    If the producer has a bug, only its own results stop, until the next start. A bug must never stop sealing.

    Args:
        what: the name of its results in the log.
    """

    def __init__(self, module: str, name: str, config: Config, what: str) -> None:
        self._module, self._name, self._config, self._what = module, name, config, what
        self._loaded: Any = None
        self._broken = False

    def load(self) -> Any:
        """Import the producer if needed, and return it."""
        if self._loaded is None:
            self._loaded = getattr(import_module(self._module), self._name)(self._config)
        return self._loaded

    def _guarded(self, call: Callable[[], T], nothing: T) -> T:
        try:
            return nothing if self._broken else call()
        except GatewayError:
            raise
        except Exception:
            log.exception(
                "internal error: no %s are computed until the next start; readings are not affected", self._what
            )
            self._broken = True
            return nothing

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> Results:
        return self._guarded(lambda: self.load()(store, start_ms, end_ms), ())

    def prepare(self, store: Store, start_ms: int) -> bool:
        """Prepare an interval, see ``ResultProducer.prepare``. Returns False if the producer is not loaded yet."""
        prepare = getattr(self._loaded, "prepare", None)
        return prepare is not None and self._guarded(lambda: bool(prepare(store, start_ms)), False)
