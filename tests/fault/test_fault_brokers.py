"""Brokers that are away, slow, deaf, strict or torn: none loses a pack, and none holds up another destination."""

from __future__ import annotations

import pytest

from tests.kits.faults.rows import Row


@pytest.mark.plays("brokers_of_all_kinds")
def test_brokers_of_all_kinds(row: Row) -> None:
    """Eight troubled destinations beside a good one: each says its trouble, each gets everything in the end."""
    # field pain 44, 46, 50, 55
    errors = {name: str(state["error"]) for name, state in row["errors"].items()}
    assert errors["good"] == "None" and errors["slow"] == "None"
    assert "nothing listens" in errors["dead"]
    assert "nobody subscribes" in errors["unread"]
    assert "does not let us publish" in errors["strict"]
    assert "quota" in errors["quota"]
    assert row["errors"]["tight"]["set_aside"] >= 1 and "too large" in errors["tight"]
    assert row["codes"] == (0, 0)
    assert row["off_its_road"] <= 2, "what others could not take did not take the good one off its road"
