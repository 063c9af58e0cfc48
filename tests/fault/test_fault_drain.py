"""A backlog beside what comes fresh: how fast it leaves and what that costs. ``bench/drain.py`` does it for a day."""

from __future__ import annotations

import shutil

import pytest


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler for the simulator of the bench")
@pytest.mark.skipif(not shutil.which("mosquitto"), reason="no mosquitto here")
def test_an_hour_of_backlog_leaves_twenty_times_as_fast_as_it_came() -> None:
    """Issue 3: at least 20 times the live rate, fresh packs first, less than 20 MB more memory."""
    # field pains 46, 49 and 56
    from bench.drain import measure

    row = measure(3600, 0, core=False, share=None, verify=True)
    assert row["times_live"] >= 20, row
    assert row["rss_growth_mb"] < 20, row
    assert row["fresh"] >= 10 and row["fresh_median_s"] < 2, row
    assert not row["failed"] and not row["missing"] and not row["copies"], row
