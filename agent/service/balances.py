"""Makes the site's balance and the derived points when intervals close: each interval's own, and the day's at its end.

Called in the writer's thread, beside ``Figures``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from agent.config import Config
from agent.indicators.site import SiteResults
from agent.intervals import Cut
from agent.service.tables import derived_row
from agent.store import Store
from drivers.model import GatewayError

log = logging.getLogger("meterhouse.intervals")


class Balances:
    """A maker of results; see ``agent.service.intervals.Maker``."""

    def __init__(self, config: Config) -> None:
        cut = Cut(config.timezone, config.interval.length_ms)
        rows = [derived_row(one) for one in config.derived]
        self._cut, self._results = cut, SiteResults(cut, config.base, rows, config.hash())
        self._broken = False

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> list[Mapping[str, Any]]:
        """Of the interval that ends here; then of the day, if it ends too."""
        if self._broken:
            return []
        try:
            made = self._results.of(store, "interval", start_ms, end_ms)
            day_start, day_end = self._cut.stretch("day", start_ms)
            return made + (self._results.of(store, "day", day_start, day_end) if end_ms == day_end else [])
        except GatewayError:
            raise
        except Exception:  # a fault of ours in a sum must never end the sealing of readings
            log.exception("balances stop until the next start, readings do not")
            self._broken = True
            return []

    def prepare(self, store: Store, start_ms: int) -> bool:
        """Nothing to get ready."""
        return False
