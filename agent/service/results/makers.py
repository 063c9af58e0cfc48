"""Who makes results when an interval closes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from agent.config import Config
from agent.service.results.publisher import ResultProducer
from agent.store import Store


def makers(config: Config) -> list[ResultProducer]:
    """Figures, then balances. A park's own plan is read now, as the birth of the results has its text."""
    figures = LazyProducer("agent.service.results.indicators", "IndicatorResults", config)
    if config.indicators.plan is not None:
        figures.maker()
    return [figures, LazyProducer("agent.service.results.balance", "BalanceResults", config)]


class LazyProducer:
    """A maker that is imported when the first interval closes; until then it costs nothing."""

    def __init__(self, module: str, name: str, config: Config) -> None:
        self._module, self._name, self._config = module, name, config
        self._made: ResultProducer | None = None

    def maker(self) -> ResultProducer:
        """The maker itself."""
        if self._made is None:
            self._made = getattr(import_module(self._module), self._name)(self._config)
        return self._made

    def __call__(self, store: Store, start_ms: int, end_ms: int) -> Sequence[Mapping[str, Any]]:
        return self.maker()(store, start_ms, end_ms)

    def prepare(self, store: Store, start_ms: int) -> bool:
        """There is nothing to prepare before there is a maker."""
        return self._made is not None and self._made.prepare(store, start_ms)
