"""A simulated year in some minutes: is the energy balance zero, and can all figures be recomputed from the packs?

    python -m bench.year [--days 365] [--every 300] [--keep FOLDER] [--json]

A park with 14 meters is read in simulated time (``bench/timelapse.py``) through ring, packs, store, intervals and
figures, as in the agent. In each month, a different meter is silent over one midnight. Then the balance of the year is
calculated. After that, these commands run: the reports of the year, a month and a day, an export, and `verify
--recompute` of the export. Times are CPU seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from agent.cli.main import outcome
from agent.indicators.compute import intervals_of
from agent.intervals.calendar import Calendar
from agent.intervals.rows import RoleSum
from agent.store import Store
from bench.timelapse import HOUR_MS, Silence, Timelapse

YEAR = 2025
SUPPLY = (("generation.pv", "generation"), ("direct", "import"), ("grid", "import"), ("storage", "discharge"))
USE = (("load", "consumption"), ("grid", "export"), ("storage", "charge"))


def live(folder: Path, first: date, last: date, **how: Any) -> tuple[Timelapse, dict[str, Any]]:
    """Simulate the time from midnight of ``first`` to midnight of ``last``. Returns (the park, facts to print).

    At the end of each month, values that people attest are declared.
    """
    began = time.process_time()
    park = Timelapse(folder, first, sun_day=first.timetuple().tm_yday, **how)
    midnight = park.calendar.midnight
    for n in range((last - first).days):
        day = first + timedelta(days=n)
        if day.day == 14:  # one meter is silent over the midnight before this day, a different one each month
            name = park.config.devices[day.month % len(park.config.devices)].name
            park.silences.append(Silence(name, midnight(day) - HOUR_MS, midnight(day) + 2 * HOUR_MS))
        following = day + timedelta(days=1)
        if following.day == 1:
            month, at = (day.replace(day=1), following), midnight(following) - 12 * HOUR_MS
            park.declare("certificates", "23500", "MWh", *month, "Li Wei", at, f"GEC-{day:%Y-%m}")
            park.declare("residual_available", "38000", "GJ", *month, "Zhang Min", at, "energy audit 2024")
            park.declare("waste_generated", "812.4", "t", *month, "Chen Yu", at, f"weighbridge {day:%Y-%m}")
            park.declare("waste_used", "690.1", "t", *month, "Chen Yu", at, f"weighbridge {day:%Y-%m}")
    for now in park.until(last):
        if now == midnight(park.calendar.day(now)):
            print(f"\r{park.calendar.day(now)}", end="", flush=True)
    print("\r" + " " * 12 + "\r", end="")
    park.close()
    size = sum(path.stat().st_size for path in (folder / "state").glob("store.db*"))
    return park, {
        "days": (last - first).days,
        "readings": park.readings,
        "packs": park.packs,
        "figures": park.figures,
        "lived_s": round(time.process_time() - began, 1),
        "store_mb": round(size / 1e6, 1),
        "intervals_mb": round(interval_bytes(folder) / 1e6, 2),
    }


def interval_bytes(folder: Path) -> int:
    """The total size of all intervals in the database, in bytes."""
    import sqlite3

    conn = sqlite3.connect(folder / "state" / "store.db")
    try:
        return int(conn.execute("SELECT sum(length(body) + 40) FROM interval_pages").fetchone()[0])
    finally:
        conn.close()


def days_of(folder: Path, calendar: Calendar, first: date, last: date) -> Iterator[tuple[date, list[RoleSum]]]:
    """Yield (day, sums by role of the day's intervals) for each day."""
    store = Store.open(folder / "state" / "store.db")
    try:
        for n in range((last - first).days):
            day = first + timedelta(days=n)
            yield (
                day,
                intervals_of(
                    store.intervals, calendar, calendar.midnight(day), calendar.midnight(day + timedelta(days=1))
                ),
            )
    finally:
        store.close()


def balance(folder: Path, calendar: Calendar, first: date, last: date) -> dict[str, Any]:
    """The balance in kWh: energy of the whole time by role and flow, its residual, and the largest residual of a single
    day.
    """
    totals: dict[tuple[str, str], Decimal] = {}
    worst = Decimal(0)
    for _, parts in days_of(folder, calendar, first, last):
        today: dict[tuple[str, str], Decimal] = {}
        for one in parts:
            if one.unit == "kWh":
                today[one.role, one.flow] = today.get((one.role, one.flow), Decimal(0)) + one.amount
        worst = max(worst, abs(_rest(today)))
        for key, amount in today.items():
            totals[key] = totals.get(key, Decimal(0)) + amount
    return {
        "kwh": {" ".join(key): str(amount) for key, amount in sorted(totals.items())},
        "residual_kwh": str(_rest(totals)),
        "largest_residual_of_a_day_kwh": str(worst),
    }


def _rest(totals: dict[tuple[str, str], Decimal]) -> Decimal:
    zero = Decimal(0)
    return sum((totals.get(key, zero) for key in SUPPLY), zero) - sum((totals.get(key, zero) for key in USE), zero)


def command(*args: object) -> tuple[float, str]:
    """Run a meterhouse command. Returns (CPU seconds, output). Raises RuntimeError if it fails."""
    out, err, began = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = outcome([str(arg) for arg in args])
    if code:
        raise RuntimeError(f"{args}: {code} {out.getvalue()[-500:]} {err.getvalue()}")
    return time.process_time() - began, out.getvalue()


def look(folder: Path, kid: str, first: date, last: date, facts: dict[str, Any]) -> None:
    """Run the reports, the export and its verification with recomputation. Adds the results to ``facts``."""
    config = folder / "agent.toml"
    for name, period in (("year", f"{first:%Y}"), ("month", f"{first:%Y-%m}"), ("day", f"{first}")):
        took, out = command("report", period, "-c", config, "--json")
        facts[f"report_{name}_s"] = round(took, 1)
        page = json.loads(out)
        if name == "year":
            facts["year"] = {one["id"]: f"{one.get('v', '-')} {one['u']}" for one in page["figures"]}
    facts["export_s"] = round(command("export", folder / "packs", "-c", config, "--zstd")[0], 1)
    took, out = command("verify", folder / "packs", "--trust", kid, "--recompute", "--json")
    found = json.loads(out)["recomputed"]
    facts |= {"recompute_s": round(took, 1), "agree": found["agree"], "differ": found["differ"]}
    facts["not_repeated"] = found["unknown"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--every", type=int, default=300, metavar="SECONDS", help="how often meters are read")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all files in this folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    first = date(YEAR, 1, 1)
    last = first + timedelta(days=options.days)
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mh-year-")))
        folder.mkdir(parents=True, exist_ok=True)
        park, facts = live(folder, first, last, every_s=options.every)
        facts |= balance(folder, park.calendar, first, last)
        look(folder, park.kid, first, last, facts)
    if options.json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            rows = value.items() if isinstance(value, dict) else [("", value)]
            for row, text in rows:
                print(f"{name if not row else f'  {row}':<44} {text}")
    good = Decimal(facts["residual_kwh"]) == 0 and not facts["differ"] and not facts["not_repeated"]
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
