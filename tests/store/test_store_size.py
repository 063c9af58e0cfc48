"""What a reading costs at rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.store import Store
from tests.kits.packs import POINTS, Maker


@pytest.mark.parametrize(
    ("ticks", "packs", "limit"),
    [
        (1, 60, 10.0),  # a reading of each point every 10 s: the hard case, a signature for 50 readings
        (10, 10, 8.5),  # at 1 s
        pytest.param(1, 2400, 9.5, marks=pytest.mark.slow),
    ],
)
def test_a_reading_costs_at_most_ten_bytes_at_rest(tmp_path: Path, ticks: int, packs: int, limit: float) -> None:
    """50 points, 10 s packs, moving values; database and WAL, everything in them counted."""
    store = Store.open(tmp_path / "store.db", 1 << 30, destinations=["platform"])
    makers = [Maker(f"park7/gw01/d{n}", POINTS, ticks) for n in range(20)]
    confirmed = store.packs.commit([make(birth=True) for make in makers])
    for _ in range(10):  # the dictionary is learned, the WAL has its size
        confirmed = store.packs.commit([make() for make in makers], {"platform": confirmed})
    before = store.usage()
    for _ in range(packs):
        confirmed = store.packs.commit([make() for make in makers], {"platform": confirmed})
    after = store.usage()
    readings = packs * len(makers) * len(POINTS) * ticks
    grown = after.database_bytes - after.unused_bytes - before.database_bytes + before.unused_bytes
    per_reading = grown / readings
    assert per_reading <= limit, f"{per_reading:.2f} bytes a reading"
    assert after.wal_bytes <= 2 << 20, "the WAL does not grow with what is kept"
    if packs > 1000:
        assert (after.database_bytes + after.wal_bytes) / readings <= 10
    store.close()
