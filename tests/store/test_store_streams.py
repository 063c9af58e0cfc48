"""Destinations that get some streams only: nothing of the others is owed to them, and nothing waits for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from agent.store import Store, StoreError
from tests.kits.packs import POINTS, START_MS, Maker

ALL, FEW = "all", "few"
DAY_MS = 86_400_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def opened(path: Path, asked: Mapping[str, Sequence[str]] | None = None, size: int = 64 << 20) -> Store:
    return Store.open(path, size, 30 * 86_400.0, destinations=[ALL, FEW], asked=asked)


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = opened(path, {FEW: ["meter-*"]})
    yield made
    made.close()


def makers() -> list[Maker]:
    return [Maker(f"park7/gw01/{name}") for name in ("inv1", "meter-1", "meter-2", "_gateway")]


def owed(store: Store, name: str) -> list[str]:
    return [f"{item.stream.rpartition('/')[2]} {item.id}" for item in store.packs.pending(name)]


def test_a_destination_is_owed_what_it_asked_for_and_the_gateways_own_stream(store: Store) -> None:
    made = makers()
    store.packs.commit([make(birth=True) for make in made])
    store.packs.commit([make() for make in made])
    assert owed(store, FEW) == ["meter-1 2", "meter-2 3", "_gateway 4", "meter-1 6", "meter-2 7", "_gateway 8"]
    assert len(owed(store, ALL)) == 8
    assert store.usage().pending == {ALL: 8, FEW: 6}
    store.packs.commit((), {FEW: [2, 5]})  # 5 was never owed to it
    assert store.usage().pending == {ALL: 8, FEW: 5}
    assert owed(store, FEW)[0] == "meter-2 3"


def test_nothing_waits_for_a_destination_that_never_asked(store: Store) -> None:
    """Delivered everywhere is delivered to all that asked: its age counts, and the cap takes it without a loss."""
    made = makers()
    store.packs.commit([make(birth=True) for make in made])
    ids = store.packs.commit([make() for make in made])
    store.packs.commit([make() for make in made])
    store.packs.commit((), {ALL: ids})
    store.prune(START_MS + 365 * DAY_MS)
    left = {item.id for item in store.packs.pending(FEW)} | {item.id for item in store.packs.pending(ALL)}
    assert ids[0] not in left and not [p for p in store.packs.after("park7/gw01/inv1", 0, 10) if p.id == ids[0]]
    assert [p.id for p in store.packs.after("park7/gw01/meter-1", 0, 10)] == [2, 6, 10], "still owed to the other"
    assert store.packs.losses() == []


def test_another_list_takes_effect_at_once_and_only_for_what_is_sealed_then(store: Store) -> None:
    made = makers()
    store.packs.commit([make(birth=True) for make in made])
    store.change_limits(64 << 20, 30 * 86_400.0, [ALL, FEW], 0, asked={FEW: ["inv1"]})
    assert owed(store, FEW) == ["_gateway 4"] and store.usage().pending == {ALL: 4, FEW: 1}
    store.packs.commit([make() for make in made])
    assert owed(store, FEW) == ["_gateway 4", "inv1 5", "_gateway 8"], "not what was sealed before it was asked for"
    store.change_limits(64 << 20, 30 * 86_400.0, [ALL, FEW], 0)
    store.packs.commit([make() for make in made])
    assert store.usage().pending == {ALL: 12, FEW: 7} == {name: len(owed(store, name)) for name in (ALL, FEW)}


def test_a_change_that_fails_changes_nothing(store: Store) -> None:
    made = makers()
    store.packs.commit([make(birth=True) for make in made])

    def fail() -> None:
        raise StoreError("no", where="test")

    with pytest.raises(StoreError):
        store.change_limits(64 << 20, 1.0, [FEW], 0, fail, {FEW: ["inv1"]})
    store.packs.commit([make() for make in made])
    assert store.usage().pending == {ALL: 8, FEW: 6} == {name: len(owed(store, name)) for name in (ALL, FEW)}


def test_what_an_earlier_version_owed_is_dropped_at_the_next_start(path: Path) -> None:
    """It knows no streams, so it fills each outbox with everything; so does a configuration without the list."""
    earlier, made = opened(path), makers()
    earlier.packs.commit([make(birth=True) for make in made])
    earlier.close()
    store = opened(path, {FEW: ["meter-1"]})
    assert owed(store, FEW) == ["meter-1 2", "_gateway 4"] and store.usage().pending == {ALL: 4, FEW: 2}
    store.close()


def test_at_the_size_cap_only_packs_that_are_owed_are_stated_as_lost(path: Path) -> None:
    store = Store.open(path, 8 << 20, destinations=[FEW], asked={FEW: ["meter-1"]})
    unasked, asked = Maker("park7/gw01/inv1", POINTS, ticks=4), Maker("park7/gw01/meter-1")
    store.packs.commit([unasked(birth=True), asked(birth=True)])
    for _ in range(60):
        store.packs.commit([unasked(), asked()])
    store.retention.page_limit = store.retention.used_pages() - 10
    store.prune(0)
    assert store.packs.losses() == [] and store.usage().pending == {FEW: 61}
    assert len(store.packs.after("park7/gw01/meter-1", 0, 1000, 1000)) == 61
    assert len(store.packs.after("park7/gw01/inv1", 0, 1000, 1000)) < 61, "the cap was reached"
    store.close()
