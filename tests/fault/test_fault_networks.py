"""Networks that swallow, tear, refuse and trickle: nothing is lost where other gateways lose 10 to 70 %."""

from __future__ import annotations

import time

import pytest

from tests.fault.play_networks import WHY_NOT
from tests.kits.faults.rows import BUSY, Row, play


@pytest.mark.plays("bad_wires")
def test_wires_that_swallow_and_stall(row: Row) -> None:
    """Packs that vanish on their way, unacknowledged, come again by ``backfill``; the fresh ones do not wait."""
    # field pain 55
    assert row["code"] == 0 and set(row["gaps"]) <= BUSY and not row["lost_packs"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(WHY_NOT != "", reason=WHY_NOT)
def test_networks_of_all_kinds() -> None:
    """A black hole in both directions and in one, a third of all packets lost, resets, no cable, a modem."""
    # field pains 43 and 55: nothing hangs on a connection that is dead, and nothing piles up meanwhile
    row = play("networks", 8, int(time.time()))
    assert row["code"] == 0 and set(row["gaps"]) <= BUSY and not row["lost_packs"]
    assert row["longest_back_s"] < 45 and row["most_log_lines"] < 40


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_thin_link_is_not_taken_for_a_silent_one() -> None:
    """2.5 kB/s for twenty packs of backlog beside what comes fresh: one connection, and all of it arrives."""
    row = play("thin_link", 1, 1)
    assert row["code"] == 0 and row["connects"] <= 3
