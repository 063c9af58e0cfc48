"""Two weeks over the end of summer time and of a month: days of 25 hours, months that are the sum of their days."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from bench.timelapse import HOUR_MS, Silence, Timelapse
from bench.year import balance
from tests.kits.lived import mh

FIRST, LAST = date(2025, 10, 20), date(2025, 11, 3)
D = Decimal


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_weeks_with_a_day_of_25_hours(tmp_path: Path) -> None:
    park = Timelapse(tmp_path, FIRST, timezone="Europe/Berlin", every_s=600, late_ms=7)
    long_day = park.calendar.midnight(date(2025, 10, 26))
    park.silences.append(Silence("pv-hall-2", long_day + HOUR_MS, long_day + 5 * HOUR_MS))
    park.silences.append(
        Silence("storage", park.calendar.midnight(date(2025, 11, 1)) - HOUR_MS, long_day + 150 * HOUR_MS)
    )
    for _ in park.until(LAST):
        pass
    park.close()
    # meters that answer one after the other: what is left over is what flowed meanwhile, and does not grow with time
    found = balance(tmp_path, park.calendar, FIRST, LAST)
    assert abs(D(found["residual_kwh"])) < 1, found
    code, out, err = mh("export", tmp_path / "packs", "-c", tmp_path / "agent.toml", "--zstd")
    assert code == 0, err
    code, out, err = mh("report", "2025-10-26", "-c", tmp_path / "agent.toml", "--json")
    page = json.loads(out)
    assert len(page["trace"]["hours"]) == 25 and page["period"]["to"] - page["period"]["from"] == 25 * 3600
    consumption = next(one for one in page["figures"] if one["id"] == "plain/consumption")
    assert len(consumption["trend"]) == 25 and consumption["completeness"] == "1"
    days: dict[str, D] = defaultdict(D)
    for n in range((LAST - FIRST).days):
        day = FIRST + timedelta(days=n)
        code, out, err = mh("report", f"{day}", "-c", tmp_path / "agent.toml", "--json")
        of_day = next(one for one in json.loads(out)["figures"] if one["id"] == "plain/consumption")
        days[f"{day:%Y-%m}"] += D(of_day["v"])
    for month in ("2025-10", "2025-11"):
        code, out, err = mh("report", month, "-c", tmp_path / "agent.toml", "--json")
        shown = {one["id"]: one for one in json.loads(out)["figures"]}["plain/consumption"]
        first_hour = D(0)
        if month == "2025-11":  # lived one hour beyond the last day
            trend = {one["label"]: one["v"] for one in shown["trend"]}
            first_hour = D(trend.get("11-03") or 0)
        assert D(shown["v"]) == days[month] + first_hour
    code, out, err = mh("verify", tmp_path / "packs", "--trust", park.kid, "--recompute", "--json")
    repeated = json.loads(out)["recomputed"]
    assert (repeated["differ"], repeated["unknown"]) == (0, 0) and repeated["agree"] > 5000, repeated
