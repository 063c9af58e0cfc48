"""The promises that faults try to break, each by its number (docs/reliability.md; 1, 5, 8 and 10 elsewhere)."""

from __future__ import annotations

import pytest

from tests.kits.faketime import LIBRARIES
from tests.kits.faults.disks import can_cut
from tests.kits.faults.rows import BUSY, Row

Rows = dict[str, Row]


@pytest.mark.plays("killed_on_the_wire")
def test_promise_2_nothing_is_published_before_it_is_durable(row: Row) -> None:
    """Killed while the broker reads a pack: the pack is in the store, and no other one ever gets its place."""
    assert row["looked_up"] >= 2 and row["verdict"] == "verified" and row["code"] == 0


@pytest.mark.plays("brokers_of_all_kinds", "everything_fails_at_once")
def test_promise_3_nothing_durable_is_dropped_before_it_is_confirmed(rows: Rows) -> None:
    """Eight destinations in eight kinds of trouble get everything; only the stated cap drops, and that is signed."""
    healed, capped = rows["brokers_of_all_kinds"], rows["everything_fails_at_once"]
    assert healed["codes"] == (0, 0) and healed["verdict"] == "verified" and not healed["lost_packs"]
    assert capped["verdict"] == "verified", "the verifier finds every missing pack in a loss event"
    assert capped["lost_packs"] > 0 and capped["lost_at_the_dead_one"] > 0


@pytest.mark.plays("pauses_of_the_process", "kills", "broker_outages")
def test_promise_4_what_is_missing_is_stated(rows: Rows) -> None:
    """After a pause, kills and outages each due tick is a reading or lies in a gap: the verifier counts them."""
    for row in rows.values():
        assert row["verdict"] == "verified" and not row["lost_packs"]
    assert rows["pauses_of_the_process"]["overloads"] >= 1, "a pause of seconds cannot go unsaid"
    assert rows["kills"]["gaps"].get("stopped", 0) >= 1, "nor can the time between two runs"
    assert set(rows["broker_outages"]["gaps"]) <= BUSY, "and a broker's outage costs no reading at all"


@pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (apt: faketime)")
@pytest.mark.plays("clock_steps")
def test_promise_6_time_is_honest(row: Row) -> None:
    """A year forward, more than a year back: events cover the seams, each read time is the clock's at that moment."""
    assert row["verdict"] == "verified" and not row["steps_unsaid"] and row["longest_pack_s"] < 1800


@pytest.mark.plays("everything_fails_at_once")
def test_promise_7_bounded(row: Row) -> None:
    """Memory, disk, queues and log keep their caps while a broker is dead, one is flooded, and devices are gone."""
    assert row["most_disk_mib"] <= row["most_allowed_mib"]
    assert row["most_rss_growth_mb"] < 20
    assert row["replies"] < 200 < row["requests"]
    assert row["most_log_lines"] < 40


@pytest.mark.skipif(bool(can_cut()), reason=can_cut())
@pytest.mark.plays("kills", "power_cuts")
def test_promise_9_kill_dash_nine_loses_no_reading_and_a_power_cut_one_pack_interval(rows: Rows) -> None:
    """What was in the ring comes once after kill -9; after a cut what was published is there, and little is lost."""
    for row in rows.values():
        assert row["code"] == 0 and row["verdict"] == "verified"
    assert rows["power_cuts"]["longest_loss_s"] < 8
