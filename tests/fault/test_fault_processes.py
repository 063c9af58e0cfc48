"""Processes and disks: nothing that was durable is lost, nothing is there twice, and what is missing is stated."""

from __future__ import annotations

import shutil

import pytest

from tests.kits.faults.disks import can_cut
from tests.kits.faults.rows import BUSY, Row


@pytest.mark.plays("kills")
def test_kills(row: Row) -> None:
    """Promise 9: what was in the ring comes once, with its own times and by its own profile."""
    # field pain 51 and 56: no pack is sealed twice, and a restart never starts from an empty or a full store
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["held"] and row["on_the_wire"] <= 2 * row["rounds"]
    assert set(row["gaps"]) <= BUSY | {"absent"}


@pytest.mark.skipif(bool(can_cut()), reason=can_cut())
@pytest.mark.plays("power_cuts")
def test_power_cuts(row: Row) -> None:
    """Promises 2 and 9: what was published is in the store after the cut, and a pack interval is lost at most."""
    # field pain 56, 58 and 59: synchronous FULL, and no database that a cut destroys
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["longest_loss_s"] < 8, "a pack interval of 1 s and the time to seal it, on a busy machine"
    assert set(row["gaps"]) <= BUSY | {"absent"}


@pytest.mark.plays("full_disks")
def test_a_disk_full_for_longer_than_the_ring_reaches(row: Row) -> None:
    """What was overwritten is a stated gap, all else comes, and the agent goes on by itself."""
    # field pain 46, 47 and 56
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["overwritten"] and row["missing_and_stated"] and {"disk", "ring"} & set(row["gaps"])
    assert set(row["gaps"]) <= BUSY | {"disk", "ring"}
    pauses, ends = (row["said"].count(f"sealing {edge}") for edge in ("pauses", "goes on"))
    assert pauses >= row["rounds"] and 0 <= pauses - ends <= row["restarts"]


@pytest.mark.plays("starts_on_full_disks")
def test_a_start_on_a_full_disk(row: Row) -> None:
    """The reserve is there for it: it serves, says what is wrong, reads on, and goes on sealing when there is room."""
    # field pain 46 and 56: no start waits for somebody to free space, and nothing is lost by one
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["paused"] == row["rounds"] and row["held"], "all that was in the ring has come"
    assert "sealing pauses" in row["said"] and set(row["gaps"]) <= BUSY | {"disk"}


@pytest.mark.plays("damaged_databases")
def test_damaged_databases(row: Row) -> None:
    """Pages, bits, headers, the WAL: it starts, takes over what can be read, and is judged right."""
    # field pain 52 and 57: no start fails for a damaged file, and nobody deletes it
    assert row["taken_over"] + row["stated_lost"] >= row["undelivered"]
    assert not row["not_stated"] and not row["streams_anew"] and not row["streams_forked"]


@pytest.mark.plays("restored_copies")
def test_an_older_copy_is_put_back(row: Row) -> None:
    """Two histories after one head: both are kept, the verifier reports it, and nothing is taken for a redelivery."""
    assert row["verdict"] == "failed" and row["streams_forked"] == 3
    assert all("rollback or clone" in text for text in row["conflicts"])


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler to build the failing disk with")
@pytest.mark.plays("failing_disks")
def test_a_disk_that_fails(row: Row) -> None:
    """Reads, writes and syncs fail or hang: the readings wait in the ring, and none is lost or there twice."""
    # field pain 45, 57 and 59: errors are survived, and nothing is retried for ever in memory
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert set(row["gaps"]) <= BUSY | {"absent", "disk"}


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler to build the failing disk with")
@pytest.mark.plays("devices_change_while_the_disk_fails")
def test_a_device_that_changes_while_the_disk_fails(row: Row) -> None:
    """Its new table could not be kept: that ended the agent once. Now it is gap ``disk`` until the disk is well."""
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["births"] == row["rounds"] and row["gaps"]["disk"]
