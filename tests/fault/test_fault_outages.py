"""Brokers that go and come back."""

from __future__ import annotations

import time

import pytest

from tests.kits.faults.rows import BUSY, Row, play


def check(row: Row) -> None:
    assert row["code"] == 0 and set(row["gaps"]) <= BUSY and not row["lost_packs"]


@pytest.mark.plays("broker_outages")
def test_brokers_that_stop_and_come_back(row: Row) -> None:
    """With and without persistence: every pack arrives, the identical bytes, and fresh ones first."""
    # field pains 44, 46, 50 and 51: the store is not touched by a reconnect, and delivered means acknowledged
    check(row)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_brokers_that_are_away_for_up_to_a_minute() -> None:
    """Issue 3: after a minute's outage the agent is back within seconds, where it once took 33."""
    row = play("broker_outages", 6, int(time.time()))
    check(row)
    assert row["longest_back_s"] < 15 and row["most_log_lines"] < 40


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_broker_that_is_killed_loses_nothing_where_the_platform_confirms() -> None:
    """What a broker without memory had taken and not passed on comes again, as the identical bytes."""
    # field pain 60
    check(play("broker_kills", 4, int(time.time())))
