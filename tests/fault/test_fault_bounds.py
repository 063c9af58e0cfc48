"""Bounds that hold when everything else fails."""

from __future__ import annotations

import pytest

from tests.kits.faults.rows import Row


@pytest.mark.plays("everything_fails_at_once")
def test_everything_fails_at_once(row: Row) -> None:
    """Disk, memory, replies and log stay small; fresh packs go on; what the cap dropped is stated at both."""
    # field pains 46, 47, 56 and 68: a cap in bytes that holds, no memory for what waits, the log apart from the data
    assert row["codes"] == (0, 0)
    assert row["most_disk_mib"] <= row["most_allowed_mib"]
    assert row["most_rss_growth_mb"] < 20 and row["most_rss_mb"] < 100
    assert row["lost_packs"] > 0 and row["lost_at_the_dead_one"] > 0
    assert row["replies"] < 200 and row["requests"] > 1000, "a flood is not answered"
    assert row["most_log_lines"] < 40, "and costs a line a minute"
