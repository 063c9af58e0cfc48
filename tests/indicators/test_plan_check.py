"""A plan with mistakes, as its writer meets it: every one at once, with its place and the nearest right name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kits.lived import Lived, mh

INDICATOR = """
[[indicator]]
id = "mine"
title = {{ en = "Mine" }}
numerator = "{numerator}"
unit = "{unit}"
periods = ["day"]
"""
MISTAKES = {
    "an unknown role": (
        INDICATOR.format(numerator="gird.import", unit="kWh"),
        "indicator mine: numerator: gird.import: unknown role gird (did you mean grid.import?)",
    ),
    "a flow that a role has not": (
        INDICATOR.format(numerator="water.fresh.import", unit="kWh"),
        "water.fresh.import is unknown; water.fresh has volume, mass",
    ),
    "a flow with a slip": (
        INDICATOR.format(numerator="grid.imports", unit="kWh"),
        "grid.imports is unknown (did you mean import?); grid has import, export, energy, demand",
    ),
    "a unit of another kind": (
        INDICATOR.format(numerator="water.fresh.volume", unit="kWh"),
        "indicator mine: the formula gives volume, its unit 'kWh' is energy",
    ),
    "a sum of two kinds": (
        INDICATOR.format(numerator="grid.import + gas.volume", unit="kWh"),
        "+ cannot combine energy and volume",
    ),
    "an unknown factor": (
        INDICATOR.format(numerator="grid.import * factor.power.fossil.cm", unit="tCO2"),
        "unknown factor factor.power.fossil.cm (did you mean power.fossil.cn?)",
    ),
    "an unknown input": (
        INDICATOR.format(numerator="declared.certificate", unit="MWh"),
        "declared.certificate is unknown (did you mean declared.certificates?)",
    ),
    "a formula that breaks off": (
        INDICATOR.format(numerator="(grid.import - grid.export", unit="kWh"),
        "numerator: at character 27 ('the end'): expected )",
    ),
    "no formula at all": (
        INDICATOR.format(numerator="grid.import kWh", unit="kWh"),
        "numerator: at character 13 ('kWh'): expected",
    ),
    "an unknown set": ('sets = ["national-2026"]', 'unknown set "national-2026" (did you mean national-2025?)'),
    "an indicator that is not there": (
        '[exclude]\n"national-2025/solid-waste" = "no waste"',
        "unknown indicator (did you mean national-2025/solid_waste?)",
    ),
    "a role that is said to be absent": (
        '[absent]\n"generation.wnd" = "none"',
        "absent.generation.wnd: unknown role (did you mean generation.wind?)",
    ),
    "an unknown key": ("absnt = {}", 'absnt: unknown key. Did you mean "absent"?'),
    "no TOML": ("sets = [", "plan.toml:3: "),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_plan_with_a_mistake(lived: Lived, tmp_path: Path, name: str) -> None:
    # field pain 71
    text, complaint = MISTAKES[name]
    shutil.copytree(lived.folder / "profiles", tmp_path / "profiles")
    shutil.copy(lived.config, tmp_path / "agent.toml")
    sets = "" if "sets" in text else 'sets = ["national-2025"]\n'
    (tmp_path / "plan.toml").write_text(f"schema = 1\n{sets}{text}\n", encoding="utf-8")
    code, out, err = mh("check", "-c", tmp_path / "agent.toml")
    assert code == 3 and not out
    assert complaint in err and "agent.toml" in err and "plan.toml" in err, err
    assert "1 thing is wrong" in err or err.count("error: ") == 1, err
