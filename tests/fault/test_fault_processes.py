"""Processes and disks: nothing that was durable is lost, nothing is there twice, and what is missing is stated."""

from __future__ import annotations

import shutil

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


@pytest.mark.plays("full_disks")
def test_a_disk_full_for_longer_than_the_ring_reaches(row: Row) -> None:
    """What was overwritten is a stated gap, all else comes, and the agent goes on by itself."""
    # field pain 46, 47 and 56
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["overwritten"] and row["missing_and_stated"] and row["gaps"]["disk"]
    assert set(row["gaps"]) <= {"disk", "ring", "overload", "stopped"}
    assert row["said"].count("sealing pauses") == row["said"].count("sealing goes on") == row["rounds"]


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler to build the failing disk with")
@pytest.mark.plays("failing_disks")
def test_a_disk_that_fails(row: Row) -> None:
    """Reads, writes and syncs fail or hang: the readings wait in the ring, and none is lost or there twice."""
    # field pain 45, 57 and 59: errors are survived, and nothing is retried for ever in memory
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert set(row["gaps"]) <= {"stopped", "overload", "absent"}


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler to build the failing disk with")
@pytest.mark.plays("devices_change_while_the_disk_fails")
def test_a_device_that_changes_while_the_disk_fails(row: Row) -> None:
    """Its new table could not be kept: that ended the agent once. Now it is gap ``disk`` until the disk is well."""
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["births"] == 1 + row["rounds"] and row["gaps"]["disk"]
