"""The site's balance and derived points: for each interval when it closes, and for the day at its end.

Called in the database thread, like ``IndicatorResults``. ``KnownPacks`` states up to which packs intervals were written
then, for verifiers that repeat the results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agent.config import Config
from agent.indicators.compute import period_of
from agent.indicators.site import KNOWN, SiteResults
from agent.intervals.calendar import Calendar
from agent.intervals.page_format import Column
from agent.intervals.sums import Unwritten
from agent.intervals.tracked_points import Rule, track
from agent.service.births import derived_row
from agent.store import Store


class UnwrittenStreams:
    """Configured streams whose intervals are not written yet. Used in the database thread only.

    A verifier derives the same from the packs and from the result ``known`` that is sealed with the others.
    """

    def __init__(self, config: Config) -> None:
        entry = config.interval
        self._streams: Sequence[str] = sorted(f"{config.base}/{device.name}" for device in config.devices)
        self._calendar = Calendar(config.timezone, entry.length_ms)
        self._rule = Rule(entry.max_gap_ms, entry.demand_period_ms, entry.demand_slip_ms)
        self._columns: dict[str, tuple[int, tuple[Column, ...]]] = {}  # with the sequence of their birth

    def before(self, store: Store, at_ms: int) -> list[Unwritten]:
        """Streams whose intervals are not written up to an instant, without streams that have no pack."""
        heads, seqs = store.packs.heads(), store.intervals.seqs()
        out = []
        for stream in self._streams:
            if stream not in heads:
                continue
            from_ms = store.intervals.end_ms(stream) or self._calendar.floor(store.packs.first_pack(stream)[1])
            if from_ms < at_ms:
                out.append(Unwritten(stream, from_ms, self._columns_of(store, stream, seqs.get(stream, 0))))
        return out

    def _columns_of(self, store: Store, stream: str, seq: int) -> tuple[Column, ...]:
        """The columns of the table in effect after pack ``seq``, or of the first birth if nothing was written yet."""
        number = store.packs.birth_seq_before(stream, max(seq, 1) + 1)
        if self._columns.get(stream, (-1, ()))[0] != number:
            birth = store.packs.birth_before(stream, number + 1)
            columns = track(json.loads(birth)["table"], self._rule).shape.columns if birth is not None else ()
            self._columns[stream] = number, columns
        return self._columns[stream][1]


class KnownPacks:
    """A result producer: up to which pack of each configured stream intervals are written when results are made.

    ``last`` is 0 where none of a stream was written. ``configured``: no stream is left out.
    """

    def __init__(self, config: Config) -> None:
        self._calendar = Calendar(config.timezone, config.interval.length_ms)
        self._streams = sorted(f"{config.base}/{device.name}" for device in config.devices)

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> list[Mapping[str, Any]]:
        """One result."""
        heads, seqs = store.packs.heads(), store.intervals.seqs()
        packs = [{"stream": stream, "last": seqs.get(stream, 0)} for stream in self._streams if stream in heads]
        period = period_of(self._calendar, "interval", start_ms, end_ms).as_dict()
        return [{"kind": KNOWN, "period": period, "packs": packs, "configured": True}]


class BalanceResults:
    """A result producer; see ``agent.service.results.publisher.ResultProducer``."""

    def __init__(self, config: Config) -> None:
        calendar = Calendar(config.timezone, config.interval.length_ms)
        rows = [derived_row(one) for one in config.derived]
        self._calendar, self._results = calendar, SiteResults(calendar, config.base, rows, config.hash())
        self._unwritten = UnwrittenStreams(config)

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> list[Mapping[str, Any]]:
        """Results of the interval that ends here; then of the day, if it ends too."""
        periods = [period_of(self._calendar, "interval", start_ms, end_ms)]
        day_start, day_end = self._calendar.stretch("day", start_ms)
        if end_ms == day_end:
            periods.append(period_of(self._calendar, "day", day_start, day_end))
        unwritten = self._unwritten.before(store, end_ms)
        return [result for period in periods for result in self._results.of(store.intervals, period, unwritten)]
