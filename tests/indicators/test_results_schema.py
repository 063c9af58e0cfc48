"""docs/pack.schema.json takes every result that a gateway makes and refuses what is not written as one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.kits.lived import Lived

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "pack.schema.json").read_bytes())
VALIDATOR = jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], "$ref": "#/$defs/pack"})
Spoil = Callable[[dict[str, Any]], object]
SPOILT: dict[str, tuple[str, Spoil]] = {
    "no verdict": ("figure", lambda r: r.pop("verdict")),
    "a value as a number": ("figure", lambda r: r.update(v=0.2)),
    "an unknown basis": ("figure", lambda r: r["inputs"][0].update(basis="guessed")),
    "a metered input without its packs": (
        "figure", lambda r: next(one for one in r["inputs"] if one["basis"] == "metered").pop("from")
    ),
    "a factor without a year": ("figure", lambda r: r["factors"][0].update(id="power.fossil.cn")),
    "two bounds": ("figure", lambda r: r.update(threshold={"at_most": "1", "below": "2"})),
    "a period of another kind": ("figure", lambda r: r["period"].update(kind="week")),
    "a declaration by nobody": ("declaration", lambda r: r.pop("who")),
    "a declaration entered by somebody without a number": (
        "declaration", lambda r: r.update(by={"login": "anna"})
    ),
    "a declaration of another name": ("declaration", lambda r: r.update(n="certificates")),
    "an hour without its grid": ("trace", lambda r: r["hours"][3].pop("grid")),
    "a balance without its period": ("balance", lambda r: r.pop("period")),
    "known without packs": ("known", lambda r: r.pop("packs")),
}  # fmt: skip


@pytest.fixture(scope="module")
def packs(lived: Lived) -> list[dict[str, Any]]:
    lines = (lived.packs / "packs" / "_indicators.packs.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.process
def test_every_pack_of_results(packs: list[dict[str, Any]]) -> None:
    kinds = {result["kind"] for pack in packs for result in pack.get("results", ())}
    assert kinds == {"figure", "declaration", "restated", "trace", "balance", "known"}
    assert [error.message for pack in packs for error in VALIDATOR.iter_errors(pack)] == []
    assert sum("table" in pack for pack in packs) == 2, "births with interval and plan"


@pytest.mark.parametrize("name", SPOILT)
def test_a_result_that_is_none(packs: list[dict[str, Any]], name: str) -> None:
    kind, spoil = SPOILT[name]
    wanted = {"figure": "co2_per_energy"}.get(kind, "")
    for pack in packs:
        for n, result in enumerate(pack.get("results", ())):
            if result["kind"] == kind and wanted in result.get("id", ""):
                spoilt = copy.deepcopy(pack)
                spoil(spoilt["results"][n])
                assert list(VALIDATOR.iter_errors(spoilt)), name
                return
    raise AssertionError(f"no {kind}")
