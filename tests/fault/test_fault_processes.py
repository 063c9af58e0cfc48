"""Processes and disks: nothing that was durable is lost, nothing is there twice, and what is missing is stated."""

from __future__ import annotations

import pytest
from fault_disks import can_cut
from fault_rows import Row


@pytest.mark.plays("kills")
def test_kills(row: Row) -> None:
    """Promise 9: what was in the ring comes once, with its own times and by its own profile."""
    # field pain 51 and 56: no pack is sealed twice, and a restart never starts from an empty or a full store
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["held"] and row["on_the_wire"] <= 2 * row["rounds"]
    assert set(row["gaps"]) <= {"stopped", "overload", "absent"}


@pytest.mark.skipif(bool(can_cut()), reason=can_cut())
@pytest.mark.plays("power_cuts")
def test_power_cuts(row: Row) -> None:
    """Promises 2 and 9: what was published is in the store after the cut, and a pack interval is lost at most."""
    # field pain 56, 58 and 59: synchronous FULL, and no database that a cut destroys
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["longest_loss_s"] < 8, "a pack interval of 1 s and the time to seal it, on a busy machine"
    assert set(row["gaps"]) <= {"stopped", "overload", "absent"}
