"""Two gateways with one name: no war over the session, an event, and a verifier that sees two histories."""

from __future__ import annotations

import pytest

from tests.kits.faults.rows import SCENARIOS, Row, play


def check(row: Row) -> None:
    assert row["codes"] == (0, 0)
    assert row["events"][0]["uplink"] == "platform" and row["events"][0]["times"] == 1
    assert "another client took over our connection" in row["said"]
    assert row["at_the_broker"] == "failed" and row["conflicts"], row["reasons"]
    assert "clone" in row["conflicts"][0]


@pytest.mark.plays("two_of_one_name")
def test_a_clone_is_reported_and_not_fought(row: Row) -> None:
    """The one that was thrown out says so in ``_gateway``, keeps its packs, and stays away for half a minute."""
    check(row)
    assert row["connects"] == [0, 1], "nobody came back at once"
    assert row["verdict"] == "verified" and not row["lost_packs"], "another destination has the whole history of one"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_clone_is_not_fought_for_a_minute_and_a_half() -> None:
    """Each throws the other out once in a while: a handful of connections, where a war has a hundred."""
    assert "two_of_one_name" in SCENARIOS
    row = play("two_of_one_name", 2, 1)
    check(row)
    assert 2 <= sum(row["connects"]) <= 6, row["connects"]
