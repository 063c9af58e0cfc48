"""A bug in the computation of results ends these results, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.config.tree import IntervalConfig, StoreConfig
from agent.service.results.publisher import LazyProducer, ResultPublisher
from agent.store import StoreBusy

CALLS: list[str] = []


class Faulty:
    """A producer with a bug in its second interval, or in its preparation."""

    def __init__(self, config: Any) -> None:
        CALLS.clear()

    def __call__(self, store: Any, start_ms: int, end_ms: int) -> list[dict[str, Any]]:
        CALLS.append("make")
        if start_ms == 2:
            raise ZeroDivisionError
        if start_ms == 3:
            raise StoreBusy("the disk failed", where="store")
        return [{"from": start_ms}]

    def prepare(self, store: Any, start_ms: int) -> bool:
        if start_ms == 2:
            raise ZeroDivisionError
        return True


def producer() -> Any:
    return LazyProducer(__name__, "Faulty", None, "figures")  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", [lambda one: one(None, 2, 3), lambda one: one.prepare(None, 2)])
def test_a_bug_ends_the_results_of_its_producer(broken: Any, caplog: pytest.LogCaptureFixture) -> None:
    one = producer()
    assert not one.prepare(None, 1), "nothing is loaded before the first interval closes"
    assert one(None, 1, 2) == [{"from": 1}] and one.prepare(None, 1)
    assert not broken(one)
    calls = len(CALLS)
    assert not one(None, 4, 5) and not one.prepare(None, 4) and len(CALLS) == calls
    assert [record.getMessage() for record in caplog.records] == [
        "internal error: no figures are computed until the next start; readings are not affected"
    ]


async def test_a_reload_changes_the_birth_and_the_producers_at_once() -> None:
    """The producers came later, so figures of the previous plan could be signed under the birth of the next one."""
    seen: list[tuple[str, list[Any]]] = []

    class Desk:
        async def call(self, work: Any) -> None:
            work(None)
            seen.append(
                (packer.table, publisher.producers)
            )  # what the next call finds, maybe before ``reload`` returns

    config = SimpleNamespace(interval=IntervalConfig(), timezone="UTC", store=StoreConfig())
    unused = cast(Any, None)
    publisher = ResultPublisher(cast(Any, config), cast(Any, Desk()), unused, unused, unused)
    packer = SimpleNamespace(table="old")
    packer.use = lambda table: setattr(packer, "table", table.name)
    publisher.packer, publisher.producers = cast(Any, packer), [producer()]
    table, made = SimpleNamespace(name="new", same_as=lambda other: False), [producer()]
    await publisher.reload(cast(Any, config), cast(Any, table), None, made)
    assert seen == [("new", made)]


def test_an_error_of_the_store_comes_back_later() -> None:
    one = producer()
    with pytest.raises(StoreBusy):
        one(None, 3, 4)
    assert one(None, 4, 5) == [{"from": 4}]
