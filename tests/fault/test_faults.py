"""What the books say after each fault: nothing durable is lost or there twice, and what is missing is stated.

Scenarios (``play_*.py``) of all tests that were selected run side by side before the first of these.
"""

from __future__ import annotations

import shutil
import time

import pytest

from tests.fault.play_networks import WHY_NOT
from tests.kits.faketime import LIBRARIES
from tests.kits.faults.disks import can_cut
from tests.kits.faults.rows import BUSY, SCENARIOS, Row, play

Rows = dict[str, Row]


# Processes and disks: nothing that was durable is lost, nothing is there twice, and what is missing is stated.


@pytest.mark.plays("kills")
def test_kills(row: Row) -> None:
    """Promise 9: what was in the ring comes once, with its own times and by its own profile."""
    # field pain 51 and 56: no pack is sealed twice, and a restart never starts from an empty or a full store
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["answers_in_the_ring"] and row["answers_on_the_wire"] <= 2 * row["rounds"]
    assert set(row["gaps"]) <= BUSY | {"absent"}


@pytest.mark.plays("ring_changes")
def test_kills_while_a_reload_changes_the_ring(row: Row) -> None:
    """Promise 9, with two rings: at each step of the change, and in the recovery, a kill loses and doubles nothing."""
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["answers_in_the_ring"] and row["answers_on_the_wire"] <= 3 * row["rounds"] and row["two_rings"] >= 6
    assert set(row["gaps"]) <= BUSY | {"absent"}


@pytest.mark.skipif(bool(can_cut()), reason=can_cut())
@pytest.mark.plays("power_cuts")
def test_power_cuts(row: Row) -> None:
    """Promises 2 and 9: what was published is in the store after the cut, and only what no pack held is lost."""
    # field pain 56, 58 and 59: synchronous FULL, and no database that a cut destroys
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert not row["sealed_and_lost"], "only what no pack held yet is lost"
    assert set(row["gaps"]) <= BUSY | {"absent"}


@pytest.mark.plays("full_disks")
def test_a_disk_full_for_longer_than_the_ring_reaches(row: Row) -> None:
    """What was overwritten is a stated gap, all else comes, and the agent goes on by itself."""
    # field pain 46, 47 and 56
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["overwritten"] and row["missing_and_stated"] and {"disk", "ring"} & set(row["gaps"])
    assert set(row["gaps"]) <= BUSY | {"disk", "ring"}
    pauses, ends = (row["said"].count(f"sealing {edge}") for edge in ("paused", "resumed"))
    assert pauses >= row["rounds"] and 0 <= pauses - ends <= row["restarts"]


@pytest.mark.plays("starts_on_full_disks")
def test_a_start_on_a_full_disk(row: Row) -> None:
    """The reserve is there for it: it serves, says what is wrong, reads on, and goes on sealing when there is room."""
    # field pain 46 and 56: no start waits for somebody to free space, and nothing is lost by one
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["paused"] == row["rounds"] and row["answers_in_the_ring"], "all that was in the ring has come"
    assert "sealing paused" in row["said"] and set(row["gaps"]) <= BUSY | {"disk"}


@pytest.mark.plays("damaged_databases")
def test_damaged_databases(row: Row) -> None:
    """Pages, bits, headers, the WAL: it starts, takes over what can be read, and is judged right."""
    # field pain 52 and 57: no start fails for a damaged file, and nobody deletes it
    assert row["delivered_later"] + row["stated_lost"] >= row["undelivered"]
    assert not row["not_stated"] and not row["streams_restarted"] and not row["streams_forked"]


@pytest.mark.plays("restored_copies")
def test_an_older_copy_is_put_back(row: Row) -> None:
    """Two histories after one head: both are kept, the verifier reports it, and nothing is taken for a redelivery."""
    assert row["verdict"] == "failed" and row["streams_forked"] == 3
    assert all("rollback or clone" in text for text in row["conflicts"])


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler to build the failing disk with (apt: gcc)")
@pytest.mark.plays("failing_disks")
def test_a_disk_that_fails(row: Row) -> None:
    """Reads, writes and syncs fail or hang: the readings wait in the ring, and none is lost or there twice."""
    # field pain 45, 57 and 59: errors are survived, and nothing is retried for ever in memory
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert set(row["gaps"]) <= BUSY | {"absent", "disk"}


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler to build the failing disk with (apt: gcc)")
@pytest.mark.plays("devices_change_while_the_disk_fails")
def test_a_device_that_changes_while_the_disk_fails(row: Row) -> None:
    """Its new table could not be kept: that ended the agent once. Now it is gap ``disk`` until the disk is well."""
    assert row["code"] == 0 and row["verdict"] == "verified"
    assert row["births"] == row["rounds"] and row["gaps"]["disk"]


# The wall clock steps, the process is stopped, the cores are busy: times stay true, and nothing is hidden.


@pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (apt: faketime)")
@pytest.mark.plays("clock_steps")
def test_the_clock_steps_by_a_year(row: Row) -> None:
    """Forward and back: a pack ends at each step and the event covers the seam; nothing is read twice or lost."""
    # field pain 62 and 63: the grid realigns at once, and no reading's time is touched afterwards
    assert row["code"] == 0 and row["steps"] and not row["steps_not_stated"]
    assert row["longest_pack_s"] < 1800, "no pack spans a step, of an hour at least"
    assert set(row["gaps"]) <= BUSY | {"clock"}
    assert row["most_log_lines"] < 100, "a year of ticks is not a year of log lines"


@pytest.mark.plays("pauses_of_the_process")
def test_a_process_that_was_stopped_for_a_while(row: Row) -> None:
    """The ticks that passed are gap ``overload``, no reading carries a time at which nobody read."""
    # field pain 62: no burst of late polls, no ticks made up afterwards
    assert row["code"] == 0
    assert set(row["gaps"]) <= BUSY and row["overloads"] >= 1


@pytest.mark.slow  # its loops would take the cores from all other tests
@pytest.mark.plays("busy_cores")
def test_busy_cores_drop_nothing_silently(row: Row) -> None:
    """What others keep us from reading is stated; most of it is read all the same."""
    assert row["code"] == 0
    assert set(row["gaps"]) <= BUSY


# Brokers that go and come back.


def check_outage(row: Row) -> None:
    assert row["code"] == 0 and set(row["gaps"]) <= BUSY and not row["lost_packs"]


@pytest.mark.plays("broker_outages")
def test_brokers_that_stop_and_come_back(row: Row) -> None:
    """With and without persistence: every pack arrives, the identical bytes, and fresh ones first."""
    # field pains 44, 46, 50 and 51: the store is not touched by a reconnect, and delivered means acknowledged
    check_outage(row)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_brokers_that_are_away_for_up_to_a_minute() -> None:
    """Issue 3: after a minute's outage the agent is back by itself, and its log has an edge for each."""
    row = play("broker_outages", 6, int(time.time()))
    check_outage(row)
    assert row["most_log_lines"] < 100


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_broker_that_is_killed_loses_nothing_where_the_platform_confirms() -> None:
    """What a broker without memory had taken and not passed on comes again, as the identical bytes."""
    # field pain 60
    check_outage(play("broker_kills", 4, int(time.time())))


# Brokers that are away, slow, deaf, strict or torn: none loses a pack, and none holds up another destination.


@pytest.mark.plays("brokers_of_all_kinds")
def test_brokers_of_all_kinds(row: Row) -> None:
    """Eight troubled destinations beside a good one: each says its trouble, each gets everything in the end."""
    # field pain 44, 46, 50, 55
    assert row["codes"] == (0, 0)
    assert row["live_packs_sent_as_backlog"] <= 2, "the other destinations did not delay the good one"


# Networks that swallow, tear, refuse and trickle: nothing is lost where other gateways lose 10 to 70 %.


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
    assert row["most_log_lines"] < 100


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_thin_link_is_not_taken_for_a_silent_one() -> None:
    """2.5 kB/s for twenty packs of backlog beside what comes fresh: one connection, and all of it arrives."""
    row = play("thin_link", 1, 1)
    assert row["code"] == 0 and row["connections"] <= 3


@pytest.mark.plays("runs_that_end_after_a_cut")
def test_an_answer_that_is_not_delivered_when_a_run_ends_is_in_the_ring_in_the_outbox_or_in_flight(row: Row) -> None:
    """Of 8,080 answers, 100 had not arrived when a run ended after a cut. Each has its stage, and none was at risk:

    the next start delivers it. An answer that came too late to be a reading is stated in a gap.
    """
    assert row["code"] == 0 and row["verdict"] == "verified" and set(row["gaps"]) <= BUSY
    assert not row["sealed_and_lost"] and row["in_the_outbox"], "the run ended while the backlog left"
    held = ("delivered", "in_flight", "in_the_outbox", "in_the_ring", "in_stated_gaps")
    assert row["answers"] == sum(row[stage] for stage in held)


# Links that die oddly: the port is open, and no pack gets through. Nothing is lost or doubled.


def check_recovery(row: Row) -> None:
    assert row["code"] == 0 and set(row["gaps"]) <= BUSY and not row["lost_packs"]
    assert row["most_log_lines"] < 100


@pytest.mark.plays("closes_before_it_acknowledges")
def test_a_broker_that_closes_each_connection_before_it_acknowledges_anything(row: Row) -> None:
    """Nothing is lost or doubled. (``tests/fault/soak.py`` measures how soon the first value is there.)"""
    check_recovery(row)


@pytest.mark.plays("disconnects_at_large_packs")
def test_a_broker_that_disconnects_at_large_packs_delays_only_their_stream(row: Row) -> None:
    """The other stream had no value for a minute, since each disconnect doubled the delay for all."""
    check_recovery(row)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(WHY_NOT != "", reason=WHY_NOT)
def test_a_black_hole_of_a_minute() -> None:
    """The kernel drops all packets and resets nothing."""
    check_recovery(play("black_holes", 1, int(time.time())))


# Two gateways with one name: no war over the session, an event, and a verifier that sees two histories.


def check_clone(row: Row) -> None:
    assert row["codes"] == (0, 0)
    assert row["events"][0]["uplink"] == "platform" and row["events"][0]["times"] == 1
    assert "another client took over the session" in row["said"]
    assert row["at_the_broker"] == "failed" and row["conflicts"], row["reasons"]
    assert "clone" in row["conflicts"][0]


@pytest.mark.plays("two_agents_with_one_name")
def test_a_clone_is_reported_and_not_fought(row: Row) -> None:
    """The one that was thrown out says so in ``_gateway``, keeps its packs, and stays away for half a minute."""
    check_clone(row)
    assert sum(row["connects"]) <= row["most_connects"], "nobody came back at once"
    assert row["verdict"] == "verified" and not row["lost_packs"], "another destination has the whole history of one"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_clone_is_not_fought_for_a_minute_and_a_half() -> None:
    """Each throws the other out once in a while: a handful of connections, where a war has a hundred."""
    assert "two_agents_with_one_name" in SCENARIOS
    row = play("two_agents_with_one_name", 2, 1)
    check_clone(row)
    assert 2 <= sum(row["connects"]) <= row["most_connects"], row["connects"]


# Bounds that hold when everything else fails.


@pytest.mark.plays("everything_fails_at_once")
def test_everything_fails_at_once(row: Row) -> None:
    """Disk, memory, replies and log stay small; fresh packs go on; what the cap dropped is stated at both."""
    # field pains 46, 47, 56 and 68: a cap in bytes that holds, no memory for what waits, the log apart from the data
    assert row["codes"] == (0, 0)
    assert row["most_disk_mib"] <= row["most_disk_allowed_mib"]
    assert row["most_memory_growth_mb"] < 20 and row["most_memory_mb"] < 100
    assert row["lost_packs"] > 0 and row["packs_lost_at_the_dead_broker"] > 0
    assert 4 * row["replies"] < row["requests"] > 1000, "a flood is not answered"
    assert row["most_log_lines"] < 100, "and costs a line a minute"


# A backlog beside what comes fresh, and what it costs. ``bench/drain.py`` measures how fast it leaves, for a day.


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler for the simulator of the bench (apt: gcc)")
@pytest.mark.skipif(not shutil.which("mosquitto"), reason="no mosquitto here (apt: mosquitto)")
def test_an_hour_of_backlog_leaves_whole_and_beside_what_is_fresh() -> None:
    """Issue 3: every pack once, fresh ones meanwhile, less than 20 MB more memory."""
    # field pains 46, 49 and 56
    from bench.drain import measure

    row = measure(3600, 0, core=False, share=None, verify=True)
    assert row["rss_growth_mb"] < 20 and row["fresh"], row
    assert not row["failed"] and not row["missing"] and not row["copies"], row


# The promises that faults try to break, each by its number (docs/reliability.md; 1, 5, 8 and 10 elsewhere).


@pytest.mark.plays("kills_before_the_acknowledgement")
def test_promise_2_nothing_is_published_before_it_is_durable(row: Row) -> None:
    """Killed while the broker reads a pack: the pack is in the store, and no other one ever gets its place."""
    assert row["packs_looked_up"] >= 2 and row["verdict"] == "verified" and row["code"] == 0


@pytest.mark.plays("brokers_of_all_kinds", "everything_fails_at_once")
def test_promise_3_nothing_durable_is_dropped_before_it_is_confirmed(rows: Rows) -> None:
    """Eight destinations in eight kinds of trouble get everything; only the stated cap drops, and that is signed."""
    healed, capped = rows["brokers_of_all_kinds"], rows["everything_fails_at_once"]
    assert healed["codes"] == (0, 0) and healed["verdict"] == "verified" and not healed["lost_packs"]
    assert capped["verdict"] == "verified", "the verifier finds every missing pack in a loss event"
    assert capped["lost_packs"] > 0 and capped["packs_lost_at_the_dead_broker"] > 0


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
    assert row["verdict"] == "verified" and not row["steps_not_stated"] and row["longest_pack_s"] < 1800


@pytest.mark.plays("everything_fails_at_once")
def test_promise_7_bounded(row: Row) -> None:
    """Memory, disk, queues and log keep their caps while a broker is dead, one is flooded, and devices are gone."""
    assert row["most_disk_mib"] <= row["most_disk_allowed_mib"]
    assert row["most_memory_growth_mb"] < 20
    assert 4 * row["replies"] < row["requests"]
    assert row["most_log_lines"] < 100


@pytest.mark.skipif(bool(can_cut()), reason=can_cut())
@pytest.mark.plays("kills", "power_cuts")
def test_promise_9_kill_dash_nine_loses_no_reading_and_a_power_cut_one_pack_interval(rows: Rows) -> None:
    """What was in the ring comes once after kill -9; after a cut what was published is there, and little is lost."""
    for row in rows.values():
        assert row["code"] == 0 and row["verdict"] == "verified"
    assert not rows["power_cuts"]["sealed_and_lost"]
