"""The running agent makes figures: sealed at the end of interval, day, month and year, shown by report, repeated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.kits.faketime import LIBRARIES, Clock
from tests.kits.house import ROOT, Agent, House, Meter, until

NEW_YEAR = datetime(2026, 12, 31, 16, tzinfo=UTC)  # midnight in Shanghai
STARTS_S = (12, 48, 192)  # so long before it the agent starts; on a slow machine that has to be longer
MORE = """[interval]
length = "1 min"

[indicators]
plan = "plan.toml"
"""
PLAN = """schema = 1
sets = ["national-2025", "plain"]

[absent]
"generation.wind" = "no wind turbine"

[exclude]
"national-2025/product_energy" = "no such products"
"""
ROLES = {"m1": "grid", "m2": "generation.pv"}


def run(agent: Agent, *words: object) -> tuple[int, str, str]:
    """One of our commands, by the clock of the agent."""
    env = {key: value for key, value in os.environ.items() if not key.endswith("_DIRECTORY")} | agent.env
    found = subprocess.run(
        [sys.executable, "-m", "agent.cli.main", *map(str, words)],
        check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in found.stdout + found.stderr, found.stderr
    return found.returncode, found.stdout, found.stderr


@dataclass
class Played:
    declared: dict[str, Any]
    published: list[dict[str, Any]]  # results as they came from the broker
    living: dict[str, Any]  # the day's report of the running agent
    resting: dict[str, Any]  # and of its database
    shown: str
    recomputed: dict[str, Any]
    refused: tuple[int, str]
    start_s: float


def play_figures_at_the_end_of_a_year(folder: Path, house: House) -> Played:
    """Shortly before the end of the year the agent starts; what it made of it is signed soon after it."""
    for start_s in STARTS_S:
        with House(folder / str(start_s)) as made:
            made.folder.mkdir()
            if found := play_from(made.folder, made, start_s):
                return found
    raise AssertionError(f"no agent served within {STARTS_S[-1]} s")


def play_from(folder: Path, house: House, start_s: float) -> Played | None:
    """None where the year ended before each meter was read and all was declared."""
    clock = Clock(folder)
    clock.set((NEW_YEAR - timedelta(seconds=start_s)).timestamp() - time.time())
    meters = [Meter(1, firmware="3"), Meter(2, firmware="3")]
    broker = house.broker()
    listener = house.listen(broker)
    devices = {f"m{meter.unit}": ("roof", meter.unit) for meter in meters}
    agent = house.agent(broker, {"roof": house.field.tcp(*meters)}, devices, more=MORE, env=clock.env)
    text = agent.config.read_text()
    for name, role in ROLES.items():
        text = text.replace(f'name = "{name}"\n', f'name = "{name}"\nroles = {{ "ac" = "{role}" }}\n')
    agent.config.write_text(text)
    (folder / "plan.toml").write_text(PLAN)
    agent.start()
    say = ("--who", "Li Wei", "--json", "-c", agent.config)
    month = ("--from", "2026-12-01", "--to", "2027-01-01")
    code, out, err = run(agent, "declare", "certificates", "2", "kWh", *month, "--document", "GEC-1", *say)
    assert code == 0, err
    refused = run(agent, "declare", "certificats", "1", "MWh", *month, *say)
    until(lambda: all(facts["readings"] for facts in agent.snapshot()["devices"].values()), what=lambda: agent.said)
    if agent.snapshot()["time"] >= NEW_YEAR.timestamp():
        return None

    def results() -> list[dict[str, Any]]:
        packs = sorted(listener.packs("_indicators"), key=lambda pack: pack["seq"])
        return [result for pack in packs for result in pack.get("results", ())]

    until(lambda: any(r["kind"] == "trace" for r in results()), 50, lambda: agent.said)
    living = run(agent, "report", "2026-12-31", "--json", "-c", agent.config)
    assert living[0] == 0, living[2]
    shown = run(agent, "report", "2026-12-31", "--lang", "en", "-c", agent.config)
    assert agent.stop() == 0
    resting = run(agent, "report", "2026-12-31", "--json", "-c", agent.config)
    code, _, err = run(agent, "export", folder / "packs", "-c", agent.config)
    assert code == 0, err
    code, repeated, err = run(agent, "verify", folder / "packs", "--trust", agent.kid, "--recompute", "--json")
    assert code == 0, repeated + err
    return Played(
        json.loads(out)["entry"], results(), json.loads(living[1]), json.loads(resting[1]), shown[1],
        json.loads(repeated)["recomputed"], (refused[0], refused[2]), start_s,
    )  # fmt: skip


@pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (apt: faketime)")
def test_figures_at_the_end_of_a_year(played: Played) -> None:
    figures = [r for r in played.published if r["kind"] == "figure"]
    kinds = {r["period"]["kind"] for r in figures}
    assert kinds == {"interval", "day", "month", "year"}
    year = next(r for r in figures if r["id"] == "plain/consumption" and r["period"]["kind"] == "year")
    assert year["period"]["label"] == "2026" and Decimal(year["completeness"]) < Decimal("0.00001"), "seconds of a year"
    inputs = {one["n"]: one for one in year["inputs"]}
    counts = [Decimal(inputs[name]["v"]) for name in ("grid.import", "grid.export", "generation.*.energy")]
    assert counts[0] == counts[1] and all(0 < count <= 2 * played.start_s + 1 for count in counts), (
        "two counts a second"
    )
    trail = inputs["grid.import"]["from"][0]
    assert (trail["stream"], trail["point"]) == ("park7/gw01/m1", "ac.energy.import") and trail["first"] < trail["last"]
    # what was attested is signed, with who and when, and used as declared
    assert [r for r in played.published if r["kind"] == "declaration"] == [{"kind": "declaration", **played.declared}]
    assert played.declared["who"] == "Li Wei" and played.declared["document"] == "GEC-1"
    core = [r for r in figures if r["id"] == "national-2025/co2_per_energy"]
    assert [r["period"]["kind"] for r in core] == ["day", "month", "year"]
    certificates = next(one for one in core[1]["inputs"] if one["n"] == "declared.certificates")
    assert certificates["basis"] == "declared" and certificates["v"] == "0.002"
    assert certificates["entries"] == [played.declared["id"]]
    assert played.refused[0] == 2 and "no input declared.certificats" in played.refused[1]
    # the day is the same for who asks the agent and who opens its database
    assert played.living["figures"] == played.resting["figures"]
    shown = {one["id"]: one.get("v") for one in played.living["figures"]}
    day = {r["id"]: r.get("v") for r in figures if r["period"]["kind"] == "day"}
    assert shown == day
    assert "CO2 per unit of energy" in played.shown and "monitoring" in played.shown
    assert played.recomputed["differ"] == played.recomputed["unknown"] == 0
    assert played.recomputed["agree"] > len(figures)
