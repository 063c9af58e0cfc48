"""Makes the site's balance and the derived points when intervals close: each interval's own, and the day's at its end.

Called in the database thread, beside ``IndicatorResults``. Also states what was known then, for anyone who repeats the
results.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from agent.config import Config
from agent.indicators.compute import period_of
from agent.indicators.site import KNOWN, SiteResults
from agent.intervals import Cut
from agent.service.births import derived_row
from agent.service.results.unwritten import UnwrittenStreams
from agent.store import Store
from drivers.model import GatewayError

log = logging.getLogger("meterhouse.intervals")


class BalanceResults:
    """A maker of results; see ``agent.service.results.publisher.ResultProducer``."""

    def __init__(self, config: Config) -> None:
        cut = Cut(config.timezone, config.interval.length_ms)
        rows = [derived_row(one) for one in config.derived]
        self._cut, self._results = cut, SiteResults(cut, config.base, rows, config.hash())
        self._unwritten = UnwrittenStreams(config)
        self._broken = False

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> list[Mapping[str, Any]]:
        """Of the interval that ends here; then of the day, if it ends too."""
        known = self._known(store, start_ms, end_ms)
        if self._broken:
            return [known]
        try:
            unwritten = self._unwritten.before(store, end_ms)
            made = [known, *self._results.of(store, "interval", start_ms, end_ms, unwritten)]
            day_start, day_end = self._cut.stretch("day", start_ms)
            is_day = end_ms == day_end
            return made + (self._results.of(store, "day", day_start, day_end, unwritten) if is_day else [])
        except GatewayError:
            raise
        except Exception:  # a fault of ours in a sum must never end the sealing of readings
            log.exception("balances stop until the next start, readings do not")
            self._broken = True
            return [known]

    def _known(self, store: Store, start_ms: int, end_ms: int) -> Mapping[str, Any]:
        """Up to which pack of each configured stream intervals were written by now: all results came from these.

        ``last`` is 0 where none of a stream was written. ``configured``: no stream is left out.
        """
        heads, seqs = store.heads(), store.interval_seqs()
        streams = [stream for stream in self._unwritten.streams if stream in heads]
        packs = [{"stream": stream, "last": seqs.get(stream, 0)} for stream in streams]
        period = period_of(self._cut, "interval", start_ms, end_ms).as_dict()
        return {"kind": KNOWN, "period": period, "packs": packs, "configured": True}

    def prepare(self, store: Store, start_ms: int) -> bool:
        """Nothing to get ready."""
        return False
