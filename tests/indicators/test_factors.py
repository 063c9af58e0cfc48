"""What a factor says beside its value: its grade, its source and when that was published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agent.indicators.factors import shipped
from agent.indicators.plan import load_plan
from agent.keys import load_key
from drivers.model import ConfigError
from ext.canon import dumps
from tests.kits.lived import Lived, mh

ENTRIES = {entry.name: entry for factor in shipped().values() for entry in factor.entries}


def test_what_one_news_page_says_is_quoted_and_not_official() -> None:
    of_one_page = [name for name in ENTRIES if name.startswith("power.region.") and name.endswith("@2022")]
    of_one_page += ["power.average.cn@2022", "power.residual.cn@2022", "power.average.cn@2021"]
    assert len(of_one_page) == 10 and {ENTRIES[name].status for name in of_one_page} == {"quoted"}
    assert ENTRIES["power.fossil.cn@2022"].status == "official", "annex 4 of the notice names this value itself"


def test_a_publication_date_is_given_where_it_is_known() -> None:
    dated = {entry.source: entry.published for entry in ENTRIES.values() if entry.published}
    assert dated == {
        "Announcement 2025 No. 47": "2025-12-31",
        "发改环资〔2025〕910号 annex 4 (the 2022 national fossil power factor)": "2025-06-30",
        "发改环资〔2025〕910号 annex 4; GB/T 32150-2025, 7.5.6 and 7.5.7": "2025-06-30",
    }
    unknown = {entry.published for name, entry in ENTRIES.items() if name.endswith(("@2021", "@2020", "@2024"))}
    assert unknown == {""}, "nobody made a date up"


@pytest.mark.parametrize("text", ["2025-13-01", "31.12.2025", "20251231", "soon"])
def test_a_publication_date_that_is_no_date_is_refused(text: str) -> None:
    plan = f"""schema = 1
[[factor]]
id = "power.mine"
unit = "kgCO2/kWh"
title = {{ en = "mine", zh = "自有" }}
entry = [{{ year = 2025, value = "0.5", status = "quoted", source = "a contract", published = "{text}" }}]
"""
    with pytest.raises(ConfigError) as raised:
        load_plan(plan, "plan.toml")
    assert f'published = "{text}" is not a date' in str(raised.value.complaints[0])


def figures(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "packs" / "_indicators.packs.jsonl").read_bytes().splitlines()
    return [r for line in lines for r in json.loads(line).get("results", ()) if r["kind"] == "figure"]


@pytest.mark.process
def test_a_figure_says_when_its_factors_were_published(lived: Lived) -> None:
    said = {one["id"]: one.get("published") for figure in figures(lived.packs) for one in figure["factors"]}
    assert said["power.average.cn@2023"] == "2025-12-31" and said["heat.co2@2025"] == "2025-06-30"
    assert said["gas.coal@2020"] is None


def test_a_figure_signed_before_a_factor_was_described_better_still_agrees(lived: Lived, tmp_path: Path) -> None:
    """An older version knew no date, or called official what is quoted: with the same value it is the same figure."""
    shutil.copytree(lived.packs, tmp_path / "older")
    path = tmp_path / "older" / "packs" / "_indicators.packs.jsonl"
    lines = path.read_bytes().splitlines()
    last = max(n for n, line in enumerate(lines) if b'"kind":"year"' in line)
    pack = json.loads(lines[last])
    changed = 0
    for result in pack["results"]:
        for factor in result.get("factors", ()):
            changed += factor.pop("published", None) is not None
            factor |= {"source": "what was thought then", "status": "official"}
    assert changed > 1
    del pack["sig"]
    pack["sig"] = load_key(lived.folder / "state" / "signing.key").signer("mh-pack")(dumps(pack))
    path.write_bytes(b"\n".join([*lines[:last], dumps(pack)]) + b"\n")
    code, out, _ = mh("verify", tmp_path / "older", "--trust", lived.kid, "--recompute")
    assert code == 0 and " 0 differ, " in out, out
