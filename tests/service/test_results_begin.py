"""Results that waited for a silent meter begin where they first could, also after a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from agent.config import load_config
from agent.indicators.declared import Declaration
from agent.pack import BirthTable, Packer
from agent.service.births import results_table
from agent.service.results.publisher import ResultPublisher, make_producers
from agent.service.results.site import IndicatorResults
from agent.store import Store
from ext.ring import Ring
from tests.kits.metered_days import DOCUMENT, MeteredDays, packs

HOUR = 3_600_000
NOON = 1_795_780_800_000
CONFIG = """[site]
id = "park7"
gateway = "gw01"
timezone = "Asia/Shanghai"

[interval]
length = "5 min"
"""


SEALING = SimpleNamespace(streams={}, first_packs_wait=False)


class Desk:
    """The database thread, as results use it."""

    def __init__(self, store: Store) -> None:
        self.store, self.on_committed = store, None

    async def call(self, work: Callable[[Store], Any]) -> Any:
        return work(self.store)


async def start(folder: Path, now_ms: int, *, producers: bool = True) -> int:
    """An agent's start; from when on it makes results."""
    (folder / "agent.toml").write_text(CONFIG)
    store = Store.open(folder / "store.db")
    begins: list[int] = []

    def packer(stream: str, from_ms: int) -> Any:
        begins.append(from_ms)
        return SimpleNamespace(from_ms=from_ms, use=lambda table: None)

    clock, sealing = SimpleNamespace(now_ms=lambda: now_ms), SEALING
    intervals = ResultPublisher(load_config(folder / "agent.toml"), Desk(store), sealing, clock, packer)  # type: ignore[arg-type]
    intervals.producers = [SimpleNamespace()] if producers else []  # type: ignore[list-item]
    await intervals.open(None, SimpleNamespace(stream="park7/gw01/_indicators"))  # type: ignore[arg-type]
    store.close()
    return begins[0]


async def test_a_restart_while_the_first_results_wait_loses_none(tmp_path: Path) -> None:
    """Kills ten minutes apart, and nothing of a day was signed: nothing said so either."""
    assert await start(tmp_path, NOON + 45_000) == NOON
    assert await start(tmp_path, NOON + 11 * 60_000) == NOON
    assert await start(tmp_path, NOON + HOUR) == NOON


@pytest.mark.parametrize("later", [48 * HOUR, -48 * HOUR])
async def test_what_lies_far_away_is_another_time(tmp_path: Path, later: int) -> None:
    """A clock that was wrong at first, or a gateway that was put away."""
    assert await start(tmp_path, NOON) == NOON
    assert await start(tmp_path, NOON + later) == NOON + later


async def test_results_that_are_wanted_later_begin_then(tmp_path: Path) -> None:
    assert await start(tmp_path, NOON, producers=False) == NOON
    assert await start(tmp_path, NOON + HOUR) == NOON + HOUR
    assert await start(tmp_path, NOON + 2 * HOUR) == NOON + HOUR


class Signed(Desk):
    """With what the publisher seals."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.sealed = asyncio.Event()

    def commit_packs(self, store: Store, packs: list[Any], lost: object) -> None:
        store.packs.commit(packs)
        self.sealed.set()

    def losses_of(self, stream: str) -> tuple[()]:
        return ()


@pytest.mark.parametrize(
    ("first_s", "begin_s"), [(-20, 0), (5, 900), (29, 900), (40, 0)], ids=["before", "at once", "late", "another time"]
)
async def test_no_figure_counts_a_device_as_nothing_that_was_first_reached_after_its_interval(
    tmp_path: Path, first_s: int, begin_s: int
) -> None:
    """An agent starts just before a quarter: the meter of the park's only generator is reached just after it.

    That quarter had stated a generation of 0, known to 100 %. A device that is reached much later was added later.
    """
    site = MeteredDays(tmp_path)
    with (tmp_path / "agent.toml").open("a") as config:
        config.write('[[device]]\nname = "m2"\nline = "roof"\naddress = "2"\nprofile = "test/tally"\n')
        config.write('[indicators]\nplan = "plan.toml"\n')
    (tmp_path / "plan.toml").write_text('schema = 1\nsets = ["plain"]\n')
    site.store.packs.commit(packs(NOON, 60))
    sun = json.loads(json.dumps(DOCUMENT).replace("energy.import", "energy.generation"))
    sun["device"]["roles"] = {"ac": "generation.pv"}
    made = packs(NOON + 900_000 + first_s * 1000, 60, stream="park7/gw01/m2", table=sun)
    site.store.packs.commit(made)
    config = load_config(tmp_path / "agent.toml")
    desk, now_ms = Signed(site.store), NOON + HOUR
    clock, sealing = SimpleNamespace(now_ms=lambda: now_ms), SEALING

    def packer(stream: str, from_ms: int) -> Packer:
        return Packer(stream, "00000000000000aa", None, lambda body: "x..y", NOON, 1 << 20)

    publisher = ResultPublisher(config, desk, sealing, clock, packer)  # type: ignore[arg-type]
    publisher.producers = make_producers(config)
    ring = Ring.create(str(tmp_path / "ring"), 1 << 18, 7, 0xAA, bytes(32))
    await publisher.open(ring, BirthTable("park7/gw01/_indicators", results_table(config, "1")))
    running = asyncio.create_task(publisher.run())
    async with asyncio.timeout(60):
        await desk.sealed.wait()
    running.cancel()
    ring.close()
    stored = site.store.packs.after("park7/gw01/_indicators", 0, 100)
    results = [result for pack in stored for result in json.loads(pack.data).get("results", ())]
    figures = [one for one in results if one.get("id") == "plain/generation"]
    assert stored[0].from_ms == NOON + begin_s * 1000
    assert figures[0]["period"]["from"] == (NOON // 1000) + begin_s
    if begin_s:
        assert all(one["inputs"][0]["basis"] == "metered" for one in figures)
    site.close()


def test_a_day_whose_commit_failed_after_later_ones_were_summed_is_summed_again(tmp_path: Path) -> None:
    """Its month then had the later days in it: several days are made at once after an outage."""
    site = MeteredDays(tmp_path)
    with (tmp_path / "agent.toml").open("a") as config:
        config.write('roles = { ac = "grid" }\n[indicators]\nplan = "plan.toml"\n')
    (tmp_path / "plan.toml").write_text('schema = 1\nsets = ["plain"]\n')
    midnight = site.calendar.stretch("day", NOON)[0]
    first, *later = [midnight + n * 24 * HOUR for n in (1, 2, 3)]
    document = json.loads(json.dumps(DOCUMENT))
    document["device"]["roles"] = {"ac": "grid"}
    site.commit(packs(midnight, 3 * 1440, table=document))
    results = IndicatorResults(load_config(tmp_path / "agent.toml"))

    def of_month(end: int) -> list[dict[str, Any]]:
        while results.prepare(site.store, end - 24 * HOUR):
            pass
        made = [dict(one) for one in results(site.store, site.calendar.stretch("interval", end - 1)[0], end)]
        return [one for one in made if one.get("period", {}).get("kind") == "month"]

    before = of_month(first)
    assert before and [of_month(end) for end in later] != [before] * 2
    assert of_month(first) == before
    site.close()


def test_what_was_declared_before_the_first_results_is_signed_with_them(tmp_path: Path) -> None:
    """Figures used the value, but no pack had it, so no verifier could recompute them."""
    site = MeteredDays(tmp_path)
    stream, quarter = "park7/gw01/_indicators", 900_000
    ids = ["00000000000000a1", "00000000000000b2", "00000000000000c3"]
    for number, at_ms in zip(ids, (NOON - HOUR, NOON + 1000, NOON + quarter), strict=True):
        entry = Declaration(number, "declared.people", "50", "m2", NOON - 24 * HOUR, None, "Li", at_ms)
        site.store.documents.declare(entry.id, entry.at_ms, entry.as_dict())
    results = IndicatorResults(load_config(tmp_path / "agent.toml"))

    def declared(start_ms: int) -> list[str]:
        made = results(site.store, start_ms, start_ms + quarter)
        return [one["id"] for one in made if one["kind"] == "declaration"]

    for _ in range(2):  # the commit of the first intervals may fail
        assert declared(NOON) == ids[:2]
        assert declared(NOON + quarter) == ids[2:]
    site.store.packs.commit(packs(NOON, 15, stream=stream))
    results = IndicatorResults(load_config(tmp_path / "agent.toml"))  # as after a restart
    assert declared(NOON + quarter) == ids[2:] and declared(NOON + 2 * quarter) == []
    site.close()


async def test_intervals_wait_for_the_first_packs_of_a_start(tmp_path: Path) -> None:
    """With 3,000 devices they took the time of the database thread in which the last device could have been sealed."""
    site = MeteredDays(tmp_path)
    site.store.packs.commit(packs(NOON, 60))
    config = load_config(tmp_path / "agent.toml")
    calls = asyncio.Event()

    class Called(Desk):
        async def call(self, work: Callable[[Store], Any]) -> Any:
            calls.set()
            return await super().call(work)

    looks = iter([True] * 3 + [False] * 1000)
    seen: list[bool] = []

    class Sealing:
        streams: ClassVar[dict[str, Any]] = {}

        @property
        def first_packs_wait(self) -> bool:
            seen.append(calls.is_set())
            return next(looks)

    clock = SimpleNamespace(now_ms=lambda: NOON + HOUR)
    publisher = ResultPublisher(config, Called(site.store), Sealing(), clock, lambda *args: None)  # type: ignore[arg-type]
    running = asyncio.create_task(publisher.run())
    async with asyncio.timeout(60):
        await calls.wait()
    running.cancel()
    assert seen == [False] * 4, "nothing was read before the fourth look, when no first pack waited any more"
    site.close()
